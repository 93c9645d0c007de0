"""One process at a time in a folder."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from rdtrain.errors import UserError
from rdtrain.lock import locked

HOLD = """
import pathlib, sys
from rdtrain.lock import locked

with locked(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def _holder(folder: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


def test_the_second_process_is_told_who_holds_it(tmp_path: Path) -> None:
    process = _holder(tmp_path)
    with pytest.raises(UserError, match=f"in use by process {process.pid} on .* since 2"), locked(tmp_path):
        pass
    process.kill()
    process.communicate()
    with locked(tmp_path):  # a dead process holds nothing
        assert str(os.getpid()) in (tmp_path / ".lock").read_text()


def test_nothing_is_left_where_nothing_was_written(tmp_path: Path) -> None:
    with locked(tmp_path / "runs" / "a"):
        pass
    assert list(tmp_path.iterdir()) == []
    with locked(tmp_path / "runs" / "a"):
        (tmp_path / "runs" / "a" / "config.yaml").touch()
    assert sorted(path.name for path in (tmp_path / "runs" / "a").iterdir()) == [".lock", "config.yaml"]


def test_a_folder_with_other_runs_stays(tmp_path: Path) -> None:
    with locked(tmp_path / "runs" / "a"):
        (tmp_path / "runs" / "b").mkdir()
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["b"]


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"type paths\.runs="), locked(tmp_path / "file" / "run"):
        pass


def test_processes_that_leave_it_to_another_one(tmp_path: Path) -> None:
    process = _holder(tmp_path)
    with locked(tmp_path, wanted=False):
        pass
    process.communicate("")
    assert process.returncode == 0
