"""How cost grows with the size of patches, channels, batch and data set: one process a point."""

from __future__ import annotations

import csv
import os
import statistics
import sys
from pathlib import Path
from typing import Any

from PIL import Image
from tqdm import tqdm

from benchmarks import training
from benchmarks.measure import Options, images
from benchmarks.processes import scratch

_BASE = {"hp.N": 32, "hp.M": 48, "dataset.patch_size": 64, "dataset.batch_size": 8}
# Axis -> its label, and the settings of its points.
AXES: dict[str, tuple[str, list[dict[str, int]]]] = {
    "image-size": ("side of the patches [pixels]", [{"dataset.patch_size": side} for side in (64, 128, 192, 256)]),
    "channels": ("channels N (M = 3/2 N)", [{"hp.N": n, "hp.M": n * 3 // 2} for n in (16, 32, 64, 128)]),
    "batch": ("patches a batch", [{"dataset.batch_size": batch} for batch in (2, 4, 8, 16, 32)]),
    "dataset": ("images in the data set", [{"images": count} for count in (100, 1000, 10000)]),
}  # fmt: skip
FIELDS = ("axis", "value", "side", "step_ms", "peak_mib", "first_step_s")
_PANELS = {
    "step_ms": "a training step [ms]", "peak_mib": "largest resident memory [MiB]",
    "first_step_s": "start to first step [s]",
}  # fmt: skip


def case_growth(options: Options) -> list[dict[str, Any]]:
    """Train a few steps at each point, with the runner and with the bare loop.

    Args:
        options: of the user.

    Returns:
        A row for each point and side, of `FIELDS`.
    """
    rows = []
    points = [(axis, point) for axis, (_, every) in AXES.items() for point in (every[:2] if options.quick else every)]
    for axis, point in tqdm(points, "growth", disable=not sys.stderr.isatty(), leave=False):
        with scratch() as folder:
            chosen = {**_BASE, **point}
            words = [f"{key}={value}" for key, value in chosen.items() if key != "images"]
            if "images" in chosen:
                words += _data_set(options, folder, chosen["images"])
            for side in ("bare", "ours"):
                done = training.steps(side, options, 5 if options.quick else 15, *words, "engine.threads=2")
                rows.append({
                    "axis": axis, "value": next(iter(point.values())),
                    "side": "bare loop" if side == "bare" else "rdtrain",
                    "step_ms": round(1000 * statistics.median(done.content["seconds"]), 2),
                    "peak_mib": round(done.content["peak_mib"]),
                    "first_step_s": round(done.content["first_step"] - done.started, 2),
                })  # fmt: skip
    return rows


def _data_set(options: Options, folder: Path, count: int) -> list[str]:
    # Many names of a few small files: what grows is the looking for them, not the disk.
    small = []
    for number, path in enumerate(images(options, "kodak", 8)):
        small.append(folder / f"small-{number}.png")
        with Image.open(path) as image:
            image.convert("RGB").resize((96, 96)).save(small[-1])
    (folder / "images").mkdir()
    for number in range(count):
        os.link(small[number % len(small)], folder / "images" / f"{number:06}.png")
    return ["dataset=image_folder", f"dataset.root={folder / 'images'}"]


def draw(rows: list[dict[str, Any]], folder: Path) -> None:
    """Write growth.csv and a figure for each axis.

    Args:
        rows: of `case_growth`.
        folder: that receives them.
    """
    from matplotlib.figure import Figure

    with open(folder / "growth.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    for axis, (label, _) in AXES.items():
        figure = Figure(figsize=(10, 3.2), layout="constrained")
        for panel, (name, quantity) in zip(figure.subplots(1, len(_PANELS)), _PANELS.items(), strict=True):
            for side, marker in (("bare loop", "o"), ("rdtrain", "s")):
                points = [row for row in rows if row["axis"] == axis and row["side"] == side]
                panel.plot([p["value"] for p in points], [p[name] for p in points], marker=marker, label=side)
            panel.set(xlabel=label, ylabel=quantity)
            panel.set_ylim(0, 1.1 * panel.get_ylim()[1])
            panel.set_xscale("log" if axis == "dataset" else "linear")
            panel.grid(alpha=0.3)
            panel.legend()
        figure.savefig(folder / f"growth-{axis}.png", dpi=90)
