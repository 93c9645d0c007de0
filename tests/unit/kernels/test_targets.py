"""Target kernels against numpy, and trained ones from files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rdtrain.errors import UserError
from rdtrain.kernels import schema
from rdtrain.kernels.draws import convolutions
from rdtrain.kernels.targets import make_target


def section(**changed: Any) -> schema.Target:
    return schema.Target(**{"name": "edge", "checkpoint": None, "layer": None, "channels": None, **changed})


def test_sinusoid_runs_along_x_in_every_kernel() -> None:
    target = make_target(section(name="sinusoid"), 1)
    row = 0.05 * np.sin(np.linspace(0, 2 * np.pi, 11))
    assert target.weight.shape == (2, 3, 11, 11) and (target.in_channels, target.groups) == (3, 1)
    np.testing.assert_allclose(target.weight.numpy(), np.broadcast_to(row, (2, 3, 11, 11)), atol=1e-7)


def test_smoothing_keeps_channels_and_their_mean() -> None:
    weight = make_target(section(name="smoothing"), 1).weight.numpy()
    half = np.sin(np.linspace(0, np.pi, 11))
    kernel = np.outer(half, half) / np.outer(half, half).sum()
    expected = np.einsum("oi,yx->oiyx", np.eye(8), kernel)
    np.testing.assert_allclose(weight, expected, atol=1e-7)
    np.testing.assert_allclose(weight.sum(axis=(2, 3)), np.eye(8), atol=1e-6)


def test_edge_detector_sees_vertical_edges_only() -> None:
    target = make_target(section(name="edge"), 1)
    assert target.weight.shape == (4, 1, 5, 5) and (target.in_channels, target.groups) == (4, 4)
    np.testing.assert_allclose(target.weight[0, 0, 3].numpy(), [-0.08, -0.04, 0, 0.04, 0.08], atol=1e-7)
    vertical = torch.zeros(1, 4, 9, 9)
    vertical[..., 5:] = 1
    responses = [torch.conv2d(x, target.weight, groups=4).abs().max() for x in (vertical, vertical.mT)]
    assert responses[0] > 0.5 and responses[1] < 1e-7
    assert target.description == "edge (vertical edges) 4->4, K=5, groups=4"


def test_random_targets_are_new_in_every_repetition_and_no_initial_kernel() -> None:
    first, second = (make_target(section(name="random"), seed).weight for seed in (1, 2))
    initial = convolutions((4, 4, 5, 5), 1)[0].weight
    assert not torch.equal(first, second) and not torch.equal(first, initial)
    assert torch.equal(first, make_target(section(name="random"), 1).weight)
    for weight in (first, initial):
        assert weight.abs().max() <= 0.1 and weight.std() == pytest.approx(0.1 / np.sqrt(3), rel=0.05)


def test_trained_kernels_come_from_a_file_or_a_run(tmp_path: Path) -> None:
    """A run is named by its id, so that the same layer of two runs can stand in one table."""
    weights = {"g_a.0.weight": torch.randn(6, 3, 5, 5), "g_a.0.bias": torch.randn(6), "a.mask": torch.ones(1, 1, 5, 5)}
    run, other = tmp_path / "0a1b2c3d4e-small-seed1", tmp_path / "edge.pth"
    (run / "export").mkdir(parents=True)
    (run / "config.yaml").touch()
    for file in (run / "export" / "model.pth", other):
        torch.save(weights | {"edge.weight": weights["g_a.0.weight"]}, file)
    for path in (run, run / "export" / "model.pth"):
        target = make_target(section(name="trained", checkpoint=str(path), layer="g_a.0", channels=4), 1)
        assert torch.equal(target.weight, weights["g_a.0.weight"][:4, :4])
        assert target.description == "g_a.0 of 0a1b2c3d4e (trained kernels) 3->4, K=5"
    target = make_target(section(name="trained", checkpoint=str(other), layer="edge", channels=4), 1)
    assert target.description == "edge of edge (trained kernels) 3->4, K=5"
    with pytest.raises(UserError, match=r"target\.layer=a\.mask is no convolution"):
        make_target(section(name="trained", checkpoint=str(other), layer="a.mask"), 1)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({}, "type target.checkpoint=RUN target.layer=g_a.0"),
        ({"checkpoint": "nowhere.pth", "layer": "g_a.0"}, "there is no file nowhere.pth"),
        ({"checkpoint": "model.pth", "layer": "g_a.1"}, "target.layer=g_a.1 is no convolution: did you mean g_a.0"),
        ({"checkpoint": "model.pth", "layer": "g_s.0"}, "target.layer=g_s.0 is spectral"),
    ],
)
def test_mistakes_say_what_to_type(
    changed: dict[str, Any], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(
        {"g_a.0.weight": torch.zeros(1, 1, 3, 3), "g_s.0.weight_transformed": torch.zeros(1, 1, 12)}, "model.pth"
    )
    with pytest.raises(UserError, match=said.replace(".", r"\.")):
        make_target(section(name="trained", **changed), 1)
