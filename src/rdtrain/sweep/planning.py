"""From the overrides of a multirun to its plan: every point is composed and checked before the first job starts."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

from rdtrain.config.check import check
from rdtrain.config.schema import Config
from rdtrain.config.shared import SharedComposition
from rdtrain.config.tasks import program_of, task_of
from rdtrain.errors import UserError
from rdtrain.lock import locked
from rdtrain.sweep.plan import PATIENCE_S, Plan, Point, code_hash
from rdtrain.sweep.status import FINISHED, status, write_status

_REMOTE = ("slurm", "ray")  # launchers whose jobs find other devices than this machine's
_SHARED = ("paths", "launcher", "search")  # what a sweep has one of, whatever its points


def make_plan(config: DictConfig, batch: Sequence[Sequence[str]]) -> list[Point]:
    """Freeze points in the plan of a multirun.

    Args:
        config: of the multirun, Hydra's own node included.
        batch: the overrides of each point, in the spelling of Hydra's sweeper.

    Returns:
        The points.

    Raises:
        UserError: a point is wrong, or torchrun has started several processes; nothing is written.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError("a sweep is planned by one process: type the command without torchrun, or one run without -m")
    compose, code, folder = _composition(config), code_hash(), sweep_folder(config)
    points, raws, configs, shared = [], [], {}, _shared(config)
    problems: dict[str, None] = {}
    for overrides in batch:
        whole = compose(overrides)
        raw = {key: None if key == "search" else value for key, value in whole.items()}
        checked, found = check(raw)
        problems |= dict.fromkeys([*found, *_swept(shared, whole)])
        if checked is not None and not problems:
            completed, run = program_of(raw).planned(checked)
            configs[run.id] = completed.to_dict()
            epochs = configs[run.id]["engine"].get("num_epochs", 0)
            points.append(Point(run.id, run.path.name, tuple(overrides), code, epochs, _kind(config)))
            raws.append(raw)
    if found := list(problems) or _job_problems(folder, points, raws):
        raise UserError(found)
    with locked(folder / "plan", patience_s=PATIENCE_S):
        plan = Plan.read(folder).grown(points)
        plan.write(configs)
        write_status(plan)
    return points


def _shared(config: DictConfig) -> dict[str, Any]:
    nodes = {key: config.get(key) for key in _SHARED}
    return {key: OmegaConf.to_container(node, resolve=True) for key, node in nodes.items() if node is not None}


def _swept(shared: dict[str, Any], raw: dict[str, Any]) -> list[str]:
    # Hydra takes it from the multirun, and from no point.
    swept = [key for key in _SHARED if raw.get(key) != shared.get(key)]
    return [f"{key}: a sweep has one for all of its points; give each of its keys one value" for key in swept]


def _kind(config: DictConfig) -> str:
    search = config.get("search")
    return task_of(config) if search is None else f"search={search.name}"


def _job_problems(folder: Path, points: Sequence[Point], raws: Sequence[dict[str, Any]]) -> list[str]:
    # What jobs would refuse; one of each choice is looked at, and none that is finished.
    rows = status(Plan(folder, tuple(points)))
    choices = {_choice(raw): raw for row, raw in zip(rows, raws, strict=True) if row.state != FINISHED}
    return list(dict.fromkeys(text for raw in choices.values() for text in program_of(raw).problems(_at_job(raw))))


def _choice(raw: dict[str, Any]) -> str:
    # Points that differ in numbers only, but not in a model's, are right together or wrong together.
    return json.dumps([_words(raw), raw.get("model"), raw.get("hp")], default=str)


def _words(node: Any) -> Any:
    if isinstance(node, dict):
        return {key: _words(value) for key, value in node.items()}
    if isinstance(node, list):
        return [_words(value) for value in node]
    return "" if isinstance(node, int | float) and not isinstance(node, bool) else node


def _at_job(raw: dict[str, Any]) -> dict[str, Any]:
    if raw["launcher"]["name"] not in _REMOTE:
        return raw
    return {**raw, "engine": {**raw["engine"], "device": "cpu"}}


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


def is_planned(hydra: DictConfig) -> bool:
    """Whether the points of a multirun are planned before it begins.

    Args:
        hydra: Hydra's own node.

    Returns:
        False for a sweeper that is not Hydra's, in whose place ours are put.
    """
    return str(hydra.sweeper._target_).endswith(".BasicSweeper")


def sweep_points(config: DictConfig) -> list[list[str]]:
    """The override lists that Hydra's own sweeper makes.

    Args:
        config: of the multirun, Hydra's own node included.

    Returns:
        One list a job, in its order and spelling; a sweeper that chooses as it goes has none.
    """
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.core.override_parser.overrides_parser import OverridesParser

    if not is_planned(config.hydra):
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
