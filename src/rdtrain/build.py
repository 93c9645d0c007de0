"""Every object of a run, made from the configuration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from catalyst import dl
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader

from rdtrain import models
from rdtrain.callbacks import RunRecord
from rdtrain.config import schema
from rdtrain.config.schema import Config, Target
from rdtrain.config.targets import WHOLE_RUN, make
from rdtrain.data.loaders import make_loaders
from rdtrain.data.store import ImageStore
from rdtrain.engine import choose_device
from rdtrain.entropy.precision import keep_entropy_models_in_float32
from rdtrain.entropy.quantizer import use_quantizer
from rdtrain.errors import UserError
from rdtrain.evaluation import stride
from rdtrain.interruption import Interruption
from rdtrain.losses import RateDistortionLoss
from rdtrain.run_folder import RunFolder
from rdtrain.runners import ImageCompressionRunner


def loaders(config: Config, stores: Mapping[str, ImageStore], processes: int) -> dict[str, DataLoader]:
    """Make the loaders.

    Args:
        config: `dataset.*` and `engine.*`.
        stores: the images by loader.
        processes: that share the training stream.

    Returns:
        `train`, `valid` and `infer`.
    """
    dataset, engine = config.dataset, config.engine
    return make_loaders(
        stores,
        patch_size=dataset.patch_size,
        batch_size=dataset.batch_size,
        valid_batch_size=dataset.valid_batch_size,
        valid_crops=dataset.valid_crops,
        epoch_steps=None if engine.epoch_steps is None else engine.epoch_steps * engine.accumulate,
        seed=config.seed,
        workers=dataset.workers,
        pin_memory=choose_device(engine.device).type == "cuda",
        flips=dataset.flips,
        small_images=dataset.small_images,
        processes=processes,
    )


def model(config: Config, state: Mapping[str, Any] | None) -> nn.Module:
    """Make the model, in the conv form that the run is in.

    Args:
        config: completed.
        state: the checkpoint to continue from, None for a new run.

    Returns:
        The model on the CPU; its function does not depend on the conv form.

    Raises:
        UserError: the model cannot take patches of that size.
    """
    if state is None:
        net = models.make_model(config, config.conv.type == "spectral", config.model.checkpoint)
    else:
        net = models.make_model(config, state["spectral"])
    patch, multiple = config.dataset.patch_size, stride(net)
    if patch % multiple:
        fits = max(multiple, patch // multiple * multiple)
        raise UserError(
            f"dataset.patch_size={patch}: {config.model.name} needs a multiple of {multiple}; "
            f"type dataset.patch_size={fits}"
        )
    use_quantizer(net, config.model.quantizer)
    if config.engine.precision == "bf16":
        keep_entropy_models_in_float32(net)
    if config.engine.channels_last:
        net.to(memory_format=torch.channels_last)
    if config.engine.compile:
        net.compile()
    return net


def optimizers(config: Config, net: nn.Module) -> dict[str, Optimizer]:
    """Make the two optimizers over CompressAI's split of the parameters, in the order of its `net_aux_optimizer`.

    Args:
        config: `optimizer.*`.
        net: the model.

    Returns:
        `net`, and `aux` for the quantiles of the entropy bottlenecks where there are any.
    """
    named = sorted((name, parameter) for name, parameter in net.named_parameters() if parameter.requires_grad)
    split = {
        "net": [parameter for name, parameter in named if not name.endswith(".quantiles")],
        "aux": [parameter for name, parameter in named if name.endswith(".quantiles")],
    }
    nodes = optimizer_nodes(config.optimizer)
    return {key: make(nodes[key], parameters) for key, parameters in split.items() if parameters}


def optimizer_nodes(optimizer: schema.Optimizer) -> dict[str, Target]:
    """What the optimizers are made from.

    Args:
        optimizer: `optimizer.*`.

    Returns:
        Nodes `net` and `aux`, with `optimizer.lr_factor` in the rate of `net`.
    """
    return {"net": _scaled(optimizer.net, ("lr",), optimizer.lr_factor), "aux": optimizer.aux}


def schedulers(config: Config, optimizers: Mapping[str, Optimizer], epoch_steps: int) -> dict[str, LRScheduler]:
    """Make the schedulers.

    Args:
        config: `scheduler.*`.
        optimizers: by name.
        epoch_steps: optimizer steps of an epoch.

    Returns:
        A scheduler for each optimizer that has one.
    """
    whole_run = config.engine.num_epochs * (epoch_steps if config.scheduler.interval == "step" else 1)
    nodes = scheduler_nodes(config.scheduler, config.optimizer.lr_factor, whole_run)
    return {name: make(nodes[name], optimizer) for name, optimizer in optimizers.items() if name in nodes}


def scheduler_nodes(scheduler: schema.Scheduler, lr_factor: float, whole_run: int) -> dict[str, Target]:
    """What the schedulers are made from.

    Args:
        scheduler: `scheduler.*`.
        lr_factor: `optimizer.lr_factor`; it is also in the rates that a scheduler of `net` sets instead of the
            optimizer's (`max_lr` of OneCycleLR), but not in those that it stops at (`min_lr`, `eta_min`).
        whole_run: epochs or steps that a length which is null stands for.

    Returns:
        Nodes of those of `net` and `aux` that there are.
    """
    net = None if scheduler.net is None else _scaled(scheduler.net, ("base_lr", "max_lr"), lr_factor)
    return {
        name: {key: whole_run if value is None and key in WHOLE_RUN else value for key, value in node.items()}
        for name, node in (("net", net), ("aux", scheduler.aux))
        if node is not None
    }


def _scaled(node: Target, rates: Sequence[str], factor: float) -> Target:
    def times(value: Any) -> Any:
        return [one * factor for one in value] if isinstance(value, list) else value * factor

    return {key: times(value) if key in rates and value is not None else value for key, value in node.items()}


def criterion(config: Config) -> RateDistortionLoss:
    """Make the loss.

    Args:
        config: completed, so that lmbda is a number.

    Returns:
        The loss.
    """
    return RateDistortionLoss(**config.criterion.model_dump())


def callbacks(config: Config) -> dict[str, dl.Callback]:
    """Make the callbacks.

    Args:
        config: `callbacks.*` and `logger.*`; a node that is null is left out.

    Returns:
        Callback by name, the run's record among them.
    """
    nodes = {**config.callbacks, **config.logger}
    return {"record": RunRecord(), **{name: make(node) for name, node in nodes.items() if node is not None}}


def runner(
    config: Config,
    folder: RunFolder,
    stores: Mapping[str, ImageStore],
    state: dict[str, Any] | None,
    interruption: Interruption,
) -> ImageCompressionRunner:
    """Make the runner.

    Args:
        config: completed.
        folder: where the run writes.
        stores: the images by loader.
        state: the checkpoint to continue from, None for a new run.
        interruption: takes the signals that end the run.

    Returns:
        The runner named by `runner._target_`.
    """
    return make({"_target_": config.runner.target}, config, folder, stores, state, interruption)
