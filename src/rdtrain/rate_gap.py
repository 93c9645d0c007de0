"""Why a bitstream is not as long as its estimate, and a reconstruction not as good: terms that add up to the gaps.

CompressAI codes integer symbols with rANS: tables of 16-bit cumulative frequencies, an escape code in each for symbols
outside it, whose value follows in raw 4-bit nibbles, and the coder's last state in the first 8 bytes of the string
(compressai/cpp_exts/rans/rans_interface.cpp; ryg_rans' rans64.h).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from rdtrain.probes import CodedString

BYPASS_BITS = 4
STATE_BITS = 64
EMPTY_STATE_BITS = 31
"""The coder starts at state 2**31, so a last state s carries log2(s) - 31 bits of the message."""

Array = NDArray[Any]


class Area(NamedTuple):
    """Where an image lies in its padded version, in pixels."""

    top: int
    left: int
    height: int
    width: int
    padded_height: int
    padded_width: int


def rate_gap(
    entropy_models: Mapping[str, Any], strings: Sequence[CodedString], likelihoods: Mapping[str, Tensor], area: Area
) -> dict[str, float]:
    """Split the bits of an image's strings minus the estimated bits of the unpadded image.

    Args:
        entropy_models: with their tables, by name.
        strings: what they coded.
        likelihoods: of the same latents, (1, C, h, w), by the entropy model that gave them.
        area: the image in its padding.

    Returns:
        In bits: `rate_gap/total`, and `/padding`, `/tables`, `/tails` and `/flush`, which add up to it but for the
        rounding of the coder's integer state (far below a bit). Empty for context models: they code in an order of
        their own, symbols that depend on it, so single symbols and likelihoods do not correspond.
    """
    by_model = {coded.model: coded for coded in strings}
    if len(by_model) != len(strings) or set(by_model) != set(likelihoods):
        return {}
    if any(len(by_model[name].symbols) != likelihood.numel() for name, likelihood in likelihoods.items()):
        return {}
    gap = dict.fromkeys(("total", "padding", "tables", "tails", "flush"), 0.0)
    for name, coded in by_model.items():
        estimate = -np.log2(likelihoods[name].double().cpu().numpy())
        padding = estimate[..., in_padding(area, estimate.shape[-2], estimate.shape[-1])].sum()
        bits, is_tail = code_lengths(entropy_models[name], np.asarray(coded.symbols), np.asarray(coded.indexes))
        excess = bits - estimate.reshape(-1)
        gap["total"] += 8 * len(coded.string) - (estimate.sum() - padding)
        gap["padding"] += padding
        gap["tables"] += excess[~is_tail].sum()
        gap["tails"] += excess[is_tail].sum()
        gap["flush"] += flush_bits(coded.string)
    return {f"rate_gap/{term}": float(bits) for term, bits in gap.items()}


def code_lengths(entropy_model: Any, symbols: Array, indexes: Array) -> tuple[Array, Array]:
    """Compute what each symbol costs with the coder's tables.

    Args:
        entropy_model: whose `quantized_cdf` (T, L), `cdf_length` (T,) and `offset` (T,) were used.
        symbols: integers, (n,).
        indexes: table of each symbol, (n,).

    Returns:
        Bits, escape code and bypass nibbles included, and whether the symbol is outside its table; each (n,).
    """
    cdf = entropy_model.quantized_cdf.cpu().numpy()
    values = symbols - entropy_model.offset.cpu().numpy()[indexes]
    escape = entropy_model.cdf_length.cpu().numpy()[indexes] - 2  # the last code of a table
    is_tail = (values < 0) | (values >= escape)
    code = np.where(is_tail, escape, values)
    frequency = cdf[indexes, code + 1] - cdf[indexes, code]
    bits = entropy_model.entropy_coder_precision - np.log2(frequency)
    return bits + np.where(is_tail, bypass_bits(values, escape), 0), is_tail


def bypass_bits(values: Array, escape: Array) -> Array:
    """Count the raw bits behind an escape code.

    Args:
        values: symbols less their table's offset, outside [0, escape).
        escape: the escape code of each one's table.

    Returns:
        Bits: a nibble that counts the nibbles of -2v - 1 or 2 (v - escape), then those.
    """
    raw = np.where(values < 0, -2 * values - 1, 2 * (values - escape))
    _, bit_length = np.frexp(raw.astype(np.float64))  # exact below 2**53
    return BYPASS_BITS * (1 + np.ceil(bit_length / BYPASS_BITS))


def flush_bits(string: bytes) -> float:
    """Count what the coder's last state costs beyond the information in it.

    Args:
        string: of one encoder.

    Returns:
        Bits, between 32 and 64.
    """
    return STATE_BITS - (np.log2(float(int.from_bytes(string[:8], "little"))) - EMPTY_STATE_BITS)


def in_padding(area: Area, rows: int, columns: int) -> Array:
    """Find the latents that cover nothing but padding.

    Args:
        area: the image in its padding.
        rows: of the latents.
        columns: of the latents.

    Returns:
        Booleans (rows, columns): whether the padded image's cell of that latent lies outside the image.
    """
    y, x = np.arange(rows) * area.padded_height // rows, np.arange(columns) * area.padded_width // columns
    outside_y = (y + area.padded_height // rows <= area.top) | (y >= area.top + area.height)
    outside_x = (x + area.padded_width // columns <= area.left) | (x >= area.left + area.width)
    return outside_y[:, None] | outside_x[None, :]


def distortion_gap(metrics: Mapping[str, float]) -> dict[str, float]:
    """Split the MSE of the real 8-bit image minus that of the forward unclamped one.

    Args:
        metrics: an image's, or means over images.

    Returns:
        `distortion_gap/clamp` (never positive), `/latents` (latents that were decoded differently) and `/8bit`.
    """
    steps = {
        "clamp": ("mse/forward/clamped", "mse/forward/unclamped"),
        "latents": ("mse/real/clamped", "mse/forward/clamped"),
        "8bit": ("mse/real/8bit", "mse/real/clamped"),
    }
    return {f"distortion_gap/{name}": metrics[after] - metrics[before] for name, (after, before) in steps.items()}
