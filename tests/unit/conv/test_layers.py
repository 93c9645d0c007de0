from __future__ import annotations

import copy
import io
from typing import Any

import pytest
import torch
from compressai.layers import SpectralConv2d as PeerConv
from compressai.layers import SpectralConvTranspose2d as PeerTranspose
from conv_oracles import FULL_RANK, conv_of, geometries
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from rdtrain.conv import layers
from rdtrain.conv.convert import to_plain
from rdtrain.conv.layers import (
    SpectralConv2d,
    SpectralConvTranspose2d,
    cached_kernels,
    make_plain,
    make_spectral,
    spectral_layers,
)
from rdtrain.conv.transform import Transform
from rdtrain.conv.transforms import Attenuated, Rdft, Rfft

CLASSES = {nn.Conv2d: SpectralConv2d, nn.ConvTranspose2d: SpectralConvTranspose2d}
FIELDS = (
    *("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "transposed"),
    *("output_padding", "groups", "padding_mode", "training"),
)


@pytest.mark.parametrize("transposed", [False, True])
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_same_function_and_fields_for_any_geometry(transposed: bool, data: st.DataObject) -> None:
    arguments = data.draw(geometries(transposed))
    transform = data.draw(st.sampled_from(FULL_RANK))
    torch.manual_seed(0)
    plain = conv_of(arguments, transposed)
    layer = CLASSES[type(plain)].from_conv(plain, transform)
    assert type(plain) in CLASSES  # stays as it was
    assert {name: getattr(layer, name) for name in FIELDS} == {name: getattr(plain, name) for name in FIELDS}
    assert layer.bias is plain.bias
    x = torch.rand(2, 4, 16, 16)
    torch.testing.assert_close(layer(x), plain(x), rtol=0, atol=1e-6 if isinstance(transform, Rfft | Rdft) else 3e-6)
    with torch.no_grad():
        kernels, before = layer.weight, layer(x)
        assert torch.equal(make_plain(layer), kernels)
        assert type(layer) is type(plain)
        assert torch.equal(layer(x), before)
    assert sorted(vars(layer)) == sorted(vars(plain))


@pytest.mark.parametrize("transform", FULL_RANK, ids=str)
def test_the_same_seed_builds_the_same_layer(transform: Transform) -> None:
    for plain_class, spectral_class in CLASSES.items():
        torch.manual_seed(3)
        plain = plain_class(3, 6, 5, stride=2, groups=3)
        following = torch.rand(1)
        torch.manual_seed(3)
        layer = spectral_class(3, 6, 5, stride=2, groups=3, transform=transform)
        assert torch.rand(1) == following  # nothing more was drawn
        torch.testing.assert_close(layer.weight, plain.weight, rtol=0, atol=1e-6)
        torch.manual_seed(4)
        plain.reset_parameters()
        stored = layer.weight_transformed
        torch.manual_seed(4)
        layer.reset_parameters()
        assert layer.weight_transformed is stored
        torch.testing.assert_close(layer.weight, plain.weight, rtol=0, atol=1e-6)
        assert torch.equal(layer.bias, plain.bias)


def test_the_weight_is_computed_and_the_stored_parameter_real() -> None:
    layer = SpectralConv2d(3, 4, 5)
    assert list(layer.state_dict()) == ["weight_transformed", "bias"]  # in the plain order
    assert not layer.weight_transformed.is_complex()
    layer.weight.square().sum().backward()
    assert layer.weight_transformed.grad is not None
    with pytest.raises((AttributeError, KeyError)):
        layer.weight = nn.Parameter(torch.zeros(4, 3, 5, 5))
    layer.set_weight(torch.full((4, 3, 5, 5), 0.25))
    torch.testing.assert_close(layer.weight, torch.full((4, 3, 5, 5), 0.25))
    assert "transform=Rfft()" in repr(layer)
    with pytest.raises(TypeError, match="takes a Conv2d, not a ConvTranspose2d"):
        SpectralConv2d.from_conv(nn.ConvTranspose2d(3, 4, 5), Rfft())


def test_what_belongs_to_the_plain_layer_is_kept() -> None:
    plain = nn.Conv2d(3, 4, 3, dtype=torch.float64)
    plain.weight.requires_grad_(False)
    plain.register_forward_hook(lambda module, inputs, output: output + 1)
    layer = SpectralConv2d.from_conv(plain, Rdft())
    assert layer.weight_transformed.dtype == torch.float64
    assert not layer.weight_transformed.requires_grad
    x = torch.rand(1, 3, 8, 8, dtype=torch.float64)
    torch.testing.assert_close(layer(x), plain(x), rtol=0, atol=1e-14)
    layer.register_forward_hook(lambda module, inputs, output: output * 2)
    assert len(plain._forward_hooks) == 1
    assert not make_plain(layer).requires_grad


def test_a_fraction_counts_output_channels_in_both_classes() -> None:
    attenuated = Attenuated(0.1, 0.5)
    for layer in (
        SpectralConv2d(4, 6, 3, transform=attenuated),
        SpectralConvTranspose2d(4, 6, 3, transform=attenuated),
    ):
        axis = layer.weight_shape.index(6)
        half_spectrum = Rfft().to_stored(layer.weight.detach()).movedim(axis, 0)
        differs = (layer.weight_transformed.movedim(axis, 0) - half_spectrum).abs().amax((1, 2)) > 1e-3
        assert differs.tolist() == [True] * 3 + [False] * 3


class Doubled(nn.Conv2d):
    """A subclass that reads its weight in a way of its own."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return self._conv_forward(input, 2 * self.weight, self.bias)


def test_subclasses_stay_themselves() -> None:
    conv = Doubled(3, 4, 3)
    x = torch.rand(1, 3, 8, 8)
    before = conv(x)
    same_object = conv
    make_spectral(conv, Rfft())
    assert isinstance(conv, Doubled)
    assert "weight_transformed" in dict(conv.named_parameters())
    torch.testing.assert_close(conv(x), before, rtol=0, atol=1e-6)
    make_plain(spectral_layers(conv)[""])
    assert type(conv) is Doubled
    assert conv is same_object


def test_whole_layers_are_pickled() -> None:
    x = torch.rand(1, 3, 8, 8)
    for conv in (nn.Conv2d(3, 4, 3), Doubled(3, 4, 3), nn.ConvTranspose2d(3, 4, 3)):
        plain = type(conv)
        make_spectral(conv, Attenuated())
        file = io.BytesIO()
        torch.save(conv, file)
        file.seek(0)
        for twin in (torch.load(file, weights_only=False), copy.deepcopy(conv)):
            assert type(twin) is type(conv)
            assert torch.equal(twin(x), conv(x))
            make_plain(twin)
            assert type(twin) is plain
        assert spectral_layers(conv)


def test_the_gradient_moves_along() -> None:
    layer = SpectralConv2d(3, 4, 5, transform=Attenuated())
    weight = layer.weight
    weight.retain_grad()
    (weight**3).sum().backward()
    assert weight.grad is not None
    torch.testing.assert_close(make_plain(layer).grad, weight.grad, rtol=1e-4, atol=1e-7)


def test_loads_plain_complex_and_its_own_entries() -> None:
    torch.manual_seed(0)
    plain = nn.Conv2d(4, 6, (5, 4), groups=2)
    peer = PeerConv(4, 6, (5, 4), groups=2)
    for transform in FULL_RANK:
        layer = SpectralConv2d(4, 6, (5, 4), groups=2, transform=transform)
        given_state = plain.state_dict()
        layer.load_state_dict(given_state)
        assert list(given_state) == ["weight", "bias"]  # the caller's is not touched
        torch.testing.assert_close(layer.weight, plain.weight, rtol=0, atol=1e-6)
        layer.load_state_dict(peer.state_dict())
        torch.testing.assert_close(layer.weight, peer.weight, rtol=0, atol=1e-6)
        torch.testing.assert_close(layer.bias, peer.bias)
        twin = SpectralConv2d(4, 6, (5, 4), groups=2, transform=transform)
        twin.load_state_dict(layer.state_dict())
        assert torch.equal(twin.weight_transformed, layer.weight_transformed)


def test_a_layer_made_double_is_computed_in_double() -> None:
    layer = SpectralConv2d(3, 4, 5).double()
    kernels = layer.weight
    assert kernels.dtype == torch.float64
    with torch.no_grad():
        torch.testing.assert_close(kernels, layer.weight, rtol=0, atol=1e-15)


def test_loading_by_assignment_may_change_the_dtype() -> None:
    layer, double = SpectralConv2d(3, 4, 5), SpectralConv2d(3, 4, 5, dtype=torch.float64)
    layer.load_state_dict(double.state_dict(), assign=True)
    x = torch.rand(1, 3, 8, 8, dtype=torch.float64)
    torch.testing.assert_close(layer(x), double(x), rtol=0, atol=1e-14)


def test_complex_entries_load_bit_for_bit() -> None:
    # Numbers without effect on the kernel included: a resumed optimizer would notice.
    peer = PeerTranspose(3, 5, 4)
    with torch.no_grad():
        peer.weight_transformed.copy_(torch.randn(3, 5, 4, 3, dtype=torch.complex64))
    layer = SpectralConvTranspose2d(3, 5, 4)
    layer.load_state_dict(peer.state_dict())
    stored = layer.weight_transformed.detach().unflatten(-1, (4, 3, 2))
    assert torch.equal(torch.view_as_complex(stored), peer.weight_transformed)


@pytest.mark.parametrize("transform", [Rfft(), Rdft()], ids=str)
@pytest.mark.parametrize("other", [nn.Conv2d(3, 4, (5, 4)), PeerConv(3, 4, 3), PeerConv(3, 4, (5, 9))], ids=str)
def test_entries_of_another_shape_are_reported(transform: Transform, other: nn.Module) -> None:
    # A 5x4 kernel has as many stored numbers as a 5x5 one, a 5x9 spectrum as many columns as a 5x5 kernel.
    layer = SpectralConv2d(3, 4, 5, transform=transform)
    with pytest.raises(RuntimeError, match="size mismatch for weight_transformed"):
        layer.load_state_dict(other.state_dict())
    with pytest.raises(RuntimeError, match=r"Missing key.*weight_transformed"):
        layer.load_state_dict({"bias": torch.zeros(4)})
    with pytest.raises(RuntimeError, match="Unexpected key"):
        layer.load_state_dict({**layer.state_dict(), "weight": torch.zeros(4, 3, 5, 5)})


def test_state_dict_survives_a_weights_only_file() -> None:
    layer, file = SpectralConv2d(3, 4, 5), io.BytesIO()
    torch.save(layer.state_dict(), file)
    file.seek(0)
    twin = SpectralConv2d(3, 4, 5)
    twin.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(twin.weight, layer.weight)


@pytest.fixture
def products(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry for each kernel tensor that is computed."""
    calls: list[int] = []
    original = layers.apply_map

    def counted(*args: Any) -> torch.Tensor:
        calls.append(1)
        return original(*args)

    monkeypatch.setattr(layers, "apply_map", counted)
    return calls


def two_layers() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(SpectralConv2d(3, 4, 3, padding=1), SpectralConvTranspose2d(4, 3, 5, padding=2))


def test_a_training_step_computes_each_kernel_once(products: list[int]) -> None:
    two_layers()(torch.rand(2, 3, 8, 8)).sum().backward()
    assert len(products) == 2


def test_an_evaluation_computes_each_kernel_once(products: list[int]) -> None:
    model, x = two_layers(), torch.rand(2, 3, 8, 8)
    with torch.no_grad(), cached_kernels(model):
        outputs = [model(x) for _ in range(5)]
    assert len(products) == 2
    with torch.no_grad():
        assert torch.equal(outputs[4], model(x))
    with torch.inference_mode(), cached_kernels(model):
        assert torch.equal(model(x), outputs[0])
    model(x).sum().backward()


def test_cached_kernels_are_gone_afterwards() -> None:
    model, x = two_layers(), torch.rand(2, 3, 8, 8)
    with pytest.raises(RuntimeError, match="stop"), torch.no_grad(), cached_kernels(model):
        raise RuntimeError("stop")
    with torch.no_grad():
        with cached_kernels(model):
            before = model(x)
        model[0].weight_transformed.mul_(2)
        assert not torch.allclose(model(x), before)
        with cached_kernels(model):
            assert not torch.allclose(model(x), before)
            model[0].weight_transformed.mul_(2)
        assert not torch.allclose(model(x), before)


def test_training_inside_a_cached_evaluation_is_not_cached() -> None:
    model, x = two_layers(), torch.rand(2, 3, 8, 8)
    with cached_kernels(model):
        model(x).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_a_copy_made_inside_forgets_the_cache() -> None:
    model, x = two_layers(), torch.rand(2, 3, 8, 8)
    with torch.no_grad(), cached_kernels(model):
        twin = copy.deepcopy(model)
        before = twin(x)
        for layer in spectral_layers(twin).values():
            layer.weight_transformed.mul_(2)
        assert not torch.allclose(twin(x), before)
        assert torch.equal(model(x), before)


@pytest.mark.parametrize("transform", FULL_RANK, ids=str)
def test_memory_formats_and_dtypes(transform: Transform) -> None:
    layer = SpectralConv2d(4, 8, 5, padding=2, transform=transform)
    x = torch.rand(2, 4, 16, 16)
    expected = layer(x).detach()
    layer.to(memory_format=torch.channels_last)
    y = layer(x.to(memory_format=torch.channels_last))
    y.sum().backward()
    torch.testing.assert_close(y, expected, rtol=0, atol=2e-6)
    for dtype in (torch.bfloat16, torch.float16):
        half = copy.deepcopy(layer).to(dtype)
        assert half.weight.dtype == dtype
        half(x.to(dtype)).sum().backward()
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), expected, rtol=0.02, atol=0.02)


