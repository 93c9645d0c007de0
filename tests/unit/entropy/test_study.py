"""Bits taken apart: against the coder's own strings, the tables, and numpy."""

from __future__ import annotations

import copy
import io
import math
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from compressai.ans import BufferedRansEncoder
from compressai.entropy_models import EntropyBottleneck
from compressai.models import google, vbr
from tiny_codecs import CRITERION, fingerprint, images, spread_latents, tiny_model, trained_model

from rdtrain import bitstream
from rdtrain.coding.context import WAVEFRONT, use_coding_order
from rdtrain.densities import likelihood
from rdtrain.entropy import coding
from rdtrain.entropy.coding import Coded, code_image
from rdtrain.entropy.figures import parts_figure
from rdtrain.entropy.learned import entropy, learned, new_pmf
from rdtrain.entropy.page import sections
from rdtrain.entropy.study import Study, header_bits, image_parts, study
from rdtrain.entropy.tables import channels_table, models_table, parts_table, scales_table
from rdtrain.entropy.tally import SPAN, Tally, channel_parts
from rdtrain.eval.evaluate import as_stream
from rdtrain.eval.models import Subject, identity
from rdtrain.evaluation import ImageRow, evaluate_image, evaluation_copy
from rdtrain.probes import Probe
from rdtrain.rate_gap import rate_gap

pytestmark = pytest.mark.usefixtures("one_thread")

_HYPERPRIORS = ("bmshj2018-hyperprior", "mbt2018-mean", "bmshj2018-hyperprior-vbr", "mbt2018-mean-vbr")
_CONTEXT = ("mbt2018", "cheng2020-anchor", "mbt2018-vbr", "cheng2020-anchor-checkerboard", "elic2022-official")
# place by place in three ways, in halves, in groups of channels


def subject(name: str) -> Subject:
    return Subject(Path("model.pth"), name, evaluation_copy(trained_model(name)))


def spread_model(name: str, spread: float) -> Any:
    model = tiny_model(name)
    spread_latents(model, spread)
    return model


def studied(one: Subject, *seeds: int) -> Study:
    shown = ((f"{seed}.png", images(1, 70, 101, seed=seed)) for seed in seeds)
    found = {n: m.quantiles for n, m in one.model.named_modules() if isinstance(m, EntropyBottleneck)}
    return study(one, shown, found, "a model")


@pytest.fixture(scope="module")
def hyperprior() -> tuple[Subject, Study]:
    one = subject("mbt2018-mean")
    return one, studied(one, 1, 2)


@pytest.mark.parametrize("spread", [8, 400])  # few escapes, and many
@pytest.mark.parametrize("name", ["bmshj2018-factorized", *_HYPERPRIORS, *_CONTEXT])
def test_parts_add_up_to_the_file(name: str, spread: float) -> None:
    model = evaluation_copy(spread_model(name, spread))
    x = images(1, 70, 101, seed=4)
    with torch.no_grad():
        model(images(1, 64, 64))  # masked convolutions zero their weights at their first pass
    before = fingerprint(model)
    coded = code_image(model, x)
    assert fingerprint(model) == before
    row = evaluate_image(model, x, CRITERION)
    assert sum(map(len, bitstream.leaves(row.strings))) * 8 == coded.length
    one = Subject(Path("model.pth"), name, model)
    (parts,) = studied(one, 4).images
    known, device = identity(model), torch.device("cpu")
    file = bitstream.pack(as_stream(one, known, ImageRow({}, row.image, row.strings, row.shape), device))
    assert parts.header == 8 * len(file) - coded.length
    assert parts.total == pytest.approx(8 * len(file), abs=0.01)
    assert parts.ideal == pytest.approx(row.metrics["bpp/forward"] * 70 * 101, rel=1e-5)
    assert parts.unsplit == 0
    # All others code what the forward pass rounds; those in parts in another order, so float32 shows.
    assert (abs(parts.context) < 0.01) == (name not in ("mbt2018", "cheng2020-anchor"))
    if "rate_gap/tables" in row.metrics:
        for term in ("padding", "tables", "tails", "flush"):
            assert getattr(parts, term) == pytest.approx(row.metrics[f"rate_gap/{term}"], abs=1e-6)


