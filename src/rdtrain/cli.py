"""The command `rdtrain`. Nothing heavy is imported before the configuration is known to be right."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

from rdtrain.errors import UserError

if TYPE_CHECKING:
    from omegaconf import DictConfig

_INTERRUPTED = 130  # 128 + SIGINT, as shells have it
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
_VALUED_FLAGS = (
    "--config-dir",
    "-cd",
    "--config-name",
    "-cn",
    "--config-path",
    "-cp",
    "--package",
    "-p",
    "--cfg",
    "-c",
)


def main() -> None:
    """Entry point of `rdtrain`.

    Raises:
        SystemExit: 2 for a mistake of the user, 130 after Ctrl-C, 1 for a fault of ours.
    """
    flags, overrides = split_arguments(sys.argv[1:])
    if not flags.keys() & {"--help", "-h", "--hydra-help", "--version", "--info", "-i"}:
        problems = check_overrides(overrides, flags)
        if problems:
            raise SystemExit(report(problems))
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # a fault of ours shows its whole traceback
    import hydra

    from rdtrain.config.compose import lenient

    failed: list[int] = []

    def job(composed_config: DictConfig) -> None:
        code = _train(composed_config, overrides)
        if code == _INTERRUPTED:
            raise SystemExit(code)
        if code:
            failed.append(code)  # the other points of a sweep go on

    kept = [word for word in sys.argv[1:] if word not in overrides]
    quiet = [setting for setting in _QUIET_HYDRA if not _typed(setting, overrides)]
    sys.argv[1:] = [*kept, *lenient(overrides), *quiet]
    hydra.main("pkg://rdtrain.conf", config_name="train", version_base="1.3")(job)()
    if failed:
        raise SystemExit(failed[0])


def split_arguments(arguments: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Tell Hydra's flags from overrides.

    Args:
        arguments: the command line without the program's name.

    Returns:
        Flags with their values (empty where they take none), and the overrides.
    """
    flags: dict[str, str] = {}
    overrides: list[str] = []
    rest = iter(arguments)
    for argument in rest:
        name, equals, value = argument.partition("=")
        if not argument.startswith("-"):
            overrides.append(argument)
        elif name in _VALUED_FLAGS and not equals:
            flags[name] = next(rest, "")
        else:
            flags[name] = value
    return flags, overrides


def check_overrides(overrides: Sequence[str], flags: dict[str, str]) -> list[str]:
    """Find everything that is wrong with a command line before anything is created.

    Only where something is wrong, the checks that need torch and the data are run too, so that all
    mistakes are told at once.

    Args:
        overrides: what was typed, sweeps included.
        flags: Hydra's flags.

    Returns:
        One sentence for every mistake.
    """
    from rdtrain.config.check import check
    from rdtrain.config.compose import composed, points

    name = flags.get("--config-name", flags.get("-cn", "train"))
    folder = flags.get("--config-dir", flags.get("-cd"))
    problems: list[str] = []
    for point in points(overrides):
        raw, found = composed(point, name, folder)
        if raw is not None:
            found += check(raw)[1]
        if found and raw is not None:
            found += _deeper_problems(raw)
        problems += [problem for problem in found if problem not in problems]
    return problems


def _deeper_problems(raw: dict[str, Any]) -> list[str]:
    from pydantic import ValidationError

    from rdtrain.config.schema import Dataset
    from rdtrain.data.inventory import take_inventory
    from rdtrain.preflight import problems

    try:
        return problems(raw) + take_inventory(Dataset.model_validate(raw.get("dataset")))[1]
    except ValidationError:
        return problems(raw)


def report(problems: Sequence[str]) -> int:
    """Print mistakes, one a line.

    Args:
        problems: one sentence each.

    Returns:
        The exit code, 2.
    """
    for problem in problems:
        print(f"rdtrain: {problem}", file=sys.stderr)
    return 2


def _typed(setting: str, overrides: Sequence[str]) -> bool:
    return any(text.lstrip("+").split("=", 1)[0] == setting.split("=", 1)[0] for text in overrides)


def _train(composed_config: DictConfig, overrides: Sequence[str]) -> int:
    from omegaconf import OmegaConf

    from rdtrain.config.check import check
    from rdtrain.quiet import silence_libraries

    silence_libraries()
    from rdtrain.train import train

    config, problems = check(cast(dict[str, Any], OmegaConf.to_container(composed_config, resolve=True)))
    try:
        if config is None:
            raise UserError(problems)
        train(config, overrides)
    except UserError as error:
        return report(error.problems)
    except KeyboardInterrupt:
        print("interrupted; the same command continues from the last epoch", file=sys.stderr)
        return _INTERRUPTED
    return 0
