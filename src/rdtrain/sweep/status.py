"""How far the points of a sweep are; read from files only, so it works on a folder that several machines share."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import timedelta
from pathlib import Path
from typing import Any

from rdtrain.lock import is_held, locked
from rdtrain.sweep.plan import PATIENCE_S, Plan, Point

FINISHED = "finished"
FAILED = "failed"
RUNNING = "running"
_POINTS_PER_S = 100  # a job looks at all points of its sweep only if that was not done for this share of their number
_SHOWN = {"loss": "loss/forward/unclamped", "bpp": "bpp/forward", "psnr": "psnr/forward/unclamped"}


@dataclass(frozen=True)
class Row:
    """The state of one point.

    Args:
        id: of its run.
        kind: of its point.
        state: planned, running, finished, interrupted, failed, or killed (it says running, but no process does).
        epoch: last whole epoch.
        epochs: that it is to have; early stopping may end it before.
        loss: of the validation, last value.
        bpp: of the validation, bits per pixel.
        psnr: of the validation, dB.
        left_s: seconds until its last epoch, at its pace so far; None where that is unknown.
        host: that it ran on last.
        overrides: what distinguishes it from others of its kind.
        reason: why it failed.
    """

    id: str
    kind: str
    state: str
    epoch: int = 0
    epochs: int = 0
    loss: float | None = None
    bpp: float | None = None
    psnr: float | None = None
    left_s: int | None = None
    host: str = ""
    overrides: str = ""
    reason: str = ""


def status(plan: Plan) -> list[Row]:
    """Look at every point.

    Args:
        plan: of the sweep.

    Returns:
        One row a point, in the plan's order.
    """
    words: dict[str, list[set[str]]] = {}
    for point in plan.points:
        words.setdefault(point.kind, []).append(set(point.overrides))
    shared = {kind: set.intersection(*sets) if len(sets) > 1 else set() for kind, sets in words.items()}
    return [_row(plan, point, shared[point.kind]) for point in plan.points]


def write_status(plan: Plan) -> list[Row]:
    """Write `status.csv`.

    Args:
        plan: of the sweep.

    Returns:
        Its rows.
    """
    from rdtrain.files import write_text

    rows = status(plan)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([field.name for field in fields(Row)])
    for row in rows:
        writer.writerow(["" if value is None else value for value in vars(row).values()])
    write_text(plan.folder / "status.csv", text.getvalue())
    return rows


def refresh_status(plan: Plan, ended: str) -> None:
    """Write `status.csv` unless it is new and another job will: not every one is to read all points of a large sweep.

    Args:
        plan: of the sweep, to which more points may have come since it was read.
        ended: id of the point whose job asks.
    """
    path = plan.folder / "status.csv"
    age = time.time() - path.stat().st_mtime if path.is_file() else math.inf
    if age > len(plan.points) / _POINTS_PER_S or not _is_any_held(plan, ended):
        if path.is_file():
            os.utime(path)  # jobs that end meanwhile leave it to this one
        with locked(plan.folder / "plan", patience_s=PATIENCE_S):  # what was looked at first is not to be written last
            write_status(Plan.read(plan.folder))


def _is_any_held(plan: Plan, ended: str) -> bool:
    # Jobs begin in the plan's order, so what runs beside this one stands next to it: first those behind it.
    place = next((index for index, point in enumerate(plan.points) if point.id == ended), 0)
    near = [*plan.points[place:], *plan.points[:place][::-1]]
    return any(is_held(plan.folder / point.run) for point in near)


def table(rows: Sequence[Row]) -> str:
    """Lay out rows for a terminal.

    Args:
        rows: of `status`.

    Returns:
        Lines with a heading, and how many points are in which state.
    """
    heading = ("id", "kind", "state", "epoch", "loss", "bpp", "PSNR [dB]", "left", "host", "overrides")
    cells = [heading, *(_cells(row) for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(heading))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells]
    states = [row.state for row in rows]
    counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    failed = [f"{row.id}: {row.reason}" for row in rows if row.reason]
    return "\n".join([*lines, f"{len(rows)} points: {counts}", *failed])


def error_code(path: Path) -> int:
    """What the command is to return because of a point that is not finished.

    Args:
        path: of the word that its job left.

    Returns:
        2 for a mistake of the user, 1 for anything else.
    """
    return int(_json(path).get("code", 1))


def _cells(row: Row) -> tuple[str, ...]:
    numbers = [("" if value is None else f"{value:.4f}") for value in (row.loss, row.bpp, row.psnr)]
    left = "" if row.left_s is None else str(timedelta(seconds=row.left_s))
    epoch = f"{row.epoch}/{row.epochs}" if row.epochs else ""
    return (row.id, row.kind, row.state, epoch, *numbers, left, row.host, row.overrides)


def _row(plan: Plan, point: Point, shared: set[str]) -> Row:
    folder = plan.folder / point.run
    summary = _json(folder / "summary.json")
    final, epoch = summary.get("final") or {}, int(summary.get("epochs") or 0)
    state = str(summary.get("status", "planned"))
    if state == RUNNING and not is_held(folder):
        state = "killed"
    reason = ""
    if state != FINISHED and plan.error_of(point.id).is_file() and not is_held(folder):
        state, reason = FAILED, str(_json(plan.error_of(point.id)).get("reason", ""))
    left = (
        round(summary["seconds"] / epoch * (point.epochs - epoch))
        if epoch and state not in (FINISHED, FAILED)
        else None
    )
    return Row(
        id=point.id,
        kind=point.kind,
        state=state,
        epoch=epoch,
        epochs=point.epochs,
        **{name: final.get(f"valid/{metric}") for name, metric in _SHOWN.items()},
        left_s=left,
        host=_host(_json(folder / "environment.json")),
        overrides=" ".join(text for text in point.overrides if text not in shared),
        reason=reason,
    )


def _host(environment: dict[str, Any]) -> str:
    return str([environment, *environment.get("continued", [])][-1].get("host", ""))


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # not there yet
        return {}
    return content if isinstance(content, dict) else {}
