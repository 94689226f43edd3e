"""A Kaldi-style folder, as users of Kaldi, ESPnet and WeNet have it: used where it lies.

    <corpus>/train/wav.scp      id, path of a recording
    <corpus>/train/text         id, transcript
    <corpus>/train/utt2spk      id, speaker               (optional; one in which each utterance is
                                its own speaker, as Kaldi's users have it who know none, says none)
    <corpus>/train/segments     id, recording, start, end (optional; then wav.scp names recordings)
    <corpus>/dev/..., <corpus>/test/...                   the same

Paths only: what is a command or an archive (`sph2pipe ... |`, `wav.ark:57`) is refused. A relative
path starts, as Kaldi's do, from the folder in which its scripts run: mostly the one that holds the
corpus folder. Nothing is decoded and no model is asked.

Transcripts are passed on as they stand, without the tokens that `drop_tokens` names. What else
looks like a marker (`<unk>`, `[background noise]`, `{breath}`, also within a word; `!SIL`) is
refused: normalised it would be a word.
"""

from __future__ import annotations

import re
import shlex
import sys
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adakd.corpora import Rejected, Utterance, kaldi_tables, marker
from adakd.corpora.tables import checksums
from adakd.errors import UserError
from adakd.progress import track

NAME = "a Kaldi-style corpus"
_NEEDED, _OPTIONAL = ("wav.scp", "text"), ("utt2spk", "segments")
_ARCHIVE = re.compile(r".*\.ark:\d+(\[.*\])?")
_ENOUGH = 20  # relative paths that are tried, to see where they start
# In brackets, also where nothing parts it from a word: in Chinese nothing does.
_BRACKETED = "|".join(
    rf"\{a}[^\s\{a}\{b}]([^\{a}\{b}]*[^\s\{a}\{b}])?\{b}" for a, b in ("<>", "[]", "{}")
)
_MARKER = re.compile(rf"{_BRACKETED}|(?<!\S)![A-Z][A-Z0-9_-]+(?!\S)")
_NAMED = 10  # markers that an error names


@dataclass(frozen=True)
class Options:
    """Where the folders lie. Their names are relative to `corpus`."""

    corpus: str | None = None  # the folder that holds the three others, e.g. egs/mine/s5/data
    train: str = "train"  # the folder of this name in it; so dev and test
    dev: str = "dev"
    test: str = "test"
    relative_to: str | None = None  # where relative paths of wav.scp start; null: it is found out
    drop_tokens: str = ""  # taken out of transcripts, with spaces between: "<unk> [noise]"

    @property
    def dropped(self) -> list[str]:
        """Those tokens; one in brackets may have spaces inside."""
        return [found[0] for found in re.finditer(rf"{_BRACKETED}|\S+", self.drop_tokens)]

    @property
    def splits(self) -> dict[str, str]:
        return {"train": self.train, "dev": self.dev, "test": self.test}


def fetch(options: Options, folder: Path, language: str) -> None:
    """Stage 0: look through the tables and remember where the corpus lies, in fetched.json.

    Raises:
        UserError: no such folder, a table missing or empty (of test both may be), a command or an
            archive instead of a path, markers in transcripts (naming file and line).
    """
    corpus = marker.source_of(folder, NAME, options.corpus)
    begin = {}
    dropped = Counter(dict.fromkeys(options.dropped, 0))
    markers: Counter[str] = Counter()  # others
    first = ""  # place of one
    for split, name in track(options.splits.items(), 3, "looking through the tables"):
        place = corpus / name
        for table in _NEEDED:
            if not (place / table).is_file():
                raise UserError(
                    f"{place / table} is missing; give --corpus the folder that holds the Kaldi "
                    f"folders of train, dev and test, or name this one with --corpus.{split}"
                )
        empty = [table for table in _NEEDED if not (place / table).stat().st_size]
        if empty and (split != "test" or len(empty) < len(_NEEDED)):
            raise UserError(f"{place / empty[-1]} is empty; write the table that belongs there")
        scp = place / "wav.scp"
        relative: list[Path] = []
        for row in kaldi_tables.rows(scp, split):
            if isinstance(row, kaldi_tables.Row) and row.value:
                path = _path(row, scp)
                if len(relative) < _ENOUGH and not path.is_absolute():
                    relative.append(path)
        start = _start(options, corpus, place, relative)
        if relative:
            print(f"{scp}: relative paths start from {start}", file=sys.stderr)
        begin[split] = str(start)
        for token, line in _odd_tokens(place / "text", split, dropped):
            if token in dropped:
                dropped[token] += 1
            else:
                markers[token] += 1
                first = first or f"{place / 'text'}:{line}"
    if markers:
        raise UserError(f"{first}: {_refusal(markers, dropped)}")
    if dropped:
        print(f"{corpus}: taken out of transcripts: {_listed(dropped)}", file=sys.stderr)
    sums = _checksums(corpus, options)
    marker.keep(folder, str(corpus), _settings(options), begin=begin, sha256=sums)


