"""AISHELL-2: 1,000 hours of read Mandarin by 1,991 speakers, recorded on iOS; used where it lies.

    <corpus>/iOS/data/{wav.scp,trans.txt,wav/}                       training
    AISHELL-DEV-TEST-SET/{iOS,Android,Mic}/{dev,test}/{wav.scp,trans.txt,wav/}

The evaluation set (its own download) stands inside or beside the corpus folder; where iOS/dev and
iOS/test were put beside iOS/data, that works too. Both tables are tab separated, paths start from
the folder of wav.scp, and the folder of a recording is its speaker. Dev and test are the same
sentences on three devices: each is a recording condition that is scored by itself, and a speaker
is the same person in all of them. Their ids get the condition in front (`Mic-...`).

Dev and test are the sets of all conditions asked for together (`--corpus.conditions "[iOS]"` for
iOS alone): a checkpoint is picked by its CER over all of dev.

Full-width letters, stray ' and -, mixed-case English and U+2B5AF for 頫 are mended by
`adakd.data.text`, line ends of Windows by `adakd.corpora.kaldi_tables`.

Layout as read by the public recipes of Kaldi, ESPnet, WeNet and lhotse; the corpus itself was not
at hand when this was written.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from adakd.corpora import Rejected, Utterance, kaldi_tables, marker
from adakd.corpora.tables import checksums
from adakd.data.text import spaces_count
from adakd.errors import UserError
from adakd.progress import track

NAME = "AISHELL-2"
CONDITIONS = ("iOS", "Android", "Mic")

# Utterances that the public recipes leave out or mend by hand.
KNOWN_TO_BE_WRONG = {
    "IC0803W0380": "bad recording (left out by ESPnet's recipe)",
    "ID1042W0075": "wrong transcript (replaced by lhotse's recipe)",
}


@dataclass(frozen=True)
class Options:
    """Where the corpus lies, and what of the evaluation set is used."""

    corpus: str | None = None  # the folder that holds iOS/data, or AISHELL-2/iOS/data
    evaluation: str | None = None  # AISHELL-DEV-TEST-SET; None: looked for in and beside `corpus`
    conditions: list[str] = field(default_factory=lambda: list(CONDITIONS))  # of dev and test

    def __post_init__(self) -> None:
        unknown = set(self.conditions) - set(CONDITIONS)
        if unknown or not self.conditions:
            raise UserError(
                f"corpus.conditions is {self.conditions}; choose some of {', '.join(CONDITIONS)}"
            )


def fetch(options: Options, folder: Path, language: str) -> None:
    """Stage 0: find the sets and remember where they lie, in fetched.json.

    Raises:
        UserError: a language that is not Chinese, a folder or a table missing.
    """
    if spaces_count(language):
        raise UserError(f"language.code is '{language}', but AISHELL-2 is Mandarin; set it to 'zh'")
    corpus = marker.source_of(folder, NAME, options.corpus)
    sets = {"train": str(_training(corpus))}
    for condition in options.conditions:
        for split in ("dev", "test"):
            sets[f"{condition}/{split}"] = str(_evaluation(corpus, options, condition, split))
    sums = _checksums(track(sets.items(), len(sets), "looking through the tables"))
    settings = marker.settings_of(options)
    marker.keep(folder, str(corpus), settings, sets=sets, sha256=sums)


def utterances(options: Options, folder: Path, fold: int | None) -> Iterator[Utterance | Rejected]:
    """Stage 1: the utterances, train first, then each condition's dev and test, as in trans.txt.

    Rejected: ids in one table only, ids twice in one, lines that are not UTF-8, what is known to be
    wrong.

    Raises:
        UserError: stage 0 not run with these options, tables that have changed since.
    """
    found = marker.recall(folder, NAME, options, marker.settings_of(options))
    marker.check_tables(found["source"], found["sha256"], _checksums(found["sets"].items()))
    for name, place in found["sets"].items():
        condition, _, split = name.rpartition("/")
        yield from _of_set(Path(place), split, condition)


def _checksums(sets: Iterable[tuple[str, str]]) -> dict[str, str]:
    """SHA-256 of the tables of each set (its name, its folder) that there are."""
    return {
        f"{name}/{table}": digest
        for name, place in sets
        for table, digest in checksums(Path(place), ("wav.scp", "trans.txt")).items()
    }


def _of_set(folder: Path, split: str, condition: str) -> Iterator[Utterance | Rejected]:
    scp, transcripts = folder / "wav.scp", folder / "trans.txt"
    for joined in kaldi_tables.joined(transcripts, [scp], split):
        if isinstance(joined, Rejected):
            yield joined
            continue
        text, (recording,) = joined
        if text.id in KNOWN_TO_BE_WRONG:
            reason = KNOWN_TO_BE_WRONG[text.id]
            yield Rejected(text.id, split, reason, f"{transcripts}:{text.line}")
            continue
        if not recording.value:
            yield Rejected(text.id, split, "no path in wav.scp", f"{scp}:{recording.line}")
            continue
        path = Path(recording.value)  # wav/C0001/IC0001W0001.wav
        yield Utterance(
            id=f"{condition}-{text.id}" if condition else text.id,
            split=split,
            audio=folder / path,
            text=text.value,
            speaker=path.parent.name if len(path.parts) > 2 else "",
            language="",
            condition=condition,
        )


def _training(corpus: Path) -> Path:
    for place in (corpus / "iOS" / "data", corpus / "AISHELL-2" / "iOS" / "data"):
        if place.is_dir():
            return _complete(place)
    raise UserError(
        f"{corpus}: neither iOS/data nor AISHELL-2/iOS/data is here; give --corpus the folder of "
        "AISHELL-2"
    )


def _evaluation(corpus: Path, options: Options, condition: str, split: str) -> Path:
    """The folder of one set, in an AISHELL-DEV-TEST-SET or, like iOS/data, in the corpus itself."""
    if options.evaluation is not None:
        roots = [Path(marker.absolute(options.evaluation))]
    else:
        named = [place / "AISHELL-DEV-TEST-SET" for place in (corpus, corpus.parent)]
        roots = [*named, corpus, corpus / "AISHELL-2"]
    for root in roots:
        if (root / condition / split).is_dir():
            return _complete(root / condition / split)
    packed = [path for root in roots if (path := root / condition / f"{split}.tar.gz").is_file()]
    if packed:
        raise UserError(f"{packed[0]} is packed; unpack it where it stands, and its neighbours")
    raise UserError(
        f"there is no {condition}/{split} in {', '.join(map(str, roots))}; give the folder of "
        "AISHELL-DEV-TEST-SET with --corpus.evaluation, or the conditions that you have with "
        '--corpus.conditions, e.g. "[iOS]"'
    )


def _complete(folder: Path) -> Path:
    for table in ("wav.scp", "trans.txt"):
        if not (folder / table).is_file():
            raise UserError(f"{folder / table} is missing; get AISHELL-2 again, or unpack it whole")
    return folder
