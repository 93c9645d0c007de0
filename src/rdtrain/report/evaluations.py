"""Evaluation result files: CompressAI's JSON format, and the per-image table beside it.

The JSON is `{"name", "description", "meta": {...}, "results": {metric: [one value a point]}}`. Metrics are CompressAI's
(`bpp`, `psnr-rgb`, `ms-ssim-rgb`, older files `psnr`, `ms-ssim`) or names of the ledger (`psnr/real/clamped`), and
`lmbda` where known. The table has the JSON's name with the ending .csv: one row an image, columns `image`, the same
metrics, and `point` (index into the lists, 0 when the column is missing).
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rdtrain.report.columns import number
from rdtrain.report.image_sets import ImageSet
from rdtrain.report.plane import rd_lmbda

# What CompressAI's names mean in the ledger; it measures real bitstreams and does not say how it treats x_hat.
LEDGER_NAMES = {
    "bpp": "bpp/real",
    "psnr-rgb": "psnr/real/",
    "psnr": "psnr/real/",
    "ms-ssim-rgb": "ms_ssim/real/",
    "ms-ssim": "ms_ssim/real/",
}
REPORT = "rdtrain-report"  # marks curves that a report wrote, which are not read again unless named
NOT_EVALUATIONS = {"summary.json", "environment.json"}


class UnreadableEvaluation(Exception):
    """A result file that cannot be reported; the message is one sentence for the user."""


@dataclass(frozen=True)
class Evaluation:
    """One result file, read.

    Args:
        file: where it is.
        name: the model's name as the file has it.
        meta: the file's `meta`, an empty dict when it has none.
        results: ledger name to values, float64, shape (P,) for P points.
        images: for each point the images' names under `image`, and ledger name to values, all of shape (I,) in order of
            the names; empty without a table.
    """

    file: Path
    name: str
    meta: dict[str, Any]
    results: dict[str, NDArray[np.float64]]
    images: list[dict[str, NDArray[Any]]]

    @property
    def image_set(self) -> ImageSet:
        """The images that it was measured on, without those that failed."""
        count, failed, most = (self.meta.get(key) for key in ("n_images", "failed", "max_images"))
        missing = len(failed) if isinstance(failed, dict) else 0
        total = count + missing if isinstance(count, int) and not (most and count + missing >= most) else None
        layout = str(self.meta.get("dataset", "unknown images"))
        return ImageSet(
            layout, count if isinstance(count, int) else None, total, str(self.meta.get("fingerprint") or "")
        )

    @property
    def checkpoint(self) -> str:
        """Name of the weights' file without its ending, such as `best`; empty when the file does not say."""
        return Path(str(self.meta.get("checkpoint") or "")).stem

    @property
    def weights(self) -> str:
        """What tells the weights from others: their hash, else their file."""
        return str(self.meta.get("weights_id") or self.meta.get("checkpoint") or self.file)

    @property
    def metric(self) -> str:
        """The quality that the model was trained for: `psnr` or `ms-ssim`."""
        named = self._training.get("metric", self.meta.get("opt_metric"))
        return "ms-ssim" if "ms-ssim" in str(named) else "psnr"

    @property
    def lmbda(self) -> NDArray[np.float64]:
        """Weight of D in R + lmbda * scale * D that each point was trained with, shape (P,), NaN when unknown."""
        points = self.results["bpp/real"].size
        if "lmbda" in self._training:
            own = number(self._training["lmbda"])
            return np.full(points, rd_lmbda(own, str(self._training.get("form")), self.metric))
        return self.results.get("lmbda", np.full(points, np.nan))

    @property
    def _training(self) -> dict[str, Any]:
        # The run's own criterion, which `rdtrain-eval --lmbda` does not change.
        training = self.meta.get("trained_with")
        return training if isinstance(training, dict) else {}

    def notes(self) -> list[str]:
        """What a reader must know before trusting the figures.

        Returns:
            Sentences about images that failed or were too small for MS-SSIM, and about a lambda that was typed.
        """
        said = []
        failed, few = self.meta.get("failed"), self.meta.get("ms_ssim_images")
        if isinstance(failed, dict) and failed:
            said.append(f"{self.file.name}: {len(failed)} images failed and are in no mean: {', '.join(failed)}.")
        if few is not None and few != self.meta.get("n_images"):
            count = f"{few} of {self.meta.get('n_images')} images"
            said.append(f"{self.file.name}: only {count} are large enough for MS-SSIM, which is left out.")
        if self.meta.get("lmbda_typed") and self._training:
            said.append(f"{self.file.name}: its losses are of a typed lambda; here they are of the training's.")
        return said


