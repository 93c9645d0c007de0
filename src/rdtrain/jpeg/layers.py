"""Layers on JPEG coefficients (B, C, Y, X, 64), each the image of a layer on pixels.

Every tensor is a buffer and a copy: the layers follow `.to()` and state dicts, are not trained, and do not notice what
happens to the layers that they were made from.
"""

from __future__ import annotations

import copy
from typing import Literal, cast

import torch
from torch import Tensor, nn

from rdtrain.jpeg.codec import BLOCK, COEFFICIENTS, RANK, Codec
from rdtrain.jpeg.explode import explode, exploded_conv, reaches, tap_maps

Mode = Literal["fused", "exploded"]


def checked(coefficients: Tensor, channels: int | None = None) -> Tensor:
    """Refuse what are no coefficients: layers would compute something from it all the same.

    Args:
        coefficients: anything.
        channels: that it must have; None for any number.

    Returns:
        The same.

    Raises:
        ValueError: it is not (B, C, Y, X, 64), or C is another number.
    """
    shape = tuple(coefficients.shape)
    if len(shape) != RANK or shape[-1] != COEFFICIENTS:
        raise ValueError(f"{shape} are no coefficients (B, C, Y, X, 64); after the pooling only linear layers follow")
    if channels is not None and shape[1] != channels:
        raise ValueError(f"{shape} are coefficients of {shape[1]} channels, the layer takes {channels}")
    return coefficients


def dc_of_constant(codec: Codec) -> Tensor:
    """The DC coefficient of a block whose pixels are all 1.

    Args:
        codec: with one table.

    Returns:
        8 / q_0, a scalar; 1 for MPEG-2's table.
    """
    return BLOCK / codec.q[0]


class JpegConv2d(nn.Module):
    """A convolution of coefficients.

    Args:
        conv: on pixels, plain or spectral.
        before: codec of the input; with a table for each channel only in mode `fused`.
        after: codec of the result, with one table.
        mode: `fused` computes encode(conv(decode(F))); `exploded` the one linear map that this is, see
            `rdtrain.jpeg.explode`.
    """

    weight: Tensor
    bias: Tensor | None

    def __init__(self, conv: nn.Conv2d, before: Codec, after: Codec, mode: Mode = "fused") -> None:
        super().__init__()
        self.mode, self.in_channels = mode, conv.in_channels
        weight = conv.weight.detach().clone()
        bias = None if conv.bias is None else conv.bias.detach().clone()
        self.register_buffer("dc_bias", None if bias is None else (bias * dc_of_constant(after))[:, None, None])
        if mode == "exploded":
            self.reaches = reaches(conv)
            self.register_buffer("weight", explode(weight, tap_maps(*self.reaches, before, after)))
            return
        self.before, self.after = copy.deepcopy(before), copy.deepcopy(after)
        self.register_buffer("weight", weight)
        self._hyper = (conv.stride, conv.padding, conv.dilation, conv.groups)
        self._pad = (conv.padding_mode, list(conv._reversed_padding_repeated_twice))

    def forward(self, coefficients: Tensor) -> Tensor:
        """Convolve.

        Args:
            coefficients: (B, M, Y, X, 64).

        Returns:
            (B, N, Y / stride, X / stride, 64).

        Raises:
            ValueError: it takes no coefficients of that shape, or the result would not be whole blocks.
        """
        checked(coefficients, self.in_channels)
        if self.mode == "exploded":
            blocks = tuple(coefficients.shape[2:4])
            sizes = [reach.pixels(n) for reach, n in zip(self.reaches, blocks, strict=True)]
            whole = [n // reach.stride * BLOCK for reach, n in zip(self.reaches, blocks, strict=True)]
            if sizes != whole or any(n % reach.stride for reach, n in zip(self.reaches, blocks, strict=True)):
                raise ValueError(f"{blocks} blocks become {sizes} pixels, which are not their share of whole blocks")
            result = exploded_conv(coefficients, self.weight, *self.reaches)
        else:
            result = self.after.encode(self._on_pixels(self.before.decode(coefficients)))
        if (bias := cast("Tensor | None", self.dc_bias)) is not None:
            result = torch.cat([result[..., :1] + bias[..., None], result[..., 1:]], dim=-1)
        return result

    def _on_pixels(self, x: Tensor) -> Tensor:
        stride, padding, dilation, groups = self._hyper
        mode, margins = self._pad
        if mode != "zeros":
            x, padding = nn.functional.pad(x, margins, mode), (0, 0)
        return nn.functional.conv2d(x, self.weight, None, stride, padding, dilation, groups)

    def extra_repr(self) -> str:
        """How it is computed."""  # noqa: DOC201 - what nn.Module prints
        return f"mode={self.mode}"


class JpegBatchNorm2d(nn.Module):
    """Batch normalisation of coefficients with fixed statistics: a gain, and a shift of the blocks' means.

    Args:
        norm: on pixels, with running statistics.
        codec: of the coefficients, with one table.

    Raises:
        ValueError: it has no running statistics.
    """

    gain: Tensor
    shift: Tensor

    def __init__(self, norm: nn.BatchNorm2d, codec: Codec) -> None:
        super().__init__()
        if norm.running_mean is None or norm.running_var is None:
            raise ValueError("batch normalisation without running statistics has no fixed function")
        gain = (norm.running_var + norm.eps).rsqrt()
        shift = -norm.running_mean * gain
        if norm.affine:
            gain, shift = gain * norm.weight.detach(), shift * norm.weight.detach() + norm.bias.detach()
        self.register_buffer("gain", gain[:, None, None, None].clone())
        self.register_buffer("shift", (shift * dc_of_constant(codec))[:, None, None, None].clone())

    def forward(self, coefficients: Tensor) -> Tensor:
        """Normalise.

        Args:
            coefficients: (B, C, Y, X, 64).

        Returns:
            Same shape.

        Raises:
            ValueError: these are no coefficients of its channels.
        """
        scaled = checked(coefficients, len(self.gain)) * self.gain
        return torch.cat([scaled[..., :1] + self.shift, scaled[..., 1:]], dim=-1)


class JpegGlobalAvgPool(nn.Module):
    """The mean of all pixels, from the DC coefficients alone.

    Args:
        codec: of the coefficients, with one table.
    """

    dc: Tensor

    def __init__(self, codec: Codec) -> None:
        super().__init__()
        self.register_buffer("dc", dc_of_constant(codec).clone())

    def forward(self, coefficients: Tensor) -> Tensor:
        """Average.

        Args:
            coefficients: (B, C, Y, X, 64).

        Returns:
            (B, C, 1, 1).

        Raises:
            ValueError: these are no coefficients.
        """
        return checked(coefficients)[..., 0].mean((-2, -1), keepdim=True) / self.dc
