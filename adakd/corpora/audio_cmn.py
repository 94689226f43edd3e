"""Mandarin words read by one speaker: audio-cmn, 8,569 usable recordings, three hours, CC-BY-SA.

    24k-abr/hsk/cmn-<hanzi>.mp3     22,050 Hz; the file name is the text

From github.com/hugolpz/audio-cmn: the words of the HSK 2000 list, read by Yue Tan (Shtooka's
cmn-caen-tan), compressed by Hugo Lopez. Names with a `_`, which is a gap ("cmn-越_越_.mp3"), are
rejected. Isolated words of one speaker: no evidence on running speech, nor on other voices.
"""

from __future__ import annotations

import random
import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from adakd.corpora import Rejected, Utterance, archive, marker
from adakd.data.text import spaces_count
from adakd.errors import UserError
from adakd.files import fingerprint_of_files, utf8

NAME = "audio-cmn"
PUBLISHED = 8596  # recordings in 24k-abr/hsk, 27 of them with a gap
SPEAKER = "yue-tan"
HEARD = 3  # training words, at least, that hold a character of a dev or test word
_PART = "24k-abr/hsk"
_RECORDING = re.compile(r"cmn-([\u3400-\u9fff]+)\.mp3")


@dataclass(frozen=True)
class Options:
    """Where the recordings come from, and how many words dev and test get."""

    corpus: str | None = None  # folder or archive that holds 24k-abr/hsk; None: cloned from `url`
    url: str = "https://github.com/hugolpz/audio-cmn.git"
    dev_words: int = 500
    test_words: int = 1000
    seed: int = 1  # of the split; not the seed of training

    def __post_init__(self) -> None:
        if min(self.dev_words, self.test_words) < 1:
            raise UserError("corpus.dev_words and corpus.test_words must be at least 1")


def fetch(options: Options, folder: Path, language: str) -> None:
    """Stage 0: find, unpack or clone the recordings; what is found stands in fetched.json.

    Recordings of an archive go to unpacked/, those of a folder are read where they lie.

    Raises:
        UserError: a language that is not Chinese, no recordings, a failed download.
    """
    if spaces_count(language):
        raise UserError(f"language.code is '{language}', but audio-cmn is Mandarin; set it to 'zh'")
    settings = marker.settings_of(options)
    option, source = marker.asked(folder, options)
    if marker.fits(folder, source, settings) and not marker.may_differ(folder, option, source):
        return

    def check(place: Path, origin: str) -> None:
        find_recordings(place, origin)
        marker.remove(folder)  # the recordings that it tells of may be about to go

    repository = archive.Repository("audio-cmn", source, "50 MB", _PART)
    place = archive.obtain(
        source if option == "corpus" else None,
        *(repository, folder, folder / "unpacked"),
        lambda path: path.parent.as_posix().endswith(_PART) and path.suffix == ".mp3",
        check,
    )
    recordings = find_recordings(place)
    facts = {
        "sha256": {f"{len(recordings)} recordings": fingerprint_of_files(recordings)},
        **archive.told(source),
        **marker.given(option, source, Options.url),
    }
    if marker.fits(folder, source, settings, **facts):
        return
    if len(recordings) != PUBLISHED:
        print(
            f"audio-cmn: found {len(recordings)} recordings, not the {PUBLISHED} published ones; "
            "going on with these",
            file=sys.stderr,
        )
    parent = recordings[0].parent.absolute()
    folder = folder.absolute()
    marker.keep(
        folder,
        source,
        settings,
        recordings=str(parent.relative_to(folder) if parent.is_relative_to(folder) else parent),
        **facts,
    )


def utterances(options: Options, folder: Path, fold: int | None) -> Iterator[Utterance | Rejected]:
    """Stage 1: the words in the order of their code points, and what is no plain word, rejected."""
    found = marker.recall(folder, NAME, options, marker.settings_of(options))
    recordings = find_recordings(folder / found["recordings"])
    words = {match[1]: path for path in recordings if (match := _RECORDING.fullmatch(path.name))}
    splits = split(sorted(words), options)
    for path in recordings:
        if not _RECORDING.fullmatch(path.name):
            reason = "file name that is not a plain word"
            yield Rejected(utf8(path.stem), "train", reason, utf8(str(path)))
    for word, path in words.items():
        yield Utterance(path.stem, splits[word], path, word, SPEAKER, "")


def find_recordings(folder: Path, source: str = "") -> list[Path]:
    """All cmn-*.mp3, sorted. `folder` holds them, or hsk/, 24k-abr/hsk/ or */24k-abr/hsk/ in it.

    A folder without any is a UserError, which names the `source` that it came from.
    """
    for place in (folder, folder / "hsk", folder / _PART, *sorted(folder.glob(f"*/{_PART}"))):
        if found := sorted(place.glob("cmn-*.mp3")):
            return found
    raise UserError(
        f"{source or folder}: no recordings named like cmn-你好.mp3 here or in {_PART}/; give "
        "--corpus the folder or archive of audio-cmn"
    )


def split(words: Sequence[str], options: Options) -> dict[str, str]:
    """Word -> "train", "dev" or "test", the same for the same words and seed.

    Words are drawn at random, first for test, then for dev; one is taken only while each of its
    characters stays in at least three training words, so that nothing is tested that could not be
    learnt.

    Raises:
        UserError: too few words for that.
    """
    drawn = list(words)
    random.Random(options.seed).shuffle(drawn)
    holding = Counter(character for word in words for character in set(word))  # training words
    splits = dict.fromkeys(words, "train")
    for name, size in (("test", options.test_words), ("dev", options.dev_words)):
        missing = size
        for word in drawn:
            if not missing:
                break
            if splits[word] == "train" and all(holding[c] > HEARD for c in word):
                splits[word] = name
                holding.subtract(set(word))
                missing -= 1
        if missing:
            raise UserError(
                f"audio-cmn: {len(words)} words yield only {size - missing} for {name} whose "
                f"characters stand in {HEARD} training words each, and corpus.{name}_words is "
                f"{size}; ask for fewer, or give --corpus the whole data set"
            )
    return splits
