"""Ratios with their spread, measured in turn."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm


@dataclass(frozen=True)
class Options:
    """What the user chose.

    Args:
        quick: small sizes and few rounds, to see that everything runs; its figures say little.
        device: `cpu` or `cuda`, of the networks.
        data: folder with `kodak/` (PNG) and `bsds500/train/` (JPEG), None where there is none.
        runs: folder of `rdtrain experiment=switch_vs_plain`, None where there is none.
        rounds: times that the sides of a case take their turn; None for what the case thinks right.
    """

    quick: bool = False
    device: str = "cpu"
    data: Path | None = None
    runs: Path | None = None
    rounds: int | None = None

    def turns(self, full: int) -> int:
        """How often the sides take their turn.

        Args:
            full: rounds that the case thinks right.

        Returns:
            At least 1.
        """
        return self.rounds or (1 if self.quick else full)


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Args:
        case: letter of the case.
        what: that is measured.
        against: the peer or limit.
        unit: of the figures, such as `times as fast`.
        target: to reach.
        atleast: whether the figure should be at least the target; at most otherwise.
        values: the figure in each round.
        seconds: median of what each side took, by its name.
        remark: what a reader must know.
    """

    case: str
    what: str
    against: str
    unit: str
    target: float
    atleast: bool
    values: Sequence[float]
    seconds: Mapping[str, float] = field(default_factory=dict)
    remark: str = ""

    def to_dict(self) -> dict[str, Any]:
        """The row for JSON.

        Returns:
            Its fields; and the median, both quartiles and whether the target is reached.
        """
        low, median, high = quartiles(self.values)
        reached = median >= self.target if self.atleast else median <= self.target
        return {
            **vars(self),
            "values": list(self.values),
            "median": median,
            "quartiles": [low, high],
            "reached": reached,
        }


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Sum up what the rounds gave.

    Args:
        values: at least one.

    Returns:
        Lower quartile, median, upper quartile, by linear interpolation.
    """
    ordered = sorted(values)

    def at(share: float) -> float:
        place = share * (len(ordered) - 1)
        low, part = int(place), place % 1
        if part == 0 or ordered[low] == ordered[low + 1]:  # some are infinite
            return ordered[low]
        return ordered[low] + part * (ordered[low + 1] - ordered[low])

    return at(0.25), at(0.5), at(0.75)


def ratios(over: Sequence[float], under: Sequence[float]) -> list[float]:
    """Divide round by round, so that a load that both sides met cancels.

    Args:
        over: seconds of one side.
        under: seconds of the other, as many.

    Returns:
        A quotient a round.
    """
    return [a / b for a, b in zip(over, under, strict=True)]


def medians(times: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """The median of each side.

    Args:
        times: seconds by side.

    Returns:
        Seconds by side.
    """
    return {side: statistics.median(values) for side, values in times.items()}


def in_turn(
    sides: Mapping[str, Callable[[], float]], rounds: int, label: str, warm_up: bool = False
) -> dict[str, list[float]]:
    """Let the sides take their turn, in the opposite order every second round.

    Args:
        sides: each returns what it measured, usually seconds.
        rounds: that count.
        label: of the progress bar.
        warm_up: begin with a round that does not count.

    Returns:
        What each side measured, by round.
    """
    found: dict[str, list[float]] = {side: [] for side in sides}
    bar = tqdm(total=(rounds + warm_up) * len(sides), desc=label, disable=not sys.stderr.isatty(), leave=False)
    for number in range(rounds + warm_up):
        for side in list(sides)[:: -1 if number % 2 else 1]:
            found[side].append(sides[side]())
            bar.update()
    bar.close()
    return {side: values[warm_up:] for side, values in found.items()}


def timed(work: Callable[[], object], repeats: int = 1) -> float:
    """Time something.

    Args:
        work: to be done.
        repeats: times that it is done.

    Returns:
        Seconds of one.
    """
    start = time.perf_counter()
    for _ in range(repeats):
        work()
    return (time.perf_counter() - start) / repeats


def images(options: Options, name: str, most: int | None = None) -> list[Path]:
    """Photographs to measure on.

    Args:
        options: of the user.
        name: `kodak` or `bsds500/train`.
        most: how many.

    Returns:
        Files; those inside scikit-image's wheel where the user has none.
    """
    folder = None if options.data is None else options.data / name
    if folder is None or not folder.is_dir():
        from rdtrain.data.photos import find_photos

        split = find_photos()
        return [*split.infer, *split.valid, *split.train][:most]
    return sorted(path for path in folder.iterdir() if path.suffix in {".png", ".jpg"})[:most]
