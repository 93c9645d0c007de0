"""The name that was probably meant."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import SequenceMatcher, get_close_matches
from typing import Any, get_args

from pydantic import BaseModel

from rdtrain.config.schema import Config

_LONGEST = 100  # characters that are compared; no name is as long


def nearest(name: str, known: Iterable[str]) -> list[str]:
    """Up to three known names that look like one.

    Args:
        name: what was typed.
        known: names that exist.

    Returns:
        Names, the likeliest first.
    """
    known, name = list(known), name[:_LONGEST]
    tail = name.rsplit(".", 1)[-1]
    close = get_close_matches(name, known, n=3, cutoff=0.6)
    by_tail = sorted(
        (key for key in known if SequenceMatcher(None, tail, key.rsplit(".", 1)[-1]).ratio() >= 0.75),
        key=lambda key: -SequenceMatcher(None, name, key).ratio(),
    )
    begun = sorted(key for key in known if key.startswith(name))
    return list(dict.fromkeys(begun + close + by_tail))[:3]


def suggestion(name: str, known: Iterable[str]) -> str:
    """What to type instead of a name that does not exist.

    Args:
        name: what was typed.
        known: names that exist.

    Returns:
        "did you mean a, b?", or the whole list where nothing is near and the list is short.
    """
    known = list(known)
    close = nearest(name, known)
    if close:
        return f"did you mean {', '.join(close)}?"
    return f"it is one of {', '.join(known)}" if 0 < len(known) <= 30 else "see rdtrain --help"


def known_keys(section: type[BaseModel] = Config, prefix: str = "") -> list[str]:
    """Every dotted key of the schema.

    Args:
        section: where to begin, such as another task's `Config`.
        prefix: what stands before its keys.

    Returns:
        Such as `model.name`; sections with free keys by their own name only.
    """
    keys = []
    for name, field in section.model_fields.items():
        key = prefix + (field.alias or name)
        inner = [kind for kind in (field.annotation, *get_args(field.annotation)) if _is_section(kind)]
        keys += [name for kind in inner for name in known_keys(kind, key + ".")] or [key]
    return list(dict.fromkeys(keys))


def _is_section(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)
