"""A convolution of pixels as one linear map of JPEG coefficients.

Letters: n, m channels out and in; k, l coefficients out and in; t taps; d offset between two blocks.

The notes explode a kernel into a dense map from every block to every block, 1.07 GB for 16 -> 16 channels at 32x32. But
a block of the result depends on few neighbours, always in the same way: the map is itself a convolution, of blocks with
64 channels for each channel of pixels. Its kernel does not depend on the image's size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rdtrain.jpeg.codec import BLOCK, COEFFICIENTS, Codec


@dataclass(frozen=True)
class Reach:
    """Which blocks a block of the result depends on, along one axis.

    Args:
        kernel_size: taps.
        stride: of the convolution.
        padding: zeros before the image, pixels.
    """

    kernel_size: int
    stride: int
    padding: int

    @property
    def first(self) -> int:
        """Offset of the first block from block `stride * i`, for block i of the result."""
        return -self.padding // BLOCK

    @property
    def last(self) -> int:
        """Offset of the last block."""
        return ((BLOCK - 1) * self.stride + self.kernel_size - 1 - self.padding) // BLOCK

    @property
    def blocks(self) -> int:
        """How many blocks."""
        return self.last - self.first + 1

    def pixels(self, blocks: int) -> int:
        """How many pixels the result has.

        Args:
            blocks: of the input.

        Returns:
            A number of pixels.
        """
        return (blocks * BLOCK + 2 * self.padding - self.kernel_size) // self.stride + 1

    @property
    def margins(self) -> tuple[int, int]:
        """Empty blocks before and after the image."""
        return -self.first, max(0, self.last - self.stride + 1)


def reaches(conv: nn.Conv2d) -> tuple[Reach, Reach]:
    """The reach of a convolution along both axes.

    Args:
        conv: zero padding, no dilation, no groups.

    Returns:
        Vertical and horizontal.

    Raises:
        ValueError: it is another kind of convolution.
    """
    if conv.groups != 1 or conv.dilation != (1, 1) or conv.padding_mode != "zeros" or isinstance(conv.padding, str):
        raise ValueError("exploded convolutions take no groups, dilation or other padding than zeros; use mode=fused")
    pairs = zip(conv.kernel_size, conv.stride, cast(tuple[int, int], conv.padding), strict=True)
    vertical, horizontal = (Reach(*pair) for pair in pairs)
    return vertical, horizontal


def tap_maps(vertical: Reach, horizontal: Reach, before: Codec, after: Codec) -> Tensor:
    """What each tap of a kernel does to coefficients.

    Args:
        vertical: reach.
        horizontal: reach.
        before: codec of the input, with one table.
        after: codec of the result, with one table.

    Returns:
        (taps, vertical offsets, horizontal offsets, k, l), from coefficient l to coefficient k.
    """
    axes = (vertical, horizontal)
    taps = vertical.kernel_size * horizontal.kernel_size
    one_hot = torch.eye(taps, dtype=before.q.dtype, device=before.q.device)
    kernels = one_hot.view(taps, 1, vertical.kernel_size, horizontal.kernel_size)
    _, images = before.tensors(*(axis.blocks * BLOCK for axis in axes))
    top, left = (-axis.first * BLOCK - axis.padding for axis in axes)
    shifted = images.flatten(0, 2)[:, None, top:, left:]
    result = F.conv2d(shifted, kernels, stride=tuple(axis.stride for axis in axes))[..., :BLOCK, :BLOCK]
    coefficients = after.encode(result).view(vertical.blocks, horizontal.blocks, COEFFICIENTS, taps, COEFFICIENTS)
    return coefficients.permute(3, 0, 1, 4, 2)


def explode(weight: Tensor, maps: Tensor) -> Tensor:
    """The block convolution that a kernel becomes.

    Args:
        weight: (N, M, taps vertical, taps horizontal).
        maps: of `tap_maps`.

    Returns:
        (N * 64, M * 64, vertical offsets, horizontal offsets).
    """
    n, m = weight.shape[:2]
    kernel = torch.einsum("nmt,tyxkl->nkmlyx", weight.flatten(2), maps)
    return kernel.reshape(n * COEFFICIENTS, m * COEFFICIENTS, *maps.shape[1:3])


def exploded_conv(coefficients: Tensor, kernel: Tensor, vertical: Reach, horizontal: Reach) -> Tensor:
    """Apply it.

    Args:
        coefficients: (B, M, Y, X, 64), Y and X multiples of the stride.
        kernel: of `explode`.
        vertical: reach.
        horizontal: reach.

    Returns:
        (B, N, Y / stride, X / stride, 64).
    """
    channels = coefficients.movedim(-1, 2).flatten(1, 2)
    padded = F.pad(channels, (*horizontal.margins, *vertical.margins))
    result = F.conv2d(padded, kernel, stride=(vertical.stride, horizontal.stride))
    return result.unflatten(1, (-1, COEFFICIENTS)).movedim(2, -1)
