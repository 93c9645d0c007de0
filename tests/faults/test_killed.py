"""Processes that are killed, told to stop, doubled, or denied the disk."""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rdtrain import checkpoint
from rdtrain.config.schema import Config
from rdtrain.run_folder import RunFolder

Configure = Callable[..., Config]
Compare = Callable[[RunFolder, RunFolder], list[str]]
COMMAND = Path(sys.executable).with_name("rdtrain")
SMALL = (
    "dataset.batch_size=2", "engine.num_epochs=3", "checkpoint.every_n_steps=1", "conv.switch.trigger=epoch",
    "conv.switch.at=2",
)  # fmt: skip


@pytest.fixture
def whole(configure: Configure, killable: Any, folder_of: Callable[[Config], RunFolder], tmp_path: Path) -> RunFolder:
    """The run that nobody kills, out of the way of the others."""
    config = configure(*SMALL)
    code, printed = killable(config)
    assert code == 0, printed
    folder_of(config).path.rename(tmp_path / "whole")
    return RunFolder(tmp_path / "whole")


def _kill_at_random(
    killable: Any, config: Config, folder: RunFolder, seed: int, kills: int, longest_s: float
) -> tuple[int, int]:
    """Kill a run until that was done `kills` times or it ended; returns kills, and those while a file was written."""
    moments = random.Random(seed)
    done = within_write = 0
    while done < kills:
        code, printed = killable(config, kill_after_s=moments.uniform(0, longest_s), slow_writes_s=0.02)
        if code == 0:
            break
        assert code == -signal.SIGKILL, printed
        done += 1
        within_write += bool(list(folder.path.rglob(".*.tmp")))
        if folder.last.exists():
            checkpoint.read(folder.last)  # complete, whatever happened
    return done, within_write


@pytest.mark.parametrize(
    ("runs", "kills"), [(1, 6), pytest.param(5, 50, marks=pytest.mark.slow)], ids=["quick", "fifty"]
)
def test_sigkill_at_random_moments(
    configure: Configure,
    whole: RunFolder,
    killable: Any,
    folder_of: Callable[[Config], RunFolder],
    compare: Compare,
    runs: int,
    kills: int,
) -> None:
    config = configure(*SMALL)
    folder = folder_of(config)
    start = time.monotonic()
    assert killable(config, slow_writes_s=0.02)[0] == 0
    longest = 0.6 * (time.monotonic() - start)
    total = while_writing = 0
    seed = 0
    while total < kills:
        shutil.rmtree(folder.path)
        done, written = _kill_at_random(killable, config, folder, seed, kills // runs, longest)
        total, while_writing, seed = total + done, while_writing + written, seed + 1
        code, printed = killable(config)
        assert code == 0, printed
        assert compare(whole, folder) == []
        assert not list(folder.path.rglob("*.tmp"))
    assert kills < 50 or while_writing > 0


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2])
def test_a_signal_ends_the_step_and_the_run_continues(
    configure: Configure,
    whole: RunFolder,
    killable: Any,
    folder_of: Callable[[Config], RunFolder],
    compare: Compare,
    signum: signal.Signals,
) -> None:
    config = configure(*SMALL, "checkpoint.every_n_steps=null")
    folder = folder_of(config)
    code, printed = killable(config, signal_at=(4, signum))
    assert code == 128 + signum, printed
    assert "the same command continues where it stopped" in printed and "Traceback" not in printed
    assert folder.read_summary()["status"] == "interrupted"
    assert checkpoint.read(folder.last)["steps"] == 5
    assert killable(config)[0] == 0
    assert compare(whole, folder) == []


def test_a_signal_to_the_whole_group_spares_the_data_loading_processes(
    configure: Configure, killable: Any, folder_of: Callable[[Config], RunFolder]
) -> None:
    """As `timeout` and clusters send it; a run that lost them would fail before its checkpoint."""
    config = configure(*SMALL, "checkpoint.every_n_steps=null", "dataset.workers=1")
    code, printed = killable(config, group_signal_at=(4, signal.SIGTERM))
    assert code == 128 + signal.SIGTERM and "Traceback" not in printed, printed
    folder = folder_of(config)
    assert folder.read_summary()["status"] == "interrupted"
    assert checkpoint.read(folder.last)["steps"] == 5
    assert killable(config)[0] == 0


def test_a_second_process_is_refused_and_damages_nothing(tmp_path: Path) -> None:
    words = [
        str(COMMAND), "hp.N=4", "hp.M=6", "dataset.batch_size=2", "engine.num_epochs=6", "engine.epoch_steps=20",
        "infer.max_images=1", "engine.threads=1",
    ]  # fmt: skip
    first = subprocess.Popen(words, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert first.stdout is not None
    while not first.stdout.readline().startswith("epoch 2/6"):
        assert first.poll() is None
    first.send_signal(signal.SIGSTOP)  # so that it is still there when the second one looks
    second = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    first.send_signal(signal.SIGCONT)
    assert second.returncode == 2 and "Traceback" not in second.stderr
    assert f"in use by process {first.pid} on " in second.stderr
    first.kill()
    first.communicate(timeout=60)
    third = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert third.returncode == 0, third.stderr  # a dead process holds nothing
    assert third.stdout.startswith("continues: ")


def test_a_full_disk_is_told_and_the_last_checkpoint_stays(
    configure: Configure, whole: RunFolder, killable: Any, folder_of: Callable[[Config], RunFolder], compare: Compare
) -> None:
    """A limit on the size of a file stands for the disk: below it metrics and events fit, a checkpoint does not."""
    config = configure(*SMALL)
    folder = folder_of(config)
    assert killable(config, signal_at=(3, signal.SIGTERM))[0] == 128 + signal.SIGTERM
    before = folder.last.read_bytes()
    code, printed = killable(config, file_limit=len(before) // 2)
    assert code == 2 and "Traceback" not in printed, printed
    assert "cannot be written to: File too large" in printed
    assert folder.last.read_bytes() == before
    assert folder.read_summary()["status"] == "failed"
    assert not list(folder.path.rglob("*.tmp"))
    assert killable(config)[0] == 0
    assert compare(whole, folder) == []


def test_not_even_the_smallest_file_fits(
    configure: Configure, whole: RunFolder, killable: Any, folder_of: Callable[[Config], RunFolder], compare: Compare
) -> None:
    config = configure(*SMALL)
    folder = folder_of(config)
    assert killable(config, signal_at=(3, signal.SIGTERM))[0] == 128 + signal.SIGTERM
    code, printed = killable(config, file_limit=3000)
    assert code == 2 and "Traceback" not in printed, printed
    assert killable(config)[0] == 0
    assert compare(whole, folder) == []


def test_a_folder_that_cannot_be_made_is_told(configure: Configure, killable: Any) -> None:
    config = configure()
    config = config.model_copy(update={"paths": config.paths.model_copy(update={"runs": "/proc/rdtrain"})})
    code, printed = killable(config)
    assert code == 2 and "Traceback" not in printed, printed
    assert "/proc/rdtrain" in printed and "type paths.runs=" in printed


def test_a_folder_that_is_deleted_during_the_run_is_told(
    configure: Configure, killable: Any, folder_of: Callable[[Config], RunFolder]
) -> None:
    config = configure(*SMALL)
    code, printed = killable(config, delete_at=(4, str(folder_of(config).path)))
    assert code == 2 and "Traceback" not in printed, printed
    assert "has gone" in printed
    assert killable(config)[0] == 0
    assert folder_of(config).read_summary()["status"] == "finished"
