"""Manifests come back as they were written, and broken ones name file and line."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from adakd.data.manifest import Entry, read, write
from adakd.errors import UserError
from adakd.files import atomic_write, fingerprint, write_text

ENTRY = Entry("a-1", "audio/a.flac", 1.25, "नमस्ते", "“नमस्ते\u2028!” $word\n", "asha", "hi")


def test_round_trip(tmp_path: Path) -> None:
    entries = [ENTRY, replace(ENTRY, id="a-2", seconds=3.0)]
    write(tmp_path / "train.jsonl", entries)
    assert read(tmp_path / "train.jsonl") == entries
    assert "नमस्ते" in (tmp_path / "train.jsonl").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"text": None}, "'text' should be a string, found None"),
        ({"seconds": "1"}, "'seconds' should be a number"),
        ({"seconds": True}, "'seconds' should be a number"),
        ({"lenght": 1}, "unknown key 'lenght'"),
        ({"id": "a-1"}, "already stands in line 1"),
    ],
)
def test_bad_values_name_the_line(tmp_path: Path, change: dict, message: str) -> None:
    path = tmp_path / "train.jsonl"
    lines = [json.dumps(asdict(ENTRY)), json.dumps(asdict(ENTRY) | {"id": "a-2"} | change)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    with pytest.raises(UserError, match=message) as raised:
        read(path)
    assert str(raised.value).startswith(f"{path}:2: ")


@pytest.mark.parametrize("line", ['{"id": "a', "[1, 2]", '{"id": "a"}'])
def test_broken_lines(tmp_path: Path, line: str) -> None:
    (tmp_path / "dev.jsonl").write_text("\n" + line + "\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"dev\.jsonl:2: "):
        read(tmp_path / "dev.jsonl")


def test_missing_manifest_names_the_stage(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="run stage 1"):
        read(tmp_path / "train.jsonl")


def test_a_failed_write_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with pytest.raises(RuntimeError), atomic_write(path) as file:
        file.write("half of the new")
        raise RuntimeError
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_fingerprint_follows_names_and_bytes_only(tmp_path: Path) -> None:
    write_text(tmp_path / "x" / "a", "1")
    write_text(tmp_path / "y" / "a", "1")
    write_text(tmp_path / "y" / "b", "1")
    write_text(tmp_path / "z" / "a", "2")
    prints = [fingerprint([tmp_path / name]) for name in ("x/a", "y/a", "y/b", "z/a")]
    assert prints[0] == prints[1] and len(set(prints)) == 3 and len(prints[0]) == 16
