"""From a network on pixels to the same network on JPEG coefficients."""

from __future__ import annotations

import copy
from collections.abc import Callable

from torch import nn

from rdtrain.jpeg.codec import ALL_FREQUENCIES, Codec
from rdtrain.jpeg.layers import JpegBatchNorm2d, JpegConv2d, JpegGlobalAvgPool, Mode
from rdtrain.jpeg.relu import BlockReLU, JpegReLU

_UNCHANGED = (nn.Linear, nn.Identity, nn.Flatten, nn.Dropout)


def to_jpeg(
    model: nn.Module,
    codec: Codec | None = None,
    *,
    n_freqs: int | None = None,
    mode: Mode = "fused",
    first: Codec | None = None,
) -> nn.Module:
    """Make the network on coefficients that has a network's function; the given one is not changed.

    Convolutions, batch normalisation with its running statistics, ReLU, global average pooling and sums become their
    images; linear layers after the pooling stay. ReLU is exact unless `n_freqs` is below 14, or the network was trained
    with `BlockReLU`, whose `n_freqs` is kept where none is given.

    Args:
        model: modules of those kinds in any arrangement, convolutions plain or spectral.
        codec: of all coefficients, with one table; MPEG-2's unless given.
        n_freqs: largest alpha + beta that ReLU looks at, 0 to 14.
        mode: how convolutions are computed, see `JpegConv2d`; with `exploded`, ReLU uses the harmonic mixing tensor.
        first: codec of the images, where it has a table for each channel: of convolutions that take as many channels
            as it has tables. Sums of images with their results are then not possible.

    Returns:
        A module that takes coefficients, in eval mode and without gradients.

    Raises:
        TypeError: a module has no image among coefficients.
    """
    codec = codec or Codec()
    result = copy.deepcopy(model).eval().requires_grad_(False)
    exact = ALL_FREQUENCIES if n_freqs is None else n_freqs
    mixing = mode == "exploded"

    def conv(module: nn.Conv2d) -> nn.Module:
        is_first = first is not None and module.in_channels == len(first.q)
        return JpegConv2d(module, first if is_first and first is not None else codec, codec, mode)

    def block_relu(module: BlockReLU) -> nn.Module:
        return JpegReLU(codec, module.n_freqs if n_freqs is None else n_freqs, mixing)

    makers: dict[type[nn.Module], Callable[..., nn.Module]] = {
        nn.Conv2d: conv,
        nn.BatchNorm2d: lambda module: JpegBatchNorm2d(module, codec),
        nn.ReLU: lambda module: JpegReLU(codec, exact, mixing),
        BlockReLU: block_relu,
        nn.AdaptiveAvgPool2d: lambda module: JpegGlobalAvgPool(codec),
    }
    return _replaced("", result, makers)


def _replaced(name: str, module: nn.Module, makers: dict[type[nn.Module], Callable[..., nn.Module]]) -> nn.Module:
    for kind, make in makers.items():
        if isinstance(module, kind) and not _is_partial_pool(module):
            return make(module)
    if isinstance(module, _UNCHANGED):
        return module
    children = list(module.named_children())
    if not children:
        raise TypeError(f"{name or 'the model'}: {type(module).__name__} has no image among JPEG coefficients")
    for child_name, child in children:
        setattr(module, child_name, _replaced(f"{name}.{child_name}".lstrip("."), child, makers))
    return module


def _is_partial_pool(module: nn.Module) -> bool:
    return isinstance(module, nn.AdaptiveAvgPool2d) and module.output_size not in (1, (1, 1))
