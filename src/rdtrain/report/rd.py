"""Rate-distortion curves: measurements put in order of rate, several seeds drawn as a mean with a min-max band."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from rdtrain.report.figures import GREYS, MARKER, Plot, colours, legend_below, new_figure, slug
from rdtrain.report.measurements import SHOWN, Measurement
from rdtrain.report.plane import QUALITY_LABEL
from rdtrain.report.references import Reference

_STYLES = (("--", "x"), ("-.", "+"), (":", "^"), ((0, (5, 1, 1, 1, 1, 1)), "."))


@dataclass(frozen=True)
class RDCurve:
    """One curve, in order of mean rate; its points are lambdas, its spread is over seeds.

    Args:
        name: of the curve.
        path: `forward` or `real`.
        lmbda: shape (P,), NaN where unknown.
        bpp: mean over seeds, (min, mean, max), shape (P, 3).
        quality: dB, (min, mean, max) over seeds, shape (P, 3).
        members: the measurements behind each point.
    """

    name: str
    path: str
    lmbda: NDArray[np.float64]
    bpp: NDArray[np.float64]
    quality: NDArray[np.float64]
    members: tuple[tuple[Measurement, ...], ...]

    @property
    def seeds(self) -> int:
        """The largest number of measurements behind one point."""
        return max(map(len, self.members))

    @property
    def weights(self) -> str:
        """Which checkpoints were measured: `best`, `last`, both, or empty when unknown."""
        return " and ".join(sorted({one.weights for members in self.members for one in members} - {""}))


def rd_curves(measurements: Sequence[Measurement], metric: str, path: str, variant: str | None = None) -> list[RDCurve]:
    """Put measurements of one data set together into curves.

    Args:
        measurements: all on the same images.
        metric: `psnr` or `ms-ssim`.
        path: `forward` or `real`.
        variant: of the reconstruction; None for the one that the report compares.

    Returns:
        One curve for each name, in the order of the measurements; measurements without that point are passed over.
    """
    groups: dict[str, dict[object, list[Measurement]]] = {}
    for number, one in enumerate(measurements):
        point = one.point(path, variant)
        if point and math.isfinite(point.quality(metric)):
            # A measurement of unknown lambda is a point of its own.
            key = one.lmbda if math.isfinite(one.lmbda) else f"unknown {number}"
            groups.setdefault(one.curve, {}).setdefault(key, []).append(one)
    return [_curve(name, points, metric, path, variant) for name, points in groups.items()]


def _curve(name: str, groups: dict[object, list[Measurement]], metric: str, path: str, variant: str | None) -> RDCurve:
    rows = []
    for members in groups.values():
        points = [point for one in members if (point := one.point(path, variant))]
        bpp = [point.bpp for point in points]
        quality = [point.quality(metric) for point in points]
        rows.append((min_mean_max(bpp), min_mean_max(quality), members))
    rows.sort(key=lambda row: row[0][1])
    return RDCurve(
        name,
        path,
        np.array([members[0].lmbda for _, _, members in rows]),
        np.array([bpp for bpp, _, _ in rows]),
        np.array([quality for _, quality, _ in rows]),
        tuple(tuple(members) for _, _, members in rows),
    )


def min_mean_max(values: Sequence[float]) -> tuple[float, float, float]:
    """Sum up the values of several seeds.

    Args:
        values: at least one.

    Returns:
        Smallest, mean and largest.
    """
    return min(values), math.fsum(values) / len(values), max(values)


def rd_figure(
    measurements: Sequence[Measurement],
    references: Sequence[Reference],
    dataset: str,
    metric: str,
    title: str = "",
    remark: str = "",
) -> Plot | None:
    """Draw the curves of real bitstreams and of the forward pass over published ones.

    Args:
        measurements: all on the same images.
        references: published curves.
        dataset: name of the images.
        metric: `psnr` or `ms-ssim`.
        title: the models.
        remark: a warning for the caption, such as that the published curves are of other images.

    Returns:
        The figure, or None when nothing has that quality.
    """
    curves = [curve for path in ("real", "forward") for curve in rd_curves(measurements, metric, path)]
    if not curves:
        return None
    figure, (axes,) = new_figure(f"Rate and distortion on {dataset}{f': {title}' if title else ''}", 8.5, 6.5)
    draw_references(axes, references, metric)
    by_name = colours([curve.name for curve in curves])
    for curve in curves:
        _draw(axes, curve, by_name[curve.name])
    _limits(axes, curves)
    axes.set_xlabel("rate [bit/pixel]")
    axes.set_ylabel(QUALITY_LABEL[metric])
    legend_below(figure, [axes])
    seeds = max(curve.seeds for curve in curves)
    band = f" Mean of up to {seeds} seeds; band and bars from the smallest to the largest." if seeds > 1 else ""
    shown = ", ".join(f"{path}: {variant}" for path, variant in SHOWN.items())
    weights = " In brackets: the best checkpoint, or the last one." if any(curve.weights for curve in curves) else ""
    caption = f"Rate-distortion curves on {dataset} (reconstructions {shown}).{band}{weights} {remark}".strip()
    return Plot(slug(f"rd-{metric}-{dataset}"), caption, figure)


def draw_references(axes: Axes, references: Sequence[Reference], metric: str, remark: str = "") -> None:
    """Draw published curves as thin broken lines.

    Args:
        axes: where to.
        references: the curves.
        metric: `psnr` or `ms-ssim`.
        remark: for the legend, such as that their quality is another average than the panel's.
    """
    for i, curve in enumerate(references):
        (style, marker), colour = _STYLES[i % len(_STYLES)], GREYS[i // len(_STYLES) % len(GREYS)]
        look: dict[str, Any] = {"ls": style, "color": colour, "lw": 1, "marker": marker, "ms": 4}
        axes.plot(curve.bpp, curve.quality(metric), label=f"{curve.legend}{remark}", **look)


def _draw(axes: Axes, curve: RDCurve, colour: str) -> None:
    (low_x, x, high_x), (low_y, y, high_y) = curve.bpp.T, curve.quality.T
    real = curve.path == "real"
    weights = f" ({curve.weights})" if curve.weights else ""
    axes.plot(
        x,
        y,
        color=colour,
        ls="-" if real else (0, (2, 2)),
        lw=1.6 if real else 1,
        marker=MARKER[curve.path],
        ms=5,
        mfc=colour if real else "white",
        label=f"{curve.name}, {'real bitstreams' if real else 'forward pass'}{weights}",
        zorder=3,
    )
    if curve.seeds > 1:
        axes.fill_between(x, low_y, high_y, color=colour, alpha=0.15, lw=0)
        bars: dict[str, Any] = {"xerr": np.stack([x - low_x, high_x - x]), "yerr": np.stack([y - low_y, high_y - y])}
        axes.errorbar(x, y, **bars, fmt="none", ecolor=colour, elinewidth=0.8)


def _limits(axes: Axes, curves: Sequence[RDCurve]) -> None:
    # The runs fill the panel; published curves go on beyond it.
    x = np.concatenate([curve.bpp.ravel() for curve in curves])
    y = np.concatenate([curve.quality.ravel() for curve in curves])
    height = max(y.max() - y.min(), 2.0)
    width = max(x.max() - x.min(), 0.4 * x.max())
    axes.set_xlim(max(0.0, x.min() - 0.25 * width), x.max() + 0.25 * width)
    axes.set_ylim(y.min() - 0.25 * height, y.max() + 0.25 * height)
