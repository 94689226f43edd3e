"""The processes of a run that a launcher starts: which one this is, and where all of them meet."""

from __future__ import annotations

import functools
import os
from datetime import timedelta
from typing import Any

from adakd.errors import UserError

STOPPED = "another process of this run has stopped, and says why"


def rank() -> int:
    """Number of this process among those of a launcher."""
    return int(os.environ.get("RANK", 0))


def world() -> int:
    """How many processes the launcher started."""
    return int(os.environ.get("WORLD_SIZE", 1))


def say(line: str) -> None:
    """One line of what is going on, on standard output, from the first process only."""
    if rank() == 0:
        print(line, flush=True)


def wait_for_all() -> None:
    """Let every process of a distributed run come to this point, be it in days.

    The first one may wait for another run's lock as long as a training takes. All else that the
    processes do together has a time-out of its own (`adakd.cli`): a GPU that hangs ends the run.

    Raises:
        UserError: another process has stopped.
    """
    if world() > 1:
        import torch

        try:
            torch.distributed.barrier(_patient(torch.distributed.group.WORLD))
        except RuntimeError as error:
            raise UserError(STOPPED) from error


def another_stopped(error: BaseException) -> bool:
    """Whether an error is that of an exchange whose other side is gone."""
    if world() == 1 or not isinstance(error, RuntimeError):
        return False
    import torch

    gone = ("gloo", "NCCL")  # what the former raises has no class of its own
    return isinstance(error, torch.distributed.DistError) or any(s in str(error) for s in gone)


@functools.cache
def _patient(everyone: Any) -> Any:
    """A group of all processes, which wait on their CPUs; made when they first meet."""
    import torch

    return torch.distributed.new_group(timeout=timedelta(days=7), backend="gloo")
