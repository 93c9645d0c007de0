"""Contours of equal loss on the rate-distortion plane: why a point with the lower loss may look worse, or better.

A model is trained to reach the lowest contour of its lambda; along a contour one more bit per pixel must buy
10 / (ln 10 lmbda scale D) dB. Every measured point is drawn with its loss and the contour through it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from numpy.typing import NDArray

from rdtrain.report.figures import (
    GREYS,
    MARKER,
    Plot,
    colours,
    label_at_right,
    legend_below,
    new_figure,
    room_for,
    slug,
)
from rdtrain.report.measurements import PATHS, Measurement
from rdtrain.report.plane import (
    LOSS_LABEL,
    OF_MEAN_LABEL,
    QUALITY_LABEL,
    RDPoint,
    contour_quality,
    contour_slope,
    loss_at,
)
from rdtrain.report.rd import draw_references
from rdtrain.report.references import Reference

# The window in which published PSNR curves are commonly drawn; MS-SSIM has its own.
WINDOW = {"psnr": (0.0, 2.25, 26.0, 41.0), "ms-ssim": (0.0, 1.5, 8.0, 26.0)}
GRID = 50
_FIRST, _LAST, _LEVELS = -2.0, 0.5, 200  # exponents of ten
_MOST_LABELS = 14


@dataclass(frozen=True)
class Marked:
    """A point to mark.

    Args:
        label: of the model and the path.
        curve: the curve and the path, for the legend.
        colour: of its curve.
        point: where it is.
        loss: its loss at the figure's lambda.
    """

    label: str
    curve: str
    colour: str
    point: RDPoint
    loss: float


def loss_grid(
    lmbda: float, metric: str, window: tuple[float, float, float, float]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """The loss on a grid over the plane.

    Args:
        lmbda: weight of the distortion.
        metric: `psnr` or `ms-ssim`.
        window: smallest and largest rate, smallest and largest quality.

    Returns:
        Rates of shape (50,), qualities of shape (50,), and losses of shape (50 qualities, 50 rates): rate is along x.
    """
    bpp = np.linspace(window[0], window[1], GRID)
    quality = np.linspace(window[2], window[3], GRID)
    return bpp, quality, loss_at(bpp[None, :], quality[:, None], lmbda, metric)


def levels(highest: float) -> NDArray[np.float64]:
    """The losses that contours are drawn for.

    Args:
        highest: the largest loss that is marked.

    Returns:
        200 losses from 0.01 to 10^0.5, evenly spaced in their logarithm, and as many more as pass `highest`.
    """
    step = (_LAST - _FIRST) / (_LEVELS - 1)
    more = max(0, int(np.ceil((np.log10(highest) - _LAST) / step)) + 1) if highest > 10**_LAST else 0
    return np.logspace(_FIRST, _LAST + more * step, _LEVELS + more)


def marked_points(measurements: Sequence[Measurement], lmbda: float, metric: str) -> list[Marked]:
    """Every forward and real point with its loss.

    Args:
        measurements: what was measured.
        lmbda: weight of the distortion, for all of them.
        metric: `psnr` or `ms-ssim`.

    Returns:
        The points that have that quality, in the order of the measurements.
    """
    by_curve = colours([one.curve for one in measurements])
    several = len({one.curve for one in measurements}) < len(measurements)
    mixed = len({one.lmbda for one in measurements}) > 1
    marked = []
    for one in measurements:
        name = one.full_label if mixed else one.label if several else one.curve
        for path in PATHS:
            point = one.point(path)
            if point and np.isfinite(point.quality(metric, of_mean=True)):
                loss = point.loss(metric, lmbda)
                marked.append(Marked(f"{name}, {path}", f"{one.curve}, {path}", by_curve[one.curve], point, loss))
    return marked


def contour_figure(
    measurements: Sequence[Measurement],
    references: Sequence[Reference],
    lmbda: float,
    metric: str,
    dataset: str,
    title: str = "",
) -> Plot | None:
    """Draw all points over the contours of one lambda: the whole window, and what lies around the points.

    Args:
        measurements: on the same images.
        references: published curves.
        lmbda: weight of the distortion.
        metric: `psnr` or `ms-ssim`.
        dataset: name of the images.
        title: the models.

    Returns:
        The figure, or None when no point has that quality.
    """
    marked = marked_points(measurements, lmbda, metric)
    if not marked:
        return None
    about = f"Contours of equal loss, {LOSS_LABEL[metric]}, λ = {lmbda:g}, {dataset}{f', {title}' if title else ''}"
    width = 10.5 + room_for([_text(one) for one in marked])
    figure, (whole, close) = new_figure(about, width, 6.2, columns=2)
    for axes, window in ((whole, _whole_window(marked, metric)), (close, _close_window(marked, metric))):
        _draw_contours(axes, marked, references, lmbda, metric, window)
    whole.set_title("window of the published curves", fontsize=9)
    close.set_title("around the points, with the loss of each", fontsize=9)
    _label(close, marked, metric)
    legend_below(figure, [whole])
    return Plot(slug(f"contours-{metric}-{lmbda:g}-{dataset}"), _caption(marked, lmbda, metric), figure)


def _caption(marked: Sequence[Marked], lmbda: float, metric: str) -> str:
    lowest = min(marked, key=lambda one: one.loss)
    slope = float(contour_slope(lowest.point.quality(metric, of_mean=True), lmbda, metric))
    said = (
        f"Contours of equal loss for λ = {lmbda:g}; losses fall towards the upper left. "
        f"{'; '.join(map(_text, marked))}. At {lowest.label} a contour rises by {slope:.2f} dB per bit/pixel."
    )
    mean = (
        " PSNR is that of the mean MSE, so that L is the loss of the training. Published curves are means of the"
        " images' dB, which are higher: compare them with the small crosses."
    )
    return said + (mean if _of_mean(marked, metric) else "")


def _of_mean(marked: Sequence[Marked], metric: str) -> bool:
    # Whether points lie elsewhere than their mean of the images' dB, the quality of the published curves.
    return any(one.point.quality(metric, of_mean=True) != one.point.quality(metric) for one in marked)


def _draw_contours(
    axes: Axes,
    marked: Sequence[Marked],
    references: Sequence[Reference],
    lmbda: float,
    metric: str,
    window: tuple[float, float, float, float],
) -> None:
    losses = levels(max(one.loss for one in marked))
    axes.contour(*loss_grid(lmbda, metric, window), levels=losses, colors="#c8c8c8", linewidths=0.4)
    of_mean = _of_mean(marked, metric)
    draw_references(axes, references, metric, ", mean of dB" if of_mean else "")
    rates = np.linspace(window[0], window[1], 400)
    for one in marked:
        through = contour_quality(rates, one.loss, lmbda, metric)
        axes.plot(rates, through, color=one.colour, lw=0.8, ls="-" if one.point.path == "real" else (0, (4, 2)))
        _mark(axes, one, metric)
        if of_mean and references:
            label = f"{one.curve}, mean of dB"
            axes.plot(one.point.bpp, one.point.quality(metric), ls="", marker="x", ms=4, color=one.colour, label=label)
    ylabel = (OF_MEAN_LABEL if of_mean else QUALITY_LABEL)[metric]
    axes.set(xlim=window[:2], ylim=window[2:], xlabel="rate [bit/pixel]", ylabel=ylabel)


def _mark(axes: Axes, one: Marked, metric: str) -> None:
    real = one.point.path == "real"
    axes.plot(
        one.point.bpp,
        one.point.quality(metric, of_mean=True),
        ls="",
        marker=MARKER[one.point.path],
        ms=6,
        color=one.colour,
        mfc=one.colour if real else "white",
        zorder=4,
        label=one.curve,
    )


def _text(one: Marked) -> str:
    return f"{one.label}: L = {one.loss:.4f}"


def _label(axes: Axes, marked: Sequence[Marked], metric: str) -> None:
    # More labels than fit are left to the table; the lowest losses are the ones to read.
    best = sorted(marked, key=lambda one: one.loss)[:_MOST_LABELS]
    places = [(one.point.bpp, one.point.quality(metric, of_mean=True)) for one in best]
    label_at_right(axes, [(*place, _text(one), one.colour) for place, one in zip(places, best, strict=True)])


def _extent(marked: Sequence[Marked], metric: str) -> tuple[float, float, float, float]:
    x = [one.point.bpp for one in marked]
    y = [one.point.quality(metric, of_mean=True) for one in marked]
    return min(x), max(x), min(y), max(y)


def _whole_window(marked: Sequence[Marked], metric: str) -> tuple[float, float, float, float]:
    left, right, low, high = WINDOW[metric]
    _, x1, y0, y1 = _extent(marked, metric)
    return left, max(right, 1.05 * x1), min(low, np.floor(y0 - 1)), max(high, np.ceil(y1 + 1))


def _close_window(marked: Sequence[Marked], metric: str) -> tuple[float, float, float, float]:
    x0, x1, y0, y1 = _extent(marked, metric)
    width, height = max(x1 - x0, 0.02), max(y1 - y0, 0.4)
    return max(0.0, x0 - 0.6 * width), x1 + 0.6 * width, y0 - 0.4 * height, y1 + 0.4 * height


def lambdas_figure(references: Sequence[Reference], metric: str) -> Plot | None:
    """Draw contours of many lambdas in their colours, each through the published point trained with it.

    Args:
        references: published curves; the first one with known lambdas is taken.
        metric: `psnr` or `ms-ssim`.

    Returns:
        The figure, or None when no curve's lambdas are known for this quality.
    """
    trained_for = {"psnr": "mse", "ms-ssim": "ms-ssim"}[metric]
    known = [one for one in references if one.optimized_for == trained_for and np.isfinite(one.lmbda).all()]
    if not known:
        return None
    curve = known[0]
    figure, (axes,) = new_figure(
        f"Contours of equal loss of {curve.lmbda.size} lambdas: {curve.label}, {curve.dataset}", 9, 6.5
    )
    axes.plot(curve.bpp, curve.quality(metric), color=GREYS[0], lw=1, label=curve.legend)
    window = WINDOW[metric]
    rates = np.linspace(window[0], window[1], 600)
    shades = colormaps["viridis"](np.linspace(0, 0.9, curve.lmbda.size))
    for bpp, quality, lmbda, colour in zip(curve.bpp, curve.quality(metric), curve.lmbda, shades, strict=True):
        loss = float(loss_at(bpp, quality, lmbda, metric))
        for factor, width in ((0.85, 0.5), (1.0, 1.3), (1.15, 0.5)):
            axes.plot(rates, contour_quality(rates, factor * loss, lmbda, metric), color=colour, lw=width)
        axes.plot(bpp, quality, "o", color=colour, ms=5, zorder=4, label=f"λ = {lmbda:g}: L = {loss:.4f}")
    axes.set(xlim=window[:2], ylim=window[2:], xlabel="rate [bit/pixel]", ylabel=QUALITY_LABEL[metric])
    legend_below(figure, [axes])
    caption = (
        "For each lambda the contour through the point trained with it (bold), and those of 15 % less and more loss."
    )
    if metric == "psnr":
        caption += (
            " L is made of the published mean of the images' dB; that of the mean MSE, the training's, is higher."
        )
    return Plot(slug(f"contours-{metric}-all-lambdas-{curve.dataset}"), caption, figure)
