"""Configurations that share a composition equal those that Hydra composes one by one."""

from __future__ import annotations

from typing import Any

import pytest
from hydra import compose, initialize_config_module
from hydra.errors import HydraException
from omegaconf import OmegaConf

from rdtrain.config.compose import composed, composed_each
from rdtrain.config.shared import SharedComposition

POINTS = (
    ["experiment=quickstart", "++seed=1", "++criterion.lmbda=0.01"],
    ["experiment=quickstart", "++seed=2", "++criterion.lmbda=0.02", "engine.num_epochs=${seed}"],
    ["++seed=2", "experiment=quickstart", "~callbacks.early_stopping", "++callbacks.early_stopping={patience: 3}"],
    ["scheduler=cosine", "++hp={N: 8}", "++hp.M=9", "optimizer.net.lr=1e-3"],
    ["scheduler=cosine", "++hp.K=3", "dataset.root='a=b, c'"],
    ["hydra.job.name=x", "++seed=3", "+logger.more=null"],
)


def _by_hydra(overrides: list[str]) -> Any:
    return OmegaConf.to_container(compose("train", overrides=overrides), resolve=True)


def test_every_kind_of_override_gives_what_hydra_gives() -> None:
    compositions = []

    def counted(chosen: list[str]) -> Any:
        compositions.append(chosen)
        return compose("train", overrides=chosen)

    groups = ("experiment", "scheduler")
    with initialize_config_module("rdtrain.conf", version_base="1.3"):
        shared = SharedComposition(counted, lambda key: key in groups)
        assert [shared(point) for point in POINTS] == [_by_hydra(point) for point in POINTS]
        assert [shared(point) for point in reversed(POINTS)] == [_by_hydra(point) for point in reversed(POINTS)]
        assert compositions == [["experiment=quickstart"], ["scheduler=cosine"], ["hydra.job.name=x"]]
        for wrong in (["seeed=1"], ["+seed=1"], ["~seeed"], ["seed=[1"]):
            with pytest.raises(HydraException) as theirs:
                _by_hydra(wrong)
            with pytest.raises(type(theirs.value)) as ours:
                shared(wrong)
            assert str(ours.value) == str(theirs.value)


def test_many_points_are_told_the_same_as_each_alone() -> None:
    points = [*POINTS, ["criterion.lmda=1"], ["experiment=quickstat"], ["seed=["], ["++seed=${no.such}"]]
    assert composed_each(points) == [composed(point) for point in points]
    assert [bool(problems) for _, problems in composed_each(points[-3:])] == [True] * 3
