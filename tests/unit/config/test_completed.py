"""Configurations of runs that an older version made."""

from __future__ import annotations

import copy

from rdtrain.config.check import check
from rdtrain.config.compose import completed, composed


def test_keys_that_have_come_since_get_their_defaults() -> None:
    now, _ = composed(["conv=plain", "optimizer=sgd", "infer.max_images=3"])
    assert now is not None
    old = copy.deepcopy(now)
    del old["checkpoint"], old["infer"]["real"], old["conv"]["switch"]["lead"]
    assert check(old)[0] is None
    assert completed(old) == now


def test_a_class_of_another_library_keeps_its_arguments() -> None:
    """A default of Adam's would be wrong for another optimizer."""
    now, _ = composed(["optimizer=sgd"])
    assert now is not None
    del now["optimizer"]["net"]["lr"]
    assert completed(now)["optimizer"] == now["optimizer"]


def test_mistakes_stay_mistakes() -> None:
    now, _ = composed([])
    assert now is not None
    assert completed({**now, "conv": 3, "more": {}})["conv"] == 3
    assert check(completed({**now, "more": {}}))[1]
