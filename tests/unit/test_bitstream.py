"""The container: exact bytes, round trips, and every way in which a file can be damaged or forged."""

from __future__ import annotations

import json
import struct
import tracemalloc
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rdtrain.bitstream import MAX_PIXELS, Bitstream, DamagedBitstream, pack, read, unpack
from rdtrain.errors import UserError

STREAM = Bitstream(
    model="mbt2018",
    weights="0123456789abcdef" * 2,
    tables="fedcba9876543210" * 2,
    height=100,
    width=120,
    padding=(4, 4, 14, 14),
    shape=(2, 2),
    strings=[[b"\x00\x01\x02"], [b"", b"abc"]],
    pixels="ab" * 32,
    writer="cpu",
)


def forged(**changes: Any) -> bytes:
    """A file whose checksum is right and whose header says anything."""
    header, payload = _header(pack(STREAM)), b"\x00\x01\x02abc"
    text = json.dumps(header | changes).encode()
    return sealed(struct.pack("<8sHII", b"RDTRAIN\n", 1, len(text), len(payload)) + text + payload)


def sealed(body: bytes) -> bytes:
    return body + struct.pack("<I", zlib.crc32(body))


def _header(data: bytes) -> dict[str, Any]:
    return json.loads(data[18 : 18 + struct.unpack_from("<I", data, 10)[0]])


def test_layout_is_as_documented() -> None:
    data = pack(STREAM)
    header = struct.unpack_from("<I", data, 10)[0]
    assert data[:8] == b"RDTRAIN\n"
    assert struct.unpack_from("<HII", data, 8) == (1, header, 6)
    assert json.loads(data[18 : 18 + header])["strings"] == [[3], [0, 3]]
    assert data[18 + header : -4] == b"\x00\x01\x02abc"
    assert struct.unpack("<I", data[-4:])[0] == zlib.crc32(data[:-4])


def test_round_trip() -> None:
    assert unpack(pack(STREAM)) == STREAM
    assert STREAM.padded == (128, 128)


NESTED = st.recursive(st.binary(max_size=9), lambda part: st.lists(part, max_size=4), max_leaves=12)


@given(strings=st.lists(NESTED, max_size=5))
def test_any_nesting_of_strings_comes_back(strings: list[Any]) -> None:
    if _depth(strings) <= 6:
        assert unpack(pack(replace(STREAM, strings=strings))).strings == strings


def _depth(part: Any) -> int:
    return 1 + max((_depth(item) for item in part), default=0) if isinstance(part, list) else 0


def test_shapes_of_newer_models_come_back() -> None:
    shape = {"y": [(2, 8, 8), (8, 8, 8)], "hyper": (2, 2)}
    assert unpack(pack(replace(STREAM, shape=shape))).shape == shape


def test_every_truncation_is_refused() -> None:
    data = pack(STREAM)
    for length in range(len(data)):
        with pytest.raises(DamagedBitstream, match="cut short" if length >= 1 else "is empty"):
            unpack(data[:length])


