"""What is refused before a sweep is planned, and which folder it gets."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from rdtrain import compression
from rdtrain.cli import _sweep_folder
from rdtrain.config.check import check
from rdtrain.config.compose import composed
from rdtrain.errors import UserError
from rdtrain.sweep.plan import Plan
from rdtrain.sweep.planning import make_plan, sweep_points

LOCK = """
import sys, pathlib, time
from rdtrain.lock import locked
with locked(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(1)
"""


@contextlib.contextmanager
def _multirun(folder: Path, *words: str) -> Iterator[DictConfig]:
    typed = ["experiment=quickstart", f"++paths.runs={folder}", *words]
    with initialize_config_module("rdtrain.conf", version_base="1.3"):
        yield GlobalHydra.instance().config_loader().load_configuration("train", typed, RunMode.MULTIRUN)


@pytest.fixture(autouse=True)
def _hydra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(HydraConfig.instance(), "cfg", None)  # and so it is again afterwards


def _planned(folder: Path, *words: str) -> list[str]:
    with _multirun(folder, *words) as config:
        return [point.id for point in make_plan(config, sweep_points(config))]


def test_what_every_job_would_refuse_is_told_and_nothing_is_written(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"model\.checkpoint=gone\.pt: there is no such file"):
        _planned(tmp_path / "sweep", "++model.checkpoint=gone.pt", "seed=1,2")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "word", ["paths.runs=a,b", "launcher=local,joblib", "launcher.name=local,other", "search=lr,target_bpp"]
)
def test_what_a_sweep_has_one_of_is_not_swept(word: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="a sweep has one for all of its points; give each of its keys one value"):
        _planned(tmp_path / "sweep", "seed=1,2", word)
    assert list(tmp_path.iterdir()) == []


def test_one_of_each_choice_is_looked_at_and_none_that_is_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[str] = []

    def problems(raw: dict[str, Any]) -> list[str]:
        looked.append(raw["conv"]["type"])
        return []

    monkeypatch.setattr(compression, "problems", problems)
    words = ("seed=1,2,3", "criterion.lmbda=0.01,0.02", "conv.type=spectral,plain")
    ids = _planned(tmp_path, *words)
    assert sorted(looked) == ["plain", "spectral"] and len(set(ids)) == 12
    for point in Plan.read(tmp_path).points:
        if "++conv.type=plain" in point.overrides or "conv.type=plain" in point.overrides:
            (tmp_path / point.run).mkdir()
            (tmp_path / point.run / "summary.json").write_text('{"status": "finished"}')
    looked.clear()
    assert _planned(tmp_path, *words) == ids and looked == ["spectral"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has what is asked for")
def test_devices_are_those_of_the_machine_that_jobs_run_on(tmp_path: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher", reason="pip install '.[slurm]'")
    with pytest.raises(UserError, match="torch sees no cuda device"):
        _planned(tmp_path / "local", "engine.device=cuda")
    assert len(_planned(tmp_path / "slurm", "engine.device=cuda", "launcher=slurm")) == 1


def test_several_processes_a_run_go_with_no_other_launcher() -> None:
    raw, problems = composed(["engine=ddp"])
    assert raw is not None and problems == []
    assert check(raw)[1] == []
    (problem,) = check({**raw, "launcher": {"name": "joblib", "jobs": 2}})[1]
    assert "engine=ddp does not go with launcher=joblib" in problem


def test_a_plan_waits_for_another_command_that_is_planning(tmp_path: Path) -> None:
    first = _planned(tmp_path, "seed=1")
    command = [sys.executable, "-c", LOCK, str(tmp_path / "plan")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        second = _planned(tmp_path, "seed=2")
    assert holder.returncode == 0
    assert [point.id for point in Plan.read(tmp_path).points] == [*first, *second]


def test_the_folder_of_a_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)

    def folder(*words: str, **flags: str) -> str:
        (said,) = _sweep_folder(
            words, {"--multirun": "", **{f"--{key.replace('_', '-')}": v for key, v in flags.items()}}
        )
        return said

    usual = folder("seed=1,2", "conv.type=plain")
    incidental = ("launcher=joblib", "sweep.retry=false", "logger.figures=null", "checkpoint.every_minutes=1")
    assert folder("seed=3", "++conv.type=plain", *incidental) == usual
    assert folder("seed=1,2") != usual
    one, two = folder("conv.type=plain", config_dir="one"), folder("conv.type=plain", config_dir="two")
    assert len({usual, one, two}) == 3 and folder("conv.type=plain", config_dir=str(tmp_path / "one")) == one
    search = ("search=lr", "search.trials=4")
    assert folder(*search) == folder("search=lr", "search.at_once=2") != folder("search=lr", "search.seed=2")
    target = ("search=target_bpp", "search.target_bpp=0.25")
    assert folder(*target) == folder(*target, "search.tolerance=0.1")


def test_a_sweep_is_planned_by_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")  # of torchrun
    with pytest.raises(UserError, match="without torchrun, or one run without -m"):
        make_plan(OmegaConf.create({}), [])
