"""Context models in the order of the wavefront against CompressAI's own compress and decompress."""

from __future__ import annotations

import copy
import functools
import math
import random
from typing import Any

import pytest
import torch
from compressai.models import JointAutoregressiveHierarchicalPriors
from tiny_codecs import CRITERION, image_model_names, images, spread_latents, tiny_model
from torch import Tensor, nn

from rdtrain.coding import context, context_pass, rans
from rdtrain.coding.context import RASTER, WAVEFRONT, coding_order, use_coding_order
from rdtrain.evaluation import evaluate_image, evaluation_copy
from rdtrain.mixing import mix_in
from rdtrain.probes import LatentOverflow, entropy_models, guarded
from rdtrain.rate_gap import EMPTY_STATE_BITS, code_lengths

pytestmark = pytest.mark.usefixtures("one_thread")

NAMES = ("mbt2018", "cheng2020-anchor", "cheng2020-attn")
REFUSED = r"string|escaped"


@functools.cache
def stock(name: str = "mbt2018") -> Any:
    """Untrained, but with latents, means and scales that are spread, and a context that matters; not to be changed."""
    model = tiny_model(name)
    spread_latents(model, 20)
    with torch.no_grad():
        model.h_a[-1].weight.mul_(30)
        model.context_prediction.weight.mul_(3)
        model.entropy_parameters[-1].weight.mul_(10)
        model.entropy_parameters[-1].bias[: model.M].add_(2)
    return evaluation_copy(model)


@functools.cache
def quick(name: str = "mbt2018") -> Any:
    model = copy.deepcopy(stock(name))
    assert use_coding_order(model, WAVEFRONT)
    return model


def decoded(model: Any, strings: Any, shape: Any) -> tuple[Tensor, Tensor]:
    """y_hat and x_hat."""
    latents: list[Tensor] = []
    hook = model.g_s.register_forward_pre_hook(lambda module, args: latents.append(args[0].clone()))
    with torch.no_grad():
        x_hat = model.decompress(strings, shape)["x_hat"]
    hook.remove()
    return latents[0], x_hat


def coded(model: Any, x: Tensor) -> dict[str, Any]:
    with torch.no_grad():
        return model.compress(x)


@functools.cache
def batch() -> tuple[Tensor, dict[str, Any]]:
    x = images(3, 64, 128, seed=5)
    return x, coded(quick(), x)


# The same as CompressAI's


@pytest.mark.parametrize(
    ("name", "height", "width", "n"),
    [("mbt2018", 64, 64, 2), ("mbt2018", 64, 128, 1), ("cheng2020-anchor", 64, 128, 1), ("cheng2020-attn", 64, 64, 1)],
)
def test_bits_and_reconstructions_are_compressais(name: str, height: int, width: int, n: int) -> None:
    x = images(n, height, width, seed=height + n)
    theirs, ours = coded(stock(name), x), coded(quick(name), x)
    assert ours["strings"][1] == theirs["strings"][1] and ours["shape"] == theirs["shape"]
    for mine, other in zip(ours["strings"][0], theirs["strings"][0], strict=True):
        assert (mine == other) == (width == 64)  # up to 4 latents wide the wavefront is row by row
        assert abs(len(mine) - len(other)) <= 4 and len(other) > 40  # the order moves where words end
    y_hat, x_hat = decoded(quick(name), ours["strings"], ours["shape"])
    their_y_hat, their_x_hat = decoded(stock(name), theirs["strings"], theirs["shape"])
    assert their_y_hat.std() > 0.3
    assert int(((y_hat - their_y_hat).abs() > 1e-3).sum()) == 0  # a symbol that differs is off by 1
    assert torch.allclose(x_hat, their_x_hat, rtol=0, atol=1e-5)


def test_bits_are_those_of_the_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    x = batch()[0]
    messages: list[Any] = []
    encode = context.encode

    def kept(*message: Any) -> bytes:
        messages.append(message)
        return encode(*message)

    monkeypatch.setattr(context, "encode", kept)
    strings = coded(quick(), x)["strings"][0]
    assert len(messages) == 3
    for (symbols, indexes, _), string in zip(messages, strings, strict=True):
        bits, _ = code_lengths(quick().gaussian_conditional, symbols.reshape(-1), indexes.reshape(-1))
        state = math.log2(int.from_bytes(string[:8], "little")) - EMPTY_STATE_BITS
        assert 8 * len(string) - 64 + state == pytest.approx(bits.sum(), abs=0.1)
        assert len(set(indexes.reshape(-1).tolist())) > 5


