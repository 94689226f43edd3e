"""What processes that work for others have in common."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading


def processors() -> int:
    """How many CPUs this process may use; all, where the platform cannot tell."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def become_worker() -> None:
    """Make this process a worker: to be called before it imports NumPy or torch.

    Ctrl-C is for its parent, with which it ends: else it would wait for work for ever, or go on
    beside the workers of the next start. It computes on one core.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_watch, daemon=True).start()
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = "1"


def _watch() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
