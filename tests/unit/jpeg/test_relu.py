"""Approximate ReLU of coefficients."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rdtrain.jpeg.codec import Codec, zigzag_frequencies
from rdtrain.jpeg.relu import BlockReLU, JpegReLU, approximation_errors, mixing_tensor

# RMSE of (ASM, APX) on 100,000 random blocks by n_freqs, from an implementation of the paper's experiment in numpy.
PUBLISHED = {
    0: (0.3513, 0.3708), 2: (0.2510, 0.3034), 4: (0.1333, 0.2246), 6: (0.0561, 0.1471), 8: (0.0192, 0.0754),
    10: (0.0070, 0.0389), 12: (0.0011, 0.0114), 13: (0.0002, 0.0039), 14: (0.0, 0.0),
}  # fmt: skip


def random_blocks(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def test_relu_of_one_cosine() -> None:
    frequencies = zigzag_frequencies().tolist()
    codec = Codec(np.ones(64), torch.float64)
    coefficients = torch.zeros(64, dtype=torch.float64)
    coefficients[frequencies.index([0, 1])] = 1
    result = JpegReLU(codec)(coefficients.view(1, 1, 1, 1, 64)).flatten()
    rows = torch.zeros(8, 8, dtype=torch.float64)
    for (alpha, beta), value in zip(frequencies, result, strict=True):
        rows[alpha, beta] = value
    expected = torch.zeros(8, 8, dtype=torch.float64)
    expected[0] = torch.tensor([0.4531, 0.5, 0.2079, 0, -0.0373, 0, 0.0114, 0])
    torch.testing.assert_close(rows, expected, atol=5e-5, rtol=0)


@pytest.mark.parametrize("n_freqs", [0, 3, 7, 14])
def test_the_mixing_tensor_masks_as_decoding_and_encoding_do(n_freqs: int) -> None:
    codec = Codec(dtype=torch.float64)
    blocks = random_blocks(7, 2, 1, 1)
    assert mixing_tensor(codec).numel() == 262_144
    torch.testing.assert_close(
        JpegReLU(codec, n_freqs, mixing=True)(blocks), JpegReLU(codec, n_freqs)(blocks), atol=1e-12, rtol=0
    )


def test_many_blocks_are_mixed_in_parts() -> None:
    codec, blocks = Codec(), random_blocks(1, 2, 50, 50).float()
    torch.testing.assert_close(JpegReLU(codec, 5, mixing=True)(blocks), JpegReLU(codec, 5)(blocks), atol=1e-4, rtol=0)


def test_all_frequencies_give_exact_relu() -> None:
    codec = Codec()
    x = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    found = codec.decode(JpegReLU(codec)(codec.encode(x)))
    torch.testing.assert_close(found, x.relu(), atol=4e-6, rtol=0)


@pytest.mark.parametrize("n_freqs", [0, 5, 14])
def test_the_mask_is_that_of_the_low_frequencies(n_freqs: int) -> None:
    codec = Codec(dtype=torch.float64)
    x = torch.randn(2, 1, 8, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    low = codec.encode(x) * torch.from_numpy(zigzag_frequencies().sum(1) <= n_freqs)
    expected = torch.where(codec.decode(low) >= 0, x, 0.0)
    torch.testing.assert_close(codec.decode(JpegReLU(codec, n_freqs)(codec.encode(x))), expected, atol=1e-12, rtol=0)
    torch.testing.assert_close(BlockReLU(n_freqs).double()(x), expected, atol=1e-12, rtol=0)


def test_gradients_on_pixels_are_those_on_coefficients() -> None:
    codec = Codec(dtype=torch.float64)
    x = torch.randn(2, 1, 8, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    g = torch.randn_like(x)
    (on_pixels,) = torch.autograd.grad((BlockReLU(4).double()(x) * g).sum(), x)
    (on_coefficients,) = torch.autograd.grad((codec.decode(JpegReLU(codec, 4)(codec.encode(x))) * g).sum(), x)
    torch.testing.assert_close(on_pixels, on_coefficients, atol=1e-12, rtol=0)


def test_errors_of_the_two_approximations() -> None:
    rows = approximation_errors(50_000, seed=1)
    for n_freqs, (asm, apx) in PUBLISHED.items():
        assert rows[n_freqs]["asm"] == pytest.approx(asm, rel=0.01, abs=6e-5)  # the last printed digit
        assert rows[n_freqs]["apx"] == pytest.approx(apx, rel=0.01, abs=6e-5)
    assert all(row["asm"] < row["apx"] for row in rows)
