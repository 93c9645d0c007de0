"""The report during a training, and the configuration keys that change how a model is trained."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from compressai.models import FactorizedPrior
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from rdtrain.config.schema import Config
from rdtrain.report import figures
from rdtrain.report.cli import main
from rdtrain.run_folder import RunFolder
from rdtrain.train import train

Configure = Callable[..., Config]
WITHOUT = "logger.entropy_report=null"


def _weights(folder: RunFolder) -> dict[str, torch.Tensor]:
    return torch.load(folder.exported, weights_only=True)


def _column(folder: RunFolder, loader: str, name: str) -> list[float]:
    with open(folder.metrics, newline="") as file:
        return [float(row[name]) for row in csv.DictReader(file) if row["loader"] == loader and row[name]]


@pytest.mark.slow
def test_a_run_reports_and_trains_as_without_it(configure: Configure, tmp_path: Path) -> None:
    report = "logger.entropy_report={_target_: rdtrain.callbacks.EntropyReport, images: 1, channels: 4}"
    same = ("infer.every_n_epochs=1", "logger.figures=null")
    folder = train(configure(*same, report))
    other = train(configure(*same, WITHOUT, f"paths.runs={tmp_path / 'other'}"))
    assert folder.id == other.id
    for name, value in _weights(folder).items():
        assert torch.equal(value, _weights(other)[name])
    drawn = {file.stem for file in folder.figures.glob("entropy-*.png")}
    kinds = ("channels", "symbols", "tail")
    assert drawn == {"entropy-parts", *(f"entropy-{kind}-entropy-bottleneck" for kind in kinds)}
    assert not list(other.figures.glob("entropy-*.png"))
    events = EventAccumulator(str(folder.tensorboard), size_guidance={"images": 0, "tensors": 0})
    events.Reload()
    assert {f"entropy/{name.removeprefix('entropy-')}" for name in drawn} <= set(events.Tags()["images"])
    assert len(events.Images("entropy/parts")) == 2
    (first, last) = events.Tensors("entropy/parts/text_summary")
    assert first.step < last.step
    assert "| image |" in last.tensor_proto.string_val[0].decode()
    assert "entropy/models/text_summary" in events.Tags()["tensors"]


@pytest.mark.slow
def test_the_command_reads_a_run_and_its_images(
    configure: Configure, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(figures, "PAPER_DPI", 20)
    folder = train(configure(WITHOUT))
    threads = torch.get_num_threads()
    try:
        assert main(["entropy", str(folder.path), "--max-images", "1"]) == 0
    finally:
        torch.set_num_threads(threads)
    assert (folder.path / "entropy" / "entropy.html").is_file()
    with open(folder.path / "entropy" / "tables" / "parts.csv", newline="") as file:
        (row,) = csv.DictReader(file)
    header, pixels = float(row["header [bit]"]), float(row["pixels"])
    real = _column(folder, "infer", "bpp/real")[-1]  # of the last epoch, which is the best one of this run
    assert (float(row["file [bit]"]) - header) / pixels == pytest.approx(real, rel=1e-5)
    assert row["image"] in capsys.readouterr().out


@pytest.mark.parametrize("quantizer", ["noise", "ste", "mixed"])
def test_three_distortions_are_logged_whatever_is_trained_with(configure: Configure, quantizer: str) -> None:
    config = configure(WITHOUT, f"model.quantizer={quantizer}", "ledger.every_n_steps=1", "engine.num_epochs=1")
    folder = train(config)
    noise, rounded, ste = (_column(folder, "train", f"mse/{path}/unclamped")[0] for path in ("noise", "round", "ste"))
    trained = _column(folder, "train", "mse/forward/unclamped")[0]
    assert rounded == ste != noise
    assert trained == pytest.approx(noise if quantizer == "noise" else rounded, rel=1e-6)
    rate = _column(folder, "train", "bpp/forward")[0]
    assert rate == pytest.approx(
        _column(folder, "train", f"bpp/{'round' if quantizer == 'ste' else 'noise'}")[0], rel=0.02
    )


@pytest.mark.slow
def test_quantizers_train_different_weights_that_stock_compressai_loads(configure: Configure, tmp_path: Path) -> None:
    runs = {
        key: train(configure(WITHOUT, key, "engine.num_epochs=1"))
        for key in (
            "model.quantizer=noise",
            "model.quantizer=ste",
            "model.quantizer=mixed",
            "model.stable_likelihood=true",
        )
    }
    assert len({folder.id for folder in runs.values()}) == 4
    first = [_weights(folder)["g_a.0.weight"].double().numpy() for folder in runs.values()]
    for i in range(1, 3):
        assert np.abs(first[0] - first[i]).max() > 1e-4
    np.testing.assert_allclose(first[3], first[0], atol=1e-4)  # no latent is in a tail
    for folder in runs.values():
        FactorizedPrior.from_state_dict(_weights(folder))
