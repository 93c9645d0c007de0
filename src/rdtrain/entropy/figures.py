"""A study as figures."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from numpy.typing import NDArray

from rdtrain.densities import density
from rdtrain.entropy.learned import Learned, new_pmf
from rdtrain.entropy.stable import both_bits, lost_from
from rdtrain.entropy.study import Study
from rdtrain.entropy.tally import EDGES, SPAN, Tally
from rdtrain.latents import ScaleUse, highest
from rdtrain.report.figures import COLOURS, Plot, legend_below, new_figure, slug
from rdtrain.report.latent_figures import channel_grid, density_figure, scale_figure

Array = NDArray[Any]
_LEAST = 1e-7  # of the axes of probabilities; a table's least is 1.5e-5
_BEYOND = {
    "context": COLOURS[6], "tables": COLOURS[1], "tails": COLOURS[3], "flush": COLOURS[2], "unsplit": COLOURS[5],
    "header": COLOURS[4],
}  # fmt: skip


def model_figures(study: Study, name: str, channels: int) -> list[Plot]:
    """Draw what one entropy model did.

    Args:
        study: the measurements.
        name: of the entropy model.
        channels: of a bottleneck, those with the highest rate, that are shown one by one; 0 for none.

    Returns:
        The figures: of a bottleneck its densities, tables and tails, of a Gaussian conditional its scales.
    """
    tally = study.tallies[name]
    if not tally.is_bottleneck:
        return [channels_figure(study, name), scales_figure(study, name), residuals_figure(study, name)]
    order = highest(tally.parts["ideal"], channels)
    shown = [symbols_figure(study, name, order), quantiles_figure(study, name, order)] if channels else []
    return [channels_figure(study, name), *shown, tail_figure(study, name)]


def parts_figure(study: Study) -> Plot:
    """Draw what the files are made of.

    Args:
        study: the measurements.

    Returns:
        A bar an image: on the left ideal bits and all that costs more, with a mark at the file's size; on the right all
        but the ideal bits.
    """
    height = 1.9 + 0.36 * len(study.images)
    figure, (whole, beyond) = new_figure(f"What a file is made of: {study.about}", 12, height, columns=2)
    rows = np.arange(len(study.images))
    ideal = np.array([one.ideal for one in study.images]) / 8
    whole.barh(rows, ideal, color=COLOURS[0], label="ideal: -log2 of the likelihoods")
    above, below = np.zeros_like(ideal), np.zeros_like(ideal)
    for part, colour in _BEYOND.items():
        values = np.array([getattr(one, part) for one in study.images]) / 8
        if not values.any():
            continue
        gain, cost = np.minimum(values, 0), np.maximum(values, 0)
        whole.barh(rows, cost, left=ideal + above, color=colour)
        beyond.barh(rows, cost, left=above, color=colour, label=part)
        beyond.barh(rows, gain, left=below, color=colour)
        above, below = above + cost, below + gain
    whole.plot([one.total / 8 for one in study.images], rows, "k|", ms=9, label="the file: less what is gained")
    for axes, what in ((whole, "the whole file"), (beyond, "beyond the ideal bits")):
        axes.set(xlabel="bytes")
        axes.set_title(what, fontsize=9)
        axes.set_yticks(rows, [one.name for one in study.images] if axes is whole else [])
        axes.invert_yaxis()
        axes.tick_params(labelsize=8)
    legend_below(figure, [whole, beyond])
    return Plot(
        "parts", "Each image's file: ideal bits, and what context, tables, tails, flush and header add.", figure
    )


def channels_figure(study: Study, name: str) -> Plot:
    """Draw what each channel costs, expected and in the string.

    Args:
        study: the measurements.
        name: of the entropy model.

    Returns:
        On the left bits a latent, on the right bits an image beyond the ideal ones.
    """
    tally, title = study.tallies[name], f"Expected and actual bits of each channel of {name}\n{study.about}"
    figure, (left, right) = new_figure(title, 12, 4.6, columns=2)
    order = highest(tally.parts["ideal"], tally.dead.size)
    rank, images = np.arange(1, order.size + 1), len(study.images)
    left.plot(rank, (tally.parts["ideal"] / tally.count)[order], color=COLOURS[0], lw=2.5, label="ideal")
    left.plot(rank, (tally.coded / tally.count)[order], color=COLOURS[1], lw=1, label="coded with tables")
    if tally.is_bottleneck:
        left.plot(rank, tally.empirical[order], ":", color=COLOURS[2], label="entropy of the symbols that came")
        left.plot(rank, study.learned[name].entropy[order], color=COLOURS[7], lw=0.6, label="entropy of the density")
    left.set(xlabel="channels, highest rate first", ylabel="bits a latent")
    beyond = {part: (tally.parts[part] / images)[order] for part in ("context", "tables", "tails")}
    for (part, values), width in zip(beyond.items(), (1.0, 0.75, 0.5), strict=True):
        if part != "context" or np.nan_to_num(values).any():
            right.bar(rank, values, color=_BEYOND[part], width=width, label=part)
    right.set(xlabel="channels, highest rate first", ylabel="bits an image beyond the ideal ones")
    if np.isnan(beyond["tables"]).all():
        right.set_title("not known: its symbols and strings do not correspond", fontsize=9)
    dead, escapes = int(tally.dead.sum()), np.nansum(tally.parts["escapes"])
    left.set_title(f"{dead} of {order.size} channels dead, {escapes:.0f} escape codes", fontsize=9)
    legend_below(figure, [left, right])
    return Plot(slug(f"channels-{name}"), f"Expected and actual bits of each channel of {name}.", figure)


def symbols_figure(study: Study, name: str, order: Array) -> Plot:
    """Draw learned probabilities, those of a new model, the coder's tables and what came.

    Args:
        study: the measurements.
        name: of the bottleneck.
        order: channels, (k,).

    Returns:
        A panel a channel, logarithmic.
    """
    tally, one = study.tallies[name], study.learned[name]
    title = f"Symbols of {name}: learned, in the table, counted\n{study.about}"
    figure, panels = channel_grid(title, order.size, "symbol: distance from the median", "probability")
    new = new_pmf(tally.model, one.symbols)
    for axes, channel in zip(panels, order, strict=True):
        _draw_symbols(axes, tally, one, int(channel), new)
    panels[0].set(yscale="log", ylim=(_LEAST, 2))
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncols=4, fontsize=8, frameon=False)
    caption = f"{name}: learned probability of each symbol, the coder's 16-bit table, and how often each symbol came."
    return Plot(slug(f"symbols-{name}"), caption, figure)


def _draw_symbols(axes: Axes, tally: Tally, one: Learned, channel: int, new: Array) -> None:
    counted = tally.histogram[channel] / tally.count
    edges = np.arange(-SPAN, SPAN + 2) - 0.5
    axes.stairs(counted, edges, baseline=_LEAST, fill=True, color=COLOURS[4], label="counted")
    axes.plot(one.symbols, new, color=COLOURS[7], lw=0.8, ls=":", label="a new model's, around its median")
    axes.plot(one.symbols, one.pmf[channel], color=COLOURS[0], lw=1.2, label="learned density")
    axes.step(one.symbols, one.table[channel], where="mid", color=COLOURS[1], lw=1, ls="--", label="coder's table")
    inside = one.symbols[np.isfinite(one.table[channel]) & (one.pmf[channel] > _LEAST)]
    came = np.flatnonzero(counted) - SPAN
    low, high = min(inside.min(), came.min()), max(inside.max(), came.max())
    axes.set_xlim(low - 1, high + 1)
    bits = tally.parts["ideal"][channel] / tally.count
    escapes = np.nan_to_num(tally.parts["escapes"][channel])
    axes.set_title(
        f"channel {channel}: {bits:.2f} bit, table of {one.widths[channel]}\n"
        f"mass outside {one.tail_mass[channel]:.0e}, {escapes:.0f} escapes",
        fontsize=8,
    )
    axes.tick_params(labelsize=7)


def quantiles_figure(study: Study, name: str, order: Array) -> Plot:
    """Draw densities from tail to tail with the quantiles of the aux loss and the exact ones.

    Args:
        study: the measurements.
        name: of the bottleneck.
        order: channels, (k,).

    Returns:
        The figure of `rdtrain.report.latent_figures.density_figure`.
    """
    tally = study.tallies[name]
    trained = copy.deepcopy(tally.model)
    trained.quantiles.data[:, 0] = torch.from_numpy(study.trained_quantiles[name]).to(trained.quantiles)
    bpp = tally.parts["ideal"][order] / tally.pixels
    figure = density_figure(density(trained, order), bpp, f"Densities and quantiles of {name}\n{study.about}")
    return Plot(slug(f"quantiles-{name}"), f"{name}: densities, and the quantiles that the aux loss found.", figure)


def tail_figure(study: Study, name: str) -> Plot:
    """Draw the likelihood of a channel in CompressAI's float32 arithmetic and exactly.

    Args:
        study: the measurements.
        name: of the bottleneck.

    Returns:
        Both tails of the channel that loses its likelihood nearest to its median, folded over each other.
    """
    tally = study.tallies[name]
    lost = lost_from(tally.model)
    channel = int(np.nanargmin(lost)) if np.isfinite(lost).any() else int(highest(tally.parts["ideal"], 1)[0])
    low, median, high = study.learned[name].quantiles[channel]
    distance = np.linspace(0, max(high - median, median - low) + 2, 600)
    figure, (axes,) = new_figure(f"Likelihood of {name}, channel {channel}\n{study.about}", 9, 4.6)
    for sign, side, colour in ((1, "above", COLOURS[1]), (-1, "below", COLOURS[0])):
        x = torch.from_numpy(median + sign * distance).expand(tally.dead.size, -1).to(tally.model.quantiles.device)
        theirs, exact = both_bits(tally.model, x)
        axes.plot(distance, exact[channel], color=colour, lw=2.5, alpha=0.45, label=f"{side} the median, exact")
        axes.plot(distance, theirs[channel], color=colour, lw=0.9, label=f"{side} the median, CompressAI in float32")
    where = f"lost from {lost[channel]:.0f} above the median" if np.isfinite(lost[channel]) else "nowhere lost"
    axes.set(xlabel="distance from the median", ylabel="-log2 of the likelihood [bit]")
    axes.set_title(f"{where}; {tally.lost.sum()} latents of these images lie there", fontsize=9)
    legend_below(figure, [axes])
    return Plot(slug(f"tail-{name}"), f"{name}: where float32 loses the upper tail.", figure)


def scales_figure(study: Study, name: str) -> Plot:
    """Draw how often each entry of the scale table codes a latent.

    Args:
        study: the measurements.
        name: of the Gaussian conditional.

    Returns:
        The figure of `rdtrain.report.latent_figures.scale_figure`.
    """
    tally = study.tallies[name]
    use = ScaleUse(tally.model.scale_table.double().cpu().numpy(), tally.scale_counts)
    figure = scale_figure({name: use}, f"Use of the scale table\n{study.about}")
    return Plot(slug(f"scales-{name}"), f"{name}: how often each entry of the scale table codes a latent.", figure)


def residuals_figure(study: Study, name: str) -> Plot:
    """Draw normalised residuals against the Gaussian that codes them.

    Args:
        study: the measurements.
        name: of the Gaussian conditional.

    Returns:
        Their histogram, and their size for each entry of the scale table.
    """
    tally = study.tallies[name]
    figure, (left, right) = new_figure(f"Normalised residuals of {name}\n{study.about}", 12, 4.6, columns=2)
    centres, width = (EDGES[1:] + EDGES[:-1]) / 2, EDGES[1] - EDGES[0]
    left.bar(centres, tally.residuals / max(1, tally.residuals.sum()) / width, width=width, color=COLOURS[4])
    left.plot(centres, np.exp(-(centres**2) / 2) / math.sqrt(2 * math.pi), color=COLOURS[0], label="standard normal")
    left.set(
        xlabel=f"(y - mean) / scale; the ends hold all beyond {EDGES[-1]:g}",
        ylabel="density",
        yscale="log",
        ylim=(1e-6, None),
    )
    used = tally.by_scale["count"] > 0
    scales = tally.model.scale_table.double().cpu().numpy()[used]
    rms = np.sqrt(tally.by_scale["square"][used] / tally.by_scale["count"][used])
    right.plot(scales, rms, "o-", ms=3, color=COLOURS[1], label="root mean square")
    right.axhline(1, color=COLOURS[0], lw=1)
    right.set(xlabel="scale", ylabel="rms of the normalised residual", ylim=(0, None))
    right.set_xscale("log", base=2)  # some models use less than a decade
    right.xaxis.set_major_formatter("{x:g}")
    legend_below(figure, [left, right])
    return Plot(slug(f"residuals-{name}"), f"{name}: normalised residuals against the normal distribution.", figure)
