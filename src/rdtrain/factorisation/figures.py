"""The pictures of a factorisation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from rdtrain.factorisation.targets import WAVELETS, Array, on_canvas, wavelet
from rdtrain.report.figures import COLOURS, colours, legend_below, new_figure

Rows = Sequence[Mapping[str, Any]]
_SETTINGS = {"lmbda": "lambda", "lr": "learning rate", "lambda1": "lambda1", "lambda2": "lambda2"}
_LIMIT = 5  # of the colours, in standard deviations
_GAIN = 10  # by which errors are shown larger


def target_figure() -> Figure:
    """The four bands of the wavelet transform.

    Returns:
        The figure.
    """
    figure = Figure(figsize=(9, 2.7), layout="constrained")
    figure.suptitle("Responses of the inverse DTCWT's first level, near_sym_a", fontsize=11)
    for axes, name in zip(figure.subplots(1, 4), WAVELETS, strict=True):
        axes.imshow(on_canvas(wavelet(name)), cmap="RdBu_r", vmin=-0.37, vmax=0.37)
        axes.set_title("{}: {}x{}".format(name, *wavelet(name).shape), fontsize=9)
        axes.set(xticks=[], yticks=[])
    return figure


def case_figure(name: str, target: Array, learned: Mapping[str, tuple[Array, float]]) -> Figure:
    """Target, learned and error, a row a solver.

    Args:
        name: of the case.
        target: normalised canvas.
        learned: canvas and mean squared error by solver.

    Returns:
        The figure; errors are shown ten times as strong.
    """
    figure = Figure(figsize=(7, 2.6 * len(learned) + 0.4), layout="constrained")
    figure.suptitle(f"{name}: the error is shown {_GAIN} times as strong", fontsize=11)
    for row, (solver, (canvas, error)) in zip(
        figure.subplots(len(learned), 3, squeeze=False), learned.items(), strict=True
    ):
        views = {"target": target, f"{solver}: MSE {error:.2e}": canvas, f"{_GAIN} x error": _GAIN * (target - canvas)}
        for axes, (title, view) in zip(row, views.items(), strict=True):
            image = axes.imshow(view, cmap="RdBu_r", vmin=-_LIMIT, vmax=_LIMIT)
            axes.set_title(title, fontsize=9)
            axes.set(xticks=[], yticks=[])
        figure.colorbar(image, ax=row, label="standard deviations of the target")
    return figure


def map_figure(rows: Rows, case: str, keys: tuple[str, str] = ("lmbda", "lr")) -> Figure:
    """What becomes of gradient descent for other settings.

    Args:
        rows: with all settings, `diverged_share` and `mse`.
        case: its name.
        keys: the two settings that were varied, of the rows and the columns; the title has the others.

    Returns:
        The figure.
    """
    down, across = (sorted({row[key] for row in rows}) for key in keys)
    others = ", ".join(f"{name} {rows[0][key]:g}" for key, name in _SETTINGS.items() if key not in keys)
    figure, panels = new_figure(f"{case}: alternating gradient descent; {others}", 9, 4, columns=2)
    titles = {"diverged_share": "share of restarts that diverged", "log_mse": "log10 of the best restart's MSE"}
    for axes, (key, title) in zip(panels, titles.items(), strict=True):
        cells = np.full((len(down), len(across)), np.nan)
        for row in rows:
            value = np.log10(row["mse"]) if key == "log_mse" else row[key]
            cells[down.index(row[keys[0]]), across.index(row[keys[1]])] = value
        axes.grid(False)
        image = axes.imshow(cells, cmap="viridis", origin="lower", aspect="auto")
        figure.colorbar(image, ax=axes)
        axes.set_title(title, fontsize=9)
        axes.set(xlabel=_SETTINGS[keys[1]], ylabel=_SETTINGS[keys[0]])
        axes.set_xticks(range(len(across)), [f"{value:g}" for value in across], fontsize=8)
        axes.set_yticks(range(len(down)), [f"{value:g}" for value in down], fontsize=8)
    return figure


def latency_figure(rows: Rows, size: int, device: str) -> Figure:
    """Milliseconds of chains and of the convolutions that they replace.

    Args:
        rows: of `rdtrain.factorisation.latency.latency_rows`, of several numbers of channels.
        size: side of the image.
        device: that computed.

    Returns:
        The figure.
    """
    channels = list(dict.fromkeys(row["channels"] for row in rows))
    figure, panels = new_figure(f"One {size}x{size} image on {device}, median", 4.5 * len(channels), 3.6, len(channels))
    for axes, number in zip(panels, channels, strict=True):
        own = [row for row in rows if row["channels"] == number]
        colours = [COLOURS[0] if row["reach"] == 7 else COLOURS[1] for row in own]
        bars = axes.barh([row["convolutions"] for row in own], [row["milliseconds"] for row in own], color=colours)
        axes.bar_label(bars, [f"{row['multiply_adds']} multiply-adds" for row in own], fontsize=7, padding=3)
        axes.margins(x=0.45)
        axes.invert_yaxis()
        axes.set(xlabel="milliseconds, less is better")
        axes.set_title(f"{number} channel{'s' * (number > 1)}", fontsize=9)
    return figure


def rate_figure(rows: Rows, name: str) -> Figure:
    """Rate and distortion of a model before and after.

    Args:
        rows: with `bpp`, `psnr` and `cost`, the share of multiply-adds in the replaced layers, 0 for none replaced.
        name: of the model.

    Returns:
        The figure.
    """
    figure, (axes,) = new_figure(f"{name}: large convolutions as two smaller ones", 6.5, 4.2)
    chosen = colours([f"two, {row['cost']:.2f} of the multiply-adds" for row in rows if row["cost"]])
    for row in rows:
        if row["cost"]:
            label = f"two, {row['cost']:.2f} of the multiply-adds"
            axes.plot(row["bpp"], row["psnr"], "o", color=chosen[label], label=label)
        else:  # may lie under another one
            axes.plot(row["bpp"], row["psnr"], "ks", fillstyle="none", markersize=11, label="one, as trained")
    axes.set(xlabel="bits per pixel, real", ylabel="PSNR, dB")
    axes.margins(0.15)
    legend_below(figure, [axes])
    return figure
