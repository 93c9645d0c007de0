from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from compressai import ans
from compressai.entropy_models import EntropyBottleneck, GaussianConditional
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_codecs import CRITERION, image_model_names, images, spread_latents, tiny_model, trained_model

from rdtrain.evaluation import evaluate_image, evaluation_copy, mean_row
from rdtrain.probes import CodedString
from rdtrain.rate_gap import Area, bypass_bits, code_lengths, distortion_gap, flush_bits, in_padding, rate_gap

TERMS = ("padding", "tables", "tails", "flush")
WITHOUT_CONTEXT = (
    "bmshj2018-factorized",
    "bmshj2018-factorized-relu",
    "bmshj2018-hyperprior",
    "bmshj2018-hyperprior-vbr",
    "mbt2018-mean",
    "mbt2018-mean-vbr",
)

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def gaussian() -> GaussianConditional:
    model = GaussianConditional([0.11, 0.5, 2.0, 9.0]).eval()
    model.update()
    return model


def encode(model: Any, symbols: list[int], indexes: list[int]) -> bytes:
    tables = model.quantized_cdf.tolist(), model.cdf_length.tolist(), model.offset.tolist()
    return ans.RansEncoder().encode_with_indexes(symbols, indexes, *tables)


# Code lengths against the coder itself


@settings(deadline=None, max_examples=60)
@given(st.integers(3, 400), st.integers(0, 2**31), st.sampled_from([0.1, 3.0, 40.0, 1e5]))
def test_code_lengths_are_what_the_coder_writes(n: int, seed: int, spread: float) -> None:
    model = GaussianConditional([0.11, 0.5, 2.0, 9.0])
    model.update()
    generator = np.random.default_rng(seed)
    symbols = np.rint(spread * generator.standard_normal(n)).astype(int)
    indexes = generator.integers(0, 4, n)
    string = encode(model, symbols.tolist(), indexes.tolist())
    bits, is_tail = code_lengths(model, symbols, indexes)
    assert 32 <= flush_bits(string) <= 64
    assert bits.sum() + flush_bits(string) == pytest.approx(8 * len(string), abs=0.01)
    assert is_tail.any() or spread < 1e5


def test_a_table_by_hand(gaussian: GaussianConditional) -> None:
    cdf, offset = gaussian.quantized_cdf[2].numpy(), int(gaussian.offset[2])
    symbols = np.array([0, 1, -3, 500, -500, 10**5])
    bits, is_tail = code_lengths(gaussian, symbols, np.full(6, 2))
    assert is_tail.tolist() == [False, False, False, True, True, True]
    for k in range(3):
        frequency = cdf[symbols[k] - offset + 1] - cdf[symbols[k] - offset]
        assert bits[k] == pytest.approx(16 - math.log2(frequency))
    escape = int(gaussian.cdf_length[2]) - 2
    escape_bits = 16 - math.log2(65536 - cdf[escape])
    for k in range(3, 6):
        value = symbols[k] - offset
        raw = 2 * (value - escape) if value >= escape else -2 * value - 1
        nibbles = len(f"{raw:x}")
        assert bits[k] == pytest.approx(escape_bits + 4 * (1 + nibbles))


def test_nibbles_at_their_edges() -> None:
    # raw values 0, 1, 14, 15 | 16, 254, 255 | 256; an escaped symbol just above its table has no nibble but the count
    values, escape = np.array([10, -1, 17, -8, 18, 137, -128, 138]), np.full(8, 10)
    assert bypass_bits(values, escape).tolist() == [4, 8, 8, 8, 12, 12, 12, 16]


def test_flush_is_read_from_the_first_eight_bytes() -> None:
    fresh = (2**31).to_bytes(8, "little")
    assert flush_bits(fresh + b"rest") == 64
    assert flush_bits((2**62).to_bytes(8, "little")) == 33


# The gap of whole images


@pytest.mark.parametrize("size", [(64, 128), (70, 101)])
@pytest.mark.parametrize("name", ["bmshj2018-factorized", "bmshj2018-hyperprior", "mbt2018-mean"])
def test_terms_add_up_to_the_gap(name: str, size: tuple[int, int]) -> None:
    model = evaluation_copy(trained_model(name))
    metrics = evaluate_image(model, images(1, *size, seed=11), CRITERION).metrics
    terms = {term: metrics[f"rate_gap/{term}"] for term in TERMS}
    assert sum(terms.values()) == pytest.approx(metrics["rate_gap/total"], abs=0.01)
    # the total from the logged rates; an estimate that covers padding too is longer by the padding term
    pixels = size[0] * size[1]
    logged = (metrics["bpp/real"] - metrics["bpp/forward"]) * pixels
    assert metrics["rate_gap/total"] == pytest.approx(logged + terms["padding"], abs=0.05)
    strings = 1 if name == "bmshj2018-factorized" else 2
    assert 32 * strings <= terms["flush"] <= 64 * strings
    assert terms["tables"] != 0
    assert (terms["padding"] > 0) == (name != "bmshj2018-factorized" and size == (70, 101))


