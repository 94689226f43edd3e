"""Stage 1: from a corpus's utterances to manifests of normalised text and 16 kHz mono audio.

What cannot be used is rejected: counted, and listed in rejected.tsv with the reason. Audio that is
16 kHz mono WAV or FLAC already is used where it lies (and read once, for a header says nothing of
a file cut short); all else, and every segment of a longer recording, is written once as FLAC. No
corpus is known here, and no model: what a model cannot take comes in as `limits`.

FLAC, a file a clip, rather than a few large files of samples: it takes about half the disk, any
tool opens it, and that a clip is done is that its file is there. Decoding 5 s of speech takes
about a millisecond where raw samples take a tenth of that (docs/PERFORMANCE.md).

Nothing is held for the whole corpus but a hash of each id, 8 bytes: memory hardly grows with it.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import re
import sys
import zlib
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from adakd.corpora import SPLITS, Rejected, Utterance
from adakd.data import audio, manifest, text
from adakd.data.manifest import Entry, Limit
from adakd.errors import UserError
from adakd.files import atomic_write, read_json, read_jsonl, remove_half_written, write_json
from adakd.progress import track
from adakd.workers import become_worker

if TYPE_CHECKING:
    import numpy as np

UNTRANSCRIBED = "untranscribed"  # the manifest of training audio without a transcript
CHECKSUMS = "checksums.json"  # of the samples of each manifest's clips, in its order
WORTH_PROCESSES = 500  # clips; a process takes about as long to start as a hundred to be read
CHUNK = 16  # clips handed to a process at a time
AHEAD = 4  # chunks a process that may wait to be written

UNKNOWN_SHARE = 0.05  # of the training text; above it, units and text do not belong together
EXAMPLES = 5  # characters that are named

# About 1981, in ns since 1970. Archives made to be the same each time give all files one time: the
# beginning of 1970 or, zip's first, of 1980.
REAL_TIMES = 11 * 365 * 24 * 3600 * 10**9

Outcome = tuple[Entry, int] | str  # an entry and its samples' checksum, or why it is rejected


class Counts(TypedDict):
    """What became of one split."""

    kept: int  # utterances
    rejected: int  # utterances
    seconds: float  # of audio kept


@dataclass
class Unknown:
    """The characters of a split that the text units lack; spaces are none."""

    characters: int = 0  # of the split's text, known or not
    found: Counter[str] = field(default_factory=Counter)
    first: dict[str, str] = field(default_factory=dict)  # character -> id of an utterance

    def add(self, entry: Entry, lacks: Callable[[str], bool]) -> None:
        for character in entry.text:
            if character == " ":
                continue
            self.characters += 1
            if lacks(character):
                self.found[character] += 1
                self.first.setdefault(character, entry.id)

    @property
    def share(self) -> float:
        return self.found.total() / max(1, self.characters)

    def __str__(self) -> str:
        named = [
            f"'{character}' U+{ord(character):04X} {count}x (first in {self.first[character]})"
            for character, count in self.found.most_common(EXAMPLES)
        ]
        more = len(self.found) - len(named)
        return (
            f"{self.found.total()} of {self.characters} characters ({self.share:.2%}) are not "
            f"among the text units and are <unk> to the models: {', '.join(named)}"
            + (f", and {more} more" if more else "")
        )


@dataclass(frozen=True)
class Clips:
    """How one clip is examined; sent to the worker processes."""

    folder: Path  # converted clips go below it; families and folds share one
    root: Path  # paths in manifests are relative to it; audio outside it stays absolute
    language: str  # code for utterances whose own is empty
    min_seconds: float
    max_seconds: float
    normalise: bool  # by `adakd.data.text`; otherwise only white space is squeezed
    # Training utterances whose transcript is empty go to untranscribed.jsonl, with empty texts,
    # instead of being rejected.
    untranscribed: bool = False


def prepare(
    utterances: Iterable[Utterance | Rejected],
    folder: Path,
    clips: Clips,
    limits: Sequence[Limit],
    max_rejected: float,
    jobs: int,
    lacks: Callable[[str], bool] | None = None,
) -> dict[str, Counts]:
    """Write train.jsonl, dev.jsonl, test.jsonl, rejected.tsv and counts.json below `folder`.

    utterances: gone through twice, so no iterator; what the corpus rejects itself is listed and
        counted with the rest.
    folder: of the recipe's data, e.g. data/espeak/hi/whisper.
    limits: asked in turn about each entry that is otherwise sound, in this process.
    max_rejected: share of all utterances, 0 to 1.
    jobs: worker processes; few clips are read in this one.
    lacks: says of a character whether the models' text units lack it; None: they lack none. Such
        characters are told with examples.

    Returns the counts by split. Cut and run again, it converts only what is still missing.

    Raises:
        UserError: no utterances, an unknown split, an empty id, one id twice (naming both places),
            more than `max_rejected` rejected, or nothing in train (where untranscribed audio will
            do) or dev, or left of a split, more than UNKNOWN_SHARE of the training text unknown to
            the units (after rejected.tsv was written; manifests are then left as they were).
    """
    total = _check_ids(utterances)
    folder = Path(folder)
    remove_half_written(folder)  # up to the size of its manifests
    clips = replace(
        clips,
        folder=Path(os.path.abspath(clips.folder)),
        root=Path(os.path.abspath(clips.root)),
    )
    written = (*SPLITS, UNTRANSCRIBED) if clips.untranscribed else SPLITS
    counts: dict[str, Counts] = {
        split: {"kept": 0, "rejected": 0, "seconds": 0.0} for split in written
    }
    checksums = dict.fromkeys(written, 0)
    kinds: Counter[str] = Counter()
    unknown = {split: Unknown() for split in SPLITS}
    listing = folder / "rejected.tsv"
    with ExitStack() as manifests:
        files = {
            split: manifests.enter_context(atomic_write(folder / f"{split}.jsonl"))
            for split in written
        }
        with atomic_write(listing) as rejected:
            rejected.write("id\tsplit\treason\twhere\n")
            examined = _examine_all(utterances, clips, jobs if total >= WORTH_PROCESSES else 1)
            for one, outcome in track(examined, total, "preparing clips"):
                bare = not isinstance(outcome, str) and not outcome[0].text
                split = UNTRANSCRIBED if bare else one.split
                count = counts[split]
                if not isinstance(outcome, str):
                    entry, checksum = outcome
                    reason = manifest.refusal(entry, limits)
                    if reason is None:
                        files[split].write(manifest.to_line(entry))
                        count["kept"] += 1
                        count["seconds"] += entry.seconds
                        checksums[split] = zlib.crc32(checksum.to_bytes(4), checksums[split])
                        if lacks is not None and not bare:
                            unknown[split].add(entry, lacks)
                        continue
                    outcome = reason
                kinds[_kind(outcome)] += 1
                count["rejected"] += 1
                rejected.write(row(one.id, one.split, outcome, where(one)))
        for count in counts.values():
            count["seconds"] = round(count["seconds"], 3)
        if sum(count["kept"] + count["rejected"] for count in counts.values()) != total:
            raise UserError("the corpus changed while it was prepared; run stage 1 again")
        _check_kept(kinds, counts, max_rejected, listing)
        _check_unknown(unknown)
    if not clips.untranscribed:
        (folder / f"{UNTRANSCRIBED}.jsonl").unlink(missing_ok=True)
    write_json(folder / "counts.json", counts)
    write_json(folder / CHECKSUMS, {split: f"{value:08x}" for split, value in checksums.items()})
    return counts


def contents(folder: Path, split: str) -> str:
    """16 hexadecimal digits of what a manifest in `folder` says and its clips hold.

    Not of where the clips lie, nor in what file.
    """
    digest = hashlib.sha256(read_json(folder / CHECKSUMS)[split].encode())
    for entry in read_jsonl(folder / f"{split}.jsonl"):
        digest.update(json.dumps({**entry, "audio": None}).encode())
    return digest.hexdigest()[:16]


def where(utterance: Utterance | Rejected) -> str:
    """The place of an utterance in its corpus: the audio file, and the segment of it."""
    if isinstance(utterance, Rejected):
        return utterance.where
    if utterance.start is None and utterance.end is None:
        return str(utterance.audio)
    end = "end" if utterance.end is None else f"{utterance.end:g} s"
    return f"{utterance.audio} ({utterance.start or 0:g} s to {end})"


def target(transcript: str, language: str, normalise: bool) -> str:
    """What a model learns to write for a transcript of the corpus; may be empty."""
    if not normalise:
        return " ".join(transcript.split())
    return text.normalise(transcript, language)


def training_texts(
    utterances: Iterable[Utterance | Rejected], language: str, normalise: bool
) -> Iterator[str]:
    """What a model learns to write for each training utterance of a corpus.

    Raises:
        UserError: there is none, or the corpus has rejected all of them; units are made before it
            is listed why.
    """
    kept, rejected = 0, 0
    first: Rejected | None = None
    for one in utterances:
        if one.split != "train":
            continue
        if isinstance(one, Utterance):
            kept += 1
            if text.UNKNOWN_CHARACTER not in one.text:  # `examine` will reject it
                yield target(one.text, one.language or language, normalise)
        else:
            rejected += 1
            first = first or one
    if first and not kept:
        raise UserError(
            f"all {rejected} utterances of train were rejected, the first ('{first.id}', "
            f"{first.where}) because of: {first.reason}; mend the corpus"
        )
    if not kept:
        raise UserError("the corpus has no utterance of train at all: look at what stage 0 found")


def examine(utterance: Utterance | Rejected, clips: Clips) -> Outcome:
    """The manifest's entry for an utterance, its clip converted if need be; or why it is rejected.

    The entry comes with the checksum of its samples.

    Runs in a worker process.
    """
    if isinstance(utterance, Rejected):
        return utterance.reason
    bare = not utterance.text.strip()
    if bare and not (clips.untranscribed and utterance.split == "train"):
        return "empty transcript"
    if text.UNKNOWN_CHARACTER in utterance.text:
        return "broken characters in the transcript: U+FFFD, as of text in another encoding"
    language = utterance.language or clips.language
    written = target(utterance.text, language, clips.normalise)
    # With data.normalise false, too: what is scored is normalised, and there it would be empty.
    spoken = written if clips.normalise else text.normalise(written, language)
    if not spoken and not bare:
        return f"transcript empty once normalised: {' '.join(utterance.text.split())}"
    try:
        path, samples = _clip(utterance, clips)
    except audio.AudioError as error:
        return error.reason
    stored = str(path.relative_to(clips.root)) if path.is_relative_to(clips.root) else str(path)
    entry = Entry(
        id=utterance.id,
        audio=stored,
        seconds=_seconds(samples),
        text=written,
        raw=utterance.text,
        speaker=utterance.speaker,
        language=language,
        condition=utterance.condition,
    )
    return entry, audio.checksum(samples)


def _clip(utterance: Utterance, clips: Clips) -> tuple[Path, np.ndarray]:
    """The 16 kHz mono file of an utterance and its samples. Of what is rejected none is written.

    Raises:
        audio.AudioError: it cannot be read, or may not be kept.
    """
    source = Path(os.path.abspath(utterance.audio))
    whole = utterance.start is None and utterance.end is None
    # Not Path.is_file, which raises an error for a name that is too long.
    if whole and os.path.isfile(source) and audio.is_ready(source):
        return source, _usable(audio.read(source, longest=clips.max_seconds), source, clips)
    converted = _converted_path(utterance, source, clips)
    if _is_current(converted, source):
        with suppress(audio.AudioError):  # spoilt after it was written: convert it again
            return converted, _usable(audio.read(converted), converted, clips)
    changed = source.stat().st_mtime_ns if os.path.isfile(source) else 0  # before it is read
    samples = audio.read(source, utterance.start, utterance.end, clips.max_seconds)
    audio.write_flac(converted, _usable(samples, source, clips))
    with suppress(OSError):  # where that is not allowed, each time is the first
        os.utime(converted, ns=(changed, changed))
    return converted, samples


def _usable(samples: np.ndarray, path: Path, clips: Clips) -> np.ndarray:
    """The samples of a clip, if they may be kept, else an `audio.AudioError`."""
    seconds = _seconds(samples)
    if seconds < clips.min_seconds:
        reason = f"too short: {seconds:.3f} s, at least {clips.min_seconds:g} s needed"
        raise audio.AudioError(reason, path)
    # Here, and not in `audio.read`: training takes every clip that was kept.
    if problem := audio.too_long(seconds, clips.max_seconds) or audio.fault(samples):
        raise audio.AudioError(problem, path)
    return samples


def _converted_path(utterance: Utterance, source: Path, clips: Clips) -> Path:
    """audio/<xx>/<id>-<digest>.flac, where the digest tells sources and segments apart.

    Without it a corpus whose segments have moved would find its old clips and believe them.
    """
    place = source.relative_to(clips.root) if source.is_relative_to(clips.root) else source
    key = f"{utterance.id}\0{place.as_posix()}\0{utterance.start}\0{utterance.end}"
    digest = hashlib.sha256(key.encode()).hexdigest()
    readable = re.sub(r"[^\w.-]", "_", utterance.id, flags=re.ASCII)[:80]
    return clips.folder / digest[:2] / f"{readable}-{digest[2:12]}.flac"


def _is_current(converted: Path, source: Path) -> bool:
    """Whether a clip is of its source as that is now: it was given the source's time.

    A later time would not do: what `tar`, `rsync` or `cp -p` put there may be older than the clip.
    Some file systems keep whole seconds, or every other. Where an archive gave all files one time,
    the file system's own tells whether the source was put there before the clip was made.
    """
    try:
        kept, given = converted.stat(), source.stat()
    except OSError:
        return False
    if given.st_mtime_ns < REAL_TIMES and given.st_ctime_ns >= kept.st_ctime_ns:
        return False
    apart = abs(kept.st_mtime_ns - given.st_mtime_ns)
    return apart < (2 * 10**9 if kept.st_mtime_ns % 10**9 == 0 else 1000)


def _seconds(samples: Sized) -> float:
    return len(samples) / audio.SAMPLE_RATE


def _examine_all(
    utterances: Iterable[Utterance | Rejected], clips: Clips, jobs: int
) -> Iterator[tuple[Utterance | Rejected, Outcome]]:
    """Every utterance with what became of it, in the corpus's order."""
    if jobs <= 1:
        for utterance in utterances:
            yield utterance, examine(utterance, clips)
        return
    # Spawned, for a forked child of a process in which torch has run threads may hang.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, context, initializer=become_worker) as pool:
        try:
            # Not pool.map, which would go through the whole corpus before the first clip is read.
            waiting: deque[tuple[list[Utterance | Rejected], Future[list[Outcome]]]] = deque()
            rest = iter(utterances)
            while chunk := list(islice(rest, CHUNK)):
                waiting.append((chunk, pool.submit(_examine_some, chunk, clips)))
                if len(waiting) > AHEAD * jobs:
                    first, outcomes = waiting.popleft()
                    yield from zip(first, outcomes.result(), strict=True)
            for first, outcomes in waiting:
                yield from zip(first, outcomes.result(), strict=True)
        except BrokenProcessPool:
            raise UserError(
                "a process that prepares clips was killed, most likely for want of memory; run "
                "stage 1 again with fewer processes (--data.jobs 1): what is converted is kept"
            ) from None
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _examine_some(utterances: list[Utterance | Rejected], clips: Clips) -> list[Outcome]:
    return [examine(utterance, clips) for utterance in utterances]


