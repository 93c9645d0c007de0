"""Generalized divisive normalization whose training pass stays in the processor's cache.

CompressAI's GDN reads and writes every activation some fifteen times, forward and backward, one operation after
another over the whole map; on a CPU that takes as long as the 5x5 convolutions around it take for a fifth of their
work. Here blocks of pixels go through all operations, one after the other.

With s_j = x_j^2, n_i = beta_i + sum_j gamma_ij s_j and y = x n^p (p = -1/2, or 1/2 for the inverse), and g the gradient
of y (Balle et al. 2016, arXiv 1511.06281; the derivatives are ours):

    d = g x n^(p - 1)        dx = g n^p + 2 p x (gamma^T d)        dgamma = p d s^T        dbeta = p sum d

There is no second derivative: who wants a penalty on gradients sets `engine.channels_last=false`, which leaves all of
it to CompressAI's own pass.

Shapes: x, y, g (B, C, H, W), channels last; a block is (P, C), P pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from compressai.layers import GDN
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from rdtrain.mixing import mix_in

BLOCK = 1024
"""Pixels: with 128 channels half a megabyte a tensor, of which four are in use at a time."""


class _Blockwise:
    """Mixed into a GDN's class; evaluations, other devices and other layouts keep CompressAI's own pass."""

    def forward(self: Any, x: Tensor) -> Tensor:
        if not _is_for_blocks(x):
            return super().forward(x)  # type: ignore[misc]  # of the class that this one is mixed into
        beta, gamma = self.beta_reparam(self.beta), self.gamma_reparam(self.gamma)
        return _Normalization.apply(x, beta, gamma, self.inverse)


def normalize_in_blocks(model: nn.Module) -> list[str]:
    """Let the GDN layers of a model train blockwise on a CPU; their numbers stay the same to float32's rounding.

    Args:
        model: changed in place; a deep copy keeps the change, a state dict knows nothing of it.

    Returns:
        Names of the layers.
    """
    found = {name: module for name, module in model.named_modules() if _is_plain_gdn(module)}
    for module in found.values():
        mix_in(_Blockwise, module)
    return list(found)


def _is_plain_gdn(module: nn.Module) -> bool:
    return isinstance(module, _Blockwise) or type(module) is GDN  # not GDN1, which is another function


def _is_for_blocks(x: Tensor) -> bool:
    return (
        x.device.type == "cpu"
        and x.dtype == torch.float32
        and x.is_contiguous(memory_format=torch.channels_last)
        and torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()  # which fuses CompressAI's operations itself
    )


class _Normalization(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, beta: Tensor, gamma: Tensor, inverse: bool) -> Tensor:
        y, factor = torch.empty_like(x), torch.empty_like(x)  # factor: n^p
        for x_, y_, factor_ in _blocks(x, y, factor):
            torch.addmm(beta, x_.square(), gamma.t(), out=factor_)
            torch.mul(x_, factor_.sqrt_() if inverse else factor_.rsqrt_(), out=y_)
        ctx.save_for_backward(x, factor, gamma)
        ctx.inverse = inverse
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        x, factor, gamma = ctx.saved_tensors
        g = g.contiguous(memory_format=torch.channels_last)
        sign = 1 if ctx.inverse else -1  # 2 p
        dx, dbeta, dgamma = torch.empty_like(x), gamma.new_zeros(len(gamma)), torch.zeros_like(gamma)
        for g_, x_, factor_, dx_ in _blocks(g, x, factor, dx):
            d = g_ * x_
            if ctx.inverse:
                d.div_(factor_)
            else:
                d.mul_(factor_).mul_(factor_).mul_(factor_)
            dbeta += d.sum(0)
            dgamma.addmm_(d.t(), x_.square())
            torch.mul(g_, factor_, out=dx_).addcmul_(x_, d @ gamma, value=sign)
        return dx, dbeta.mul_(sign / 2), dgamma.mul_(sign / 2), None


def _blocks(*maps: Tensor) -> Iterator[tuple[Tensor, ...]]:
    # Views, which the caller writes into.
    return zip(*(values.permute(0, 2, 3, 1).reshape(-1, values.shape[1]).split(BLOCK) for values in maps), strict=True)
