"""Where to look next for a value of a function that only rises or only falls.

Rate over lambda is such a function, and close to a power law, so its logarithms are close to a line: between the
nearest points below and above the target the next one is interpolated linearly (regula falsi), and lies at least a
tenth of their distance from either, so that both sides close in. Places without a value, where a training failed, are
not looked at again: what lies between them and a known value is halved.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

End = tuple[float, float | None]  # of a bracket: a place, and its value where that is known
_MARGIN = 0.1  # of a bracket, at its ends


def proposals(
    known: Sequence[tuple[float, float]],
    pending: Sequence[float],
    target: float,
    limits: tuple[float, float],
    count: int,
    rising: bool = True,
    failed: Sequence[float] = (),
) -> list[float]:
    """Places to look at next, all at the same time.

    Args:
        known: places and their values so far.
        pending: places that are being looked at.
        target: the value that is wanted.
        limits: first and last place allowed.
        count: how many are wanted.
        rising: whether values rise with places.
        failed: places that have no value.

    Returns:
        The interpolated place first; each further one halves the largest gap within the bracket.
    """
    low, high = _without(failed, *bracket(known, target, limits, rising))
    inside = [place for place in pending if min(low[0], high[0]) < place < max(low[0], high[0])]
    taken = sorted([low[0], high[0], *inside])
    chosen: list[float] = []
    if not inside and count:
        chosen = [_interpolated(low, high, target)]
    while len(chosen) < count:
        edges = sorted([*taken, *chosen])
        width, left = max((right - left, left) for left, right in pairwise(edges))
        chosen.append(left + width / 2)
    return chosen


def bracket(
    known: Sequence[tuple[float, float]], target: float, limits: tuple[float, float], rising: bool = True
) -> tuple[End, End]:
    """The nearest points on both sides of a target.

    Args:
        known: places and their values.
        target: the value that is wanted.
        limits: of the places.
        rising: whether values rise with places.

    Returns:
        The one below the target and the one above, each a place and its value; an end of the range with None where
        nothing is known on that side. Noise may let them change places.
    """
    first, last = limits if rising else limits[::-1]
    order = 1 if rising else -1
    below = [point for point in known if point[1] <= target]
    above = [point for point in known if point[1] > target]
    nearest_below = max(below, key=lambda point: order * point[0], default=(first, None))
    nearest_above = min(above, key=lambda point: order * point[0], default=(last, None))
    return nearest_below, nearest_above


def _without(failed: Sequence[float], low: End, high: End) -> tuple[End, End]:
    # The widest gap that failed places leave in a bracket, of those beside a known value where there is one.
    first, last = sorted([low, high], key=lambda end: end[0])
    inside = [(place, None) for place in sorted(set(failed)) if first[0] < place < last[0]]
    if not inside:
        return low, high
    gaps = list(pairwise([first, *inside, last]))
    beside = [gap for gap in gaps if (gap[0][1], gap[1][1]) != (None, None)]
    return max(beside or gaps, key=lambda gap: gap[1][0] - gap[0][0])


def _interpolated(low: End, high: End, target: float) -> float:
    share = 0.5
    if low[1] is not None and high[1] is not None:
        share = (target - low[1]) / (high[1] - low[1])
    return low[0] + min(max(share, _MARGIN), 1 - _MARGIN) * (high[0] - low[0])
