"""When a signal takes effect."""

from __future__ import annotations

import os
import signal

import pytest

from rdtrain.interruption import Interrupted, Interruption


def test_at_once_outside_of_a_deferred_part() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Interrupted) as caught, Interruption():
        os.kill(os.getpid(), signal.SIGTERM)
    assert caught.value.signum == signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) is before


def test_later_inside_of_one() -> None:
    done = []
    with Interruption() as interruption:
        with interruption.deferred():
            os.kill(os.getpid(), signal.SIGUSR1)
            done.append("went on")
            assert interruption.received == signal.SIGUSR1
            with pytest.raises(Interrupted), interruption.at_once():
                done.append("not reached")
        with pytest.raises(Interrupted):
            interruption.check()
    assert done == ["went on"]


def test_only_a_second_ctrl_c_is_not_deferred() -> None:
    """`timeout` and clusters signal a process and then its group, so the same SIGTERM comes twice."""
    with Interruption() as interruption, interruption.deferred():
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(Interrupted):
            os.kill(os.getpid(), signal.SIGINT)
    assert interruption.received == signal.SIGTERM


def test_a_launchers_handler_is_called_afterwards() -> None:
    """Such as that of a job launcher that queues the job again."""
    calls: list[int] = []
    before = signal.signal(signal.SIGUSR2, lambda signum, frame: calls.append(signum))
    try:
        with pytest.raises(Interrupted), Interruption():
            os.kill(os.getpid(), signal.SIGUSR2)
        assert calls == [signal.SIGUSR2]
        with Interruption():
            pass
        assert calls == [signal.SIGUSR2]
    finally:
        signal.signal(signal.SIGUSR2, before)


def test_all_signals_that_came_are_handed_on() -> None:
    """A cluster sends SIGUSR2 and SIGTERM, and only one of the launcher's handlers queues the job again."""
    calls: list[int] = []
    wanted = (signal.SIGTERM, signal.SIGUSR2)
    before = [signal.signal(signum, lambda number, frame: calls.append(number)) for signum in wanted]
    try:
        with Interruption() as interruption, interruption.deferred():
            for signum in reversed(wanted):
                os.kill(os.getpid(), signum)
            assert interruption.received == signal.SIGUSR2
        assert calls == [signal.SIGUSR2, signal.SIGTERM]
    finally:
        for signum, handler in zip(wanted, before, strict=True):
            signal.signal(signum, handler)


def test_what_is_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # such as under nohup
    try:
        with Interruption() as interruption:
            os.kill(os.getpid(), signal.SIGINT)
        assert interruption.received is None
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_forked_process_leaves_it_to_its_parent() -> None:
    with Interruption() as interruption:
        interruption._process += 1  # as seen from a data loading process
        os.kill(os.getpid(), signal.SIGTERM)
    assert interruption.received is None
