"""All arms and repetitions of one fit in a single module.

Shapes: A arms, S repetitions, g groups, kernels (O, I/g, Kh, Kw), images (B, C, n, n) with C = I.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rdtrain.conv.layers import make_spectral
from rdtrain.conv.transform import Transform
from rdtrain.kernels.arms import Arm


class KernelBank(nn.Module):
    """Kernels of every arm and repetition, and their losses on common images.

    An arm is a convolution whose weight, (O, S*I/g, Kh, Kw), holds the kernels of all repetitions, so that an
    attenuated share of the output channels is one of each repetition. Its parameter is what an optimizer gets.

    Args:
        arms: who takes part.
        initial: kernels that all arms of a repetition begin with, or with projections of them, (S, O, I/g, Kh, Kw).
        targets: kernels to be learned, of the same shape.
        groups: of the convolution.
        padding: pixels on each side of an image.
        padding_mode: `zeros`, `circular`, `reflect` or `replicate`.
        crop: pixels on each side of an output that do not count.
        biases: those that all arms of a repetition begin with and those to be learned, (S, O) each; None for none.
    """

    targets: Tensor
    target_biases: Tensor

    def __init__(
        self,
        arms: Sequence[Arm],
        initial: Tensor,
        targets: Tensor,
        groups: int = 1,
        padding: int = 0,
        padding_mode: str = "zeros",
        crop: int = 0,
        biases: tuple[Tensor, Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.groups, self.padding, self.padding_mode, self.crop = groups, padding, padding_mode, crop
        self.register_buffer("targets", targets)
        self.layers = nn.ModuleList(_layer(arm, initial, groups) for arm in arms)
        self.biases = nn.ParameterList()
        if biases is not None:
            self.biases.extend(nn.Parameter(biases[0].clone()) for _ in arms)
            self.register_buffer("target_biases", biases[1])

    @property
    def numbers(self) -> list[int]:
        """How many numbers each arm stores for a kernel."""
        kernels = self.targets.flatten(0, 2).shape[0]
        return [sum(p.numel() for p in layer.parameters()) // kernels for layer in self.layers]

    def learned(self, arm: int) -> list[nn.Parameter]:
        """What an optimizer is to step.

        Args:
            arm: its number.

        Returns:
            The stored kernels of all repetitions, and their biases where there are any.
        """
        return [*self.layers[arm].parameters(), *list(self.biases)[arm : arm + 1]]

    def weights(self) -> Tensor:
        """The kernels as they are.

        Returns:
            Shape (A, S, O, I/g, Kh, Kw).
        """
        repetitions, _, inputs = self.targets.shape[:3]
        weights = [cast(Tensor, layer.weight).unflatten(1, (repetitions, inputs)) for layer in self.layers]
        return torch.stack(weights).transpose(1, 2)

    def gap(self) -> Tensor:
        """What the kernels differ in from those to be learned.

        Returns:
            Shape (A, S, O, I/g, Kh, Kw).
        """
        return self.weights() - self.targets

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Compare the outputs of the arms' convolutions with the target's.

        Args:
            x: images of each repetition, (S, B, C, n, n).

        Returns:
            Mean squared error of the outputs and, detached, relative error of the kernels, both (A, S).
        """
        gap = self.gap()
        shifts = torch.stack(list(self.biases)) - self.target_biases if len(self.biases) else None
        losses = [
            self._losses(images, gap[:, i], None if shifts is None else shifts[:, i]) for i, images in enumerate(x)
        ]
        return torch.stack(losses, dim=1), relative_error(gap.detach(), self.targets)

    def _losses(self, x: Tensor, gap: Tensor, shift: Tensor | None) -> Tensor:
        # Convolution is linear: the difference of two outputs is the output of the difference. All arms at once, group
        # by group. shift: (A, O), what the biases differ in.
        arms, outputs = gap.shape[:2]
        kernels, shift = (self._by_group(values) for values in (gap, shift))
        padding = self.padding
        if self.padding_mode != "zeros":
            x, padding = F.pad(x, [padding] * 4, mode=self.padding_mode), 0
        error = F.conv2d(x, kernels, shift, padding=padding, groups=self.groups)
        if self.crop:
            error = error[..., self.crop : -self.crop, self.crop : -self.crop]
        error = error.unflatten(1, (self.groups, arms, outputs // self.groups))
        return error.square().mean(dim=(0, 1, 3, 4, 5))

    def _by_group(self, values: Tensor | None) -> Any:
        # (A, O, ...) -> (g A O/g, ...)
        return None if values is None else values.unflatten(1, (self.groups, -1)).transpose(0, 1).flatten(0, 2)


def relative_error(gap: Tensor, targets: Tensor) -> Tensor:
    """Relative error of kernels, `||w - w*|| / ||w*||`.

    Args:
        gap: w - w*, (..., O, I/g, Kh, Kw).
        targets: w*, broadcastable to it.

    Returns:
        Shape (...).
    """
    return gap.flatten(-4).norm(dim=-1) / targets.flatten(-4).norm(dim=-1)


@torch.no_grad()
def _layer(arm: Arm, initial: Tensor, groups: int) -> nn.Conv2d:
    repetitions, outputs, inputs, *kernel_size = initial.shape
    options = {"groups": groups, "bias": False, "dtype": initial.dtype}
    layer = nn.utils.skip_init(nn.Conv2d, repetitions * inputs * groups, outputs, tuple(kernel_size), **options)
    weight = initial.transpose(0, 1).flatten(1, 2)
    layer.weight.copy_(weight if arm.start is None else projected(arm.start, weight))
    if arm.transform is not None:
        make_spectral(layer, arm.transform)
    return layer


def projected(transform: Transform, weight: Tensor) -> Tensor:
    """The nearest kernels that a transform can store.

    Args:
        transform: of the kernels.
        weight: (O, I/g, Kh, Kw).

    Returns:
        Same shape.
    """
    return transform.to_weight(transform.to_stored(weight), (weight.shape[-2], weight.shape[-1]))
