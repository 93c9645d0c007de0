"""NaN that is put into a training: what is kept, where the run goes back to, and that it stays exact."""

from __future__ import annotations

import contextlib
import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from catalyst import dl

from rdtrain import build, checkpoint
from rdtrain.config.schema import Config
from rdtrain.errors import UserError
from rdtrain.health import StepGuard
from rdtrain.probes import LatentOverflow
from rdtrain.run_folder import RunFolder
from rdtrain.train import train

Configure = Callable[..., Config]
Compare = Callable[[RunFolder, RunFolder], list[str]]
SMALL = (
    "dataset.batch_size=2", "engine.num_epochs=3", "conv.switch.trigger=epoch", "conv.switch.at=2",
    "scheduler.net.patience=9", "infer.every_n_epochs=9",
)  # fmt: skip
LR = 1e-3  # of experiment=quickstart


class Killed(BaseException):
    """Ends the process's work at once: nothing that a run does at its end is done."""


class Fault(dl.Callback):
    """Does something at chosen steps, in the middle of the backward pass of a step or between two."""

    def __init__(self, at: Callable[[Any], bool], act: Callable[[Any], None]) -> None:
        super().__init__(order=1)
        self.at, self.act = at, act

    def on_batch_start(self, runner: Any) -> None:
        if runner.is_train_loader and self.at(runner):
            self.act(runner)


def poison_gradient(runner: Any) -> None:
    parameter = runner.net.g_a[0].bias
    handle = parameter.register_hook(lambda grad: (handle.remove(), torch.full_like(grad, math.nan))[1])


def poison_weights(runner: Any) -> None:
    runner.net.g_a[0].bias.data[0] = math.nan


def kill(runner: Any) -> None:
    raise Killed


def lr(runner: Any) -> float:
    return runner.optimizer["net"].param_groups[0]["lr"]


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Put faults into all trainings that follow."""
    made = build.callbacks

    def put(*faults: tuple[Callable[[Any], bool], Callable[[Any], None]]) -> None:
        extra = {f"fault{i}": Fault(*fault) for i, fault in enumerate(faults)}
        monkeypatch.setattr(build, "callbacks", lambda config: {**made(config), **extra})

    return put


def _events(folder: RunFolder) -> list[dict[str, Any]]:
    return json.loads(folder.summary.read_text())["events"]


def _at(step: int) -> Callable[[Any], bool]:
    return lambda runner: runner.steps == step and lr(runner) == LR


@pytest.mark.parametrize(
    ("step", "back_to", "every"), [(1, 0, "null"), (4, 3, "null"), (4, 4, "2")], ids=["first-epoch", "epoch", "within"]
)
def test_a_run_rolls_back_and_goes_on_with_a_lower_rate(
    configure: Configure, broken: Callable[..., None], step: int, back_to: int, every: str
) -> None:
    config = configure(*SMALL, f"checkpoint.every_n_steps={every}")
    broken((_at(step), poison_gradient))
    folder = train(config)
    (event,) = _events(folder)
    assert (event["kind"], event["step"], event["back_to"]) == ("rollback", step, back_to)
    summary = json.loads(folder.summary.read_text())
    assert summary["status"] == "finished" and summary["steps"] == 9
    assert summary["final"]["train/lr/net"] == LR / 2
    assert any("went back to step" in warning for warning in summary["warnings"])
    assert checkpoint.read(folder.last)["optimizer"]["net"]["param_groups"][0]["lr"] == LR / 2
    kept = torch.load(folder.path / "health" / f"step-{step + 1}.pt", weights_only=True)
    assert kept["gradients"] == ["g_a.0.bias"]
    assert [(*x.shape, x.dtype) for x in kept["x"]] == [(2, 3, 64, 64, torch.uint8)]
    assert math.isnan(kept["grad_norm"]) and math.isfinite(kept["terms"][0]["loss/forward/unclamped"])


@pytest.mark.parametrize("kill_at", [5, *(pytest.param(step, marks=pytest.mark.slow) for step in (4, 7))])
def test_a_run_that_rolled_back_and_was_killed_is_the_one_that_was_not(
    configure: Configure, broken: Callable[..., None], compare: Compare, tmp_path: Path, kill_at: int
) -> None:
    config = configure(*SMALL, "checkpoint.every_n_steps=2", "engine.ema_decay=0.9", "scheduler.net.patience=0")
    broken((_at(5), poison_gradient))
    train(config).path.rename(tmp_path / "whole")
    alive = [True]

    def once(runner: Any) -> bool:
        return alive[0] and runner.steps == kill_at and lr(runner) < LR

    broken((_at(5), poison_gradient), (once, kill))
    with pytest.raises(Killed):
        train(config)
    alive[0] = False
    assert compare(RunFolder(tmp_path / "whole"), train(config)) == []


@pytest.mark.slow
def test_a_run_without_nan_is_the_same_whatever_the_policy(
    configure: Configure, compare: Compare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also with the check that is read one step late, as on a CUDA device."""
    options = (*SMALL, "engine.accumulate=2", "ledger.every_n_steps=1")
    whole = train(configure(*options))
    skip = train(configure(*options, "health.on_nan=skip"))
    assert compare(whole, skip) == ["state.run_id"]
    guard = StepGuard.__init__
    monkeypatch.setattr(StepGuard, "__init__", lambda self, late: guard(self, True))
    assert compare(whole, train(configure(*options, "health.on_nan=stop"))) == ["state.run_id"]