def test_every_flipped_bit_is_refused() -> None:
    data = pack(STREAM)
    for position in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[position // 8] ^= 1 << position % 8
        with pytest.raises(DamagedBitstream):
            unpack(bytes(flipped))


def test_another_version_and_trailing_bytes_are_named() -> None:
    data = pack(STREAM)
    with pytest.raises(DamagedBitstream, match="format version 2; this rdtrain reads version 1"):
        unpack(sealed(data[:8] + b"\x02\x00" + data[10:-4]))
    with pytest.raises(DamagedBitstream, match="bytes behind its end"):
        unpack(data + b"\x00")


@given(st.binary(max_size=200))
def test_any_bytes_are_refused(data: bytes) -> None:
    for candidate in (data, b"RDTRAIN\n" + data, sealed(struct.pack("<8sHII", b"RDTRAIN\n", 1, len(data), 0) + data)):
        with pytest.raises(DamagedBitstream):
            unpack(candidate)


FORGERIES = {
    "huge image": ({"height": 2**20, "width": 2**20}, "above the limit"),
    "one pixel row too many": ({"height": MAX_PIXELS, "width": 1}, "above the limit"),
    "larger than any number": ({"height": 10**30}, "whole number"),
    "negative side": ({"width": -1}, "whole number"),
    "truth for a side": ({"width": True}, "whole number"),
    "fraction": ({"height": 1.5}, "whole number"),
    "negative padding": ({"padding": [-4, 12, 14, 14]}, "whole number"),
    "three paddings": ({"padding": [4, 4, 14]}, "four numbers"),
    "huge latents": ({"shape": [2**26, 2**26]}, "do not belong"),
    "latents of another image": ({"shape": [2, 3]}, "do not belong"),
    "no rows": ({"shape": [0, 2]}, "whole number"),
    "too many channels": ({"shape": [2**20, 2, 2]}, "whole number"),
    "one number": ({"shape": [2]}, "not \\(H, W\\)"),
    "shape of text": ({"shape": "2, 2"}, "lists of numbers"),
    "text in shape": ({"shape": ["2", "2"]}, "lists of numbers"),
    "no shape": ({"shape": None}, "lists of numbers"),
    "strings beyond the end": ({"strings": [[7]]}, "whole number from 0 to 6"),
    "strings before the beginning": ({"strings": [[9], [-3]]}, "whole number"),
    "strings that leave bytes": ({"strings": [[3]]}, "3 bytes of 6"),
    "strings of text": ({"strings": "abcdef"}, "lists of lengths"),
    "number for strings": ({"strings": 6}, "lists of lengths"),
    "control characters": ({"writer": "\x1b[2J"}, "no short text"),
    "a book": ({"model": "m" * 201}, "no short text"),
    "number for a hash": ({"pixels": 3}, "no short text"),
    "unknown field": ({"command": "rm"}, "unknown"),
    "thousands of strings": ({"strings": [[3], [0] * 20000, [3]]}, "more than 1024 strings"),
    "thousands of lists": ({"strings": [[3], *[[]] * 15000, [3]]}, "more than 1024 strings"),
    "number of many digits": ({"strings": [[10**3000]]}, "whole number from 0 to 6"),
}


@pytest.mark.parametrize(("changes", "message"), FORGERIES.values(), ids=FORGERIES)
def test_forged_header_is_refused(changes: dict[str, Any], message: str) -> None:
    assert unpack(forged()) == STREAM
    with pytest.raises(DamagedBitstream, match=message):
        unpack(forged(**changes))


def test_largest_image_is_accepted() -> None:
    sides = {"height": 2**14, "width": 2**13, "padding": [0, 0, 0, 0], "shape": [2**8, 2**7]}
    assert unpack(forged(**sides)).padded == (2**14, 2**13)


def test_what_could_not_be_read_is_not_written() -> None:
    for changes in ({"height": MAX_PIXELS + 1, "width": 1, "padding": (0, 0, 0, 0)}, {"strings": [[b""] * 2000]}):
        with pytest.raises(UserError, match="no bitstream file can hold this image"):
            pack(replace(STREAM, **changes))


def test_zeros_are_refused_at_once(tmp_path: Path) -> None:
    zeros = bytes(10 * 2**20)
    for data, sentence in (
        (zeros, "begins differently"),
        (b"RDTRAIN\n" + zeros, "format version 0"),
        (struct.pack("<8sHII", b"RDTRAIN\n", 1, 2**32 - 1, len(zeros)) + zeros, "claims 4294967295 bytes of header"),
        (sealed(struct.pack("<8sHII", b"RDTRAIN\n", 1, 0, len(zeros)) + zeros), "header of this bitstream is wrong"),
        (sealed(struct.pack("<8sHII", b"RDTRAIN\n", 1, 2**16, len(zeros) - 2**16) + zeros), "header"),
        (forged(strings=[[0] * 3, [6]])[:-10] + zeros, "bytes behind its end"),
    ):
        (tmp_path / "zeros.rdt").write_bytes(data)
        with pytest.raises(DamagedBitstream, match=sentence):
            unpack(read(tmp_path / "zeros.rdt"))


def test_deep_nesting_is_refused() -> None:
    deep = "[" * 20000 + "]" * 20000
    for field in ("strings", "shape"):
        text = json.dumps(_header(pack(STREAM)) | {field: "@"}).replace('"@"', deep).encode()
        with pytest.raises(DamagedBitstream, match="header"):
            unpack(sealed(struct.pack("<8sHII", b"RDTRAIN\n", 1, len(text), 6) + text + b"\x00\x01\x02abc"))


def test_claims_allocate_nothing() -> None:
    claims = struct.pack("<8sHII", b"RDTRAIN\n", 1, 2**32 - 1, 2**32 - 1) + bytes(100)
    tracemalloc.start()
    for data in (claims, forged(height=2**60, shape=[2**60, 2**60])):
        with pytest.raises(DamagedBitstream):
            unpack(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100_000


def test_files_that_are_none(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing.rdt"):
        with pytest.raises(UserError, match="is not a file"):
            read(path)
    huge = tmp_path / "huge.rdt"
    with huge.open("wb") as file:
        file.truncate(2**31)  # a hole: no disk is taken
    with pytest.raises(UserError, match="larger than any bitstream"):
        read(huge)
