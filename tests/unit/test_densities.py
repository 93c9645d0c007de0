from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from compressai.entropy_models import EntropyBottleneck
from numpy.typing import NDArray
from tiny_codecs import tiny_model, trained_model

from rdtrain.densities import bottlenecks, density, likelihood

Array = NDArray[np.float64]


def _logits(bottleneck: Any, channel: int, x: Array) -> Array:
    """Ballé et al. 2018, equations 30 to 33, written anew in numpy."""
    values = x[None]
    for i in range(len(bottleneck.filters) + 1):
        matrix, bias = (p[i][channel].detach().double().numpy() for p in (bottleneck.matrices, bottleneck.biases))
        values = np.logaddexp(0, matrix) @ values + bias
        if i < len(bottleneck.filters):
            values = values + np.tanh(bottleneck.factors[i][channel].detach().double().numpy()) * np.tanh(values)
    return values[0]


def _cdf(logits: Array) -> Array:
    return 1 / (1 + np.exp(-logits))


@pytest.fixture(scope="module")
def bottleneck() -> EntropyBottleneck:
    return trained_model("bmshj2018-factorized").entropy_bottleneck


def test_densities_are_differences_of_the_cdf(bottleneck: EntropyBottleneck) -> None:
    channels = np.array([3, 0, 7])
    shown = density(bottleneck, channels)
    for row, channel in enumerate(channels):
        lower, upper = (_logits(bottleneck, channel, shown.x[row] + half) for half in (-0.5, 0.5))
        # In the upper half 1 - F does not cancel.
        exact = np.where(lower + upper > 0, _cdf(-lower) - _cdf(-upper), _cdf(upper) - _cdf(lower))
        np.testing.assert_allclose(shown.likelihood[row], exact, rtol=1e-9)
        np.testing.assert_array_equal(shown.learned[row], bottleneck.quantiles[channel, 0].detach().double().numpy())
        targets = np.array([np.log(shown.tail_mass / (2 - shown.tail_mass)), 0, np.log(2 / shown.tail_mass - 1)])
        np.testing.assert_allclose(_logits(bottleneck, channel, shown.exact[row]), targets, atol=1e-6)
        assert shown.x[row][0] == min(shown.learned[row][0], shown.exact[row][0])
        assert shown.x[row][-1] == max(shown.learned[row][2], shown.exact[row][2])
    assert shown.tail_mass == pytest.approx(1e-9, rel=1e-5)


def test_the_upper_tail_is_not_lost(bottleneck: EntropyBottleneck) -> None:
    """CompressAI's own float32 evaluation gives zero there."""
    far = density(bottleneck, np.array([0])).exact[0, 2]
    x = torch.full((bottleneck.channels, 1), float(far), dtype=torch.float64)
    theirs, _, _ = bottleneck._likelihood(x.float()[:, None])
    exact_copy = EntropyBottleneck(bottleneck.channels).double()
    exact_copy.load_state_dict(bottleneck.state_dict(), strict=False)
    ours = likelihood(exact_copy, x).detach()
    assert 1e-12 < ours[0].item() < 1e-8
    assert theirs[0].item() == 0


def test_probabilities_add_up_to_one(bottleneck: EntropyBottleneck) -> None:
    wide = torch.arange(-3000, 3000, dtype=torch.float64).expand(bottleneck.channels, -1)
    exact_copy = EntropyBottleneck(bottleneck.channels).double()
    exact_copy.load_state_dict(bottleneck.state_dict(), strict=False)
    total = likelihood(exact_copy, wide + 0.3).sum(1).detach().numpy()
    np.testing.assert_allclose(total, 1, atol=1e-9)


def test_the_model_and_the_random_state_stay(bottleneck: EntropyBottleneck) -> None:
    before = {name: value.clone() for name, value in bottleneck.state_dict().items()}
    state = torch.get_rng_state()
    density(bottleneck, np.array([1]))
    assert torch.equal(torch.get_rng_state(), state)
    for name, value in bottleneck.state_dict().items():
        assert torch.equal(value, before[name])
        assert value.dtype == before[name].dtype


def test_every_bottleneck_has_its_name() -> None:
    assert list(bottlenecks(tiny_model("bmshj2018-factorized"))) == ["entropy_bottleneck"]
    assert list(bottlenecks(tiny_model("elic2022-official"))) == ["latent_codec.hyper.entropy_bottleneck"]
    assert bottlenecks(torch.nn.Conv2d(1, 1, 1)) == {}
