"""Which runs belong to one curve, and what to call it.

Runs that differ only in lambda and seed are points of one curve. Any other difference in what was trained makes two
curves; their names say it when model, convolutions and loss do not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from rdtrain.config import schema
from rdtrain.report.runs import Run

# Settings that change neither what is trained nor how it is measured.
_RUNTIME = ("engine.device", "engine.threads", "dataset.workers", "dataset.cache_mb")
_INCIDENTAL = ("seed", "hydra", *_RUNTIME, *schema.INCIDENTAL)
# Settings that the base name says already.
_NAMED = ("model.name", "criterion.metric", "conv.type", "conv.transform", "conv.switch.trigger", "conv.switch.at")
# Settings that follow lambda in a sweep over qualities.
_WITH_LMBDA = ("model.quality", "hp")


def conv_name(run: Run) -> str:
    """How a run's convolutions were stored.

    Args:
        run: the run.

    Returns:
        `plain`, or `spectral` with the transform where it is not rfft, and until when.
    """
    if run.setting("conv.type", "plain") == "plain":
        return "plain"
    transform = run.setting("conv.transform", "rfft")
    trigger = run.setting("conv.switch.trigger", "never")
    kind = "spectral" if transform == "rfft" else f"spectral ({transform})"
    until = f"epoch {run.setting('conv.switch.at')}" if trigger == "epoch" else trigger
    return kind if trigger == "never" else f"{kind} until {until}"


def curve_names(runs: Sequence[Run]) -> dict[Path, str]:
    """Put runs together into curves.

    Args:
        runs: the runs.

    Returns:
        For each run's folder the name of its curve: convolutions; model and loss where not all runs have the same; and
        the settings that tell it from another curve with the same model, convolutions and loss.
    """
    groups: dict[str, list[Run]] = {}
    parts = _telling_parts(runs)
    for run in runs:
        groups.setdefault(", ".join(part(run) for part in parts), []).append(run)
    names = {}
    for base, members in groups.items():
        keys = differing_keys(members)
        for run in members:
            settings = _flat(run)
            names[run.folder] = ", ".join([base, *(f"{_short(key)} {settings.get(key)}" for key in keys)])
    return {run.folder: names[run.folder] for run in runs}


def _telling_parts(runs: Sequence[Run]) -> list[Callable[[Run], str]]:
    # Of the base name: convolutions, and model and loss where not all runs have the same.
    def told_apart(part: Callable[[Run], str]) -> list[Callable[[Run], str]]:
        return [part] if len(set(map(part, runs))) > 1 else []

    return [*told_apart(_model), conv_name, *told_apart(lambda run: f"trained for {run.metric}")]


def _model(run: Run) -> str:
    return str(run.setting("model.name", "model"))


def _short(key: str) -> str:
    return ".".join(key.split(".")[-2:])


def model_title(runs: Sequence[Run]) -> str:
    """What a figure of some runs is about.

    Args:
        runs: the runs.

    Returns:
        Their models, with N and M where all runs of a model have the same.
    """
    channels: dict[str, set[str]] = {}
    for run in runs:
        sizes = [f"{name} = {value}" for name, value in (run.setting("hp") or {}).items() if value is not None]
        channels.setdefault(_model(run), set()).add(", ".join(sizes))
    return "; ".join(f"{name} ({min(hp)})" if len(hp) == 1 and min(hp) else name for name, hp in channels.items())


def differing_keys(runs: Sequence[Run]) -> list[str]:
    """The settings in which runs differ, beside lambda, seed and what follows them.

    Args:
        runs: the runs.

    Returns:
        Dotted keys, sorted.
    """
    flats = [_flat(run) for run in runs]
    keys = sorted(set().union(*flats)) if flats else []
    return [key for key in keys if not _same(key, runs, flats)]


def _same(key: str, runs: Sequence[Run], flats: Sequence[dict[str, Any]]) -> bool:
    if _is_under(key, (*_INCIDENTAL, *_NAMED, "criterion.lmbda")):
        return True
    follows_lmbda = _is_under(key, _WITH_LMBDA)
    values: dict[float, set[str]] = {}
    for run, flat in zip(runs, flats, strict=True):
        values.setdefault(run.lmbda if follows_lmbda else 0.0, set()).add(repr(flat.get(key)))
    return all(len(distinct) == 1 for distinct in values.values())


def _is_under(key: str, prefixes: Sequence[str]) -> bool:
    return any(key == prefix or key.startswith(f"{prefix}.") for prefix in prefixes)


def _flat(run: Run) -> dict[str, Any]:
    return dict(_leaves(run.config, ""))


def _leaves(node: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    if isinstance(node, dict) and node:
        for key, value in node.items():
            yield from _leaves(value, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, node


def settings_table(runs: Sequence[Run], names: dict[Path, str]) -> tuple[list[str], list[list[str]]]:
    """What tells the curves apart: every setting in which they differ.

    Args:
        runs: the runs.
        names: of `curve_names`.

    Returns:
        The header (`setting`, then the curves) and one row a setting; no rows when nothing differs.
    """
    curves = list(dict.fromkeys(names.values()))
    first = {curve: next(_flat(run) for run in runs if names[run.folder] == curve) for curve in curves}
    keys = sorted(
        {*differing_keys(runs), *(key for key in _NAMED if len({repr(f.get(key)) for f in first.values()}) > 1)}
    )
    return ["setting", *curves], [[key, *(str(first[curve].get(key)) for curve in curves)] for key in keys]
