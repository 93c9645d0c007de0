"""What is asked of the optimizer that steps a convolution's kernels, whatever its class, and what is changed in it."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from rdtrain import random_state
from rdtrain.conv.layers import SpectralConv, spectral_layers


def innermost(optimizer: Optimizer) -> Optimizer:
    """The optimizer inside accelerate's wrapper.

    Args:
        optimizer: a torch optimizer, or accelerate's wrapper of one.

    Returns:
        the torch optimizer.
    """
    return getattr(optimizer, "optimizer", optimizer)


def replace_in_optimizer(optimizer: Optimizer, old: nn.Parameter, new: nn.Parameter, state: dict[str, Any]) -> None:
    """Puts one parameter in another's place, in its group and at its position; the optimizer stays the same object.

    Args:
        optimizer: a torch optimizer, or accelerate's wrapper of one.
        old: the parameter that it holds.
        new: the parameter to hold.
        state: what it is to remember of `new`; tensors of its shape are laid out in memory as it is.
    """
    for group in optimizer.param_groups:
        for index, parameter in enumerate(group["params"]):
            if parameter is old:
                group["params"][index] = new
                if "param_names" in group:
                    group["param_names"][index] = group["param_names"][index].removesuffix("_transformed")
    optimizer.state.pop(old, None)
    if state:
        optimizer.state[new] = {key: _laid_out_as(new, value) for key, value in state.items()}


def _laid_out_as(parameter: Tensor, value: Any) -> Any:
    if not isinstance(value, Tensor) or value.shape != parameter.shape:
        return value
    return torch.empty_like(parameter, dtype=value.dtype, requires_grad=False).copy_(value)


def holds(optimizer: Optimizer, parameter: nn.Parameter) -> bool:
    """Whether an optimizer steps a parameter.

    Args:
        optimizer: a torch optimizer, or accelerate's wrapper of one.
        parameter: the parameter.

    Returns:
        true if it is in one of the groups.
    """
    return any(parameter is held for group in optimizer.param_groups for held in group["params"])


def update_norm(model: nn.Module, optimizer: Optimizer, names: Iterable[str] | None = None) -> float:
    """Size of the step that an optimizer would make now, with the gradients as they are, in the domain of the weights.

    Measured on a copy, whatever the optimizer's class; its state, the model and the random generators stay.

    Args:
        model: spectral or plain.
        optimizer: any that can be copied, or accelerate's wrapper of one.
        names: the convolutions to look at; those that are spectral now unless given.

    Returns:
        Euclidean norm of the change of all their kernels; one without gradient, or frozen, does not change.
    """
    modules = dict(model.named_modules())
    chosen = {name: modules[name] for name in (spectral_layers(model) if names is None else names)}
    moved = _trial_step(innermost(optimizer))
    total = 0.0
    for layer in chosen.values():
        spectral = isinstance(layer, SpectralConv)
        change = moved.get(id(layer.weight_transformed if spectral else layer.weight))
        if change is not None:
            kernels = layer.transform.to_weight(change, layer.kernel_size, layer.out_axis) if spectral else change
            total += float(kernels.double().square().sum())
    return math.sqrt(total)


@torch.no_grad()
def _trial_step(optimizer: Optimizer) -> dict[int, Tensor]:
    # By id of the parameter, how far a step moves it. A copy has no hooks, so nobody else learns of the step.
    held = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    twins = {id(parameter): _with_gradient(parameter) for parameter in held}
    trial = copy.deepcopy(optimizer, dict(twins))
    before = random_state.capture()
    trial.step()
    random_state.restore(before)
    return {id(parameter): twins[id(parameter)].detach() - parameter.detach() for parameter in held}


def _with_gradient(parameter: nn.Parameter) -> nn.Parameter:
    twin = nn.Parameter(parameter.detach().clone(), parameter.requires_grad)
    twin.grad = None if parameter.grad is None else parameter.grad.clone()
    return twin
