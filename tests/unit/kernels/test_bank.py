"""The bank of all arms against one convolution after another."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from rdtrain.conv.layers import SpectralConv2d
from rdtrain.conv.transforms import Attenuated, Dct, Rdft, Rfft
from rdtrain.kernels.arms import Arm
from rdtrain.kernels.bank import KernelBank, relative_error

ARMS = [Arm("plain"), Arm("rfft", Rfft()), Arm("half", Attenuated(fraction=0.5)), Arm("plain-as-rfft", None, 1.4)]


def bank_of(groups: int, dtype: torch.dtype = torch.float64, **geometry: object) -> KernelBank:
    torch.manual_seed(3)
    initial, targets = torch.randn(2, 3, 4, 8 // groups, 5, 3, dtype=dtype)[:, :2]
    return KernelBank(ARMS, initial, targets, groups, **geometry)  # type: ignore[arg-type]


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize(
    "geometry",
    [{"padding": 5}, {"padding": 2, "padding_mode": "reflect"}, {"padding": 3, "padding_mode": "circular", "crop": 2}],
    ids=str,
)
def test_losses_and_gradients_are_those_of_single_convolutions(groups: int, geometry: dict[str, object]) -> None:
    bank = bank_of(groups, **geometry)
    x = torch.rand(2, 3, 8, 9, 9, dtype=torch.float64)
    losses, errors = bank(x)
    losses.sum().backward()
    crop = geometry.get("crop", 0)
    inside = slice(crop, -crop or None)
    for a, arm in enumerate(ARMS):
        for s in range(2):
            initial, target = bank.weights()[a, s].detach(), bank.targets[s]
            options = {name: value for name, value in geometry.items() if name != "crop"} | {"groups": groups}
            kind = nn.Conv2d if arm.transform is None else SpectralConv2d
            more = {} if arm.transform is None else {"transform": arm.transform}
            single, wanted = (
                make(8, 4, (5, 3), bias=False, dtype=torch.float64, **options, **extra)  # type: ignore[operator]
                for make, extra in ((kind, more), (nn.Conv2d, {}))
            )
            single.set_weight(initial) if arm.transform else single.weight.data.copy_(initial)
            wanted.weight.data.copy_(target)
            loss = (single(x[s]) - wanted(x[s]))[..., inside, inside].square().mean()
            (gradient,) = torch.autograd.grad(loss, list(single.parameters()))
            torch.testing.assert_close(losses[a, s], loss, rtol=1e-12, atol=0)
            own = next(bank.layers[a].parameters()).grad.unflatten(1, (2, -1))[:, s]  # type: ignore[union-attr]
            torch.testing.assert_close(own, gradient, rtol=1e-9, atol=1e-12)
            gap = (initial - target).numpy()
            assert float(errors[a, s]) == pytest.approx(np.linalg.norm(gap) / np.linalg.norm(target.numpy()), rel=1e-12)


def test_everyone_begins_with_the_same_kernels() -> None:
    bank = bank_of(2)
    torch.manual_seed(3)
    initial = torch.randn(2, 3, 4, 4, 5, 3, dtype=torch.float64)[0, :2]
    for weights in bank.weights().detach():
        torch.testing.assert_close(weights, initial, rtol=0, atol=1e-13)
    assert bank.numbers == [15, 20, 20, 15]


def test_a_control_begins_where_its_transform_does() -> None:
    """The lowest 2x2 cosines of a 5x3 kernel, by a projection in numpy."""
    few = Dct(4, "square")
    arms = [Arm("plain"), Arm("few", few), Arm("plain-from-few", None, 1.0, few)]
    initial, targets = torch.randn(2, 3, 4, 2, 5, 3, dtype=torch.float64)[:, :2]
    plain, projected, control = KernelBank(arms, initial, targets).weights().detach().numpy()
    rows, columns = (
        np.stack([np.cos(np.pi * k * (np.arange(size) + 0.5) / size) for k in range(2)]) for size in (5, 3)
    )
    cosines = np.einsum("ay,bx->abyx", rows, columns).reshape(4, 15)
    cosines /= np.linalg.norm(cosines, axis=1, keepdims=True)
    expected = (plain.reshape(*plain.shape[:-2], 15) @ cosines.T @ cosines).reshape(plain.shape)
    np.testing.assert_allclose(control, expected, atol=1e-12)
    np.testing.assert_allclose(projected, control, atol=1e-12)
    assert np.abs(plain - control).max() > 0.1


def test_sgd_cannot_tell_an_orthonormal_form_from_plain_and_tells_the_half_spectrum() -> None:
    torch.manual_seed(0)
    initial, targets = 0.1 * torch.randn(2, 1, 2, 2, 5, 5, dtype=torch.float64)
    bank = KernelBank([Arm("plain"), Arm("rdft", Rdft()), Arm("rfft", Rfft())], initial, targets, padding=2)
    optimizer = torch.optim.SGD(bank.parameters(), lr=0.05)
    traces = []
    for _ in range(30):
        losses, _ = bank(torch.rand(1, 2, 2, 12, 12, dtype=torch.float64))
        optimizer.zero_grad()
        losses.sum().backward()
        optimizer.step()
        traces.append(losses.detach()[:, 0])
    plain, rdft, rfft = torch.stack(traces, dim=1)
    torch.testing.assert_close(rdft, plain, rtol=1e-10, atol=0)
    assert plain[-1] < 0.5 * plain[0] and (rfft / plain)[5:].max() < 0.99


def test_relative_error_goes_over_all_channels() -> None:
    assert float(relative_error(torch.full((2, 3, 1, 1), 3.0), torch.ones(2, 3, 1, 1))) == pytest.approx(3)
