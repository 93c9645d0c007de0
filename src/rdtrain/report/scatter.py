"""Every image's rate and PSNR, and where their mean lies: once as the mean of the dB, once as the dB of the mean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from rdtrain.report.figures import COLOURS, Plot, new_figure, slug
from rdtrain.report.measurements import Measurement, of_images


@dataclass(frozen=True)
class Cloud:
    """The images of one model.

    Args:
        bpp: shape (I,).
        psnr: dB, shape (I,).
    """

    bpp: NDArray[np.float64]
    psnr: NDArray[np.float64]

    @property
    def mean(self) -> tuple[float, float]:
        """Mean rate and mean of the images' PSNR, dB."""
        return float(self.bpp.mean()), float(self.psnr.mean())

    @property
    def psnr_of_mean_mse(self) -> float:
        """PSNR of the images' mean MSE, dB; never above the mean PSNR (Jensen's inequality)."""
        return float(-10 * np.log10(np.mean(10 ** (-self.psnr / 10))))


def cloud(one: Measurement, path: str = "real") -> Cloud | None:
    """Take one model's images.

    Args:
        one: the measurement.
        path: `forward` or `real`.

    Returns:
        The images, or None when they were not measured one by one.
    """
    found = of_images(one, path, "psnr")
    return Cloud(*found) if found else None


def scatter_figures(measurements: Sequence[Measurement], dataset: str) -> list[Plot]:
    """Draw the images of each curve's models, side by side on equal axes.

    Args:
        measurements: on the same images; those without per-image figures are passed over.
        dataset: name of the images.

    Returns:
        One figure a curve, with up to eight panels.
    """
    clouds: dict[str, list[tuple[Measurement, Cloud]]] = {}
    for one in measurements:
        found = cloud(one)
        if found:
            clouds.setdefault(one.curve, []).append((one, found))
    return [_scatter_figure(members[:8], curve, dataset) for curve, members in clouds.items()]


def _scatter_figure(clouds: Sequence[tuple[Measurement, Cloud]], curve: str, dataset: str) -> Plot:
    size = len(clouds)
    title = f"Rate and PSNR of each image of {dataset}: {curve}"
    figure, panels = new_figure(title, 2.4 + 3.4 * size, 4.8, columns=size)
    for axes, (one, found) in zip(panels, clouds, strict=True):
        axes.plot(found.bpp, found.psnr, "o", color=COLOURS[0], ms=4, alpha=0.7, label="one image")
        x, y = found.mean
        axes.plot(x, y, "o", color=COLOURS[1], ms=9, label=f"mean: {x:.4f} bit/pixel, {y:.4f} dB")
        of_mean = found.psnr_of_mean_mse
        axes.plot(x, of_mean, "D", mfc="none", color=COLOURS[1], ms=8, label=f"PSNR of the mean MSE: {of_mean:.4f} dB")
        axes.set_title(one.full_label, fontsize=9)
        axes.set_xlabel("rate [bit/pixel]")
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), fontsize=8, frameon=False)
    panels[0].set_ylabel("PSNR (RGB) [dB]")
    _share_limits(panels, [found for _, found in clouds])
    gaps = "; ".join(f"{one.full_label}: {found.mean[1] - found.psnr_of_mean_mse:.4f} dB" for one, found in clouds)
    caption = f"Each image and their mean. The mean PSNR lies above the PSNR of the mean MSE by {gaps}."
    return Plot(slug(f"images-{dataset}-{curve}"), caption, figure)


def _share_limits(panels: Sequence[Axes], clouds: Sequence[Cloud]) -> None:
    for axis, values in (("x", [found.bpp for found in clouds]), ("y", [found.psnr for found in clouds])):
        low, high = min(map(np.min, values)), max(map(np.max, values))
        margin = 0.06 * (high - low) or 0.5
        for axes in panels:
            axes.set(**{f"{axis}lim": (low - margin, high + margin)})
