"""Items for the loaders: crops to train and validate on, whole images to report on.

An item is `{"x": uint8 (3, H, W), "index": int}`; a batch is `{"x": uint8 (B, 3, H, W), "index": int64 (B,)}`, where
`index` says which image of the store is seen.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch.utils.data import Dataset, default_collate

from rdtrain.data.decode import Box, ImageInfo
from rdtrain.data.store import ImageStore
from rdtrain.errors import UserError

SmallImages = Literal["refuse", "pad"]
"""What to do with an image smaller than the patch: refuse it before the run, or continue it by reflection."""

_NAMED = 3  # files that a problem's sentence names
_STEP = 64  # every model takes patches whose side is a multiple of it


def check_patch_size(images: Sequence[ImageInfo], patch_size: int) -> list[str]:
    """Find images from which no patch can be cut.

    Args:
        images: the candidates.
        patch_size: side of the square patch in pixels.

    Returns:
        No sentence, or one that counts the images, names up to three and says what to type.
    """
    small = [image for image in images if min(image.height, image.width) < patch_size]
    if not small:
        return []
    names = ", ".join(f"{image.path} ({image.width}x{image.height})" for image in small[:_NAMED])
    side = min(min(image.height, image.width) for image in small)
    smaller_patch = f"dataset.patch_size={side // _STEP * _STEP} or " if side >= _STEP else ""
    return [
        f"{len(small)} of {len(images)} images are smaller than dataset.patch_size={patch_size}: {names}"
        f"{', ...' if len(small) > _NAMED else ''}; type {smaller_patch}dataset.small_images=pad, or remove them"
    ]


class TrainCrops(Dataset):
    """Random square crops; the key of an item is what `CropSampler` yields.

    Args:
        store: the images.
        patch_size: side of the crops in pixels.
        flips: mirror every second crop, left to right.
        small_images: what to do with images smaller than a crop.

    Raises:
        UserError: there are such images and they are to be refused.
    """

    def __init__(
        self, store: ImageStore, patch_size: int, *, flips: bool = True, small_images: SmallImages = "refuse"
    ) -> None:
        _refuse_small(store, patch_size, small_images)
        self.store = store
        self.patch_size = patch_size
        self.flips = flips

    def __len__(self) -> int:
        return len(self.store)

    def __getitem__(self, sample: tuple[int, int]) -> dict[str, Any]:
        (index, draw), size = sample, self.patch_size
        index, crop = _fetch_square(
            self.store, index, size, lambda height, width: choose_crop(height, width, size, draw)[:2]
        )
        *_, flip = choose_crop(size, size, size, draw)  # the same in images of any size
        return _item(index, crop, flip and self.flips)


# The R2 sequence: fractions of these numbers' multiples cover the unit square evenly (M. Roberts, "The Unreasonable
# Effectiveness of Quasirandom Sequences", 2018).
_R2 = (0.7548776662466927, 0.5698402909980532)


class ValidCrops(Dataset):
    """The same squares of each image every time: the middle one, then others spread evenly.

    Args:
        store: the images.
        patch_size: side of the crops in pixels.
        crops: squares in all, taken from the images in turn; None for one of each.
        small_images: what to do with images smaller than a crop.

    Raises:
        UserError: there are such images and they are to be refused.
    """

    def __init__(
        self, store: ImageStore, patch_size: int, *, crops: int | None = None, small_images: SmallImages = "refuse"
    ) -> None:
        _refuse_small(store, patch_size, small_images)
        self.store = store
        self.patch_size = patch_size
        self.crops = len(store) if crops is None else crops

    def __len__(self) -> int:
        return self.crops

    def __getitem__(self, number: int) -> dict[str, Any]:
        if not 0 <= number < self.crops:
            raise IndexError(number)
        turn, index = divmod(number, len(self.store))

        def place(*sides: int) -> tuple[int, int]:
            top, left = (
                int((side - self.patch_size) * ((0.5 + turn * step) % 1)) for side, step in zip(sides, _R2, strict=True)
            )
            return top, left

        return _item(*_fetch_square(self.store, index, self.patch_size, place))


class FullImages(Dataset):
    """Whole images, each of its own size.

    Args:
        store: the images.
    """

    def __init__(self, store: ImageStore) -> None:
        self.store = store

    def __len__(self) -> int:
        return len(self.store)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return _item(*self.store.fetch(index))


def choose_crop(height: int, width: int, patch_size: int, draw: int) -> tuple[int, int, bool]:
    """Read a crop's place out of a random number, digit by digit in a mixed radix.

    Every place is as likely as any other to within one part in 10^9, and the place does not depend on whether flips
    are in use.

    Args:
        height: rows of the image, at least `patch_size`.
        width: columns of the image, at least `patch_size`.
        patch_size: side of the crop.
        draw: uniform, 0 to 2^63 - 1.

    Returns:
        Top row, left column, and whether to flip.
    """
    draw, flip = divmod(draw, 2)
    draw, top = divmod(draw, height - patch_size + 1)
    _, left = divmod(draw, width - patch_size + 1)
    return top, left, bool(flip)


def reflect_to(image: np.ndarray, size: int) -> np.ndarray:
    """Continue an image by reflection about its border pixels until it is large enough.

    Args:
        image: (H, W, 3).
        size: least height and width. A much smaller image is reflected many times; a single row is repeated.

    Returns:
        The image in the middle of (max(H, size), max(W, size), 3); itself if it is large enough.
    """
    missing = [max(0, size - side) for side in image.shape[:2]]
    if not any(missing):
        return image
    return np.pad(image, [*((short // 2, short - short // 2) for short in missing), (0, 0)], mode="reflect")


def collate(items: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """Stack items to a batch.

    Args:
        items: of equal size.

    Returns:
        `x` of shape (B, 3, H, W) in channels-last memory, because pixels are copied as they lie in the image: at
        256x256 that is 20 times as fast as taking the channels apart, which the conversion to float can do for free
        (`x.to(torch.float32, memory_format=torch.contiguous_format)`). `index` of shape (B,).
    """
    batch = default_collate([{**item, "x": item["x"].permute(1, 2, 0)} for item in items])
    return {**batch, "x": batch["x"].permute(0, 3, 1, 2)}


def _refuse_small(store: ImageStore, patch_size: int, small_images: SmallImages) -> None:
    problems = check_patch_size(store.images, patch_size) if small_images == "refuse" else []
    if problems:
        raise UserError(problems)


def _fetch_square(
    store: ImageStore, index: int, size: int, place: Callable[[int, int], tuple[int, int]]
) -> tuple[int, np.ndarray]:
    # The square whose top left corner `place` chooses from height and width; small images are continued first.
    def choose(height: int, width: int) -> Box:
        if min(height, width) < size:
            return 0, 0, height, width
        top, left = place(height, width)
        return top, left, top + size, left + size

    index, image = store.fetch(index, choose)
    if image.shape[:2] != (size, size):
        image = reflect_to(image, size)
        top, left = place(*image.shape[:2])
        image = image[top : top + size, left : left + size]
    return index, image


def _item(index: int, pixels: np.ndarray, flip: bool = False) -> dict[str, Any]:
    """Return an item whose `x` is a view of (H, W, 3) pixels or, flipped, a copy."""
    x = torch.from_numpy(pixels)  # torch flips 20 times as fast as numpy copies a reversed view
    return {"x": (x.flip(1) if flip else x).permute(2, 0, 1), "index": index}
