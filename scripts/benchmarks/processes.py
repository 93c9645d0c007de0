"""Other processes: what they printed, how long they took, and how much memory."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SCRIPTS = Path(__file__).parents[1]


@dataclass(frozen=True)
class Finished:
    """A process that came to its end.

    Args:
        output: what it printed.
        started: time.time() before it was started.
        seconds: from its start to its end.
    """

    output: str
    started: float
    seconds: float

    @property
    def content(self) -> dict[str, Any]:
        """Its last line, which is JSON."""
        found: dict[str, Any] = json.loads(self.output.splitlines()[-1])
        return found


def process(words: Sequence[str], folder: Path | None = None, **environment: str) -> Finished:
    """Run a program to its end.

    Args:
        words: its command line.
        folder: to run it in.
        environment: variables to set.

    Returns:
        What it left.

    Raises:
        RuntimeError: it failed; with its complaints.
    """
    variables = {**os.environ, "PYTHONPATH": str(SCRIPTS), **environment}
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        started, start = time.time(), time.perf_counter()
        child = subprocess.Popen(words, cwd=folder, env=variables, stdout=out, stderr=err)
        child.wait()
        seconds = time.perf_counter() - start
        for file in (out, err):
            file.seek(0)
        if child.returncode:
            raise RuntimeError(f"{' '.join(words)} failed:\n{err.read()[-4000:]}")
        return Finished(out.read(), started, seconds)


def worker(module: str, settings: Mapping[str, Any], **environment: str) -> Finished:
    """Run the main program of one of these modules, which prints a line of JSON.

    Args:
        module: such as `training`.
        settings: for it, plain containers.
        environment: variables to set.

    Returns:
        What it left.
    """
    words = [sys.executable, "-W", "ignore", "-m", f"benchmarks.{module}", json.dumps(settings)]
    with scratch() as folder:
        return process(words, folder, **environment)


def tell(content: Mapping[str, Any]) -> None:
    """Print the last line of a worker.

    Args:
        content: plain containers; `peak_mib` is added, the largest resident memory of this process in MiB.
    """
    # The peak that wait4 and getrusage tell begins with that of the process which started this one.
    lines = Path("/proc/self/status").read_text().splitlines()
    peak = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
    print(json.dumps({**content, "peak_mib": peak / 1024}))


def command(name: str) -> str:
    """Where an installed command is.

    Args:
        name: `rdtrain` or `rdtrain-eval`.

    Returns:
        Its path.
    """
    return str(Path(sys.executable).with_name(name))


@contextmanager
def scratch() -> Iterator[Path]:
    """An empty folder that is deleted afterwards.

    Yields:
        The folder.
    """
    folder = Path(tempfile.mkdtemp(prefix="rdtrain-benchmark-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
