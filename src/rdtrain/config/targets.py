"""Nodes with `_target_`: a class of a library and its arguments. Needs whatever the classes need."""

from __future__ import annotations

import inspect
from importlib import import_module
from typing import Any

import torch
from hydra.utils import instantiate

from rdtrain.config.nearest import suggestion

# By section: what its classes derive from, and where to look for the name that was meant.
_KINDS = {
    "optimizer": ("torch.optim.Optimizer", "torch.optim"),
    "scheduler": ("torch.optim.lr_scheduler.LRScheduler", "torch.optim.lr_scheduler"),
    "callbacks": ("catalyst.dl.Callback", "rdtrain.callbacks"),
    "logger": ("catalyst.dl.Callback", "rdtrain.callbacks"),
    "optimizers": ("torch.optim.Optimizer", "torch.optim"),
    "transforms": ("rdtrain.conv.transform.Transform", "rdtrain.conv.transforms"),
    "runner": ("rdtrain.runners.ImageCompressionRunner", "rdtrain.runners"),
}

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
    if not isinstance(node, dict):
        return []  # the schema tells
    target, problem = _located(key, node.get("_target_"))
    if target is None:
        return [problem]
    parameters = dict(list(inspect.signature(target).parameters.items())[len(args) :])
    unknown = [name for name in node if name != "_target_" and name not in parameters]
    if unknown:
        known = [f"{key}.{name}" for name in parameters]
        return [f"{key}.{name} does not exist: {suggestion(f'{key}.{name}', known)}" for name in unknown]
    wrong = [(name, value, _expected(value, parameters[name])) for name, value in node.items() if name in parameters]
    problems = [f"{key}.{name}={value}: should be {expected}" for name, value, expected in wrong if expected]
    if problems or not dry_run:
        return problems
    try:
        made = make(node, *args)
        if isinstance(made, torch.optim.Optimizer):
            made.step()
    except Exception as error:  # whatever the class has against its arguments
        return [f"{key}: {_reason(error)}"]
    return []


def _located(key: str, name: Any) -> tuple[type | None, str]:
    base, home = _KINDS[key.split(".", 1)[0]]
    kind = _attribute(base)
    found, reason = None, ""
    try:
        found = _attribute(str(name))
    except (AttributeError, ValueError):
        pass  # the module is there, and the suggestion says what it has
    except Exception as error:  # whatever importing it does
        reason = f" ({type(error).__name__}: {_reason(error)})"
    if isinstance(found, type) and issubclass(found, kind):
        return found, ""
    siblings = [f"{home}.{sibling}" for sibling, value in vars(import_module(home)).items() if _is_proper(value, kind)]
    return None, f"{key}._target_={name}: is no class of kind {base}{reason}; {suggestion(str(name), siblings)}"


def _attribute(name: str) -> Any:
    module, _, attribute = name.rpartition(".")
    return getattr(import_module(module), attribute)


def _is_proper(value: Any, kind: type) -> bool:
    return isinstance(value, type) and issubclass(value, kind) and not value.__name__.startswith("_")


def _expected(value: Any, parameter: inspect.Parameter) -> str | None:
    # What the annotation of an argument wants instead of a value; None where it is right or not known.
    wanted = parameter.annotation if isinstance(parameter.annotation, str) else _text(parameter.annotation)
    if value is None:
        return None if "None" in wanted or parameter.default in (None, inspect.Parameter.empty) else "given"
    if wanted.startswith("bool"):
        return None if isinstance(value, bool) else "true or false"
    if wanted.startswith(("str", "Literal")):
        return None if isinstance(value, str) else "text"
    if wanted.startswith("int"):
        least = 1 if parameter.name.startswith("every_") else -1 if parameter.default == -1 else 0
        right = isinstance(value, int) and not isinstance(value, bool) and least <= value < 2**31
        return None if right else f"a whole number from {least} to 2147483647"
    if wanted.startswith(("float", "list[float", "tuple[float")):
        numbers = value if isinstance(value, list) and ("list" in wanted or "tuple" in wanted) else [value]
        return None if all(map(_is_finite, numbers)) else "a finite number"
    return None


def _text(annotation: Any) -> str:
    return inspect.formatannotation(annotation)


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 2**1000 and value == value


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
        found = target_problems(f"optimizer.{name}", node, [_parameter()])
        problems += found
        if found or scheduler.get(name) is None:
            continue
        made = make(node, [_parameter()])
        filled = {key: 100 if value is None and key in WHOLE_RUN else value for key, value in scheduler[name].items()}
        problems += target_problems(f"scheduler.{name}", filled, made)
    return problems


def _parameter() -> torch.nn.Parameter:
    parameter = torch.nn.Parameter(torch.zeros(1, 1))
    parameter.grad = torch.ones_like(parameter)
    return parameter


def _reason(error: BaseException) -> str:
    cause = error.__cause__ or error
    return str(cause).strip().splitlines()[0] if str(cause).strip() else type(cause).__name__
