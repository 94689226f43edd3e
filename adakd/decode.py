"""Hypotheses of a trained model: greedy decoding of a manifest, the same for any batch size."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from adakd import config as configuration
from adakd import models
from adakd.data.loader import Steps, evaluation_loader
from adakd.data.manifest import Entry
from adakd.device import device, enough_memory, without_tf32
from adakd.progress import track

# Audio in a batch, padding included; more where a batch of training holds over half of it.
BATCH_SECONDS = 240.0


def transcribe(
    config: configuration.Config,
    model: Path | models.Family,
    entries: Sequence[Entry],
    root: Path,
    what: str,
    with_loss: bool = False,
    int8: Path | None = None,
) -> list[dict[str, Any]]:
    """Decode ``entries`` with a model; rows of hyp.<split>.jsonl, in their order.

    ``model`` is its folder, or the model itself, for callers that decode piece by piece.

    ``with_loss`` puts the model's own task loss (nats per target unit) under ``difficulty``, which
    is null otherwise. ``root`` is what the manifest's audio paths are relative to. ``int8`` is the
    folder of the model's int8 weights: then those decode, on the CPU and clip by clip.
    """
    family = models.open_folder(config, model) if isinstance(model, Path) else model
    where = device()
    batch_seconds = fitting(config)
    if int8 is not None:
        from adakd import quantise

        quantise.load_(family.hf, int8)
        where, batch_seconds = torch.device("cpu"), 0.0
    family.to(where).eval()
    loader = evaluation_loader(Steps(entries, root, family), batch_seconds, config.train.workers)
    texts: dict[str, str] = {}
    losses: dict[str, float] = {}
    for (batch,) in track(loader, len(loader), what):
        batch = batch.to(where)
        # In full float32: with TF32's 10 bits what is said would depend on the batch, now and then.
        with torch.inference_mode(), without_tf32(), enough_memory(what):
            texts.update(zip(batch.ids, family.transcribe(batch), strict=True))
            if with_loss:
                values = family.task_loss(family(batch), batch).tolist()
                losses.update(zip(batch.ids, values, strict=True))
    return [
        {
            "id": entry.id,
            "speaker": entry.speaker,
            "reference": entry.text,
            "raw": entry.raw,
            "hypothesis": texts[entry.id],
            "seconds": entry.seconds,
            "difficulty": losses.get(entry.id),
            **({"condition": entry.condition} if entry.condition else {}),
        }
        for entry in entries
    ]


def fitting(config: configuration.Config) -> float:
    """Seconds of audio in a batch of decoding, padding included: a GPU wants many clips at once.

    Memory for that is there, since no gradients are kept. Of teacher and student the smaller one
    counts, for either may be who decodes.
    """
    both = map(config.train_of, ("teacher", "student"))
    return max(BATCH_SECONDS, min(train.batch_seconds_without_gradients for train in both))
