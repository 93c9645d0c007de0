"""What every entropy model did with one image: ideal bits, bits of the coder's tables, and the latents behind them.

Shapes: C channels, n latents of each in one image. Models with context code in an order of their own: of theirs the
ideal bits are known, and the length of the whole, but not which symbol cost what.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from compressai.entropy_models import EntropyBottleneck
from numpy.typing import NDArray
from torch import Tensor, nn

from rdtrain.bitstream import leaves
from rdtrain.evaluation import padding, stride
from rdtrain.probes import CodedString, Probe, entropy_models
from rdtrain.rate_gap import Area, code_lengths, flush_bits, in_padding

Array = NDArray[Any]
_Call = dict[str, Tensor]  # the arguments of an entropy model's forward pass by name, and its likelihoods


@dataclass(frozen=True)
class Split:
    """The coder's bits of each latent.

    Args:
        bits: with the tables, escape code and bypass included, (C, n).
        is_tail: whether the symbol is outside its table, (C, n).
        indexes: table of each, (C, n).
        flush: what the last state costs, bits.
        length: of the string, bits.
    """

    bits: Array
    is_tail: Array
    indexes: Array
    flush: float
    length: int


@dataclass(frozen=True)
class Coded:
    """One entropy model and one image.

    Args:
        ideal: -log2 of the forward pass's likelihoods, (C, n).
        latents: before quantisation, (C, n).
        centres: what is coded is the rounded difference from them, (C, n).
        scales: of a Gaussian conditional, not below its bound, (C, n); else None.
        in_padding: whether a latent covers nothing but padding, (n,); never for models that work pixel by pixel.
        split: what the coder did; None where symbols and strings do not correspond.
    """

    ideal: Array
    latents: Array
    centres: Array
    scales: Array | None
    in_padding: Array
    split: Split | None

    @property
    def symbols(self) -> Array:
        """The integers that are coded, (C, n)."""
        return np.rint(self.latents - self.centres).astype(np.int64)


@dataclass(frozen=True)
class CodedImage:
    """One image through one model.

    Args:
        coded: by name of the entropy model.
        strings: what `compress` gave.
        shape: what `decompress` needs beside them.
        pixels: of the image without padding.
    """

    coded: dict[str, Coded]
    strings: Any
    shape: Any
    pixels: int

    @property
    def length(self) -> int:
        """Bits of all strings."""
        return 8 * sum(map(len, leaves(self.strings)))


@torch.no_grad()
def code_image(model: Any, x: Tensor) -> CodedImage:
    """Code one image and keep what can be said about every latent.

    Args:
        model: an `evaluation_copy`; it is left as it was.
        x: the image in [0, 1], (1, 3, H, W), on the model's device.

    Returns:
        What the entropy models did, on the CPU, in float64.
    """
    height, width = x.shape[-2:]
    pad = padding(height, width, stride(model))
    padded = F.pad(x, pad)
    with Probe(model, x.device, share=True) as probe:
        with _watched(model) as calls:
            model(padded)
        coded = model.compress(padded)
    area = Area(pad[2], pad[0], height, width, padded.shape[-2], padded.shape[-1])
    models = entropy_models(model)
    found = {
        name: _coded(models[name], kept, [string for string in probe.strings if string.model == name], area)
        for name, kept in calls.items()
        if kept
    }
    return CodedImage(found, coded["strings"], coded["shape"], height * width)


@contextlib.contextmanager
def _watched(model: nn.Module) -> Iterator[dict[str, list[_Call]]]:
    calls: dict[str, list[_Call]] = {name: [] for name in entropy_models(model)}
    with contextlib.ExitStack() as stack:
        for name, module in entropy_models(model).items():
            stack.callback(module.register_forward_hook(_keeper(calls[name]), with_kwargs=True).remove)
        yield calls


def _keeper(calls: list[_Call]) -> Callable[..., None]:
    def keep(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: tuple[Tensor, Tensor]) -> None:
        names = ("latents",) if isinstance(module, EntropyBottleneck) else ("latents", "scales", "means")
        given = dict(zip(names, args, strict=False)) | kwargs
        call = {key: value for key, value in given.items() if isinstance(value, Tensor)}
        calls.append(call | {"likelihoods": output[1]})

    return keep


def _coded(model: Any, calls: list[_Call], strings: list[CodedString], area: Area) -> Coded:
    likelihoods, latents = _together(calls, "likelihoods"), _together(calls, "latents")
    rows, columns = calls[0]["latents"].shape[-2:]
    if isinstance(model, EntropyBottleneck):
        median = model.quantiles.detach()[:, 0, 1:2].double().cpu().numpy()
        centres, scales = np.broadcast_to(median, latents.shape), None
    else:
        centres = _together(calls, "means") if "means" in calls[0] else np.zeros_like(latents)
        scales = np.maximum(_together(calls, "scales"), float(model.scale_bound))
    outside = in_padding(area, rows, columns).reshape(-1) if len(calls) == 1 else np.zeros(latents.shape[1], bool)
    return Coded(-np.log2(likelihoods), latents, centres, scales, outside, _split(model, strings, latents.shape))


def _together(calls: list[_Call], key: str) -> Array:
    # Context models call pixel by pixel; all of it is the image.
    parts = [call[key].reshape(call[key].shape[1], -1) for call in calls]
    return torch.cat(parts, 1).double().cpu().numpy()


def _split(model: Any, strings: list[CodedString], shape: tuple[int, ...]) -> Split | None:
    if len(strings) != 1 or len(strings[0].symbols) != np.prod(shape):
        return None
    one = strings[0]
    indexes = np.asarray(one.indexes)
    bits, is_tail = code_lengths(model, np.asarray(one.symbols), indexes)
    flush, length = flush_bits(one.string), 8 * len(one.string)
    return Split(bits.reshape(shape), is_tail.reshape(shape), indexes.reshape(shape), flush, length)
