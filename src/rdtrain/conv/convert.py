"""Conversion of whole models and of their state dicts between plain and spectral convolutions."""

from __future__ import annotations

import math
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
from compressai.layers import MaskedConv2d
from torch import Tensor, nn
from torch.optim import Optimizer

from rdtrain.conv.layers import SpectralConv, make_plain, make_spectral, spectral_layers
from rdtrain.conv.moments import Moments, ShadowMoments, holds, replace_in_optimizer, weight_state
from rdtrain.conv.transform import Transform
from rdtrain.conv.transforms import Rfft, complex_from_stored, stored_from_complex
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
    candidates = {name: module for name, module in model.named_modules() if _is_convertible(module)}
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
def plain_state_dict(model: nn.Module) -> dict[str, Tensor]:
    """State dict of the plain form of a model, whatever form it has: loads in the stock class.

    Args:
        model: any module.

    Returns:
        detached tensors, the keys in the order of the plain model.
    """
    return _state_dict(model, "weight", lambda layer: layer.weight)


@torch.no_grad()
def compressai_state_dict(model: nn.Module) -> dict[str, Tensor]:
    """State dict with CompressAI's complex `weight_transformed` for every convolution that is spectral here.

    Args:
        model: any module, its spectral convolutions in any transform; weights in float32 or float64.

    Returns:
        detached tensors that load in a model built from `compressai.layers.SpectralConv2d` and its transposed sister.
    """

    def spectrum(layer: SpectralConv) -> Tensor:
        stored = layer.weight_transformed if layer.transform == Rfft() else Rfft().to_stored(layer.weight)
        return complex_from_stored(stored, layer.kernel_size)

    return _state_dict(model, "weight_transformed", spectrum)


@torch.no_grad()
def load_any(
    model: nn.Module, state_dict: Mapping[str, Tensor], transform: Transform | None = None, strict: bool = True
) -> Any:
    """Loads plain kernels, CompressAI's complex ones or this library's real ones into a model of either form.

    Kernel sizes come from the model: (Kh, Kw//2 + 1) complex numbers do not tell an even width from an odd one.

    Args:
        model: plain or spectral. It takes real stored kernels as they are where it is spectral itself, so they must
            come from the same transform.
        state_dict: any form, also mixed; not changed.
        transform: the one that real stored kernels come from, needed where the model is plain.
        strict: as for `load_state_dict`.

    Returns:
        what the model's `load_state_dict` returns.

    Raises:
        UserError: real stored kernels for a plain convolution, and no transform.
    """
    modules = dict(model.named_modules(remove_duplicate=False))
    entries: dict[str, Tensor] = OrderedDict()
    for key, entry in state_dict.items():
        path, _, leaf = key.rpartition(".")
        module = modules.get(path)
        if leaf == "weight_transformed" and _is_convertible(module):
            key, entry = key.removesuffix("_transformed"), _plain_weight(key, entry, module, transform)
        entries[key] = entry
    return model.load_state_dict(entries, strict=strict)


def _plain_weight(key: str, entry: Tensor, conv: Any, transform: Transform | None) -> Tensor:
    shape, kernel_size, out_axis = tuple(conv.weight.shape), conv.kernel_size, 1 if conv.transposed else 0
    if entry.is_complex():
        entry, transform = stored_from_complex(entry), Rfft()
    if transform is None:
        raise UserError(f"{key} is stored in a spectral form and the model is plain: name the transform it comes from")
    if entry.shape != transform.stored_shape(shape):
        return entry  # of another model: torch then reports the mismatch with the others
    return transform.to_weight(entry, kernel_size, out_axis)


def _state_dict(model: nn.Module, leaf: str, value: Callable[[SpectralConv], Tensor]) -> dict[str, Tensor]:
    modules = dict(model.named_modules(remove_duplicate=False))
    state = model.state_dict()
    entries = []
    for key, entry in state.items():
        path, _, name = key.rpartition(".")
        module = modules.get(path)
        if name == "weight_transformed" and isinstance(module, SpectralConv):
            key, entry = key.removesuffix(name) + leaf, value(module)
        entries.append((key, entry))
    state.clear()  # refilled, because torch keeps the versions of modules as an attribute of this very dict
    state.update(entries)
    return state


def _is_convertible(module: nn.Module | None) -> bool:
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
