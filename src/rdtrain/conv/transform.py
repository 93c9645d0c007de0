"""What every form of a stored kernel has in common: one product with a small constant matrix, and its relatives.

Shapes: a weight is (A, B, Kh, Kw): A = out, B = in/groups for `nn.Conv2d`; A = in, B = out/groups for
`nn.ConvTranspose2d`. Every transform works on the last two dimensions only, so stride, dilation, groups and
transposition never enter. Stored numbers are real, S to a kernel of N = Kh*Kw taps.

    w         = (theta * gain) @ basis                      basis (S, N), gain None or broadcastable to (A, B, S)
    theta     = (w @ analysis) / gain                       analysis (N, S), the pseudo-inverse of basis
    dL/dtheta = (dL/dw @ basis^T) * gain
    dL/dw     = (dL/dtheta / gain) @ analysis^T             exact where basis has rank N
    E[g_w^2]  ~ (E[g_theta^2] / gain^2) @ (analysis^T)^2    exact where the parts of g_theta are uncorrelated
"""

from __future__ import annotations

import contextlib
import functools
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from rdtrain.conv.matrices import Matrix, analysis_of, is_full_rank

Shape = tuple[int, ...]
KernelSize = tuple[int, int]
Map = tuple[Tensor, Tensor | None]  # matrix and gain


class Transform(ABC):
    """A linear form of kernels. To write one, subclass it as a frozen dataclass and return a `basis`.

    An instance is a value: it holds options and no tensors, is hashable, and one may serve many layers. Example:

        @dataclass(frozen=True)
        class UpsideDown(Transform):
            def basis(self, kernel_size):
                return np.eye(kernel_size[0] * kernel_size[1])[::-1]

        to_spectral(model, UpsideDown())
    """

    @abstractmethod
    def basis(self, kernel_size: KernelSize) -> Matrix:
        """The kernels that the stored numbers stand for, row s flattened from (Kh, Kw).

        Args:
            kernel_size: (Kh, Kw).

        Returns:
            float64, shape (S, Kh*Kw).
        """

    def gain(self, weight_shape: Shape, out_axis: int) -> Matrix | None:
        """Factor of each stored number, for transforms that treat output channels differently.

        Args:
            weight_shape: (A, B, Kh, Kw).
            out_axis: the dimension of output channels: 0, or 1 for a transposed convolution.

        Returns:
            float64, broadcastable to (A, B, S) and nowhere 0, or None for 1 everywhere.
        """
        return None

    def stored_shape(self, weight_shape: Shape) -> Shape:
        """Shape of the stored tensor. Three dimensions stay clear of memory formats such as channels_last.

        Args:
            weight_shape: (A, B, Kh, Kw).

        Returns:
            (A, B, S).
        """
        return (*weight_shape[:2], _float64(self, "basis", (weight_shape[2], weight_shape[3])).shape[0])

    def full_rank(self, kernel_size: KernelSize) -> bool:
        """Whether every kernel of this size can be stored exactly.

        Args:
            kernel_size: (Kh, Kw).

        Returns:
            true if `to_weight(to_stored(w))` is w up to rounding.
        """
        return is_full_rank(self.basis(kernel_size))

    def to_stored(self, weight: Tensor, out_axis: int = 0) -> Tensor:
        """Stored numbers of kernels, computed in float64; the least-squares fit where the basis lacks rank.

        Args:
            weight: shape (A, B, Kh, Kw).
            out_axis: the dimension of output channels.

        Returns:
            shape `stored_shape(weight.shape)`, dtype and device of `weight`.
        """
        shape = tuple(weight.shape)
        analysis = _constant(self, "analysis", (shape[2], shape[3]), torch.float64, weight.device)
        rows = weight.flatten(2).double() @ analysis
        gain = _gain(self, shape, out_axis, -1, torch.float64, weight.device)
        rows = rows if gain is None else rows * gain
        return rows.to(weight.dtype).reshape(self.stored_shape(shape))

    def to_weight(self, stored: Tensor, kernel_size: KernelSize, out_axis: int = 0) -> Tensor:
        """Kernels of stored numbers, differentiable.

        While gradients are recorded, they are computed in at least single precision, which is fast. Otherwise in
        double, rounded once: evaluation, switch and export agree to the last bit, and a weight that was stored comes
        back to about one unit in the last place of the largest.

        Args:
            stored: shape `stored_shape(...)`.
            kernel_size: (Kh, Kw).
            out_axis: the dimension of output channels.

        Returns:
            shape (A, B, Kh, Kw), dtype and device of `stored`.
        """
        shape = (*stored.shape[:2], *kernel_size)
        return apply_map(self.weight_map(stored, shape, out_axis, torch.is_grad_enabled()), stored, shape)

    def weight_map(self, stored: Tensor, weight_shape: Shape, out_axis: int, recorded: bool) -> Map:
        """The constants of `to_weight`, for a caller that keeps them.

        Args:
            stored: of the dtype and on the device that they are for.
            weight_shape: (A, B, Kh, Kw).
            out_axis: the dimension of output channels.
            recorded: whether gradients will be.

        Returns:
            what `apply_map` takes.
        """
        dtype = torch.promote_types(stored.dtype, torch.float32) if recorded else torch.float64
        return _map(self, "basis", weight_shape, out_axis, dtype, stored.device)

    def gradient_to_weight(self, gradient: Tensor, kernel_size: KernelSize, out_axis: int = 0) -> Tensor:
        """Gradient for the kernels from the gradient for the stored numbers; linear, so averages pass through it too.

        Exact where the basis has full rank; else the part of the gradient that lies within the basis.

        Args:
            gradient: dL/dtheta, shape `stored_shape(...)`.
            kernel_size: (Kh, Kw).
            out_axis: the dimension of output channels.

        Returns:
            dL/dw, shape (A, B, Kh, Kw).
        """
        shape = (*gradient.shape[:2], *kernel_size)
        return apply_map(_map(self, "dual", shape, out_axis, torch.float64, gradient.device), gradient, shape)

    def square_to_weight(self, square: Tensor, kernel_size: KernelSize, out_axis: int = 0) -> Tensor:
        """Mean squared gradient for the kernels, as if the parts of the stored gradient were uncorrelated.

        Args:
            square: E[(dL/dtheta)^2], shape `stored_shape(...)`.
            kernel_size: (Kh, Kw).
            out_axis: the dimension of output channels.

        Returns:
            E[(dL/dw)^2], shape (A, B, Kh, Kw).
        """
        shape = (*square.shape[:2], *kernel_size)
        return apply_map(_map(self, "dual_squared", shape, out_axis, torch.float64, square.device), square, shape)


