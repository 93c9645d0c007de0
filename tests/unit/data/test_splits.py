from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from rdtrain.data.splits import LayoutError, Shares, list_images, split_by_hash

NAMES = [f"{folder}/{i:03d}.png" for folder in ("a", "b") for i in range(100)]


def split_names(root: str, shares: Shares, names: list[str] = NAMES) -> dict[str, list[str]]:
    split = split_by_hash([Path(root, name) for name in names], Path(root), shares)
    return {
        part: [path.relative_to(root).as_posix() for path in getattr(split, part)]
        for part in ("train", "valid", "infer")
    }


def test_parts_are_disjoint_complete_and_of_the_asked_size() -> None:
    parts = split_names("/data", Shares(0, valid_percent=10, infer_percent=5))
    assert [len(parts[part]) for part in ("train", "valid", "infer")] == [170, 20, 10]
    assert sorted(parts["train"] + parts["valid"] + parts["infer"]) == NAMES


def test_the_root_does_not_matter_and_the_seed_does() -> None:
    shares = Shares(0, 10, 5)
    assert split_names("/data", shares) == split_names("/somewhere/else", shares)
    assert split_names("/data", shares)["valid"] != split_names("/data", Shares(1, 10, 5))["valid"]


def test_the_split_is_the_same_for_ever() -> None:
    names = [f"{i}.png" for i in range(10)]
    parts = split_names("/data", Shares(0, 20, 10), names)
    # sha256sum of "0/0.png", "0/1.png", ... by hand: 6, 2, 1, 7, 8, 0, 3, 5, 9, 4 in the order of the digests
    assert parts["infer"] == ["6.png"]
    assert parts["valid"] == ["1.png", "2.png"]
    assert parts["train"] == ["0.png", "3.png", "4.png", "5.png", "7.png", "8.png", "9.png"]


def test_a_new_file_moves_at_most_one_other_across_each_border() -> None:
    before = split_names("/data", Shares(0, 10, 5))
    after = split_names("/data", Shares(0, 10, 5), [*NAMES, "c/new.png"])
    for part in ("valid", "infer"):
        assert len(set(before[part]) ^ set(after[part])) <= 2


@pytest.mark.parametrize(("n", "valid", "infer", "sizes"), [(3, 1, 1, (1, 1, 1)), (2, 1, 0, (1, 1, 0))])
def test_each_part_has_at_least_one_file(n: int, valid: float, infer: float, sizes: tuple[int, ...]) -> None:
    parts = split_names("/data", Shares(0, valid, infer), NAMES[:n])
    assert tuple(len(parts[part]) for part in ("train", "valid", "infer")) == sizes


@pytest.mark.parametrize(("n", "valid", "infer"), [(1, 10, 0), (2, 10, 10), (100, 60, 40), (100, 100, 0)])
def test_nothing_left_to_train_on(n: int, valid: float, infer: float) -> None:
    with pytest.raises(LayoutError, match=f"holds {n} image.*dataset.valid_percent={valid}.*none to train on"):
        split_names("/data", Shares(0, valid, infer), NAMES[:n])


def test_list_images(tmp_path: Path, write: Callable[..., Path]) -> None:
    wanted = [write(name) for name in ("b.png", "a/z.PNG", "a/b/c.png")]
    for name in ("a/notes.txt", "a/._b.png", ".hidden/a.png", "x.png/inside.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("no image")
    assert list_images(tmp_path) == tuple(sorted(wanted))
    assert list_images(tmp_path / "none") == ()


def test_what_looks_like_an_image_but_is_no_file_is_listed_so_that_the_scan_names_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "nowhere.png").symlink_to("gone.png")
    assert list_images(tmp_path) == (tmp_path / "nowhere.png", tmp_path / "pipe.png")


def test_a_folder_that_cannot_be_read_is_not_an_empty_one(tmp_path: Path, write: Callable[..., Path]) -> None:
    write("a.png")
    locked = write("locked/b.png").parent
    locked.chmod(0)
    user, here = os.geteuid(), Path.cwd()
    try:
        os.chdir(tmp_path)  # whose parents only their owner may pass
        tmp_path.chmod(0o755)
        if user == 0:
            os.seteuid(65534)  # root may read everything
        with pytest.raises(LayoutError, match=r"cannot be read .*locked"):
            list_images(Path("."))
    finally:
        os.seteuid(user)
        os.chdir(here)
        locked.chmod(0o755)
