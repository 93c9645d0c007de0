"""How much of an infer pass is worth its time."""

from __future__ import annotations

import time
from typing import Literal

from compressai.layers import MaskedConv2d
from torch import nn

from rdtrain.coding.context import RASTER, coding_order

RealPolicy = Literal["auto", "always", "best"]


def codes_pixel_by_pixel(model: nn.Module) -> bool:
    """Whether a model's coder visits the latent in raster order, seconds to minutes an image.

    Args:
        model: a compression model; the checkerboard contexts, which take two passes, are subclasses of `MaskedConv2d`.

    Returns:
        True for mbt2018 and the like, unless they code along a wavefront.
    """
    return coding_order(model) == RASTER and any(type(module) is MaskedConv2d for module in model.modules())


def real_policy(policy: RealPolicy, model: nn.Module, monitor: str) -> Literal["always", "best"]:
    """Settle what `infer.real=auto` means.

    Args:
        policy: `infer.real`.
        model: a compression model.
        monitor: `runner.monitor`; what is judged by infer has no best epoch before infer.

    Returns:
        `best` for models that code pixel by pixel, else `always`; or what was asked for.
    """
    if policy != "auto":
        return policy
    return "best" if codes_pixel_by_pixel(model) and not monitor.startswith("infer/") else "always"


class Budget:
    """A pass that ends after some seconds, but not before its first image.

    Args:
        seconds: that it may take, None for any number.
    """

    def __init__(self, seconds: float | None) -> None:
        self.seconds, self.skipped, self.taken = seconds, 0, 0
        self._start = time.monotonic()

    def take(self) -> bool:
        """Decide about one more image.

        Returns:
            Whether it is to be measured.
        """
        over = self.seconds is not None and time.monotonic() - self._start > self.seconds
        if over and self.taken:
            self.skipped += 1
            return False
        self.taken += 1
        return True
