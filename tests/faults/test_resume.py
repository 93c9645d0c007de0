"""A run that is interrupted anywhere and started again is the run that was not interrupted, bit by bit."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from rdtrain import build, checkpoint
from rdtrain.config.schema import Config
from rdtrain.interruption import Interrupted
from rdtrain.run_folder import RunFolder
from rdtrain.train import train

Configure = Callable[..., Config]
Compare = Callable[[RunFolder, RunFolder], list[str]]
# Everything that has a state: switch, moving average, accumulated gradients, early stopping, plateau.
EVERYTHING = (
    "conv.switch.trigger=epoch", "conv.switch.at=2", "conv.switch.moments=shadow", "engine.ema_decay=0.9",
    "engine.accumulate=2", "engine.num_epochs=3", "scheduler.net.patience=0", "scheduler.net.threshold=0.5",
    "ledger.every_n_steps=2", "dataset.batch_size=2", "infer.every_n_epochs=1",
)  # fmt: skip
STEPS = 9


class _StopAt:
    """Makes the next run get a signal in the middle of an epoch, and stop after that step."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.patch = monkeypatch

    def __call__(self, config: Config, step: int, loader: str = "train") -> None:
        from catalyst import dl

        class Signal(dl.Callback):
            def on_batch_end(self, runner: Any) -> None:
                if runner.steps == step and runner.loader_key == loader:
                    signal.raise_signal(signal.SIGTERM)

        made = build.callbacks
        with self.patch.context() as patch:
            patch.setattr(build, "callbacks", lambda config: {**made(config), "signal": Signal(order=1)})
            with pytest.raises(Interrupted):
                train(config)


@pytest.fixture
def stop_at(monkeypatch: pytest.MonkeyPatch) -> _StopAt:
    return _StopAt(monkeypatch)


@pytest.fixture
def whole(configure: Configure, tmp_path: Path) -> RunFolder:
    """The run that nobody interrupts, out of the way of the others."""
    folder = train(configure(*EVERYTHING))
    folder.path.rename(tmp_path / "whole")
    return RunFolder(tmp_path / "whole")


def test_after_every_step(configure: Configure, whole: RunFolder, stop_at: _StopAt, compare: Compare) -> None:
    """One run that is interrupted after each of its steps, the switch among them."""
    config = configure(*EVERYTHING)
    folder = whole
    for step in range(1, STEPS + 1):
        stop_at(config, step)
        folder = RunFolder(next(Path(config.paths.runs).iterdir()))
        assert folder.read_summary()["status"] == "interrupted"
        assert checkpoint.read(folder.last)["steps"] == step
    assert train(config).path == folder.path
    assert compare(whole, folder) == []


@pytest.mark.parametrize("loader", ["valid", "infer"])
def test_while_the_model_is_looked_at(
    configure: Configure, whole: RunFolder, stop_at: _StopAt, compare: Compare, loader: str
) -> None:
    config = configure(*EVERYTHING)
    for step in (3, 6, 9):
        stop_at(config, step, loader)
    assert compare(whole, train(config)) == []


def test_with_data_loading_processes_and_a_step_scheduler(
    configure: Configure, stop_at: _StopAt, compare: Compare, tmp_path: Path
) -> None:
    options = ("scheduler=onecycle", "conv.switch.trigger=never", "engine.epoch_steps=4")
    without = train(configure(*options, "dataset.workers=0"))
    without.path.rename(tmp_path / "whole")
    config = configure(*options, "dataset.workers=1")  # another id, since workers are a setting
    for step in (2, 3, 6):
        stop_at(config, step)
    assert compare(RunFolder(tmp_path / "whole"), train(config)) == ["state.run_id"]


@pytest.mark.parametrize("part", ["random", "means", "samples", "optimizer", "scheduler", "callbacks", "ema", "best"])
def test_a_part_of_the_state_that_is_left_out_shows(
    configure: Configure, whole: RunFolder, stop_at: _StopAt, compare: Compare, part: str
) -> None:
    """The negative control: what `test_after_every_step` compares would notice."""
    config = configure(*EVERYTHING)
    stop_at(config, 5)
    folder = RunFolder(next(Path(config.paths.runs).iterdir()))
    state = checkpoint.read(folder.last)
    own = state["within_epoch"]["processes"][0]
    fresh = build.optimizers(config, build.model(config, None))["net"]
    if part == "random":
        own["random"]["torch"] = torch.Generator().manual_seed(99).get_state()
    elif part == "means":
        own["means"] = []
    elif part == "samples":
        own["samples"] -= 2
    elif part == "optimizer":
        state["optimizer"]["net"]["state"] = {}
    elif part == "scheduler":
        state["scheduler"]["net"] = build.schedulers(config, {"net": fresh}, 3)["net"].state_dict()
    elif part == "callbacks":
        for tracked in state["callbacks"]["switch"]["shadow"].values():
            tracked.update({key: value / 2 for key, value in tracked.items() if isinstance(value, torch.Tensor)})
    elif part == "ema":
        state["ema"] = {f"module.{name}": value for name, value in state["model"].items()} | {
            "n_averaged": state["ema"]["n_averaged"]
        }
    elif part == "best":
        state["best"] = {"value": -1.0, "epoch": 1}
    torch.save(state, folder.last)
    assert compare(whole, train(config)) != []


def test_tensorboard_shows_one_curve(configure: Configure, stop_at: _StopAt) -> None:
    config = configure("engine.num_epochs=3", "checkpoint.every_n_steps=2", "logger.tensorboard.every_n_steps=1")
    for step in (2, 4, 5):
        stop_at(config, step)
    events = EventAccumulator(str(train(config).tensorboard), size_guidance={"scalars": 0})
    events.Reload()
    assert [event.step for event in events.Scalars("train_steps/loss/forward/unclamped")] == list(range(1, 10))
    assert [event.step for event in events.Scalars("valid/loss/forward/unclamped")] == [3, 6, 9]


def test_a_damaged_checkpoint_is_noticed_and_the_best_one_used(
    configure: Configure, whole: RunFolder, stop_at: _StopAt, compare: Compare, capsys: pytest.CaptureFixture[str]
) -> None:
    config = configure(*EVERYTHING)
    stop_at(config, 8)
    folder = RunFolder(next(Path(config.paths.runs).iterdir()))
    content = bytearray(folder.last.read_bytes())
    content[len(content) // 2] ^= 1
    folder.last.write_bytes(content)
    capsys.readouterr()
    train(config)
    assert "the run goes on from best.pt, after epoch" in capsys.readouterr().out
    assert compare(whole, folder) == []


def test_another_number_of_processes_is_refused(configure: Configure, stop_at: _StopAt) -> None:
    from rdtrain.errors import UserError

    config = configure()
    stop_at(config, 2)
    (path,) = Path(config.paths.runs).iterdir()
    state = checkpoint.read(path / "checkpoints" / "last.pt")
    state["within_epoch"]["processes"] *= 2
    torch.save(state, path / "checkpoints" / "last.pt")
    with pytest.raises(UserError, match="interrupted within an epoch of 2 process"):
        train(config)
