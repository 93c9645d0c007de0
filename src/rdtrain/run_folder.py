"""One folder a run: its name, what lies where in it, and whether the run in it is finished."""

from __future__ import annotations

import copy
import errno
import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import yaml

from rdtrain.config.schema import INCIDENTAL, Config
from rdtrain.errors import UserError
from rdtrain.files import write_json, write_text

_WRITE_ERRORS = (
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE,
)  # fmt: skip
_NOT_IN_ID = (*INCIDENTAL, "search")


class Described(Protocol):
    """A configuration of any task."""

    def to_dict(self) -> dict[str, Any]:
        """The configuration as plain containers."""
        ...


def run_id(config: Described) -> str:
    """A deterministic name for what a configuration computes.

    Args:
        config: completed, so that what `model.quality` stands for counts, not how it was typed.

    Returns:
        10 hexadecimal digits of a sha256 over the configuration without paths, logging and what else changes no result.
    """
    return content_id(config.to_dict())


def content_id(given: dict[str, Any]) -> str:
    """The same of a configuration that was written down.

    Args:
        given: as plain containers; not changed.

    Returns:
        What `run_id` returns for it.
    """
    content = copy.deepcopy(given)
    for name in _NOT_IN_ID:
        section, _, key = name.rpartition(".")
        (content.get(section, {}) if section else content).pop(key, None)
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:10]


def slug(config: Config) -> str:
    """What a person wants to read in a folder's name.

    Args:
        config: completed.

    Returns:
        Such as `bmshj2018-factorized-rfft-lmbda0.0067-seed1`.
    """
    form = config.conv.transform if config.conv.type == "spectral" else "plain"
    name = f"{config.model.name}-{form}-lmbda{config.criterion.lmbda:g}-seed{config.seed}"
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name)


def runs_root(path: str) -> Path:
    """The folder in which run folders are made.

    Args:
        path: `paths.runs`.

    Returns:
        The whole path.
    """
    return Path(path).expanduser().resolve()


@dataclass(frozen=True)
class RunFolder:
    """The only place that a run writes to.

    Args:
        path: `<paths.runs>/<id>-<slug>`.
    """

    path: Path

    @classmethod
    def of(cls, config: Config) -> RunFolder:
        """The folder that belongs to a configuration.

        Args:
            config: completed.

        Returns:
            The folder, made or not.
        """
        return cls(runs_root(config.paths.runs) / f"{run_id(config)}-{slug(config)}")

    @property
    def id(self) -> str:
        """The deterministic part of the name."""
        return self.path.name.split("-", 1)[0]

    @property
    def config(self) -> Path:
        """The resolved configuration."""
        return self.path / "config.yaml"

    @property
    def overrides(self) -> Path:
        """What the user typed, one a line."""
        return self.path / "overrides.txt"

    @property
    def environment(self) -> Path:
        """Versions, machine, seed and data."""
        return self.path / "environment.json"

    @property
    def metrics(self) -> Path:
        """One row an epoch and loader."""
        return self.path / "metrics.csv"

    @property
    def summary(self) -> Path:
        """Status and last numbers."""
        return self.path / "summary.json"

    @property
    def tensorboard(self) -> Path:
        """Event files."""
        return self.path / "tensorboard"

    @property
    def last(self) -> Path:
        """Checkpoint to continue from."""
        return self.path / "checkpoints" / "last.pt"

    @property
    def best(self) -> Path:
        """Checkpoint of the epoch with the best monitored value."""
        return self.path / "checkpoints" / "best.pt"

    @property
    def exported(self) -> Path:
        """Plain weights with probability tables, for stock CompressAI."""
        return self.path / "export" / "model.pth"

    @property
    def figures(self) -> Path:
        """Pictures."""
        return self.path / "figures"

    def make(self, config: Described, overrides: list[str], environment: dict[str, Any]) -> None:
        """Make the folder, or go on in it, and write down what is going to be run.

        Args:
            config: completed.
            overrides: what the user typed.
            environment: see `rdtrain.environment`.
        """
        for folder in (self.tensorboard, self.last.parent, self.exported.parent, self.figures):
            folder.mkdir(parents=True, exist_ok=True)
        if self.environment.exists():  # a run that continues keeps the record of its beginning
            begun = _read_json(self.environment)
            environment = {**begun, "continued": [*begun.get("continued", []), environment]}
        else:
            write_text(self.config, yaml.safe_dump(config.to_dict(), sort_keys=False))
            write_text(self.overrides, "".join(f"{text}\n" for text in overrides))
        write_json(self.environment, environment)

    def check_data(self, data: dict[str, Any], kind: str = "images") -> None:
        """Refuse to continue a run on other data.

        Args:
            data: what is there now, by loader or other part.
            kind: what it is, for the error.

        Raises:
            UserError: the run began with others.
        """
        begun = _read_json(self.environment)["data"] if self.environment.exists() else data
        changed = [part for part in data if begun.get(part) != data[part]]
        if changed:
            raise UserError(
                f"the {' and '.join(changed)} {kind} are not those that the run in {self.path} began with; "
                "put them back, or delete that folder to begin anew"
            )

    def explain_write_error(self, error: BaseException) -> UserError | None:
        """Say why the run could not write.

        Args:
            error: what ended the run.

        Returns:
            What to tell the user, if the disk or the folder is the cause; None for other errors.
        """
        if not isinstance(error, OSError):
            return None
        if not self.path.is_dir():
            return UserError(f"the run folder {self.path} has gone; type the same command to begin anew")
        if error.errno not in _WRITE_ERRORS:
            return None
        return UserError(
            f"{self.path} cannot be written to: {error.strerror}; what it holds is complete, so make room or give "
            "the right to write, and type the same command to continue"
        )

    def read_summary(self) -> dict[str, Any]:
        """What the summary says.

        Returns:
            Its content; empty where there is none yet.

        Raises:
            UserError: somebody has damaged it.
        """
        return _read_json(self.summary) if self.summary.exists() else {}


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}); delete it, and the same command continues") from error
    return content if isinstance(content, dict) else {}