def test_images_are_coded_one_at_a_time() -> None:
    model = evaluation_copy(trained_model("bmshj2018-factorized"))
    with pytest.raises(ValueError, match="2 images: code one at a time"):
        code_image(model, images(2, 64, 64))


def test_every_image_has_a_bar_of_its_own(hyperprior: tuple[Subject, Study]) -> None:
    """Also where two have the same name."""
    _, found = hyperprior
    same = replace(found, images=[replace(one, name="a.png") for one in found.images])
    whole, _ = parts_figure(same).figure.axes
    assert [label.get_text() for label in whole.get_yticklabels()] == ["a.png", "a.png"]
    bars = list(whole.containers[0])
    assert [bar.get_y() + bar.get_height() / 2 for bar in bars] == [0, 1]
    assert [bar.get_width() for bar in bars] == [one.ideal / 8 for one in found.images]


def test_channels_add_up_to_the_image(hyperprior: tuple[Subject, Study]) -> None:
    _, found = hyperprior
    for one in found.images:
        for part in ("ideal", "padding", "context", "tables", "tails"):
            assert sum(p[part].sum() for p in one.channels.values()) == pytest.approx(getattr(one, part))
        assert one.padding > 0
    for name, tally in found.tallies.items():
        for part, values in tally.parts.items():
            np.testing.assert_allclose(values, sum(one.channels[name][part] for one in found.images))
        assert tally.pixels == 2 * 70 * 101
        np.testing.assert_array_equal(tally.histogram.sum(1), tally.count)
    assert set(found.tallies) == {"entropy_bottleneck", "gaussian_conditional"}


