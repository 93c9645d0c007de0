"""From decoded neighbours to the mean and the scale of a latent: the networks of a context model as matrix products.

Shapes: M channels of y, n places, K taps of the masked convolution.
"""

from __future__ import annotations

from typing import Any

import torch
from compressai.layers import MaskedConv2d
from torch import Tensor, nn

_POINTWISE = (nn.LeakyReLU, nn.ReLU)


def can_be_matrices(model: Any) -> bool:
    """Whether `ContextNetwork` knows all layers of a model.

    Args:
        model: with `context_prediction` and `entropy_parameters`.

    Returns:
        False if a layer looks farther than its place, or is of an unknown kind.
    """
    conv, layers = model.context_prediction, model.entropy_parameters
    if not (isinstance(conv, MaskedConv2d) and isinstance(layers, nn.Sequential)):
        return False
    convs = [layer for layer in layers if isinstance(layer, nn.Conv2d)]
    return (
        conv.groups == 1
        and conv.stride == conv.dilation == (1, 1)
        and conv.kernel_size[0] == conv.kernel_size[1] == 2 * conv.padding[0] + 1
        and conv.padding[0] == conv.padding[1]
        and all(layer.kernel_size == layer.stride == (1, 1) and layer.groups == 1 for layer in convs)
        and all(isinstance(layer, (nn.Conv2d, *_POINTWISE)) for layer in layers)
    )


class ContextNetwork:
    """A model's `context_prediction` and `entropy_parameters`, for any places at once.

    A place's result is bitwise the same whatever the other places are, as long as n is the same.

    Args:
        model: for which `can_be_matrices`; its weights are copied.

    Attributes:
        reach: latents that the mask sees in each direction.
        taps: row and column of each of its weights within the kernel, (K, 2).
    """

    def __init__(self, model: Any) -> None:
        conv = model.context_prediction
        self.reach = conv.padding[0]
        self.taps = conv.mask[0, 0].nonzero().cpu()
        kernel = conv.weight[:, :, self.taps[:, 0], self.taps[:, 1]]
        self._context = kernel.transpose(1, 2).flatten(1).contiguous(), _column(conv)
        self._layers = [
            (layer.weight.flatten(1), _column(layer)) if isinstance(layer, nn.Conv2d) else layer
            for layer in model.entropy_parameters
        ]

    def __call__(self, seen: Tensor, params: Tensor) -> Tensor:
        """Compute.

        Args:
            seen: decoded latents under the mask's taps, (n K, M).
            params: what the hyperprior says about the places, (n, 2 M).

        Returns:
            Scales, then means of each place, (2 M, n).
        """
        weight, bias = self._context
        x = torch.addmm(bias, weight, seen.view(len(params), -1).t())
        x = torch.cat((params.t(), x))
        for layer in self._layers:
            x = torch.addmm(layer[1], layer[0], x) if isinstance(layer, tuple) else layer(x)
        return x


def _column(conv: nn.Conv2d) -> Tensor:
    return conv.weight.new_zeros(conv.out_channels, 1) if conv.bias is None else conv.bias[:, None]
