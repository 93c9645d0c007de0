"""What all figures share: colours, labels that do not overlap, and PNG and SVG files that are equal for equal input."""

from __future__ import annotations

import io
import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from rdtrain.files import write_bytes

# Okabe and Ito's colours, which people with colour vision deficiency tell apart, in an order for lines on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#8C510A", "#000000")
GREYS = ("#888888", "#6A3D9A", "#444444")  # of published curves, each with several line styles
MARKER = {"real": "o", "forward": "s"}
PAPER_DPI = 300
SCREEN_DPI = 100
_LETTER = 0.064  # mean width of a letter of a legend, inches


def slug(text: str) -> str:
    """Make a file name.

    Args:
        text: any text.

    Returns:
        Its letters, digits, dots and hyphens, up to 150; anything else becomes a hyphen.
    """
    return re.sub(r"[^A-Za-z0-9.]+", "-", text).strip("-")[:150]


@dataclass(frozen=True)
class Plot:
    """A finished figure.

    Args:
        name: file name without ending.
        caption: what it shows, for the page and for readers who cannot see it.
        figure: the figure.
    """

    name: str
    caption: str
    figure: Figure

    @cached_property
    def svg(self) -> bytes:
        """An SVG file's content, equal for equal figures, letters as paths."""
        buffer = io.BytesIO()
        with matplotlib.rc_context({"svg.hashsalt": self.name}):
            self.figure.savefig(buffer, format="svg", metadata={"Date": None})
        self.figure.set_layout_engine("none")  # places are found now; finding them again would take as long as drawing
        return buffer.getvalue()

    def save(self, folder: Path) -> list[Path]:
        """Write the figure for papers.

        Args:
            folder: where to, must exist.

        Returns:
            The PNG and the SVG file.
        """
        png, svg = (folder / f"{self.name}.{ending}" for ending in ("png", "svg"))
        svg.write_bytes(self.svg)
        self.figure.savefig(png, dpi=PAPER_DPI)
        return [png, svg]


def png(figure: Figure) -> bytes:
    """Draw a figure for screens.

    Args:
        figure: the figure.

    Returns:
        The content of a PNG file.
    """
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=SCREEN_DPI)
    return buffer.getvalue()


def save_png(figure: Figure, path: Path) -> None:
    """Write a figure for screens.

    Args:
        figure: the figure.
        path: of the PNG file, in a folder that exists.
    """
    write_bytes(path, png(figure))


def room_for(texts: Sequence[str]) -> float:
    """How wide labels are.

    Args:
        texts: labels of 8 points.

    Returns:
        Width of the longest, inches.
    """
    return _LETTER * max(map(len, texts), default=0)


def new_figure(title: str, width: float, height: float, columns: int = 1) -> tuple[Figure, list[Axes]]:
    """Make an empty figure with its title.

    Args:
        title: its lines are wrapped where they are too long.
        width: inches.
        height: inches.
        columns: number of panels side by side.

    Returns:
        The figure and its panels, with a light grid.
    """
    figure = Figure(figsize=(width, height), layout="constrained")
    lines = [textwrap.fill(line, int(width * 11)) for line in title.splitlines()]
    figure.suptitle("\n".join(lines), fontsize=11)
    panels = list(figure.subplots(1, columns, squeeze=False)[0])
    for axes in panels:
        axes.grid(True, color="#dddddd", linewidth=0.6)
        axes.set_axisbelow(True)
    return figure, panels


def colours(names: Sequence[str]) -> dict[str, str]:
    """Give each name its colour.

    Args:
        names: of curves.

    Returns:
        Colours by name, in the names' order, repeated after eight.
    """
    return {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(dict.fromkeys(names))}


def legend_below(figure: Figure, axes: Sequence[Axes]) -> None:
    """Put one legend for all panels below them, where it hides nothing, in as many columns as fit.

    Args:
        figure: the figure.
        axes: the panels whose labelled artists it lists, each label once.
    """
    entries: dict[str, Artist] = {}
    for panel in axes:
        handles, labels = panel.get_legend_handles_labels()
        entries |= {str(label): handle for handle, label in zip(handles, labels, strict=True) if label not in entries}
    if entries:
        width = 0.7 + room_for(list(entries))
        columns = max(1, int(figure.get_figwidth() / width))
        handles, labels = list(entries.values()), list(entries)
        figure.legend(
            handles, labels, loc="outside lower center", ncols=columns, fontsize=8, frameon=False, handlelength=3.5
        )


def spread(values: Sequence[float], gap: float) -> NDArray[np.float64]:
    """Move numbers apart as little as a simple rule allows: overlapping ones become a stack around their mean.

    Args:
        values: positions, any order.
        gap: smallest distance wanted.

    Returns:
        New positions in the order of the values; sorted neighbours are at least `gap` apart, order is kept.
    """
    order = np.argsort(values, kind="stable")
    stacks: list[list[float]] = []  # each [sum of positions, number]
    for value in np.asarray(values, dtype=np.float64)[order]:
        stacks.append([float(value), 1])
        while len(stacks) > 1 and _bottom(stacks[-1], gap) - _top(stacks[-2], gap) < gap:
            total, number = stacks.pop()
            stacks[-1] = [stacks[-1][0] + total, stacks[-1][1] + number]
    moved = np.concatenate([[_bottom(stack, gap) + i * gap for i in range(int(stack[1]))] for stack in stacks] or [[]])
    result = np.empty(len(moved))
    result[order] = moved
    return result


def _bottom(stack: list[float], gap: float) -> float:
    return stack[0] / stack[1] - gap * (stack[1] - 1) / 2


def _top(stack: list[float], gap: float) -> float:
    return stack[0] / stack[1] + gap * (stack[1] - 1) / 2


_LEADER = {"arrowstyle": "-", "linewidth": 0.5, "alpha": 0.7, "shrinkB": 4, "relpos": (0, 0.5)}


def label_at_right(axes: Axes, points: Sequence[tuple[float, float, str, str]]) -> None:
    """Write a text for each point into the right margin, with a thin line to the point; texts never overlap.

    Args:
        axes: the panel, with its final limits.
        points: x, y, text and colour of each, in data coordinates.
    """
    low, high = axes.get_ylim()
    heights = spread([(y - low) / (high - low) for _, y, _, _ in points], gap=0.062)
    for (x, y, text, colour), height in zip(points, heights, strict=True):
        axes.annotate(
            text,
            (x, y),
            (1.03, height),
            textcoords="axes fraction",
            fontsize=8,
            color=colour,
            va="center",
            annotation_clip=False,
            arrowprops={**_LEADER, "color": colour},
        )
