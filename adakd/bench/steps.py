"""`adakd bench steps`: what distillation adds to a fine-tuning step of the same student.

All contenders are whole optimiser steps of the Brain that recipes run, on one batch in memory:

    fine-tuning       no teacher
    AdaKD, cached     soft outputs come with the batch: top k, and dense in fp16
    AdaKD, live       the teacher runs on the batch
    teacher forward   the teacher alone, without gradient

Peaks of memory are those of the second step, each in a process of its own, models included.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from adakd.bench import measure
from adakd.options import Parser, natural, whole

FINE_TUNING, FORWARD, LIVE = "fine-tuning", "teacher forward", "AdaKD, live teacher"
DENSE = "AdaKD, cached, dense"


def main(arguments: Sequence[str]) -> int:
    """Measure, and print tables in Markdown; 0 on success."""
    parser = Parser(prog="adakd bench steps")
    add_options(parser)
    parser.add_argument("--rounds", type=whole, default=5, help="steps of each (5); 0: no times")
    parser.add_argument("--no-memory", action="store_true", help="leave the peaks out")
    parser.add_argument("--no-live", action="store_true", help="leave the teacher's model out")
    options = parser.parse_args(list(arguments))
    measure.print_heading("steps", arguments)
    if options.rounds:
        floors = {name: [FINE_TUNING] for name in names(options)[1:] if name != FORWARD}
        floors[LIVE] = [FINE_TUNING, FORWARD]
        from adakd.bench import made

        with made.scratch() as folder:
            work = contenders(options, folder)
            measure.print_costs(measure.interleaved(work, options.rounds), floors)
    if not options.no_memory:
        # glibc keeps what was freed, how much is chance: peaks of the same step were 250 MiB apart.
        # The processes below give back whatever is larger than 1 MiB.
        for limit in ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"):
            os.environ[limit] = str(1 << 20)
        peaks = {
            name: measure.alone(peak, options, name) for name in names(options) if name != FORWARD
        }
        rows = [
            [name, f"{value:.0f}", f"{value / peaks[FINE_TUNING]:.3f}"]
            for name, value in peaks.items()
        ]
        measure.print_table(["what", "peak, MiB", "over fine-tuning"], rows)
    return 0


def add_options(parser: argparse.ArgumentParser) -> None:
    """What one step depends on."""
    parser.add_argument("--family", default="whisper", choices=("whisper", "wav2vec2"))
    parser.add_argument("--size", default="true", choices=("true", "tiny"))
    parser.add_argument("--batch", type=natural, default=16, help="clips of 5 s in a batch (16)")
    parser.add_argument("--tokens", type=natural, default=60, help="tokens of a clip (60)")
    parser.add_argument("--top-k", type=natural, default=100, help="of Whisper's outputs (100)")
    parser.add_argument("--precision", default="auto", choices=("auto", "bf16", "fp32"))


def names(options: argparse.Namespace) -> list[str]:
    """The contenders."""
    live = [] if options.no_live else [LIVE, FORWARD]
    return list(dict.fromkeys([FINE_TUNING, cached(options), DENSE, *live]))


def cached(options: argparse.Namespace) -> str:
    """The contender with outputs as recipes store them: small vocabularies dense."""
    return f"AdaKD, cached, top {options.top_k}" if options.family == "whisper" else DENSE


def contenders(
    options: argparse.Namespace, folder: Path, wanted: Sequence[str] | None = None
) -> dict[str, Callable[[], Any]]:
    """An optimiser step for each name, all on the same student and the same clips."""
    import torch

    from adakd.bench import made

    student = made.family(options.family, "student", options.size, folder)
    clips = made.speech([5.0] * options.batch, options.tokens)
    wanted = names(options) if wanted is None else wanted
    teacher = None
    if LIVE in wanted or FORWARD in wanted:
        teacher = made.family(options.family, "teacher", options.size, folder)
        teacher.requires_grad_(False)
    work: dict[str, Callable[[], Any]] = {}
    for name in wanted:
        if name == FORWARD:
            continue
        brain = made.brain(
            student,
            "finetune" if name == FINE_TUNING else "adakd",
            folder / name,
            teacher if name == LIVE else None,
            precision=options.precision,
        )
        top_k = None
        if name not in (FINE_TUNING, LIVE):
            top_k = 0 if name == DENSE else options.top_k
        work[name] = made.optimiser_step(brain, clips, top_k)
    if FORWARD in wanted and teacher is not None:
        heard = student.collate(clips.entries, clips.clips).to(brain.device)

        def forward() -> None:
            with torch.no_grad(), brain.training_ctx:
                _ = teacher(heard).logits

        work[FORWARD] = forward
    return work


def peak(options: argparse.Namespace, name: str) -> float:
    """MiB at the highest during the second step of a contender, over a process without models."""
    from adakd.bench import made  # what is imported is no part of the difference

    with made.scratch() as folder:
        import adakd.brain  # noqa: F401

        before = measure.peak()
        step = contenders(options, folder, [name])[name]
        step()
        measure.forget_peak()
        step()
        return measure.peak() - before
