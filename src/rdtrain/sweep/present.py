"""The multirun of this process: Hydra hands nothing from one of its hooks to the next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rdtrain.sweep.plan import Point
from rdtrain.sweep.status import Row


@dataclass
class Multirun:
    """What its hooks and its sweeper tell each other.

    Args:
        points: of the command; a search, which plans as it goes, knows them at its end.
        launcher_failed: whether the launcher itself broke down.
        code: exit code because of a hook at the end that came before `SweepRecord`'s; 0: nothing was wrong.
    """

    points: tuple[Point, ...] = ()
    launcher_failed: bool = False
    code: int = 0

    def begin(self, points: Sequence[Point] = ()) -> None:
        """Forget the multirun before, where one process has several.

        Args:
            points: of the command, as far as they are known.
        """
        self.points = tuple(points)
        self.launcher_failed = False
        self.code = 0

    def own(self, rows: Sequence[Row]) -> list[Row]:
        """Choose what is of this command: a folder may hold points of several.

        Args:
            rows: of a sweep's status.

        Returns:
            Those of its points, in their order.
        """
        wanted = {point.id for point in self.points}
        return [row for row in rows if row.id in wanted]


PRESENT = Multirun()
