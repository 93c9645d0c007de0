"""The command `rdtrain`. Nothing heavy is imported before the configuration is known to be right."""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from rdtrain.config.tasks import root_of
from rdtrain.errors import UserError

if TYPE_CHECKING:
    from omegaconf import DictConfig

_LONGEST, _HEAD = 1000, 400  # characters of a sentence that are shown, and of its ends where it is longer
_INTERRUPTED = 128  # plus the signal's number, as shells have it
# A run writes into its run folder only: Hydra makes no folder and no log file of its own, but for multirun.yaml, its
# record of a sweep, beside the run folders.
_QUIET_HYDRA = (
    "hydra.run.dir=.",
    "hydra.sweep.dir=${paths.runs}",
    "hydra.sweep.subdir=.",
    "hydra.output_subdir=null",
    "hydra/job_logging=none",
    "hydra/hydra_logging=none",
)
_DEFAULT_RUNS = "./runs"
_AXES = ("criterion.lmbda=", "model.quality=", "seed=")
_VALUED_FLAGS = ("--config-dir", "--config-name", "--config-path", "--package", "--cfg", "--experimental-rerun")
_LISTINGS = ("--help", "--hydra-help", "--version", "--info", "--shell-completion")  # nothing is run
_FLAGS = (*_VALUED_FLAGS, *_LISTINGS, "--multirun", "--run", "--resolve", "--trust")
_SHORT = {
    "-cd": "--config-dir", "-cn": "--config-name", "-cp": "--config-path", "-p": "--package", "-c": "--cfg",
    "-h": "--help", "-i": "--info", "-sc": "--shell-completion", "-m": "--multirun", "-r": "--run",
}  # fmt: skip
_REFUSED = {
    "--config-path": "rdtrain's own configurations are needed; type --config-dir FOLDER to add others",
    "--experimental-rerun": "it would run what is pickled in a file; type --config-dir RUN --config-name config",
}


def main() -> None:
    """Entry point of `rdtrain`.

    Raises:
        SystemExit: 2 for a mistake of the user, 128 plus its number after a signal, 1 for a fault of ours.
    """
    flags, overrides = split_arguments(sys.argv[1:])
    problems = flag_problems(flags) or trust_problems(overrides, flags)
    if not problems and not flags.keys() & set(_LISTINGS):
        problems = check_overrides(overrides, flags)
    if problems:
        raise SystemExit(report(problems))
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # a fault of ours shows its whole traceback
    import hydra
    from hydra.errors import ConfigCompositionException, MissingConfigException

    from rdtrain.config.compose import lenient

    _share_config_store()

    def job(composed_config: DictConfig) -> None:
        code, is_point = _job(composed_config, overrides)
        if code and (not is_point or code > _INTERRUPTED):  # the other points of a sweep go on after a failure
            raise SystemExit(code)

    kept = [word for word in sys.argv[1:] if word not in overrides and word != "--trust"]
    sys.argv[1:] = [*kept, *lenient(overrides), *_sweep_folder(overrides, flags), *_quiet(overrides)]
    with contextlib.suppress(ImportError):  # without hydra-submitit-launcher there is no launcher=slurm
        from rdtrain.slurm import take_over

        take_over()
    try:
        hydra.main("pkg://rdtrain.conf", config_name=_root(overrides, flags), version_base="1.3")(job)()
    except (ConfigCompositionException, MissingConfigException) as error:  # such as several values without -m
        raise SystemExit(report([" ".join(str(error).split())])) from error


def _share_config_store() -> None:
    # Hydra 1.3.8 copies its repository of configurations, with all that plugins have stored, for each group that --help
    # lists: half of its time. The store is one for the whole process, and who loads from it gets a copy.
    from hydra.core.config_store import ConfigStore

    ConfigStore.__deepcopy__ = lambda self, memo: self


