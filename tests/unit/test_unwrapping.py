"""The runner's model without its wrapper."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from rdtrain.runners import ImageCompressionRunner
from torch import nn


def test_the_model_is_unwrapped_once_each_time_it_is_wrapped() -> None:
    inner, calls = nn.Linear(1, 1), []

    def unwrap(model: nn.Sequential) -> nn.Module:
        calls.append(model)
        return model[0]

    runner: Any = SimpleNamespace(
        model=nn.Sequential(inner), engine=SimpleNamespace(unwrap_model=unwrap), _unwrapped=(None, None)
    )
    net = ImageCompressionRunner.net.fget
    assert all(net(runner) is inner for _ in range(3)) and len(calls) == 1
    runner.model = nn.Sequential(inner, nn.Identity())  # as after the switch, where there are several processes
    assert all(net(runner) is inner for _ in range(3)) and len(calls) == 2
