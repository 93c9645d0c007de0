"""Steps to a tolerance, and errors by frequency, on numbers that can be checked by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from rdtrain.conv.transforms import Dct, Rfft
from rdtrain.kernels.bank import relative_error
from rdtrain.kernels.measures import StepsToTolerance, band_errors, frequency_error
from rdtrain.kernels.results import projection_error


def test_the_first_time_counts() -> None:
    reached = StepsToTolerance(0.1)
    assert reached.numbers() == []
    for step, row in enumerate([[1.0, 0.05, math.nan], [0.1, 0.5, 0.2], [0.01, 0.01, math.inf]]):
        reached.look(torch.tensor([row]), step)
    assert reached.numbers() == [[1, 0, None]]


def test_errors_by_frequency_add_up_to_the_error_and_lie_where_they_are() -> None:
    torch.manual_seed(0)
    gap, target = torch.randn(2, 7, 3, 2, 5, 11, dtype=torch.float64), torch.randn(7, 3, 2, 5, 11, dtype=torch.float64)
    spectrum = frequency_error(gap, target)
    expected = np.sqrt((np.abs(np.fft.fft2(gap.numpy())) ** 2 / 55).sum(axis=(2, 3)))
    expected /= np.linalg.norm(target.numpy().reshape(7, -1), axis=1)[:, None, None]
    np.testing.assert_allclose(spectrum.numpy(), expected, rtol=1e-12)
    whole = relative_error(gap, target)
    low, high = band_errors(spectrum)
    torch.testing.assert_close(torch.hypot(low, high), whole, rtol=1e-12, atol=0)


@pytest.mark.parametrize(("u", "v", "is_low"), [(0, 0, True), (2, 0, True), (2, 2, False), (0, 5, False)])
def test_a_wave_is_in_its_band(u: int, v: int, is_low: bool) -> None:
    y, x = np.mgrid[:11, :11]
    wave = torch.from_numpy(np.cos(2 * np.pi * (u * y + v * x) / 11))[None, None]
    low, high = band_errors(frequency_error(wave, wave))
    assert (float(low), float(high)) == pytest.approx((1, 0) if is_low else (0, 1), abs=1e-12)


@pytest.mark.parametrize("order", ["zigzag", "square"])
def test_the_floor_is_what_the_dropped_coefficients_hold(order: str) -> None:
    dct = pytest.importorskip("scipy.fft")
    target = torch.from_numpy(np.random.default_rng(0).standard_normal((1, 2, 3, 5, 5)))
    coefficients = dct.dctn(target.numpy(), axes=(3, 4), norm="ortho")
    kept = [(0, 0), (0, 1), (1, 0), (2, 0) if order == "zigzag" else (1, 1)]
    total = (coefficients**2).sum()
    expected = math.sqrt(1 - sum((coefficients[..., a, b] ** 2).sum() for a, b in kept) / total)
    assert float(projection_error(Dct(4, order), target)) == pytest.approx(expected, rel=1e-12)  # type: ignore[arg-type]
    assert projection_error(Rfft(), target).tolist() == projection_error(None, target).tolist() == [0.0]
