"""Several points of a sweep at a time, in processes of joblib."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("hydra_plugins.hydra_joblib_launcher", reason="pip install 'rdtrain[joblib]'")

import os

from sweeps import differences, parts, runs, statuses, sweep

from rdtrain.data.store import usable_cpus

pytestmark = [pytest.mark.slow, pytest.mark.long]
SEEDS = "seed=1,2,3,4"


def test_points_in_reused_processes_that_load_data_in_others_equal_a_local_sweep(tmp_path: Path) -> None:
    loading = ("dataset.workers=1", "dataset.cache_mb=0")
    sweep(tmp_path / "joblib", SEEDS, *loading, "launcher=joblib")
    sweep(tmp_path / "local", SEEDS, *loading)
    assert statuses(tmp_path / "joblib") == ["finished"] * 4
    commands = [parts(run)[0]["command"] for run in runs(tmp_path / "joblib").values()]
    assert all("loky" in " ".join(command) for command in commands)
    assert differences(tmp_path / "joblib", tmp_path / "local") == []


def test_cores_are_shared_out_unless_threads_are_typed(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    words = ("seed=1,2", "launcher=joblib", "launcher.jobs=2")
    sweep(tmp_path / "shared", *words, "engine.threads=null", environment=environment)
    sweep(tmp_path / "typed", *words, "engine.threads=3", environment=environment)
    for name, threads in (("shared", max(1, usable_cpus() // 2)), ("typed", 3)):
        assert [parts(run)[0]["threads"] for run in runs(tmp_path / name).values()] == [threads] * 2


def test_another_launcher_repeats_nothing(tmp_path: Path) -> None:
    sweep(tmp_path, "seed=1,2", "launcher=joblib")
    files = {run.last: run.last.stat().st_mtime_ns for run in runs(tmp_path).values()}
    printed = sweep(tmp_path, "seed=1,2,3")
    assert "left alone: 2 already finished\n" in printed and statuses(tmp_path) == ["finished"] * 3
    assert {path: path.stat().st_mtime_ns for path in files} == files
