"""The last numbers of a fit, one row an arm and repetition, and the traces behind them; read back from run folders."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rdtrain.conv.transform import Transform
from rdtrain.kernels.arms import Arm
from rdtrain.kernels.bank import KernelBank, projected, relative_error
from rdtrain.kernels.measures import band_errors, frequency_error
from rdtrain.kernels.schema import Config

Traces = dict[tuple[str, str], NDArray[np.float64]]


@dataclass(frozen=True)
class Result:
    """One arm in one repetition.

    Args:
        target: label of what was learned.
        inputs: `inputs.name`.
        optimizer: name of its class.
        lr: its learning rate, that of plain kernels.
        arm: name of the arm.
        lr_factor: by which the arm's learning rate was multiplied.
        numbers: stored for each kernel.
        seed: of the repetition.
        steps: optimizer steps in all.
        steps_to_tolerance: None where the tolerance was not reached.
        loss: mean squared error of the outputs, mean of the last epoch.
        kernel_error: `||w - w*|| / ||w*||` after the last step.
        error_low: its part from frequencies below `measures.LOW_BAND`; the squares of both add up.
        error_high: its part from the others.
        floor: smallest kernel error that the arm can reach, above 0 where it cannot store every kernel.
    """

    target: str
    inputs: str
    optimizer: str
    lr: float
    arm: str
    lr_factor: float
    numbers: int
    seed: int
    steps: int
    steps_to_tolerance: int | None
    loss: float
    kernel_error: float
    error_low: float
    error_high: float
    floor: float


@torch.no_grad()
def collect(
    config: Config,
    label: str,
    arms: Sequence[Arm],
    bank: KernelBank,
    losses: Tensor,
    reached: Sequence[Sequence[int | None]],
) -> list[Result]:
    """Measure a bank after its last step.

    Args:
        config: of the fit.
        label: of the target.
        arms: of the bank.
        bank: with the kernels.
        losses: of the last epoch, (A, S).
        reached: steps to the tolerance, A lists of S.

    Returns:
        One result for every arm and repetition.
    """
    gap, targets = bank.gap(), bank.targets
    errors = relative_error(gap, targets)
    low, high = band_errors(frequency_error(gap, targets).cpu())
    numbers, floors = bank.numbers, [projection_error(arm.transform, targets) for arm in arms]
    return [
        Result(
            target=label,
            inputs=config.inputs.name,
            optimizer=config.optimizer["_target_"].rpartition(".")[2],
            lr=float(config.optimizer["lr"]),
            arm=arm.name,
            lr_factor=arm.lr_factor,
            numbers=numbers[a],
            seed=seed,
            steps=config.fit.steps,
            steps_to_tolerance=reached[a][s],
            loss=float(losses[a, s]),
            kernel_error=float(errors[a, s]),
            error_low=float(low[a, s]),
            error_high=float(high[a, s]),
            floor=float(floors[a][s]),
        )
        for a, arm in enumerate(arms)
        for s, seed in enumerate(config.seeds)
    ]


def projection_error(transform: Transform | None, targets: Tensor) -> Tensor:
    """Relative distance of kernels from what a transform can store.

    Args:
        transform: None for plain kernels.
        targets: (S, O, I/g, Kh, Kw).

    Returns:
        Shape (S,); exactly 0 where the transform can store every kernel.
    """
    kernel_size = (targets.shape[-2], targets.shape[-1])
    if transform is None or transform.full_rank(kernel_size):
        return torch.zeros(len(targets))
    given = targets.double()
    return relative_error(torch.stack([projected(transform, kernels) for kernels in given]) - given, given)


def file_of(fit: Path) -> Path:
    """Where the results of a fit are written.

    Args:
        fit: its run folder.

    Returns:
        The CSV file.
    """
    return fit / "figures" / "results.csv"


def as_rows(results: Sequence[Result]) -> list[dict[str, Any]]:
    """Rows of a CSV file.

    Args:
        results: in their order.

    Returns:
        Values by column.
    """
    return [asdict(result) for result in results]


def read_results(path: Path) -> list[Result]:
    """Read what was written.

    Args:
        path: the CSV file.

    Returns:
        The results in the file's order.
    """
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    return [
        Result(**{field.name: _parsed(str(field.type), row[field.name]) for field in fields(Result)}) for row in rows
    ]


def _parsed(kind: str, text: str) -> Any:
    if kind == "str":
        return text
    if text == "":
        return None
    return float(text) if kind == "float" else int(text)


def read_traces(path: Path) -> tuple[NDArray[np.float64], Traces]:
    """Read the course of a fit.

    Args:
        path: `metrics.csv` of its run folder.

    Returns:
        Steps, (T,), and by quantity (`loss`, `kernel_error`) and arm its values, (T, S); NaN where not measured.
    """
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    columns: dict[tuple[str, str], list[list[float]]] = {}
    for name in (name for name in rows[0] if name.count("/") == 2):
        quantity, arm, _ = name.split("/")
        columns.setdefault((quantity, arm), []).append([float(row[name] or "nan") for row in rows])
    steps = np.array([float(row["step"]) for row in rows])
    return steps, {key: np.array(values).T for key, values in columns.items()}
