"""The pictures of an experiment on JPEG coefficients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from rdtrain.jpeg.codec import Codec
from rdtrain.jpeg.data import MEAN, STD, Digits, normalised
from rdtrain.report.figures import COLOURS, legend_below, new_figure

_SHOWN = 10  # images a row
Rows = Sequence[Mapping[str, Any]]


def image_figure(digits: Digits, codec: Codec, name: str) -> Figure:
    """Ten images of each part with their labels, and the latter ten decoded from their coefficients.

    Args:
        digits: the data set.
        codec: of the network, on the CPU.
        name: of the data set.

    Returns:
        The figure.
    """
    test = digits.test[0][:_SHOWN]
    decoded = codec.decode(codec.encode(normalised(test))) * STD + MEAN
    rows = {"train": digits.train[0][:_SHOWN] / 255, "test": test / 255, "test, from\ncoefficients": decoded}
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    figure.suptitle(f"{name}: images of 32x32 pixels and their labels", fontsize=11)
    labels = [digits.train[1], digits.test[1], digits.test[1]]
    for axes, (part, images), own in zip(figure.subplots(3, _SHOWN), rows.items(), labels, strict=True):
        axes[0].set_ylabel(part, fontsize=8)
        _row(axes, images, own)
    return figure


def _row(axes: np.ndarray, images: Tensor, labels: Tensor) -> None:
    for panel, image, label in zip(axes, images, labels, strict=False):
        panel.imshow(image[0], cmap="gray", vmin=0, vmax=1)
        panel.set_title(int(label), fontsize=8)
        panel.set(xticks=[], yticks=[])


def frequency_figure(rows: Rows, name: str) -> Figure:
    """Accuracy and error of the logits against the frequencies that ReLU looks at.

    Args:
        rows: with `n_freqs`, `network` (`converted` or `retrained`), `accuracy`, `rmse`.
        name: of the data set.

    Returns:
        The figure.
    """
    figure, (left, right) = new_figure(f"{name}: approximate ReLU on JPEG coefficients", 9, 3.8, columns=2)
    for colour, (network, marker) in zip(COLOURS, (("converted", "o"), ("retrained", "s")), strict=False):
        own = [row for row in rows if row["network"] == network]
        n_freqs = [row["n_freqs"] for row in own]
        label = "trained with exact ReLU, then converted" if network == "converted" else "trained with this ReLU"
        left.plot(n_freqs, [row["accuracy"] for row in own], marker=marker, color=colour, label=label)
        if network == "converted":
            right.semilogy(n_freqs, [row["rmse"] for row in own], marker=marker, color=colour, label=label)
    left.set(xlabel="n_freqs: largest alpha + beta", ylabel="accuracy on test images")
    right.set(xlabel="n_freqs: largest alpha + beta", ylabel="RMSE of logits to those on pixels")
    legend_below(figure, [left])
    return figure


def approximation_figure(rows: Rows, blocks: int) -> Figure:
    """Both approximations of ReLU on random blocks.

    Args:
        rows: of `rdtrain.jpeg.relu.approximation_errors`.
        blocks: how many.

    Returns:
        The figure.
    """
    figure, (axes,) = new_figure(f"ReLU of {blocks:,} random 4x4 blocks, doubled to 8x8", 6, 3.8)
    for colour, (name, label) in zip(COLOURS, _APPROXIMATIONS.items(), strict=False):
        axes.plot([row["n_freqs"] for row in rows], [row[name] for row in rows], "o-", color=colour, label=label)
    axes.set(xlabel="n_freqs: largest alpha + beta", ylabel="RMSE to exact ReLU")
    legend_below(figure, [axes])
    return figure


_APPROXIMATIONS = {
    "asm": "ASM: approximate mask, exact block",
    "apx": "APX: approximate block",
}


def quality_figure(rows: Rows, name: str, exact: float) -> Figure:
    """Accuracy on the rounded coefficients of files.

    Args:
        rows: of `rdtrain.jpeg.measure.quality_rows`.
        name: of the data set.
        exact: accuracy on coefficients that are not rounded.

    Returns:
        The figure.
    """
    figure, (left, right) = new_figure(f"{name}: coefficients rounded as in a JPEG file", 9, 3.6, columns=2)
    quality = [row["quality"] for row in rows]
    left.plot(quality, [row["accuracy"] for row in rows], "o-", color=COLOURS[0], label="rounded")
    left.axhline(exact, color=COLOURS[1], linestyle="--", label="not rounded")
    left.set(xlabel="quality", ylabel="accuracy on test images")
    right.plot(quality, [row["nonzero"] for row in rows], "o-", color=COLOURS[0])
    right.set(xlabel="quality", ylabel="coefficients not 0, mean of an image")
    legend_below(figure, [left])
    return figure


def timing_figure(rows: Rows, device: str) -> Figure:
    """Images a second.

    Args:
        rows: of `rdtrain.jpeg.measure.timing_rows`.
        device: that computed.

    Returns:
        The figure.
    """
    figure, (axes,) = new_figure(f"Images a second on {device}, median", 8, 3.6)
    labels = [f"{row['task']}: {row['way']}" for row in rows]
    colours = [COLOURS[0] if row["task"] == "inference" else COLOURS[1] for row in rows]
    bars = axes.barh(labels, [row["images_per_s"] for row in rows], color=colours)
    axes.bar_label(bars, [f"{row['images_per_s']:,.0f}" for row in rows], fontsize=8, padding=3)
    axes.set(xscale="log", xlabel="images a second, more is better")
    axes.margins(x=0.15)
    axes.invert_yaxis()
    return figure
