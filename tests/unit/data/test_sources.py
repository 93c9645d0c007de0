from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from rdtrain.data.sources import SOURCES, find_images
from rdtrain.data.splits import Split
from rdtrain.errors import UserError

Write = Callable[..., Path]


def find(name: str, root: Path | None, valid_percent: float = 10, infer_percent: float = 10, seed: int = 0) -> Split:
    return find_images(name, root, split_seed=seed, valid_percent=valid_percent, infer_percent=infer_percent)


def names(paths: tuple[Path, ...], root: Path) -> list[str]:
    return [path.relative_to(root).as_posix() for path in paths]


def test_photos_need_no_root() -> None:
    assert len(find("photos", None).train) == 7
    assert find("photos", Path("/does/not/exist")) == find("photos", None)


@pytest.mark.parametrize(("valid", "infer"), [("valid", "infer"), ("val", "test"), ("Validation", "Test")])
def test_image_folder_that_comes_divided(tmp_path: Path, write: Write, valid: str, infer: str) -> None:
    for name in ("train/a.png", "train/deep/er/b.png", f"{valid}/c.png", f"{infer}/d.png", "elsewhere/e.png"):
        write(name)
    split = find("image_folder", tmp_path)
    assert names(split.train, tmp_path) == ["train/a.png", "train/deep/er/b.png"]
    assert names(split.valid, tmp_path) == [f"{valid}/c.png"]
    assert names(split.infer, tmp_path) == [f"{infer}/d.png"]


def test_image_folder_without_infer_reports_on_valid(tmp_path: Path, write: Write) -> None:
    write("train/a.png")
    write("valid/b.png")
    split = find("image_folder", tmp_path)
    assert names(split.infer, tmp_path) == names(split.valid, tmp_path) == ["valid/b.png"]


@pytest.mark.parametrize(("infer_percent", "sizes"), [(10, (24, 3, 3)), (0, (27, 3, 3))])
def test_one_folder_is_split(tmp_path: Path, write: Write, infer_percent: float, sizes: tuple[int, ...]) -> None:
    for i in range(30):
        write(f"{i % 3}/{i}.png")
    split = find("image_folder", tmp_path, infer_percent=infer_percent)
    assert (len(split.train), len(split.valid), len(split.infer)) == sizes
    assert not set(split.train) & {*split.valid, *split.infer}
    assert (split.infer == split.valid) == (infer_percent == 0)


def test_train_is_split_for_what_is_missing_only(tmp_path: Path, write: Write) -> None:
    for i in range(10):
        write(f"train/{i}.png")
    write("test/x.png")
    split = find("image_folder", tmp_path)
    assert (len(split.train), len(split.valid)) == (9, 1)
    assert names(split.infer, tmp_path) == ["test/x.png"]


def test_the_split_moves_with_the_folder(tmp_path: Path, write: Write) -> None:
    for i in range(20):
        write(f"one/{i}.png")
    before = find("image_folder", tmp_path / "one")
    (tmp_path / "one").rename(tmp_path / "two")
    after = find("image_folder", tmp_path / "two")
    assert names(before.valid, tmp_path / "one") == names(after.valid, tmp_path / "two")


@pytest.mark.parametrize(("prefix", "frames", "middle"), [("tri", 3, "im2.png"), ("sep", 7, "im4.png")])
def test_vimeo90k(tmp_path: Path, write: Write, prefix: str, frames: int, middle: str) -> None:
    sequences = ["00001/0001", "00001/0002", "00002/0001"]
    for sequence in sequences:
        for i in range(1, frames + 1):
            write(f"sequences/{sequence}/im{i}.png")
    (tmp_path / f"{prefix}_trainlist.txt").write_text("00001/0001\r\n00002/0001\r\n")
    (tmp_path / f"{prefix}_testlist.txt").write_text("00001/0002\n\n")
    split = find("vimeo90k", tmp_path)
    assert names(split.train, tmp_path) == [f"sequences/00001/0001/{middle}", f"sequences/00002/0001/{middle}"]
    assert names(split.valid, tmp_path) == names(split.infer, tmp_path) == [f"sequences/00001/0002/{middle}"]


@pytest.mark.parametrize("sets", [[""], ["mobile/", "professional/"]])
def test_clic(tmp_path: Path, write: Write, sets: list[str]) -> None:
    for part in ("train", "valid", "test"):
        for folder in sets:
            write(f"{folder}{part}/a.png")
    split = find("clic", tmp_path)
    assert names(split.train, tmp_path) == [f"{folder}train/a.png" for folder in sets]
    assert names(split.valid, tmp_path) == [f"{folder}valid/a.png" for folder in sets]
    assert names(split.infer, tmp_path) == [f"{folder}test/a.png" for folder in sets]


