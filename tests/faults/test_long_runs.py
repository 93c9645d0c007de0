"""A run of very many epochs: what it holds, and what an epoch costs, does not grow with their number."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from rdtrain.config.schema import Config
from rdtrain.run_folder import RunFolder

Configure = Callable[..., Config]
# Writes what the process holds after some epochs, and the processor time that it took until then.
WATCHED = """
import gc, json, os, sys, time
import yaml
from catalyst import dl
from rdtrain import build
from rdtrain.config.check import check
from rdtrain.quiet import silence_libraries
from rdtrain.train import train

silence_libraries()
every, seen, made = int(sys.argv[2]), [], build.callbacks

class Witness(dl.Callback):
    def on_epoch_end(self, runner):
        if runner.epoch_step % every == 0:
            gc.collect()
            pages = int(open("/proc/self/statm").read().split()[1])
            files = len(os.listdir("/proc/self/fd"))
            seen.append({"kb": pages * os.sysconf("SC_PAGE_SIZE") // 1024, "files": files, "s": time.process_time()})

build.callbacks = lambda config: {**made(config), "witness": Witness(order=99)}
config, problems = check(yaml.safe_load(open(sys.argv[1])))
assert not problems, problems
train(config)
print(json.dumps(seen))
"""


def _watch(configure: Configure, tmp_path: Path, epochs: int, every: int) -> tuple[list[dict[str, float]], RunFolder]:
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8))
    for part in ("train", "valid"):
        (tmp_path / "data" / part).mkdir(parents=True)
        picture.save(tmp_path / "data" / part / "a.png")
    config = configure(
        "dataset=image_folder", f"dataset.root={tmp_path / 'data'}", "dataset.patch_size=16", "dataset.batch_size=1",
        "dataset.valid_crops=1", "dataset.valid_batch_size=1", "hp.N=2", "hp.M=4", "conv=plain",
        "engine.epoch_steps=1", f"engine.num_epochs={epochs}",
        f"infer.every_n_epochs={every}", "callbacks.early_stopping=null", "scheduler=constant",
    )  # fmt: skip
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config.to_dict()))
    done = subprocess.run(
        [sys.executable, "-c", WATCHED, str(tmp_path / "config.yaml"), str(every)],
        capture_output=True, text=True, timeout=500,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (folder,) = (tmp_path / "runs").iterdir()
    return json.loads(done.stdout.splitlines()[-1]), RunFolder(folder)


def _rows(folder: RunFolder) -> list[dict[str, Any]]:
    with open(folder.metrics, newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(
    ("epochs", "every", "mb"),
    [(200, 50, 2), pytest.param(2000, 200, 8, marks=[pytest.mark.slow, pytest.mark.long])],
    ids=["200", "2000"],
)
def test_nothing_grows(configure: Configure, tmp_path: Path, epochs: int, every: int, mb: int) -> None:
    seen, folder = _watch(configure, tmp_path, epochs, every)
    print(seen)
    first, last = seen[0], seen[-1]
    assert last["files"] == first["files"]
    assert last["kb"] - first["kb"] < 1024 * mb
    early, late = seen[1]["s"] - seen[0]["s"], seen[-1]["s"] - seen[-2]["s"]
    assert late < 1.5 * early + 0.5
    rows = _rows(folder)
    assert [int(row["epoch"]) for row in rows if row["loader"] == "train"] == list(range(1, epochs + 1))
    (events,) = folder.tensorboard.iterdir()
    assert events.stat().st_size < 2e6 + 12e3 * epochs
    assert folder.read_summary()["epochs"] == epochs
