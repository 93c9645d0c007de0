"""One folder with a sweep, a search and an experiment: each point is named for what it is, and so is its report."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hydra import initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import OmegaConf

from rdtrain.config.check import check
from rdtrain.config.tasks import program_of
from rdtrain.report.cli import main
from rdtrain.sweep.job import run_job
from rdtrain.sweep.plan import Point
from rdtrain.sweep.planning import make_plan, sweep_points
from rdtrain.sweep.present import PRESENT
from rdtrain.sweep.record import SweepRecord

TINY = (
    "experiment=quickstart", "hp.N=4", "hp.M=6", "dataset.batch_size=2", "engine.num_epochs=1", "engine.epoch_steps=2",
    "engine.threads=1", "logger.figures=null", "logger.entropy_report=null", "infer.max_images=1",
)  # fmt: skip
FIT = ("experiment=kernels/loop", "target.name=edge", "fit.seeds=1", "inputs.size=20", "fit.steps=20")


def _planned(folder: Path, root: str, words: Sequence[str], chosen: Sequence[str] = ()) -> list[Point]:
    with initialize_config_module("rdtrain.conf", version_base="1.3"):
        typed = [f"++paths.runs={folder}", *words]
        config = GlobalHydra.instance().config_loader().load_configuration(root, typed, RunMode.MULTIRUN)
        return make_plan(config, [[*point, *chosen] for point in sweep_points(config)])


def _train(raw: dict[str, Any]) -> None:
    config, problems = check(raw)
    assert config is not None, problems
    program_of(raw).run(config, [])


@pytest.mark.slow
def test_each_point_is_named_for_what_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("optuna", reason="pip install '.[search]'")
    monkeypatch.setattr(HydraConfig.instance(), "cfg", None)  # and so it is again afterwards
    (plain,) = _planned(tmp_path, "train", TINY)
    (tried,) = _planned(tmp_path, "train", [*TINY, "search=lr"], ["++optimizer.net.lr=0.002"])
    (fit,) = _planned(tmp_path, "kernels", FIT)
    for point in (plain, tried, fit):
        run_job(tmp_path, point.id, _train)
    capsys.readouterr()
    assert main(["status", str(tmp_path)]) == 0
    lines = [line.split()[:3] for line in capsys.readouterr().out.splitlines()[1:4]]
    kinds = ("train", "search=lr", "kernels")
    assert lines == [[point.id, kind, "finished"] for point, kind in zip((plain, tried, fit), kinds, strict=True)]

    PRESENT.begin([plain])
    SweepRecord().on_multirun_end(OmegaConf.create({"paths": {"runs": str(tmp_path)}, "launcher": {"name": "local"}}))
    assert "1 points: 1 finished" in capsys.readouterr().out
    with open(tmp_path / "report" / "tables" / "runs.csv", newline="") as file:
        assert {row["run"] for row in csv.DictReader(file)} == {plain.id, tried.id}
