"""What the report draws: models measured on images, from run folders, evaluation files or a list of points."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from rdtrain.errors import UserError
from rdtrain.metrics import VARIANTS
from rdtrain.report.evaluations import Evaluation
from rdtrain.report.plane import NAN, RDPoint, scale
from rdtrain.report.runs import Run

PATHS = ("forward", "real")
# The variant of each path that the report compares: what training minimises, and what a decoder gives out.
SHOWN = {"forward": "unclamped", "real": "clamped"}


@dataclass(frozen=True)
class Measurement:
    """One model measured on one set of images.

    Args:
        curve: the curve that it is a point of.
        label: the model's own name, without its lambda.
        dataset: the images.
        lmbda: weight of the distortion that it was trained with; NaN when unknown.
        points: its points, at most one for each path and variant.
        images: the images' names under `image`, ledger name to one value an image, all (I,); empty when not known.
        metric: the quality that it was trained for, which its lmbda belongs to: `psnr` or `ms-ssim`.
        weights: which ones were measured, `best`, `last` or another checkpoint; empty when unknown.
    """

    curve: str
    label: str
    dataset: str
    lmbda: float
    points: tuple[RDPoint, ...]
    images: dict[str, NDArray[Any]] = field(default_factory=dict)
    metric: str = "psnr"
    weights: str = ""

    @property
    def full_label(self) -> str:
        """The label with the lambda, where it is known."""
        return f"{self.label}, λ = {self.lmbda:g}" if np.isfinite(self.lmbda) else self.label

    def weight(self, metric: str) -> float:
        """The lambda for the loss made of some quality.

        Args:
            metric: `psnr` or `ms-ssim`.

        Returns:
            lmbda, or NaN where the model was trained for the other quality.
        """
        return self.lmbda if metric == self.metric else NAN

    def point(self, path: str, variant: str | None = None) -> RDPoint | None:
        """One of the points.

        Args:
            path: `forward` or `real`.
            variant: `unclamped`, `clamped` or `8bit`; None for the one that the report compares (`SHOWN`).

        Returns:
            The point; the one without a stated variant where the wanted one is missing; None where both are.
        """
        there = {point.variant: point for point in self.points if point.path == path}
        return there.get(variant or SHOWN[path], there.get(""))


def of_images(one: Measurement, path: str, quantity: str) -> tuple[NDArray[Any], NDArray[Any]] | None:
    """The rate and the quality of each image.

    Args:
        one: the measurement.
        path: `forward` or `real`.
        quantity: `psnr` or `ms_ssim`.

    Returns:
        Bits per pixel and the quantity as logged, each of shape (I,); None when not measured image by image.
    """
    bpp = one.images.get(f"bpp/{path}")
    quality = one.images.get(f"{quantity}/{path}/{SHOWN[path]}", one.images.get(f"{quantity}/{path}/"))
    return None if bpp is None or quality is None or not bpp.size else (bpp, quality)


def mean_of(members: Sequence[Measurement]) -> Measurement:
    """The mean over seeds.

    Args:
        members: at least one, of one curve, lambda and data set.

    Returns:
        A measurement with the points that all members have, each number averaged.
    """
    first = members[0]
    if len(members) == 1:
        return first
    points = []
    for wanted in first.points:
        same = [p for one in members for p in one.points if (p.path, p.variant) == (wanted.path, wanted.variant)]
        if len(same) == len(members):
            numbers = ("bpp", "psnr", "psnr_of_mean_mse", "ms_ssim")
            means = {name: float(np.mean([getattr(point, name) for point in same])) for name in numbers}
            points.append(RDPoint(wanted.path, wanted.variant, **means))
    return replace(first, label=f"{first.curve} ({len(members)} seeds)", points=tuple(points), images={})


def of_run(run: Run, curve: str) -> Measurement | None:
    """What a run measured on its infer images, in the last epoch with real bitstreams.

    Args:
        run: the run.
        curve: the curve that it is a point of.

    Returns:
        The measurement, or None when the infer images were never measured.
    """
    for path in ("real", "forward"):
        measured = np.flatnonzero(np.isfinite(run.column("infer", f"bpp/{path}")))
        if measured.size:
            row = int(measured[-1])
            points = _points({name: float(values[row]) for name, values in run.columns["infer"].items()})
            label = _label(run, curve, "last")
            return Measurement(curve, label, run.dataset, run.lmbda, points, metric=run.metric, weights="last")
    return None


def of_evaluation(evaluation: Evaluation, run: Run | None = None, curve: str = "") -> list[Measurement]:
    """The models of an evaluation file.

    Args:
        evaluation: the file.
        run: the run that was evaluated, when known.
        curve: the curve that the run is a point of.

    Returns:
        One measurement a point of the file.
    """
    results = evaluation.results
    curve = curve or evaluation.name
    metric = run.metric if run else evaluation.metric
    all_have_ms_ssim = evaluation.meta.get("ms_ssim_images") == evaluation.meta.get("n_images")
    if "ms_ssim_images" in evaluation.meta and not all_have_ms_ssim:  # its rates are those of other images
        results = {name: values for name, values in results.items() if not name.startswith("ms_ssim")}
    found = []
    for i in range(results["bpp/real"].size):
        lmbda = run.lmbda if run else float(evaluation.lmbda[i])
        points = _points({name: float(values[i]) for name, values in results.items()})
        images = evaluation.images[i] if evaluation.images else {}
        numbered = curve if np.isfinite(lmbda) else f"{curve} {i + 1}"
        weights = evaluation.checkpoint if run else ""
        label = _label(run, curve, weights) if run else numbered
        dataset = evaluation.image_set.name
        found.append(Measurement(curve, label, dataset, lmbda, points, images, metric, weights))
    return found


def _label(run: Run, curve: str, weights: str) -> str:
    return ", ".join(filter(None, [curve, f"seed {run.setting('seed', '?')}", weights]))


def _points(values: dict[str, float]) -> tuple[RDPoint, ...]:
    points = []
    for path in PATHS:
        for variant in (*VARIANTS, ""):
            names = [f"{quantity}/{path}/{variant}" for quantity in ("psnr", "psnr_of_mean_mse", "ms_ssim")]
            point = RDPoint(path, variant, values.get(f"bpp/{path}", NAN), *(values.get(name, NAN) for name in names))
            if np.isfinite(point.bpp) and np.isfinite([point.psnr, point.psnr_of_mean_mse, point.ms_ssim]).any():
                points.append(point)
    return tuple(points)


def from_file(file: Path, dataset: str) -> list[Measurement]:
    """Read points that somebody gives as numbers.

    Args:
        file: a CSV with a header, or a YAML list of mappings. Keys: `label`, `bpp`, at least one of `psnr`,
            `psnr_of_mean_mse` and `ms_ssim`, and if wanted `path` (real), `variant`, `lmbda`, `metric` (that lmbda
            belongs to: psnr), `curve` (the label), `dataset`. Rows with equal label, lmbda and dataset are one model.
        dataset: the images, where a row does not say.

    Returns:
        The models in order of the file.

    Raises:
        UserError: when the file is missing or a row cannot be understood, with the row's number.
    """
    models: dict[tuple[str, str, str], Measurement] = {}
    for number, row in enumerate(_read_rows(file), start=1):
        try:
            one = _from_row(row, dataset)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{file}: point {number} cannot be understood ({error}); {POINT_HINT}") from error
        key = (one.label, str(one.lmbda), one.dataset)
        points = (*models[key].points, *one.points) if key in models else one.points
        models[key] = replace(one, points=points)
    if not models:
        raise UserError(f"{file} has no points; {POINT_HINT}")
    return list(models.values())


POINT_HINT = "a point is such as {label: Conv2d, path: real, bpp: 0.308, psnr: 29.92, lmbda: 0.0067}."


def _read_rows(file: Path) -> list[Any]:
    try:
        text = file.read_text(encoding="utf-8")
        rows = list(csv.DictReader(text.splitlines())) if file.suffix.lower() == ".csv" else yaml.safe_load(text)
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
        raise UserError(f"{file} cannot be read ({' '.join(str(error).split())}); {POINT_HINT}") from error
    rows = rows.get("points") if isinstance(rows, dict) else rows
    if not isinstance(rows, list):
        raise UserError(f"{file} is no list of points; {POINT_HINT}")
    return rows


def _from_row(row: dict[str, Any], dataset: str) -> Measurement:
    row = {key: value for key, value in row.items() if value not in (None, "")}
    missing = {"label", "bpp"} - set(row)
    if missing:
        raise ValueError(f"no {', '.join(sorted(missing))}")
    path = row.pop("path", "real")
    if path not in PATHS:
        raise ValueError(f"path is {path!r}, not {' or '.join(PATHS)}")
    label, lmbda = str(row.pop("label")), float(row.pop("lmbda", NAN))
    curve, images = str(row.pop("curve", label)), str(row.pop("dataset", dataset))
    variant, metric = str(row.pop("variant", SHOWN[path])), str(row.pop("metric", "psnr"))
    scale(metric)
    unknown = set(row) - {f.name for f in fields(RDPoint)}
    if unknown:
        raise ValueError(f"unknown key {', '.join(sorted(unknown))}")
    point = RDPoint(path, variant, **{key: float(value) for key, value in row.items()})
    if not np.isfinite(point.bpp) or not np.isfinite([point.psnr, point.psnr_of_mean_mse, point.ms_ssim]).any():
        raise ValueError("a finite bpp and a finite psnr or ms_ssim are needed")
    return Measurement(curve, label, images, lmbda, (point,), metric=metric)
