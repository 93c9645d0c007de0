from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from conv_oracles import FULL_RANK, SIZES, as_spectrum, attenuation_mask, doubling, from_spectrum
from hypothesis import given, settings
from hypothesis import strategies as st

from rdtrain.conv.matrices import coefficient_order
from rdtrain.conv.transform import Transform
from rdtrain.conv.transforms import (
    Attenuated,
    Dct,
    Rdft,
    Rfft,
    complex_from_stored,
    make_transform,
    stored_from_complex,
)
from rdtrain.errors import UserError

sizes = pytest.mark.parametrize("size", SIZES, ids=str)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("transform", FULL_RANK, ids=str)
@settings(max_examples=25, deadline=None)
@given(kh=st.integers(1, 11), kw=st.integers(1, 11), out_axis=st.integers(0, 1), seed=st.integers(0, 99))
def test_round_trip_is_exact(transform: Transform, kh: int, kw: int, out_axis: int, seed: int) -> None:
    weight = random(4, 3, kh, kw, seed=seed)
    stored = transform.to_stored(weight, out_axis)
    assert stored.shape == transform.stored_shape((4, 3, kh, kw))
    assert not stored.is_complex()
    assert transform.full_rank((kh, kw))
    torch.testing.assert_close(transform.to_weight(stored, (kh, kw), out_axis), weight, rtol=0, atol=2e-13)
    single = weight.float() / weight.abs().max()
    stored = transform.to_stored(single, out_axis)
    training = transform.to_weight(stored, (kh, kw), out_axis)
    with torch.no_grad():
        evaluation = transform.to_weight(stored, (kh, kw), out_axis)
    torch.testing.assert_close(training, single, rtol=0, atol=2e-6)
    torch.testing.assert_close(evaluation, single, rtol=0, atol=1.2e-7)


@sizes
def test_rfft_stores_numpys_half_spectrum(size: tuple[int, int]) -> None:
    weight = random(3, 2, *size)
    spectrum = as_spectrum(Rfft().to_stored(weight), size)
    np.testing.assert_allclose(spectrum, np.fft.rfft2(weight.numpy(), norm="ortho"), rtol=0, atol=1e-13)


