"""Image files to uint8 RGB arrays, or a `BadImage` that names the file and says why not.

The formats are those that photographs are kept in; Pillow reads more, and every reader less is one less that a hostile
file can reach. Colour profiles are ignored, as they are in the published results of learned compression.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
from PIL import ExifTags, Image, ImageFile, UnidentifiedImageError

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "PPM")
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".pnm"})

MAX_PIXELS = 178_956_970
"""Largest image read unless told otherwise; 512 MiB of RGB. Above it Pillow itself sees a decompression bomb."""

# EXIF orientation (CIPA DC-008, tag 0x0112) -> swap rows and columns first?, then step along rows, step along columns
_UPRIGHT = {
    1: (False, 1, 1),
    2: (False, 1, -1),
    3: (False, -1, -1),
    4: (False, -1, 1),
    5: (True, 1, 1),
    6: (True, 1, -1),
    7: (True, -1, -1),
    8: (True, -1, 1),
}
_KINDS = {stat.S_IFDIR: "directory", stat.S_IFIFO: "pipe", stat.S_IFSOCK: "socket"}
# Pillow's names for 16-bit values in a file, big-endian, little-endian or native -> the opposite order
_OTHER_BYTE = {"16B": "16L", "16L": "16B", "16N": "16B" if sys.byteorder == "little" else "16L"}


class BadImage(Exception):
    """A file that cannot be used as an image.

    Args:
        path: the file.
        reason: what is wrong with it, in the same words for all files with that fault, so that they can be counted.
        detail: what is particular about this one.
    """

    def __init__(self, path: Path, reason: str, detail: str = "") -> None:
        super().__init__(path, reason, detail)
        self.path = path
        self.reason = reason
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}" + (f" ({self.detail})" if self.detail else "")


@dataclass(frozen=True)
class ImageInfo:
    """What the header of a good image file says.

    Args:
        path: the file.
        height: rows in pixels, after EXIF rotation.
        width: columns in pixels, after EXIF rotation.
        file_bytes: size of the file in bytes.
    """

    path: Path
    height: int
    width: int
    file_bytes: int


def probe_image(path: Path, *, max_pixels: int = MAX_PIXELS) -> ImageInfo:
    """Read the size of an image from its header; the pixels are not decoded.

    Args:
        path: the file.
        max_pixels: height times width above which the file is refused.

    Returns:
        The size as `decode_image` will deliver it.

    Raises:
        BadImage: the file is no image, or one that `decode_image` refuses and whose header tells.
    """
    with _naming_faults(path), _open(path, max_pixels) as image:
        return ImageInfo(path, *_upright_size(image), os.stat(path).st_size)


Box = tuple[int, int, int, int]
"""Top, left, bottom and right of a part of an image, the last two outside it."""
Choice = Callable[[int, int], Box]
"""From height and width to the part that is wanted."""


def decode_image(path: Path, *, max_pixels: int = MAX_PIXELS, choose: Choice | None = None) -> np.ndarray:
    """Decode an image to 8-bit RGB.

    Grey is repeated, palettes and CMYK are converted, alpha is dropped (the colour under it stays), EXIF orientation is
    applied, and 16-bit values become `round(v / 257)`, the nearest of 256 levels. (Pillow's own conversion saturates
    16-bit grey to white and drops the low byte of 16-bit colour. 16-bit grey with alpha, for which it has no other
    reader, keeps the high byte: at most one level off.)

    Args:
        path: the file.
        max_pixels: height times width above which the file is refused.
        choose: the part that is wanted; all is decoded, so that damage anywhere is found, but less is converted.

    Returns:
        uint8 array of shape (H, W, 3), C-contiguous and writable.

    Raises:
        BadImage: missing, unreadable, no regular file, empty, truncated, damaged, animated, too large, or of a kind
            without a defined white level (32-bit integers and floats).
    """
    with _naming_faults(path), _open(path, max_pixels) as image:
        orientation, whole = _orientation(image), (0, 0, *image.size)
        if choose is None:
            return _upright(_to_rgb(image, path, whole), orientation)
        top, left, bottom, right = choose(*_upright_size(image))
        if orientation == 1:
            return np.ascontiguousarray(_to_rgb(image, path, (left, top, right, bottom)))
        return np.ascontiguousarray(_upright(_to_rgb(image, path, whole), orientation)[top:bottom, left:right])


class _Quiet:
    """Keeps Pillow's warnings off the terminal while any thread is inside.

    `warnings.catch_warnings` alone is not thread-safe: the threads of a scan would restore each other's filters.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._filters = warnings.catch_warnings()
                self._filters.__enter__()
                warnings.filterwarnings("ignore", module=r"PIL\.")
            self._inside += 1

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._filters.__exit__(kind, error, at)


_QUIET = _Quiet()


@contextmanager
def _naming_faults(path: Path) -> Iterator[None]:
    # Turns whatever Pillow raises on a damaged file into BadImage.
    try:
        with _QUIET:
            yield
    except BadImage:
        raise
    except Exception as error:  # damaged files make Pillow raise nearly anything: SyntaxError, KeyError, ...
        if isinstance(error, OSError) and error.errno in {errno.EMFILE, errno.ENFILE}:
            raise  # too many open files: the machine's limit, not the image's fault
        raise BadImage(path, *_reason(error, path)) from error


