"""The multirun of this process: Hydra hands nothing from one of its hooks to the next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rdtrain.sweep.plan import Point


@dataclass
class Multirun:
    """What its hooks and its sweeper tell each other.

    Args:
        points: of the command; None: a search, which plans as it goes.
        launcher_failed: whether the launcher itself broke down.
    """

    points: tuple[Point, ...] | None = None
    launcher_failed: bool = False

    def begin(self, points: Sequence[Point] | None) -> None:
        """Forget the multirun before, where one process has several.

        Args:
            points: of the command; None for a search.
        """
        self.points = None if points is None else tuple(points)
        self.launcher_failed = False


PRESENT = Multirun()
