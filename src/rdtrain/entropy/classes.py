"""Other behaviour for modules that exist already, of classes that are somebody else's."""

from __future__ import annotations

from functools import cache

from torch import nn


def mix_in(mixin: type, module: nn.Module) -> None:
    """Put a class before the one of a module.

    Args:
        mixin: its methods go first and reach the module's own through `super()`.
        module: changed in place, its tensors and their names are not; a deep copy keeps the change.
    """
    module.__class__ = _mixed(mixin, type(module))  # type: ignore[arg-type]  # a class is hashable


@cache
def _mixed(mixin: type, kind: type[nn.Module]) -> type[nn.Module]:
    return type(kind.__name__, (mixin, kind), {})
