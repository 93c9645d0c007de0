"""Alternating stochastic gradient descent on chains of kernels: a batch names the kernel that moves.

Shapes: w (R, n, k, k), R restarts that do not see each other; y (S, S).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from catalyst import dl
from torch import Tensor, nn


class Chains(nn.Module):
    """R chains of n kernels; each kernel of all chains is one parameter.

    Args:
        w: starting points, (R, n, k, k).
    """

    def __init__(self, w: Tensor) -> None:
        super().__init__()
        self.kernels = nn.ParameterList(nn.Parameter(kernel.clone()) for kernel in w.unbind(1))

    def forward(self) -> Tensor:
        """Put them together.

        Returns:
            (R, n, k, k).
        """
        return torch.stack(list(self.kernels), dim=1)


class FilterFactorisationRunner(dl.Runner):
    """Minimises an objective in one kernel at a time; loader `train`, whose batches are `{"kernel": [i]}`.

    The gradient of the sum over restarts is that of each restart. A restart whose objective is not finite any more has
    diverged; its best kernels from before are kept.

    Args:
        objective: from chains to a value each, (R, n, k, k) -> (R,).

    Attributes:
        best: the chains at their lowest objective, (R, n, k, k), before the step that follows.
        lowest: that objective, (R,).
        diverged: which restarts end at an objective that is not finite, (R,).
        trace: the objectives of all restarts before each step.
        moved: which kernel each step moved.
    """

    def __init__(self, objective: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.objective = objective
        self.trace: list[Tensor] = []
        self.moved: list[int] = []

    def get_loggers(self) -> dict[str, Any]:
        """No loggers of Catalyst's.

        Returns:
            An empty dict.
        """
        return {}

    def handle_batch(self, batch: dict[str, Tensor]) -> None:
        """Move one kernel of every chain.

        Args:
            batch: `kernel`, its index.
        """
        index = int(batch["kernel"])
        w = self.model()
        values = self.objective(w)
        self._keep(w.detach(), values.detach())
        self.optimizer.zero_grad()
        kernel = self.engine.unwrap_model(self.model).kernels[index]
        kernel.grad = torch.autograd.grad(values.sum(), kernel)[0]  # the others have none and stay
        self.optimizer.step()
        self.moved.append(index)

    def _keep(self, w: Tensor, values: Tensor) -> None:
        if not self.trace:
            self.best, self.lowest = w.clone(), torch.full_like(values, torch.inf)
        better = values < self.lowest  # false for a NaN
        self.best[better], self.lowest[better] = w[better], values[better]
        self.trace.append(values)

    def on_experiment_end(self, runner: dl.IRunner) -> None:
        """Judge the last step.

        Args:
            runner: this runner.
        """
        with torch.no_grad():
            w = self.model()
            values = self.objective(w)
        self._keep(w, values)
        self.diverged = ~values.isfinite()
        super().on_experiment_end(runner)
