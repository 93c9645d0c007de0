"""Writes metrics.csv."""

from __future__ import annotations

import csv
import errno
import io
import os
from pathlib import Path

from catalyst import dl
from rdtrain.runners import ImageCompressionRunner

from rdtrain.files import write_text
from rdtrain.metrics import csv_columns


class CsvLog(dl.Callback):
    """Observer: one row an epoch and loader in `metrics.csv`, the same numbers as in TensorBoard.

    Rows are appended whole after every epoch, so that a long run costs no more at its end than at its beginning; a
    continued run drops the rows after its checkpoint. In the configuration:

        logger:
          csv:
            _target_: rdtrain.callbacks.CsvLog
    """

    def __init__(self) -> None:
        super().__init__(order=70)
        self.begun = False
        self.kept: list[dict[str, str]] = []

    def on_experiment_start(self, runner: ImageCompressionRunner) -> None:
        """Keep the rows of the epochs that the checkpoint knows of.

        Args:
            runner: of this run.
        """
        if runner.resume_from is not None and runner.folder.metrics.exists():
            rows = whole_rows(runner.folder.metrics.read_text())
            self.kept = [row for row in rows if int(row["epoch"]) <= runner.resume_from["epoch"]]

    def on_epoch_end(self, runner: ImageCompressionRunner) -> None:
        """Add the epoch's rows.

        Args:
            runner: of this run.
        """
        if not runner.engine.is_main_process:
            return
        rows = []
        for loader, values in runner.measured().items():
            row = {"epoch": runner.epoch_step, "step": runner.steps, "loader": loader, **values}
            rows.append({key: _text(value) for key, value in row.items()})
        path = runner.folder.metrics
        if self.begun and path.exists():
            _append(path, _lines(rows))
        else:
            write_text(path, _lines([dict(zip(csv_columns(), csv_columns(), strict=True)), *self.kept, *rows]))
            self.begun, self.kept = True, []


def whole_rows(text: str) -> list[dict[str, str]]:
    """Read the rows of a file whose writer may have been killed.

    Args:
        text: of `metrics.csv`.

    Returns:
        Text by column of each row; a last one that is cut off is left out.
    """
    return list(csv.DictReader(io.StringIO(text[: text.rfind("\n") + 1])))


def _lines(rows: list[dict[str, str]]) -> str:
    file = io.StringIO()
    csv.DictWriter(file, csv_columns(), lineterminator="\n").writerows(rows)
    return file.getvalue()


def _append(path: Path, text: str) -> None:
    with open(path, "ab", buffering=0) as file:  # what a full disk refuses is not tried again when the file is closed
        end, content = file.tell(), text.encode()
        try:
            if file.write(content) < len(content):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
            os.fsync(file.fileno())
        except OSError:
            os.truncate(path, end)  # nobody shall read half a row
            raise


def _text(value: object) -> str:
    return repr(value) if isinstance(value, float) else str(value)
