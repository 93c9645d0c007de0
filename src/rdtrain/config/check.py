"""A composed configuration becomes a `Config`, or a list of everything that is wrong with it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError

from rdtrain.config.nearest import known_keys, suggestion
from rdtrain.config.schema import Config
from rdtrain.config.tasks import schema_of
from rdtrain.metrics import METRICS

_SHOWN = 200  # characters of a wrong value
_CHOSEN = ("launcher", "search")  # sections whose keys depend on the option that is chosen


def check(raw: dict[str, Any]) -> tuple[Any, list[str]]:
    """Check types, ranges and keys.

    Args:
        raw: composed configuration as plain containers, of any task.

    Returns:
        The configuration (None where anything is wrong) and one sentence for every mistake.
    """
    schema = schema_of(raw)
    try:
        config = schema.model_validate(raw)
    except ValidationError as error:
        return None, _problems(error, known_keys(schema))
    problems = cross_check(config) if isinstance(config, Config) else []
    return (None if problems else config), problems


def _problems(error: ValidationError, known: Sequence[str]) -> list[str]:
    sentences: dict[str, str] = {}  # one a key: a union reports each of its members
    for item in error.errors():
        if item["type"] == "extra_forbidden":
            unknown = _leaves(_key(item["loc"]), item["input"])
            sentences |= {key: _unknown(key, known) for key in unknown}
            continue
        key = _key(item["loc"])
        sentence = _sentence(key, item)
        if key in sentences and sentences[key] != sentence:
            sentence = sentences[key].rstrip(".") + ", or " + sentence.split(": ", 1)[-1]
        sentences[key] = sentence
    return list(sentences.values())


def _key(place: Sequence[int | str]) -> str:
    # pydantic names the member of a union too: a type, or the launcher or search that was chosen.
    parts = [*place[:1], *(place[2:] if place[0] in _CHOSEN else place[1:])]
    return ".".join(str(part) for part in parts if part not in ("int", "float") and "[" not in str(part))


def _unknown(key: str, known: Sequence[str]) -> str:
    if key in known:
        group = key.split(".")[0]
        return f"{key} does not go with the {group} that is chosen; rdtrain --help lists the options of {group}="
    return f"{key} does not exist: {suggestion(key, known)}"


def _sentence(key: str, item: Any) -> str:
    if item["type"] == "missing":
        return f"{key} is missing: give {key}=..."
    message = item["msg"].removeprefix("Value error, ").removeprefix("Input ").removeprefix("String ")
    return f"{key}={str(item['input'])[:_SHOWN]}: {message}"


def _leaves(key: str, value: Any) -> list[str]:
    if not isinstance(value, dict) or not value:
        return [key]
    return [leaf for name, item in value.items() for leaf in _leaves(f"{key}.{name}", item)]


def section(kind: type[Any], raw: Any) -> Any:
    """Read a part of a configuration that may be wrong elsewhere.

    Args:
        kind: its schema.
        raw: plain containers.

    Returns:
        The part, or None where it is wrong itself, which `check` tells.
    """
    try:
        return kind.model_validate(raw)
    except ValidationError:
        return None


def cross_check(config: Config) -> list[str]:
    """What each key allows and several together do not.

    Args:
        config: a configuration whose keys are right one by one.

    Returns:
        One sentence for every mistake.
    """
    problems = [*_monitor_problems(config), *_switch_problems(config)]
    if config.engine.distributed and config.launcher.name != "local":
        problems.append(
            f"engine=ddp does not go with launcher={config.launcher.name}, whose jobs are one process each; "
            "type torchrun --nproc-per-node N -m rdtrain engine=ddp ... with launcher=local"
        )
    if config.criterion.metric == "ms-ssim" and config.dataset.patch_size <= 160:
        problems.append(
            f"dataset.patch_size={config.dataset.patch_size}: MS-SSIM with its five scales needs a side above 160; "
            "type dataset.patch_size=256"
        )
    search = config.search
    if (
        search is not None
        and search.name == "target_bpp"
        and config.criterion.metric == "ms-ssim"
        and search.lmbda[1] <= 1
    ):
        problems.append(
            f"search.lmbda={list(search.lmbda)} is for criterion.metric=mse; with ms-ssim type search.lmbda=[0.3,500]"
        )
    if config.launcher.name == "ray" and config.engine.device == "cuda" and not config.launcher.gpus:
        problems.append(
            "launcher.gpus=0.0: Ray shows a job the GPUs that it asks for; with engine.device=cuda type launcher.gpus=1"
        )
    if config.dataset.infer_name is not None and config.dataset.infer_root is None:
        problems.append(f"dataset.infer_name={config.dataset.infer_name} needs its folder: type dataset.infer_root=DIR")
    return problems


def _monitor_problems(config: Config) -> list[str]:
    loader, _, name = config.runner.monitor.partition("/")
    known = [f"{where}/{metric.name}" for metric in METRICS.values() for where in metric.loaders]
    if f"{loader}/{name}" not in known:
        return [f"runner.monitor={config.runner.monitor}: no such metric; {suggestion(config.runner.monitor, known)}"]
    if loader == "infer" and config.infer.every_n_epochs != 1:
        return [f"runner.monitor={config.runner.monitor} is needed after every epoch: type infer.every_n_epochs=1"]
    return []


def _switch_problems(config: Config) -> list[str]:
    switch, epochs = config.conv.switch, config.engine.num_epochs
    if (switch.trigger == "epoch") != (switch.at is not None):
        return ["conv.switch.trigger=epoch and conv.switch.at=N belong together: type both or neither"]
    if switch.lead and switch.trigger != "plateau":
        return [f"conv.switch.lead={switch.lead} goes with conv.switch.trigger=plateau only"]
    if config.conv.type == "spectral" and switch.at is not None and switch.at > epochs:
        return [
            f"conv.switch.at={switch.at}: the run ends after engine.num_epochs={epochs}, so its convs never become "
            f"plain; type conv.switch.at=N with N of at most {epochs}, or conv.switch.trigger=never"
        ]
    return []
