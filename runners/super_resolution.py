"""The way of one batch of super-resolution: images -> half the size -> network -> squared error -> step.

Shapes: x (B, 3, H, W) in [0, 1], H and W even.
"""

from __future__ import annotations

from rdtrain.runners.measuring import MeasuringRunner
from torch import Tensor

from rdtrain.metrics import psnr
from rdtrain.super_resolution.model import halved


class SuperResolutionRunner(MeasuringRunner):
    """Trains a network that doubles images; loaders `train` and `valid`."""

    def measure(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Double what was halved.

        Args:
            batch: `x`, (..., B, 3, H, W).

        Returns:
            Mean squared error `loss`, and `psnr` of values clamped to [0, 1] in dB, of each image, (B,).
        """
        x = batch["x"].flatten(0, -4)
        x_hat = self.model(halved(x))
        losses, clamped = ((x - image).square().mean(dim=(1, 2, 3)) for image in (x_hat, x_hat.detach().clamp(0, 1)))
        return {"loss": losses, "psnr": psnr(clamped)}
