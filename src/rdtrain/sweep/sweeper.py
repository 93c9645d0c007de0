"""In the place of Hydra's own sweeper: one that does not compose once more what is planned, and one that searches."""

from __future__ import annotations

import contextlib
import hashlib
import json
import signal
import sys
import traceback
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig, OmegaConf

from rdtrain.config.schema import SEARCH_LENGTH
from rdtrain.errors import UserError
from rdtrain.interruption import Interruption
from rdtrain.sweep.faults import told
from rdtrain.sweep.plan import Plan, Point
from rdtrain.sweep.planning import checked_point, make_plan, sweep_folder, sweep_points
from rdtrain.sweep.present import PRESENT
from rdtrain.sweep.status import FAILED, FINISHED, RUNNING, status, table, write_status

if TYPE_CHECKING:
    from optuna.trial import Trial

    from rdtrain.config.schema import Config, LrSearch, TargetBppSearch
    from rdtrain.sweep.search import Goal, Search

SEARCH = "search"
_BPP = "infer/bpp/real"
_MEASURED = {"lr": "best validation loss", "target_bpp": "bpp of real bitstreams"}
_ENDED = (FINISHED, FAILED)


def take_over(sweeper: type[BasicSweeper]) -> None:
    """Put a sweeper of ours in the place of Hydra's: Hydra takes none from outside of hydra_plugins.

    Args:
        sweeper: its class.
    """
    name = f"{BasicSweeper.__module__}.{BasicSweeper.__name__}"
    Plugins.instance().class_name_to_class[name] = sweeper


class PlannedSweeper(BasicSweeper):
    """Launches points that the plan's writer has composed and checked; Hydra would compose them again, 0.2 s each."""

    def sweep(self, arguments: list[str]) -> None:
        """Launch what is to be done.

        Args:
            arguments: what was typed, of which the plan is made.

        Raises:
            SystemExit: a mistake of the user, or a fault of ours.
        """
        with told():
            folder, points = sweep_folder(self.config), PRESENT.points
            OmegaConf.save(self.config, folder / "multirun.yaml")
            size = self.max_batch_size or len(points)
            for first in range(0, len(points), size):
                launch(self.launcher, folder, points[first : first + size], first)


def launch(launcher: Launcher, folder: Path, points: Sequence[Point], first: int) -> None:
    """Start the points of a plan that neither are finished nor run, each as a job that knows its point's id.

    Args:
        launcher: of the multirun.
        folder: of the sweep.
        points: of which some may be the same.
        first: number of the first job.

    Raises:
        UserError: the launcher cannot start anything, which the user can put right; other faults of it are printed.
        SystemExit: 128 plus its number after a signal, and a last table.
    """
    states = _states(folder, points)
    left = [state for state in states.values() if state in (FINISHED, RUNNING)]
    if left:
        print(
            "left alone:",
            ", ".join(f"{left.count(state)} already {state}" for state in dict.fromkeys(left)),
            flush=True,
        )
    jobs = {point.id: _job(folder, point) for point in points if states[point.id] not in (FINISHED, RUNNING)}
    if not jobs:
        return
    try:
        with Interruption():
            for result in launcher.launch(list(jobs.values()), initial_job_idx=first):
                _ = result.return_value  # raises what the job raised
    except UserError:
        raise
    except KeyboardInterrupt as error:  # a signal, while jobs run in other processes; Hydra calls no hook any more
        _show(folder)
        print("interrupted; the same command goes on from here", file=sys.stderr)
        raise SystemExit(128 + getattr(error, "signum", signal.SIGINT)) from None
    except SystemExit:  # a signal, which a job of this process has told
        _show(folder)
        raise
    except Exception:
        traceback.print_exc()
        print("the launcher failed; the same command goes on from here", file=sys.stderr)
        PRESENT.launcher_failed = True


def _show(folder: Path) -> None:
    with contextlib.suppress(OSError, UserError):  # are not to hide that it was interrupted
        print(table(PRESENT.own(write_status(Plan.read(folder)))), flush=True)


def _job(folder: Path, point: Point) -> list[str]:
    # Overrides may be those of two points, where configuration files have changed in between; ids are not. Hydra makes
    # the folder of a job before the job may say where it is to begin.
    whole = QuotedString(str(folder), Quote.single).with_quotes()
    return [*point.overrides, f"hydra.job.name='{point.id}'", f"hydra.sweep.dir={whole}"]


