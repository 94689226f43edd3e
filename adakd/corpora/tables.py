"""Finding and reading the tables of a corpus that somebody else made, so that no row is lost.

Not a corpus. It knows neither columns nor archives.
"""

from __future__ import annotations

import glob
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from adakd.corpora import SPLITS
from adakd.errors import UserError
from adakd.files import sha256

TABLES = tuple(f"{split}.tsv" for split in SPLITS)
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class Row(NamedTuple):
    """One row of a table."""

    line: int  # of the file, from 1 on
    fields: list[str]
    problem: str  # why the fields cannot be used; empty if they can


def rows(path: Path, width: int | None = None) -> Iterator[Row]:
    """The rows of a tab-separated file, the header among them; blank lines are passed over.

    Nothing is quoted: a quotation mark is a character like any other. Lines end in LF or CRLF, and
    a byte order mark is dropped. A line that is not UTF-8, or that has another number of fields
    than `width` (None: than the first line), comes with a `problem`. No such file is a UserError.
    """
    try:
        file = open(path, "rb")  # not as text, in which one bad byte would end the reading
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such table; check the corpus") from None
    with file:
        for number, line in enumerate(file, start=1):
            if number == 1:
                line = line.removeprefix(BYTE_ORDER_MARK)
            line = line.rstrip(b"\r\n")
            if not line:
                continue
            try:
                fields = line.decode("utf-8").split("\t")
            except UnicodeDecodeError as error:
                yield Row(number, [], f"not UTF-8: byte {error.start + 1} of the line")
                continue
            width = width or len(fields)
            problem = ""
            if len(fields) != width:
                problem = f"wrong number of fields: {len(fields)} in a table of {width} columns"
            yield Row(number, fields, problem)


def checksums(folder: Path, tables: Sequence[str] = TABLES) -> dict[str, str]:
    """SHA-256 of those tables that stand in a folder."""
    return {table: sha256(folder / table) for table in tables if (folder / table).is_file()}


def find_folder(root: Path, name: str, tables: Sequence[str], shown: Path) -> Path:
    """The folder that holds all `tables`: `root`, or one called `name` up to three levels below.

    Anything else is a UserError that says what there is. shown: the corpus as the user knows it.
    """

    def holds_all(folder: Path) -> bool:
        return all((folder / table).is_file() for table in tables)

    if holds_all(root):
        return root
    levels = ("", "*/", "*/*/")  # not "**/": a folder of clips may hold a million files
    named = [path for level in levels for path in root.glob(level + glob.escape(name))]
    found = sorted(path for path in named if holds_all(path))
    if len(found) == 1:
        return found[0]
    if found:
        places = " and ".join(str(path.relative_to(root)) for path in found)
        raise UserError(f"{shown}: there are {places}; give --corpus one of them")
    for path in (root, *named):
        if missing := [table for table in tables if not (path / table).is_file()]:
            if len(missing) < len(tables):
                where = shown / path.relative_to(root)
                raise UserError(
                    f"{where} has no {', '.join(missing)}: give --corpus a whole corpus"
                )
    others = {path.parent.name for level in ("*/", "*/*/") for path in root.glob(level + tables[0])}
    raise UserError(
        f"{shown}: no folder '{name}' that holds {', '.join(tables)}"
        + (f", but {', '.join(sorted(others))}" if others else "")
        + "; give --corpus the corpus that has it, or set corpus.name to the folder's name"
    )
