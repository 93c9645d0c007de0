"""What optimizers, schedulers and the switch refuse is known before a run begins, and nothing else is refused."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import pytest
from torch.optim.lr_scheduler import ReduceLROnPlateau

from rdtrain.config.check import check
from rdtrain.config.compose import composed
from rdtrain.preflight import problems

SMALL = ("hp.N=4", "hp.M=6", "optimizer.net.lr=1e-3")


def told(*overrides: str) -> list[str]:
    raw, found = composed([*SMALL, *overrides])
    assert raw is not None and found == []
    return check(raw)[1] + problems(raw)


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["scheduler=cosine"], "needs ReduceLROnPlateau, the scheduler is CosineAnnealingLR: type scheduler=plateau"),
        (["scheduler=constant"], "needs ReduceLROnPlateau, the scheduler is NoneType"),
        (["scheduler.net.eps=1.0"], "the rate 0.001 cannot drop (min_lr=0, eps=1), so the convs never become plain"),
        (["scheduler.net.min_lr=1e-3"], "cannot drop (min_lr=0.001"),
        (["scheduler.net.min_lr=[1e-3]"], "cannot drop (min_lr=0.001"),
        (["optimizer.lr_factor=0.5", "scheduler.net.min_lr=7e-4"], "the rate 0.0005 cannot drop"),
        (["conv.switch.lead=11"], "conv.switch.lead=11 exceeds the scheduler's patience: type at most 10"),
        (["~callbacks.switch"], "without its callback the switch never comes"),
        (["~callbacks.scheduler"], "without callbacks.scheduler no plateau is ever counted"),
        (["scheduler.interval=step"], "scheduler.net: ReduceLROnPlateau steps once an epoch"),
        (["scheduler.net.mode=max", "conv=plain"], "scheduler.net.mode=max: the monitored value is to fall"),
        (["optimizer=sgd", "conv.switch.moments=shadow"], "which SGD lacks: type conv.switch.moments=transfer"),
        (["optimizer.net._target_=torch.optim.Adamax"], "remembers exp_inf of each parameter"),
        (["optimizer.net._target_=torch.optim.Muon"], "optimizer.net: "),
        (
            ["conv.switch.trigger=epoch", "conv.switch.at=50", "engine.num_epochs=8"],
            "conv.switch.at=50: the run ends after engine.num_epochs=8, so its convs never become plain; "
            "type conv.switch.at=N with N of at most 8, or conv.switch.trigger=never",
        ),
    ],
)
def test_what_could_not_switch_is_refused(overrides: list[str], sentence: str) -> None:
    (problem,) = told(*overrides)
    assert sentence in problem
    assert "type " in problem or sentence == "optimizer.net: "


@pytest.mark.parametrize(
    "overrides",
    [
        ["optimizer.lr_factor=1.5", "scheduler.net.min_lr=1e-3"],
        ["scheduler.net.min_lr=1e-3", "conv=plain"],
        ["scheduler.net.eps=1.0", "conv.switch.trigger=never"],
        ["scheduler=cosine", "conv.switch.trigger=epoch", "conv.switch.at=3"],
        ["conv.switch.trigger=epoch", "conv.switch.at=8", "engine.num_epochs=8"],
        ["conv=plain", "conv.switch.trigger=epoch", "conv.switch.at=9", "engine.num_epochs=8"],
        ["conv.switch.lead=10"],
        ["conv.switch.moments=shadow"],
        *[
            [f"optimizer.net._target_=torch.optim.{name}", "conv.switch.moments=reset"]
            for name in ("Adamax", "Adagrad", "RMSprop", "Adafactor", "Rprop", "ASGD")
        ],
        *[[f"optimizer.net._target_=torch.optim.{name}"] for name in ("RAdam", "NAdam", "AdamW", "SGD")],
    ],
)
def test_what_can_switch_is_let_through(overrides: list[str]) -> None:
    assert told(*overrides) == []


def test_a_users_own_classes_are_known_by_what_they_derive_from(monkeypatch: pytest.MonkeyPatch) -> None:
    from rdtrain.callbacks import SchedulerStep, SpectralSwitch

    mine: Any = ModuleType("mine")
    for name, base in (("Patient", ReduceLROnPlateau), ("Switch", SpectralSwitch), ("Step", SchedulerStep)):
        setattr(mine, name, type(name, (base,), {}))
    # Of the same name as one of ours, and of another kind.
    mine.SpectralSwitch = type("SpectralSwitch", (SchedulerStep,), {})
    monkeypatch.setitem(sys.modules, "mine", mine)
    own = ("scheduler.net._target_=mine.Patient", "callbacks.scheduler._target_=mine.Step")
    assert told(*own, "callbacks.switch._target_=mine.Switch") == []
    (problem,) = told(*own, "callbacks.switch._target_=mine.SpectralSwitch")
    assert "without its callback the switch never comes" in problem
