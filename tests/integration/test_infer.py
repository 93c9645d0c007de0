"""Infer passes that cost less than all images with bitstreams."""

from __future__ import annotations

import csv
from collections.abc import Callable
from typing import Any

import pytest
from rdtrain.runners import image_compression

from rdtrain.config.schema import Config
from rdtrain.errors import UserError
from rdtrain.probes import Undecodable
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


def test_a_bitstream_that_this_device_cannot_decode_ends_no_run(
    configure: Configure, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    inner, real = image_compression.evaluate_image, []

    def evaluate_image(*args: Any) -> Any:
        real.append(args[-1])
        if real == [True]:
            raise Undecodable("other parameters")
        return inner(*args)

    monkeypatch.setattr(image_compression, "evaluate_image", evaluate_image)
    (row,) = _infer_rows(train(configure("engine.num_epochs=1", "infer.max_images=3")))
    assert real[:2] == [True, False] and all(real[2:]) and row["bpp/real"] and row["bpp/forward"]
    assert "bitstreams of 1 image(s) cannot be decoded here" in capsys.readouterr().out


def test_a_monitor_without_any_decoded_bitstream_is_told(configure: Configure, monkeypatch: pytest.MonkeyPatch) -> None:
    inner = image_compression.evaluate_image

    def evaluate_image(*args: Any) -> Any:
        if args[-1]:
            raise Undecodable("other parameters")
        return inner(*args)

    monkeypatch.setattr(image_compression, "evaluate_image", evaluate_image)
    with pytest.raises(UserError, match="no bitstream of infer can be decoded on this device"):
        train(configure("infer.real=always", "runner.monitor=infer/loss/real/clamped", "infer.every_n_epochs=1"))
