"""Nodes with `_target_`: a class of a library and its arguments. Needs whatever the classes need."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from hydra.errors import InstantiationException
from hydra.utils import get_class, instantiate

from rdtrain.config.nearest import suggestion

WHOLE_RUN = ("total_steps", "T_max")  # lengths of schedulers that stand for the whole run where they are null


def make(node: dict[str, Any], *args: Any) -> Any:
    """Make the object that a node describes.

    Args:
        node: `_target_` and arguments.
        args: positional arguments that come first.

    Returns:
        The object.
    """
    return instantiate(node, *args, _convert_="all")


def target_problems(key: str, node: dict[str, Any], *args: Any, dry_run: bool = True) -> list[str]:
    """What is wrong with a node.

    Args:
        key: where it stands, such as `optimizer.net`.
        node: `_target_` and arguments.
        args: positional arguments that will come first.
        dry_run: make the object as well, so that the class itself can refuse a value.

    Returns:
        One sentence for every mistake.
    """
    try:
        target = get_class(str(node.get("_target_")))
    except (ValueError, ImportError, AttributeError, InstantiationException) as error:
        return [f"{key}._target_={node.get('_target_')}: {str(error).splitlines()[0]}"]
    takes = list(inspect.signature(target).parameters)[len(args) :]
    unknown = [name for name in node if not name.startswith("_") and name not in takes]
    if unknown:
        known = [f"{key}.{name}" for name in takes]
        return [f"{key}.{name} does not exist: {suggestion(f'{key}.{name}', known)}" for name in unknown]
    if not dry_run:
        return []
    try:
        make(node, *args)
    except InstantiationException as error:
        return [f"{key}: {_reason(error)}"]
    return []


def optimization_problems(optimizer: dict[str, Any], scheduler: dict[str, Any]) -> list[str]:
    """Try optimizers and schedulers on a parameter of their own.

    Args:
        optimizer: nodes by name, `net` and `aux`.
        scheduler: nodes by the same names, None for none.

    Returns:
        One sentence for every mistake.
    """
    problems = []
    for name, node in optimizer.items():
        found = target_problems(f"optimizer.{name}", node, [torch.nn.Parameter(torch.zeros(1))])
        problems += found
        if found or scheduler.get(name) is None:
            continue
        made = make(node, [torch.nn.Parameter(torch.zeros(1))])
        filled = {key: 100 if value is None and key in WHOLE_RUN else value for key, value in scheduler[name].items()}
        problems += target_problems(f"scheduler.{name}", filled, made)
    return problems


def _reason(error: BaseException) -> str:
    cause = error.__cause__ or error
    return str(cause).strip().splitlines()[0] if str(cause).strip() else type(cause).__name__
