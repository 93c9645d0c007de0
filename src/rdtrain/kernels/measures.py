"""How an arm is judged: steps to a tolerance, final errors, and where among the frequencies the errors are."""

from __future__ import annotations

import torch
from torch import Tensor

LOW_BAND = 0.25  # cycles a pixel; below it, a frequency counts as low


class StepsToTolerance:
    """The number of steps after which the relative kernel error was first within the tolerance.

    Args:
        tolerance: of the relative error.
    """

    def __init__(self, tolerance: float) -> None:
        self.tolerance = tolerance
        self.steps: Tensor | None = None

    def look(self, errors: Tensor, step: int) -> None:
        """Take note of errors.

        Args:
            errors: any shape, always the same; not finite is not within.
            step: steps that were made before.
        """
        if self.steps is None:
            self.steps = torch.full_like(errors, torch.nan)
        self.steps[self.steps.isnan() & (errors <= self.tolerance)] = step

    def numbers(self) -> list[list[int | None]]:
        """What was found.

        Returns:
            Steps, None where the tolerance was not reached, as nested lists of a two-dimensional tensor.
        """
        rows = [] if self.steps is None else self.steps.tolist()
        return [[None if value != value else int(value) for value in row] for row in rows]


def frequency_error(gap: Tensor, targets: Tensor) -> Tensor:
    """Error at each frequency, relative to the whole target, so that the squares add up to the square of the error.

    Args:
        gap: w - w*, (..., O, I/g, Kh, Kw).
        targets: w*, broadcastable to it.

    Returns:
        Shape (..., Kh, Kw), in FFT order.
    """
    spectrum = torch.fft.fft2(gap.double(), norm="ortho").abs().square().sum(dim=(-4, -3)).sqrt()
    return spectrum / targets.double().flatten(-4).norm(dim=-1)[..., None, None]


def band_errors(by_frequency: Tensor) -> tuple[Tensor, Tensor]:
    """Split errors into low and high frequencies.

    Args:
        by_frequency: of `frequency_error`, (..., Kh, Kw).

    Returns:
        Errors below `LOW_BAND` and from it on, each (...); their squares add up to the square of the whole error.
    """
    kh, kw = by_frequency.shape[-2:]
    radius = torch.hypot(torch.fft.fftfreq(kh)[:, None], torch.fft.fftfreq(kw)[None])
    low = radius < LOW_BAND
    inside, outside = ((by_frequency * mask).flatten(-2).norm(dim=-1) for mask in (low, ~low))
    return inside, outside
