"""One job of a multirun: trains what was planned, and leaves word if it fails."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from rdtrain.errors import UserError
from rdtrain.files import write_json
from rdtrain.sweep.plan import Plan, Point, code_hash
from rdtrain.sweep.status import refresh_status


def run_job(
    folder: Path, overrides: Sequence[str], composed: dict[str, Any], train: Callable[[dict[str, Any]], object]
) -> None:
    """Train a point, whatever launcher started the job.

    Args:
        folder: of the sweep.
        overrides: of the job, in the spelling of Hydra's sweeper.
        composed: the configuration as this process composes it, for jobs that were not planned; what was frozen when
            the sweep was submitted wins.
        train: trains a configuration.

    Raises:
        UserError: the user can put it right.
        Exception: a fault of ours; like the other it is written down for the table at the end.
    """
    plan = Plan.read(folder)
    point = plan.made_by(overrides)
    if point is None:
        train(composed)
        return
    frozen = plan.frozen(point.id)
    word = plan.error_of(point.id)
    if word.is_file() and not frozen["sweep"]["retry"]:
        print(f"{point.id} failed before and is left alone (sweep.retry=false)")
        return
    word.unlink(missing_ok=True)
    try:
        _check_code(point, frozen["sweep"]["on_code_change"])
        train({**frozen, "paths": {"runs": str(folder)}})
    except UserError as mistake:
        with suppress(OSError):  # a full disk is not to hide what happened
            write_json(word, {"code": 2, "reason": "; ".join(mistake.problems)})
        raise
    except Exception as fault:
        with suppress(OSError):
            write_json(word, {"code": 1, "reason": f"{type(fault).__name__}: {fault}"})
        raise
    finally:
        with suppress(OSError):
            refresh_status(plan)


def _check_code(point: Point, policy: str) -> None:
    now = code_hash()
    if now == point.code:
        return
    said = f"{point.id} was planned with code {point.code}, and this is {now}"
    if policy == "refuse":
        raise UserError(f"{said}; issue the sweep again to plan it anew, or type sweep.on_code_change=warn")
    print(f"{said}; it goes on (sweep.on_code_change=warn)")