@pytest.mark.parametrize("name", ["bmshj2018-factorized", "mbt2018-mean"])
def test_tails_are_what_symbols_outside_their_tables_cost(name: str) -> None:
    model = tiny_model(name)
    spread_latents(model, 400)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, EntropyBottleneck):
                for matrix in module.matrices:
                    matrix.add_(2.0)  # a narrow density, hence short tables
    model = evaluation_copy(model)
    metrics = evaluate_image(model, images(1, 64, 64), CRITERION).metrics
    assert metrics["rate_gap/tails"] != 0
    assert sum(metrics[f"rate_gap/{term}"] for term in TERMS) == pytest.approx(metrics["rate_gap/total"], abs=0.01)


def test_fitting_tables_cost_little_more_than_the_estimate() -> None:
    model = evaluation_copy(trained_model("bmshj2018-factorized"))
    rows = [evaluate_image(model, images(1, 128, 128, seed=s), CRITERION) for s in range(3)]
    means = mean_row(rows)
    estimate = means["bpp/forward"] * 128 * 128
    assert means["rate_gap/tails"] == 0
    assert abs(means["rate_gap/tables"]) < 1e-3 * estimate
    assert means["rate_gap/total"] == pytest.approx(means["rate_gap/flush"], abs=1e-3 * estimate)


def test_terms_name_the_cost_of_wrong_tables() -> None:
    model = evaluation_copy(trained_model("bmshj2018-factorized"))
    x = images(1, 128, 128)
    fitting = evaluate_image(model, x, CRITERION).metrics
    model.entropy_bottleneck._offset += 3  # every symbol is coded with the frequency of another
    wrong = evaluate_image(model, x, CRITERION).metrics
    assert wrong["bpp/forward"] == fitting["bpp/forward"]
    assert wrong["rate_gap/tables"] > fitting["rate_gap/tables"] + 300
    more = (wrong["bpp/real"] - fitting["bpp/real"]) * 128 * 128
    assert sum(wrong[f"rate_gap/{term}"] - fitting[f"rate_gap/{term}"] for term in TERMS) == pytest.approx(
        more, abs=0.05
    )


@pytest.mark.parametrize("name", image_model_names())
def test_which_models_are_explained(name: str) -> None:
    model = tiny_model(name)
    spread_latents(model, 8)
    metrics = evaluate_image(evaluation_copy(model), images(1, 40, 64), CRITERION).metrics
    if name in WITHOUT_CONTEXT:
        terms = sum(metrics[f"rate_gap/{term}"] for term in TERMS)
        assert terms == pytest.approx(metrics["rate_gap/total"], abs=0.01)
        estimate = metrics["bpp/forward"] * 40 * 64 - metrics["rate_gap/padding"]
        assert metrics["rate_gap/total"] + estimate == pytest.approx(metrics["bpp/real"] * 40 * 64, abs=0.05)
    else:
        assert not any(metric.startswith("rate_gap") for metric in metrics)


# Padding


@settings(deadline=None)
@given(st.integers(1, 150), st.integers(1, 150), st.sampled_from([16, 64]))
def test_padding_cells_touch_no_pixel_of_the_image(height: int, width: int, cell: int) -> None:
    from rdtrain.evaluation import padding

    left, right, top, bottom = padding(height, width, 64)
    mask = F.pad(torch.ones(height, width), (left, right, top, bottom))
    cells = F.max_pool2d(mask[None, None], cell)[0, 0]
    area = Area(top, left, height, width, *mask.shape)
    assert np.array_equal(in_padding(area, *cells.shape), cells.numpy() == 0)


def test_strings_that_do_not_match_likelihoods_are_not_explained(gaussian: GaussianConditional) -> None:
    symbols, indexes = [0, 1, 2, 0], [0, 1, 2, 3]
    coded = CodedString("gc", symbols, indexes, encode(gaussian, symbols, indexes))
    area = Area(0, 0, 32, 32, 32, 32)
    likelihood = torch.full((1, 1, 2, 2), 0.5)
    models = {"gc": gaussian}
    assert rate_gap(models, [coded], {"gc": likelihood}, area)["rate_gap/total"] == 8 * len(coded.string) - 4
    assert rate_gap(models, [coded, coded], {"gc": likelihood}, area) == {}
    assert rate_gap(models, [coded], {"gc": likelihood[:, :, :1]}, area) == {}
    assert rate_gap(models, [], {"gc": likelihood}, area) == {}


# Distortion


def test_distortion_terms_add_up() -> None:
    for name in ("bmshj2018-factorized", "mbt2018"):
        model = tiny_model(name)
        spread_latents(model, 8)
        metrics = evaluate_image(evaluation_copy(model), images(1, 64, 64), CRITERION).metrics
        gap = distortion_gap(metrics)
        assert gap == {name: value for name, value in metrics.items() if name.startswith("distortion_gap")}
        total = metrics["mse/real/8bit"] - metrics["mse/forward/unclamped"]
        assert sum(gap.values()) == pytest.approx(total, abs=1e-12)
        assert gap["distortion_gap/8bit"] != 0
        assert (gap["distortion_gap/latents"] != 0) == (name == "mbt2018")
