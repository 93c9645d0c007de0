"""A sweep by the installed command: a point fails, the command is killed, and issued again."""

from __future__ import annotations

import csv
import re
import signal
import time
from pathlib import Path

import pytest
from sweeps import LONG, begun, ended, holder, parts, runs, statuses, trained_steps

from rdtrain import checkpoint
from rdtrain.run_folder import RunFolder

pytestmark = pytest.mark.slow
STEPS = 20  # of each of two epochs
WORDS = (
    "optimizer.net.lr=1e30,1e-4,2e-4", f"engine.epoch_steps={STEPS}", "checkpoint.every_n_steps=1",
    "logger.tensorboard.every_n_steps=1", "callbacks.early_stopping=null", "paths.runs=./runs",
)  # fmt: skip


def _in_state(folder: Path, wanted: str) -> list[RunFolder]:
    return [run for run in runs(folder).values() if run.read_summary()["status"] == wanted]


def test_a_sweep_that_was_killed_goes_on_and_repeats_no_step_and_a_failed_point_stops_no_other(tmp_path: Path) -> None:
    with begun(tmp_path, *WORDS) as process:
        written_at: set[int] = set()  # the checkpoint of the third point; the first of them is of step 0
        while len(written_at) < 4:
            assert process.poll() is None, process.communicate()
            if "finished" in statuses(tmp_path):
                running = [run.last for run in _in_state(tmp_path, "running")]
                written_at |= {last.stat().st_mtime_ns for last in running if last.is_file()}
            time.sleep(0.01)
        process.kill()
        process.communicate()
    (failed,), (whole,), (killed,) = (_in_state(tmp_path, state) for state in ("failed", "finished", "running"))
    reached = checkpoint.read(killed.last)["steps"]
    assert 1 <= reached < 2 * STEPS
    before = set(killed.tensorboard.iterdir())
    written = {path: path.stat().st_mtime_ns for path in (whole.last, whole.metrics, whole.summary, whole.environment)}

    with begun(tmp_path, *WORDS) as process:
        said = ended(process, code=2)
    assert "left alone: 1 already finished\n" in said and "3 points: 1 failed, 2 finished" in said
    told = [line.split(": ")[0] for line in said.splitlines() if "the run has diverged" in line]
    assert "rdtrain" in told and failed.id in told
    assert {path: path.stat().st_mtime_ns for path in written} == written
    assert sorted(statuses(tmp_path)) == ["failed", "finished", "finished"]
    assert [run.read_summary()["steps"] for run in (whole, killed)] == [2 * STEPS] * 2
    assert [len(parts(run)) for run in (failed, whole, killed)] == [2, 1, 2]  # what failed was tried again
    (after,) = set(killed.tensorboard.iterdir()) - before
    assert trained_steps(after) == list(range(reached + 1, 2 * STEPS + 1))

    (sweep,) = (tmp_path / "runs").iterdir()  # both commands have found the same one
    with open(sweep / "status.csv", newline="") as file:
        assert sorted(row["state"] for row in csv.DictReader(file)) == ["failed", "finished", "finished"]
    assert (sweep / "report" / "report.html").is_file()


def _terminated(folder: Path, *words: str, training: int) -> str:
    """What a sweep printed that got SIGTERM when so many of its points had something to lose; their processes end."""
    with begun(folder, *LONG, "seed=1,2,3", "paths.runs=./runs", *words) as process:
        while len(trains := [run for run in runs(folder).values() if run.last.is_file()]) < training:
            assert process.poll() is None, process.communicate()
            time.sleep(0.05)
        jobs = [Path(f"/proc/{holder(run)}") for run in trains]
        process.terminate()
        printed, said = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGTERM
    assert re.fullmatch("interrupted; the same command .*\n", said)
    deadline = time.monotonic() + 20
    while any(job.is_dir() for job in jobs):
        assert time.monotonic() < deadline, "a job trains on"
        time.sleep(0.1)
    return printed


def test_a_sweep_that_is_told_to_stop_says_how_far_it_came(tmp_path: Path) -> None:
    assert "3 points: 1 interrupted, 2 planned" in _terminated(tmp_path, training=1)
    (sweep,) = (tmp_path / "runs").iterdir()
    with open(sweep / "status.csv", newline="") as file:
        assert sorted(row["state"] for row in csv.DictReader(file)) == ["interrupted", "planned", "planned"]


def test_jobs_in_other_processes_stop_too(tmp_path: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher", reason="pip install '.[joblib]'")
    assert "3 points:" in _terminated(tmp_path, "launcher=joblib", "launcher.jobs=2", training=2)
    assert sorted(statuses(tmp_path)) == ["running"] * 2  # nobody has asked them to write anything
