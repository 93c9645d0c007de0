"""Memory for large tensors on a CPU: kept by the process, not taken from the kernel for each tensor anew.

glibc's malloc maps every block above 32 MB afresh, smaller ones too until it has learned better, and gives the top of
its heap back whenever 64 MB of it are free. What comes back is empty pages: the kernel fills each one with zeros when
it is first written to, which takes a third of a training step.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Mapping

KEPT = {"M_MMAP_MAX": 0, "M_TRIM_THRESHOLD": -1}
"""No block is mapped, and the heap never shrinks (mallopt(3))."""
_NUMBERS = {"M_MMAP_MAX": -4, "M_TRIM_THRESHOLD": -1}  # of glibc's malloc.h


def keep_memory() -> dict[str, int]:
    """Have freed memory kept for the next tensor, from now to the end of the process and in processes forked from it.

    A process then holds as much memory as it ever needed at once; the highest need itself grows by a few percent, as
    gaps are left between blocks of many sizes. Threads other than the main one go on as before with blocks above 64 MB.

    Returns:
        The options of mallopt that were set; empty without glibc, and where the user has set its options by
        `MALLOC_...` or `GLIBC_TUNABLES`.
    """
    if not sys.platform.startswith("linux") or _is_set_by_user(os.environ):
        return {}
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "gnu_get_libc_version"):  # such as musl, whose mallopt does nothing if it is there at all
        return {}
    return {name: value for name, value in KEPT.items() if libc.mallopt(_NUMBERS[name], value) == 1}


def _is_set_by_user(environment: Mapping[str, str]) -> bool:
    own = ("MALLOC_MMAP_MAX_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_TOP_PAD_")
    return any(name in environment for name in own) or "glibc.malloc" in environment.get("GLIBC_TUNABLES", "")
