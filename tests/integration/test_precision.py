"""bf16 beside the entropy models, which stay in float32."""

from __future__ import annotations

import copy
import csv
from collections.abc import Callable

import pytest
import torch

from rdtrain.config.schema import Config
from rdtrain.entropy.precision import keep_entropy_models_in_float32
from rdtrain.models import build_model
from rdtrain.train import train


@pytest.mark.parametrize("name", ["bmshj2018-factorized", "mbt2018-mean", "mbt2018"])
def test_the_rate_is_computed_in_float32(name: str) -> None:
    net = build_model(name, {"N": 4, "M": 6}, 1).eval()
    x = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.autocast("cpu", torch.bfloat16):
        outside = net(x)["likelihoods"]
        assert keep_entropy_models_in_float32(net)
        inside = copy.deepcopy(net)(x)["likelihoods"]
    keys = net.state_dict().keys()
    assert keys == build_model(name, {"N": 4, "M": 6}, 1).state_dict().keys()
    for part in inside:
        assert inside[part].dtype == torch.float32
        torch.testing.assert_close(inside[part], outside[part].float(), rtol=0.1, atol=0.02)
    assert type(net.entropy_bottleneck).__name__ == "EntropyBottleneck"


@pytest.mark.slow
@pytest.mark.long
def test_bf16_compiled_with_everything(configure: Callable[..., Config]) -> None:
    options = (
        "engine.precision=bf16", "engine.ema_decay=0.9", "engine.accumulate=2", "conv.switch.trigger=epoch",
        "conv.switch.at=1", "conv.switch.moments=shadow", "ledger.every_n_steps=null",
    )  # fmt: skip
    losses = []
    for compiled in ("true", "false"):
        with open(train(configure(*options, f"engine.compile={compiled}")).metrics, newline="") as file:
            losses.append([float(row["loss/forward/unclamped"]) for row in csv.DictReader(file)])
    assert losses[0] == pytest.approx(losses[1], rel=0.05)
