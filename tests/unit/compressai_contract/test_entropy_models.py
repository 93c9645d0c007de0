"""What rdtrain and its documentation take for granted about CompressAI's entropy models, as they are installed.

A failure here is a change in CompressAI. Each message says what it means for users and where to look.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from compressai.entropy_models import EntropyBottleneck, GaussianConditional
from compressai.entropy_models.entropy_models import pmf_to_quantized_cdf
from compressai.models import get_scale_table, google
from compressai.ops import LowerBound
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.special import erfc, expit
from tiny_codecs import CRITERION, images, trained_model

from rdtrain.evaluation import evaluate_image, evaluation_copy

pytestmark = pytest.mark.usefixtures("one_thread")

TOTAL = 2**16
FAR = [0, 1, -1, 500, -500, 10**5, -(10**5)]
Array = NDArray[np.float64]


def bottleneck(channels: int = 4, quantiles: tuple[float, float, float] | None = None) -> Any:
    torch.manual_seed(0)
    model = EntropyBottleneck(channels).eval()
    if quantiles is not None:
        model.quantiles.data[:, 0] = torch.tensor(quantiles)
    return model


def conditional(table: Any = (0.11, 1.0, 8.0)) -> Any:
    model = GaussianConditional([float(scale) for scale in table]).eval()
    model.update()
    return model


# S4.1, S4.2: bounds


def test_lower_bound_lets_gradients_pass_that_move_up() -> None:
    for upstream, expected in ((1.0, [0.0, 1.0, 1.0]), (-1.0, [-1.0, -1.0, -1.0])):
        x = torch.tensor([0.2, 0.5, 0.9], requires_grad=True)
        bounded = LowerBound(0.5)(x)
        bounded.backward(torch.full((3,), upstream))
        assert bounded.tolist() == pytest.approx([0.5, 0.5, 0.9]), "likelihoods and scales are no longer bounded below"
        assert x.grad is not None and x.grad.tolist() == expected, (
            "the bound's gradient has changed: latents whose likelihood is below 1e-9 are now pulled back differently, "
            "so trainings with outliers are not comparable with older ones"
        )


@pytest.mark.parametrize("kind", [EntropyBottleneck, GaussianConditional])
def test_likelihood_bound_and_precision(kind: type) -> None:
    model: Any = kind(4) if kind is EntropyBottleneck else kind(None)
    assert float(model.likelihood_lower_bound.bound) == pytest.approx(1e-9), (
        "the likelihood bound has changed: no latent cost more than 29.9 estimated bits (docs/entropy.md)"
    )
    assert model.entropy_coder_precision == 16, (
        "tables have another precision: WIDEST_TABLE in rdtrain.evaluation and docs/entropy.md assume 16 bits"
    )


def test_tables_are_cumulative_frequencies_of_16_bits() -> None:
    for model in (bottleneck(quantiles=(-60.0, 0.5, 60.0)), conditional()):
        if isinstance(model, EntropyBottleneck):
            model.update()
        for cdf, length in zip(model.quantized_cdf.tolist(), model.cdf_length.tolist(), strict=True):
            frequencies = np.diff(cdf[:length])
            assert cdf[0] == 0 and cdf[length - 1] == TOTAL, "rdtrain.rate_gap reads code lengths off wrong frequencies"
            assert 1 <= frequencies.min() <= frequencies.max() <= TOTAL, "a symbol in a table cannot be coded any more"


# S4.3: quantisation


def test_training_is_noise_and_everything_else_rounds() -> None:
    model, changed = bottleneck(), "what the decoder sees in training or evaluation has changed (docs/loss_forms.md)"
    x, means = 4 * torch.randn(2, 4, 6, 6), torch.randn(2, 4, 6, 6)
    symbols = model.quantize(x, "symbols", means)
    rounded = torch.round(x - means)
    assert symbols.dtype == torch.int32 and torch.equal(symbols.float(), rounded), changed
    assert torch.equal(model.quantize(x, "dequantize", means), rounded + means), changed
    assert torch.equal(model.dequantize(symbols, means), rounded + means), changed
    noise = model.quantize(x, "noise", means) - x
    assert noise.abs().max() <= 0.5 + 1e-6 and 0.05 < noise.var() < 0.12, f"noise is no longer U(-1/2, 1/2): {changed}"
    half = model.quantize(torch.tensor([0.5, 1.5, -0.5, 2.5]), "dequantize")
    assert half.tolist() == [0, 2, 0, 2], "ties are no longer rounded to even, as rdtrain.entropy.coding does"
    with pytest.raises(ValueError, match="Invalid quantization mode"):
        model.quantize(x, "ste")  # if this passes, model.quantizer=ste could use CompressAI's own


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kind", [EntropyBottleneck, GaussianConditional])
def test_the_forward_pass_quantises_once_and_then_takes_likelihoods(
    kind: Any, training: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[str, Any]] = []
    quantize, likelihood = kind.quantize, kind._likelihood

    def watch_quantize(self: Any, inputs: Any, mode: str, means: Any = None) -> Any:
        calls.append((mode, quantize(self, inputs, mode, means)))
        return calls[-1][1]

    def watch_likelihood(self: Any, inputs: Any, *rest: Any, **more: Any) -> Any:
        calls.append(("likelihood", inputs))
        return likelihood(self, inputs, *rest, **more)

    monkeypatch.setattr(kind, "quantize", watch_quantize)
    monkeypatch.setattr(kind, "_likelihood", watch_likelihood)
    x = torch.randn(1, 4, 3, 3)
    model, args = (bottleneck(), [x]) if kind is EntropyBottleneck else (conditional(), [x, torch.ones_like(x)])
    model.train(training)(*args)
    assert [name for name, _ in calls] == ["noise" if training else "dequantize", "likelihood"], (
        "rdtrain.entropy.quantizer changes these two methods: model.quantizer=ste|mixed may train something else"
    )
    assert calls[0][1] is calls[1][1]


# S4.4, S4.8: coding


@pytest.mark.parametrize("kind", ["bottleneck", "conditional"])
def test_symbols_outside_the_tables_come_back(kind: str) -> None:
    if kind == "bottleneck":
        model = bottleneck(1, (-5.0, 0.0, 5.0))
        model.update()
        x = torch.tensor(FAR, dtype=torch.float).view(1, 1, 1, 7)
        (string,) = model.compress(x)
        decoded = model.decompress([string], (1, 7))
    else:
        model = conditional()
        x = torch.tensor(FAR, dtype=torch.float).view(1, 1, 1, 7)
        indexes = torch.ones(1, 1, 1, 7, dtype=torch.int32)
        (string,) = model.compress(x, indexes)
        decoded = model.decompress([string], indexes)
        # 3 symbols in the table and 4 escapes, each with a count of its nibbles and those: 1 + 3, 3, 5 and 5 of them
        cdf, length = model.quantized_cdf[1].numpy(), int(model.cdf_length[1])
        codes = [int(symbol) - int(model.offset[1]) for symbol in FAR[:3]] + [length - 2] * 4
        bits = sum(16 - math.log2(cdf[code + 1] - cdf[code]) for code in codes) + 4 * (4 + 3 + 3 + 5 + 5)
        assert bits + 32 <= 8 * len(string) <= bits + 64, (
            "escaped symbols cost other than an escape code and 4-bit nibbles: rdtrain.rate_gap.bypass_bits is wrong"
        )
        assert len(string) == 24, "the same symbols take another number of bytes: rates are not comparable with before"
    assert decoded.flatten().tolist() == FAR, "latents outside the tables are damaged by coding: bitstreams are lossy"


def test_wrong_inputs_are_refused() -> None:
    model = conditional()
    indexes = torch.zeros(1, 2, dtype=torch.int32)
    for call in (
        lambda: model.compress(torch.zeros(3), torch.zeros(3)),
        lambda: model.compress(torch.zeros(1, 3), indexes),
        lambda: model.decompress(b"string", indexes),
        lambda: model.decompress([b"a", b"b"], indexes),
        lambda: model.decompress([b"a"], torch.zeros(1, dtype=torch.int32)),
        lambda: model.decompress([b"a"], indexes, means=torch.zeros(1, 3)),
    ):
        with pytest.raises(ValueError, match=r"nvalid|same size"):  # else the native coder reads beyond its buffers
            call()


# S4.5, S4.6, S4.7: the learned density


def logits(model: Any, x: Array) -> Array:
    """Ballé et al. 2018, equations 30 to 33, of channel 0."""
    values = x[None]
    for i in range(5):
        matrix, bias = (part[i][0].detach().double().numpy() for part in (model.matrices, model.biases))
        values = np.logaddexp(0, matrix) @ values + bias
        if i < 4:
            values = values + np.tanh(model.factors[i][0].detach().double().numpy()) * np.tanh(values)
    return values[0]


def test_likelihoods_are_differences_of_the_learned_distribution() -> None:
    model = bottleneck(1)
    x = np.arange(-400.0, 401.0)
    likelihood, lower, upper = (
        value[0, 0].detach().numpy() for value in model._likelihood(torch.tensor(x)[None, None].float())
    )
    changed = (
        "the density of entropy bottlenecks has changed: checkpoints mean something else, rdtrain.densities is wrong"
    )
    np.testing.assert_allclose(lower, logits(model, x - 0.5), rtol=1e-4, atol=1e-4, err_msg=changed)
    np.testing.assert_allclose(upper, logits(model, x + 0.5), rtol=1e-4, atol=1e-4, err_msg=changed)
    expected = expit(logits(model, x + 0.5)) - expit(logits(model, x - 0.5))
    np.testing.assert_allclose(likelihood, expected, atol=2e-7, err_msg=changed)
    assert likelihood.sum() == pytest.approx(1, abs=1e-4), changed


def test_the_upper_tail_is_still_lost_in_float32() -> None:
    model = bottleneck(1)
    below, above = model._likelihood(torch.tensor([[[-180.0, 180.0]]]))[0].flatten().tolist()
    assert below > 1e-10
    assert above == 0, (
        "CompressAI no longer loses the upper tail: model.stable_likelihood does nothing any more and can be left out "
        "(docs/entropy.md)"
    )


def test_initial_density() -> None:
    model = bottleneck(3)
    changed = "models start from another density: runs are not comparable with those of before (docs/entropy.md)"
    assert model.filters == (3, 3, 3, 3) and model.init_scale == 10, changed
    scale = 10 ** (1 / 5)
    for i, filters in enumerate((3, 3, 3, 3, 1)):
        slope = torch.nn.functional.softplus(model.matrices[i]).detach().numpy()
        np.testing.assert_allclose(slope, 1 / scale / filters, rtol=1e-5, err_msg=changed)
        assert model.biases[i].abs().max() <= 0.5 and model.biases[i].std() > 0.1, changed
    assert all(not factor.any() for factor in model.factors) and len(model.factors) == 4, changed
    likelihood = model._likelihood(torch.tensor([-10.0, 0.0, 10.0]).expand(3, 1, 3))[0]
    assert 0.005 < likelihood.min() < likelihood.max() < 0.03, f"the initial density is no longer wide: {changed}"


def test_quantiles_and_the_auxiliary_loss() -> None:
    model = bottleneck(5)
    changed = "the aux loss has changed: aux_loss, the `aux` warning of docs/health.md and the tables depend on it"
    np.testing.assert_array_equal(model.quantiles.detach()[:, 0], np.tile([-10.0, 0.0, 10.0], (5, 1)), changed)
    target = np.log(2 / 1e-9 - 1)
    assert target == pytest.approx(21.4164, abs=1e-4)
    np.testing.assert_allclose(model.target, [-target, 0, target], rtol=1e-6, err_msg=changed)
    expected = np.abs(logits(model, np.array([-10.0, 0, 10.0])) - [-target, 0, target]).sum()
    first = model._logits_cumulative(model.quantiles, stop_gradient=True)[0, 0] - model.target
    assert first.abs().sum().item() == pytest.approx(expected, rel=1e-5), changed
    assert model.loss().item() / 5 == pytest.approx(40.83, abs=1), changed
    model._update_quantiles()
    assert model.loss().item() / 5 < 2e-3, (
        "bisection no longer finds the quantiles: rdtrain.evaluation.evaluation_copy makes tables that do not fit"
    )


# S4.9, S4.10: the Gaussian


def test_normal_distribution_and_its_inverse() -> None:
    model, x = conditional(), np.linspace(-6, 6, 49)
    changed = "Gaussian likelihoods have changed: rates of hyperprior models are not comparable with before"
    phi = model._standardized_cumulative(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(phi, 0.5 * erfc(-x / math.sqrt(2)), rtol=1e-12, err_msg=changed)
    np.testing.assert_allclose(model._standardized_quantile(phi), x, atol=1e-6, err_msg=changed)
    y, scales = torch.tensor([[0.0, 3.0, -3.0]]), torch.tensor([[0.01, 2.0, 2.0]])
    bounded = np.array([0.11, 2.0, 2.0])
    expected = 0.5 * (
        erfc(-(0.5 - np.abs(y.numpy())) / bounded / 2**0.5) - erfc(-(-0.5 - np.abs(y.numpy())) / bounded / 2**0.5)
    )
    np.testing.assert_allclose(model(y, scales)[1].numpy(), expected, rtol=1e-5, err_msg=f"bound 0.11: {changed}")


def test_tables_of_the_64_scales() -> None:
    model = conditional(get_scale_table().tolist())
    changed = "other scale tables: bitstreams of before cannot be decoded, and docs/entropy.md names 5 to 3133 symbols"
    assert -model._standardized_quantile(1e-9 / 2) == pytest.approx(6.10941, abs=1e-5), changed
    np.testing.assert_allclose(model.scale_table, np.geomspace(0.11, 256, 64), rtol=1e-5, err_msg=changed)
    lengths = 2 * np.ceil(model.scale_table.numpy() * 6.10941).astype(int) + 3
    np.testing.assert_array_equal(model.cdf_length, lengths, changed)
    assert tuple(model.quantized_cdf.shape) == (64, 3133) and lengths.min() == 5 and lengths.max() == 3133, changed
    np.testing.assert_array_equal(model.offset, -(lengths - 3) // 2, changed)


def test_each_scale_is_coded_with_the_next_larger_entry() -> None:
    table = get_scale_table()
    model = conditional(table.tolist())
    scales = torch.cat([table, torch.tensor([0.01, 0.1100001, 5.0, 300.0])])
    expected = np.minimum(np.searchsorted(table.numpy(), np.maximum(scales.numpy(), np.float32(0.11)), "left"), 63)
    np.testing.assert_array_equal(
        model.build_indexes(scales), expected, "indexes have changed: bitstreams of before cannot be decoded"
    )


# S4.11: quantised tables


def cumulated(pmf: Array) -> NDArray[np.int64]:
    """Renormalise to 2^16, then give every symbol of width 0 one from the narrowest that is wider than 1."""
    frequency = np.floor(pmf * TOTAL + 0.5).astype(np.int64)
    cdf = np.concatenate([[0], np.cumsum(frequency * TOTAL // frequency.sum())])
    cdf[-1] = TOTAL
    for i in range(pmf.size):
        width = np.diff(cdf)
        if width[i] == 0:
            donor = min((w, j) for j, w in enumerate(width) if w > 1)[1]
            cdf[donor + 1 : i + 1] -= 1 if donor < i else 0
            cdf[i + 1 : donor + 1] += 1 if donor > i else 0
    return cdf


@settings(deadline=None, max_examples=60)
@given(st.integers(2, 300), st.floats(0.2, 40), st.integers(0, 2**31))
def test_every_symbol_gets_a_share_from_the_smallest(n: int, decay: float, seed: int) -> None:
    generator = np.random.default_rng(seed)
    pmf = generator.dirichlet(np.ones(n)) * np.exp(-np.abs(np.arange(n) - n / 2) / decay)
    pmf = np.float32(pmf / pmf.sum()).astype(np.float64)
    cdf = pmf_to_quantized_cdf(torch.from_numpy(pmf)).numpy()
    changed = "tables are quantised differently: bitstreams of before cannot be decoded (docs/entropy.md)"
    assert cdf[0] == 0 and cdf[-1] == TOTAL and (np.diff(cdf) >= 1).all(), changed
    np.testing.assert_array_equal(cdf, cumulated(pmf), changed)


# S4.12: update


def test_update_says_whether_it_did_anything() -> None:
    model, table = bottleneck(), get_scale_table()
    changed = "update() answers differently: export and evaluation rely on force=True making tables"
    with pytest.raises(ValueError, match="Uninitialized CDFs"):
        model.compress(torch.zeros(1, 4, 2, 2))
    with pytest.raises(ValueError, match="Uninitialized CDFs"):
        GaussianConditional(None).compress(torch.zeros(1, 4), torch.zeros(1, 4))
    assert [model.update(), model.update(), model.update(force=True)] == [True, False, True], changed
    gaussian = GaussianConditional(None)
    done = [gaussian.update_scale_table(table), gaussian.update_scale_table(table)]
    assert [*done, gaussian.update_scale_table(table, force=True)] == [True, False, True], changed


# S4.13, S4.14: rates


def test_a_hyperprior_costs_what_it_estimates() -> None:
    model = evaluation_copy(trained_model("bmshj2018-hyperprior"))
    conditional_ = model.gaussian_conditional
    y_hat, likelihood = conditional_(torch.randn(1, 12, 2, 2), torch.ones(1, 12, 2, 2))
    assert y_hat.shape == likelihood.shape == (1, 12, 2, 2)
    metrics = evaluate_image(model, images(1, 256, 256, seed=2), CRITERION).metrics
    overhead = metrics["bpp/real"] / metrics["bpp/forward"] - 1
    assert -0.005 < overhead < 0.02, (
        "real rates differ from estimates by more than the tables' precision and two flushes"
    )


def test_a_new_models_small_file_costs_a_flush_more_than_it_estimates() -> None:
    torch.manual_seed(0)
    model = google.FactorizedPrior(8, 12).eval()
    model.update()
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        estimate = -sum(likelihood.log2().sum().item() for likelihood in model(x)["likelihoods"].values())
        ((string,),) = model.compress(x)["strings"]
    changed = "initial densities or the coder have changed, on which rdtrain.rate_gap and docs/entropy.md rely"
    assert estimate == pytest.approx(1037.8, abs=8), changed  # seeds differ by some bits
    assert 8 * len(string) == 1088, changed


@pytest.mark.parametrize("channels", [8, 12])
def test_short_strings_are_dominated_by_the_flush(channels: int) -> None:
    model = bottleneck(channels)
    model.update(update_quantiles=True)
    y = 3 * torch.randn(1, channels, 4, 5)
    estimate = -model(y)[1].log2().sum().item()
    (string,) = model.compress(y)
    assert estimate + 31 < 8 * len(string) < estimate + 67, (
        f"estimate {estimate:.1f} bits, string {8 * len(string)}: the coder's last state no longer takes 4 to 8 bytes, "
        "and rdtrain.rate_gap.flush_bits is wrong"
    )
