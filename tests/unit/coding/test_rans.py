"""The coder against CompressAI's own and against the format spelled out in Python's integers."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from compressai.ans import RansEncoder
from hypothesis import given, settings
from hypothesis import strategies as st

from rdtrain.coding.rans import LARGEST_RAW, TOTAL, Coder, Decoder, Ints, Tables, encode, has_numba, reciprocals

needs_numba = pytest.mark.skipif(not has_numba(), reason="numba is not installed: pip install '.[fast]'")
CODERS = [pytest.param("numba", marks=needs_numba), "compressai"]
EMPTY = 2**31


def random_tables(rng: np.random.Generator, count: int, coder: Coder) -> Tables:
    """Tables of many widths, some with almost everything in one code."""
    sizes = rng.integers(3, 400, count)
    cdfs = np.full((count, sizes.max() + 2), -7)  # whatever the padding holds is not read
    for row, size in zip(cdfs, sizes, strict=True):
        weights = rng.random(size - 1) ** rng.integers(1, 40)
        whole = 1 + np.floor(weights / weights.sum() * (TOTAL - size + 1)).astype(int)
        whole[rng.integers(size - 1)] += TOTAL - whole.sum()
        row[:size] = np.concatenate([[0], np.cumsum(whole)])
    return Tables(cdfs, sizes, rng.integers(-300, 300, count), coder)


def random_message(rng: np.random.Generator, tables: Tables, length: int, outside: float) -> tuple[Ints, Ints]:
    """Symbols around their tables, a share of them anywhere that can be coded."""
    indexes = rng.integers(0, tables.sizes.size, length).astype(np.int32)
    low, width = tables.offsets[indexes], tables.sizes[indexes] - 2
    symbols = low + np.floor(rng.random(length) * (width + 4)).astype(np.int64) - 2
    reach = (LARGEST_RAW // 2 - 1) * rng.random(length) ** 8
    far = low + np.where(rng.random(length) < 0.5, -np.floor(reach) - 1, width + np.floor(reach)).astype(np.int64)
    return np.where(rng.random(length) < outside, far, symbols).astype(np.int32), indexes


def spelled_out(symbols: Ints, indexes: Ints, tables: Tables) -> bytes:
    """rANS (Duda, arXiv 1311.2540) with states of 31 to 63 bits and words of 32, and CompressAI's escapes."""
    steps: list[tuple[int, int, int]] = []  # start and frequency of so many bits
    for symbol, index in zip(symbols.tolist(), indexes.tolist(), strict=True):
        cdf, escape = tables.cdfs[index].tolist(), int(tables.sizes[index]) - 2
        value = symbol - int(tables.offsets[index])
        code = value if 0 <= value < escape else escape
        steps.append((cdf[code], cdf[code + 1] - cdf[code], 16))
        if code == escape:
            raw = -2 * value - 1 if value < 0 else 2 * (value - escape)
            nibbles = [] if raw == 0 else [int(digit, 16) for digit in reversed(f"{raw:x}")]
            steps += [(nibble, 1, 4) for nibble in (len(nibbles), *nibbles)]
    state, words = EMPTY, []
    for start, frequency, bits in reversed(steps):
        if state >= frequency * 2 ** (63 - bits):
            words.append(state % 2**32)
            state //= 2**32
        state = state // frequency * 2**bits + state % frequency + start
    words += [state // 2**32, state % 2**32]
    return b"".join(word.to_bytes(4, "little") for word in reversed(words))


@needs_numba
@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), length=st.integers(0, 300), outside=st.sampled_from([0.0, 0.02, 0.5, 1.0]))
def test_strings_are_those_of_the_format_and_of_compressai(seed: int, length: int, outside: float) -> None:
    rng = np.random.default_rng(seed)
    tables = random_tables(rng, int(rng.integers(1, 6)), "numba")
    symbols, indexes = random_message(rng, tables, length, outside)
    string = encode(symbols, indexes, tables)
    assert string == spelled_out(symbols, indexes, tables)
    if length > 3:  # its encoder writes outside its buffer where there are fewer
        parts = (tables.cdfs.tolist(), tables.sizes.tolist(), tables.offsets.tolist())
        assert string == RansEncoder().encode_with_indexes(symbols.tolist(), indexes.tolist(), *parts)
    decoder, cut = Decoder(string, tables), int(rng.integers(0, length + 1))
    decoded = np.concatenate([decoder.decode(indexes[:cut]), decoder.decode(indexes[cut:])])
    np.testing.assert_array_equal(decoded, symbols)
    decoder.finish()


