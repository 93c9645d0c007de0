from __future__ import annotations

import errno
import os
import random
import resource
import struct
import warnings
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import tifffile
from PIL import Image

from rdtrain.data.decode import BadImage, decode_image, probe_image


def noise(*shape: int, dtype: type = np.uint8, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max, shape, dtype=dtype, endpoint=True)


def png(width: int, height: int, depth: int, colour_type: int, rows: bytes) -> bytes:
    """A PNG file from its raw rows (PNG specification, section 5): Pillow cannot write 16-bit colour."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    packed = (struct.pack(">I", len(d)) + t + d + struct.pack(">I", zlib.crc32(t + d)) for t, d in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


def png_16(values: np.ndarray, colour_type: int) -> bytes:
    height, width = values.shape[:2]
    return png(width, height, 16, colour_type, b"".join(b"\0" + row.astype(">u2").tobytes() for row in values))


def nearest_8_bit(values: np.ndarray) -> np.ndarray:
    """The oracle for 16 bits: nearest of 256 levels, in float64."""
    return np.round(values.astype(np.float64) / 65535 * 255).astype(np.uint8)


def check(path: Path, expected: np.ndarray, tolerance: int = 0) -> None:
    pixels, info = decode_image(path), probe_image(path)
    assert pixels.dtype == np.uint8
    assert pixels.shape == expected.shape == (info.height, info.width, 3)
    assert pixels.flags.c_contiguous
    assert pixels.flags.writeable
    assert info.file_bytes == path.stat().st_size
    assert np.abs(pixels.astype(int) - expected).max() <= tolerance
    top, left = min(1, info.height - 1), min(2, info.width - 1)
    part = decode_image(path, choose=lambda height, width: (top, left, height, width))
    np.testing.assert_array_equal(part, pixels[top:, left:])
    assert part.flags.c_contiguous
    assert part.flags.writeable


@pytest.mark.parametrize(
    "name", ["a.png", "a.bmp", "a.ppm", "a.tif", "a.webp", "png_called.jpg", "capitals.PNG", "no_suffix"]
)
def test_lossless_formats_are_exact_and_known_by_content(tmp_path: Path, name: str) -> None:
    expected = noise(19, 31, 3)
    kinds = {".bmp": "BMP", ".ppm": "PPM", ".tif": "TIFF", ".webp": "WEBP"}
    path = tmp_path / name
    Image.fromarray(expected).save(path, kinds.get(path.suffix, "PNG"), lossless=True)
    check(path, expected)


def test_jpeg(tmp_path: Path) -> None:
    y, x = np.mgrid[0:33, 0:50]
    expected = np.stack([4 * x, 6 * y, 2 * (x + y)], axis=2).astype(np.uint8)  # smooth: JPEG keeps it
    Image.fromarray(expected).save(tmp_path / "a.jpg", quality=100, subsampling=0)
    check(tmp_path / "a.jpg", expected, tolerance=3)


def test_damage_outside_the_wanted_part_is_found(tmp_path: Path) -> None:
    Image.fromarray(noise(200, 64, 3)).save(tmp_path / "a.jpg")
    whole = (tmp_path / "a.jpg").read_bytes()
    (tmp_path / "a.jpg").write_bytes(whole[: len(whole) * 9 // 10])
    with pytest.raises(BadImage, match="damaged or truncated"):
        decode_image(tmp_path / "a.jpg", choose=lambda height, width: (0, 0, 8, 8))


def test_grey_is_repeated(tmp_path: Path) -> None:
    grey = noise(7, 5)
    Image.fromarray(grey).save(tmp_path / "a.png")
    check(tmp_path / "a.png", np.stack([grey] * 3, axis=2))


def test_one_bit(tmp_path: Path) -> None:
    bits = noise(9, 13) > 127
    Image.fromarray(bits).save(tmp_path / "a.png")
    check(tmp_path / "a.png", np.repeat(bits[..., None] * np.uint8(255), 3, axis=2))


@pytest.mark.parametrize("transparency", [None, 3, bytes(range(256))])
def test_palette(tmp_path: Path, transparency: object) -> None:
    indices, palette = noise(9, 6), noise(256, 3, seed=1)
    image = Image.fromarray(indices).convert("P")
    image.putpalette(palette.tobytes())
    options: dict[str, Any] = {} if transparency is None else {"transparency": transparency}
    image.save(tmp_path / "a.png", **options)
    check(tmp_path / "a.png", palette[indices])


def test_alpha_is_dropped_and_the_colour_under_it_stays(tmp_path: Path) -> None:
    rgba, grey_alpha = noise(8, 9, 4), noise(8, 9, 2)
    Image.fromarray(rgba).save(tmp_path / "rgba.png")
    Image.fromarray(grey_alpha, "LA").save(tmp_path / "la.png")
    check(tmp_path / "rgba.png", rgba[..., :3])
    check(tmp_path / "la.png", np.repeat(grey_alpha[..., :1], 3, axis=2))


def test_cmyk(tmp_path: Path) -> None:
    cmyk = noise(8, 9, 4)
    Image.fromarray(cmyk, "CMYK").save(tmp_path / "a.tif")
    ink = cmyk.astype(np.float64) / 255
    check(tmp_path / "a.tif", np.round(255 * (1 - ink[..., :3]) * (1 - ink[..., 3:])), tolerance=1)


# Orientation -> what a viewer does to the stored rows, in numpy's words (EXIF 2.32, table 4: where the 0th row and
# column are seen).
UPRIGHT: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).transpose(1, 0, 2),
    8: np.rot90,
}


@pytest.mark.parametrize("name", ["a.png", "a.webp", "a.tif"])
@pytest.mark.parametrize("orientation", UPRIGHT)
def test_exif_orientation(tmp_path: Path, name: str, orientation: int) -> None:
    stored = noise(6, 11, 3)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(stored).save(tmp_path / name, exif=exif, lossless=True)
    check(tmp_path / name, UPRIGHT[orientation](stored))


def test_exif_orientation_of_jpeg_and_of_16_bits(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = np.zeros((16, 32, 3), np.uint8)
    stored[:8, :8] = 255  # the stored top left is seen at the top right
    Image.fromarray(stored).save(tmp_path / "a.jpg", exif=exif, quality=100)
    seen = decode_image(tmp_path / "a.jpg")
    assert seen.shape == (32, 16, 3)
    assert seen[:8, 8:].min() > 250
    assert seen[8:].max() < 5
    grey = noise(5, 9, dtype=np.uint16)
    Image.fromarray(grey).save(tmp_path / "b.png", exif=exif)
    check(tmp_path / "b.png", np.repeat(np.rot90(nearest_8_bit(grey), -1)[..., None], 3, axis=2))


@pytest.mark.parametrize("orientation", [0, 9, 77])
def test_orientation_that_does_not_exist_is_ignored(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = noise(6, 11, 3)
    Image.fromarray(stored).save(tmp_path / "a.png", exif=exif)
    check(tmp_path / "a.png", stored)


def test_damaged_exif_does_not_cost_the_image(tmp_path: Path) -> None:
    stored = noise(6, 11, 3)
    Image.fromarray(stored).save(tmp_path / "a.png", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01\x12")
    check(tmp_path / "a.png", stored)


def test_all_levels_of_16_bit_grey(tmp_path: Path) -> None:
    levels = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    Image.fromarray(levels).save(tmp_path / "a.png")
    check(tmp_path / "a.png", np.repeat(nearest_8_bit(levels)[..., None], 3, axis=2))
    assert decode_image(tmp_path / "a.png")[0].max() == 1  # Pillow's convert("RGB") makes nearly all of it white


@pytest.mark.parametrize(("channels", "colour_type"), [(3, 2), (4, 6)])
def test_16_bit_colour_png(tmp_path: Path, channels: int, colour_type: int) -> None:
    values = noise(64, 37, channels, dtype=np.uint16)
    (tmp_path / "a.png").write_bytes(png_16(values, colour_type))
    check(tmp_path / "a.png", nearest_8_bit(values[..., :3]))


def test_16_bit_grey_alpha_png_is_within_a_level(tmp_path: Path) -> None:
    values = noise(64, 37, 2, dtype=np.uint16)
    (tmp_path / "a.png").write_bytes(png_16(values, 4))
    check(tmp_path / "a.png", np.repeat(nearest_8_bit(values[..., :1]), 3, axis=2), tolerance=1)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("shape", [(31, 17), (31, 17, 3), (31, 17, 4)])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_16_bit_tiff(tmp_path: Path, order: Literal["<", ">"], shape: tuple[int, ...], compression: str | None) -> None:
    values = noise(*shape, dtype=np.uint16)
    photometric = "minisblack" if len(shape) == 2 else "rgb"
    options: dict[str, Any] = {"extrasamples": ["unassalpha"]} if shape[-1] == 4 else {}
    tifffile.imwrite(
        tmp_path / "a.tif",
        values,
        byteorder=order,
        photometric=photometric,
        compression=compression,
        rowsperstrip=8,
        **options,
    )
    expected = nearest_8_bit(values)
    check(tmp_path / "a.tif", np.stack([expected] * 3, axis=2) if len(shape) == 2 else expected[..., :3])


@pytest.mark.parametrize("maximum", [255, 65535, 4095])
@pytest.mark.parametrize("kind", ["P5", "P6"])
def test_netpbm_of_any_depth(tmp_path: Path, kind: str, maximum: int) -> None:
    shape = (9, 7) if kind == "P5" else (9, 7, 3)
    values = np.random.default_rng(0).integers(0, maximum + 1, shape)
    body = values.astype(np.uint8 if maximum < 256 else ">u2").tobytes()
    (tmp_path / "a.ppm").write_bytes(f"{kind} 7 9 {maximum}\n".encode() + body)
    expected = np.round(values / maximum * 255).astype(np.uint8)
    check(tmp_path / "a.ppm", np.stack([expected] * 3, axis=2) if kind == "P5" else expected, tolerance=1)


def test_the_smallest_image(tmp_path: Path) -> None:
    Image.fromarray(noise(1, 1, 3)).save(tmp_path / "a.png")
    check(tmp_path / "a.png", noise(1, 1, 3))


def test_phone_pictures_with_a_second_view_are_the_first_view(tmp_path: Path) -> None:
    first, second = Image.new("RGB", (24, 16), "red"), Image.new("RGB", (24, 16), "blue")
    first.save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=[second])
    assert probe_image(tmp_path / "a.jpg").width == 24
    np.testing.assert_allclose(decode_image(tmp_path / "a.jpg").mean(axis=(0, 1)), [254, 0, 0], atol=1)


def truncated(kind: str, path: Path) -> None:
    Image.fromarray(noise(64, 64, 3)).save(path, kind)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])


def animated(kind: str, path: Path) -> None:
    frames = [Image.new("RGB", (9, 9), colour) for colour in ("red", "green", "blue")]
    frames[0].save(path, kind, save_all=True, append_images=frames[1:])


HEADER_REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    "empty": (lambda path: path.write_bytes(b""), "0 bytes"),
    "text": (lambda path: path.write_text("not an image at all"), "not an image"),
    "gif": (lambda path: Image.new("P", (9, 9)).save(path, "GIF"), "not an image"),
    "missing": (lambda _: None, "missing"),
    "folder": (lambda path: path.mkdir(), r"no regular file \(directory\)"),
    "pipe": (os.mkfifo, r"no regular file \(pipe\)"),  # to open it would wait for ever
    "device": (lambda path: path.symlink_to("/dev/zero"), r"no regular file \(device\)"),
    "link": (lambda path: path.symlink_to("nowhere"), r"missing \(a link that leads nowhere\)"),
    "animated png": (lambda path: animated("PNG", path), "animated"),
    "animated webp": (lambda path: animated("WEBP", path), "animated"),
    "pages": (lambda path: animated("TIFF", path), r"several pages in one file \(3 of them\)"),
    "bomb": (lambda path: path.write_bytes(png(60000, 60000, 8, 2, b"")), "bomb"),
}
PIXELS_REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    **{f"truncated {kind}": (partial(truncated, kind), "truncated")
       for kind in ("PNG", "JPEG", "BMP", "TIFF", "PPM", "WEBP")},
    "float": (lambda path: Image.new("F", (9, 9), 0.5).save(path, "TIFF"), "floating-point"),
    "32 bits": (lambda path: Image.new("I", (9, 9), 70000).save(path, "TIFF"), "32-bit"),
    "negative": (lambda path: Image.new("I", (9, 9), -1).save(path, "TIFF"), "32-bit"),
}  # fmt: skip


@pytest.mark.parametrize("case", [*HEADER_REFUSED, *PIXELS_REFUSED])
def test_what_is_refused_is_named(tmp_path: Path, case: str, capfd: pytest.CaptureFixture[str]) -> None:
    make, reason = (HEADER_REFUSED | PIXELS_REFUSED)[case]
    path = tmp_path / "picture.png"
    make(path)
    with pytest.raises(BadImage, match=reason) as caught:
        decode_image(path)
    assert caught.value.path == path
    assert str(path) in str(caught.value)
    assert str(path) not in caught.value.reason + caught.value.detail
    if case in HEADER_REFUSED:
        with pytest.raises(BadImage, match=reason):
            probe_image(path)
    assert capfd.readouterr() == ("", "")  # the C libraries print nothing either


def test_no_permission(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(noise(4, 4, 3)).save(path)
    path.chmod(0)
    user = os.geteuid()
    try:
        if user == 0:
            os.seteuid(65534)  # root may read everything
        with pytest.raises(BadImage, match="no permission"):
            decode_image(path)
    finally:
        os.seteuid(user)


@pytest.mark.parametrize(
    ("raised", "reason"),
    [
        (OSError(errno.EIO, "Input/output error"), r"the system cannot read it \(Input/output error\)"),
        (OSError(errno.ESTALE, "Stale file handle"), r"the system cannot read it \(Stale file handle\)"),
        (MemoryError(), "not enough memory to decode it"),
    ],
)
def test_faults_of_the_machine_are_not_called_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, raised: Exception, reason: str
) -> None:
    Image.fromarray(noise(4, 4, 3)).save(tmp_path / "a.png")

    def failing(*_: object, **__: object) -> None:
        raise raised

    monkeypatch.setattr(Image, "open", failing)
    with pytest.raises(BadImage, match=f"{reason}$"):
        decode_image(tmp_path / "a.png")


def test_cmyk_jpeg(tmp_path: Path) -> None:
    y, x = np.mgrid[0:32, 0:48]
    ink = np.stack([4 * x, 6 * y, 2 * (x + y), x], axis=2).astype(np.uint8)  # smooth: JPEG keeps it
    Image.fromarray(ink, "CMYK").save(tmp_path / "a.jpg", quality=100, subsampling=0)
    share = ink.astype(np.float64) / 255
    check(tmp_path / "a.jpg", np.round(255 * (1 - share[..., :3]) * (1 - share[..., 3:])), tolerance=4)


def test_limit_on_pixels(tmp_path: Path) -> None:
    Image.fromarray(noise(10, 12, 3)).save(tmp_path / "a.png")
    assert decode_image(tmp_path / "a.png", max_pixels=120).shape == (10, 12, 3)
    for read in (probe_image, decode_image):
        with pytest.raises(BadImage, match=r"more pixels than allowed \(12x10, dataset.max_pixels=119\)"):
            read(tmp_path / "a.png", max_pixels=119)


def test_a_large_image_is_no_warning(tmp_path: Path) -> None:
    """Pillow warns from 89 million pixels on; warnings are errors here."""
    (tmp_path / "a.png").write_bytes(png(10000, 10000, 8, 2, b""))
    info = probe_image(tmp_path / "a.png")
    assert (info.height, info.width) == (10000, 10000)


def test_too_many_open_files_is_not_the_images_fault(tmp_path: Path) -> None:
    Image.fromarray(noise(4, 4, 3)).save(tmp_path / "a.png")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
        with pytest.raises(OSError, match="Too many open files"):
            decode_image(tmp_path / "a.png")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_threads_leave_the_warning_filters_as_they_were(tmp_path: Path) -> None:
    Image.fromarray(noise(40, 40, 3)).save(tmp_path / "a.png")
    before = list(warnings.filters)
    with ThreadPoolExecutor(16) as pool:
        shapes = set(pool.map(lambda _: decode_image(tmp_path / "a.png").shape, range(400)))
    assert shapes == {(40, 40, 3)}
    assert warnings.filters == before
    with pytest.warns(UserWarning, match="still heard"):
        warnings.warn("still heard", UserWarning, stacklevel=1)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "TIFF", "PPM"])
def test_damaged_files_give_pixels_or_a_bad_image_and_nothing_else(tmp_path: Path, kind: str) -> None:
    path, rng = tmp_path / "a", random.Random(kind)
    Image.fromarray(noise(24, 24, 3)).save(path, kind)
    good, refused = path.read_bytes(), 0
    for _ in range(150):
        damaged = bytearray(good)
        for _ in range(rng.randint(1, 4)):  # most often in the header, where the structure is
            damaged[rng.randrange(min(len(good), rng.choice([64, 4096])))] = rng.randrange(256)
        path.write_bytes(damaged[: rng.choice([len(good), rng.randrange(len(good))])])
        try:
            pixels = decode_image(path, max_pixels=10**6)
        except BadImage:
            refused += 1
        else:
            info = probe_image(path, max_pixels=10**6)
            assert pixels.shape == (info.height, info.width, 3)
            assert pixels.dtype == np.uint8
    assert 30 < refused <= 150
