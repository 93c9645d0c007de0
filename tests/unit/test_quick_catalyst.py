"""Catalyst does not import what rdtrain has no use for, and finds everything else."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

_LOOK = """
import json, sys, warnings
warnings.simplefilter("ignore")
from rdtrain.quick_catalyst import import_catalyst
hidden = {hide}
from catalyst import dl
import catalyst.settings
print(json.dumps({{
    "hidden": hidden,
    "pyplot": "matplotlib.pyplot" in sys.modules,
    "sklearn": "sklearn" in sys.modules,
    "names": sorted(name for name in dir(dl) if name[0].isupper()),
}}))
import matplotlib.figure
from catalyst.callbacks.metrics.confusion_matrix import ConfusionMatrixCallback
"""


def looked(hide: str, folder: Path | None = None) -> dict[str, Any]:
    command = [sys.executable, "-c", _LOOK.format(hide=hide)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=folder)
    return json.loads(done.stdout)  # type: ignore[no-any-return]


def test_pyplot_and_sklearn_stay_out_and_only_their_callbacks_are_missing() -> None:
    quick, stock = looked("import_catalyst()"), looked("[]")
    assert quick["hidden"] == ["matplotlib", "optuna"] and not quick["pyplot"] and not quick["sklearn"]
    assert stock["pyplot"]  # else Catalyst has changed and quick_catalyst has had its day
    assert set(stock["names"]) - set(quick["names"]) <= {
        "ConfusionMatrixCallback", "OptunaPruningCallback", "SklearnBatchCallback", "SklearnLoaderCallback",
        "SklearnModelCallback",
    }  # fmt: skip


def test_what_was_imported_before_stays() -> None:
    assert looked("(__import__('matplotlib.pyplot'), import_catalyst())[1]")["hidden"] == ["optuna"]
    assert looked("(__import__('catalyst'), import_catalyst())[1]")["hidden"] == []


def test_a_users_settings_of_catalyst_are_followed(tmp_path: Path) -> None:
    (tmp_path / ".catalyst").write_text("[catalyst]\nml_required = true\n")
    found = looked("import_catalyst()", tmp_path)
    assert found["hidden"] == [] and found["sklearn"] and "ConfusionMatrixCallback" in found["names"]
