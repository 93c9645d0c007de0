"""Convolutions whose kernels are stored in another form, and the two in-place changes: to spectral and to plain.

A spectral layer differs from a plain one by its class alone: `make_spectral` gives a convolution the class with
`weight` as a property, `make_plain` gives it back its own. The module object, its hooks, its other parameters and the
references to it stay. `torch.nn.utils.parametrize` would keep the parameter object too, with another shape, which
breaks optimizers and compiled models.
"""

from __future__ import annotations

import contextlib
import copy
import functools
from collections.abc import Callable, Iterator
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from rdtrain.conv.transform import Map, Shape, Transform, apply_map
from rdtrain.conv.transforms import Rfft, stored_from_complex

Layer = TypeVar("Layer", bound="SpectralConv")
_FORMAT = (
    torch.contiguous_format,
    torch.channels_last,
)  # by whether channels lie last; memory formats cannot be pickled


class SpectralConv(nn.Module):
    """The part that spectral convolutions share; comes before `nn.Conv2d` or `nn.ConvTranspose2d` among the bases.

    `weight_transformed` is the parameter, real, shape `transform.stored_shape(weight_shape)`. `weight` is computed from
    it, shape (out, in/groups, Kh, Kw), transposed (in, out/groups, Kh, Kw), with gradients flowing back. Writing into
    that tensor has no effect: use `set_weight`. It lies as `.to(memory_format=...)` has asked for.
    """

    plain_class: type[nn.Module]
    transform: Transform
    weight_transformed: nn.Parameter
    kernel_size: tuple[int, int]
    transposed: bool
    channels_last: bool
    _maps: tuple[Map, ...]
    _cached: Tensor | None

    def __init__(self, *args: Any, transform: Transform | None = None, **kwargs: Any) -> None:
        self.__dict__.update(self.plain_class(*args, **kwargs).__dict__)
        self._store(transform or Rfft())

    @classmethod
    def from_conv(cls: type[Layer], conv: nn.Module, transform: Transform) -> Layer:
        """A spectral layer with the function and every field of a plain one, which stays as it was.

        Args:
            conv: an instance of the plain class; the new layer shares its bias parameter.
            transform: how kernels are stored.

        Returns:
            the new layer.

        Raises:
            TypeError: `conv` is no instance of the plain class of this one.
        """
        if type(conv) is not cls.plain_class:
            raise TypeError(f"{cls.__name__}.from_conv takes a {cls.plain_class.__name__}, not a {type(conv).__name__}")
        layer = _shallow_copy(conv)
        make_spectral(layer, transform)
        return layer

    @property
    def out_axis(self) -> int:
        """The weight's dimension of output channels."""
        return 1 if self.transposed else 0

    @property
    def weight_shape(self) -> Shape:
        """Shape of the weight, known without computing it."""
        return (*self.weight_transformed.shape[:2], *self.kernel_size)

    @property
    def weight(self) -> Tensor:
        """The kernels, shape `weight_shape`."""
        recorded = torch.is_grad_enabled()
        if self._cached is not None and not recorded:
            return self._cached
        weight = apply_map(self._maps[recorded], self.weight_transformed, self.weight_shape)
        return weight.contiguous(memory_format=_FORMAT[self.channels_last])

    @torch.no_grad()
    def set_weight(self, weight: Tensor) -> None:
        """Overwrites the kernels.

        Args:
            weight: shape `weight_shape`.
        """
        self.weight_transformed.copy_(self.transform.to_stored(weight, self.out_axis))

    def reset_parameters(self) -> None:
        """Draws kernels and bias anew, the same as the plain layer draws from the same random state."""
        plain = _shallow_copy(self)
        make_plain(plain)
        plain.reset_parameters()
        self.set_weight(plain.weight)

    def extra_repr(self) -> str:
        """The plain layer's description and the transform."""  # noqa: DOC201 - what nn.Module prints
        return f"{super().extra_repr()}, transform={self.transform}"

    def _store(self, transform: Transform) -> None:
        weight = cast(Tensor, self._parameters["weight"])
        self.transform = transform
        self._cached = None
        self.channels_last = not weight.is_contiguous()
        stored = nn.Parameter(transform.to_stored(weight.detach(), self.out_axis), weight.requires_grad)
        _replace_parameter(self, "weight", "weight_transformed", stored)
        self._keep_maps()

    def _keep_maps(self) -> None:
        # Kept here rather than looked up in the transform's caches, which a compiler would try to trace into.
        self._maps = tuple(
            self.transform.weight_map(self.weight_transformed, self.weight_shape, self.out_axis, recorded)
            for recorded in (False, True)
        )

    def _apply(self: Layer, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Layer:
        super()._apply(fn, recurse)
        kernel = self.weight_transformed.new_empty(2, 2, 2, 2).contiguous(memory_format=_FORMAT[self.channels_last])
        self.channels_last = not fn(kernel).is_contiguous()  # the stored tensor has no four dimensions to be laid out
        self._keep_maps()  # for another dtype or device
        return self

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        plain, ours = f"{prefix}weight", f"{prefix}weight_transformed"
        if ours in state_dict and state_dict[ours].is_complex():
            state_dict[ours] = self._stored_from_complex(state_dict[ours])
        elif ours not in state_dict and plain in state_dict:
            weight = state_dict.pop(plain)
            # A weight of another shape goes on as it is: torch then reports the mismatch with the others.
            state_dict[ours] = self._stored(weight) if weight.shape == self.weight_shape else weight
        super()._load_from_state_dict(state_dict, prefix, *args)
        self._keep_maps()  # load_state_dict(assign=True) may bring another dtype or device

    @torch.no_grad()
    def _stored_from_complex(self, spectrum: Tensor) -> Tensor:
        kh, kw = self.kernel_size
        if spectrum.shape != (*self.weight_shape[:2], kh, kw // 2 + 1):
            return torch.view_as_real(spectrum)
        stored = stored_from_complex(spectrum)
        if self.transform == Rfft():
            return stored
        return self._stored(Rfft().to_weight(stored, self.kernel_size))

    def _stored(self, weight: Tensor) -> Tensor:
        # In no less than this layer's precision: half a kernel's digits would be lost on the way from half precision.
        precision = torch.promote_types(weight.dtype, self.weight_transformed.dtype)
        return self.transform.to_stored(weight.to(precision), self.out_axis)

    def __getstate__(self) -> dict[str, Any]:
        # A copy made inside `cached_kernels` would never learn that its cache is no longer wanted.
        return {**self.__dict__, "_cached": None}


class SpectralConv2d(SpectralConv, nn.Conv2d):  # type: ignore[misc, override] # weight: a property
    """`nn.Conv2d` with stored kernels; takes its arguments and `transform`, by default `Rfft`."""

    plain_class = nn.Conv2d


class SpectralConvTranspose2d(SpectralConv, nn.ConvTranspose2d):  # type: ignore[misc, override] # weight: a property
    """`nn.ConvTranspose2d` with stored kernels; takes its arguments and `transform`, by default `Rfft`."""

    plain_class = nn.ConvTranspose2d


def make_spectral(conv: nn.Module, transform: Transform) -> None:
    """Turns a plain convolution into a spectral one in place; nothing random is drawn.

    Args:
        conv: an `nn.Conv2d`, `nn.ConvTranspose2d` or subclass whose `weight` is a parameter that it only reads.
        transform: how kernels are stored.
    """
    conv.__class__ = _spectral_class(cast(Any, type(conv)))
    cast(SpectralConv, conv)._store(transform)


@torch.no_grad()
def make_plain(layer: SpectralConv) -> nn.Parameter:
    """Turns a spectral convolution into a plain one in place; the weight is the very tensor that an evaluation used.

    Args:
        layer: the convolution. A gradient on the stored parameter becomes the weight's gradient.

    Returns:
        the new parameter `weight`.
    """
    stored, transform = layer.weight_transformed, layer.transform
    geometry = (layer.kernel_size, layer.out_axis)
    weight = transform.to_weight(stored.detach(), *geometry).contiguous(memory_format=_FORMAT[layer.channels_last])
    weight = nn.Parameter(weight, stored.requires_grad)
    if stored.grad is not None:
        weight.grad = transform.gradient_to_weight(stored.grad, *geometry)
    _replace_parameter(layer, "weight_transformed", "weight", weight)
    del layer.transform, layer.channels_last, layer._maps, layer._cached
    layer.__class__ = layer.plain_class  # type: ignore[assignment]  # a class of the same fields
    return weight


def spectral_layers(model: nn.Module) -> dict[str, SpectralConv]:
    """The spectral convolutions of a model by module name, each once.

    Args:
        model: any module.

    Returns:
        them, in the order of `named_modules`.
    """
    return {name: module for name, module in model.named_modules() if isinstance(module, SpectralConv)}


@contextlib.contextmanager
def cached_kernels(model: nn.Module) -> Iterator[None]:
    """Computes each kernel once for everything that happens inside without gradients, such as a whole evaluation.

    Where gradients are enabled kernels are computed as always. Parameters must not change inside.

    Args:
        model: any module, spectral or not.

    Yields:
        nothing.
    """
    layers = list(spectral_layers(model).values())
    try:
        with torch.no_grad():
            for layer in layers:
                layer._cached = None
                layer._cached = layer.weight
        yield
    finally:
        for layer in layers:
            layer._cached = None


@functools.cache
def _spectral_class(plain: Any) -> type[SpectralConv]:
    shipped = {nn.Conv2d: SpectralConv2d, nn.ConvTranspose2d: SpectralConvTranspose2d}
    made = {"plain_class": plain, "__reduce__": lambda layer: (_empty, (plain,), layer.__getstate__())}
    return shipped.get(plain) or type(f"Spectral{plain.__name__}", (SpectralConv, plain), made)


def _empty(plain: Any) -> SpectralConv:
    # For pickle, which would look for a class that is made here by its name.
    made = _spectral_class(plain)
    return made.__new__(made)


def _replace_parameter(module: nn.Module, old: str, new: str, parameter: nn.Parameter) -> None:
    # In the old one's place, because optimizers and checkpoints go by the order of parameters.
    module._parameters = {
        (new if name == old else name): (parameter if name == old else kept)
        for name, kept in module._parameters.items()
    }


def _shallow_copy(module: nn.Module) -> Any:
    twin = copy.copy(module)
    for name, value in vars(module).items():
        if isinstance(value, (dict, set)):
            twin.__dict__[name] = copy.copy(value)
    return twin
