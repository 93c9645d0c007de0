"""The order and the products of the wavefront, against brute force and float64."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from compressai.layers import MaskedConv2d
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_codecs import tiny_model
from torch import nn

from rdtrain.coding.context_network import ContextNetwork, can_be_matrices
from rdtrain.coding.context_order import TILE, patches, steps, wavefront

pytestmark = pytest.mark.usefixtures("one_thread")

SIDE = st.integers(1, 11)


def taps(reach: int) -> torch.Tensor:
    return MaskedConv2d(1, 1, 2 * reach + 1).mask[0, 0].nonzero()


@settings(deadline=None, max_examples=60)
@given(SIDE, SIDE, st.integers(1, 3))
def test_every_place_comes_once_and_after_all_that_it_sees(height: int, width: int, reach: int) -> None:
    order, slices = wavefront(height, width, reach)
    assert sorted(order.tolist()) == list(range(height * width))
    assert [part.start for part in slices] == [0, *(part.stop for part in slices[:-1])]
    done: set[tuple[int, int]] = set()
    for part in slices:
        now = [divmod(place, width) for place in order[part].tolist()]
        for h, w in now:
            seen = {(h + dh - reach, w + dw - reach) for dh, dw in taps(reach).tolist()}
            assert {(a, b) for a, b in seen if 0 <= a < height and 0 <= b < width} <= done
        done |= set(now)
    if width > reach:
        assert len(slices) == width + (reach + 1) * (height - 1)


def test_a_kodak_image_takes_141_steps_instead_of_1536() -> None:
    order, slices = wavefront(32, 48, 2)
    assert (len(order), len(slices)) == (1536, 141)
    assert max(part.stop - part.start for part in slices) == 16


@pytest.mark.parametrize(("height", "width", "reach"), [(3, 7, 2), (6, 2, 2), (1, 1, 2), (4, 5, 1)])
def test_patches_are_what_a_convolution_sees(height: int, width: int, reach: int) -> None:
    size, mask = 2 * reach + 1, taps(reach)
    y = torch.arange(1.0, height * width + 1).view(1, 1, height, width)
    order, _ = wavefront(height, width, reach)
    canvas = F.pad(y, [reach] * 4).flatten()
    unfolded = F.unfold(y, size, padding=reach)[0].t().view(-1, size, size)
    expected = unfolded[order][:, mask[:, 0], mask[:, 1]]
    assert torch.equal(canvas[patches(order, height, width, mask, reach)], expected)


@pytest.mark.parametrize("batch", [1, 2, 9])
def test_a_batch_is_laid_out_in_whole_tiles_image_by_image(batch: int) -> None:
    height, width, reach = 20, 14, 2
    order, slices = wavefront(height, width, reach)
    seen = patches(order, height, width, taps(reach), reach)
    area = (height + 2 * reach) * (width + 2 * reach)
    places = []
    for step in steps(slices, seen, batch, area, torch.device("cpu")):
        count = step.places.stop - step.places.start
        rows = torch.cat([tile.rows for tile in step.tiles])
        assert all(tile.rows.shape == (TILE,) and tile.seen.shape == (TILE * 12,) for tile in step.tiles)
        assert len(step.tiles) == -(-batch * count // TILE)
        images, where = rows // len(order), rows % len(order)
        assert torch.equal(
            torch.cat([tile.seen for tile in step.tiles]), (images[:, None] * area + seen[where]).flatten()
        )
        assert images[: batch * count].tolist() == [image for image in range(batch) for _ in range(count)]
        places += rows[: batch * count].tolist()
    assert sorted(places) == list(range(batch * len(order)))


def test_the_products_are_the_networks() -> None:
    model = tiny_model("mbt2018").double()
    with torch.no_grad():
        y_hat, params = torch.randn(1, 12, 5, 6).double(), torch.randn(1, 24, 5, 6).double()
        together = torch.cat((params, model.context_prediction(y_hat)), 1)
        expected = model.entropy_parameters(together)[0].flatten(1)
        network = ContextNetwork(model)
        order = torch.arange(30)
        canvas = F.pad(y_hat, [2] * 4)[0].flatten(1).t()
        seen = canvas[patches(order, 5, 6, network.taps, network.reach).flatten()]
        found = network(seen, params[0].flatten(1).t())
    assert torch.allclose(found, expected, rtol=0, atol=1e-13)
    assert expected.std() > 0.01


@pytest.mark.parametrize("channels", [12, 192])
def test_a_place_has_the_same_parameters_anywhere_in_a_tile(channels: int) -> None:
    """What lets an image's strings be decoded without the images that it was coded with."""
    torch.manual_seed(0)
    model = tiny_model("mbt2018")
    model.context_prediction = MaskedConv2d(channels, 2 * channels, 5, padding=2)
    sizes = [4 * channels, 10 * channels // 3, 8 * channels // 3, 2 * channels]
    layers = [layer for pair in itertools.pairwise(sizes) for layer in (nn.Conv2d(*pair, 1), nn.LeakyReLU())]
    model.entropy_parameters = nn.Sequential(*layers[:-1])
    with torch.no_grad():
        network = ContextNetwork(model)
        seen, params = torch.randn(TILE, 12, channels), torch.randn(TILE, 2 * channels)
        expected = network(seen.flatten(0, 1), params)
        for shift in range(1, TILE):
            moved = network(seen.roll(shift, 0).flatten(0, 1), params.roll(shift, 0))
            assert torch.equal(moved.roll(-shift, 1), expected)
        seen[1:], params[1:] = 0, 1e3
        assert torch.equal(network(seen.flatten(0, 1), params)[:, 0], expected[:, 0])


def test_unknown_layers_are_left_to_compressai() -> None:
    model = tiny_model("mbt2018")
    assert can_be_matrices(model)
    layers = model.entropy_parameters
    for wrong in (nn.Conv2d(48, 40, 3, padding=1), nn.Conv2d(48, 40, 1, groups=2), nn.Softmax(1)):
        model.entropy_parameters = nn.Sequential(wrong, *layers[1:])
        assert not can_be_matrices(model)
    model.entropy_parameters = layers
    model.context_prediction = MaskedConv2d(12, 24, 5, padding=4, dilation=2)
    assert not can_be_matrices(model)
