"""The switch: what happens to the optimizer, and that nothing else is disturbed."""

from __future__ import annotations

import copy
import gc
import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState
from conv_oracles import FULL_RANK, as_spectrum
from torch import nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from rdtrain.conv import layers
from rdtrain.conv.convert import to_plain, to_spectral
from rdtrain.conv.layers import SpectralConv, spectral_layers
from rdtrain.conv.moments import ShadowMoments
from rdtrain.conv.optimizers import update_norm
from rdtrain.conv.transform import Transform
from rdtrain.conv.transforms import Attenuated, Dct, Rdft, Rfft
from rdtrain.errors import UserError


def network(transform: Transform | None = None, dtype: torch.dtype = torch.float64) -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 6, 5, padding=2, stride=2, dtype=dtype),
        nn.LeakyReLU(),
        nn.Conv2d(6, 6, (3, 4), padding=1, groups=2, dtype=dtype),
        nn.LeakyReLU(),
        nn.ConvTranspose2d(6, 3, 5, padding=2, stride=2, output_padding=1, dtype=dtype),
    )
    if transform is not None:
        to_spectral(model, transform)
    return model


def loss_of(model: nn.Module, step: int) -> torch.Tensor:
    dtype = next(model.parameters()).dtype
    x = torch.rand(2, 3, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(step)).to(dtype)
    return (model(x)[..., :12, :12] - x[..., :12, :12]).square().mean()


def train(model: nn.Module, optimizer: Optimizer, steps: range) -> list[float]:
    losses = []
    for step in steps:
        optimizer.zero_grad()
        loss = loss_of(model, step)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


