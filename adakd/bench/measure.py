"""How the benchmarks measure: contenders in turn, two clocks, medians with their spread, peaks.

Two clocks, because a machine may do other work meanwhile: wall time, and processor time of this
process, over all its threads and with the child processes that have ended. On a GPU only the first
says something.

Contenders that are all ours run in turn in one process. A rival and what is held against it each
run in processes of their own (`apart`): memory that one has freed, and what glibc was told to do
with it, would serve the other.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from adakd.config import REPOSITORY
from adakd.errors import UserError

Result = TypeVar("Result")


@dataclass(frozen=True)
class Cost:
    """Seconds that a piece of work took."""

    wall: float
    processor: float


def clocked(work: Callable[[], object]) -> Cost:
    """What ``work`` costs; waits for the GPU if there is one."""
    _wait()
    wall, processor = time.perf_counter(), _processor()
    work()
    _wait()
    return Cost(time.perf_counter() - wall, _processor() - processor)


def _processor() -> float:
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def _wait() -> None:
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.synchronize()


def interleaved(
    contenders: Mapping[str, Callable[[], object]], rounds: int
) -> dict[str, list[Cost]]:
    """Every contender once unmeasured, then all of them in turn, ``rounds`` times."""
    for work in contenders.values():
        work()
    return in_turn({name: partial(clocked, work) for name, work in contenders.items()}, rounds)


def in_turn(contenders: Mapping[str, Callable[[], Result]], rounds: int) -> dict[str, list[Result]]:
    """What each contender returns, round after round."""
    names = list(contenders)
    found: dict[str, list[Result]] = {name: [] for name in names}
    for number in range(rounds):
        # Another one first in every round: whoever runs first may find a colder machine.
        first = number % len(names)
        for name in names[first:] + names[:first]:
            found[name].append(contenders[name]())
            print(f"round {number + 1}: {name}: {found[name][-1]}", file=sys.stderr)
    return found


def ratios(
    costs: Mapping[str, Sequence[Cost]], name: str, floor: Sequence[str], clock: str
) -> list[float]:
    """What ``name`` took, over the sum of what ``floor`` took in the same round, by round."""
    return [
        getattr(cost, clock) / sum(getattr(costs[each][number], clock) for each in floor)
        for number, cost in enumerate(costs[name])
    ]


def times(costs: Mapping[str, Sequence[Cost]], name: str, rival: str, clock: str = "wall") -> str:
    """How many times as fast as ``rival``: the median and the spread over rounds."""
    return spread([1 / ratio for ratio in ratios(costs, name, [rival], clock)], 2)


def print_costs(
    costs: Mapping[str, Sequence[Cost]],
    floors: Mapping[str, Sequence[str]],
    clocks: Sequence[str] = ("wall", "processor"),
) -> None:
    """A table in Markdown; ``floors`` says what each contender is compared with, if anything."""
    rows = []
    for name, found in costs.items():
        row = [name, *(spread([getattr(cost, clock) for cost in found]) for clock in clocks)]
        if floor := floors.get(name):
            row.append(" + ".join(floor))
            row += [spread(ratios(costs, name, floor, clock)) for clock in clocks]
        rows.append(row)
    head = [f"{clock}, s" for clock in clocks]
    print_table(["what", *head, "over", *(f"ratio, {clock}" for clock in clocks)], rows)


def print_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A table in Markdown, each row as soon as it is there; short ones are filled up."""
    print(f"| {' | '.join(head)} |")
    print(f"|---|{'---:|' * (len(head) - 1)}")
    for row in rows:
        print(f"| {' | '.join([*row, *[''] * (len(head) - len(row))])} |", flush=True)
    print()


def spread(values: Sequence[float], digits: int = 3) -> str:
    """Median, and in brackets the least and the most."""
    low, high = min(values), max(values)
    return f"{statistics.median(values):.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def print_heading(name: str, arguments: Sequence[str], threads: int | None = None) -> None:
    """The command, the machine and the versions; ``threads``: each contender's, not this one's."""
    import torch

    from adakd.versions import describe

    about = describe()
    versions = ", ".join(f"{package} {version}" for package, version in about["versions"].items())
    print(f"    adakd bench {shlex.join([name, *arguments])}\n")
    threads = threads or torch.get_num_threads()
    print(
        f"{about['machine']}, {threads} thread(s), load {os.getloadavg()[0]:.1f}; "
        f"{about['time']}; revision {about['revision']}; {versions}\n"
    )


