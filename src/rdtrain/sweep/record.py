"""Plans a multirun before its first job, begins each job where the command was typed, and closes it after the last."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from rdtrain.config.tasks import EXPERIMENTS, TRAIN, task_of
from rdtrain.errors import UserError
from rdtrain.quiet import silence_libraries
from rdtrain.sweep.faults import told
from rdtrain.sweep.plan import Plan
from rdtrain.sweep.planning import make_plan, sweep_folder, sweep_points
from rdtrain.sweep.present import PRESENT
from rdtrain.sweep.status import FINISHED, Row, error_code, table, write_status
from rdtrain.sweep.sweeper import PlannedSweeper, SearchSweeper, take_over

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
        silence_libraries()
        with told():
            if config.get("search") is not None:
                PRESENT.begin()
                take_over(SearchSweeper)
                return
            take_over(PlannedSweeper)
            PRESENT.begin(make_plan(config, sweep_points(config)))

    def on_job_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Go to where the command was typed: a job of Ray begins where its cluster was started.

        Args:
            config: of the job, Hydra's own node included.
            kwargs: what else Hydra hands over.
        """
        with contextlib.suppress(FileNotFoundError):  # this machine has no such folder; whole paths work without it
            os.chdir(config.hydra.runtime.cwd)

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Say how it went, and report on what is finished.

        Args:
            config: of the multirun, Hydra's own node included.
            kwargs: what else Hydra hands over.

        Raises:
            SystemExit: a point is not finished; 2 where all that failed are mistakes of the user, else 1. Also where
                the report or another hook has failed.
        """
        with told():
            plan = Plan.read(sweep_folder(config))
            rows = write_status(plan)
            present = _of_this_command(plan, rows)
            if not present:
                return
            print(table(present))
            if task_of(config) == TRAIN:
                _report(plan, [row for row in rows if row.kind not in EXPERIMENTS])
        codes = [error_code(plan.error_of(row.id)) for row in present if row.state != FINISHED]
        if PRESENT.launcher_failed:
            raise SystemExit(1)
        if codes and config.launcher.get("wait", True):
            raise SystemExit(min(codes))
        if PRESENT.code:
            raise SystemExit(PRESENT.code)


def _of_this_command(plan: Plan, rows: Sequence[Row]) -> list[Row]:
    own = PRESENT.own(rows)
    if lost := ", ".join(sorted({point.id for point in PRESENT.points} - {row.id for row in own})):
        raise UserError(f"{plan.folder} has no points {lost} in its plan.json any more; type the same command again")
    return own


def _report(plan: Plan, rows: Sequence[Row]) -> None:
    from rdtrain.report.cli import main

    runs = {point.id: plan.folder / point.run for point in plan.points}
    finished = [str(runs[row.id]) for row in rows if row.state == FINISHED]
    if finished:
        folder = plan.folder / REPORT
        if main([*finished, "--out", str(folder)]):
            raise UserError(f"{folder}: the report failed, see above")
