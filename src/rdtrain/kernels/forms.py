"""Networks whose kernels are stored in some form, each beside its control, and how they compare.

A form is `plain`, the name of a transform, or `plain-as-` and that of a transform: plain kernels with the learning rate
that the transform hides, the control that a transform has to beat.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import nn
from torch.optim import Adam

from rdtrain.conv.convert import to_spectral
from rdtrain.conv.transforms import make_transform
from rdtrain.kernels.arms import PLAIN, is_control, rate_factor, transform_name
from rdtrain.kernels.figures import arm_colours
from rdtrain.report.figures import COLOURS, legend_below, new_figure

Row = Mapping[str, float]
OnEpoch = Callable[[int, int, Mapping[str, Row]], None]  # epoch, optimizer steps so far, means by loader


def store_kernels(model: nn.Module, form: str) -> None:
    """Store a network's kernels in a form, in place; what it computes stays the same.

    Args:
        model: with plain convolutions.
        form: see the head of this module.
    """
    if form != PLAIN and not is_control(form):
        to_spectral(model, make_transform(form))


def make_adam(model: nn.Module, form: str, lr: float) -> Adam:
    """The optimizer of a network in a form.

    Args:
        model: whose kernels `store_kernels` has stored.
        form: the same.
        lr: learning rate; of a control's kernels, those that its transform would store, `rate_factor` times as much.

    Returns:
        The optimizer of all parameters.
    """
    factors = _rate_factors(model, transform_name(form), lr) if is_control(form) else {}
    groups = [
        {"params": [p for p in model.parameters() if factors.get(p, 1.0) == factor], "lr": lr * factor}
        for factor in dict.fromkeys((1.0, *factors.values()))
    ]
    return Adam(groups, lr=lr)


def _rate_factors(model: nn.Module, name: str, lr: float) -> dict[nn.Parameter, float]:
    transform, node = make_transform(name), {"_target_": "torch.optim.Adam", "lr": lr}
    stored = (model.get_submodule(one.name) for one in to_spectral(copy.deepcopy(model), transform))
    weights = [cast(nn.Parameter, conv.weight) for conv in stored]
    return {weight: rate_factor(transform, (weight.shape[2], weight.shape[3]), node) for weight in weights}


def compare_forms(
    forms: Sequence[str], seeds: Sequence[int], train: Callable[[str, int, OnEpoch], object]
) -> list[dict[str, Any]]:
    """Train a network in several forms.

    Args:
        forms: the forms.
        seeds: of the repetitions.
        train: trains form and seed, and hands over the means of every epoch.

    Returns:
        A row a form, seed and epoch: what was measured on loader `valid`.
    """
    rows: list[dict[str, Any]] = []
    for form in forms:
        for seed in seeds:

            def on_epoch(epoch: int, steps: int, means: Mapping[str, Row], form: str = form, seed: int = seed) -> None:
                rows.append({"form": form, "seed": seed, "epoch": epoch, "steps": steps, **means["valid"]})

            train(form, seed, on_epoch)
    return rows


def form_figure(rows: Sequence[Mapping[str, Any]], title: str, labels: Mapping[str, str]) -> Figure:
    """Draw what was measured against epochs.

    Args:
        rows: of `compare_forms`.
        title: of the figure.
        labels: what a panel shows by column of the rows; a `loss` on a logarithmic axis.

    Returns:
        The figure: means over seeds, and between the least and the most; a control is dashed in its transform's colour.
    """
    figure, panels = new_figure(title, 9, 3.8, columns=len(labels))
    forms = list(dict.fromkeys(row["form"] for row in rows))
    colours = arm_colours(forms)
    for axes, (quantity, label) in zip(panels, labels.items(), strict=True):
        for form in forms:
            epochs = sorted({row["epoch"] for row in rows})
            values = [[r[quantity] for r in rows if (r["form"], r["epoch"]) == (form, epoch)] for epoch in epochs]
            colour = colours.get(form, COLOURS[-1])
            style, name = "--" if is_control(form) else "-", f"{form}, mean of {len(values[0])} seeds"
            axes.plot(epochs, np.mean(values, axis=1), color=colour, linestyle=style, label=name)
            axes.fill_between(epochs, np.min(values, axis=1), np.max(values, axis=1), color=colour, alpha=0.15)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set(xlabel="epoch", ylabel=label, yscale="log" if quantity == "loss" else "linear")
    legend_below(figure, panels)
    return figure