class WeightGradients:
    """dL/dw of every step, taken from the computed weights themselves: what the stored gradients are to give back."""

    def __init__(self, model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
        self.of: dict[int, list[np.ndarray]] = {}
        original = layers.apply_map

        def watched(constants: Any, stored: torch.Tensor, shape: Any) -> torch.Tensor:
            weight = original(constants, stored, shape)
            if weight.requires_grad:
                gradients = self.of.setdefault(id(stored), [])
                weight.register_hook(lambda gradient: gradients.append(gradient.numpy().copy()))
            return weight

        monkeypatch.setattr(layers, "apply_map", watched)

    def first(self, layer: SpectralConv, beta: float) -> np.ndarray:
        return self._average(layer, beta, 1)

    def second(self, layer: SpectralConv, beta: float) -> np.ndarray:
        return self._average(layer, beta, 2)

    def _average(self, layer: SpectralConv, beta: float, power: int) -> np.ndarray:
        gradients = self.of[id(layer.weight_transformed)]
        n = len(gradients)
        return sum((1 - beta) * beta ** (n - 1 - i) * g**power for i, g in enumerate(gradients))


def state_of(optimizer: Optimizer, model: nn.Module, name: str) -> dict[str, Any]:
    return optimizer.state[dict(model.named_parameters())[name]]


@pytest.mark.parametrize("transform", FULL_RANK, ids=str)
@pytest.mark.parametrize("moments", ["transfer", "shadow"])
@pytest.mark.parametrize("optimizer_class", [torch.optim.Adam, torch.optim.AdamW], ids=lambda o: o.__name__)
def test_moments_arrive_exactly(
    transform: Transform, moments: Any, optimizer_class: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = network(transform)
    watch = WeightGradients(model, monkeypatch)
    optimizer = optimizer_class(model.parameters(), lr=1e-3, betas=(0.9, 0.98), amsgrad=True)
    shadow = ShadowMoments(model, optimizer) if moments == "shadow" else None
    train(model, optimizer, range(15))
    spectral = spectral_layers(model)
    expected = {name: (watch.first(layer, 0.9), watch.second(layer, 0.98)) for name, layer in spectral.items()}
    stored = {name: dict(optimizer.state[layer.weight_transformed]) for name, layer in spectral.items()}
    geometry = {name: (layer.kernel_size, layer.out_axis) for name, layer in spectral.items()}
    to_plain(model, [optimizer], moments=moments, shadow=shadow)
    for name, (first, second) in expected.items():
        state = state_of(optimizer, model, f"{name}.weight")
        assert state["step"] == 15
        np.testing.assert_allclose(state["exp_avg"].numpy(), first, rtol=1e-9, atol=1e-16)
        if moments == "shadow":
            np.testing.assert_allclose(state["exp_avg_sq"].numpy(), second, rtol=1e-9, atol=1e-22)
            assert (state["max_exp_avg_sq"] >= state["exp_avg_sq"]).all()
        else:
            for key in ("exp_avg_sq", "max_exp_avg_sq"):
                moved = transform.square_to_weight(stored[name][key], *geometry[name])
                torch.testing.assert_close(state[key], moved, rtol=1e-12, atol=0)
            # An approximation, and of the right size: the mean over each kernel is near the true one.
            ratio = state["exp_avg_sq"].numpy().mean() / second.mean()
            assert 0.3 < ratio < 3
    assert len(optimizer.state) == len(list(model.parameters()))


def test_the_largest_second_moment_is_tracked_too(monkeypatch: pytest.MonkeyPatch) -> None:
    model = network(Rfft())
    watch = WeightGradients(model, monkeypatch)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2, betas=(0.9, 0.5), amsgrad=True)
    shadow = ShadowMoments(model, optimizer)
    train(model, optimizer, range(12))
    gradients = watch.of[id(model[0].weight_transformed)]
    average, largest = np.zeros_like(gradients[0]), np.zeros_like(gradients[0])
    for gradient in gradients:
        average = 0.5 * average + 0.5 * gradient**2
        largest = np.maximum(largest, average)
    to_plain(model, [optimizer], "shadow", shadow)
    state = state_of(optimizer, model, "0.weight")
    np.testing.assert_allclose(state["max_exp_avg_sq"].numpy(), largest, rtol=1e-9)
    assert (state["max_exp_avg_sq"] > state["exp_avg_sq"]).any()


def test_the_shadow_sees_clipped_and_accumulated_gradients() -> None:
    models, shadows, optimizers = [], [], []
    for clip in (1e9, 1e-3):
        model = network(Rfft())
        optimizer = torch.optim.Adam(model.parameters(), lr=0.0)
        shadow = ShadowMoments(model, optimizer)
        for step in range(3):
            optimizer.zero_grad()
            loss_of(model, step).backward()
            loss_of(model, step).backward()  # a second micro-batch, the same as the first: twice the gradient
            nn.utils.clip_grad_norm_(model.parameters(), clip)
            optimizer.step()
        models.append(model), shadows.append(shadow), optimizers.append(optimizer)
    once = network(Rfft())
    single_optimizer = torch.optim.Adam(once.parameters(), lr=0.0)
    single = ShadowMoments(once, single_optimizer)
    train(once, single_optimizer, range(3))
    v_once = single.second_moments(once[0], 3)["exp_avg_sq"]
    v_twice = shadows[0].second_moments(models[0][0], 3)["exp_avg_sq"]
    torch.testing.assert_close(v_twice, 4 * v_once, rtol=1e-10, atol=0)
    v_clipped = shadows[1].second_moments(models[1][0], 3)["exp_avg_sq"]
    # Adam's own moment of the bias was clipped by the same factors, a different one each step.
    bias = [optimizer.state[model[0].bias]["exp_avg_sq"] for optimizer, model in zip(optimizers, models, strict=True)]
    ratio = (bias[1] / bias[0]).mean()
    assert ratio < 1e-3
    torch.testing.assert_close((v_clipped / v_twice).mean(), ratio, rtol=0.3, atol=0)


def test_a_shadow_that_began_late_is_corrected_for_its_bias(monkeypatch: pytest.MonkeyPatch) -> None:
    model = network(Rdft())
    optimizer = torch.optim.Adam(model.parameters(), lr=0.0)
    train(model, optimizer, range(20))
    shadow = ShadowMoments(model, optimizer)
    watch = WeightGradients(model, monkeypatch)
    train(model, optimizer, range(20, 25))
    unbiased = watch.second(model[0], 0.999) / (1 - 0.999**5)
    to_plain(model, [optimizer], "shadow", shadow)
    state = state_of(optimizer, model, "0.weight")
    assert state["step"] == 25
    np.testing.assert_allclose(state["exp_avg_sq"].numpy() / (1 - 0.999**25), unbiased, rtol=1e-9)


def test_the_shadow_resumes_exactly() -> None:
    def begun() -> tuple[nn.Module, Optimizer, ShadowMoments]:
        model = network(Attenuated())
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
        return model, optimizer, ShadowMoments(model, optimizer)

    straight, optimizer, shadow = begun()
    train(straight, optimizer, range(5))
    saved = copy.deepcopy((straight.state_dict(), optimizer.state_dict(), shadow.state_dict()))
    at_five = saved[2]["0"]["exp_avg_sq"].clone()
    train(straight, optimizer, range(5, 10))
    resumed, other_optimizer, other_shadow = begun()
    for part, state in zip((resumed, other_optimizer, other_shadow), saved, strict=True):
        part.load_state_dict(state)
    train(resumed, other_optimizer, range(5, 10))
    for model, o, s in ((straight, optimizer, shadow), (resumed, other_optimizer, other_shadow)):
        to_plain(model, [o], "shadow", s)
    for a, b in zip(straight.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(optimizer.state[a]["exp_avg_sq"], other_optimizer.state[b]["exp_avg_sq"])
    assert saved[2]["0"]["steps"] == 5
    assert torch.equal(saved[2]["0"]["exp_avg_sq"], at_five)  # loading made copies
    with pytest.raises(ValueError, match="not spectral here: 9"):
        begun()[2].load_state_dict({"9": {}})


def test_a_shadow_is_asked_for_what_it_has() -> None:
    model = network(Rfft())
    with pytest.raises(UserError, match="moments=transfer"):
        ShadowMoments(model, torch.optim.SGD(model.parameters(), lr=0.1))
    optimizer = torch.optim.Adam(model.parameters())
    train(model, optimizer, range(2))
    shadow = ShadowMoments(model, optimizer)
    with pytest.raises(ValueError, match="after the last step"):
        to_plain(model, [optimizer], "shadow", shadow)
    with pytest.raises(ValueError, match="belong together"):
        to_plain(model, [optimizer], "shadow")
    with pytest.raises(ValueError, match="belong together"):
        to_plain(model, [optimizer], "transfer", shadow)
    assert len(spectral_layers(model)) == 3


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_sgd_goes_on_as_if_it_had_always_been_plain(momentum: float) -> None:
    runs = []
    for transform in (None, Rdft()):
        model = network(transform)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=momentum, weight_decay=1e-2)
        losses = train(model, optimizer, range(10))
        if transform is not None:
            to_plain(model, [optimizer])
        runs.append(losses + train(model, optimizer, range(10, 20)))
    np.testing.assert_allclose(runs[0], runs[1], rtol=1e-12)


@pytest.mark.parametrize("transform", FULL_RANK, ids=str)
def test_nothing_else_is_disturbed(transform: Transform) -> None:
    model = network(transform, torch.float32)
    optimizer = torch.optim.Adam(
        [{"params": list(model[:2].parameters()), "lr": 1e-3}, {"params": list(model[2:].parameters()), "lr": 2e-3}]
    )
    train(model, optimizer, range(5))
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)
    names = [name for name, _ in model.named_parameters()]
    biases = {name: dict(optimizer.state[p]) for name, p in model.named_parameters() if name.endswith("bias")}
    state, groups = optimizer.state, optimizer.param_groups
    gone = [weakref.ref(p) for name, p in model.named_parameters() if name.endswith("weight_transformed")]
    modules = list(model.modules())
    before = loss_of(model, 99).item()
    converted = to_plain(model, [optimizer])
    assert [c.name for c in converted] == ["0", "2", "4"]
    assert loss_of(model, 99).item() == pytest.approx(before, abs=1e-6)
    # The same objects, the parameters in the same places, and the learning rates of their groups.
    assert list(model.modules()) == modules
    assert optimizer.state is state
    assert optimizer.param_groups is groups
    assert scheduler.optimizer is optimizer
    held = [parameter for group in groups for parameter in group["params"]]
    assert [id(p) for p in held] == [id(p) for p in model.parameters()]
    assert [group["lr"] for group in groups] == [1e-3, 2e-3]
    assert [name.replace("_transformed", "") for name in names] == [name for name, _ in model.named_parameters()]
    for name, kept in biases.items():
        after = state_of(optimizer, model, name)
        assert all(after[key] is kept[key] for key in kept)
    assert {id(p) for p in state} == {id(p) for p in held}
    gc.collect()
    assert [reference() for reference in gone] == [None, None, None]
    train(model, optimizer, range(5, 10))


