"""Images of digits."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
import torch

from rdtrain.errors import UserError
from rdtrain.jpeg.codec import Codec
from rdtrain.jpeg.data import ImageDataset, load_digits, normalised


def write_mnist(folder: Path, part: str, count: int, packed: bool = True) -> np.ndarray:
    folder.mkdir(parents=True, exist_ok=True)
    images = np.random.default_rng(count).integers(0, 256, (count, 28, 28), dtype=np.uint8)
    labels = np.arange(count, dtype=np.uint8) % 10
    for name, magic, values in (("images-idx3", 2051, images), ("labels-idx1", 2049, labels)):
        content = np.array([magic, *values.shape], ">i4").tobytes() + values.tobytes()
        path = folder / f"{part}-{name}-ubyte{'.gz' if packed else ''}"
        path.write_bytes(gzip.compress(content) if packed else content)
    return images


def test_digits_of_scikit_learn() -> None:
    digits = load_digits("digits", None, seed=1)
    assert digits.train[0].shape == (1437, 1, 32, 32) and digits.test[0].shape == (360, 1, 32, 32)
    assert digits.all_images.dtype == torch.uint8 and digits.all_images.max() > 250
    assert sorted(set(digits.test[1].tolist())) == list(range(10))
    assert not torch.equal(digits.test[1], load_digits("digits", None, seed=2).test[1])
    assert digits.describe() == load_digits("digits", None, seed=1).describe()


@pytest.mark.parametrize(("inside", "packed"), [("", True), ("MNIST/raw", False)])
def test_mnist_with_its_margin(tmp_path: Path, inside: str, packed: bool) -> None:
    train, test = (write_mnist(tmp_path / inside, part, n, packed) for part, n in (("train", 30), ("t10k", 20)))
    digits = load_digits("mnist", str(tmp_path), seed=0)
    assert not digits.notes
    assert np.array_equal(digits.train[0][:, 0, 2:-2, 2:-2], train)
    assert np.array_equal(digits.test[0][:, 0, 2:-2, 2:-2], test)
    assert not digits.test[0][:, 0, :2].any() and not digits.test[0][..., -2:].any()
    assert digits.test[1].tolist() == [i % 10 for i in range(20)]


def test_mnist_without_its_training_images_says_so(tmp_path: Path) -> None:
    write_mnist(tmp_path, "t10k", 20)
    digits = load_digits("mnist", str(tmp_path), seed=0)
    assert len(digits.train[0]) == 16 and len(digits.test[0]) == 4
    assert "lacks MNIST's training images" in digits.notes[0]


def test_what_is_wrong_with_mnist_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"type data\.root=DIR"):
        load_digits("mnist", None, 0)
    with pytest.raises(UserError, match="lacks t10k-images-idx3-ubyte"):
        load_digits("mnist", str(tmp_path), 0)
    write_mnist(tmp_path, "t10k", 20)
    path = tmp_path / "t10k-labels-idx1-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-12])
    with pytest.raises(UserError, match="cannot be read"):
        load_digits("mnist", str(tmp_path), 0)


def test_a_data_set_of_coefficients_keeps_no_pixels() -> None:
    images, labels = torch.randint(0, 256, (5, 1, 32, 32), dtype=torch.uint8), torch.arange(5)
    codec = Codec()
    items = ImageDataset(images, labels, codec)
    assert items[3]["x"].shape == (1, 4, 4, 64) and items[3]["label"] == 3 and len(items) == 5
    torch.testing.assert_close(codec.decode(items[3]["x"][None])[0], normalised(images[3]), atol=1e-5, rtol=0)
    assert set(vars(items)) == {"x", "labels"}


def test_normalised_as_torchvision_has_it() -> None:
    from torchvision import transforms

    image = np.random.default_rng(0).integers(0, 256, (32, 32), dtype=np.uint8)
    theirs = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.1307,), (0.3081,))])(image)
    torch.testing.assert_close(normalised(torch.from_numpy(image)[None]), theirs)
