"""Conversion of whole models between plain and spectral convolutions."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import cast

import torch
from compressai.layers import MaskedConv2d
from torch import Tensor, nn
from torch.optim import Optimizer

from rdtrain.conv.layers import SpectralConv, make_plain, make_spectral, spectral_layers
from rdtrain.conv.moments import Moments, ShadowMoments, weight_state
from rdtrain.conv.optimizers import holds, replace_in_optimizer
from rdtrain.conv.transform import Transform
from rdtrain.errors import UserError


@dataclass(frozen=True)
class Converted:
    """One converted convolution: its module name, and how many numbers each of its two forms has."""

    name: str
    stored_numel: int
    weight_numel: int


def to_spectral(
    model: nn.Module,
    transform: Transform,
    *,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    one_by_one: bool = False,
    keep_variance: bool = False,
) -> list[Converted]:
    """Stores the kernels of a model's convolutions in another form, in place, before its optimizer is made.

    Weights are transformed, not drawn anew, and nothing random is drawn: the function stays the same, up to rounding,
    for transforms of full rank. `MaskedConv2d` writes into its weight and always stays plain.

    Args:
        model: any module with `nn.Conv2d` or `nn.ConvTranspose2d`, or subclasses that only read their weight.
        transform: the form.
        include: patterns of module names such as `g_a.*`; only these are converted. Empty: all.
        exclude: patterns of module names that stay plain.
        one_by_one: convert 1x1 kernels too. They have one frequency, so it changes only how many numbers are stored.
        keep_variance: where a kernel keeps S < N numbers, scale them by sqrt(N/S), so that freshly drawn weights keep
            their variance, of which the projection leaves S/N. Not for trained weights.

    Returns:
        what was converted, in the order of `named_modules`.

    Raises:
        UserError: a pattern matches no convolution, nothing is left to convert, or a weight is no parameter of its own.
    """
    candidates = {name: module for name, module in model.named_modules() if is_convertible(module)}
    for pattern in (*include, *exclude):
        if not _matching(candidates, [pattern]):
            raise UserError(
                f"conv.include or conv.exclude: {pattern!r} matches no convolution of this model: "
                f"type a pattern for one of {', '.join(candidates)}"
            )
    chosen = _matching(candidates, include or ["*"]) - _matching(candidates, exclude)
    convs = {n: c for n, c in candidates.items() if n in chosen and (one_by_one or tuple(c.kernel_size) != (1, 1))}
    if not convs:
        raise UserError("no convolution was left to store in spectral form: loosen conv.include and conv.exclude")
    _check_weights(model, convs)
    for conv in convs.values():
        make_spectral(conv, transform)
    layers = {name: layer for name, layer in spectral_layers(model).items() if name in convs}
    converted = [_converted(name, layer) for name, layer in layers.items()]
    if keep_variance:
        for layer, sizes in zip(layers.values(), converted, strict=True):
            layer.weight_transformed.data.mul_(max(1.0, sizes.weight_numel / sizes.stored_numel) ** 0.5)
    return converted


def to_plain(
    model: nn.Module,
    optimizers: Iterable[Optimizer] = (),
    moments: Moments = "transfer",
    shadow: ShadowMoments | None = None,
) -> list[Converted]:
    """Turns all spectral convolutions of a model plain, in place, and its optimizers with them.

    What the model computes without gradients stays the same to the last bit. Each optimizer stays the same object with
    the same order of parameters and remembers what `moments` says. After an exception nothing is changed.

    Args:
        model: the model, or a copy of it such as a moving average, then without optimizers.
        optimizers: those that step its parameters.
        moments: `transfer` (first moment exactly, second approximately), `shadow` (both exactly) or `reset`.
        shadow: the tracked second moments, for `shadow`; its tracking ends.

    Returns:
        what was converted, in the order of `named_modules`.

    Raises:
        ValueError: the model has no spectral convolution, an optimizer was forgotten, or `shadow` is missing.
    """
    layers, optimizers = spectral_layers(model), list(optimizers)
    if not layers:
        raise ValueError("no spectral convolution in this model: nothing was switched")
    if (moments == "shadow") != (shadow is not None):
        raise ValueError("moments='shadow' and the argument shadow belong together")
    holders = {name: _holder(name, layer, optimizers) for name, layer in layers.items()}
    states = {
        name: weight_state(layers[name], holder.state.get(layers[name].weight_transformed, {}), moments, shadow)
        for name, holder in holders.items()
        if holder is not None
    }
    converted = [_converted(name, layer) for name, layer in layers.items()]
    for name, layer in layers.items():
        stored, holder = layer.weight_transformed, holders[name]
        weight = make_plain(layer)
        if holder is not None:
            replace_in_optimizer(holder, stored, weight, states[name])
    if shadow is not None:
        shadow.remove()
    return converted


@torch.no_grad()
def lost_share(model: nn.Module, given: nn.Module) -> float:
    """How much of its kernels a model lost when they were stored in a form that lacks rank.

    Args:
        model: with spectral convolutions.
        given: the plain model that it was, on any device.

    Returns:
        Euclidean norm of what its spectral convolutions' kernels lack, divided by the norm of the kernels; 0.0 where
        every kernel is stored exactly.
    """
    lost = total = 0.0
    for name, layer in spectral_layers(model).items():
        weight = cast(Tensor, given.get_submodule(name).weight).double()
        stored = layer.weight.to(weight.device, torch.float64)
        total += float(weight.square().sum())
        lost += 0.0 if layer.transform.full_rank(layer.kernel_size) else float((weight - stored).square().sum())
    return math.sqrt(lost / total) if total else 0.0


def is_convertible(module: nn.Module | None) -> bool:
    """Whether a module is a plain convolution whose kernels can be stored in another form.

    Args:
        module: any, or None.

    Returns:
        false for `MaskedConv2d`, which writes into its weight, and for what is spectral already.
    """
    return isinstance(module, nn.Conv2d | nn.ConvTranspose2d) and not isinstance(module, MaskedConv2d | SpectralConv)


def _matching(names: Iterable[str], patterns: Iterable[str]) -> set[str]:
    patterns = list(patterns)
    return {name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns)}


def _check_weights(model: nn.Module, convs: Mapping[str, nn.Module]) -> None:
    owners = Counter(id(parameter) for module in model.modules() for parameter in module._parameters.values())
    for name, conv in convs.items():
        weight = conv._parameters.get("weight")
        if weight is None or owners[id(weight)] > 1:
            raise UserError(
                f"{name}: its weight is computed or shared with another layer, so it cannot be stored in another form: "
                f"type conv.exclude=[{name}]"
            )


def _holder(name: str, layer: SpectralConv, optimizers: Sequence[Optimizer]) -> Optimizer | None:
    for optimizer in optimizers:
        if holds(optimizer, layer.weight_transformed):
            return optimizer
    if optimizers and layer.weight_transformed.requires_grad:
        raise ValueError(f"none of the optimizers holds {name}.weight_transformed: it would stop training unnoticed")
    return None


def _converted(name: str, layer: SpectralConv) -> Converted:
    return Converted(name, layer.weight_transformed.numel(), math.prod(layer.weight_shape))
