"""Memory that may run out: an allocation is to fail, before the kernel kills the whole process for want of memory."""

from __future__ import annotations

import contextlib
import resource
from collections.abc import Iterator
from pathlib import Path

import torch

# What allocators say in a RuntimeError: torch's on the CPU, oneDNN's, C++'s.
_SIGNS = ("DefaultCPUAllocator", "could not create a memory", "could not create a primitive", "bad_alloc")


_CUDA_ADDRESSES = 2**37  # CUDA reserves addresses far beyond the memory that it uses


def limit(more: int | None = None, cuda: bool = False) -> None:
    """Let this process take no more addresses than the machine has memory; without effect where that is not known.

    Args:
        more: bytes that it may take on top of what it has; None for what the machine has free.
        cuda: leave room for addresses that CUDA reserves.
    """
    with contextlib.suppress(OSError):  # these files are Linux's
        taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        most = taken + (_free() if more is None else more) + (_CUDA_ADDRESSES if cuda else 0)
        soft, hard = resource.getrlimit(resource.RLIMIT_AS)
        if soft == resource.RLIM_INFINITY or most < soft:
            resource.setrlimit(resource.RLIMIT_AS, (most, hard))


@contextlib.contextmanager
def limited() -> Iterator[None]:
    """Have `limit` for a while.

    Yields:
        Nothing.
    """
    before = resource.getrlimit(resource.RLIMIT_AS)
    limit()
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def _free() -> int:
    known = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    return sum(int(known[name].split()[0]) * 1024 for name in ("MemAvailable", "SwapFree"))


def is_exhausted(error: BaseException) -> bool:
    """Tell whether an exception means that memory ran out, on the CPU or a GPU.

    Args:
        error: any.

    Returns:
        Whether it does.
    """
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _SIGNS)
