"""Independent answers, numpy float64 only, and the geometries that the property tests draw."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from rdtrain.conv.transform import Transform
from rdtrain.conv.transforms import Attenuated, Dct, Rdft, Rfft

FULL_RANK: list[Transform] = [Rfft(), Rdft(), Dct(), Dct(order="square"), Attenuated(), Attenuated(0.3, 0.5, True)]
# Where torch's and numpy's rfft2 halve the plane: columns 0 and, for even widths, Kw/2 stand for themselves.
SIZES = [(1, 1), (1, 5), (5, 1), (2, 2), (3, 3), (4, 4), (5, 5), (4, 5), (5, 4), (2, 7), (9, 6), (11, 11), (10, 11)]


def doubling(kw: int) -> np.ndarray:
    """c_v: how many columns of the full spectrum each stored column stands for."""
    return np.array([1.0 if v == 0 or 2 * v == kw else 2.0 for v in range(kw // 2 + 1)])


def as_spectrum(stored: Tensor, kernel_size: tuple[int, int]) -> np.ndarray:
    pairs = stored.detach().double().numpy().reshape(*stored.shape[:2], kernel_size[0], kernel_size[1] // 2 + 1, 2)
    return pairs[..., 0] + 1j * pairs[..., 1]


def from_spectrum(spectrum: np.ndarray) -> Tensor:
    pairs = np.stack([spectrum.real, spectrum.imag], axis=-1)
    return torch.from_numpy(pairs.reshape(*spectrum.shape[:2], -1))


def attenuation_mask(kernel_size: tuple[int, int], floor: float) -> np.ndarray:
    """Gain a frequency, axis by axis in plain loops: frequency 0..n/2 and back, over the highest one."""
    per_axis = []
    for n, count in ((kernel_size[0], kernel_size[0]), (kernel_size[1], kernel_size[1] // 2 + 1)):
        highest = n // 2
        frequencies = [min(k, n - k) for k in range(count)]
        per_axis.append([1 - (1 - floor) * (k / highest if highest else 0.0) for k in frequencies])
    return np.array([[row * column for column in per_axis[1]] for row in per_axis[0]])


@st.composite
def geometries(draw: st.DrawFn, transposed: bool) -> dict[str, Any]:
    """Constructor arguments of a convolution, and no kernel larger than a 16 x 16 input needs."""
    kernel_size = (draw(st.integers(1, 11)), draw(st.integers(1, 11)))
    stride, groups = draw(st.integers(1, 2)), draw(st.sampled_from([1, 2, 4]))
    dilation = draw(st.integers(1, 2)) if max(kernel_size) < 6 else 1
    arguments: dict[str, Any] = {
        "in_channels": 4,
        "out_channels": 8,
        "kernel_size": kernel_size,
        "stride": stride,
        "padding": (min(kernel_size[0] // 2, 4), min(kernel_size[1] // 2, 4)),
        "dilation": dilation,
        "groups": groups,
        "bias": draw(st.booleans()),
    }
    if transposed:
        arguments["output_padding"] = draw(st.integers(0, max(stride, dilation) - 1))
    else:
        arguments["padding_mode"] = draw(st.sampled_from(["zeros", "reflect", "replicate", "circular"]))
    return arguments


def conv_of(arguments: dict[str, Any], transposed: bool, dtype: torch.dtype = torch.float32) -> nn.Module:
    return (nn.ConvTranspose2d if transposed else nn.Conv2d)(**arguments, dtype=dtype)
