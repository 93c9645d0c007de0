from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from rdtrain.data.datasets import (
    FullImages,
    TrainCrops,
    ValidCrops,
    check_patch_size,
    choose_crop,
    collate,
    reflect_to,
)
from rdtrain.data.decode import ImageInfo, probe_image
from rdtrain.data.sampler import one_pass
from rdtrain.data.store import ImageStore
from rdtrain.errors import UserError

Infos = Callable[..., list[ImageInfo]]
Picture = Callable[[int, int, int], np.ndarray]


def reflected(image: np.ndarray, size: int) -> np.ndarray:
    """The oracle for reflection: a triangular wave of indices, the image in the middle."""

    def wave(n: int) -> np.ndarray:
        length = max(n, size)
        k = np.arange(length) - (length - n) // 2
        period = max(2 * n - 2, 1)
        return np.minimum(k % period, period - k % period) if n > 1 else np.zeros(length, int)

    return image[wave(image.shape[0])][:, wave(image.shape[1])]


@pytest.mark.parametrize("shape", [(3, 5), (1, 1), (1, 9), (2, 40), (5, 5), (40, 3), (7, 200)])
def test_reflection(picture: Picture, shape: tuple[int, int]) -> None:
    image = picture(*shape, 0)
    np.testing.assert_array_equal(reflect_to(image, 40), reflected(image, 40))


def test_reflection_leaves_large_images_alone(picture: Picture) -> None:
    image = picture(40, 41, 0)
    assert reflect_to(image, 40) is image


def test_choose_crop_reads_a_mixed_radix_number() -> None:
    height, width, size = 20, 31, 8
    top, left = 11, 23
    draw = 1 + 2 * (top + 13 * (left + 24 * 12345))
    assert choose_crop(height, width, size, draw) == (top, left, True)
    assert choose_crop(height, width, size, draw - 1) == (top, left, False)
    assert choose_crop(8, 8, 8, 2**63 - 1) == (0, 0, True)


def test_crops_are_uniform_over_all_places() -> None:
    draws = one_pass(0, 0, 24000)[1].tolist()
    places = Counter(choose_crop(11, 10, 8, draw) for draw in draws)
    assert len(places) == 4 * 3 * 2
    assert max(abs(count - 1000) for count in places.values()) < 5 * np.sqrt(1000)


@pytest.mark.parametrize("flips", [True, False])
@pytest.mark.parametrize("cache_bytes", [0, 10**6])
def test_train_crops(infos: Infos, picture: Picture, flips: bool, cache_bytes: int) -> None:
    crops = TrainCrops(ImageStore(infos(3, 20, 31), cache_bytes), 8, flips=flips)
    assert len(crops) == 3
    for draw in one_pass(1, 0, 40)[1].tolist():
        item = crops[2, draw]
        top, left, flip = choose_crop(20, 31, 8, draw)
        expected = picture(20, 31, 2)[top : top + 8, left : left + 8].transpose(2, 0, 1)
        assert item["index"] == 2
        assert item["x"].dtype == torch.uint8
        np.testing.assert_array_equal(item["x"], expected[..., ::-1] if flip and flips else expected)


def test_small_images_are_padded(write: Callable[..., Path], picture: Picture) -> None:
    store = ImageStore([probe_image(write("a.png", 5, 30, seed=4))], 10**6)
    padded = reflected(picture(5, 30, 4), 16).transpose(2, 0, 1)
    draw = 2 * (0 + 1 * 9)  # no flip; one row to choose from, column 9 of 0 to 14
    train = TrainCrops(store, 16, small_images="pad")[0, draw]["x"]
    np.testing.assert_array_equal(train, padded[..., 9:25])
    valid = ValidCrops(store, 16, small_images="pad")[0]["x"]
    np.testing.assert_array_equal(valid, padded[..., 7:23])


@pytest.mark.parametrize("kind", [TrainCrops, ValidCrops])
def test_small_images_are_refused(infos: Infos, kind: type) -> None:
    store = ImageStore(infos(2, 8, 9), 0)
    assert len(kind(store, 8)) == 2
    with pytest.raises(UserError, match=r"2 of 2 images are smaller than dataset\.patch_size=9"):
        kind(store, 9)