def test_a_channel_by_hand(hyperprior: tuple[Subject, Study]) -> None:
    one, found = hyperprior
    x = images(1, 70, 101, seed=1)
    coded = code_image(one.model, x).coded["gaussian_conditional"]
    assert coded.split is not None and coded.scales is not None
    model, c = one.model.gaussian_conditional, 5
    cdf, length, offset = (t.numpy() for t in (model.quantized_cdf, model.cdf_length, model.offset))
    bits = 0.0
    for symbol, index in zip(coded.symbols[c], coded.split.indexes[c], strict=True):
        code = symbol - offset[index]
        assert 0 <= code < length[index] - 2
        bits += 16 - math.log2(cdf[index, code + 1] - cdf[index, code])
    parts = found.images[0].channels["gaussian_conditional"]
    assert parts["ideal"][c] + parts["tables"][c] == pytest.approx(bits)
    assert parts["tails"][c] == parts["escapes"][c] == 0
    z = (coded.latents - coded.centres) / coded.scales
    upper, lower = ((h - np.abs(coded.symbols[c])) / coded.scales[c] for h in (0.5, -0.5))
    phi = np.vectorize(lambda v: 0.5 * math.erfc(-v / math.sqrt(2)))
    np.testing.assert_allclose(coded.ideal[c], -np.log2(phi(upper) - phi(lower)), rtol=1e-4)
    other = code_image(one.model, images(1, 70, 101, seed=2)).coded["gaussian_conditional"]
    both = np.concatenate([z.ravel(), ((other.latents - other.centres) / other.scales).ravel()])
    tally = found.tallies["gaussian_conditional"]
    assert tally.by_scale["square"].sum() == pytest.approx((both**2).sum())
    assert tally.by_scale["count"].sum() == tally.scale_counts.sum() == both.size == tally.residuals.sum()
    assert tally.by_scale["coded"].sum() == pytest.approx(tally.coded.sum())
    share = np.mean(both >= 0)
    assert tally.residuals[tally.residuals.size // 2 :].sum() == pytest.approx(share * both.size)


@pytest.mark.parametrize("name", ["mbt2018", "cheng2020-anchor"])
def test_context_models_are_taken_apart_by_what_they_decode_to(name: str) -> None:
    """Ideal bits against the model's own layers on its decoded latents, coded bits against its own order of coding."""
    raster = evaluation_copy(spread_model(name, 20))
    wavefront = copy.deepcopy(raster)
    assert use_coding_order(wavefront, WAVEFRONT)
    x = images(1, 64, 96)
    found = [code_image(one, x) for one in (raster, wavefront)]
    parts = [channel_parts(one.coded["gaussian_conditional"]) for one in found]
    for part, values in parts[0].items():
        np.testing.assert_allclose(parts[1][part], values, rtol=1e-4, atol=1e-3)
    assert parts[0]["escapes"].sum() > 0 and found[0].strings[0] != found[1].strings[0]
    with torch.no_grad(), Probe(raster, x.device, share=False) as probe:
        z_hat = raster.entropy_bottleneck.decompress(found[0].strings[1], found[0].shape)
        raster.decompress(found[0].strings, found[0].shape)
        context = raster.context_prediction(probe.y_hat)
        scales, means = raster.entropy_parameters(torch.cat((raster.h_s(z_hat), context), 1)).chunk(2, 1)
        likelihoods = raster.gaussian_conditional._likelihood(probe.y_hat, scales, means).clamp_min(1e-9)
    bits = -likelihoods.double().log2().sum((0, 2, 3)).numpy()
    np.testing.assert_allclose(parts[0]["ideal"] + parts[0]["context"], bits, rtol=1e-3)
    assert abs(parts[0]["context"]).sum() > 1


class _Listening(BufferedRansEncoder):
    """CompressAI's encoder of context models, which remembers what it was given."""

    given: ClassVar[list[tuple[Any, ...]]] = []

    def encode_with_indexes(self, *message: Any) -> None:
        self.given.append(message)
        super().encode_with_indexes(*message)


@pytest.mark.parametrize("name", ["mbt2018", "cheng2020-anchor", "mbt2018-vbr"])
def test_each_channel_costs_what_compressai_coded(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against the lists that CompressAI's own loop hands to its coder, priced by hand; the wavefront has the same."""
    monkeypatch.setattr(google, "BufferedRansEncoder", _Listening)
    monkeypatch.setattr(vbr, "BufferedRansEncoder", _Listening)
    monkeypatch.setattr(_Listening, "given", [])
    raster = evaluation_copy(spread_model(name, 100))
    wavefront = copy.deepcopy(raster)
    x, channels = images(1, 70, 101, seed=4), 12
    coded = [code_image(raster, x)]
    ((symbols, indexes, cdfs, lengths, offsets),) = _Listening.given
    bits, escapes, counted, used = np.zeros(channels), np.zeros(channels), np.zeros((channels, 2 * SPAN + 1)), {}
    for place, (symbol, index) in enumerate(zip(symbols, indexes, strict=True)):
        channel, code, escape = place % channels, int(symbol) - offsets[index], lengths[index] - 2
        counted[channel, max(-SPAN, min(SPAN, int(symbol))) + SPAN] += 1
        if not 0 <= code < escape:
            raw = -2 * code - 1 if code < 0 else 2 * (code - escape)
            bits[channel] += 4 * (1 + math.ceil(raw.bit_length() / 4))
            escapes[channel] += 1
            code = escape
        bits[channel] += 16 - math.log2(cdfs[index][code + 1] - cdfs[index][code])
        used[index] = used.get(index, 0) + 1
    assert escapes.sum() > 10
    if use_coding_order(wavefront, WAVEFRONT):
        coded.append(code_image(wavefront, x))
    assert (len(coded) == 2) == (name != "mbt2018-vbr")
    for one in coded:
        tally = Tally(raster.gaussian_conditional, channels)
        tally.add(one.coded["gaussian_conditional"], one.pixels)
        np.testing.assert_allclose(tally.coded, bits)
        np.testing.assert_array_equal(tally.parts["escapes"], escapes)
        np.testing.assert_array_equal(tally.histogram, counted)
        assert {i: n for i, n in enumerate(tally.by_scale["coded_count"]) if n} == used
        np.testing.assert_allclose(tally.by_scale["coded"].sum(), bits.sum())
        split = one.coded["gaussian_conditional"].split
        assert split is not None
        assert split.length == 8 * len(one.strings[0][0]) == pytest.approx(bits.sum() + split.flush, abs=0.01)


class _Backwards(BufferedRansEncoder):
    def encode_with_indexes(self, symbols: list[int], indexes: list[int], *tables: Any) -> None:
        super().encode_with_indexes(symbols[::-1], indexes[::-1], *tables)


def test_an_order_that_is_not_known_is_not_taken_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """A string can be read in a wrong order, too, and gives symbols; but they do not make the same string."""
    monkeypatch.setattr(google, "BufferedRansEncoder", _Backwards)
    coded = code_image(evaluation_copy(spread_model("mbt2018", 20)), images(1, 64, 96))
    parts = image_parts("an image", coded, 0)
    assert coded.coded["gaussian_conditional"].split is None
    assert parts.unsplit != parts.context == 0
    assert parts.total == pytest.approx(coded.length, abs=0.01)


def test_scales_are_counted_where_they_code() -> None:
    """A context model codes some latents with other entries of the scale table than its forward pass has."""
    one = Subject(Path("model.pth"), "cheng2020-anchor", evaluation_copy(spread_model("cheng2020-anchor", 400)))
    found = studied(one, 4)
    tally = found.tallies["gaussian_conditional"]
    assert (tally.by_scale["count"] != tally.by_scale["coded_count"]).any()
    assert tally.by_scale["count"].sum() == tally.by_scale["coded_count"].sum() == tally.count * 12
    table = scales_table(found, "gaussian_conditional")
    rows = [dict(zip(table.header, row, strict=True)) for row in table.rows]
    assert sum(int(row["latents"]) for row in rows) == sum(int(row["latents coded"]) for row in rows)
    cost = sum(int(row["latents coded"]) * float(row["coded [bit/latent]"] or 0) for row in rows)
    assert cost == pytest.approx(tally.coded.sum(), rel=1e-3)


def test_where_symbols_and_strings_do_not_correspond_ideal_bits_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coding, "messages", lambda *_: {})
    one = evaluation_copy(tiny_model("cheng2020-anchor"))
    coded = code_image(one, images(1, 64, 64)).coded["gaussian_conditional"]
    tally = Tally(one.gaussian_conditional, len(coded.ideal))
    tally.add(coded, 64 * 64)
    assert coded.split is None
    np.testing.assert_array_equal(tally.histogram.sum(1), tally.count)
    assert np.isnan(tally.coded).all() and np.isnan(tally.parts["escapes"]).all()
    assert tally.parts["ideal"].sum() == pytest.approx(coded.ideal.sum()) != 0


def test_escapes_and_tails_are_counted() -> None:
    model = tiny_model("bmshj2018-factorized")
    spread_latents(model, 400)
    with torch.no_grad():
        for matrix in model.entropy_bottleneck.matrices:
            matrix.add_(2.0)  # a narrow density, hence short tables
    model = evaluation_copy(model)
    coded = code_image(model, images(1, 64, 64)).coded["entropy_bottleneck"]
    tally = Tally(model.entropy_bottleneck, len(coded.ideal))
    tally.add(coded, 64 * 64)
    one = learned(model.entropy_bottleneck)
    for c, symbols in enumerate(coded.symbols):
        inside = one.symbols[np.isfinite(one.table[c])]
        outside = (symbols < inside.min()) | (symbols > inside.max())
        assert tally.parts["escapes"][c] == outside.sum()
    assert tally.parts["escapes"].sum() > 10 and tally.parts["tails"].sum() != 0


def test_lost_latents_are_counted_with_their_bits() -> None:
    torch.manual_seed(0)
    model = EntropyBottleneck(2)
    symbols = np.array([[140.0, 150.0, 0.0, -150.0], [1.0, 2.0, 3.0, -140.0]])
    tally = Tally(model, 2)
    zeros = np.zeros_like(symbols)
    tally.add(Coded(ideal=zeros, latents=symbols, centres=zeros, scales=None, in_padding=zeros[0] > 0, split=None), 64)
    x = torch.from_numpy(symbols[:, None]).float()
    stock = np.maximum(model._likelihood(x)[0][:, 0].detach().double().numpy(), 1e-9)
    exact = np.maximum(likelihood(copy.deepcopy(model).double(), x[:, 0].double()).detach().numpy(), 1e-9)
    assert (np.abs(stock / exact - 1) > 0.01).sum(1).tolist() == [2, 0]
    assert tally.lost.tolist() == [2, 0]
    np.testing.assert_allclose(tally.lost_bits, np.log2(exact / stock).sum(1), atol=1e-4)


def test_densities_of_a_new_bottleneck_of_the_same_kind() -> None:
    trained = trained_model("bmshj2018-factorized").entropy_bottleneck
    before = torch.random.get_rng_state()
    found = new_pmf(trained, np.arange(-400, 401))
    assert torch.equal(torch.random.get_rng_state(), before)
    np.testing.assert_allclose(found, found[::-1], rtol=1e-9)
    assert found.sum() == pytest.approx(1, abs=1e-6)
    new = EntropyBottleneck(1)
    for bias in new.biases:
        torch.nn.init.zeros_(bias)
    likelihoods = new._likelihood(torch.arange(-20.0, 21)[None, None])[0].flatten()
    np.testing.assert_allclose(found[380:421], likelihoods.detach().numpy(), atol=2e-7)


def test_what_was_learned_is_the_density_and_the_table() -> None:
    model: Any = evaluation_copy(trained_model("bmshj2018-factorized")).entropy_bottleneck
    one = learned(model)
    wide = EntropyBottleneck(model.channels).double()
    wide.load_state_dict({k: v for k, v in model.state_dict().items() if not k.startswith("_")}, strict=False)
    x = wide.quantiles[:, 0, 1:2] + torch.from_numpy(one.symbols.astype(float))
    np.testing.assert_allclose(one.pmf, likelihood(wide, x).detach().numpy(), rtol=1e-6)
    np.testing.assert_allclose(np.nansum(one.table, 1) + one.escape, 1)
    np.testing.assert_array_equal(one.widths, model.cdf_length.numpy() - 2)
    inside = np.where(np.isfinite(one.table), one.pmf, 0).sum(1)
    np.testing.assert_allclose(one.tail_mass, 1 - inside, atol=1e-12)
    assert (one.tail_mass < 1e-9).all() and (one.tail_mass > 1e-11).all()
    p = np.where(one.pmf > 0, one.pmf, 1)
    np.testing.assert_allclose(one.entropy, -(one.pmf * np.log2(p)).sum(1), rtol=1e-6)


def test_entropies_of_counts() -> None:
    np.testing.assert_allclose(entropy(np.array([[4, 0, 4], [8, 0, 0], [0, 0, 0], [2, 2, 4]])), [1, 0, 0, 1.5])


def test_the_empirical_entropy_is_a_floor_and_dead_channels_are_found(factorized: Any) -> None:
    tally, x = Tally(factorized.entropy_bottleneck, 12), images(1, 128, 128)
    coded = code_image(factorized, x).coded["entropy_bottleneck"]
    tally.add(coded, 128 * 128)
    counted = np.array([np.bincount(row + SPAN, minlength=2 * SPAN + 1) for row in coded.symbols])
    np.testing.assert_array_equal(tally.histogram, counted)
    assert (tally.empirical * tally.count <= tally.coded + 1e-6).all()
    tally.parts["ideal"][3] = 0
    assert tally.dead.tolist() == [c == 3 for c in range(12)]


def test_tables_say_what_was_measured(hyperprior: tuple[Subject, Study]) -> None:
    _, found = hyperprior
    parts = parts_table(found)
    assert [row[0] for row in parts.rows] == ["1.png", "2.png", "mean"]
    for row, one in zip(parts.rows, found.images, strict=False):
        assert float(row[3]) == pytest.approx(one.total, abs=0.06)
        assert sum(map(float, row[4:])) == pytest.approx(one.total, abs=0.5)
        assert float(row[2]) == pytest.approx(one.total / (70 * 101), abs=1e-4)
    assert "nothing but padding: 1.png" in parts.note
    models = {row[0]: dict(zip(models_table(found).header, row, strict=True)) for row in models_table(found).rows}
    y = found.tallies["gaussian_conditional"]
    assert float(models["gaussian_conditional"]["ideal [bit]"]) == pytest.approx(y.parts["ideal"].sum(), abs=0.06)
    channels = channels_table(found, "entropy_bottleneck", 3)
    assert len(channels.rows) == 3 and "5 channels with lower rates" in channels.note
    rates = [float(row[1]) for row in channels_table(found, "gaussian_conditional").rows]
    assert len(rates) == 12 and rates == sorted(rates, reverse=True)
    assert sum(rates) == pytest.approx(y.parts["ideal"].sum() / y.pixels, rel=1e-3)
    scales = scales_table(found, "gaussian_conditional")
    assert sum(int(row[3]) for row in scales.rows) == y.count * 12


def test_an_image_that_no_file_can_hold_has_no_header(factorized: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    one, x = Subject(Path("model.pth"), "bmshj2018-factorized", factorized), images(1, 64, 64)
    coded = code_image(factorized, x)
    assert header_bits(one, identity(factorized), coded, x) > 1000
    monkeypatch.setattr(bitstream, "MAX_PIXELS", 1000)
    assert math.isnan(header_bits(one, identity(factorized), coded, x))


def test_what_is_not_known_is_drawn_as_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model whose symbols are not known one by one, and an image without header."""
    monkeypatch.setattr(coding, "messages", lambda *_: {})
    model = evaluation_copy(tiny_model("cheng2020-anchor"))
    found = studied(Subject(Path("model.pth"), "cheng2020-anchor", model), 3)
    found.images[0] = replace(found.images[0], header=math.nan)
    whole, *others = sections(found, 2)
    assert whole.tables[0].rows[0][-1] == whole.tables[0].rows[0][2] == ""
    (y,) = (section for section in others if section.title == "gaussian_conditional")
    header, row = y.tables[0].header, y.tables[0].rows[0]
    assert dict(zip(header, row, strict=True))["coded [bit/latent]"] == ""
    assert len(y.tables[0].rows) == 2
    assert "not known" in y.plots[0].figure.axes[1].get_title()
    for plot in (*whole.plots, *y.plots):
        plot.figure.savefig(io.BytesIO(), dpi=20)
    assert not any(plot.name.startswith(("symbols", "quantiles")) for plot in sections(found, 0)[1].plots)


def test_no_term_is_forgotten() -> None:
    """`image_parts` names the terms of `rate_gap`; a new one there belongs here, too."""
    assert set(rate_gap({}, [], {}, None)) == {  # type: ignore[arg-type]
        "rate_gap/total", "rate_gap/padding", "rate_gap/tables", "rate_gap/tails", "rate_gap/flush",
    }  # fmt: skip
