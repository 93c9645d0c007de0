"""Who takes part in a fit: plain kernels, each transform, and for each transform plain kernels as its controls.

A transform changes how far a step of the optimizer carries the kernel, so part of what it gives is nothing but another
learning rate; and one that cannot store every kernel begins with others. The controls of a transform are plain kernels
with its learning rate, `rate_factor` times plain's, and with its beginning.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rdtrain.config import schema as common
from rdtrain.config.targets import make
from rdtrain.conv.transform import KernelSize, Transform
from rdtrain.kernels.schema import Config

PLAIN = "plain"
_RATE, _START = "plain-as-", "plain-from-"  # of controls
_SAME_RATE = 1e-3  # controls whose rate differs less from plain's are plain


@dataclass(frozen=True)
class Arm:
    """One participant.

    Args:
        name: `plain`, that of a transform, or that of a control, see `control_names`.
        transform: None for plain kernels.
        lr_factor: multiplies the optimizer's learning rate.
        start: of plain kernels, whose projection of the initial kernels they begin with; None for those themselves.
    """

    name: str
    transform: Transform | None = None
    lr_factor: float = 1.0
    start: Transform | None = None


def control_names(name: str) -> tuple[str, str]:
    """The names of a transform's controls, plain kernels both.

    Args:
        name: of the transform's arm.

    Returns:
        Such as `plain-as-rfft`, with its learning rate and its beginning, and `plain-from-rfft`, with its beginning and
        plain's learning rate; there is no such arm where it would be plain.
    """
    return _RATE + name, _START + name


def is_control(name: str) -> bool:
    """Whether an arm is a control of a transform.

    Args:
        name: of the arm.

    Returns:
        True for `plain-as-...` and `plain-from-...`.
    """
    return name.startswith((_RATE, _START))


def transform_name(name: str) -> str:
    """The transform that an arm belongs to.

    Args:
        name: of the arm.

    Returns:
        That of the transform for a control; any other name as it is.
    """
    return name.removeprefix(_RATE).removeprefix(_START)


def make_arms(config: Config, kernel_size: KernelSize) -> list[Arm]:
    """Everyone who takes part.

    Args:
        config: `transforms`, the optimizer and `fit.controls`.
        kernel_size: (Kh, Kw) of the target.

    Returns:
        Plain, the transforms in the configuration's order, then the controls.
    """
    transforms = {name: make(node) for name, node in config.transforms.items() if node is not None}
    arms = [Arm(PLAIN), *(Arm(name, transform) for name, transform in transforms.items())]
    if config.fit.controls:
        arms += [one for name, item in transforms.items() for one in _controls(name, item, kernel_size, config)]
    return arms


def _controls(name: str, transform: Transform, kernel_size: KernelSize, config: Config) -> list[Arm]:
    factor = rate_factor(transform, kernel_size, config.optimizer)
    start = None if transform.full_rank(kernel_size) else transform
    as_transform, from_transform = (
        Arm(control, None, lr_factor, start)
        for control, lr_factor in zip(control_names(name), (factor, 1.0), strict=True)
    )
    return [as_transform] * (abs(factor - 1) > _SAME_RATE) + [from_transform] * (start is not None)


def rate_factor(transform: Transform, kernel_size: KernelSize, optimizer: common.Target) -> float:
    """How much farther than plain kernels a transform's kernels go in the first step, for gradients of all directions.

    Under Adam it is `sqrt((2 N - 1) / N)` for `Rfft` and odd Kh = Kw, and 1 for orthonormal transforms; under SGD
    `sqrt(tr((B^T B)^2) / N)` with the transform's basis B.

    Args:
        transform: of the kernels.
        kernel_size: (Kh, Kw), N = Kh*Kw.
        optimizer: its node.

    Returns:
        The ratio of the root mean squared lengths of the two steps.
    """
    gradient = _directions(kernel_size)
    return _first_step(transform, gradient, optimizer) / _first_step(None, gradient, optimizer)


def _directions(kernel_size: KernelSize, bases: int = 4) -> Tensor:
    # Whole orthonormal bases, so that sums of squares have no noise; random ones, because no direction is special.
    taps = math.prod(kernel_size)
    random = np.random.default_rng(0).standard_normal((bases, taps, taps))
    return torch.from_numpy(np.linalg.qr(random)[0]).reshape(-1, 1, *kernel_size)


def _first_step(transform: Transform | None, gradient: Tensor, optimizer: common.Target) -> float:
    kernel_size = (gradient.shape[2], gradient.shape[3])
    start = torch.zeros_like(gradient)
    stored = (start if transform is None else transform.to_stored(start)).requires_grad_()

    def weight() -> Tensor:
        return stored if transform is None else transform.to_weight(stored, kernel_size)

    (weight() * gradient).sum().backward()
    make(optimizer, [stored]).step()
    return float(weight().detach().norm())
