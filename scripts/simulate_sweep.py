"""What a sweep of many points costs besides its trainings: planning, submission, status and report, each timed.

python scripts/simulate_sweep.py --points 10 100 300 1000 --out docs/figures/scale

The trainings are stubs that sleep, many at a time, and leave the files of a run; everything else is what `rdtrain -m`
does. `submit` is the job array of launcher=slurm with an sbatch that only counts. Prints a table, and writes it as
<out>.csv, with the machine as <out>.json, and as a figure, <out>.png.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import io
import math
import os
import stat
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from hydra import initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig

from rdtrain import environment
from rdtrain.cli import check_overrides
from rdtrain.config.check import check
from rdtrain.files import write_json, write_text
from rdtrain.lock import locked
from rdtrain.report.cli import main as report
from rdtrain.report.figures import PAPER_DPI, colours, legend_below, new_figure
from rdtrain.report.tables import Table
from rdtrain.run_folder import RunFolder
from rdtrain.slurm import SlurmLauncher, take_over
from rdtrain.sweep import status
from rdtrain.sweep.job import run_job
from rdtrain.sweep.plan import Plan, Point, code_hash
from rdtrain.sweep.planning import checked_point, make_plan, sweep_points
from rdtrain.sweep.status import write_status
from rdtrain.sweep.sweeper import launch

HELD: set[Path] = set()  # run folders: threads of one process do not see each other's locks
LMBDAS = (0.0018, 0.0035, 0.0067, 0.0130, 0.0250)
EPOCHS = 10
# What `rdtrain` adds to a command line.
QUIET = ("hydra.sweep.dir=${paths.runs}", "hydra.sweep.subdir=.", "hydra/job_logging=none", "hydra/hydra_logging=none")
SBATCH = """#!/bin/sh
echo . >> "$SIMULATION/arrays"
echo "Submitted batch job $(wc -l < "$SIMULATION/arrays")"
"""


def stub(raw: dict[str, Any], seconds: float) -> None:
    """Sleep, and leave what a finished run leaves.

    Args:
        raw: the frozen configuration.
        seconds: to sleep.
    """
    config, problems = check(raw)
    assert config is not None, problems
    folder = RunFolder.of(config)
    with locked(folder.path), _held(folder.path):
        if folder.read_summary().get("status") == "finished":
            return
        folder.make(config, [], environment.describe(torch.device("cpu"), config.seed, {}))
        time.sleep(seconds)
        rows = metrics(math.log10(config.criterion.lmbda or 1), config.seed)
        write_text(folder.metrics, table(rows))
        final = {f"{row['loader']}/{key}": value for row in rows[-3:] for key, value in row.items() if "/" in key}
        write_json(folder.summary, {"run_id": folder.id, "status": "finished", "epochs": EPOCHS, "seconds": 10.0,
                                    "best": {"epoch": EPOCHS, "loss": 1.0}, "final": final})  # fmt: skip


@contextlib.contextmanager
def _held(folder: Path) -> Iterator[None]:
    HELD.add(folder)
    try:
        yield
    finally:
        HELD.discard(folder)


def metrics(decade: float, seed: int) -> list[dict[str, Any]]:
    """Rows like those of metrics.csv: 6 dB and a factor of 2.5 in rate for a factor of ten in lambda.

    Args:
        decade: logarithm of lambda.
        seed: moves every number a little.
    """
    made: list[dict[str, Any]] = []
    bpp, psnr = 2 * 2.5**decade * (1 + 1e-4 * seed), 42 + 6 * decade + 1e-3 * seed
    for epoch in range(1, EPOCHS + 1):
        common = {"epoch": epoch, "step": 100 * epoch, "time/elapsed_s": 1.0 * epoch, "lr/net": 1e-4}
        measured = {"loss/forward/unclamped": 1 + 1 / epoch, "bpp/forward": bpp, "psnr/forward/unclamped": psnr}
        real = {"bpp/real": 1.002 * bpp, "psnr/real/clamped": psnr, "psnr/real/8bit": psnr}
        for loader in ("train", "valid", "infer"):
            made.append({**common, "loader": loader, **measured, **(real if loader == "infer" else {})})
    return made


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Rows as CSV.

    Args:
        rows: of `metrics`.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(key for row in rows for key in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


@contextlib.contextmanager
def counting_sbatch(folder: Path) -> Any:
    """Put an sbatch that only counts, and no other program of SLURM's, on the path."""
    programs = folder / "bin"
    programs.mkdir()
    for name, text in (("sbatch", SBATCH), ("srun", "#!/bin/sh\n"), ("scontrol", "#!/bin/sh\n")):
        (programs / name).write_text(text)
        (programs / name).chmod(stat.S_IRWXU)
    before = os.environ["PATH"]
    os.environ |= {"PATH": f"{programs}{os.pathsep}{before}", "SIMULATION": str(folder)}
    try:
        yield
    finally:
        os.environ["PATH"] = before


