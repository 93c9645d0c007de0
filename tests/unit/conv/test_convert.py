from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from compressai.layers import MaskedConv2d
from compressai.layers import SpectralConv2d as PeerConv
from compressai.layers import SpectralConvTranspose2d as PeerTranspose
from compressai.models import FactorizedPrior, JointAutoregressiveHierarchicalPriors
from conv_oracles import FULL_RANK
from torch import nn

from rdtrain.conv.convert import lost_share, to_plain, to_spectral
from rdtrain.conv.layers import SpectralConv, spectral_layers
from rdtrain.conv.state_dicts import compressai_state_dict, load_any, plain_state_dict
from rdtrain.conv.transform import Transform
from rdtrain.conv.transforms import Attenuated, Dct, Rdft, Rfft
from rdtrain.errors import UserError

CONVS = [f"{side}.{i}" for side in ("g_a", "g_s") for i in (0, 2, 4, 6)]


def factorized(seed: int = 0) -> FactorizedPrior:
    torch.manual_seed(seed)
    return FactorizedPrior(8, 12)


def image(size: int = 64) -> torch.Tensor:
    return torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("transform", FULL_RANK, ids=str)
def test_a_whole_model_goes_there_and_back(transform: Transform) -> None:
    model, reference = factorized(), factorized()
    stock = {name: type(module) for name, module in reference.named_modules()}
    converted = to_spectral(model, transform)
    assert [c.name for c in converted] == CONVS
    assert converted[0].weight_numel == 8 * 3 * 25
    assert converted[0].stored_numel == model.g_a[0].weight_transformed.numel()
    # The same places in the order of parameters, because optimizers and checkpoints go by it.
    assert [n.replace("_transformed", "") for n, _ in model.named_parameters()] == [
        n for n, _ in reference.named_parameters()
    ]
    x = image()
    with torch.no_grad():
        expected, spectral = reference.eval()(x), model.eval()(x)
        torch.testing.assert_close(spectral["x_hat"], expected["x_hat"], rtol=0, atol=1e-6)
        back = to_plain(model)
        assert back == converted
        plain = model(x)
    assert torch.equal(plain["x_hat"], spectral["x_hat"])
    assert {name: type(module) for name, module in model.named_modules()} == stock
    assert list(model.state_dict()) == list(reference.state_dict())
    largest = 100.0 if isinstance(transform, Attenuated) else 1.0  # numbers stored divided by up to floor^2
    for key, weight in model.state_dict().items():
        torch.testing.assert_close(weight, reference.state_dict()[key], rtol=0, atol=3e-8 * largest)


def test_the_exported_model_codes_the_same_bits() -> None:
    model, reference = factorized(), factorized()
    to_spectral(model, Rfft())
    baked = FactorizedPrior.from_state_dict(plain_state_dict(model))
    x = image(256)
    for codec in (baked, reference):
        codec.eval().update(force=True)
    with torch.no_grad():
        symbols = [codec.entropy_bottleneck.quantize(100 * codec.g_a(x), "symbols") for codec in (baked, reference)]
        assert symbols[0].unique().numel() > 10
        assert (symbols[0] == symbols[1]).float().mean() > 0.9999
        strings = [codec.compress(x)["strings"] for codec in (baked, reference)]
    assert strings[0] == strings[1]


def test_nothing_random_is_drawn() -> None:
    model = factorized()
    state = torch.get_rng_state()
    to_spectral(model, Rfft())
    to_plain(model)
    assert torch.equal(torch.get_rng_state(), state)


def test_masked_and_one_by_one_convolutions_stay_plain() -> None:
    def spectral_names(**options: bool) -> set[str]:
        torch.manual_seed(0)
        model = JointAutoregressiveHierarchicalPriors(8, 12)
        x = torch.rand(1, 12, 4, 4)
        before = model.entropy_parameters(torch.cat([x, x, x, x], 1)), model.context_prediction(x)
        converted = to_spectral(model, Rfft(), **options)
        assert type(model.context_prediction) is MaskedConv2d
        after = model.entropy_parameters(torch.cat([x, x, x, x], 1)), model.context_prediction(x)
        for a, b in zip(before, after, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-6)
        assert {c.name for c in converted} == set(spectral_layers(model))
        return set(spectral_layers(model))

    kept = spectral_names()
    assert kept >= {"g_a.0", "h_a.2", "h_s.0"}
    assert not any(name.startswith("entropy_parameters") for name in kept)
    added = spectral_names(one_by_one=True) - kept
    assert {"entropy_parameters.0", "entropy_parameters.2", "entropy_parameters.4"} <= added


