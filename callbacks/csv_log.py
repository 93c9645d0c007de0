"""Writes metrics.csv."""

from __future__ import annotations

import csv
import io

from catalyst import dl
from rdtrain.runners import ImageCompressionRunner

from rdtrain.files import write_text
from rdtrain.metrics import csv_columns


class CsvLog(dl.Callback):
    """Observer: one row an epoch and loader in `metrics.csv`, the same numbers as in TensorBoard.

    The file is rewritten as a whole after every epoch, so it is never half a row; a continued run drops the rows
    after its checkpoint. In the configuration:

        logger:
          csv:
            _target_: rdtrain.callbacks.CsvLog
    """

    def __init__(self) -> None:
        super().__init__(order=70)
        self.rows: list[dict[str, str]] = []

    def on_experiment_start(self, runner: ImageCompressionRunner) -> None:
        """Keep the rows of the epochs that the checkpoint knows of.

        Args:
            runner: of this run.
        """
        if runner.resume_from is not None and runner.folder.metrics.exists():
            with open(runner.folder.metrics, newline="") as file:
                rows = list(csv.DictReader(file))
            self.rows = [row for row in rows if int(row["epoch"]) <= runner.resume_from["epoch"]]

    def on_epoch_end(self, runner: ImageCompressionRunner) -> None:
        """Add the epoch's rows.

        Args:
            runner: of this run.
        """
        if not runner.engine.is_main_process:
            return
        for loader, values in runner.measured().items():
            row = {"epoch": runner.epoch_step, "step": runner.steps, "loader": loader, **values}
            self.rows.append({key: _text(value) for key, value in row.items()})
        columns = csv_columns()
        file = io.StringIO()
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        write_text(runner.folder.metrics, file.getvalue())


def _text(value: object) -> str:
    return repr(value) if isinstance(value, float) else str(value)
