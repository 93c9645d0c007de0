"""Bjontegaard's differences between two rate-distortion curves, with the range they hold for and an interval.

BD-rate is the mean difference of log rate over the common range of quality, as per cent; BD-PSNR the mean difference of
quality over the common range of log rate (Bjontegaard 2001, VCEG-M33). Curves are interpolated by PCHIP, as JVET's
spreadsheets do, by the library `bjontegaard`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from bjontegaard import bd_psnr, bd_rate  # type: ignore[import-untyped]  # it ships no types
from numpy.typing import NDArray

from rdtrain.report.plane import ms_ssim_db

Array = NDArray[np.float64]
DRAWS = 1000
_GIVEN = {"method": "pchip", "require_matching_points": False, "min_overlap": 0}


@dataclass(frozen=True)
class BD:
    """The difference of a curve from an anchor.

    Args:
        rate: BD-rate, per cent; negative: fewer bits for the same quality.
        quality: BD-PSNR (or of MS-SSIM in dB), dB; positive: better at the same rate.
        quality_range: the common range of quality, dB.
        rate_range: the common range of rate, bits per pixel.
        overlap: the common range of quality as a share of the range that both curves span.
    """

    rate: float
    quality: float
    quality_range: tuple[float, float]
    rate_range: tuple[float, float]
    overlap: float


@dataclass(frozen=True)
class PerImage:
    """A curve before averaging over images.

    Args:
        names: of the I images.
        bpp: bits per pixel, shape (P, I).
        quality: PSNR in dB, or MS-SSIM linear, shape (P, I).
    """

    names: tuple[str, ...]
    bpp: Array
    quality: Array

    def mean(self, metric: str, chosen: NDArray[np.intp] | slice = slice(None)) -> tuple[Array, Array]:
        """The curve of some images.

        Args:
            metric: `psnr` or `ms-ssim`.
            chosen: indexes of the images, repeated ones count as often.

        Returns:
            Mean rate and mean quality in dB (MS-SSIM: dB of the mean), both of shape (P,), in order of rate.
        """
        bpp, quality = self.bpp[:, chosen].mean(axis=1), self.quality[:, chosen].mean(axis=1)
        order = np.argsort(bpp)
        return bpp[order], quality[order] if metric == "psnr" else ms_ssim_db(quality[order])


def problem(anchor: tuple[Array, Array], test: tuple[Array, Array]) -> str | None:
    """Why two curves cannot be compared.

    Args:
        anchor: rate (bits per pixel) and quality (dB), each of shape (P,).
        test: the same of the other curve.

    Returns:
        The reason, or None when they can be.
    """
    for name, (bpp, quality) in {"anchor": anchor, "test": test}.items():
        if bpp.size < 2:
            return f"{name} has fewer than two points"
        if not ((np.diff(bpp) > 0).all() and (np.diff(quality) > 0).all()):
            return f"{name} does not rise with the rate"
    (low, high), (left, right) = _common(anchor[1], test[1])[0], _common(anchor[0], test[0])[0]
    return None if low < high and left < right else "no common range of rate and quality"


def difference(anchor: tuple[Array, Array], test: tuple[Array, Array]) -> BD:
    """Compare two curves.

    Args:
        anchor: rate (bits per pixel) and quality (dB) of the curve to compare with, each of shape (P,).
        test: the same of the other curve, any number of points.

    Returns:
        The differences and the ranges that they hold for.

    Raises:
        ValueError: when a curve has fewer than two points or is not strictly increasing, or the curves do not overlap;
            the message says which.
    """
    reason = problem(anchor, test)
    if reason:
        raise ValueError(reason)
    quality_range, overlap = _common(anchor[1], test[1])
    rate_range, _ = _common(anchor[0], test[0])
    return BD(
        float(bd_rate(*anchor, *test, **_GIVEN)),
        float(bd_psnr(*anchor, *test, **_GIVEN)),
        quality_range,
        rate_range,
        overlap,
    )


def _common(a: Array, b: Array) -> tuple[tuple[float, float], float]:
    low, high = max(a.min(), b.min()), min(a.max(), b.max())
    span = max(a.max(), b.max()) - min(a.min(), b.min())
    return (float(low), float(high)), float(max(high - low, 0) / span)


def interval(
    anchor: PerImage | tuple[Array, Array], test: PerImage, metric: str, draws: int = DRAWS, seed: int = 0
) -> tuple[float, float]:
    """How much the BD-rate depends on the choice of the images: a bootstrap over them (percentile method).

    Args:
        anchor: per image, drawn together with the test curve's (a paired bootstrap); or only its means, which then
            stay fixed, and the interval is too wide because what images have in common does not cancel.
        test: per image.
        metric: `psnr` or `ms-ssim`.
        draws: number of resamples.
        seed: of the resampling.

    Returns:
        2.5 and 97.5 per cent quantiles of the BD-rate in per cent; NaN when more than a tenth of the draws gave no
        BD-rate.
    """
    random = np.random.default_rng(seed)
    rates = []
    for _ in range(draws):
        chosen = random.integers(len(test.names), size=len(test.names))
        fixed = anchor.mean(metric, chosen) if isinstance(anchor, PerImage) else anchor
        drawn = test.mean(metric, chosen)
        if problem(fixed, drawn) is None:  # else this draw's curve bends back or leaves the anchor's range
            rates.append(float(bd_rate(*fixed, *drawn, **_GIVEN)))
    if len(rates) < 0.9 * draws:
        return float("nan"), float("nan")
    low, high = np.quantile(rates, [0.025, 0.975])
    return float(low), float(high)
