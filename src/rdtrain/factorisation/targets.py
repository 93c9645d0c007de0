"""Filters that are to be factorised, on a canvas that is zero around them.

Shapes: f (S, S), the canvas; a filter of odd height and width lies around (S // 2, S // 2).
"""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rdtrain.errors import UserError

Array = NDArray[np.float64]
WAVELETS = ("ll", "lh", "hl", "hh")
CANVAS = 16

# Synthesis filters g0o and g1o of `near_sym_a`, the (5, 7)-tap near-symmetric biorthogonal pair of the first level of
# Kingsbury's dual-tree complex wavelet transform; the package `dtcwt` rounds them to the same doubles.
_LOW = [Fraction(n, 280) for n in (-3, -15, 73, 170, 73, -15, -3)]
_HIGH = [Fraction(n, 20) for n in (-1, -5, 12, -5, -1)]


def synthesis_filters() -> tuple[Array, Array]:
    """The pair of one-dimensional synthesis filters.

    Returns:
        Low-pass, 7 taps with sum 1, and high-pass, 5 taps with sum 0.
    """
    low, high = (np.array([float(tap) for tap in taps]) for taps in (_LOW, _HIGH))
    return low, high


def wavelet(name: str) -> Array:
    """The response of the inverse transform's first level to an impulse in one band.

    Args:
        name: `ll`, `lh`, `hl` or `hh`: low or high in horizontal, then in vertical direction.

    Returns:
        The outer product, 7x7, 5x7, 7x5 or 5x5 (rows x columns).
    """
    low, high = synthesis_filters()
    horizontal, vertical = (low if letter == "l" else high for letter in name)
    return np.outer(vertical, horizontal)


def on_canvas(kernel: Array, size: int = CANVAS) -> Array:
    """Put a filter on an empty canvas.

    Args:
        kernel: sides at most `size`; an even side has its middle behind the canvas's.
        size: of the canvas.

    Returns:
        (size, size).
    """
    canvas = np.zeros((size, size))
    top, left = (size // 2 - side // 2 for side in kernel.shape)
    canvas[top : top + kernel.shape[0], left : left + kernel.shape[1]] = kernel
    return canvas


def normalised(canvas: Array) -> Array:
    """Zero mean and unit unbiased standard deviation, so that an MSE of 1 explains nothing.

    Args:
        canvas: any shape.

    Returns:
        Same shape.
    """
    return (canvas - canvas.mean()) / canvas.std(ddof=1)


def floor(y: Array, side: int) -> float:
    """The least mean squared error of any kernel of a size.

    Args:
        y: the normalised canvas.
        side: of the kernels' common support, odd, around the middle.

    Returns:
        The energy outside of the support, over the canvas's size.
    """
    inside = on_canvas(np.ones((min(side, len(y)),) * 2), len(y)).astype(bool)
    return float(np.square(y[~inside]).sum() / y.size)


def read_kernel(path: str, key: str) -> Array:
    """Read a filter from a file.

    Args:
        path: `.npy`, or text with a row a line and numbers separated by spaces or commas.
        key: under which it was typed, for the error.

    Returns:
        Two-dimensional, both sides odd and at most 15.

    Raises:
        UserError: there is no such filter there.
    """
    try:
        file = Path(path).expanduser()
        text = None if file.suffix == ".npy" else file.read_text(encoding="utf-8").replace(",", " ").splitlines()
        if text is not None and not any(map(str.strip, text)):
            raise UserError(f"{key}={path} is empty; it should hold a row of numbers a line")
        kernel = np.load(file, allow_pickle=False) if text is None else np.loadtxt(text, ndmin=2)
        if np.iscomplexobj(kernel):
            raise UserError(f"{key}={path} holds complex numbers; save their real or imaginary part")
        kernel = np.asarray(kernel, dtype=np.float64)
    except (OSError, ValueError, EOFError, TypeError) as error:
        raise UserError(f"{key}={path} cannot be read: {error}") from error
    if kernel.ndim != 2 or not all(side % 2 and side < CANVAS for side in kernel.shape):
        raise UserError(f"{key}={path}: its shape is {kernel.shape}; both sides must be odd and at most 15")
    if not np.isfinite(kernel).all() or np.ptp(on_canvas(kernel)) == 0:
        raise UserError(f"{key}={path}: it holds no filter but zeros or numbers that are not finite")
    return kernel
