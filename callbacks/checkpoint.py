"""Writes checkpoints that a run continues from, and the export at the end."""

from __future__ import annotations

from catalyst import dl
from rdtrain.runners import ImageCompressionRunner

from rdtrain.checkpoint import capture, restore
from rdtrain.export import export_model
from rdtrain.files import write_tensors


class Checkpoint(dl.Callback):
    """Observer: `checkpoints/last.pt` after every epoch, `best.pt` after one that is the best so far.

    Catalyst's own keeps references to the live weights and so rewrites its "best" file with the current ones. In the
    configuration:

        callbacks:
          checkpoint:
            _target_: rdtrain.callbacks.Checkpoint
    """

    def __init__(self) -> None:
        super().__init__(order=90)

    def on_experiment_start(self, runner: ImageCompressionRunner) -> None:
        """Continue where the last part of the run stopped.

        Args:
            runner: of this run; `resume_from` is what `last.pt` held, or None.
        """
        if runner.resume_from is not None:
            restore(runner, runner.resume_from)

    def on_epoch_end(self, runner: ImageCompressionRunner) -> None:
        """Write the checkpoints.

        Args:
            runner: of this run.
        """
        if not runner.engine.is_main_process:
            return
        state = capture(runner)
        if runner.is_best:
            write_tensors(runner.folder.best, state)
        write_tensors(runner.folder.last, state)

    def on_experiment_end(self, runner: ImageCompressionRunner) -> None:
        """Write the best weights for stock CompressAI.

        Args:
            runner: of this run.
        """
        if runner.engine.is_main_process:
            chosen = runner.folder.best if runner.folder.best.exists() else runner.folder.last
            export_model(runner.config, chosen, runner.folder.exported)
