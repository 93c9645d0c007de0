from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from rdtrain.data.scan import fingerprint, scan
from rdtrain.errors import UserError

Write = Callable[..., Path]


@pytest.fixture
def folder(tmp_path: Path, write: Write) -> Path:
    """Three good files and two bad ones."""
    for i in range(3):
        write(f"good{i}.png", 5 + i, 7, seed=i)
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "text.png").write_text("text")
    return tmp_path


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.png"))


def test_skip_keeps_the_order_and_names_the_bad(folder: Path) -> None:
    result = scan(files(folder), on_bad_image="skip")
    assert [(image.path.name, image.height, image.width) for image in result.images] == [
        ("good0.png", 5, 7),
        ("good1.png", 6, 7),
        ("good2.png", 7, 7),
    ]
    assert [bad.path.name for bad in result.bad] == ["empty.png", "text.png"]
    assert str(result.bad[0]) == f"{folder / 'empty.png'}: the file is empty (0 bytes)"


def test_error_lists_all_bad_files_at_once(folder: Path) -> None:
    with pytest.raises(UserError) as caught:
        scan(files(folder), on_bad_image="error")
    head, first, second = caught.value.problems
    assert head == "2 of 5 image files cannot be used; type dataset.on_bad_image=skip to leave them out:"
    assert first == f"  {folder / 'empty.png'}: the file is empty (0 bytes)"
    assert second.startswith(f"  {folder / 'text.png'}: not an image")


def test_a_long_list_is_cut(tmp_path: Path) -> None:
    paths = [tmp_path / f"{i}.png" for i in range(33)]
    with pytest.raises(UserError) as caught:
        scan(paths, on_bad_image="error")
    assert len(caught.value.problems) == 22
    assert caught.value.problems[-1] == "  and 13 more"


def test_nothing_good_is_an_error_even_when_skipping(folder: Path) -> None:
    with pytest.raises(UserError, match=r"2 of 2 image files cannot be used; type another dataset.root"):
        scan([folder / "empty.png", folder / "text.png"], on_bad_image="skip")


def test_limit_on_pixels(folder: Path) -> None:
    result = scan(files(folder), on_bad_image="skip", max_pixels=42)
    assert [image.path.name for image in result.images] == ["good0.png", "good1.png"]
    assert "7x7, dataset.max_pixels=42" in [bad.detail for bad in result.bad]


def test_no_files_and_no_output(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert scan([]).images == ()
    scan(files(folder), on_bad_image="skip")
    assert capfd.readouterr() == ("", "")


def test_many_files_in_threads_come_back_in_order(tmp_path: Path, write: Write) -> None:
    paths = [write(f"{i:03d}.png", 1 + i % 17, 3) for i in range(200)]
    result = scan(paths)
    assert [image.path for image in result.images] == paths
    assert [image.height for image in result.images] == [1 + i % 17 for i in range(200)]


def test_fingerprint_is_the_documented_hash(folder: Path) -> None:
    images = scan(files(folder), on_bad_image="skip").images
    sizes = [(folder / f"good{i}.png").stat().st_size for i in range(3)]
    rows = [[f"good{i}.png", sizes[i], 5 + i, 7] for i in range(3)]
    assert fingerprint(images) == hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def test_fingerprint_depends_on_the_images_and_not_on_the_place(folder: Path, tmp_path: Path, write: Write) -> None:
    images = scan(files(folder), on_bad_image="skip").images
    other = shutil.copytree(folder, tmp_path / "other")
    moved = scan(files(other), on_bad_image="skip").images
    assert fingerprint(moved) == fingerprint(images) == fingerprint(reversed(images))
    assert fingerprint(images[:2]) != fingerprint(images)
    write("good1.png", 6, 7, seed=5)  # other pixels of the same size compress to other bytes
    path = folder / "good1.png"
    path.write_bytes(path.read_bytes() + b"\0")
    assert fingerprint(scan(files(folder), on_bad_image="skip").images) != fingerprint(images)
