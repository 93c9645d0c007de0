"""The suite of the kernel laboratory in small, as a user types it."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import pytest

from rdtrain.kernels.ranking import VERDICTS

COMMAND = str(Path(sys.executable).with_name("rdtrain"))


@pytest.mark.slow
def test_the_quick_suite_makes_a_leaderboard_within_three_minutes(tmp_path: Path) -> None:
    words = [COMMAND, "experiment=kernels/quick_suite"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=180)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    assert "8 points: 8 finished" in done.stdout
    out = tmp_path / "runs" / "kernels-quick" / "leaderboard"
    with open(out / "leaderboard.csv", newline="") as file:
        table = list(csv.DictReader(file))
    arms = {"plain", "rfft", "rdft", "dct", "dct9", "attenuated", "attenuated_half"}
    assert {row["arm"] for row in table} == arms and {row["cells"] for row in table} == {"8"}
    ranks = [float(row["mean_rank"]) for row in table]
    assert ranks == sorted(ranks) and 1 <= ranks[0] < ranks[-1] <= 7
    for row in table:
        assert sum(int(row[name]) for name in VERDICTS) == (0 if row["arm"] == "plain" else 8)
        assert row["arm"] in done.stdout
    with open(out / "cells.csv", newline="") as file:
        assert len({(row["target"], row["inputs"], row["optimizer"]) for row in csv.DictReader(file)}) == 8
    assert all((out / f"{name}.png").stat().st_size > 20_000 for name in ("heat-map", "curves", "losses"))
