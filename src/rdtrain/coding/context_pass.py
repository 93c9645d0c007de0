"""One pass over the latents of a context model, the same for encoder and decoder: all that follows from z.

Shapes: y (B, M, H, W), P = H W places; the hyperprior gives 2 M parameters of each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rdtrain.coding.classes import tables_of
from rdtrain.coding.context_network import ContextNetwork
from rdtrain.coding.context_order import Step, patches, steps, wavefront

Source = Callable[[slice, Tensor, Tensor], Tensor]
"""Gives the symbols of a step, (B, p, M), from its places, table indexes and means."""


class Coded(NamedTuple):
    """What was coded or decoded.

    Args:
        symbols: whole numbers in coding order, (B, P, M).
        indexes: the table of each, int32, same shape.
        scales: that it was chosen by, not below their bound, same shape.
        y_hat: symbols and means together, (B, M, H, W).
    """

    symbols: Tensor
    indexes: Tensor
    scales: Tensor
    y_hat: Tensor


class Pass:
    """Goes through the latents of images of one size.

    Args:
        model: a context model with tables.
        z_strings: one an image.
        shape: of z, height and width.

    Attributes:
        tables: that y is coded with.
    """

    def __init__(self, model: Any, z_strings: Sequence[bytes], shape: Sequence[int]) -> None:
        z_hat = model.entropy_bottleneck.decompress(z_strings, shape)
        # image by image: how a convolution rounds depends on how many there are
        params = torch.cat([model.h_s(image) for image in z_hat.split(1)])
        self._network = ContextNetwork(model)
        self._height, self._width = params.shape[-2:]
        self._order, self._slices = wavefront(self._height, self._width, self._network.reach)
        self._params = self.in_order(params)
        conditional = model.gaussian_conditional
        self._bound, self._scales = conditional.lower_bound_scale, conditional.scale_table[:-1].contiguous()
        self.tables = tables_of(conditional)

    def in_order(self, values: Tensor) -> Tensor:
        """Bring latents into coding order.

        Args:
            values: (B, C, H, W).

        Returns:
            The same, (B, P, C).
        """
        return values.flatten(2).transpose(1, 2)[:, self._order]

    def run(self, source: Source) -> Coded:
        """Take step by step.

        Args:
            source: of the symbols.

        Returns:
            All of them.
        """
        r, params = self._network.reach, self._params
        batch, _, channels = params.shape
        canvas = params.new_zeros(batch, self._height + 2 * r, self._width + 2 * r, channels // 2)
        inside = canvas[:, r : r + self._height, r : r + self._width]
        decoded = canvas.flatten(0, 2)
        symbols, indexes, scales = [], [], []
        for step in self._steps():
            raw, means = self._parameters(step, decoded).chunk(2, -1)
            scales.append(self._bound(raw.contiguous()))
            # what GaussianConditional.build_indexes computes in a loop over the table
            indexes.append(torch.bucketize(scales[-1], self._scales, out_int32=True))
            symbols.append(source(step.places, indexes[-1], means))
            place = self._order[step.places]
            inside[:, place // self._width, place % self._width] = symbols[-1] + means
        y_hat = inside.permute(0, 3, 1, 2).contiguous()
        return Coded(torch.cat(symbols, 1), torch.cat(indexes, 1), torch.cat(scales, 1), y_hat)

    def _steps(self) -> list[Step]:
        r, size = self._network.reach, (self._height, self._width)
        seen = patches(self._order, *size, self._network.taps, r)
        canvas = (self._height + 2 * r) * (self._width + 2 * r)
        return steps(self._slices, seen, len(self._params), canvas, self._params.device)

    def _parameters(self, step: Step, decoded: Tensor) -> Tensor:
        # Scales and means of a step's places, (B, p, 2 M).
        batch, count, params = len(self._params), step.places.stop - step.places.start, self._params.flatten(0, 1)
        tiles = [
            self._network(decoded.index_select(0, tile.seen), params.index_select(0, tile.rows)) for tile in step.tiles
        ]
        return torch.cat(tiles, 1)[:, : batch * count].t().reshape(batch, count, -1)
