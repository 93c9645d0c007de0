"""The experiment on JPEG coefficients from its YAML to its run folder, and exactness on whole data sets."""

from __future__ import annotations

import copy
import csv
import json
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
import torch.nn.functional as F
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf

from rdtrain.engine import make_engine
from rdtrain.errors import UserError
from rdtrain.experiment import engine_section
from rdtrain.jpeg import task
from rdtrain.jpeg.codec import Codec
from rdtrain.jpeg.convert import to_jpeg
from rdtrain.jpeg.data import Digits, load_digits, normalised
from rdtrain.jpeg.measure import agreement
from rdtrain.jpeg.schema import Config, Train
from rdtrain.jpeg.training import accuracy, logits_of, make_classifier, train_classifier

QUICK = (
    "train.epochs=1",
    "train.batch_size=64",
    "relu.converted=[0,14]",
    "relu.retrained=[4]",
    "relu.blocks=1000",
    "rounding.qualities=[5,90]",
    "timing.batch_size=2",
    "timing.repeats=1",
    "timing.exploded=false",
    "compare.forms=[plain,plain-as-rfft]",
    "compare.seeds=1",
    "engine.device=cpu",
    "engine.threads=1",
)


def composed(*overrides: str) -> dict[str, Any]:
    with initialize_config_module("rdtrain.conf", version_base="1.3"):
        return OmegaConf.to_container(compose("jpeg", overrides=list(overrides)), resolve=True)  # type: ignore[return-value]


@pytest.fixture
def few_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    digits = load_digits("digits", None, 1)
    few = Digits(*((images[:64], labels[:64]) for images, labels in (digits.train, digits.test)))
    monkeypatch.setattr(task, "load_digits", lambda *args: few)


