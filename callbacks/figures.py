"""Draws what a person looks at first."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from catalyst import dl
from matplotlib.figure import Figure
from rdtrain.runners import ImageCompressionRunner
from torch import Tensor

from rdtrain.files import write_atomically
from rdtrain.report.curve_figures import loss_figures, lr_figure
from rdtrain.report.naming import curve_names
from rdtrain.report.runs import read_run


class Figures(dl.Callback):
    """Observer: loss curves, learning rate and reconstructions in `figures/`, after every infer pass and at the end.

    In the configuration:

        logger:
          figures:
            _target_: rdtrain.callbacks.Figures
            images: 4

    Args:
        images: infer images that are shown.
    """

    def __init__(self, images: int = 4) -> None:
        super().__init__(order=75)  # after metrics.csv, which it reads
        self.images = images

    def on_epoch_end(self, runner: ImageCompressionRunner) -> None:
        """Draw after an infer pass.

        Args:
            runner: of this run.
        """
        if runner.engine.is_main_process and "infer" in runner.measured():
            self._draw_curves(runner)
            if shown := runner.shown[: self.images]:
                figure = reconstruction_figure(shown, f"{runner.folder.path.name}, epoch {runner.epoch_step}")
                _save(figure, runner.folder.figures / "reconstructions.png")

    def _draw_curves(self, runner: ImageCompressionRunner) -> None:
        runs = [read_run(runner.folder.path)]
        names = curve_names(runs)
        plots = {"loss": loss_figures(runs, names, "step")[0], "learning-rate": lr_figure(runs, names)}
        for name, plot in plots.items():
            if plot is not None:
                _save(plot.figure, runner.folder.figures / f"{name}.png")


def _save(figure: Figure, path: Path) -> None:
    write_atomically(path, lambda file: figure.savefig(file, format="png", dpi=110))


def reconstruction_figure(shown: Sequence[tuple[str, Tensor, Tensor]], title: str) -> Figure:
    """Draw originals, reconstructions and their differences.

    Args:
        shown: name, x and x_hat, uint8 (3, H, W), of each image.
        title: of the figure.

    Returns:
        One row an image.
    """
    figure = Figure(figsize=(12, 1 + 3 * len(shown)), layout="constrained")
    figure.suptitle(title, fontsize=11)
    panels = figure.subplots(len(shown), 3, squeeze=False)
    for row, (name, x, x_hat) in zip(panels, shown, strict=True):
        difference = (x_hat.float() - x.float()).abs().mean(0)
        views = ((name, x.permute(1, 2, 0)), ("reconstruction", x_hat.permute(1, 2, 0)))
        for axes, (label, view) in zip(row, views, strict=False):
            axes.imshow(view.numpy())
            axes.set_title(label, fontsize=9)
        image = row[2].imshow(difference.numpy(), cmap="magma", vmin=0, vmax=64)
        row[2].set_title("absolute difference, mean of R, G, B [of 255]", fontsize=9)
        figure.colorbar(image, ax=row[2], shrink=0.8)
        for axes in row:
            axes.set_axis_off()
    return figure
