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
    "experiment=quickstart", "hp.N=4", "hp.M=6", "engine.num_epochs=2", "engine.epoch_steps=3", "engine.threads=1",
    "infer.every_n_epochs=2", "logger.figures=null", "dataset.valid_batch_size=1",
)  # fmt: skip


def _run(folder: Path, *words: str) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, "-m", *words, *COMMON], cwd=folder, capture_output=True, text=True, timeout=300
    )
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
    launch = ("torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "rdtrain", "engine=ddp")
    two = _run(tmp_path / "two", *launch, "engine.device=cpu", *frozen)
    names = [name for name in one if name.startswith(("valid/", "infer/")) and "/time/" not in name]
    assert len(names) > 30
    for name in names:
        assert two[name] == pytest.approx(one[name], rel=1e-5, abs=1e-9), name


@pytest.mark.parametrize("switch", [("conv=plain",), ("conv.switch.trigger=epoch", "conv.switch.at=1")])
def test_two_processes_learn_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, switch: tuple[str, ...]) -> None:
    """Ranks that step with gradients that are not averaged drift apart; a callback of the user's own looks at them.

    After the switch that happens where the reducer is left with the old parameters.
    """
    (tmp_path / "witness.py").write_text(
        "import torch\n"
        "from catalyst import dl\n\n"
        "class Witness(dl.Callback):\n"
        "    def __init__(self, folder):\n"
        "        super().__init__(order=99)\n"
        "        self.folder = folder\n\n"
        "    def on_experiment_end(self, runner):\n"
        "        torch.save(dict(runner.net.named_parameters()), f'{self.folder}/{runner.engine.process_index}.pt')\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    launch = ("torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "rdtrain", "engine=ddp")
    witness = f"+callbacks.witness={{_target_: witness.Witness, folder: {tmp_path}}}"
    options = ("engine.device=cpu", "dataset.batch_size=2", "engine.accumulate=2", witness, *switch)
    final = _run(tmp_path, *launch, *options)
    assert final["train/grad_norm"] > 0
    assert final["train/conv/spectral"] == 0
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    for name, value in build_model("bmshj2018-factorized", {"N": 4, "M": 6}, 1).named_parameters():
        assert torch.equal(first[name], second[name]), name
        assert name.endswith("factors") or not torch.equal(first[name], value), name
