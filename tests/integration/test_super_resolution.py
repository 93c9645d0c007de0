"""The super-resolution experiment from its YAML to its run folder."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf
from PIL import Image

from rdtrain.errors import UserError
from rdtrain.super_resolution.data import find, make_loaders
from rdtrain.super_resolution.model import SmallSuperResolution, bicubic, halved
from rdtrain.super_resolution.schema import Config
from rdtrain.super_resolution.task import planned, problems, run

QUICK = (
    "data.name=image_folder",
    "train.epochs=2",
    "train.epoch_steps=3",
    "train.batch_size=2",
    "train.patch_size=16",
    "conv.type=spectral",
    "compare.forms=[plain,plain-as-rfft]",
    "compare.seeds=2",
    "engine.device=cpu",
    "engine.threads=1",
)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def composed(*overrides: str) -> dict[str, Any]:
    with initialize_config_module("rdtrain.conf", version_base="1.3"):
        raw: Any = OmegaConf.to_container(compose("super_resolution", overrides=list(overrides)), resolve=True)
    raw.pop("hydra", None)
    return raw


@pytest.fixture
def images(tmp_path: Path) -> Path:
    numbers = np.random.default_rng(1)
    for name, shape in {"train/a": (40, 32, 3), "train/b": (32, 48, 3), "valid/c": (25, 36, 3)}.items():
        path = tmp_path / "images" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(numbers.integers(0, 256, shape, dtype=np.uint8)).save(path)
    return tmp_path / "images"


def test_it_leaves_a_whole_run_folder(tmp_path: Path, images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw = composed(*QUICK, f"data.root={images}", f"paths.runs={tmp_path / 'runs'}")
    assert problems(raw) == []
    config = Config.model_validate(raw)
    folder = run(config, QUICK)
    assert planned(config) == (config, folder)
    summary = json.loads(folder.summary.read_text())
    assert (summary["status"], summary["steps"]) == ("finished", 6)
    assert folder.path.name.endswith("super-resolution-image_folder-rfft-seed1")
    x = torch.from_numpy(np.array(Image.open(images / "valid" / "c.png"))[:24].transpose(2, 0, 1)[None]).float() / 255
    model = SmallSuperResolution()
    model.load_state_dict(torch.load(folder.exported, weights_only=True))  # plain, though it was trained spectral
    for name, image in {"bicubic": bicubic(halved(x)), "network": model(halved(x)).detach()}.items():
        error = np.square((x - image.clamp(0, 1)).numpy().astype(np.float64)).mean()
        assert summary["final"][f"psnr/{name}"] == pytest.approx(-10 * np.log10(error), abs=1e-4)
    with open(folder.metrics) as file:
        assert [(row["epoch"], row["step"], row["loader"]) for row in csv.DictReader(file)] == [
            ("1", "3", "train"), ("1", "3", "valid"), ("2", "6", "train"), ("2", "6", "valid"),
        ]  # fmt: skip
    with open(folder.figures / "forms.csv") as file:
        rows = list(csv.DictReader(file))
    assert [(row["form"], row["seed"], row["epoch"]) for row in rows[:3]] == [
        ("plain", "1", "1"), ("plain", "1", "2"), ("plain", "2", "1"),
    ]  # fmt: skip
    assert len(rows) == 8 and (folder.figures / "forms.png").stat().st_size > 5000
    for row in rows:
        assert float(row["gain"]) == pytest.approx(float(row["psnr"]) - summary["final"]["psnr/bicubic"])
    first = {row["form"]: row["loss"] for row in rows if (row["seed"], row["epoch"]) == ("1", "1")}
    assert first["plain"] != first["plain-as-rfft"]
    capsys.readouterr()
    run(config)
    assert "already finished" in capsys.readouterr().out
    Image.fromarray(np.zeros((25, 30, 3), np.uint8)).save(images / "valid" / "c.png")
    for again in (run, planned):
        with pytest.raises(UserError, match="the valid data are not those that the run in"):
            again(config)


def test_training_is_that_of_a_plain_loop(tmp_path: Path, images: Path) -> None:
    overrides = (*QUICK[:5], "engine.device=cpu", "engine.threads=1", "train.epochs=1")
    config = Config.model_validate(composed(*overrides, f"data.root={images}", f"paths.runs={tmp_path / 'runs'}"))
    found = torch.load(run(config).exported, weights_only=True)
    torch.manual_seed(config.seed)
    model = SmallSuperResolution()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for batch in make_loaders(find(config.data), config.train, config.seed)["train"]:
        (x,) = batch["x"]
        assert x.shape == (2, 3, 16, 16)
        optimizer.zero_grad()
        (x - model(halved(x))).square().mean().backward()
        optimizer.step()
    for name, value in model.state_dict().items():
        torch.testing.assert_close(found[name], value, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["train.patch_size=64", "data.root={images}"], "train.patch_size=64: an image has a side of 32; type 32"),
        ([], "data.name=image_folder: data.root is not given"),
        (
            ["data.name=photos", "data.root={images}"],
            "data.name=photos does not look there; type data.name=image_folder",
        ),
    ],
)
def test_mistakes_say_what_to_type(images: Path, overrides: list[str], said: str) -> None:
    (problem,) = problems(composed(*QUICK, *(text.format(images=images) for text in overrides)))
    assert said in problem


def test_images_that_are_too_small_are_told(images: Path) -> None:
    for name, shape in {"train/a": (7, 32, 3), "valid/c": (25, 1, 3)}.items():
        Image.fromarray(np.zeros(shape, np.uint8)).save(images / f"{name}.png")
    train, valid = problems(composed(*QUICK, f"data.root={images}"))
    assert "an image to train on has a side of 7; it takes 8 at least" in train
    assert "an image to judge by has a side of 1" in valid


def test_the_experiment_composes() -> None:
    raw = composed("experiment=super_resolution/conv_forms")
    assert problems(raw) == [] and Config.model_validate(raw).to_dict() == raw
    embedded = find(Config.model_validate(raw).data)
    assert {name: len(images) for name, images in embedded.items()} == {"train": 7, "valid": 4}
