from __future__ import annotations

import numpy as np
import pytest
import torch
from compressai.losses import RateDistortionLoss as StockLoss
from pytorch_msssim import ms_ssim

from rdtrain.errors import UserError
from rdtrain.losses import (
    MS_SSIM_MIN_SIDE,
    RateDistortionLoss,
    bits_per_image,
    likelihood_tensors,
    ms_ssim_per_image,
    mse_per_image,
)

LAMBDA = 0.0067


def make_output(
    seed: int = 0, shape: tuple[int, ...] = (4, 3, 32, 48), noise: float = 0.3
) -> tuple[dict, torch.Tensor]:
    """An output as a hyperprior's: two likelihood tensors of different sizes, x_hat outside [0, 1] in places."""
    generator = torch.Generator().manual_seed(seed)
    b, _, h, w = shape
    x = torch.rand(shape, generator=generator)
    x_hat = x + noise * torch.randn(shape, generator=generator)
    y = torch.rand((b, 12, h // 16, w // 16), generator=generator).clamp(1e-9)
    z = torch.rand((b, 8, 1, 2), generator=generator).clamp(1e-9)
    return {"x_hat": x_hat, "likelihoods": {"y": y, "z": z}}, x


def oracle(out: dict, x: torch.Tensor) -> dict[str, np.ndarray]:
    """Per-image terms in float64, written with numpy alone."""
    pixels = x.shape[2] * x.shape[3]
    x64, x_hat64 = x.double().numpy(), out["x_hat"].detach().double().numpy()
    bits = sum(-np.log2(v.detach().double().numpy()).reshape(len(x64), -1).sum(1) for v in out["likelihoods"].values())
    return {"bpp": bits / pixels, "mse": ((x_hat64 - x64) ** 2).reshape(len(x64), -1).mean(1)}


def test_both_forms_equal_the_formula_in_float64() -> None:
    out, x = make_output()
    expected = oracle(out, x)
    for form, loss in [
        ("rd", LAMBDA * 255**2 * expected["mse"] + expected["bpp"]),
        ("dr", expected["mse"] + LAMBDA * expected["bpp"]),
    ]:
        criterion = RateDistortionLoss(LAMBDA, form=form)
        per_image, batch = criterion.per_image(out, x), criterion(out, x)
        for name, value in {**expected, "loss": loss}.items():
            np.testing.assert_allclose(per_image[name].numpy(), value, rtol=1e-6)
            assert batch[name].item() == pytest.approx(value.mean(), rel=1e-6)
        assert set(batch) == {"loss", "bpp", "mse"}


def test_rd_is_a_constant_times_dr_at_the_equivalent_lambda() -> None:
    out, x = make_output()
    equivalent = 1 / (LAMBDA * 255**2)
    assert equivalent == pytest.approx(0.0022953, rel=1e-4)
    rd, dr = RateDistortionLoss(LAMBDA)(out, x), RateDistortionLoss(equivalent, form="dr")(out, x)
    assert rd["loss"].item() == pytest.approx(LAMBDA * 255**2 * dr["loss"].item(), rel=1e-6)


@pytest.mark.parametrize(("metric", "lmbda", "side"), [("mse", LAMBDA, 48), ("ms-ssim", 8.73, 176)])
def test_value_and_gradient_are_those_of_compressai(metric: str, lmbda: float, side: int) -> None:
    # at noise 0.3 MS-SSIM's contrast terms touch zero, where its gradient is infinite
    out, x = make_output(shape=(2, 3, side, side), noise=0.05)
    leaves = [out["x_hat"], *out["likelihoods"].values()]
    grads, values = [], []
    for criterion, key in [(StockLoss(lmbda, metric), "bpp_loss"), (RateDistortionLoss(lmbda, metric), "bpp")]:
        for leaf in leaves:
            leaf.requires_grad_().grad = None
        terms = criterion(out, x)
        terms["loss"].backward()
        values.append((terms["loss"].item(), terms[key].item()))
        grads.append([leaf.grad.clone() for leaf in leaves])
    assert values[1] == pytest.approx(values[0], rel=1e-6)
    for ours, stock in zip(grads[1], grads[0], strict=True):
        torch.testing.assert_close(ours, stock, rtol=1e-6, atol=0)
        assert ours.abs().sum() > 0


def test_rate_is_the_sum_over_every_tensor_however_nested() -> None:
    out, x = make_output()
    y, z = out["likelihoods"]["y"], out["likelihoods"]["z"]
    nested = {"y": {"a": y[:, :5], "b": {"c": y[:, 5:]}}, "z": z}
    assert len(list(likelihood_tensors(nested))) == 3
    bits = bits_per_image(nested)
    torch.testing.assert_close(bits, bits_per_image({"y": y}) + bits_per_image({"z": z}), rtol=1e-6, atol=0)
    np.testing.assert_allclose(bits.numpy(), oracle(out, x)["bpp"] * 32 * 48, rtol=1e-6)
    batch = RateDistortionLoss(LAMBDA)({**out, "likelihoods": nested}, x)
    assert batch["bpp"].item() == pytest.approx(oracle(out, x)["bpp"].mean(), rel=1e-6)


def test_one_likelihood_tensor_gives_the_factorized_formula() -> None:
    likelihoods = torch.full((3, 12, 2, 2), 0.25)
    assert bits_per_image({"y": likelihoods}).tolist() == pytest.approx([2 * 48] * 3)


def test_bits_are_divided_by_the_pixels_given() -> None:
    out, x = make_output()
    criterion = RateDistortionLoss(LAMBDA)
    full, unpadded = criterion(out, x), criterion(out, x, num_pixels=32 * 48 // 2)
    assert unpadded["bpp"].item() == pytest.approx(2 * full["bpp"].item())
    assert unpadded["mse"].item() == full["mse"].item()
    torch.testing.assert_close(criterion.per_image(out, x, 32 * 48 // 2)["bpp"].mean(), unpadded["bpp"])


def test_nothing_is_clamped_and_nothing_is_changed() -> None:
    out, x = make_output()
    before = out["x_hat"].clone()
    assert before.min() < 0
    assert before.max() > 1
    mse = RateDistortionLoss(LAMBDA)(out, x)["mse"]
    assert torch.equal(out["x_hat"], before)
    assert mse > mse_per_image(before.clamp(0, 1), x).mean()


def test_square_reduction_squares_only_images_with_a_loss_above_one() -> None:
    out, x = make_output()
    out["x_hat"] = x + torch.tensor([0.0, 0.001, 0.1, 0.5]).view(4, 1, 1, 1)
    out["likelihoods"] = {"y": torch.full((4, 12, 2, 3), 0.5)}
    per_sample = oracle(out, x)
    loss = LAMBDA * 255**2 * per_sample["mse"] + per_sample["bpp"]
    assert 0 < (loss > 1).sum() < 4
    expected = np.where(loss > 1, loss**2, loss)
    criterion = RateDistortionLoss(LAMBDA, reduction="per_sample_sq")
    np.testing.assert_allclose(criterion.per_image(out, x)["loss"].numpy(), expected, rtol=1e-5)
    assert criterion(out, x)["loss"].item() == pytest.approx(expected.mean(), rel=1e-5)


def test_ms_ssim_needs_the_side_that_is_stated() -> None:
    x = torch.rand(1, 3, MS_SSIM_MIN_SIDE, MS_SSIM_MIN_SIDE)
    assert ms_ssim_per_image(x, x).tolist() == pytest.approx([1.0])
    small = x[..., 1:]
    with pytest.raises(AssertionError, match="should be larger than 160"):  # the library's own limit
        ms_ssim(small, small, data_range=1)
    criterion = RateDistortionLoss(8.73, "ms-ssim")
    with pytest.raises(UserError, match=r"at least 161 pixels.*161x160.*criterion.metric=mse"):
        criterion({"x_hat": small, "likelihoods": {"y": torch.ones(1, 1)}}, small)


def test_ms_ssim_loss_equals_the_formula_per_image() -> None:
    out, x = make_output(shape=(2, 3, 176, 176), noise=0.05)
    for form in ("rd", "dr"):
        criterion = RateDistortionLoss(8.73, "ms-ssim", form)
        terms = criterion.per_image(out, x)
        assert set(terms) == {"loss", "bpp", "ms_ssim"}
        distortion = 1 - terms["ms_ssim"].double()
        expected = 8.73 * distortion + terms["bpp"] if form == "rd" else distortion + 8.73 * terms["bpp"]
        torch.testing.assert_close(terms["loss"].double(), expected, rtol=1e-6, atol=0)
        torch.testing.assert_close(criterion(out, x)["loss"], terms["loss"].mean(), rtol=1e-6, atol=0)


def test_low_precision_outputs_are_measured_in_float32() -> None:
    out, x = make_output()
    half = {
        "x_hat": out["x_hat"].bfloat16(),
        "likelihoods": {k: v.bfloat16().clamp_min(1e-9) for k, v in out["likelihoods"].items()},
    }
    expected = oracle(
        {k: v.float() if k == "x_hat" else {n: t.float() for n, t in v.items()} for k, v in half.items()}, x
    )
    terms = RateDistortionLoss(LAMBDA)(half, x)
    assert terms["mse"].dtype == terms["bpp"].dtype == torch.float32
    assert terms["mse"].item() == pytest.approx(expected["mse"].mean(), rel=1e-6)
    assert terms["bpp"].item() == pytest.approx(expected["bpp"].mean(), rel=1e-6)


def test_padded_reconstruction_is_refused() -> None:
    out, x = make_output()
    with pytest.raises(ValueError, match="crop the padding first"):
        RateDistortionLoss(LAMBDA)(out, x[..., :1])


def test_every_wrong_argument_is_named_at_once() -> None:
    with pytest.raises(UserError) as caught:
        RateDistortionLoss(-1.0, metric="psnr", form="lagrange", reduction="sum")
    problems = caught.value.problems
    assert len(problems) == 4
    assert any("criterion.metric=psnr" in p and "mse or ms-ssim" in p for p in problems)
    assert any("criterion.form=lagrange" in p and "rd or dr" in p for p in problems)
    assert any("criterion.lmbda=-1.0" in p for p in problems)
    for value in (float("nan"), float("inf")):
        with pytest.raises(UserError, match="not a weight"):
            RateDistortionLoss(value)
