"""Case H: steps and seconds to the plain recipe's last validation loss, from runs that are there already."""

from __future__ import annotations

from pathlib import Path

from benchmarks.measure import Options, Row, medians, quartiles, ratios
from rdtrain.errors import UserError
from rdtrain.report.curves import LOSS, first_reached
from rdtrain.report.runs import Run, find_runs

COMMAND = "rdtrain experiment=switch_vs_plain dataset.root=BSDS500"


def case_h(options: Options) -> list[Row]:
    """The switch against plain convs: when a seed first reaches the last validation loss of its plain run.

    Args:
        options: of the user.

    Returns:
        A row of steps and one of seconds, of which a round is a seed; both say what the control reaches.

    Raises:
        UserError: there are no such runs.
    """
    arms = _arms(options.runs)
    rows = []
    for against, unit in (("step", "of the steps"), ("time/elapsed_s", "of the seconds")):
        reached = {
            name: [_reached(run, arms["plain"][seed], against) for seed, run in arm.items()]
            for name, arm in arms.items()
        }
        values, control = (ratios(reached[name], reached["plain"]) for name in ("switch", "control"))
        low, middle, high = quartiles(control)
        remark = f"plain with the learning rate x sqrt 2, the control: {middle:.3g} ({low:.3g} to {high:.3g})"
        what = "spectral until a plateau: to the last validation loss of plain with the same seed"
        rows.append(Row("H", what, "the plain recipe", unit, 0.6, False, values, medians(reached), remark))
    return rows


def _reached(run: Run, plain: Run, against: str) -> float:
    return first_reached(*run.series("valid", LOSS, against), plain.series("valid", LOSS)[1][-1])


def _arms(folder: Path | None) -> dict[str, dict[int, Run]]:
    # Runs by arm and seed, the same seeds in each.
    if folder is None:
        raise UserError(f"case H reads runs: type --runs FOLDER, which `{COMMAND}` makes (./runs/switch_vs_plain)")
    arms: dict[str, dict[int, Run]] = {"plain": {}, "control": {}, "switch": {}}
    for run in find_runs([folder])[0]:
        if run.setting("conv.type") == "plain":
            arm = "plain" if run.setting("optimizer.lr_factor") == 1 else "control"
        elif run.setting("conv.switch.trigger") == "plateau":
            arm = "switch"
        else:
            continue
        arms[arm][int(run.setting("seed"))] = run
    seeds = {tuple(sorted(arm)) for arm in arms.values()}
    if len(seeds) != 1 or () in seeds:
        raise UserError(f"{folder} lacks some of the arms plain, plain_matched_lr and switch; `{COMMAND}` makes them")
    return {name: dict(sorted(arm.items())) for name, arm in arms.items()}
