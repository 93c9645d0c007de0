"""What an entropy bottleneck has learned, symbol by symbol: probabilities in float64 beside the coder's tables."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from compressai.entropy_models import EntropyBottleneck
from numpy.typing import NDArray

from rdtrain.densities import likelihood

Array = NDArray[Any]
_FARTHEST = 2048  # symbols from the median that are looked at; tables of trained models are ten times shorter


@dataclass(frozen=True)
class Learned:
    """The channels of one bottleneck.

    Args:
        symbols: integers, distances from the median, (K,).
        pmf: learned probability of each, (C, K).
        table: the coder's, a 16-bit frequency over 65536, (C, K); NaN for symbols that are not in the channel's table.
        escape: the coder's probability of the escape code, (C,).
        tail_mass: learned probability of all symbols outside the table, (C,).
        entropy: of the learned probabilities, bits a symbol, (C,).
        quantiles: lower tail, median and upper tail that the tables were made from, (C, 3).
    """

    symbols: Array
    pmf: Array
    table: Array
    escape: Array
    tail_mass: Array
    entropy: Array
    quantiles: Array

    @property
    def widths(self) -> Array:
        """Symbols in each channel's table, (C,)."""
        return np.isfinite(self.table).sum(1)


@torch.no_grad()
def learned(bottleneck: EntropyBottleneck) -> Learned:
    """Evaluate a bottleneck on the integers.

    Args:
        bottleneck: with tables; not changed.

    Returns:
        Its probabilities, on the CPU.
    """
    wide: Any = copy.deepcopy(bottleneck).cpu().double()
    cdf, offset = wide.quantized_cdf.long().numpy(), wide.offset.long().numpy()
    escape_code = wide.cdf_length.long().numpy() - 2
    last = offset + escape_code - 1
    symbols = np.arange(max(offset.min(), -_FARTHEST), min(last.max(), _FARTHEST) + 1)
    median = wide.quantiles[:, :, 1:2]
    pmf = likelihood(wide, median[:, 0] + torch.from_numpy(symbols.astype(np.float64))).numpy()
    ends = torch.from_numpy(np.stack([offset, last], 1).astype(np.float64))
    _, below, above = wide._likelihood(median + ends[:, None])
    tail_mass = torch.sigmoid(below[:, 0, 0]) + torch.sigmoid(-above[:, 0, 1])
    rows, total = np.arange(len(cdf)), 2.0**bottleneck.entropy_coder_precision
    code = symbols - offset[:, None]
    is_in = (code >= 0) & (code < escape_code[:, None])
    frequency = np.take_along_axis(np.diff(cdf, axis=1), np.where(is_in, code, 0), 1)
    return Learned(
        symbols=symbols,
        pmf=pmf,
        table=np.where(is_in, frequency / total, np.nan),
        escape=(cdf[rows, escape_code + 1] - cdf[rows, escape_code]) / total,
        tail_mass=tail_mass.numpy(),
        entropy=entropy(pmf),
        quantiles=wide.quantiles[:, 0].numpy(),
    )


@torch.no_grad()
def new_pmf(bottleneck: EntropyBottleneck, symbols: Array) -> Array:
    """What a bottleneck of the same kind gives symbols before its training, around its median.

    Args:
        bottleneck: of which only the kind counts.
        symbols: distances from the median, (K,).

    Returns:
        Probabilities, (K,), of every channel: without the random biases that shift each channel by some symbols.
    """
    kind: Any = bottleneck
    with torch.random.fork_rng(devices=()):
        new: Any = EntropyBottleneck(1, init_scale=kind.init_scale, filters=kind.filters).double()
    for bias in new.biases:
        bias.zero_()
    return likelihood(new, torch.from_numpy(symbols.astype(np.float64))[None])[0].numpy()


def entropy(probabilities: Array) -> Array:
    """Compute the entropy of distributions.

    Args:
        probabilities: or counts, (C, K).

    Returns:
        Bits, (C,); 0 where a row is empty.
    """
    p = probabilities / np.maximum(probabilities.sum(1, keepdims=True), np.finfo(float).tiny)
    return 0.0 - (p * np.log2(np.where(p > 0, p, 1))).sum(1)
