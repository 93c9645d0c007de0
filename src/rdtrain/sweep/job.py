"""One job of a multirun: trains what was planned, and leaves word if it fails."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from rdtrain.errors import UserError
from rdtrain.files import write_json
from rdtrain.lock import InUse
from rdtrain.run_folder import content_id
from rdtrain.sweep.plan import Plan, Point, code_hash
from rdtrain.sweep.status import refresh_status


def run_job(folder: Path, point_id: str, train: Callable[[dict[str, Any]], object]) -> None:
    """Train a point, whatever launcher started the job, as it was frozen when the sweep was submitted.

    Args:
        folder: of the sweep.
        point_id: of the job.
        train: trains a configuration.

    Raises:
        InUse: another process trains it, so that nothing is wrong with it.
        UserError: the user can put it right.
        Exception: a fault of ours; like a mistake it is written down for the table at the end.
    """
    plan = Plan(folder)
    word = plan.error_of(point_id)
    try:
        plan = Plan.read(folder)
        point, frozen = plan.point(point_id), plan.frozen(point_id)
        _check_content(plan, point_id, frozen)
        if word.is_file() and not frozen["sweep"]["retry"]:
            print(f"{point.id} failed before and is left alone (sweep.retry=false)")
            return
        word.unlink(missing_ok=True)
        _check_code(point, folder / point.run, frozen["sweep"]["on_code_change"])
        train({**frozen, "paths": {"runs": str(folder)}})
    except InUse:
        raise
    except UserError as mistake:
        with suppress(OSError):  # a full disk is not to hide what happened
            write_json(word, {"code": 2, "reason": "; ".join(mistake.problems)})
        raise
    except Exception as fault:
        with suppress(OSError):
            write_json(word, {"code": 1, "reason": f"{type(fault).__name__}: {fault}"})
        raise
    finally:
        with suppress(OSError, UserError):  # a damaged plan has been told by now
            refresh_status(plan, point_id)


def _check_content(plan: Plan, point_id: str, frozen: dict[str, Any]) -> None:
    # What it would train has another id, so neither the table nor the report would know of it.
    if content_id(frozen) != point_id:
        raise UserError(
            f"{plan.config_of(point_id)} is not what was planned; issue the sweep again to plan it anew, "
            "with changes typed as overrides"
        )


def _check_code(point: Point, run: Path, policy: str) -> None:
    now = code_hash()
    if now == point.code:
        return
    said = f"{point.id} was planned with code {point.code}, and this is {now}"
    if policy == "refuse":
        anew = f"delete {run} to begin anew" if run.is_dir() else "issue the sweep again to plan it anew"
        raise UserError(f"{said}; {anew}, or type sweep.on_code_change=warn")
    print(f"{said}; it goes on (sweep.on_code_change=warn)")
