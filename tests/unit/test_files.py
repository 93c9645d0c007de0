from __future__ import annotations

import json
import math
import os
from pathlib import Path

import pytest
import torch

from rdtrain.files import write_atomically, write_json, write_tensors, write_text


def test_a_failed_write_leaves_the_old_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")

    def half(file: object) -> None:
        file.write(b"ne")  # type: ignore[attr-defined]
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, half)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_json_has_no_nan(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"a": math.nan, "b": [math.inf, 1.5], "c": {"d": -math.inf}, "e": True})
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": None, "b": [None, 1.5], "c": {"d": None}, "e": True}


def test_tensors_come_back(tmp_path: Path) -> None:
    content = {"x": torch.arange(3.0), "n": [1, 2.5, "three", None, True]}
    write_tensors(tmp_path / "a.pt", content)
    again = torch.load(tmp_path / "a.pt", weights_only=True)
    assert torch.equal(again["x"], content["x"]) and again["n"] == content["n"]  # type: ignore[arg-type]
