"""The images of a super-resolution experiment: random crops to train on, whole images to judge by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from rdtrain.data.decode import BadImage, ImageInfo, decode_image, probe_image
from rdtrain.data.scan import fingerprint
from rdtrain.data.sources import find_images
from rdtrain.errors import UserError
from rdtrain.kernels.inputs import Photographs, Stream, make_loader
from rdtrain.super_resolution.model import SCALE
from rdtrain.super_resolution.schema import Data, Train

Found = Mapping[str, Sequence[ImageInfo]]
_VALID_PERCENT = 10.0


def find(data: Data) -> Found:
    """Find the images and read their headers.

    Args:
        data: `data.*`.

    Returns:
        Those of `train` and `valid`; of the embedded photographs also those for infer are in `valid`.

    Raises:
        UserError: there is no such data set, or a file is no image.
    """
    keys = ("data.name", "data.root")
    split = find_images(data.name, data.root, keys, split_seed=0, valid_percent=_VALID_PERCENT, infer_percent=0)
    valid = (*split.valid, *split.infer) if data.name == "photos" else split.valid
    try:
        return {"train": [probe_image(path) for path in split.train], "valid": [probe_image(path) for path in valid]}
    except BadImage as error:
        raise UserError(f"{error}; take it out of the folder") from error


def describe(found: Found) -> dict[str, Any]:
    """What environment.json says about images.

    Args:
        found: the images.

    Returns:
        Number and fingerprint by loader.
    """
    return {name: {"images": len(images), "fingerprint": fingerprint(images)} for name, images in found.items()}


def make_loaders(found: Found, train: Train, seed: int) -> dict[str, DataLoader]:
    """What a network is trained and judged on; all images are decoded into memory.

    Args:
        found: the images.
        train: `train.*`.
        seed: of the crops.

    Returns:
        Loader `train` of batches `{"x": (1, B, 3, n, n)}`, and `valid` of single images `{"x": (1, 3, H, W)}`.

    Raises:
        UserError: an image cannot be decoded.
    """
    shape = (train.batch_size, 3, train.patch_size, train.patch_size)
    try:
        crops = Photographs([info.path for info in found["train"]])
        valid = WholeImages(found["valid"])
    except BadImage as error:
        raise UserError(f"{error}; take it out of the folder") from error
    return {
        "train": make_loader(Stream(crops, shape, [seed], train.epoch_steps)),
        "valid": DataLoader(valid, batch_size=1),
    }


class WholeImages(Dataset):
    """Items `{"x": (3, H, W)}` in [0, 1], without the last row or column of a side that is odd.

    Args:
        images: with good headers.
    """

    def __init__(self, images: Sequence[ImageInfo]) -> None:
        self.images = [_even(torch.from_numpy(decode_image(info.path))) for info in images]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"x": self.images[index].float() / 255}


def _even(image: Tensor) -> Tensor:
    height, width = (side // SCALE * SCALE for side in image.shape[:2])
    return image[:height, :width].permute(2, 0, 1).contiguous()
