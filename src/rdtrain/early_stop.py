"""When to stop waiting, and which epoch was the best. Pure: driven by a list of floats."""

from __future__ import annotations

import math
from typing import Any


class BestSoFar:
    """Remembers the lowest value and its epoch.

    Attributes:
        value: the lowest so far, infinite before the first.
        epoch: where it was, 0 before the first.
    """

    def __init__(self) -> None:
        self.value = math.inf
        self.epoch = 0

    def update(self, epoch: int, value: float) -> bool:
        """Look at one more epoch.

        Args:
            epoch: 1-based.
            value: monitored; lower is better, NaN never is.

        Returns:
            Whether it is the best so far.
        """
        if not value < self.value:
            return False
        self.value, self.epoch = value, epoch
        return True

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps.

        Returns:
            Plain numbers.
        """
        return {"value": self.value, "epoch": self.epoch}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a checkpoint.

        Args:
            state: of `state_dict`.
        """
        self.value, self.epoch = state["value"], state["epoch"]


class EarlyStopChecker:
    """Says stop when a value has not improved for more than `patience` epochs.

    Args:
        patience: epochs without improvement that are let pass.
        threshold: smallest relative improvement that counts; relative, so that both loss forms stop alike.
    """

    def __init__(self, patience: int, threshold: float) -> None:
        self.patience, self.threshold = patience, threshold
        self.restart()

    def restart(self) -> None:
        """Forget everything, as at the beginning."""
        self.best = math.inf
        self.bad_epochs = 0

    def check(self, value: float) -> bool:
        """Look at one more epoch.

        Args:
            value: monitored; lower is better, NaN counts as no improvement.

        Returns:
            Whether to stop now.
        """
        margin = self.threshold * abs(self.best) if math.isfinite(self.best) else 0.0
        if value < self.best - margin:
            self.best, self.bad_epochs = value, 0
        else:
            self.bad_epochs += 1
        return self.bad_epochs > self.patience

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps.

        Returns:
            Plain numbers.
        """
        return {"best": self.best, "bad_epochs": self.bad_epochs}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a checkpoint.

        Args:
            state: of `state_dict`.
        """
        self.best, self.bad_epochs = state["best"], state["bad_epochs"]
