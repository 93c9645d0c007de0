from __future__ import annotations

import copy
import hashlib
import itertools
import math
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from compressai.losses import RateDistortionLoss as StockLoss
from compressai.models import FactorizedPrior
from compressai.utils.eval_model.__main__ import inference
from PIL import Image
from tiny_codecs import LAMBDA, image_model_names, images, spread_latents, tiny_model, trained_model
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from rdtrain.conv.convert import to_spectral
from rdtrain.conv.transforms import make_transform
from rdtrain.evaluation import (
    DEFAULT_STRIDE,
    evaluate_image,
    evaluation_copy,
    forward_variants,
    mean_row,
    padding,
    stride,
    unwrap,
)
from rdtrain.losses import RateDistortionLoss
from rdtrain.metrics import METRICS, VARIANTS
from rdtrain.probes import SYMBOL_LIMIT, LatentOverflow, Reuse, check_codable
from rdtrain.variants import quantizer_terms

CRITERION = RateDistortionLoss(LAMBDA)
TRAINED = ("bmshj2018-factorized", "bmshj2018-hyperprior", "mbt2018-mean")
# What makes real differ from forward: the context of forward is round(y), that of compress round(y - mean) + mean.
CONTEXT_OF_ROUNDED_LATENTS = ("mbt2018", "cheng2020-anchor", "cheng2020-attn")


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def factorized() -> Any:
    return evaluation_copy(trained_model("bmshj2018-factorized"))


def fingerprint(model: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, value in [*model.named_parameters(), *model.named_buffers()]:
        digest.update(f"{name}{value.shape}{value.dtype}{value.requires_grad}".encode())
        digest.update(value.detach().numpy().tobytes())
        digest.update(b"" if value.grad is None else value.grad.numpy().tobytes())
    return digest.hexdigest() + str([(name, module.training) for name, module in model.named_modules()])


# The copy


@pytest.mark.parametrize("name", TRAINED)
def test_the_live_model_is_not_touched(name: str) -> None:
    model = trained_model(name)
    CRITERION(model(images(1, 64, 64)), images(1, 64, 64))["loss"].backward()  # gradients of a step in progress
    before, random_state = fingerprint(model), torch.get_rng_state()
    duplicate = evaluation_copy(model)
    evaluate_image(duplicate, images(1, 64, 64), CRITERION)
    assert fingerprint(model) == before
    assert torch.equal(torch.get_rng_state(), random_state)
    assert model.training
    assert not any(module.training for module in duplicate.modules())
    assert not any(p.requires_grad or p.grad is not None for p in duplicate.parameters())
    with torch.no_grad():
        duplicate.g_a[0].weight.fill_(0)
    assert fingerprint(model) == before
    model.zero_grad()


def test_quantiles_of_the_copy_meet_their_targets() -> None:
    model = trained_model("bmshj2018-hyperprior")
    duplicate = evaluation_copy(model)
    off = duplicate.aux_loss().item() / duplicate.entropy_bottleneck.quantiles.numel()
    assert off < 0.01
    assert model.aux_loss().item() / duplicate.entropy_bottleneck.quantiles.numel() > 0.1  # the live one's do not
    assert duplicate.entropy_bottleneck.quantized_cdf.numel() > 0
    assert duplicate.gaussian_conditional.quantized_cdf.shape[0] == 64


def test_the_copy_loads_in_stock_compressai_and_compresses_alike(factorized: Any) -> None:
    stock = FactorizedPrior.from_state_dict({name: v.clone() for name, v in factorized.state_dict().items()}).eval()
    row = evaluate_image(factorized, x := images(1, 64, 96, seed=3), CRITERION)
    assert stock.compress(x)["strings"] == row.strings
    assert len(set(row.strings[0][0])) > 8  # not the string of a latent that is zero everywhere


def test_a_copy_of_a_copy_is_the_same(factorized: Any) -> None:
    again = evaluation_copy(factorized)
    x = images(1, 64, 64)
    first, second = (evaluate_image(model, x, CRITERION) for model in (factorized, again))
    assert first.strings == second.strings
    assert without_times(first.metrics) == without_times(second.metrics)


def test_wrapped_models_are_unwrapped() -> None:
    model = tiny_model("bmshj2018-factorized")
    assert unwrap(model) is model
    average = AveragedModel(model)
    assert unwrap(average) is average.module
    assert unwrap(nn.DataParallel(average)) is average.module
    assert isinstance(evaluation_copy(average), FactorizedPrior)


def test_spectral_models_are_evaluated_with_plain_kernels() -> None:
    model = tiny_model("bmshj2018-factorized")
    spread_latents(model, 20)
    x = images(1, 64, 64)
    plain = evaluate_image(evaluation_copy(model), x, CRITERION)
    to_spectral(model, make_transform("rfft"))
    before = fingerprint(model)
    duplicate = evaluation_copy(model)
    assert fingerprint(model) == before
    assert any(name.endswith("weight_transformed") for name in model.state_dict())
    assert set(duplicate.state_dict()) == set(tiny_model("bmshj2018-factorized").state_dict())
    spectral = evaluate_image(duplicate, x, CRITERION)
    assert spectral.metrics["bpp/real"] == pytest.approx(plain.metrics["bpp/real"], rel=0.01)
    assert spectral.metrics["mse/real/clamped"] == pytest.approx(plain.metrics["mse/real/clamped"], rel=1e-4)


def test_a_density_too_wide_for_a_table_is_refused() -> None:
    model = tiny_model("bmshj2018-factorized")
    with torch.no_grad():
        for matrix in model.entropy_bottleneck.matrices:
            matrix.sub_(2.0)  # slower logits, wider density
    with pytest.raises(LatentOverflow, match="entropy_bottleneck has learned a density over"):
        evaluation_copy(model)


def test_a_model_of_nans_is_an_error_and_not_a_hang() -> None:
    model = tiny_model("bmshj2018-factorized")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(math.nan)
    with pytest.raises(ValueError, match="non-finite"):
        evaluation_copy(model)


# Forward and real


def without_times(metrics: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if not name.startswith("time/")}


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


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bmshj2018-factorized", "mbt2018-mean"])
def test_the_ledger_of_kodak(name: str, test_data: Path) -> None:
    model = evaluation_copy(trained_model(name))
    files = sorted((test_data / "kodak").glob("*.png"))
    assert len(files) == 24
    rows = []
    for file in files:
        x = torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1)[None].float() / 255
        metrics = evaluate_image(model, x, CRITERION).metrics
        rows.append(metrics)
        assert metrics["latents/mismatched"] == metrics["rate_gap/padding"] == 0
        assert metrics["mse/real/clamped"] == metrics["mse/forward/clamped"] <= metrics["mse/real/unclamped"]
        terms = sum(metrics[f"rate_gap/{term}"] for term in ("padding", "tables", "tails", "flush"))
        assert terms == pytest.approx(metrics["rate_gap/total"], abs=0.05)
        bits = (metrics["bpp/real"] - metrics["bpp/forward"]) * x[0, 0].numel()
        assert metrics["rate_gap/total"] == pytest.approx(bits, abs=1e-5 * metrics["bpp/real"] * x[0, 0].numel())
        if file == files[0]:
            stock = inference(model, x[0])
            assert metrics["bpp/real"] == pytest.approx(stock["bpp"], rel=1e-9)
            assert metrics["psnr/real/8bit"] == pytest.approx(stock["psnr-rgb"], abs=1e-4)
    assert any(metrics["distortion_gap/clamp"] < 0 for metrics in rows)


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


