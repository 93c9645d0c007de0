"""Decisions about health on lists of numbers, and what a rollback makes of a checkpoint."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.optim import lr_scheduler

from rdtrain.health import Event, HealthMonitor, StepGuard, dead_share, nonfinite_gradients
from rdtrain.rollback import MOST_BATCHES, TrainedStep, is_finite, lower_rates, save_batch

VALID_BPP, VALID_MSE = "valid/bpp/forward", "valid/mse/forward/unclamped"
AUX, NORM, DEAD = "train/aux_loss", "train/grad_norm", "infer/dead/y"
# Every fourth epoch of a plain run of experiment=switch_vs_plain (seed 2), the least quiet of the twelve.
HEALTHY = {
    VALID_BPP: [0.883, 0.494, 0.311, 0.281, 0.243, 0.273, 0.275, 0.290, 0.297, 0.297],
    VALID_MSE: [0.0401, 0.0184, 0.0128, 0.0131, 0.0217, 0.0117, 0.0201, 0.0088, 0.0061, 0.0059],
    AUX: [1950.0, 1676.0, 1377.0, 1011.0, 809.5, 738.0, 676.1, 733.5, 745.9, 745.9],
    NORM: [383.0, 168.4, 65.0, 48.0, 53.2, 102.0, 107.4, 15.0, 8.1, 22.5],
}


def _events(columns: dict[str, Sequence[float]], monitor: HealthMonitor | None = None) -> list[Event]:
    monitor = monitor or HealthMonitor()
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    return [event for epoch, row in enumerate(rows, 1) for event in monitor.update(epoch, 50 * epoch, row)]


def test_a_healthy_run_is_left_alone() -> None:
    assert _events(HEALTHY) == []


@pytest.mark.parametrize(
    ("name", "values", "kind", "epoch", "words"),
    [
        (VALID_BPP, [0.2, 0.05, 0.0101, 0.0099, 0.001], "collapse", 4, "0.0099 bit/pixel"),
        (VALID_MSE, [0.02, 0.01, 0.099, 0.0101, 0.102, 0.5], "explosion", 5, "0.102, 10.2 times the best"),
        (VALID_MSE, [0.1, 0.05, 0.249, 0.251], "explosion", 4, "5.02 times the best so far, more than a grey picture"),
        (AUX, [400.0, 100.0, 201.0, 205.0, 190.0, 201.0, 210.0, 220.0, 900.0], "aux", 8, "220, 2.2 times its lowest"),
        (NORM, [500.0, 90.0, 100.0, 110.0, 100.0, 999.0, 1049.0, 1111.0], "spike", 8, "1.11e+03, 10.1 times the med"),
        (DEAD, [0.0, 0.9, 0.91, 0.95], "dead", 3, "91% of the channels"),
    ],
    ids=["collapse", "explosion", "grey", "aux", "spike", "dead"],
)
def test_each_kind_is_seen_once(name: str, values: list[float], kind: str, epoch: int, words: str) -> None:
    (event,) = _events({name: values})
    assert (event.kind, event.epoch, event.step) == (kind, epoch, 50 * epoch)
    assert words in event.seen and event.advice in event.sentence


@pytest.mark.parametrize(
    "columns",
    [
        {VALID_MSE: [0.9, 0.6, 0.3, 0.28, 0.2]},  # bad, and getting better
        {VALID_MSE: [math.nan, 0.2, math.nan, 0.2]},
        {AUX: [2000.0, 3.0, 9.0, 20.0, 50.0, 199.0]},  # jitter near zero
        {AUX: [100.0, 50.0, 101.0, 101.0, 99.0, 101.0, 101.0, 99.0]},  # never three epochs in a row
        {NORM: [1.0, 1.0, 1.0, 1.0, 500.0]},  # too early to know what is usual
        {NORM: [math.inf, math.nan, 1.0, 1.0, 1.0, 1.0, 1.0]},
        {VALID_BPP: [0.01]},
    ],
)
def test_what_looks_like_trouble_and_is_none(columns: dict[str, list[float]]) -> None:
    assert _events(columns) == []


def test_a_run_that_goes_on_remembers() -> None:
    sick = {AUX: [400.0, 100.0, 250.0, 260.0, 270.0, 280.0], VALID_BPP: [0.1, 0.001, 0.001, 0.001, 0.001, 0.001]}
    expected = [(event.kind, event.epoch) for event in _events(sick)]
    assert expected == [("collapse", 2), ("aux", 5)]
    for stop in range(1, 6):
        first, second = HealthMonitor(), HealthMonitor()
        before = _events({name: values[:stop] for name, values in sick.items()}, first)
        second.load_state_dict(json.loads(json.dumps(first.state_dict())))
        after = _events({name: values[stop:] for name, values in sick.items()}, second)
        assert [(event.kind, event.epoch) for event in before] + [
            (event.kind, event.epoch + stop) for event in after
        ] == expected


def test_the_window_of_gradient_norms_is_bounded() -> None:
    monitor = HealthMonitor()
    _events({NORM: [1.0] * 500}, monitor)
    assert len(monitor.state_dict()["rules"]["spike"]["norms"]) == 20


def test_dead_channels_are_counted_against_the_mean_channel() -> None:
    bits = np.array([400.0] + [0.9] * 6 + [1.1] * 3)  # the mean is 40.87
    bits[1:7] = 0.4
    bits[7:] = 0.42
    assert dead_share(bits) == pytest.approx(np.mean(bits < 0.01 * bits.mean()))
    assert dead_share(bits) == pytest.approx(0.6)
    assert dead_share(np.ones(7)) == 0


@pytest.mark.parametrize("late", [False, True])
def test_a_guard_names_the_step_that_was_not_finite(late: bool) -> None:
    guard: StepGuard[str] = StepGuard(late)
    answers = [guard.look(torch.tensor(number), name) for number, name in [(1.0, "a"), (math.inf, "b"), (2.0, "c")]]
    assert answers == ([None, None, "b"] if late else [None, "b", None])
    assert guard.settle() is None
    guard.look(torch.tensor(math.nan), "d")
    assert guard.settle() == ("d" if late else None)
    assert guard.settle() is None


def test_gradients_that_are_not_finite_are_named() -> None:
    net = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
    net(torch.ones(1, 2)).sum().backward()
    assert nonfinite_gradients(net.named_parameters()) == []
    assert net[1].bias.grad is not None
    net[1].bias.grad[1], net[0].weight.grad = math.inf, None
    assert nonfinite_gradients(net.named_parameters()) == ["1.bias"]


Make = Callable[[torch.optim.Optimizer], Any]
SCHEDULERS: dict[str, Make] = {
    "plateau": lambda o: lr_scheduler.ReduceLROnPlateau(o, factor=0.3, patience=4, min_lr=4e-5, eps=0.0),
    "onecycle": lambda o: lr_scheduler.OneCycleLR(o, max_lr=1e-2, total_steps=31),
    "cosine": lambda o: lr_scheduler.CosineAnnealingLR(o, 30, eta_min=1e-5),
    "restarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 4, eta_min=1e-5),
    "steps": lambda o: lr_scheduler.MultiStepLR(o, [5, 14], 0.1),
    "cyclic": lambda o: lr_scheduler.CyclicLR(o, 1e-4, 1e-2, step_size_up=4, cycle_momentum=False),
    "lambda": lambda o: lr_scheduler.LambdaLR(o, lambda epoch: 1 / (1 + epoch)),
    "warmup": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.LinearLR(o, 0.1, total_iters=8), lr_scheduler.CosineAnnealingLR(o, 22)], [8]
    ),
}


def _optimizer(make: Make) -> tuple[torch.optim.Optimizer, Any]:
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.ones(1))], lr=1e-3)
    return optimizer, make(optimizer)


def _rates(optimizer: torch.optim.Optimizer, scheduler: Any, epochs: range) -> list[float]:
    rates = []
    for epoch in epochs:
        optimizer.step()
        args = [1.0 if epoch > 4 else 2.0 - epoch / 10] if isinstance(scheduler, lr_scheduler.ReduceLROnPlateau) else []
        scheduler.step(*args)
        rates.append(optimizer.param_groups[0]["lr"])
    return rates


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("at", [0, 7, 12])
def test_every_scheduler_goes_on_with_all_of_its_rates_lowered(name: str, at: int) -> None:
    optimizer, scheduler = _optimizer(SCHEDULERS[name])
    _rates(optimizer, scheduler, range(at))
    state = {"optimizer": {"net": optimizer.state_dict()}, "scheduler": {"net": scheduler.state_dict()}}
    lower_rates(state, 0.25)
    lowered, its_scheduler = _optimizer(SCHEDULERS[name])
    lowered.load_state_dict(state["optimizer"]["net"])
    its_scheduler.load_state_dict(state["scheduler"]["net"])
    whole = _rates(optimizer, scheduler, range(at, 30))
    assert len(set(whole)) > 1
    np.testing.assert_allclose(_rates(lowered, its_scheduler, range(at, 30)), np.array(whole) / 4, rtol=1e-9)


def test_nothing_but_rates_is_lowered() -> None:
    optimizer, scheduler = _optimizer(SCHEDULERS["plateau"])
    state = {"optimizer": {"net": optimizer.state_dict()}, "scheduler": {"net": scheduler.state_dict()}}
    lower_rates(state, 0.5)
    (group,) = state["optimizer"]["net"]["param_groups"]
    (before,) = optimizer.state_dict()["param_groups"]
    assert {key for key in group if group[key] != before[key]} == {"lr"}
    changed = {key for key, value in scheduler.state_dict().items() if state["scheduler"]["net"][key] != value}
    assert changed == {"default_min_lr", "min_lrs", "_last_lr"}


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_a_state_with_a_number_that_is_not_finite_is_noticed(number: float) -> None:
    state = [{"w": torch.ones(3), "n": torch.tensor(3)}, None, {"state": {0: {"exp_avg": torch.ones(2, 2)}}}]
    assert is_finite(state)
    state[2]["state"][0]["exp_avg"][1, 0] = number  # type: ignore[index]
    assert not is_finite(state)


def test_batches_are_kept_and_not_too_many(tmp_path: Path) -> None:
    x = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8)
    terms = {"loss/forward/unclamped": torch.tensor(math.nan), "bpp/forward": torch.tensor(0.25)}
    for step in range(1, 20):
        trained = TrainedStep(1, step, 1e-3, [x], [terms], torch.tensor(math.inf))
        path = save_batch(tmp_path, trained, ["g_a.0.weight"], rank=step % 2)
        assert (path is not None) == (step <= MOST_BATCHES)
    assert trained.describe() == "the train loss of step 19 is nan, the norm of its gradient inf"
    kept = torch.load(tmp_path / "health" / "step-2.pt", weights_only=True)
    assert torch.equal(kept["x"][0], x)
    assert (kept["epoch"], kept["step"], kept["lr"], kept["gradients"]) == (1, 2, 1e-3, ["g_a.0.weight"])
    assert kept["terms"][0]["bpp/forward"] == 0.25 and math.isnan(kept["terms"][0]["loss/forward/unclamped"])
    assert (tmp_path / "health" / "step-3-rank-1.pt").exists()
