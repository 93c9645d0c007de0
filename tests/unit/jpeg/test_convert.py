"""Whole networks on coefficients against the same networks on pixels."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from rdtrain.jpeg.codec import Codec, table
from rdtrain.jpeg.convert import to_jpeg
from rdtrain.jpeg.measure import agreement, size_rows, timing_rows
from rdtrain.jpeg.model import SmallResNet
from rdtrain.jpeg.relu import BlockReLU, JpegReLU
from rdtrain.jpeg.training import make_classifier

CODEC = Codec(dtype=torch.float64)


def network(in_channels: int = 1, relu: Callable[[], nn.Module] = nn.ReLU) -> nn.Module:
    """Narrow, with statistics as after a training."""
    torch.manual_seed(0)
    model = SmallResNet(in_channels, (4, 6, 8), relu=relu).double().eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for value, low in ((module.running_mean, -0.3), (module.running_var, 0.2), (module.weight, 0.5)):
                nn.init.uniform_(value, low, 1.0)  # type: ignore[arg-type]
            nn.init.uniform_(module.bias, -0.5, 0.5)
    return model


def images(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def test_the_network_of_the_notes() -> None:
    model = SmallResNet()
    assert sum(parameter.numel() for parameter in model.parameters()) == 75_226
    assert size_rows({"pixels": model})[0]["parameters"] == 300_904
    assert model.block3(torch.zeros(1, 32, 16, 16)).shape == (1, 64, 8, 8)


@pytest.mark.parametrize("mode", ["fused", "exploded"])
@pytest.mark.parametrize("size", [(32, 32), (32, 64)])
def test_exact_relu_gives_the_same_logits(mode: str, size: tuple[int, int]) -> None:
    model, x = network(), images(3, 1, *size)
    found = to_jpeg(model, CODEC, mode=mode)(CODEC.encode(x))  # type: ignore[arg-type]
    torch.testing.assert_close(found, model(x), atol=1e-12, rtol=0)


def test_colours_with_tables_of_their_own() -> None:
    model, x = network(in_channels=3), images(2, 3, 32, 32)
    first = Codec(np.stack([table("luminance"), table("chrominance"), table("chrominance")]), torch.float64)
    found = to_jpeg(model, CODEC, images=dict.fromkeys(("block1.conv1", "block1.shortcut"), first))(first.encode(x))
    torch.testing.assert_close(found, model(x), atol=1e-12, rtol=0)


class _Repeated(nn.Module):
    """One ReLU in three places, the last one behind the pooling, and a second convolution of three channels."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        relu = nn.ReLU()
        body = (nn.Conv2d(3, 3, 3, padding=1), relu, nn.Conv2d(3, 64, 3, padding=1), relu)
        head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 64), relu, nn.Linear(64, 5))
        self.layers = nn.Sequential(*body, *head)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


@pytest.mark.parametrize("first", [table("flat"), np.stack([table("luminance"), table("flat"), table("flat")])])
def test_modules_that_stand_in_several_places(first: np.ndarray) -> None:
    model, x, codec = _Repeated().double(), images(2, 3, 16, 16), Codec(first, torch.float64)
    found = to_jpeg(model, CODEC, images={"layers.0": codec})(codec.encode(x))
    torch.testing.assert_close(found, model(x), atol=1e-12, rtol=0)


def test_a_table_for_each_channel_is_for_the_images_only() -> None:
    with pytest.raises(ValueError, match="in `images`"):
        to_jpeg(network(3), Codec(np.stack([table("luminance")] * 3), torch.float64))


def test_fewer_frequencies_are_farther_away() -> None:
    model, x = network(), images(16, 1, 32, 32)
    model.requires_grad_(False)
    errors = [agreement(to_jpeg(model, CODEC, n_freqs=n)(CODEC.encode(x)), model(x))["rmse"] for n in (0, 4, 8, 12, 14)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-2] > 1e-4 and errors[-1] < 1e-12


@pytest.mark.parametrize("n_freqs", [0, 6])
def test_a_network_trained_with_approximate_relu_keeps_it(n_freqs: int) -> None:
    model, x = network(relu=partial(BlockReLU, n_freqs)), images(3, 1, 32, 32)
    converted = to_jpeg(model, CODEC)
    assert {module.n_freqs for module in converted.modules() if isinstance(module, JpegReLU)} == {n_freqs}
    torch.testing.assert_close(converted(CODEC.encode(x)), model(x), atol=1e-12, rtol=0)


def test_spectral_kernels_are_converted_too() -> None:
    model, x = make_classifier(0, "rfft").eval(), images(2, 1, 32, 32).float()
    found = to_jpeg(model)(Codec().encode(x))
    torch.testing.assert_close(found, model(x), atol=1e-5, rtol=0)


def test_the_given_network_is_left_alone() -> None:
    model = network()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    converted = to_jpeg(model, CODEC)
    own, others = ({value.data_ptr() for value in net.state_dict().values()} for net in (model, converted))
    assert not own & others
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("layer", [nn.MaxPool2d(2), nn.Sigmoid(), nn.AdaptiveAvgPool2d(2)])
def test_a_layer_without_an_image_is_named(layer: nn.Module) -> None:
    with pytest.raises(TypeError, match=f"1: {type(layer).__name__} has no image"):
        to_jpeg(nn.Sequential(nn.Conv2d(1, 1, 3), layer))


class _Masked(nn.Conv2d):
    pass


