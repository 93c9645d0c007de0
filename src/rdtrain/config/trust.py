"""Configuration from a folder that somebody else may have written is data: it calls nothing outside a short list.

What a user types is his own and is not judged here. Hydra imports and calls whatever a `_target_` names, while it
composes a configuration (`pkg://` search paths), before a job starts (`hydra.callbacks`, logging, the launcher) and
when its objects are made, so a folder is judged before any of that: unresolved, with the groups that were chosen.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any

# One class name after the package, so that no name inside a module (torch.optim.lr_scheduler.types.FunctionType) or
# inside a class is reached.
_CALLABLE = re.compile(r"(torch\.optim|torch\.optim\.lr_scheduler|rdtrain\.callbacks|rdtrain\.runners)\.[A-Z]\w*")
_HYDRAS_OWN = (
    "hydra._internal.core_plugins.basic_launcher.BasicLauncher",
    "hydra._internal.core_plugins.basic_sweeper.BasicSweeper",
)
_LISTED = "classes of torch.optim, torch.optim.lr_scheduler, rdtrain.callbacks and rdtrain.runners"
_SPECIAL = ("_args_", "_partial_", "_recursive_", "_convert_")
# What Hydra imports, calls, exports or changes on behalf of a configuration.
_HYDRA_EMPTY = (
    "callbacks",
    "sweeper.params",
    "job.env_set",
    "job.env_copy",
    "job.chdir",
    "job_logging.root",
    "hydra_logging.root",
)
_OWN_CALLBACKS = {"sweep": {"_target_": "rdtrain.sweep.record.SweepRecord"}}
_PLAIN_REFERENCE = re.compile(r"\$\{[\w.\-]+\}")


def untrusted(config: dict[str, Any], typed_launcher: object = None) -> list[str]:
    """Find what a configuration from a file may not do.

    Args:
        config: composed but unresolved, Hydra's own section included.
        typed_launcher: `launcher_of` rdtrain's own configuration with the launcher that the user typed, if he did.

    Returns:
        One phrase for every key that is not plain data, beginning with the key.
    """
    hydra = config.get("hydra", {})
    found = [f"hydra.{key} is set" for key in _HYDRA_EMPTY if _select(hydra, key) not in (None, {}, [], _OWN_CALLBACKS)]
    found += _judge("hydra.sweeper", hydra.get("sweeper"), _HYDRAS_OWN)
    if launcher_of(config) != typed_launcher:
        found += _judge("hydra.launcher", hydra.get("launcher"), _HYDRAS_OWN)
    for key, value in config.items():
        found += [] if key == "hydra" else _judge(str(key), value)
    return found


def launcher_of(config: dict[str, Any]) -> list[Any]:
    """What starts the jobs of a sweep: a folder may change neither part of it.

    Args:
        config: composed but unresolved, Hydra's own section included.

    Returns:
        Both sections that say it.
    """
    return [config.get("launcher"), config.get("hydra", {}).get("launcher")]


def choices(groups: Sequence[Sequence[str]]) -> Iterator[list[str]]:
    """Every way in which options of groups come together in a sweep; a defaults list may look at several of them.

    Args:
        groups: for each group the overrides that choose one of its options.

    Yields:
        One override for each group.
    """
    yield from map(list, product(*groups))


def _judge(key: str, value: Any, extra: tuple[str, ...] = ()) -> Iterator[str]:
    if isinstance(value, dict):
        if "_target_" in value and not _listed(value["_target_"], extra):
            yield f"{key}._target_={value['_target_']} is none of the {_LISTED}"
        yield from (f"{key}.{name} is set" for name in _SPECIAL if name in value)
    if isinstance(value, dict | list):
        for name, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _judge(f"{key}.{name}", item, extra)
    elif isinstance(value, str) and "${" in _PLAIN_REFERENCE.sub("", value):
        yield f"{key}={value} calls a resolver"


def _listed(target: Any, extra: tuple[str, ...]) -> bool:
    return isinstance(target, str) and (target in extra or _CALLABLE.fullmatch(target) is not None)


def _select(section: Any, key: str) -> Any:
    for part in key.split("."):
        if not isinstance(section, dict):
            break  # a reference, not known to be empty
        section = section.get(part)
    return section