def test_kernels_lie_as_was_asked_for_and_so_do_plain_ones_and_moments() -> None:
    last = torch.channels_last
    layer = SpectralConv2d(4, 8, 5)
    assert layer.weight.is_contiguous()
    layer.to(memory_format=last)
    for one in (layer, copy.deepcopy(layer), layer.double().float(), layer.requires_grad_()):
        assert one.weight.is_contiguous(memory_format=last) and not one.weight.is_contiguous()
    again = SpectralConv2d.from_conv(nn.Conv2d(4, 8, 5).to(memory_format=last), Rfft())
    assert again.weight.is_contiguous(memory_format=last)
    assert again.to(memory_format=torch.contiguous_format).weight.is_contiguous()
    optimizer = torch.optim.Adam(layer.parameters())
    layer(torch.rand(1, 4, 8, 8)).sum().backward()
    optimizer.step()
    to_plain(layer, [optimizer])
    held = [layer.weight, *(optimizer.state[layer.weight][key] for key in ("exp_avg", "exp_avg_sq"))]
    for tensor in held:
        assert tensor.is_contiguous(memory_format=last) and not tensor.is_contiguous()


@pytest.mark.parametrize("transform", [Rfft(), Attenuated(0.2, 0.5)], ids=str)
def test_compiles_without_graph_breaks(transform: Transform) -> None:
    torch._dynamo.reset()  # torch counts recompilations over all models of a process
    model = nn.Sequential(
        SpectralConv2d(3, 4, 3, transform=transform),
        SpectralConv2d(4, 4, 3, transform=transform),
        SpectralConvTranspose2d(4, 3, 5),
    )
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    x = torch.rand(2, 3, 8, 8)
    assert torch.equal(compiled(x), model(x))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(compiled(x), model(x))
    with torch.no_grad():
        assert torch.equal(compiled(x), model(x))
    compiled(x).sum().backward()
    assert all(p.grad is not None for p in model.parameters())
