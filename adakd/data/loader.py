"""From manifest entries to batches: length-bucketed, sized in seconds, the same for a seed.

An *optimiser step* is a list of micro-batches. `StepSampler` plans steps, `Steps` reads them.
A planned step says everything, so that gradient accumulation loses no batch, every process of a
distributed run sees the same number of micro-batches, and a run resumes where it was cut.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Generator
from torch.utils.data import DataLoader, Dataset, Sampler

from adakd.data import audio as audio_files
from adakd.data.manifest import Entry, Manifest
from adakd.errors import UserError

if TYPE_CHECKING:
    from adakd.models import Batch, Family

BUCKET_JITTER = 0.15  # lengths are sorted after a random factor of 1 +- this: batches vary by epoch

Group = tuple[list[int], bool]  # indices of one micro-batch; False: counts nothing
Padded = Callable[[float], float]  # seconds of a clip -> seconds with its padding
Extra = Callable[["Batch"], "Batch"]  # adds the teacher's values to a batch


def bucket(
    seconds: Sequence[float] | np.ndarray,
    batch_seconds: float,
    padded: Padded | None,
    order: np.ndarray | None = None,
) -> list[list[int]]:
    """Cut utterances, sorted by length, into batches of at most ``batch_seconds`` with padding.

    seconds: length of each utterance. padded: the length to which a clip of so many seconds is
    padded by itself (Whisper: a batch then holds clips of one padded length only), None where a
    batch is padded to its longest. order: what to sort by instead of the length. A clip longer than
    ``batch_seconds`` makes a batch of its own. Returns indices; every index occurs once.
    """
    own = np.asarray(seconds, dtype=np.float64)
    keys = own if order is None else order
    if padded is None:
        lengths, groups = own, np.zeros(len(own))
    else:
        lengths = groups = np.fromiter(map(padded, own), dtype=np.float64, count=len(own))
    ranked = np.lexsort((keys, groups))
    batches: list[list[int]] = []
    current: list[int] = []
    longest, before = 0.0, 0.0
    rows = zip(ranked.tolist(), lengths[ranked].tolist(), groups[ranked].tolist(), strict=True)
    for index, length, group in rows:
        longest = max(longest, length)
        if current and (longest * (len(current) + 1) > batch_seconds or group != before):
            batches.append(current)
            current, longest = [], length
        before = group
        current.append(index)
    if current:
        batches.append(current)
    return batches


class StepSampler(Sampler[list[Group]]):
    """Plans the optimiser steps of an epoch; the same seed and epoch give the same plan.

    A step takes ``accumulate * world`` micro-batches, the last one of an epoch what is left.
    Process ``rank`` of ``world`` gets its share; one that would get fewer than the others repeats
    a micro-batch that counts nothing.
    """

    def __init__(
        self,
        seconds: Sequence[float] | np.ndarray,
        batch_seconds: float,
        accumulate: int = 1,
        seed: int = 1,
        padded: Padded | None = None,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.seconds = np.asarray(seconds, dtype=np.float64)
        self.batch_seconds, self.padded = batch_seconds, padded
        self.accumulate, self.seed = accumulate, seed
        self.rank, self.world = rank, world
        self.epoch = 1
        self.skip = 0  # steps of this epoch that a resumed run has behind it

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, counted from 1; SpeechBrain's Brain calls it."""
        self.epoch = epoch

    def plan(self, epoch: int) -> list[list[list[int]]]:
        """The steps of an epoch for all processes together: lists of micro-batches of indices."""
        draw = random.Random(f"{self.seed}-{epoch}")
        count = len(self.seconds)
        jitter = (draw.uniform(-BUCKET_JITTER, BUCKET_JITTER) for _ in range(count))
        jittered = self.seconds * (1 + np.fromiter(jitter, dtype=np.float64, count=count))
        batches = bucket(self.seconds, self.batch_seconds, self.padded, jittered)
        draw.shuffle(batches)
        size = self.accumulate * self.world
        return [batches[i : i + size] for i in range(0, len(batches), size)]

    def __iter__(self) -> Iterator[list[Group]]:
        for step in self.plan(self.epoch)[self.skip :]:
            rounds = -(-len(step) // self.world)
            groups: list[Group] = []
            for number in range(rounds):
                place = number * self.world + self.rank
                groups.append((step[place], True) if place < len(step) else (step[0], False))
            yield groups
        self.skip = 0

    def __len__(self) -> int:
        return len(self.plan(self.epoch)) - self.skip


class Steps(Dataset["list[Batch] | UserError"]):
    """Reads the micro-batches of a planned step.

    What cannot be read is an item too: torch would turn an error that a worker raises into one
    with the worker's traceback in its text, so `_Loader` raises it.

    ``teacher`` is the live teacher, if there is one: where its features differ from the student's
    (mel bins, input length), a batch carries both.
    """

    def __init__(
        self,
        entries: Sequence[Entry],
        root: Path,
        family: Family,
        extra: Extra | None = None,
        teacher: Family | None = None,
    ) -> None:
        self.entries, self.root, self.family, self.extra = entries, root, family, extra
        same = teacher is None or teacher.extractor.to_dict() == family.extractor.to_dict()
        self.teacher = None if same else teacher

    def __getitem__(self, step: list[Group]) -> list[Batch] | UserError:
        try:
            return [self.batch(indices, counted) for indices, counted in step]
        except UserError as error:
            return error

    def batch(self, indices: list[int], counted: bool = True) -> Batch:
        """One padded batch; errors name the audio file."""
        entries = [self.entries[i] for i in indices]
        clips = [self._read(entry) for entry in entries]
        batch = self.family.collate(entries, clips)
        batch.counted = counted
        if self.teacher is not None:
            batch.teacher = self.teacher.collate(entries, clips)
        return self.extra(batch) if self.extra else batch

    def _read(self, entry: Entry) -> np.ndarray:
        path = self.root / entry.audio
        try:
            samples = audio_files.read(path)
        except audio_files.AudioError as error:
            # Below data/ lie clips that stage 1 has converted; others are the corpus's own.
            converted = Path(entry.audio).parts[:1] == ("data",)
            way = (
                "if what it was made of is still there, delete the data's done.json and run "
                "--stage 1, which makes it again; what was trained stands"
                if converted
                else "it was there when the data were prepared: put it back, and run the same again"
            )
            raise audio_files.AudioError(f"{error.reason}; {way}", error.path) from None
        if len(samples) != round(entry.seconds * audio_files.SAMPLE_RATE):
            raise audio_files.AudioError(
                f"{len(samples) / audio_files.SAMPLE_RATE:.3f} s, but utterance '{entry.id}' had "
                f"{entry.seconds:.3f} s when the data were prepared: put that file back, or delete "
                "the data's done.json and run --stage 1, which looks at all audio again",
                path,
            )
        return samples


def seconds_of(entries: Sequence[Entry]) -> np.ndarray:
    """The length of each entry, (n,); of a manifest without going through its lines."""
    if isinstance(entries, Manifest):
        return entries.seconds
    return np.array([entry.seconds for entry in entries], dtype=np.float64)


class _Loader(DataLoader["list[Batch] | UserError"]):
    """Raises, in this process, the error that an item is."""

    def __init__(
        self, steps: Steps, plan: Any, workers: int, generator: Generator | None = None
    ) -> None:
        super().__init__(
            steps,
            sampler=plan,
            batch_size=None,
            num_workers=workers,
            # For all epochs of training: beside a GPU to start them takes as long as some steps.
            # Dev's begin anew, and draw from torch's generator each time, as without workers.
            persistent_workers=workers > 0 and generator is not None,
            # As copies of this process, whatever this Python's default is: what makes a batch, the
            # model's collator and the teacher's store, need not be pickled then.
            multiprocessing_context="fork" if workers else None,
            collate_fn=_same,
            # From there a GPU fetches it while it computes; a batch knows how (`Batch.pin_memory`).
            pin_memory=torch.cuda.is_available(),
            generator=generator,
        )

    def __iter__(self) -> Any:
        # Begun here, not at the first item: that draws from torch's generator.
        return _raising(super().__iter__())


def _raising(items: Iterator[list[Batch] | UserError]) -> Iterator[list[Batch]]:
    for item in items:
        if isinstance(item, UserError):
            raise item
        yield item


def _same(step: list[Batch] | UserError) -> list[Batch] | UserError:
    return step


def training_loader(steps: Steps, sampler: StepSampler, workers: int = 0) -> DataLoader:
    """A DataLoader whose items are optimiser steps (lists of batches)."""
    # Every iteration draws a seed for the workers. Drawn from torch's own generator, it would give
    # a run that is resumed inside an epoch other dropout than an uncut one.
    return _Loader(steps, sampler, workers, Generator())


def evaluation_loader(steps: Steps, batch_seconds: float, workers: int = 0) -> DataLoader:
    """Every utterance once, the longest first: if they do not fit into memory, it shows at once.

    Items are steps of one micro-batch.
    """
    seconds = seconds_of(steps.entries)
    batches = bucket(seconds, batch_seconds, steps.family.padded)
    plan = [[(batch, True)] for batch in reversed(batches)]
    return _Loader(steps, plan, workers)
