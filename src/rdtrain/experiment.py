"""An experiment that trains no compression model, from a configuration to a finished run folder.

Such an experiment takes minutes and keeps no checkpoint: one that was interrupted begins anew.
"""

from __future__ import annotations

import csv
import io
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from rdtrain import environment
from rdtrain.config import schema
from rdtrain.config.experiment import Experiment, Machine
from rdtrain.engine import Engine, make_engine
from rdtrain.files import remove_leftovers, write_json, write_text
from rdtrain.interruption import Interrupted, Interruption
from rdtrain.lock import locked
from rdtrain.run_folder import RunFolder, run_id, runs_root


@dataclass
class Record:
    """What an experiment leaves in its run folder.

    Args:
        folder: of the run.
        steps: optimizer steps so far.
        final: the numbers of `summary.json`.
        warnings: what the user should know afterwards.
    """

    folder: RunFolder
    steps: int = 0
    final: dict[str, float] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    _rows: list[dict[str, Any]] = field(default_factory=list)
    _begun: float = field(default_factory=time.monotonic)

    def warn(self, sentence: str) -> None:
        """Tell the user something, now and in the summary.

        Args:
            sentence: what.
        """
        self.warnings.append(sentence)
        print(sentence, flush=True)

    def log(self, writer: SummaryWriter, epoch: int, loader: str, values: Mapping[str, float]) -> None:
        """Add a row to `metrics.csv` and a point to TensorBoard's curves.

        Args:
            writer: of the run's event file.
            epoch: from 0, the state before training.
            loader: what was measured on; the prefix of TensorBoard's tags.
            values: by metric name.
        """
        self._rows.append({"epoch": epoch, "step": self.steps, "loader": loader, **values})
        write_table(self.folder.metrics, self._rows)
        for name, value in values.items():
            writer.add_scalar(f"{loader}/{name}", value, epoch)

    def table(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write the numbers behind a figure, and print them.

        Args:
            name: of `figures/<name>.csv`.
            rows: values by column.
        """
        write_table(self.folder.figures / f"{name}.csv", rows)
        print(aligned(rows), flush=True)

    def write(self, status: str) -> None:
        """Write `summary.json`.

        Args:
            status: `running`, `finished`, `failed` or `interrupted`.
        """
        content = {
            "run_id": self.folder.id,
            "status": status,
            "steps": self.steps,
            "seconds": round(time.monotonic() - self._begun, 3),
            "final": self.final,
            "warnings": self.warnings,
        }
        write_json(self.folder.summary, content)


def folder_of(config: Experiment, name: str, data: dict[str, Any]) -> RunFolder:
    """The folder that belongs to a configuration.

    Args:
        config: of an experiment.
        name: what a person wants to read in the folder's name.
        data: what it reads, by part: fingerprints of what the configuration only names.

    Returns:
        The folder, made or not.

    Raises:
        UserError: what is finished in it came of other data.
    """
    folder = RunFolder(runs_root(config.paths.runs) / f"{run_id(config)}-{name}")
    if _is_finished(folder):
        folder.check_data(data, "data")
    return folder


def _is_finished(folder: RunFolder) -> bool:
    return bool(folder.read_summary().get("status") == "finished")


def run_experiment(
    config: Experiment,
    name: str,
    overrides: Sequence[str],
    data: dict[str, Any],
    work: Callable[[Record, Engine, SummaryWriter], None],
) -> RunFolder:
    """Run an experiment, or leave alone what is finished.

    Args:
        config: its configuration, without mistakes.
        name: what a person wants to read in the folder's name.
        overrides: what the user typed, for the record.
        data: see `folder_of`; for environment.json too.
        work: does it.

    Returns:
        The run's folder.

    Raises:
        UserError: the folder cannot be written to, or what is finished in it came of other data.
        OSError: another fault of reading or writing; `work` may raise anything else.
    """
    folder = folder_of(config, name, data)
    with Interruption(), locked(folder.path):
        if _is_finished(folder):
            print(f"already finished: {folder.path} (delete it to run it again)")
            return folder
        engine = make_engine(engine_section(config.engine))
        remove_leftovers(folder.path)
        for begun in (folder.environment, *folder.tensorboard.glob("events.*")):  # of an attempt that was interrupted
            begun.unlink(missing_ok=True)
        folder.make(config, list(overrides), environment.describe(engine.device, config.seed, data))
        print(f"run folder: {folder.path}", flush=True)
        try:
            _recorded(Record(folder), engine, work)
        except OSError as error:
            if (explained := folder.explain_write_error(error)) is not None:
                raise explained from error
            raise
    return folder


def _recorded(record: Record, engine: Engine, work: Callable[[Record, Engine, SummaryWriter], None]) -> None:
    record.write("running")
    try:
        with SummaryWriter(str(record.folder.tensorboard)) as writer:
            work(record, engine, writer)
    except KeyboardInterrupt as error:
        record.write("interrupted")
        raise Interrupted(getattr(error, "signum", signal.SIGINT), "begins it anew") from error
    except BaseException:
        record.write("failed")
        raise
    record.write("finished")
    print(f"finished: {record.folder.path}", flush=True)


def engine_section(engine: Machine) -> schema.Engine:
    """What an experiment's `engine.*` is in the words of a training: one process, float32.

    Args:
        engine: `engine.*`.

    Returns:
        What `make_engine` and `rdtrain.preflight.device_problems` take.
    """
    return schema.Engine(
        device=engine.device,
        threads=engine.threads,
        malloc=engine.malloc,
        distributed=False,
        precision="fp32",
        compile=False,
        channels_last=False,
        deterministic=False,
        num_epochs=1,
        epoch_steps=None,
        accumulate=1,
        clip_grad_norm=None,
        ema_decay=None,
    )


def write_table(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write a CSV file with a column for every key, in the order in which they come.

    Args:
        path: the file.
        rows: values by column; empty where a row lacks one.
    """
    columns = list(dict.fromkeys(key for row in rows for key in row))
    file = io.StringIO()
    writer = csv.DictWriter(file, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, file.getvalue())


def aligned(rows: Sequence[Mapping[str, Any]]) -> str:
    """A table for the terminal.

    Args:
        rows: values by column, all with the same columns.

    Returns:
        Lines with the columns' names first; numbers with five digits.
    """
    cells = [list(rows[0]), *([_text(value) for value in row.values()] for row in rows)] if rows else []
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in cells)


def _text(value: Any) -> str:
    return f"{value:.5g}" if isinstance(value, float) else str(value)
