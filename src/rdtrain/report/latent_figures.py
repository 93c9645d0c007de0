"""Figures of what is inside a model: learned densities, rates of channels, scales and feature maps."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from rdtrain.densities import Density
from rdtrain.latents import ScaleUse
from rdtrain.report.figures import COLOURS, new_figure

Array = NDArray[Any]
_ACROSS = 4
_LOWEST = 1e-10  # of the densities' axis; CompressAI bounds likelihoods at 1e-9


def density_figure(shown: Density, bpp: Array, title: str) -> Figure:
    """Draw learned densities on a logarithmic axis, tail to tail.

    Args:
        shown: the channels.
        bpp: rate of each of them, (k,), bit/pixel.
        title: of the figure.

    Returns:
        A panel a channel: the likelihood, the learned quantiles as broken and the exact ones as thin solid lines.
    """
    figure, panels = channel_grid(title, shown.channels.size, "value of the latent", "likelihood")
    for i, axes in enumerate(panels):
        _draw_density(axes, shown, i, float(bpp[i]))
    panels[0].set(yscale="log", ylim=(_LOWEST, 2))
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncols=3, fontsize=8, frameon=False)
    return figure


def channel_grid(title: str, channels: int, xlabel: str, ylabel: str) -> tuple[Figure, list[Axes]]:
    """Make an empty figure with a small panel a channel, all with the same y axis, and room for a legend below.

    Args:
        title: of two lines at most.
        channels: how many.
        xlabel: of all panels.
        ylabel: likewise.

    Returns:
        The figure and so many panels.
    """
    rows = math.ceil(channels / _ACROSS)
    figure = Figure(figsize=(12, 1.5 + 1.9 * rows))
    height = figure.get_figheight()
    figure.suptitle(title, fontsize=11, y=1 - 0.2 / height)
    figure.supxlabel(xlabel, fontsize=8, y=0.42 / height)
    panels = list(figure.subplots(rows, _ACROSS, squeeze=False, sharey=True).ravel())
    figure.subplots_adjust(0.06, 0.75 / height, 0.985, 1 - 0.95 / height, wspace=0.06, hspace=0.62)
    for axes in panels[::_ACROSS]:
        axes.set_ylabel(ylabel, fontsize=8)
    for unused in panels[channels:]:
        unused.set_axis_off()
    return figure, panels[:channels]


def _draw_density(axes: Axes, shown: Density, i: int, bpp: float) -> None:
    axes.plot(shown.x[i], np.maximum(shown.likelihood[i], _LOWEST), color=COLOURS[0], lw=1.2, label="likelihood")
    tails = f"median and tails of {shown.tail_mass / 2:.0e} each"
    for j, (exact, learned) in enumerate(zip(shown.exact[i], shown.learned[i], strict=True)):
        axes.axvline(exact, color=COLOURS[2], lw=1, label=None if j else f"exact {tails}")
        axes.axvline(learned, color=COLOURS[1], lw=1.2, ls="--", label=None if j else "learned (aux loss)")
    low, median, high = shown.learned[i]
    axes.set_title(
        f"channel {shown.channels[i]}: {bpp:.2g} bpp\nlearned {low:.1f}, {median:.2f}, {high:.1f}", fontsize=8
    )
    axes.tick_params(labelsize=7)


def channel_rate_figure(bpp: Mapping[str, Array], title: str) -> Figure:
    """Draw the rate of every channel, highest first, and how much of the whole the first ones make up.

    Args:
        bpp: bit/pixel of each channel, (C,), by latent.
        title: of the figure.

    Returns:
        A panel a latent.
    """
    figure, panels = new_figure("", max(9, 6 * len(bpp)), 4.4, columns=len(bpp))
    figure.suptitle(title, fontsize=11)
    for axes, (name, values) in zip(panels, bpp.items(), strict=True):
        falling = np.sort(values)[::-1]
        axes.bar(np.arange(1, falling.size + 1), falling, width=1.0, color=COLOURS[0])
        axes.set(xlabel="channels, highest rate first", ylabel="rate [bit/pixel]", xlim=(0.5, falling.size + 0.5))
        total = falling.sum()
        needed = int(np.searchsorted(np.cumsum(falling), 0.99 * total)) + 1
        axes.set_title(f"{name}: {total:.4f} bit/pixel; 99 % of it in {needed} of {falling.size} channels", fontsize=9)
    return figure


def scale_figure(use: Mapping[str, ScaleUse], title: str) -> Figure:
    """Draw how often each entry of the scale tables codes a latent.

    Args:
        use: by name of the GaussianConditional, at least one.
        title: of the figure.

    Returns:
        A panel a name, scales along a logarithmic axis.
    """
    figure, panels = new_figure("", max(9, 3.4 * len(use)), 4.4, columns=len(use))
    figure.suptitle(title, fontsize=11)
    for axes, (name, one) in zip(panels, use.items(), strict=True):
        share = 100 * one.counts / max(1, one.counts.sum())
        ratio = one.table[1] / one.table[0]
        axes.bar(one.table / ratio, share[:-1], width=one.table * (1 - 1 / ratio), align="edge", color=COLOURS[0])
        axes.axvline(one.table[0], color=COLOURS[1], lw=1, ls="--")
        axes.axvline(one.table[-1], color=COLOURS[1], lw=1, ls="--")
        axes.set(xscale="log", xlabel="scale (ends of the table: broken lines)", ylabel="latents [%]")
        short = name if len(use) == 1 else ".".join(part for part in name.split(".") if part[1:].isdigit()) or name
        axes.set_title(f"{short}\n{share[0]:.1f} % at the lowest entry, {share[-1]:.1f} % above the table", fontsize=9)
    return figure


def feature_map_figure(y_hat: Array, channels: Array, bpp: Array, title: str) -> Figure:
    """Draw channels of a latent as one picture.

    Args:
        y_hat: (M, h, w).
        channels: which ones, (k,).
        bpp: rate of each of them, (k,), bit/pixel.
        title: of the figure.

    Returns:
        Tiles in the order of the channels, each in its own range around 0: blue below, red above.
    """
    maps = [y_hat[channel] for channel in channels]
    rows, (h, w) = math.ceil(len(maps) / _ACROSS), y_hat.shape[1:]
    size = 2.9 * rows * h / w
    figure = Figure(figsize=(12, 1.1 + size + 0.25 * rows))
    figure.suptitle(title, fontsize=11, y=1 - 0.2 / figure.get_figheight())
    panels = figure.subplots(rows, _ACROSS, squeeze=False).ravel()
    figure.subplots_adjust(0.01, 0.01, 0.99, 1 - 0.95 / figure.get_figheight(), wspace=0.04, hspace=0.25 * w / h / 2)
    for axes in panels:
        axes.set_axis_off()
    for axes, channel, rate, view in zip(panels, channels, bpp, maps, strict=False):
        limit = float(np.abs(view).max()) or 1.0
        axes.imshow(view, cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest")
        axes.set_title(f"channel {channel}: {rate:.2g} bpp, ±{limit:.3g}", fontsize=8)
    return figure
