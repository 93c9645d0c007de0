"""Files that are either the old one or the new one, whatever happens meanwhile."""

from __future__ import annotations

import io
import json
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import torch


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write a file under a temporary name, force it to the disk, then rename it.

    Args:
        path: final name; its folder exists.
        write: fills the open file.
    """
    temporary = path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes | memoryview) -> None:
    """Write a file atomically.

    Args:
        path: final name.
        content: of the file.
    """
    write_atomically(path, lambda file: file.write(content))


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically.

    Args:
        path: final name.
        text: its content.
    """
    write_bytes(path, text.encode())


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON file atomically; numbers that JSON does not have become null.

    Args:
        path: final name.
        content: plain containers.
    """
    write_text(path, json.dumps(_finite(content), indent=2, allow_nan=False) + "\n")


def write_tensors(path: Path, content: dict[str, Any]) -> None:
    """Write tensors and plain containers atomically, to be read with `weights_only=True`.

    Args:
        path: final name.
        content: nested dicts and lists of tensors, numbers and strings.
    """
    buffer = io.BytesIO()  # torch.save hides why a disk refuses
    torch.save(content, buffer)
    write_bytes(path, buffer.getbuffer())


def remove_leftovers(folder: Path) -> list[Path]:
    """Delete what a process that was killed while it wrote has left.

    Args:
        folder: that no other process writes to.

    Returns:
        The deleted files.
    """
    leftovers = sorted(folder.rglob(".*.tmp"))
    for path in leftovers:
        path.unlink()
    return leftovers


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and value - value != 0 else value
