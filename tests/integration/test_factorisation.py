"""The experiment on factorised kernels from its YAML to its run folder."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf

from rdtrain.config.schema import Config as TrainConfig
from rdtrain.errors import UserError
from rdtrain.factorisation.schema import Config
from rdtrain.factorisation.task import planned, problems, run
from rdtrain.models import image_models
from rdtrain.train import train


def composed(*overrides: str) -> dict[str, Any]:
    with initialize_config_module("rdtrain.conf", version_base="1.3"):
        raw = OmegaConf.to_container(compose("factorisation", overrides=list(overrides)), resolve=True)
    return raw  # type: ignore[return-value]


def rows_of(path: Path) -> list[dict[str, str]]:
    with open(path) as file:
        return list(csv.DictReader(file))


def test_filters_leave_a_whole_run_folder(tmp_path: Path) -> None:
    np.save(tmp_path / "kernel.npy", np.outer([1.0, 2, 3], [1.0, -1, 4]))
    raw = composed(
        "++cases.lh={target: lh, n: 1, k: 5, lmbda: 5000, lr: 5e-3}",
        f"++cases.own={{target: file, file: '{tmp_path / 'kernel.npy'}', n: 1, k: 3, lambda2: 0, iterations: 5}}",
        "map.case=lh",
        "map.lmbda=[100,5000]",
        "map.lr=[1e-3]",
        "map.lambda1=[0,10]",
        "map.lambda2=[0]",
        "sgd.iterations=20",
        "als.restarts=2",
        "als.iterations=3",
        "latency.channels=[1]",
        "latency.size=16",
        "latency.repeats=1",
        "toy.starts=1000",
        "engine.device=cpu",
        "engine.threads=1",
        f"paths.runs={tmp_path / 'runs'}",
    )
    assert problems(raw) == []
    folder = run(Config.model_validate(raw))
    summary = json.loads(folder.summary.read_text())
    assert summary["status"] == "finished" and summary["steps"] == 25
    final = summary["final"]
    assert final["lh/als/mse"] == pytest.approx(4.4795e-4, abs=1e-8)  # one kernel: a single least squares problem
    floor = {row["case"]: float(row["floor"]) for row in rows_of(folder.figures / "cases.csv")}
    assert final["own/als/mse"] == pytest.approx(floor["own"], abs=1e-9) and final["own/sgd/mse"] > floor["own"]
    assert final["lh/sgd/mse"] == pytest.approx(5.907e-4, rel=0.01) and 0.2 < final["toy/diverging_share"] < 0.35
    drawn = {"targets", "case-lh", "case-own", "map", "map-penalties", "latency"}
    assert {f"{name}.png" for name in drawn} <= {path.name for path in folder.figures.iterdir()}
    assert [row["loader"] for row in rows_of(folder.metrics)] == ["lh", "own"]
    weights, penalties = (rows_of(folder.figures / f"{name}.csv") for name in ("map", "map-penalties"))
    varied = ("lmbda", "lr", "lambda1", "lambda2")
    assert [[float(row[key]) for key in varied] for row in weights] == [[100, 1e-3, 0.1, 1], [5000, 1e-3, 0.1, 1]]
    assert [[float(row[key]) for key in varied] for row in penalties] == [[5000, 5e-3, 0, 0], [5000, 5e-3, 10, 0]]
    assert float(penalties[0]["mse"]) < float(penalties[1]["mse"])  # a kernel that is kept small
    assert run(Config.model_validate(raw)).path == folder.path
    np.save(tmp_path / "kernel.npy", np.outer([1.0, 2, 3], [1.0, -1, 5]))
    for again in (run, planned):
        with pytest.raises(UserError, match="the own data are not those that the run in"):
            again(Config.model_validate(raw))


@pytest.mark.slow
def test_a_trained_model_before_and_after(tmp_path: Path, configure: Callable[..., TrainConfig]) -> None:
    trained = train(configure("conv=plain", "infer.max_images=1"))
    raw = composed(
        "experiment=factorisation/model",
        f"model.checkpoint={trained.path}",
        "model.costs=[0.5,3.0]",
        "model.iterations=40",
        "model.max_images=1",
        "engine.device=cpu",
        "engine.threads=1",
        f"paths.runs={tmp_path / 'factorised'}",
    )
    assert problems(raw) == []
    folder = run(Config.model_validate(raw))
    before, half, more = rows_of(folder.figures / "model.csv")
    assert 0.3 < float(half["cost"]) <= 0.5 and 2.5 < float(more["cost"]) <= 3
    assert float(half["worst_error"]) > 0.1 > float(more["worst_error"])
    # With enough channels between, the model is what it was.
    for name, within in (("bpp", 0.01), ("psnr", 0.05), ("loss", 0.05)):
        assert float(more[name]) == pytest.approx(float(before[name]), abs=within)
    assert {row["name"] for row in rows_of(folder.figures / "layers.csv")} == {
        *(f"g_a.{i}" for i in (0, 2, 4, 6)), *(f"g_s.{i}" for i in (0, 2, 4, 6)),
    }  # fmt: skip
    assert (folder.figures / "model.png").is_file()
    (problem,) = problems(raw | {"model": raw["model"] | {"name": "mbt2018"}})
    assert problem.endswith("is a run of bmshj2018-factorized; leave it out")
    content = json.loads(folder.environment.read_text())
    assert content["data"].keys() == {"model", "images"}
    weights = torch.load(trained.best, weights_only=False)
    weights["model"]["g_a.0.bias"] += 1
    torch.save(weights, trained.best)
    with pytest.raises(UserError, match="the model data are not those that the run in"):
        planned(Config.model_validate(raw))


def test_layers_that_cannot_be_replaced_are_told_before_anything_is_made(tmp_path: Path) -> None:
    torch.save(image_models()["bmshj2018-factorized"](2, 4).state_dict(), tmp_path / "model.pth")
    checkpoint = ("experiment=factorisation/model", f"model.checkpoint={tmp_path / 'model.pth'}")
    named = (*checkpoint, "model.name=bmshj2018-factorized")
    assert problems(composed(*named)) == []
    (problem,) = problems(composed(*checkpoint))
    assert "type model.name=NAME" in problem
    (problem,) = problems(composed(*named, "model.layers=[g_a.*,h_a.*]"))
    assert problem.startswith("model.layers: h_a.* matches none of g_a.0, g_a.2")
    (problem,) = problems(composed(*named, "model.smallest=7"))
    assert problem == "model.smallest=7: this model has no convolution that could become two"


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("++cases.a={target: lh, n: 2, k: 4}", "the side must be odd"),
        ("++cases.a={target: lh, n: 7, k: 5}", "the chain reach at most 15"),
        ("++cases.a={target: file, n: 1, k: 3}", "belong together"),
        ("++cases.a={target: file, file: /no/such.npy, n: 1, k: 3}", "cannot be read"),
        ("map.case=b", "map.case=b: there is no such case"),
        ("model.checkpoint=/no/such", "/no/such does not exist"),
    ],
)
def test_mistakes_are_told_before_anything_is_made(tmp_path: Path, override: str, said: str) -> None:
    raw = composed("++cases.lh={target: lh, n: 1, k: 5}", override, f"paths.runs={tmp_path}")
    (problem,) = problems(raw)
    assert said in problem
    with pytest.raises(UserError):
        run(Config.model_validate(raw))
    assert not list(tmp_path.iterdir())


def test_experiments_compose() -> None:
    assert "type model.checkpoint=RUN" in problems(composed("experiment=factorisation/model"))[0]
    raw = composed("experiment=factorisation/filters")
    assert problems(raw) == [] and len(Config.model_validate(raw).cases) == 8
