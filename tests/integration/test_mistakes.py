"""The command's answer to one mistake at a time, in this process because importing torch takes seconds."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from rdtrain.cli import main


@pytest.mark.parametrize(
    ("words", "sentences"),
    [
        (["++criterion.lmda=1"], ["criterion.lmda does not exist: did you mean criterion.lmbda"]),
        (["engine.num_epoch=3"], ["engine.num_epoch does not exist: did you mean engine.num_epochs"]),
        (["model.name=bmshj2018-factorised"], ["there is no such image model; did you mean bmshj2018-factorized"]),
        (["optimizer.net.lrr=1"], ["optimizer.net.lrr does not exist: did you mean optimizer.net.lr"]),
        (["optimizer.net.lr=-1"], ["optimizer.net: ", "Invalid learning rate: -1"]),
        (["callbacks.early_stopping.patient=1"], ["did you mean callbacks.early_stopping.patience"]),
        (["dataset=image_folder"], ["dataset=image_folder: dataset.root is not given", "type dataset.root=FOLDER"]),
        (["dataset=image_folder", "dataset.root=/nowhere"], ["is not a folder"]),
        (["model.checkpoint=/nowhere.pth"], ["there is no such file"]),
        (["dataset.patch_size=100", "dataset.small_images=pad"], ["dataset.patch_size=100", "multiple of 16"]),
        (["runner.monitor=valid/los/forward"], ["no such metric; did you mean valid/"]),
        (["scheduler.net.mode=max"], ["the monitored value is to fall"]),
        (["conv.switch.at=3"], ["conv.switch.trigger=epoch and conv.switch.at=N belong together"]),
        (["~callbacks.switch"], ["without its callback the switch never comes"]),
        (["optimizer.net._target_=torch.optim.Adagrad"], ["remembers sum", "conv.switch.moments=reset"]),
        (["optimizer=sgd", "conv.switch.moments=shadow"], ["which SGD lacks"]),
        (["engine=ddp"], ["engine=ddp needs torchrun"]),
        (["seed=5000000000"], ["seed=5000000000: should be less than"]),
        (["engine.device=cuda"], ["torch sees no cuda device"]),
    ],
)
def test_a_mistake_is_told_before_anything_is_created(
    words: list[str],
    sentences: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["rdtrain", "hp.N=4", "hp.M=6", *words])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    said = capsys.readouterr().err
    for sentence in sentences:
        assert sentence in said
    assert list(tmp_path.iterdir()) == []
