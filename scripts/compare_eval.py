"""Evaluate one model with CompressAI's own program and with rdtrain-eval: figures of every image, and the time.

python scripts/compare_eval.py export/model.pth --model bmshj2018-factorized --root data/kodak --rounds 5

Both programs run as a user runs them, in turn, on one thread each. Exit code 1 where a figure differs by over 1e-4.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TOLERANCE = 1e-4
OURS = {"bpp": "bpp/real", "psnr-rgb": "psnr/real/8bit"}  # CompressAI's name: the ledger's
Figures = dict[str, dict[str, float]]  # by image: CompressAI's names, and `coding`, seconds


def theirs(file: Path, model: str, root: Path, out: Path) -> Figures:
    """Run `compressai.utils.eval_model`.

    Args:
        file: state dict.
        model: its name in CompressAI.
        root: folder of images.
        out: empty folder for results.

    Returns:
        What it measured.
    """
    options = ["checkpoint", str(root), "-a", model, "-p", str(file), "-d", str(out), "--per-image"]
    run("compressai.utils.eval_model", options)
    found = {}
    for path in out.rglob("*.json"):
        content = json.loads(path.read_text())
        if "source" in content:  # the one without is the mean
            image = path.parent.relative_to(out) / content["source"]
            figures = content["results"]
            found[image.as_posix()] = figures | {"coding": figures["encoding_time"] + figures["decoding_time"]}
    return found


def ours(file: Path, model: str, root: Path, out: Path) -> Figures:
    """Run `rdtrain-eval`.

    Args:
        file: state dict.
        model: its name in CompressAI.
        root: folder of images.
        out: empty folder for results.

    Returns:
        What it measured.
    """
    options = [str(file), "--model", model, "--dataset", "image_folder", "--root", str(root), "--out", str(out)]
    run("rdtrain.eval.cli", options)
    (table,) = out.glob("*.csv")
    found = {}
    for row in csv.DictReader(table.read_text().splitlines()):
        coding = sum(float(value) for name, value in row.items() if name.startswith("time/")) / 1000
        figures = {name: float(row[column]) for name, column in OURS.items()}
        found[Path(row["image"]).with_suffix("").as_posix()] = figures | {"coding": coding}
    return found


def run(module: str, options: list[str]) -> None:
    """Run a program on one thread; its complaints are shown if it fails.

    Args:
        module: with a main program.
        options: of its command line.
    """
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-m", module, *options], env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{module} failed:\n{done.stderr}")


def reasons(file: Path, model: str, root: Path) -> list[str]:
    """Say what the two programs do differently with this model and these images.

    Args:
        file: state dict.
        model: its name in CompressAI.
        root: folder of images.

    Returns:
        Sentences; none where there is no such difference.
    """
    from rdtrain.quiet import silence_libraries

    silence_libraries()
    from rdtrain.eval.images import find_test_images
    from rdtrain.eval.models import load_subject
    from rdtrain.evaluation import stride
    from rdtrain.models import read_weights

    known, copied = read_weights(file)[0], load_subject(file, model).model
    found = [
        f"{image.name}: {image.width}x{image.height} is padded to multiples of 64 by CompressAI, of {side} here"
        for image in find_test_images("image_folder", root, None)
        if (side := stride(copied)) < 64 and (image.height % 64 or image.width % 64)
    ]
    moved = [(v - known[name]).abs().max().item() for name, v in copied.state_dict().items() if "quantiles" in name]
    if max(moved) > 0:
        found.append(f"quantiles: CompressAI takes the file's, here bisection moves them by up to {max(moved):g}")
    return found


def report(stock: Figures, own: Figures) -> float:
    """Print both programs' figures for every image.

    Args:
        stock: CompressAI's.
        own: ours.

    Returns:
        The largest difference.
    """
    if set(stock) != set(own):
        raise SystemExit(f"different images: {sorted(set(stock) ^ set(own))}")
    print(f"{'image':24} {'bpp':>10} {'ours less theirs':>18} {'PSNR':>10} {'ours less theirs':>18}")
    largest = 0.0
    for image in sorted(stock):
        less = {name: own[image][name] - stock[image][name] for name in OURS}
        largest = max(largest, *map(abs, less.values()))
        parts = [f"{stock[image][name]:10.6f} {less[name]:18.2e}" for name in OURS]
        print(f"{image:24} {' '.join(parts)}")
    print(f"largest difference {largest:.2e}")
    return largest


def main() -> int:
    """Compare.

    Returns:
        Exit code.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="a run's export/model.pth or any state dict of CompressAI")
    parser.add_argument("--model", required=True)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=1)
    chosen = parser.parse_args()
    measured: dict[str, Figures] = {}
    seconds: dict[str, list[float]] = {"theirs": [], "ours": []}
    coding: dict[str, list[float]] = {"theirs": [], "ours": []}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(shutil.copy(chosen.file, Path(folder, "model.pth")))  # in a run's folder it would be taken for one
        programs = [("theirs", theirs), ("ours", ours)]
        for _ in range(chosen.rounds):
            for name, program in programs:
                out = Path(tempfile.mkdtemp(dir=folder))
                start = time.perf_counter()
                measured[name] = program(file, chosen.model, chosen.root, out)
                seconds[name].append(time.perf_counter() - start)
                coding[name].append(sum(figures["coding"] for figures in measured[name].values()))
            programs.reverse()
        largest = report(measured["theirs"], measured["ours"])
        print("\n".join(reasons(file, chosen.model, chosen.root)))
    for label, times in (("whole program", seconds), ("compress and decompress, as each measures", coding)):
        ratios = sorted(b / a for a, b in zip(times["theirs"], times["ours"], strict=True))
        medians = [statistics.median(times[name]) for name in ("theirs", "ours")]
        print(
            f"{label}: theirs {medians[0]:.2f} s, ours {medians[1]:.2f} s, "
            f"median ratio {statistics.median(ratios):.3f} ({ratios[0]:.3f} to {ratios[-1]:.3f}, {len(ratios)} rounds)"
        )
    return int(not largest <= TOLERANCE)


if __name__ == "__main__":
    sys.exit(main())
