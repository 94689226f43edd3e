"""How much memory stage 1 and the start of stage 3 take for a corpus of so many utterances.

The real steps run, each in a process of its own, on a made-up corpus (`made_up`) with a tiny CTC
model, so that what grows with the corpus is seen and not the model. The clip is short for the sake
of time; samples are never held, so their number does not matter.
"""

from __future__ import annotations

import itertools
import multiprocessing
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from adakd.bench import measure
from adakd.files import read_json

if TYPE_CHECKING:
    from adakd.place import Place

STEPS_TRAINED = 3  # optimiser steps: past the first epoch's plan, the first batches and gradients


def report(arguments: Sequence[str], sizes: Sequence[int], jobs: int, scratch: Path) -> None:
    """Print a table in Markdown: a row for each size and stage; ``arguments`` are the command's."""
    measure.print_heading("prepare", arguments)
    head = ["utterances", "stage", "peak of the process, MB", "of each worker, MB", "minutes"]
    measure.print_table(head, _rows(sizes, jobs, scratch))


def _rows(sizes: Sequence[int], jobs: int, scratch: Path) -> Iterator[list[str]]:
    for size, stage in itertools.product(sizes, (prepare, training)):
        main, worker, minutes = measure.alone(peaks, stage, scratch / str(size), size, jobs)
        workers = f"{jobs} x {worker / 1e6:.0f}" if worker else ""
        yield [f"{size:,}", stage.__name__, f"{main / 1e6:.0f}", workers, f"{minutes:.1f}"]


def peaks(
    stage: Callable[[Path, int, int], None], root: Path, size: int, jobs: int
) -> tuple[int, int, float]:
    """Peak memory in bytes of this process and of its largest worker, and minutes, of a stage."""
    started = time.perf_counter()
    workers = [0]
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.2):
            for child in multiprocessing.active_children():
                workers.append(measure.high_water(str(child.pid)))

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        stage(root, size, jobs)
    finally:
        over.set()
        watching.join()
    return measure.high_water(), max(workers), (time.perf_counter() - started) / 60


def prepare(root: Path, size: int, jobs: int) -> None:
    """Stages 0 and 1."""
    from adakd.stages import preparation

    place = _place(root, size, jobs)
    preparation.corpus(place)
    preparation.prepare(place)
    counts = read_json(place.data / "counts.json")
    assert counts["train"]["kept"] == size, counts


def training(root: Path, size: int, jobs: int) -> None:
    """Stage 3, up to its first optimiser steps."""
    from adakd.stages.training import train

    train(_place(root, size, jobs), "finetune")


def _place(root: Path, size: int, jobs: int) -> Place:
    from adakd import config as configuration
    from adakd import corpora

    folder = str(Path(__file__).parent / "corpora")
    if folder not in corpora.__path__:
        corpora.__path__.append(folder)
    tiny = {
        "hidden_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "conv_dim": [8, 8],
        "conv_kernel": [160, 3],
        "conv_stride": [160, 2],
        "num_feat_extract_layers": 2,
        "feat_extract_norm": "layer",
        "do_stable_layer_norm": True,
        "num_conv_pos_embeddings": 4,
        "num_conv_pos_embedding_groups": 2,
    }
    mapping = {
        "recipe": "bench/hi",
        "family": "wav2vec2",
        "language": {"code": "hi"},
        "corpus": {"kind": "made_up", "utterances": size},
        "data": {"jobs": jobs},
        "units": {"kind": "characters"},
        "teacher": {"config": tiny},
        "student": {"config": tiny},
        "train": {"epochs": 1, "max_steps": STEPS_TRAINED, "mask_time": 0.0},
    }
    from adakd.place import Place

    config = configuration.from_dict(configuration.Config, mapping, "adakd bench")
    configuration.check(config)
    return Place(root, config)
