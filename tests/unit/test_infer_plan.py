"""Which infer passes write bitstreams, and how long they may take."""

from __future__ import annotations

import pytest
from compressai.registry import MODELS

from rdtrain import infer_plan
from rdtrain.coding.context import WAVEFRONT, use_coding_order
from rdtrain.infer_plan import Budget, codes_pixel_by_pixel, real_policy

VALID, INFER = "valid/loss/forward/unclamped", "infer/loss/real/clamped"


@pytest.mark.parametrize(
    ("name", "slow"),
    [
        ("bmshj2018-factorized", False),
        ("mbt2018-mean", False),
        ("mbt2018", True),
        ("cheng2020-anchor", True),
        ("cheng2020-anchor-checkerboard", False),
    ],
)
def test_auto_spares_models_that_code_pixel_by_pixel(name: str, slow: bool) -> None:
    model = MODELS[name](8) if name.startswith("cheng") else MODELS[name](8, 12)
    assert codes_pixel_by_pixel(model) is slow
    assert real_policy("auto", model, VALID) == ("best" if slow else "always")
    assert real_policy("auto", model, INFER) == "always"
    assert real_policy("best", model, VALID) == "best"
    assert real_policy("always", model, VALID) == "always"


def test_a_model_that_codes_along_a_wavefront_is_not_spared() -> None:
    model = MODELS["mbt2018"](8, 12)
    assert use_coding_order(model, WAVEFRONT)
    assert not codes_pixel_by_pixel(model)
    assert real_policy("auto", model, VALID) == "always"


def test_a_budget_always_takes_one_image(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(infer_plan.time, "monotonic", lambda: clock[0])
    budget, endless = Budget(1.5), Budget(None)
    taken = []
    for clock[0] in (10.0, 10.1, 20.0):
        taken.append(budget.take())
        assert endless.take()
    assert taken == [True, False, False]
    assert (budget.taken, budget.skipped) == (1, 2)
    clock[0] = 100.0
    budget = Budget(1.5)
    for clock[0], expected in ((101.0, True), (101.5, True), (101.6, False)):
        assert budget.take() is expected
