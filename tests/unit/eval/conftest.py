"""Models, images and a run folder to evaluate, made without training.

CompressAI is imported inside: pytest loads this file before it filters the libraries' warnings.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from rdtrain.config.schema import Config
from rdtrain.run_folder import RunFolder


@pytest.fixture(autouse=True)
def same_threads(one_thread: None) -> None:
    """The command sets the number of threads of its process."""


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """Two images of 170x200 pixels, one in a folder of its own."""
    from tiny_codecs import images

    for name, x in zip(("a.png", "sub/b.png"), images(2, 170, 200), strict=True):
        path = tmp_path / "photographs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.round(x.permute(1, 2, 0).numpy() * 255).astype(np.uint8)).save(path)
    return tmp_path / "photographs"


@pytest.fixture
def stock(tmp_path: Path) -> Path:
    """A state dict as CompressAI's users keep it, tables not made."""
    from tiny_codecs import trained_model

    path = tmp_path / "stock.pth"
    torch.save(trained_model("bmshj2018-factorized").state_dict(), path)
    return path


@pytest.fixture
def run(configure: Callable[..., Config]) -> RunFolder:
    """A run's folder with a spectral checkpoint and its export, as far as an evaluation reads it."""
    from rdtrain import checkpoint
    from rdtrain.export import export_model
    from rdtrain.files import write_tensors
    from rdtrain.models import complete, make_model

    config = complete(configure("conv.switch.trigger=never"))
    folder = RunFolder.of(config)
    folder.make(config, [], {})
    state = {"format": checkpoint.FORMAT, "spectral": True, "ema": None, "conv": config.conv.model_dump()}
    write_tensors(folder.best, state | {"model": make_model(config, spectral=True).state_dict()})
    export_model(config, folder.best, folder.exported)
    return folder
