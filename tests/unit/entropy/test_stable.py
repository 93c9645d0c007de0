"""The upper tail of the likelihood: lost in float32, measured, and corrected."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from compressai.entropy_models import EntropyBottleneck
from compressai.models import FactorizedPrior
from numpy.typing import NDArray
from tiny_codecs import images, tiny_model, trained_model

from rdtrain.entropy.stable import both_bits, interval_probability, lost_from, use_stable_likelihood
from rdtrain.evaluation import evaluation_copy

pytestmark = pytest.mark.usefixtures("one_thread")


def exact(bottleneck: Any, x: NDArray[np.float64]) -> NDArray[np.float64]:
    """F(x + 1/2) - F(x - 1/2) of channel 0 with Ballé et al. 2018, equations 30 to 33, in numpy's longest floats."""

    def logit(place: NDArray[Any]) -> NDArray[Any]:
        values = place[None].astype(np.longdouble)
        for i in range(5):
            matrix, bias = (p[i][0].detach().double().numpy() for p in (bottleneck.matrices, bottleneck.biases))
            values = np.logaddexp(0, matrix).astype(np.longdouble) @ values + bias
            if i < 4:
                values = values + np.tanh(bottleneck.factors[i][0].detach().double().numpy()) * np.tanh(values)
        return values[0]

    lower, upper = logit(x - 0.5), logit(x + 0.5)
    sign = np.where(lower + upper > 0, -1, 1)
    return np.abs(1 / (1 + np.exp(-sign * upper)) - 1 / (1 + np.exp(-sign * lower))).astype(np.float64)


@pytest.fixture(scope="module")
def fresh() -> EntropyBottleneck:
    torch.manual_seed(0)
    return EntropyBottleneck(2)


@pytest.fixture(scope="module")
def corrected(fresh: EntropyBottleneck) -> EntropyBottleneck:
    model = copy.deepcopy(fresh)
    assert use_stable_likelihood(torch.nn.Sequential(model)) == ["0"]
    return model


def values(model: EntropyBottleneck, x: NDArray[np.float64]) -> NDArray[np.float64]:
    given = torch.from_numpy(x).float().expand(2, 1, -1)
    return model._likelihood(given)[0][0, 0].detach().double().numpy()


def test_stock_loses_its_upper_tail_and_the_correction_has_it(
    fresh: EntropyBottleneck, corrected: EntropyBottleneck
) -> None:
    x = np.array([-180.0, 180.0])
    stock, ours, truth = values(fresh, x), values(corrected, x), exact(fresh, x)
    assert stock[0] == pytest.approx(truth[0], rel=1e-3)
    assert stock[1] == 0 < 1e-10 < truth[1]
    np.testing.assert_allclose(ours, truth, rtol=1e-3)


def test_parity_below_the_median_and_in_the_middle(fresh: EntropyBottleneck, corrected: EntropyBottleneck) -> None:
    below = np.linspace(-300, -5, 600)
    np.testing.assert_array_equal(values(fresh, below), values(corrected, below))
    middle = np.linspace(-20, 20, 401)
    np.testing.assert_allclose(values(corrected, middle), values(fresh, middle), rtol=2e-5)
    np.testing.assert_allclose(values(corrected, middle), exact(fresh, middle), rtol=2e-5)


def test_the_gradient_of_a_far_latent_is_back(fresh: EntropyBottleneck, corrected: EntropyBottleneck) -> None:
    def gradient(model: EntropyBottleneck, x: float) -> float:
        y = torch.full((2, 1, 1), x, requires_grad=True)
        torch.log(model.likelihood_lower_bound(model._likelihood(y)[0])).sum().backward()
        assert y.grad is not None
        return y.grad[0].item()

    h = 1e-3
    slope = np.diff(np.log(exact(fresh, np.array([140 - h, 140 + h])))).item() / (2 * h)
    assert gradient(corrected, 140.0) == pytest.approx(slope, rel=0.01)
    assert gradient(fresh, -140.0) == pytest.approx(-slope, rel=0.1)
    assert gradient(fresh, 200.0) == 0  # nothing pulls it back
    assert gradient(corrected, 170.0) < -0.05


def test_an_interval_around_the_median_has_its_probability() -> None:
    """Where both logits are opposite, a sign of 0 would leave nothing of the probability."""
    lower, upper = torch.tensor([-2.0, -30.0, 28.0]), torch.tensor([2.0, -28.0, 30.0])
    expected = [np.tanh(1.0), np.exp(-28.0) - np.exp(-30.0), np.exp(-28.0) - np.exp(-30.0)]
    np.testing.assert_allclose(interval_probability(lower, upper).numpy(), expected, rtol=1e-6)


def test_the_loss_is_measured(fresh: EntropyBottleneck, corrected: EntropyBottleneck) -> None:
    x = np.array([-160.0, 0.0, 100.0, 160.0, 180.0])
    for model in (fresh, corrected):  # what stock arithmetic does, whichever of the two is asked
        theirs, wide = both_bits(model, torch.from_numpy(x).expand(2, -1))
        np.testing.assert_allclose(wide[0], -np.log2(np.maximum(exact(fresh, x), 1e-9)), rtol=1e-6)
        np.testing.assert_allclose(theirs[0, :2], wide[0, :2], rtol=1e-4)
        assert theirs[0, 4] == pytest.approx(-np.log2(1e-9))
    wider = copy.deepcopy(fresh)
    wider.quantiles.data[:, 0] = torch.tensor([-200.0, 0.0, 200.0])
    (first, _) = lost_from(wider)
    near, far = np.arange(first - 12, first - 5), np.arange(first, first + 1)
    stock, truth = values(fresh, np.concatenate([near, far])), exact(fresh, np.concatenate([near, far]))
    error = np.abs(stock / truth - 1)
    assert error[-1] > 0.01
    assert np.median(error[:-1]) < 0.01
    assert np.isnan(lost_from(fresh)).all()  # whose quantiles, at 10, have not been found yet


def test_exports_stay_stock_loadable_and_decode(tmp_path: Path) -> None:
    trained = copy.deepcopy(trained_model("bmshj2018-factorized"))
    plain = evaluation_copy(trained)
    use_stable_likelihood(trained)
    ours = evaluation_copy(trained)
    assert ours.state_dict().keys() == plain.state_dict().keys()
    torch.save(ours.state_dict(), tmp_path / "model.pth")
    stock = FactorizedPrior.from_state_dict(torch.load(tmp_path / "model.pth", weights_only=True)).eval()
    assert type(stock.entropy_bottleneck) is EntropyBottleneck
    x = images(1, 64, 64)
    with torch.no_grad():
        coded = ours.compress(x)
        assert coded["strings"] == stock.compress(x)["strings"]
        here, there = (model.decompress(coded["strings"], coded["shape"])["x_hat"] for model in (ours, stock))
        assert torch.equal(here, there)
        np.testing.assert_allclose(ours(x)["likelihoods"]["y"], plain(x)["likelihoods"]["y"], rtol=1e-4)


def test_models_without_bottleneck_are_left() -> None:
    assert use_stable_likelihood(torch.nn.Conv2d(1, 1, 1)) == []
    assert use_stable_likelihood(tiny_model("mbt2018-mean")) == ["entropy_bottleneck"]
