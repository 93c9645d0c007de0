"""GDN layers that train in blocks compute what CompressAI's do."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from compressai.layers import GDN, GDN1
from torch import Tensor, nn

from rdtrain import gdn
from rdtrain.gdn import normalize_in_blocks


def layer(inverse: bool, channels: int = 5, kind: type[GDN] = GDN) -> Any:
    torch.manual_seed(3)
    made = kind(channels, inverse=inverse)
    with torch.no_grad():
        made.gamma.add_(0.1 * torch.rand(channels, channels))  # every channel looks at every other one
        made.beta.mul_(1 + torch.rand(channels))
        made.gamma[0, 1] = 1e-7  # below the bound, where the gradient may be stopped
    return made


def images(*shape: int, channels_last: bool = True) -> Tensor:
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(1))
    return x.contiguous(memory_format=torch.channels_last) if channels_last else x


def passed(net: nn.Module, x: Tensor) -> list[Tensor]:
    x = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    net.zero_grad()
    y = net(x)
    torch.autograd.backward(y, torch.sin(torch.arange(y.numel(), dtype=y.dtype)).view_as(y))
    return [y.detach(), *(value.grad for value in (x, *net.parameters()) if value.grad is not None)]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Images that went through blocks, by the number of their pixels."""
    found: list[int] = []
    blocks = gdn._blocks

    def counted(*maps: Tensor) -> Any:
        found.append(maps[0].shape[-2] * maps[0].shape[-1])
        return blocks(*maps)

    monkeypatch.setattr(gdn, "_blocks", counted)
    return found


@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize("shape", [(1, 5, 1, 1), (2, 5, 7, 9), (3, 5, 40, 33)])  # less, and more than a block
def test_values_and_gradients_are_compressais(inverse: bool, shape: tuple[int, ...], calls: list[int]) -> None:
    stock = layer(inverse)
    ours = copy.deepcopy(stock)
    assert normalize_in_blocks(ours) == [""]
    assert list(ours.state_dict()) == list(stock.state_dict())
    expected, found = (passed(net, images(*shape)) for net in (stock, ours))
    assert len(calls) == 2 and len(found) == 4
    for a, b in zip(expected, found, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-5, atol=1e-5 * a.abs().max().item())
    assert found[0].is_contiguous(memory_format=torch.channels_last)
    assert found[1].is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("inverse", [False, True])
def test_the_gradient_is_that_of_finite_differences(inverse: bool) -> None:
    net = layer(inverse, channels=3).double()
    x = images(1, 3, 2, 2).double()
    beta, gamma = net.beta_reparam(net.beta).detach(), net.gamma_reparam(net.gamma).detach()
    inputs = [value.requires_grad_() for value in (x, beta, gamma)]
    assert torch.autograd.gradcheck(lambda *values: gdn._Normalization.apply(*values, inverse), inputs)


def test_what_is_not_for_blocks_is_left_to_compressai(calls: list[int]) -> None:
    net = layer(False)
    normalize_in_blocks(net)
    with torch.no_grad():
        net(images(1, 5, 4, 4))
    with torch.autocast("cpu", torch.bfloat16):
        net(images(1, 5, 4, 4))
    net(images(1, 5, 4, 4, channels_last=False))
    assert calls == []
    net(images(1, 5, 4, 4))
    assert calls == [16]


def test_only_gdn_itself_is_changed_and_only_once() -> None:
    net = nn.Sequential(layer(False), layer(True), layer(False, kind=GDN1), nn.Conv2d(5, 5, 1))
    assert normalize_in_blocks(net) == ["0", "1"]
    kind = type(net[0])
    assert normalize_in_blocks(copy.deepcopy(net)) == ["0", "1"] and type(net[0]) is kind


@pytest.mark.slow
def test_a_compiled_layer_is_one_graph() -> None:
    net = layer(False)
    normalize_in_blocks(net)
    torch._dynamo.reset()
    explained = torch._dynamo.explain(net)(images(1, 5, 4, 4))
    assert (explained.graph_count, explained.graph_break_count) == (1, 0), explained.break_reasons
