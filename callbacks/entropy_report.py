"""Shows during training where a model's bits go."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from catalyst import dl
from PIL import Image
from rdtrain.callbacks.tensorboard_log import TensorBoardLog
from rdtrain.runners import ImageCompressionRunner
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from rdtrain.densities import bottlenecks
from rdtrain.entropy.page import sections
from rdtrain.entropy.study import Study, study
from rdtrain.eval.models import Subject
from rdtrain.evaluation import evaluation_copy
from rdtrain.files import write_bytes
from rdtrain.latents import Shown
from rdtrain.report.figures import png
from rdtrain.report.html import Section
from rdtrain.report.rd_path import about
from rdtrain.report.runs import Run
from rdtrain.report.tables import Table

_DRAWN_BY_FIGURES = ("quantiles-", "scales-")


class EntropyReport(dl.Callback):
    """Observer: what `rdtrain-report entropy` shows of a finished run, while it trains.

    After the infer passes whose images are kept (`rdtrain.latents.keeps_images`) the first infer images are coded once
    more, on a copy. TensorBoard shows figures and tables under `entropy/`; the figures also go to
    `figures/entropy-*.png`, but for those that `rdtrain.callbacks.Figures` draws. Of models whose bitstreams are not
    written at every pass (`infer.real`) only the last epoch is shown. In the configuration:

        logger:
          entropy_report:
            _target_: rdtrain.callbacks.EntropyReport
            images: 1
            channels: 8

    Args:
        images: infer images that are coded.
        channels: of each entropy model, those with the highest rate, that are shown one by one.
    """

    def __init__(self, images: int = 1, channels: int = 8) -> None:
        super().__init__(order=77)  # after TensorBoard's scalars, before the checkpoint
        self.images, self.channels = images, channels

    def on_epoch_end(self, runner: ImageCompressionRunner) -> None:
        """Report after an infer pass.

        Args:
            runner: of this run.
        """
        shown = runner.shown[: self.images]
        due = runner.is_last_epoch or (runner.keeps_images and runner.real_policy == "always")
        if not (runner.engine.is_main_process and "infer" in runner.measured() and due and shown):
            return
        made = sections(self._study(runner, shown), self.channels)
        plots = [plot for section in made for plot in section.plots if not plot.name.startswith(_DRAWN_BY_FIGURES)]
        pngs = {plot.name: png(plot.figure) for plot in plots}
        for name, drawn in pngs.items():
            write_bytes(runner.folder.figures / f"entropy-{name}.png", drawn)
        writer = _writer(runner)
        if writer is not None:
            _show(writer, pngs, made, runner.steps)

    def _study(self, runner: ImageCompressionRunner, shown: Sequence[Shown]) -> Study:
        judged = runner.judged
        quantiles = {name: bottleneck.quantiles for name, bottleneck in bottlenecks(judged).items()}
        subject = Subject(runner.folder.last, runner.config.model.name, evaluation_copy(judged))
        title = f"{about(Run(runner.folder.path, runner.config.to_dict(), {}, {}))}, epoch {runner.epoch_step}"
        return study(subject, _images(shown, runner), quantiles, title)


def _images(shown: Sequence[Shown], runner: ImageCompressionRunner) -> Iterator[tuple[str, Tensor]]:
    for one in shown:
        yield one.name, one.x[None].to(runner.engine.device).float().div_(255)


def _writer(runner: ImageCompressionRunner) -> SummaryWriter | None:
    logs = [callback for callback in runner.callbacks.values() if isinstance(callback, TensorBoardLog)]
    return logs[0].writer if logs else None


def _show(writer: SummaryWriter, pngs: Mapping[str, bytes], made: Sequence[Section], step: int) -> None:
    for name, drawn in pngs.items():
        pixels = np.asarray(Image.open(io.BytesIO(drawn)).convert("RGB"))
        writer.add_image(f"entropy/{name}", pixels, step, dataformats="HWC")
    for table in (table for section in made for table in section.tables):
        writer.add_text(f"entropy/{table.name}", markdown(table), step)


def markdown(table: Table) -> str:
    """Write a table as TensorBoard's text tab shows it.

    Args:
        table: any.

    Returns:
        Markdown: the title, the table and its note.
    """
    lines = [table.header, ["---"] * len(table.header), *table.rows]
    rows = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"**{table.title}**\n\n{rows}\n\n{table.note}"
