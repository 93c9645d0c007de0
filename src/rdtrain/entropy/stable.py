"""The upper tail of an entropy bottleneck's likelihood, which CompressAI 1.2.8 loses, and what the loss amounts to.

F(x + 1/2) - F(x - 1/2) is a difference of two numbers near 1 above the median. In float32 it is rounded to multiples of
6e-8 and soon zero, and the gradient with it: nothing pulls such a latent back. TensorFlow Compression and CompressAI
before 1.2.8 take the difference at the mirrored place, where both numbers are small.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from compressai.entropy_models import EntropyBottleneck
from numpy.typing import NDArray
from torch import Tensor, nn

from rdtrain.mixing import mix_in

Array = NDArray[np.float64]
TOLERATED = 0.01
"""Relative error of a likelihood from which on it counts as lost: 0.014 bits."""
_POINTS = 400  # of the search for the place where it begins


def interval_probability(lower: Tensor, upper: Tensor) -> Tensor:
    """Compute the probability between two places of a logistic distribution so that neither tail cancels.

    Args:
        lower: logit of F at the lower end, any shape.
        upper: at the upper end, same shape.

    Returns:
        sigmoid(upper) - sigmoid(lower), where lower + upper > 0 as the equal sigmoid(-lower) - sigmoid(-upper).
    """
    mirrored = lower + upper > 0
    near, far = torch.where(mirrored, -upper, lower), torch.where(mirrored, -lower, upper)
    return torch.sigmoid(far) - torch.sigmoid(near)


class _Stable:
    """Mixed into the class of an entropy bottleneck."""

    def _likelihood(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor, Tensor]:
        kept: Any = super()
        _, lower, upper = kept._likelihood(*args, **kwargs)
        return interval_probability(lower, upper), lower, upper


def use_stable_likelihood(model: nn.Module) -> list[str]:
    """Correct the upper tail of all entropy bottlenecks.

    Args:
        model: a compression model, changed in place; a deep copy keeps the change, a state dict knows nothing of it.

    Returns:
        Names of the bottlenecks; empty for models without any.
    """
    found = {name: module for name, module in model.named_modules() if isinstance(module, EntropyBottleneck)}
    for module in found.values():
        mix_in(_Stable, module)
    return list(found)


@torch.no_grad()
def both_bits(bottleneck: EntropyBottleneck, x: Tensor) -> tuple[Array, Array]:
    """Compute the code length of latents as CompressAI's float32 arithmetic does, and in float64 without cancellation.

    Args:
        bottleneck: not changed; whether its own likelihood is corrected makes no difference.
        x: quantised latents of each channel, (C, n).

    Returns:
        Bits of both, (C, n) each; both likelihoods have CompressAI's lower bound.
    """
    theirs, _, _ = EntropyBottleneck._likelihood(bottleneck, x[:, None].float())
    wide: Any = copy.deepcopy(bottleneck).cpu().double()
    _, lower, upper = EntropyBottleneck._likelihood(wide, x[:, None].cpu().double())
    bound = float(bottleneck.likelihood_lower_bound.bound) if bottleneck.use_likelihood_bound else 0.0
    likelihoods = (theirs[:, 0].cpu().double(), interval_probability(lower, upper)[:, 0])
    theirs_, exact = (-value.clamp(min=bound).log2().numpy() for value in likelihoods)
    return theirs_, exact


def lost_from(bottleneck: EntropyBottleneck) -> Array:
    """Find where above its median each channel's likelihood is lost in float32.

    Args:
        bottleneck: not changed.

    Returns:
        Distance from the median, an integer, from which on the likelihood is off by more than `TOLERATED`, (C,); NaN
        where it is right up to the learned upper quantile.
    """
    quantiles = bottleneck.quantiles.detach()[:, 0]
    reach = (quantiles[:, 2:] - quantiles[:, 1:2]).clamp(min=1)
    grid = torch.linspace(0, 1, _POINTS, device=quantiles.device).pow(2)  # as dense as integers where they matter
    distance = (grid * reach).round()
    theirs, exact = both_bits(bottleneck, quantiles[:, 1:2] + distance)
    lost = np.abs(np.expm1((exact - theirs) * np.log(2))) > TOLERATED
    first = distance.cpu().numpy()[np.arange(len(lost)), lost.argmax(1)]
    return np.where(lost.any(1), first, np.nan)
