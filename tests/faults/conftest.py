"""Runs that may be killed, and what is compared of them."""

from __future__ import annotations

import csv
import json
import math
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from rdtrain.config.schema import Config
from rdtrain.run_folder import RunFolder


class Killable:
    """Trainings in processes of their own; see server.py."""

    def __init__(self, process: subprocess.Popen[str], folder: Path) -> None:
        self.process, self.folder = process, folder

    def __call__(self, config: Config, **faults: Any) -> tuple[int, str]:
        """Run a training; returns its exit code and what it printed."""
        assert self.process.stdin is not None and self.process.stdout is not None
        file = self.folder / "config.yaml"
        file.write_text(yaml.safe_dump(config.to_dict()))
        self.process.stdin.write(json.dumps({"config": str(file), **faults}) + "\n")
        self.process.stdin.flush()
        answer = json.loads(self.process.stdout.readline())
        return answer["code"], answer["printed"]


@pytest.fixture(scope="module")
def killable(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Killable]:
    server = Path(__file__).with_name("server.py")
    process = subprocess.Popen([sys.executable, str(server)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    yield Killable(process, tmp_path_factory.mktemp("killable"))
    assert process.stdin is not None
    process.communicate(timeout=60)


@pytest.fixture
def folder_of() -> Callable[[Config], RunFolder]:
    """The folder of a configuration that is not completed yet."""
    from rdtrain.models import complete  # which warns, and conftest files are read before filters are set

    return lambda config: RunFolder.of(complete(config))


def same(a: object, b: object) -> bool:
    """Whether nested containers hold bit-identical numbers."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))  # type: ignore[arg-type]
    return a == b or (isinstance(a, float) and isinstance(b, float) and math.isnan(a) and math.isnan(b))


def result(folder: RunFolder) -> dict[str, Any]:
    """Everything that a run leaves but for clock readings: numbers, state, export."""
    from rdtrain import checkpoint

    state = checkpoint.read(folder.last)
    del state["elapsed_s"]
    state["final"] = _untimed(state["final"])
    with open(folder.metrics, newline="") as file:
        rows = [_untimed(row) for row in csv.DictReader(file)]
    return {
        "state": state,
        "best": checkpoint.read(folder.best)["model"],
        "rows": rows,
        "export": torch.load(folder.exported, weights_only=True),
        "status": folder.read_summary()["status"],
    }


def differences(a: dict[str, Any], b: dict[str, Any]) -> list[str]:
    """Names of the parts of two results that are not the same."""
    names = [f"state.{key}" for key in a["state"] if not same(a["state"][key], b["state"].get(key))]
    return names + [key for key in a if key != "state" and not same(a[key], b[key])]


@pytest.fixture
def compare() -> Callable[[RunFolder, RunFolder], list[str]]:
    """The parts in which two finished runs differ."""
    return lambda a, b: differences(result(a), result(b))


def _untimed(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if "time/" not in name}
