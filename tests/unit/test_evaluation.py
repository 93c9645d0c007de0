from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from compressai.losses import RateDistortionLoss as StockLoss
from compressai.utils.eval_model.__main__ import inference
from tiny_codecs import (
    CRITERION,
    LAMBDA,
    TRAINED,
    image_model_names,
    images,
    spread_latents,
    tiny_model,
    trained_model,
    without_times,
)

from rdtrain.evaluation import DEFAULT_STRIDE, evaluate_image, evaluation_copy, mean_row, padding, stride
from rdtrain.losses import RateDistortionLoss
from rdtrain.metrics import METRICS, VARIANTS

# What makes real differ from forward: the context of forward is round(y), that of compress round(y - mean) + mean.
CONTEXT_OF_ROUNDED_LATENTS = ("mbt2018", "cheng2020-anchor", "cheng2020-attn")

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("name", TRAINED)
@pytest.mark.parametrize("size", [(64, 64), (70, 101), (33, 130)])
def test_forward_and_bitstream_differ_by_the_clamp_alone(name: str, size: tuple[int, int]) -> None:
    model = evaluation_copy(trained_model(name))
    x = images(1, *size, seed=7)
    row = evaluate_image(model, x, CRITERION)
    assert row.metrics["latents/mismatched"] == row.metrics["latents/max_difference"] == 0
    for quantity in ("mse", "psnr"):
        for variant in VARIANTS:
            assert row.metrics[f"{quantity}/real/{variant}"] == row.metrics[f"{quantity}/forward/{variant}"]
    # the stock calls, without any probe
    pad = padding(*size, stride(model))
    padded, crop = F.pad(x, pad), [-side for side in pad]
    with torch.no_grad():
        forward = F.pad(model(padded)["x_hat"], crop)
        strings = model.compress(padded)
        real = F.pad(model.decompress(strings["strings"], strings["shape"])["x_hat"], crop)
    assert torch.equal(forward.clamp(0, 1), real)
    assert row.strings == strings["strings"]
    assert row.metrics["mse/real/unclamped"] == pytest.approx(F.mse_loss(forward, x).item(), rel=1e-6)
    assert torch.equal(row.image, (real[0] * 255).round().to(torch.uint8))


def test_every_number_equals_a_float64_oracle(factorized: Any) -> None:
    x = images(1, 70, 101, seed=2)
    metrics = evaluate_image(factorized, x, CRITERION).metrics
    pad = padding(70, 101, 16)
    with torch.no_grad():
        out = factorized(F.pad(x, pad))
        strings = factorized.compress(F.pad(x, pad))["strings"]
    x_hat = F.pad(out["x_hat"], [-side for side in pad]).double().numpy()
    clamped = np.clip(x_hat, 0, 1)
    views = {"unclamped": x_hat, "clamped": clamped, "8bit": np.rint(clamped * 255) / 255}
    bits = -np.log2(out["likelihoods"]["y"].double().numpy()).sum()
    bpp = {"forward": bits / (70 * 101), "real": 8 * len(strings[0][0]) / (70 * 101)}
    assert x_hat.min() < 0 or x_hat.max() > 1
    for path in bpp:
        assert metrics[f"bpp/{path}"] == pytest.approx(bpp[path], rel=1e-6)
        for variant, view in views.items():
            mse = ((view - x.double().numpy()) ** 2).mean()
            assert metrics[f"mse/{path}/{variant}"] == pytest.approx(mse, rel=1e-5)
            assert metrics[f"psnr/{path}/{variant}"] == pytest.approx(-10 * np.log10(mse), rel=1e-5)
            loss = LAMBDA * 255**2 * mse + bpp[path]
            assert metrics[f"loss/{path}/{variant}"] == pytest.approx(loss, rel=1e-5)
    assert metrics["mse/forward/clamped"] < metrics["mse/forward/unclamped"]


def test_rate_is_that_of_compressai_where_nothing_is_padded() -> None:
    model = evaluation_copy(trained_model("mbt2018-mean"))
    x = images(1, 128, 64, seed=4)
    with torch.no_grad():
        stock = StockLoss(LAMBDA)(model(x), x)
    metrics = evaluate_image(model, x, CRITERION).metrics
    assert metrics["bpp/forward"] == pytest.approx(stock["bpp_loss"].item(), rel=1e-6)
    assert metrics["loss/forward/unclamped"] == pytest.approx(stock["loss"].item(), rel=1e-6)


@pytest.mark.parametrize("name", TRAINED)
def test_results_are_those_of_compressais_own_evaluation(name: str) -> None:
    model = evaluation_copy(trained_model(name))
    x = (images(1, 192, 256, seed=5) * 255).round() / 255
    metrics = evaluate_image(model, x, CRITERION).metrics
    stock = inference(model, x[0])
    assert metrics["bpp/real"] == pytest.approx(stock["bpp"], rel=1e-9)
    assert metrics["psnr/real/8bit"] == pytest.approx(stock["psnr-rgb"], abs=1e-4)
    assert metrics["ms_ssim/real/8bit"] == pytest.approx(stock["ms-ssim-rgb"], abs=1e-4)


