"""A run's way over the rate-distortion plane: its point of every infer pass, forward and through real bitstreams."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from rdtrain.report import references as published
from rdtrain.report.contours import loss_grid
from rdtrain.report.figures import COLOURS, MARKER, Plot, legend_below, new_figure
from rdtrain.report.measurements import PATHS, SHOWN
from rdtrain.report.naming import conv_name, model_title
from rdtrain.report.plane import LOSS_LABEL, OF_MEAN_LABEL, QUALITY_LABEL, contour_quality, loss_at, ms_ssim_db
from rdtrain.report.rd import draw_references
from rdtrain.report.references import Reference
from rdtrain.report.runs import Run

Array = NDArray[np.float64]
_CLEAR = 70  # points of the path nearer than this are named once, hundredths of an inch
_LOSSES = 24  # contours in the panel


def about(run: Run) -> str:
    """What a figure of one run is about.

    Args:
        run: the run.

    Returns:
        Model with its channels, convolutions, lambda and seed.
    """
    return f"{model_title([run])}, {conv_name(run)}, λ = {run.lmbda:g}, seed {run.setting('seed', '?')}"


def path_of(run: Run, path: str, of_mean: bool = True) -> tuple[Array, Array, Array]:
    """The points of every infer pass.

    Args:
        run: the run.
        path: `forward` or `real`.
        of_mean: the PSNR of the mean MSE, which the loss is made of, instead of the images' mean PSNR.

    Returns:
        Epoch, bits per pixel and quality in dB of the passes that measured them, (P,) each: PSNR, or the MS-SSIM of a
        run that was trained for it, of the unclamped forward and the clamped real images.
    """
    quantity = ("psnr_of_mean_mse" if of_mean else "psnr") if run.metric == "psnr" else "ms_ssim"
    quality = run.column("infer", f"{quantity}/{path}/{SHOWN[path]}")
    quality = quality if run.metric == "psnr" else ms_ssim_db(quality)
    epoch, bpp = run.column("infer", "epoch"), run.column("infer", f"bpp/{path}")
    measured = np.isfinite(bpp) & np.isfinite(quality)
    return epoch[measured], bpp[measured], quality[measured]


def rd_path_figure(run: Run) -> Plot | None:
    """Draw the path over published curves, and beside it with the contour of equal loss through each last point.

    Published PSNR is the mean of the images' dB, losses are made of the mean MSE: each panel has one of the two.

    Args:
        run: a run with infer passes.

    Returns:
        The figure, or None when no pass measured the quality that the run was trained for.
    """
    paths = {path: points for path in PATHS if (points := path_of(run, path))[0].size}
    if not paths:
        return None
    curves, remark = _references(run)
    figure, (whole, close) = new_figure("", 13, 6.2, columns=2)
    figure.suptitle(f"Rate and distortion on {run.dataset}, epoch {run.epochs}\n{about(run)}", fontsize=11)
    draw_references(whole, curves, run.metric)
    means = {path: path_of(run, path, of_mean=False) for path in paths}
    for axes, drawn, shown, label in ((whole, means, curves, QUALITY_LABEL), (close, paths, [], OF_MEAN_LABEL)):
        _fit(axes, list(drawn.values()), shown, run.metric)
        for path, colour in zip(drawn, COLOURS, strict=False):
            _draw_path(axes, path, drawn[path], colour)
        axes.set(xlabel="rate [bit/pixel]", ylabel=label[run.metric])
    _draw_contours(close, paths, run)
    whole.set_title(remark, fontsize=9)
    close.set_title(f"around the path; contours of equal {LOSS_LABEL[run.metric]}", fontsize=9)
    _name_epochs(close, *paths[PATHS[0]])
    legend_below(figure, [whole])
    return Plot("rd-plane", f"Points of every infer pass on {run.dataset}, {about(run)}.", figure)


def _references(run: Run) -> tuple[list[Reference], str]:
    known = run.dataset in published.datasets()
    dataset = run.dataset if known else published.datasets()[0]
    curves = published.usual([str(run.setting("model.name"))], [run.metric], dataset, run.metric)
    if not curves:
        return [], "no published curves of this model"
    return curves, f"published curves of {dataset}" + ("" if known else ", other images: levels cannot be compared")


def _fit(axes: Axes, paths: list[tuple[Array, Array, Array]], curves: list[Reference], metric: str) -> None:
    # With curves: their rates up to a little beyond those of the path. Without: the path and a margin.
    bpp, quality = (np.concatenate([points[i] for points in paths]) for i in (1, 2))
    right = bpp.max() + 0.15 * max(np.ptp(bpp), 0.05)
    left = 0.0 if curves else max(0.0, bpp.min() - 0.15 * max(np.ptp(bpp), 0.05))
    y = np.concatenate([quality, *(curve.quality(metric)[curve.bpp <= right] for curve in curves)])
    margin = 0.08 * max(np.nanmax(y) - np.nanmin(y), 0.5)
    axes.set(xlim=(left, right), ylim=(np.nanmin(y) - margin, np.nanmax(y) + margin))


def _draw_contours(axes: Axes, paths: dict[str, tuple[Array, Array, Array]], run: Run) -> None:
    window = (*axes.get_xlim(), *axes.get_ylim())
    rates, qualities, losses = loss_grid(run.lmbda, run.metric, window)
    levels = np.geomspace(losses.min(), losses.max(), _LOSSES)
    axes.contour(rates, qualities, losses, levels=levels, colors="#c8c8c8", linewidths=0.4)
    fine = np.linspace(window[0], window[1], 400)
    for (path, (_, bpp, quality)), colour in zip(paths.items(), COLOURS, strict=False):
        loss = float(loss_at(bpp[-1], quality[-1], run.lmbda, run.metric))
        through = contour_quality(fine, loss, run.lmbda, run.metric)
        axes.plot(fine, through, color=colour, lw=0.8, ls="-" if path == "real" else (0, (4, 2)))


def _draw_path(axes: Axes, path: str, points: tuple[Array, Array, Array], colour: str) -> None:
    _, bpp, quality = points
    real = path == "real"
    way = "real bitstreams" if real else "forward pass"
    look: dict[str, Any] = {"color": colour, "marker": MARKER[path], "mfc": colour if real else "white", "zorder": 3}
    axes.plot(bpp, quality, lw=1, ms=4, label=f"{way}, {SHOWN[path]}", **look)
    axes.plot(bpp[-1:], quality[-1:], ls="", ms=9, **look)


def _name_epochs(axes: Axes, epoch: Array, bpp: Array, quality: Array) -> None:
    # From the last one backwards, those that keep clear of the ones named before.
    places = axes.transData.transform(np.column_stack([bpp, quality]))
    named: list[Array] = []
    for i in range(epoch.size - 1, -1, -1):
        if all(np.hypot(*(places[i] - other)) > _CLEAR for other in named):
            named.append(places[i])
            text, place = f"epoch {epoch[i]:.0f}", (bpp[i], quality[i])
            axes.annotate(text, place, (8, -10), textcoords="offset points", fontsize=8, color=COLOURS[0])
