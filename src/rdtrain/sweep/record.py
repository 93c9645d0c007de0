"""Plans a multirun before its first job, and closes it after its last one."""

from __future__ import annotations

import contextlib
import sys
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

from hydra.core.global_hydra import GlobalHydra
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, open_dict

from rdtrain.errors import UserError
from rdtrain.quiet import silence_libraries
from rdtrain.sweep.plan import Plan, Point, code_hash
from rdtrain.sweep.status import FINISHED, Row, error_code, table, write_status

REPORT = "report"


class SweepRecord(Callback):
    """Writes the plan, `status.csv`, and at the end a table and the report; part of every multirun.

    In the configuration:

        hydra:
          callbacks:
            sweep:
              _target_: rdtrain.sweep.record.SweepRecord
    """

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Compose every point, so that mistakes are told before anything is created, and freeze it.

        Args:
            config: of the multirun, Hydra's own node included.
            kwargs: what else Hydra hands over.

        Raises:
            SystemExit: a mistake of the user.
        """
        with _loud():
            self.ids = make_plan(config)

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Say how it went, and report on what is finished.

        Args:
            config: of the multirun, Hydra's own node included.
            kwargs: what else Hydra hands over.

        Raises:
            SystemExit: a point is not finished; 2 where all that failed are mistakes of the user, else 1.
        """
        with _loud():
            plan = Plan.read(_folder(config))
            rows = [row for row in write_status(plan) if row.id in self.ids]
            if not rows:
                return
            print(table(rows))
            _report(plan, rows)
        codes = [error_code(plan.error_of(row.id)) for row in rows if row.state != FINISHED]
        if codes and config.launcher.get("wait", True):
            raise SystemExit(min(codes))


def make_plan(config: DictConfig) -> list[str]:
    """Write the plan of a multirun.

    Args:
        config: of the multirun, Hydra's own node included.

    Returns:
        Ids of its points.

    Raises:
        UserError: a point is wrong.
    """
    silence_libraries()
    from rdtrain.config.check import check
    from rdtrain.models import complete
    from rdtrain.run_folder import RunFolder

    code, points, configs = code_hash(), [], {}
    problems: list[str] = []
    for overrides in sweep_points(config):
        checked, found = check(_composed(config, overrides))
        problems += [problem for problem in found if problem not in problems]
        if checked is not None and not problems:
            run = RunFolder.of(complete(checked))
            points.append(Point(run.id, run.path.name, tuple(overrides), code))
            configs[run.id] = complete(checked).to_dict()
    if problems:
        raise UserError(problems)
    plan = Plan.read(_folder(config)).grown(points)
    plan.write(configs)
    write_status(plan)
    return [point.id for point in points]


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


def _report(plan: Plan, rows: Sequence[Row]) -> None:
    from rdtrain.report.cli import main

    runs = {point.id: plan.folder / point.run for point in plan.points}
    finished = [str(runs[row.id]) for row in rows if row.state == FINISHED]
    if finished:
        main([*finished, "--out", str(plan.folder / REPORT)])


def _composed(config: DictConfig, overrides: list[str]) -> dict[str, Any]:
    # As the launcher does it.
    job = GlobalHydra.instance().config_loader().load_sweep_config(config, overrides)
    with open_dict(job):
        del job["hydra"]
    return cast(dict[str, Any], OmegaConf.to_container(job, resolve=True))


def _folder(config: DictConfig) -> Path:
    from rdtrain.run_folder import runs_root

    return runs_root(config.paths.runs)


@contextlib.contextmanager
def _loud() -> Iterator[None]:
    # Hydra makes a warning of whatever a callback raises.
    try:
        yield
    except UserError as error:
        for problem in error.problems:
            print(f"rdtrain: {problem}", file=sys.stderr)
        raise SystemExit(2) from error
    except Exception as error:
        traceback.print_exc()
        raise SystemExit(1) from error
