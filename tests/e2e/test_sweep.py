"""A sweep by the installed command: killed, and issued again."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from sweeps import begun, parts, runs, statuses, sweep
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from rdtrain import checkpoint
from rdtrain.run_folder import RunFolder

pytestmark = pytest.mark.slow
STEPS = 20  # of each of two epochs
WORDS = (
    "seed=1,2,3", f"engine.epoch_steps={STEPS}", "checkpoint.every_n_steps=1", "logger.tensorboard.every_n_steps=1",
    "callbacks.early_stopping=null",
)  # fmt: skip


def _unfinished(folder: Path) -> list[RunFolder]:
    return [run for run in runs(folder).values() if run.read_summary()["status"] != "finished"]


def _trained(files: set[Path]) -> list[int]:
    """The steps that event files tell of."""
    (file,) = files
    events = EventAccumulator(str(file)).Reload()
    return [event.step for event in events.Scalars("train_steps/loss/forward/unclamped")]


def test_a_sweep_that_was_killed_goes_on_and_repeats_no_step(tmp_path: Path) -> None:
    with begun(tmp_path, *WORDS) as process:
        written_at: set[int] = set()  # the checkpoint of the second point; the first of them is of step 0
        while len(written_at) < 4:
            assert process.poll() is None, process.communicate()
            if "finished" in statuses(tmp_path):
                written_at |= {run.last.stat().st_mtime_ns for run in _unfinished(tmp_path) if run.last.is_file()}
            time.sleep(0.01)
        process.kill()
        process.communicate()
    (killed,) = _unfinished(tmp_path)
    reached = checkpoint.read(killed.last)["steps"]
    assert 1 <= reached < 2 * STEPS
    before = set(killed.tensorboard.iterdir())
    (whole,) = [run for run in runs(tmp_path).values() if run.path != killed.path]
    written = {path: path.stat().st_mtime_ns for path in (whole.last, whole.metrics, whole.summary, whole.environment)}

    printed = sweep(tmp_path, *WORDS)
    assert "left alone: 1 already finished\n" in printed and "3 points: 3 finished" in printed
    assert {path: path.stat().st_mtime_ns for path in written} == written
    assert [run.read_summary()["steps"] for run in runs(tmp_path).values()] == [2 * STEPS] * 3
    assert [len(parts(run)) for run in (whole, killed)] == [1, 2]
    assert _trained(set(killed.tensorboard.iterdir()) - before) == list(range(reached + 1, 2 * STEPS + 1))