def utterances(options: Options, folder: Path, fold: int | None) -> Iterator[Utterance | Rejected]:
    """Stage 1: the utterances of train, dev and test, in the order of `text`.

    Rejected: an id that is not in all tables, an id twice in one of them, a broken line, a segment
    of an unknown recording, a recording that no segment names, a transcript that is all dropped
    tokens. The language is the recipe's.

    Raises:
        UserError: stage 0 not run with these options, tables that have changed since.
    """
    found = marker.recall(folder, NAME, options, {"drop_tokens": None, **_settings(options)})
    tables = _checksums(Path(found["source"]), options)
    marker.check_tables(found["source"], found["sha256"], tables)
    for split, name in options.splits.items():
        place, begin = Path(found["source"]) / name, Path(found["begin"][split])
        yield from _of_split(place, split, begin, options.dropped)


def _checksums(corpus: Path, options: Options) -> dict[str, str]:
    """SHA-256 of the tables that there are, by their path in the corpus."""
    tables = (*_NEEDED, *_OPTIONAL)
    return checksums(corpus, [f"{name}/{t}" for name in options.splits.values() for t in tables])


def _odd_tokens(path: Path, split: str, dropped: Collection[str]) -> Iterator[tuple[str, int]]:
    """Tokens of the transcripts that are dropped or look like markers, each with its line."""
    drop = _finds(dropped)
    for row in kaldi_tables.rows(path, split):
        if isinstance(row, kaldi_tables.Row):
            rest, found = _without(drop, row.value)
            for token in [*found, *(marker[0] for marker in _MARKER.finditer(rest))]:
                yield token, row.line


def _finds(dropped: Iterable[str]) -> re.Pattern[str]:
    """Where tokens stand in a transcript: those in brackets anywhere, others between spaces."""
    bracketed = re.compile(_BRACKETED)
    patterns = [
        re.escape(token) if bracketed.fullmatch(token) else rf"(?<!\S){re.escape(token)}(?!\S)"
        for token in dropped
    ]
    return re.compile("|".join(patterns) or "(?!)")  # (?!) is nowhere


def _refusal(markers: Counter[str], dropped: Iterable[str]) -> str:
    """What the error says of markers that are not dropped, and of those that are already."""
    named = dict(markers.most_common(_NAMED))
    more = f", and {len(markers) - len(named)} more" if len(markers) > len(named) else ""
    return (
        "markers in transcripts, which would be learnt as words, in all splits together: "
        f"{_listed(named)}{more}; take them out with --corpus.drop_tokens "
        f"{shlex.quote(' '.join([*dropped, *named]))}, or take the brackets (or the !) away where "
        "one is a word"
    )


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{token} {count}x" for token, count in counts.items())


