"""CompressAI's image models by name, with the arguments that each one takes.

Every name in `compressai.registry.MODELS` whose class compresses one image is offered, so a model that a newer
CompressAI registers works as it is. The zoo's functions are not used: `bmshj2018_factorized_relu()` there builds
the GDN model.
"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import torch
from compressai.models import CompressionModel
from compressai.registry import MODELS
from compressai.zoo.image import cfgs
from compressai.zoo.pretrained import load_pretrained
from torch import Tensor, nn

from rdtrain import weights
from rdtrain.coding.classes import use_coder
from rdtrain.coding.context import WAVEFRONT, use_coding_order
from rdtrain.config.nearest import suggestion
from rdtrain.config.schema import Config, Conv
from rdtrain.conv.convert import to_spectral
from rdtrain.conv.state_dicts import load_any
from rdtrain.conv.transform import Transform
from rdtrain.conv.transforms import make_transform
from rdtrain.entropy.stable import use_stable_likelihood
from rdtrain.errors import UserError

# Lambdas of CompressAI's model zoo for qualities 1 to 8 (docs/source/zoo.rst, "Training"); they assume the factor
# 255^2 for mse and lambda (1 - MS-SSIM) for ms-ssim.
PUBLISHED_LMBDA = {
    "mse": (0.0018, 0.0035, 0.0067, 0.0130, 0.0250, 0.0483, 0.0932, 0.1800),
    "ms-ssim": (2.40, 4.58, 8.73, 16.64, 31.73, 60.50, 115.37, 220.00),
}
_MOST_CHANNELS = 4096  # a kernel between as many is 1.7 GB
_NOT_IMAGES = ("compressai.models.video", "compressai.models.pointcloud")


def image_models() -> dict[str, type[CompressionModel]]:
    """The registered models that take one image.

    Returns:
        Class by registry name.
    """
    return {
        name: model
        for name, model in MODELS.items()
        if issubclass(model, CompressionModel) and not model.__module__.startswith(_NOT_IMAGES)
    }


def arguments(model: type[nn.Module]) -> dict[str, Any]:
    """The arguments that a model's class names.

    Args:
        model: the class; `cheng2020-*` take only N and hand it on as M themselves.

    Returns:
        Default by name, `inspect.Parameter.empty` where there is none.
    """
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    parameters = list(inspect.signature(model).parameters.values())
    return {parameter.name: parameter.default for parameter in parameters if parameter.kind in named}


def model_problems(name: str, quality: int, hp: dict[str, Any]) -> list[str]:
    """What is wrong with a choice of model.

    Args:
        name: registry name.
        quality: published operating point, 1 to 8.
        hp: arguments that were typed, None for those to be filled in.

    Returns:
        One sentence for every mistake.
    """
    models = image_models()
    if name not in models:
        return [f"model.name={name}: there is no such image model; {suggestion(name, models)}"]
    takes = arguments(models[name])
    given = {key: value for key, value in hp.items() if value is not None}
    problems = [
        f"hp.{key}={value}: {name} takes no {key}; {suggestion(key, takes)}" if takes else f"{name} takes no arguments"
        for key, value in given.items()
        if key not in takes
    ]
    problems += [
        f"hp.{key}={value}: should be a whole number above 0 and at most {_MOST_CHANNELS}"
        for key, value in given.items()
        if key in ("N", "M")
        and (not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= _MOST_CHANNELS)
    ]
    table = cfgs.get(name)
    if table is not None and quality not in table and not set(takes) <= set(given):
        problems.append(
            f"model.quality={quality}: {name} was published for {min(table)} to {max(table)}; or give hp.N and hp.M"
        )
    return problems


def hyperparameters(name: str, quality: int, hp: dict[str, Any]) -> dict[str, Any]:
    """Fill in what was not given.

    Args:
        name: registry name.
        quality: published operating point.
        hp: arguments that were typed, None for those to be filled in.

    Returns:
        Arguments of the class: given, else as published, else the class's default.
    """
    takes = arguments(image_models()[name])
    published = dict(zip(("N", "M"), cfgs.get(name, {}).get(quality, ()), strict=False))
    nothing = inspect.Parameter.empty
    fallback = dict(zip(("N", "M"), cfgs["bmshj2018-factorized"][quality], strict=True))
    filled = {key: value for key, value in hp.items() if value is not None}
    for key, default in takes.items():
        if key in hp and filled.get(key) is None:
            value = published.get(key, fallback[key] if default is nothing else default)
            filled[key] = value
    return filled


def complete(config: Config) -> Config:
    """Fill the keys that `model.quality` stands for.

    Args:
        config: a checked configuration.

    Returns:
        The same with `hp` and `criterion.lmbda` as numbers and with whole paths, so that it means the same anywhere.
    """
    hp = hyperparameters(config.model.name, config.model.quality, config.hp)
    lmbda = config.criterion.lmbda
    if lmbda is None:
        lmbda = PUBLISHED_LMBDA[config.criterion.metric][config.model.quality - 1]
    dataset, model = config.dataset, config.model
    return config.model_copy(
        update={
            "hp": hp,
            "criterion": config.criterion.model_copy(update={"lmbda": lmbda}),
            "dataset": dataset.model_copy(
                update={"root": _whole(dataset.root), "infer_root": _whole(dataset.infer_root)}
            ),
            "model": model.model_copy(update={"checkpoint": _whole(model.checkpoint)}),
        }
    )


def _whole(path: str | None) -> str | None:
    return None if path is None else str(Path(path).expanduser().resolve())


def build_model(name: str, hp: dict[str, Any], seed: int) -> CompressionModel:
    """Make a model with plain convs; its initial weights depend on the seed only.

    Args:
        name: registry name.
        hp: arguments of its class.
        seed: of the initial weights.

    Returns:
        The model on the CPU.

    Raises:
        UserError: the class refuses its arguments.
    """
    torch.manual_seed(seed)
    try:
        return image_models()[name](**hp)
    except (TypeError, ValueError, AssertionError, IndexError, RuntimeError) as error:
        given = " ".join(f"hp.{key}={value}" for key, value in hp.items())
        raise UserError(f"{name} cannot be made with {given}: {error}") from error


def make_model(config: Config, spectral: bool, start_from: str | None = None) -> CompressionModel:
    """Make the model of a run in one of its two conv forms; the initial function does not depend on the form.

    Args:
        config: completed.
        spectral: store kernels as `conv.transform` says.
        start_from: a file with weights; None for freshly drawn ones.

    Returns:
        The model on the CPU.
    """
    net = build_model(config.model.name, config.hp, config.seed)
    if start_from is not None:
        load_weights(net, *read_weights(start_from))
    if config.model.stable_likelihood:
        use_stable_likelihood(net)
    use_coder(net, config.model.coder)
    if config.model.coder != "compressai":
        use_coding_order(net, WAVEFRONT)
    if spectral:
        conv = config.conv
        to_spectral(
            net,
            configured_transform(conv),
            include=conv.include,
            exclude=conv.exclude,
            one_by_one=conv.one_by_one,
            keep_variance=start_from is None,
        )
    return net


def configured_transform(conv: Conv) -> Transform:
    """Make the transform that kernels are stored in.

    Args:
        conv: `conv.*`.

    Returns:
        The transform.
    """
    options = {
        "dct": {"K": conv.dct.coefficients, "order": conv.dct.order},
        "attenuated": conv.attenuated.model_dump(),
    }
    return make_transform(conv.transform, **options.get(conv.transform, {}))


def read_weights(path: str | Path, typed: str | None = None) -> tuple[dict[str, Tensor], Transform | None]:
    """Read somebody's weights.

    Args:
        path: a checkpoint or export of ours, or one of CompressAI's (`state_dict` of its train.py, or bare).
        typed: how the user named the file, for the error; `model.checkpoint=PATH` unless given.

    Returns:
        The state dict in the file, of a checkpoint of ours that which was judged; and the transform of its kernels,
        None where they are plain or CompressAI's.

    Raises:
        UserError: the file holds anything but the weights of a model.
    """
    try:
        return _weights(weights.read_file(path), path)
    except UserError as error:
        raise UserError(f"{typed or f'model.checkpoint={path}'}: {error}") from error


def _weights(content: Any, path: str | Path) -> tuple[dict[str, Tensor], Transform | None]:
    transform = None
    if isinstance(content, dict) and "format" in content and "conv" in content:
        try:
            if content["spectral"]:
                transform = configured_transform(Conv.model_validate(content["conv"]))
            content = judged_weights(content)
        except (KeyError, AttributeError, TypeError, ValueError, UserError) as error:
            raise UserError(f"no checkpoint of rdtrain ({str(error).splitlines()[0]})") from error
    elif isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    return weights.state_dict(content, path), transform


def judged_weights(state: dict[str, Any]) -> dict[str, Tensor]:
    """The weights of a checkpoint of ours that were validated.

    Args:
        state: what `rdtrain.checkpoint.capture` collected.

    Returns:
        The moving average where there is one, else the trained weights.
    """
    if state["ema"] is None:
        return state["model"]
    return {key.removeprefix("module."): value for key, value in state["ema"].items() if key != "n_averaged"}


def load_weights(model: CompressionModel, given: dict[str, Tensor], transform: Transform | None = None) -> None:
    """Start from somebody's weights.

    Args:
        model: with plain kernels.
        given: kernels plain or spectral, entropy bottleneck keys of either style, probability tables of any size.
        transform: of spectral kernels that are ours.

    Raises:
        UserError: they belong to another model.
    """
    try:
        load_any(model, load_pretrained(given), transform)
    except (UserError, RuntimeError, KeyError, AttributeError, TypeError, ValueError) as error:
        reason = str(error).strip().splitlines()[-1].strip()
        raise UserError(
            f"model.checkpoint: these are not weights of this model (check model.name, hp.N and hp.M): {reason}"
        ) from error
