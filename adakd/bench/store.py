"""`adakd bench store`: the teacher store's size and speed, and what keeping only the top k costs.

Three tables:

- bytes an hour of speech, and reading: batches of utterances in random order, from files that the
  operating system may have in memory;
- the KL of a top-k teacher over that of the dense one, on synthetic distributions over 51,865
  units. Teacher: logits scale x N(0, 1), as random as what a decoder gives to units that do not
  fit, and a few candidates that do, lifted by `lift` minus 0, 1, 2, ... Student: teacher + N(0, 1);
- the same on the outputs of trained checkpoints: teacher and fine-tuned student of a recipe that
  has been run (--recipe, --root), on its training utterances.

The second and third matter since the top-k loss is a lower bound: what the student could still
learn about the rest is lost.
"""

from __future__ import annotations

import argparse
import random
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adakd.bench import measure
from adakd.config import REPOSITORY

if TYPE_CHECKING:
    import torch
    from torch import Tensor

SYNTHETIC = ((1.0, 15.0), (2.0, 15.0), (2.0, 20.0), (3.0, 25.0))  # scale and lift
CANDIDATES = 8
TEMPERATURES = (1.0, 2.0)
ROWS = 64  # positions of each synthetic distribution


def main(arguments: Sequence[str]) -> int:
    """Measure, and print tables in Markdown; 0 on success."""
    parser = argparse.ArgumentParser(prog="adakd bench store", allow_abbrev=False)
    parser.add_argument("--size", default="true", choices=("true", "tiny"))
    parser.add_argument("--clips", type=int, default=96, help="clips of about 5 s (96)")
    parser.add_argument("--rounds", type=int, default=5, help="times that all are read (5)")
    parser.add_argument("--top-k", default="20 100 500", help='numbers of units ("20 100 500")')
    parser.add_argument("--recipe", default="espeak/hi", help="a recipe that has been run")
    parser.add_argument("--root", type=Path, default=REPOSITORY, help="its --root")
    options = parser.parse_args(list(arguments))
    measure.print_heading("store", arguments)
    kept = [int(word) for word in options.top_k.split()]
    _sizes(options, kept)
    _synthetic(kept)
    _trained(options, kept)
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
    for scale, lift in SYNTHETIC:
        draw = torch.Generator().manual_seed(0)
        teacher = scale * torch.randn(1, ROWS, UNITS, generator=draw)
        best = torch.randint(UNITS, (1, ROWS, CANDIDATES), generator=draw)
        teacher.scatter_(-1, best, lift - torch.arange(CANDIDATES).expand_as(best).float())
        student = teacher + torch.randn(teacher.shape, generator=draw)
        mask = torch.ones(1, ROWS, dtype=torch.bool)
        for temperature in TEMPERATURES:
            losses = _losses(student, teacher, mask, kept, temperature)
            rows.append([f"scale {scale:g}, lift {lift:g}", *_row(losses, temperature)])
    measure.print_table(["synthetic, 51,865 units", *_head(kept)], rows)


def _trained(options: argparse.Namespace, kept: Sequence[int]) -> None:
    import torch

    from adakd import config as configuration
    from adakd import models
    from adakd.data import audio
    from adakd.steps import Place

    rows = []
    place = Place(options.root, configuration.load(_recipe(options.recipe), "whisper"))
    folders = [place.experiment(name) / "model" for name in ("teacher", "finetune")]
    if not all(folder.is_dir() for folder in folders):
        print(f"Trained checkpoints of {options.recipe}: not measured (run ./run.sh first).")
        return
    teacher, student = (models.open_folder(place.config, folder).eval() for folder in folders)
    sums: dict[tuple[float, int], float] = {}
    entries = place.manifest("train")
    entries = entries[:: max(1, len(entries) // ROWS)]
    for entry in entries:
        batch = student.collate([entry], [audio.read(place.root / entry.audio)])
        with torch.no_grad():
            outputs = student(batch).logits, teacher(batch).logits
        mask = torch.ones(outputs[0].shape[:2], dtype=torch.bool)
        for temperature in TEMPERATURES:
            found = _losses(*outputs, mask, kept, temperature)
            for k, loss in found.items():
                sums[temperature, k] = sums.get((temperature, k), 0.0) + loss / len(entries)
    for temperature in TEMPERATURES:
        losses = {k: loss for (each, k), loss in sums.items() if each == temperature}
        rows.append(["whisper", *_row(losses, temperature)])
    measure.print_table([f"trained, {len(teacher.vocabulary()):,} units", *_head(kept)], rows)


def _recipe(name: str) -> Path:
    from adakd.errors import UserError

    folder = REPOSITORY / "recipes" / name
    if not (folder / "conf").is_dir():
        raise UserError(f"There is no recipe '{name}': look into recipes/.")
    return folder


def _losses(
    student: Tensor, teacher: Tensor, mask: torch.Tensor, kept: Sequence[int], temperature: float
) -> dict[int, float]:
    """The mean KL for each k that the vocabulary has; 0 stands for dense."""
    from adakd.objectives import Dense, token_kl, top_k

    losses = {0: token_kl(student, Dense(teacher), mask, temperature).mean().item()}
    for k in kept:
        if k <= teacher.shape[-1]:
            soft = top_k(teacher, k, temperature)
            losses[k] = token_kl(student, soft, mask, temperature).mean().item()
    return losses


def _head(kept: Sequence[int]) -> list[str]:
    return ["temperature", "dense KL", *(f"top {k} over it" for k in kept)]


def _row(losses: dict[int, float], temperature: float) -> list[str]:
    dense = losses.pop(0)
    return [f"{temperature:g}", f"{dense:.4f}", *(f"{one / dense:.4f}" for one in losses.values())]