@pytest.mark.slow
def test_what_is_read_late_never_reaches_a_checkpoint(
    configure: Configure, broken: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    guard = StepGuard.__init__
    monkeypatch.setattr(StepGuard, "__init__", lambda self, late: guard(self, True))
    for step in (1, 2):  # before a step without, and before the one with a checkpoint
        config = configure(*SMALL, "checkpoint.every_n_steps=3", f"seed={step}")
        broken((_at(step), poison_gradient))
        folder = train(config)
        (event,) = _events(folder)
        assert event["back_to"] == 0
        kept = torch.load(folder.path / "health" / f"step-{step + 1}.pt", weights_only=True)
        assert kept["step"] == step + 1 and math.isnan(kept["grad_norm"]) and kept["gradients"] == []


def test_steps_are_skipped_and_counted(configure: Configure, broken: Callable[..., None]) -> None:
    config = configure(*SMALL, "health.on_nan=skip", "engine.accumulate=2", "conv.switch.at=3")
    before: list[dict[str, torch.Tensor]] = []
    hits = [0]

    def twice(runner: Any) -> bool:
        hits[0] += runner.steps == 4
        if runner.steps == 4:
            before.append({name: value.clone() for name, value in runner.net.state_dict().items()})
        return runner.steps == 4 and hits[0] <= 4  # four batches are two steps

    broken((twice, poison_gradient))
    folder = train(config)
    (event,) = _events(folder)
    assert event["kind"] == "skip" and event["step"] == 4
    summary = json.loads(folder.summary.read_text())
    assert summary["steps"] == 7 and summary["final"]["train/health/skipped"] == 2
    assert summary["final"]["train/lr/net"] == LR
    assert all(torch.equal(before[0][name], before[4][name]) for name in before[0])  # nothing moved meanwhile
    assert math.isfinite(summary["final"]["train/loss/forward/unclamped"])


def test_too_many_skipped_steps_stop_the_run(configure: Configure, broken: Callable[..., None]) -> None:
    config = configure(*SMALL, "health.on_nan=skip", "health.skips=2", "engine.epoch_steps=4")
    broken((lambda runner: runner.steps >= 1, poison_gradient))
    with pytest.raises(
        UserError, match=r"the train loss of step 2 is .*: the run has diverged; try optimizer\.net\.lr"
    ):
        train(config)


def test_an_epoch_without_a_step_stops_the_run(configure: Configure, broken: Callable[..., None]) -> None:
    broken((lambda runner: runner.epoch_step == 2, poison_gradient))
    with pytest.raises(UserError, match="the train loss of epoch 2 is nan"):
        train(configure(*SMALL, "health.on_nan=skip"))


def test_stop_stops(
    configure: Configure, broken: Callable[..., None], folder_of: Callable[[Config], RunFolder]
) -> None:
    config = configure(*SMALL, "health.on_nan=stop")
    broken((_at(4), poison_weights))
    with pytest.raises(UserError, match="step 5 is nan, the norm of its gradient nan: the run has diverged; try"):
        train(config)
    folder = folder_of(config)
    assert folder.read_summary()["status"] == "failed"
    assert checkpoint.read(folder.last)["steps"] == 3


def test_retries_are_bounded(
    configure: Configure, broken: Callable[..., None], folder_of: Callable[[Config], RunFolder]
) -> None:
    config = configure(*SMALL, "health.retries=2", "health.lr_factor=0.1")
    broken((lambda runner: runner.steps == 4, poison_gradient))
    with pytest.raises(UserError, match=r"after 2 rollbacks .*try optimizer\.net\.lr=0\.0001 .*its batches are in"):
        train(config)
    state = checkpoint.read(folder_of(config).last)
    assert state["optimizer"]["net"]["param_groups"][0]["lr"] == pytest.approx(LR / 100)
    with pytest.raises(UserError, match="after 2 rollbacks"):  # they are not forgotten
        train(config)


def test_weights_that_are_nan_in_the_checkpoint_are_not_gone_back_to(
    configure: Configure, broken: Callable[..., None], folder_of: Callable[[Config], RunFolder]
) -> None:
    config = configure(*SMALL)
    folder = folder_of(config)
    broken((lambda runner: runner.steps == 7, kill))
    with pytest.raises(Killed):
        train(config)
    broken()
    state = checkpoint.read(folder.last)
    best = checkpoint.read(folder.best)["steps"]
    state["model"]["g_a.0.bias"][0] = math.nan
    torch.save(state, folder.last)
    train(config)
    (event,) = _events(folder)
    assert (event["step"], event["back_to"]) == (6, best)
    assert folder.read_summary()["final"]["train/lr/net"] == LR / 2


def test_without_a_good_checkpoint_the_run_stops(
    configure: Configure, broken: Callable[..., None], folder_of: Callable[[Config], RunFolder]
) -> None:
    config = configure(*SMALL)
    folder = folder_of(config)
    broken((lambda runner: runner.steps == 4, kill))
    with pytest.raises(Killed):
        train(config)
    broken()
    for path in (folder.last, folder.best):
        state = checkpoint.read(path)
        state["model"]["g_a.0.bias"][0] = math.nan
        torch.save(state, path)
    with pytest.raises(UserError, match="and so have its checkpoints"):
        train(config)


@pytest.mark.slow
def test_a_checkpoint_that_leads_to_the_same_end_is_given_up_for_the_best_one(
    configure: Configure, broken: Callable[..., None], folder_of: Callable[[Config], RunFolder]
) -> None:
    """Weights that are finite and beyond repair, written within the epoch."""
    config = configure(*SMALL, "checkpoint.every_n_steps=1", "engine.num_epochs=4")
    broken((lambda runner: runner.steps == 4 and lr(runner) > LR / 4, poison_gradient))
    folder = train(config)
    first, second = _events(folder)
    assert (first["back_to"], second["back_to"]) == (4, 3)
    assert folder.read_summary()["final"]["train/lr/net"] == LR / 4


@pytest.mark.slow
@pytest.mark.parametrize("where", ["valid", "infer"])
def test_trouble_outside_of_training_counts_too(
    configure: Configure, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """A loss that is not finite on the valid images, and latents that cannot be coded."""
    import rdtrain.runners.image_compression as module

    config = configure(*SMALL, "infer.every_n_epochs=1")
    target = "forward_variants" if where == "valid" else "evaluate_image"
    working = getattr(module, target)
    calls = [0]

    def fail(*args: Any) -> Any:
        calls[0] += 1
        if calls[0] != 3:
            return working(*args)
        if where == "infer":
            raise LatentOverflow("latents are not finite")
        return {name: value * math.nan for name, value in working(*args).items()}

    monkeypatch.setattr(module, target, fail)
    folder = train(config)
    (event,) = _events(folder)
    assert event["kind"] == "rollback" and event["back_to"] == event["step"] - 3
    assert where in event["seen"]
    assert folder.read_summary()["status"] == "finished"


@pytest.mark.slow
def test_a_sick_training_is_told(configure: Configure) -> None:
    """The rate counts ten thousand times too much: nothing is sent any more, and densities outrun their quantiles."""
    config = configure(
        "conv=plain", "scheduler=constant", "criterion.lmbda=1e-7", "optimizer.net.lr=1e-2", "hp.N=8", "hp.M=12",
        "engine.num_epochs=9", "engine.epoch_steps=20", "dataset.batch_size=2", "infer.every_n_epochs=9",
    )  # fmt: skip
    folder = train(config)
    kinds = {event["kind"]: event for event in _events(folder)}
    assert {"collapse", "aux"} <= kinds.keys()
    warnings = folder.read_summary()["warnings"]
    assert len([warning for warning in warnings if "bit/pixel; hardly anything is sent" in warning]) == 1
    texts = _texts(folder)
    assert {f"health/{kind}" for kind in kinds} == {tag.split("/text_summary")[0] for tag in texts if "health/" in tag}


def test_a_rate_that_is_far_too_high_is_told(configure: Configure) -> None:
    config = configure(
        "conv=plain", "scheduler=constant", "optimizer.net.lr=0.3", "engine.num_epochs=6", "engine.epoch_steps=6",
        "dataset.batch_size=2", "infer.every_n_epochs=9", "infer.real=best", "health.lr_factor=1.0",
    )  # fmt: skip
    with contextlib.suppress(UserError):
        train(config)
    (folder,) = Path(config.paths.runs).iterdir()
    assert {event["kind"] for event in _events(RunFolder(folder))} & {"explosion", "rollback"}


POISON = """
import math
import torch
from catalyst import dl

class Poison(dl.Callback):
    def __init__(self, folder):
        super().__init__(order=1)
        self.folder = folder

    def on_batch_start(self, runner):
        own = runner.is_train_loader and runner.steps == 4 and runner.engine.process_index == 1
        if own and runner.optimizer["net"].param_groups[0]["lr"] == 1e-3:
            handle = runner.net.g_a[0].bias.register_hook(
                lambda grad: (handle.remove(), torch.full_like(grad, math.nan))[1]
            )

    def on_experiment_end(self, runner):
        torch.save(dict(runner.net.named_parameters()), f"{self.folder}/{runner.engine.process_index}.pt")
"""


@pytest.mark.slow
def test_two_processes_roll_back_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The gradient of one of them is NaN."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    (tmp_path / "poison.py").write_text(POISON)
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "rdtrain",
        "engine=ddp", "engine.device=cpu", "experiment=quickstart", "hp.N=4", "hp.M=6", "engine.num_epochs=2",
        "engine.threads=1", "engine.epoch_steps=3", "infer.every_n_epochs=2", "logger.figures=null",
        "logger.entropy_report=null",
        "dataset.valid_batch_size=1", "dataset.batch_size=2",
        f"+callbacks.poison={{_target_: poison.Poison, folder: {tmp_path}}}",
    ]  # fmt: skip
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    (path,) = (tmp_path / "runs").iterdir()
    (event,) = _events(RunFolder(path))
    assert (event["kind"], event["step"], event["back_to"]) == ("rollback", 4, 3)
    assert {file.name for file in (path / "health").iterdir()} == {"step-5.pt", "step-5-rank-1.pt"}
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    assert all(torch.equal(first[name], second[name]) for name in first)


def _texts(folder: RunFolder) -> list[str]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder.tensorboard))
    events.Reload()
    return events.Tags()["tensors"]
