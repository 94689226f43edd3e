"""The Free Spoken Digit Dataset: English digits by six people, single and joined to sequences.

3,000 recordings `recordings/{digit}_{speaker}_{number}.wav`, 8 kHz, CC-BY-SA 4.0,
github.com/Jakobovski/free-spoken-digit-dataset. What is joined is real speech, but nobody said the
digits in one breath: no coarticulation and no sentence melody, hence no evidence on running speech.
"""

from __future__ import annotations

import math
import random
import re
import sys
import tempfile
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath

from adakd.corpora import Rejected, Utterance, archive, marker
from adakd.data import audio
from adakd.errors import UserError
from adakd.files import fingerprint_of_files, read_jsonl, utf8, write_jsonl
from adakd.progress import track

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
PUBLISHED = 3000  # recordings in the data set as published since 2020
FOLDS = 6  # one a published speaker
# A speaker may have any name that can be part of a path and is UTF-8.
_RECORDING = re.compile(
    r"([0-9])_(\w[^\x00-\x1f\ud800-\udfff]*)_([0-9]+)\.wav", flags=re.IGNORECASE
)


@dataclass(frozen=True)
class Options:
    """Where the recordings come from, and how they are joined."""

    corpus: str | None = None  # folder or archive that holds recordings/; None: cloned from `url`
    url: str = "https://github.com/Jakobovski/free-spoken-digit-dataset.git"
    max_digits: int = 7  # recordings in the longest utterance; lengths are drawn evenly from 1 on
    pause_min: float = 0.05  # seconds of silence between two joined recordings, at least
    pause_max: float = 0.40  # seconds, at most
    seed: int = 1  # of the grouping and the pauses; not the seed of training

    def __post_init__(self) -> None:
        if self.max_digits < 1:
            raise UserError(f"corpus.max_digits is {self.max_digits}; give 1 or more")
        if not 0 <= self.pause_min <= self.pause_max < math.inf:
            raise UserError(
                f"corpus.pause_min is {self.pause_min} and corpus.pause_max {self.pause_max}; "
                "give seconds, the first not negative and not above the second, both finite"
            )


@dataclass(frozen=True)
class Joined:
    """An utterance to be made: recordings of one speaker, and seconds of silence between them."""

    id: str
    speaker: str
    recordings: tuple[Path, ...]
    pauses: tuple[float, ...]

    @property
    def text(self) -> str:
        return " ".join(WORDS[int(recording.name[0])] for recording in self.recordings)


def fetch(options: Options, folder: Path, language: str) -> None:
    """Stage 0: get the recordings and write the utterances below `folder`, unless they stand there.

    Writes audio/<speaker>/<id>.flac (16 kHz, mono), utterances.jsonl and, last, fetched.json. The
    same options and recordings give the same bytes; what stood there stays until all of the new is
    made.

    Raises:
        UserError: a language other than "en", no recordings, damaged ones, recordings that lie in
            audio/, a failed download.
    """
    if language != "en":
        raise UserError(f"language.code is '{language}', but FSDD is English; set it to 'en'")
    settings = marker.settings_of(options)
    option, source = marker.asked(folder, options)
    stands = (folder / "utterances.jsonl").exists()
    fits = stands and marker.fits(folder, source, settings)
    if fits and not marker.may_differ(folder, option, source):
        return
    folder.mkdir(parents=True, exist_ok=True)
    repository = archive.Repository("FSDD", source, "30 MB")
    with tempfile.TemporaryDirectory(dir=folder, prefix="unpacked-") as unpacked:
        place = archive.obtain(
            source if option == "corpus" else None,
            *(repository, folder, Path(unpacked), _is_wav, find_recordings),
        )
        recordings = find_recordings(place)
        count = sum(map(len, recordings.values()))
        home = next(iter(recordings.values()))[0].parent
        checksum = fingerprint_of_files(path for paths in recordings.values() for path in paths)
        facts = {
            "sha256": {f"{count} recordings": checksum},
            "rejected": _odd_names(home, place),
            **archive.told(source),
            **marker.given(option, source, Options.url),
        }
        if stands and marker.fits(folder, source, settings, **facts):
            return
        if (count, len(recordings)) != (PUBLISHED, FOLDS):
            folds = ""
            if len(recordings) != FOLDS:
                folds = (
                    f"; --fold knows 0 to {FOLDS - 1} alone, and there is one fold for each speaker"
                )
            print(
                f"FSDD: found {count} recordings by {len(recordings)} speakers, not the "
                f"{PUBLISHED} by {FOLDS} that are published; going on with these{folds}",
                file=sys.stderr,
            )
        plan = join(recordings, options)
        rows = []
        damaged: list[audio.AudioError] = []
        with archive.replaced(folder / "audio", home) as fresh:
            for item in track(plan, len(plan), "joining digits"):
                path = Path(item.speaker, f"{item.id}.flac")
                try:
                    _write(item, fresh / path)
                except audio.AudioError as error:
                    damaged.append(error)
                row = {"id": item.id, "speaker": item.speaker, "text": item.text}
                row["audio"] = str("audio" / path)
                row["recordings"] = " ".join(recording.name for recording in item.recordings)
                rows.append(row)
            if damaged:
                raise UserError(
                    f"FSDD: {len(damaged)} of {len(plan)} utterances hold a damaged recording, the "
                    f"first: {damaged[0]}; get the data set again or remove the damaged files"
                )
            marker.remove(folder)
    write_jsonl(folder / "utterances.jsonl", rows)
    marker.keep(folder, source, settings, **facts)


