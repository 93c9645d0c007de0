"""Memory that is kept, seen from outside: page faults of processes that fill blocks and free them."""

from __future__ import annotations

import ctypes
import platform
import subprocess
import sys
from types import SimpleNamespace

import pytest

from rdtrain.allocator import KEPT, keep_memory

BLOCK, TURNS = 40 * 2**20, 10  # larger than what malloc ever takes from its heap by itself
# Prints what was set, the faults of blocks that come and go, and the same in a forked process.
PROGRAM = f"""
import os, resource
from rdtrain.allocator import keep_memory
changed = keep_memory() if {{keep}} else {{{{}}}}
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range({TURNS}):
        b"1" * {BLOCK}
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(sorted(changed), faults(), flush=True)
if os.fork() == 0:
    faults()  # shared pages are copied once
    print(faults(), flush=True)
    os._exit(0)
os.wait()
"""
ON_GLIBC = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's allocator")
PAGES = TURNS * BLOCK // 2**21  # where the kernel gives pages of 2 MB


def run(keep: bool, **environment: str) -> tuple[str, int, int]:
    program = PROGRAM.format(keep=keep)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment)
    first, second = done.stdout.splitlines()
    changed, _, faults = first.rpartition(" ")
    return changed, int(faults), int(second)


@ON_GLIBC
def test_blocks_are_filled_without_page_faults() -> None:
    changed, faults, of_child = run(keep=True)
    assert changed == str(sorted(KEPT))
    assert max(faults, of_child) < PAGES / 10
    changed, faults, of_child = run(keep=False)
    assert changed == "[]"
    assert min(faults, of_child) >= PAGES


@ON_GLIBC
@pytest.mark.parametrize(
    "environment", [{"MALLOC_TOP_PAD_": "131072"}, {"GLIBC_TUNABLES": "glibc.malloc.trim_threshold=131072"}]
)
def test_what_the_user_has_set_wins(environment: dict[str, str]) -> None:
    changed, faults, _ = run(keep=True, **environment)
    assert changed == "[]" and faults >= PAGES


def test_other_systems_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: SimpleNamespace(mallopt=pytest.fail))  # musl has no version
    assert keep_memory() == {}
    monkeypatch.setattr(ctypes, "CDLL", pytest.fail)
    monkeypatch.setattr(sys, "platform", "darwin")
    assert keep_memory() == {}
