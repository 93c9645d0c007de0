"""Chains of small kernels: what they compose to, what they lose, and how to find them by alternating least squares.

Shapes: w (R, n, k, k), R chains of n kernels; y (S, S), the target. Everything here treats the R chains independently.

A chain acts by correlations, as `F.conv2d` does, on an impulse in the middle of the canvas: its response is the flip of
the composed kernel. Here y is the response itself, so that no target needs to be symmetric.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from rdtrain.errors import UserError

Admissibility = Literal["absolute", "square"]


def composed(w: Tensor, size: int) -> Tensor:
    """The response of chains to an impulse.

    Args:
        w: (R, n, k, k), k odd.
        size: of the canvas.

    Returns:
        (R, size, size).
    """
    chains, _, k, _ = w.shape
    x = w.new_zeros(1, chains, size, size)
    x[..., size // 2, size // 2] = 1
    for kernels in w.unbind(1):
        x = F.conv2d(x, kernels[:, None], padding=k // 2, groups=chains)
    return x[0]


def support(n: int, k: int) -> int:
    """The side of what chains can reach.

    Args:
        n: kernels.
        k: their side.

    Returns:
        n (k - 1) + 1.
    """
    return n * (k - 1) + 1


def mse(w: Tensor, y: Tensor) -> Tensor:
    """How well chains match.

    Args:
        w: (R, n, k, k).
        y: (S, S).

    Returns:
        Mean squared error over the canvas, (R,).
    """
    side = min(support(w.shape[1], w.shape[-1]), len(y))
    inside = middle(y, side)
    outside = y.square().sum() - inside.square().sum()
    return ((composed(w, side) - inside).square().sum((1, 2)) + outside) / y.numel()


def middle(y: Tensor, side: int) -> Tensor:
    """The part of a canvas that chains can reach.

    Args:
        y: (S, S).
        side: odd, or S.

    Returns:
        (side, side), around (S // 2, S // 2).
    """
    first = len(y) // 2 - side // 2
    return y[first : first + side, first : first + side]


def objective(
    w: Tensor, y: Tensor, lmbda: float, lambda1: float, lambda2: float, admissibility: Admissibility
) -> Tensor:
    """What the source minimises: `lmbda` MSE + `lambda1` sum of mean squares of the kernels + `lambda2` admissibility.

    A wavelet's taps sum to zero. The sum of a chain's response is the product of its kernels' sums; the source takes
    its absolute value in one place and its square in another.

    Args:
        w: (R, n, k, k).
        y: (S, S).
        lmbda: weight.
        lambda1: weight.
        lambda2: weight; 0 for a low-pass filter, whose taps do not sum to zero.
        admissibility: form of the last term.

    Returns:
        (R,).
    """
    total = w.sum((2, 3)).prod(1)
    penalty = total.abs() if admissibility == "absolute" else total.square()
    return lmbda * mse(w, y) + lambda1 * w.square().mean((2, 3)).sum(1) + lambda2 * penalty


def random_chains(restarts: int, n: int, k: int, seed: int) -> Tensor:
    """Starting points as the source draws them, one chain after the other.

    Args:
        restarts: R.
        n: kernels.
        k: their side, odd.
        seed: of the numbers.

    Returns:
        (R, n, k, k), standard normal, float32.

    Raises:
        UserError: k is even.
    """
    if k % 2 == 0:
        raise UserError(f"kernels of even side {k} have no middle; type an odd number")
    generator = torch.Generator().manual_seed(seed)
    # One draw a kernel: torch fills larger tensors in another order.
    return torch.stack([torch.randn(k, k, generator=generator) for _ in range(restarts * n)]).view(restarts, n, k, k)


@torch.no_grad()
def alternating_least_squares(w: Tensor, y: Tensor, iterations: int) -> Tensor:
    """Find chains: with the others fixed, the best kernel solves a linear least squares problem.

    Each solution has as many unknowns as a kernel has taps. A ridge of 1e-12 of the largest eigenvalue keeps chains
    apart in which a kernel is about to vanish; after each solution the kernels get equal norms, which changes no chain.

    Args:
        w: starting points, (R, n, k, k).
        y: (S, S).
        iterations: rounds over all kernels.

    Returns:
        float64, same shape.
    """
    w, y = w.double().clone(), y.double()
    y = middle(y, min(support(w.shape[1], w.shape[-1]), len(y)))
    for _ in range(iterations):
        for i in range(w.shape[1]):
            w[:, i] = _best_kernel(w, y, i)
            norms = w.flatten(2).norm(dim=2).clamp_min(1e-100)
            w *= (norms.log().mean(1, keepdim=True).exp() / norms)[:, :, None, None]
    return w


def _best_kernel(w: Tensor, y: Tensor, i: int) -> Tensor:
    k = w.shape[-1]
    others = composed(torch.cat([w[:, :i], w[:, i + 1 :]], dim=1), len(y))
    columns = F.unfold(others[:, None], k, padding=k // 2)  # the order of kernels in a chain does not matter
    gram = columns @ columns.transpose(1, 2)
    ridge = 1e-12 * gram.diagonal(dim1=1, dim2=2).amax(1).clamp_min(1e-300)
    one = torch.eye(k * k, dtype=w.dtype)
    return torch.linalg.solve(gram + ridge[:, None, None] * one, columns @ y.flatten()).view(-1, k, k)


def multiply_adds(n: int, k: int) -> int:
    """What a chain costs.

    Args:
        n: kernels.
        k: their side.

    Returns:
        Multiply-adds a pixel, n k^2; one kernel of the same reach costs `support(n, k)` squared.
    """
    return n * k * k
