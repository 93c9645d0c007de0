"""Networks in several forms: functions, learning rates and the figure of a comparison."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from rdtrain.conv.layers import SpectralConv2d
from rdtrain.kernels.forms import compare_forms, form_figure, make_adam, store_kernels


def network() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(3, 4, 5), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 1))


@pytest.mark.parametrize("form", ["plain", "rfft", "dct", "attenuated", "plain-as-rfft"])
def test_a_form_changes_no_function(form: str) -> None:
    given, model = network(), network()
    store_kernels(model, form)
    assert sum(isinstance(module, SpectralConv2d) for module in model) == (0 if form.startswith("plain") else 2)
    x = torch.rand(2, 3, 12, 12)
    torch.testing.assert_close(model(x), given(x), atol=1e-6, rtol=1e-5)


def rates(form: str) -> dict[str, float]:
    model = network()
    store_kernels(model, form)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = make_adam(model, form, 1e-3).param_groups
    return {names[id(parameter)]: group["lr"] for group in groups for parameter in group["params"]}


def test_a_control_has_the_hidden_rate_where_its_transform_would_store_kernels() -> None:
    found = rates("plain-as-rfft")
    # sqrt((2 N - 1) / N) for 25 and 9 taps; a 1x1 kernel and biases are never stored in another form
    expected = {"0.weight": 1.4e-3, "2.weight": 1.3744e-3, "0.bias": 1e-3, "2.bias": 1e-3, "4.weight": 1e-3}
    assert found == pytest.approx({**expected, "4.bias": 1e-3}, rel=1e-4)
    assert set(rates("plain").values()) == set(rates("rfft").values()) == {1e-3}


def test_the_rate_of_a_control_is_what_its_transform_does_in_the_first_step() -> None:
    """Measured on networks with random gradients: lengths of the first steps agree, plain's is shorter."""
    lengths = {}
    for form in ("plain", "plain-as-rfft", "rfft"):
        squares = []
        for seed in range(20):
            model = network()
            store_kernels(model, form)
            before = copy.deepcopy(model)
            torch.manual_seed(seed)
            direction = torch.randn(4, 3, 5, 5)
            (model[0].weight * direction).sum().backward()
            make_adam(model, form, 1e-3).step()
            squares.append(float((model[0].weight - before[0].weight).detach().square().sum()))  # type: ignore[operator]
        lengths[form] = (sum(squares) / len(squares)) ** 0.5
    assert lengths["rfft"] == pytest.approx(lengths["plain-as-rfft"], rel=0.02)
    assert lengths["rfft"] / lengths["plain"] == pytest.approx(1.4, rel=0.02)


def test_a_comparison_has_a_row_an_epoch_and_a_line_a_form() -> None:
    def train(form: str, seed: int, on_epoch: object) -> None:
        for epoch in (1, 2):
            value = epoch * (10 if form == "rfft" else 1) + seed
            on_epoch(epoch, 5 * epoch, {"train": {}, "valid": {"loss": value, "gain": -value}})  # type: ignore[operator]

    rows = compare_forms(["plain", "plain-as-rfft", "rfft"], [1, 2], train)
    assert len(rows) == 3 * 2 * 2
    assert rows[-1] == {"form": "rfft", "seed": 2, "epoch": 2, "steps": 10, "loss": 22, "gain": -22}
    left, right = form_figure(rows, "title", {"loss": "error", "gain": "dB"}).axes
    assert (left.get_yscale(), right.get_yscale(), right.get_ylabel()) == ("log", "linear", "dB")
    plain, control, rfft = left.lines
    assert rfft.get_ydata().tolist() == [11.5, 21.5]
    assert control.get_color() == rfft.get_color() != plain.get_color() and control.get_linestyle() == "--"
