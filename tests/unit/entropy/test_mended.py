"""Entropy bottlenecks that train faster are still CompressAI's."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from rdtrain.conv.convert import to_spectral
from rdtrain.conv.transforms import Rfft
from rdtrain.entropy.mended import mend_bottlenecks
from rdtrain.entropy.precision import keep_entropy_models_in_float32
from rdtrain.entropy.quantizer import use_quantizer
from rdtrain.entropy.stable import use_stable_likelihood
from rdtrain.gdn import normalize_in_blocks
from rdtrain.models import build_model

MODELS = {
    "bmshj2018-factorized": {"N": 4, "M": 6},
    "bmshj2018-hyperprior": {"N": 4, "M": 6},
    "mbt2018": {"N": 4, "M": 6},
    "cheng2020-anchor": {"N": 4},
}


def images(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(1))


def passed(net: Any, x: Tensor) -> list[Tensor]:
    """Everything that a training pass gives: reconstruction, likelihoods, gradients."""
    net.train().zero_grad()
    torch.manual_seed(7)
    out = net(x)
    (out["x_hat"].sum() + sum(value.log().sum() for value in out["likelihoods"].values())).backward()
    gradients = [parameter.grad for parameter in net.parameters() if parameter.grad is not None]
    return [out["x_hat"], *out["likelihoods"].values(), *gradients]


def equal(a: list[Tensor], b: list[Tensor]) -> bool:
    return all(torch.equal(one, other) for one, other in zip(a, b, strict=True))


@pytest.mark.parametrize("name", MODELS)
def test_mended_bottlenecks_compute_what_compressai_does(name: str) -> None:
    stock = build_model(name, MODELS[name], 1)
    ours = copy.deepcopy(stock)
    assert mend_bottlenecks(ours) == ["entropy_bottleneck"]
    assert type(ours.entropy_bottleneck) is not type(stock.entropy_bottleneck)
    assert list(ours.state_dict()) == list(stock.state_dict())
    x = images(2, 3, 64, 64)
    expected, found = (passed(net, x) for net in (stock, ours))
    assert len(expected) == len(found) > 20
    for a, b in zip(expected, found, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-5, atol=1e-5 * a.abs().max().item())
    with torch.no_grad():
        expected, found = ([out["x_hat"], *out["likelihoods"].values()] for out in (stock.eval()(x), ours.eval()(x)))
    assert equal(expected, found)
    assert all(net.update(force=True) for net in (stock, ours))
    assert all(torch.equal(a, b) for a, b in zip(stock.buffers(), ours.buffers(), strict=True))


@pytest.mark.parametrize("change", ["ste", "mixed", "stable", "fp32"])
def test_other_changes_of_the_bottleneck_stay_in_force(change: str) -> None:
    stock = build_model("bmshj2018-factorized", {"N": 4, "M": 6}, 1)
    with torch.no_grad():
        stock.g_a[-1].weight.mul_(300)  # latents in the upper tail, where a stable likelihood differs
    changed = copy.deepcopy(stock)
    if change == "stable":
        use_stable_likelihood(changed)
    elif change == "fp32":
        keep_entropy_models_in_float32(changed)
    else:
        use_quantizer(changed, change)
    x = images(1, 3, 64, 64)
    ours = copy.deepcopy(changed)
    mend_bottlenecks(ours)
    with torch.autocast("cpu", torch.bfloat16, enabled=change == "fp32"):
        without, expected, found = (passed(net, x)[:2] for net in (stock, changed, ours))
    for a, b in zip(expected, found, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-5, atol=2e-7)
    assert not equal(without, expected)


def test_any_number_of_dimensions_is_permuted_as_compressai_does_it() -> None:
    stock = build_model("bmshj2018-factorized", {"N": 4, "M": 6}, 1).eval()
    ours = copy.deepcopy(stock)
    mend_bottlenecks(ours)
    for shape in [(3, 6), (2, 6, 5), (2, 6, 3, 4), (1, 6, 2, 3, 4)]:
        latents = 5 * images(*shape)
        with torch.no_grad():
            pairs = list(zip(stock.entropy_bottleneck(latents), ours.entropy_bottleneck(latents), strict=True))
        assert all(torch.equal(a, b) and a.is_contiguous() == b.is_contiguous() for a, b in pairs)


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_a_model_is_one_graph(name: str) -> None:
    net = build_model(name, MODELS[name], 1)
    mend_bottlenecks(net)
    torch._dynamo.reset()
    explained = torch._dynamo.explain(net)(images(1, 3, 64, 64))
    assert (explained.graph_count, explained.graph_break_count) == (1, 0), explained.break_reasons


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_what_a_run_compiles_is_one_graph(name: str) -> None:
    """With spectral kernels, channels last, GDN in blocks, and the entropy models in float32 under bf16."""
    net = build_model(name, MODELS[name], 1)
    assert to_spectral(net, Rfft())
    mend_bottlenecks(net)
    normalize_in_blocks(net)
    keep_entropy_models_in_float32(net)
    net.to(memory_format=torch.channels_last)
    torch._dynamo.reset()
    x = images(1, 3, 64, 64).contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        explained = torch._dynamo.explain(net)(x)
    assert (explained.graph_count, explained.graph_break_count) == (1, 0), explained.break_reasons


@pytest.mark.slow
def test_compressai_itself_breaks_the_graph() -> None:
    torch._dynamo.reset()
    net = build_model("bmshj2018-factorized", MODELS["bmshj2018-factorized"], 1)
    assert (
        torch._dynamo.explain(net)(images(1, 3, 64, 64)).graph_break_count > 0
    )  # else _Mended.forward has had its day
