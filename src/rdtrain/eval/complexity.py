"""How large a model is and what it computes for a pixel."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import Tensor, nn

COUNTED = (
    "multiply-accumulates of convolutions, transposed convolutions and linear layers in one forward pass of a 256x256 "
    "image, by pixel; GDN, attention products, activations and entropy models are not counted"
)
_SIDE = 256


def parameters(model: nn.Module) -> int:
    """Count the trained numbers.

    Args:
        model: any; a parameter that is used twice counts once.

    Returns:
        Their number.
    """
    return sum(parameter.numel() for parameter in model.parameters())


@torch.no_grad()
def macs_per_pixel(model: Any) -> dict[str, float]:
    """Count multiply-accumulates; `COUNTED` says which.

    Args:
        model: a compression model in eval mode.

    Returns:
        By direct child of the model (`g_a`, `g_s`, `h_a`...), those with none left out, and `total`.
    """
    counts: dict[str, float] = {}
    with contextlib.ExitStack() as stack:
        for name, module in model.named_modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
                stack.callback(module.register_forward_hook(_counter(counts, name.split(".")[0])).remove)
        model(torch.zeros(1, 3, _SIDE, _SIDE, device=next(model.parameters()).device))
    by_part = {part: count / _SIDE**2 for part, count in counts.items()}
    return by_part | {"total": sum(by_part.values())}


def _counter(counts: dict[str, float], part: str) -> Any:
    def hook(module: Any, args: tuple[Tensor, ...], output: Tensor) -> None:
        # A weight's share of work: once for every output position, for a transposed convolution every input position.
        if isinstance(module, nn.Linear):
            positions = output.numel() // output.shape[-1]
        else:
            places = args[0] if isinstance(module, nn.ConvTranspose2d) else output
            positions = places.shape[0] * places.shape[-2] * places.shape[-1]
        counts[part] = counts.get(part, 0) + positions * module.weight.numel()

    return hook
