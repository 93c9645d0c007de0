from __future__ import annotations

import math

import pytest

from rdtrain.early_stop import BestSoFar, EarlyStopChecker


def _stops_at(values: list[float], patience: int, threshold: float = 0.0) -> int | None:
    checker = EarlyStopChecker(patience, threshold)
    return next((epoch for epoch, value in enumerate(values, 1) if checker.check(value)), None)


@pytest.mark.parametrize(
    ("values", "patience", "threshold", "epoch"),
    [
        ([5, 4, 3, 2, 1], 0, 0.0, None),
        ([5, 5], 0, 0.0, 2),
        ([5, 6, 7, 8], 2, 0.0, 4),
        ([5, 6, 4, 6, 6, 6], 2, 0.0, 6),
        ([100, 99.5, 99.2, 99.0], 1, 0.01, 3),  # each better, none by one per cent
        ([100, 98, 96, 94], 0, 0.01, None),
        ([math.nan, math.nan, math.nan], 1, 0.0, 2),
        ([math.inf, 3, 2], 0, 0.0, 1),
        ([-1, -1.005, -1.02], 1, 0.01, None),  # relative to the size of a negative value
    ],
)
def test_stops_after_patience_bad_epochs(
    values: list[float], patience: int, threshold: float, epoch: int | None
) -> None:
    assert _stops_at(values, patience, threshold) == epoch


def test_its_scale_does_not_matter() -> None:
    values = [3.0, 2.9, 2.89, 2.889, 2.8889, 2.88]
    for scale in (1.0, 1 / 435.7):
        assert _stops_at([value * scale for value in values], 1, 1e-2) == 4


def test_the_state_continues() -> None:
    straight, first = EarlyStopChecker(3, 0.0), EarlyStopChecker(3, 0.0)
    values = [5.0, 4, 6, 7, 3, 4, 5, 6, 7, 8]
    expected = [straight.check(value) for value in values]
    decisions = [first.check(value) for value in values[:4]]
    second = EarlyStopChecker(3, 0.0)
    second.load_state_dict(first.state_dict())
    assert decisions + [second.check(value) for value in values[4:]] == expected
    assert expected.index(True) == 8


def test_restart_forgets() -> None:
    checker = EarlyStopChecker(0, 0.0)
    checker.check(1.0)
    checker.restart()
    assert not checker.check(9.0) and checker.check(9.0)


def test_best_so_far() -> None:
    best = BestSoFar()
    assert [best.update(epoch, value) for epoch, value in enumerate([3.0, math.nan, 3.0, 2.0, 2.5], 1)] == [
        True, False, False, True, False,
    ]  # fmt: skip
    assert (best.epoch, best.value) == (4, 2.0)
    again = BestSoFar()
    again.load_state_dict(best.state_dict())
    assert not again.update(6, 2.0) and again.update(7, 1.9)
