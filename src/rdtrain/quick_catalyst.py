"""Catalyst 22.4 imported without the packages that it finds out about by importing them."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module

HIDDEN = ("matplotlib", "optuna")
"""Catalyst does without all of scikit-learn, pandas and matplotlib's pyplot if there is no matplotlib."""


def import_catalyst() -> list[str]:
    """Import Catalyst's settings while packages that rdtrain does not use through Catalyst are out of sight.

    That keeps scikit-learn, Optuna and pyplot out of the start of a run. `catalyst.dl` then has no callbacks that need
    them, such as `ConfusionMatrixCallback`; that one's own module, `catalyst.callbacks.metrics.confusion_matrix`, has
    it. Where a user's Catalyst settings (a file `.catalyst`) ask for one of them, nothing is hidden.

    Returns:
        What was hidden; nothing where Catalyst, or all of these, had been imported before.
    """
    if "catalyst" in sys.modules:
        return []
    names = [name for name in HIDDEN if name not in sys.modules]
    try:
        with _hidden(names):
            import_module("catalyst.settings")
    except AssertionError:  # the user's settings require what is hidden
        for name in [name for name in sys.modules if name.partition(".")[0] == "catalyst"]:
            del sys.modules[name]
        import_module("catalyst.settings")
        return []
    return names


@contextmanager
def _hidden(names: Sequence[str]) -> Iterator[None]:
    sys.modules.update(dict.fromkeys(names))  # type: ignore[arg-type]  # None is Python's own sign of no such module
    try:
        yield
    finally:
        for name in names:
            del sys.modules[name]
