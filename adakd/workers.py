"""What processes that work for others have in common."""

from __future__ import annotations

import multiprocessing
import os
import threading


def processors() -> int:
    """How many CPUs this process may use; all, where the platform cannot tell."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def end_with_parent() -> None:
    """Let this process end where its parent is killed.

    It would wait for work for ever, or go on beside the workers of the next start.
    """
    threading.Thread(target=_watch, daemon=True).start()


def _watch() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
