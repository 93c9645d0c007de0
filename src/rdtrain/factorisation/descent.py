"""Alternating gradient descent on chains, as the source does it, with all its restarts at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from rdtrain.config.experiment import Machine
from rdtrain.engine import make_engine
from rdtrain.experiment import engine_section
from rdtrain.factorisation.chain import Admissibility, mse, objective, random_chains
from rdtrain.runners.filter_factorisation import Chains, FilterFactorisationRunner

_ON_CPU = Machine(device="cpu", threads=None)  # 50 chains of 3x3 kernels are no work for a GPU


@dataclass(frozen=True)
class Setting:
    """What the source calls hyperparameters.

    Args:
        lmbda: weight of the MSE.
        lambda1: weight of the kernels' mean squares.
        lambda2: weight of the admissibility.
        admissibility: its form, `absolute` or `square`.
        lr: learning rate.
        iterations: rounds over all kernels.
        restarts: starting points.
        seed: of the starting points.
    """

    lmbda: float
    lambda1: float
    lambda2: float
    admissibility: Admissibility
    lr: float
    iterations: int
    restarts: int
    seed: int


@dataclass(frozen=True)
class Descent:
    """What came out.

    Args:
        w: the chain with the lowest objective, (n, k, k), float64.
        mse: its mean squared error.
        diverged: how many restarts ended at an objective that is not finite.
        trace: objective of the best restart before each step and after the last.
        steps: made.
    """

    w: Tensor
    mse: float
    diverged: int
    trace: list[float]
    steps: int


class _Turns(Dataset):
    def __init__(self, kernels: int, iterations: int) -> None:
        self.kernels, self.iterations = kernels, iterations

    def __len__(self) -> int:
        return self.kernels * self.iterations

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"kernel": index % self.kernels}


def descend(y: Tensor, n: int, k: int, setting: Setting) -> Descent:
    """Search for a chain.

    Args:
        y: the normalised target, (S, S).
        n: kernels.
        k: their side.
        setting: how.

    Returns:
        The best of all restarts; restarts that diverged count with what they had found before.
    """
    y = y.float()
    target: Callable[[Tensor], Tensor] = partial(
        objective,
        y=y,
        lmbda=setting.lmbda,
        lambda1=setting.lambda1,
        lambda2=setting.lambda2,
        admissibility=setting.admissibility,
    )
    model = Chains(random_chains(setting.restarts, n, k, setting.seed))
    runner = FilterFactorisationRunner(target)
    runner.train(
        engine=make_engine(engine_section(_ON_CPU)),
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=setting.lr),
        loaders={"train": DataLoader(_Turns(n, setting.iterations))},
        seed=setting.seed,
    )
    best = int(runner.lowest.argmin())
    w = runner.best[best].double()
    trace = [float(values[best]) for values in runner.trace]
    return Descent(w, float(mse(w[None], y.double())), int(runner.diverged.sum()), trace, len(runner.moved))
