"""Signals that end a run: when they take effect, and what the command returns."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType, TracebackType
from typing import Any

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGUSR2") if hasattr(signal, name))
"""Ctrl-C; what schedulers send before they kill; what SLURM sends ahead of a time limit (`--signal=USR1@60`)."""


class Interrupted(KeyboardInterrupt):
    """A run was asked to stop, and has written what it needs to go on.

    Args:
        signum: the signal.
        what_next: what the same command does when it is typed again.
    """

    def __init__(self, signum: int, what_next: str = "continues where it stopped") -> None:
        super().__init__(f"interrupted by {signal.Signals(signum).name}")
        self.signum, self.what_next = signum, what_next


class Interruption:
    """Takes signals for the length of a `with` block.

    A signal takes effect at once, by raising `Interrupted`, except inside `deferred()`: there `received` is set, and
    the code of the block stops at the next good moment. A second Ctrl-C is not deferred. When the block ends, the
    handlers that were installed before are called too for all signals that came, such as a job launcher's that queues
    the job again.
    """

    def __init__(self) -> None:
        self._signals: list[int] = []
        self._deferred = False
        self._process = os.getpid()
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interruption:
        """Install the handlers; outside of the main thread Python allows none.

        Returns:
            Itself.
        """
        if threading.current_thread() is threading.main_thread():
            for signum in SIGNALS:
                if signal.getsignal(signum) is not signal.SIG_IGN:  # such as under nohup
                    self._before[signum] = signal.signal(signum, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Put back the handlers that were there, and pass on a signal to the one that waited for it."""
        for signum, handler in self._before.items():
            signal.signal(signum, handler)
        for signum in self._signals:
            before = self._before.get(signum)
            if callable(before) and before is not signal.default_int_handler:
                before(signum, None)

    @property
    def received(self) -> int | None:
        """The first signal that came."""
        return self._signals[0] if self._signals else None

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """A part that must not be left in the middle.

        Yields:
            Nothing.
        """
        outer, self._deferred = self._deferred, True
        try:
            yield
        finally:
            self._deferred = outer

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """A part within a deferred one that may be left anywhere.

        Yields:
            Nothing.
        """
        outer, self._deferred = self._deferred, False
        try:
            self.check()
            yield
        finally:
            self._deferred = outer

    def check(self) -> None:
        """Stop here if a signal has come.

        Raises:
            Interrupted: it has.
        """
        if self.received is not None:
            raise Interrupted(self.received)

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:  # a data loading process, which its parent ends
            return
        again = signum in self._signals
        if not again:
            self._signals.append(signum)
        if (again and signum == signal.SIGINT) or not self._deferred:
            raise Interrupted(signum)
