"""A sweep on a real Ray cluster of this machine, which the test starts."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("hydra_plugins.hydra_ray_launcher", reason="pip install 'rdtrain[ray]'")

from sweeps import differences, parts, runs, statuses, sweep

pytestmark = [pytest.mark.slow, pytest.mark.long]
RAY = str(Path(sys.executable).with_name("ray"))
SEEDS = "seed=1,2,3,4"


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    """Of a cluster with two CPUs whose head is this machine; only its own processes are ended."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    command = [RAY, "start", "--head", "--block", f"--port={port}", "--num-cpus=2", "--include-dashboard=false"]
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    environment = {**os.environ, "RAY_TMPDIR": "/tmp", "HOME": str(tmp_path)}
    head = subprocess.Popen(
        command, cwd=elsewhere, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert head.stdout is not None
    while "Ray runtime started" not in (line := head.stdout.readline()):
        assert line, "the head did not start"
    yield f"127.0.0.1:{port}"
    head.terminate()
    head.communicate(timeout=60)


def test_points_on_a_cluster_equal_a_local_sweep(tmp_path: Path, address: str) -> None:
    environment = {**os.environ, "HOME": str(tmp_path)}
    sweep(tmp_path / "ray", SEEDS, "launcher=ray", f"launcher.address={address}", environment=environment)
    assert statuses(tmp_path / "ray") == ["finished"] * 4
    assert all(len(parts(run)) == 1 for run in runs(tmp_path / "ray").values())
    sweep(tmp_path / "local", SEEDS)
    assert differences(tmp_path / "ray", tmp_path / "local") == []
