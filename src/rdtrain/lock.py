"""One process at a time in a folder."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import json
import os
import socket
import time
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import TextIO

from rdtrain.errors import UserError

NAME = ".lock"
_WAIT_S = 0.05  # between two attempts


class InUse(UserError):
    """Another process holds a folder, which is well."""


@contextlib.contextmanager
def locked(folder: Path, wanted: bool = True, patience_s: float = 0.2) -> Iterator[None]:
    """Hold a folder, which is made for it, and taken away again if nothing else was put in.

    The lock is the kernel's (POSIX record lock, also over NFS), so it ends with its process, however that ends.

    Args:
        folder: of a run.
        wanted: False for the processes of a run that leave the lock to another one.
        patience_s: time within which another process may let go of it; `is_held` has it for a moment.

    Yields:
        Nothing.

    Raises:
        InUse: another process holds it.
        UserError: it cannot be made.
    """
    if not wanted:
        yield
        return
    path = folder / NAME
    new_parents = list(itertools.takewhile(lambda parent: not parent.exists(), folder.parents))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = _open_locked(path, patience_s)
    except OSError as error:
        raise UserError(
            f"{folder} cannot be written to ({error.strerror}); type paths.runs= and a folder that can"
        ) from error
    try:
        yield
    finally:
        if folder.is_dir() and [entry.name for entry in folder.iterdir()] == [NAME]:
            path.unlink()
            _remove_empty([folder, *new_parents])
        file.close()


def _remove_empty(folders: Iterable[Path]) -> None:
    with contextlib.suppress(OSError):  # another run, or another process for this one, has come
        for folder in folders:
            folder.rmdir()


def _open_locked(path: Path, patience_s: float) -> TextIO:
    while True:
        file = open(path, "a+")  # noqa: SIM115 - it stays open as long as the lock is held
        try:
            _take(file, 1 + round(patience_s / _WAIT_S))
        except BlockingIOError as error:
            holder = _holder(file)
            file.close()
            raise InUse(f"{path.parent} is in use by {holder}; wait for it, or stop it") from error
        if path.exists() and os.fstat(file.fileno()).st_ino == path.stat().st_ino:
            break
        file.close()  # its holder has just taken it away
    file.truncate(0)
    since = datetime.now().astimezone().isoformat(timespec="seconds")
    file.write(json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "since": since}) + "\n")
    file.flush()
    return file


def _take(file: TextIO, attempts: int) -> None:
    for left in reversed(range(attempts)):
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not left:
                raise
            time.sleep(_WAIT_S)
        else:
            return


def _holder(file: TextIO) -> str:
    file.seek(0)
    try:
        said = json.loads(file.read())
        return f"process {said['pid']} on {said['host']} since {said['since']}"
    except (ValueError, KeyError):
        return "another process"


def is_held(folder: Path) -> bool:
    """Whether another process holds a folder; not to be asked by the process that holds it, which would let go of it.

    Args:
        folder: that may not exist.

    Returns:
        False also where nobody ever held it, or where that cannot be found out.
    """
    try:
        with open(folder / NAME) as file:
            fcntl.lockf(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False
