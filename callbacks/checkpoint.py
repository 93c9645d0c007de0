"""Writes checkpoints that a run continues from, and the export at the end."""

from __future__ import annotations

import time
from typing import Any

from catalyst import dl
from rdtrain.runners import ImageCompressionRunner

from rdtrain.checkpoint import capture, restore
from rdtrain.export import export_model
from rdtrain.files import write_tensors
from rdtrain.interruption import Interrupted
from rdtrain.ranks import agreed

_AGREE_EVERY = 8  # steps after which several processes ask each other whether to write or to stop
_WRITE, _STOP = 1, 2


class Checkpoint(dl.Callback):
    """Observer: `checkpoints/last.pt` after every epoch and within it, `best.pt` after one that is the best so far.

    It also ends the run when a signal asks for it: after the training step, or at once while the model is only looked
    at. Catalyst's own checkpoints keep references to the live weights and so rewrite the "best" file with the current
    ones. In the configuration:

        callbacks:
          checkpoint:
            _target_: rdtrain.callbacks.Checkpoint
    """

    def __init__(self) -> None:
        super().__init__(order=90)
        self.trained: dict[str, Any] | None = None

    def on_experiment_start(self, runner: ImageCompressionRunner) -> None:
        """Continue where the last part of the run stopped, or keep the beginning, to which a run may roll back.

        Args:
            runner: of this run; `resume_from` is what `last.pt` held, or None.
        """
        if runner.resume_from is not None:
            restore(runner, runner.resume_from)
            self.written = time.monotonic()
        else:
            self._write(runner, capture(runner))

    def on_batch_end(self, runner: ImageCompressionRunner) -> None:
        """Write and stop between two training steps.

        Args:
            runner: of this run.

        Raises:
            Interrupted: a signal has asked for it.
        """
        if not (runner.is_train_loader and runner.stepped):
            return
        wish = self._wish(runner)
        every = runner.config.checkpoint.every_n_steps
        due = wish or (every is not None and runner.steps % every == 0)
        if due or runner.is_last_batch:
            runner.settle()
            state = capture(runner, within_epoch=True)
            if runner.is_last_batch:
                self.trained = state  # nothing changes it while the epoch's other loaders are gone through
            if due:
                self._write(runner, state)
        if wish >= _STOP:
            runner.engine.wait_for_everyone()  # one that left early would have the writer killed
            raise Interrupted(wish - _STOP)

    def on_epoch_end(self, runner: ImageCompressionRunner) -> None:
        """Write the checkpoints.

        Args:
            runner: of this run.
        """
        state, self.trained = capture(runner), None
        if runner.is_best and runner.engine.is_main_process:
            write_tensors(runner.folder.best, state)
        self._write(runner, state)
        if not runner.is_last_epoch:
            runner.interruption.check()

    def on_exception(self, runner: ImageCompressionRunner) -> None:
        """Keep the epoch's training when a signal ends the run while the model is looked at.

        Args:
            runner: of this run.
        """
        if isinstance(runner.exception, Interrupted) and self.trained is not None:
            self._write(runner, self.trained)

    def on_experiment_end(self, runner: ImageCompressionRunner) -> None:
        """Write the best weights for stock CompressAI.

        Args:
            runner: of this run.
        """
        if runner.engine.is_main_process:
            chosen = runner.folder.best if runner.folder.best.exists() else runner.folder.last
            export_model(runner.config, chosen, runner.folder.exported)

    def _wish(self, runner: ImageCompressionRunner) -> int:
        # What any of the processes wants: nothing, _WRITE, or _STOP plus the signal's number.
        if runner.engine.num_processes > 1 and runner.steps % _AGREE_EVERY and not runner.is_last_batch:
            return 0
        every, signum = runner.config.checkpoint.every_minutes, runner.interruption.received
        due = every is not None and time.monotonic() - self.written > 60 * every
        return agreed(_STOP + signum if signum is not None else _WRITE * due, runner.engine)

    def _write(self, runner: ImageCompressionRunner, state: dict[str, Any]) -> None:
        self.written = time.monotonic()
        if runner.engine.is_main_process:
            write_tensors(runner.folder.last, state)
