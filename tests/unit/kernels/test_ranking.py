"""Verdicts, standings and leaders on results made up for the purpose."""

from __future__ import annotations

import math

import pytest

from rdtrain.kernels.leaderboard import markdown
from rdtrain.kernels.ranking import DIVERGED, EVEN, LOSES, RATE, WINS, geometric_mean, leaders, standings, verdict
from rdtrain.kernels.results import Result


def results_of(arm: str, errors: list[float], target: str = "edge", reached: int | None = 7) -> list[Result]:
    return [
        Result(target, "pink", "Adam", 1e-3, arm, 1.4, 25, seed, 100, reached, error / 10, error, error, 0.0, 0.0)
        for seed, error in enumerate(errors)
    ]


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        ([0.1, 0.2], WINS),
        ([0.1, 0.6], RATE),  # the control's second one is smaller
        ([0.1, 1.2], EVEN),
        ([0.999, 0.999], EVEN),  # rounding
        ([1.5, 2.0], LOSES),
        ([0.7, 1.5], EVEN),
    ],
)
def test_all_repetitions_have_to_agree(own: list[float], expected: str) -> None:
    assert verdict(own, [1.0, 1.0], [[0.5, 0.5]]) == expected


def test_standings_of_a_cell() -> None:
    given = [
        *results_of("plain", [1.0, 4.0]),
        *results_of("rfft", [0.1, 0.4], reached=None),
        *results_of("mine", [math.nan, 8.0]),
        *results_of("plain-as-rfft", [0.5, 0.5]),
    ]
    by_arm = {one.arm: one for one in standings(given)}
    assert list(by_arm) == ["rfft", "plain-as-rfft", "plain", "mine"]
    assert [one.rank for one in by_arm.values()] == [1, None, 2, 3]
    rfft = by_arm["rfft"]
    assert (rfft.error, rfft.smallest, rfft.largest) == pytest.approx((0.2, 0.1, 0.4))
    assert (rfft.to_plain, rfft.to_control, rfft.loss) == pytest.approx((0.1, 0.4, 0.02))
    assert (rfft.loss_to_plain, rfft.loss_to_control) == pytest.approx((0.1, 0.4))
    assert (rfft.steps, by_arm["plain"].steps) == (None, 7)
    assert (rfft.verdict, by_arm["plain"].verdict, by_arm["plain-as-rfft"].verdict) == (WINS, "", "")
    assert by_arm["mine"].largest == DIVERGED and by_arm["mine"].to_control == by_arm["mine"].to_plain > 100
    assert by_arm["mine"].verdict == LOSES


@pytest.mark.parametrize(("control", "expected"), [(0.5, WINS), (0.05, RATE)])
def test_a_transform_has_to_beat_both_of_its_controls(control: float, expected: str) -> None:
    errors = {"plain": 1.0, "few": 0.1, "plain-as-few": 0.8, "plain-from-few": control}
    by_arm = {
        one.arm: one for one in standings(row for arm, error in errors.items() for row in results_of(arm, [error]))
    }
    assert (by_arm["few"].verdict, by_arm["few"].to_control) == (expected, pytest.approx(0.1 / control))
    assert (by_arm["few"].rank, by_arm["plain-from-few"].rank) == (1, None)


def test_equal_errors_share_a_rank() -> None:
    errors = {"plain": 1.0, "rdft": 0.995, "rfft": 0.5, "dct": 1.005, "mine": 2.0}
    found = standings([one for arm, error in errors.items() for one in results_of(arm, [error])])
    assert {one.arm: one.rank for one in found} == {"rfft": 1, "rdft": 2, "plain": 2, "dct": 2, "mine": 5}


def test_leaders_go_over_all_cells() -> None:
    given = [
        *results_of("plain", [1.0, 1.0]),
        *results_of("rfft", [0.1, 0.1]),
        *results_of("mine", [0.5, 0.5]),
        *results_of("plain", [1.0, 1.0], target="random"),
        *results_of("rfft", [10.0, 0.04], target="random", reached=None),
        *results_of("mine", [2.0, 2.0], target="random"),
    ]
    first, second, last = leaders(standings(given))
    assert [(row["mean_rank"], row["cells"]) for row in (first, second, last)] == [(1.0, 2), (2.5, 2), (2.5, 2)]
    assert first["arm"] == "rfft"
    assert (first[WINS], first[EVEN], first[LOSES], first["reached"]) == (1, 1, 0, 1)
    assert first["loss_to_control"] == first["loss_to_plain"] == first["to_plain"] == first["to_control"]
    assert first["to_plain"] == pytest.approx(math.sqrt(0.1 * math.sqrt(0.4)), rel=1e-2)
    by_arm = {row["arm"]: row for row in (second, last)}
    assert (by_arm["mine"][WINS], by_arm["mine"][LOSES], by_arm["mine"]["to_plain"]) == (1, 1, 1.0)
    assert (by_arm["plain"][WINS], by_arm["plain"]["reached"]) == (0, 2)
    assert markdown([first]).splitlines()[1].count("---") == len(first)


def test_geometric_mean() -> None:
    assert geometric_mean([0.1, 10.0, 1.0]) == pytest.approx(1)
