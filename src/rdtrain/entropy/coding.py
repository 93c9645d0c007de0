"""What every entropy model did with one image: ideal bits, bits of the coder's tables, and the latents behind them.

Models with context compute the parameters of a latent from its decoded neighbours when they code, and from rounded ones
in the forward pass, so both their symbols and their parameters differ between the two; and some code place by place, or
in parts. What they have coded is read back from their strings, in the order of coding.

Shapes: C channels, n latents of each in one image.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from compressai.entropy_models import EntropyBottleneck
from numpy.typing import NDArray
from torch import Tensor, nn

from rdtrain.bitstream import leaves
from rdtrain.entropy.messages import Message, messages, parameters_noted
from rdtrain.evaluation import padding, stride
from rdtrain.probes import Probe, entropy_models
from rdtrain.rate_gap import Area, code_lengths, flush_bits, in_padding

Array = NDArray[Any]
_Call = dict[str, Tensor]  # the arguments of an entropy model's forward pass by name, and its likelihoods


@dataclass(frozen=True)
class Split:
    """The coder's bits of each latent, in the order of coding, which is that of the forward pass without context.

    Args:
        symbols: the integers in the strings, (C, n).
        ideal: -log2 of the symbol's likelihood under the parameters that it was coded with, (C, n).
        bits: with the tables, escape code and bypass included, (C, n).
        is_tail: whether the symbol is outside its table, (C, n).
        indexes: table of each, (C, n).
        flush: what the last state of each string costs, together, bits.
        length: of the strings, bits.
    """

    symbols: Array
    ideal: Array
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
        centres: the forward pass rounds the difference from them, (C, n).
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
        """The integers of the forward pass, (C, n); without context also those that are coded."""
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

    Raises:
        ValueError: there is more than one image.
    """
    if len(x) != 1:
        raise ValueError(f"{len(x)} images: code one at a time, each has strings of its own")
    height, width = x.shape[-2:]
    pad = padding(height, width, stride(model))
    padded = F.pad(x, pad)
    with Probe(model, x.device, share=True) as probe:
        with _watched(model) as calls:
            model(padded)
        with parameters_noted(model) as noted:
            coded = model.compress(padded)
    area = Area(pad[2], pad[0], height, width, padded.shape[-2], padded.shape[-1])
    coded_by = messages(model, coded, probe.strings, noted)
    models = entropy_models(model)
    found = {name: _coded(models[name], kept, coded_by.get(name), area) for name, kept in calls.items() if kept}
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


def _coded(model: Any, calls: list[_Call], message: Message | None, area: Area) -> Coded:
    likelihoods, latents = _together(calls, "likelihoods"), _together(calls, "latents")
    rows, columns = calls[0]["latents"].shape[-2:]
    if isinstance(model, EntropyBottleneck):
        median = model.quantiles.detach()[:, 0, 1:2].double().cpu().numpy()
        centres, scales = np.broadcast_to(median, latents.shape), None
    else:
        centres = _together(calls, "means") if "means" in calls[0] else np.zeros_like(latents)
        scales = np.maximum(_together(calls, "scales"), float(model.scale_bound))
    outside = in_padding(area, rows, columns).reshape(-1) if len(calls) == 1 else np.zeros(latents.shape[1], bool)
    coded = Coded(-np.log2(likelihoods), latents, centres, scales, outside, None)
    return coded if message is None else replace(coded, split=_split(model, message, coded))


def _together(calls: list[_Call], key: str) -> Array:
    # Some models call more than once; all of it is the image.
    parts = [call[key].reshape(call[key].shape[1], -1) for call in calls]
    return torch.cat(parts, 1).double().cpu().numpy()


def _split(model: Any, message: Message, coded: Coded) -> Split | None:
    if message.symbols.shape != coded.ideal.shape:
        return None
    bits, is_tail = code_lengths(model, message.symbols.ravel(), message.indexes.ravel())
    return Split(
        symbols=message.symbols,
        ideal=_ideal(model, message, coded),
        bits=bits.reshape(coded.ideal.shape),
        is_tail=is_tail.reshape(coded.ideal.shape),
        indexes=message.indexes,
        flush=sum(map(flush_bits, message.strings)),
        length=8 * sum(map(len, message.strings)),
    )


def _ideal(model: Any, message: Message, coded: Coded) -> Array:
    # The forward pass's own number where it had the same symbol and scale: its float32 is not to look like a cost.
    if message.scales is None:
        return coded.ideal
    same = (message.symbols == coded.symbols) & (message.scales == coded.scales)
    return np.where(same, coded.ideal, normal_bits(model, message.symbols, message.scales))


def normal_bits(model: Any, symbols: Array, scales: Array) -> Array:
    """-log2 of the likelihoods that a Gaussian conditional gives symbols, in float64.

    Args:
        model: the entropy model; for the bound of its likelihoods.
        symbols: integers, rounded differences from the means.
        scales: same shape.

    Returns:
        Bits, same shape.
    """
    distance, spread = torch.from_numpy(np.abs(symbols).astype(np.float64)), torch.from_numpy(scales)
    upper, lower = (torch.special.ndtr((half - distance) / spread) for half in (0.5, -0.5))
    least = float(model.likelihood_lower_bound.bound) if model.use_likelihood_bound else 0.0
    bits: Array = -(upper - lower).clamp_min(least).log2().numpy()
    return bits
