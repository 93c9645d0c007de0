"""Chains of kernels, and both solvers on the source's problems."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import convolve2d

from rdtrain.errors import UserError
from rdtrain.factorisation import chain
from rdtrain.factorisation.descent import Setting, descend
from rdtrain.factorisation.targets import floor, normalised, on_canvas, wavelet
from rdtrain.factorisation.toy import alternate, diverging_share, product_hessian, toy_loss


def target(name: str) -> torch.Tensor:
    return torch.from_numpy(normalised(on_canvas(wavelet(name))))


@pytest.mark.parametrize(("n", "k"), [(1, 5), (2, 3), (3, 3), (2, 5)])
def test_a_chain_is_the_flipped_product_of_its_kernels(n: int, k: int) -> None:
    w = chain.random_chains(3, n, k, 0).double()
    found = chain.composed(w, 16)
    for response, kernels in zip(found, w, strict=True):
        product = np.ones((1, 1))
        for kernel in kernels.numpy():
            product = convolve2d(product, kernel)
        np.testing.assert_allclose(response, on_canvas(product[::-1, ::-1]), atol=1e-12)


def test_the_objective_in_its_words() -> None:
    w, y = chain.random_chains(4, 2, 3, 0).double(), target("lh")
    error = np.square(chain.composed(w, 16).numpy() - y.numpy()).mean((1, 2))
    np.testing.assert_allclose(chain.mse(w, y), error, rtol=1e-12)
    size = np.square(w.numpy()).mean((2, 3)).sum(1)
    total = chain.composed(w, 16).numpy().sum((1, 2))
    for form, penalty in (("absolute", abs(total)), ("square", total**2)):
        found = chain.objective(w, y, 100, 0.1, 2, form)  # type: ignore[arg-type]
        np.testing.assert_allclose(found, 100 * error + 0.1 * size + 2 * penalty, rtol=1e-11)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 3), st.sampled_from([1, 3, 5]), st.integers(0, 2**31))
def test_no_chain_is_below_the_floor_and_least_squares_never_rises(n: int, k: int, seed: int) -> None:
    y, w = target("lh"), chain.random_chains(2, n, k, seed).double()
    errors = [chain.mse(w, y)]
    for _ in range(3):
        w = chain.alternating_least_squares(w, y, 1)
        errors.append(chain.mse(w, y))
    assert torch.stack(errors).min() >= floor(y.numpy(), chain.support(n, k)) - 1e-12
    assert all((after <= before + 1e-9).all() for before, after in pairwise(errors))


@pytest.mark.parametrize(
    ("name", "n", "expected", "within"),
    [("lh", 2, 4.4795e-4, 1e-8), ("hl", 2, 4.4795e-4, 1e-8), ("hh", 2, 0, 1e-12), ("ll", 2, 1.5935e-2, 2e-6)],
)
def test_least_squares_finds_the_optimum(name: str, n: int, expected: float, within: float) -> None:
    y = target(name)
    w = chain.alternating_least_squares(chain.random_chains(60, n, 3, 0), y, 200)
    assert float(chain.mse(w, y).min()) == pytest.approx(expected, abs=within)
    norms = w[0].flatten(1).norm(dim=1)
    assert norms.max() == pytest.approx(norms.min())


@pytest.mark.slow
def test_three_kernels_are_exact() -> None:
    y = target("lh")
    w = chain.alternating_least_squares(chain.random_chains(60, 3, 3, 0), y, 400)
    assert float(chain.mse(w, y).min()) < 5e-8


def test_an_asymmetric_target_is_met_as_it_is() -> None:
    kernel = convolve2d(np.random.default_rng(0).normal(size=(3, 3)), np.random.default_rng(1).normal(size=(3, 3)))
    y = torch.from_numpy(on_canvas(kernel))
    w = chain.alternating_least_squares(chain.random_chains(20, 2, 3, 0), y, 200)
    assert float(chain.mse(w, y).min()) < 1e-10


SQUARE = {"lambda1": 0.1, "admissibility": "square", "restarts": 50, "seed": 0}


@pytest.mark.parametrize(
    ("name", "n", "k", "setting", "expected", "diverged"),
    [
        ("lh", 2, 3, {"lmbda": 100, "lambda2": 1, "lr": 5e-2, "iterations": 50}, 6.2e-4, 39),
        ("hh", 2, 3, {"lmbda": 100, "lambda2": 1, "lr": 5e-2, "iterations": 50}, 5.0e-5, 36),
        ("lh", 1, 5, {"lmbda": 5000, "lambda2": 1, "lr": 5e-3, "iterations": 50}, 4.48e-4, 0),
        ("lh", 3, 3, {"lmbda": 500, "lambda2": 1, "lr": 5e-3, "iterations": 100}, 5.2e-5, 41),
        ("lh", 2, 3, {"lmbda": 5000, "lambda2": 1, "lr": 5e-3, "iterations": 50}, 0.1706, 50),
        ("ll", 2, 3, {"lmbda": 1000, "lambda2": 0, "lr": 5e-3, "iterations": 100}, 1.648e-2, 0),
        ("ll", 2, 3, {"lmbda": 100, "lambda2": 0, "lr": 5e-2, "iterations": 50}, 1.677e-2, 0),
    ],
)
def test_gradient_descent_with_the_sources_settings(
    name: str, n: int, k: int, setting: dict[str, float], expected: float, diverged: int
) -> None:
    found = descend(target(name), n, k, Setting(**{**SQUARE, **setting}))  # type: ignore[arg-type]
    assert found.mse == pytest.approx(expected, rel=0.002 if name == "ll" else 0.02)
    assert abs(found.diverged - diverged) <= 1  # a restart on the edge may fall to the other side on another CPU
    assert found.steps == n * setting["iterations"] and len(found.trace) == found.steps + 1
    assert found.mse >= floor(target(name).numpy(), chain.support(n, k)) - 1e-9


def test_gradient_descent_is_the_loop_of_the_source() -> None:
    y, setting = target("lh"), Setting(50, 0.1, 1, "absolute", 1e-2, 4, 3, 5)
    chains = chain.random_chains(3, 2, 3, 5)
    lowest = [float("inf")] * 3
    for restart in range(3):
        w = chains[restart : restart + 1].clone()
        for turn in range(8):
            w.requires_grad_()
            value = chain.objective(w, y.float(), 50, 0.1, 1, "absolute")
            (gradient,) = torch.autograd.grad(value.sum(), w)
            lowest[restart] = min(lowest[restart], float(value.detach()))
            w = w.detach()
            w[:, turn % 2] -= 1e-2 * gradient[:, turn % 2]
        lowest[restart] = min(lowest[restart], float(chain.objective(w, y.float(), 50, 0.1, 1, "absolute")))
    assert min(descend(y, 2, 3, setting).trace) == pytest.approx(min(lowest), rel=1e-5)


def test_kernels_need_a_middle() -> None:
    with pytest.raises(UserError, match="type an odd number"):
        chain.random_chains(1, 2, 4, 0)


def test_costs() -> None:
    costs = [(chain.multiply_adds(n, 3), chain.support(n, 3) ** 2) for n in (2, 3)]
    assert costs == [(18, 25), (27, 49)]


def test_the_product_is_not_convex() -> None:
    hessian = product_hessian()
    assert torch.equal(hessian, torch.tensor([[0.0, 1.0], [1.0, 0.0]], dtype=torch.float64))
    assert torch.linalg.eigvalsh(hessian).tolist() == pytest.approx([-1, 1])
    x = torch.tensor([-1.0, 1.0], dtype=torch.float64)
    assert x @ hessian @ x == -2


@given(st.lists(st.floats(-1, 1), min_size=6, max_size=6), st.floats(0, 1))
def test_diagonal_dominance_suffices_and_is_not_needed(values: list[float], spare: float) -> None:
    h = np.zeros((4, 4))
    h[np.triu_indices(4, 1)] = values
    h += h.T
    dominant = h + np.diag(np.abs(h).sum(1) + spare)
    assert np.linalg.eigvalsh(dominant).min() >= spare - 1e-12  # Gershgorin's circles
    positive = np.ones((3, 3))
    assert np.linalg.eigvalsh(positive).min() > -1e-12 and (positive.sum(1) - 1 > 1).all()
    lowest = np.linalg.eigvalsh(h).min()
    assert np.linalg.eigvalsh(h + (1e-9 - lowest) * np.eye(4)).min() >= 0


def test_half_steps_move_one_variable() -> None:
    path = alternate(torch.tensor([3.0, -8.0]).double(), torch.tensor([2.0, 4.0]).double(), 1e-2, 20)
    assert len(path) == 41
    for turn, (before, after) in enumerate(pairwise(path)):
        assert torch.equal(before[1 - turn % 2], after[1 - turn % 2])
        assert not torch.equal(before[turn % 2], after[turn % 2])
    best = torch.tensor(4.4709, dtype=torch.float64)
    assert toy_loss(best, best) == pytest.approx(0.89430, abs=1e-5) and best * best == pytest.approx(19.9888, abs=1e-3)
    assert (toy_loss(*path[-1]) >= 0.8942).all() and toy_loss(*path[-1])[0] < 1


def test_starts_far_out_diverge() -> None:
    assert diverging_share(20_000, 10.0, 1e-2, 20, seed=0) == pytest.approx(0.275, abs=0.01)
    assert diverging_share(2_000, 1.0, 1e-2, 20, seed=0) < 0.01
