"""Sweeps that are larger than the arrays that a cluster takes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

pytest.importorskip("hydra_plugins.hydra_submitit_launcher", reason="pip install 'rdtrain[slurm]'")

from rdtrain.slurm import largest_array, shares


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
