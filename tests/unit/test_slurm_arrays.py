"""Sweeps that are larger than the arrays that a cluster takes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

pytest.importorskip("hydra_plugins.hydra_submitit_launcher", reason="pip install '.[slurm]'")

from rdtrain.errors import UserError
from rdtrain.slurm import SlurmLauncher, largest_array, sbatch_options, shares


@pytest.mark.parametrize(
    ("count", "most", "sizes"),
    [(1, 1001, [1]), (1001, 1001, [1001]), (1002, 1001, [501, 501]), (2500, 1001, [833, 833, 834]), (7, 3, [2, 2, 3])],
)
def test_jobs_are_divided_evenly_and_none_is_lost(count: int, most: int, sizes: list[int]) -> None:
    parts = list(shares(count, most))
    assert [len(part) for part in parts] == sizes
    assert [number for part in parts for number in part] == list(range(count))


def _program(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{text}\n")
    (folder / name).chmod(0o700)


@pytest.mark.parametrize(
    ("said", "most"),
    [("MaxArraySize            = 501", 501), ("MaxJobCount = 9\n", 1001), ("MaxArraySize = 0", 1)],
)
def test_the_cluster_says_how_many(said: str, most: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _program(tmp_path, "scontrol", f"cat <<'E'\nLogFile = x\n{said}\nMessageTimeout = 10 sec\nE")
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert largest_array() == most


def test_without_slurm_its_default_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert largest_array() == 1001


def test_what_is_false_is_not_asked_of_sbatch() -> None:
    assert sbatch_options({"requeue": True, "qos": "high", "exclusive": False}) == {"requeue": True, "qos": "high"}
    assert sbatch_options({"requeue": False, "nice": 0}) == {"no_requeue": True, "nice": 0}


def _launcher(folder: Path) -> SlurmLauncher:
    options = {"requeue": False, "contiguous": False}
    launcher = SlurmLauncher(
        submitit_folder=str(folder / "%j"), max_num_timeout=1, array_parallelism=2, additional_parameters=options
    )
    launcher.config = None
    return launcher


def test_refused_by_sbatch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("srun", "scontrol"):
        _program(tmp_path, name, "true")
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    _program(tmp_path, "sbatch", "echo 'sbatch: error: invalid partition specified: x' >&2; exit 1")
    with pytest.raises(UserError, match=r"0 of 2 jobs are submitted.*invalid partition specified: x"):
        _launcher(tmp_path / "logs").launch([["++seed=1"], ["++seed=2"]], 0)
    (script,) = (tmp_path / "logs").rglob("*.sh")
    lines = script.read_text().splitlines()
    assert "#SBATCH --no-requeue" in lines and not [line for line in lines if "contiguous" in line]


def test_without_slurm_nothing_is_submitted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UserError, match=r"0 of 1 jobs are submitted.*type launcher"):
        _launcher(tmp_path / "logs").launch([["++seed=1"]], 0)
