"""`adakd bench store`: the teacher store's size and speed, and what keeping only the top k costs.

Three tables:

- bytes an hour of speech, and reading: batches of utterances in random order, from files that the
  operating system may have in memory;
- the KL from a top-k teacher over that from the dense one, on synthetic distributions over 51,865
  units. Teacher: logits scale x N(0, 1), as random as what a decoder gives to units that do not
  fit, and a few candidates that do, lifted by `lift` minus 0, 1, 2, ... Student: teacher + N(0, 1);
- the same on the outputs of trained checkpoints: teacher and fine-tuned student of a recipe that
  has been run (--recipe, --root), on its training utterances.

The second and third matter since a top-k KL is an estimate: right on average, and by how much it is
off for a single utterance tells what training sees. Both are printed: the ratio of means with its
standard error, and the standard deviation for an utterance, in percent of the mean KL.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adakd import config as configuration
from adakd.bench import measure
from adakd.config import REPOSITORY
from adakd.options import Parser, natural, path, several
from adakd.place import Place
from adakd.stages.preparation import folds

if TYPE_CHECKING:
    import torch
    from torch import Tensor

SYNTHETIC = ((1.0, 15.0), (2.0, 15.0), (2.0, 20.0), (3.0, 25.0))  # scale and lift
CANDIDATES = 8
TEMPERATURES = (1.0, 2.0)
ROWS, PARTS = 64, 32  # positions of each synthetic distribution that are made at a time, and times
TOKENS = 20  # of an utterance
UTTERANCES = 64  # of the recipe that has been run


def main(arguments: Sequence[str]) -> int:
    """Measure, and print tables in Markdown; 0 on success."""
    parser = Parser(prog="adakd bench store")
    parser.add_argument("--size", default="true", choices=("true", "tiny"))
    parser.add_argument("--clips", type=natural, default=96, help="clips of about 5 s (96)")
    parser.add_argument("--rounds", type=natural, default=5, help="times that all are read (5)")
    parser.add_argument(
        "--top-k", type=several(natural), default="20 100 500", help='units ("20 100 500")'
    )
    parser.add_argument("--recipe", default="espeak/hi", help="a recipe that has been run")
    parser.add_argument("--root", type=path, default=REPOSITORY, help="its --root")
    options = parser.parse_args(list(arguments))
    config = configuration.load(measure.recipe_folder(options.recipe), "whisper")
    place = Place(options.root, replace(config, fold=folds(None, config)[0]))
    measure.print_heading("store", arguments)
    _sizes(options, options.top_k)
    _synthetic(options.top_k)
    _trained(place, options.top_k)
    return 0


def _sizes(options: argparse.Namespace, kept: Sequence[int]) -> None:
    from adakd.bench import made

    size = 16
    clips = made.batches(max(1, options.clips // size), size)
    hours = sum(each.seconds for each in clips) / 3600
    ids = [entry.id for each in clips for entry in each.entries]
    rows = []
    for family, top_k in [("wav2vec2", 0), ("whisper", 0), *(("whisper", k) for k in kept)]:
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            # The sizes of models do not matter here, their vocabularies do.
            student = made.family(family, "student", options.size, folder)
            if top_k > student.hf.config.vocab_size:  # of a miniature
                continue
            store = made.store(student, clips, folder / "store", top_k)
            total = sum(path.stat().st_size for path in (folder / "store").iterdir())
            draw = random.Random(0)

            def read(store: Any = store, draw: random.Random = draw) -> None:
                order = draw.sample(ids, len(ids))
                for first in range(0, len(order), size):
                    store.soft(order[first : first + size])

            costs = measure.interleaved({"reading": read}, options.rounds)["reading"]
        rows.append(
            [
                f"{family}, {f'top {top_k}' if top_k else 'dense'}",
                f"{total / hours / 1e6:.1f}",
                measure.spread([total / cost.processor / 1e6 for cost in costs], 0),
                measure.spread([hours / cost.processor for cost in costs], 2),
            ]
        )
    measure.print_table(
        ["store", "MB an hour of speech", "MB read a processor s", "hours of speech"], rows
    )


def _synthetic(kept: Sequence[int]) -> None:
    import torch

    from adakd.bench.made import UNITS

    rows = []
    kept = [k for k in kept if k < UNITS]
    for scale, lift in SYNTHETIC:
        draw = torch.Generator().manual_seed(0)
        losses: Losses = {}
        for _ in range(PARTS):
            teacher = scale * torch.randn(ROWS, 1, UNITS, generator=draw)
            best = torch.randint(UNITS, (ROWS, 1, CANDIDATES), generator=draw)
            teacher.scatter_(-1, best, lift - torch.arange(CANDIDATES).expand_as(best).float())
            student = teacher + torch.randn(teacher.shape, generator=draw)
            _add_losses(losses, student, teacher, kept, draw)
        for temperature in TEMPERATURES:
            row = _row(losses, temperature, kept, TOKENS)
            rows.append([f"scale {scale:g}, lift {lift:g}", *row])
    measure.print_table(["synthetic, 51,865 units", *_head(kept)], rows)


def _trained(place: Place, kept: Sequence[int]) -> None:
    import torch

    from adakd import models
    from adakd.data import audio

    folders = [place.experiment(name) / "model" for name in ("teacher", "finetune")]
    if not all(folder.is_dir() for folder in folders):
        print(f"Trained checkpoints of {place.config.recipe}: not measured (run ./run.sh first).")
        return
    teacher, student = (models.open_folder(place.config, folder).eval() for folder in folders)
    losses: Losses = {}
    draw = torch.Generator().manual_seed(0)
    entries = place.manifest("train")
    for entry in entries[:: max(1, len(entries) // UTTERANCES)]:
        batch = student.collate([entry], [audio.read(place.root / entry.audio)])
        with torch.no_grad():
            _add_losses(losses, student(batch).logits, teacher(batch).logits, kept, draw)
    kept = [k for k in kept if k < len(teacher.vocabulary())]
    rows = [["whisper", *_row(losses, temperature, kept, 1)] for temperature in TEMPERATURES]
    measure.print_table([f"trained, {len(teacher.vocabulary()):,} units", *_head(kept)], rows)


Losses = dict[tuple[float, int], list[float]]  # of each temperature and k; k = 0 stands for dense


def _add_losses(
    losses: Losses, student: Tensor, teacher: Tensor, kept: Sequence[int], draw: torch.Generator
) -> None:
    """Add the KL (B,) of logits (B, U, V) for each temperature and each k that V allows."""
    import torch

    from adakd.objectives import Dense, SoftOutputs, token_kl, top_k

    mask = torch.ones(teacher.shape[:2], dtype=torch.bool)
    for temperature in TEMPERATURES:
        soft: dict[int, SoftOutputs] = {0: Dense(teacher)}
        for k in kept:
            if k < teacher.shape[-1]:
                starts = torch.rand(mask.shape, generator=draw)
                soft[k] = top_k(teacher, k, temperature, starts)
        for k, outputs in soft.items():
            found = token_kl(student, outputs, mask, temperature).tolist()
            losses.setdefault((temperature, k), []).extend(found)


def _head(kept: Sequence[int]) -> list[str]:
    pairs = [(f"top {k} and as many drawn, over it", "an utterance, %") for k in kept]
    return ["temperature", "dense KL", *(name for pair in pairs for name in pair)]


def _row(losses: Losses, temperature: float, kept: Sequence[int], tokens: int) -> list[str]:
    """Each loss is the mean over an utterance, or one of ``tokens`` that make an utterance."""
    dense = losses[temperature, 0]
    mean = statistics.fmean(dense)
    row = [f"{temperature:g}", f"{mean:.4f}"]
    for k in kept:
        off = [one - truth for one, truth in zip(losses[temperature, k], dense, strict=True)]
        ratio, spread = 1 + statistics.fmean(off) / mean, statistics.stdev(off) / mean
        row.append(f"{ratio:.4f} ± {spread / len(off) ** 0.5:.4f}")
        row.append(f"{100 * spread / tokens**0.5:.1f}")
    return row
