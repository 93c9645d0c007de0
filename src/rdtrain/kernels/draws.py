"""Where the random numbers of a repetition come from: its seed and nothing else.

`streams` keeps the initial kernels, the target and the inputs apart, so that none changes the others. `script` draws as
a plain script does that makes an `nn.Conv2d` to be fitted, then one to be its target, after `torch.manual_seed(seed)`,
and its inputs after `torch.manual_seed(seed + 2)`: numbers of such scripts can be had again digit by digit.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from rdtrain.kernels.schema import Draws

Stream = Literal["initial", "target", "inputs"]
_STREAMS: tuple[Stream, ...] = ("initial", "target", "inputs")
_SCRIPT_INPUTS = 2  # added to the seed


class Convolution(NamedTuple):
    """What `nn.Conv2d` would begin with.

    Args:
        weight: (O, I/groups, Kh, Kw), uniform within 1 / sqrt(I/groups Kh Kw) around 0.
        bias: likewise, (O,).
    """

    weight: Tensor
    bias: Tensor


def generator(seed: int, stream: Stream, draws: Draws = "streams") -> torch.Generator:
    """A generator of random numbers.

    Args:
        seed: of the repetition.
        stream: what is drawn.
        draws: how streams come from the seed.

    Returns:
        Always the same for the same arguments.
    """
    if draws == "script":
        return torch.Generator().manual_seed(seed + _SCRIPT_INPUTS * (stream == "inputs"))
    state = np.random.SeedSequence((seed, _STREAMS.index(stream))).generate_state(1, np.uint32)
    return torch.Generator().manual_seed(int(state[0]))


def convolutions(shape: tuple[int, ...], seed: int, draws: Draws = "streams") -> tuple[Convolution, Convolution]:
    """Draw what a fit begins with, and a random target.

    Args:
        shape: of both, (O, I/groups, Kh, Kw).
        seed: of the repetition.
        draws: how they come from the seed.

    Returns:
        The initial convolution and the target.
    """
    initial = generator(seed, "initial", draws)
    target = initial if draws == "script" else generator(seed, "target")
    return _default(shape, initial), _default(shape, target)


def _default(shape: tuple[int, ...], numbers: torch.Generator) -> Convolution:
    weight = nn.init.kaiming_uniform_(torch.empty(shape), a=math.sqrt(5), generator=numbers)
    bound = 1 / math.sqrt(math.prod(shape[1:]))
    return Convolution(weight, torch.empty(shape[0]).uniform_(-bound, bound, generator=numbers))