def find_evaluations(paths: Iterable[Path]) -> tuple[list[Evaluation], list[str]]:
    """Read every evaluation result at or under some paths.

    Args:
        paths: result files, or folders with result files in them at any depth; other JSON files are passed over.

    Returns:
        The evaluations, and one sentence for each file that could not be read.
    """
    paths = list(paths)
    given = {path.resolve() for path in paths if path.is_file()}
    files = dict.fromkeys(file.resolve() for path in paths for file in _json_files(path))
    evaluations, problems = [], []
    for file in files:
        try:
            evaluation = read_evaluation(file)
        except UnreadableEvaluation as problem:
            problems.append(str(problem))
        else:
            if evaluation and (file in given or evaluation.meta.get("made_by") != REPORT):
                evaluations.append(evaluation)
            elif file in given:
                problems.append(f"{file}: left out, it is no evaluation result (a JSON object with results.bpp).")
    return evaluations, problems


def _json_files(path: Path) -> Iterable[Path]:
    if path.is_file():
        yield path
    for root, children, files in os.walk(path):
        children[:] = sorted(name for name in children if not name.startswith("."))
        yield from (
            Path(root, name) for name in sorted(files) if name.endswith(".json") and name not in NOT_EVALUATIONS
        )


def read_evaluation(file: Path) -> Evaluation | None:
    """Read one result file and the table beside it.

    Args:
        file: the JSON file.

    Returns:
        The evaluation, or None for JSON that is something else.

    Raises:
        UnreadableEvaluation: when the file is damaged, or its lists or its table do not fit together.
    """
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
        if not (isinstance(data, dict) and isinstance(data.get("results"), dict) and "bpp" in data["results"]):
            return None
        results = _read_results(data["results"])
        images = _read_images(file.with_suffix(".csv"), results["bpp/real"].size)
    except (ValueError, TypeError, KeyError, RecursionError, csv.Error, OSError) as error:
        raise UnreadableEvaluation(f"{file}: left out, {' '.join(str(error).split())[:160]}.") from error
    meta = data.get("meta")
    return Evaluation(file, str(data.get("name", file.stem)), meta if isinstance(meta, dict) else {}, results, images)


def _read_results(lists: dict[str, Any]) -> dict[str, NDArray[np.float64]]:
    results = {_ledger_name(name): np.asarray(values, dtype=np.float64) for name, values in lists.items()}
    points = results["bpp/real"].shape
    if len(points) != 1 or {values.shape for values in results.values()} != {points}:
        raise ValueError("its lists are not of one length")
    return results


def _ledger_name(name: str) -> str:
    return LEDGER_NAMES.get(name, name)


def _read_images(table: Path, points: int) -> list[dict[str, NDArray[Any]]]:
    if not table.is_file():
        return []
    with table.open(newline="", encoding="utf-8") as file:
        rows = sorted(csv.DictReader(file), key=lambda row: row["image"])
    numbers = [name for name in (rows[0] if rows else []) if name not in ("image", "point")]
    images: list[dict[str, NDArray[Any]]] = []
    for point in range(points):
        own = [row for row in rows if int(row.get("point") or 0) == point]
        values = {_ledger_name(name): np.array([float(row[name] or "nan") for row in own]) for name in numbers}
        images.append({"image": np.array([row["image"] for row in own]), **values})
    return images