def test_patterns_choose_by_module_name() -> None:
    def chosen(**options: Any) -> list[str]:
        return [c.name for c in to_spectral(factorized(), Rfft(), **options)]

    assert chosen(include=["g_a.*"]) == CONVS[:4]
    assert chosen(exclude=["g_s.*", "g_a.0"]) == CONVS[1:4]
    assert chosen(include=["g_?.6"], exclude=["g_a.*"]) == ["g_s.6"]
    with pytest.raises(UserError, match=r"'h_a\.\*' matches no convolution.*g_a\.0"):
        chosen(include=["h_a.*"])
    with pytest.raises(UserError, match="g_a_typo"):
        chosen(exclude=["g_a_typo"])
    with pytest.raises(UserError, match="no convolution was left"):
        chosen(exclude=["*"])
    with pytest.raises(UserError, match="no convolution was left"):
        to_spectral(nn.Sequential(nn.Conv2d(3, 3, 1)), Rfft())


def test_converting_twice_is_an_error_and_never_silent() -> None:
    model = factorized()
    to_spectral(model, Rfft())
    with pytest.raises(UserError, match="no convolution was left"):
        to_spectral(model, Rfft())
    to_plain(model)
    with pytest.raises(ValueError, match="nothing was switched"):
        to_plain(model)
    assert len(to_spectral(model, Rdft())) == 8


def test_weights_that_are_not_their_own_are_refused() -> None:
    tied = nn.Sequential(nn.Conv2d(3, 3, 3), nn.Conv2d(3, 3, 3))
    tied[1].weight = tied[0].weight
    normed = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 3, 3)))
    for model in (tied, normed):
        with pytest.raises(UserError, match=r"conv.exclude=\[0\]"):
            to_spectral(model, Rfft())
        assert not spectral_layers(model)


def test_a_module_used_twice_is_converted_once() -> None:
    conv = nn.Conv2d(3, 3, 3, padding=1)
    model = nn.Sequential(conv, nn.ReLU(), conv)
    x, keys = image(16), list(model.state_dict())
    before = model(x)
    assert [c.name for c in to_spectral(model, Rfft())] == ["0"]
    torch.testing.assert_close(model(x), before, rtol=0, atol=1e-6)
    assert list(plain_state_dict(model)) == keys == ["0.weight", "0.bias", "2.weight", "2.bias"]
    assert len(to_plain(model)) == 1
    assert model[0] is model[2] is conv


def test_projected_kernels_can_keep_their_variance() -> None:
    spreads = {}
    for keep in (False, True):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(64, 64, 5))
        spreads["plain"] = model[0].weight.var().item()
        (converted,) = to_spectral(model, Dct(4), keep_variance=keep)
        assert (converted.stored_numel, converted.weight_numel) == (64 * 64 * 4, 64 * 64 * 25)
        spreads[keep] = model[0].weight.var().item()
    assert spreads[False] == pytest.approx(4 / 25 * spreads["plain"], rel=0.05)
    assert spreads[True] == pytest.approx(spreads["plain"], rel=0.05)
    to_spectral(exact := nn.Sequential(nn.Conv2d(4, 4, 5)), Rfft(), keep_variance=True)
    torch.manual_seed(0)
    before = exact[0].weight.detach()
    exact[0].reset_parameters()
    assert exact[0].weight.std().item() == pytest.approx(before.std().item(), rel=0.3)


def test_what_a_form_without_full_rank_loses_is_measured() -> None:
    def share(transform: Transform) -> float:
        torch.manual_seed(0)
        given = nn.Sequential(nn.Conv2d(3, 8, 5), nn.ReLU(), nn.ConvTranspose2d(8, 3, (3, 4)))
        model = copy.deepcopy(given)
        to_spectral(model, transform)
        return lost_share(model, given)

    lost = total = 0.0
    torch.manual_seed(0)
    for conv in (nn.Conv2d(3, 8, 5), nn.ConvTranspose2d(8, 3, (3, 4))):
        kernels = conv.weight.detach().double().flatten(2).numpy()
        kept = kernels @ Dct(6).basis(conv.kernel_size).T
        total += (kernels**2).sum()
        lost += (kernels**2).sum() - (kept**2).sum()
    assert share(Dct(6)) == pytest.approx((lost / total) ** 0.5, rel=1e-5)
    assert 0 < share(Dct(24)) < share(Dct(12))
    for exact in (Dct(), Dct(25), Rfft(), Attenuated()):
        assert share(exact) == 0.0


@pytest.mark.parametrize("transform", FULL_RANK, ids=str)
def test_plain_state_dict_loads_in_the_stock_class(transform: Transform) -> None:
    model, reference = factorized(), factorized()
    to_spectral(model, transform)
    state = plain_state_dict(model)
    assert list(state) == list(reference.state_dict())
    assert not any(tensor.requires_grad for tensor in state.values())
    loaded = FactorizedPrior.from_state_dict(state).eval()
    with torch.no_grad():
        assert torch.equal(loaded(image())["x_hat"], model.eval()(image())["x_hat"])
    assert list(plain_state_dict(reference)) == list(reference.state_dict())
    assert state._metadata["g_a.0"] == reference.state_dict()._metadata["g_a.0"]