@pytest.mark.parametrize("moments", ["transfer", "reset"])
def test_the_loss_goes_on_from_where_it_was(moments: Any) -> None:
    model = network(Rfft())
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
    train(model, optimizer, range(60))
    before = loss_of(model, 7).item()
    to_plain(model, [optimizer], moments=moments)
    weight = model[0].weight
    assert (weight in optimizer.state) == (moments == "transfer")
    assert loss_of(model, 7).item() == pytest.approx(before, rel=1e-12)
    train(model, optimizer, range(60, 61))
    assert optimizer.state[weight]["step"] == (61 if moments == "transfer" else 1)


def test_a_reset_begins_with_a_step_of_the_learning_rate_on_every_tap() -> None:
    model = network(Rfft())
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
    train(model, optimizer, range(60))
    to_plain(model, [optimizer], moments="reset")
    before = model[0].weight.detach().clone()
    train(model, optimizer, range(60, 61))
    torch.testing.assert_close((model[0].weight - before).abs(), torch.full_like(before, 1e-4), rtol=0.01, atol=0)


def test_projected_moments_stay_in_the_basis() -> None:
    model = network(Dct(4))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    train(model, optimizer, range(10))
    theta = model[0].weight_transformed
    basis = Dct(4).basis((5, 5))
    expected = (
        optimizer.state[theta]["exp_avg"].numpy() @ basis,
        optimizer.state[theta]["exp_avg_sq"].numpy() @ basis**2,
    )
    to_plain(model, [optimizer])
    state = state_of(optimizer, model, "0.weight")
    np.testing.assert_allclose(state["exp_avg"].flatten(2).numpy(), expected[0], rtol=1e-9, atol=1e-18)
    np.testing.assert_allclose(state["exp_avg_sq"].flatten(2).numpy(), expected[1], rtol=1e-9, atol=1e-22)


