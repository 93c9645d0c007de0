"""Convolutions of a network as two smaller ones."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from rdtrain.factorisation.latency import latency_rows
from rdtrain.factorisation.network import channels_for, composed_kernel, factorise_kernel, replace_convs, sides


def test_how_a_side_is_divided() -> None:
    assert [sides(*pair) for pair in ((5, 1), (5, 2), (7, 1), (3, 1), (3, 2))] == [
        (3, 3),
        (3, 2),
        (4, 4),
        (2, 2),
        (3, 1),
    ]


@pytest.mark.parametrize("stride", [1, 2])
def test_composition_is_two_convolutions(stride: int) -> None:
    a, b = torch.randn(4, 3, 3, 3).double(), torch.randn(5, 4, 2, 2).double()
    x = torch.randn(1, 3, 16, 16).double()
    two = nn.functional.conv2d(nn.functional.conv2d(x, a, stride=stride), b)
    torch.testing.assert_close(nn.functional.conv2d(x, composed_kernel(a, b, stride), stride=stride), two)


LAYERS = [
    nn.Conv2d(4, 6, 5, 2, 2),
    nn.Conv2d(4, 6, 5, 2, 1, bias=False),
    nn.Conv2d(4, 6, 5, 1, 2),
    nn.ConvTranspose2d(4, 6, 5, 2, 2, 1),
    nn.ConvTranspose2d(4, 6, 5, 1, 2, bias=False),
]


@pytest.mark.parametrize("layer", LAYERS, ids=str)
def test_a_kernel_that_is_a_product_is_found_and_the_layer_stays_what_it_was(layer: nn.Conv2d) -> None:
    torch.manual_seed(0)
    layer = layer.double()
    stride, (first, second) = layer.stride[0], layer.weight.shape[:2]
    k1, k2 = sides(5, stride)
    kernel = composed_kernel(torch.randn(3, second, k1, k1).double(), torch.randn(first, 3, k2, k2).double(), stride)
    nn.init.zeros_(layer.weight).data.add_(kernel)
    model = nn.Sequential(nn.Identity(), layer).requires_grad_(False)
    x = torch.randn(2, 4, 13, 10).double()
    before = model(x)
    cost = 3.01 * (second * k1**2 + first * k2**2) / kernel.numel()
    (replaced,) = replace_convs(model.double(), [], 5, cost, 400, seed=1)
    model.double()
    assert (replaced.name, replaced.middle) == ("1", 3) and isinstance(model[1], nn.Sequential)
    assert replaced.direct == kernel.numel() and replaced.multiply_adds == 3 * (second * k1**2 + first * k2**2)
    assert replaced.error < 1e-2
    difference = (model(x) - before).norm() / before.norm()
    assert difference < 3 * replaced.error + 1e-6


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_pair_has_the_type_of_the_one(dtype: torch.dtype) -> None:
    model = nn.Sequential(nn.Conv2d(2, 2, 5, padding=2)).to(dtype).requires_grad_(False)
    replace_convs(model, [], 5, 1.0, 3, seed=1)
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}
    assert model(torch.zeros(1, 2, 8, 8, dtype=dtype)).dtype == dtype


def test_a_kernel_of_zeros_stays() -> None:
    model = nn.Sequential(nn.Conv2d(2, 2, 5))
    nn.init.zeros_(model[0].weight)
    assert replace_convs(model, [], 5, 1.0, 3, seed=1) == []


def test_a_transposed_convolution_of_two_output_paddings_stays() -> None:
    model = nn.Sequential(nn.ConvTranspose2d(2, 2, 5, 2, 2, (1, 0)))
    assert replace_convs(model, [], 5, 1.0, 3, seed=1) == [] and isinstance(model[0], nn.ConvTranspose2d)


def test_a_second_kernel_of_one_tap_is_found_as_singular_vectors() -> None:
    w = torch.randn(8, 4, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    a, b = factorise_kernel(w, 2, 3, 200, seed=0)
    assert b.shape == (8, 3, 1, 1)
    lost = np.linalg.svd(w.flatten(1).numpy(), compute_uv=False)[3:]
    assert float((composed_kernel(a, b, 2) - w).square().sum()) == pytest.approx(float((lost**2).sum()), rel=1e-6)


def test_a_cost_is_kept() -> None:
    for cost in (0.25, 0.5, 1.0):
        middle = channels_for((32, 16, 5, 5), 2, cost)
        assert middle * (16 * 9 + 32 * 4) <= cost * 32 * 16 * 25 < (middle + 1) * (16 * 9 + 32 * 4)
    assert channels_for((1, 1, 5, 5), 1, 0.1) == 1


def test_only_what_is_chosen_and_large_enough_is_replaced() -> None:
    model = nn.ModuleDict({"a": nn.Conv2d(3, 4, 5), "b": nn.Conv2d(3, 4, 5), "small": nn.Conv2d(3, 4, 3)})
    model["grouped"] = nn.Conv2d(4, 4, 5, groups=2)
    assert [one.name for one in replace_convs(model, ["b", "small", "grouped"], 5, 0.5, 2, 0)] == ["b"]
    assert isinstance(model["b"], nn.Sequential) and isinstance(model["a"], nn.Conv2d)


def test_latencies() -> None:
    rows = latency_rows(2, 16, 2, torch.device("cpu"))
    costs = {row["convolutions"]: (row["reach"], row["multiply_adds"]) for row in rows}
    assert costs == {
        "7x7": (7, 49), "7x1, 1x7": (7, 14), "3x3, 3x3, 3x3": (7, 27), "5x5": (5, 25), "5x1, 1x5": (5, 10),
        "3x3, 3x3": (5, 18),
    }  # fmt: skip
    assert all(row["milliseconds"] > 0 for row in rows)
    assert [row["of_direct"] for row in rows if row["convolutions"] in ("7x7", "5x5")] == [1, 1]