def test_clamping_never_costs_and_both_psnr_means_are_ordered(factorized: Any) -> None:
    rows = [evaluate_image(factorized, images(1, 64, 80, seed=seed), CRITERION) for seed in range(6)]
    for row in rows:
        for path in ("forward", "real"):
            assert row.metrics[f"mse/{path}/clamped"] <= row.metrics[f"mse/{path}/unclamped"]
    assert any(row.metrics["distortion_gap/clamp"] < 0 for row in rows)
    means = mean_row(rows)
    for path in ("forward", "real"):
        for variant in VARIANTS:
            mse = np.array([row.metrics[f"mse/{path}/{variant}"] for row in rows])
            assert means[f"psnr/{path}/{variant}"] == pytest.approx(np.mean(-10 * np.log10(mse)), rel=1e-6)
            assert means[f"psnr_of_mean_mse/{path}/{variant}"] == pytest.approx(-10 * np.log10(mse.mean()), rel=1e-9)
            assert means[f"psnr/{path}/{variant}"] > means[f"psnr_of_mean_mse/{path}/{variant}"]


@pytest.mark.parametrize("name", image_model_names())
def test_every_image_model_of_compressai(name: str) -> None:
    model = tiny_model(name)
    spread_latents(model, 8)
    model = evaluation_copy(model)
    x = images(1, 50, 64, seed=1)
    shared, full = (evaluate_image(model, x, CRITERION, mode) for mode in ("shared", "full"))
    assert shared.strings == full.strings
    assert without_times(shared.metrics) == without_times(full.metrics)
    assert all(math.isfinite(value) for value in shared.metrics.values())
    for metric in shared.metrics:
        assert "infer" in METRICS[metric].loaders
    with torch.no_grad():
        stock = model.decompress(full.strings, full.shape)["x_hat"][:, :, 7:-7]
    assert shared.metrics["mse/real/clamped"] == pytest.approx(F.mse_loss(stock, x).item(), rel=1e-5)
    mismatched = shared.metrics["latents/mismatched"]
    if name in CONTEXT_OF_ROUNDED_LATENTS:
        assert mismatched > 0
        assert shared.metrics["latents/max_difference"] > 0.1
    else:
        assert shared.metrics["latents/max_difference"] < 1e-4
    assert bool(shared.metrics["distortion_gap/latents"]) == bool(mismatched)


def test_forward_alone(factorized: Any) -> None:
    x = images(1, 64, 64)
    both, forward = evaluate_image(factorized, x, CRITERION), evaluate_image(factorized, x, CRITERION, real=False)
    assert forward.strings is None
    assert forward.metrics == {name: v for name, v in both.metrics.items() if "/forward" in name}
    assert torch.equal(forward.image, both.image)


# Padding, sizes, names


def test_padding_is_compressais_and_is_cropped_again() -> None:
    assert stride(tiny_model("bmshj2018-factorized")) == 16
    assert stride(tiny_model("mbt2018")) == 64
    assert stride(tiny_model("elic2022-official")) == DEFAULT_STRIDE == 64
    assert padding(70, 101, 64) == (13, 14, 29, 29)
    assert padding(64, 128, 64) == (0, 0, 0, 0)
    assert padding(1, 1, 16) == (7, 8, 7, 8)


def test_images_too_small_for_ms_ssim_have_none(factorized: Any) -> None:
    small, large = images(1, 160, 200), images(1, 176, 200)
    of_small = evaluate_image(factorized, small, RateDistortionLoss(8.73, "ms-ssim"))
    of_large = evaluate_image(factorized, large, RateDistortionLoss(8.73, "ms-ssim"))
    assert not any("ms_ssim" in name or name.startswith("loss") for name in of_small.metrics)
    assert "mse/real/8bit" in of_small.metrics
    metrics = of_large.metrics
    for variant in VARIANTS:
        assert metrics[f"loss/real/{variant}"] == pytest.approx(
            8.73 * (1 - metrics[f"ms_ssim/real/{variant}"]) + metrics["bpp/real"], rel=1e-5
        )
        db = -10 * math.log10(1 - metrics[f"ms_ssim/real/{variant}"])
        assert metrics[f"ms_ssim_db/real/{variant}"] == pytest.approx(db, rel=1e-4)
    means = mean_row([of_small, of_large])
    assert means["ms_ssim/real/8bit"] == metrics["ms_ssim/real/8bit"]
    assert means["bpp/real"] == pytest.approx((of_small.metrics["bpp/real"] + metrics["bpp/real"]) / 2)


def test_what_is_not_one_image_is_refused(factorized: Any) -> None:
    for shape in [(2, 3, 64, 64), (3, 64, 64), (1, 1, 64, 64), (1, 3, 0, 64)]:
        with pytest.raises(ValueError, match="one image of shape"):
            evaluate_image(factorized, torch.zeros(shape), CRITERION)
    with pytest.raises(ValueError, match=r"ledger\.mode=twice is unknown; type ledger\.mode=shared or full"):
        evaluate_image(factorized, images(1, 64, 64), CRITERION, mode="twice")


def test_no_rows_no_means() -> None:
    assert mean_row([]) == {}
