"""The learning rate that a transform hides, against closed forms."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from conv_oracles import attenuation_mask, doubling

from rdtrain.conv.transform import Transform
from rdtrain.conv.transforms import Attenuated, Dct, Rdft, Rfft
from rdtrain.kernels.arms import Arm, is_control, make_arms, rate_factor, transform_name
from rdtrain.kernels.schema import Config

ADAM = {"_target_": "torch.optim.Adam", "lr": 1e-3}
SGD = {"_target_": "torch.optim.SGD", "lr": 1e-4}


@pytest.mark.parametrize(("k", "ratio"), [(3, 1.3744), (5, 1.4000), (11, 1.4113)])
def test_adam_goes_farther_on_a_half_spectrum_by_the_known_ratio(k: int, ratio: float) -> None:
    assert rate_factor(Rfft(), (k, k), ADAM) == pytest.approx(np.sqrt((2 * k * k - 1) / k**2), rel=1e-5)
    assert rate_factor(Rfft(), (k, k), ADAM) == pytest.approx(ratio, abs=5e-5)


@pytest.mark.parametrize("optimizer", [ADAM, SGD], ids=lambda node: node["_target_"])
@pytest.mark.parametrize("transform", [Rdft(), Dct()], ids=str)
def test_orthonormal_forms_hide_nothing(transform: Transform, optimizer: dict[str, object]) -> None:
    assert rate_factor(transform, (5, 4), optimizer) == pytest.approx(1, rel=1e-5)  # Adam's eps


@pytest.mark.parametrize("size", [(5, 5), (4, 4), (3, 6)], ids=str)
@pytest.mark.parametrize("floor", [None, 0.1])
def test_sgd_goes_farther_by_the_root_mean_square_of_its_gains(size: tuple[int, int], floor: float | None) -> None:
    half = np.broadcast_to(doubling(size[1]), (size[0], size[1] // 2 + 1))
    gain = half * (1 if floor is None else attenuation_mask(size, floor) ** 2)
    # every frequency of the whole plane counts once, so a stored column counts as often as it stands for one
    expected = np.sqrt((half * gain**2).sum() / half.sum())
    transform = Rfft() if floor is None else Attenuated(floor)
    assert rate_factor(transform, size, SGD) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("optimizer", [ADAM, SGD], ids=lambda node: node["_target_"])
def test_few_coefficients_go_less_far(optimizer: dict[str, object]) -> None:
    assert rate_factor(Dct(9, "square"), (11, 11), optimizer) == pytest.approx(3 / 11, rel=1e-5)


def arms_of(*names: str) -> dict[str, Arm]:
    nodes = {"rfft": "Rfft", "rdft": "Rdft", "few": "Dct"}
    options: dict[str, dict[str, Any]] = {"few": {"K": 9, "order": "square"}}
    transforms = {
        name: {"_target_": f"rdtrain.conv.transforms.{kind}", **options.get(name, {})} for name, kind in nodes.items()
    }
    given = {name: transforms[name] for name in names}
    config = SimpleNamespace(transforms=given, optimizer=ADAM, fit=SimpleNamespace(controls=True))
    return {arm.name: arm for arm in make_arms(cast(Config, config), (11, 11))}


def test_controls_have_what_their_transform_hides() -> None:
    arms = arms_of("rfft", "rdft", "few")
    assert list(arms) == ["plain", "rfft", "rdft", "few", "plain-as-rfft", "plain-as-few", "plain-from-few"]
    factors = {name: arm.lr_factor for name, arm in arms.items() if is_control(name)}
    assert factors == pytest.approx({"plain-as-rfft": 1.4113, "plain-as-few": 3 / 11, "plain-from-few": 1}, rel=1e-4)
    assert all(arm.transform is None for name, arm in arms.items() if is_control(name))
    assert [name for name, arm in arms.items() if arm.start is not None] == ["plain-as-few", "plain-from-few"]


def test_controls_know_their_transform() -> None:
    names = ["plain", "rfft", "plain-as-rfft", "plain-from-few"]
    assert [transform_name(name) for name in names] == ["plain", "rfft", "rfft", "few"]
    assert [is_control(name) for name in names] == [False, False, True, True]
