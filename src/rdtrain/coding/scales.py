"""The entry of a scale table that a Gaussian's latent is coded with, found without a search."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

BUCKET_BITS = 17
"""Of a float32 that its bucket leaves out: 64 buckets an octave, where CompressAI's table has 6 entries."""

Floats = NDArray[np.float32]


class ScaleIndex:
    """What `GaussianConditional.build_indexes` computes: how many entries but the last are below a scale.

    Args:
        table: scales above 0, (T,).
    """

    def __init__(self, table: Floats) -> None:
        self.table = table.copy()
        self._bounds = np.sort(self.table[:-1])
        edges = (np.arange(2 ** (31 - BUCKET_BITS), dtype=np.int32) << BUCKET_BITS).view(np.float32)
        self._first = np.searchsorted(self._bounds, edges).astype(np.int32)

    def __call__(self, scales: Floats) -> NDArray[np.int32]:
        """Find the entries.

        Args:
            scales: above 0 or NaN, of any shape.

        Returns:
            The index of each one's entry, the last for NaN.
        """
        from rdtrain.coding import kernels

        flat = np.ascontiguousarray(scales, np.float32).reshape(-1)
        indexes = np.empty(flat.size, np.int32)
        kernels.scale_indexes(flat, flat.view(np.int32), self._bounds, self._first, BUCKET_BITS, indexes)
        return indexes.reshape(scales.shape)