def utterances(options: Options, folder: Path, fold: int | None) -> Iterator[Utterance | Rejected]:
    """Stage 1: the utterances, by speaker and id. The speakers, sorted, take turns at testing.

    fold: which speaker tests, from 0 (also None) on; the next one, cyclically, is the dev speaker
    and all others train. Rejected: .wav files beside the recordings that are not named like one.

    Raises:
        UserError: stage 0 not run with these options, fewer than three speakers, no such fold.
    """
    found = marker.recall(folder, "FSDD", options, marker.settings_of(options))
    needs = ("id", "speaker", "text", "audio")
    rows = list(read_jsonl(folder / "utterances.jsonl", needs))
    speakers = sorted({row["speaker"] for row in rows})
    if len(speakers) < 3:
        raise UserError(
            f"{folder}: {len(speakers)} speakers ({', '.join(speakers)}), but train, dev and test "
            "need different ones; give --corpus the whole data set and run stage 0 again"
        )
    test = 0 if fold is None else fold
    if not 0 <= test < len(speakers):
        last = len(speakers) - 1
        raise UserError(f"fold is {fold}; there are folds 0 to {last}, one for each test speaker")
    splits = dict.fromkeys(speakers, "train")
    splits[speakers[(test + 1) % len(speakers)]] = "dev"
    splits[speakers[test]] = "test"
    for name in found.get("rejected", []):
        reason = "file name that is not DIGIT_SPEAKER_NUMBER.wav"
        yield Rejected(Path(name).stem, "train", reason, f"{found['source']}/{name}")
    for row in rows:
        yield Utterance(
            id=row["id"],
            split=splits[row["speaker"]],
            audio=folder / row["audio"],
            text=row["text"],
            speaker=row["speaker"],
            language="en",
        )


def find_recordings(folder: Path, source: str = "") -> dict[str, list[Path]]:
    """The recordings of each speaker, both sorted. `folder` holds them, or holds recordings/ or
    */recordings/. A folder without any is a UserError, which names the `source` it came from.

    A speaker is one, however the letters of the name are composed; blanks in it become "_".
    """
    for place in (folder, folder / "recordings", *sorted(folder.glob("*/recordings"))):
        found: dict[str, list[tuple[int, int, Path]]] = {}
        for path in filter(_is_wav, place.glob("*")):
            if match := _named(path):
                key = (int(match[1]), int(match[3]), path)
                found.setdefault("_".join(match[2].split()), []).append(key)
        if found:
            return {who: [path for *_, path in sorted(found[who])] for who in sorted(found)}
    raise UserError(
        f"{source or folder}: no recordings named like 7_jackson_32.wav here or in recordings/; "
        "give --corpus the folder or archive of the Free Spoken Digit Dataset"
    )


def join(recordings: dict[str, list[Path]], options: Options) -> list[Joined]:
    """Deal the recordings of each speaker out into utterances; each recording occurs exactly once.

    Every speaker has a random sequence of their own, so a fold's utterances do not depend on who
    else is there.
    """
    plan = []
    for speaker, paths in recordings.items():
        draw = random.Random(f"{options.seed} {speaker}")
        rest = list(paths)
        draw.shuffle(rest)
        number = 0
        while rest:
            size = min(draw.randint(1, options.max_digits), len(rest))
            pauses = (draw.uniform(options.pause_min, options.pause_max) for _ in range(size - 1))
            plan.append(
                Joined(f"{speaker}-{number:03d}", speaker, tuple(rest[:size]), tuple(pauses))
            )
            del rest[:size]
            number += 1
    return plan


def _is_wav(path: PurePath) -> bool:
    """By its name. Hidden files are left out: macOS writes one, without sound, beside each file."""
    return path.suffix.lower() == ".wav" and not path.name.startswith(".")


def _named(path: Path) -> re.Match[str] | None:
    return _RECORDING.fullmatch(unicodedata.normalize("NFC", path.name))


def _odd_names(home: Path, place: Path) -> list[str]:
    """The .wav files beside the recordings that are none, by their path in the corpus."""
    odd = [path for path in sorted(home.iterdir()) if _is_wav(path) and not _named(path)]
    return [utf8(str(path.relative_to(place))) for path in odd]


def _write(item: Joined, path: Path) -> None:
    import numpy as np

    pieces = [audio.read(item.recordings[0])]
    for pause, recording in zip(item.pauses, item.recordings[1:], strict=True):
        pieces.append(np.zeros(round(pause * audio.SAMPLE_RATE), np.float32))
        pieces.append(audio.read(recording))
    audio.write_flac(path, np.concatenate(pieces))
