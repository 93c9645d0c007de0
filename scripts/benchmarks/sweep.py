"""Case I: a sweep of eight small points, two at a time, against eight times one point."""

from __future__ import annotations

from benchmarks.measure import Options, Row, in_turn, medians
from benchmarks.processes import command, process, scratch

_POINT = ("experiment=quickstart", "conv=plain", "logger.figures=null", "logger.entropy_report=null")


def case_i(options: Options) -> list[Row]:
    """Points of a sweep beside each other.

    Args:
        options: of the user.

    Returns:
        A row.
    """
    points = 2 if options.quick else 8
    length = ("engine.num_epochs=1", "engine.epoch_steps=5") if options.quick else ("engine.num_epochs=8",)
    words = [command("rdtrain"), *_POINT, *length, f"engine.device={options.device}"]
    seeds = ",".join(str(seed) for seed in range(1, points + 1))

    def one(*more: str) -> float:
        with scratch() as folder:
            return process([*words, *more], folder).seconds

    sides = {
        "one point": lambda: one("seed=1"),
        "sweep": lambda: one("-m", f"seed={seeds}", "launcher=joblib", "launcher.jobs=2"),
    }
    times = in_turn(sides, options.turns(3), "I")
    values = [b / (points * a) for a, b in zip(times["one point"], times["sweep"], strict=True)]
    what = f"a sweep of {points} points, launcher=joblib launcher.jobs=2 ({' '.join([*_POINT, *length])})"
    return [Row("I", what, f"{points} times one point", "of the time", 0.6, False, values, medians(times))]
