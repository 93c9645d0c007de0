"""What a run ran on: versions, code, machine, device, data."""

from __future__ import annotations

import hashlib
import os
import platform
import socket
import subprocess
import sys
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

import rdtrain

_PACKAGES = (
    "rdtrain", "torch", "torchvision", "compressai", "catalyst", "accelerate", "hydra-core", "omegaconf", "numpy",
    "pillow", "tensorboard", "pytorch-msssim",
)  # fmt: skip


def describe(device: torch.device, seed: int, data: dict[str, Any]) -> dict[str, Any]:
    """Describe the environment of a run.

    Args:
        device: that computes.
        seed: of the run.
        data: images by loader and their fingerprints.

    Returns:
        Plain containers for environment.json.
    """
    return {
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": sys.orig_argv,
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "git": code_version(),
        "host": socket.gethostname(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": str(device),
        "device_name": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor(),
        "cuda": torch.version.cuda if device.type == "cuda" else None,
        "slurm_job": os.environ.get("SLURM_JOB_ID"),
        "seed": seed,
        "data": data,
    }


def code_version() -> dict[str, str | None]:
    """The commit of the source tree that rdtrain runs from, and a hash of what was changed since.

    Returns:
        `commit` and `diff_sha256`: both None for an installed wheel, the second where nothing changed.
    """
    folder = Path(rdtrain.__file__).parent
    commit = _git(folder, "rev-parse", "HEAD")
    if commit is None or _git(folder, "ls-files", "--error-unmatch", Path(rdtrain.__file__).name) is None:
        return {"commit": None, "diff_sha256": None}
    diff = _git(folder, "diff", "HEAD") or ""
    return {"commit": commit.strip(), "diff_sha256": hashlib.sha256(diff.encode()).hexdigest() if diff else None}


def _git(folder: Path, *words: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
