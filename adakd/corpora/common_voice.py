"""Mozilla Common Voice: read sentences, as its users have it (release 11 or any later one).

    cv-corpus-11.0-2022-09-21/hi/{train,dev,test,validated,...}.tsv   clips/*.mp3

The official splits, all that the recipe's lengths let through; the speaker is `client_id`, the text
`sentence` as it stands there. train.tsv has each sentence once, and so holds a part of what was
validated: `train: validated` takes all of validated.tsv but what shares a speaker or a sentence
with dev or test. A folder is read in place; of an archive only the three tables and the clips that
they name are unpacked. No download: Common Voice asks for an account and for consent to its terms
(recipes/commonvoice/README.md).
"""

from __future__ import annotations

import re
import shutil
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from adakd.corpora import SPLITS, Rejected, Utterance, marker
from adakd.corpora.archive import extract, lies_in, record, replaced, unpack
from adakd.corpora.tables import checksums, find_folder, rows
from adakd.data.text import letters_of, normalise
from adakd.errors import UserError
from adakd.progress import track

COLUMNS = ("client_id", "path", "sentence")
TRAIN = ("train", "validated")
_RELEASE = re.compile(r"cv-corpus-[0-9]+(\.[0-9]+)*(-[0-9]{4}-[0-9]{2}-[0-9]{2})?")


@dataclass(frozen=True)
class Options:
    """Where the corpus lies."""

    corpus: str | None = None  # folder or archive, as downloaded
    name: str | None = None  # the language's folder in it; None: language.code
    train: str = "train"  # the table of the training set: train | validated

    def __post_init__(self) -> None:
        if self.train not in TRAIN:
            raise UserError(f"corpus.train is '{self.train}': it is {' or '.join(TRAIN)}")

    @property
    def tables(self) -> dict[str, str]:
        """The table of each split."""
        return {split: f"{self.train if split == 'train' else split}.tsv" for split in SPLITS}


def fetch(options: Options, folder: Path, language: str) -> None:
    """Stage 0: find the language in the corpus; unpack what is needed if it is an archive.

    Writes fetched.json: source, language folder, release (from the name of the folder or archive,
    None if neither tells), SHA-256 of the three tables, and of the archive where one was given.
    Without --corpus, what was given before will do. What an earlier archive left stays until all
    of another one is unpacked.

    Raises:
        UserError: no corpus, no such language in it, an unsafe or damaged archive, one that lies
            where it would be unpacked, a table without the columns that are read.
    """
    name, tables = options.name or language, list(options.tables.values())
    before = marker.stored(folder, "name") or {}
    given = options.corpus or (before["source"] if before.get("name") == name else None)
    if given is None:
        raise UserError(
            f"Common Voice needs --corpus: get the archive of '{name}' from Mozilla Data "
            "Collective (an account and its terms are asked for) and give the archive or the "
            "folder that it unpacks to; see recipes/commonvoice/README.md"
        )
    source = Path(marker.absolute(given))
    facts: dict[str, Any] = {"source": str(source), "name": name}
    if language != name:  # a folder may be called otherwise than the locale that its rows tell
        facts["language"] = language
    if options.train != "train":
        facts["train"] = options.train
    same = facts.items() <= before.items() and _train(before) == options.train
    if same and _is_unpacked(source, before, folder, tables):
        return
    if source.is_dir():
        place = find_folder(source, name, tables, source)
        facts["folder"] = str(place)
        for table in tables:  # stops at one without its columns
            next(_read(place / table, place / table, name, language), None)
    elif source.is_file():
        target = folder / "unpacked"
        with replaced(target, source) as fresh:
            inside = _unpack(source, fresh, tables, name, language)
            facts["archive"] = record(source)
            marker.remove(folder)
        place = target / inside
        facts["folder"] = str(place.relative_to(folder))
    else:
        raise UserError(f"corpus.corpus: '{source}' does not exist; give a folder or an archive")
    found = _RELEASE.search(str(place)) or _RELEASE.search(source.name)
    facts["release"] = found[0] if found else None
    facts["sha256"] = checksums(place, tables)
    _tell_held_out(options, place, name, language)
    marker.write(folder, facts)
    unpacked = folder / "unpacked"
    if "archive" in before and "archive" not in facts and not lies_in(place, unpacked):
        shutil.rmtree(unpacked, ignore_errors=True)  # of an earlier corpus


