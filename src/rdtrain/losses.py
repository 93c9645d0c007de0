"""The rate-distortion loss, per batch for training and per image for the ledger.

Shapes: x and x_hat are images in [0, 1], (B, 3, H, W); every likelihood tensor is (B, ...). The loss never clamps
x_hat: what a clamp changes is the ledger's business (`rdtrain.evaluation`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from pytorch_msssim import ms_ssim
from torch import Tensor, nn

from rdtrain.errors import UserError

MS_SSIM_MIN_SIDE = 161
"""Smallest image side for MS-SSIM: four halvings must leave more than the 11-tap window, (11 - 1) * 2**4 < side."""

METRICS = {"mse": "mse", "ms-ssim": "ms_ssim"}
"""What `criterion.metric` accepts, and the quantity that it makes the loss measure."""

FORMS = ("rd", "dr")
REDUCTIONS = ("mean", "per_sample_sq")


def likelihood_tensors(likelihoods: Mapping[str, Any]) -> Iterator[Tensor]:
    """Walk every tensor of a model's likelihoods, which newer models nest.

    Args:
        likelihoods: the "likelihoods" of a model's output, each (B, ...).

    Yields:
        Each tensor, raised to float32 if it is of lower precision, since a bfloat16 logarithm is off by up to 0.4 %.
    """
    for value in likelihoods.values():
        if isinstance(value, Mapping):
            yield from likelihood_tensors(value)
        else:
            yield value.float() if value.element_size() < 4 else value


def bits_per_image(likelihoods: Mapping[str, Any]) -> Tensor:
    """Estimate the code length of each image, the sum of -log2 of all its likelihoods.

    Args:
        likelihoods: the "likelihoods" of a model's output, each (B, ...).

    Returns:
        Bits, shape (B,).
    """
    nats = sum(-likelihood.log().flatten(1).sum(1) for likelihood in likelihood_tensors(likelihoods))
    return torch.as_tensor(nats) / math.log(2)


def mse_per_image(x_hat: Tensor, x: Tensor) -> Tensor:
    """Compute the mean squared error of each image.

    Args:
        x_hat: reconstructions, (B, 3, H, W).
        x: originals in [0, 1], (B, 3, H, W).

    Returns:
        Shape (B,), in squared units of the [0, 1] scale.
    """
    return (x_hat - x).square().flatten(1).mean(1)


def ms_ssim_per_image(x_hat: Tensor, x: Tensor) -> Tensor:
    """Compute the multi-scale structural similarity of each image (Wang et al. 2003, as pytorch_msssim computes it).

    Args:
        x_hat: reconstructions, (B, 3, H, W), sides of at least `MS_SSIM_MIN_SIDE` pixels.
        x: originals in [0, 1], same shape.

    Returns:
        Shape (B,), 1 for equal images.

    Raises:
        UserError: a side is shorter than `MS_SSIM_MIN_SIDE`.
    """
    check_ms_ssim_side(x)
    return ms_ssim(x_hat, x, data_range=1, size_average=False)


def check_ms_ssim_side(x: Tensor) -> None:
    """Refuse images that are too small for MS-SSIM's five scales.

    Args:
        x: images, (..., H, W).

    Raises:
        UserError: a side is shorter than `MS_SSIM_MIN_SIDE`.
    """
    height, width = x.shape[-2:]
    if min(height, width) < MS_SSIM_MIN_SIDE:
        raise UserError(
            f"MS-SSIM needs sides of at least {MS_SSIM_MIN_SIDE} pixels, these images have {height}x{width}; "
            f"train on larger patches (256 is usual) or type criterion.metric=mse"
        )


class RateDistortionLoss(nn.Module):
    """L = lmbda * D' + R (form `rd`) or D + lmbda * R (form `dr`), unclamped.

    R is the rate in bits per pixel of the unpadded image. D is the mean squared error of images in [0, 1], or
    1 - MS-SSIM; D' is 255^2 * MSE, or 1 - MS-SSIM. With 1 / (lmbda * 255^2) in place of lmbda, the `dr` loss is the
    `rd` loss divided by lmbda * 255^2: Adam does not care, but SGD, gradient clipping and every absolute threshold do.
    Form `rd` is `compressai.losses.RateDistortionLoss`.

    Args:
        lmbda: the weight above; larger means better images in form `rd` and smaller files in form `dr`.
        metric: `mse` or `ms-ssim`.
        form: `rd` or `dr`.
        reduction: `mean` averages L over the batch; `per_sample_sq` averages L_i^2 where an image's L_i > 1 and L_i
            elsewhere, which makes the costly images count more.

    Raises:
        UserError: an argument is none of these.
    """

    def __init__(self, lmbda: float, metric: str = "mse", form: str = "rd", reduction: str = "mean") -> None:
        super().__init__()
        self.lmbda, self.metric, self.form, self.reduction = float(lmbda), metric, form, reduction
        problems = [
            f"criterion.{key}={value} is unknown; type criterion.{key}={' or '.join(allowed)}"
            for key, value, allowed in [
                ("metric", metric, tuple(METRICS)),
                ("form", form, FORMS),
                ("reduction", reduction, REDUCTIONS),
            ]
            if value not in allowed
        ]
        if not (math.isfinite(self.lmbda) and self.lmbda >= 0):
            problems.append(f"criterion.lmbda={lmbda} is not a weight; type a number from 0 up, such as 0.0067")
        if problems:
            raise UserError(problems)
        self.quantity = METRICS[metric]

    def combine(self, bpp: Tensor, distortion: Tensor) -> Tensor:
        """Combine rates and distortions to losses.

        Args:
            bpp: bits per pixel of each image, any shape.
            distortion: `self.quantity` (mse or ms_ssim) of each image, same shape.

        Returns:
            L, same shape; L^2 where L > 1 if the reduction is `per_sample_sq`.
        """
        if self.quantity == "ms_ssim":
            distortion = 1 - distortion
        if self.form == "dr":
            loss = distortion + self.lmbda * bpp
        else:
            scale = 255**2 if self.quantity == "mse" else 1
            loss = self.lmbda * scale * distortion + bpp
        return torch.where(loss > 1, loss.square(), loss) if self.reduction == "per_sample_sq" else loss

    def per_image(self, out: Mapping[str, Any], x: Tensor, num_pixels: int | None = None) -> dict[str, Tensor]:
        """Compute each image's terms.

        Args:
            out: a model's output with `x_hat` and `likelihoods`; x_hat is already cropped to the shape of x.
            x: originals in [0, 1], (B, 3, H, W).
            num_pixels: pixels of one image that the bits are divided by; H * W unless given (x itself holds padding).

        Returns:
            `loss`, `bpp` and `mse` or `ms_ssim`, each (B,). Their means are what `forward` returns.
        """
        x_hat = self._reconstruction(out, x)
        bpp = bits_per_image(out["likelihoods"]) / (num_pixels or x.shape[-2] * x.shape[-1])
        distortion = (mse_per_image if self.quantity == "mse" else ms_ssim_per_image)(x_hat, x)
        return {"loss": self.combine(bpp, distortion), "bpp": bpp, self.quantity: distortion}

    def forward(self, out: Mapping[str, Any], x: Tensor, num_pixels: int | None = None) -> dict[str, Tensor]:
        """Compute the batch's terms; `loss` is what the backward pass starts from.

        Args:
            out: a model's output with `x_hat` and `likelihoods`; x_hat is already cropped to the shape of x.
            x: originals in [0, 1], (B, 3, H, W).
            num_pixels: pixels of one image that the bits are divided by; H * W unless given (x itself holds padding).

        Returns:
            `loss`, `bpp` and `mse` or `ms_ssim`, means over the batch, with gradients, still on the device.
        """
        if self.reduction == "per_sample_sq":
            return {name: value.mean() for name, value in self.per_image(out, x, num_pixels).items()}
        x_hat = self._reconstruction(out, x)
        pixels = x.shape[0] * (num_pixels or x.shape[-2] * x.shape[-1])
        log_likelihood = sum(likelihood.log().sum() for likelihood in likelihood_tensors(out["likelihoods"]))
        bpp = torch.as_tensor(log_likelihood) / (-math.log(2) * pixels)
        # One fused operation each way; the per-image form would take four.
        distortion = F.mse_loss(x_hat, x) if self.quantity == "mse" else ms_ssim_per_image(x_hat, x).mean()
        return {"loss": self.combine(bpp, distortion), "bpp": bpp, self.quantity: distortion}

    @staticmethod
    def _reconstruction(out: Mapping[str, Any], x: Tensor) -> Tensor:
        # in the precision of x, so that a bfloat16 reconstruction is compared in float32
        x_hat = out["x_hat"].to(x.dtype)
        if x_hat.shape != x.shape:
            # it would broadcast
            raise ValueError(f"x_hat has shape {tuple(x_hat.shape)}, x has {tuple(x.shape)}; crop the padding first")
        return x_hat
