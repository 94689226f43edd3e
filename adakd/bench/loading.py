"""`adakd bench loading`: what reading audio, features and teacher outputs adds to training.

Two ways through the same optimiser steps of AdaKD with cached outputs:

    in memory   batches were made before
    loader      the data loader of recipes: FLAC files, features, the teacher store
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from adakd.bench import measure
from adakd.options import Parser, natural, whole

MEMORY, LOADER = "in memory", "loader"


def main(arguments: Sequence[str]) -> int:
    """Measure, and print a table in Markdown; 0 on success."""
    parser = Parser(prog="adakd bench loading")
    parser.add_argument("--family", default="whisper", choices=("whisper", "wav2vec2"))
    parser.add_argument("--size", default="true", choices=("true", "tiny"))
    parser.add_argument("--batch", type=natural, default=16, help="clips in a batch (16)")
    parser.add_argument("--steps", type=natural, default=4, help="batches of a round (4)")
    parser.add_argument("--top-k", type=natural, default=100, help="of Whisper's store (100)")
    parser.add_argument("--workers", type=whole, default=0, help="processes that read (0)")
    parser.add_argument("--rounds", type=natural, default=5, help="times that both run (5)")
    parser.add_argument("--precision", default="auto", choices=("auto", "bf16", "fp32"))
    options = parser.parse_args(list(arguments))
    measure.print_heading("loading", arguments)
    from adakd.bench import made

    with made.scratch() as folder:
        costs = measure.interleaved(contenders(options, folder), options.rounds)
    # Processor time counts processes when they end, which those that read do after all rounds.
    clocks = ("wall",) if options.workers else ("wall", "processor")
    measure.print_costs(costs, {LOADER: [MEMORY]}, clocks)
    return 0


def contenders(options: argparse.Namespace, folder: Path) -> dict[str, Callable[[], Any]]:
    """One pass over all steps, either way."""
    import torch

    from adakd.bench import made
    from adakd.data import audio
    from adakd.data.loader import Steps, training_loader
    from adakd.models import Batch

    student = made.family(options.family, "student", options.size, folder)
    brain = made.brain(student, "adakd", folder / "experiment", precision=options.precision)
    top_k = made.kept(options.family, options.top_k)
    clips = made.batches(options.steps, options.batch)
    entries = [entry for each in clips for entry in each.entries]
    for each in clips:
        for entry, clip in zip(each.entries, each.clips, strict=True):
            audio.write_flac(folder / entry.audio, clip)
    store = made.store(student, clips, folder / "store", top_k)

    def extra(batch: Batch) -> Batch:
        return made.supervised(batch, store.soft(batch.ids))

    steps = Steps(entries, folder, student, extra)
    size = options.batch
    plan: list[Any] = [
        [(list(range(first, first + size)), True)] for first in range(0, len(entries), size)
    ]
    loader = training_loader(steps, plan, options.workers)  # type: ignore[arg-type]
    ready: list[Any] = [steps[step] for step in plan]
    if torch.cuda.is_available():  # as the loader hands them over
        ready = [[batch.pin_memory() for batch in step] for step in ready]

    def train(source: Any) -> None:
        for step in source:
            brain.fit_batch(step)

    return {MEMORY: lambda: train(ready), LOADER: lambda: train(loader)}