class _Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.gamma = nn.Conv2d(1, 4, 3, padding=1), nn.Parameter(torch.ones(4, 1, 1))


@pytest.mark.parametrize("module", [_Masked(1, 1, 3), _Scaled(), nn.SyncBatchNorm(1)], ids=lambda m: type(m).__name__)
def test_what_may_compute_something_else_is_not_guessed(module: nn.Module) -> None:
    with pytest.raises(TypeError, match=f"{type(module).__name__} has no image"):
        to_jpeg(nn.Sequential(module))


class _Functions(nn.Module):
    def __init__(self, before: Callable[..., torch.Tensor], after: Callable[..., torch.Tensor] = torch.flatten) -> None:
        super().__init__()
        self.conv, self.pool, self.fc = nn.Conv2d(1, 2, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Linear(2, 10)
        self.before, self.after = before, after

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.after(self.pool(self.before(self.conv(x))), 1))


class _Untraceable(_Functions):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x if x.sum() > 0 else -x)


class _Viewed(_Functions):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        images, h = x.shape[0], self.conv(x).clone()
        return self.fc(self.pool(h.contiguous()).view(images, h.size(1)))


@pytest.mark.parametrize(
    "function",
    [lambda h: h + 1, lambda h: 1 - h, lambda h: torch.sub(h, 0.3), lambda h: h + h.mean(), lambda h: h.mT],
)
def test_sums_of_coefficients_with_constants_are_refused(function: Callable[..., torch.Tensor]) -> None:
    """A constant is a DC coefficient, not 64 of them."""
    with pytest.raises(TypeError, match="no image among JPEG coefficients"):
        to_jpeg(_Functions(function))


def test_sizes_and_copies_are_no_functions_of_coefficients() -> None:
    model, x = _Viewed(lambda h: h).eval(), images(2, 1, 16, 16).float()
    torch.testing.assert_close(to_jpeg(model)(Codec().encode(x)), model(x), atol=1e-5, rtol=0)


def test_hooks_are_refused() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3))
    model[0].register_forward_hook(lambda module, inputs, output: 2 * output)
    with pytest.raises(TypeError, match="0: Conv2d has hooks"):
        to_jpeg(model)


def test_functions_before_the_pooling_are_refused() -> None:
    """Flattened coefficients are as many as flattened pixels, so the wrong answer would have the right shape."""
    for function, name in ((torch.relu, "relu"), (lambda x: x.abs(), "abs"), (lambda x: x.mul(x), "mul")):
        with pytest.raises(TypeError, match=f"{name} has no image among JPEG coefficients; pool before it"):
            to_jpeg(_Functions(function))
    for kind in (nn.Flatten(), nn.Linear(8, 8)):
        with pytest.raises(TypeError, match=f"{type(kind).__name__} has no image .*; pool before it"):
            to_jpeg(nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), kind))
    x = images(2, 1, 16, 16).float()
    model = _Functions(lambda x: x + x).eval()
    torch.testing.assert_close(to_jpeg(model)(Codec().encode(x)), model(x), atol=1e-5, rtol=0)


def test_modules_on_coefficients_are_refused_where_the_way_cannot_be_followed() -> None:
    model = _Untraceable(lambda x: x)
    model.pool = nn.Identity()  # type: ignore[assignment]
    with pytest.warns(UserWarning, match=r"torch\.fx cannot follow it"):
        converted = to_jpeg(model)
    x = torch.ones(1, 1, 16, 16)
    with pytest.raises(ValueError, match="Linear would act on coefficients"):
        converted.fc(Codec().encode(x))  # type: ignore[operator]


@pytest.mark.parametrize("after", [nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2), nn.AdaptiveAvgPool2d(1)])
@pytest.mark.parametrize("mode", ["fused", "exploded"])
def test_a_layer_on_coefficients_refuses_what_the_pooling_gives(after: nn.Module, mode: Any) -> None:
    model = to_jpeg(nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.AdaptiveAvgPool2d(1), after), mode=mode)
    with pytest.raises(ValueError, match=r"\(1, 2, 1, 1\) are no coefficients .* only linear layers follow"):
        model(Codec().encode(torch.zeros(1, 1, 8, 8)))


@pytest.mark.parametrize("mode", ["fused", "exploded"])
def test_a_layer_refuses_coefficients_of_other_channels(mode: Any) -> None:
    model = to_jpeg(nn.Conv2d(3, 2, 3, padding=1), mode=mode)
    with pytest.raises(ValueError, match="1 channels, the layer takes 3"):
        model(Codec().encode(torch.zeros(1, 1, 8, 8)))


@pytest.mark.parametrize("n_freqs", [-1, 15])
def test_frequencies_that_blocks_do_not_have(n_freqs: int) -> None:
    with pytest.raises(ValueError, match=f"n_freqs={n_freqs}: type a number from 0 to 14"):
        to_jpeg(nn.ReLU(), n_freqs=n_freqs)
    with pytest.raises(ValueError, match="0 to 14"):
        BlockReLU(n_freqs)


def test_every_way_is_timed() -> None:
    model, x = network().float(), images(2, 1, 32, 32).float()
    rows = timing_rows(model, Codec(), x, 1, to_jpeg(model, mode="exploded"))
    assert [row["task"] for row in rows].count("training") == 3
    assert [row["of_pixels"] for row in rows if row["way"] == "pixels"] == [1, 1]
    assert all(float(row["images_per_s"]) > 0 for row in rows) and len(rows) == 7
    assert all(not parameter.grad for parameter in model.parameters())
