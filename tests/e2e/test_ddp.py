"""Two processes under torchrun, gloo on the CPU."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from rdtrain.models import build_model

COMMON = (
    "experiment=quickstart", "hp.N=4", "hp.M=6", "engine.num_epochs=2", "engine.threads=1",
    "infer.every_n_epochs=2", "logger.figures=null", "logger.entropy_report=null", "dataset.valid_batch_size=1",
)  # fmt: skip
SWITCH = ("conv.switch.trigger=epoch", "conv.switch.at=1")


TWO = ("torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "rdtrain", "engine=ddp")


def _start(folder: Path, *words: str, steps: int = 3) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", *words, *COMMON, f"engine.epoch_steps={steps}"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)


def _run(folder: Path, *words: str, steps: int = 3) -> dict[str, float]:
    done = _start(folder, *words, steps=steps)
    assert done.returncode == 0, done.stderr
    (run,) = (folder / "runs").iterdir()
    assert len(list((run / "tensorboard").iterdir())) == 1
    with open(run / "metrics.csv", newline="") as file:
        assert len(list(csv.DictReader(file))) == 5
    return json.loads((run / "summary.json").read_text())["final"]


def test_two_processes_train_and_measure_as_one(tmp_path: Path) -> None:
    """Rates that are zero leave the weights as they are, so that both measure the same model."""
    frozen = ("optimizer=sgd", "optimizer.net.lr=0.0", "optimizer.aux.lr=0.0", "conv.switch.trigger=never")
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    one = _run(tmp_path / "one", "rdtrain", *frozen)
    two = _run(tmp_path / "two", *TWO, "engine.device=cpu", *frozen)
    names = [name for name in one if name.startswith(("valid/", "infer/")) and "/time/" not in name]
    assert len(names) > 30
    for name in names:
        assert two[name] == pytest.approx(one[name], rel=1e-5, abs=1e-9), name


WITNESS = """
import torch
from catalyst import dl
from rdtrain.conv.convert import to_plain

class Witness(dl.Callback):
    def __init__(self, folder, rewrap=True):
        super().__init__(order=99)
        self.folder, self.rewrap = folder, rewrap

    def on_experiment_start(self, runner):
        def without_wrapping_again(moments, shadow=None):
            runner.switch_pending = False
            return to_plain(runner.net, [runner.optimizer["net"]], moments, shadow)

        if not self.rewrap:
            runner.become_plain = without_wrapping_again

    def on_experiment_end(self, runner):
        torch.save(dict(runner.net.named_parameters()), f"{self.folder}/{runner.engine.process_index}.pt")
