"""Figures of training curves: losses against steps and seconds, and learning rates."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from rdtrain.metrics import LOADERS
from rdtrain.report.curves import (
    LOSS,
    X_LABEL,
    Band,
    Crossover,
    band,
    by_configuration,
    crossover,
    learning_rate,
    switch_at,
)
from rdtrain.report.figures import Plot, colours, legend_below, new_figure
from rdtrain.report.naming import conv_name, model_title
from rdtrain.report.runs import Run

_FILE = {"step": "steps", "time/elapsed_s": "seconds", "epoch": "epochs"}
# The first epochs' losses are far above all others; the axis of a long curve is fitted to what comes after this share.
_SETTLED = 0.08
_LONG = 20


def loss_figures(runs: Sequence[Run], names: dict[Path, str], against: str) -> list[Plot]:
    """Draw the losses of the three loaders, all curves of one lambda in one figure, since only those can be compared.

    Args:
        runs: the runs.
        names: of their curves.
        against: `step` or `time/elapsed_s`.

    Returns:
        One figure for each lambda whose runs logged that x.
    """
    by_curve = colours(list(names.values()))
    plots = []
    for lmbda in dict.fromkeys(run.lmbda for run in runs):
        groups = by_configuration([run for run in runs if run.lmbda == lmbda], names)
        drawn = {name: _bands(members, against) for (name, _), members in groups.items()}
        if any(drawn.values()):
            title = model_title([run for members in groups.values() for run in members])
            plots.append(_loss_figure(drawn, by_curve, f"{title}, λ = {lmbda:g}", against, f"{lmbda:g}"))
    return plots


def _bands(runs: Sequence[Run], against: str) -> dict[str, Band]:
    found = {loader: band(runs, loader, LOSS, against) for loader in LOADERS}
    return {loader: one for loader, one in found.items() if one}


def _loss_figure(
    drawn: dict[str, dict[str, Band]], by_curve: dict[str, str], title: str, against: str, lmbda: str
) -> Plot:
    figure, panels = new_figure(f"Loss of the forward pass, unclamped: {title}", 14, 5, columns=3)
    caption = f"Losses against {X_LABEL[against]}, {title}."
    for axes, loader in zip(panels, LOADERS, strict=True):
        bands = {name: found[loader] for name, found in drawn.items() if loader in found}
        for name, one in bands.items():
            _draw(axes, one, by_curve[name], name, against)
        _limits(axes, list(bands.values()))
        axes.set(title=loader, xlabel=X_LABEL[against], ylabel="loss")
        if loader == "valid":
            caption += _mark_crossover(axes, list(bands.values()), against)
    legend_below(figure, panels)
    if any(len(one.runs) > 1 for found in drawn.values() for one in found.values()):
        caption += " Bands: smallest to largest over seeds, around the mean."
    caption += " The first epochs may lie above the axis."
    return Plot(f"loss-{_FILE[against]}-{lmbda}", caption, figure)


def _draw(axes: Axes, one: Band, colour: str, name: str, against: str) -> None:
    seeds = f" ({len(one.runs)} seeds)" if len(one.runs) > 1 else ""
    marker = "." if one.x.size < 30 else ""
    axes.plot(one.x, one.mean, color=colour, lw=1.4, marker=marker, label=f"{name}{seeds}")
    if len(one.runs) > 1:
        axes.fill_between(one.x, one.low, one.high, color=colour, alpha=0.18, lw=0)
    switches = [x for run in one.runs if np.isfinite(x := switch_at(run, against))]
    for i, x in enumerate(switches):
        axes.axvline(x, color=colour, lw=0.9, ls=":", label=f"switch to plain: {name}" if i == 0 else None)


def _limits(axes: Axes, bands: Sequence[Band]) -> None:
    if not bands:
        axes.text(0.5, 0.5, "not measured", ha="center", va="center", transform=axes.transAxes)
        return
    start, end = min(one.x[0] for one in bands), max(one.x[-1] for one in bands)
    settled = start + _SETTLED * (end - start)
    tails = [one.high[one.x >= settled] if one.x.size >= _LONG else one.high for one in bands]
    low, high = min(one.low.min() for one in bands), max(tail.max() for tail in tails if tail.size)
    margin = 0.06 * (high - low) or 0.05 * abs(high)
    axes.set_ylim(low - margin, high + margin)


def _mark_crossover(axes: Axes, bands: Sequence[Band], against: str) -> str:
    spectral = [one for one in bands if conv_name(one.runs[0]) != "plain"]
    plain = [one for one in bands if conv_name(one.runs[0]) == "plain"]
    said = ""
    for one in spectral:
        for other in plain:
            found = crossover((one.x, one.mean), (other.x, other.mean))
            if found:
                _draw_crossover(axes, found)
                said += (
                    f" From a loss of {found.loss:.4f} on plain convolutions learn faster at equal loss"
                    f" (reached at {found.x_ahead:.4g} spectral, {found.x_behind:.4g} plain)."
                )
    return said


def _draw_crossover(axes: Axes, found: Crossover) -> None:
    xs = [found.x_ahead, found.x_behind]
    axes.plot(xs, [found.loss] * 2, color="black", lw=0.9, ls="--", marker="x", ms=6, label="crossover, at equal loss")
    axes.annotate(
        f"{found.loss:.4f}", (xs[1], found.loss), xytext=(6, 6), textcoords="offset points", fontsize=8, color="black"
    )


def lr_figure(runs: Sequence[Run], names: dict[Path, str]) -> Plot | None:
    """Draw the learning rates of the networks, one line a run, so that drops can be told apart.

    Args:
        runs: the runs.
        names: of their curves.

    Returns:
        The figure, or None when no run logged it.
    """
    rates = [(run, *learning_rate(run)) for run in runs]
    rates = [(run, epochs, lr) for run, epochs, lr in rates if epochs.size]
    if not rates:
        return None
    by_curve = colours(list(names.values()))
    figure, (axes,) = new_figure(f"Learning rate of the network: {model_title(runs)}", 9, 4.5)
    # Equal rates would hide each other: later curves are thinner and lie over the earlier ones.
    thickness = {name: max(5 * 0.5**i, 0.8) for i, name in enumerate(by_curve)}
    for run, epochs, lr in rates:
        name = names[run.folder]
        above = 3 - thickness[name] / 10
        axes.step(epochs, lr, where="post", color=by_curve[name], lw=thickness[name], zorder=above, label=name)
        x = switch_at(run, "epoch")
        if np.isfinite(x):
            axes.axvline(x, color=by_curve[name], lw=0.9, ls=":", label=f"switch to plain: {name}")
    axes.set(yscale="log", xlabel="epoch", ylabel="learning rate")
    legend_below(figure, [axes])
    return Plot("learning-rate", "Learning rates against epochs; a step down is a drop by the scheduler.", figure)
