"""Keeps summary.json."""

from __future__ import annotations

from catalyst import dl
from rdtrain.runners import ImageCompressionRunner

from rdtrain.files import write_json


class RunRecord(dl.Callback):
    """Observer: status, best epoch and last numbers in `summary.json`; part of every run.

    It comes last, so that a run is called finished only when everything is written.
    """

    def __init__(self) -> None:
        super().__init__(order=100)

    def on_experiment_start(self, runner: ImageCompressionRunner) -> None:
        """Say that the run is running.

        Args:
            runner: of this run.
        """
        self._write(runner, "running")

    def on_epoch_end(self, runner: ImageCompressionRunner) -> None:
        """Write the newest numbers, and name images that proved bad.

        Args:
            runner: of this run.
        """
        for bad in runner.stores["train"].bad_images():
            warning = f"an image proved bad and another one takes its place: {bad}"
            if warning not in runner.warnings:
                runner.warnings.append(warning)
                print(warning)
        self._write(runner, "running")

    def on_experiment_end(self, runner: ImageCompressionRunner) -> None:
        """Say that the run is finished; it will not be repeated.

        Args:
            runner: of this run.
        """
        self._write(runner, "finished")

    def on_exception(self, runner: ImageCompressionRunner) -> None:
        """Say how the run ended.

        Args:
            runner: of this run.
        """
        self._write(runner, "interrupted" if isinstance(runner.exception, KeyboardInterrupt) else "failed")

    def _write(self, runner: ImageCompressionRunner, status: str) -> None:
        if not runner.engine.is_main_process:
            return
        content = {
            "run_id": runner.folder.id,
            "status": status,
            "epochs": runner.epoch_step,
            "steps": runner.steps,
            "seconds": round(runner.elapsed_s, 3),
            "best": {"epoch": runner.best.epoch, "loss": runner.best.value},
            "final": runner.final,
            "switch": runner.switched_at,
            "warnings": runner.warnings,
        }
        write_json(runner.folder.summary, content)
