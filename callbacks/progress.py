"""Shows how far the run is."""

from __future__ import annotations

import sys
from datetime import timedelta

from catalyst import dl
from rdtrain.runners import ImageCompressionRunner
from tqdm import tqdm

_SHOWN = ("loss/forward/unclamped", "bpp/forward", "psnr/forward/unclamped", "bpp/real", "psnr/real/8bit")


class Progress(dl.Callback):
    """Observer: a bar with losses and time left on a terminal, and one line an epoch in any case.

    In the configuration:

        logger:
          progress:
            _target_: rdtrain.callbacks.Progress
    """

    def __init__(self) -> None:
        super().__init__(order=70)
        self.bar: tqdm | None = None

    def on_loader_start(self, runner: ImageCompressionRunner) -> None:
        """Begin a bar.

        Args:
            runner: of this run.
        """
        if runner.engine.is_main_process and sys.stderr.isatty():
            label = f"epoch {runner.epoch_step}/{runner.num_epochs} {runner.loader_key}"
            self.bar = tqdm(total=runner.loader_batch_len, desc=label, leave=False, dynamic_ncols=True)

    def on_batch_end(self, runner: ImageCompressionRunner) -> None:
        """Move the bar.

        Args:
            runner: of this run.
        """
        if self.bar is None:
            return
        self.bar.update()
        if runner.is_train_loader and runner.loader_batch_step % 10 == 0:
            self.bar.set_postfix(loss=f"{float(runner.batch_metrics['loss/forward/unclamped']):.4f}", refresh=False)

    def on_loader_end(self, runner: ImageCompressionRunner) -> None:
        """Take the bar away.

        Args:
            runner: of this run.
        """
        if self.bar is not None:
            self.bar.close()
            self.bar = None

    def on_epoch_end(self, runner: ImageCompressionRunner) -> None:
        """Print the epoch's line.

        Args:
            runner: of this run.
        """
        if not runner.engine.is_main_process:
            return
        parts = [f"epoch {runner.epoch_step}/{runner.num_epochs}", f"step {runner.steps}"]
        for loader, values in runner.measured().items():
            shown = [f"{_short(name)} {values[name]:.4f}" for name in _SHOWN if name in values]
            parts.append(f"{loader} {' '.join(shown)}")
        epochs_left = 0 if runner.is_last_epoch else runner.num_epochs - runner.epoch_step
        seconds = round(runner.elapsed_s / runner.epoch_step * epochs_left)
        parts.append(f"at most {timedelta(seconds=seconds)} left")
        print(" | ".join(parts), flush=True)


def _short(name: str) -> str:
    quantity, path = name.split("/")[:2]
    return quantity if path == "forward" else f"{path} {quantity}"