def test_an_experiment_leaves_a_whole_run_folder(
    tmp_path: Path, few_digits: None, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = composed(*QUICK, f"paths.runs={tmp_path}")
    assert task.problems(raw) == []
    folder = task.run(Config.model_validate(raw), QUICK)
    summary = json.loads(folder.summary.read_text())
    assert summary["status"] == "finished" and summary["steps"] == 1
    assert summary["final"]["exact/disagreeing"] == 0 and summary["final"]["exact/max_difference"] < 1e-3
    assert summary["final"]["exact/images"] == 128 and 0 < summary["final"]["encode/seconds"] < 60
    assert any("fused" in warning for warning in summary["warnings"])  # it is slower, and says so
    with open(folder.figures / "forms.csv") as file:
        plain, control = (float(row["loss"]) for row in csv.DictReader(file))
    assert plain != control  # the same beginning and images, another learning rate
    figures = {path.name for path in folder.figures.iterdir()}
    drawn = {"images", "n_freqs", "approximation", "quality", "timing", "forms"}
    assert {f"{name}.png" for name in drawn} <= figures
    with open(folder.metrics) as file:
        rows = list(csv.DictReader(file))
    assert [(row["epoch"], row["loader"]) for row in rows] == [("0", "valid"), ("1", "train"), ("1", "valid")]
    assert list(folder.tensorboard.iterdir())
    weights = torch.load(folder.exported, weights_only=True)
    make_classifier(0).load_state_dict(weights)
    task.run(Config.model_validate(raw), QUICK)
    assert "already finished" in capsys.readouterr().out
    content = json.loads(folder.environment.read_text())
    content["data"]["train"]["images"] -= 1
    folder.environment.write_text(json.dumps(content))
    for again in (task.run, task.planned):
        with pytest.raises(UserError, match="the train data are not those that the run in"):
            again(Config.model_validate(raw))


def test_a_training_that_diverges_says_so(tmp_path: Path, few_digits: None) -> None:
    with pytest.raises(UserError, match=r"the loss of \w+ is not finite after epoch 1; type a smaller train\.lr"):
        task.run(Config.model_validate(composed(*QUICK, "train.lr=1e30", f"paths.runs={tmp_path}")))
    (folder,) = tmp_path.iterdir()
    assert json.loads((folder / "summary.json").read_text())["status"] == "failed"


def test_images_without_an_answer_disagree() -> None:
    logits = torch.tensor([[1.0, 2.0], [float("nan"), 0.0], [3.0, 1.0]])
    assert agreement(logits, logits)["disagreeing"] == 1


def test_spectral_kernels_are_exported_plain(tmp_path: Path, few_digits: None) -> None:
    lists = [f"{key}=[]" for key in ("relu.converted", "relu.retrained", "rounding.qualities", "compare.forms")]
    none = ("relu.blocks=0", "timing.batch_size=0")
    words = (*QUICK, *lists, *none, "conv.type=spectral", "conv.transform=rfft")
    folder = task.run(Config.model_validate(composed(*words, f"paths.runs={tmp_path}")))
    final = json.loads(folder.summary.read_text())["final"]
    weights = torch.load(folder.exported, weights_only=True)
    model = make_classifier(1)
    model.load_state_dict(weights)
    images, labels = task.load_digits("digits", None, 1).test
    assert accuracy(logits_of(model.eval(), normalised(images)), labels) == final["accuracy/pixels"]
    begun = make_classifier(1).state_dict()
    assert any(not torch.equal(weights[name], begun[name]) for name in begun if name.endswith("conv1.weight"))


def test_an_experiment_that_fails_says_so(tmp_path: Path, few_digits: None, monkeypatch: pytest.MonkeyPatch) -> None:
    config = Config.model_validate(composed(*QUICK, f"paths.runs={tmp_path}"))
    for kind, status in ((RuntimeError, "failed"), (KeyboardInterrupt, "interrupted")):
        monkeypatch.setattr(task, "_train", Mock(side_effect=kind))
        with pytest.raises(kind):
            task.run(config)
        (folder,) = tmp_path.iterdir()
        assert json.loads((folder / "summary.json").read_text())["status"] == status
        assert "continued" not in json.loads((folder / "environment.json").read_text())
        assert len(list((folder / "tensorboard").iterdir())) == 1


def test_mistakes_are_told_before_anything_is_made(tmp_path: Path) -> None:
    raw = composed("experiment=jpeg/mnist", f"paths.runs={tmp_path}")
    assert task.problems(raw) == ["data.name=mnist needs its folder: type data.root=DIR"]
    with pytest.raises(UserError):
        task.run(Config.model_validate(raw))
    assert not list(tmp_path.iterdir())
    (problem,) = task.problems(composed("experiment=jpeg/digits", "data.root=/nowhere"))
    assert problem == "data.root=/nowhere: data.name=digits does not look there; type data.name=mnist"


@pytest.mark.parametrize("experiment", ["digits", "mnist", "conv_forms"])
def test_experiments_compose(experiment: str) -> None:
    raw = composed(f"experiment=jpeg/{experiment}")
    raw.pop("hydra", None)
    assert Config.model_validate(raw).to_dict() == raw


def trained(digits: Digits, epochs: int) -> torch.nn.Module:
    raw = composed("engine.device=cpu", "engine.threads=1")
    engine = make_engine(engine_section(Config.model_validate(raw).engine))
    train = Train(epochs=epochs, batch_size=32, lr=1e-3)
    return train_classifier(make_classifier(1), digits, train, 1, engine)


def test_the_runner_trains_as_a_plain_loop_does() -> None:
    digits = load_digits("digits", None, 1)
    few = Digits((digits.train[0][:32], digits.train[1][:32]), (digits.test[0][:32], digits.test[1][:32]))
    model = make_classifier(1)
    plain = copy.deepcopy(model).train()
    optimizer = torch.optim.Adam(plain.parameters(), lr=1e-3)
    for _ in range(3):
        loss = F.cross_entropy(plain(normalised(few.train[0])), few.train[1])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    found = trained(few, 3)  # one batch an epoch: the order within it changes sums by rounding only
    x = normalised(few.test[0])
    torch.testing.assert_close(logits_of(found, x), logits_of(plain.eval(), x), atol=2e-4, rtol=1e-3)


@pytest.mark.slow
def test_exactness_on_all_images_of_digits_and_of_mnists_test_set(test_data: Path) -> None:
    digits = load_digits("digits", None, 1)
    model, codec = trained(digits, 3), Codec()
    converted = to_jpeg(model, codec)
    assert accuracy(logits_of(model, normalised(digits.test[0])), digits.test[1]) > 0.85
    for images in (digits.all_images, load_digits("mnist", str(test_data / "mnist"), 0).all_images):
        x = normalised(images)
        found = agreement(logits_of(converted, codec.encode(x)), logits_of(model, x))
        assert found["disagreeing"] == 0 and found["max_difference"] < 1e-3
    assert len(x) == 10_000
