"""Random numbers of a fit are those of plain scripts, and a fit with biases is that of two `nn.Conv2d`."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from rdtrain.conv.transforms import Rdft, Rfft
from rdtrain.kernels.arms import Arm
from rdtrain.kernels.bank import KernelBank
from rdtrain.kernels.draws import convolutions, generator
from rdtrain.kernels.inputs import Stream, pink_batch, white
from rdtrain.kernels.schema import Draws


def scripted(seed: int, groups: int) -> tuple[nn.Conv2d, nn.Conv2d]:
    torch.manual_seed(seed)
    first, second = (nn.Conv2d(4, 4, 5, padding=2, groups=groups) for _ in range(2))
    return first, second


@pytest.mark.parametrize("groups", [1, 4])
def test_a_script_draws_a_convolution_then_its_target_then_other_inputs(groups: int) -> None:
    start, goal = scripted(3, groups)
    for conv, drawn in zip((start, goal), convolutions(tuple(start.weight.shape), 3, "script"), strict=True):
        assert torch.equal(conv.weight, drawn.weight) and torch.equal(conv.bias, drawn.bias)  # type: ignore[arg-type]
    torch.manual_seed(5)
    (batch,) = Stream(white, (2, 4, 6, 6), [3], 1, "script")
    assert torch.equal(batch["x"][0], torch.rand(2, 4, 6, 6))


def test_streams_do_not_change_each_other() -> None:
    (initial, target), (again, _) = (convolutions(shape, 1) for shape in ((4, 4, 5, 5), (4, 4, 5, 5)))
    assert torch.equal(initial.weight, again.weight) and not torch.equal(initial.weight, target.weight)
    numbers = [torch.rand(3, generator=generator(1, stream)) for stream in ("initial", "target", "inputs")]
    assert not any(torch.equal(numbers[i], numbers[j]) for i, j in ((0, 1), (0, 2), (1, 2)))
    for drawn in (initial, target):
        assert drawn.bias.abs().max() <= 0.1 and drawn.bias.unique().numel() == 4


@pytest.mark.parametrize("draws", ["streams", "script"])
@pytest.mark.parametrize("groups", [1, 4])
def test_losses_and_gradients_with_biases_are_those_of_two_convolutions(groups: int, draws: Draws) -> None:
    shape = (4, 4 // groups, 5, 5)
    seeds, arms = [1, 2], [Arm("plain"), Arm("rfft", Rfft()), Arm("rdft", Rdft())]
    drawn = [convolutions(shape, seed, draws) for seed in seeds]
    initial, targets = (torch.stack([pair[i].weight for pair in drawn]) for i in (0, 1))
    biases = torch.stack([pair[0].bias for pair in drawn]), torch.stack([pair[1].bias for pair in drawn])
    bank = KernelBank(arms, initial, targets, groups, padding=2, biases=biases)
    (batch,) = Stream(pink_batch, (3, 4, 12, 12), seeds, 1, draws)
    losses, _ = bank(batch["x"])
    losses.sum().backward()
    for i, (start, goal) in enumerate(drawn):
        conv, wanted = (nn.Conv2d(4, 4, 5, padding=2, groups=groups) for _ in range(2))
        for module, values in ((conv, start), (wanted, goal)):
            module.load_state_dict({"weight": values.weight, "bias": values.bias})
        x = batch["x"][i]
        loss = (conv(x) - wanted(x)).square().mean()
        loss.backward()
        assert conv.bias is not None and conv.bias.grad is not None and conv.weight.grad is not None
        for arm in range(len(arms)):
            assert losses[arm, i].item() == pytest.approx(loss.item(), rel=1e-5)
            _, bias = bank.learned(arm)
            torch.testing.assert_close(bias.grad[i], conv.bias.grad, rtol=1e-4, atol=1e-7)  # type: ignore[index]
        plain = bank.layers[0].weight.grad.unflatten(1, (2, -1))[:, i]  # type: ignore[union-attr, operator]
        torch.testing.assert_close(plain, conv.weight.grad, rtol=1e-4, atol=1e-7)


def test_without_biases_there_is_nothing_more_to_learn() -> None:
    (initial, target) = convolutions((4, 4, 5, 5), 1)
    bank = KernelBank([Arm("plain")], initial.weight[None], target.weight[None])
    assert [tuple(parameter.shape) for parameter in bank.learned(0)] == [(4, 4, 5, 5)]


def test_pink_batch_is_one_contrast_around_a_half_with_means_of_its_own() -> None:
    x = pink_batch((64, 3, 48, 48), torch.Generator().manual_seed(0))
    assert float((x - x.mean()).std()) == pytest.approx(0.25, rel=1e-4) and abs(float(x.mean()) - 0.5) < 0.05
    power = torch.fft.rfft2(x - 0.5).abs().square().mean((0, 1))
    # amplitude 1/frequency: four times the power at half the frequency; the mean like the lowest frequency
    assert float(power[0, 4] / power[0, 8]) == pytest.approx(4, rel=0.35)
    assert float(power[0, 0] / power[[0, 1, -1], [1, 0, 0]].mean()) == pytest.approx(1, rel=0.35)
    assert x.min() < 0 and x.max() > 1 and x.mean((-2, -1)).std() > 0.03
