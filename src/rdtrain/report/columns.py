"""The columns of a metrics.csv as arrays."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rdtrain.metrics import LOADERS

Column = NDArray[np.float64]


class UnreadableRun(Exception):
    """A run folder that cannot be reported; the message is one sentence for the user."""


def number(value: Any) -> float:
    """Read a number from a file that may hold anything.

    Args:
        value: what is there.

    Returns:
        It as a float, NaN for what is no number.
    """
    try:
        return float(value)
    except (TypeError, ValueError):
        return float("nan")


def read_columns(path: Path) -> dict[str, dict[str, Column]]:
    """Read a metrics.csv: one row an epoch and loader; of two rows of the same epoch and loader the later one counts.

    Args:
        path: the file; its first columns are epoch, step and loader.

    Returns:
        For each loader its columns, in order of epochs.

    Raises:
        UnreadableRun: when the file is damaged or has no row, with the line's number.
    """
    try:
        header, *lines = csv.reader(path.read_text(encoding="utf-8").splitlines())
    except (ValueError, csv.Error, OSError) as error:
        raise UnreadableRun(f"{path}: left out, it is damaged ({first_line(error)}).") from error
    rows: dict[str, dict[float, dict[str, float]]] = {}
    for number, values in enumerate(lines, start=2):
        try:
            loader, row = _row(header, values)
        except (ValueError, KeyError) as error:
            raise UnreadableRun(f"{path}: left out, line {number} is damaged ({first_line(error)}).") from error
        rows.setdefault(loader, {})[row["epoch"]] = row
    if not rows:
        raise UnreadableRun(f"{path}: left out, no epoch has been measured yet.")
    names = [name for name in header if name != "loader"]
    return {
        loader: {name: np.array([epochs[e][name] for e in sorted(epochs)]) for name in names}
        for loader, epochs in rows.items()
    }


def _row(header: list[str], values: list[str]) -> tuple[str, dict[str, float]]:
    if len(values) != len(header):
        raise ValueError(f"{len(values)} values for {len(header)} columns")
    cells = dict(zip(header, values, strict=True))
    loader = cells.pop("loader")
    if loader not in LOADERS:
        raise ValueError(f"unknown loader {loader!r}")
    row = {name: float(value) if value else np.nan for name, value in cells.items()}
    if not (np.isfinite(row["epoch"]) and np.isfinite(row["step"])):
        raise ValueError("no epoch or step")
    return loader, row


def first_line(error: Exception) -> str:
    """What went wrong, for the end of a sentence.

    Args:
        error: any exception.

    Returns:
        Its message in one line, shortened.
    """
    return " ".join(str(error).split())[:160] or type(error).__name__