def submit(config: DictConfig, sweep: Path, points: Sequence[Point], folder: Path) -> None:
    """Submit job arrays to an sbatch that only counts.

    Args:
        config: of the multirun.
        sweep: its folder.
        points: of its plan.
        folder: for the programs.
    """
    take_over()
    # No callbacks: nothing but the launcher is timed.
    context = HydraContext(config_loader=GlobalHydra.instance().config_loader(), callbacks=None)
    launcher = Plugins.instance().instantiate_launcher(context, _nothing, config)
    assert isinstance(launcher, SlurmLauncher)
    with counting_sbatch(folder):
        launch(launcher, sweep, points, 0)


def _nothing(config: DictConfig) -> None:
    raise AssertionError("no job of the array is run")


def simulate(points: int, seconds: float, at_once: int, folder: Path, with_report: bool = True) -> dict[str, Any]:
    """Run a sweep of stubs.

    Args:
        points: of the sweep, a multiple of five.
        seconds: of a training.
        at_once: trainings.
        folder: empty.
        with_report: make the report, most of which is figures.
    """
    status.is_held = lambda folder: folder in HELD
    typed = [f"++criterion.lmbda={','.join(map(str, LMBDAS))}", f"seed=range(0,{points // len(LMBDAS)})"]
    typed += ["experiment=quickstart", f"engine.num_epochs={EPOCHS}"]
    sweep, load = folder / "sweep", os.getloadavg()[0]
    timed: dict[str, float] = {}
    _time(timed, "check", lambda: _none(check_overrides(typed, {"--multirun": ""})))
    with initialize_config_module("rdtrain.conf", version_base="1.3"):
        words = [*QUIET, f"++paths.runs={sweep}", "launcher=slurm", "launcher.wait=false", *typed]
        config = GlobalHydra.instance().config_loader().load_configuration("train", words, RunMode.MULTIRUN)
        HydraConfig.instance().set_config(config)
        batch = sweep_points(config)
        assert len(batch) == points
        _composed_once(config)
        _time(timed, "plan", lambda: make_plan(config, batch))
        planned = Plan.read(sweep).points
        _time(timed, "submit", lambda: submit(config, sweep, planned, folder))
        submitted = count(sweep)

        def job(point: Point) -> None:
            run_job(sweep, point.id, lambda raw: stub(raw, seconds))

        with ThreadPoolExecutor(at_once) as pool:
            _time(timed, "jobs", lambda: list(pool.map(job, planned)))
        _time(timed, "status", lambda: write_status(Plan.read(sweep)))
        if with_report:
            _time(timed, "report", lambda: report([str(sweep), "--out", str(sweep / "report")]))
        _time(timed, "again", lambda: make_plan(config, batch))
    states = {row.state for row in write_status(Plan.read(sweep))}
    assert states == {"finished"}, states
    loads = [round(load, 1), round(os.getloadavg()[0], 1)]  # of the last minute before and at the end
    files = {"submitted": submitted, "finished": count(sweep)}
    return {"points": points, "load": loads, "seconds": timed, "files": files}


