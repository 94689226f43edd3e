"""Stage 1: from a corpus's utterances to manifests of normalised text and 16 kHz mono audio.

What cannot be used is rejected: counted, and listed in rejected.tsv with the reason. Audio that is
16 kHz mono WAV or FLAC already is used where it lies (and read once, for a header says nothing of
a file cut short); all else, and every segment of a longer recording, is written once as FLAC. No
corpus is known here, and no model: what a model cannot take comes in as `limits`.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypedDict

from adakd.corpora import Rejected, Utterance
from adakd.data import audio, manifest, text
from adakd.data.manifest import Entry
from adakd.errors import UserError
from adakd.files import write_json, write_text
from adakd.progress import track

SPLITS = ("train", "dev", "test")
WORTH_PROCESSES = 500  # clips; a process takes about as long to start as a hundred to be read

# Says why a model cannot take an entry, or None. A reason reads best as "kind of trouble: numbers".
Limit = Callable[[Entry], str | None]


class Counts(TypedDict):
    """What became of one split."""

    kept: int  # utterances
    rejected: int  # utterances
    seconds: float  # of audio kept


@dataclass(frozen=True)
class Rejection:
    """An utterance that cannot be used; one line of rejected.tsv."""

    id: str
    split: str
    reason: str
    where: str  # the audio file, and the segment of it


@dataclass(frozen=True)
class Clips:
    """How one clip is examined; sent to the worker processes."""

    folder: Path  # converted clips go below it
    root: Path  # paths in manifests are relative to it
    language: str  # of utterances that name none
    min_seconds: float
    max_seconds: float
    normalise: bool


def prepare(
    corpus: Iterable[Utterance | Rejected],
    folder: Path,
    audio_root: Path,
    language: str,
    limits: Sequence[Limit],
    min_seconds: float,
    max_seconds: float,
    max_rejected: float,
    normalise: bool,
    jobs: int,
    audio_folder: Path | None = None,
) -> dict[str, Counts]:
    """Write train.jsonl, dev.jsonl, test.jsonl, rejected.tsv and counts.json below `folder`.

    corpus: what it yields; its Rejected rows are listed beside those rejected here.
    folder: of the recipe's data, e.g. data/espeak/hi/whisper.
    audio_folder: where converted clips go, folder/audio if None; families and folds share one.
    audio_root: what the manifests' audio paths are relative to; files outside it stay absolute.
    language: code for utterances whose own `language` is empty.
    limits: asked in turn about each entry that is otherwise sound, in this process.
    min_seconds, max_seconds: of audio. max_rejected: share of all utterances, 0 to 1.
    normalise: by `adakd.data.text`; otherwise only white space is squeezed.
    jobs: worker processes, 0 for one a core; few clips are read in this one.

    Returns the counts by split. Cut and run again, it converts only what is still missing.
    Errors (UserError): no utterances, an unknown split, an empty id, one id twice (naming both
    places), more than `max_rejected` rejected or nothing left of a split (after rejected.tsv was
    written; manifests are then left as they were).
    """
    rows = list(corpus)
    utterances = [row for row in rows if isinstance(row, Utterance)]
    _check_ids(utterances)
    folder = Path(folder)
    clips = Clips(
        Path(os.path.abspath(audio_folder or folder / "audio")),
        Path(os.path.abspath(audio_root)),
        language,
        min_seconds,
        max_seconds,
        normalise,
    )
    entries: dict[str, list[Entry]] = {split: [] for split in SPLITS}
    rejections = [
        Rejection(row.id, row.split, row.reason, row.where)
        for row in rows
        if isinstance(row, Rejected)
    ]
    examined = track(_examine_all(utterances, clips, jobs), len(utterances), "preparing clips")
    for utterance, outcome in zip(utterances, examined, strict=True):
        if isinstance(outcome, Entry):
            reason = next((found for limit in limits if (found := limit(outcome))), None)
        else:
            reason = outcome
        if reason is None:
            assert isinstance(outcome, Entry)
            entries[utterance.split].append(outcome)
        else:
            rejections.append(Rejection(utterance.id, utterance.split, reason, where(utterance)))

    _write_rejections(folder / "rejected.tsv", rejections)
    rejected = Counter(rejection.split for rejection in rejections)
    counts: dict[str, Counts] = {
        split: {
            "kept": len(kept),
            "rejected": rejected[split],
            "seconds": round(sum(entry.seconds for entry in kept), 3),
        }
        for split, kept in entries.items()
    }
    _check_rejections(rejections, counts, max_rejected, folder / "rejected.tsv")
    for split, kept in entries.items():
        manifest.write(folder / f"{split}.jsonl", kept)
    write_json(folder / "counts.json", counts)
    return counts


def where(utterance: Utterance) -> str:
    """The place of an utterance in its corpus: the audio file, and the segment of it."""
    if utterance.start is None and utterance.end is None:
        return str(utterance.audio)
    end = "end" if utterance.end is None else f"{utterance.end:g} s"
    return f"{utterance.audio} ({utterance.start or 0:g} s to {end})"


def examine(utterance: Utterance, clips: Clips) -> Entry | str:
    """The manifest's entry for an utterance, its clip converted if need be; or why it is rejected.

    Runs in a worker process.
    """
    if not utterance.text.strip():
        return "empty transcript"
    language = utterance.language or clips.language
    if clips.normalise:
        target = text.normalise(utterance.corrected or utterance.text, language)
        if not target:
            return f"transcript empty once normalised: {' '.join(utterance.text.split())}"
    else:
        target = " ".join(utterance.text.split())
    try:
        path, seconds = _clip(utterance, clips)
    except audio.AudioError as error:
        return error.reason
    if problem := _wrong_length(seconds, clips):
        return problem
    stored = str(path.relative_to(clips.root)) if path.is_relative_to(clips.root) else str(path)
    return Entry(
        id=utterance.id,
        audio=stored,
        seconds=seconds,
        text=target,
        raw=utterance.text,
        speaker=utterance.speaker,
        language=language,
        condition=utterance.condition,
    )


def _clip(utterance: Utterance, clips: Clips) -> tuple[Path, float]:
    """The 16 kHz mono file of an utterance and its seconds. Of the wrong length, none is written.

    Errors: audio.AudioError.
    """
    source = Path(os.path.abspath(utterance.audio))
    whole = utterance.start is None and utterance.end is None
    if whole and source.is_file() and audio.is_ready(source):
        return source, _seconds(audio.read(source))
    converted = _converted_path(utterance, source, clips)
    if _is_current(converted, source):
        try:
            return converted, _seconds(audio.read(converted))
        except audio.AudioError:
            pass  # spoilt after it was written: convert it again
    samples = audio.read(source, utterance.start, utterance.end)
    seconds = _seconds(samples)
    if _wrong_length(seconds, clips) is None:
        audio.write_flac(converted, samples)
    return converted, seconds


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
    try:
        return converted.stat().st_mtime_ns >= source.stat().st_mtime_ns
    except FileNotFoundError:
        return False


def _seconds(samples: Sized) -> float:
    return len(samples) / audio.SAMPLE_RATE


def _wrong_length(seconds: float, clips: Clips) -> str | None:
    if seconds < clips.min_seconds:
        return f"too short: {seconds:.3f} s, at least {clips.min_seconds:g} s needed"
    if seconds > clips.max_seconds:
        return f"too long: {seconds:.3f} s, at most {clips.max_seconds:g} s allowed"
    return None


def _examine_all(utterances: Sequence[Utterance], clips: Clips, jobs: int) -> Iterator[Entry | str]:
    work = partial(examine, clips=clips)
    if jobs <= 1 or len(utterances) < WORTH_PROCESSES:
        yield from map(work, utterances)
        return
    # Spawned, for a forked child of a process in which torch has run threads may hang.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, context, initializer=_one_thread) as pool:
        try:
            yield from pool.map(work, utterances, chunksize=16)
        except BrokenProcessPool:
            raise UserError(
                "a process that prepares clips was killed, most likely for want of memory; run "
                "stage 1 again with fewer jobs: what is converted is kept"
            ) from None
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _one_thread() -> None:
    """Keep torch, should a worker import it to resample, from starting a thread on every core."""
    os.environ["OMP_NUM_THREADS"] = "1"


def _check_ids(utterances: Sequence[Utterance]) -> None:
    if not utterances:
        raise UserError("the corpus has no utterances; look into its folder, or run stage 0 again")
    seen: dict[str, Utterance] = {}
    for utterance in utterances:
        if not utterance.id.strip():
            raise UserError(f"{where(utterance)}: the utterance has no id")
        if utterance.split not in SPLITS:
            raise UserError(
                f"{where(utterance)}: utterance '{utterance.id}' belongs to an unknown split "
                f"'{utterance.split}'; splits are {', '.join(SPLITS)}"
            )
        if utterance.id in seen:
            first = seen[utterance.id]
            raise UserError(
                f"two utterances have the id '{utterance.id}': {where(first)} in {first.split}, "
                f"and {where(utterance)} in {utterance.split}; ids must be unique in the corpus"
            )
        seen[utterance.id] = utterance


def _check_rejections(
    rejections: Sequence[Rejection], counts: dict[str, Counts], max_rejected: float, listing: Path
) -> None:
    if not rejections:
        return
    kinds = Counter(_kind(rejection.reason) for rejection in rejections)
    kind, count = kinds.most_common(1)[0]
    advice = (
        f"most often ({count}) because of: {kind}; see {listing}, then mend the corpus or raise "
        "data.max_rejected"
    )
    total = len(rejections) + sum(split["kept"] for split in counts.values())
    if len(rejections) > max_rejected * total:
        raise UserError(
            f"{len(rejections)} of {total} utterances were rejected, more than the "
            f"{max_rejected:.1%} that data.max_rejected allows, {advice}"
        )
    for name, split in counts.items():
        if split["rejected"] and not split["kept"]:
            raise UserError(f"all {split['rejected']} utterances of {name} were rejected, {advice}")


def _kind(reason: str) -> str:
    """A reason without its particulars, so that equal troubles are counted together."""
    return re.sub(r"\d+(\.\d+)?", "N", reason.partition(":")[0])


def _write_rejections(path: Path, rejections: Iterable[Rejection]) -> None:
    lines = ["id\tsplit\treason\twhere"]
    for one in rejections:
        fields = (one.id, one.split, one.reason, one.where)
        # A tab or line end inside a field would break the table.
        lines.append("\t".join(" ".join(field.split()) for field in fields))
    write_text(path, "\n".join(lines) + "\n")
