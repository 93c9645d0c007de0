"""The way of one batch: images -> the bank of all arms -> their losses -> one step of everyone's optimizer."""

from __future__ import annotations

from typing import Any, cast

import torch
from catalyst import dl
from torch import Tensor

from rdtrain.kernels.bank import KernelBank, relative_error
from rdtrain.kernels.measures import StepsToTolerance


class KernelFittingRunner(dl.Runner):
    """Fits kernels of several arms and repetitions (A, S) to known ones; one loader, `train`.

    The losses are added before the backward pass. No arm has a share in another one's loss, so each gets the gradient
    that it would get alone.

    Args:
        arms: names of the arms, A.
        seeds: of the repetitions, S.
        tolerance: of the relative kernel error, for `reached`.

    Attributes:
        steps: optimizer steps so far.
        last_losses: mean losses of the last epoch, (A, S).
        reached: steps after which an arm's error was first within the tolerance.
    """

    def __init__(self, arms: list[str], seeds: list[int], tolerance: float) -> None:
        super().__init__()
        self.arms, self.seeds = arms, seeds
        self.reached = StepsToTolerance(tolerance)
        self.steps = 0

    def get_loggers(self) -> dict[str, Any]:
        """No loggers of Catalyst's: ours are callbacks.

        Returns:
            An empty dict.
        """
        return {}

    def _setup_loaders(self) -> None:
        self.loaders = self.get_loaders()  # accelerate would deal a stream's batches out to processes

    @property
    def bank(self) -> KernelBank:
        """The kernels, without any wrapper."""
        return self.engine.unwrap_model(self.model)

    def _run_loader(self) -> None:
        self._sum: Tensor | float = 0.0
        super()._run_loader()
        self.last_losses = cast(Tensor, self._sum) / len(self.loader)
        with torch.no_grad():
            errors = relative_error(self.bank.gap(), self.bank.targets)
        self.reached.look(errors.cpu(), self.steps)
        self.loader_metrics.update(self.named("loss", self.last_losses))
        self.loader_metrics.update(self.named("kernel_error", errors))

    def handle_batch(self, batch: dict[str, Tensor]) -> None:
        """Make one step.

        Args:
            batch: `x`, images of each repetition, (S, B, C, n, n).
        """
        losses, errors = self.model(batch["x"].to(self.engine.device))
        self.reached.look(errors.cpu(), self.steps)
        self.optimizer.zero_grad()
        self.engine.backward(losses.sum())
        self.optimizer.step()
        self.steps += 1
        self._sum = self._sum + losses.detach()

    def named(self, quantity: str, values: Tensor) -> dict[str, float]:
        """Give numbers the names under which they are logged.

        Args:
            quantity: `loss` or `kernel_error`.
            values: (A, S).

        Returns:
            Values by `<quantity>/<arm>/seed<seed>`.
        """
        return {
            f"{quantity}/{arm}/seed{seed}": value
            for arm, row in zip(self.arms, values.tolist(), strict=True)
            for seed, value in zip(self.seeds, row, strict=True)
        }
