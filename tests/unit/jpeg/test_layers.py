"""Layers on coefficients against layers on pixels, in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from rdtrain.conv.layers import make_spectral
from rdtrain.conv.transforms import make_transform
from rdtrain.jpeg.codec import Codec, table
from rdtrain.jpeg.layers import JpegBatchNorm2d, JpegConv2d, JpegGlobalAvgPool

CODEC = Codec(dtype=torch.float64)


def images(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def conv(*args: int, **kwargs: object) -> nn.Conv2d:
    torch.manual_seed(0)
    return nn.Conv2d(*args, **kwargs).double()  # type: ignore[arg-type]


@pytest.mark.parametrize("mode", ["fused", "exploded"])
@pytest.mark.parametrize(
    ("kernel_size", "stride", "padding", "bias"),
    [(1, 1, 0, False), (3, 1, 1, True), (5, 1, 2, False), (1, 2, 0, False), (3, 2, 1, False), (5, 2, 2, True),
     ((3, 1), (1, 1), (1, 0), False), ((19, 1), 1, (9, 0), False)],
)  # fmt: skip
def test_convolutions(mode: str, kernel_size: int, stride: int, padding: int, bias: bool) -> None:
    layer = conv(2, 3, kernel_size, stride, padding, bias=bias)
    x = images(2, 2, 32, 48)
    after = Codec(table("luminance"), torch.float64)
    converted = JpegConv2d(layer, CODEC, after, mode)  # type: ignore[arg-type]
    torch.testing.assert_close(converted(CODEC.encode(x)), after.encode(layer(x)), atol=1e-12, rtol=0)


def test_an_exploded_convolution_is_the_dense_map_of_the_notes() -> None:
    layer = conv(2, 3, 3, 2, 1, bias=False)
    _, inverse = CODEC.tensors(16, 16)
    forward, _ = CODEC.tensors(8, 8)
    pushed = torch.nn.functional.conv2d(
        inverse.view(-1, 1, 16, 16), layer.weight.view(6, 1, 3, 3), stride=2, padding=1
    ).view(2, 2, 64, 3, 2, 8, 8)
    dense = torch.einsum("yxknmsr,sracl->nmyxkacl", pushed, forward)
    coefficients = CODEC.encode(images(2, 2, 16, 16))
    expected = torch.einsum("nmyxkacl,bmyxk->bnacl", dense, coefficients)
    found = JpegConv2d(layer, CODEC, CODEC, "exploded")(coefficients)
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("options", [{"groups": 2}, {"dilation": 2, "padding": 2}, {"padding_mode": "reflect"}])
def test_convolutions_that_only_the_fused_mode_has(options: dict[str, object]) -> None:
    layer = conv(2, 4, 3, **{"padding": 1, **options})
    x = images(1, 2, 16, 16)
    converted = JpegConv2d(layer, CODEC, CODEC)
    torch.testing.assert_close(converted(CODEC.encode(x)), CODEC.encode(layer(x)), atol=1e-12, rtol=0)
    with pytest.raises(ValueError, match="use mode=fused"):
        JpegConv2d(layer, CODEC, CODEC, "exploded")


@pytest.mark.parametrize("mode", ["fused", "exploded"])
def test_an_odd_number_of_blocks_cannot_be_halved(mode: str) -> None:
    converted = JpegConv2d(conv(1, 1, 3, 2, 1), CODEC, CODEC, mode)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"blocks"):
        converted(CODEC.encode(images(1, 1, 24, 16)))


@pytest.mark.parametrize("transform", ["rfft", "dct"])
def test_spectral_convolutions(transform: str) -> None:
    layer = conv(2, 3, 3, 1, 1)
    make_spectral(layer, make_transform(transform))
    x = images(1, 2, 8, 8)
    converted = JpegConv2d(layer, CODEC, CODEC, "exploded")
    torch.testing.assert_close(converted(CODEC.encode(x)), CODEC.encode(layer(x)), atol=1e-12, rtol=0)


@pytest.mark.parametrize("affine", [True, False])
def test_batch_normalisation_with_its_eps(affine: bool) -> None:
    norm = nn.BatchNorm2d(3, eps=0.05, affine=affine).double()
    norm.running_mean, norm.running_var = images(3), images(3).square()  # type: ignore[assignment]
    if affine:
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    x, codec = images(2, 3, 16, 8), Codec(table("luminance"), torch.float64)
    found = codec.decode(JpegBatchNorm2d(norm, codec)(codec.encode(x)))
    torch.testing.assert_close(found, norm.eval()(x), atol=1e-12, rtol=0)


def test_batch_normalisation_by_the_batch_is_refused() -> None:
    with pytest.raises(ValueError, match="running statistics"):
        JpegBatchNorm2d(nn.BatchNorm2d(3, track_running_stats=False), CODEC)


def test_pooling() -> None:
    x, codec = images(2, 3, 16, 8), Codec(table("luminance"), torch.float64)
    pooled = JpegGlobalAvgPool(codec)(codec.encode(x))
    torch.testing.assert_close(pooled, x.mean((2, 3), keepdim=True), atol=1e-13, rtol=0)
    one = JpegGlobalAvgPool(CODEC)(CODEC.encode(x[..., :8, :]))
    torch.testing.assert_close(one, nn.AvgPool2d(8)(x[..., :8, :]), atol=1e-13, rtol=0)


def test_a_converted_layer_does_not_notice_what_its_source_learns() -> None:
    layer, norm = conv(1, 2, 3, 1, 1), nn.BatchNorm2d(2).double()
    coefficients = CODEC.encode(images(1, 1, 8, 8))
    net = nn.Sequential(JpegConv2d(layer, CODEC, CODEC), JpegBatchNorm2d(norm, CODEC))
    before = net(coefficients)
    with torch.no_grad():
        for parameter in (*layer.parameters(), *norm.parameters()):
            parameter.add_(1)
        norm.running_mean.add_(1)  # type: ignore[union-attr]
    assert torch.equal(net(coefficients), before)
    assert not list(net.parameters())


def test_converted_layers_follow_to_and_state_dicts() -> None:
    first, second = (
        JpegConv2d(layer, CODEC, CODEC) for layer in (conv(1, 2, 3, 1, 1), nn.Conv2d(1, 2, 3, 1, 1).double())
    )
    coefficients = CODEC.encode(images(1, 1, 8, 8))
    assert not torch.equal(first(coefficients), second(coefficients))
    second.load_state_dict(first.state_dict())
    assert torch.equal(first(coefficients), second(coefficients))
    assert first.float()(coefficients.float()).dtype == torch.float32