def _check_ids(utterances: Iterable[Utterance | Rejected]) -> int:
    """Refuse a corpus whose utterances cannot be told apart; returns how many there are."""
    total = 0
    ids = manifest.Twice()
    for one in utterances:
        total += 1
        if one.split not in SPLITS:
            raise UserError(
                f"{where(one)}: utterance '{one.id}' belongs to an unknown split "
                f"'{one.split}'; splits are {', '.join(SPLITS)}"
            )
        if isinstance(one, Rejected):
            continue  # an id may be what it lacks
        if not one.id.strip():
            raise UserError(f"{where(one)}: the utterance has no id")
        ids.add(one.id)
    if not total:
        raise UserError("the corpus has no utterances; look into its folder, or run stage 0 again")
    sound = (one.id for one in utterances if isinstance(one, Utterance))
    if found := ids.first(sound):
        same = (u for u in utterances if isinstance(u, Utterance) and u.id == found[2])
        first, second = islice(same, 2)
        raise UserError(
            f"two utterances have the id '{first.id}': {where(first)} in {first.split}, "
            f"and {where(second)} in {second.split}; ids must be unique in the corpus"
        )
    return total


def _check_kept(
    kinds: Counter[str], counts: dict[str, Counts], max_rejected: float, listing: Path
) -> None:
    """Refuse a split that was lost, and too many rejections. Pretraining corpora have no test."""
    advice = ""
    if kinds:
        kind, count = kinds.most_common(1)[0]
        advice = (
            f"most often ({count}) because of: {kind}; see {listing}, then mend the corpus or "
            "raise data.max_rejected"
        )
    rejected = sum(split["rejected"] for split in counts.values())
    total = rejected + sum(split["kept"] for split in counts.values())
    if rejected > max_rejected * total:
        raise UserError(
            f"{rejected} of {total} utterances were rejected, more than the "
            f"{max_rejected:.1%} that data.max_rejected allows, {advice}"
        )
    for name, split in counts.items():
        if split["kept"]:
            continue
        if name == "train" and counts.get(UNTRANSCRIBED, {"kept": 0})["kept"]:
            continue  # a teacher that is fine-tuned already can transcribe that
        if split["rejected"]:
            raise UserError(f"all {split['rejected']} utterances of {name} were rejected, {advice}")
        if name in ("train", "dev"):
            raise UserError(
                f"the corpus has no transcribed utterance in {name}, and training needs some in "
                "train and in dev; give it some, or change its corpus.* and data.languages"
            )
        if name == "test":
            print(
                "the corpus has no utterance in test: stages 8 to 10 will have nothing to score",
                file=sys.stderr,
            )


def _check_unknown(unknown: dict[str, Unknown]) -> None:
    """Tell what the units lack, and refuse a training text that is not written in them."""
    if unknown["train"].share > UNKNOWN_SHARE:
        raise UserError(
            f"train: {unknown['train']}; set units.kind to characters, which makes units of this "
            'text, or write the text as the teacher\'s units do (upper case? put "do_lower_case": '
            "true into the tokenizer_config.json of a copy; see data.normalise), or take another "
            "teacher"
        )
    for split, of_split in unknown.items():
        if of_split.found:
            print(f"{split}: {of_split}", file=sys.stderr)


def _kind(reason: str) -> str:
    """A reason without its particulars, so that equal troubles are counted together."""
    return re.sub(r"\b\d+(\.\d+)?", "N", reason.partition(":")[0])


def row(*fields: str) -> str:
    """A line of a table, whose fields lose the tabs and line ends that would break it."""
    return "\t".join(" ".join(field.split()) for field in fields) + "\n"