def test_table_indexes_are_compressais() -> None:
    conditional = stock().gaussian_conditional
    table = conditional.scale_table
    scales = torch.cat((table, table.nextafter(torch.tensor(0.0)), table.nextafter(torch.tensor(1e9))))
    scales = torch.cat((scales, torch.tensor([-1.0, 0.0, 0.11, 1e30, math.inf]), torch.rand(2000) * 300))
    found = torch.bucketize(conditional.lower_bound_scale(scales), table[:-1], out_int32=True)
    assert torch.equal(found, type(conditional).build_indexes(conditional, scales))


def test_the_ledger_measures_the_same() -> None:
    x = images(1, 60, 50, seed=3)
    ours, theirs = (evaluate_image(model, x, CRITERION).metrics for model in (quick(), stock()))
    assert set(ours) == set(theirs)
    assert ours["bpp/real"] == pytest.approx(theirs["bpp/real"], abs=32 / (60 * 50))
    for name in ("psnr/real/8bit", "psnr/real/unclamped", "bpp/forward", "latents/mismatched"):
        assert ours[name] == pytest.approx(theirs[name], abs=1e-4)


def test_without_numba_the_strings_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    if not rans.has_numba():
        pytest.skip("numba is not installed: all other tests run without it")
    x = images(1, 64, 64, seed=8)
    fast = coded(quick(), x)
    monkeypatch.setattr(rans, "has_numba", lambda: False)
    slow = coded(quick(), x)
    assert slow == fast
    assert torch.equal(decoded(quick(), **slow)[1], x_hat := decoded(quick(), **fast)[1]) and x_hat.std() > 0
    string, z_string = (strings[0] for strings in fast["strings"])
    flipped = bytes([*string[:20], string[20] ^ 4, *string[21:]])
    with pytest.raises(ValueError, match="damaged"):
        decoded(quick(), [[flipped], [z_string]], fast["shape"])


# Alone and together


def test_strings_do_not_depend_on_the_batch() -> None:
    x, together = batch()
    for image in range(3):
        alone = coded(quick(), x[image : image + 1])
        assert [strings[0] for strings in alone["strings"]] == [strings[image] for strings in together["strings"]]


def test_strings_of_a_batch_decode_alone_and_in_any_other() -> None:
    _, together = batch()
    y_hat, x_hat = decoded(quick(), together["strings"], together["shape"])
    for chosen in ([0], [2], [2, 0], [1, 1, 0, 2]):
        part = [[strings[image] for image in chosen] for strings in together["strings"]]
        some_y_hat, some_x_hat = decoded(quick(), part, together["shape"])
        assert torch.equal(some_y_hat, y_hat[chosen])
        assert torch.allclose(some_x_hat, x_hat[chosen], rtol=0, atol=1e-5)  # g_s of one image rounds differently


# The order


def one_by_one(height: int, width: int, reach: int) -> tuple[Tensor, list[slice]]:
    return torch.arange(height * width), [slice(place, place + 1) for place in range(height * width)]


def test_another_order_codes_the_same_latents_but_does_not_read_these_strings(monkeypatch: pytest.MonkeyPatch) -> None:
    x, wave = batch()
    y_hat, _ = decoded(quick(), wave["strings"], wave["shape"])
    monkeypatch.setattr(context_pass, "wavefront", one_by_one)
    raster = coded(quick(), x)
    assert raster["strings"][0] != wave["strings"][0]
    assert torch.equal(decoded(quick(), raster["strings"], raster["shape"])[0], y_hat)
    with pytest.raises(ValueError, match=REFUSED):
        decoded(quick(), wave["strings"], wave["shape"])
    monkeypatch.undo()
    with pytest.raises(ValueError, match=REFUSED):
        decoded(quick(), raster["strings"], raster["shape"])


def test_compressais_strings_are_refused() -> None:
    x = batch()[0][:1]
    theirs = coded(stock(), x)
    with pytest.raises(ValueError, match=REFUSED):
        decoded(quick(), theirs["strings"], theirs["shape"])


# What no encoder wrote


