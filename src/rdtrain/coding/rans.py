"""CompressAI's rANS coder: its strings byte for byte, from arrays, with every access checked.

A string holds one message of n symbols. Each symbol has a table: cumulative frequencies of 16 bits, the last of whose
codes is an escape for everything outside, followed by the value itself in nibbles (compressai 1.2.8,
cpp_exts/rans/rans_interface.cpp; ryg_rans, rans64.h). Where numba is not installed, CompressAI's coder does the work,
and only what goes into the encoder is checked: its decoder does not know where a string ends.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from rdtrain.coding.scales import ScaleIndex
from rdtrain.probes import Undecodable

Coder = Literal["auto", "numba", "compressai"]
Ints = NDArray[np.int32]

TOTAL = 2**16
"""What the frequencies of a table add up to."""
BUCKET_BITS = 6
"""Of a cumulative frequency that its bucket leaves out; a code for each bucket spares the decoder most of a search."""
LARGEST_RAW = 2**28
"""Escaped values from here on make CompressAI's encoder loop for ever: -2v - 1 below a table, 2 (v - escape) above."""

_FAULTS = {
    1: "an index is outside the tables",
    2: "a symbol is too far outside its table",
    3: "the string ends before its symbols do",
    4: "an escaped value is longer than any that an encoder writes",
}


@cache
def has_numba() -> bool:
    """Whether the fast coder can be had; to find out takes half a second the first time.

    Returns:
        True where numba is installed and fits the other libraries.
    """
    try:
        import_module("numba")
    except Exception:  # it refuses a newer NumPy by ImportError, and older ones of it break on it in any way
        return False
    return True


def prepare() -> None:
    """Load the fast coder now, compiling it the first time, which takes seconds and the memory of a compiler."""
    none = np.zeros(0, np.int32)
    tables = Tables(np.array([[0, 1, TOTAL]]), np.array([3]), np.array([0]), "numba")
    Decoder(encode(none, none, tables), tables).decode(none)
    ScaleIndex(np.ones(1, np.float32))(np.ones(1, np.float32))


class Tables:
    """The tables of one entropy model, and what is computed from them once.

    Args:
        cdfs: cumulative frequencies from 0 to 65536, each row padded at its end, (n, width).
        sizes: entries of each row that count, at least 3, (n,).
        offsets: the integer that each table's first code stands for, (n,).
        coder: `numba`, `compressai`, or `auto` for the first where it is installed.

    Raises:
        ValueError: they are not tables of a coder.
    """

    def __init__(self, cdfs: Ints, sizes: Ints, offsets: Ints, coder: Coder = "auto") -> None:
        self.cdfs, self.sizes, self.offsets = (np.array(part, np.int32, order="C") for part in (cdfs, sizes, offsets))
        self.fast = coder == "numba" or (coder == "auto" and has_numba())
        _check(self.cdfs, self.sizes, self.offsets)
        if self.fast:
            self.lookup = _lookup(self.cdfs, self.sizes)
        else:
            self.lists = self.cdfs.tolist(), self.sizes.tolist(), self.offsets.tolist()

    def hold(self, cdfs: Ints, sizes: Ints, offsets: Ints) -> bool:
        """Whether these are still the tables of a model.

        Args:
            cdfs: as for the class.
            sizes: as for the class.
            offsets: as for the class.

        Returns:
            True if all numbers are equal.
        """
        pairs = ((self.cdfs, cdfs), (self.sizes, sizes), (self.offsets, offsets))
        return all(np.array_equal(mine, given) for mine, given in pairs)


def _check(cdfs: Ints, sizes: Ints, offsets: Ints) -> None:
    if cdfs.ndim != 2 or sizes.shape != cdfs.shape[:1] or offsets.shape != sizes.shape or not sizes.size:
        raise ValueError(f"tables of shape {cdfs.shape} with {sizes.shape} sizes and {offsets.shape} offsets")
    if sizes.min() < 3 or sizes.max() > cdfs.shape[1]:
        raise ValueError(f"a table has at least 3 entries and here at most {cdfs.shape[1]}")
    steps = np.arange(1, cdfs.shape[1])[None] >= sizes[:, None]  # those between the padding
    rising = (np.diff(cdfs.astype(np.int64), axis=1) > 0) | steps
    if cdfs[:, 0].any() or (cdfs[np.arange(len(sizes)), sizes - 1] != TOTAL).any() or not rising.all():
        raise ValueError(f"the cumulative frequencies of a table rise from 0 to {TOTAL}")


def _lookup(cdfs: Ints, sizes: Ints) -> NDArray[np.uint16]:
    # The code that the smallest frequency of each bucket belongs to, (n, buckets).
    edges = np.arange(0, TOTAL, 2**BUCKET_BITS)
    rows = [np.searchsorted(row[:size], edges, side="right") - 1 for row, size in zip(cdfs, sizes, strict=True)]
    return np.stack(rows).astype(np.uint16)


