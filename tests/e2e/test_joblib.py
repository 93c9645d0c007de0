"""Several points of a sweep at a time, in processes of joblib."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("hydra_plugins.hydra_joblib_launcher", reason="pip install '.[joblib]'")

import os

from sweeps import EIGHT, differences, parts, runs, statuses, sweep

from rdtrain.data.store import usable_cpus

pytestmark = pytest.mark.slow


def test_points_in_reused_processes_that_load_data_in_others_equal_a_local_sweep(tmp_path: Path) -> None:
    """Another launcher goes on from there, and repeats nothing."""
    loading = ("dataset.workers=1", "dataset.cache_mb=0")
    sweep(tmp_path / "joblib", "seed=1,2,3", *loading, "launcher=joblib")
    assert statuses(tmp_path / "joblib") == ["finished"] * 3
    commands = [parts(run)[0]["command"] for run in runs(tmp_path / "joblib").values()]
    assert all("loky" in " ".join(command) for command in commands)

    files = {run.last: run.last.stat().st_mtime_ns for run in runs(tmp_path / "joblib").values()}
    printed = sweep(tmp_path / "joblib", "seed=1,2,3,4", *loading)
    assert "left alone: 3 already finished\n" in printed and statuses(tmp_path / "joblib") == ["finished"] * 4
    assert {path: path.stat().st_mtime_ns for path in files} == files
    sweep(tmp_path / "local", "seed=1,2,3,4", *loading)
    assert differences(tmp_path / "joblib", tmp_path / "local") == []


@pytest.mark.long
@pytest.mark.timeout(1500)
def test_eight_points_equal_a_local_sweep(tmp_path: Path) -> None:
    sweep(tmp_path / "joblib", *EIGHT, "launcher=joblib")
    sweep(tmp_path / "local", *EIGHT)
    assert statuses(tmp_path / "joblib") == ["finished"] * 8
    assert differences(tmp_path / "joblib", tmp_path / "local") == []


def test_cores_are_shared_out_unless_threads_are_typed(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    words = ("seed=1", "engine.threads=null,3", "engine.num_epochs=1", "launcher=joblib", "launcher.jobs=2")
    sweep(tmp_path, *words, environment=environment)
    threads = sorted(parts(run)[0]["threads"] for run in runs(tmp_path).values())
    assert threads == sorted([max(1, usable_cpus() // 2), 3])