class SearchSweeper(BasicSweeper):
    """Asks a study for points, runs them through the launcher as points of a sweep, and tells the study.

    All that it knows stands in the study and in the run folders, so it goes on where it was killed.
    """

    def sweep(self, arguments: list[str]) -> None:
        """Search until all trials are done, or one has not come to its end.

        Args:
            arguments: what was typed, which stands in the configuration too.

        Raises:
            SystemExit: a mistake of the user, or a fault of ours.
        """
        from rdtrain.lock import locked

        with told():
            self._typed, config = _typed(self.config)
            self._folder = sweep_folder(self.config)
            with locked(self._folder / SEARCH):
                self._search(config)

    def _search(self, config: Config) -> None:
        from rdtrain.sweep.search_record import search_table, write_search

        settings = config.search
        assert settings is not None
        search = _opened(self._folder / f"{SEARCH}.db", config, settings)
        measured, at_once = _MEASURED[settings.name], _at_once(config, settings)
        if config.sweep.retry:
            search.retry_failed()
        going_on = True
        while going_on and (trials := search.ask(at_once, settings.trials)):
            going_on = self._run(search, trials)
            write_search(search, self._folder / SEARCH, measured)
        runs = {trial.user_attrs.get("run") for trial in search.trials}
        PRESENT.points = tuple(point for point in Plan.read(self._folder).points if point.id in runs)
        print(search_table(search, measured).text())
        if not going_on:
            print("a trial has not come to its end; the same command goes on from here")
        elif search.goal.target is not None and not search.hit:
            print(
                "no trial is within search.tolerance of the target; type a larger search.trials or another search.lmbda"
            )

    def _run(self, search: Search, trials: Sequence[Trial]) -> bool:
        # Whether all of them have come to an end.
        points = make_plan(self.config, [[*self._typed, *_words(search.parameters(trial))] for trial in trials])
        for trial, point in zip(trials, points, strict=True):
            trial.set_user_attr("run", point.id)
        launch(self.launcher, self._folder, points, first=trials[0].number)
        states = _states(self._folder, points)
        for trial, point in zip(trials, points, strict=True):
            if states[point.id] in _ENDED:
                finished = states[point.id] == FINISHED
                search.tell(trial, _measured(self._folder / point.run, search) if finished else None)
        return set(states.values()) <= set(_ENDED)


def _typed(config: DictConfig) -> tuple[list[str], Config]:
    # The words that all points share, and the configuration that they make.
    batch = sweep_points(config)
    if len(batch) != 1:
        raise UserError("a search varies what it searches for and nothing else: give every other key one value")
    if find_spec("optuna") is None:
        raise UserError("search= needs a package: type pip install '.[search]' in rdtrain's folder")
    return batch[0], checked_point(config, batch[0])


def _opened(file: Path, config: Config, settings: LrSearch | TargetBppSearch) -> Search:
    # What a search's outcome depends on is part of its name, but not how long it is to be.
    from rdtrain.models import complete
    from rdtrain.run_folder import run_id
    from rdtrain.sweep.search import Search

    searched = [run_id(complete(config)), settings.model_dump(exclude=set(SEARCH_LENGTH))]
    digest = hashlib.sha256(json.dumps(searched, sort_keys=True).encode()).hexdigest()
    return Search(file, f"{settings.name}-{digest[:8]}", _goal(config, settings))


def _goal(config: Config, settings: LrSearch | TargetBppSearch) -> Goal:
    from rdtrain.sweep.search import Goal

    if settings.name == "lr":
        ranges = {"optimizer.net.lr": settings.lr, "optimizer.aux.lr": settings.aux_lr}
        return Goal({key: limits for key, limits in ranges.items() if limits is not None}, settings.seed)
    rising = config.criterion.form == "rd"  # bpp rises with the weight of the distortion
    return Goal(
        {"criterion.lmbda": settings.lmbda}, target=settings.target_bpp, rising=rising, tolerance=settings.tolerance
    )


def _at_once(config: Config, settings: LrSearch | TargetBppSearch) -> int:
    return settings.at_once or (config.launcher.jobs if config.launcher.name == "joblib" else 1)


def _words(parameters: dict[str, float]) -> list[str]:
    return [f"++{key}={value!r}" for key, value in parameters.items()]


def _states(folder: Path, points: Sequence[Point]) -> dict[str, str]:
    return {row.id: row.state for row in status(Plan(folder, tuple(points)))}


def _measured(run: Path, search: Search) -> float | None:
    from rdtrain.run_folder import RunFolder

    summary = RunFolder(run).read_summary()
    value = summary["best"]["loss"] if search.goal.target is None else summary["final"].get(_BPP)
    return None if value is None else float(value)
