"""Handwritten digits as 32x32 images: scikit-learn's, which its wheel carries, or MNIST.

Images are uint8, (N, 1, 32, 32); labels int64, (N,).
"""

from __future__ import annotations

import gzip
import hashlib
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from rdtrain.errors import UserError
from rdtrain.jpeg.codec import Codec

SIDE = 32
MEAN, STD = 0.1307, 0.3081  # of MNIST's pixels in [0, 1], as torchvision's examples have them
_TRAIN_SHARE = 0.8
_MNIST_SIZE = (28, 28)
_MAGIC = {"images": 2051, "labels": 2049}  # of IDX files


@dataclass(frozen=True)
class Digits:
    """A data set.

    Args:
        train: images and labels to train on.
        test: others.
        notes: what the user should know about the split.
    """

    train: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]
    notes: tuple[str, ...] = ()

    @property
    def all_images(self) -> Tensor:
        """Images to train on, then the others."""
        return torch.cat([self.train[0], self.test[0]])

    def describe(self) -> dict[str, Any]:
        """What environment.json says about the data.

        Returns:
            Number of the images of each part, and a hash of them and their labels.
        """
        found = {}
        for name, (images, labels) in {"train": self.train, "test": self.test}.items():
            digest = hashlib.sha256(images.numpy().tobytes() + labels.numpy().tobytes())
            found[name] = {"images": len(images), "sha256": digest.hexdigest()}
        return found


class ImageDataset(Dataset):
    """Items `{"x": float (1, H, W) normalised, "label": int}`, or coefficients of the whole data set, made in one step.

    The images themselves are not kept, so the labels of coefficients cost no decoding.

    Args:
        images: uint8, (N, 1, H, W).
        labels: (N,).
        codec: that encodes, on its device, where they stay; None for pixels.
    """

    def __init__(self, images: Tensor, labels: Tensor, codec: Codec | None = None) -> None:
        x = normalised(images)
        self.x = x if codec is None else codec.encode(x.to(codec.q.device))
        self.labels = labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"x": self.x[index], "label": int(self.labels[index])}


def normalised(images: Tensor) -> Tensor:
    """Scale pixels as the network wants them.

    Args:
        images: uint8.

    Returns:
        float32, same shape, zero mean and unit variance over MNIST.
    """
    return (images.float() / 255 - MEAN) / STD


def load_digits(name: str, root: str | None, seed: int) -> Digits:
    """Load a data set.

    Args:
        name: `digits`, 1,797 images of 8x8 made larger by bicubic interpolation, or `mnist`, 28x28 with a black margin.
        root: the folder with MNIST's files, as they come or in torchvision's `MNIST/raw`; compressed or not.
        seed: of the split where the set has none.

    Returns:
        The images. Without MNIST's training files four fifths of its test images are trained on, and a note says so.

    Raises:
        UserError: there are no such files.
    """
    if name == "digits":
        return _split(*_scikit_digits(), seed)
    if root is None:
        raise UserError("data.name=mnist needs its folder: type data.root=DIR")
    folder = Path(root).expanduser()
    test = _mnist(folder, "t10k")
    if test is None:
        raise UserError(f"data.root={root} lacks t10k-images-idx3-ubyte.gz or its labels; type the folder of MNIST")
    if (train := _mnist(folder, "train")) is not None:
        return Digits(train, test)
    note = (
        f"{folder} lacks MNIST's training images or their labels: "
        "trained on four fifths of its test images, tested on the others"
    )
    return _split(*test, seed, note)


def _split(images: Tensor, labels: Tensor, seed: int, *notes: str) -> Digits:
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    train, test = order.tensor_split([int(_TRAIN_SHARE * len(order))])
    return Digits((images[train], labels[train]), (images[test], labels[test]), notes)


def _scikit_digits() -> tuple[Tensor, Tensor]:
    from sklearn.datasets import load_digits

    data = load_digits()
    small = torch.from_numpy(data.images).float()[:, None] * (255 / 16)
    images = F.interpolate(small, size=(SIDE, SIDE), mode="bicubic").round().clamp(0, 255).to(torch.uint8)
    return images, torch.from_numpy(data.target).long()


def _mnist(folder: Path, part: str) -> tuple[Tensor, Tensor] | None:
    files = [_find(folder, f"{part}-{name}-ubyte") for name in ("images-idx3", "labels-idx1")]
    if files[0] is None or files[1] is None:
        return None
    images, labels = _read_idx(files[0], "images"), _read_idx(files[1], "labels")
    if len(images) != len(labels):
        raise UserError(f"{folder}: {len(images)} images but {len(labels)} labels of {part}; download them again")
    margin = (SIDE - images.shape[-1]) // 2
    return F.pad(torch.from_numpy(images)[:, None], [margin] * 4), torch.from_numpy(labels).long()


def _find(folder: Path, name: str) -> Path | None:
    places = [place / f"{name}{ending}" for place in (folder, folder / "MNIST" / "raw") for ending in (".gz", "")]
    return next((path for path in places if path.is_file()), None)


def _read_idx(path: Path, kind: str) -> NDArray[np.uint8]:
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        header = np.frombuffer(content, ">i4", count=4 if kind == "images" else 2)
        if header[0] != _MAGIC[kind]:
            raise ValueError(f"it is no IDX file of {kind}")
        if kind == "images" and tuple(header[2:]) != _MNIST_SIZE:
            raise ValueError(f"its images have {header[2]}x{header[3]} pixels, MNIST's 28x28")
        return np.frombuffer(content, np.uint8, offset=header.nbytes).reshape(header[1:]).copy()
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise UserError(f"{path} cannot be read ({error}); download it again") from error
