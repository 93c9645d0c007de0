"""Large convolutions of a trained model as two smaller ones.

Letters: O, I, M channels out, in and between; s stride; K = k1 + s (k2 - 1) the side of the large kernel.

A kernel A of side k1 and a kernel B of side k2 whose taps lie s apart compose to one of side K:
`W[o,i,t1 + s t2] = sum_m B[o,m,t2] A[m,i,t1]`, so a convolution with stride s by A, then one with stride 1 by B, is the
convolution with stride s by W, at the borders too where A gets all the padding and B none. For transposed
convolutions the same kernels act in the other order. For K = 5 and s = 2 the sides are 3 and 2: 9 I M + 4 M O
multiply-adds instead of 25 I O for each pixel of the smaller grid.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TypeGuard, cast

import torch
from torch import Tensor, nn

Conv = nn.Conv2d | nn.ConvTranspose2d


def sides(kernel_size: int, stride: int) -> tuple[int, int]:
    """How a kernel's side is divided.

    Args:
        kernel_size: K.
        stride: s.

    Returns:
        k1 and k2, as equal in reach as they can be.
    """
    second = (kernel_size - 1) // (2 * stride) + 1
    return kernel_size - stride * (second - 1), second


def composed_kernel(a: Tensor, b: Tensor, stride: int) -> Tensor:
    """The large kernel.

    Args:
        a: (M, I, k1, k1).
        b: (O, M, k2, k2).
        stride: distance of b's taps.

    Returns:
        (O, I, K, K).
    """
    k1, k2 = a.shape[-1], b.shape[-1]
    w = a.new_zeros(len(b), a.shape[1], *((k1 + stride * (k2 - 1),) * 2))
    for y in range(k2):
        for x in range(k2):
            rows, columns = slice(y * stride, y * stride + k1), slice(x * stride, x * stride + k1)
            w[:, :, rows, columns] += torch.einsum("om,mihw->oihw", b[:, :, y, x], a)
    return w


@torch.no_grad()
def factorise_kernel(weight: Tensor, stride: int, middle: int, iterations: int, seed: int) -> tuple[Tensor, Tensor]:
    """Find the two kernels by alternating least squares.

    With A fixed, the kernels of each output channel in B solve one least squares problem with a common matrix; with B
    fixed, those of each input channel in A do.

    Args:
        weight: (O, I, K, K).
        stride: s.
        middle: M.
        iterations: rounds.
        seed: of the first A.

    Returns:
        A, (M, I, k1, k1), and B, (O, M, k2, k2), float64, of equal norm.
    """
    w = weight.detach().double().cpu()
    k1, k2 = sides(w.shape[-1], stride)
    a = torch.randn(middle, w.shape[1], k1, k1, dtype=w.dtype, generator=torch.Generator().manual_seed(seed))
    b = _best_b(w, a, k2, stride)
    for _ in range(iterations):
        a = _best_a(w, b, k1, stride)
        b = _best_b(w, a, k2, stride)
    balance = (a.norm() / b.norm()).sqrt()
    return a / balance, b * balance


def _best_b(w: Tensor, a: Tensor, k2: int, stride: int) -> Tensor:
    middle = len(a)
    one_hot = torch.eye(middle * k2 * k2, dtype=w.dtype).view(-1, middle, k2, k2)
    columns = composed_kernel(a, one_hot, stride).flatten(1)  # what each number of one output channel of B makes
    return _least_squares(columns, w.flatten(1)).view(len(w), middle, k2, k2)


def _best_a(w: Tensor, b: Tensor, k1: int, stride: int) -> Tensor:
    middle = b.shape[1]
    one_hot = torch.eye(middle * k1 * k1, dtype=w.dtype).view(-1, middle, k1, k1).transpose(0, 1)
    columns = composed_kernel(one_hot, b, stride).transpose(0, 1).flatten(1)  # the same for an input channel of A
    return _least_squares(columns, w.transpose(0, 1).flatten(1)).view(w.shape[1], middle, k1, k1).transpose(0, 1)


def _least_squares(columns: Tensor, targets: Tensor) -> Tensor:
    gram = columns @ columns.T
    ridge = 1e-10 * gram.diagonal().max() * torch.eye(len(gram), dtype=gram.dtype)
    return torch.linalg.solve(gram + ridge, columns @ targets.T).T


@dataclass(frozen=True)
class Replaced:
    """One convolution that became two.

    Args:
        name: of the module.
        middle: channels between.
        error: relative error of the kernel, Euclidean.
        multiply_adds: of the two, for each pixel of the smaller grid.
        direct: of the one.
    """

    name: str
    middle: int
    error: float
    multiply_adds: int
    direct: int


def replace_convs(
    model: nn.Module, patterns: Sequence[str], smallest: int, cost: float, iterations: int, seed: int
) -> list[Replaced]:
    """Replace a model's large convolutions, in place.

    Args:
        model: with plain convolutions, not in training.
        patterns: of module names; empty: all.
        smallest: side of the smallest kernel that is replaced.
        cost: multiply-adds of the two as a share of those of the one, from which M follows, see `channels_for`.
        iterations: of `factorise_kernel`.
        seed: of its first A.

    Returns:
        What was replaced, in the order of `named_modules`.
    """
    replaced = []
    for name, conv in replaceable(model, patterns, smallest).items():
        pair, row = _factorised(name, conv, channels_for(conv.weight.shape, conv.stride[0], cost), iterations, seed)
        model.set_submodule(name, pair)
        replaced.append(row)
    return replaced


def replaceable(model: nn.Module, patterns: Sequence[str], smallest: int) -> dict[str, Conv]:
    """Which convolutions of a model can become two.

    Args:
        model: not changed.
        patterns: of module names; empty: all.
        smallest: side of the smallest kernel that counts.

    Returns:
        Convolutions by name, in the order of `named_modules`.
    """
    return {
        name: conv
        for name, conv in model.named_modules()
        if _is_replaceable(conv, smallest) and (not patterns or any(fnmatchcase(name, pattern) for pattern in patterns))
    }


def channels_for(shape: Sequence[int], stride: int, cost: float) -> int:
    """How many channels fit between the two convolutions.

    Args:
        shape: of the weight, (O, I, K, K).
        stride: s.
        cost: multiply-adds of the two as a share of those of the one.

    Returns:
        M, at least 1; the two cost at most the share where that allows one channel.
    """
    k1, k2 = sides(shape[-1], stride)
    return max(1, int(cost * math.prod(shape) / (shape[1] * k1 * k1 + shape[0] * k2 * k2)))


def _is_replaceable(module: nn.Module, smallest: int) -> TypeGuard[Conv]:
    # An exact type: subclasses may do more than convolve, as MaskedConv2d does.
    if type(module) not in (nn.Conv2d, nn.ConvTranspose2d):
        return False
    conv = cast(Conv, module)
    return (
        conv.kernel_size[0] == conv.kernel_size[1] >= smallest
        and conv.stride[0] == conv.stride[1]
        and conv.padding[0] == conv.padding[1]
        and bool(conv.weight.any())
        and conv.output_padding[0] == conv.output_padding[1]  # zeros of a convolution that is not transposed
        and (conv.groups, conv.dilation, conv.padding_mode) == (1, (1, 1), "zeros")
    )


def _factorised(name: str, conv: Conv, middle: int, iterations: int, seed: int) -> tuple[nn.Module, Replaced]:
    stride, w = conv.stride[0], conv.weight.detach()  # a transposed kernel is (in, out), and composes in that order
    a, b = factorise_kernel(w, stride, middle, iterations, seed)
    error = float((composed_kernel(a, b, stride) - w.double().cpu()).norm() / w.double().norm())
    pair, kernels = _empty_pair(conv, middle, a.shape[-1], b.shape[-1]).to(w), (a, b)
    with torch.no_grad():
        for half, kernel in zip(pair, kernels[::-1] if isinstance(conv, nn.ConvTranspose2d) else kernels, strict=True):
            cast(Conv, half).weight.copy_(kernel)
        cast(Tensor, pair[1].bias).copy_(torch.zeros(conv.out_channels) if conv.bias is None else conv.bias)
    row = Replaced(name, middle, error, a.numel() + b.numel(), w.numel())
    return pair.requires_grad_(False), row


def _empty_pair(conv: Conv, middle: int, k1: int, k2: int) -> nn.Sequential:
    before, after, stride, padding = conv.in_channels, conv.out_channels, conv.stride[0], int(conv.padding[0])
    if isinstance(conv, nn.ConvTranspose2d):
        return nn.Sequential(
            nn.ConvTranspose2d(before, middle, k2, bias=False),
            nn.ConvTranspose2d(middle, after, k1, stride, padding, int(conv.output_padding[0])),
        )
    return nn.Sequential(nn.Conv2d(before, middle, k1, stride, padding, bias=False), nn.Conv2d(middle, after, k2))