def test_div2k(tmp_path: Path, write: Write) -> None:
    for name in ("DIV2K_train_HR/0001.png", "DIV2K_valid_HR/0801.png", "DIV2K_train_LR_bicubic/X2/0001x2.png"):
        write(name)
    split = find("div2k", tmp_path)
    assert names(split.train, tmp_path) == ["DIV2K_train_HR/0001.png"]
    assert names(split.valid, tmp_path) == names(split.infer, tmp_path) == ["DIV2K_valid_HR/0801.png"]


@pytest.mark.parametrize("folder", ["Flickr2K/Flickr2K_HR", "Flickr2K_HR", "Flickr2K"])
def test_flickr2k(tmp_path: Path, write: Write, folder: str) -> None:
    for i in range(20):
        write(f"{folder}/{i:06d}.png")
    if folder != "Flickr2K":
        write("Flickr2K/Flickr2K_LR_bicubic/X2/000001x2.png")
    split = find("flickr2k", tmp_path)
    found = names(split.train + split.valid + split.infer, tmp_path)
    assert sorted(found) == [f"{folder}/{i:06d}.png" for i in range(20)]


def test_kodak_is_for_infer_only(tmp_path: Path, write: Write) -> None:
    for i in range(1, 25):
        write(f"kodim{i:02d}.png")
    split = find("kodak", tmp_path)
    assert (split.train, split.valid) == ((), ())
    assert names(split.infer, tmp_path) == [f"kodim{i:02d}.png" for i in range(1, 25)]


def test_real_kodak_and_bsds500(test_data: Path) -> None:
    assert len(find("kodak", test_data / "kodak").infer) == 24
    split = find("image_folder", test_data / "bsds500")
    assert (len(split.train), len(split.valid), len(split.infer)) == (200, 100, 100)


@pytest.mark.parametrize("name", [name for name in SOURCES if name != "photos"])
@pytest.mark.parametrize("root", [None, "none", "empty", "file.png"])
def test_wrong_roots_say_what_is_expected_and_what_to_type(
    tmp_path: Path, write: Write, name: str, root: str | None
) -> None:
    (tmp_path / "empty").mkdir()
    write("file.png")
    with pytest.raises(UserError) as caught:
        find(name, None if root is None else tmp_path / root)
    (sentence,) = caught.value.problems
    assert sentence.startswith(f"dataset={name}: dataset.root")
    assert sentence.endswith("; type dataset.root=FOLDER")
    assert f"expected: {SOURCES[name].layout}" in sentence
    assert (str(tmp_path) in sentence) == (root is not None)


WRONG_LAYOUTS = {
    "valid without train": ("image_folder", ["valid/a.png"], "has valid/ but no train/"),
    "empty train": ("image_folder", ["train/a.txt", "valid/a.png"], "holds no image files in .*train"),
    "empty infer": ("image_folder", ["train/a.png", "valid/a.png", "test/a.txt"], "holds no image files in .*test"),
    "too few": ("image_folder", ["a.png"], "leave none to train on"),
    "no test list": ("vimeo90k", ["tri_trainlist.txt", "sequences/00001/0001/im2.png"], "has no tri_testlist.txt"),
    "no frames": ("vimeo90k", ["tri_trainlist.txt", "tri_testlist.txt"], "has no image that tri_trainlist.txt names"),
    "clic without valid": ("clic", ["train/a.png"], "has no images in valid/"),
    "div2k without valid": ("div2k", ["DIV2K_train_HR/a.png"], "has no folder DIV2K_valid_HR"),
    "part of kodak": ("kodak", ["kodim01.png", "kodim02.png"], "lacks 22 of the 24 images, kodim03.png the first"),
}


@pytest.mark.parametrize("case", WRONG_LAYOUTS)
def test_wrong_layouts(tmp_path: Path, write: Write, case: str) -> None:
    name, files, complaint = WRONG_LAYOUTS[case]
    for file in files:
        if file.endswith(".png"):
            write(file)
        else:
            (tmp_path / file).parent.mkdir(exist_ok=True)
            (tmp_path / file).write_text("00001/0001\n")
    with pytest.raises(UserError, match=complaint):
        find(name, tmp_path)


def test_unknown_dataset_names_the_nearest() -> None:
    with pytest.raises(UserError, match=r"no dataset 'vimeo'.*photos, image_folder.*type dataset=vimeo90k"):
        find("vimeo", None)


def test_the_error_names_the_keys_that_were_typed(tmp_path: Path) -> None:
    keys = ("dataset.infer_name", "dataset.infer_root")
    with pytest.raises(UserError, match=r"^dataset.infer_name=kodak: dataset.infer_root=.*type dataset.infer_root="):
        find_images("kodak", tmp_path, keys, split_seed=0, valid_percent=1, infer_percent=1)


def test_a_home_folder_may_be_abbreviated(tmp_path: Path, write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    write("pictures/train/a.png")
    write("pictures/valid/b.png")
    assert find("image_folder", Path("~/pictures")).train == (tmp_path / "pictures/train/a.png",)
