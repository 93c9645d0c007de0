"""Sweeps on a real SLURM: jobs that are preempted, killed or reach their time limit, and a controller that fails."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("hydra_plugins.hydra_submitit_launcher", reason="pip install '.[slurm]'")

from slurm_cluster import Cluster, cluster, missing
from sweeps import EIGHT, LONG, begun, differences, ended, holder, parts, runs, statuses, sweep, trained_steps

pytestmark = [pytest.mark.slow, pytest.mark.skipif(missing() is not None, reason=str(missing()))]
SLURM = ("launcher=slurm", "launcher.minutes=20")


def _training(folder: Path) -> Callable[[], bool]:
    # Whether the first two have begun and have something to lose.
    return lambda: len(runs(folder)) == 2 and all(run.last.is_file() for run in runs(folder).values())


def _preempt(slurm: Cluster, jobs: int) -> None:
    command = ["sbatch", "--partition=high", f"--ntasks={jobs}", "--output=/dev/null", "--wrap=sleep 8"]
    subprocess.run(command, env=slurm.environment, check=True, capture_output=True, cwd=slurm.folder)


def _states(slurm: Cluster) -> dict[str, str]:
    lines = slurm.ask("squeue", "-h", "-r", "-p", "low", "-o", "%i %T").splitlines()
    return {name: state for name, state in (line.split() for line in lines)}


@pytest.mark.timeout(1500)
def test_preempted_killed_and_without_controller_all_points_equal_a_local_sweep(tmp_path: Path) -> None:
    with (
        cluster(tmp_path / "slurm") as slurm,
        begun(tmp_path / "array", *EIGHT, *SLURM, environment=slurm.environment) as submitted,
    ):
        slurm.wait_for(_training(tmp_path / "array"))
        slurm.kill_controller()
        slurm.start_controller()
        slurm.wait_for(lambda: _states(slurm))
        running = [name for name, state in _states(slurm).items() if state == "RUNNING"]
        _preempt(slurm, jobs=1)
        slurm.wait_for(lambda: "PENDING" in [_states(slurm).get(name) for name in running])
        killed, *_ = [name for name in running if _states(slurm).get(name) == "RUNNING"]
        slurm.call("scancel", killed)
        printed = ended(submitted, code=1)
        assert f"job {killed} was cancelled or killed" in printed
        assert sorted(statuses(tmp_path / "array")) == [*["finished"] * 7, "interrupted"]

        again = sweep(tmp_path / "array", *EIGHT, *SLURM, environment=slurm.environment)
        assert "submitted: " in again
    assert statuses(tmp_path / "array") == ["finished"] * 8
    assert sorted(len(parts(run)) for run in runs(tmp_path / "array").values()) == [*[1] * 6, 2, 2]
    sweep(tmp_path / "local", *EIGHT)
    assert differences(tmp_path / "array", tmp_path / "local") == []


@pytest.mark.long
def test_sigterm_alone_and_submit_and_leave(tmp_path: Path) -> None:
    """As on a cluster without preempt_send_user_signal; the command has left by then."""
    with cluster(tmp_path / "slurm", signal_at_preemption=False) as slurm:
        leave = (*LONG, "seed=1,2", *SLURM, "launcher.wait=false")
        sweep(tmp_path / "array", *leave, environment=slurm.environment)
        assert _states(slurm).keys() == {"1_0", "1_1"}
        slurm.wait_for(_training(tmp_path / "array"))
        _preempt(slurm, jobs=2)
        slurm.wait_for(lambda: set(_states(slurm).values()) == {"PENDING"})
        assert "finished" not in statuses(tmp_path / "array")
        slurm.wait_for(lambda: not _states(slurm), seconds=300)
    assert statuses(tmp_path / "array") == ["finished"] * 2
    for run in runs(tmp_path / "array").values():
        begun, continued = parts(run)
        assert begun["slurm_job"] == continued["slurm_job"]


def _end_in_two_minutes(slurm: Cluster) -> None:
    elapsed = slurm.ask("squeue", "-h", "-r", "-o", "%M")  # minutes:seconds
    slurm.call("scontrol", "update", "JobId=1", f"TimeLimit={int(elapsed.split(':')[0]) + 2}")


@pytest.mark.long
def test_a_job_that_reaches_its_time_limit_is_queued_again_and_goes_on(tmp_path: Path) -> None:
    """The limit is shortened when it trains, and it is stopped until SLURM wakes it for its signal.

    With limits of up to ten minutes submitit counts any such signal as one of a time limit.
    """
    limited = ("seed=1", "launcher=slurm", "launcher.minutes=10", "launcher.grace_s=60")
    every = "logger.tensorboard.every_n_steps=1"
    array = tmp_path / "array"
    with (
        cluster(tmp_path / "slurm") as slurm,
        begun(array, *LONG, every, *limited, environment=slurm.environment) as submitted,
    ):
        slurm.wait_for(lambda: [run for run in runs(array).values() if run.last.is_file()], seconds=600)
        (run,) = runs(array).values()
        os.kill(holder(run), signal.SIGSTOP)
        _end_in_two_minutes(slurm)
        slurm.wait_for(lambda: _states(slurm) == {"1": "PENDING"})
        slurm.call("scontrol", "update", "JobId=1", "TimeLimit=10")
        assert run.read_summary()["status"] == "interrupted"
        assert "1 points: 1 finished" in ended(submitted)
    first, second = parts(run)
    assert first["slurm_job"] == second["slurm_job"]
    before, after = (trained_steps(file) for file in sorted(run.tensorboard.iterdir()))
    assert 1 <= len(before) < 450 and before + after == list(range(1, 451))
    sweep(tmp_path / "local", *LONG, every, "seed=1")
    assert differences(array, tmp_path / "local") == []


def test_mistakes_are_told_before_anything_is_submitted(tmp_path: Path) -> None:
    wrong = ("criterion.lmbda=0.01,-1", *SLURM, "launcher.minutes=0")
    with (
        cluster(tmp_path / "slurm") as slurm,
        begun(tmp_path / "array", *wrong, environment=slurm.environment) as refused,
    ):
        said = ended(refused, code=2)
        assert "launcher.minutes" in said and "criterion.lmbda" in said
        assert _states(slurm) == {}
    assert list((tmp_path / "array").iterdir()) == []