def _of_split(
    folder: Path, split: str, begin: Path, dropped: Collection[str]
) -> Iterator[Utterance | Rejected]:
    drop = _finds(dropped)
    scp, segments, speakers = (folder / name for name in ("wav.scp", "segments", "utt2spk"))
    segmented = segments.is_file()
    recordings: dict[str, kaldi_tables.Row | None] = {}
    named: set[str] = set()  # also by segments that are rejected below
    if segmented:
        recordings = yield from kaldi_tables.index(scp, split)
        for line in kaldi_tables.rows(segments, split):
            if isinstance(line, kaldi_tables.Row):
                named.update(line.value.split()[:1])
    others = [segments if segmented else scp, *([speakers] if speakers.is_file() else [])]
    known = speakers.is_file() and any(
        isinstance(line, kaldi_tables.Row) and line.value != line.id
        for line in kaldi_tables.rows(speakers, split)
    )
    for joined in kaldi_tables.joined(folder / "text", others, split):
        if isinstance(joined, Rejected):
            yield joined
            continue
        text, (place, *speaker) = joined
        spoken, _ = _without(drop, text.value)
        if text.value and not spoken:  # a line with the id alone is audio without a transcript
            reason = f"transcript empty without corpus.drop_tokens: {' '.join(text.value.split())}"
            yield Rejected(text.id, split, reason, f"{folder / 'text'}:{text.line}")
            continue
        start, end = None, None
        recording: kaldi_tables.Row | None = place
        if segmented:
            where = f"{segments}:{place.line}"
            try:
                name, start, end = _segment(place.value)
            except ValueError:
                reason = f"broken segment: {place.value!r} is not a recording and two times"
                yield Rejected(text.id, split, reason, where)
                continue
            recording = recordings.get(name)
            if recording is None:
                yield Rejected(text.id, split, f"segment of an unknown recording: {name}", where)
                continue
        assert recording is not None
        if not recording.value:
            yield Rejected(text.id, split, "no path in wav.scp", f"{scp}:{recording.line}")
            continue
        yield Utterance(
            id=text.id,
            split=split,
            audio=begin / _path(recording, scp),
            text=spoken,
            speaker=speaker[0].value if known else "",
            language="",
            start=start,
            end=end,
        )
    for name, row in recordings.items():
        if name not in named and row is not None:
            yield Rejected(name, split, "recording without a segment", f"{scp}:{row.line}")


def _without(drop: re.Pattern[str], transcript: str) -> tuple[str, list[str]]:
    """A transcript without the dropped tokens, and these; without any it is left untouched."""
    found: list[str] = []
    while here := [token[0] for token in drop.finditer(transcript)]:  # one may hold another
        found += here
        transcript = " ".join(drop.sub(" ", transcript).split())
    return transcript, found


def _segment(value: str) -> tuple[str, float, float | None]:
    """Recording, start and end in seconds. An end of -1 is the recording's, as in Kaldi."""
    name, start, end = value.split()
    return name, float(start), None if float(end) == -1 else float(end)


def _path(row: kaldi_tables.Row, scp: Path) -> Path:
    """The path in a line of wav.scp. A command or an archive is a UserError."""
    if row.value.endswith("|") or row.value.startswith("|"):
        raise UserError(
            f"{scp}:{row.line}: '{row.value}' is a command, and commands are not run; write its "
            "output to a file and put the file's path here, as recipes/kaldi/any/README.md shows"
        )
    if _ARCHIVE.fullmatch(row.value):
        raise UserError(
            f"{scp}:{row.line}: '{row.value}' is a place in a Kaldi archive, and only paths of "
            "audio files are read; give the folder from before the audio was packed"
        )
    return Path(row.value)


def _start(options: Options, corpus: Path, folder: Path, paths: Iterable[Path]) -> Path:
    """Where the relative paths of a wav.scp in `folder` start.

    The first of these folders that has any of the recordings: the one that holds the corpus folder
    (Kaldi's s5 above data/), the one above that (ESPnet's asr1 above dump/raw/), the corpus folder,
    `folder` itself. Where none has, the first of them.
    """
    if options.relative_to is not None:
        return Path(marker.absolute(options.relative_to))
    candidates = (corpus.parent, corpus.parent.parent, corpus, folder)
    for candidate in candidates:
        if any((candidate / path).is_file() for path in paths):
            return candidate
    return candidates[0]


def _settings(options: Options) -> dict[str, Any]:
    values = marker.settings_of(options)
    values["drop_tokens"] = " ".join(options.drop_tokens.split())
    if not values["drop_tokens"]:  # as in markers from before there was such an option
        del values["drop_tokens"]
    return values
