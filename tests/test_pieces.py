"""Passes in pieces: all is done once, and as in an uncut run, wherever it was cut."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from adakd import files, finished
from adakd.data import manifest
from adakd.data.manifest import Entry, Manifest
from adakd.errors import UserError
from adakd.stages import pieces

COUNT = 23
INPUTS = {"teacher": "a", "audio": {"encode": "full"}}


class Cut(Exception):
    pass


@dataclass
class Pass:
    """A pass by several processes, here threads, which meet at their barriers."""

    folder: Path
    entries: Manifest
    patch: pytest.MonkeyPatch
    done: list[tuple[int, str, list[str]]] = field(default_factory=list)  # rank, title, ids
    said: list[str] = field(default_factory=list)

    def run(self, world: int, cut: Mapping[int, int] | None = None, **beside: Any) -> list[str]:
        """Go through with it, or till each process of ``cut`` has done so many pieces.

        Returns what was said.
        """
        own, barrier = threading.local(), threading.Barrier(world)
        self.patch.setattr(pieces, "rank", lambda: own.rank)
        self.patch.setattr(pieces, "world", lambda: world)
        self.patch.setattr(pieces, "wait_for_all", lambda: barrier.wait(timeout=30))
        self.patch.setattr(pieces, "say", lambda line: self.said.extend([line][own.rank :]))
        self.done.clear()
        self.said.clear()
        failed: list[BaseException] = []

        def work(piece: Manifest, title: str) -> Iterator[dict[str, Any]]:
            ids = [entry.id for entry in piece]
            if sum(rank == own.rank for rank, *_ in self.done) == (cut or {}).get(own.rank):
                raise Cut
            self.done.append((own.rank, title, ids))
            return ({"id": one, "beside": ids} for one in ids)

        def process(rank: int) -> None:
            own.rank = rank
            try:
                pieces.begin(self.folder, "a pass", INPUTS, **beside)
                pieces.in_pieces(self.folder, "train", self.entries, "a pass", work)
            except BaseException as error:
                failed.append(error)

        threads = [threading.Thread(target=process, args=(rank,)) for rank in range(world)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [type(error) for error in failed] == [Cut] * len(cut or {})
        return self.said

    def worked_on(self) -> Counter[str]:
        return Counter(one for *_, ids in self.done for one in ids)

    def rows(self) -> dict[str, Any]:
        rows = list(pieces.read(self.folder, "train"))
        assert len({row["id"] for row in rows}) == len(rows)
        return {row["id"]: row for row in rows}


def entries(folder: Path, count: int = COUNT) -> Manifest:
    path = folder / f"{count}.jsonl"
    manifest.write(path, (Entry(f"u{n}", "a.flac", 1.0, "a", "a", "s", "en") for n in range(count)))
    return manifest.read(path)


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pass:
    monkeypatch.setattr(pieces, "PIECE", 2)
    return Pass(tmp_path / "pass", entries(tmp_path), monkeypatch)


@pytest.mark.parametrize(
    ("world", "cut"),
    [
        (1, {0: 0}),
        (1, {0: 1}),
        (1, {0: 11}),
        (2, {0: 4, 1: 1}),
        (3, {0: 0, 1: 3, 2: 1}),
        (3, {1: 1}),
    ],
)
def test_what_was_cut_ends_as_if_it_had_not_been(
    work: Pass, tmp_path: Path, world: int, cut: dict[int, int]
) -> None:
    whole = Pass(tmp_path / "whole", work.entries, work.patch)
    assert whole.run(world) == []
    assert whole.worked_on() == Counter(entry.id for entry in work.entries)
    work.run(world, cut)
    there = work.worked_on()
    assert work.rows().keys() == there.keys() != whole.rows().keys()
    said = work.run(world)
    assert said == ([f"a pass: goes on, {len(there)} of 23 utterances are there"] if there else [])
    assert there + work.worked_on() == whole.worked_on(), "all once"
    # Also what each was done together with, by which sums are rounded.
    assert work.rows() == whole.rows()
    work.run(world)
    assert work.done == []


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2), (2, 4), (3, 2)])
def test_another_number_of_processes_divides_what_is_left(
    work: Pass, before: int, after: int
) -> None:
    work.run(before, {0: 1, **({1: 3} if before > 1 else {}), **({2: 0} if before > 2 else {})})
    there, rows = work.worked_on(), work.rows()
    work.run(after)
    assert there + work.worked_on() == Counter(entry.id for entry in work.entries)
    assert work.rows().keys() == there.keys() | work.worked_on().keys()
    assert rows.items() <= work.rows().items(), "nothing is written over"
    counts = Counter(rank for rank, *_ in work.done)
    assert len(counts) == after and max(counts.values()) - min(counts.values()) <= 1


def test_a_title_tells_the_piece_where_there_are_several(work: Pass, tmp_path: Path) -> None:
    work.run(1, {0: 2})
    assert [title for _, title, _ in work.done] == [
        "a pass, piece 1 of 12",
        "a pass, piece 2 of 12",
    ]
    work.run(1)
    assert work.done[0][1] == "a pass, piece 3 of 12"
    two = Pass(tmp_path / "two", work.entries, work.patch)
    two.run(2)
    assert {title for _, title, _ in two.done} == {f"a pass, piece {n} of 6" for n in range(1, 7)}
    work.patch.setattr(pieces, "PIECE", COUNT)
    one = Pass(tmp_path / "one", work.entries, work.patch)
    one.run(1)
    assert [title for _, title, _ in one.done] == ["a pass"]


def test_what_was_made_from_something_else_is_removed(work: Pass) -> None:
    before: dict[str, Any] = {"guard": "rule", "halves": ["a", "b"]}
    work.run(1, {0: 3}, **before)
    assert len(work.rows()) == 6
    assert finished.begun(work.folder) == {"inputs": INPUTS, "beside": before}
    (work.folder / ".0123456789abcdef.tmp").write_text("half a piece")
    said = work.run(1, {0: 0}, **before)
    assert said == ["a pass: goes on, 6 of 23 utterances are there"]
    assert not list(work.folder.glob(".*.tmp"))
    said = work.run(1, {0: 0}, guard=False, halves=["a", "c"])
    assert said == ["a pass: cut, and guard and halves changed, begun anew"]
    assert work.rows() == {}
    work.patch.setitem(INPUTS, "audio", {"encode": "speech"})
    said = work.run(1, guard=False, halves=["a", "c"])
    assert said == ["a pass: cut, and audio.encode changed, begun anew"]
    # Nor does what is finished go on: a step is made anew for what was lost, or is not as asked.
    finished.mark_done(work.folder, INPUTS)
    assert finished.begun(work.folder) is None
    assert work.run(1, {0: 0}, guard=False, halves=["a", "c"]) == []
    assert work.rows() == {} and not finished.done(work.folder)
    # All wait until it is removed.
    work.run(1, {0: 3}, guard=False, halves=["a", "c"])

    def slowly(folder: Path) -> None:
        time.sleep(0.2)
        files.empty(folder)

    work.patch.setattr(pieces, "empty", slowly)
    work.run(2, guard=True)
    assert work.rows().keys() == work.worked_on().keys() == {one.id for one in work.entries}


def test_a_set_without_utterances_leaves_a_file(work: Pass, tmp_path: Path) -> None:
    work.entries = entries(tmp_path, 0)
    work.run(2)
    assert work.done == [] and (work.folder / "train.0.jsonl").read_text() == ""


def test_a_damaged_piece_is_told(work: Pass) -> None:
    work.run(1, {0: 1})
    (work.folder / "train.0.jsonl").write_text('{"id": "u0"}\n')
    with pytest.raises(UserError, match="train.0.jsonl is damaged: delete its folder"):
        list(pieces.read(work.folder, "train", needs=("id", "beside")))
