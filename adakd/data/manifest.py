"""Manifests: JSON lines, one utterance each, sorted as the corpus gave them.

They are written by `adakd.data.prepare` and read by everything after it. In memory an utterance
takes 20 bytes, its place in the file and its length in bytes and in seconds; its line is read when
it is asked for, so that a million utterances cost no more than the file itself. Not a loader: the
audio stays on disk.
"""

from __future__ import annotations

import json
import os
from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import IO, TYPE_CHECKING, overload

from adakd.errors import UserError
from adakd.files import atomic_write

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Entry:
    """One utterance, ready for training or decoding."""

    id: str  # unique within a recipe; the key of everything
    audio: str  # 16 kHz mono file, relative to the root folder, or absolute: open root / audio
    seconds: float  # length of that file
    text: str  # normalised transcript, empty in untranscribed.jsonl alone
    raw: str  # transcript as the corpus has it
    speaker: str
    language: str
    condition: str = ""  # recording condition that is also scored by itself; left out where empty


# Says why a model cannot take an entry, or None. A reason reads best as "kind of trouble: numbers".
Limit = Callable[[Entry], str | None]


def refusal(entry: Entry, limits: Iterable[Limit]) -> str | None:
    """Why a model cannot take an entry, the first reason; None if all can."""
    return next((reason for limit in limits if (reason := limit(entry))), None)


_TYPES: dict[str, type] = {field.name: str for field in fields(Entry)} | {"seconds": float}
_OPTIONAL = {"condition"}

MEND = "; delete that file and run stage 1 (of the teacher's transcripts stage 2) again"


class Manifest(Sequence[Entry]):
    """The entries of a manifest file, in file order; a slice of it is a manifest too.

    The file may be replaced meanwhile (it is only ever replaced whole): what was opened stays.
    """

    def __init__(
        self, file: IO[bytes], starts: np.ndarray, lengths: np.ndarray, seconds: np.ndarray
    ) -> None:
        self.seconds = seconds  # (n,) float64, of each entry
        self._file, self._path = file, file.name
        self._starts, self._lengths = starts, lengths  # bytes, (n,) int64 and int32

    def __len__(self) -> int:
        return len(self._starts)

    @overload
    def __getitem__(self, index: int) -> Entry: ...
    @overload
    def __getitem__(self, index: slice) -> Manifest: ...
    def __getitem__(self, index: int | slice) -> Entry | Manifest:
        if isinstance(index, slice):
            return self._part(index)
        start = int(self._starts[index])
        # Not a memory map: pages of the file would count as this process's memory. Not seek and
        # read: worker processes share the file's position.
        line = os.pread(self._file.fileno(), int(self._lengths[index]), start)
        return _parse(line, f"{self._path}, byte {start}")

    def pick(self, indices: Sequence[int]) -> Manifest:
        """The manifest of these entries, in this order."""
        import numpy as np

        return self._part(np.asarray(indices, dtype=np.int64))

    def split(self, share: float, seed: int) -> tuple[Manifest, Manifest]:
        """A random `share` of the entries (one at least), and the rest, each in file order."""
        import random

        count = max(1, round(share * len(self)))
        drawn = random.Random(f"held out {seed}").sample(range(len(self)), min(count, len(self)))
        chosen = self.seconds < 0
        chosen[drawn] = True
        return self._part(chosen), self._part(~chosen)

    def _part(self, which: slice | np.ndarray) -> Manifest:
        # Of the file that is open: at its path there may be another by now.
        return Manifest(self._file, self._starts[which], self._lengths[which], self.seconds[which])


def read(path: Path) -> Manifest:
    """The entries of a manifest, in file order; the whole file is checked.

    Raises:
        UserError: (naming file and line) no such file, broken JSON, a key missing, unknown or of
            the wrong type, an id that occurs twice.
    """
    import numpy as np

    starts, lengths, seconds, numbers = array("q"), array("i"), array("d"), array("q")
    ids = Twice()
    try:
        file = open(path, "rb")
    except FileNotFoundError:
        raise UserError(f"{path}: no such manifest; run stage 1 (prepare) first") from None
    start = 0
    for number, line in enumerate(file, start=1):
        if line.strip():
            entry = _parse(line, f"{path}:{number}")
            ids.add(entry.id)
            starts.append(start)
            lengths.append(len(line))
            seconds.append(entry.seconds)
            numbers.append(number)
        start += len(line)
    manifest = Manifest(
        file,
        np.frombuffer(starts, dtype=np.int64),
        np.frombuffer(lengths, dtype=np.int32),
        np.frombuffer(seconds, dtype=np.float64),
    )
    if found := ids.first(entry.id for entry in manifest):
        first, second, name = found
        raise UserError(
            f"{path}:{numbers[second]}: id '{name}' already stands in line {numbers[first]}; "
            f"ids must be unique{MEND}"
        )
    return manifest


def write(path: Path, entries: Iterable[Entry]) -> None:
    """Write a manifest, atomically: UTF-8, one JSON object a line."""
    with atomic_write(path) as file:
        for entry in entries:
            file.write(to_line(entry))


def to_line(entry: Entry) -> str:
    """An entry as it stands in a manifest, with its line end."""
    values = {name: value for name, value in vars(entry).items() if value or name not in _OPTIONAL}
    return json.dumps(values, ensure_ascii=False) + "\n"


class Twice:
    """Finds an id that occurs twice among millions, in 8 bytes for each.

    Only hashes are kept. If two are equal, `first` goes through the ids again and compares the few
    that have such a hash, so that the answer is exact.
    """

    def __init__(self) -> None:
        self._hashes = array("q")

    def add(self, name: str) -> None:
        self._hashes.append(hash(name))

    def first(self, names: Iterable[str]) -> tuple[int, int, str] | None:
        """Where the first such id stands both times, and the id; ``names`` are those added."""
        import numpy as np

        hashes = np.sort(np.frombuffer(self._hashes, dtype=np.int64))
        suspects = set(hashes[1:][hashes[1:] == hashes[:-1]].tolist())
        if not suspects:
            return None
        seen: dict[str, int] = {}
        for number, name in enumerate(names):
            if hash(name) in suspects and seen.setdefault(name, number) != number:
                return seen[name], number, name
        return None


def _parse(line: bytes, where: str) -> Entry:
    try:
        values = json.loads(line.decode("utf-8"))
    except json.JSONDecodeError as error:
        raise UserError(f"{where}: broken JSON ({error.msg}, column {error.colno}){MEND}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{where}: not UTF-8 ({error}){MEND}") from None
    if not isinstance(values, dict):
        raise UserError(f"{where}: expected a JSON object, found {type(values).__name__}{MEND}")
    for name, expected in _TYPES.items():
        if name not in values:
            if name in _OPTIONAL:
                continue
            raise UserError(f"{where}: the key '{name}' is missing{MEND}")
        if expected is float and type(values[name]) is int:
            values[name] = float(values[name])
        if not isinstance(values[name], expected):
            raise UserError(
                f"{where}: '{name}' should be a {'number' if expected is float else 'string'}, "
                f"found {values[name]!r}{MEND}"
            )
    unknown = sorted(values.keys() - _TYPES.keys())
    if unknown:
        raise UserError(f"{where}: unknown key '{unknown[0]}'; known are {', '.join(_TYPES)}{MEND}")
    return Entry(**values)
