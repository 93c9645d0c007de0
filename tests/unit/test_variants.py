from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from compressai.losses import RateDistortionLoss as StockLoss
from pytorch_msssim import ms_ssim
from tiny_codecs import CRITERION, fingerprint, images, trained_model

from rdtrain.evaluation import evaluate_image, forward_variants
from rdtrain.losses import RateDistortionLoss
from rdtrain.metrics import METRICS
from rdtrain.variants import as_file, qualities, quantizer_terms

pytestmark = pytest.mark.usefixtures("one_thread")


def test_validation_batch_equals_its_images_one_by_one(factorized: Any) -> None:
    x = images(3, 64, 96, seed=6)
    with torch.no_grad():
        out = factorized(x)
    x_hat = out["x_hat"].clone()
    batch = forward_variants(CRITERION, out, x)
    assert torch.equal(out["x_hat"], x_hat)
    assert x_hat.max() > 1
    rows = [evaluate_image(factorized, x[i : i + 1], CRITERION, real=False).metrics for i in range(3)]
    assert set(batch) == {name for name in rows[0] if "8bit" not in name}
    for name, values in batch.items():
        assert "valid" in METRICS[name].loaders
        assert values.tolist() == pytest.approx([row[name] for row in rows], rel=1e-6)


def test_one_batch_under_noise_rounding_and_straight_through() -> None:
    model = trained_model("bmshj2018-factorized")
    x = images(2, 64, 64, seed=9)
    lmbda = 1e-5  # the rate weighs as much as the distortion
    criterion = RateDistortionLoss(lmbda)
    noise = criterion(model(x), x)
    before, random_state = fingerprint(model), torch.get_rng_state()
    terms = quantizer_terms(criterion, model, x, noise)
    assert fingerprint(model) == before
    assert torch.equal(torch.get_rng_state(), random_state)
    duplicate = copy.deepcopy(model).eval()
    with torch.no_grad():
        rounded = {name: value.item() for name, value in StockLoss(lmbda)(duplicate(x), x).items()}
    values = {name: value.item() for name, value in terms.items()}
    assert all("train" in METRICS[name].loaders for name in values)
    assert not any(value.requires_grad for value in terms.values())
    assert values["bpp/noise"] == noise["bpp"].item() != values["bpp/round"]
    assert values["mse/noise/unclamped"] == noise["mse"].item() != values["mse/round/unclamped"]
    assert values["bpp/round"] == pytest.approx(rounded["bpp_loss"], rel=1e-6)
    assert values["mse/round/unclamped"] == pytest.approx(rounded["mse_loss"], rel=1e-6)
    assert values["loss/round/unclamped"] == pytest.approx(rounded["loss"], rel=1e-6)
    mixed = lmbda * 255**2 * rounded["mse_loss"] + noise["bpp"].item()
    assert values["loss/ste/unclamped"] == pytest.approx(mixed, rel=1e-6)
    assert values["mse/ste/unclamped"] == values["mse/round/unclamped"]


def test_share_of_values_outside_is_counted() -> None:
    values = np.random.default_rng(0).normal(0.5, 0.4, (2, 3, 20, 30)).astype(np.float32)
    values[0, 0, 0, :4] = [0, 1, np.nextafter(np.float32(1), np.float32(2)), -1e-30]
    values[1, 0, 0, 0] = np.nan
    x_hat = torch.from_numpy(values.copy())
    share = qualities(x_hat, torch.zeros(2, 3, 20, 30), "unclamped")["outside"]
    expected = [np.mean([not 0 <= value <= 1 for value in image.flat]) for image in values]
    assert share.tolist() == pytest.approx(expected, rel=1e-6)
    assert share.min() > 0.1
    assert torch.equal(x_hat.nan_to_num(7), torch.from_numpy(values).nan_to_num(7))
    for variant in ("clamped", "8bit"):
        assert "outside" not in qualities(x_hat, torch.zeros(2, 3, 20, 30), variant)


def test_a_file_holds_the_nearest_level() -> None:
    values = np.random.default_rng(0).uniform(-0.2, 1.2, (1, 3, 8, 9)).astype(np.float32)
    held = as_file(torch.from_numpy(values))
    assert held.dtype == torch.uint8 and held.shape == (3, 8, 9)
    assert np.abs(held.double().numpy() - np.clip(values[0], 0, 1).astype(np.float64) * 255).max() <= 0.5 + 1e-5


@pytest.mark.parametrize("size", [(161, 199), (192, 192)])
def test_ms_ssim_is_the_peers(size: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(5)
    x = torch.rand(2, 3, *size, generator=generator)
    x_hat = x + 0.1 * torch.randn(x.shape, generator=generator)
    measured = qualities(x_hat, x, "clamped")["ms_ssim"]
    expected = ms_ssim(x_hat.double().clamp(0, 1), x.double(), data_range=1, size_average=False)
    torch.testing.assert_close(measured.double(), expected, rtol=0, atol=2e-6)
