"""Bitstream files: the strings of one image with all that another process needs to decode them, and no more trust.

    offset  bytes  content, integers little-endian
    0       8      magic, "RDTRAIN" and a line feed
    8       2      format version
    10      4      length of the header, H
    14      4      length of the payload, P
    18      H      header: JSON, see `Bitstream`; of the strings it holds the lengths
    18+H    P      payload: the strings, one after the other
    18+H+P  4      crc32 of everything before

Nothing is allocated by what a file claims: lengths must be those of the file, and shapes within `MAX_PIXELS`. The
checksum finds damage; it does not keep out a forger, whose strings `rdtrain.eval.decode` gives to a process of its own.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterator
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

from rdtrain.errors import UserError

SUFFIX = ".rdt"
MAGIC = b"RDTRAIN\n"
VERSION = 1
MAX_PIXELS = 2**27
"""Largest padded image, height times width."""

_PREFIX = struct.Struct("<8sHII")
_CRC = struct.Struct("<I")
_MAX_HEADER = 2**16
_MAX_PAYLOAD = 2**28
_MAX_STRINGS = 1024
_MAX_CHANNELS = 2**14
_MAX_DEPTH = 6


class DamagedBitstream(UserError):
    """A file that is no bitstream of ours, or no whole one; the message is for the user."""


@dataclass(frozen=True)
class Bitstream:
    """One coded image.

    Args:
        model: name in CompressAI's registry.
        weights: id of the model's weights, see `rdtrain.eval.models.identity`.
        tables: id of its probability tables.
        height: of the image, in pixels.
        width: of the image, in pixels.
        padding: pixels that were added left, right, top, bottom before coding.
        shape: what `decompress` takes beside the strings: tuples that end with a latent's height and width, in lists or
            dicts for some models.
        strings: what `compress` gave: bytes in nested lists.
        pixels: sha256 of the encoder's own reconstruction, uint8 (3, H, W), in hexadecimal.
        writer: device and versions that wrote it.
        coding_order: of the symbols, see `rdtrain.coding.context`; the header holds it where it is not CompressAI's.
    """

    model: str
    weights: str
    tables: str
    height: int
    width: int
    padding: tuple[int, int, int, int]
    shape: Any
    strings: Any
    pixels: str
    writer: str
    coding_order: str = "raster"

    @property
    def padded(self) -> tuple[int, int]:
        """Height and width of what was coded."""
        left, right, top, bottom = self.padding
        return self.height + top + bottom, self.width + left + right


_KNOWN = {field.name for field in fields(Bitstream)}
_REQUIRED = {field.name for field in fields(Bitstream) if field.default is MISSING}


def pack(stream: Bitstream) -> bytes:
    """Make the content of a file.

    Args:
        stream: one coded image.

    Returns:
        The bytes.

    Raises:
        UserError: `unpack` would refuse them, because the image is too large for a file.
    """
    values = {field: getattr(stream, field.name) for field in fields(stream)}
    content = {field.name: value for field, value in values.items() if value != field.default}
    content["strings"] = _lengths(stream.strings)
    header = json.dumps(content, separators=(",", ":")).encode()
    payload = b"".join(leaves(stream.strings))
    body = _PREFIX.pack(MAGIC, VERSION, len(header), len(payload)) + header + payload
    data = body + _CRC.pack(zlib.crc32(body))
    try:
        unpack(data)
    except DamagedBitstream as error:
        raise UserError(f"no bitstream file can hold this image ({error})") from error
    return data


def unpack(data: bytes) -> Bitstream:
    """Read the content of a file and check all that can be checked without the model.

    Args:
        data: the bytes.

    Returns:
        The coded image; its strings may still be nonsense if somebody made the checksum fit.

    Raises:
        DamagedBitstream: the bytes are damaged, incomplete, of another format, or claim an impossible image.
    """
    header, payload = _split(data)
    try:
        return _parse(header, payload)
    except (ValueError, RecursionError) as error:
        raise DamagedBitstream(f"the header of this bitstream is wrong: {error}") from error


def read(path: Path) -> bytes:
    """Read a file that may be anything.

    Args:
        path: the file.

    Returns:
        Its bytes.

    Raises:
        UserError: there is no such file, or it is larger than any bitstream.
    """
    try:
        if not path.is_file():
            raise UserError(f"{path} is not a file; give a bitstream file, such as kodim01{SUFFIX}")
        most = _PREFIX.size + _MAX_HEADER + _MAX_PAYLOAD + _CRC.size
        if path.stat().st_size > most:
            raise UserError(f"{path} is larger than any bitstream file ({most} bytes)")
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error


def _split(data: bytes) -> tuple[bytes, memoryview]:
    # Header and payload of a file whose checksum is right.
    if not data:
        raise DamagedBitstream("this file is empty; copy it again from its source")
    if not data.startswith(MAGIC[: len(data)]):
        raise DamagedBitstream("this is no bitstream file of rdtrain (it begins differently)")
    if len(data) < _PREFIX.size:
        raise DamagedBitstream(f"this bitstream is cut short: it ends after {len(data)} bytes")
    _, version, header, payload = _PREFIX.unpack_from(data)
    if version != VERSION:
        raise DamagedBitstream(f"this bitstream has format version {version}; this rdtrain reads version {VERSION}")
    if header > _MAX_HEADER or payload > _MAX_PAYLOAD:
        raise DamagedBitstream(f"this bitstream claims {header} bytes of header and {payload} of payload: damaged")
    whole = _PREFIX.size + header + payload + _CRC.size
    if len(data) != whole:
        fault = "is cut short" if len(data) < whole else "has bytes behind its end"
        raise DamagedBitstream(f"this bitstream {fault}: {len(data)} bytes instead of {whole}")
    body = memoryview(data)[: -_CRC.size]
    if _CRC.unpack(data[-_CRC.size :])[0] != zlib.crc32(body):
        raise DamagedBitstream("this bitstream is damaged: its checksum does not match; copy it again from its source")
    return bytes(body[_PREFIX.size : _PREFIX.size + header]), body[_PREFIX.size + header :]


def _parse(header: bytes, payload: memoryview) -> Bitstream:
    content = json.loads(header)
    if not isinstance(content, dict) or not _REQUIRED <= set(content) <= _KNOWN:
        raise ValueError("it lacks fields, or has unknown ones")
    content["shape"], content["padding"] = _shape(content["shape"]), _padding(content["padding"])
    content["strings"] = _cut(content["strings"], payload)
    stream = Bitstream(**content)
    _check(stream)
    return stream


def _check(stream: Bitstream) -> None:
    for name in ("model", "weights", "tables", "pixels", "writer", "coding_order"):
        text = getattr(stream, name)
        if not isinstance(text, str) or len(text) > 200 or not text.isprintable():
            raise ValueError(f"{name} is no short text")
    sides = (_whole(stream.height, 1, MAX_PIXELS), _whole(stream.width, 1, MAX_PIXELS))
    height, width = stream.padded
    if height * width > MAX_PIXELS:
        raise ValueError(f"an image of {sides[0]}x{sides[1]} pixels is above the limit of {MAX_PIXELS} padded pixels")
    for shape in _shapes(stream.shape):
        rows, columns = shape[-2:]
        if height % rows or width % columns or height // rows != width // columns:
            raise ValueError(f"latents of {rows}x{columns} do not belong to a padded image of {height}x{width}")


def _whole(value: Any, low: int, high: int) -> int:
    if type(value) is not int or not low <= value <= high:
        raise ValueError(f"{str(value)[:40]} is not a whole number from {low} to {high}")
    return value


def _padding(value: Any) -> tuple[int, ...]:
    if not isinstance(value, list) or len(value) != 4:
        raise ValueError("padding is not four numbers")
    return tuple(_whole(side, 0, MAX_PIXELS) for side in value)


def _shape(value: Any, depth: int = 0) -> Any:
    # Lists of numbers become tuples, in the structure that they came in.
    if depth > _MAX_DEPTH or not isinstance(value, list | dict) or not value:
        raise ValueError("shape is not made of lists of numbers")
    if isinstance(value, dict):
        return {key: _shape(part, depth + 1) for key, part in value.items()}
    if not all(type(part) is int for part in value):
        return [_shape(part, depth + 1) for part in value]
    if len(value) not in (2, 3):
        raise ValueError("shape has a latent that is not (H, W) or (C, H, W)")
    *channels, rows, columns = value
    sides = (_whole(rows, 1, MAX_PIXELS), _whole(columns, 1, MAX_PIXELS))
    return (*(_whole(count, 1, _MAX_CHANNELS) for count in channels), *sides)


def _shapes(shape: Any) -> Iterator[tuple[int, ...]]:
    if isinstance(shape, tuple):
        yield shape
    else:
        for part in shape.values() if isinstance(shape, dict) else shape:
            yield from _shapes(part)


def _lengths(strings: Any) -> Any:
    return len(strings) if isinstance(strings, bytes) else [_lengths(part) for part in strings]


def leaves(strings: Any) -> Iterator[bytes]:
    """Walk what `compress` gave.

    Args:
        strings: bytes in nested lists.

    Yields:
        Each string, in the order of the payload.
    """
    if isinstance(strings, bytes):
        yield strings
    else:
        for part in strings:
            yield from leaves(part)


def _cut(lengths: Any, payload: memoryview) -> Any:
    # The payload as strings, in nested lists like those of the lengths.
    position = count = 0

    def cut(part: Any, depth: int) -> Any:
        nonlocal position, count
        count += 1
        if count > _MAX_STRINGS:
            raise ValueError(f"it lists more than {_MAX_STRINGS} strings")
        if isinstance(part, list) and depth <= _MAX_DEPTH:
            return [cut(length, depth + 1) for length in part]
        start, position = position, position + _whole(part, 0, len(payload) - position)
        return bytes(payload[start:position])

    if not isinstance(lengths, list):
        raise ValueError("strings are not lists of lengths")
    strings = cut(lengths, 0)
    if position != len(payload):
        raise ValueError(f"its strings take {position} bytes of {len(payload)}")
    return strings
