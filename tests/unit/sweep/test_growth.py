"""A sweep of four times as many points: what it costs besides its trainings, in time and in what is done."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("hydra_plugins.hydra_submitit_launcher", reason="pip install '.[slurm]'")

from hydra import initialize_config_module
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode

from rdtrain import slurm
from rdtrain.sweep import status as looking
from rdtrain.sweep.plan import Plan, Point
from rdtrain.sweep.status import refresh_status, write_status

FEW, MANY = 10, 40


def _script() -> Any:
    file = Path(__file__).parents[3] / "scripts" / "simulate_sweep.py"
    spec = importlib.util.spec_from_file_location("simulate_sweep", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_nothing_grows_worse_than_the_number_of_points(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(HydraConfig.instance(), "cfg", None)  # and so it is again afterwards
    monkeypatch.setattr(looking, "is_held", looking.is_held)
    composed: list[int] = []
    original = ConfigLoaderImpl.load_configuration

    def counted(self: ConfigLoaderImpl, *args: Any, **kwargs: Any) -> Any:
        composed[-1] += 1
        return original(self, *args, **kwargs)

    monkeypatch.setattr(ConfigLoaderImpl, "load_configuration", counted)
    script, found = _script(), []
    for points in (FEW, MANY):
        composed.append(0)
        (tmp_path / str(points)).mkdir()
        found.append(script.simulate(points, 0.05, 16, tmp_path / str(points), with_report=False))
    few, many = found
    assert composed[0] == composed[1]  # no point is composed from the beginning
    for name in ("all", "plan", "submission"):
        assert many["files"]["finished"][name] <= MANY // FEW * few["files"]["finished"][name]
    assert many["files"]["finished"]["plan"] == MANY + 1  # and its lock


def test_a_sweep_larger_than_an_array_is_submitted_as_several(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(HydraConfig.instance(), "cfg", None)  # and so it is again afterwards
    monkeypatch.setattr(slurm, "largest_array", lambda: 4)
    script = _script()
    words = ("launcher=slurm", "launcher.wait=false", "launcher.at_once=8", "seed=range(0,10)")
    with initialize_config_module("rdtrain.conf", version_base="1.3"):
        typed = [*script.QUIET, f"++paths.runs={tmp_path / 'sweep'}", *words]
        config = GlobalHydra.instance().config_loader().load_configuration("train", typed, RunMode.MULTIRUN)
        HydraConfig.instance().set_config(config)
        points = [Point(f"{i}", f"{i}-run", (f"++seed={i}",), "0" * 12) for i in range(10)]
        script.submit(config, tmp_path / "sweep", points, tmp_path)
    scripts = [file.read_text() for file in (tmp_path / "sweep" / ".submitit").rglob("[0-9]_*.sh")]
    arrays = sorted(line for text in scripts for line in text.splitlines() if "--array" in line)
    assert arrays == ["#SBATCH --array=0-2%2", "#SBATCH --array=0-2%2", "#SBATCH --array=0-3%2"]
    assert len(list((tmp_path / "sweep" / ".submitit").rglob("*_submitted.pkl"))) == 10


@pytest.mark.parametrize("points", [FEW, MANY])
def test_a_status_reads_two_files_a_point_and_asks_for_one_lock(
    points: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []

    def counted(name: str) -> Callable[[Path], Any]:
        original = getattr(looking, name)
        return lambda path: (done.append(name), original(path))[1]  # type: ignore[func-returns-value]

    for name in ("_json", "is_held"):
        monkeypatch.setattr(looking, name, counted(name))
    plan = Plan(tmp_path, tuple(Point(f"{i}", f"{i}-run", (f"++seed={i}",), "0" * 12) for i in range(points)))
    for point in plan.points:
        (tmp_path / point.run).mkdir()
        (tmp_path / point.run / "summary.json").write_text('{"status": "running"}')
    (tmp_path / "plan").mkdir()
    plan.error_of("3").write_text("{}")
    assert [row.state for row in looking.status(plan)].count("killed") == points - 1
    assert done.count("_json") == 2 * points + 1  # and the reason why one failed
    assert done.count("is_held") == points + 1


def test_a_job_does_not_read_all_points_when_another_one_just_did(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(looking, "is_held", lambda folder: folder.name == "5999-run")
    points = [Point(f"{i}", f"{i}-run", (f"++seed={i}",), "0" * 12) for i in range(6000)]
    plan = Plan(tmp_path, tuple(points))
    plan.write({})
    file = tmp_path / "status.csv"
    write_status(Plan(tmp_path, plan.points[:5]))
    written = file.stat().st_mtime_ns
    refresh_status(plan, "7")
    assert file.stat().st_mtime_ns == written  # newer than a minute, a hundredth of 6000 s
    monkeypatch.setattr(looking, "is_held", lambda folder: False)
    refresh_status(plan, "7")
    assert len(file.read_text().splitlines()) == 6001  # nobody is left to write it later
    monkeypatch.setattr(looking, "is_held", lambda folder: folder.name == "5999-run")
    write_status(Plan(tmp_path, plan.points[:5]))
    os.utime(file, (0, file.stat().st_mtime - 61))
    refresh_status(plan, "7")
    assert len(file.read_text().splitlines()) == 6001


@pytest.mark.parametrize(("ended", "looks"), [("700", 3), ("999", 298)])  # what still runs stands behind it, or before
def test_a_job_asks_for_the_locks_beside_it_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ended: str, looks: int
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(looking, "is_held", lambda folder: (asked.append(folder.name), folder.name == "702-run")[1])
    plan = Plan(tmp_path, tuple(Point(f"{i}", f"{i}-run", (), "0" * 12) for i in range(1000)))
    plan.write({})
    write_status(Plan(tmp_path, plan.points[:5]))
    asked.clear()
    refresh_status(plan, ended)
    assert len(asked) == looks and asked[-1] == "702-run"


def test_jobs_that_end_together_leave_the_table_to_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(looking, "is_held", lambda folder: folder.name == "9-run")
    plan = Plan(tmp_path, tuple(Point(f"{i}", f"{i}-run", (), "0" * 12) for i in range(1000)))
    plan.write({})
    write_status(plan)
    os.utime(tmp_path / "status.csv", (0, 0))
    written: list[str] = []

    def slow(plan: Plan) -> None:
        written.append("first")
        monkeypatch.setattr(looking, "write_status", lambda plan: written.append("second"))
        refresh_status(plan, "2")  # ends while the first one is still reading

    monkeypatch.setattr(looking, "write_status", slow)
    refresh_status(plan, "1")
    assert written == ["first"]