def damaged(string: bytes) -> list[bytes]:
    chance = random.Random(1)
    cuts = [string[:length] for length in (0, 4, 7, 8, 12, len(string) // 2 // 4 * 4, len(string) - 4, len(string) - 1)]
    flips = [bytes([*string[:at], string[at] ^ 1 << at % 8, *string[at + 1 :]]) for at in range(0, len(string), 23)]
    longer = [string + bytes(4), string + string, bytes(4) + string]
    return [*cuts, *flips, *longer, chance.randbytes(len(string)), b"\xff" * len(string), bytes(len(string))]


def test_damaged_and_hostile_strings_are_refused() -> None:
    if not rans.has_numba():
        pytest.skip("CompressAI's decoder reads beyond such strings")
    _, together = batch()
    string, z_string = (strings[0] for strings in together["strings"])
    cases = damaged(string)
    assert len(cases) > 25
    for case in cases:
        with pytest.raises(ValueError, match=REFUSED):
            decoded(quick(), [[case], [z_string]], together["shape"])


def test_strings_must_belong_together() -> None:
    _, together = batch()
    y_strings, z_strings = together["strings"]
    assert z_strings[0] != z_strings[1]
    cases: list[Any] = [[], [[], []], [y_strings], [y_strings, z_strings[:1]], [y_strings[:1], z_strings[1:2]]]
    for wrong in cases:
        with pytest.raises(ValueError, match=REFUSED):
            decoded(quick(), wrong, together["shape"])


def test_a_decoder_with_other_scales_is_found_out() -> None:
    _, together = batch()
    other = copy.deepcopy(quick())
    with torch.no_grad():
        other.entropy_parameters[-1].bias[: other.M] += 0.05
    with pytest.raises(ValueError, match=REFUSED):
        decoded(other, together["strings"], together["shape"])


@pytest.mark.parametrize(("part", "value"), [("g_a", math.nan), ("g_a", 1e30), ("h_s", math.nan)])
def test_a_diverged_model_is_refused(part: str, value: float) -> None:
    model = copy.deepcopy(quick())
    last = getattr(model, part)[-1]
    last.bias.data[-1] = value
    with guarded(model), pytest.raises(LatentOverflow):
        coded(model, images(1, 64, 64))


# Which models


def test_the_models_that_have_the_order() -> None:
    built = {name: tiny_model(name) for name in image_model_names()}
    assert len(built) >= 13
    assert {name for name, model in built.items() if use_coding_order(model, WAVEFRONT)} == set(NAMES)
    assert all(use_coding_order(model, RASTER) and coding_order(model) == RASTER for model in built.values())
    assert not use_coding_order(built["mbt2018"], "spiral")


def test_a_child_that_codes_in_its_own_way_keeps_it() -> None:
    class Child(JointAutoregressiveHierarchicalPriors):
        def _compress_ar(self, *args: Any, **kwargs: Any) -> bytes:
            return super()._compress_ar(*args, **kwargs)

    assert not use_coding_order(Child(8, 12), WAVEFRONT)


def test_the_choice_changes_nothing_else() -> None:
    model = copy.deepcopy(stock())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    kind = type(model)
    assert use_coding_order(model, WAVEFRONT) and use_coding_order(model, WAVEFRONT)
    assert isinstance(model, kind) and coding_order(copy.deepcopy(model)) == WAVEFRONT
    assert type(model).__name__ == kind.__name__ and entropy_models(model).keys() == entropy_models(stock()).keys()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert use_coding_order(model, RASTER) and type(model) is kind


def test_a_child_with_other_networks_keeps_its_order() -> None:
    single, wrapped, uneven = (copy.deepcopy(stock()) for _ in range(3))
    single.entropy_parameters = nn.Conv2d(4 * single.M, 2 * single.M, 1)
    wrapped.context_prediction = nn.Sequential(wrapped.context_prediction)
    uneven.context_prediction.padding = (2, 1)
    assert not any(use_coding_order(model, WAVEFRONT) for model in (single, wrapped, uneven))


def test_the_order_goes_from_below_another_change() -> None:
    class Other:
        pass

    model = copy.deepcopy(stock())
    assert use_coding_order(model, WAVEFRONT)
    mix_in(Other, model)
    assert use_coding_order(model, RASTER) and isinstance(model, Other) and coding_order(model) == RASTER
