"""From results to verdicts. A cell is one target, inputs and optimizer; in it all arms have the same repetitions.

A transform's error is compared with plain's and with its controls', repetition by repetition.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import mean, median
from typing import Any, NamedTuple

from rdtrain.kernels.arms import PLAIN, control_names, is_control
from rdtrain.kernels.results import Result

WINS, RATE, EVEN, LOSES = "wins", "only the rate", "even", "loses"
VERDICTS = {
    WINS: "a smaller error than plain and than the controls, in every repetition",
    RATE: "a smaller error than plain in every repetition, but not than plain with its learning rate or its beginning",
    EVEN: "neither",
    LOSES: "a larger error than plain and than the controls, in every repetition",
}
VERDICTS_ALONE = {
    WINS: "a smaller error than plain in every repetition",
    EVEN: "neither",
    LOSES: "a larger error than plain in every repetition",
}
"""What they mean where no transform has a control."""

DIVERGED = 1e6
"""What stands in the tables for an error that is larger, or is no number."""
MARGIN = 0.99
"""An error counts as smaller than another one below this part of it; rounding alone shall not decide."""
_SMALLEST = 1e-12  # a relative error below what float32 can tell from 0; a loss is the square of one


class Cell(NamedTuple):
    """What all arms had in common."""

    target: str
    inputs: str
    optimizer: str
    lr: float


@dataclass(frozen=True)
class Standing:
    """One arm in one cell.

    Args:
        cell: the cell.
        arm: name of the arm.
        lr_factor: of the arm.
        numbers: stored for each kernel.
        rank: among plain and the transforms by `error`, from 1, equal for errors within `MARGIN`; None for controls.
        error: geometric mean of the final kernel errors.
        smallest: of the repetitions' errors.
        largest: of the repetitions' errors.
        to_plain: geometric mean of the ratios to plain's errors.
        to_control: of those to the errors of the better control, which is plain where there is no other.
        steps: median of the steps to the tolerance; None where a repetition did not come there.
        loss: geometric mean of the last losses.
        loss_to_plain: its ratio to plain's.
        loss_to_control: its ratio to that of the better control, likewise.
        low: mean error at low frequencies.
        high: mean error at high frequencies.
        floor: largest of the repetitions' smallest possible errors.
        verdict: a key of `VERDICTS`; empty for plain and controls.
    """

    cell: Cell
    arm: str
    lr_factor: float
    numbers: int
    rank: int | None
    error: float
    smallest: float
    largest: float
    to_plain: float
    to_control: float
    steps: float | None
    loss: float
    loss_to_plain: float
    loss_to_control: float
    low: float
    high: float
    floor: float
    verdict: str


def standings(results: Iterable[Result]) -> list[Standing]:
    """Judge all arms of all cells.

    Args:
        results: each cell with plain.

    Returns:
        Standings, cell by cell in the order in which they come, each from the smallest to the largest error.
    """
    cells: dict[Cell, dict[str, list[Result]]] = {}
    for result in results:
        cell = Cell(result.target, result.inputs, result.optimizer, result.lr)
        cells.setdefault(cell, {}).setdefault(result.arm, []).append(result)
    return [standing for cell, arms in cells.items() for standing in _of_cell(cell, arms)]


def _of_cell(cell: Cell, arms: dict[str, list[Result]]) -> list[Standing]:
    errors = {arm: [_within(result.kernel_error) for result in found] for arm, found in arms.items()}
    order = sorted(arms, key=lambda arm: geometric_mean(errors[arm]))
    means = {arm: geometric_mean(errors[arm]) for arm in order}
    losses = {
        arm: geometric_mean([_within(result.loss, _SMALLEST**2) for result in found]) for arm, found in arms.items()
    }
    ranked = [arm for arm in order if not is_control(arm)]
    found = []
    for arm in order:
        controls = [name for name in control_names(arm) if name in arms] or [PLAIN]
        first, own = arms[arm][0], errors[arm]
        reached = [result.steps_to_tolerance for result in arms[arm]]
        steps = [number for number in reached if number is not None]
        found.append(
            Standing(
                cell=cell,
                arm=arm,
                lr_factor=first.lr_factor,
                numbers=first.numbers,
                rank=1 + sum(means[other] < MARGIN * means[arm] for other in ranked) if arm in ranked else None,
                error=means[arm],
                smallest=min(own),
                largest=max(own),
                to_plain=means[arm] / means[PLAIN],
                to_control=means[arm] / min(means[name] for name in controls),
                steps=median(steps) if len(steps) == len(reached) else None,
                loss=losses[arm],
                loss_to_plain=losses[arm] / losses[PLAIN],
                loss_to_control=losses[arm] / min(losses[name] for name in controls),
                low=mean(_within(result.error_low) for result in arms[arm]),
                high=mean(_within(result.error_high) for result in arms[arm]),
                floor=max(result.floor for result in arms[arm]),
                verdict=""
                if arm == PLAIN or is_control(arm)
                else verdict(own, errors[PLAIN], [errors[name] for name in controls]),
            )
        )
    return found


def verdict(own: Sequence[float], plain: Sequence[float], controls: Sequence[Sequence[float]]) -> str:
    """Judge a transform.

    Args:
        own: its errors by repetition.
        plain: plain's.
        controls: those of plain at the transform's hidden learning rate, and with its beginning.

    Returns:
        A key of `VERDICTS`.
    """
    if _smaller(own, plain):
        return WINS if all(_smaller(own, control) for control in controls) else RATE
    return LOSES if all(_smaller(other, own) for other in (plain, *controls)) else EVEN


def _smaller(one: Sequence[float], other: Sequence[float]) -> bool:
    return all(a < MARGIN * b for a, b in zip(one, other, strict=True))


def geometric_mean(values: Sequence[float]) -> float:
    """Mean of orders of magnitude.

    Args:
        values: above 0.

    Returns:
        `exp(mean(log))`.
    """
    return math.exp(mean(math.log(value) for value in values))


def _within(value: float, smallest: float = _SMALLEST) -> float:
    return min(max(value, smallest), DIVERGED) if math.isfinite(value) else DIVERGED


def standing_rows(found: Iterable[Standing]) -> list[dict[str, Any]]:
    """Rows of a table.

    Args:
        found: standings.

    Returns:
        Values by column, four digits.
    """
    columns = (
        "lr_factor", "error", "smallest", "largest", "to_plain", "to_control",
        "loss", "loss_to_plain", "loss_to_control", "low", "high", "floor",
    )  # fmt: skip
    return [
        {**one.cell._asdict(), "arm": one.arm, "rank": one.rank or "", "verdict": one.verdict}
        | {"steps_to_tolerance": "" if one.steps is None else f"{one.steps:g}", "numbers": one.numbers}
        | {name: float(f"{getattr(one, name):.4g}") for name in columns}
        for one in found
    ]


def leaders(found: Sequence[Standing]) -> list[dict[str, Any]]:
    """Rank plain and the transforms over all cells.

    Args:
        found: standings of any number of cells.

    Returns:
        One row an arm, the smallest mean rank first: in how many cells it has which verdict, geometric means over the
        cells of its ratios to plain and to its control, of errors and of losses, and in how many cells all repetitions
        reached the tolerance.
    """
    rows = []
    for arm in dict.fromkeys(one.arm for one in found if one.rank is not None):
        own = [one for one in found if one.arm == arm]
        rows.append(
            {
                "arm": arm,
                "mean_rank": round(mean(one.rank or 0 for one in own), 2),
                "cells": len(own),
                **{name: sum(one.verdict == name for one in own) for name in VERDICTS},
                **{
                    name: float(f"{geometric_mean([getattr(one, name) for one in own]):.3g}")
                    for name in ("to_plain", "to_control", "loss_to_plain", "loss_to_control")
                },
                "reached": sum(one.steps is not None for one in own),
            }
        )
    return sorted(rows, key=lambda row: row["mean_rank"])
