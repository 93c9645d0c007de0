"""From the overrides of a multirun to its plan: every point is composed and checked before the first job starts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig

from rdtrain.config.check import check
from rdtrain.config.schema import Config
from rdtrain.config.shared import SharedComposition
from rdtrain.config.tasks import program_of
from rdtrain.errors import UserError
from rdtrain.sweep.plan import Plan, Point, code_hash
from rdtrain.sweep.status import write_status


def make_plan(config: DictConfig, batch: Sequence[Sequence[str]]) -> list[Point]:
    """Freeze points in the plan of a multirun.

    Args:
        config: of the multirun, Hydra's own node included.
        batch: the overrides of each point, in the spelling of Hydra's sweeper.

    Returns:
        The points.

    Raises:
        UserError: a point is wrong, and nothing is written.
    """
    compose, code, points, configs = _composition(config), code_hash(), [], {}
    problems: dict[str, None] = {}
    for overrides in batch:
        raw = {key: None if key == "search" else value for key, value in compose(overrides).items()}
        checked, found = check(raw)
        problems |= dict.fromkeys(found)
        if checked is not None and not problems:
            completed, run = program_of(raw).planned(checked)
            configs[run.id] = completed.to_dict()
            epochs = configs[run.id]["engine"].get("num_epochs", 0)
            points.append(Point(run.id, run.path.name, tuple(overrides), code, epochs))
    if problems:
        raise UserError(list(problems))
    plan = Plan.read(sweep_folder(config)).grown(points)
    plan.write(configs)
    write_status(plan)
    return points


def checked_point(config: DictConfig, overrides: Sequence[str]) -> Config:
    """Compose one configuration of a multirun.

    Args:
        config: of the multirun, Hydra's own node included.
        overrides: of the point.

    Returns:
        The configuration.

    Raises:
        UserError: it is wrong.
    """
    checked, problems = check(_composition(config)(overrides))
    if checked is None:
        raise UserError(problems)
    return checked


def sweep_points(config: DictConfig) -> list[list[str]]:
    """The override lists that Hydra's own sweeper makes.

    Args:
        config: of the multirun, Hydra's own node included.

    Returns:
        One list a job, in its order and spelling; a sweeper that chooses as it goes has none.
    """
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.core.override_parser.overrides_parser import OverridesParser

    if not str(config.hydra.sweeper._target_).endswith(".BasicSweeper"):
        return []
    params = config.hydra.sweeper.params or {}
    texts = [*(f"{key}={value}" for key, value in params.items()), *config.hydra.overrides.task]
    (batch,) = BasicSweeper.split_arguments(OverridesParser.create().parse_overrides(texts), None)
    return batch


def sweep_folder(config: DictConfig) -> Path:
    """Where a multirun lies.

    Args:
        config: of the multirun.

    Returns:
        The whole path.
    """
    from rdtrain.run_folder import runs_root

    return runs_root(config.paths.runs)


def _composition(config: DictConfig) -> SharedComposition:
    # As the launchers do it.
    loader = GlobalHydra.instance().config_loader()
    return SharedComposition(lambda chosen: loader.load_sweep_config(config, chosen), loader.repository.group_exists)