@cache
def reciprocals() -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """What divides a state by a frequency without a division.

    With 2**(s-1) < f <= 2**s and m = ceil(2**(63+s) / f), floor(x / f) is floor(x m / 2**(63+s)) for every state
    x < 2**47 f: the error, x / 2**(63+s) at most, is below 1 / f.

    Returns:
        m and s for every f from 0 (unused) to 65536.
    """
    f = np.arange(TOTAL + 1, dtype=np.uint64)
    s = np.ceil(np.log2(np.maximum(f, 1))).astype(np.uint64)
    f[0] = 1
    whole, rest = np.divmod(np.uint64(2**63), f)
    return (whole << s) + ((rest << s) + f - np.uint64(1)) // f, s


def encode(symbols: Ints, indexes: Ints, tables: Tables) -> bytes:
    """Code symbols into one string.

    Args:
        symbols: in coding order, (n,).
        indexes: the table of each, (n,).
        tables: of the entropy model.

    Returns:
        The string, in whole words of 4 bytes.

    Raises:
        ValueError: an index is outside the tables, or a symbol so far that CompressAI's coder would never return.
    """
    symbols, indexes = _message(symbols), _message(indexes)
    if symbols.size != indexes.size:
        raise ValueError(f"{symbols.size} symbols with {indexes.size} indexes")
    if tables.fast:
        from rdtrain.coding import kernels

        words = np.empty(2 * symbols.size + 2, np.uint32)  # an escape takes up to one and a half
        first = kernels.encode(symbols, indexes, tables.cdfs, tables.sizes, tables.offsets, *reciprocals(), words)
        _raise_for(-first)
        return words[first:].tobytes()
    _raise_for(_fault(symbols, indexes, tables))
    from compressai.ans import RansEncoder

    if symbols.size < _FEWEST:
        raise ValueError(f"{symbols.size} symbols: CompressAI's coder needs at least {_FEWEST}; install numba")
    return RansEncoder().encode_with_indexes(symbols.tolist(), indexes.tolist(), *tables.lists)


class Decoder:
    """Reads one string, in any number of calls.

    Args:
        stream: what `encode` made.
        tables: of the same entropy model.

    Raises:
        Undecodable: no encoder wrote this.
    """

    def __init__(self, stream: bytes, tables: Tables) -> None:
        self._tables = tables
        if len(stream) < 8 or len(stream) % 4:
            raise Undecodable(f"a string of {len(stream)} bytes: it should be 8 or more, in words of 4")
        if tables.fast:
            self._words = np.frombuffer(stream, "<u4")
            state = int.from_bytes(stream[:8], "little")
            if not _EMPTY <= state < 2**63:
                raise Undecodable("the string begins with a state that no encoder ends in")
            self._state = np.array([state, 2], np.uint64)
        else:
            from compressai.ans import RansDecoder

            self._peer: Any = RansDecoder()
            self._peer.set_stream(stream)

    def decode(self, indexes: Ints) -> Ints:
        """Read the next symbols.

        Args:
            indexes: the table of each, (n,).

        Returns:
            The symbols, (n,).

        Raises:
            ValueError: an index is outside the tables.
            Undecodable: with numba, the string is damaged.
        """
        indexes, tables = _message(indexes), self._tables
        if not tables.fast:
            _raise_for(int(indexes.size > 0 and _are_outside(indexes, tables)))
            return np.array(self._peer.decode_stream(indexes.tolist(), *tables.lists), np.int32)
        from rdtrain.coding import kernels

        symbols = np.empty(indexes.size, np.int32)
        arrays = tables.cdfs, tables.sizes, tables.offsets, tables.lookup, BUCKET_BITS
        _raise_for(kernels.decode(self._words, self._state, indexes, *arrays, symbols))
        return symbols

    def finish(self) -> None:
        """Make sure that all has been read; CompressAI's decoder cannot tell.

        Raises:
            Undecodable: more was written, or something else.
        """
        if self._tables.fast and (int(self._state[0]) != _EMPTY or int(self._state[1]) != self._words.size):
            raise Undecodable("the string does not end where its symbols do" + _DAMAGED)


_EMPTY = 2**31  # the state before the first symbol
_FEWEST = 3  # its buffer holds a word a symbol, and the last state takes two
_DAMAGED = ": it is damaged, or was coded with other tables or parameters"


def _message(values: Any) -> Ints:
    return np.ascontiguousarray(values, np.int32).reshape(-1)


def _raise_for(fault: int) -> None:
    if fault > 2:
        raise Undecodable(_FAULTS[fault] + _DAMAGED)
    if fault > 0:
        raise ValueError(_FAULTS[fault])


def _are_outside(indexes: Ints, tables: Tables) -> bool:
    return bool(indexes.min() < 0 or indexes.max() >= tables.sizes.size)


def _fault(symbols: Ints, indexes: Ints, tables: Tables) -> int:
    if not symbols.size:
        return 0
    if _are_outside(indexes, tables):
        return 1
    values = symbols.astype(np.int64) - tables.offsets[indexes]
    above = values - (tables.sizes[indexes] - 2)
    return 2 * bool((np.where(values < 0, -2 * values - 1, 2 * above) >= LARGEST_RAW).any())
