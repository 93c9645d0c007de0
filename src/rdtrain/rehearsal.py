"""Optimizers, schedulers and the switch, tried on one small convolution before anything of a run is created."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from hydra.utils import get_class
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from rdtrain import build
from rdtrain.callbacks import SchedulerStep, SpectralSwitch
from rdtrain.config import schema
from rdtrain.config.schema import Target
from rdtrain.config.targets import make, target_problems
from rdtrain.conv.convert import to_plain, to_spectral
from rdtrain.conv.moments import ShadowMoments
from rdtrain.conv.optimizers import update_norm
from rdtrain.conv.transforms import Rfft
from rdtrain.errors import UserError
from rdtrain.plateau import SwitchDecision, would_lower

_ANY_LENGTH = 100
_OR_ELSE = "conv.switch.trigger=epoch conv.switch.at=N, or conv.switch.trigger=never"


def rehearse(
    optimizer: schema.Optimizer, scheduler: schema.Scheduler, switch: schema.Switch | None, callbacks: Iterable[Target]
) -> list[str]:
    """Make what trains and let it switch.

    Args:
        optimizer: `optimizer.*`, whose nodes are right one by one.
        scheduler: `scheduler.*`, likewise.
        switch: `conv.switch.*` of a run that is to switch, else None.
        callbacks: the nodes of `callbacks.*`, likewise.

    Returns:
        One sentence for every mistake.
    """
    model = nn.Sequential(nn.Conv2d(1, 1, 3))
    to_spectral(model, Rfft())
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    nodes = build.optimizer_nodes(optimizer)
    if found := target_problems("optimizer.net", nodes["net"], list(model.parameters())):
        return found
    optimizers = {name: make(node, list(model.parameters())) for name, node in nodes.items()}
    made = build.scheduler_nodes(scheduler, optimizer.lr_factor, _ANY_LENGTH)
    schedulers = {name: make(node, optimizers[name]) for name, node in made.items()}
    found = _scheduler_problems(schedulers, scheduler.interval)
    if switch is not None:
        found += _trigger_problems(switch, schedulers.get("net"), [get_class(node["_target_"]) for node in callbacks])
        found += _moments_problems(switch, model, optimizers["net"])
    return found


def _scheduler_problems(schedulers: Mapping[str, LRScheduler], interval: str) -> list[str]:
    problems = []
    for name, scheduler in schedulers.items():
        if not isinstance(scheduler, ReduceLROnPlateau):
            continue
        if interval != "epoch":
            problems.append(f"scheduler.{name}: ReduceLROnPlateau steps once an epoch; type scheduler.interval=epoch")
        if scheduler.mode != "min":
            problems.append(f"scheduler.{name}.mode={scheduler.mode}: the monitored value is to fall; type mode=min")
    return problems


def _trigger_problems(switch: schema.Switch, scheduler: LRScheduler | None, callbacks: list[type]) -> list[str]:
    if not any(issubclass(kind, SpectralSwitch) for kind in callbacks):
        return ["without its callback the switch never comes: type conv.switch.trigger=never"]
    try:
        SwitchDecision(switch).check(scheduler)
    except UserError as error:
        return error.problems
    if not isinstance(scheduler, ReduceLROnPlateau) or switch.trigger != "plateau":
        return []
    if not any(issubclass(kind, SchedulerStep) for kind in callbacks):
        return ["without callbacks.scheduler no plateau is ever counted: type conv.switch.trigger=never"]
    if not would_lower(scheduler):
        lr = ", ".join(f"{group['lr']:g}" for group in scheduler.optimizer.param_groups)
        return [
            f"scheduler.net: the rate {lr} cannot drop (min_lr={scheduler.min_lrs[0]:g}, eps={scheduler.eps:g}), so "
            f"the convs never become plain; type a smaller scheduler.net.min_lr or scheduler.net.eps, or {_OR_ELSE}"
        ]
    return []


def _moments_problems(switch: schema.Switch, model: nn.Module, optimizer: Optimizer) -> list[str]:
    try:
        shadow = ShadowMoments(model, optimizer) if switch.moments == "shadow" else None
        optimizer.step()
        update_norm(model, optimizer)
        to_plain(model, [optimizer], switch.moments, shadow)
    except UserError as error:
        return error.problems
    return []
