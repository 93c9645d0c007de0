"""`experiment=switch_vs_plain`: several runs from one command, and one comparison of them."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

COMMAND = Path(sys.executable).with_name("rdtrain")
SMALL = (
    "hp.N=4", "hp.M=6", "engine.num_epochs=5", "engine.epoch_steps=3", "engine.threads=1", "dataset.batch_size=2",
    "scheduler.net.patience=1", "scheduler.net.threshold=0.99", "infer.every_n_epochs=5",
)  # fmt: skip


def test_arms_and_seeds_become_runs_and_one_comparison(tmp_path: Path) -> None:
    for part in ("train", "valid", "infer"):
        (tmp_path / "data" / part).mkdir(parents=True)
        coarse = np.random.default_rng(0).integers(0, 256, (9, 9, 3), dtype=np.uint8)
        picture = Image.fromarray(coarse).resize((96, 80), Image.Resampling.BICUBIC)
        picture.save(tmp_path / "data" / part / "a.png")
    words = ("experiment=switch_vs_plain", "dataset.root=data", "arm=plain,plain_matched_lr,switch", "seed=1", *SMALL)
    done = subprocess.run([str(COMMAND), *words], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    runs = tmp_path / "runs" / "switch_vs_plain"
    summaries = [json.loads(path.read_text()) for path in sorted(runs.glob("*/summary.json"))]
    assert [summary["status"] for summary in summaries] == ["finished"] * 3
    assert sorted(bool(summary["switch"]) for summary in summaries) == [False, False, True]
    rates = sorted(summary["final"]["train/lr/net"] for summary in summaries)
    assert rates[-1] == 1e-3  # of the run that absorbed its drop
    with open(runs / "report" / "tables" / "runs.csv", newline="") as file:
        curves = {row["curve"] for row in csv.DictReader(file)}
    assert len(curves) == 3
    assert (runs / "report" / "report.html").stat().st_size > 10_000
    figures = {path.name for path in (runs / "report" / "figures").glob("*.png")}
    assert {"loss-steps-0.0067.png", "loss-seconds-0.0067.png", "learning-rate.png"} <= figures
