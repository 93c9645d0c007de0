"""The learned densities of entropy bottlenecks, evaluated in float64.

A bottleneck learns the cumulative distribution F of each channel as a small monotone network (Ballé et al. 2018,
appendix 6.1) and codes an integer offset k from the median m with probability F(m + k + 1/2) - F(m + k - 1/2).
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from compressai.entropy_models import EntropyBottleneck
from numpy.typing import NDArray
from torch import Tensor, nn

from rdtrain.entropy.stable import interval_probability

Array = NDArray[np.float64]
_RADIUS = 1e5  # where CompressAI's own search for quantiles begins
_HALVINGS = 70  # of 2e5: below the spacing of float64 around 1e-4
_POINTS = 400


@dataclass(frozen=True)
class Density:
    """Some channels of one entropy bottleneck.

    Args:
        channels: their numbers, (k,).
        x: values of the latent, a grid a channel, (k, 400).
        likelihood: F(x + 1/2) - F(x - 1/2), same shape.
        learned: the quantiles that the aux loss trains (lower tail, median, upper tail), (k, 3).
        exact: those of the learned F, found by bisection, (k, 3).
        tail_mass: of both tails together.
    """

    channels: NDArray[np.int64]
    x: Array
    likelihood: Array
    learned: Array
    exact: Array
    tail_mass: float


def bottlenecks(model: nn.Module) -> dict[str, EntropyBottleneck]:
    """Find the entropy bottlenecks.

    Args:
        model: a compression model.

    Returns:
        Bottleneck by name; empty for models without any.
    """
    return {name: module for name, module in model.named_modules() if isinstance(module, EntropyBottleneck)}


@torch.no_grad()
def density(bottleneck: EntropyBottleneck, channels: NDArray[np.int64]) -> Density:
    """Evaluate channels between their tails.

    Args:
        bottleneck: not changed.
        channels: which ones, (k,).

    Returns:
        The densities, on grids from the lower to the upper tail, whichever of learned and exact is farther out.
    """
    exact_copy: Any = copy.deepcopy(bottleneck).cpu().double()
    learned = exact_copy.quantiles[:, 0]  # (C, 3)
    exact = torch.stack([_where(exact_copy, float(target)) for target in exact_copy.target], 1)
    low, high = torch.minimum(learned, exact)[:, :1], torch.maximum(learned, exact)[:, 2:]
    x = low + (high - low) * torch.linspace(0, 1, _POINTS, dtype=torch.float64)
    x_, p, learned_, exact_ = (value.numpy()[channels] for value in (x, likelihood(exact_copy, x), learned, exact))
    return Density(channels, x_, p, learned_, exact_, 2 * float(torch.sigmoid(exact_copy.target[0])))


def likelihood(bottleneck: Any, x: Tensor) -> Tensor:
    """Compute F(x + 1/2) - F(x - 1/2) so that neither tail cancels.

    CompressAI 1.2.8 loses the upper one, see `rdtrain.entropy.stable`.

    Args:
        bottleneck: in the precision of x.
        x: values of each channel, (C, n).

    Returns:
        Probabilities, (C, n).
    """
    return interval_probability(_logits(bottleneck, x - 0.5), _logits(bottleneck, x + 0.5))


def _logits(bottleneck: Any, x: Tensor) -> Tensor:
    return bottleneck._logits_cumulative(x[:, None], stop_gradient=True)[:, 0]


def _where(bottleneck: Any, logit: float) -> Tensor:
    # F is monotone, so halving an interval finds the one place.
    low = torch.full((bottleneck.channels, 1), -_RADIUS, dtype=torch.float64)
    high = -low
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        below = _logits(bottleneck, middle) < logit
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return middle[:, 0]
