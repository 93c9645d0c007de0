"""Infer passes that cost less than all images with bitstreams."""

from __future__ import annotations

import csv
from collections.abc import Callable

import pytest

from rdtrain.config.schema import Config
from rdtrain.errors import UserError
from rdtrain.run_folder import RunFolder
from rdtrain.train import train

Configure = Callable[..., Config]


def _infer_rows(folder: RunFolder) -> list[dict[str, str]]:
    with open(folder.metrics, newline="") as file:
        return [row for row in csv.DictReader(file) if row["loader"] == "infer"]


def test_a_context_model_writes_bitstreams_at_the_best_epochs_and_the_last(
    configure: Configure, capsys: pytest.CaptureFixture[str]
) -> None:
    """A rate of zero makes no epoch better than the first."""
    config = configure(
        "model.name=mbt2018", "model.coder=compressai", "infer.every_n_epochs=1", "engine.num_epochs=3",
        "engine.epoch_steps=1",
        "optimizer=sgd", "optimizer.net.lr=0.0", "optimizer.aux.lr=0.0", "conv=plain", "dataset.valid_crops=2",
        "dataset.patch_size=64",
    )  # fmt: skip
    folder = train(config)
    rows = _infer_rows(folder)
    assert [bool(row["bpp/real"]) for row in rows] == [True, False, True]
    assert all(row["bpp/forward"] for row in rows)
    said = capsys.readouterr().out
    assert said.count("forward only, since mbt2018 codes pixel by pixel") == 1
    assert "infer of epoch 2" in said


def test_a_pass_that_runs_out_of_time_says_so(configure: Configure, capsys: pytest.CaptureFixture[str]) -> None:
    folder = train(configure("infer.max_images=3", "infer.max_seconds=1e-6"))
    assert "stopped after 1 of 2 images (infer.max_seconds=1e-06)" in capsys.readouterr().out
    (row,) = _infer_rows(folder)
    assert float(row["mse/real/clamped"]) == float(row["mse/forward/clamped"])


def test_running_everything_twice_gives_the_same_numbers(configure: Configure) -> None:
    (shared,) = _infer_rows(train(configure("ledger.mode=shared")))
    (full,) = _infer_rows(train(configure("ledger.mode=full")))
    for name, value in shared.items():
        if not name.startswith("time/"):
            assert full[name] == value, name


def test_the_best_epoch_is_not_known_before_infer(configure: Configure) -> None:
    with pytest.raises(UserError, match=r"infer\.real=always"):
        train(configure("infer.real=best", "runner.monitor=infer/loss/real/clamped", "infer.every_n_epochs=1"))