def test_compressai_does_the_same_where_numba_is_missing() -> None:
    rng = np.random.default_rng(0)
    tables = random_tables(rng, 5, "compressai")
    symbols, indexes = random_message(rng, tables, 200, 0.1)
    string = encode(symbols, indexes, tables)
    assert string == spelled_out(symbols, indexes, tables)
    decoder = Decoder(string, tables)
    parts = [decoder.decode(part) for part in np.split(indexes, [1, 1, 150])]
    np.testing.assert_array_equal(np.concatenate(parts), symbols)
    decoder.finish()
    with pytest.raises(ValueError, match="needs at least 3; install numba"):
        encode(symbols[:2], indexes[:2], tables)


@pytest.mark.parametrize("coder", CODERS)
def test_what_would_hang_or_crash_is_refused(coder: Coder) -> None:
    tables = Tables(np.array([[0, 60000, TOTAL]]), np.array([3]), np.array([-5]), coder)
    zeros = np.zeros(8, np.int32)
    farthest = LARGEST_RAW // 2
    for inside, outside in ((farthest - 5, farthest - 4), (-farthest - 5, -farthest - 6)):
        symbols = np.full(8, inside, np.int32)
        np.testing.assert_array_equal(Decoder(encode(symbols, zeros, tables), tables).decode(zeros), symbols)
        with pytest.raises(ValueError, match="too far outside its table"):
            encode(np.full(8, outside, np.int32), zeros, tables)
    for symbol in (2**31 - 1, -(2**31)):
        with pytest.raises(ValueError, match="too far outside its table"):
            encode(np.full(8, symbol, np.int32), zeros, tables)
    string = encode(zeros, zeros, tables)
    for index in (-1, 1, 2**31 - 1, -(2**31)):
        with pytest.raises(ValueError, match="an index is outside the tables"):
            encode(zeros, np.full(8, index, np.int32), tables)
        with pytest.raises(ValueError, match="an index is outside the tables"):
            Decoder(string, tables).decode(np.full(8, index, np.int32))
    with pytest.raises(ValueError, match="8 symbols with 7 indexes"):
        encode(zeros, zeros[1:], tables)
    for short in (b"", string[:4], string + b"x"):
        with pytest.raises(ValueError, match="it should be 8 or more, in words of 4"):
            Decoder(short, tables)


def read_all(string: bytes, indexes: Ints, tables: Tables) -> Ints:
    decoder = Decoder(string, tables)
    symbols = decoder.decode(indexes)
    decoder.finish()
    return symbols