def recipe_folder(name: str) -> Path:
    """The folder of a recipe that a benchmark was asked for."""
    folder = REPOSITORY / "recipes" / name
    if not (folder / "conf").is_dir():
        raise UserError(f"There is no recipe '{name}': look into recipes/.")
    return folder


def alone(function: Callable[..., Any], *arguments: Any) -> Any:
    """The result of ``function`` in a process of its own, for instance its peak of memory."""
    with _process() as pool:
        return _result(pool.submit(function, *arguments))


def _process() -> ProcessPoolExecutor:
    # Spawned: a forked process would begin with this one's memory.
    return ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))


def _result(work: Future[Any]) -> Any:
    try:
        return work.result()
    except BrokenProcessPool:
        raise UserError(
            "A process of this benchmark was killed, perhaps for want of memory: try less at a "
            "time (--batch, or --utterances)."
        ) from None


def apart(
    ready: Callable[[argparse.Namespace, str], AbstractContextManager[Callable[[], Result]]],
    options: argparse.Namespace,
    names: Iterable[str],
    rounds: int,
) -> dict[str, list[Result]]:
    """What each contender returns, round after round, each in a process of its own.

    ``ready(options, name)`` gives the work of a contender when it has its memory, and is called in
    its process. On a CPU that is a new one in every round: together the models of all might not
    fit. On a GPU, where starting takes far longer than what is measured, it lives through all
    rounds, and all get ready at once.
    """
    import torch

    if not torch.cuda.is_available():
        return in_turn(
            {name: partial(alone, _once, ready, options, name) for name in names}, rounds
        )
    with ExitStack() as stack:
        pools = {name: stack.enter_context(_process()) for name in names}
        opened = []
        for name, pool in pools.items():
            opened.append(pool.submit(_open, ready, options, name))
            stack.callback(pool.submit, _close)
        for each in opened:
            _result(each)
        return in_turn({name: partial(_from, pool) for name, pool in pools.items()}, rounds)


def _once(ready: Callable[..., Any], options: argparse.Namespace, name: str) -> Any:
    with ready(options, name) as work:
        return work()


_held: list[Any] = []  # in a process that lives through all rounds: what is open, and its work


def _open(ready: Callable[..., Any], options: argparse.Namespace, name: str) -> None:
    context = ready(options, name)
    _held.extend((context, context.__enter__()))


def _again() -> Any:
    return _held[1]()


def _close() -> None:
    _held[0].__exit__(None, None, None)


def _from(pool: ProcessPoolExecutor) -> Any:
    return _result(pool.submit(_again))


def leave_memory_to_libc() -> None:
    """This process, whatever it imports of ours, has memory as processes of others have it."""
    os.environ["MALLOC_PERTURB_"] = "0"  # glibc's default; `adakd.memory` then does nothing


def memory_is_ours() -> bool:
    """Whether `adakd.memory` does something on this machine: keeps what a process frees.

    It asks by doing it to this process.
    """
    import torch

    from adakd.memory import keep_freed_memory

    return not torch.cuda.is_available() and keep_freed_memory()


def forget_peak() -> None:
    """Let `peak` begin anew."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    else:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def peak() -> float:
    """MiB of memory at the highest so far: of the GPU if there is one, else of the process."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    return high_water() / 2**20


def high_water(process: str = "self") -> int:
    """The most memory, in bytes, that a process has had resident; 0 once it is gone.

    Not getrusage, whose number a spawned process inherits from the one that started it.

    Args:
        process: its number in /proc.
    """
    try:
        status = Path(f"/proc/{process}/status").read_text(encoding="utf-8")
    except OSError:
        return 0
    kibibytes = [int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")]
    return 1024 * kibibytes[0] if kibibytes else 0  # one that is ending has no such line
