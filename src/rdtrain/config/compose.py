"""Compose a configuration the way Hydra will, but collect every mistake instead of stopping at the first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir, initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rdtrain.config.nearest import suggestion


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
    parsed, problems = _parse(overrides)
    if config_dir is not None and not Path(config_dir).is_dir():
        return None, [*problems, f"--config-dir {config_dir}: there is no such folder"]
    with _search(config_name, config_dir) as search:
        good = []
        for override in parsed:
            problem = _group_problem(override)
            problems += [problem] if problem else []
            good += [] if problem else [_lenient(override)]
        try:
            config = compose(config_name, overrides=[*search, *good])
            return _plain(OmegaConf.to_container(config, resolve=True)), problems
        except (HydraException, OmegaConfBaseException, ValueError) as error:  # Hydra raises ValueError for group=null
            return None, [*problems, str(error).splitlines()[0]]


def points(overrides: Sequence[str]) -> list[list[str]]:
    """One override list for every value of every sweep, the others at their first values.

    Args:
        overrides: what was typed; `key=1,2,3` and `key=range(1,4)` are sweeps.

    Returns:
        Override lists without sweeps; the overrides themselves where there is none.
    """
    parser, choices = OverridesParser.create(), []
    for text in overrides:
        try:
            override = parser.parse_override(text)
            sweep = override.is_sweep_override()
        except HydraException:
            sweep = False
        head = text.split("=", 1)[0]
        choices.append([f"{head}={value}" for value in override.sweep_string_iterator()] if sweep else [text])
    first = [values[0] for values in choices]
    others = [[*first[:i], value, *first[i + 1 :]] for i, values in enumerate(choices) for value in values[1:]]
    return [first, *others]


@contextmanager
def _search(config_name: str, config_dir: str | None) -> Iterator[list[str]]:
    # Both places to look in, the one with the root configuration first: Hydra's compose finds a root nowhere else.
    folder = None if config_dir is None else Path(config_dir).resolve()
    if folder is not None and (folder / f"{config_name}.yaml").is_file():
        with initialize_config_dir(str(folder), version_base="1.3"):
            yield ["hydra.searchpath=[pkg://rdtrain.conf]"]
    else:
        with initialize_config_module("rdtrain.conf", version_base="1.3"):
            yield [] if folder is None else [f"hydra.searchpath=[file://{folder}]"]


def lenient(overrides: Sequence[str]) -> list[str]:
    """Overrides that Hydra accepts whether or not their keys exist; `rdtrain.config.check` judges the keys.

    Args:
        overrides: what was typed, without mistakes in its grammar.

    Returns:
        `key=value` as `++key=value`; group choices and deletions as they are.
    """
    parsed, _ = _parse(overrides)
    with initialize_config_module("rdtrain.conf", version_base="1.3"):
        return [_lenient(override) for override in parsed]


def _parse(overrides: Sequence[str]) -> tuple[list[Override], list[str]]:
    parser, parsed, problems = OverridesParser.create(), [], []
    for text in overrides:
        try:
            parsed.append(parser.parse_override(text))
        except HydraException:
            problems.append(f"{text!r} is not understood: type key=value, or quote the value as 'key=\"value\"'")
    return parsed, problems


def _options(group: str) -> list[str]:
    return GlobalHydra.instance().config_loader().get_group_options(group)


def _group_problem(override: Override) -> str | None:
    key = override.key_or_group
    if key.startswith("hydra") or override.is_delete() or not (options := _options(key)):
        return None
    wanted = override.value()
    if not isinstance(wanted, str) or wanted in options:
        return None
    return f"{key}={wanted}: there is no such option; {suggestion(wanted, options)}"


def _lenient(override: Override) -> str:
    # Hydra accepts the result whether or not the key exists.
    text = override.input_line or ""
    if override.is_delete() or override.key_or_group.startswith("hydra") or _options(override.key_or_group):
        return text
    return "++" + text.lstrip("+")


def _plain(container: Any) -> dict[str, Any]:
    return {str(key): value for key, value in container.items()}
