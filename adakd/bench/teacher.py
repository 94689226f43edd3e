"""`adakd bench teacher`: what stage 4 adds to the forward pass of the teacher that it is made of.

Over the same made-up clips of 4 to 4.5 and 6 to 6.5 s, in the same batches:

    forward   the teacher alone without gradient, on batches that lie in memory
    stage 4   the teacher pass as recipes run it: FLAC files, features, forward, losses, soft
              outputs reduced and written to a store, and the store closed

in batches of several sizes; the best forward is the rival. Both compute in float32, as stage 4.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from adakd.bench import measure
from adakd.options import Parser, natural, positive, several, whole

if TYPE_CHECKING:
    from torch.utils.data import DataLoader

    from adakd.bench.made import Speech
    from adakd.models import Batch, Family

FORWARD, STAGE = "forward", "stage 4"


def main(arguments: Sequence[str]) -> int:
    """Measure, and print a table in Markdown; 0 on success."""
    parser = Parser(prog="adakd bench teacher")
    parser.add_argument("--family", default="whisper", choices=("whisper", "wav2vec2"))
    parser.add_argument("--size", default="true", choices=("true", "tiny"))
    parser.add_argument(
        "--clips", type=natural, default=32, help="clips of 4 to 4.5 and 6 to 6.5 s (32)"
    )
    parser.add_argument(
        "--batch-seconds", type=several(positive), default="12 24 96",
        help='seconds of audio in a batch ("12 24 96")',
    )  # fmt: skip
    parser.add_argument("--top-k", type=natural, default=100, help="of Whisper's store (100)")
    parser.add_argument("--workers", type=whole, default=0, help="processes that read (0)")
    parser.add_argument("--rounds", type=natural, default=3, help="times that all run (3)")
    options = parser.parse_args(list(arguments))
    measure.print_heading("teacher", arguments)
    from adakd.bench import made

    speech = made.batches(2, max(1, options.clips // 2))
    seconds = sum(each.seconds for each in speech)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        teacher = made.family(options.family, "teacher", options.size, folder)
        work: dict[str, Callable[[], Any]] = {}
        top_k = made.kept(options.family, options.top_k)
        for size in options.batch_seconds:
            loader = reading(speech, folder, teacher, size, options.workers)
            work[f"{FORWARD}, {size:g} s"] = forward(teacher, loader)
            work[f"{STAGE}, {size:g} s"] = stage(teacher, loader, folder, top_k)
        costs = measure.interleaved(work, options.rounds)
    forwards = [name for name in costs if name.startswith(FORWARD)]
    best = min(forwards, key=lambda name: median(cost.wall for cost in costs[name]))
    rows = []
    for name, found in costs.items():
        row = [name]
        for clock in ("wall", "processor"):
            row.append(measure.spread([seconds / getattr(cost, clock) for cost in found], 2))
            share = [1 / ratio for ratio in measure.ratios(costs, name, [best], clock)]
            row.append(measure.spread(share))
        rows.append(row)
    of_best = f"of {best}"
    measure.print_table(
        ["what", "audio s a wall s", of_best, "audio s a processor s", of_best], rows
    )
    return 0


def reading(
    speech: Sequence[Speech], folder: Path, teacher: Family, batch_seconds: float, workers: int = 0
) -> DataLoader:
    """Stage 4's loader, over clips that are written to ``folder``."""
    from adakd.data import audio
    from adakd.data.loader import Steps, evaluation_loader

    for each in speech:
        for entry, clip in zip(each.entries, each.clips, strict=True):
            audio.write_flac(folder / entry.audio, clip)
    entries = [entry for each in speech for entry in each.entries]
    return evaluation_loader(Steps(entries, folder, teacher), batch_seconds, workers)


def stage(
    teacher: Family, steps: Iterable[Sequence[Batch]], folder: Path, top_k: int
) -> Callable[[], None]:
    """Stage 4 over steps, of `reading` or in memory; its store is left in ``folder``/store."""
    from adakd.bench.made import TEMPERATURE
    from adakd.device import device
    from adakd.teacher_store import Writer, begin, fill, finish

    teacher.to(device())

    def work() -> None:
        begin(folder / "store", {}, top_k, TEMPERATURE)
        with Writer(folder / "store") as writer:
            count = fill(writer, teacher, steps)
        finish(folder / "store", count)

    return work


def forward(teacher: Family, loader: DataLoader) -> Callable[[], None]:
    """The bare forward pass over what a loader gives, read beforehand."""
    import torch

    from adakd.device import device

    teacher.to(device())
    ready = [batch.to(device()) for (batch,) in loader]

    def work() -> None:
        for batch in ready:
            with torch.inference_mode():
                _ = teacher(batch).logits

    return work
