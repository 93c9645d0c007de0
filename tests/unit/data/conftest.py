"""Pictures for the tests of the data room."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rdtrain.data.decode import ImageInfo, probe_image


@pytest.fixture(scope="session")
def picture() -> Callable[[int, int, int], np.ndarray]:
    """Uniform noise, uint8 (height, width, 3) by seed: every pixel tells where it was."""

    def make(height: int, width: int, seed: int) -> np.ndarray:
        return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)

    return make


@pytest.fixture
def write(tmp_path: Path, picture: Callable[..., np.ndarray]) -> Callable[..., Path]:
    """Write a PNG below tmp_path: `write("a/b.png", 40, 30, seed=1)` holds `picture(40, 30, 1)`."""

    def write_png(name: str, height: int = 8, width: int = 8, seed: int = 0) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture(height, width, seed)).save(path)
        return path

    return write_png


@pytest.fixture
def infos(write: Callable[..., Path]) -> Callable[..., list[ImageInfo]]:
    """Write n PNG files, of which the i-th holds `picture(height, width, i)`, and probe them."""

    def make(n: int, height: int = 8, width: int = 8) -> list[ImageInfo]:
        return [probe_image(write(f"{i:03d}.png", height, width, seed=i)) for i in range(n)]

    return make
