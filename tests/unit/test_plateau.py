from __future__ import annotations

import copy
import math
import random
from typing import Any

import pytest
import torch
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau, StepLR

from rdtrain.config.schema import Switch
from rdtrain.errors import UserError
from rdtrain.plateau import SwitchDecision, bad_epochs_left, restart, would_drop, would_lower


def scheduler_of(lrs: tuple[float, ...] = (0.1,), **options: Any) -> ReduceLROnPlateau:
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": lr} for lr in lrs]
    return ReduceLROnPlateau(torch.optim.SGD(groups, lr=0.1), **options)


def decision_of(trigger: Any, at: int | None = None, lead: int = 0) -> SwitchDecision:
    return SwitchDecision(Switch(trigger=trigger, at=at, lead=lead, on_drop="absorb", moments="transfer"))


def random_options(draw: random.Random) -> dict[str, Any]:
    groups = draw.randint(1, 3)
    return {
        "lrs": tuple(draw.choice([0.1, 1e-3, 2e-8, 1e-8]) for _ in range(groups)),
        "mode": draw.choice(["min", "max"]),
        "factor": draw.choice([0.1, 0.5, 0.9]),
        "patience": draw.choice([0, 0, 1, 2, 3, 5, 10, 20]),
        "threshold": draw.choice([0.0, 1e-4, 5e-4, 0.05]),
        "threshold_mode": draw.choice(["rel", "abs"]),
        "cooldown": draw.choice([0, 0, 1, 4]),
        "min_lr": draw.choice([0.0, 1e-3, 0.1, [1e-3] * groups]),
        "eps": draw.choice([1e-8, 0.0, 1e-2]),
    }


def random_metrics(draw: random.Random, length: int = 60) -> list[float]:
    value, values = draw.choice([1.0, -1.0, 30.0]), []
    strange = draw.choice([0.0, 0.0, 0.1])
    for _ in range(length):
        value += draw.choice([0.0, draw.gauss(0, 0.05), -0.01, 0.01, 1e-5])
        values.append(draw.choice([math.nan, math.inf, -math.inf]) if draw.random() < strange else value)
    return values


def lr_of(scheduler: ReduceLROnPlateau) -> list[float]:
    return [float(group["lr"]) for group in scheduler.optimizer.param_groups]


def first_change(scheduler: ReduceLROnPlateau, metrics: list[float]) -> int | None:
    start = lr_of(scheduler)
    for epoch, metric in enumerate(metrics, start=1):
        scheduler.step(metric)
        if lr_of(scheduler) != start:
            return epoch
    return None


def test_the_switch_is_at_a_stock_schedulers_first_drop() -> None:
    draw, fired = random.Random(0), 0
    for _ in range(4000):
        options, metrics = random_options(draw), random_metrics(draw)
        expected = first_change(scheduler_of(**options), metrics)
        scheduler, decision = scheduler_of(**options), decision_of("plateau")
        yes = []
        for epoch, metric in enumerate(metrics, start=1):
            if decision.decide(epoch, metric, scheduler):
                yes.append(epoch)
                restart(scheduler, metric)
            else:
                scheduler.step(metric)
        assert yes == ([] if expected is None else [expected]), (options, metrics)
        assert decision.epoch == expected
        fired += expected is not None
    assert 1000 < fired < 3900


def test_asking_changes_nothing_and_tells_every_drop() -> None:
    draw, drops = random.Random(1), 0
    for _ in range(300):
        scheduler = scheduler_of(**random_options(draw))
        for metric in random_metrics(draw, 40):
            before, state = lr_of(scheduler), copy.deepcopy(scheduler.state_dict())
            predicted = would_drop(scheduler, metric)
            left = bad_epochs_left(scheduler, metric)
            assert repr(scheduler.state_dict()) == repr(state)  # as text, because NaN is unequal to itself
            assert lr_of(scheduler) == before
            ahead = copy.deepcopy(scheduler)
            events = reductions_until(ahead, metric, left)
            assert events == [False] * left + [True]
            scheduler.step(metric)
            assert (lr_of(scheduler) != before) == predicted
            drops += predicted
    assert drops > 500


def reductions_until(scheduler: ReduceLROnPlateau, metric: float, left: int) -> list[bool]:
    """Whether a stock scheduler reduces in this epoch and in each of the `left` bad ones that follow."""
    calls: list[bool] = []
    scheduler._reduce_lr = lambda epoch: calls.append(True)
    events = []
    for value in [metric] + [math.nan] * left:
        calls.clear()
        scheduler.step(value)
        events.append(bool(calls))
    return events


def test_a_scheduler_at_its_minimum_triggers_nothing() -> None:
    for options in ({"min_lr": 0.1}, {"eps": 1.0}, {"lrs": (1e-9,)}):
        scheduler, decision = scheduler_of(patience=0, **options), decision_of("plateau")
        assert not would_lower(scheduler)
        for epoch in range(1, 6):
            assert not decision.decide(epoch, 1.0, scheduler)
            scheduler.step(1.0)
    assert would_lower(scheduler_of((1e-9, 0.1)))  # one group is enough


