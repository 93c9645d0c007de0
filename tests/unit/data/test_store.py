from __future__ import annotations

import dataclasses
import mmap
import os
import pickle
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from rdtrain.data import store as store_module
from rdtrain.data.decode import BadImage, ImageInfo, decode_image, probe_image
from rdtrain.data.store import ImageStore
from rdtrain.errors import UserError

Infos = Callable[..., list[ImageInfo]]
Picture = Callable[[int, int, int], np.ndarray]
ONE = 8 * 8 * 3  # bytes of an 8x8 image


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each file was decoded."""
    counts: Counter[str] = Counter()

    def counting(path: Path, **options: int) -> np.ndarray:
        counts[path.name] += 1
        return decode_image(path, **options)

    monkeypatch.setattr(store_module, "decode_image", counting)
    return counts


def in_fork(work: Callable[[], object]) -> int:
    """Do some work in a forked process and return how it ended: exit status, or minus the signal."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
            os._exit(0)
        except BaseException:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_each_image_is_decoded_once(infos: Infos, picture: Picture, decoded: Counter[str]) -> None:
    store = ImageStore(infos(5), cache_bytes=5 * ONE)
    assert len(store) == 5
    assert store.keeps_all
    assert not decoded  # lazily
    for _ in range(3):
        for i in range(5):
            np.testing.assert_array_equal(store[i], picture(8, 8, i))
    assert set(decoded.values()) == {1}
    assert len(decoded) == 5


def test_the_bound_is_respected_and_the_rest_is_decoded_each_time(
    infos: Infos, picture: Picture, decoded: Counter[str]
) -> None:
    store = ImageStore(infos(5), cache_bytes=3 * ONE + ONE - 1)
    assert store.kept_bytes == 3 * ONE
    assert not store.keeps_all
    for _ in range(2):
        for i in range(5):
            np.testing.assert_array_equal(store[i], picture(8, 8, i))
    assert [decoded[f"{i:03d}.png"] for i in range(5)] == [1, 1, 1, 2, 2]


def test_an_image_too_large_for_what_is_left_makes_way_for_smaller_ones(write: Callable[..., Path]) -> None:
    sizes = [(8, 8), (80, 80), (8, 8), (4, 4)]
    images = [ImageInfo(write(f"{i}.png", *size, seed=i), *size, 1) for i, size in enumerate(sizes)]
    store = ImageStore(images, cache_bytes=2 * ONE + 48)
    assert store.kept_bytes == 2 * ONE + 48
    assert [store[i].shape[:2] for i in range(4)] == sizes


def test_nothing_kept_and_nothing_there(infos: Infos, picture: Picture) -> None:
    store = ImageStore(infos(2), cache_bytes=0)
    assert store.kept_bytes == 0
    np.testing.assert_array_equal(store[1], picture(8, 8, 1))
    assert len(ImageStore([], cache_bytes=0)) == 0


def test_forked_processes_fill_one_memory(infos: Infos, picture: Picture, decoded: Counter[str]) -> None:
    store = ImageStore(infos(6), cache_bytes=6 * ONE)
    assert in_fork(lambda: [store[i] for i in (0, 2, 4)]) == 0
    assert in_fork(lambda: [store[i] for i in (1, 3)]) == 0
    for i in range(6):
        np.testing.assert_array_equal(store[i], picture(8, 8, i))
    assert decoded == {"005.png": 1}  # this process had to decode only what no other had


def test_pickling_drops_the_pixels(infos: Infos, picture: Picture, decoded: Counter[str]) -> None:
    store = ImageStore(infos(30, 32, 32), cache_bytes=10**6)
    pixels = [store[i].copy() for i in range(30)]
    packed = pickle.dumps(store)
    assert len(packed) < store.kept_bytes / 4
    copy = pickle.loads(packed)
    for i in range(30):
        np.testing.assert_array_equal(copy[i], pixels[i])
    assert set(decoded.values()) == {2}


def test_a_file_gone_bad_raises(infos: Infos) -> None:
    images = infos(3)
    store = ImageStore(images, cache_bytes=10**6)
    images[1].path.unlink()
    for _ in range(2):
        with pytest.raises(BadImage) as caught:
            store[1]
        assert caught.value.path == images[1].path
    assert [bad.reason for bad in store.bad_images()] == ["the file is missing"]
    assert store[0].shape == (8, 8, 3)


def test_what_was_decoded_outlives_its_file(infos: Infos, picture: Picture) -> None:
    images = infos(1)
    store = ImageStore(images, cache_bytes=10**6)
    store[0]
    images[0].path.unlink()
    np.testing.assert_array_equal(store[0], picture(8, 8, 0))
    assert store.bad_images() == ()


@pytest.mark.parametrize("cache_bytes", [0, 10**6])
def test_the_next_good_image_stands_in(infos: Infos, picture: Picture, cache_bytes: int) -> None:
    images = infos(5)
    store = ImageStore(images, cache_bytes, on_bad_image="skip")
    for i in (1, 2, 4):
        images[i].path.write_bytes(b"damaged")
    seen = [store.fetch(i) for i in range(5)]
    assert [index for index, _ in seen] == [0, 3, 3, 3, 0]
    for index, pixels in seen:
        np.testing.assert_array_equal(pixels, picture(8, 8, index))
    assert [bad.path for bad in store.bad_images()] == [images[i].path for i in (1, 2, 4)]
    backwards = ImageStore(images, cache_bytes, on_bad_image="skip")
    assert [backwards.fetch(i)[0] for i in range(4, -1, -1)] == [0, 3, 3, 3, 0]


