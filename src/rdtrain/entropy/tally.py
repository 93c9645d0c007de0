"""Sums over images of what an entropy model did: by channel, and by entry of the scale table.

Only sums and histograms are kept, so that memory does not grow with the number of images.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from compressai.entropy_models import EntropyBottleneck
from numpy.typing import NDArray

from rdtrain.entropy.coding import Coded
from rdtrain.entropy.learned import entropy
from rdtrain.entropy.stable import TOLERATED, both_bits
from rdtrain.health import DEAD
from rdtrain.latents import scale_use

Array = NDArray[Any]
SPAN = 256
"""Symbols farther than this from 0 are counted as this."""
EDGES: Array = np.linspace(-6, 6, 97)
"""Of the histogram of normalised residuals; what lies outside is counted at the ends."""

PARTS = ("ideal", "padding", "context", "tables", "tails", "escapes")


def channel_parts(coded: Coded) -> dict[str, Array]:
    """Take the bits of one image apart.

    Args:
        coded: by one entropy model.

    Returns:
        For each channel, (C,): `ideal` bits (-log2 of the likelihoods), of them `padding` (latents that cover nothing
        but padding), what `context` (other symbols and parameters than those of the forward pass), the `tables` and the
        `tails` (escape code and bypass) cost beyond them, and the number of `escapes`. The last four are NaN where the
        coder's symbols are not known.
    """
    parts = dict.fromkeys(PARTS, np.full(len(coded.ideal), np.nan))
    parts |= {"ideal": coded.ideal.sum(1), "padding": coded.ideal[:, coded.in_padding].sum(1)}
    if coded.split is None:
        return parts
    excess, is_tail = coded.split.bits - coded.split.ideal, coded.split.is_tail
    return parts | {
        "context": (coded.split.ideal - coded.ideal).sum(1),
        "tables": np.where(is_tail, 0, excess).sum(1),
        "tails": np.where(is_tail, excess, 0).sum(1),
        "escapes": is_tail.sum(1).astype(float),
    }


class Tally:
    """What one entropy model did with some images.

    Args:
        model: the entropy model.
        channels: C.

    Attributes:
        count: latents of each channel.
        pixels: of the images.
        parts: sums of `channel_parts`, (C,) each.
        histogram: how often each symbol from -`SPAN` to `SPAN` was coded, (C, 2 SPAN + 1); where that is not known, how
            often the forward pass has it.
        lost: latents whose float32 likelihood is off by more than 1 %, (C,); bottlenecks only.
        lost_bits: what the float32 likelihoods say beyond the exact ones, (C,).
        scale_counts: latents by entry of the scale table, as `rdtrain.latents.ScaleUse` counts them, (T + 1,).
        residuals: histogram of (latent - mean) / scale over `EDGES`, all channels; Gaussian conditionals only.
        by_scale: for each entry of the scale table, (T,), of the latents that the forward pass gives it: `count`,
            `ideal` bits, `square` (sum of squared normalised residuals); of those that were coded with it:
            `coded_count`, `coded` bits, `escapes`, NaN where they are not known. With context the two differ.
    """

    def __init__(self, model: Any, channels: int) -> None:
        self.model = model
        self.count = self.pixels = 0
        self.parts = {name: np.zeros(channels) for name in PARTS}
        self.histogram = np.zeros((channels, 2 * SPAN + 1), dtype=np.int64)
        self.lost, self.lost_bits = np.zeros(channels, dtype=np.int64), np.zeros(channels)
        self.residuals = np.zeros(EDGES.size - 1, dtype=np.int64)
        names = ("count", "ideal", "square", "coded_count", "coded", "escapes")
        self.scale_counts = np.zeros(0 if self.is_bottleneck else len(model.scale_table) + 1, dtype=np.int64)
        self.by_scale = {} if self.is_bottleneck else {name: np.zeros(len(model.scale_table)) for name in names}

    @property
    def is_bottleneck(self) -> bool:
        """Whether the model has densities of its own, one a channel."""
        return isinstance(self.model, EntropyBottleneck)

    @property
    def dead(self) -> Array:
        """Channels with next to no bits, as `rdtrain.health` counts them, (C,)."""
        return self.parts["ideal"] < DEAD * self.parts["ideal"].mean()

    @property
    def coded(self) -> Array:
        """Bits of each channel in the strings, the last state left out, (C,); NaN where they are not known."""
        return sum((self.parts[name] for name in ("context", "tables", "tails")), self.parts["ideal"])

    @property
    def empirical(self) -> Array:
        """Entropy of the symbols that came, bits a symbol, (C,): the least that a fixed table could cost."""
        return entropy(self.histogram)

    def add(self, coded: Coded, pixels: int) -> None:
        """Count one more image.

        Args:
            coded: what the model did with it.
            pixels: of the image.
        """
        self.count += coded.ideal.shape[1]
        self.pixels += pixels
        for name, values in channel_parts(coded).items():
            self.parts[name] = self.parts[name] + values
        came = coded.symbols if coded.split is None else coded.split.symbols
        for row, symbols in zip(self.histogram, np.clip(came, -SPAN, SPAN) + SPAN, strict=True):
            row += np.bincount(symbols, minlength=row.size)
        if self.is_bottleneck:
            self._compare_precision(coded)
        else:
            self._count_scales(coded)

    def _compare_precision(self, coded: Coded) -> None:
        theirs, exact = both_bits(self.model, torch.from_numpy(coded.symbols + coded.centres).to(self._device))
        self.lost += (np.abs(np.expm1((exact - theirs) * np.log(2))) > TOLERATED).sum(1)
        self.lost_bits += (theirs - exact).sum(1)

    @property
    def _device(self) -> torch.device:
        return self.model.quantiles.device

    def _count_scales(self, coded: Coded) -> None:
        assert coded.scales is not None
        residuals = (coded.latents - coded.centres) / coded.scales
        self.residuals += np.histogram(np.clip(residuals, EDGES[0], EDGES[-1]), EDGES)[0]
        table = self.model.scale_table.double().cpu().numpy()
        self.scale_counts += scale_use(coded.scales.ravel(), table).counts
        indexes = np.minimum(np.searchsorted(table, coded.scales.ravel()), table.size - 1)
        ones = np.ones(indexes.size)
        self._add_by_scale(indexes, count=ones, ideal=coded.ideal, square=residuals**2)
        split, unknown = coded.split, np.full(indexes.size, np.nan)
        if split is None:
            self._add_by_scale(indexes, coded_count=unknown, coded=unknown, escapes=unknown)
        else:
            self._add_by_scale(split.indexes, coded_count=ones, coded=split.bits, escapes=split.is_tail)

    def _add_by_scale(self, entries: Array, **sums: Array) -> None:
        for name, values in sums.items():
            self.by_scale[name] += np.bincount(entries.ravel(), values.ravel(), self.by_scale[name].size)