def apply_map(constants: Map, stored: Tensor, weight_shape: Shape) -> Tensor:
    """A tensor of the weight's shape from one of the stored shape, `(stored * gain) @ matrix`.

    Args:
        constants: matrix (S, N) and gain, whose dtype the product is computed in.
        stored: S numbers a kernel.
        weight_shape: (A, B, Kh, Kw).

    Returns:
        shape `weight_shape`, dtype and device of `stored`.
    """
    matrix, gain = constants
    rows = stored.to(matrix.dtype)
    rows = rows if gain is None else rows.flatten(2) * gain
    # One reshape and mm instead of a batched product: with small models the calls cost more than the arithmetic.
    with _full_precision(stored.device.type):
        kernels = rows.reshape(weight_shape[0] * weight_shape[1], -1).mm(matrix)
    return kernels.view(weight_shape).to(stored.dtype)


def _full_precision(device_type: str) -> contextlib.AbstractContextManager[None]:
    # Kernels are sums of many small numbers: half precision, autocast's too, would be felt in every weight.
    if torch.is_autocast_enabled(device_type):
        return torch.autocast(device_type, enabled=False)
    return contextlib.nullcontext()


@functools.cache
def _float64(transform: Transform, matrix: str, kernel_size: KernelSize) -> Matrix:
    if matrix == "basis":
        return transform.basis(kernel_size)
    if matrix == "analysis":
        return analysis_of(transform.basis(kernel_size))
    dual = _float64(transform, "analysis", kernel_size).T
    return dual**2 if matrix == "dual_squared" else dual


def _map(
    transform: Transform, matrix: str, weight_shape: Shape, out_axis: int, dtype: torch.dtype, device: torch.device
) -> Map:
    power = {"basis": 1, "dual": -1, "dual_squared": -2}[matrix]
    kernel_size = (weight_shape[2], weight_shape[3])
    return (
        _constant(transform, matrix, kernel_size, dtype, device),
        _gain(transform, tuple(weight_shape), out_axis, power, dtype, device),
    )


@functools.cache
def _constant(
    transform: Transform, matrix: str, kernel_size: KernelSize, dtype: torch.dtype, device: torch.device
) -> Tensor:
    return _tensor(_float64(transform, matrix, kernel_size), dtype, device)


@functools.cache
def _gain(
    transform: Transform, weight_shape: Shape, out_axis: int, power: int, dtype: torch.dtype, device: torch.device
) -> Tensor | None:
    gain = transform.gain(weight_shape, out_axis)
    return None if gain is None else _tensor(gain**power, dtype, device)


def _tensor(values: Matrix, dtype: torch.dtype, device: torch.device) -> Tensor:
    # The first use may be an evaluation; a tensor born in inference mode could not take part in training later.
    with torch.inference_mode(False):
        return torch.tensor(values.copy(), dtype=dtype, device=device)  # a reversed view has strides that torch refuses