@pytest.mark.parametrize("cache_bytes", [0, 250, 10**6])
def test_a_part_is_chosen_by_the_size_of_the_image_that_is_returned(
    write: Callable[..., Path], picture: Picture, cache_bytes: int
) -> None:
    sizes = [(9, 7), (8, 8), (6, 12)]
    images = [probe_image(write(f"{i}.png", *size, seed=i)) for i, size in enumerate(sizes)]
    store = ImageStore(images, cache_bytes, on_bad_image="skip")
    images[1].path.write_bytes(b"damaged")
    for wanted, returned in ((0, 0), (1, 2), (2, 2), (0, 0)):  # the first time decoded, later kept where it fits
        height, width = sizes[returned]
        index, part = store.fetch(wanted, lambda *sides: (1, 2, sides[0] - 1, sides[1] - 3))
        assert index == returned
        np.testing.assert_array_equal(part, picture(height, width, returned)[1 : height - 1, 2 : width - 3])


def test_a_part_of_another_image_under_the_same_name_is_refused(infos: Infos, write: Callable[..., Path]) -> None:
    (image,) = infos(1)
    store = ImageStore([image], cache_bytes=0)
    write(image.path.name, 9, 8)
    with pytest.raises(BadImage, match="changed since the run started"):
        store.fetch(0, lambda height, width: (0, 0, 4, 4))


def test_the_parent_hears_what_proved_bad_in_a_fork(infos: Infos) -> None:
    images = infos(3)
    store = ImageStore(images, cache_bytes=0, on_bad_image="skip")
    kept = images[2].path.read_bytes()
    images[2].path.write_bytes(b"")
    assert in_fork(lambda: [store[i] for i in range(3)]) == 0
    assert [str(bad) for bad in store.bad_images()] == [f"{images[2].path}: the file is empty (0 bytes)"]
    images[2].path.write_bytes(kept)
    assert store.bad_images()[0].reason == "the file is empty"  # as it was told first
    assert store.fetch(2)[0] == 0  # and stays out: one run, one set of images


def test_a_fault_that_has_passed_is_told_as_such(infos: Infos) -> None:
    images = infos(2)
    store = ImageStore(images, cache_bytes=0, on_bad_image="skip")
    kept = images[1].path.read_bytes()
    images[1].path.write_bytes(b"")
    store.fetch(1)
    images[1].path.write_bytes(kept)
    assert "now it can" in str(store.bad_images()[0])


@pytest.mark.parametrize("cache_bytes", [0, 3 * ONE, 10**6])
def test_reading_ahead(infos: Infos, picture: Picture, decoded: Counter[str], cache_bytes: int) -> None:
    images = infos(6)
    for i in (1, 5):
        images[i].path.write_bytes(b"damaged")
    store = ImageStore(images, cache_bytes)
    assert [bad.path for bad in store.read(4)] == [images[1].path]
    assert set(decoded) == {f"{i:03d}.png" for i in range(4)}
    assert [bad.path for bad in store.read()] == [images[1].path, images[5].path]
    decoded.clear()
    for i in (0, 2, 3, 4):
        np.testing.assert_array_equal(store[i], picture(8, 8, i))
    kept = {0: 0, 3 * ONE: 2, 10**6: 4}[cache_bytes]  # the bad one takes its place too
    assert len(decoded) == 4 - kept


def test_no_good_image_left(infos: Infos) -> None:
    images = infos(3)
    store = ImageStore(images, cache_bytes=0, on_bad_image="skip")
    for image in images:
        image.path.unlink()
    for i in range(3):
        with pytest.raises(BadImage):
            store[i]
    assert len(store.bad_images()) == 3


def test_an_image_that_changed_its_size_is_bad(infos: Infos, write: Callable[..., Path]) -> None:
    images = infos(2)
    store = ImageStore(images, cache_bytes=10**6)
    write("001.png", 9, 8)
    with pytest.raises(BadImage, match=r"changed since the run started \(it was 8x8\)"):
        store[1]
    np.testing.assert_array_equal(store[0], decode_image(images[0].path))


def test_the_limit_on_pixels_is_passed_on(infos: Infos) -> None:
    with pytest.raises(BadImage, match=r"dataset\.max_pixels=63"):
        ImageStore(infos(1), 0, max_pixels=63)[0]


def test_last_words_of_a_process_that_dies(infos: Infos, monkeypatch: pytest.MonkeyPatch) -> None:
    images = infos(4)
    store = ImageStore(images, cache_bytes=10**6)

    def deadly(path: Path, **options: int) -> np.ndarray:
        if path.name == "002.png":
            os.kill(os.getpid(), 9)
        return decode_image(path, **options)

    monkeypatch.setattr(store_module, "decode_image", deadly)
    assert store.in_flight() == {}
    assert in_fork(lambda: [store[i] for i in range(4)]) == -9
    (pid,) = store.in_flight()
    assert store.in_flight() == {pid: images[2].path}
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_memory_that_cannot_be_reserved(infos: Infos) -> None:
    (image,) = infos(1)
    huge = dataclasses.replace(image, height=2**24, width=2**24)  # more than there are addresses
    with pytest.raises(UserError, match=r"cannot reserve \d+ MB for images .*lower dataset.cache_mb"):
        ImageStore([huge], cache_bytes=2**65)


def test_memory_is_taken_only_when_written(infos: Infos) -> None:
    """2 GB reserved for one large image must not be 2 GB used."""
    (image,) = infos(1)
    before = resident()
    ImageStore([dataclasses.replace(image, height=2**14, width=2**15)], cache_bytes=2**31)
    assert resident() - before < 2**24


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE
