"""JPEG's tensors against their definition in numpy, and against libjpeg."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from rdtrain.errors import UserError
from rdtrain.jpeg.codec import Codec, kept, table
from rdtrain.jpeg.measure import network_coefficients, stored_coefficients

ZIGZAG = [
    0, 1, 5, 6, 14, 15, 27, 28, 2, 4, 7, 13, 16, 26, 29, 42, 3, 8, 12, 17, 25, 30, 41, 43, 9, 11, 18, 24, 31, 40, 44,
    53, 10, 19, 23, 32, 39, 45, 52, 54, 20, 22, 33, 38, 46, 51, 55, 60, 21, 34, 37, 47, 50, 56, 59, 61, 35, 36, 48,
    49, 57, 58, 62, 63,
]  # fmt: skip
"""The place of each frequency, row by row: T.81, figure A.6."""


def notes_tensors(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """J = B D Z S and J_i = B D Z S_i with every factor as the notes define it."""
    a, i = np.ogrid[:8, :8]
    one = np.where(a == 0, 1 / np.sqrt(2), 1) / 2 * np.cos((2 * i + 1) * a * np.pi / 16)
    dct = np.einsum("ai,bj->ijab", one, one)
    zigzag = np.zeros((8, 8, 64))
    for place, order in enumerate(ZIGZAG):
        zigzag[place // 8, place % 8, order] = 1
    blocks = np.zeros((height, width, height // 8, width // 8, 8, 8))
    for y in range(height):
        for x in range(width):
            blocks[y, x, y // 8, x // 8, y % 8, x % 8] = 1
    both = np.einsum("hwyxij,ijab,abk->hwyxk", blocks, dct, zigzag, optimize=True)
    q = table("mpeg2")
    return both / q, (both * q).transpose(2, 3, 4, 0, 1)


@pytest.mark.parametrize("size", [(8, 8), (16, 16), (32, 32), (8, 24)])
def test_dense_tensors_are_those_of_the_notes(size: tuple[int, int]) -> None:
    forward, inverse = Codec(dtype=torch.float64).tensors(*size)
    for ours, notes in zip((forward, inverse), notes_tensors(*size), strict=True):
        assert ours.shape == notes.shape
        np.testing.assert_allclose(ours, notes, atol=1e-12)


def test_decoding_undoes_encoding() -> None:
    x = torch.rand(5, 3, 32, 16, generator=torch.Generator().manual_seed(0))
    codec = Codec()
    assert codec.encode(x).shape == (5, 3, 4, 2, 64)
    assert (codec.decode(codec.encode(x)) - x).abs().max() < 2e-6


def test_the_dc_coefficient_is_the_mean_of_the_block() -> None:
    x = torch.rand(2, 1, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    means = x.view(2, 1, 2, 8, 2, 8).mean((3, 5))
    torch.testing.assert_close(Codec(dtype=torch.float64).encode(x)[..., 0], means, atol=1e-14, rtol=0)


def test_channels_may_have_tables_of_their_own() -> None:
    tables = np.stack([table("luminance", 30), table("chrominance", 30), table("chrominance", 80)])
    x = torch.rand(2, 3, 16, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    codec = Codec(tables, torch.float64)
    whole = codec.encode(x)
    for channel, q in enumerate(tables):
        alone = Codec(q, torch.float64).encode(x[:, channel : channel + 1])
        torch.testing.assert_close(whole[:, channel : channel + 1], alone, atol=1e-14, rtol=1e-14)
    torch.testing.assert_close(codec.decode(whole), x, atol=1e-12, rtol=0)


def test_an_image_of_broken_blocks_is_refused() -> None:
    with pytest.raises(ValueError, match="28x28 pixels are no whole number"):
        Codec().encode(torch.zeros(1, 1, 28, 28))


def test_the_numbers_of_kept_coefficients() -> None:
    counts = [int(kept(n).sum()) for n in range(15)]
    assert counts == [1, 3, 6, 10, 15, 21, 28, 36, 43, 49, 54, 58, 61, 63, 64]


def saved_by_libjpeg(image: np.ndarray, quality: int) -> Image.Image:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality)
    return Image.open(file)


@pytest.mark.parametrize("quality", [1, 10, 49, 50, 75, 95, 100])
def test_tables_are_those_of_libjpeg(quality: int) -> None:
    colour = saved_by_libjpeg(np.zeros((8, 8, 3), np.uint8), quality)
    inverse = np.argsort(ZIGZAG)
    for number, name in enumerate(("luminance", "chrominance")):
        assert np.array_equal(np.array(colour.quantization[number])[inverse], table(name, quality))


@pytest.mark.parametrize("quality", [10, 50, 90])
def test_stored_coefficients_decode_to_the_pixels_of_libjpeg(quality: int) -> None:
    random = np.random.default_rng(0).normal(size=(32, 32)).cumsum(0).cumsum(1)
    image = np.uint8(255 * (random - random.min()) / np.ptp(random))
    stored = stored_coefficients(torch.from_numpy(image)[None, None], "luminance", quality)
    ours = (Codec(table("luminance", quality)).decode(stored)[0, 0] + 128).clamp(0, 255).numpy()
    theirs = np.asarray(saved_by_libjpeg(image, quality), dtype=float)
    assert np.abs(ours - theirs).max() < 1.6  # libjpeg's DCT is of whole numbers, and it rounds
    assert np.abs(ours - image).max() > 2  # both have lost something


def test_rescaled_coefficients_are_those_of_the_decoded_image() -> None:
    images = torch.randint(0, 256, (3, 1, 16, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    codec = Codec()
    stored = stored_coefficients(images, "luminance", 40)
    pixels = Codec(table("luminance", 40)).decode(stored) + 128
    expected = codec.encode((pixels / 255 - 0.1307) / 0.3081)
    found = network_coefficients(stored, "luminance", 40, codec)
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=0)


@pytest.mark.parametrize(("name", "quality"), [("jpeg2000", None), ("mpeg2", 0), ("mpeg2", 101)])
def test_other_tables_are_refused(name: str, quality: int | None) -> None:
    with pytest.raises(UserError):
        table(name, quality)  # type: ignore[arg-type]
