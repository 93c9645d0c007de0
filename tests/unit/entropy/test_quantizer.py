"""Quantisation in training: what the decoder is given, where the rate comes from, where gradients go."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from compressai.entropy_models import EntropyBottleneck, GaussianConditional
from compressai.models import FactorizedPrior
from tiny_codecs import CRITERION, fingerprint, image_model_names, images, spread_latents, tiny_model, trained_model
from torch import Tensor

from rdtrain import build
from rdtrain.config.schema import Config
from rdtrain.entropy.precision import keep_entropy_models_in_float32
from rdtrain.entropy.quantizer import noise_terms, use_quantizer
from rdtrain.evaluation import evaluation_copy

pytestmark = pytest.mark.usefixtures("one_thread")


def quantised(name: str, quantizer: str) -> Any:
    model = copy.deepcopy(trained_model(name)).train()
    use_quantizer(model, quantizer)
    return model


def decoder_input(model: Any, x: Tensor) -> tuple[Tensor, dict[str, Any]]:
    seen: list[Tensor] = []
    hook = model.g_s.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    torch.manual_seed(3)
    out = model(x)
    hook.remove()
    return seen[0], out["likelihoods"]


@pytest.mark.parametrize("name", image_model_names())
def test_every_model_decodes_in_training_what_it_decodes_when_evaluated(name: str) -> None:
    stock, x = tiny_model(name), images(1, 64, 64)
    spread_latents(stock, 8)
    with torch.no_grad():
        y_hat, rounded = decoder_input(stock.eval(), x)
        _, noisy = decoder_input(copy.deepcopy(stock).train(), x)
        for quantizer, same in (("ste", rounded), ("mixed", noisy)):
            model = copy.deepcopy(stock).train()
            assert use_quantizer(model, quantizer)
            given, likelihoods = decoder_input(model, x)
            assert torch.equal(given, y_hat)
            # z is under noise exactly the stock model's; the rate of y also depends on z_hat, which is rounded
            last = "z" if "z" in likelihoods else "y"
            assert torch.equal(likelihoods[last], same[last])
            if quantizer == "ste":
                assert torch.equal(likelihoods["y"], rounded["y"])


@pytest.mark.parametrize("quantizer", ["ste", "mixed"])
def test_a_bottleneck_by_hand(quantizer: str) -> None:
    torch.manual_seed(0)
    stock = EntropyBottleneck(3)
    stock.quantiles.data[:, 0, 1] = torch.tensor([0.2, -1.4, 0.0])
    model = copy.deepcopy(stock)
    use_quantizer(torch.nn.Sequential(model), quantizer)
    y = (5 * torch.randn(2, 3, 4, 4)).requires_grad_()
    median = np.array([0.2, -1.4, 0.0], dtype=np.float32).reshape(1, 3, 1, 1)
    torch.manual_seed(1)
    y_hat, likelihood = model(y)
    np.testing.assert_array_equal(y_hat.detach().numpy(), np.round(y.detach().numpy() - median) + median)
    torch.manual_seed(1)
    reference = stock(y.detach(), training=quantizer == "mixed")[1]
    assert torch.equal(likelihood, reference)
    upstream = torch.randn_like(y)
    (gradient,) = torch.autograd.grad(y_hat, y, upstream, retain_graph=True)
    assert torch.equal(gradient, upstream)  # straight through
    bits = -likelihood.log2().sum()
    bits.backward()
    assert y.grad is not None and y.grad.abs().max() > 0.01  # the rate moves the latents as well
    assert model.quantiles.grad is None  # the aux loss alone moves the medians


def test_a_conditional_subtracts_its_mean() -> None:
    model = GaussianConditional(None).train()
    use_quantizer(torch.nn.Sequential(model), "ste")
    y, means = torch.randn(1, 2, 5, 5) * 4, torch.randn(1, 2, 5, 5).requires_grad_()
    y_hat, likelihood = model(y, torch.ones_like(y), means=means)
    expected = np.round((y - means.detach()).numpy()) + means.detach().numpy()
    np.testing.assert_array_equal(y_hat.detach().numpy(), expected)
    assert not y_hat.requires_grad  # the mean's gradient is 0, as in CompressAI's quantize_ste(y - means) + means
    (gradient,) = torch.autograd.grad(likelihood.log().sum(), means)
    assert gradient.any()


@pytest.mark.parametrize("name", ["bmshj2018-factorized", "mbt2018-mean"])
@pytest.mark.parametrize("quantizer", ["ste", "mixed"])
def test_evaluation_coding_and_export_know_nothing_of_it(name: str, quantizer: str) -> None:
    x = images(1, 64, 64)
    stock, changed = (evaluation_copy(quantised(name, kind)) for kind in ("noise", quantizer))
    with torch.no_grad():
        assert torch.equal(stock(x)["x_hat"], changed(x)["x_hat"])
        assert stock.compress(x)["strings"] == changed.compress(x)["strings"]
    for key, value in stock.state_dict().items():
        assert torch.equal(value, changed.state_dict()[key])
    if name == "bmshj2018-factorized":
        FactorizedPrior.from_state_dict(changed.state_dict())


@pytest.mark.parametrize("quantizer", ["ste", "mixed"])
def test_terms_under_noise_are_those_of_the_stock_model(quantizer: str) -> None:
    x, model = images(2, 64, 64), quantised("mbt2018-mean", quantizer)
    before, state = fingerprint(model), torch.get_rng_state()
    torch.manual_seed(5)
    during = torch.get_rng_state()
    terms = noise_terms(CRITERION, model, x)
    assert torch.equal(torch.get_rng_state(), during)
    assert fingerprint(model) == before
    expected = CRITERION(quantised("mbt2018-mean", "noise")(x), x)
    for name, value in terms.items():
        assert value.item() == expected[name].item()
    torch.set_rng_state(state)
    assert CRITERION(model(x), x)["mse"].item() != terms["mse"].item()


def test_bf16_keeps_its_entropy_models_in_float32() -> None:
    model = quantised("bmshj2018-factorized", "mixed")
    keep_entropy_models_in_float32(model)
    x = images(1, 64, 64)
    torch.manual_seed(0)
    expected, _ = model.entropy_bottleneck(model.g_a(x).bfloat16().float())
    with torch.autocast("cpu", torch.bfloat16):
        y_hat, likelihoods = model.entropy_bottleneck(model.g_a(x))
    assert y_hat.dtype == likelihoods.dtype == torch.float32
    assert (expected - y_hat).abs().mean() < 0.1


def test_noise_changes_nothing_and_a_model_without_entropy_model_is_refused() -> None:
    model = tiny_model("bmshj2018-factorized")
    assert use_quantizer(model, "noise") == []
    assert type(model.entropy_bottleneck) is EntropyBottleneck
    with pytest.raises(ValueError, match="no entropy model"):
        use_quantizer(torch.nn.Conv2d(1, 1, 1), "ste")


def test_a_configuration_chooses(configure: Callable[..., Config]) -> None:
    from rdtrain.models import complete

    x = images(1, 64, 64)
    for quantizer in ("noise", "ste", "mixed"):
        model = build.model(complete(configure(f"model.quantizer={quantizer}")), None).train()
        spread_latents(model, 8) if hasattr(model.g_a[-1], "weight") else None
        with torch.no_grad():
            trained, _ = decoder_input(model, x)
            evaluated, _ = decoder_input(model.eval(), x)
        assert torch.equal(trained, evaluated) == (quantizer != "noise")
