"""The linear part of JPEG as tensors: blocking, DCT, zigzag and scaling, on any number of blocks and channels.

Shapes: x (B, C, H, W), pixels; F (B, C, H/8, W/8, 64), coefficients in zigzag order. In the letters of the notes this
follows, F = B D Z S x: B blocking (a reshape, never a tensor), D the DCT, Z the zigzag, S division by the table.

Source: Ehrlich and Davis, "Deep Residual Learning in the JPEG Transform Domain", ICCV 2019; ITU-T T.81 for JPEG.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rdtrain.conv.matrices import coefficient_order, cosine_basis, separable_basis
from rdtrain.errors import UserError

BLOCK = 8
COEFFICIENTS = BLOCK * BLOCK
RANK = 5
"""Dimensions of coefficients: images, channels, rows, columns, frequencies."""
ALL_FREQUENCIES = 2 * (BLOCK - 1)
"""The largest alpha + beta of a coefficient: `n_freqs` that keeps all 64."""

TableName = Literal["mpeg2", "luminance", "chrominance", "flat"]
# Row by row. The first is MPEG-2's default for intra blocks (ISO/IEC 13818-2, 6.3.11): its DC entry 8 makes the DC
# coefficient a block's mean. The next two are those of T.81, tables K.1 and K.2.
_TABLES: dict[str, str] = {
    "mpeg2": """8 16 19 22 26 27 29 34  16 16 22 24 27 29 34 37  19 22 26 27 29 34 34 38  22 22 26 27 29 34 37 40
        22 26 27 29 32 35 40 48  26 27 29 32 35 40 48 58  26 27 29 34 38 46 56 69  27 29 35 38 46 56 69 83""",
    "luminance": """16 11 10 16 24 40 51 61  12 12 14 19 26 58 60 55  14 13 16 24 40 57 69 56  14 17 22 29 51 87 80 62
        18 22 37 56 68 109 103 77  24 35 55 64 81 104 113 92  49 64 78 87 103 121 120 101
        72 92 95 98 112 100 103 99""",
    "chrominance": "17 18 24 47 99 99 99 99  18 21 26 66 99 99 99 99  24 26 56 99 99 99 99 99  47 66 99 99 99 99 99 99"
    + " 99" * 32,
    "flat": " 8" * 64,
}


def zigzag_frequencies() -> NDArray[np.int64]:
    """The frequency of each coefficient.

    Returns:
        (64, 2): vertical and horizontal frequency, alpha and beta, in zigzag order.
    """
    order = coefficient_order(BLOCK, BLOCK, "zigzag")
    return np.stack(np.divmod(np.asarray(order), BLOCK), axis=1)


def kept(n_freqs: int) -> NDArray[np.bool_]:
    """Which coefficients an approximation looks at.

    Args:
        n_freqs: largest alpha + beta, 0 to 14; 14 keeps all.

    Returns:
        (64,) in zigzag order.

    Raises:
        ValueError: it is another number.
    """
    if not 0 <= n_freqs <= ALL_FREQUENCIES:
        raise ValueError(f"n_freqs={n_freqs}: type a number from 0 to {ALL_FREQUENCIES}")
    return zigzag_frequencies().sum(axis=1) <= n_freqs


def table(name: TableName, quality: int | None = None) -> NDArray[np.float64]:
    """A quantisation table.

    Args:
        name: `mpeg2`, `luminance`, `chrominance` or `flat` (8 everywhere).
        quality: 1 to 100, as libjpeg scales tables, rounded and at least 1; None for the table as it stands.

    Returns:
        (64,) in zigzag order.

    Raises:
        UserError: no such table or quality.
    """
    if name not in _TABLES:
        raise UserError(f"jpeg.table={name}: type one of {', '.join(_TABLES)}")
    rows = np.array(_TABLES[name].split(), dtype=np.float64)
    zigzag = rows[coefficient_order(BLOCK, BLOCK, "zigzag")]
    if quality is None:
        return zigzag
    if not 1 <= quality <= 100:
        raise UserError(f"quality {quality}: type a number from 1 to 100")
    percent = 5000 // quality if quality < 50 else 200 - 2 * quality
    return np.clip((zigzag * percent + 50) // 100, 1, 255)


class Codec(nn.Module):
    """Turns pixels into JPEG coefficients and back, exactly: nothing is rounded.

    Args:
        q: quantisation table in zigzag order, (64,), or one for each channel, (C, 64).
        dtype: of the tensors; they are computed in float64.
    """

    basis: Tensor
    q: Tensor

    def __init__(self, q: NDArray[np.float64] | None = None, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        order = coefficient_order(BLOCK, BLOCK, "zigzag")
        basis = separable_basis(cosine_basis(BLOCK), cosine_basis(BLOCK))[order]
        self.register_buffer("basis", torch.tensor(basis, dtype=dtype))  # (64 coefficients, 64 pixels), orthonormal
        self.register_buffer("q", torch.tensor(table("mpeg2") if q is None else q, dtype=dtype))

    @property
    def scale(self) -> Tensor:
        """The table, ready to be multiplied with coefficients: (64,) or (C, 1, 1, 64)."""
        return self.q if self.q.ndim == 1 else self.q[:, None, None]

    def encode(self, x: Tensor) -> Tensor:
        """Turn pixels into coefficients.

        Args:
            x: (B, C, H, W), H and W multiples of 8.

        Returns:
            (B, C, H/8, W/8, 64).
        """
        return to_blocks(x) @ self.basis.T / self.scale

    def decode(self, coefficients: Tensor) -> Tensor:
        """Turn coefficients into pixels.

        Args:
            coefficients: (B, C, Y, X, 64).

        Returns:
            (B, C, 8 Y, 8 X).
        """
        return from_blocks(coefficients * self.scale @ self.basis)

    def tensors(self, height: int, width: int) -> tuple[Tensor, Tensor]:
        """The dense tensors of an image size, for one table.

        Args:
            height: multiple of 8, pixels.
            width: multiple of 8, pixels.

        Returns:
            J, (H, W, H/8, W/8, 64), and its inverse J_i, (H/8, W/8, 64, H, W).
        """
        pixels = torch.eye(height * width, dtype=self.q.dtype, device=self.q.device)
        forward = self.encode(pixels.view(-1, 1, height, width))[:, 0]
        blocks = (height // BLOCK, width // BLOCK, COEFFICIENTS)
        inverse = self.decode(pixels.view(-1, 1, *blocks))[:, 0]
        return forward.view(height, width, *blocks), inverse.view(*blocks, height, width)


def to_blocks(x: Tensor) -> Tensor:
    """Cut images into blocks.

    Args:
        x: (B, C, H, W).

    Returns:
        (B, C, H/8, W/8, 64), the pixels of a block row by row.

    Raises:
        ValueError: H or W is no multiple of 8.
    """
    height, width = x.shape[-2:]
    if height % BLOCK or width % BLOCK:
        raise ValueError(f"{height}x{width} pixels are no whole number of 8x8 blocks; pad them")
    x = x.unflatten(-1, (-1, BLOCK)).unflatten(-3, (-1, BLOCK))
    return x.transpose(-3, -2).flatten(-2)


def from_blocks(blocks: Tensor) -> Tensor:
    """Put blocks together.

    Args:
        blocks: (B, C, Y, X, 64).

    Returns:
        (B, C, 8 Y, 8 X).
    """
    return blocks.unflatten(-1, (BLOCK, BLOCK)).transpose(-3, -2).flatten(-2).flatten(-3, -2)
