"""Leaderboards of results made up for the purpose."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf

from rdtrain.experiment import write_table
from rdtrain.kernels import results
from rdtrain.kernels.leaderboard import LeaderboardRecord, write_leaderboard
from rdtrain.kernels.results import Result
from rdtrain.sweep.plan import Plan, Point
from rdtrain.sweep.present import PRESENT
from rdtrain.sweep.record import SweepRecord

LOSS = 1e-15  # of a fit that has come to the end of float32


def _fit(folder: Path, name: str, target: str = "edge", steps: int = 20) -> Path:
    run = folder / name
    (run / "figures").mkdir(parents=True)
    (run / "summary.json").write_text(json.dumps({"status": "finished"}))
    found = [
        Result(target, "pink", "Adam", 1e-3, arm, 1.0, 25, 1, 20, None, LOSS, error, error, 0.0, 0.0)
        for arm, error in {"plain": 1.0, "rfft": 0.1}.items()
    ]
    write_table(run / "figures" / "results.csv", results.as_rows(found))
    errors = {f"kernel_error/{one.arm}/seed1": one.kernel_error for one in found}
    losses = {f"loss/{one.arm}/seed1": one.loss for one in found}
    write_table(run / "metrics.csv", [{"step": step, **errors, **losses} for step in (0, 20)])
    words = [f"target.name={target}", "inputs.name=pink", f"fit.steps={steps}", "fit.seeds=1"]
    with initialize_config_module("rdtrain.conf", version_base="1.3"):
        OmegaConf.save(compose("kernels", overrides=words), run / "config.yaml")
    return run


def test_without_controls_nothing_is_said_of_them(tmp_path: Path) -> None:
    write_leaderboard([_fit(tmp_path, "a"), _fit(tmp_path, "b", "random")], tmp_path / "out")
    said = (tmp_path / "out" / "leaderboard.md").read_text()
    assert (
        "- wins: a smaller error than plain in every repetition" in said
        and "control" not in said.partition("- wins")[2]
    )
    assert f",{LOSS}," in (tmp_path / "out" / "cells.csv").read_text()


def test_fits_from_before_take_part_if_they_are_alike_but_for_their_cells(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fits = [
        _fit(tmp_path, "a"), _fit(tmp_path, "b", "random"), _fit(tmp_path, "c", "smoothing", steps=40),
        _fit(tmp_path, "d", "edge"), _fit(tmp_path, "e", "random"),
    ]  # fmt: skip
    points = [Point(fit.name, fit.name, (), "0" * 12, kind="kernels") for fit in fits]
    Plan(tmp_path).grown(points).write({})
    PRESENT.begin(points[:1])
    config = OmegaConf.create({"paths": {"runs": str(tmp_path)}, "task": "kernels", "launcher": {"name": "local"}})
    LeaderboardRecord().on_multirun_end(config)
    said = capsys.readouterr()
    assert said.err == "" and PRESENT.code == 0 and said.out.startswith("of earlier commands: e\n")
    with open(tmp_path / "leaderboard" / "cells.csv", newline="") as file:
        assert [(row["target"], row["arm"]) for row in csv.DictReader(file)] == [
            ("edge", "rfft"), ("edge", "plain"), ("random", "rfft"), ("random", "plain"),
        ]  # fmt: skip
    PRESENT.begin()


def test_fits_that_differ_in_another_key_are_not_taken_for_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The table of the sweep comes all the same, and the command does not end well."""
    points = [Point(name, _fit(tmp_path, name).name, (), "0" * 12, kind="kernels") for name in "ab"]
    Plan(tmp_path).grown(points).write({})
    PRESENT.begin(points)
    config = OmegaConf.create({"paths": {"runs": str(tmp_path)}, "task": "kernels", "launcher": {"name": "local"}})
    LeaderboardRecord().on_multirun_end(config)
    assert "no leaderboard: several fits of edge, pink, Adam 0.001 differ in other keys" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stop:
        SweepRecord().on_multirun_end(config)
    assert stop.value.code == 2 and "2 points: 2 finished" in capsys.readouterr().out
    PRESENT.begin()
