"""Every image model of CompressAI's registry trains one step and goes through a real bitstream."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from rdtrain.config.schema import Config
from rdtrain.models import image_models
from rdtrain.train import train

ELIC = ("hp.N=8", "hp.M=12", "+hp.groups=[2,4,6]")
CHENG = ("hp.N=8", "hp.M=null")
SMALL = {
    "cheng2020-anchor": CHENG,
    "cheng2020-attn": CHENG,
    "cheng2020-anchor-checkerboard": CHENG,
    "elic2022-official": ELIC,
    "elic2022-chandelier": ELIC,
}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    generator = np.random.default_rng(0)
    for part in ("train", "valid", "infer"):
        (folder / part).mkdir()
        smooth = generator.integers(0, 256, (8, 9, 3), dtype=np.uint8)
        Image.fromarray(smooth).resize((72, 64), Image.Resampling.BICUBIC).save(folder / part / "a.png")
    return folder


def test_the_list_is_the_registrys() -> None:
    assert set(SMALL) < set(image_models())


@pytest.mark.parametrize("name", sorted(image_models()))
def test_one_step_and_one_bitstream(name: str, images: Path, configure: Callable[..., Config]) -> None:
    folder = train(
        configure(
            f"model.name={name}",
            *SMALL.get(name, ()),
            "dataset=image_folder",
            f"dataset.root={images}",
            "dataset.batch_size=1",
            "engine.num_epochs=1",
            "engine.epoch_steps=1",
        )
    )
    final = json.loads(folder.summary.read_text())["final"]
    assert 0 < final["train/bpp/forward"] < 100
    assert final["train/grad_norm"] > 0
    assert 0 < final["infer/bpp/real"] < 100
    assert final["infer/psnr/real/8bit"] > 0
    exported = torch.load(folder.exported, weights_only=True)
    assert not [key for key in exported if "transformed" in key]
