"""Data loading processes that outlive a signal to their whole group, but not the run."""

from __future__ import annotations

import multiprocessing
import signal
from multiprocessing import popen_fork
from multiprocessing.context import BaseContext, ForkContext, ForkProcess
from multiprocessing.process import BaseProcess

_FORKED = ("fork", "loky")  # a process of joblib starts its own with loky, which torch cannot


class _Popen(popen_fork.Popen):
    def terminate(self) -> None:
        # Worker processes do not heed SIGTERM; who ends them so and waits for them, as Python does at its exit, would
        # wait for ever.
        self.kill()


class _Worker(ForkProcess):
    @staticmethod
    def _Popen(process_obj: BaseProcess) -> _Popen:
        return _Popen(process_obj)


class _Context(ForkContext):
    Process = _Worker


def context() -> BaseContext | None:
    """How a loader is to start its processes.

    Returns:
        A context whose processes are ended by SIGKILL; None for torch's own choice where processes are not forked.
    """
    method = multiprocessing.get_start_method(allow_none=True) or multiprocessing.get_all_start_methods()[0]
    return _Context() if method in _FORKED else None


def be_patient(worker: int) -> None:
    """Leave a SIGTERM to the whole process group to the run, which ends its step first and then these processes.

    Args:
        worker: its number, as torch hands it to a `worker_init_fn`.
    """
    if context() is not None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