def test_check_patch_size_names_three_and_what_to_type() -> None:
    images = [ImageInfo(Path(f"/data/{i}.png"), 100 + i, 300, 1) for i in range(6)]
    assert check_patch_size(images, 100) == []
    assert check_patch_size(images, 102) == [
        "2 of 6 images are smaller than dataset.patch_size=102: /data/0.png (300x100), /data/1.png (300x101); "
        "type dataset.patch_size=64 or dataset.small_images=pad, or remove them"
    ]
    (sentence,) = check_patch_size(images, 256)
    assert "6 of 6" in sentence
    assert "/data/2.png (300x102), ...;" in sentence
    assert "/data/3.png" not in sentence
    assert "; type dataset.small_images=pad, " in check_patch_size([ImageInfo(Path("a"), 40, 50, 1)], 64)[0]


@pytest.mark.parametrize(("height", "width", "top", "left"), [(8, 8, 0, 0), (21, 30, 6, 11), (9, 8, 0, 0)])
def test_valid_crops_are_centred(
    write: Callable[..., Path], picture: Picture, height: int, width: int, top: int, left: int
) -> None:
    store = ImageStore([probe_image(write("a.png", height, width, seed=1))], 0)
    expected = picture(height, width, 1)[top : top + 8, left : left + 8].transpose(2, 0, 1)
    np.testing.assert_array_equal(ValidCrops(store, 8)[0]["x"], expected)


def test_more_valid_crops_cover_the_image_and_the_first_is_the_middle(infos: Infos) -> None:
    store = ImageStore(infos(2, 64, 96), 10**6)
    one, many = ValidCrops(store, 16), ValidCrops(store, 16, crops=79)
    assert (len(one), len(many)) == (2, 79)
    assert [many[number]["index"] for number in (0, 1, 2, 78)] == [0, 1, 0, 0]
    with pytest.raises(IndexError):
        many[79]
    for image in (0, 1):
        np.testing.assert_array_equal(many[image]["x"], one[image]["x"])
    seen = np.zeros((64, 96), dtype=bool)
    whole = store[0].transpose(2, 0, 1)
    for number in range(0, 79, 2):
        crop = many[number]["x"].numpy()
        at = [
            (top, left)
            for top in range(49)
            for left in range(81)
            if whole[0, top, left] == crop[0, 0, 0] and np.array_equal(whole[:, top : top + 16, left : left + 16], crop)
        ]
        assert len(at) == 1
        seen[at[0][0] : at[0][0] + 16, at[0][1] : at[0][1] + 16] = True
    assert seen.mean() > 0.75


def test_full_images(write: Callable[..., Path], picture: Picture) -> None:
    sizes = [(5, 9), (12, 4)]
    store = ImageStore([probe_image(write(f"{i}.png", *size, seed=i)) for i, size in enumerate(sizes)], 10**6)
    full = FullImages(store)
    for i, size in enumerate(sizes):
        assert full[i]["index"] == i
        np.testing.assert_array_equal(full[i]["x"], picture(*size, i).transpose(2, 0, 1))
    assert len(full) == 2


def test_the_index_is_that_of_the_image_that_is_seen(infos: Infos) -> None:
    images = infos(3)
    store = ImageStore(images, 0, on_bad_image="skip")
    images[1].path.unlink()
    assert TrainCrops(store, 8)[1, 0]["index"] == 2
    assert ValidCrops(store, 8)[1]["index"] == 2
    assert FullImages(store)[1]["index"] == 2


def test_collate(infos: Infos, picture: Picture) -> None:
    store = ImageStore(infos(3, 6, 10), 10**6)
    batch = collate([FullImages(store)[i] for i in (2, 0, 1)])
    assert batch["x"].shape == (3, 3, 6, 10)
    assert batch["x"].dtype == torch.uint8
    assert batch["x"].is_contiguous(memory_format=torch.channels_last)
    assert batch["index"].dtype == torch.int64
    assert batch["index"].tolist() == [2, 0, 1]
    np.testing.assert_array_equal(batch["x"], np.stack([picture(6, 10, i).transpose(2, 0, 1) for i in (2, 0, 1)]))


def test_a_batch_may_be_changed_without_harm_to_the_store(infos: Infos, picture: Picture) -> None:
    store = ImageStore(infos(1), 10**6)
    collate([FullImages(store)[0]])["x"].zero_()
    np.testing.assert_array_equal(store[0], picture(8, 8, 0))
