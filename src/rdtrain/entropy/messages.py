"""What each entropy model of a compression model coded of one image, with the parameters of every symbol.

Most models hand all latents of an entropy model to the coder at once, some in parts (checkerboards, groups of
channels), and context models place by place. The order of coding is kept here, whatever it is: entropy models that
code in parts or place by place have their latents in another order than in the forward pass.

Shapes: C channels, n latents of each.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from compressai.entropy_models import EntropyBottleneck, GaussianConditional
from numpy.typing import NDArray
from torch import Tensor, nn

from rdtrain.bitstream import leaves
from rdtrain.coding.classes import tables_of
from rdtrain.coding.context import WAVEFRONT, coding_order, read_latents
from rdtrain.coding.rans import Decoder, Tables, encode
from rdtrain.probes import CodedString, entropy_models, wrapped

Array = NDArray[Any]


@dataclass(frozen=True)
class Message:
    """What one entropy model coded.

    Args:
        symbols: integers, (C, n).
        indexes: the table of each, (C, n).
        scales: that the tables were chosen by, not below their bound, (C, n); None of an entropy bottleneck.
        strings: that hold them.
    """

    symbols: Array
    indexes: Array
    scales: Array | None
    strings: Sequence[bytes]


class Parameters(NamedTuple):
    """One call of a Gaussian conditional's `build_indexes`.

    Args:
        scales: not below their bound, (1, C, ...).
        indexes: same shape.
    """

    scales: Tensor
    indexes: Tensor


@contextlib.contextmanager
def parameters_noted(model: nn.Module) -> Iterator[dict[str, list[Parameters]]]:
    """Note what Gaussian conditionals choose their tables by.

    Args:
        model: whose `compress` is called inside.

    Yields:
        Every call, by name of the entropy model.
    """
    noted: dict[str, list[Parameters]] = {}

    def keeper(calls: list[Parameters], bound: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
        def build_indexes(method: Callable[[Tensor], Tensor], scales: Tensor) -> Tensor:
            indexes = method(scales)
            calls.append(Parameters(bound(scales), indexes))
            return indexes

        return build_indexes

    with contextlib.ExitStack() as stack:
        for name, module in entropy_models(model).items():
            if isinstance(module, GaussianConditional):
                noted[name] = []
                keep = keeper(noted[name], module.lower_bound_scale)
                stack.enter_context(wrapped(module, "build_indexes", keep))
        yield noted


def messages(
    model: nn.Module,
    coded: Mapping[str, Any],
    strings: Sequence[CodedString],
    noted: Mapping[str, Sequence[Parameters]],
) -> dict[str, Message]:
    """Put together what was coded.

    Args:
        model: with tables.
        coded: what its `compress` gave for one image.
        strings: what went through its entropy models' coders meanwhile.
        noted: of `parameters_noted`.

    Returns:
        Message by name of the entropy model; those are left out whose symbols and strings do not correspond.
    """
    own: dict[str, list[CodedString]] = {}
    for one in strings:
        own.setdefault(one.model, []).append(one)
    others = [string for string in leaves(coded["strings"]) if string not in [one.string for one in strings]]
    found: dict[str, Message | None] = {}
    for name, entropy_model in entropy_models(model).items():
        if isinstance(entropy_model, EntropyBottleneck):
            found[name] = _of_bottleneck(entropy_model, own.get(name, []))
        elif name in own:
            found[name] = _by_parts(own[name], noted.get(name, ()))
        elif coding_order(model) == WAVEFRONT:
            found[name] = _of_wavefront(model, coded)
        else:
            found[name] = _by_places(entropy_model, others, noted.get(name, ()))
    return {name: message for name, message in found.items() if message is not None}


def _of_bottleneck(entropy_model: Any, own: Sequence[CodedString]) -> Message | None:
    if len(own) != 1:
        return None
    symbols, indexes = (
        np.asarray(values).reshape(entropy_model.channels, -1) for values in (own[0].symbols, own[0].indexes)
    )
    return Message(symbols, indexes, None, [own[0].string])


def _by_parts(own: Sequence[CodedString], noted: Sequence[Parameters]) -> Message | None:
    # The coder got whole tensors, channel by channel.
    if len(own) != len(noted) or any(
        not np.array_equal(one.indexes, part.indexes.flatten().cpu()) for one, part in zip(own, noted, strict=True)
    ):
        return None
    channels = [part.scales.shape[1] for part in noted]
    symbols, indexes = (
        np.concatenate([np.asarray(values).reshape(c, -1) for c, values in zip(channels, parts, strict=True)], 1)
        for parts in ([one.symbols for one in own], [one.indexes for one in own])
    )
    scales = np.concatenate(
        [part.scales[0].reshape(c, -1).double().cpu().numpy() for c, part in zip(channels, noted, strict=True)], 1
    )
    return Message(symbols, indexes, scales, [one.string for one in own])


def _by_places(entropy_model: Any, strings: Sequence[bytes], noted: Sequence[Parameters]) -> Message | None:
    # One place after the other, all its channels: the symbols are read back.
    if len(strings) != 1 or len({calls.scales.numel() for calls in noted}) != 1:
        return None
    scales, indexes = (
        torch.cat([values.reshape(1, -1) for values in calls]).cpu().numpy() for calls in zip(*noted, strict=True)
    )
    symbols = _read(strings[0], indexes, tables_of(entropy_model))
    if symbols is None:
        return None
    return Message(symbols.reshape(indexes.shape).T, indexes.T, scales.T.astype(np.float64), strings)


def _read(string: bytes, indexes: Array, tables: Tables) -> Array | None:
    # Another order, or other tables, give symbols too; but not those that make the same string.
    try:
        symbols = Decoder(string, tables).decode(indexes)
        return symbols if encode(symbols, indexes, tables) == string else None
    except ValueError:
        return None


def _of_wavefront(model: nn.Module, coded: Mapping[str, Any]) -> Message:
    latents = read_latents(model, coded["strings"], coded["shape"])
    symbols, indexes, scales = (
        values[0].t().double().cpu().numpy() for values in (latents.symbols, latents.indexes, latents.scales)
    )
    return Message(symbols.astype(np.int64), indexes.astype(np.int64), scales, coded["strings"][0])
