"""Small sweeps by the installed command, and how two of them are compared."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from rdtrain.run_folder import RunFolder

COMMAND = str(Path(sys.executable).with_name("rdtrain"))
SMALL = (
    "experiment=quickstart", "hp.N=4", "hp.M=6", "dataset.batch_size=4", "dataset.valid_batch_size=2",
    "engine.num_epochs=2", "engine.epoch_steps=3", "engine.device=cpu", "engine.threads=1", "logger.figures=null",
    "logger.entropy_report=null",
    "infer.max_images=1", "infer.every_n_epochs=2", "paths.runs=runs",
)  # fmt: skip

LONG = ("engine.num_epochs=3", "engine.epoch_steps=150", "checkpoint.every_n_steps=1")
"""Trainings with time enough to be killed in."""
EIGHT = (*LONG, "seed=1,2,3,4,5,6,7,8")
"""The sweep that every launcher must bring to the results of a local one."""


@contextmanager
def begun(folder: Path, *words: str, environment: Mapping[str, str] = os.environ) -> Iterator[subprocess.Popen[str]]:
    """A sweep that runs during the block, at most; its run folders come into folder/runs."""
    folder.mkdir(exist_ok=True)
    command = [COMMAND, "-m", *SMALL, *words]
    process = subprocess.Popen(
        command, cwd=folder, env=dict(environment), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def sweep(folder: Path, *words: str, environment: Mapping[str, str] = os.environ) -> str:
    """A sweep that must come to its end; returns what `ended` does."""
    with begun(folder, *words, environment=environment) as process:
        return ended(process)


def ended(process: subprocess.Popen[str], code: int = 0) -> str:
    """Wait for a sweep and return what it printed and what it said of mistakes."""
    said = "".join(process.communicate(timeout=1200))
    assert process.returncode == code, said
    return said


def runs(folder: Path) -> dict[str, RunFolder]:
    """Run folders of a sweep by their names."""
    return {path.parent.name: RunFolder(path.parent) for path in sorted((folder / "runs").rglob("summary.json"))}


def statuses(folder: Path) -> list[str]:
    """What the summaries of all points say."""
    return [run.read_summary()["status"] for run in runs(folder).values()]


def parts(run: RunFolder) -> list[dict[str, Any]]:
    """The environment of each part of a run that was continued."""
    begun = json.loads(run.environment.read_text())
    return [begun, *begun.get("continued", [])]


def holder(run: RunFolder) -> int:
    """The process that trains a run."""
    pid: int = json.loads((run.path / ".lock").read_text())["pid"]
    return pid


def trained_steps(file: Path) -> list[int]:
    """The steps that an event file tells of: one a part of a run."""
    events = EventAccumulator(str(file)).Reload()
    return [event.step for event in events.Scalars("train_steps/loss/forward/unclamped")]


def differences(a: Path, b: Path) -> list[str]:
    """What is not the same, bit by bit, in two sweeps but for clock readings."""
    compare = _comparison()
    ours, theirs = runs(a), runs(b)
    assert ours.keys() == theirs.keys() and ours
    return [
        f"{name}: {part}"
        for name in ours
        for part in compare.differences(compare.result(ours[name]), compare.result(theirs[name]))
    ]


def _comparison() -> Any:
    file = Path(__file__).parents[1] / "faults" / "conftest.py"
    spec = importlib.util.spec_from_file_location("comparison_of_runs", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
