"""Where the random numbers of a repetition come from: one seed, and streams that have nothing to do with each other."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch

Stream = Literal["initial", "target", "inputs"]
_STREAMS: tuple[Stream, ...] = ("initial", "target", "inputs")


def generator(seed: int, stream: Stream) -> torch.Generator:
    """A generator of random numbers.

    Args:
        seed: of the repetition.
        stream: what is drawn.

    Returns:
        Always the same for the same arguments.
    """
    state = np.random.SeedSequence((seed, _STREAMS.index(stream))).generate_state(1, np.uint32)
    return torch.Generator().manual_seed(int(state[0]))
