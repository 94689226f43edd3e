"""The teacher's transcripts in place of the corpus's: what is kept, what is left out, and why."""

from __future__ import annotations

import csv
from pathlib import Path

import jiwer
import pytest

from adakd.data import manifest, pseudo_labels
from adakd.data.manifest import Entry
from adakd.errors import UserError

SAID = "राम पानी लाया है"  # 16 code points


def entry(name: str, text: str = SAID, language: str = "hi") -> Entry:
    return Entry(name, f"{name}.flac", 1.5, text, f"{text}।" if text else "", "s", language)


def choose(folder: Path, pairs: dict[str, tuple[str, str]], **changes: object) -> dict[str, float]:
    """`pairs`: id -> transcript and hypothesis."""
    language = str(changes.pop("language", "hi"))
    entries = [entry(name, text, language) for name, (text, _) in pairs.items()]
    manifest.write(folder / "in.jsonl", entries)
    options: dict = {"limits": [], "max_cer": 0.1, "normalise": True} | changes
    heard = {name: hypothesis for name, (_, hypothesis) in pairs.items()}
    return pseudo_labels.choose([manifest.read(folder / "in.jsonl")], heard, folder, **options)


def kept(folder: Path) -> dict[str, str]:
    return {entry.id: entry.text for entry in manifest.read(folder / "train.jsonl")}


def left_out(folder: Path) -> dict[str, str]:
    with open(folder / "rejected.tsv", encoding="utf-8", newline="") as file:
        return {row["id"]: row["reason"] for row in csv.DictReader(file, delimiter="\t")}


def test_hypotheses_take_the_place_of_transcripts(tmp_path: Path) -> None:
    near = SAID.replace("पानी", "पाना")
    counts = choose(tmp_path, {"same": (SAID, SAID), "near": (SAID, near), "bare": ("", "सीता")})
    assert kept(tmp_path) == {"same": SAID, "near": near, "bare": "सीता"}
    assert counts == {"kept": 3, "seconds": 4.5, "rejected": 0}
    found = {each.id: each for each in manifest.read(tmp_path / "train.jsonl")}
    assert found["near"].raw == f"{SAID}।" and found["near"].audio == "near.flac"


@pytest.mark.parametrize("errors", range(5))
@pytest.mark.parametrize("max_cer", [0.0, 0.125, 0.2])
def test_the_limit_is_the_cer_of_jiwer(tmp_path: Path, errors: int, max_cer: float) -> None:
    heard = "क" * errors + SAID[errors:]
    cer = jiwer.cer(SAID, heard)
    pairs = {"a": (SAID, heard), "b": (SAID, SAID)}
    choose(tmp_path, pairs, max_cer=max_cer)
    assert ("a" in kept(tmp_path)) == (cer <= max_cer)
    if cer > max_cer:
        assert left_out(tmp_path) == {"a": f"far from the transcript: CER {cer:.1%}"}


def test_what_cannot_be_learnt_from_is_listed(tmp_path: Path) -> None:
    counts = choose(
        tmp_path,
        {
            "good": (SAID, SAID),
            "silent": (SAID, " ।"),
            "long": ("", "अ" * 99),
            "mute": ("", ""),
            "odd": (SAID, SAID + "\ufffd"),
            "tab\n": ("", "\ufffd\t"),
        },
        limits=[lambda e: f"too long: {len(e.text)}" if len(e.text) > 50 else None],
    )
    assert left_out(tmp_path) == {
        "silent": "empty hypothesis", "long": "too long: 99", "mute": "empty hypothesis",
        "odd": f"a character that it has no unit for: {SAID}\ufffd",
        "tab": "a character that it has no unit for: \ufffd",
    }  # fmt: skip
    assert counts["rejected"] == 5 and list(kept(tmp_path)) == ["good"]
    # Nor where marks are kept is a mark alone something to learn, or to count errors against.
    choose(tmp_path, {"good": (SAID, SAID), "mark": ("", "।")}, normalise=False)
    assert left_out(tmp_path) == {"mark": "empty hypothesis"}


def test_hypotheses_are_written_as_transcripts_are(tmp_path: Path) -> None:
    spoken = "राम,  पानी लाया है।"
    choose(tmp_path, {"a": (SAID, spoken)})
    assert kept(tmp_path) == {"a": SAID}
    # Unnormalised targets keep their marks, which count as no error.
    choose(tmp_path, {"a": (SAID, spoken)}, normalise=False, max_cer=0.0)
    assert kept(tmp_path) == {"a": "राम, पानी लाया है।"}


def test_spaces_do_not_count_where_none_are_written(tmp_path: Path) -> None:
    choose(tmp_path, {"a": ("今天天气", "今天 天气")}, language="zh", max_cer=0.0)
    assert kept(tmp_path) == {"a": "今天天气"}


def test_nothing_left_is_one_sentence(tmp_path: Path) -> None:
    choose(tmp_path, {"a": (SAID, SAID)})
    with pytest.raises(
        UserError, match=r"none of the teacher's 1 .*far from the.*max_cer"
    ) as error:
        choose(tmp_path, {"a": (SAID, "क")})
    assert "\n" not in str(error.value)
    assert kept(tmp_path) == {"a": SAID}, "the files of before are left as they were"
