"""Mistakes of a user, as opposed to faults of the program."""

from __future__ import annotations

from collections.abc import Sequence


class UserError(Exception):
    """Something that the user can put right; shown without a traceback, exit code 2.

    Args:
        problems: one sentence each, saying what is wrong and what to type instead.
    """

    def __init__(self, problems: Sequence[str] | str) -> None:
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        super().__init__("\n".join(self.problems))
