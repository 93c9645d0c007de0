"""Writes TensorBoard's event files."""

from __future__ import annotations

import struct
from typing import Any, cast

import torch
from catalyst import dl
from rdtrain.runners import ImageCompressionRunner
from torch import Tensor
from torch.utils.tensorboard import FileWriter, SummaryWriter
from torch.utils.tensorboard.summary import Summary, hparams

from rdtrain.latents import Shown, absolute_error, mean_channel_bpp
from rdtrain.metrics import tag
from rdtrain.tensorboard_layout import custom_scalars

_LARGEST = 768  # side of an image in an event file, pixels
_GAIN = 4


class TensorBoardLog(dl.Callback):
    """Observer: every metric of `metrics.csv` after each epoch, training curves within it, images, and hparams.

    The horizontal axis is optimizer steps, so that loaders and runs lie over each other. Curves within an epoch have
    the prefix `train_steps/`. Custom Scalars holds the comparisons of `rdtrain.tensorboard_layout`.

    Images and histograms would fill the disk: they are written at the infer passes that `rdtrain.latents.keeps_images`
    chooses, 10 of 500, as many as TensorBoard shows of a tag. In the configuration:

        logger:
          tensorboard:
            _target_: rdtrain.callbacks.TensorBoardLog
            every_n_steps: 50
            images: 4

    Args:
        every_n_steps: steps between two points of the curves within an epoch.
        images: infer images that are shown beside their reconstructions and errors.
    """

    def __init__(self, every_n_steps: int = 50, images: int = 4) -> None:
        super().__init__(order=76)  # after the figures, which it shows
        self.every_n_steps, self.images = every_n_steps, images
        self.writer: SummaryWriter | None = None

    def on_experiment_start(self, runner: ImageCompressionRunner) -> None:
        """Open the event file; what a continued run is going to write again is purged.

        Args:
            runner: of this run.
        """
        if runner.engine.is_main_process:
            purge = 0 if runner.resume_from is None else runner.resume_from["steps"] + 1
            self.writer = SummaryWriter(str(runner.folder.tensorboard), purge_step=purge)
            self.writer.add_custom_scalars(custom_scalars())

    def on_batch_end(self, runner: ImageCompressionRunner) -> None:
        """Write the training curves.

        Args:
            runner: of this run.
        """
        if self.writer is None or not (runner.is_train_loader and runner.stepped):
            return
        if runner.steps % self.every_n_steps == 0:
            for name, value in runner.batch_metrics.items():
                self.writer.add_scalar(f"train_steps/{name}", float(value), runner.steps)

    def on_epoch_end(self, runner: ImageCompressionRunner) -> None:
        """Write the epoch's metrics, and reconstructions where there are new ones.

        Args:
            runner: of this run.
        """
        if self.writer is None:
            return
        measured = runner.measured()
        for loader, values in measured.items():
            for name, value in values.items():
                self.writer.add_scalar(tag(loader, name), value, runner.steps)
        if runner.switched_at is not None and runner.switched_at["epoch"] == runner.epoch_step:
            self.writer.add_text("conv/switch", _switch_text(runner.switched_at), runner.steps)
        for event in runner.events:
            if event["epoch"] == runner.epoch_step:
                self.writer.add_text(f"health/{event['kind']}", f"{event['seen']}; {event['advice']}", runner.steps)
        if "infer" in measured:
            self._write_images(self.writer, runner)
        self.writer.flush()

    def _write_images(self, writer: SummaryWriter, runner: ImageCompressionRunner) -> None:
        for name, png in runner.drawn.items():
            cast(FileWriter, writer.file_writer).add_summary(_image(f"figures/{name}", png), runner.steps)
        if runner.keeps_images and (shown := runner.shown[: self.images]):
            for one in shown:
                writer.add_image(f"infer/{one.name}", beside(one), runner.steps)
            for name, bpp in mean_channel_bpp(shown).items():
                writer.add_histogram(f"channels/bpp/{name}", bpp, runner.steps)

    def on_experiment_end(self, runner: ImageCompressionRunner) -> None:
        """Write the hyperparameters with the last metrics, and close.

        Args:
            runner: of this run.
        """
        if self.writer is None:
            return
        final = {key: value for key, value in runner.final.items() if isinstance(value, float)}
        chosen = flat(runner.config.to_dict(), ("model", "hp", "conv", "criterion", "optimizer", "scheduler", "seed"))
        for summary in hparams(chosen, {f"hparam/{key}": value for key, value in final.items()}):
            cast(FileWriter, self.writer.file_writer).add_summary(summary)
        for key, value in final.items():
            self.writer.add_scalar(f"hparam/{key}", value, runner.steps)
        self.writer.close()

    def on_exception(self, runner: ImageCompressionRunner) -> None:
        """Keep what was written.

        Args:
            runner: of this run.
        """
        if self.writer is not None:
            self.writer.close()


def flat(config: dict[str, Any], sections: tuple[str, ...]) -> dict[str, Any]:
    """Dotted keys with scalars.

    Args:
        config: nested dicts.
        sections: which of its sections.

    Returns:
        Values by dotted key; lists and None as text.
    """
    result: dict[str, Any] = {}

    def walk(key: str, value: Any) -> None:
        if isinstance(value, dict):
            for name, item in value.items():
                walk(f"{key}.{name}", item)
        else:
            result[key] = value if isinstance(value, bool | int | float | str) else str(value)

    for section in sections:
        walk(section, config[section])
    return result


def _switch_text(switch: dict[str, Any]) -> str:
    return "  \n".join(f"{name}: {value}" for name, value in switch.items())


def beside(one: Shown) -> Tensor:
    """Lay an image, its reconstruction and its error side by side.

    Args:
        one: the image; of a larger one than 768 pixels the middle is taken, pixel by pixel.

    Returns:
        uint8 (3, h, 3 w); the error is |x_hat - x|, mean over the colours, four times as bright.
    """
    error = (_GAIN * absolute_error(one)).clamp(max=255).to(torch.uint8).expand_as(one.x)
    _, height, width = one.x.shape
    top, left = (max(0, (side - _LARGEST) // 2) for side in (height, width))
    views = (one.x, one.x_hat, error)
    return torch.cat([view[:, top : top + _LARGEST, left : left + _LARGEST] for view in views], dim=-1)


def _image(tag: str, png: bytes) -> Summary:
    width, height = struct.unpack(">II", png[16:24])  # of the header chunk
    image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=png)
    return Summary(value=[Summary.Value(tag=tag, image=image)])
