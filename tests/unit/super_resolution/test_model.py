"""The doubled images against numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rdtrain.super_resolution.model import SmallSuperResolution, bicubic, halved


def cubic(distance: np.ndarray, a: float) -> np.ndarray:
    x = np.abs(distance)
    near, far = (a + 2) * x**3 - (a + 3) * x**2 + 1, a * (x**3 - 5 * x**2 + 8 * x - 4)
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))


def resampled(size: int, new: int, a: float) -> np.ndarray:
    """The matrix of an interpolation whose kernel is as wide as the coarser grid; borders by normalisation."""
    step = size / new
    centres = (np.arange(new) + 0.5) * step - 0.5
    weights = cubic((np.arange(size) - centres[:, None]) / max(step, 1.0), a)
    return weights / weights.sum(axis=1, keepdims=True)


def test_halves_are_filtered_and_rounded_to_8_bits() -> None:
    x = torch.rand(2, 3, 16, 12, generator=torch.Generator().manual_seed(1))
    rows, columns = resampled(16, 8, -0.5), resampled(12, 6, -0.5)
    expected = np.clip(np.einsum("iy,bcyx,jx->bcij", rows, x.numpy().astype(np.float64), columns), 0, 1)
    found = halved(x).numpy()
    assert found.shape == (2, 3, 8, 6) and np.abs(found - expected).max() < 0.5001 / 255
    np.testing.assert_allclose(found * 255, np.round(found * 255), atol=1e-4)


def test_bicubic_is_keys_interpolation_inside() -> None:
    x = torch.rand(1, 3, 10, 14, generator=torch.Generator().manual_seed(2))
    rows, columns = resampled(10, 20, -0.75), resampled(14, 28, -0.75)
    expected = np.einsum("iy,bcyx,jx->bcij", rows, x.numpy().astype(np.float64), columns)
    inside = (..., slice(4, -4), slice(4, -4))
    np.testing.assert_allclose(bicubic(x).numpy()[inside], expected[inside], atol=1e-5)


def test_the_network_adds_to_the_interpolation() -> None:
    torch.manual_seed(1)
    model, x = SmallSuperResolution(), torch.rand(2, 3, 9, 7)
    assert sum(p.numel() for p in model.parameters()) == 32 * (3 * 25 + 1) + 32 * (32 * 25 + 1) + 12 * (32 * 25 + 1)
    assert model(x).shape == (2, 3, 18, 14)
    last = model.body[4]
    with torch.no_grad():
        last.weight.zero_()  # type: ignore[union-attr, operator]
        last.bias.copy_(torch.arange(12.0))  # type: ignore[union-attr, operator]
    added = (model(x) - bicubic(x))[0, 1, :2, :2]
    assert added.tolist() == [[pytest.approx(4, abs=1e-5), pytest.approx(5)], [pytest.approx(6), pytest.approx(7)]]
