"""Bases of Kh x Kw kernels in float64: row s is the kernel that the stored number s stands for, so `w = theta @ basis`.

Rows are flattened kernels of N = Kh*Kw taps, tap (y, x) at y*Kw + x. Numpy only, made once and cached by the caller.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]

# Numerical noise of pinv and matrix_rank lies near 1e-16 of the largest singular value, a gain may go down to 1e-6.
_RELATIVE_CUTOFF = 1e-10


def half_spectrum_basis(kh: int, kw: int) -> Matrix:
    """Inverse of the orthonormal two-dimensional real FFT, for real and imaginary parts side by side.

    `w[y,x] = sum_uv c_v N^(-1/2) (Re[u,v] cos(p) - Im[u,v] sin(p))`, `p = 2 pi (u y / Kh + v x / Kw)`, u = 0..Kh-1,
    v = 0..Kw//2, with c_v = 1 on columns that are their own mirror image (v = 0 and, for even Kw, v = Kw/2), else 2.

    Args:
        kh: kernel height.
        kw: kernel width.

    Returns:
        shape (2*Kh*(Kw//2 + 1), Kh*Kw), stored numbers in the order u, v, (real, imaginary).
    """
    u, v, y, x = np.ogrid[:kh, : kw // 2 + 1, :kh, :kw]
    # The phase in whole N-ths of a turn: reduced as integers, it stays exact for every size.
    phase = 2 * np.pi / (kh * kw) * ((u * y * kw + v * x * kh) % (kh * kw))
    gain = np.where((2 * v) % kw == 0, 1.0, 2.0) / np.sqrt(kh * kw)
    basis = np.stack([gain * np.cos(phase), -gain * np.sin(phase)], axis=2)
    # The imaginary parts of self-conjugate bins have no effect; a rounding residue would give them a gradient.
    basis[np.abs(basis) < 1e-15] = 0.0
    return basis.reshape(-1, kh * kw)


def real_dft_basis(n: int) -> Matrix:
    """Orthonormal real DFT of length n: a constant, then cosine and sine of each frequency, last the Nyquist of even n.

    Args:
        n: number of samples.

    Returns:
        shape (n, n), one basis signal a row.
    """
    frequency = (np.arange(n)[:, None] + 1) // 2
    phase = 2 * np.pi / n * (frequency * np.arange(n) % n)
    is_sine = (np.arange(n)[:, None] % 2 == 0) & (frequency > 0)
    scale = np.where((2 * frequency) % n == 0, 1.0, np.sqrt(2.0)) / np.sqrt(n)
    return scale * np.where(is_sine, np.sin(phase), np.cos(phase))


def cosine_basis(n: int) -> Matrix:
    """Orthonormal DCT-II of length n.

    Args:
        n: number of samples.

    Returns:
        shape (n, n), row a is `s_a cos((2 y + 1) a pi / (2 n))`, s_0 = sqrt(1/n), else sqrt(2/n).
    """
    a, y = np.ogrid[:n, :n]
    return np.where(a == 0, 1.0, np.sqrt(2.0)) / np.sqrt(n) * np.cos((2 * y + 1) * a * np.pi / (2 * n))


def separable_basis(rows: Matrix, columns: Matrix) -> Matrix:
    """Two-dimensional basis of all products of a vertical and a horizontal basis signal.

    Args:
        rows: vertical basis, shape (a, Kh).
        columns: horizontal basis, shape (b, Kw).

    Returns:
        shape (a*b, Kh*Kw).
    """
    return np.kron(rows, columns)


def coefficient_order(kh: int, kw: int, order: str) -> list[int]:
    """Which two-dimensional frequencies come first, as indices a*Kw + b of vertical frequency a, horizontal b.

    Args:
        kh: kernel height.
        kw: kernel width.
        order: `zigzag` is JPEG's walk along anti-diagonals, (0,0), (0,1), (1,0), (2,0), (1,1), ...; `square` grows
            squares, (0,0), (0,1), (1,0), (1,1), ..., so that n^2 coefficients are the n x n lowest frequencies.

    Returns:
        all kh*kw indices.
    """
    pairs = [(a, b) for a in range(kh) for b in range(kw)]
    if order == "zigzag":
        pairs.sort(key=lambda ab: (sum(ab), ab[0] if sum(ab) % 2 else ab[1]))
    else:
        pairs.sort(key=lambda ab: (max(ab), ab))
    return [a * kw + b for a, b in pairs]


def attenuation(kh: int, kw: int, floor: float) -> Matrix:
    """Gain of each number of the half spectrum: falls linearly with |frequency| along each axis, from 1 to `floor`.

    `m[u,v] = (1 - (1 - floor) r_u) (1 - (1 - floor) r_v)` where r is |frequency| over the highest one that the axis
    has. The absolute value makes m[u] = m[-u]: FFT order is 0, 1, 2, -2, -1.

    Args:
        kh: kernel height.
        kw: kernel width.
        floor: gain at the highest frequency of an axis, above 0.

    Returns:
        shape (2*Kh*(Kw//2 + 1),), in the order of `half_spectrum_basis`.
    """
    r_u, r_v = (np.abs(f) / max(np.abs(f).max(), 1 / (kh * kw)) for f in (np.fft.fftfreq(kh), np.fft.rfftfreq(kw)))
    gain = np.outer(1 - (1 - floor) * r_u, 1 - (1 - floor) * r_v)
    return np.repeat(gain, 2)


def analysis_of(basis: Matrix) -> Matrix:
    """The matrix that finds the stored numbers of a kernel: `theta = w @ analysis`, of all that fit the smallest.

    Args:
        basis: shape (S, N).

    Returns:
        the pseudo-inverse, shape (N, S).
    """
    return np.linalg.pinv(basis, rcond=_RELATIVE_CUTOFF)


def is_full_rank(basis: Matrix) -> bool:
    """Whether every kernel can be written in a basis.

    Args:
        basis: shape (S, N).

    Returns:
        true if its rank is N.
    """
    singular = np.linalg.svd(basis, compute_uv=False)
    return int((singular > _RELATIVE_CUTOFF * singular[0]).sum()) == basis.shape[1]
