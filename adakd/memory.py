"""What a process does with memory that it has freed."""

from __future__ import annotations

import ctypes
import os
import platform
from functools import cache

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of glibc's malloc.h


@cache
def keep_freed_memory() -> bool:
    """Let this process keep what it frees, for its next allocation. True where that is done.

    glibc hands blocks of more than 32 MiB, and much of what is free at the end of its heap, back to
    the system, which clears every page before it hands it out again. A step of training frees and
    asks again for gigabytes; 2 to 8 % of its time went there, and more where batches are larger
    (`adakd bench allocator`, docs/PERFORMANCE.md). The price: a process stays as large as it once
    was.

    Nothing is done where another C library or allocator is at work, or where the user has set
    `MALLOC_...` (mallopt(3)).
    """
    if platform.libc_ver()[0] != "glibc" or any(name.startswith("MALLOC_") for name in os.environ):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    # No block is a mapping of its own, and the heap never shrinks.
    return bool(mallopt(M_MMAP_MAX, 0)) and bool(mallopt(M_TRIM_THRESHOLD, -1))
