"""Runs that begin with spectral convs and go on with plain ones."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable
from functools import partialmethod
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from catalyst import dl
from rdtrain.callbacks import SpectralSwitch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from rdtrain import build, checkpoint
from rdtrain.config.schema import Config
from rdtrain.conv.transforms import Dct
from rdtrain.report.curve_figures import loss_figures
from rdtrain.report.figures import Plot
from rdtrain.report.runs import Run
from rdtrain.run_folder import RunFolder
from rdtrain.train import train

Configure = Callable[..., Config]
# An improvement of 99 % never comes, so every epoch after the first is bad: a stock scheduler drops after epoch 3.
PLATEAU = ("engine.num_epochs=5", "scheduler.net.patience=1", "scheduler.net.threshold=0.99", "infer.every_n_epochs=9")


def _column(folder: RunFolder, name: str, loader: str = "train") -> list[float]:
    with open(folder.metrics, newline="") as file:
        return [float(row[name]) for row in csv.DictReader(file) if row["loader"] == loader]


def _summary(folder: RunFolder) -> dict:
    return json.loads(folder.summary.read_text())


class _Stop(dl.Callback):
    def __init__(self, epoch: int) -> None:
        super().__init__(order=99)
        self.epoch = epoch

    def on_epoch_end(self, runner: dl.IRunner) -> None:
        if runner.epoch_step == self.epoch:
            raise KeyboardInterrupt


def _train_until(config: Config, epoch: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        callbacks = build.callbacks
        patch.setattr(build, "callbacks", lambda config: {**callbacks(config), "stop": _Stop(epoch)})
        with pytest.raises(KeyboardInterrupt):
            train(config)


def test_the_switch_comes_where_a_stock_scheduler_drops_first(configure: Configure) -> None:
    untouched = train(configure(*PLATEAU, "conv=plain"))
    assert _column(untouched, "lr/net") == pytest.approx([1e-3, 1e-3, 1e-3, 1e-4, 1e-4])

    absorbed = train(configure(*PLATEAU))
    assert _column(absorbed, "conv/spectral") == [1, 1, 1, 0, 0]
    assert _column(absorbed, "lr/net") == pytest.approx([1e-3] * 5)
    switch = _summary(absorbed)["switch"]
    assert (switch["epoch"], switch["step"], switch["convs"]) == (3, 9, 8)
    assert switch["loss"] == _column(absorbed, "loss/forward/unclamped", "valid")[2]
    assert switch["update_norm_after"] == pytest.approx(switch["update_norm_before"], rel=0.5)

    applied = train(configure(*PLATEAU, "conv.switch.on_drop=apply"))
    assert _column(applied, "conv/spectral") == [1, 1, 1, 0, 0]
    assert _column(applied, "lr/net") == pytest.approx([1e-3, 1e-3, 1e-3, 1e-4, 1e-4])


def test_after_an_absorbed_drop_the_next_one_comes_after_a_fresh_patience(configure: Configure) -> None:
    # Epoch 3 is the fresh scheduler's best; epochs 4 and 5 are bad, and patience is 1.
    folder = train(configure(*PLATEAU, "engine.num_epochs=6"))
    assert _column(folder, "lr/net") == pytest.approx([1e-3] * 5 + [1e-4])


def test_lead_and_epoch_and_never(configure: Configure) -> None:
    assert _column(train(configure(*PLATEAU, "conv.switch.lead=1")), "conv/spectral") == [1, 1, 0, 0, 0]
    at = ("conv.switch.trigger=epoch", "conv.switch.at=1")
    assert _column(train(configure(*PLATEAU, *at)), "conv/spectral") == [1, 0, 0, 0, 0]
    assert _column(train(configure(*PLATEAU, "conv.switch.trigger=never")), "conv/spectral") == [1] * 5


def test_plain_and_spectral_begin_as_the_same_function(configure: Configure) -> None:
    frozen = ("engine.num_epochs=1", "optimizer=sgd", "optimizer.net.lr=0.0", "optimizer.aux.lr=0.0")
    forms = (
        "conv=plain",
        "conv.transform=rfft",
        "conv.transform=rdft",
        "conv.transform=dct",
        "conv.transform=attenuated",
    )
    never = "conv.switch.trigger=never"
    losses = [_column(train(configure(*frozen, never, form)), "loss/forward/unclamped") for form in forms]
    for loss in losses[1:]:
        assert loss == pytest.approx(losses[0], rel=1e-6)


def test_the_switch_is_an_event_in_tensorboard(configure: Configure) -> None:
    folder = train(configure(*PLATEAU))
    events = EventAccumulator(str(folder.tensorboard))
    events.Reload()
    assert [event.value for event in events.Scalars("conv/spectral")] == [1, 1, 1, 0, 0]
    (text,) = events.Tensors("conv/switch/text_summary")
    assert text.step == 9
    assert "convs: 8" in text.tensor_proto.string_val[0].decode()


def test_a_run_without_a_plateau_says_so_and_exports_plain(configure: Configure) -> None:
    folder = train(configure())
    assert "the run ended before its switch" in _summary(folder)["warnings"][0]
    assert _summary(folder)["switch"] is None
    exported = torch.load(folder.exported, weights_only=True)
    assert exported["g_a.0.weight"].shape == (4, 3, 5, 5)
    assert not [key for key in exported if "transformed" in key]


def test_a_switch_in_the_last_epoch_is_in_the_runs_own_figures_and_events(
    configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rdtrain.callbacks import figures

    marked: list[list[float]] = []

    def watched(runs: list[Run], names: dict[Path, str], against: str) -> list[Plot]:
        plots = loss_figures(runs, names, against)
        lines = [line for axes in plots[0].figure.axes for line in axes.lines if "switch" in str(line.get_label())]
        marked.append([line.get_xdata()[0] for line in lines])
        return plots

    monkeypatch.setattr(figures, "loss_figures", watched)
    last = ("conv.switch.trigger=epoch", "conv.switch.at=2", "logger.figures={_target_: rdtrain.callbacks.Figures}")
    folder = train(configure(*last))
    assert marked == [[6.0, 6.0, 6.0]]  # in each panel; epoch 2 ends with step 6
    assert _column(folder, "conv/spectral") == [1, 1]  # of the training of that epoch
    events = EventAccumulator(str(folder.tensorboard))
    events.Reload()
    (text,) = events.Tensors("conv/switch/text_summary")
    assert text.step == 6
    assert _summary(folder)["switch"]["epoch"] == 2


def test_only_the_main_process_prints_that_the_switch_never_came(
    configure: Configure, capsys: pytest.CaptureFixture[str]
) -> None:
    for main in (True, False):
        runner: Any = SimpleNamespace(
            config=configure(),
            switch_pending=True,
            warnings=[],
            engine=SimpleNamespace(is_main_process=main),
        )
        SpectralSwitch().on_experiment_end(runner)
        assert "before its switch" in runner.warnings[0]
        assert capsys.readouterr().out.count("before its switch") == int(main)


@pytest.mark.parametrize("optimizer", ["Adamax", "RMSprop", "Adafactor"])
def test_any_optimizer_switches_with_its_memory_reset(configure: Configure, optimizer: str) -> None:
    target = f"optimizer.net._target_=torch.optim.{optimizer}"
    at = ("conv.switch.trigger=epoch", "conv.switch.at=1", "conv.switch.moments=reset")
    switch = _summary(train(configure(target, *at)))["switch"]
    assert switch["convs"] == 8
    assert min(switch["update_norm_before"], switch["update_norm_after"]) > 0


def test_kernels_that_a_checkpoint_loses_are_told(configure: Configure, capsys: pytest.CaptureFixture[str]) -> None:
    start = train(configure("conv=plain", "engine.num_epochs=1")).exported
    begun = (f"model.checkpoint={start}", "engine.num_epochs=1", "conv.switch.trigger=never", "conv.transform=dct")
    folder = train(configure(*begun, "conv.dct.coefficients=6"))
    (warning,) = _summary(folder)["warnings"]
    lost = total = 0.0
    for name, weight in torch.load(start, weights_only=True).items():
        if weight.dim() == 4:
            kernels = weight.double().flatten(2).numpy()
            kept = kernels @ Dct(6).basis((5, 5)).T
            total += (kernels**2).sum()
            lost += (kernels**2).sum() - (kept**2).sum()
            assert weight.shape[2:] == (5, 5), name
    assert f"lost {(lost / total) ** 0.5:.1%} of their norm" in warning
    assert "type conv.dct.coefficients=null" in warning
    assert capsys.readouterr().out.count(warning) == 1
    for whole in ("conv.dct.coefficients=null", "conv.dct.coefficients=25"):
        assert _summary(train(configure(*begun, whole)))["warnings"] == []


def test_early_stopping_waits_for_the_switch_and_starts_anew(configure: Configure) -> None:
    # Alone it would stop after epoch 2; the switch comes after epoch 3, which is the first of a fresh count.
    options = ("engine.num_epochs=9", "callbacks.early_stopping.patience=0", "callbacks.early_stopping.threshold=0.99")
    folder = train(configure(*PLATEAU, *options))
    assert _summary(folder)["epochs"] == 4
    assert _summary(train(configure(*PLATEAU, *options, "conv=plain")))["epochs"] == 2


def _same(a: object, b: object) -> bool:
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(_same(x, y) for x, y in zip(a, b, strict=True))  # type: ignore[arg-type]
    return a == b or (isinstance(a, float) and math.isnan(a))


@pytest.mark.parametrize("moments", ["transfer", "shadow", "reset"])
def test_resuming_before_at_and_after_the_switch(configure: Configure, tmp_path: Path, moments: str) -> None:
    def config() -> Config:
        return configure(*PLATEAU, f"conv.switch.moments={moments}", "engine.ema_decay=0.9")

    whole = train(config())
    expected = checkpoint.read(whole.last)
    for epoch in (2, 3, 4):
        whole.path.rename(tmp_path / f"until-{epoch}")
        _train_until(config(), epoch)
        assert train(config()).path == whole.path
        state = checkpoint.read(whole.last)
        for key in ("model", "ema", "optimizer", "scheduler", "callbacks", "best", "switched_at"):
            assert _same(state[key], expected[key]), (epoch, key)


def test_moments_that_are_kept_make_another_run_than_moments_that_are_reset(configure: Configure) -> None:
    kinds = ("transfer", "shadow", "reset")
    ends = [checkpoint.read(train(configure(*PLATEAU, f"conv.switch.moments={kind}")).last)["model"] for kind in kinds]
    for i, j in ((0, 1), (0, 2), (1, 2)):
        assert not torch.equal(ends[i]["g_a.0.weight"], ends[j]["g_a.0.weight"])


@pytest.mark.parametrize("option", ["engine.precision=bf16", "engine.accumulate=2", "engine.channels_last=false"])
def test_the_switch_works_with(option: str, configure: Configure) -> None:
    folder = train(configure(*PLATEAU, option, "conv.switch.moments=shadow"))
    assert _column(folder, "conv/spectral") == [1, 1, 1, 0, 0]
    losses = _column(folder, "loss/forward/unclamped", "valid")
    assert losses[3] == pytest.approx(losses[2], rel=0.3)


@pytest.mark.slow
def test_a_compiled_model_is_compiled_once_more_at_the_switch(configure: Configure) -> None:
    from torch._dynamo.utils import counters

    graphs = []

    class Count(dl.Callback):
        def on_epoch_end(self, runner: dl.IRunner) -> None:
            graphs.append(counters["stats"]["unique_graphs"])

    counters.clear()
    at = ("conv.switch.trigger=epoch", "conv.switch.at=2", "engine.num_epochs=4", "infer.every_n_epochs=9")
    with pytest.MonkeyPatch.context() as patch:
        callbacks = build.callbacks
        patch.setattr(build, "callbacks", lambda config: {**callbacks(config), "count": Count(order=99)})
        # As many graphs as of inductor, without the minute in its compiler; test_precision.py goes through that one.
        patch.setattr(nn.Module, "compile", partialmethod(nn.Module.compile, backend="aot_eager"))
        folder = train(configure(*at, "engine.compile=true", "ledger.every_n_steps=null"))
    assert _column(folder, "conv/spectral") == [1, 1, 0, 0]
    assert 0 < graphs[0] == graphs[1] < graphs[2] == graphs[3] <= 2 * graphs[0]
    eager = train(configure(*at, "engine.compile=false", "ledger.every_n_steps=null"))
    losses = [_column(one, "loss/forward/unclamped", "valid") for one in (folder, eager)]
    assert losses[0] == pytest.approx(losses[1], rel=0.05)
