"""Compares the finished fits of a multirun: one ranked table, a heat map, and the curves of losses and errors."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.experimental.callback import Callback

from rdtrain.errors import UserError
from rdtrain.run_folder import RunFolder

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from rdtrain.kernels.ranking import Cell
    from rdtrain.kernels.schema import Config

FOLDER = "leaderboard"
SIZES = 4  # different numbers of coefficients in one cell that make a figure of them


class LeaderboardRecord(Callback):
    """Writes the leaderboard at the end of a multirun of fits, into `<paths.runs>/leaderboard`.

    Fits of other targets, inputs, optimizers and rates that lie in the folder from before take part, if all other keys
    are the same.

    In the configuration:

        hydra:
          callbacks:
            leaderboard:
              _target_: rdtrain.kernels.leaderboard.LeaderboardRecord
    """

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Compare what is finished; what goes wrong is told, and `SweepRecord`, whose turn is next, ends the command.

        Args:
            config: of the multirun, Hydra's own node included.
            kwargs: what else Hydra hands over.
        """
        from rdtrain.sweep.faults import told
        from rdtrain.sweep.planning import sweep_folder
        from rdtrain.sweep.present import PRESENT

        try:
            with told():
                _compare(sweep_folder(config), [point.run for point in PRESENT.points])
        except SystemExit as stop:
            PRESENT.code = int(stop.code or 0)


def _compare(folder: Path, runs: Sequence[str]) -> None:
    from rdtrain.sweep.plan import Plan

    own = finished_fits(folder / run for run in dict.fromkeys(runs))
    planned = [folder / point.run for point in Plan.read(folder).points]
    earlier = [fit for fit in finished_fits(planned) if fit not in own]
    if fits := with_comparable(own, earlier):
        if others := [fit.name for fit in fits if fit not in own]:
            print(f"of earlier commands: {', '.join(others)}")
        print(write_leaderboard(fits, folder / FOLDER))
    else:
        print(f"no finished fit in {folder}, so no leaderboard", file=sys.stderr)


def finished_fits(folders: Iterable[Path]) -> list[Path]:
    """Find fits that came to their end.

    Args:
        folders: run folders, made or not, of fits with the same arms and repetitions.

    Returns:
        The finished ones, those of one target beside each other.
    """
    found = [folder for folder in folders if RunFolder(folder).read_summary().get("status") == "finished"]
    return sorted(found, key=lambda folder: folder.name.partition("-")[2])


def with_comparable(own: Sequence[Path], earlier: Sequence[Path]) -> list[Path]:
    """Add what fits of before have to say.

    Args:
        own: run folders of finished fits.
        earlier: others.

    Returns:
        The first, and those of the others that differ from one of them in the keys of a cell only and whose cell none
        of the first has; of several with one cell the last.
    """
    frames, cells = {_frame(fit) for fit in own}, {_cell(fit) for fit in own}
    found = {_cell(fit): fit for fit in earlier if _frame(fit) in frames and _cell(fit) not in cells}
    return [*own, *found.values()]


def _frame(fit: Path) -> str:
    # What two fits must have in common to stand in one table.
    content = _config(fit).to_dict()
    frame = {key: content[key] for key in ("seed", "transforms")}
    frame["optimizers"] = {name: {**(node or {}), "lr": None} for name, node in content["optimizers"].items()}
    frame["inputs"], frame["fit"] = {**content["inputs"], "name": None}, {**content["fit"], "optimizer": None}
    return json.dumps(frame, sort_keys=True)


def _config(fit: Path) -> Config:
    import yaml

    from rdtrain.kernels.schema import Config

    return Config.model_validate(yaml.safe_load(RunFolder(fit).config.read_text(encoding="utf-8")))


def _cell(fit: Path) -> Cell:
    from rdtrain.kernels.ranking import Cell
    from rdtrain.kernels.results import file_of, read_results

    one = read_results(file_of(fit))[0]
    return Cell(one.target, one.inputs, one.optimizer, one.lr)


def write_leaderboard(fits: Sequence[Path], out: Path) -> str:
    """Write tables and figures.

    Args:
        fits: run folders of finished fits.
        out: the folder that they are written to; made where it does not exist.

    Returns:
        The ranked table and where the rest is, for the terminal.

    Raises:
        UserError: two fits have the same cell.
    """
    from rdtrain.experiment import aligned, write_table
    from rdtrain.files import write_text
    from rdtrain.kernels import figures, results
    from rdtrain.kernels.arms import is_control
    from rdtrain.kernels.ranking import VERDICTS, VERDICTS_ALONE, leaders, standing_rows, standings
    from rdtrain.report.figures import save_png

    cells = {fit: _cell(fit) for fit in fits}
    if twice := [figures.cell_name(cell) for cell, count in Counter(cells.values()).items() if count > 1]:
        raise UserError(
            f"no leaderboard: several fits of {'; '.join(twice)} differ in other keys; "
            "sweep target, inputs.name, optimizer and lr only"
        )
    everything = [result for fit in fits for result in results.read_results(results.file_of(fit))]
    found = standings(everything)
    table = leaders(found)
    out.mkdir(parents=True, exist_ok=True)
    write_table(out / "results.csv", results.as_rows(everything))
    write_table(out / "cells.csv", standing_rows(found))
    write_table(out / "leaderboard.csv", table)
    controlled = any(is_control(one.arm) for one in found)
    meanings = VERDICTS if controlled else VERDICTS_ALONE
    verdicts = "".join(f"- {name}: {meaning}\n" for name, meaning in meanings.items())
    write_text(out / "leaderboard.md", f"{markdown(table)}\n{verdicts}")
    traces = {cell: results.read_traces(fit / "metrics.csv") for fit, cell in cells.items()}
    star = "* beats its controls too" if controlled else "* beats plain"
    of_all, spread = figures.conditions(_config(fits[0])), "geometric mean and range"
    heat = f"Final relative kernel error, ratio to plain, geometric mean ({star})\n{of_all}"
    plots = [
        figures.heat_map("heat-map", heat, found),
        figures.curve_grid("curves", f"Relative kernel error against steps, {spread}; {of_all}", traces),
        figures.curve_grid("losses", f"Loss against steps, {spread}; {of_all}", traces, "loss"),
    ]
    if len({one.numbers for one in found if one.cell == found[0].cell}) >= SIZES:
        sizes = f"Final relative kernel error against stored numbers, {spread} (dashed: smallest possible)\n{of_all}"
        plots.append(figures.sizes("sizes", sizes, found))
    for plot in plots:
        save_png(plot.figure, out / f"{plot.name}.png")
    return f"{aligned(table)}\nleaderboard: {out}"


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """A table in Markdown.

    Args:
        rows: values by column, all with the same columns.

    Returns:
        Its lines.
    """
    lines = [list(rows[0]), ["---"] * len(rows[0]), *([str(value) for value in row.values()] for row in rows)]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)