def _composed_once(config: DictConfig) -> None:
    # Imports and the parsers' tables are not part of what is timed.
    code_hash()
    checked_point(config, sweep_points(config)[0])


def _time(timed: dict[str, float], name: str, work: Callable[[], object]) -> None:
    begun = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()):
        work()
    timed[name] = round(time.perf_counter() - begun, 3)


def _none(problems: Sequence[str]) -> None:
    assert not problems, problems


def count(folder: Path) -> dict[str, int]:
    """Files and bytes under a folder, by what they belong to.

    Args:
        folder: of a sweep.
    """
    found = {"all": 0, "bytes": 0, "plan": 0, "submission": 0}
    for path in folder.rglob("*"):
        if path.is_file():
            top = path.relative_to(folder).parts[0]
            found["all"] += 1
            found["bytes"] += path.stat().st_size
            found["plan"] += top == "plan"
            found["submission"] += top == ".submitit"
    return found


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command.

    Args:
        argv: arguments; None for those of the process.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, nargs="+", default=[10, 100, 1000], help="of each sweep, multiples of 5")
    parser.add_argument("--seconds", type=float, default=1.0, help="of a training (default: 1)")
    parser.add_argument("--at-once", type=int, default=64, help="trainings (default: 64)")
    parser.add_argument("--out", type=Path, help="files for table and figure, without ending")
    arguments = parser.parse_args(argv)
    if wrong := [points for points in arguments.points if points < 1 or points % len(LMBDAS)]:
        parser.error(f"--points {wrong[0]}: type multiples of {len(LMBDAS)}")
    found = []
    for points in arguments.points:
        with tempfile.TemporaryDirectory() as folder:
            found.append(simulate(points, arguments.seconds, arguments.at_once, Path(folder)))
        _show(found[-1], first=len(found) == 1)
    if arguments.out:
        machine = environment.describe(torch.device("cpu"), 0, {})
        content = {"command": sys.argv, "at_once": arguments.at_once, "stub_s": arguments.seconds, "sweeps": found}
        write_json(arguments.out.with_suffix(".json"), {**content, "environment": machine})
        rows = [_cells(one) for one in found]
        Table(arguments.out.name, "", list(rows[0]), [list(row.values()) for row in rows]).save(arguments.out.parent)
        draw(found, arguments.out.with_suffix(".png"))


def draw(found: Sequence[dict[str, Any]], file: Path) -> None:
    """Draw seconds against points, and what growth with the points looks like.

    Args:
        found: of `simulate`.
        file: to be written.
    """
    figure, (axes,) = new_figure("A sweep besides its trainings", 6.4, 4.6)
    points, names = [one["points"] for one in found], list(found[0]["seconds"])
    for name, colour in colours(names).items():
        axes.loglog(points, [one["seconds"][name] for one in found], "o-", ms=4, color=colour, label=name)
    axes.loglog(points, [n / 30 for n in points], ls=":", color="black", label="1/30 s a point")
    axes.set_xlabel("points")
    axes.set_ylabel("seconds")
    legend_below(figure, [axes])
    figure.savefig(file, dpi=PAPER_DPI)


def _cells(one: dict[str, Any]) -> dict[str, str]:
    timed, files = one["seconds"], one["files"]["finished"]
    cells = {"points": str(one["points"]), "load": " to ".join(map(str, one["load"]))}
    cells |= {f"{name} [s]": f"{value:.2f}" for name, value in timed.items()}
    return cells | {"files": str(files["all"]), "MB": f"{files['bytes'] / 1e6:.1f}"}


def _show(one: dict[str, Any], first: bool) -> None:
    cells = _cells(one)
    if first:
        print("| " + " | ".join(cells) + " |\n|" + " ---: |" * len(cells))
    print("| " + " | ".join(cells.values()) + " |", flush=True)


if __name__ == "__main__":
    main()
