"""Kaldi-style tables: lines of an id, white space and a value (wav.scp, text, utt2spk, trans.txt).

Not a corpus. It reads such files line by line and brings together what several of them say of an
id; what does not fit comes out as `Rejected`, with file and line, and is never dropped.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from adakd.corpora import Rejected
from adakd.files import other_form

_GAP = re.compile("[ \t]+")


class Row(NamedTuple):
    """What a table says of an id."""

    id: str
    value: str  # all after the first gap, without white space at either end; may be empty
    line: int  # counted from 1


def rows(path: Path, split: str) -> Iterator[Row | Rejected]:
    """The lines of a table in their order, blank ones passed over.

    UTF-8, with or without a byte order mark, line ends of Unix or Windows; the gap is a tab or
    spaces. A line in another encoding comes as Rejected, with its number in the place of its id.
    """
    with open(path, "rb") as file:  # as bytes, for a line may end in "\n" alone
        for number, line in enumerate(file, start=1):
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip(" \t\r\n")
            except UnicodeDecodeError as error:
                reason = f"not UTF-8: byte {error.start + 1} of the line"
                yield Rejected(f"{path.name}:{number}", split, reason, f"{path}:{number}")
                continue
            if text:
                key, *value = _GAP.split(text, maxsplit=1)
                yield Row(key, value[0] if value else "", number)


def index(path: Path, split: str) -> Generator[Rejected, None, dict[str, Row | None]]:
    """Yield what cannot be used of a table, and return the rest by id."""
    found: dict[str, Row | None] = {}
    for row in rows(path, split):
        if isinstance(row, Rejected):
            yield row
        elif earlier := found.get(row.id):
            yield _twice(row, path, split, earlier.line)
        else:
            found[row.id] = row
    return found


def joined(
    path: Path, others: Sequence[Path], split: str
) -> Iterator[tuple[Row, list[Row]] | Rejected]:
    """Each row of `path`, in its order, with the row that each of `others` has for the same id.

    Rejected: ids that are not in all of the tables, lines that repeat an id (the first of them
    stands), lines that are not UTF-8. `path` is read once and not held in memory, the others are.
    """
    tables: list[dict[str, Row | None]] = []  # None: the row has been used
    for other in others:
        tables.append((yield from index(other, split)))
    for row in rows(path, split):
        if isinstance(row, Rejected):
            yield row
            continue
        found = [table[row.id] for table in tables if row.id in table]
        present = [one for one in found if one is not None]
        for table in tables:
            if row.id in table:
                table[row.id] = None
        if len(present) == len(tables):
            yield row, present
        elif len(present) < len(found):
            yield _twice(row, path, split, None)
        else:
            pairs = zip(others, tables, strict=True)
            lacking = [(other.name, table) for other, table in pairs if row.id not in table]
            reason = f"not in {', '.join(name for name, _ in lacking)}"
            if any(other_form(row.id, table.__contains__) for _, table in lacking):
                reason += ", where it has another Unicode form (NFC, NFD)"
            yield Rejected(row.id, split, reason, f"{path}:{row.line}")
    for number, (other, table) in enumerate(zip(others, tables, strict=True)):
        for key, left in table.items():
            if left is not None:
                yield Rejected(key, split, f"not in {path.name}", f"{other}:{left.line}")
                for later in tables[number + 1 :]:
                    if key in later:
                        later[key] = None


def _twice(row: Row, path: Path, split: str, first: int | None) -> Rejected:
    line = "" if first is None else f", first in line {first}"
    return Rejected(row.id, split, f"id twice in {path.name}{line}", f"{path}:{row.line}")
