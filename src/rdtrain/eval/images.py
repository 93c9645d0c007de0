"""The images of an evaluation, found and checked before the first is coded."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from rdtrain.data.decode import MAX_PIXELS, BadImage, ImageInfo, decode_image, probe_image
from rdtrain.data.sources import find_images
from rdtrain.data.splits import LayoutError, list_images
from rdtrain.errors import UserError

_FOLDER = "image_folder"


@dataclass(frozen=True)
class TestImage(ImageInfo):
    """One image of a test set.

    Args:
        name: relative to the test set's folder, with `/`; what the table shows.
        stem: `name` without its ending where that is enough to tell images apart; files made from it are named so.
    """

    __test__ = False  # pytest takes it for tests

    name: str
    stem: str


def find_test_images(
    dataset: str, root: Path | None, most: int | None, keys: tuple[str, str] = ("--dataset", "--root")
) -> list[TestImage]:
    """Find the images.

    Args:
        dataset: a name that `dataset.name` accepts; of `image_folder` all images are taken, of others those for infer.
        root: the data set's folder.
        most: take only so many, in order of their names.
        keys: under which `dataset` and `root` were typed, for the error.

    Returns:
        The images; their headers have been read, so each is an image.

    Raises:
        UserError: there is no such data set or folder, or a file is no image.
    """
    paths = _all_in(root, keys[1]) if dataset == _FOLDER and root is not None else _named(dataset, root, keys)
    return as_test_images(_readable(sorted(paths)[:most]), root)


def as_test_images(chosen: Sequence[ImageInfo], root: Path | None = None) -> list[TestImage]:
    """Name images.

    Args:
        chosen: the files.
        root: the data set's folder; None for the innermost folder that holds all of them.

    Returns:
        The same in their order.
    """
    folder = root.expanduser() if root is not None else _innermost(chosen)
    names = [_relative(info.path, folder) for info in chosen]
    stems = Counter(Path(name).with_suffix("") for name in names)
    unique = [stem if stems[stem := Path(name).with_suffix("")] == 1 else Path(name) for name in names]
    return [
        TestImage(info.path, info.height, info.width, info.file_bytes, name, stem.as_posix())
        for info, name, stem in zip(chosen, names, unique, strict=True)
    ]


def read_image(image: TestImage, device: torch.device) -> Tensor:
    """Decode an image.

    Args:
        image: the file.
        device: where the tensor goes.

    Returns:
        The image in [0, 1], (1, 3, H, W), float32.

    Raises:
        UserError: it cannot be decoded.
        MemoryError: there is not enough memory for it.
    """
    try:
        pixels = torch.from_numpy(decode_image(image.path, max_pixels=MAX_PIXELS))
    except BadImage as error:
        if isinstance(error.__cause__, MemoryError):
            raise error.__cause__ from error
        raise UserError(str(error)) from error
    return pixels.permute(2, 0, 1)[None].to(device, torch.float32).div_(255).contiguous()


def _readable(paths: Sequence[Path]) -> list[ImageInfo]:
    found, bad = [], []
    for path in paths:
        try:
            found.append(probe_image(path))
        except BadImage as error:
            bad.append(f"{error}; take it out of the folder")
    if bad:
        raise UserError(bad)
    return found


def _all_in(root: Path, key: str) -> tuple[Path, ...]:
    try:
        images = list_images(root.expanduser()) if root.expanduser().is_dir() else ()
    except LayoutError as error:
        raise UserError(f"{key}={root} {error}") from error
    if not images:
        raise UserError(f"{key}={root} holds no image files; type {key}=FOLDER")
    return images


def _named(dataset: str, root: Path | None, keys: tuple[str, str]) -> tuple[Path, ...]:
    return find_images(dataset, root, keys, split_seed=0, valid_percent=0, infer_percent=0).infer


def _innermost(chosen: Sequence[ImageInfo]) -> Path:
    return Path(os.path.commonpath([info.path.absolute().parent for info in chosen])) if chosen else Path()


def _relative(path: Path, folder: Path) -> str:
    whole, above = path.absolute(), folder.absolute()
    return whole.relative_to(above).as_posix() if whole.is_relative_to(above) else path.name
