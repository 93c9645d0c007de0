from __future__ import annotations

import pytest
import yaml

from rdtrain.config.trust import choices, untrusted


@pytest.mark.parametrize(
    ("node", "phrase"),
    [
        ("{_target_: torch.optim.Adam, lr: {_target_: shutil.copyfile, src: a, dst: b}}", "net.lr._target_=shutil"),
        ("{_target_: torch.optim.Adam, lr: [[{_target_: os.system}]]}", "net.lr.0.0._target_=os.system"),
        ("{_target_: torch.optim.Adam, _args_: [1]}", "net._args_ is set"),
        ("{_target_: torch.optim.Adam, _partial_: true}", "net._partial_ is set"),
        ("{_target_: torch.optim.Adam, _recursive_: false}", "net._recursive_ is set"),
        ("{_target_: torch.optim.Adam, _convert_: none}", "net._convert_ is set"),
        ("{_target_: torch.optim.lr_scheduler.types.FunctionType}", "net._target_=torch.optim.lr_scheduler.types"),
        ("{_target_: torch.optim.Adam.__init__}", "net._target_=torch.optim.Adam.__init__"),
        ("{_target_: [torch, optim]}", "net._target_=['torch', 'optim']"),
        ("{_target_: '${aux._target_}'}", "net._target_=${aux._target_}"),
        ("{_target_: torch.load, f: evil.pth}", "net._target_=torch.load"),
        ("{_target_: catalyst.dl.CheckpointCallback}", "net._target_=catalyst.dl.CheckpointCallback"),
        ("{_target_: os.system, rdtrain.callbacks.X: 1}", "net._target_=os.system"),
        ('{_target_: "torch.optim.Adam\\n"}', "net._target_=torch.optim.Adam"),
        ("'${oc.create:{_target_: os.system}}'", "calls a resolver"),
        ("{lr: 'a ${oc.env:HOME} b'}", "net.lr=a ${oc.env:HOME} b calls a resolver"),
        ("{lr: '${${x}:HOME}'}", "calls a resolver"),
    ],
)
def test_what_is_no_plain_data(node: str, phrase: str) -> None:
    (found,) = untrusted({"net": yaml.safe_load(node)})
    assert phrase in found


@pytest.mark.parametrize(
    "node",
    [
        "{_target_: torch.optim.Adam, betas: [0.9, 0.999]}",
        "{_target_: torch.optim.lr_scheduler.OneCycleLR, max_lr: '${optimizer.net.lr}'}",
        "{_target_: rdtrain.callbacks.EarlyStopping}",
        "{_target_: rdtrain.runners.ImageCompressionRunner}",
        "{runs: ./runs, price: '$5 {x}'}",
    ],
)
def test_what_is_plain_data(node: str) -> None:
    assert untrusted({"net": yaml.safe_load(node)}) == []


@pytest.mark.parametrize(
    "section",
    [
        "{callbacks: {x: {_target_: rdtrain.sweep.record.SweepRecord}}}",
        "{callbacks: '${x}'}",
        "{sweeper: {params: {seed: '1,2'}}}",
        "{job: {env_set: {A: b}}}",
        "{job: {env_copy: [A]}}",
        "{job: {chdir: true}}",
        "{job: '${x}'}",
        "{job_logging: {root: {handlers: []}}}",
        "{job_logging: '${x}'}",
        "{hydra_logging: {root: {level: INFO}}}",
        "{launcher: {_target_: hydra_plugins.submitit.Launcher}}",
        "{sweeper: {_target_: os.system}}",
    ],
)
def test_what_hydra_may_not_be_told(section: str) -> None:
    found = untrusted({"hydra": yaml.safe_load(section)})
    assert found and all(phrase.startswith("hydra.") for phrase in found)


def test_every_combination_of_groups_is_looked_at() -> None:
    assert list(choices([["a=1", "a=2"], ["b=1", "b=2"]])) == [
        ["a=1", "b=1"], ["a=1", "b=2"], ["a=2", "b=1"], ["a=2", "b=2"],
    ]  # fmt: skip
    assert list(choices([])) == [[]]
