"""Figures of one fit and of many; every title is made from the configuration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from numpy.typing import NDArray

from rdtrain.kernels.arms import PLAIN, control_names, is_control
from rdtrain.kernels.ranking import WINS, Cell, Standing
from rdtrain.kernels.results import Traces
from rdtrain.kernels.schema import Config
from rdtrain.kernels.targets import Target
from rdtrain.report.figures import COLOURS, Plot, legend_below, new_figure

_STEPS = "optimizer steps"
_QUANTITIES = {"loss": "mean squared error of the outputs", "kernel_error": "relative error of the kernels"}
_FLAT = 3  # largest over smallest value below which a logarithmic axis has no round numbers
_DECADES = 1.5  # of the heat map's colours, in either direction
_DARK = 0.9  # decades beyond which black is not to be read on them


def title(config: Config, target: Target) -> str:
    """Say what was fitted.

    Args:
        config: of the fit.
        target: what was learned.

    Returns:
        Such as `edge (vertical edges) 4->4, K=5, groups=4; pink 48x48, batch 4, padding 5 zeros; Adam, lr 0.001; 5
        seeds`.
    """
    optimizer = config.optimizer
    extra = [f"{key} {value}" for key, value in optimizer.items() if key not in ("_target_", "lr")]
    rule = ", ".join([optimizer["_target_"].rpartition(".")[2], f"lr {float(optimizer['lr']):g}", *extra])
    bias = ", biases" if config.fit.bias else ""
    return f"{target.description}{bias}; {config.inputs.name} {_images(config)}; {rule}; {_seeds(config)}"


def conditions(config: Config) -> str:
    """Say what all fits of a leaderboard have in common.

    Args:
        config: of one of them.

    Returns:
        Such as `32x32, batch 4, padding 5 zeros; 600 steps, 5 seeds`.
    """
    bias = "with biases; " if config.fit.bias else ""
    return f"{bias}{_images(config)}; {config.fit.steps} steps, {_seeds(config)}"


def _images(config: Config) -> str:
    inputs = config.inputs
    border = f"padding {inputs.padding} {inputs.padding_mode}" + (f", crop {inputs.crop}" if inputs.crop else "")
    return f"{inputs.size}x{inputs.size}, batch {inputs.batch}, {border}"


def _seeds(config: Config) -> str:
    return f"{config.fit.seeds} seed{'s' if config.fit.seeds > 1 else ''}"


def curves(name: str, subject: str, steps: NDArray[np.float64], traces: Traces) -> Plot:
    """Draw losses and kernel errors against steps: geometric mean of the repetitions, band from smallest to largest.

    Args:
        name: of the file.
        subject: the title.
        steps: (T,).
        traces: (T, S) by quantity and arm.

    Returns:
        Two panels; controls have their transform's colour, dashed, or dotted where they have its beginning alone.
    """
    figure, panels = new_figure(subject, 12, 5.5, columns=2)
    for axes, (quantity, label) in zip(panels, _QUANTITIES.items(), strict=True):
        own = {arm: values for (what, arm), values in traces.items() if what == quantity}
        _draw_arms(axes, steps, own)
        low, high = axes.dataLim.intervaly
        if 0 < high < _FLAT * low:
            axes.set_yscale("linear")
        axes.set_ylabel(label)
        axes.set_xlabel(_STEPS)
    legend_below(figure, panels)
    return Plot(name, subject, figure)


def _draw_arms(axes: Axes, steps: NDArray[np.float64], arms: Mapping[str, NDArray[np.float64]]) -> None:
    colours = arm_colours(list(arms))
    styles = {control: style for arm in arms for control, style in zip(control_names(arm), ("--", ":"), strict=True)}
    axes.set_yscale("log")
    for arm, values in arms.items():
        known = np.isfinite(values).all(axis=1) & (values > 0).all(axis=1)
        x, y = steps[known], values[known]
        middle = np.exp(np.log(y).mean(axis=1))
        axes.plot(x, middle, color=colours[arm], linestyle=styles.get(arm, "-"), linewidth=1.4, label=arm)
        if not is_control(arm):
            axes.fill_between(x, y.min(axis=1), y.max(axis=1), color=colours[arm], alpha=0.12, linewidth=0)


def arm_colours(arms: Sequence[str]) -> dict[str, str]:
    """Give each arm a colour.

    Args:
        arms: names.

    Returns:
        Black for plain, that of its transform for a control, which may not be among them.
    """
    transforms = [arm for arm in arms if arm != PLAIN and not is_control(arm)]
    chosen = {arm: COLOURS[i % (len(COLOURS) - 1)] for i, arm in enumerate(transforms)}
    controls = {control: colour for arm, colour in chosen.items() for control in control_names(arm)}
    return {PLAIN: COLOURS[-1]} | chosen | controls


def frequency_maps(name: str, subject: str, errors: Mapping[str, NDArray[np.float64]]) -> Plot:
    """Draw where among the frequencies the errors are.

    Args:
        name: of the file.
        subject: the title.
        errors: (Kh, Kw) in FFT order, by arm.

    Returns:
        A map an arm, frequency 0 in the middle, all in the same colours.
    """
    columns = min(6, len(errors))
    rows = -(-len(errors) // columns)
    kh, kw = next(iter(errors.values())).shape
    finite = np.concatenate([values[np.isfinite(values)] for values in errors.values()])
    highest = max(float(finite.max(initial=0)), 1e-6)
    canvas = np.full((rows * (kh + 2), columns * (kw + 1)), np.nan)
    figure = Figure(figsize=(2.1 * columns + 1.2, 2.3 * rows + 0.9), layout="constrained")
    figure.suptitle(f"Relative error at each frequency, frequency 0 in the middle\n{subject}", fontsize=9)
    axes = figure.subplots()
    axes.set(xticks=[], yticks=[], frame_on=False)
    for i, (arm, values) in enumerate(errors.items()):
        top, left = i // columns * (kh + 2) + 2, i % columns * (kw + 1)
        canvas[top : top + kh, left : left + kw] = np.fft.fftshift(np.maximum(values, highest * 1e-4))
        axes.text(left + (kw - 1) / 2, top - 0.7, arm, ha="center", fontsize=8)
    image = axes.imshow(canvas, norm=LogNorm(highest * 1e-4, highest), cmap="magma")
    figure.colorbar(image, ax=axes, shrink=0.8, label="relative error")
    return Plot(name, subject, figure)


def heat_map(name: str, subject: str, found: Sequence[Standing]) -> Plot:
    """Draw how the errors of all arms in all cells compare with plain's.

    Args:
        name: of the file.
        subject: the title.
        found: standings.

    Returns:
        A row a cell, a column an arm: ratio of the geometric means; a star where every repetition beats both plain and
        control.
    """
    cells = sorted({one.cell for one in found}, key=lambda cell: (cell.optimizer, cell.lr, cell.inputs, cell.target))
    arms = sorted(dict.fromkeys(one.arm for one in found), key=lambda arm: (is_control(arm), arm != PLAIN))
    by_place = {(one.cell, one.arm): one for one in found}
    ratios = np.array([[by_place[cell, arm].to_plain if (cell, arm) in by_place else np.nan for arm in arms]
                       for cell in cells])  # fmt: skip
    figure = Figure(figsize=(0.8 * len(arms) + 4, 0.33 * len(cells) + 2.4), layout="constrained")
    figure.suptitle(subject, fontsize=11)
    axes = figure.subplots()
    image = axes.imshow(np.log10(ratios), cmap="RdBu_r", vmin=-_DECADES, vmax=_DECADES, aspect="auto")
    axes.set_xticks(range(len(arms)), arms, rotation=40, ha="right", fontsize=8)
    axes.set_yticks(range(len(cells)), [cell_name(cell) for cell in cells], fontsize=8)
    for i, cell in enumerate(cells):
        for j, arm in enumerate(arms):
            if (cell, arm) in by_place:
                star = "*" if by_place[cell, arm].verdict == WINS else ""
                colour = "white" if abs(np.log10(ratios[i, j])) > _DARK else "black"
                axes.text(j, i, f"{ratios[i, j]:.2g}{star}", ha="center", va="center", fontsize=7, color=colour)
    figure.colorbar(image, ax=axes, label="log10 of the ratio to plain")
    return Plot(name, subject, figure)


def cell_name(cell: Cell) -> str:
    """A cell in a line of text.

    Args:
        cell: the cell.

    Returns:
        Such as `edge, pink, Adam 0.001`.
    """
    return f"{cell.target}, {cell.inputs}, {cell.optimizer} {cell.lr:g}"


def curve_grid(
    name: str, subject: str, fits: Mapping[Cell, tuple[NDArray[np.float64], Traces]], quantity: str = "kernel_error"
) -> Plot:
    """Draw the course of many fits beside each other.

    Args:
        name: of the file.
        subject: the title.
        fits: steps and traces by cell.
        quantity: `kernel_error` or `loss`.

    Returns:
        A row a target, a column inputs and optimizer; the panels of a row have the same axes.
    """
    rows = list(dict.fromkeys(cell.target for cell in fits))
    columns = sorted(dict.fromkeys(cell[1:] for cell in fits), key=lambda column: (column[1], column[2]))
    figure = Figure(figsize=(3 * len(columns) + 0.5, 2.3 * len(rows) + 1.6), layout="constrained")
    figure.suptitle(subject, fontsize=11)
    figure.supylabel(_QUANTITIES[quantity], fontsize=9)
    panels = figure.subplots(len(rows), len(columns), squeeze=False, sharey="row", sharex=True)
    for axes in panels.ravel():
        axes.set_visible(False)
    for axes in panels[-1]:
        axes.set_xlabel(_STEPS, fontsize=8)
    for cell, (steps, traces) in fits.items():
        axes = panels[rows.index(cell.target), columns.index(cell[1:])]
        axes.set_visible(True)
        _draw_arms(axes, steps, {arm: values for (what, arm), values in traces.items() if what == quantity})
        axes.grid(True, color="#dddddd", linewidth=0.6)
        axes.set_title(cell_name(cell), fontsize=8)
        axes.tick_params(labelsize=7)
    legend_below(figure, list(panels.ravel()))
    return Plot(name, subject, figure)


def sizes(name: str, subject: str, found: Sequence[Standing]) -> Plot:
    """Draw how the errors depend on how many numbers a form stores for a kernel.

    Args:
        name: of the file.
        subject: the title.
        found: standings; controls are left out.

    Returns:
        A panel a cell: final errors with the range of the repetitions, and, dashed, the smallest possible ones; forms
        whose names differ in a number only, such as `zigzag4` and `zigzag6`, are joined by a line.
    """
    cells = list(dict.fromkeys(one.cell for one in found))
    families = list(dict.fromkeys(family(one.arm) for one in found if not is_control(one.arm)))
    colours = arm_colours(families)
    columns = min(3, len(cells))
    rows = -(-len(cells) // columns)
    figure = Figure(figsize=(3.6 * columns + 0.5, 2.8 * rows + 1.2), layout="constrained")
    figure.suptitle(subject, fontsize=11)
    figure.supylabel(_QUANTITIES["kernel_error"], fontsize=9)
    panels = list(figure.subplots(rows, columns, squeeze=False).ravel())
    for axes in panels[len(cells) :]:
        axes.set_visible(False)
    for axes, cell in zip(panels, cells, strict=False):
        for name_of_family in families:
            own = [one for one in found if one.cell == cell and family(one.arm) == name_of_family]
            own = sorted((one for one in own if not is_control(one.arm)), key=lambda one: one.numbers)
            x, y = [one.numbers for one in own], np.array([one.error for one in own])
            range_of = np.abs(np.array([[one.smallest, one.largest] for one in own]).reshape(-1, 2).T - y)
            colour = colours[name_of_family]
            axes.errorbar(x, y, range_of, color=colour, marker="o", markersize=4, linewidth=1.2, label=name_of_family)
            if len(own) > 1:
                axes.plot(x, [one.floor for one in own], color=colour, linestyle="--", linewidth=1)
        axes.set_ylim(bottom=0)
        axes.set_xlabel("numbers stored for a kernel", fontsize=8)
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter("{x:.0f}")
        axes.grid(True, color="#dddddd", linewidth=0.6)
        axes.set_title(cell_name(cell), fontsize=8)
        axes.tick_params(labelsize=7)
    legend_below(figure, panels[: len(cells)])
    return Plot(name, subject, figure)


def family(arm: str) -> str:
    """What arms have in common that store different numbers of coefficients.

    Args:
        arm: its name.

    Returns:
        The name without the digits at its end.
    """
    return arm.rstrip("0123456789") or arm
