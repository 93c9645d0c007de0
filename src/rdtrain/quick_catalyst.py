"""Catalyst 22.4 imported without the packages that it finds out about by importing them."""

from __future__ import annotations

import sys
from importlib import import_module

HIDDEN = ("matplotlib", "optuna")
"""Catalyst does without all of scikit-learn, pandas and matplotlib's pyplot if there is no matplotlib."""


def import_catalyst() -> list[str]:
    """Import Catalyst's settings while packages that rdtrain does not use through Catalyst are out of sight.

    That takes more than half a second off the start of a run. `catalyst.dl` then has no callbacks that need them, such
    as `ConfusionMatrixCallback`; that one's own module, `catalyst.callbacks.metrics.confusion_matrix`, has it.

    Returns:
        What was hidden; nothing where Catalyst, or all of these, had been imported before.
    """
    hidden = [] if "catalyst" in sys.modules else [name for name in HIDDEN if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]  # None is Python's own sign of no such module
    try:
        import_module("catalyst.settings")
    finally:
        for name in hidden:
            del sys.modules[name]
    return hidden