"""


def _weights_of_both(folder: Path, *options: str, rewrap: bool = True, steps: int = 3) -> list[dict[str, torch.Tensor]]:
    (folder / "witness.py").write_text(WITNESS)  # a callback of the user's own
    witness = f"+callbacks.witness={{_target_: witness.Witness, folder: {folder}, rewrap: {str(rewrap).lower()}}}"
    small = ("engine.device=cpu", "dataset.batch_size=2", "engine.accumulate=2")
    final = _run(folder, *TWO, *small, witness, *options, steps=steps)
    assert final["train/grad_norm"] > 0
    assert final["train/conv/spectral"] == 0
    return [torch.load(folder / f"{rank}.pt") for rank in (0, 1)]


WITHOUT_NOISE = """
from compressai.entropy_models import EntropyModel
EntropyModel.quantize = lambda self, inputs, mode, means=None: inputs
"""


def test_two_processes_make_the_steps_of_one_with_both_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    (tmp_path / "witness.py").write_text(WITNESS + WITHOUT_NOISE)  # noise would not be the same
    words = ("conv=plain", "optimizer=sgd", "engine.clip_grad_norm=null", "engine.device=cpu")
    found = []
    for name, start, batch in (("one", ("rdtrain",), 8), ("two", TWO, 4)):
        folder = tmp_path / name
        folder.mkdir()
        witness = f"+callbacks.witness={{_target_: witness.Witness, folder: {folder}}}"
        final = _run(folder, *start, *words, f"dataset.batch_size={batch}", witness)
        found.append((final, torch.load(folder / "0.pt")))
    (one, weights), (two, others) = found
    for name in (
        name for name in one if name.startswith("train/") and "/time/" not in name and "grad_norm" not in name
    ):
        assert two[name] == pytest.approx(one[name], rel=1e-5, abs=1e-9), name
    moved: list[str] = []
    for name, value in build_model("bmshj2018-factorized", {"N": 4, "M": 6}, 1).named_parameters():
        step, other = weights[name] - value, others[name] - value
        torch.testing.assert_close(other, step, rtol=1e-3, atol=1e-3 * step.abs().max().item(), msg=name)
        moved += [name] * bool(step.abs().max() > 0)
    assert {f"g_{part}.{layer}.weight" for part in "as" for layer in (0, 2, 4, 6)} < set(moved)


@pytest.mark.parametrize("form", [("conv=plain",), SWITCH])
def test_two_processes_learn_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: tuple[str, ...]) -> None:
    """Ranks that step with gradients that are not averaged drift apart."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    first, second = _weights_of_both(tmp_path, *form)
    for name, value in build_model("bmshj2018-factorized", {"N": 4, "M": 6}, 1).named_parameters():
        assert torch.equal(first[name], second[name]), name
        assert name.endswith("factors") or not torch.equal(first[name], value), name


def test_a_switch_without_wrapping_again_lets_them_drift(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: the reducer keeps the old parameters, so nobody averages the new ones' gradients.

    One step after the switch shows it; at a second one this torch notices that the reducer's parameters get none.
    """
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    first, second = _weights_of_both(tmp_path, *SWITCH, rewrap=False, steps=1)
    apart = [name for name in first if not torch.equal(first[name], second[name])]
    assert len(apart) >= 8  # at least the kernels of the eight convs
    assert all(f"g_{part}.{layer}.weight" in apart for part in "as" for layer in (0, 2, 4, 6))


STOPPER = """
import os
import signal
from catalyst import dl

class Stopper(dl.Callback):
    def __init__(self):
        super().__init__(order=1)

    def on_batch_end(self, runner):
        here = runner.is_train_loader and runner.engine.is_main_process
        if here and runner.steps == int(os.environ.get("STOP_AT", "0")):
            os.kill(os.getpid(), signal.SIGTERM)
"""


def _rows(folder: Path) -> list[dict[str, str]]:
    (path,) = folder.glob("runs/*/metrics.csv")
    with open(path, newline="") as file:
        return [{name: value for name, value in row.items() if "time/" not in name} for row in csv.DictReader(file)]


@pytest.mark.slow
def test_two_processes_go_on_before_and_after_the_switch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of them gets a signal, both stop after the same step, and the end is that of a run that nobody stopped."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    (tmp_path / "stopper.py").write_text(STOPPER)
    words = (*TWO, "engine.device=cpu", "dataset.batch_size=2", *SWITCH, "+callbacks.stopper._target_=stopper.Stopper")
    for part in ("whole", "parts"):
        (tmp_path / part).mkdir()
    _run(tmp_path / "whole", *words)
    for step in (2, 5):
        monkeypatch.setenv("STOP_AT", str(step))
        stopped = _start(tmp_path / "parts", *words)
        assert stopped.returncode != 0 and "the same command continues where it stopped" in stopped.stderr
        (summary,) = (tmp_path / "parts").glob("runs/*/summary.json")
        assert json.loads(summary.read_text())["status"] == "interrupted"
    monkeypatch.delenv("STOP_AT")
    done = _start(tmp_path / "parts", *words)
    assert done.returncode == 0, done.stderr
    assert _rows(tmp_path / "parts") == _rows(tmp_path / "whole")
