"""Training curves as numbers: means over seeds, time to reach a loss, crossover, drops of the learning rate.

"Seeds" are runs of one curve and one lambda. A loss is compared at equal loss: t(l) is when a run first reached l.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rdtrain.report.runs import Run

Array = NDArray[np.float64]
LOSS = "loss/forward/unclamped"
X_LABEL = {"step": "optimizer step", "time/elapsed_s": "time since the start [s]", "epoch": "epoch"}


@dataclass(frozen=True)
class Band:
    """One metric of the seeds of one configuration.

    Args:
        x: steps, epochs or seconds (mean over seeds), shape (T,).
        low: smallest value, shape (T,).
        mean: mean value, shape (T,).
        high: largest value, shape (T,).
        runs: the runs behind it.
    """

    x: Array
    low: Array
    mean: Array
    high: Array
    runs: tuple[Run, ...]


@dataclass(frozen=True)
class Crossover:
    """Where the run that was ahead stops gaining on the other one, at equal loss.

    Args:
        loss: the loss from which on the other run is the faster one.
        x_ahead: when the run that was ahead reached it.
        x_behind: when the other run reached it.
    """

    loss: float
    x_ahead: float
    x_behind: float


def by_configuration(runs: Sequence[Run], names: dict[Path, str]) -> dict[tuple[str, float], list[Run]]:
    """Put seeds together.

    Args:
        runs: the runs.
        names: of their curves.

    Returns:
        Runs by curve and lambda, in the order of the runs.
    """
    groups: dict[tuple[str, float], list[Run]] = {}
    for run in runs:
        groups.setdefault((names[run.folder], run.lmbda), []).append(run)
    return groups


def band(runs: Sequence[Run], loader: str, metric: str, against: str) -> Band | None:
    """Sum up one metric over seeds, at the epochs that all of them measured.

    Args:
        runs: the seeds.
        loader: train, valid or infer.
        metric: column of metrics.csv.
        against: the column to be x: `step`, `epoch` or `time/elapsed_s`.

    Returns:
        The band, or None when there is no common epoch.
    """
    tables = []
    for run in runs:
        epoch, x, y = (run.column(loader, name) for name in ("epoch", against, metric))
        measured = np.isfinite(x) & np.isfinite(y)
        tables.append({e: (a, b) for e, a, b in zip(epoch[measured], x[measured], y[measured], strict=True)})
    common = sorted(set.intersection(*map(set, tables))) if tables else []
    if not common:
        return None
    values = np.array([[table[epoch] for epoch in common] for table in tables])
    y = values[:, :, 1]
    return Band(values[:, :, 0].mean(axis=0), y.min(axis=0), y.mean(axis=0), y.max(axis=0), tuple(runs))


def first_reached(x: Array, loss: Array, target: float) -> float:
    """When a loss was reached first, interpolated linearly between the epochs.

    Args:
        x: increasing steps, epochs or seconds, shape (T,).
        loss: shape (T,).
        target: the loss to reach.

    Returns:
        The x; infinite when it was never reached.
    """
    below = np.flatnonzero(loss <= target)
    if not below.size:
        return float("inf")
    i = int(below[0])
    if i == 0:
        return float(x[0])
    share = (loss[i - 1] - target) / (loss[i - 1] - loss[i])
    return float(x[i - 1] + share * (x[i] - x[i - 1]))


def crossover(ahead: tuple[Array, Array], behind: tuple[Array, Array], levels: int = 400) -> Crossover | None:
    """Find the loss from which on one run learns slower than the other, although it got there earlier.

    At equal loss l the lead is t_behind(l) - t_ahead(l). While it grows, the run ahead is the faster one; where it is
    largest, the slopes d(loss)/dt at equal loss are equal; below that, the other run is the faster one.

    Args:
        ahead: x and loss of the run that leads, such as the spectral one.
        behind: x and loss of the other.
        levels: how many losses of the common range are looked at.

    Returns:
        The crossover, or None when the lead is not positive, or still grows or starts to shrink at an end of the range.
    """
    high = min(ahead[1][0], behind[1][0])
    low = max(ahead[1].min(), behind[1].min())
    if not low < high:
        return None
    losses = np.linspace(high, low, levels)
    first = np.array([[first_reached(*run, loss) for loss in losses] for run in (ahead, behind)])
    lead = first[1] - first[0]
    i = int(np.argmax(lead))
    if lead[i] <= 0 or i in (0, levels - 1):
        return None
    return Crossover(float(losses[i]), float(first[0, i]), float(first[1, i]))


def learning_rate(run: Run) -> tuple[Array, Array]:
    """The learning rate of the network over the epochs.

    Args:
        run: the run.

    Returns:
        Epochs and `lr/net`, from the first loader that has it.
    """
    for loader in run.columns:
        epochs, lr = run.series(loader, "lr/net", against="epoch")
        if epochs.size:
            return epochs, lr
    return np.empty(0), np.empty(0)


def first_drop(run: Run) -> float:
    """The first epoch with a lower learning rate than the epoch before.

    Args:
        run: the run.

    Returns:
        The epoch; NaN when the rate never fell, or where it falls by plan and not at a plateau.
    """
    if not str(run.setting("scheduler.net._target_", "")).endswith("ReduceLROnPlateau"):
        return float("nan")
    epochs, lr = learning_rate(run)
    dropped = np.flatnonzero(np.diff(lr) < 0)
    return float(epochs[dropped[0] + 1]) if dropped.size else float("nan")


def switch_at(run: Run, against: str) -> float:
    """When a run's spectral convolutions became plain.

    Args:
        run: the run.
        against: `step`, `epoch` or `time/elapsed_s`.

    Returns:
        The x of the switch (seconds: interpolated between epochs); NaN when there was none or x was not logged.
    """
    if run.switch is None:
        return float("nan")
    if against in run.switch:
        return float(run.switch[against])
    steps, x = run.series("train", against, against="step")
    return float(np.interp(run.switch["step"], steps, x)) if steps.size else float("nan")