def utterances(options: Options, folder: Path, fold: int | None) -> Iterator[Utterance | Rejected]:
    """Stage 1: the clips of train, dev and test, in the order of the tables.

    With `train: validated` those of dev's and test's speakers and sentences are not of train. A row
    that cannot be used comes as `Rejected`, with the table and the line.

    Raises:
        UserError: stage 0 not run or run with other options, tables that have changed since.
    """
    facts = marker.stored(folder, "name")
    if facts is None:
        raise UserError(f"{folder}: no Common Voice corpus here; run stage 0 first")
    marker.check_given(folder, facts, options.corpus, options.name)
    marker.check_options(folder, {"train": _train(facts)}, {"train": options.train})
    place = folder / facts["folder"]  # an absolute folder stays as it is
    now = checksums(place, list(options.tables.values()))
    marker.check_tables(place, facts["sha256"], now)
    locales = facts["name"], facts.get("language", facts["name"])
    held_out = _held_out(options, place, *locales)
    for split, name in options.tables.items():
        table = place / name
        for line, values, problem in _read(table, table, *locales):
            where = f"{table}:{line}"
            if problem:
                yield Rejected(f"{table.name}:{line}", split, problem, where)
                continue
            if split == "train" and not held_out.isdisjoint(_apart(values, locales[1])):
                continue
            clip = PurePosixPath(values["path"])
            audio = place / "clips" / clip
            if not audio.is_file():
                yield Rejected(str(clip.with_suffix("")), split, f"missing clip: {clip}", where)
                continue
            yield Utterance(
                id=str(clip.with_suffix("")),
                split=split,
                audio=audio,
                text=values["sentence"],
                speaker=values["client_id"],
                language="",  # the recipe's
            )


def _read(table: Path, shown: Path, *locales: str) -> Iterator[tuple[int, dict[str, str], str]]:
    """(line, values by column, why they cannot be used or "") of each row of a table.

    shown: the table as the user knows it. locales: a row that tells one tells one of these.
    A table without `COLUMNS` is a UserError.
    """
    lines = rows(table)
    header = next(lines, None)
    if header and header.problem:
        raise UserError(f"{shown}:{header.line}: {header.problem}; save the table as UTF-8")
    columns = header.fields if header else []
    if missing := [column for column in COLUMNS if column not in columns]:
        raise UserError(
            f"{shown}:1: no column {', '.join(missing)} among '{', '.join(columns)}'; is this a "
            "table of Common Voice, tab-separated, with its header?"
        )
    for line, fields, problem in lines:
        values = {} if problem else dict(zip(columns, fields, strict=True))
        yield line, values, problem or _trouble(values, locales)


def _held_out(options: Options, place: Path, *locales: str) -> set[str]:
    """What `_apart` says of dev and test, if the training set is not the official one."""
    found: set[str] = set()
    for split in ("dev", "test") if options.train == "validated" else ():
        table = place / options.tables[split]
        for _, values, problem in _read(table, table, *locales):
            found |= set() if problem else _apart(values, locales[1])
    return found


def _apart(values: dict[str, str], language: str) -> set[str]:
    """What no two splits of a release share: the speaker of a row, if it names one; its sentence.

    Of the sentence, as it is normalised, letters and numbers count: what is read aloud alike is the
    same.
    """
    speaker, sentence = values["client_id"], letters_of(normalise(values["sentence"], language))
    return {f"sentence {sentence}", *([f"speaker {speaker}"] if speaker else [])}


def _tell_held_out(options: Options, place: Path, *locales: str) -> None:
    """How many rows the training set lacks for `_held_out`, which stage 1 does not list."""
    if held_out := _held_out(options, place, *locales):
        table = place / options.tables["train"]
        shared = Counter(
            not held_out.isdisjoint(_apart(values, locales[1]))
            for _, values, problem in _read(table, table, *locales)
            if not problem
        )
        print(
            f"{table}: {shared[True]} of {shared.total()} rows are left out of train, since they "
            "share a speaker or a sentence with dev or test",
            file=sys.stderr,
        )


def _train(facts: dict[str, Any]) -> str:
    """The table of the training set that a marker tells."""
    return str(facts.get("train", "train"))


def _trouble(values: dict[str, str], locales: tuple[str, ...]) -> str:
    """Why a complete row cannot be used, or an empty string."""
    clip = PurePosixPath(values["path"])
    if not clip.name:
        return "no clip named"
    if clip.is_absolute() or ".." in clip.parts or "\\" in values["path"]:
        return f"clip outside clips/: {values['path']}"
    if values.get("locale") not in (None, "", *locales):
        return f"another language: locale {values['locale']} instead of {locales[0]}"
    return ""


def _is_unpacked(source: Path, before: dict[str, Any], folder: Path, tables: list[str]) -> bool:
    """Whether `before` tells of this archive, and what was unpacked still stands.

    The archive itself may be gone by now.
    """
    if "archive" not in before or checksums(folder / before["folder"], tables) != before["sha256"]:
        return False
    return marker.same_size(source, before["archive"])


def _unpack(
    archive: Path,
    target: Path,
    tables: list[str],
    name: str,
    language: str,
) -> Path:
    """Unpack the tables and the clips that they name; returns the language's folder in `target`.

    In two passes, for the tables may stand behind the clips.
    """
    extract(archive, target, lambda path: path.name in tables)
    place = find_folder(target, name, tables, archive)
    inside = place.relative_to(target)
    clips = PurePosixPath(inside.as_posix()) / "clips"
    wanted = {
        str(clips / values["path"])
        for table in tables
        for _, values, problem in _read(place / table, archive / inside / table, name, language)
        if not problem
    }
    unpacked = unpack(archive, target, lambda path: str(path) in wanted)
    for _ in track(unpacked, len(wanted), "unpacking clips"):
        pass
    return inside
