"""torchrun without its report of forty lines: the processes themselves have said why they failed.

python local/torchrun.py OPTIONS OF TORCHRUN
"""

import logging
import sys

from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import main


def run() -> int:
    """The exit status of the process that failed first, or that of a signal, as in a shell."""
    logging.disable(logging.ERROR)  # the same news again; those of the processes are their own
    try:
        main()
    except ChildFailedError as failed:
        _, first = failed.get_first_failure()
        if first.exitcode >= 0:
            return int(first.exitcode)
        print(f"adakd: a process was ended by signal {-first.exitcode}", file=sys.stderr)
        return 128 - int(first.exitcode)
    except SignalException as stop:
        print("adakd: stopped; the same command goes on from here", file=sys.stderr)
        return 128 + int(stop.sigval)
    return 0


if __name__ == "__main__":
    sys.exit(run())
