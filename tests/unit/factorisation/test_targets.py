"""The filters of the experiment."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rdtrain.errors import UserError
from rdtrain.factorisation.targets import (
    WAVELETS,
    floor,
    normalised,
    on_canvas,
    read_kernel,
    synthesis_filters,
    wavelet,
)  # fmt: skip


def test_taps_are_those_of_the_package_dtcwt() -> None:
    coeffs = pytest.importorskip("dtcwt.coeffs", reason="the package dtcwt is not installed")
    _, low, _, high = coeffs.biort("near_sym_a")
    for ours, theirs in zip(synthesis_filters(), (low, high), strict=True):
        np.testing.assert_allclose(ours, theirs.ravel(), atol=1e-16)


def test_roots_are_real_so_that_three_taps_factorise_exactly() -> None:
    low, high = (np.sort(np.roots(taps).astype(complex)) for taps in synthesis_filters())
    np.testing.assert_allclose(low.real, [-7.3287, -1, -1, -0.13645, 0.23648, 4.2287], atol=5e-5)
    np.testing.assert_allclose(high.real, [-6.8541, -0.1459, 1, 1], atol=5e-5)
    assert abs(low.imag).max() < 1e-7 and abs(high.imag).max() < 1e-7


def test_responses() -> None:
    shapes = {name: wavelet(name).shape for name in WAVELETS}
    assert shapes == {"ll": (7, 7), "lh": (5, 7), "hl": (7, 5), "hh": (5, 5)}
    energies = [np.square(wavelet(name)).sum() for name in WAVELETS]
    np.testing.assert_allclose(energies, [0.26065, 0.25016, 0.25016, 0.2401], atol=5e-6)
    np.testing.assert_allclose([wavelet(name).sum() for name in WAVELETS], [1, 0, 0, 0], atol=1e-15)
    canvas = on_canvas(wavelet("lh"))
    assert canvas.shape == (16, 16) and np.argmax(np.abs(canvas)) == 8 * 16 + 8


@pytest.mark.parametrize(
    ("name", "side", "expected"),
    [
        ("lh", 5, 4.4795e-4),
        ("hl", 5, 4.4795e-4),
        ("lh", 7, 0),
        ("hh", 5, 0),
        ("ll", 5, 1.5898e-2),
        ("ll", 7, 1.2255e-2),
    ],
)
def test_floors(name: str, side: int, expected: float) -> None:
    y = normalised(on_canvas(wavelet(name)))
    assert np.square(y).sum() == pytest.approx(255)  # the deviation is unbiased
    assert floor(y, side) == pytest.approx(expected, abs=1e-6)


def test_a_filter_from_a_file(tmp_path: Path) -> None:
    kernel = np.random.default_rng(0).normal(size=(3, 5))
    np.save(tmp_path / "kernel.npy", kernel)
    np.savetxt(tmp_path / "kernel.csv", kernel, delimiter=",")
    for name in ("kernel.npy", "kernel.csv"):
        np.testing.assert_allclose(read_kernel(str(tmp_path / name), "cases.mine.file"), kernel, atol=1e-12)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("1 2\n3 4", "both sides must be odd"),
        ("0", "no filter but zeros"),
        ("a b", "cannot be read"),
        ("\n", "is empty"),
    ],
)
def test_a_file_without_a_filter(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "kernel.txt").write_text(text)
    with pytest.raises(UserError, match=said):
        read_kernel(str(tmp_path / "kernel.txt"), "cases.mine.file")
    with pytest.raises(UserError, match="cannot be read"):
        read_kernel(str(tmp_path / "missing.npy"), "cases.mine.file")


def test_complex_numbers_are_not_cut_down_to_their_real_parts(tmp_path: Path) -> None:
    np.save(tmp_path / "kernel.npy", np.ones((3, 3), dtype=complex))
    with pytest.raises(UserError, match="holds complex numbers"):
        read_kernel(str(tmp_path / "kernel.npy"), "cases.mine.file")
