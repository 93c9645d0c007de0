"""Trainings of compression models, as the command line and the sweeps see them; see `rdtrain.config.tasks`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError

from rdtrain import preflight
from rdtrain.config.schema import Config, Dataset
from rdtrain.config.targets import target_problems
from rdtrain.data.inventory import take_inventory
from rdtrain.errors import UserError
from rdtrain.models import complete
from rdtrain.run_folder import RunFolder
from rdtrain.train import train


def problems(raw: dict[str, Any]) -> list[str]:
    """The checks that need torch and the data.

    Args:
        raw: composed configuration as plain containers, of which some sections may be wrong.

    Returns:
        One sentence for every mistake.
    """
    try:
        dataset = Dataset.model_validate(raw.get("dataset"))
    except ValidationError:
        return preflight.problems(raw)
    return preflight.problems(raw) + take_inventory(dataset)[1]


def planned(config: Config) -> tuple[Config, RunFolder]:
    """What a run is called before it begins.

    Args:
        config: checked.

    Returns:
        The completed configuration, and where the run will lie.
    """
    completed = complete(config)
    return completed, RunFolder.of(completed)


def run(config: Config, overrides: Sequence[str]) -> RunFolder:
    """Train.

    Args:
        config: checked.
        overrides: what the user typed, for the record.

    Returns:
        The run's folder.

    Raises:
        UserError: anything is wrong that the user can put right.
    """
    if wrong := target_problems("runner", {"_target_": config.runner.target}, dry_run=False):
        raise UserError(wrong)
    return train(config, overrides)
