"""The source's two-variable example of a problem that is convex in each variable and not in both."""

from __future__ import annotations

import torch
from torch import Tensor


def product_hessian() -> Tensor:
    """The Hessian of f(x, y) = x y, by automatic differentiation.

    Returns:
        (2, 2): [[0, 1], [1, 0]], eigenvalues -1 and 1.
    """
    return torch.autograd.functional.hessian(lambda p: p[0] * p[1], torch.zeros(2, dtype=torch.float64))


def toy_loss(x: Tensor, y: Tensor) -> Tensor:
    """(x y - 20)^2 + 0.1 (|x| + |y|), least at x = y = 4.4709 and at its mirror image.

    Args:
        x: any shape.
        y: same shape.

    Returns:
        Same shape.
    """
    return (x * y - 20).square() + 0.1 * (x.abs() + y.abs())


def alternate(x: Tensor, y: Tensor, lr: float, steps: int) -> list[tuple[Tensor, Tensor]]:
    """Gradient steps in x and in y, in turn.

    A step in x grows the error where lr * 2 y^2 > 2, so with lr = 0.01 starts beyond 10 fall into instability.

    Args:
        x: starting points.
        y: same shape.
        lr: learning rate.
        steps: of each variable.

    Returns:
        The points before the first and after each step; between neighbours only one variable differs.
    """
    path = [(x, y)]
    for step in range(2 * steps):
        moving = (x, y)[step % 2].detach().requires_grad_()
        fixed = (x, y)[1 - step % 2]
        loss = toy_loss(moving, fixed) if step % 2 == 0 else toy_loss(fixed, moving)
        moved = (moving - lr * torch.autograd.grad(loss.sum(), moving)[0]).detach()
        x, y = (moved, y) if step % 2 == 0 else (x, moved)
        path.append((x, y))
    return path


def diverging_share(starts: int, deviation: float, lr: float, steps: int, seed: int) -> float:
    """How many random starts run away.

    Args:
        starts: how many.
        deviation: of the normal distribution of x and y.
        lr: learning rate.
        steps: of each variable.
        seed: of the starts.

    Returns:
        The share whose loss is not finite or above 1e6 at the end.
    """
    generator = torch.Generator().manual_seed(seed)
    x, y = deviation * torch.randn(2, starts, generator=generator, dtype=torch.float64)
    end = toy_loss(*alternate(x, y, lr, steps)[-1])
    return float((~(end < 1e6)).double().mean())
