from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_module
from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

from rdtrain.config.check import check
from rdtrain.config.compose import composed, foreign_problems

PLUGINS = {"joblib": "hydra_joblib_launcher", "slurm": "hydra_submitit_launcher", "ray": "hydra_ray_launcher"}
QUIET = ("hydra/job_logging=none", "hydra/hydra_logging=none")


def _problems(*overrides: str) -> list[str]:
    raw, problems = composed(overrides)
    return problems + ([] if raw is None else check(raw)[1])


def _needs(name: str) -> None:
    pytest.importorskip(f"hydra_plugins.{PLUGINS[name]}")


def _hydras(*overrides: str) -> Any:
    with initialize_config_module("rdtrain.conf", version_base="1.3"):
        config = compose("train", overrides=list(overrides), return_hydra_config=True)
        return OmegaConf.to_container(config.hydra.launcher, resolve=True)


def test_keys_reach_joblib() -> None:
    _needs("joblib")
    assert _problems("launcher=joblib", "launcher.jobs=3") == []
    assert _hydras("launcher=joblib", "launcher.jobs=3")["n_jobs"] == 3


def test_keys_reach_slurm() -> None:
    _needs("slurm")
    words = ("partition=p", "minutes=7", "requeues=2", "grace_s=30", "cpus=5", "gpus=1", "mem_gb=9", "at_once=4")
    typed = ["launcher=slurm", *(f"launcher.{word}" for word in words), "++launcher.sbatch.qos=high"]
    assert _problems(*typed) == []
    # hydra.sweep.dir, in the folder of the logs, is not part of this.
    with initialize_config_module("rdtrain.conf", version_base="1.3"):
        launcher = compose("train", overrides=typed, return_hydra_config=True).hydra.launcher
        assert (launcher.partition, launcher.timeout_min, launcher.max_num_timeout) == ("p", 7, 2)
        assert (launcher.signal_delay_s, launcher.cpus_per_task, launcher.gpus_per_node) == (30, 5, 1)
        assert (launcher.mem_gb, launcher.array_parallelism) == (9, 4)
        assert launcher.additional_parameters == {"requeue": True, "qos": "high"}
        assert launcher.setup == ["export OMP_NUM_THREADS=5 SRUN_CPUS_PER_TASK=5"]


def test_keys_reach_ray() -> None:
    _needs("ray")
    typed = ("launcher=ray", "launcher.address=h:1", "launcher.cpus=2", "launcher.gpus=0.5", "launcher.retries=1")
    assert _problems(*typed) == []
    ray = _hydras(*typed)["ray"]
    assert ray["init"]["address"] == "h:1"
    assert ray["remote"] == {"num_cpus": 2, "num_gpus": 0.5, "max_retries": 1}


def test_mistakes() -> None:
    _needs("slurm")
    (sentence,) = _problems("launcher.partition=p")
    assert sentence.startswith("launcher.partition does not go with the launcher that is chosen")
    (sentence,) = _problems("launcher=slurm", "launcher.partion=p")
    assert "did you mean launcher.partition" in sentence
    (sentence,) = _problems("launcher=slurm", "launcher.minutes=0")
    assert sentence.startswith("launcher.minutes=0: ")


@pytest.mark.parametrize("value", ["launcher.partition", "++launcher.sbatch.comment"])
def test_nothing_typed_becomes_a_line_of_the_submitted_script(value: str) -> None:
    _needs("slurm")
    raw, _ = composed(["launcher=slurm"])
    assert raw is not None
    key = value.rpartition(".")[2]
    (raw["launcher"] if key == "partition" else raw["launcher"]["sbatch"])[key] = "a\ntouch evil"
    assert any("control characters" in problem for problem in check(raw)[1])


@pytest.mark.parametrize("name", sorted(PLUGINS))
def test_a_package_that_is_not_installed_is_a_sentence(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stored = ConfigStore.instance().repo["hydra"]["launcher"]
    monkeypatch.delitem(stored, {"slurm": "submitit_slurm"}.get(name, name) + ".yaml", raising=False)
    monkeypatch.setitem(sys.modules, f"hydra_plugins.{PLUGINS[name]}", None)
    (sentence,) = _problems(f"launcher={name}")
    assert sentence == f"launcher={name} needs a package: type pip install '.[{name}]' in rdtrain's folder"


@pytest.mark.parametrize(
    ("content", "typed", "trusted"),
    [
        ("seed: 3", ["launcher=slurm"], True),
        ("seed: 3\nlauncher: {sbatch: {wrap: evil}}", ["launcher=slurm"], False),
        ("seed: 3\nhydra: {launcher: {setup: [evil]}}", ["launcher=slurm"], False),
        ("defaults: [{override /launcher: slurm}]", [], False),
    ],
)
def test_a_folder_does_not_touch_the_launcher(content: str, typed: list[str], trusted: bool, tmp_path: Path) -> None:
    _needs("slurm")
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "theirs.yaml").write_text(f"# @package _global_\n{content}\n")
    found = foreign_problems(["experiment=theirs", *typed, *QUIET], "train", str(tmp_path))
    assert (found == []) == trusted
    assert trusted or all("hydra.launcher._target_" in problem for problem in found)


def test_limits_that_cannot_work_are_told() -> None:
    _needs("slurm")
    (said,) = _problems("launcher=slurm", "launcher.minutes=2")
    assert said.startswith("launcher.grace_s=120: a job of launcher.minutes=2 would be stopped as it begins")
    assert _problems("launcher=slurm", "launcher.minutes=3") == []


def test_a_gpu_is_asked_of_ray() -> None:
    _needs("ray")
    (said,) = _problems("launcher=ray", "engine.device=cuda")
    assert said.startswith("launcher.gpus=0.0: ") and said.endswith("type launcher.gpus=1")
    assert _problems("launcher=ray", "engine.device=cuda", "launcher.gpus=0.5") == []


def test_ranges_of_searches() -> None:
    assert _problems("search=lr", "search.lr=1e-4") == ["search.lr=0.0001: should be [SMALLEST, LARGEST]"]
    assert _problems("search=lr", "search.lr=[1e-3,1e-4]") == [
        "search.lr=[0.001, 0.0001]: should be [SMALLEST, LARGEST]"
    ]
    (said,) = _problems("search=target_bpp", "criterion.metric=ms-ssim")
    assert said == "search.lmbda=[0.0003, 0.3] is for criterion.metric=mse; with ms-ssim type search.lmbda=[0.3,500]"
    assert _problems("search=target_bpp", "criterion.metric=ms-ssim", "search.lmbda=[0.3,500]") == []
