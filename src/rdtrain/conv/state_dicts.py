"""State dicts of models in any conv form: written plain or as CompressAI's, read whatever form they have."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from rdtrain.conv.convert import is_convertible
from rdtrain.conv.layers import SpectralConv
from rdtrain.conv.transform import Transform
from rdtrain.conv.transforms import Rfft, complex_from_stored, stored_from_complex
from rdtrain.errors import UserError


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
        model: plain or spectral, in any precision.
        state_dict: any form, also mixed; not changed.
        transform: the one that real stored kernels come from, needed where the model is plain; where it is spectral
            itself, None stands for its own.
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
        if leaf == "weight_transformed" and _needs_weight(module, entry, transform):
            key, entry = key.removesuffix("_transformed"), _plain_weight(key, entry, module, transform)
        entries[key] = entry
    return model.load_state_dict(entries, strict=strict)


def _needs_weight(module: Any, entry: Tensor, transform: Transform | None) -> bool:
    if isinstance(module, SpectralConv):  # which takes complex kernels and those of its own transform as they are
        return transform not in (None, module.transform) and not entry.is_complex()
    return is_convertible(module)


def _plain_weight(key: str, entry: Tensor, conv: Any, transform: Transform | None) -> Tensor:
    shape, kernel_size, out_axis = tuple(conv.weight.shape), conv.kernel_size, 1 if conv.transposed else 0
    if entry.is_complex():
        entry, transform = stored_from_complex(entry), Rfft()
    if transform is None:
        raise UserError(f"{key} is stored in a spectral form and the model is plain: name the transform it comes from")
    if entry.shape != transform.stored_shape(shape):
        return entry  # of another model: torch then reports the mismatch with the others
    return transform.to_weight(entry.double(), kernel_size, out_axis)  # rounded once, when it is copied


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
