"""What the runners of small networks have in common: one loss is measured and minimised, and means are handed over."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

from catalyst import dl
from torch import Tensor

from rdtrain.errors import UserError
from rdtrain.metrics import Means

Row = dict[str, float]


class MeasuringRunner(dl.Runner, ABC):
    """Trains a network; loaders `train` and `valid`.

    Args:
        on_epoch: called after every epoch with its number, its optimizer steps so far and the means of the measurements
            by loader.
    """

    def __init__(self, on_epoch: Callable[[int, int, dict[str, Row]], None] = lambda epoch, steps, means: None) -> None:
        super().__init__()
        self.on_epoch, self.steps = on_epoch, 0

    @abstractmethod
    def measure(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Apply the network to a batch.

        Args:
            batch: of a loader.

        Returns:
            Shape (B,) each; the mean of `loss` is minimised.
        """

    def get_loggers(self) -> dict[str, Any]:
        """No loggers of Catalyst's.

        Returns:
            An empty dict.
        """
        return {}

    def on_loader_start(self, runner: dl.IRunner) -> None:
        """Begin the loader's means.

        Args:
            runner: this runner.
        """
        super().on_loader_start(runner)
        self.means = Means()

    def handle_batch(self, batch: dict[str, Tensor]) -> None:
        """Train on or validate one batch.

        Args:
            batch: of a loader.
        """
        measured = self.measure(batch)
        self.means.update(measured)
        if self.is_train_loader:
            self.optimizer.zero_grad()
            self.engine.backward(measured["loss"].mean())
            self.optimizer.step()
            self.steps += 1

    def on_loader_end(self, runner: dl.IRunner) -> None:
        """Read the means.

        Args:
            runner: this runner.
        """
        self.loader_metrics.update(self.means.compute())
        super().on_loader_end(runner)

    def on_epoch_end(self, runner: dl.IRunner) -> None:
        """Hand over the epoch's means.

        Args:
            runner: this runner.

        Raises:
            UserError: a loss is no number any more.
        """
        if lost := [key for key in self.loaders if not math.isfinite(self.epoch_metrics[key]["loss"])]:
            raise UserError(
                f"the training has diverged: the loss of {lost[0]} is not finite after epoch {self.epoch_step}; "
                "type a smaller train.lr"
            )
        self.on_epoch(self.epoch_step, self.steps, {key: dict(self.epoch_metrics[key]) for key in self.loaders})
        super().on_epoch_end(runner)