def split_arguments(arguments: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Tell Hydra's flags from overrides.

    Args:
        arguments: the command line without the program's name.

    Returns:
        Flags by their long names with their values (empty where they take none), and the overrides.
    """
    flags: dict[str, str] = {}
    overrides: list[str] = []
    rest = iter(arguments)
    for argument in rest:
        name, equals, value = argument.partition("=")
        name = _SHORT.get(name, name)
        if not argument.startswith("-"):
            overrides.append(argument)
        elif name in _VALUED_FLAGS and not equals:
            flags[name] = next(rest, "")
        else:
            flags[name] = value
    return flags, overrides


def flag_problems(flags: dict[str, str]) -> list[str]:
    """Find flags that do not exist or are not followed; an abbreviation is one that does not exist.

    Args:
        flags: of `split_arguments`.

    Returns:
        One sentence for every mistake.
    """
    from rdtrain.config.nearest import suggestion

    problems = [f"{flag}: {_REFUSED[flag]}" for flag in flags if flag in _REFUSED]
    problems += [f"{flag} does not exist: {suggestion(flag, _FLAGS)}" for flag in flags if flag not in _FLAGS]
    return problems + [f"{flag} needs a value" for flag in _VALUED_FLAGS if flags.get(flag) == ""]


def trust_problems(overrides: Sequence[str], flags: dict[str, str]) -> list[str]:
    """Find what the configurations of a folder may not do without `--trust`, before Hydra looks at them.

    Args:
        overrides: what was typed, sweeps included.
        flags: of `split_arguments`.

    Returns:
        One sentence for every mistake.
    """
    if "--config-dir" not in flags:
        return []
    from rdtrain.config.compose import folder_problems, foreign_problems

    folder, name = flags["--config-dir"], _root(overrides, flags)
    problems = folder_problems(name, folder)
    if problems or "--trust" in flags:
        return problems
    return foreign_problems([*overrides, *_quiet(overrides)], name, folder)


def check_overrides(overrides: Sequence[str], flags: dict[str, str]) -> list[str]:
    """Find everything that is wrong with a command line before anything is created.

    Only where something is wrong, the checks that need torch and the data are run too, so that all
    mistakes are told at once.

    Args:
        overrides: what was typed, sweeps included.
        flags: of `split_arguments`.

    Returns:
        One sentence for every mistake.
    """
    from rdtrain.config.check import check
    from rdtrain.config.compose import composed_each, points
    from rdtrain.config.tasks import program_of

    name, folder = _root(overrides, flags), flags.get("--config-dir")
    problems: list[str] = []
    try:
        every = points(overrides)
    except UserError as error:
        return error.problems
    for raw, found in composed_each(every, name, folder):
        if raw is not None:
            found += check(raw)[1]
        if found and raw is not None:
            found += program_of(raw).problems(raw)
        problems += [problem for problem in found if problem not in problems]
    return problems


def report(problems: Sequence[str]) -> int:
    """Print mistakes, one a line; values in them may be long or hold what a terminal would obey.

    Args:
        problems: one sentence each.

    Returns:
        The exit code, 2.
    """
    for problem in problems:
        shown = problem if len(problem) <= _LONGEST else f"{problem[:_HEAD]} ... {problem[-_HEAD:]}"
        print("rdtrain:", "".join(c if c.isprintable() else repr(c)[1:-1] for c in shown), file=sys.stderr)
    return 2


def _quiet(overrides: Sequence[str]) -> list[str]:
    typed = [text.lstrip("+").split("=", 1)[0] for text in overrides]
    return [setting for setting in _QUIET_HYDRA if setting.split("=", 1)[0] not in typed]


def _root(overrides: Sequence[str], flags: dict[str, str]) -> str:
    return flags.get("--config-name") or root_of(overrides)


def _sweep_folder(overrides: Sequence[str], flags: dict[str, str]) -> list[str]:
    # The points of a sweep lie in a folder of their own, the same one when there come more of them.
    from rdtrain.config.compose import composed, points
    from rdtrain.config.schema import INCIDENTAL, SEARCH_LENGTH

    root, folder = _root(overrides, flags), flags.get("--config-dir")
    search = any(text.startswith("search=") for text in overrides)
    if not search and not flags.keys() & {"-m", "--multirun"}:
        return []
    raw, _ = composed(points(overrides)[0], root, folder)
    if raw is None or raw["paths"]["runs"] != _DEFAULT_RUNS:
        return []
    length = [f"search.{key}=" for key in SEARCH_LENGTH]
    free = (*INCIDENTAL, "hydra", *(length if search else _AXES))
    common = sorted(text.lstrip("+") for text in overrides if not text.lstrip("+~").startswith(free))
    told = [root, None if folder is None else str(Path(folder).resolve()), common]
    return [f"++paths.runs={_DEFAULT_RUNS}/sweep-{hashlib.sha256(repr(told).encode()).hexdigest()[:8]}"]


def _job(composed_config: DictConfig, overrides: Sequence[str]) -> tuple[int, bool]:
    # The exit code, and whether this is a point of a sweep.
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode
    from omegaconf import OmegaConf

    from rdtrain.quiet import silence_libraries

    silence_libraries()
    composed = cast(dict[str, Any], OmegaConf.to_container(composed_config, resolve=True))
    hydra = HydraConfig.get()
    if hydra.mode != RunMode.MULTIRUN:
        return exit_code(lambda: _run(composed, overrides)), False
    from rdtrain.run_folder import runs_root
    from rdtrain.sweep.job import run_job
    from rdtrain.sweep.planning import is_planned

    own, folder = list(hydra.overrides.task), runs_root(composed["paths"]["runs"])
    if is_planned(hydra):
        work = partial(run_job, folder, hydra.job.name, lambda raw: _run(raw, own))
    else:  # another sweeper makes points as it goes
        work = partial(_run, composed, own)
    try:
        return exit_code(work), True
    except Exception:  # a fault of ours; the other points go on
        traceback.print_exc()
        return 1, True


def _run(raw: dict[str, Any], overrides: Sequence[str]) -> None:
    from rdtrain.config.check import check
    from rdtrain.config.tasks import program_of

    config, problems = check(raw)
    if config is None:
        raise UserError(problems)
    program_of(raw).run(config, overrides)


def exit_code(work: Callable[[], object]) -> int:
    """Do something, and say what a shell is to be told about how it ended.

    Args:
        work: what is to be done.

    Returns:
        0, 2 for a mistake of the user, 128 plus its number after a signal.

    Raises:
        OSError: a fault of ours; all others are let through as well.
    """
    try:
        work()
    except UserError as error:
        return report(error.problems)
    except OSError as error:  # no permission, no room, no such name
        if error.filename is None:
            raise
        return report([f"{error.filename}: {error.strerror}"])
    except KeyboardInterrupt as error:
        what_next = getattr(error, "what_next", "continues where it stopped")
        print(f"interrupted; the same command {what_next}", file=sys.stderr)
        return _INTERRUPTED + getattr(error, "signum", signal.SIGINT)
    return 0
