"""The large convolutions of a trained model, by the installed command."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import pytest

COMMAND = str(Path(sys.executable).with_name("rdtrain"))
TRAINING = (
    "hp.N=4", "hp.M=6", "dataset.patch_size=64", "dataset.batch_size=4", "engine.num_epochs=1", "engine.epoch_steps=2",
    "engine.device=cpu", "engine.threads=1", "infer.max_images=1",
)  # fmt: skip


def _rdtrain(folder: Path, *words: str) -> None:
    done = subprocess.run([COMMAND, *words], cwd=folder, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr


@pytest.mark.slow
def test_a_run_is_factorised_by_its_folders_name(tmp_path: Path) -> None:
    """The command reads another run's configuration while it has one of its own."""
    _rdtrain(tmp_path, *TRAINING, "paths.runs=trained")
    (trained,) = (tmp_path / "trained").iterdir()
    words = ("model.costs=[0.5]", "model.iterations=2", "model.max_images=1", "engine.device=cpu", "engine.threads=1")
    _rdtrain(tmp_path, "experiment=factorisation/model", f"model.checkpoint={trained}", *words)
    (folder,) = (tmp_path / "runs").iterdir()
    with open(folder / "figures" / "layers.csv", newline="") as file:
        layers = [row["name"] for row in csv.DictReader(file)]
    assert layers == [f"{side}.{i}" for side in ("g_a", "g_s") for i in (0, 2, 4, 6)]
    with open(folder / "figures" / "model.csv", newline="") as file:
        costs = [float(row["cost"]) for row in csv.DictReader(file)]
    assert costs[0] == 0 and 0.2 < costs[1] <= 0.5
