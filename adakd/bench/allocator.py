"""`adakd bench allocator`: what it saves to keep freed memory (`adakd.memory`), and what it costs.

Each contender runs in a process of its own, in turn: AdaKD's optimiser steps of the Brain that
recipes run, with cached outputs, on batches of different lengths as an epoch has them. The process
is told to keep freed memory, or left to glibc's defaults. The first steps, in which memory comes to
the process for the first time, are not counted.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from adakd.bench import measure
from adakd.errors import UserError
from adakd.options import Parser, natural

DEFAULT, KEPT = "glibc's defaults", "freed memory kept"


@dataclass(frozen=True)
class Found:
    """Of one process: seconds and page faults of a step, the peak."""

    wall: float
    user: float
    system: float
    faults: float  # thousands
    peak: float  # MiB


def main(arguments: Sequence[str]) -> int:
    """Measure, and print a table in Markdown; 0 on success."""
    parser = Parser(prog="adakd bench allocator")
    parser.add_argument("--family", default="whisper", choices=("whisper", "wav2vec2"))
    parser.add_argument("--size", default="true", choices=("true", "tiny"))
    parser.add_argument("--batch", type=natural, default=4, help="clips in a batch (4)")
    parser.add_argument("--lengths", type=natural, default=2, help="batches that come in turn (2)")
    parser.add_argument("--warm", type=natural, default=2, help="times round before it counts (2)")
    parser.add_argument("--times", type=natural, default=2, help="times round that count (2)")
    parser.add_argument("--rounds", type=natural, default=3, help="processes of each (3)")
    options = parser.parse_args(list(arguments))
    measure.print_heading("allocator", arguments)
    if not measure.memory_is_ours():
        raise UserError(
            "This is about a CPU and glibc as it comes: use Linux, hide the GPU "
            "(CUDA_VISIBLE_DEVICES=), and unset the MALLOC_ variables."
        )
    found = measure.in_turn(
        {name: partial(measure.alone, steps, options, name) for name in (DEFAULT, KEPT)},
        options.rounds,
    )
    rows = []
    for name, each in found.items():
        row = [name]
        for clock in ("wall", "user", "system"):
            row.append(measure.spread([getattr(one, clock) for one in each]))
        row.append(f"{statistics.median(one.faults for one in each):.0f}")
        row.append(measure.spread([one.peak for one in each], 0))
        if name == KEPT:
            pairs = list(zip(each, found[DEFAULT], strict=True))
            row.append(measure.spread([ours.wall / theirs.wall for ours, theirs in pairs]))
            row.append(measure.spread([ours.peak / theirs.peak for ours, theirs in pairs]))
        rows.append(row)
    measure.print_table(
        ["what", "wall, s", "user, s", "system, s", "thousand page faults", "peak, MiB",
         "ratio, wall", "ratio of peaks"],
        rows,
    )  # fmt: skip
    return 0


def steps(options: argparse.Namespace, name: str) -> Found:
    """Steps of a process that has run none before."""
    if name == DEFAULT:
        measure.leave_memory_to_libc()
    from adakd.bench import made

    with made.scratch() as folder:
        student = made.family(options.family, "student", options.size, folder)
        brain = made.brain(student, "adakd", folder / "brain")
        top_k = made.kept(options.family, 100)
        work = [
            made.optimiser_step(brain, clips, top_k)
            for clips in made.batches(options.lengths, options.batch)
        ]
        for _ in range(options.warm):
            for step in work:
                step()
        before, started = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
        for _ in range(options.times):
            for step in work:
                step()
        wall, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_SELF)
    count = options.times * len(work)
    return Found(
        wall / count,
        (after.ru_utime - before.ru_utime) / count,
        (after.ru_stime - before.ru_stime) / count,
        (after.ru_minflt - before.ru_minflt) / count / 1000,
        measure.peak(),
    )
