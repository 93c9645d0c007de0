"""The transforms that ship: half spectrum, orthonormal real DFT, DCT, and half spectrum with attenuation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from rdtrain.conv import matrices
from rdtrain.conv.matrices import Matrix
from rdtrain.conv.transform import KernelSize, Shape, Transform
from rdtrain.errors import UserError


@dataclass(frozen=True)
class Rfft(Transform):
    """Half spectrum, numerically `compressai.layers.SpectralConv2d`: `theta = rfft2(w, norm="ortho")`.

    Real and imaginary parts are stored side by side, so Adam takes the steps that it takes on CompressAI's complex
    tensor, which is `torch.view_as_complex(theta.unflatten(-1, (Kh, Kw//2 + 1, 2)))`. S = 2*Kh*(Kw//2 + 1) numbers
    stand for N = Kh*Kw taps: imaginary parts of self-conjugate bins have no effect, and the columns v = 0 (and Kw/2)
    hold each number twice. `dL/dtheta[u,v] = c_v rfft2(dL/dw)[u,v]`, c_v = 1 on those columns and 2 elsewhere: the
    gradients are up to sqrt(2) longer than plain ones, as is Adam's first step, sqrt((2 N - 1) / N) for odd Kh = Kw.

    Source: Ballé, "Efficient Nonlinear Transforms for Lossy Image Compression", PCS 2018, arXiv 1802.00847; the sibling
    implementations are CompressAI's layers.py and RDFTParameter of TensorFlow Compression 2.1 and later.
    """

    def basis(self, kernel_size: KernelSize) -> Matrix:  # noqa: D102 - the base class says it
        return matrices.half_spectrum_basis(*kernel_size)


@dataclass(frozen=True)
class Rdft(Transform):
    """Orthonormal real DFT, separable: `theta = Q^T w`, Q = Q_h kron Q_w, of the same shape as the weight.

    SGD, momentum, weight decay, gradient clipping and random initialisation are exactly those of a plain convolution;
    only optimizers with a step size a coordinate, such as Adam, notice. Sine and cosine products mix the frequencies
    (u, v) and (u, -v), so the two diagonals cannot get different step sizes; the half spectrum can.

    Source: the code of Ballé 2018 (arXiv 1802.00847), as TensorFlow Compression 1.0 to 2.0 kept it.
    """

    def basis(self, kernel_size: KernelSize) -> Matrix:  # noqa: D102 - the base class says it
        return matrices.separable_basis(*map(matrices.real_dft_basis, kernel_size))

    def stored_shape(self, weight_shape: Shape) -> Shape:  # noqa: D102 - the base class says it
        return tuple(weight_shape)


@dataclass(frozen=True)
class Dct(Transform):
    """First K coefficients of the orthonormal two-dimensional DCT-II: `theta = E^T w`, `w = E theta`.

    With K = Kh*Kw any kernel is exact; with fewer, `to_stored` is the orthogonal projection, and gradients and moments
    that are carried over to the weight have no part along the dropped coefficients.

    Source: the JPEG standard's zigzag (ITU-T T.81, figure A.6); kernels from a DCT basis as in harmonic networks,
    Ulicny et al., BMVC 2019.

    Args:
        K: coefficients kept of each kernel, at most all; None keeps all.
        order: which come first, `zigzag` or `square`, see `matrices.coefficient_order`.

    Raises:
        UserError: K below 1, or an unknown order.
    """

    K: int | None = None
    order: Literal["zigzag", "square"] = "zigzag"

    def __post_init__(self) -> None:
        if self.K is not None and self.K < 1:
            raise UserError(f"conv.dct.coefficients={self.K}: type a number of at least 1, or null for all")
        if self.order not in ("zigzag", "square"):
            raise UserError(f"conv.dct.order={self.order}: type zigzag or square")

    def basis(self, kernel_size: KernelSize) -> Matrix:  # noqa: D102 - the base class says it
        first = matrices.coefficient_order(*kernel_size, self.order)[: self.K]
        return matrices.separable_basis(*map(matrices.cosine_basis, kernel_size))[first]


@dataclass(frozen=True)
class Attenuated(Rfft):
    """Half spectrum with high frequencies attenuated: `w = irfft2(m theta)`, `theta = rfft2(w) / m`.

    m falls with |frequency| along each axis, see `matrices.attenuation`. `dL/dtheta = c m rfft2(dL/dw)`: SGD moves a
    frequency m^2 times as far as `Rfft`, Adam m times.

    Source: an idea from the discussion of CompressAI's SpectralConv2d, here with the mask on |frequency|, and inverted
    when a weight is stored.

    Args:
        floor: m at the highest frequency of an axis, above 0 and up to 1.
        fraction: share of the output channels that is attenuated; the others are `Rfft`. Channels are counted along the
            weight's own axis of output channels, which for a transposed convolution with groups is within each group.
        interleaved: spread those channels evenly instead of taking the first ones.

    Raises:
        UserError: floor or fraction out of range.
    """

    floor: float = 0.1
    fraction: float = 1.0
    interleaved: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.floor <= 1:
            raise UserError(f"conv.attenuated.floor={self.floor}: type a number above 0 and up to 1")
        if not 0 <= self.fraction <= 1:
            raise UserError(f"conv.attenuated.fraction={self.fraction}: type a number from 0 to 1")

    def gain(self, weight_shape: Shape, out_axis: int) -> Matrix:  # noqa: D102 - the base class says it
        mask = matrices.attenuation(weight_shape[2], weight_shape[3], self.floor)
        gain = np.where(self._attenuated(weight_shape[out_axis])[:, None], mask, 1.0)
        return np.expand_dims(gain, 1 - out_axis)

    def _attenuated(self, channels: int) -> np.ndarray:
        count = round(self.fraction * channels)
        index = np.arange(channels)
        if self.interleaved:
            return (index + 1) * count // channels > index * count // channels
        return index < count


def stored_from_complex(spectrum: Tensor) -> Tensor:
    """What `Rfft` stores, from CompressAI's `weight_transformed`.

    Args:
        spectrum: complex, shape (A, B, Kh, Kw//2 + 1).

    Returns:
        real, shape (A, B, 2*Kh*(Kw//2 + 1)).
    """
    return torch.view_as_real(spectrum.resolve_conj()).flatten(2)


def complex_from_stored(stored: Tensor, kernel_size: KernelSize) -> Tensor:
    """CompressAI's `weight_transformed`, from what `Rfft` stores.

    Args:
        stored: float32 or float64, shape (A, B, 2*Kh*(Kw//2 + 1)).
        kernel_size: (Kh, Kw).

    Returns:
        complex, shape (A, B, Kh, Kw//2 + 1).
    """
    return torch.view_as_complex(stored.unflatten(-1, (kernel_size[0], kernel_size[1] // 2 + 1, 2)).contiguous())


_NAMES: dict[str, type[Transform]] = {"rfft": Rfft, "rdft": Rdft, "dct": Dct, "attenuated": Attenuated}


def make_transform(name: str, **options: Any) -> Transform:
    """A transform from its name in the configuration.

    Args:
        name: `rfft`, `rdft`, `dct` or `attenuated`.
        **options: the fields of that class.

    Returns:
        the transform.

    Raises:
        UserError: unknown name or option, or an option's value is out of range.
    """
    if name not in _NAMES:
        raise UserError(f"conv.transform={name}: type one of {', '.join(_NAMES)}")
    try:
        return _NAMES[name](**options)
    except TypeError as error:
        raise UserError(f"conv.transform={name} has no such option: {error}") from error
