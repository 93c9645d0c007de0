"""Other behaviour for modules that exist already, of classes that are somebody else's."""

from __future__ import annotations

from functools import cache

from torch import nn


def mix_in(mixin: type, module: nn.Module) -> None:
    """Put a class before the one of a module, unless it is there already.

    The module cannot be pickled as a whole any more; its state dict can.

    Args:
        mixin: its methods go first and reach the module's own through `super()`.
        module: changed in place, its tensors and their names are not; a deep copy keeps the change.
    """
    if not isinstance(module, mixin):
        module.__class__ = _mixed(mixin, type(module))  # type: ignore[arg-type]  # a class is hashable


def put_behind(base: type, kind: type[nn.Module]) -> type[nn.Module]:
    """A class with another one behind it: what it does itself comes first, what it has from its bases is replaced.

    Args:
        base: a class that derives from a base of `kind`; its methods replace those that `kind` inherits from there.
        kind: the class of a module.

    Returns:
        Always the same class for the same two; `base` itself where `kind` adds nothing to its own base.
    """
    return _behind(base, kind)  # type: ignore[arg-type]  # a class is hashable


@cache
def _behind(base: type, kind: type[nn.Module]) -> type[nn.Module]:
    return base if kind in base.__bases__ else type(kind.__name__, (kind, base), {})


def take_out(mixin: type, module: nn.Module) -> None:
    """Undo `mix_in`; what was mixed in later stays.

    Args:
        mixin: that was mixed in.
        module: changed in place.
    """
    module.__class__ = _without(mixin, type(module))


@cache
def _mixed(mixin: type, kind: type[nn.Module]) -> type[nn.Module]:
    return type(kind.__name__, (mixin, kind), {})


def _without(mixin: type, kind: type[nn.Module]) -> type[nn.Module]:
    outer, inner = kind.__bases__
    if outer is mixin:
        return inner
    return _mixed(outer, _without(mixin, inner))  # type: ignore[arg-type]  # a class is hashable