def _reason(error: Exception, path: Path) -> tuple[str, str]:
    """Return in a few words what an exception of Pillow or the system means for the file, and the particulars."""
    if isinstance(error, FileNotFoundError):
        return "the file is missing", "a link that leads nowhere" if path.is_symlink() else ""
    if isinstance(error, PermissionError):
        return "no permission to read it", ""
    if isinstance(error, UnidentifiedImageError):
        return f"not an image in one of the formats {', '.join(FORMATS)}", ""
    if isinstance(error, Image.DecompressionBombError):
        return "a decompression bomb", f"more than {MAX_PIXELS} pixels, which Pillow never decodes"
    if isinstance(error, MemoryError):
        return "not enough memory to decode it", ""
    if isinstance(error, OSError) and error.errno is not None:
        return "the system cannot read it", str(error.strerror)
    return "damaged or truncated", str(error) or type(error).__name__


def _open(path: Path, max_pixels: int) -> ImageFile.ImageFile:
    # Reads the header only, and refuses what it already rules out.
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):  # to open a pipe would wait for ever for somebody who writes into it
        raise BadImage(path, "no regular file", _KINDS.get(stat.S_IFMT(status.st_mode), "device"))
    if status.st_size == 0:
        raise BadImage(path, "the file is empty", "0 bytes")
    image = Image.open(path, formats=FORMATS)
    fault = _header_fault(image, max_pixels)
    if fault:
        image.close()
        raise BadImage(path, *fault)
    return image


def _header_fault(image: ImageFile.ImageFile, max_pixels: int) -> tuple[str, str] | None:
    """Return what rules an opened image out and the particulars, None if nothing does."""
    columns, rows = image.size
    if columns * rows > max_pixels:
        return "more pixels than allowed", f"{columns}x{rows}, dataset.max_pixels={max_pixels}"
    # MPO is what many phones write: a JPEG photograph with previews or a second view behind it. The first is meant.
    if getattr(image, "is_animated", False) and image.format != "MPO":
        return "animated, or several pages in one file", f"{getattr(image, 'n_frames', '?')} of them"
    return None


def _orientation(image: ImageFile.ImageFile) -> int:
    """Return the EXIF orientation, 1 to 8, that is still to be applied to the pixels, as far as the header tells."""
    if image.format == "TIFF":
        return 1  # Pillow (11.0 or newer) turns TIFF itself and reports the turned size
    try:
        # The base class's method: PNG's own would decode all pixels to look for an eXIf chunk behind them.
        orientation = Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1)
    except Exception:  # damaged metadata are no reason to lose the pixels
        return 1
    return orientation if orientation in _UPRIGHT else 1


def _upright_size(image: ImageFile.ImageFile) -> tuple[int, int]:
    # Height and width after EXIF rotation.
    columns, rows = image.size
    return (columns, rows) if _UPRIGHT[_orientation(image)][0] else (rows, columns)


def _upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Return (H, W, 3) pixels turned and mirrored as the EXIF orientation asks."""
    swap, row_step, column_step = _UPRIGHT[orientation]
    turned = pixels.swapaxes(0, 1) if swap else pixels
    return np.ascontiguousarray(turned[::row_step, ::column_step])


def _to_rgb(image: ImageFile.ImageFile, path: Path, box: tuple[int, int, int, int]) -> np.ndarray:
    # The pixels of an opened image inside Pillow's box (left, top, right, bottom) as uint8 (H, W, 3), not yet upright.
    left, top, right, bottom = box
    inside = np.s_[top:bottom, left:right]
    if image.mode == "F":
        raise BadImage(path, "pixels without a defined white level", "floating-point")
    if image.mode.startswith("I"):
        return _grey_to_rgb(np.asarray(image), path)[inside]
    low_tiles = _low_byte_tiles(image)
    if low_tiles:
        with Image.open(path, formats=FORMATS) as again:
            again.tile = low_tiles
            low = np.asarray(again)[inside][..., :3]
        high = np.asarray(image)[inside][..., :3]
        return _to_8_bit((high.astype(np.uint32) << 8) | low)
    part = image if box == (0, 0, *image.size) else image.crop(box)
    return np.array(part if part.mode == "RGB" else part.convert("RGB"))


def _low_byte_tiles(image: ImageFile.ImageFile) -> list[ImageFile._Tile]:
    """Return instructions to decode the low bytes of 16-bit RGB or RGBA; none for any other image.

    Pillow has no 16-bit colour mode and unpacks the high byte of each value. Told that the file has the other byte
    order, it unpacks the low one.
    """
    tiles = []
    for tile in image.tile:
        raw_mode, *rest = tile.args if isinstance(tile.args, tuple) else (tile.args,)
        kind, _, depth = str(raw_mode).partition(";")
        if kind not in {"RGB", "RGBA", "RGBX"} or depth not in _OTHER_BYTE:
            return []
        other = f"{kind};{_OTHER_BYTE[depth]}"
        tiles.append(tile._replace(args=(other, *rest) if rest else other))
    return tiles


def _grey_to_rgb(grey: np.ndarray, path: Path) -> np.ndarray:
    # 16-bit grey of shape (H, W), in whatever integer type Pillow holds it, to uint8 (H, W, 3).
    if grey.min() < 0 or grey.max() > 65535:
        raise BadImage(path, "pixels without a defined white level", "32-bit")
    return np.repeat(_to_8_bit(grey)[..., None], 3, axis=2)


def _to_8_bit(values: np.ndarray) -> np.ndarray:
    """Return `round(v / 257)` of 16-bit values; 257 is odd, so there are no ties."""
    return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)
