"""What is wrong with the configuration of a fit that its types do not show."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from rdtrain.config import schema as common
from rdtrain.config.nearest import suggestion
from rdtrain.config.targets import make, target_problems
from rdtrain.conv.transform import Transform
from rdtrain.errors import UserError
from rdtrain.experiment import engine_section
from rdtrain.kernels.arms import PLAIN, is_control
from rdtrain.kernels.inputs import Photographs
from rdtrain.kernels.schema import Config
from rdtrain.kernels.targets import make_target
from rdtrain.preflight import device_problems


def find_problems(config: Config) -> list[str]:
    """Check what several keys and the libraries allow together.

    Args:
        config: a configuration whose keys are right one by one.

    Returns:
        One sentence for every mistake.
    """
    found = [
        *device_problems(engine_section(config.engine)),
        *_fit_problems(config),
        *optimizer_problems(config),
        *_transform_problems(config),
    ]
    try:
        shape = tuple(make_target(config.target, config.seed, config.fit.draws).weight.shape)
    except UserError as error:
        return found + error.problems
    found += _size_problems(config, max(shape[2:]))
    return found or _basis_problems(config, (shape[0], shape[1] * config.fit.seeds, *shape[2:]))


def _fit_problems(config: Config) -> list[str]:
    fit = config.fit
    if fit.steps % fit.epoch_steps:
        fitting = fit.steps - fit.steps % fit.epoch_steps or fit.epoch_steps
        return [f"fit.steps={fit.steps}: should be a multiple of fit.epoch_steps={fit.epoch_steps}; type {fitting}"]
    return []


def optimizer_problems(config: Config) -> list[str]:
    """Check the optimizer.

    Args:
        config: names it.

    Returns:
        One sentence for every mistake.
    """
    name = config.fit.optimizer
    node = config.optimizers.get(name)
    if node is None:
        known = [key for key, value in config.optimizers.items() if value is not None]
        return [f"fit.optimizer={name}: there is none of that name under optimizers; {suggestion(name, known)}"]
    if "lr" not in node:
        return [f"optimizers.{name}.lr is missing: give optimizers.{name}.lr=..."]
    key = f"optimizers.{name}"
    found = target_problems(key, node, [{"params": [_parameter(1.0)]}, {"params": [_parameter(1.0)]}])
    if not found and not treats_numbers_alone(node):
        return [f"{key}._target_={node['_target_']}: its steps depend on other numbers of the same tensor; type Adam"]
    lr = node["lr"]
    if not found and not (isinstance(lr, int | float) and lr > 0):
        return [f"{key}.lr={lr}: should be a number above 0"]
    return found


def treats_numbers_alone(node: common.Target) -> bool:
    """Whether an optimizer's step for a number does not depend on the others of its tensor.

    Args:
        node: of the optimizer.

    Returns:
        False for those that could not tell the repetitions of an arm apart.
    """
    gradient = torch.tensor([[1.0, -2.0], [3.0, 0.5]])
    together, *alone = _parameter(gradient), *(_parameter(row[None]) for row in gradient)
    for parameters in ([together], alone):
        optimizer = make(node, parameters)
        for _ in range(2):
            optimizer.step()
    return torch.allclose(together, torch.cat([row.detach() for row in alone]), rtol=1e-5, atol=0)


def _parameter(gradient: Any) -> torch.nn.Parameter:
    gradient = torch.as_tensor(gradient).reshape(-1, 2) if torch.is_tensor(gradient) else torch.full((1, 1), gradient)
    parameter = torch.nn.Parameter(torch.zeros_like(gradient))
    parameter.grad = gradient.clone()
    return parameter


def _transform_problems(config: Config) -> list[str]:
    found = []
    for name, node in config.transforms.items():
        if name == PLAIN or is_control(name):
            found.append(f"transforms.{name}: plain kernels and the controls have such names; choose another one")
        elif node is not None:
            found += target_problems(f"transforms.{name}", node)
    return found


def _basis_problems(config: Config, weight_shape: tuple[int, ...]) -> list[str]:
    # Of transforms that anyone may have written.
    nodes = {name: node for name, node in config.transforms.items() if node is not None}
    found = {name: _basis_problem(make(node), weight_shape) for name, node in nodes.items()}
    return [f"transforms.{name}: {problem}" for name, problem in found.items() if problem is not None]


def _basis_problem(transform: Transform, weight_shape: tuple[int, ...]) -> str | None:
    kernel_size = (weight_shape[2], weight_shape[3])
    taps, size = kernel_size[0] * kernel_size[1], f"{kernel_size[0]}x{kernel_size[1]}"
    try:
        hash(transform)
        basis, again = transform.basis(kernel_size), transform.basis(kernel_size)
        gain = transform.gain(weight_shape, 0)
    except Exception as error:  # whatever a user's class does
        frozen = "write @dataclass(frozen=True)" if "unhashable" in str(error) else "mend its class"
        return f"has no basis for kernels of {size} ({type(error).__name__}: {error}); {frozen}"
    if not isinstance(basis, np.ndarray) or basis.ndim != 2 or basis.shape[1] != taps or not len(basis):
        return f"its basis for kernels of {size} is {_described(basis)}; return an array of shape (S, {taps})"
    if not np.isrealobj(basis):
        return f"its basis for kernels of {size} is complex; return real and imaginary parts as rows of their own"
    if not np.isfinite(basis).all() or not basis.any():
        return f"its basis for kernels of {size} is zero or not finite; mend its class"
    if not np.array_equal(basis, again):
        return f"its basis for kernels of {size} is another one at every call; give its random numbers a seed"
    stored = (*weight_shape[:2], len(basis))
    if gain is None:
        return None
    if not isinstance(gain, np.ndarray) or not np.isrealobj(gain) or not _broadcasts(gain.shape, stored):
        return f"its gain is {_described(gain)}; return an array that broadcasts to {stored}"
    return None if np.isfinite(gain).all() and gain.all() else "its gain is 0 or not finite somewhere; mend its class"


def _described(value: Any) -> str:
    if not isinstance(value, np.ndarray):
        return f"a {type(value).__name__}"
    return f"{'' if np.isrealobj(value) else 'complex, '}of shape {value.shape}"


def _broadcasts(shape: tuple[int, ...], to: tuple[int, ...]) -> bool:
    try:
        return np.broadcast_shapes(shape, to) == to
    except ValueError:
        return False


def _size_problems(config: Config, kernel: int) -> list[str]:
    inputs = config.inputs
    output = inputs.size + 2 * inputs.padding - kernel + 1 - 2 * inputs.crop
    if output < 1:
        return [
            f"inputs.size={inputs.size}: nothing is left of the output; type inputs.size={inputs.size - output + 1}"
        ]
    if inputs.name in ("pink", "pink_batch") and inputs.size == 1:
        return [
            f"inputs.size=1: a single pixel has no frequencies for {inputs.name}; type 2 or more, or inputs.name=white"
        ]
    if inputs.padding_mode in ("circular", "reflect") and inputs.padding >= inputs.size:
        return [f"inputs.padding={inputs.padding} is too wide for {inputs.padding_mode}: type inputs.padding=0"]
    if inputs.name == "images" and inputs.size > (largest := Photographs().largest_crop):
        return [f"inputs.size={inputs.size}: the smallest photograph has {largest} pixels; type inputs.size={largest}"]
    return []
