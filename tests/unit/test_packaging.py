from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
tomllib = pytest.importorskip("tomllib", reason="tomllib comes with Python 3.11")


def test_every_folder_with_code_is_installed() -> None:
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    source = ROOT / "src" / "rdtrain"
    ours = {"rdtrain"} | {f"rdtrain.{path.parent.relative_to(source).as_posix()}" for path in source.glob("*/__init__.py")}
    assert set(setuptools["packages"]) == ours | {"rdtrain.conf", "rdtrain.runners", "rdtrain.callbacks"}


def test_the_tables_of_the_docs_are_up_to_date() -> None:
    done = subprocess.run([sys.executable, ROOT / "scripts" / "make_docs.py", "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
