"""Draws what a person looks at first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from catalyst import dl
from matplotlib.figure import Figure
from rdtrain.runners import ImageCompressionRunner

from rdtrain.densities import bottlenecks, density
from rdtrain.files import write_bytes
from rdtrain.latents import Shown, absolute_error, highest, mean_bottleneck_bpp, mean_channel_bpp
from rdtrain.report.curve_figures import loss_figures, lr_figure
from rdtrain.report.figures import png, save_png, slug
from rdtrain.report.latent_figures import channel_rate_figure, density_figure, feature_map_figure, scale_figure
from rdtrain.report.naming import curve_names
from rdtrain.report.rd_path import about, rd_path_figure
from rdtrain.report.runs import Run, read_run


class Figures(dl.Callback):
    """Observer: figures in `figures/`; TensorBoard shows them too.

    After every infer pass: loss curves, learning rate, reconstructions and the run's way over the rate-distortion
    plane. After those whose images are kept (`rdtrain.latents.keeps_images`) also, of the shown images, rates of the
    channels, feature maps, densities of entropy bottlenecks and use of the scale tables. In the configuration:

        logger:
          figures:
            _target_: rdtrain.callbacks.Figures
            images: 4
            channels: 16

    Args:
        images: infer images that are shown.
        channels: of a latent, those with the highest rate, whose densities and feature maps are shown.
    """

    def __init__(self, images: int = 4, channels: int = 16) -> None:
        super().__init__(order=75)  # after metrics.csv, which it reads
        self.images, self.channels = images, channels

    def on_epoch_end(self, runner: ImageCompressionRunner) -> None:
        """Draw after an infer pass.

        Args:
            runner: of this run.
        """
        runner.drawn = {}
        if not runner.engine.is_main_process or "infer" not in runner.measured():
            return
        subject = f"{about(Run(runner.folder.path, runner.config.to_dict(), {}, {}))}, epoch {runner.epoch_step}"
        figures = self._of_run(runner)
        if shown := runner.shown[: self.images]:
            if runner.keeps_images:
                figures |= self._of_latents(runner, shown, subject)
            save_png(reconstruction_figure(shown, subject), runner.folder.figures / "reconstructions.png")
        runner.drawn = {name: png(figure) for name, figure in figures.items()}
        for name, drawn in runner.drawn.items():
            write_bytes(runner.folder.figures / f"{name}.png", drawn)

    def _of_run(self, runner: ImageCompressionRunner) -> dict[str, Figure]:
        if not runner.folder.metrics.exists():  # the run does without its CSV log
            return {}
        run = read_run(runner.folder.path)
        run = replace(run, summary={**run.summary, "switch": runner.switched_at})  # summary.json is written later
        names = curve_names([run])
        curves = {"loss": loss_figures([run], names, "step")[0], "learning-rate": lr_figure([run], names)}
        for name, plot in curves.items():
            if plot is not None:
                save_png(plot.figure, runner.folder.figures / f"{name}.png")
        plane = rd_path_figure(run)
        return {} if plane is None else {plane.name: plane.figure}

    def _of_latents(self, runner: ImageCompressionRunner, shown: Sequence[Shown], subject: str) -> dict[str, Figure]:
        bpp, first = mean_channel_bpp(shown), shown[0]
        images = f"mean of {len(shown)} infer image{'s' if len(shown) > 1 else ''}"
        figures = {"channel-rates": channel_rate_figure(bpp, f"Rates of channels, {images}\n{subject}")}
        rates = mean_bottleneck_bpp(shown)
        for name, bottleneck in bottlenecks(runner.judged).items():
            channels = highest(rates[name], self.channels)
            figures[slug(f"densities-{name}")] = density_figure(
                density(bottleneck, channels), rates[name][channels], f"Densities of {name}\n{subject}"
            )
        if use := first.latents.scales:
            figures["scales"] = scale_figure(use, f"Use of the scale table, image {first.name}\n{subject}")
        if first.latents.y_hat is not None:
            channels = highest(bpp["y"], self.channels)
            figures["feature-maps"] = feature_map_figure(
                first.latents.y_hat, channels, bpp["y"][channels], f"y_hat of image {first.name}\n{subject}"
            )
        return figures


def reconstruction_figure(shown: Sequence[Shown], title: str) -> Figure:
    """Draw originals, reconstructions and their differences.

    Args:
        shown: the images.
        title: of the figure.

    Returns:
        One row an image.
    """
    figure = Figure(figsize=(12, 1 + 3 * len(shown)), layout="constrained")
    figure.suptitle(title, fontsize=11)
    panels = figure.subplots(len(shown), 3, squeeze=False)
    for row, one in zip(panels, shown, strict=True):
        views = ((one.name, one.x), ("reconstruction", one.x_hat))
        for axes, (label, view) in zip(row, views, strict=False):
            axes.imshow(view.permute(1, 2, 0).numpy())
            axes.set_title(label, fontsize=9)
        image = row[2].imshow(absolute_error(one).numpy(), cmap="magma", vmin=0, vmax=64)
        row[2].set_title("absolute difference, mean of R, G, B [of 255]", fontsize=9)
        figure.colorbar(image, ax=row[2], shrink=0.8)
        for axes in row:
            axes.set_axis_off()
    return figure
