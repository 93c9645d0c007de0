from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from compressai.models import FactorizedPrior
from tiny_codecs import (
    CRITERION,
    TRAINED,
    fingerprint,
    images,
    spread_latents,
    tiny_model,
    trained_model,
    without_times,
)
from torch import nn
from torch.optim.swa_utils import AveragedModel

from rdtrain.conv.convert import to_spectral
from rdtrain.conv.transforms import make_transform
from rdtrain.evaluation import evaluate_image, evaluation_copy, unwrap
from rdtrain.probes import LatentOverflow

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("name", TRAINED)
def test_the_live_model_is_not_touched(name: str) -> None:
    model = trained_model(name)
    CRITERION(model(images(1, 64, 64)), images(1, 64, 64))["loss"].backward()  # gradients of a step in progress
    before, random_state = fingerprint(model), torch.get_rng_state()
    duplicate = evaluation_copy(model)
    evaluate_image(duplicate, images(1, 64, 64), CRITERION)
    assert fingerprint(model) == before
    assert torch.equal(torch.get_rng_state(), random_state)
    assert model.training
    assert not any(module.training for module in duplicate.modules())
    assert not any(p.requires_grad or p.grad is not None for p in duplicate.parameters())
    with torch.no_grad():
        duplicate.g_a[0].weight.fill_(0)
    assert fingerprint(model) == before
    model.zero_grad()


def test_quantiles_of_the_copy_meet_their_targets() -> None:
    model = trained_model("bmshj2018-hyperprior")
    duplicate = evaluation_copy(model)
    off = duplicate.aux_loss().item() / duplicate.entropy_bottleneck.quantiles.numel()
    assert off < 0.01
    assert model.aux_loss().item() / duplicate.entropy_bottleneck.quantiles.numel() > 0.1  # the live one's do not
    assert duplicate.entropy_bottleneck.quantized_cdf.numel() > 0
    assert duplicate.gaussian_conditional.quantized_cdf.shape[0] == 64


def test_the_copy_loads_in_stock_compressai_and_compresses_alike(factorized: Any) -> None:
    stock = FactorizedPrior.from_state_dict({name: v.clone() for name, v in factorized.state_dict().items()}).eval()
    row = evaluate_image(factorized, x := images(1, 64, 96, seed=3), CRITERION)
    assert stock.compress(x)["strings"] == row.strings
    assert len(set(row.strings[0][0])) > 8  # not the string of a latent that is zero everywhere


def test_a_copy_of_a_copy_is_the_same(factorized: Any) -> None:
    again = evaluation_copy(factorized)
    x = images(1, 64, 64)
    first, second = (evaluate_image(model, x, CRITERION) for model in (factorized, again))
    assert first.strings == second.strings
    assert without_times(first.metrics) == without_times(second.metrics)


def test_wrapped_models_are_unwrapped() -> None:
    model = tiny_model("bmshj2018-factorized")
    assert unwrap(model) is model
    average = AveragedModel(model)
    assert unwrap(average) is average.module
    assert unwrap(nn.DataParallel(average)) is average.module
    assert isinstance(evaluation_copy(average), FactorizedPrior)


def test_spectral_models_are_evaluated_with_plain_kernels() -> None:
    model = tiny_model("bmshj2018-factorized")
    spread_latents(model, 20)
    x = images(1, 64, 64)
    plain = evaluate_image(evaluation_copy(model), x, CRITERION)
    to_spectral(model, make_transform("rfft"))
    before = fingerprint(model)
    duplicate = evaluation_copy(model)
    assert fingerprint(model) == before
    assert any(name.endswith("weight_transformed") for name in model.state_dict())
    assert set(duplicate.state_dict()) == set(tiny_model("bmshj2018-factorized").state_dict())
    spectral = evaluate_image(duplicate, x, CRITERION)
    assert spectral.metrics["bpp/real"] == pytest.approx(plain.metrics["bpp/real"], rel=0.01)
    assert spectral.metrics["mse/real/clamped"] == pytest.approx(plain.metrics["mse/real/clamped"], rel=1e-4)


def test_a_density_too_wide_for_a_table_is_refused() -> None:
    model = tiny_model("bmshj2018-factorized")
    with torch.no_grad():
        for matrix in model.entropy_bottleneck.matrices:
            matrix.sub_(2.0)  # slower logits, wider density
    with pytest.raises(LatentOverflow, match="entropy_bottleneck has learned a density over"):
        evaluation_copy(model)


def test_a_model_of_nans_is_an_error_and_not_a_hang() -> None:
    model = tiny_model("bmshj2018-factorized")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(math.nan)
    with pytest.raises(ValueError, match="non-finite"):
        evaluation_copy(model)


@pytest.mark.parametrize("name", ["bmshj2018-hyperprior", "mbt2018-mean"])
def test_strings_do_not_depend_on_where_channels_lie(name: str) -> None:
    """Scales that are rounded otherwise could fall to another table, and nobody else could decode."""
    model = evaluation_copy(trained_model(name))
    stock = copy.deepcopy(model).to(memory_format=torch.contiguous_format)
    x = images(1, 128, 192, seed=5)
    assert not model.g_a[2].weight.is_contiguous() and stock.g_a[2].weight.is_contiguous()
    strings = [one.compress(x)["strings"] for one in (model, stock)]
    assert strings[0] == strings[1]