def test_the_length_of_the_next_update_is_that_of_adams_formula() -> None:
    model = network(Rfft())
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    train(model, optimizer, range(10))

    def formula(name: str) -> np.ndarray:
        state, gradient = state_of(optimizer, model, name), dict(model.named_parameters())[name].grad.numpy()
        first = (0.9 * state["exp_avg"].numpy() + 0.1 * gradient) / (1 - 0.9**11)
        second = (0.999 * state["exp_avg_sq"].numpy() + 0.001 * gradient**2) / (1 - 0.999**11)
        return 1e-3 * first / (np.sqrt(second) + 1e-8)

    squares = 0.0
    for name, layer in spectral_layers(model).items():
        spectrum = as_spectrum(torch.from_numpy(formula(f"{name}.weight_transformed")), layer.kernel_size)
        squares += (np.fft.irfft2(spectrum, s=layer.kernel_size, norm="ortho") ** 2).sum()
    assert update_norm(model, optimizer) == pytest.approx(np.sqrt(squares), rel=1e-9)
    names = [layer.name for layer in to_plain(model, [optimizer])]
    squares = sum((formula(f"{name}.weight") ** 2).sum() for name in names)
    assert update_norm(model, optimizer, names) == pytest.approx(np.sqrt(squares), rel=1e-9)
    for name in names:
        optimizer.state.pop(dict(model.named_parameters())[f"{name}.weight"])
    taps = sum(dict(model.named_parameters())[f"{name}.weight"].numel() for name in names)
    assert update_norm(model, optimizer, names) == pytest.approx(1e-3 * np.sqrt(taps), rel=1e-3)  # a first step


class Noisy(torch.optim.SGD):
    """Draws random numbers at each step."""

    def step(self, closure: Any = None) -> None:
        with torch.no_grad():
            for parameter in self.param_groups[0]["params"]:
                parameter.add_(torch.randn_like(parameter), alpha=1e-3)


@pytest.mark.parametrize(
    ("optimizer_class", "options"),
    [
        (torch.optim.Adam, {"amsgrad": True, "betas": (0.9, 0.5), "weight_decay": 0.1}),
        (torch.optim.AdamW, {"weight_decay": 0.1}),
        (torch.optim.Adamax, {}),
        (torch.optim.RAdam, {}),
        (torch.optim.NAdam, {}),
        (torch.optim.RMSprop, {"momentum": 0.9}),
        (torch.optim.Adagrad, {}),
        (torch.optim.Adafactor, {}),
        (torch.optim.Rprop, {}),
        (torch.optim.SGD, {"momentum": 0.9, "nesterov": True}),
        (Noisy, {}),
    ],
)
def test_the_length_of_the_next_update_is_that_of_the_next_step(optimizer_class: Any, options: dict[str, Any]) -> None:
    model = network(Rdft())
    optimizer = optimizer_class(model.parameters(), lr=1e-2, **options)
    torch.optim.lr_scheduler.StepLR(optimizer, 1)  # which wraps the optimizer's step
    train(model, optimizer, range(6))
    seen: list[int] = []
    optimizer.register_step_pre_hook(lambda *given: seen.append(1))
    before = copy.deepcopy((model.state_dict(), optimizer.state_dict(), torch.get_rng_state()))
    predicted = update_norm(model, optimizer)
    after = (model.state_dict(), optimizer.state_dict(), torch.get_rng_state())
    assert repr(after) == repr(before)
    assert all(torch.equal(after[0][key], before[0][key]) for key in before[0])
    assert torch.equal(after[2], before[2])
    assert not seen
    old = [layer.weight.detach().numpy().copy() for layer in spectral_layers(model).values()]
    optimizer.step()
    new = [layer.weight.detach().numpy() for layer in spectral_layers(model).values()]
    moved = np.sqrt(sum(((b - a) ** 2).sum() for a, b in zip(old, new, strict=True)))
    assert moved > 0
    assert predicted == pytest.approx(moved, rel=1e-9)


