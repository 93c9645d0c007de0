"""A sweep on a real Ray cluster of this machine, which the test starts."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

pytest.importorskip("hydra_plugins.hydra_ray_launcher", reason="pip install '.[ray]'")

from sweeps import EIGHT, begun, differences, ended, holder, parts, runs, statuses

pytestmark = [pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(1500)]
RAY = str(Path(sys.executable).with_name("ray"))


@contextmanager
def _cluster(folder: Path, environment: Mapping[str, str]) -> Iterator[str]:
    """The address of a cluster with two CPUs that was started in a folder; only its own processes are ended."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    files = tempfile.mkdtemp(prefix="ray-")  # a short name: a socket's has 107 bytes at most
    command = [RAY, "start", "--head", "--block", f"--port={port}", "--num-cpus=2", "--include-dashboard=false"]
    folder.mkdir()
    head = subprocess.Popen(
        [*command, f"--temp-dir={files}"],
        cwd=folder, env=dict(environment), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    try:
        assert head.stdout is not None
        while "Ray runtime started" not in (line := head.stdout.readline()):
            assert line, "the head did not start"
        yield f"127.0.0.1:{port}"
    finally:
        head.terminate()
        head.communicate(timeout=60)
        shutil.rmtree(files)


def _processes(home: Path) -> list[str]:
    """The titles of what was started with a home and still runs."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if f"HOME={home}\0".encode() in (process / "environ").read_bytes():
                found.append((process / "cmdline").read_text())
    return found


def _kill_one_that_trains(folder: Path) -> None:
    while not (begun_runs := [run for run in runs(folder).values() if run.last.is_file()]):
        time.sleep(0.05)
    os.kill(holder(begun_runs[0]), signal.SIGKILL)


def test_points_on_a_cluster_equal_a_local_sweep(tmp_path: Path) -> None:
    """One of its processes is killed; the cluster was started elsewhere, and is gone at the end."""
    environment = {**os.environ, "HOME": str(tmp_path)}
    with (
        _cluster(tmp_path / "elsewhere", environment) as address,
        begun(tmp_path / "local", *EIGHT) as local,
        begun(
            tmp_path / "ray", *EIGHT, "launcher=ray", f"launcher.address={address}", environment=environment
        ) as submitted,
    ):
        _kill_one_that_trains(tmp_path / "ray")
        printed = ended(submitted)
        assert _processes(tmp_path)
        ended(local)
    deadline = time.monotonic() + 30
    while (left := _processes(tmp_path)) and time.monotonic() < deadline:
        time.sleep(0.5)
    assert left == []
    assert list((tmp_path / "elsewhere").iterdir()) == []
    assert statuses(tmp_path / "ray") == ["finished"] * 8 and "8 points: 8 finished" in printed
    assert sorted(len(parts(run)) for run in runs(tmp_path / "ray").values()) == [*[1] * 7, 2]
    assert differences(tmp_path / "ray", tmp_path / "local") == []
