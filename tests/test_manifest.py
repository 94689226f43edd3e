"""Manifests come back as they were written, and broken ones name file and line."""

from __future__ import annotations

import json
import random
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from adakd.data import manifest
from adakd.data.manifest import Entry, read, write
from adakd.errors import UserError
from adakd.files import atomic_write, fingerprint_of_files, write_text

ENTRY = Entry("a-1", "audio/a.flac", 1.25, "नमस्ते", "“नमस्ते\u2028!” $word\n", "asha", "hi")


def test_round_trip(tmp_path: Path) -> None:
    entries = [ENTRY, replace(ENTRY, id="a-2", seconds=3.0)]
    write(tmp_path / "train.jsonl", entries)
    assert list(read(tmp_path / "train.jsonl")) == entries
    assert "नमस्ते" in (tmp_path / "train.jsonl").read_text(encoding="utf-8")


def test_many_entries_equal_the_plain_list_reading(tmp_path: Path) -> None:
    draw = random.Random(3)
    path = tmp_path / "train.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for number in range(20_000):
            text = "".join(draw.choices("नमस्ते abc\u2028你好𫖯", k=draw.randrange(1, 40)))
            entry = replace(ENTRY, id=f"u{number}", seconds=draw.uniform(0.1, 30), text=text)
            values = asdict(replace(entry, condition=draw.choice(["", "mic"])))
            file.write(json.dumps(values, ensure_ascii=draw.random() < 0.5))
            file.write(draw.choice(["\n", "\r\n", "\n\n", " \n"]))
    # split, not splitlines: U+2028 ends no line of JSON
    lines = path.read_text(encoding="utf-8").split("\n")
    plain = [Entry(**json.loads(line)) for line in lines if line.strip()]
    entries = read(path)
    assert len(entries) == len(plain) == 20_000 and list(entries) == plain
    assert entries.seconds.tolist() == [entry.seconds for entry in plain]
    assert entries[-3] == plain[-3]
    for part in (slice(1, None, 2), slice(19_990, None), slice(5, 2)):
        assert list(entries[part]) == plain[part]
        assert entries[part].seconds.tolist() == [entry.seconds for entry in plain[part]]
    with pytest.raises(IndexError):
        entries[20_000]


def test_an_opened_manifest_outlives_its_replacement(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", [ENTRY])
    opened = read(tmp_path / "train.jsonl")
    write(tmp_path / "train.jsonl", [replace(ENTRY, id="new", seconds=9.0)])
    for same in (opened, opened[:1], opened.pick([0])):
        assert list(same) == [ENTRY]


def test_an_empty_manifest_has_no_entries(tmp_path: Path) -> None:
    write(tmp_path / "dev.jsonl", [])
    assert len(read(tmp_path / "dev.jsonl")) == 0 and list(read(tmp_path / "dev.jsonl")) == []


def test_any_entries_can_be_picked(tmp_path: Path) -> None:
    entries = [replace(ENTRY, id=f"a-{n}", seconds=float(n + 1)) for n in range(5)]
    write(tmp_path / "train.jsonl", entries)
    whole = read(tmp_path / "train.jsonl")
    picked = whole.pick([3, 0, 4])
    assert list(picked) == [entries[3], entries[0], entries[4]]
    assert picked.seconds.tolist() == [4.0, 1.0, 5.0]
    assert list(picked[1:]) == [entries[0], entries[4]] and list(whole.pick([])) == []
    assert list(whole) == entries


def test_a_condition_is_written_only_where_there_is_one(tmp_path: Path) -> None:
    entries = [ENTRY, replace(ENTRY, id="a-2", condition="android")]
    write(tmp_path / "test.jsonl", entries)
    lines = (tmp_path / "test.jsonl").read_text(encoding="utf-8").split("\n")
    assert "condition" not in lines[0] and json.loads(lines[1])["condition"] == "android"
    assert list(read(tmp_path / "test.jsonl")) == entries


def test_equal_hashes_are_not_equal_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    # As if every id but two had the same hash.
    monkeypatch.setattr(manifest, "hash", lambda name: len(name), raising=False)
    for names, found in (
        (["a", "b", "cc", "d"], None),
        (["a", "b", "cc", "b", "a"], (1, 3, "b")),
        ([], None),
    ):
        ids = manifest.Twice()
        for name in names:
            ids.add(name)
        assert ids.first(names) == found


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"text": None}, "'text' should be a string, found None"),
        ({"seconds": "1"}, "'seconds' should be a number"),
        ({"seconds": True}, "'seconds' should be a number"),
        ({"condition": 1}, "'condition' should be a string"),
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


def test_bytes_that_are_no_text_name_the_line(tmp_path: Path) -> None:
    (tmp_path / "dev.jsonl").write_bytes(b"\n\xff{}\n")
    with pytest.raises(UserError, match=r"dev\.jsonl:2: not UTF-8 .*run stage 1"):
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
    prints = [fingerprint_of_files([tmp_path / name]) for name in ("x/a", "y/a", "y/b", "z/a")]
    assert prints[0] == prints[1] and len(set(prints)) == 3 and len(prints[0]) == 16


def test_a_share_can_be_held_out(tmp_path: Path) -> None:
    entries = [Entry(f"u{i}", "a", 1.0 + i, "x", "x", "s", "en") for i in range(40)]
    manifest.write(tmp_path / "m.jsonl", entries)
    whole = manifest.read(tmp_path / "m.jsonl")
    drawn, rest = whole.split(0.1, seed=1)
    assert (len(drawn), len(rest)) == (4, 36)
    assert sorted([*drawn, *rest], key=lambda entry: entry.seconds) == entries
    assert [entry.seconds for entry in rest] == rest.seconds.tolist() == sorted(rest.seconds)
    assert list(whole.split(0.1, seed=1)[0]) == list(drawn) != list(whole.split(0.1, seed=2)[0])
    assert len(whole.split(1e-9, seed=1)[0]) == 1