def test_the_update_norm_looks_at_what_is_trained() -> None:
    model = network(Rfft())
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    assert update_norm(model, optimizer) == 0.0  # no gradient yet
    train(model, optimizer, range(2))
    both = update_norm(model, optimizer, ["0", "2"])
    parts = [update_norm(model, optimizer, [name]) for name in ("0", "2")]
    assert both == pytest.approx(np.hypot(*parts), rel=1e-12)
    only_first = torch.optim.Adam(model[0].parameters(), lr=1e-3)
    assert update_norm(model, only_first) == update_norm(model, only_first, ["0"]) > 0


@pytest.mark.parametrize("optimizer_class", [torch.optim.RMSprop, torch.optim.Adagrad, torch.optim.Adamax])
def test_unknown_state_is_refused_and_nothing_changed(optimizer_class: Any) -> None:
    model = network(Rfft())
    optimizer = optimizer_class(model.parameters(), lr=1e-3)
    train(model, optimizer, range(3))
    held = [id(parameter) for parameter in optimizer.param_groups[0]["params"]]
    with pytest.raises(UserError, match=r"conv.switch.moments=reset"):
        to_plain(model, [optimizer])
    assert len(spectral_layers(model)) == 3
    assert [id(parameter) for parameter in optimizer.param_groups[0]["params"]] == held
    before = update_norm(model, optimizer)
    names = [layer.name for layer in to_plain(model, [optimizer], moments="reset")]
    assert min(before, update_norm(model, optimizer, names)) > 0
    train(model, optimizer, range(3))


class Lion(torch.optim.Optimizer):
    """Has betas and no second moment."""

    def __init__(self, params: Any, lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.99)) -> None:
        super().__init__(params, {"lr": lr, "betas": betas})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for parameter in group["params"]:
                average = self.state[parameter].setdefault("exp_avg", torch.zeros_like(parameter))
                parameter.add_(average.mul(0.9).add(parameter.grad, alpha=0.1).sign(), alpha=-group["lr"])
                average.lerp_(parameter.grad, 0.01)


def test_betas_are_no_proof_of_a_second_moment() -> None:
    model = network(Rfft())
    optimizer = Lion(model.parameters())
    shadow = ShadowMoments(model, optimizer)
    train(model, optimizer, range(3))
    with pytest.raises(UserError, match=r"lacks: type conv\.switch\.moments=transfer"):
        to_plain(model, [optimizer], "shadow", shadow)
    assert len(spectral_layers(model)) == 3
    names = [layer.name for layer in to_plain(model, [optimizer])]
    taps = sum(dict(model.named_parameters())[f"{name}.weight"].numel() for name in names)
    assert update_norm(model, optimizer, names) == pytest.approx(1e-3 * np.sqrt(taps), rel=1e-3)


def test_a_forgotten_optimizer_is_an_error() -> None:
    model = network(Rfft())
    other = torch.optim.Adam(model[0].parameters())
    with pytest.raises(ValueError, match=r"none of the optimizers holds 2\.weight_transformed"):
        to_plain(model, [other])
    assert len(spectral_layers(model)) == 3
    rest = torch.optim.SGD([p for layer in model[1:] for p in layer.parameters()], lr=0.1)
    to_plain(model, (optimizer for optimizer in (other, rest)))
    assert [id(p) for p in other.param_groups[0]["params"]] == [id(p) for p in model[0].parameters()]


def test_frozen_layers_need_no_optimizer() -> None:
    model = network(Rfft())
    model[0].weight_transformed.requires_grad_(False)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad])
    to_plain(model, [optimizer])
    assert not model[0].weight.requires_grad
    assert model[2].weight.requires_grad


