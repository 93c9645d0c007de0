"""What a search leaves in the folder of its sweep: a table and a figure."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from rdtrain.report.figures import COLOURS, Plot, legend_below, new_figure
from rdtrain.report.tables import Table, fixed
from rdtrain.sweep.search import Search

_PANEL = 4.6  # inches


def write_search(search: Search, folder: Path, measured: str) -> Table:
    """Write `<name>.csv`, `.png` and `.svg`.

    Args:
        search: with its trials.
        folder: where to, must exist.
        measured: what its runs measure.

    Returns:
        The table.
    """
    made = search_table(search, measured)
    made.save(folder)
    if search.results():
        search_figure(search, measured).save(folder)
    return made


def search_table(search: Search, measured: str) -> Table:
    """A row a trial.

    Args:
        search: with its trials.
        measured: what its runs measure.

    Returns:
        The table, with the best trial in its note.
    """
    keys = list(search.goal.ranges)
    values = {trial.number: value for trial, value in search.results()}
    rows = []
    for trial in search.trials:
        cells = [str(trial.number), trial.user_attrs.get("run", ""), trial.state.name.lower()]
        cells += [f"{trial.params[key]:.6g}" if key in trial.params else "" for key in keys]
        cells.append(fixed(values.get(trial.number, math.nan), 6))
        rows.append([*cells, fixed(math.nan if trial.value is None else trial.value, 6)])
    objective = "|log(measured/target)|" if search.goal.target is not None else "objective"
    header = ["trial", "run", "state", *keys, measured, objective]
    return Table(search.name, f"Search {search.name}", header, rows, _best(search, measured))


def _best(search: Search, measured: str) -> str:
    best = search.best()
    if best is None:
        return "No trial is finished."
    trial, value = best
    typed = " ".join(f"{key}={trial.params[key]:.6g}" for key in search.goal.ranges)
    wanted = "" if search.goal.target is None else f" (target {search.goal.target:g})"
    return f"Best of {len(search.results())} finished trials: {typed} with {measured} {value:.6g}{wanted}"


def search_figure(search: Search, measured: str) -> Plot:
    """Draw the measured values against trials and parameters.

    Args:
        search: with at least one finished trial.
        measured: what its runs measure.

    Returns:
        The figure.
    """
    keys, results = list(search.goal.ranges), search.results()
    figure, (first, *others) = new_figure(f"Search {search.name}", _PANEL * (1 + len(keys)), 4.2, 1 + len(keys))
    values = np.array([value for _, value in results])
    _draw_trials(first, search, values)
    for axes, key in zip(others, keys, strict=True):
        axes.plot([trial.params[key] for trial, _ in results], values, "o", ms=4, color=COLOURS[0])
        axes.set_xscale("log")
        axes.set_xlabel(key)
    for axes in (first, *others):
        _draw_target(axes, search)
        axes.set_ylabel(measured)
        axes.set_yscale("log" if values.min() > 0 else "linear")
    legend_below(figure, [first])
    return Plot(search.name, f"{measured} of each trial. {_best(search, measured)}.", figure)


def _draw_trials(axes: Axes, search: Search, values: np.ndarray) -> None:
    numbers = [trial.number for trial, _ in search.results()]
    distances = np.array([search.goal.objective(value) for value in values])
    best = [values[: i + 1][distances[: i + 1].argmin()] for i in range(len(values))]
    axes.plot(numbers, values, "o", ms=4, color=COLOURS[0], label="trials")
    axes.plot(numbers, best, drawstyle="steps-post", lw=1, color=COLOURS[1], label="best so far")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("trial")


def _draw_target(axes: Axes, search: Search) -> None:
    if search.goal.target is not None:
        axes.axhline(search.goal.target, ls="--", lw=1, color=COLOURS[2], label="target")
