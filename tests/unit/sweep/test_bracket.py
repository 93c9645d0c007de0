"""Where to look next for the place at which a monotone function has a value."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rdtrain.sweep.bracket import bracket, proposals

ENDS = (0.0, 1.0)


def test_nothing_known_means_the_middle_and_then_the_largest_gaps() -> None:
    assert proposals([], [], 5.0, ENDS, 1) == [0.5]
    assert sorted(proposals([], [], 5.0, ENDS, 3)) == [0.25, 0.5, 0.75]


def test_between_two_known_points_a_line_is_followed() -> None:
    known = [(0.1, 1.0), (0.2, 3.0), (0.6, 7.0), (0.9, 9.0)]
    assert bracket(known, 5.0, ENDS) == ((0.2, 3.0), (0.6, 7.0))
    assert proposals(known, [], 5.0, ENDS, 1) == pytest.approx([0.4])
    assert proposals(known, [], 6.99, ENDS, 1) == pytest.approx([0.56])  # no nearer to an end than a tenth
    assert proposals(known, [], 6.0, ENDS, 2) == pytest.approx([0.5, 0.35])


def test_a_falling_function_is_searched_from_the_other_end() -> None:
    known = [(0.2, 7.0), (0.6, 3.0)]
    assert bracket(known, 5.0, ENDS, rising=False) == ((0.6, 3.0), (0.2, 7.0))
    assert proposals(known, [], 5.0, ENDS, 1, rising=False) == pytest.approx([0.4])
    assert proposals([(0.6, 3.0)], [], 5.0, ENDS, 1, rising=False) == pytest.approx([0.3])
    assert proposals([(0.6, 3.0)], [], 5.0, ENDS, 1, rising=True) == pytest.approx([0.8])


def test_what_is_being_looked_at_is_not_looked_at_twice() -> None:
    known = [(0.2, 3.0), (0.6, 7.0)]
    assert proposals(known, [0.3, 0.9], 5.0, ENDS, 1) == pytest.approx([0.45])


@given(
    slope=st.floats(0.2, 3.0),
    bend=st.floats(-0.3, 0.3),
    place=st.floats(0.02, 0.98),
    rising=st.booleans(),
    at_once=st.integers(1, 4),
)
def test_any_monotone_function_is_closed_in_upon(
    slope: float, bend: float, place: float, rising: bool, at_once: int
) -> None:
    """A line with a bend that leaves it monotone: 12 looks bring the place to a thousandth of the range."""

    def f(x: float) -> float:
        y = slope * (x + bend * math.sin(math.pi * x) / math.pi)
        return y if rising else -y

    known: list[tuple[float, float]] = []
    while len(known) < 12:
        known += [(x, f(x)) for x in proposals(known, [], f(place), ENDS, at_once, rising)]
    assert all(0 <= x <= 1 for x, _ in known)
    assert min(abs(x - place) for x, _ in known) < (1e-3 if at_once == 1 else 1e-2)