def test_named_parameters_are_renamed_in_the_optimizer() -> None:
    model = network(Rfft())
    optimizer = torch.optim.Adam(model.named_parameters())
    to_plain(model, [optimizer])
    assert optimizer.param_groups[0]["param_names"] == [name for name, _ in model.named_parameters()]


@pytest.fixture
def accelerator() -> Iterator[Accelerator]:
    yield Accelerator(cpu=True)
    for state in (AcceleratorState, GradientState, PartialState):
        state._reset_state()


def test_accelerates_wrapper_is_seen_through(accelerator: Accelerator) -> None:
    results = []
    for wrap in (False, True):
        model = network(Rfft())
        optimizer: Any = torch.optim.Adam(model.parameters(), lr=1e-3)
        outer = accelerator.prepare_optimizer(optimizer) if wrap else optimizer
        shadow = ShadowMoments(model, outer)
        train(model, outer, range(4))
        to_plain(model, [outer], "shadow", shadow)
        assert not optimizer._optimizer_step_pre_hooks
        results.append(train(model, outer, range(4, 8)))
        assert optimizer.param_groups[0]["params"][0] is model[0].weight
    assert results[0] == results[1]


@pytest.mark.parametrize("switch_at", [3, 6, 9])
def test_resuming_before_at_and_after_the_switch(switch_at: int) -> None:
    def run(stop_at: int | None) -> list[float]:
        model = network(Rfft(), torch.float32)
        optimizer: Optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
        losses: list[float] = []
        for step in range(12):
            if step == switch_at:
                to_plain(model, [optimizer])
            if step == stop_at:
                state = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
                # A new process builds the form that the checkpoint was written in, then loads it.
                model = network(None if step >= switch_at else Rfft(), torch.float32)
                optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
                model.load_state_dict(state[0])
                optimizer.load_state_dict(state[1])
            losses += train(model, optimizer, range(step, step + 1))
        return losses

    assert run(stop_at=6) == run(stop_at=None)
    assert len(set(run(stop_at=None))) == 12


def test_a_moving_average_switches_with_its_model() -> None:
    model = network(Rfft())
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    mean = model[0].weight.detach().numpy().copy()
    for step in range(12):
        if step == 6:
            assert to_plain(model, [optimizer])[0].name == "0"
            assert to_plain(average)[0].name == "module.0"
        train(model, optimizer, range(step, step + 1))
        average.update_parameters(model)
        now = model[0].weight.detach().numpy()
        mean = now.copy() if step == 0 else 0.9 * mean + 0.1 * now
    np.testing.assert_allclose(average.module[0].weight.detach().numpy(), mean, rtol=0, atol=1e-12)


def test_fused_adam_goes_on() -> None:
    results = []
    for options in ({"fused": True}, {"foreach": True}, {"foreach": False}):
        model = network(Rfft())
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, **options)
        train(model, optimizer, range(5))
        to_plain(model, [optimizer])
        results.append(train(model, optimizer, range(5, 10)))
    np.testing.assert_allclose(results[0], results[1], rtol=1e-8)
    np.testing.assert_allclose(results[1], results[2], rtol=1e-8)


def test_a_compiled_model_is_compiled_once_more() -> None:
    graphs: list[int] = []

    def counting(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Any:
        graphs.append(1)
        return graph.forward

    torch._dynamo.reset()
    model = network(Rfft(), torch.float32)
    compiled: Any = torch.compile(model, backend=counting, fullgraph=True)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    train(compiled, optimizer, range(5))
    assert len(graphs) == 1
    with torch.no_grad():
        before = model(x := torch.rand(2, 3, 16, 16))
    to_plain(compiled, [optimizer])
    with torch.no_grad():
        assert torch.equal(model(x), before)
    losses = train(compiled, optimizer, range(5, 10))
    assert len(graphs) == 2
    plain = network(None, torch.float32)
    plain.load_state_dict(model.state_dict())
    assert loss_of(compiled, 0).item() == pytest.approx(loss_of(plain, 0).item(), rel=1e-6)
    assert len(set(losses)) == 5


@pytest.mark.slow
def test_inductor_trains_through_the_switch() -> None:
    losses = {}
    for compile_it in (False, True):
        torch._dynamo.reset()
        model = network(Rfft(), torch.float32)
        runner: Any = torch.compile(model) if compile_it else model
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
        losses[compile_it] = train(runner, optimizer, range(5))
        to_plain(model, [optimizer])
        losses[compile_it] += train(runner, optimizer, range(5, 10))
    np.testing.assert_allclose(losses[True], losses[False], rtol=1e-4)