@needs_numba
def test_every_truncation_is_noticed_and_most_flipped_bits() -> None:
    rng = np.random.default_rng(1)
    tables = random_tables(rng, 4, "numba")
    symbols, indexes = random_message(rng, tables, 60, 0.1)
    string = encode(symbols, indexes, tables)
    for length in range(len(string)):
        with pytest.raises(ValueError, match=r"it should be 8 or more|ends before its symbols|longer than any|state"):
            read_all(string[:length], indexes, tables)
    with pytest.raises(ValueError, match="does not end where its symbols do"):
        read_all(string + b"\0\0\0\0", indexes, tables)
    with pytest.raises(ValueError, match="does not end where its symbols do"):
        read_all(string, indexes[:-1], tables)
    noticed = []
    for bit in range(8 * len(string)):
        flipped = bytearray(string)
        flipped[bit // 8] ^= 1 << bit % 8
        try:  # the raw bits of an escaped value may be others: that is the string of another message
            read_all(bytes(flipped), indexes, tables)
            noticed.append(False)
        except ValueError:
            noticed.append(True)
    assert np.mean(noticed) > 0.75


@needs_numba
@settings(max_examples=150, deadline=None)
@given(string=st.binary(max_size=400), seed=st.integers(0, 99), ones=st.booleans())
def test_hostile_strings_end_in_an_error(string: bytes, seed: int, ones: bool) -> None:
    rng = np.random.default_rng(seed)
    tables = random_tables(rng, 3, "numba")
    _, indexes = random_message(rng, tables, 2000, 0)
    whole = (b"\xff" * len(string) if ones else string).ljust(8, b"\1")
    with pytest.raises(ValueError, match=r"string|escaped"):  # of 2**31 last states one is an encoder's first
        read_all(whole[: len(whole) // 4 * 4], indexes, tables)


def test_tables_that_no_coder_could_use_are_refused() -> None:
    cdfs, sizes, offsets = np.array([[0, 9, TOTAL, 0], [0, 1, 2, TOTAL]]), np.array([3, 4]), np.array([0, 0])
    Tables(cdfs, sizes, offsets)
    for wrong in ([0, 0, TOTAL, 0], [1, 9, TOTAL, 0], [0, 9, TOTAL - 1, 0], [0, TOTAL, 9, 0], [0, -9, TOTAL, 0]):
        with pytest.raises(ValueError, match="rise from 0 to 65536"):
            Tables(np.array([wrong, cdfs[1]]), sizes, offsets)
    for size in (-1, 0, 2, 5):
        with pytest.raises(ValueError, match="at least 3 entries and here at most 4"):
            Tables(cdfs, np.array([size, 4]), offsets)
    for parts in ((cdfs[0], sizes, offsets), (cdfs, sizes[:1], offsets), (cdfs, sizes, offsets[:1])):
        with pytest.raises(ValueError, match="tables of shape"):
            Tables(*parts)
    with pytest.raises(ValueError, match="tables of shape"):
        Tables(cdfs[:0], sizes[:0], offsets[:0])


@needs_numba
def test_it_compiles_where_nothing_can_be_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    from rdtrain.coding import kernels

    def njit(cache: bool = False, **options: Any) -> Callable[[Any], Any]:
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return lambda function: (function, options)

    monkeypatch.setattr(kernels, "njit", njit)
    assert kernels.compiled(len) == (len, {"nogil": True, "error_model": "numpy"})


def test_a_product_divides_exactly() -> None:
    """The largest error is at the largest states, just below and at multiples of the frequency."""
    factors, shifts = (values.tolist() for values in reciprocals())
    for f in (*range(1, 300), *range(300, TOTAL, 331), 2**15 - 1, 2**15, 2**15 + 1, TOTAL - 1):
        highest = f * 2**47 - 1
        for x in (EMPTY, EMPTY // f * f, EMPTY // f * f + f - 1, highest // 3, highest - f, highest - 1, highest):
            assert (2 * x * factors[f] >> 64) >> shifts[f] == x // f
        assert factors[f] < 2**64


def other_thread_steps(work: Callable[[], Any]) -> int:
    """Count what this thread does while another works, when no thread gives the GIL away but by itself."""
    interval, steps = sys.getswitchinterval(), 0
    sys.setswitchinterval(1000)
    try:
        worker = threading.Thread(target=work)
        worker.start()
        while worker.is_alive():
            steps += 1
            time.sleep(0.001)
    finally:
        sys.setswitchinterval(interval)
    return steps


@needs_numba
def test_two_threads_make_progress() -> None:
    from rdtrain.coding import kernels

    rng = np.random.default_rng(2)
    tables = random_tables(rng, 5, "numba")
    symbols, indexes = random_message(rng, tables, 100_000, 0.01)
    words, state = np.empty(2 * symbols.size + 2, np.uint32), np.empty(2, np.uint64)
    string = np.frombuffer(encode(symbols, indexes, tables), np.uint32)
    parts = tables.cdfs, tables.sizes, tables.offsets
    decoded = np.empty_like(symbols)

    def write() -> None:
        for _ in range(40):
            kernels.encode(symbols, indexes, *parts, *reciprocals(), words)

    def read() -> None:
        for _ in range(40):
            state[:] = int(string[0]) + (int(string[1]) << 32), 2
            assert kernels.decode(string, state, indexes, *parts, tables.lookup, 6, decoded) == 0

    read()
    np.testing.assert_array_equal(decoded, symbols)
    lists = symbols.tolist(), indexes.tolist(), *(part.tolist() for part in parts)
    assert other_thread_steps(lambda: RansEncoder().encode_with_indexes(*lists)) <= 1  # CompressAI holds it
    assert other_thread_steps(write) > 1
    assert other_thread_steps(read) > 1


def test_a_numba_that_cannot_be_imported_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "numba", None)  # to import it raises ImportError
    has_numba.cache_clear()
    assert not has_numba() and not Tables(np.array([[0, 9, TOTAL]]), np.array([3]), np.array([0])).fast
    has_numba.cache_clear()
