"""Keeps the memory that a CPU rank frees, for its next step.

glibc gives every block of over 32 MB back to the system as it is freed, and often smaller ones. Each step then touches
its activations and gradients as if for the first time, at the cost of a page fault every 4 KiB. Kept, they save a
twentieth to a tenth of a step (`docs/decisions/pretraining-loop.md`, 2026-11-29). Where another allocator was put in
glibc's place by `LD_PRELOAD`, this has no effect on it.
"""

from __future__ import annotations

import ctypes
import platform

# glibc's mallopt(3).
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
_NEVER = -1  # as a number of bytes at the end of the heap: more than there can be


def keep_freed_memory() -> bool:
    """Have this process use freed memory again instead of giving it back; whether its C library can.

    The process stays as large as it was at its largest, which in training every step is. Outside the main thread, as in
    Ray's workers, blocks of over 60 MiB are given back nonetheless: a thread's heaps are no larger. One heap for all
    threads (`M_ARENA_MAX`) would hold them, but bf16 products allocate in every thread: attention's backward pass took
    twice as long.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return all(mallopt(name, value) == 1 for name, value in ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, _NEVER)))
