"""Objects made from the configuration."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from rdtrain import build
from rdtrain.config.check import check
from rdtrain.config.compose import composed


def rates(*overrides: str, steps: int = 40) -> torch.Tensor:
    """The net's learning rate at each step of a run of 4 epochs of 10 steps."""
    raw, problems = composed(["hp.N=4", "hp.M=6", "engine.num_epochs=4", "conv.switch.trigger=never", *overrides])
    assert raw is not None and problems == []
    config, problems = check(raw)
    assert config is not None and problems == []
    optimizers = build.optimizers(config, nn.Conv2d(1, 1, 3))
    scheduler = build.schedulers(config, optimizers, epoch_steps=10)["net"]
    seen = []
    for _ in range(steps):
        seen.append(optimizers["net"].param_groups[0]["lr"])
        optimizers["net"].step()
        scheduler.step()
    return torch.tensor(seen, dtype=torch.float64)


CYCLIC = (
    "scheduler=constant", "scheduler.net={_target_: torch.optim.lr_scheduler.CyclicLR, base_lr: [1e-5], max_lr: 1e-3, "
    "step_size_up: 7, cycle_momentum: false}",
)  # fmt: skip


@pytest.mark.parametrize("scheduler", [("scheduler=onecycle",), ("scheduler=cosine",), CYCLIC])
def test_the_factor_of_the_matched_control_reaches_every_rate(scheduler: tuple[str, ...]) -> None:
    plain, matched = rates(*scheduler, "arm=plain"), rates(*scheduler, "arm=plain_matched_lr")
    assert plain.max() > 2 * plain.min()
    torch.testing.assert_close(matched, 1.41421356 * plain, rtol=1e-12, atol=0)


def test_a_one_cycle_reaches_the_rate_that_was_typed_and_lasts_the_whole_run() -> None:
    seen = rates("scheduler=onecycle", "optimizer.net.lr=2e-3", "optimizer.lr_factor=0.5")
    assert seen.max().item() == pytest.approx(1e-3)
    assert seen[-1] < 1e-7
