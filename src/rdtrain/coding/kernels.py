"""The loops of the coder, compiled by numba, without the GIL; see `rdtrain.coding.rans` for what they compute.

All arithmetic on the state is in uint64, because numba turns mixed signs into floats. What was compiled is kept until
this file changes: of other modules' constants only those may be used that CompressAI's strings have fixed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic
from numpy.typing import NDArray

from rdtrain.coding.rans import LARGEST_RAW, Ints

Words = NDArray[np.uint32]
States = NDArray[np.uint64]

_U = np.uint64
_EMPTY = _U(2**31)  # the state before the first symbol, and the smallest
_WORD = _U(32)
_HALF = _U(16)
_NIBBLE = _U(4)
_LOW_WORD = _U(2**32 - 1)
_LOW_HALF = _U(2**16 - 1)
_LOW_NIBBLE = _U(15)
_FULL = _U(47)  # a state of at least frequency << 47 gives a word away before the symbol
_NIBBLE_FULL = _U(2**59)
_MOST_NIBBLES = _U(7)  # of a value below LARGEST_RAW


def compiled(function: Callable[..., Any]) -> Any:
    """Compile a function when it is first called, in seconds, and keep that for later processes.

    Args:
        function: of numbers and arrays.

    Returns:
        The same, fast. It is kept in `__pycache__` beside this file or, where that cannot be written, in the user's
        cache folder; where neither can, every process compiles anew.
    """
    options = {"nogil": True, "error_model": "numpy"}
    try:
        return njit(cache=True, **options)(function)
    except RuntimeError:  # numba's "no locator available"
        return njit(**options)(function)


@intrinsic
def _high(context: Any, a: Any, b: Any) -> Any:
    # The upper 64 of the 128 bits of a product.
    def generate(context: Any, builder: Any, signature: Any, factors: Any) -> Any:
        wide = ir.IntType(128)
        product = builder.mul(*(builder.zext(factor, wide) for factor in factors))
        return builder.trunc(builder.lshr(product, ir.Constant(wide, 64)), ir.IntType(64))

    return types.uint64(types.uint64, types.uint64), generate


@compiled
def encode(
    symbols: Ints, indexes: Ints, cdfs: Ints, sizes: Ints, offsets: Ints, factors: States, shifts: States, words: Words
) -> int:
    """Code a message from its end, filling the words from theirs.

    Args:
        symbols: (n,).
        indexes: (n,).
        cdfs: (tables, width).
        sizes: (tables,).
        offsets: (tables,).
        factors: see `rdtrain.coding.rans.reciprocals`, (65537,).
        shifts: see there, (65537,).
        words: written; 2 n + 2 are enough.

    Returns:
        The first word that was written; below 0, the number of a fault.
    """
    x, at = _EMPTY, words.size
    for place in range(symbols.size):
        i = _U(symbols.size - 1 - place)
        if indexes[i] < 0 or indexes[i] >= sizes.size:
            return -1
        table = _U(indexes[i])
        escape = np.int64(sizes[table]) - 2
        value = np.int64(symbols[i]) - np.int64(offsets[table])
        if value < 0 or value >= escape:
            raw = -2 * value - 1 if value < 0 else 2 * (value - escape)
            if raw >= LARGEST_RAW:
                return -2
            x, at = _put_raw(x, at, words, _U(raw))
            value = escape
        start = _U(cdfs[table, _U(value)])
        frequency = _U(cdfs[table, _U(value + 1)]) - start
        if x >= frequency << _FULL:
            at -= 1
            words[_U(at)] = np.uint32(x & _LOW_WORD)
            x >>= _WORD
        quotient = _high(x << _U(1), factors[frequency]) >> shifts[frequency]
        x = (quotient << _HALF) + (x - quotient * frequency) + start
    words[_U(at - 2)] = np.uint32(x & _LOW_WORD)
    words[_U(at - 1)] = np.uint32(x >> _WORD)
    return at - 2


@compiled
def _put_raw(x: Any, at: Any, words: Words, raw: Any) -> Any:
    # A reader finds the number of nibbles, then the nibbles from the lowest.
    nibbles = _U(0)
    while raw >> (nibbles * _NIBBLE) != _U(0):
        nibbles += _U(1)
    for j in range(nibbles):
        x, at = _put_nibble(x, at, words, (raw >> ((nibbles - _U(1) - _U(j)) * _NIBBLE)) & _LOW_NIBBLE)
    return _put_nibble(x, at, words, nibbles)


@compiled
def _put_nibble(x: Any, at: Any, words: Words, nibble: Any) -> Any:
    if x >= _NIBBLE_FULL:
        at -= 1
        words[_U(at)] = np.uint32(x & _LOW_WORD)
        x >>= _WORD
    return (x << _NIBBLE) | nibble, at


@compiled
def decode(
    words: Words,
    state: States,
    indexes: Ints,
    cdfs: Ints,
    sizes: Ints,
    offsets: Ints,
    lookup: NDArray[np.uint16],
    bits: int,
    symbols: Ints,
) -> int:
    """Read the next symbols of a message.

    Args:
        words: the string.
        state: the coder's, and the number of words that were read; changed unless there is a fault, (2,).
        indexes: (n,).
        cdfs: (tables, width).
        sizes: (tables,).
        offsets: (tables,).
        lookup: the first code of each bucket of cumulative frequencies, (tables, 2**(16 - bits)).
        bits: of a cumulative frequency that its bucket leaves out.
        symbols: written, (n,).

    Returns:
        0, or the number of a fault.
    """
    x, at = state[0], state[1]
    for place in range(indexes.size):
        i = _U(place)
        if indexes[i] < 0 or indexes[i] >= sizes.size:
            return 1
        table = _U(indexes[i])
        frequency = x & _LOW_HALF
        code = _U(lookup[table, frequency >> _U(bits)])
        while _U(cdfs[table, code + _U(1)]) <= frequency:
            code += _U(1)
        start = _U(cdfs[table, code])
        x = (_U(cdfs[table, code + _U(1)]) - start) * (x >> _HALF) + frequency - start
        if x < _EMPTY:
            if at >= _U(words.size):
                return 3
            x = (x << _WORD) | _U(words[at])
            at += _U(1)
        value = np.int64(code)
        if value == np.int64(sizes[table]) - 2:
            x, at, raw, fault = _get_raw(x, at, words)
            if fault:
                return fault
            value = -(raw >> 1) - 1 if raw & 1 else value + (raw >> 1)
        symbols[i] = np.int32(value + np.int64(offsets[table]))
    state[0], state[1] = x, at
    return 0


@compiled
def _get_raw(x: Any, at: Any, words: Words) -> Any:
    raw = np.int64(0)
    x, at, nibbles, fault = _get_nibble(x, at, words)
    if nibbles > _MOST_NIBBLES:
        return x, at, raw, 4
    for j in range(nibbles):
        x, at, nibble, later = _get_nibble(x, at, words)
        fault = max(fault, later)
        raw |= np.int64(nibble << (_U(j) * _NIBBLE))
    return x, at, raw, fault


@compiled
def _get_nibble(x: Any, at: Any, words: Words) -> Any:
    nibble = x & _LOW_NIBBLE
    x >>= _NIBBLE
    if x < _EMPTY:
        if at >= _U(words.size):
            return x, at, nibble, 3
        x = (x << _WORD) | _U(words[at])
        at += _U(1)
    return x, at, nibble, 0


@compiled
def scale_indexes(
    scales: NDArray[np.float32], patterns: Ints, bounds: NDArray[np.float32], first: Ints, bits: int, indexes: Ints
) -> None:
    """Count the bounds below each scale.

    Args:
        scales: above 0 or NaN, (n,).
        patterns: the same memory as integers.
        bounds: ascending.
        first: the count at the lower edge of each bucket of floats, (2**(31 - bits),).
        bits: of a float that its bucket leaves out.
        indexes: written, (n,).
    """
    for place in range(scales.size):
        i = _U(place)
        index = first[_U((patterns[i] >> bits) & (first.size - 1))]
        while index < bounds.size and bounds[_U(index)] < scales[i]:
            index += 1
        indexes[i] = index
