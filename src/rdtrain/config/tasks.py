"""What `rdtrain` can run: trainings of compression models, and experiments with root configurations of their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

from rdtrain.quick_catalyst import import_catalyst
from rdtrain.quiet import silence_libraries

if TYPE_CHECKING:
    from types import ModuleType

    from rdtrain.config.schema import Section

TRAIN = "train"
# conf/NAME.yaml, conf/experiment/NAME/, src/rdtrain/NAME/
EXPERIMENTS = ("kernels", "jpeg", "factorisation", "super_resolution")


def root_of(overrides: Sequence[str]) -> str:
    """The root configuration that a command line asks for.

    Args:
        overrides: what was typed; `experiment=kernels/edge` belongs to the root `kernels`.

    Returns:
        Its name, for Hydra's `config_name`.
    """
    for text in overrides:
        key, _, value = text.lstrip("+").partition("=")
        head = value.partition("/")[0]
        if key == "experiment" and "/" in value and head in EXPERIMENTS:
            return head
    return TRAIN


def task_of(raw: Mapping[str, Any]) -> str:
    """What a composed configuration is for.

    Args:
        raw: plain containers; those of an experiment name it under `task`.

    Returns:
        `train`, or the name of an experiment.
    """
    task = raw.get("task")
    return task if task in EXPERIMENTS else TRAIN


def schema_of(raw: Mapping[str, Any]) -> type[Section]:
    """The types of its keys.

    Args:
        raw: composed configuration as plain containers.

    Returns:
        A pydantic class.
    """
    task = task_of(raw)
    package = "rdtrain.config" if task == TRAIN else f"rdtrain.{task}"
    schema: type[Section] = import_module(f"{package}.schema").Config
    return schema


def program_of(raw: Mapping[str, Any]) -> ModuleType:
    """What runs it; heavy to import.

    Args:
        raw: composed configuration as plain containers.

    Returns:
        A module with `problems(raw)`, the checks that need torch and data; `planned(config)`, the configuration
        completed and its run folder; and `run(config, overrides)`, which returns the folder.
    """
    silence_libraries()
    import_catalyst()
    task = task_of(raw)
    return import_module("rdtrain.compression" if task == TRAIN else f"rdtrain.{task}.task")
