"""Keeps summary.json."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from catalyst import dl
from rdtrain.runners import ImageCompressionRunner

from rdtrain.data.decode import BadImage
from rdtrain.files import write_json
from rdtrain.ranks import gathered


class RunRecord(dl.Callback):
    """Observer: status, best epoch, last numbers, events and bad images in `summary.json`; part of every run.

    It comes last, so that a run is called finished only when everything is written.
    """

    def __init__(self) -> None:
        super().__init__(order=100)
        self.bad: dict[str, str] = {}  # what is wrong, by file

    def on_experiment_start(self, runner: ImageCompressionRunner) -> None:
        """Say that the run is running.

        Args:
            runner: of this run.
        """
        for reason, files in runner.folder.read_summary().get("bad_images", {}).items():
            self._note([BadImage(Path(file), reason) for file in files])
        for store in runner.stores.values():
            self._note(store.left_out)
        self._write(runner, "running")

    def on_loader_end(self, runner: ImageCompressionRunner) -> None:
        """Name images that proved bad, before the epoch's checkpoint is written.

        Args:
            runner: of this run.
        """
        if not runner.is_train_loader:
            return
        bad = gathered(runner.stores["train"].bad_images(), runner.engine)
        self._note(bad)
        for image in bad:
            warning = f"an image proved bad and another one takes its place: {image}"
            if warning not in runner.warnings:
                runner.warnings.append(warning)
                if runner.engine.is_main_process:
                    print(warning)

    def on_epoch_end(self, runner: ImageCompressionRunner) -> None:
        """Write the newest numbers.

        Args:
            runner: of this run.
        """
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
        for store in runner.stores.values():
            self._note(store.bad_images())
        self._write(runner, "interrupted" if isinstance(runner.exception, KeyboardInterrupt) else "failed")

    def _note(self, bad: Iterable[BadImage]) -> None:
        for image in bad:
            self.bad.setdefault(str(image.path), image.reason)

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
            "events": runner.events,
            "bad_images": {
                reason: sorted(file for file, fault in self.bad.items() if fault == reason)
                for reason in sorted(set(self.bad.values()))
            },
        }
        write_json(runner.folder.summary, content)
