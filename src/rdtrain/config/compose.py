"""Compose a configuration the way Hydra will, but collect every mistake instead of stopping at the first."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from importlib.resources import files
from itertools import islice
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir, initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from rdtrain.config.nearest import known_keys, suggestion
from rdtrain.config.shared import SharedComposition
from rdtrain.config.trust import choices, launcher_of, untrusted
from rdtrain.errors import UserError

# What Hydra raises over a wrong configuration; ValueError, KeyError and TypeError among it, for a value of a type that
# it does not expect or an environment variable that is not set.
_WRONG = (
    HydraException, OmegaConfBaseException, YAMLError, OSError, ValueError, KeyError, TypeError, AttributeError,
    RecursionError,
)  # fmt: skip
_MOST_POINTS = 1000  # of one sweep; a slip of the keyboard makes more


_AS_THEY_ARE = ("hp", "optimizer", "scheduler", "callbacks", "logger", "runner", "paths")


def composed(
    overrides: Sequence[str], config_name: str = "train", config_dir: str | None = None
) -> tuple[dict[str, Any] | None, list[str]]:
    """Compose the configuration tree with what was typed.

    A key that does not exist is added, for `rdtrain.config.check` to name.

    Args:
        overrides: `group=option`, `key=value`, `++key=value` and so on.
        config_name: the root configuration.
        config_dir: a folder with more configurations, such as a run folder.

    Returns:
        Plain containers with all interpolations resolved (None where that is impossible) and one sentence
        for every mistake.
    """
    return composed_each([overrides], config_name, config_dir)[0]


def composed_each(
    points: Sequence[Sequence[str]], config_name: str = "train", config_dir: str | None = None
) -> list[tuple[dict[str, Any] | None, list[str]]]:
    """Compose several configurations, those that differ in values only from one composition.

    Args:
        points: overrides of each.
        config_name: the root configuration.
        config_dir: a folder with more configurations; with one, each is composed from the beginning.

    Returns:
        For each what `composed` returns.
    """
    wrong = folder_problems(config_name, config_dir)
    with _search(config_name, None if wrong else config_dir) as search:
        options = cache(_options)
        compose_shared = SharedComposition(
            lambda chosen: compose(config_name, overrides=[*search, *chosen]),
            lambda key: bool(search) or bool(options(key)),
        )
        return [_composed(overrides, wrong, config_dir, options, compose_shared) for overrides in points]


def _composed(
    overrides: Sequence[str],
    wrong: Sequence[str],
    config_dir: str | None,
    options: Callable[[str], list[str]],
    compose_shared: SharedComposition,
) -> tuple[dict[str, Any] | None, list[str]]:
    parsed, problems = _parse(overrides)
    problems += wrong
    if config_dir is not None and problems:
        return None, problems
    good = []
    for override in parsed:
        problem = _group_problem(override, options)
        problems += [problem] if problem else []
        good += [] if problem else [_lenient(override, options)]
    try:
        return _plain(compose_shared(good)), problems
    except _WRONG as error:
        return None, [*problems, _reason(error)]


def completed(raw: dict[str, Any]) -> dict[str, Any]:
    """Give the configuration of an older run the keys that have come since, with their defaults.

    Args:
        raw: of a run folder.

    Returns:
        The same with more keys; sections that name a class of another library keep exactly what they had.
    """
    defaults, _ = composed(())
    return _filled(raw, {key: value for key, value in (defaults or {}).items() if key not in _AS_THEY_ARE})


def _filled(raw: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    result = {**defaults, **raw}
    for key, value in defaults.items():
        if isinstance(value, dict) and isinstance(raw.get(key), dict):
            result[key] = _filled(raw[key], value)
    return result


def folder_problems(config_name: str, config_dir: str | None) -> list[str]:
    """What is wrong with a folder of configurations, before anything in it is composed.

    Args:
        config_name: the root configuration.
        config_dir: the folder, None for none.

    Returns:
        One sentence for every mistake.
    """
    if config_dir is None:
        return []
    folder = Path(config_dir)
    try:
        if not folder.is_dir():
            return [f"--config-dir {config_dir}: there is no such folder"]
        root = _root_file(folder, config_name)
        path = OmegaConf.select(OmegaConf.load(root), "hydra.searchpath") if root.is_file() else None
    except _WRONG as error:
        return [f"--config-dir {config_dir}: {_reason(error)}"]
    if path is None:
        return []
    return [f"{root}: hydra.searchpath={path} is not followed; put the files into one folder for --config-dir"]


def foreign_problems(overrides: Sequence[str], config_name: str, config_dir: str) -> list[str]:
    """What a folder's configurations would do beyond giving values, see `rdtrain.config.trust`.

    Args:
        overrides: what was typed, of which only the choices of groups count.
        config_name: the root configuration.
        config_dir: the folder.

    Returns:
        One sentence for every mistake; none where the configuration cannot be composed, which `composed` tells.
    """
    found: dict[str, None] = {}
    launcher = _typed_launcher(overrides)
    with _search(config_name, config_dir) as search:
        chosen = [o for o in _parse(overrides)[0] if not o.is_delete() and _options(o.key_or_group)]
        groups = [_values(override) for override in chosen]
        if math.prod(map(len, groups)) > _MOST_POINTS:
            return [f"--config-dir {config_dir}: more than {_MOST_POINTS} combinations of groups; type fewer"]
        for choice in choices(groups):
            try:
                config = compose(config_name, overrides=[*search, *choice], return_hydra_config=True)
                found |= dict.fromkeys(untrusted(_plain(OmegaConf.to_container(config, resolve=False)), launcher))
            except _WRONG:
                continue
    remedy = "if you trust whoever wrote it, type --trust"
    return [f"--config-dir {config_dir}: {phrase}; {remedy}" for phrase in found]


def _typed_launcher(overrides: Sequence[str]) -> list[Any] | None:
    typed = [text.lstrip("+") for text in overrides if text.lstrip("+").startswith("launcher=")]
    with initialize_config_module("rdtrain.conf", version_base="1.3"):
        try:
            config = compose("train", overrides=typed, return_hydra_config=True)
        except _WRONG:  # `composed` tells
            return None
    return launcher_of(_plain(OmegaConf.to_container(config, resolve=False)))


def points(overrides: Sequence[str]) -> list[list[str]]:
    """One override list for every value of every sweep, the others at their first values.

    Args:
        overrides: what was typed; `key=1,2,3` and `key=range(1,4)` are sweeps.

    Returns:
        Override lists without sweeps; the overrides themselves where there is none.

    Raises:
        UserError: a sweep has too many values.
    """
    typed = []
    with initialize_config_module("rdtrain.conf", version_base="1.3"):  # for glob(*), which asks for options
        parser = OverridesParser.create(GlobalHydra.instance().config_loader())
        for text in overrides:
            try:
                typed.append(_values(parser.parse_overrides([text])[0]) or [text])
            except (HydraException, ValueError, RecursionError):  # `composed` tells
                typed.append([text])
            if len(typed[-1]) > _MOST_POINTS:
                raise UserError(f"{text}: more than {_MOST_POINTS} values; type fewer")
    first = [values[0] for values in typed]
    others = [[*first[:i], value, *first[i + 1 :]] for i, values in enumerate(typed) for value in values[1:]]
    return [first, *others]


def _values(override: Override) -> list[str]:
    # One override for every value of a sweep, but not many more than are allowed.
    text = override.input_line or ""
    if not override.is_sweep_override() or not (override.is_choice_sweep() or override.is_range_sweep()):
        return [text]
    head = text.split("=", 1)[0]
    return [f"{head}={value}" for value in islice(override.sweep_string_iterator(), _MOST_POINTS + 1)]


@contextmanager
def _search(config_name: str, config_dir: str | None) -> Iterator[list[str]]:
    # Both places to look in, the one with the root configuration first: Hydra's compose finds a root nowhere else.
    # Of two files with one name Hydra takes rdtrain's.
    folder = None if config_dir is None else Path(config_dir).resolve()
    if folder is not None and _root_file(folder, config_name).is_file() and not _is_ours(config_name):
        with _job_aside(), initialize_config_dir(str(folder), version_base="1.3"):
            yield ["hydra.searchpath=[pkg://rdtrain.conf]"]
    else:
        with _job_aside(), initialize_config_module("rdtrain.conf", version_base="1.3"):
            yield [] if folder is None else [f"hydra.searchpath=[file://{folder}]"]


@contextmanager
def _job_aside() -> Iterator[None]:
    # Hydra is one a process, and in a job, which may read other runs' configurations, it is the job's.
    instance = GlobalHydra.instance()
    own, instance.hydra = instance.hydra, None
    try:
        yield
    finally:
        instance.hydra = own


def lenient(overrides: Sequence[str]) -> list[str]:
    """Overrides that Hydra accepts whether or not their keys exist; `rdtrain.config.check` judges the keys.

    Args:
        overrides: what was typed, without mistakes in its grammar.

    Returns:
        `key=value` as `++key=value`; group choices and deletions as they are.
    """
    parsed, _ = _parse(overrides)
    with initialize_config_module("rdtrain.conf", version_base="1.3"):
        return [_lenient(override, _options) for override in parsed]


def _root_file(folder: Path, config_name: str) -> Path:
    return folder / (config_name.removesuffix(".yaml") + ".yaml")


def _is_ours(config_name: str) -> bool:
    return _root_file(Path(str(files("rdtrain.conf"))), config_name).is_file()


def _parse(overrides: Sequence[str]) -> tuple[list[Override], list[str]]:
    loader = GlobalHydra.instance().config_loader() if GlobalHydra.instance().is_initialized() else None
    parser, parsed, problems = OverridesParser.create(loader), [], []
    for text in overrides:
        try:
            override = parser.parse_overrides([text])[0]
            _values(override)
        except (HydraException, ValueError, RecursionError):
            override = None
        if override is None or not override.key_or_group:
            problems.append(f"{text!r} is not understood: type key=value, or quote the value as 'key=\"value\"'")
        elif override.key_or_group == "hydra.searchpath":
            problems.append(f"{text} is not followed: type --config-dir FOLDER")
        else:
            parsed.append(override)
    return parsed, problems


def _options(group: str) -> list[str]:
    try:
        return GlobalHydra.instance().config_loader().get_group_options(group)
    except (OSError, ValueError):  # no name of a folder
        return []


def _is_hydras(key: str) -> bool:
    return key == "hydra" or key.startswith(("hydra.", "hydra/"))


def _group_problem(override: Override, options_of: Callable[[str], list[str]]) -> str | None:
    key = override.key_or_group
    if key.startswith("hydra.") or override.is_delete() or not (options := options_of(key)):
        return None
    if override.is_force_add():
        return f"++{key}: an option of a group is chosen without ++; type {key}={options[0]}"
    wanted = override.value()
    for name in wanted if isinstance(wanted, list) and wanted else [wanted]:
        folder = str(name).rpartition("/")[0]
        inner = [f"{folder}/{option}" for option in options_of(f"{key}/{folder}")] if folder else options
        if name not in inner:
            return f"{key}={name}: there is no such option; {suggestion(str(name), inner or options)}"
    return None


def _reason(error: BaseException) -> str:
    # One sentence for what Hydra says, with the key that it is about and what to type.
    said = (str(error) or type(error).__name__).splitlines()[0]
    if said.startswith("Error merging") and error.__cause__ is not None:
        said += f": {str(error.__cause__).splitlines()[0]}"
    if isinstance(error, YAMLError):
        said = "no YAML: " + " ".join(str(error).split())
    key = getattr(error, "full_key", None)
    said = f"{key}: {said}; type a value" if key else said
    if named := re.search(r"(?:Interpolation key '|delete from config\. '|Could not override ')([^']+)'", said):
        name = named[1]
        if _is_hydras(name):
            return f"{said.rstrip('.')}; rdtrain --cfg hydra shows the keys of Hydra"
        if name in known_keys():
            return f"{said.rstrip('.')}: {name} is null or not there"
        return f"{said.rstrip('.')}; {suggestion(name, known_keys())}"
    if named := re.search(r"Could not (?:find|load) 'hydra/launcher/(?:submitit_)?(\w+)'", said):
        return f"launcher={named[1]} needs a package: type pip install '.[{named[1]}]' in rdtrain's folder"
    if named := re.match(r"Multiple values for (\S+)\.", said):
        return f"+{named[1]}: this group has an option already; type {named[1]}=OPTION"
    return said


def _lenient(override: Override, options_of: Callable[[str], list[str]]) -> str:
    # Hydra accepts the result whether or not the key exists.
    text = override.input_line or ""
    if override.is_delete() or _is_hydras(override.key_or_group) or options_of(override.key_or_group):
        return text
    return "++" + text.lstrip("+")


def _plain(container: Any) -> dict[str, Any]:
    return {str(key): value for key, value in container.items()}