# Sharing


class CountCalls:
    def __init__(self, module: nn.Sequential) -> None:
        self.calls = 0
        module[0].register_forward_hook(self._count)  # the first layer: the module's own forward is replaced

    def _count(self, *args: Any) -> None:
        self.calls += 1


@pytest.mark.parametrize(("name", "synthesis"), [("bmshj2018-hyperprior", 1), ("mbt2018", 2)])
def test_sharing_computes_equal_inputs_once_and_only_those(name: str, synthesis: int) -> None:
    model = tiny_model(name)
    spread_latents(model, 8)
    model = evaluation_copy(model)
    analysis, decoder = CountCalls(model.g_a), CountCalls(model.g_s)
    x = images(1, 64, 64)
    evaluate_image(model, x, CRITERION, "shared")
    assert (analysis.calls, decoder.calls) == (1, synthesis)  # a context model decodes other latents
    evaluate_image(model, x, CRITERION, "shared")
    assert analysis.calls == 2  # nothing is kept for the next image
    evaluate_image(model, x, CRITERION, "full")
    assert analysis.calls == 4


def test_a_reused_result_is_nobody_elses() -> None:
    reuse = Reuse(torch.device("cpu"))
    x = torch.rand(2, 3)
    for _ in range(3):
        out = reuse(torch.exp, x)
        assert torch.equal(out, x.exp())
        out.zero_()  # as decompress clamps in place
    kept = x.exp()
    x.add_(1)  # an input that was changed in place is another input
    assert torch.equal(reuse(torch.exp, x), x.exp())
    assert not torch.equal(x.exp(), kept)


def test_saved_time_is_counted_as_spent(factorized: Any) -> None:
    slow = copy.deepcopy(factorized)
    slow.g_a[0].register_forward_hook(lambda *args: time.sleep(0.05))
    slow.g_s[0].register_forward_hook(lambda *args: time.sleep(0.08))
    for mode in ("shared", "full"):
        metrics = evaluate_image(slow, images(1, 64, 64), CRITERION, mode).metrics
        assert 50 <= metrics["time/encode_net_ms"] < 80
        assert 80 <= metrics["time/decode_net_ms"] < 110
        assert 0 < metrics["time/encode_coder_ms"] < 50


