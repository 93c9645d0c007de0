"""Run folders as numbers: the resolved configuration, the summary and the columns of metrics.csv.

Reading is done with plain YAML, JSON and CSV: a run folder is data, nothing of it is executed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from rdtrain.config.tasks import EXPERIMENTS
from rdtrain.errors import UserError
from rdtrain.report.columns import Column, UnreadableRun, first_line, number, read_columns
from rdtrain.report.image_sets import ImageSet
from rdtrain.report.plane import rd_lmbda


@dataclass(frozen=True)
class Run:
    """One run folder, read.

    Args:
        folder: where it is.
        config: the resolved configuration of `config.yaml`.
        summary: `summary.json`, or an empty dict when the run has not written it.
        columns: for each loader the columns of `metrics.csv`, float64, NaN where nothing was measured; all columns
            of a loader have one value an epoch.
        environment: `environment.json`, or an empty dict when there is none.
    """

    folder: Path
    config: dict[str, Any]
    summary: dict[str, Any]
    columns: dict[str, dict[str, Column]]
    environment: dict[str, Any] = field(default_factory=dict)

    def setting(self, key: str, default: Any = None) -> Any:
        """Look up a dotted key of the configuration.

        Args:
            key: such as `criterion.lmbda`.
            default: what to return when the key is missing or null.

        Returns:
            The value, or the default.
        """
        node: Any = self.config
        for part in key.split("."):
            node = node.get(part) if isinstance(node, dict) else None
        return default if node is None else node

    @property
    def name(self) -> str:
        """The folder's name, which begins with the run's id."""
        return self.folder.name

    @property
    def lmbda(self) -> float:
        """Weight of the distortion in R + lmbda * scale * D, whichever form of the loss was trained; NaN if unknown."""
        return rd_lmbda(number(self.setting("criterion.lmbda")), str(self.setting("criterion.form")), self.metric)

    @property
    def metric(self) -> str:
        """The quality that the loss is made of: `psnr` or `ms-ssim`."""
        return "ms-ssim" if self.setting("criterion.metric") == "ms-ssim" else "psnr"

    @property
    def image_set(self) -> ImageSet:
        """The images of the infer loader."""
        layout = str(self.setting("dataset.infer_name") or self.setting("dataset.name", "unknown images"))
        most = self.setting("infer.max_images")
        data = self.environment.get("data")
        found = data.get("infer", {}) if isinstance(data, dict) else {}
        there = found.get("images")
        if most is None:
            return ImageSet(layout, there, there, str(found.get("fingerprint", "")))
        if there is None or there > most:
            return ImageSet(layout, most)
        return ImageSet(layout, there, None if there == most else there, str(found.get("fingerprint", "")))

    @property
    def dataset(self) -> str:
        """The name of these images."""
        return self.image_set.name

    @property
    def status(self) -> str:
        """What `summary.json` says: running, finished, failed or interrupted."""
        return str(self.summary.get("status", "unknown"))

    @property
    def epochs(self) -> int:
        """Number of the last epoch in `metrics.csv`."""
        return int(max(columns["epoch"].max() for columns in self.columns.values()))

    @property
    def switch(self) -> dict[str, float] | None:
        """Epoch and step at which spectral convs became plain, or None."""
        switch = self.summary.get("switch")
        if not isinstance(switch, dict):
            return None
        return {key: number(switch.get(key)) for key in ("epoch", "step")}

    def column(self, loader: str, metric: str) -> Column:
        """One column of `metrics.csv`.

        Args:
            loader: train, valid or infer.
            metric: the column's name, such as `psnr/real/clamped`.

        Returns:
            One value an epoch, NaN where nothing was measured; all NaN when the run has no such column.
        """
        columns = self.columns.get(loader, {"epoch": np.empty(0)})
        return columns.get(metric, np.full(columns["epoch"].shape, np.nan))

    def series(self, loader: str, metric: str, against: str = "step") -> tuple[Column, Column]:
        """The measured values of one metric against another column.

        Args:
            loader: train, valid or infer.
            metric: the column's name.
            against: the column to be x: `epoch`, `step` or `time/elapsed_s`.

        Returns:
            x and y, both finite.
        """
        x, y = self.column(loader, against), self.column(loader, metric)
        measured = np.isfinite(x) & np.isfinite(y)
        return x[measured], y[measured]


def find_runs(paths: Iterable[Path]) -> tuple[list[Run], list[str]]:
    """Read every run folder at or under some paths.

    Args:
        paths: run folders, or folders with run folders in them at any depth.

    Returns:
        The runs that could be read in order of their paths, and one sentence for each that could not.

    Raises:
        UserError: when a path does not exist.
    """
    paths = list(paths)
    missing = [
        f"{path} does not exist; give a run folder or a folder with runs in it." for path in paths if not path.exists()
    ]
    if missing:
        raise UserError(missing)
    folders = dict.fromkeys(folder.resolve() for path in paths for folder in _run_folders(path))
    runs, problems = [], []
    for folder in folders:
        try:
            runs.append(read_run(folder))
        except UnreadableRun as problem:
            problems.append(str(problem))
    return runs, problems


def _run_folders(path: Path) -> Iterable[Path]:
    for root, children, files in os.walk(path):
        children[:] = sorted(name for name in children if not name.startswith("."))
        if {"config.yaml", "metrics.csv"} & set(files):
            children.clear()
            yield Path(root)


def read_run(folder: Path) -> Run:
    """Read one run folder.

    Args:
        folder: the run folder.

    Returns:
        The run.

    Raises:
        UnreadableRun: when a file is missing, damaged or holds no measurement.
    """
    missing = [name for name in ("config.yaml", "metrics.csv") if not (folder / name).is_file()]
    if missing:
        raise UnreadableRun(
            f"{folder}: left out, it has no {' and no '.join(missing)} (did the run stop in its first epoch?)."
        )
    try:
        config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
        summary, environment = (_read_json(folder / name) for name in ("summary.json", "environment.json"))
    except (yaml.YAMLError, ValueError, RecursionError, OSError) as error:
        raise UnreadableRun(f"{folder}: left out, {first_line(error)}.") from error
    if not all(isinstance(one, dict) for one in (config, summary, environment)):
        files = "config.yaml, summary.json or environment.json"
        raise UnreadableRun(f"{folder}: left out, {files} is not a mapping of keys to values.")
    if (task := config.get("task")) in EXPERIMENTS:
        raise UnreadableRun(f"{folder}: left out, an experiment ({task}) has no rate; see {folder / 'figures'}.")
    return Run(folder, config, summary, read_columns(folder / "metrics.csv"), environment)


def _read_json(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


def notes(run: Run) -> list[str]:
    """What a reader must know before trusting a run's figures.

    Args:
        run: the run.

    Returns:
        Sentences; none for a finished run without warnings.
    """
    warnings = run.summary.get("warnings")
    said = [f"{run.name}: {warning}" for warning in warnings] if isinstance(warnings, list) else []
    if run.status != "finished":
        planned = run.setting("engine.num_epochs")
        of = f" of {planned}" if planned else ""
        said.insert(0, f"{run.name}: not finished (status {run.status}), shown up to epoch {run.epochs}{of}.")
    return said
