"""Context models (mbt2018 and its children) coded in steps of a wavefront instead of place by place.

Symbols, probability tables and the coder are CompressAI's, so strings are as long as its own and decode to the same
latents; but the symbols stand in another order, so neither reads the other's. Encoder and decoder compute parameters by
products of one shape, whatever images a batch holds: strings made in a batch decode alone, or in another batch.

A string that codes to other bytes was not decoded rightly: it is damaged, or the decoder's tables, parameters or order
were not the encoder's. That notices most damage; only a file's checksum notices all.

Shapes: x (B, 3, H', W').
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from compressai.models import JointAutoregressiveHierarchicalPriors
from torch import Tensor

from rdtrain.coding.context_network import can_be_matrices
from rdtrain.coding.context_pass import Coded, Pass
from rdtrain.coding.rans import Decoder, Ints, encode
from rdtrain.mixing import mix_in, take_out
from rdtrain.probes import Undecodable, check_codable

RASTER = "raster"
"""Row by row, as CompressAI codes."""
WAVEFRONT = "wavefront"


class _Wavefront:
    """Mixed into the class of a context model."""

    coding_order = WAVEFRONT

    def compress(self, x: Tensor) -> dict[str, Any]:
        return compress(self, x)

    def decompress(self, strings: Sequence[Sequence[bytes]], shape: Sequence[int]) -> dict[str, Tensor]:
        return decompress(self, strings, shape)


def coding_order(model: Any) -> str:
    """Find the order in which a model codes its latents.

    Args:
        model: any compression model.

    Returns:
        `WAVEFRONT` or `RASTER`.
    """
    return getattr(model, "coding_order", RASTER)


def use_coding_order(model: Any, order: str) -> bool:
    """Choose the order that `compress` and `decompress` of a model work in.

    Args:
        model: any compression model, changed in place; a deep copy keeps the change, a state dict knows nothing of it.
        order: `RASTER`, which every model has, or `WAVEFRONT`, which CompressAI's
            JointAutoregressiveHierarchicalPriors has and those of its children that code as it does.

    Returns:
        Whether the model has that order now.
    """
    if order == RASTER and isinstance(model, _Wavefront):
        take_out(_Wavefront, model)  # type: ignore[arg-type]  # it was mixed into a module
    elif order == WAVEFRONT and coding_order(model) == RASTER and _has_wavefront(model):
        mix_in(_Wavefront, model)
    return coding_order(model) == order


def _has_wavefront(model: Any) -> bool:
    kind: Any = type(model)
    if not isinstance(model, JointAutoregressiveHierarchicalPriors):
        return False
    methods = ("compress", "_compress_ar", "decompress", "_decompress_ar")
    as_its_parent = all(getattr(kind, name) is getattr(JointAutoregressiveHierarchicalPriors, name) for name in methods)
    return as_its_parent and can_be_matrices(model)


@torch.no_grad()
def compress(model: Any, x: Tensor) -> dict[str, Any]:
    """Code images in the order of the wavefront.

    Args:
        model: a context model that has this order, with tables.
        x: images, sides in multiples of the model's stride.

    Returns:
        What CompressAI's `compress` gives: `strings`, those of y and those of z, one an image each; and `shape` of z.

    Raises:
        LatentOverflow: latents are NaN, infinite or too large.
    """
    y = model.g_a(x)
    z = model.h_a(y)
    z_strings = model.entropy_bottleneck.compress(z)
    one_pass = Pass(model, z_strings, z.shape[-2:])
    latents = one_pass.in_order(y)

    def rounded(places: slice, indexes: Tensor, means: Tensor) -> Tensor:
        return torch.round(latents[:, places] - means)

    coded = one_pass.run(rounded)
    check_codable(coded.symbols)
    y_strings = [encode(*message, one_pass.tables) for message in _messages(coded)]
    return {"strings": [y_strings, z_strings], "shape": z.shape[-2:]}


@torch.no_grad()
def decompress(model: Any, strings: Sequence[Sequence[bytes]], shape: Sequence[int]) -> dict[str, Tensor]:
    """Decode images of one size, coded alone or together.

    Args:
        model: that coded them, with the same tables.
        strings: those of y and those of z, one an image each.
        shape: of z.

    Returns:
        `x_hat`, clamped to [0, 1].
    """
    return {"x_hat": model.g_s(read_latents(model, strings, shape).y_hat).clamp_(0, 1)}


@torch.no_grad()
def read_latents(model: Any, strings: Sequence[Sequence[bytes]], shape: Sequence[int]) -> Coded:
    """Decode latents.

    Args:
        model: that coded them, with the same tables.
        strings: those of y and those of z, one an image each.
        shape: of z.

    Returns:
        What was coded, and with which parameters.

    Raises:
        ValueError: the strings do not belong together.
        Undecodable: no encoder with this model wrote them.
    """
    if len(strings) != 2 or len(strings[0]) != len(strings[1]) or not strings[0]:
        raise ValueError("a context model has as many strings of y as of z")
    one_pass = Pass(model, strings[1], shape)
    decoders = [Decoder(string, one_pass.tables) for string in strings[0]]

    def decoded(places: slice, indexes: Tensor, means: Tensor) -> Tensor:
        read = [decoder.decode(one) for decoder, one in zip(decoders, indexes.cpu().numpy(), strict=True)]
        return torch.from_numpy(np.stack(read)).reshape(means.shape).to(means)

    coded = one_pass.run(decoded)
    for string, message in zip(strings[0], _messages(coded), strict=True):
        if encode(*message, one_pass.tables) != string:
            raise Undecodable(
                "a string of y decodes to symbols that it was not made of: it is damaged, was coded in another order, "
                "or this machine computes other parameters than the one that wrote it"
            )
    return coded


def _messages(coded: Coded) -> list[tuple[Ints, Ints]]:
    # Symbols and indexes of each image.
    symbols, indexes = coded.symbols.int().cpu().numpy(), coded.indexes.cpu().numpy()
    return list(zip(symbols, indexes, strict=True))
