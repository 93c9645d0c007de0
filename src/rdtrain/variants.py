"""How good reconstructions are, unclamped, clamped and as 8-bit files, under the names of the metric table.

Shapes: x, x_hat (B, 3, H, W) in [0, 1]. Nothing is clamped in place.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from rdtrain.losses import MS_SSIM_MIN_SIDE, RateDistortionLoss, ms_ssim_per_image, mse_per_image
from rdtrain.metrics import ms_ssim_db, psnr, to_8bit

_VIEWS: dict[str, Callable[[Tensor], Tensor]] = {
    "unclamped": lambda x_hat: x_hat,
    "clamped": lambda x_hat: x_hat.clamp(0, 1),
    "8bit": to_8bit,
}


def qualities(x_hat: Tensor, x: Tensor, variant: str) -> dict[str, Tensor]:
    """Measure how close reconstructions are.

    Args:
        x_hat: reconstructions as g_s gives them, (B, 3, H, W); not changed.
        x: originals, same shape.
        variant: of `rdtrain.metrics.VARIANTS`; what to do to x_hat first.

    Returns:
        `mse`, `psnr` and, unless the images are too small for it, `ms_ssim` and `ms_ssim_db` of each image, (B,); of
        the unclamped view also `outside`, the share of its values outside [0, 1] (a NaN is outside).
    """
    view = _VIEWS[variant](x_hat)
    mse = mse_per_image(view, x)
    measured = {"mse": mse, "psnr": psnr(mse)}
    if variant == "unclamped":
        measured["outside"] = ((view >= 0) & (view <= 1)).logical_not_().flatten(1).to(mse.dtype).mean(1)
    if min(x.shape[-2:]) >= MS_SSIM_MIN_SIDE:
        ms_ssim = ms_ssim_per_image(*map(_quick_to_filter, (view, x)))
        measured |= {"ms_ssim": ms_ssim, "ms_ssim_db": ms_ssim_db(ms_ssim)}
    return measured


def _quick_to_filter(images: Tensor) -> Tensor:
    # oneDNN filters three channels in half the time where they lie side by side, to the same sums.
    return images.contiguous(memory_format=torch.channels_last) if images.device.type == "cpu" else images


def as_file(x_hat: Tensor) -> Tensor:
    """Round a reconstruction to what an 8-bit file holds.

    Args:
        x_hat: one image, (1, 3, H, W); not changed.

    Returns:
        uint8, (3, H, W), on the CPU.
    """
    return to_8bit(x_hat[0]).mul_(255).round_().to("cpu", torch.uint8)


def with_loss(
    criterion: RateDistortionLoss, bpp: Tensor, path: str, measured: Mapping[str, Mapping[str, Tensor]]
) -> dict[str, Tensor]:
    """Name the measurements of a path and add the losses.

    Args:
        criterion: gives the loss of rate and distortion.
        bpp: bits per pixel of each image, (B,).
        path: `forward` or `real`.
        measured: `qualities` by variant.

    Returns:
        Values of each image, (B,), by metric name; no loss where the criterion's distortion was not measured.
    """
    values = {f"bpp/{path}": bpp}
    for variant, quality in measured.items():
        if criterion.quantity in quality:
            values[f"loss/{path}/{variant}"] = criterion.combine(bpp, quality[criterion.quantity])
        values |= {f"{quantity}/{path}/{variant}": value for quantity, value in quality.items()}
    return values


@torch.no_grad()
def quantizer_terms(
    criterion: RateDistortionLoss, model: nn.Module, x: Tensor, noise: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Compare a training batch under noise with the same batch under rounding and straight-through rounding.

    Straight-through training (Minnen & Singh 2020) minimises the rate under noise plus the distortion of rounded
    latents.

    Args:
        criterion: the loss.
        model: the model in training, without a wrapper; its mode is restored.
        x: the batch, (B, 3, H, W).
        noise: what `criterion` gave for it in the training step.

    Returns:
        Batch means under paths `noise`, `round` and `ste`, by metric name.
    """
    training = model.training
    rounded = criterion(model.eval()(x), x)
    model.train(training)
    quantity = criterion.quantity
    ste = {"loss": criterion.combine(noise["bpp"], rounded[quantity]), quantity: rounded[quantity]}
    return {
        (f"bpp/{path}" if name == "bpp" else f"{name}/{path}/unclamped"): value.detach()
        for path, terms in {"noise": noise, "round": rounded, "ste": ste}.items()
        for name, value in terms.items()
    }
