"""Wrong transcripts: as many as asked for, of the kind asked for, listed, and always usable."""

from __future__ import annotations

import csv
import random
from collections import Counter
from pathlib import Path

import pytest

from adakd.config import LabelNoise
from adakd.data import label_noise, manifest
from adakd.data.manifest import Entry, Limit

WORDS = "पानी दूध चाय फल रोटी खाना लाया माँगता देता चाहता रखता".split()


def make(folder: Path, count: int = 200, language: str = "hi", least: int = 3) -> list[Entry]:
    """A manifest whose utterances have `least` words or up to three more; longer clips for more."""
    draw = random.Random(7)
    made = []
    for number in range(count):
        words = [draw.choice(WORDS) for _ in range(draw.randint(least, least + 3))]
        text = ("" if language == "zh" else " ").join(words)
        made.append(
            Entry(f"u{number}", f"{number}.flac", len(words) / 2, text, f"{text}।", "s", language)
        )
    manifest.write(folder / "train.jsonl", made)
    return made


def corrupt(folder: Path, limits: tuple[Limit, ...] = (), **noise: float) -> dict[str, int]:
    return label_noise.corrupt(folder, LabelNoise(**noise), limits)  # type: ignore[arg-type]


def read(folder: Path) -> list[Entry]:
    return list(manifest.read(folder / "train.jsonl"))


def listed(folder: Path) -> dict[str, dict[str, str]]:
    with open(folder / "label_noise.tsv", encoding="utf-8", newline="") as file:
        return {row["id"]: row for row in csv.DictReader(file, delimiter="\t")}


def edits(one: str, other: str) -> int:
    """Edit distance in which swapping neighbours is one edit: the plain recursion, by tables."""
    rows = [[i + j for j in range(len(other) + 1)] for i in range(len(one) + 1)]
    for i in range(1, len(one) + 1):
        for j in range(1, len(other) + 1):
            replaced = rows[i - 1][j - 1] + (one[i - 1] != other[j - 1])
            rows[i][j] = min(rows[i - 1][j] + 1, rows[i][j - 1] + 1, replaced)
            if i > 1 and j > 1 and one[i - 1] == other[j - 2] and one[i - 2] == other[j - 1]:
                rows[i][j] = min(rows[i][j], rows[i - 2][j - 2] + 1)
    return rows[-1][-1]


@pytest.mark.parametrize("share", [0.0, 0.1, 0.2, 1.0])
def test_a_share_is_shuffled_and_the_rest_is_as_it_was(tmp_path: Path, share: float) -> None:
    before = make(tmp_path)
    counts = corrupt(tmp_path, shuffled=share)
    after, listing = read(tmp_path), listed(tmp_path)
    assert sum(counts.values()) == len(listing) == round(share * len(before))
    for old, new in zip(before, after, strict=True):
        if old.id in listing:
            row = listing[old.id]
            assert (row["noise"], row["right"], row["wrong"]) == ("shuffled", old.text, new.text)
            assert new.text != old.text
        else:
            assert new == old
        assert (new.raw, new.audio, new.seconds) == (old.raw, old.audio, old.seconds)
    # Dealt out among the same utterances: the transcripts are the same ones, but for the few that
    # were left over where only an equal text remained.
    ours, theirs = (Counter(e.text for e in es if e.id in listing) for es in (after, before))
    assert (ours - theirs).total() <= 2


def test_the_seed_decides(tmp_path: Path) -> None:
    texts = []
    for name, seed in (("one", 1), ("same", 1), ("other", 2)):
        make(tmp_path / name)
        corrupt(tmp_path / name, shuffled=0.2, missing=0.1, misspelt=0.1, seed=seed)
        texts.append([entry.text for entry in read(tmp_path / name)])
    assert texts[0] == texts[1] != texts[2]


def test_a_shuffled_transcript_fits_its_clip(tmp_path: Path) -> None:
    def unfit(entry: Entry) -> str | None:
        return "too long" if len(entry.text.split()) > 2 * entry.seconds else None

    before = make(tmp_path)
    corrupt(tmp_path, (unfit,), shuffled=0.5)
    after = read(tmp_path)
    assert all(unfit(entry) is None for entry in after)
    changed = sum(a.text != b.text for a, b in zip(before, after, strict=True))
    assert changed == 100