def peer_model(seed: int = 0) -> FactorizedPrior:
    """bmshj2018-factorized as a fork with CompressAI's own spectral layers would build it."""
    model = factorized(seed)
    for side in (model.g_a, model.g_s):
        for i in (0, 2, 4, 6):
            conv, transposed = side[i], isinstance(side[i], nn.ConvTranspose2d)
            extra = {"output_padding": conv.output_padding} if transposed else {}
            peer = (PeerTranspose if transposed else PeerConv)(
                conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, conv.padding, **extra
            )
            peer.load_state_dict(
                {"weight_transformed": peer._to_transform_domain(conv.weight.detach()), "bias": conv.bias.detach()}
            )
            side[i] = peer
    return model


@pytest.mark.parametrize("target", [None, *FULL_RANK], ids=str)
@pytest.mark.parametrize("source", ["stock", "complex", "ours"])
def test_any_state_dict_loads_in_any_model(source: str, target: Transform | None) -> None:
    origin: nn.Module = peer_model(1) if source == "complex" else factorized(1)
    transform = target or Rdft()
    if source == "ours":
        to_spectral(origin, transform)
    model = factorized(2)
    if target is not None:
        to_spectral(model, target)
    state = origin.state_dict()
    keys = list(state)
    load_any(model, state, transform if source == "ours" else None)
    assert list(state) == keys
    with torch.no_grad():
        x = image()
        torch.testing.assert_close(model.eval()(x)["x_hat"], origin.eval()(x)["x_hat"], rtol=0, atol=2e-6)
    assert isinstance(model.g_a[0], SpectralConv) == (target is not None)


def test_even_and_odd_widths_are_told_apart_by_the_model() -> None:
    # Both have Kw//2 + 1 = 3 columns.
    for width in (4, 5):
        peer, plain = nn.Sequential(PeerConv(3, 4, (5, width))), nn.Sequential(nn.Conv2d(3, 4, (5, width)))
        load_any(plain, peer.state_dict())
        torch.testing.assert_close(plain[0].weight, peer[0].weight, rtol=0, atol=1e-6)
    with pytest.raises(RuntimeError, match=r"size mismatch for 0\.weight"):
        load_any(nn.Sequential(nn.Conv2d(3, 4, (5, 7))), peer.state_dict())


def test_loading_says_what_is_missing() -> None:
    spectral, plain = factorized(), factorized()
    to_spectral(spectral, Rfft())
    with pytest.raises(UserError, match="name the transform"):
        load_any(plain, spectral.state_dict())
    with pytest.raises(RuntimeError, match="Missing key"):
        load_any(plain, {})
    assert load_any(nn.Sequential(nn.Conv2d(1, 1, 1)), {}, strict=False).missing_keys == ["0.weight", "0.bias"]


@pytest.mark.parametrize("transform", FULL_RANK, ids=str)
def test_state_for_compressais_layers(transform: Transform) -> None:
    model, peer = factorized(3), peer_model(0)
    to_spectral(model, transform)
    peer.load_state_dict(compressai_state_dict(model))
    with torch.no_grad():
        x = image()
        torch.testing.assert_close(peer.eval()(x)["x_hat"], model.eval()(x)["x_hat"], rtol=0, atol=2e-6)
    if transform == Rfft():
        twin = copy.deepcopy(model)
        load_any(twin, peer.state_dict())
        assert all(torch.equal(a, b) for a, b in zip(twin.parameters(), model.parameters(), strict=True))


@pytest.mark.parametrize("stored", [Rdft(), Dct(), Attenuated()], ids=str)
@pytest.mark.parametrize("target", [Rfft(), Rdft(), Dct()], ids=str)
def test_stored_kernels_load_in_another_form(stored: Transform, target: Transform) -> None:
    origin, model = factorized(1), factorized(2)
    to_spectral(origin, stored)
    to_spectral(model, target)
    load_any(model, origin.state_dict(), stored)
    for name, layer in spectral_layers(model).items():
        expected = origin.get_submodule(name).weight
        torch.testing.assert_close(layer.weight, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("form", ["plain", "complex", "ours"])
@pytest.mark.parametrize("target", [Rfft(), Rdft(), Dct()], ids=str)
def test_half_precision_is_rounded_no_further(form: str, target: Transform) -> None:
    torch.manual_seed(0)
    source = nn.Sequential(nn.Conv2d(3, 4, 5))
    if form == "ours":
        to_spectral(source, Rdft())
    state = {key: entry.half() for key, entry in source.state_dict().items()}
    weight = state["0.weight_transformed" if form == "ours" else "0.weight"].double()
    if form == "complex":
        spectrum = torch.fft.rfft2(weight, norm="ortho").to(torch.complex64)
        state = {"0.weight_transformed": spectrum, "0.bias": state["0.bias"]}
    if form == "ours":
        weight = Rdft().to_weight(weight, (5, 5))
    model, plain = nn.Sequential(nn.Conv2d(3, 4, 5)), nn.Sequential(nn.Conv2d(3, 4, 5))
    to_spectral(model, target)
    for one in (model, plain):
        load_any(one, state, Rdft() if form == "ours" else None)
        torch.testing.assert_close(one[0].weight.double(), weight, rtol=0, atol=1e-6)
