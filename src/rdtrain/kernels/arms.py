"""Who takes part in a fit: plain kernels, each transform, and for each transform plain kernels at its hidden rate.

A transform changes how far a step of the optimizer carries the kernel, so part of what it gives is nothing but another
learning rate. The control of a transform is plain with its learning rate times `rate_factor`.
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
_CONTROL = "plain-as-"
_SAME_RATE = 1e-3  # controls whose rate differs less from plain's are plain


@dataclass(frozen=True)
class Arm:
    """One participant.

    Args:
        name: `plain`, that of a transform, or `plain-as-` and that of a transform for its control.
        transform: None for plain kernels.
        lr_factor: multiplies the optimizer's learning rate.
    """

    name: str
    transform: Transform | None = None
    lr_factor: float = 1.0


def control_name(name: str) -> str:
    """The name of a transform's control.

    Args:
        name: of the transform's arm.

    Returns:
        Such as `plain-as-rfft`; there is no such arm where the learning rate is plain's.
    """
    return _CONTROL + name


def is_control(name: str) -> bool:
    """Whether an arm is the control of a transform.

    Args:
        name: of the arm.

    Returns:
        True for `plain-as-...`.
    """
    return name.startswith(_CONTROL)


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
        factors = {name: rate_factor(item, kernel_size, config.optimizer) for name, item in transforms.items()}
        arms += [
            Arm(control_name(name), None, factor) for name, factor in factors.items() if abs(factor - 1) > _SAME_RATE
        ]
    return arms


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