def test_where_no_other_transcript_fits_the_right_one_stays(tmp_path: Path) -> None:
    entries = [
        Entry("short", "a", 0.5, "चाय", "", "", "hi"),
        Entry("long", "b", 2.0, "दूध लाया है", "", "", "hi"),
        Entry("same", "c", 2.0, "चाय", "", "", "hi"),
    ]
    manifest.write(tmp_path / "train.jsonl", entries)
    counts = corrupt(
        tmp_path, (lambda e: "no" if len(e.text) > 8 * e.seconds else None,), shuffled=1.0
    )
    assert [entry.text for entry in read(tmp_path)] == ["चाय", "चाय", "दूध लाया है"]
    assert counts == {"shuffled": 2} and listed(tmp_path).keys() == {"long", "same"}


def test_languages_are_not_mixed(tmp_path: Path) -> None:
    entries = [
        Entry(f"{code}{i}", "a", 1.0, f"{code} {i}", "", "", code)
        for code in ("hi", "mr")
        for i in range(9)
    ]
    manifest.write(tmp_path / "train.jsonl", entries)
    assert corrupt(tmp_path, shuffled=1.0) == {"shuffled": 18}
    assert all(entry.text.startswith(entry.language) for entry in read(tmp_path))


def test_missing_words_leave_the_others_in_order(tmp_path: Path) -> None:
    before = make(tmp_path)
    corrupt(tmp_path, missing=0.1)
    listing, lost, total = listed(tmp_path), 0, 0
    for old, new in zip(before, read(tmp_path), strict=True):
        rest = iter(old.text.split())
        assert all(word in rest for word in new.text.split()), "a subsequence of the right one"
        missing = len(old.text.split()) - len(new.text.split())
        assert (missing > 0) == (old.id in listing)
        lost, total = lost + missing, total + len(old.text.split())
    assert lost / total == pytest.approx(0.1, abs=0.03)
    assert {row["noise"] for row in listing.values()} == {"missing"}


def test_a_misspelt_word_is_one_stroke_away(tmp_path: Path) -> None:
    before = make(tmp_path)
    corrupt(tmp_path, misspelt=0.1)
    wrong = total = 0
    known = set("".join(WORDS))
    for old, new in zip(before, read(tmp_path), strict=True):
        assert set(new.text) <= known | {" "}, "the units know every letter"
        for one, other in zip(old.text.split(), new.text.split(), strict=True):
            assert edits(one, other) == (one != other)
            wrong, total = wrong + (one != other), total + 1
    assert wrong / total == pytest.approx(0.1, abs=0.03)


def test_without_spaces_every_character_is_a_word(tmp_path: Path) -> None:
    before = make(tmp_path, language="zh")
    corrupt(tmp_path, misspelt=0.2)
    changed = 0
    for old, new in zip(before, read(tmp_path), strict=True):
        assert len(new.text) == len(old.text)
        changed += sum(a != b for a, b in zip(old.text, new.text, strict=True))
    assert changed / sum(len(entry.text) for entry in before) == pytest.approx(0.2, abs=0.03)


def test_a_transcript_is_never_empty(tmp_path: Path) -> None:
    before = make(tmp_path, least=1)
    assert corrupt(tmp_path, missing=1.0) == {}
    assert read(tmp_path) == before


def test_kinds_together_are_told_apart(tmp_path: Path) -> None:
    make(tmp_path)
    counts = corrupt(tmp_path, shuffled=0.1, missing=0.3, misspelt=0.3)
    assert counts.keys() == {"shuffled", "missing", "misspelt", "missing, misspelt"}
    assert counts["shuffled"] == 20
    assert counts == Counter(row["noise"] for row in listed(tmp_path).values())


def test_what_a_guard_finds_is_counted_by_kind(tmp_path: Path) -> None:
    entries = make(tmp_path)
    assert label_noise.taken_for_wrong(tmp_path, {entry.id: 1.0 for entry in entries}) == ""
    corrupt(tmp_path, shuffled=0.2, missing=0.3)
    listing = listed(tmp_path)
    shuffled = [utterance for utterance, row in listing.items() if row["noise"] == "shuffled"]
    right = [entry.id for entry in entries if entry.id not in listing]
    doubts = {entry.id: 0.5 for entry in entries}  # a half is no more than a half
    doubts |= dict.fromkeys(shuffled[:30], 0.51) | {right[0]: 1.0}
    assert label_noise.taken_for_wrong(tmp_path, doubts) == (
        f"0 of {len(listing) - 40} missing; 1 of {len(right)} right; 30 of 40 shuffled"
    )