def test_the_copy_is_left_as_it_was(factorized: Any) -> None:
    before = {name: set(vars(module)) for name, module in factorized.named_modules()}
    hooks = {name: len(module._forward_hooks) for name, module in factorized.named_modules()}
    coder = set(vars(factorized.entropy_bottleneck.entropy_coder))
    evaluate_image(factorized, images(1, 64, 64), CRITERION)
    with pytest.raises(LatentOverflow):
        evaluate_image(factorized, torch.full((1, 3, 64, 64), math.nan), CRITERION)
    assert {name: set(vars(module)) for name, module in factorized.named_modules()} == before
    assert {name: len(module._forward_hooks) for name, module in factorized.named_modules()} == hooks
    assert set(vars(factorized.entropy_bottleneck.entropy_coder)) == coder


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


# Validation and training batches


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


# What CompressAI's coder would hang on; it cannot be interrupted, so it runs in a process of its own

PROGRAM = """
import sys, warnings
warnings.simplefilter("ignore")
import torch
from rdtrain.evaluation import evaluate_image, evaluation_copy
from rdtrain.losses import RateDistortionLoss
sys.path.insert(0, {tests!r})
from tiny_codecs import images, tiny_model

class Bad(torch.nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner
    def forward(self, x):
        y = self.inner(x).clone()
        y[0, -1, -1, -1] = self.value
        return y

places = {{
    "bmshj2018-factorized": ["g_a"],
    "mbt2018-mean": ["g_a", "h_a", "h_s"],
    "mbt2018": ["g_a", "h_s"],
    "mbt2018-vbr": ["g_a", "h_s"],
    "elic2022-official": ["g_a"],
}}
for name, part in [(name, part) for name, parts in places.items() for part in parts]:
    model = evaluation_copy(tiny_model(name))
    bad = Bad(getattr(model, part))
    setattr(model, part, bad)
    for bad.value in (float("nan"), -float("inf"), 2.0**27, 1e30):
        if part == "h_s":
            bad.value = float("nan")  # of the means; a scale may be as large as it likes
        try:
            evaluate_image(model, images(1, 64, 64), RateDistortionLoss(0.01))
            print("coded", name, part, bad.value)
        except ValueError as error:
            print(type(error).__name__, name, part, bad.value)
print("now without the guard", flush=True)
model = evaluation_copy(tiny_model("bmshj2018-factorized"))
model.compress(torch.full((1, 3, 64, 64), float("nan")))
print("returned")
"""


@pytest.mark.slow
def test_latents_that_hang_the_coder_are_refused() -> None:
    command = [sys.executable, "-c", PROGRAM.format(tests=str(Path(__file__).parent))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        killer = threading.Timer(120, process.kill)
        killer.start()
        try:
            assert process.stdout is not None
            lines = list(itertools.takewhile(lambda line: not line.startswith("now"), process.stdout))
            assert len(lines) == 9 * 4
            assert {line.split()[0] for line in lines} == {"LatentOverflow"}
            with pytest.raises(subprocess.TimeoutExpired):  # the guard is needed
                process.wait(timeout=4)
        finally:
            killer.cancel()
            process.kill()


def test_the_limit_of_what_can_be_coded() -> None:
    check_codable(torch.tensor([SYMBOL_LIMIT - 8.0, 8.0 - SYMBOL_LIMIT]))
    for value in (SYMBOL_LIMIT, -SYMBOL_LIMIT, math.nan, math.inf):
        with pytest.raises(LatentOverflow, match="this model has diverged"):
            check_codable(torch.tensor([0.0, value]))


def test_the_largest_latents_allowed_are_coded_and_decoded(factorized: Any) -> None:
    model = copy.deepcopy(factorized)
    largest = float(SYMBOL_LIMIT - 4096)

    class Large(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: Tensor) -> Tensor:
            y = self.inner(x).clone()
            y[0, :2, 1, 1] = torch.tensor([largest, -largest])
            return y

    model.g_a = Large(model.g_a)
    row = evaluate_image(model, images(1, 64, 64), CRITERION)
    assert row.metrics["latents/mismatched"] == 0
    assert abs(row.metrics["rate_gap/total"]) < math.inf


def test_latents_too_few_for_the_coder_are_refused() -> None:
    model = evaluation_copy(FactorizedPrior(4, 2))
    with pytest.raises(ValueError, match="2 latents: CompressAI's coder needs at least 3"):
        evaluate_image(model, torch.rand(1, 3, 16, 16), CRITERION)
    assert evaluate_image(model, torch.rand(1, 3, 16, 32), CRITERION).metrics["bpp/real"] > 0
