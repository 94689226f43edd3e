"""Manifests: JSON lines, one utterance each, sorted as the corpus gave them.

They are written by `adakd.data.prepare` and read by everything after it. Not a loader: the audio
stays on disk.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from adakd.errors import UserError
from adakd.files import atomic_write


@dataclass(frozen=True)
class Entry:
    """One utterance, ready for training or decoding."""

    id: str  # unique within a recipe; the key of everything
    audio: str  # 16 kHz mono file, relative to the root folder, or absolute: open root / audio
    seconds: float  # length of that file
    text: str  # normalised transcript, never empty
    raw: str  # transcript as the corpus has it
    speaker: str
    language: str
    condition: str = ""  # the recording condition that is also scored by itself


_TYPES: dict[str, type] = {field.name: str for field in fields(Entry)} | {"seconds": float}


def read(path: Path) -> list[Entry]:
    """The entries of a manifest, in file order.

    Errors (UserError, naming file and line): no such file, broken JSON, a key missing, unknown or
    of the wrong type, an id that occurs twice.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").split("\n")
    except FileNotFoundError:
        raise UserError(f"{path}: no such manifest; run stage 1 (prepare) first") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 ({error}); run stage 1 (prepare) again") from None
    entries: list[Entry] = []
    seen: dict[str, int] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        entry = _parse(line, f"{path}:{number}")
        if entry.id in seen:
            raise UserError(
                f"{path}:{number}: id '{entry.id}' already stands in line {seen[entry.id]}; "
                "ids must be unique"
            )
        seen[entry.id] = number
        entries.append(entry)
    return entries


def write(path: Path, entries: Iterable[Entry]) -> None:
    """Write a manifest, atomically: UTF-8, one JSON object a line."""
    with atomic_write(path) as file:
        for entry in entries:
            file.write(json.dumps(asdict(entry), ensure_ascii=False) + "\n")


def _parse(line: str, where: str) -> Entry:
    try:
        values = json.loads(line)
    except json.JSONDecodeError as error:
        raise UserError(f"{where}: broken JSON ({error.msg}, column {error.colno})") from None
    if not isinstance(values, dict):
        raise UserError(f"{where}: expected a JSON object, found {type(values).__name__}")
    values.setdefault("condition", "")
    for name, expected in _TYPES.items():
        if name not in values:
            raise UserError(f"{where}: the key '{name}' is missing")
        if expected is float and type(values[name]) is int:
            values[name] = float(values[name])
        if not isinstance(values[name], expected):
            raise UserError(
                f"{where}: '{name}' should be a {'number' if expected is float else 'string'}, "
                f"found {values[name]!r}"
            )
    unknown = sorted(values.keys() - _TYPES.keys())
    if unknown:
        raise UserError(f"{where}: unknown key '{unknown[0]}'; known are {', '.join(_TYPES)}")
    return Entry(**values)
