from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
tomllib = pytest.importorskip("tomllib", reason="tomllib comes with Python 3.11")


def test_every_folder_with_code_is_installed() -> None:
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    source = ROOT / "src" / "rdtrain"
    inside = {f"rdtrain.{path.parent.name}" for path in source.glob("*/__init__.py")}
    mapped = {"rdtrain", "rdtrain.conf", "rdtrain.runners", "rdtrain.callbacks"}
    assert set(setuptools["packages"]) == inside | mapped


def test_the_tables_of_the_docs_are_up_to_date() -> None:
    words = [sys.executable, ROOT / "scripts" / "make_docs.py", "--check"]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_relative_links_lead_somewhere() -> None:
    links = 0
    for document in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")):
        for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", document.read_text()):
            assert (document.parent / target).exists(), f"{document.name}: {target}"
            links += 1
    assert links >= 7


def test_the_commands_of_the_readme_are_installed() -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    named = set(re.findall(r"^(rdtrain[\w-]*) ", (ROOT / "README.md").read_text(), flags=re.MULTILINE))
    assert named == set(scripts)