@sizes
def test_rfft_inverts_any_numbers_as_numpy_does(size: tuple[int, int]) -> None:
    # Not a spectrum of anything real: the redundant and the ineffective numbers are random too.
    stored = random(3, 2, 2 * size[0] * (size[1] // 2 + 1))
    expected = np.fft.irfft2(as_spectrum(stored, size), s=size, norm="ortho")
    np.testing.assert_allclose(Rfft().to_weight(stored, size).numpy(), expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize(("size", "numbers"), [((5, 5), 30), ((11, 11), 132), ((1, 1), 2), ((4, 4), 24)])
def test_rfft_stores_as_many_reals_as_two_a_complex(size: tuple[int, int], numbers: int) -> None:
    assert Rfft().stored_shape((8, 3, *size)) == (8, 3, numbers)
    assert np.linalg.matrix_rank(Rfft().basis(size)) == size[0] * size[1]


@sizes
@pytest.mark.parametrize("floor", [None, 0.1, 1.0])
def test_gradient_is_c_times_m_times_the_spectrum(size: tuple[int, int], floor: float | None) -> None:
    transform = Rfft() if floor is None else Attenuated(floor)
    stored = random(2, 3, 2 * size[0] * (size[1] // 2 + 1)).requires_grad_()
    upstream = random(2, 3, *size, seed=1)
    (gradient,) = torch.autograd.grad(transform.to_weight(stored, size), stored, upstream)
    mask = 1.0 if floor is None else attenuation_mask(size, floor)
    expected = doubling(size[1]) * mask * np.fft.rfft2(upstream.numpy(), norm="ortho")
    np.testing.assert_allclose(as_spectrum(gradient, size), expected, rtol=0, atol=1e-14 * size[0] * size[1])


@sizes
def test_numbers_without_effect_have_exactly_no_gradient(size: tuple[int, int]) -> None:
    # Adam would turn a rounding residue into full steps.
    kh, kw = size
    stored = torch.zeros(1, 1, 2 * kh * (kw // 2 + 1), requires_grad=True)
    Rfft().to_weight(stored, size).backward(random(1, 1, *size).float())
    assert stored.grad is not None
    imaginary = stored.grad.reshape(kh, kw // 2 + 1, 2)[..., 1]
    own_mirror = [(u, v) for u in {0, kh / 2} for v in {0, kw / 2} if u == int(u) and v == int(v)]
    assert [imaginary[int(u), int(v)].item() for u, v in own_mirror] == [0.0] * len(own_mirror)


@sizes
def test_rdft_is_the_orthonormal_product_basis(size: tuple[int, int]) -> None:
    weight = random(2, 3, *size)
    stored = Rdft().to_stored(weight)
    assert stored.shape == weight.shape
    expected = np.einsum("ay,oiyx,bx->oiab", real_dft_by_hand(size[0]), weight.numpy(), real_dft_by_hand(size[1]))
    np.testing.assert_allclose(stored.numpy(), expected, rtol=0, atol=1e-13)
    basis = Rdft().basis(size)
    np.testing.assert_allclose(basis @ basis.T, np.eye(len(basis)), rtol=0, atol=1e-14)


def real_dft_by_hand(n: int) -> np.ndarray:
    rows = [np.full(n, n**-0.5)]
    for k in range(1, (n + 1) // 2):
        rows += [np.sqrt(2 / n) * f(2 * np.pi * k * np.arange(n) / n) for f in (np.cos, np.sin)]
    if n % 2 == 0:
        rows.append(n**-0.5 * (-1.0) ** np.arange(n))
    return np.array(rows)


@sizes
@pytest.mark.parametrize("order", ["zigzag", "square"])
def test_dct_keeps_the_first_coefficients(size: tuple[int, int], order: str) -> None:
    weight = random(2, 3, *size)
    everything = dct2_by_hand(weight.numpy())
    for kept in (1, 2, 4, size[0] * size[1]):
        transform = Dct(kept, order)
        first = coefficient_order(*size, order)[:kept]
        stored = transform.to_stored(weight)
        np.testing.assert_allclose(stored.numpy(), everything[..., first], rtol=0, atol=1e-12)
        # Projection: what is lost is the norm of the coefficients that were dropped.
        lost = (transform.to_weight(stored, size) - weight).square().sum().item()
        dropped = np.delete(everything, first, axis=-1)
        assert lost == pytest.approx((dropped**2).sum(), rel=1e-10, abs=1e-12)
        assert transform.full_rank(size) == (kept >= size[0] * size[1])


def dct2_by_hand(weight: np.ndarray) -> np.ndarray:
    kh, kw = weight.shape[-2:]
    coefficients = np.zeros((*weight.shape[:2], kh * kw))
    for a in range(kh):
        for b in range(kw):
            rows = np.cos((2 * np.arange(kh) + 1) * a * np.pi / (2 * kh)) * np.sqrt((1 if a == 0 else 2) / kh)
            columns = np.cos((2 * np.arange(kw) + 1) * b * np.pi / (2 * kw)) * np.sqrt((1 if b == 0 else 2) / kw)
            coefficients[..., a * kw + b] = np.einsum("oiyx,y,x->oi", weight, rows, columns)
    return coefficients


def test_orders_are_jpegs_zigzag_and_growing_squares() -> None:
    zigzag = [0, 1, 8, 16, 9, 2, 3, 10, 17, 24, 32, 25, 18, 11, 4, 5, 12, 19, 26, 33, 40, 48, 41, 34, 27, 20, 13, 6]
    assert coefficient_order(8, 8, "zigzag")[:28] == zigzag
    assert coefficient_order(8, 8, "zigzag")[-3:] == [55, 62, 63]
    assert coefficient_order(5, 5, "square")[:9] == [0, 1, 5, 6, 2, 7, 10, 11, 12]
    assert {divmod(i, 5) for i in coefficient_order(5, 5, "square")[:4]} == {(0, 0), (0, 1), (1, 0), (1, 1)}
    assert sorted(coefficient_order(3, 7, "square")) == list(range(21))


@sizes
def test_attenuated_divides_the_spectrum_by_its_mask(size: tuple[int, int]) -> None:
    weight = random(2, 3, *size)
    spectrum = as_spectrum(Attenuated(0.2).to_stored(weight), size)
    expected = np.fft.rfft2(weight.numpy(), norm="ortho") / attenuation_mask(size, 0.2)
    np.testing.assert_allclose(spectrum, expected, rtol=0, atol=1e-12)


def test_attenuation_goes_by_the_absolute_frequency() -> None:
    mask = attenuation_mask((5, 5), 0.1)
    np.testing.assert_allclose(mask[:, 0], [1, 0.55, 0.1, 0.1, 0.55])
    np.testing.assert_allclose(mask[0], [1, 0.55, 0.1])
    gain = Attenuated(0.1).gain((7, 3, 5, 5), 0)
    np.testing.assert_allclose(gain[0, 0].reshape(5, 3, 2), np.repeat(mask[..., None], 2, -1))


@pytest.mark.parametrize("out_axis", [0, 1])
@pytest.mark.parametrize(
    ("fraction", "interleaved", "attenuated"),
    [(0.5, False, [0, 1, 2]), (0.5, True, [1, 3, 5]), (1.0, True, [0, 1, 2, 3, 4, 5]), (0.0, False, [])],
)
def test_a_fraction_of_the_output_channels_is_attenuated(
    fraction: float, interleaved: bool, attenuated: list[int], out_axis: int
) -> None:
    transform = Attenuated(0.1, fraction, interleaved)
    shape = (6, 4, 3, 3) if out_axis == 0 else (4, 6, 3, 3)
    weight = random(*shape)
    both = [t.to_stored(weight, out_axis).movedim(out_axis, 0) for t in (transform, Rfft())]
    changed = [i for i in range(6) if not torch.equal(both[0][i], both[1][i])]
    assert changed == attenuated
    stored = random(*transform.stored_shape(shape), seed=3).float()
    if not attenuated:
        assert torch.equal(transform.to_weight(stored, (3, 3), out_axis), Rfft().to_weight(stored, (3, 3)))


@pytest.mark.parametrize("transform", FULL_RANK, ids=str)
@sizes
def test_weights_gradient_comes_back_from_the_stored_one(transform: Transform, size: tuple[int, int]) -> None:
    stored = transform.to_stored(random(4, 2, *size)).requires_grad_()
    gradient = random(4, 2, *size, seed=5)
    transform.to_weight(stored, size).backward(gradient)
    assert stored.grad is not None
    torch.testing.assert_close(transform.gradient_to_weight(stored.grad, size), gradient, rtol=0, atol=1e-12)


@sizes
def test_square_map_is_the_variance_of_uncorrelated_parts(size: tuple[int, int]) -> None:
    # B by numpy: the weight gradient of each stored unit gradient, g_w = irfft2(g_theta / (c m)).
    variance = random(1, 1, 2 * size[0] * (size[1] // 2 + 1), seed=7).square()
    for transform, mask in ((Rfft(), 1.0), (Attenuated(0.3), attenuation_mask(size, 0.3))):
        expected = np.zeros(size)
        for index in range(variance.numel()):
            unit = np.zeros(variance.numel())
            unit[index] = 1.0
            spectrum = as_spectrum(torch.from_numpy(unit).reshape(1, 1, -1), size) / (doubling(size[1]) * mask)
            # irfft2 doubles the columns that c halves, so it is undone here to sum each stored number once.
            tap = np.fft.irfft2(spectrum, s=size, norm="ortho")[0, 0]
            expected += variance.reshape(-1)[index].item() * tap**2
        moved = transform.square_to_weight(variance, size)
        np.testing.assert_allclose(moved.numpy()[0, 0], expected, rtol=1e-9, atol=1e-12)


def test_complex_form_is_the_same_numbers() -> None:
    spectrum = np.fft.rfft2(random(2, 3, 5, 4).numpy(), norm="ortho")
    stored = stored_from_complex(torch.from_numpy(spectrum))
    assert torch.equal(stored, from_spectrum(spectrum))
    assert np.array_equal(complex_from_stored(stored, (5, 4)).numpy(), spectrum)


@dataclass(frozen=True)
class Tapered(Transform):
    """A transform as a user writes one: taps scaled, one of them left out."""

    left_out: int | None = None

    def basis(self, kernel_size: tuple[int, int]) -> np.ndarray:
        taps = kernel_size[0] * kernel_size[1]
        basis = np.diag(1.0 + np.arange(taps))
        return basis if self.left_out is None else np.delete(basis, self.left_out, axis=0)


def test_own_transforms_need_only_a_basis() -> None:
    weight = random(2, 2, 3, 2)
    np.testing.assert_allclose(
        Tapered().to_stored(weight).numpy(), weight.flatten(2).numpy() / np.arange(1, 7), rtol=1e-12
    )
    torch.testing.assert_close(Tapered().to_weight(Tapered().to_stored(weight), (3, 2)), weight)
    assert Tapered().full_rank((3, 2))
    assert not Tapered(left_out=1).full_rank((3, 2))
    projected = Tapered(left_out=1).to_weight(Tapered(left_out=1).to_stored(weight), (3, 2))
    weight[:, :, 0, 1] = 0
    torch.testing.assert_close(projected, weight)


@dataclass(frozen=True)
class Repeated(Transform):
    """Redundant and incomplete at once, so the basis has singular values of rounding size."""

    def basis(self, kernel_size: tuple[int, int]) -> np.ndarray:
        few = Rdft().basis(kernel_size)[:4]
        return np.concatenate([few, 0.3 * few, few[:2] - few[2:]])


def test_redundant_and_incomplete_bases_project() -> None:
    weight, few = random(2, 2, 3, 4), Rdft().basis((3, 4))[:4]
    expected = weight.flatten(2).numpy() @ few.T @ few
    projected = Repeated().to_weight(Repeated().to_stored(weight), (3, 4))
    np.testing.assert_allclose(projected.flatten(2).numpy(), expected, rtol=0, atol=1e-12)
    assert Repeated().to_stored(weight).abs().max() < 10
    assert not Repeated().full_rank((3, 4))


def test_half_precision_is_computed_in_single() -> None:
    stored = Rfft().to_stored(random(8, 8, 5, 5))
    exact = Rfft().to_weight(stored.bfloat16().double(), (5, 5))
    # One rounding at the end; sums of numbers rounded to bfloat16 would miss small weights by much more.
    half = Rfft().to_weight(stored.bfloat16(), (5, 5))
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.double(), exact, rtol=2**-8, atol=1e-6)
    with torch.autocast("cpu", torch.bfloat16):
        kernels = Rfft().to_weight(stored.float(), (5, 5))
    assert kernels.dtype == torch.float32
    torch.testing.assert_close(kernels.double(), Rfft().to_weight(stored, (5, 5)), rtol=0, atol=1e-6)


def test_first_use_in_inference_mode_does_not_spoil_training() -> None:
    size, stored = (3, 8), random(1, 1, 30).requires_grad_()  # a size that no other test uses
    for transform in (Rfft(), Attenuated(0.7)):
        with torch.inference_mode():
            transform.to_weight(stored, size)
        transform.to_weight(stored, size).sum().backward()


def test_names_and_options() -> None:
    assert make_transform("rfft") == Rfft()
    assert make_transform("rdft") == Rdft()
    assert make_transform("dct", K=4, order="square") == Dct(4, "square")
    assert make_transform("attenuated", floor=0.5) == Attenuated(0.5)
    assert Attenuated() != Rfft()


@pytest.mark.parametrize(
    ("name", "options", "hint"),
    [
        ("fft", {}, "rfft, rdft, dct, attenuated"),
        ("rfft", {"K": 3}, "no such option"),
        ("dct", {"K": 0}, "at least 1"),
        ("dct", {"order": "spiral"}, "zigzag or square"),
        ("attenuated", {"floor": 0.0}, "above 0"),
        ("attenuated", {"fraction": 1.5}, "0 to 1"),
    ],
)
def test_mistakes_say_what_to_type(name: str, options: dict[str, object], hint: str) -> None:
    with pytest.raises(UserError, match=hint):
        make_transform(name, **options)