def test_groups_added_later_have_the_common_minimum() -> None:
    scheduler = scheduler_of(patience=0, min_lr=0.1)
    scheduler.optimizer.add_param_group({"params": [torch.nn.Parameter(torch.zeros(1))], "lr": 0.5})
    scheduler.step(1.0)
    assert would_drop(scheduler, 1.0)
    scheduler.step(1.0)
    assert lr_of(scheduler) == [0.1, 0.1]
    at_minimum = scheduler_of(min_lr=0.1)
    at_minimum.optimizer.add_param_group({"params": [torch.nn.Parameter(torch.zeros(1))], "lr": 0.1})
    assert not would_lower(at_minimum)


@pytest.mark.parametrize("patience", [0, 1, 5, 10])
def test_lead_fires_that_many_bad_epochs_earlier(patience: int) -> None:
    for lead in range(patience + 1):
        scheduler, decision = scheduler_of(patience=patience), decision_of("plateau", lead=lead)
        metrics = [1.0, 0.5, *[0.6] * 30]
        yes = []
        for epoch, metric in enumerate(metrics, start=1):
            if decision.decide(epoch, metric, scheduler):
                yes.append(epoch)
            scheduler.step(metric)
        # Epoch 2 is the best; a stock scheduler drops with the (patience + 1)-th bad one after it.
        assert yes == [2 + patience + 1 - lead]


def test_restart_is_a_fresh_scheduler_that_has_seen_the_metric() -> None:
    draw = random.Random(2)
    for _ in range(500):
        options = random_options(draw)
        scheduler, fresh = scheduler_of(**options), scheduler_of(**options)
        for metric in random_metrics(draw, draw.randint(0, 20)):
            scheduler.step(metric)
        epochs, rates = scheduler.last_epoch, lr_of(scheduler)
        metric = draw.choice([1.0, -3.0, 0.0])
        restart(scheduler, metric)
        fresh.step(metric)
        assert scheduler.last_epoch == epochs + 1
        assert lr_of(scheduler) == rates
        for name in ("best", "num_bad_epochs", "cooldown_counter"):
            assert getattr(scheduler, name) == getattr(fresh, name)


@pytest.mark.parametrize("metric", [math.nan, math.inf])
def test_restart_on_a_metric_that_is_no_number_keeps_the_rate(metric: float) -> None:
    scheduler = scheduler_of(patience=0)
    restart(scheduler, metric)
    assert lr_of(scheduler) == [0.1]
    assert (scheduler.best, scheduler.num_bad_epochs) == (math.inf, 1)
    scheduler.step(0.5)
    assert (scheduler.best, scheduler.num_bad_epochs) == (0.5, 0)


def test_metrics_may_be_tensors() -> None:
    scheduler = scheduler_of(patience=0)
    assert not would_drop(scheduler, torch.tensor(1.0))
    restart(scheduler, torch.tensor(1.0))
    assert type(scheduler.best) is float
    assert would_drop(scheduler, torch.tensor(1.0))


def test_epoch_and_never() -> None:
    decision = decision_of("epoch", at=3)
    assert [decision.decide(epoch, 1.0, None) for epoch in range(1, 7)] == [False, False, True, False, False, False]
    # A run that was interrupted just before its switch catches up.
    assert decision_of("epoch", at=3).decide(5, 1.0, None)
    never, scheduler = decision_of("never"), scheduler_of(patience=0)
    for epoch in range(1, 5):
        assert not never.decide(epoch, 1.0, scheduler)
        scheduler.step(1.0)


def test_the_decision_is_remembered_over_a_resume() -> None:
    first = decision_of("epoch", at=2)
    assert first.state_dict() == {"epoch": None}
    assert first.decide(2, 1.0, None)
    resumed = decision_of("epoch", at=2)
    resumed.load_state_dict(first.state_dict())
    assert resumed.epoch == 2
    assert not resumed.decide(3, 1.0, None)


@pytest.mark.parametrize("scheduler", [None, StepLR(torch.optim.SGD([torch.zeros(1)], lr=0.1), 1)])
def test_plateau_needs_a_plateau_scheduler(scheduler: LRScheduler | None) -> None:
    with pytest.raises(UserError, match=r"scheduler=plateau.*trigger=epoch"):
        decision_of("plateau").check(scheduler)
    with pytest.raises(UserError, match="needs ReduceLROnPlateau"):
        decision_of("plateau").decide(1, 1.0, scheduler)
    decision_of("epoch", at=1).check(scheduler)
    decision_of("never").check(scheduler)


def test_a_lead_is_at_most_the_patience() -> None:
    decision_of("plateau", lead=2).check(scheduler_of(patience=2))
    with pytest.raises(UserError, match="type at most 2"):
        decision_of("plateau", lead=3).check(scheduler_of(patience=2))
