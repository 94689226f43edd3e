"""adakd.corpora.aishell2 on a made-up corpus with the real one's layout and quirks."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import tiny_corpora
from tiny_corpora import append

from adakd.corpora import Rejected, Utterance, aishell2
from adakd.data.text import normalise
from adakd.errors import UserError


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    return tiny_corpora.aishell2(tmp_path / "disk")


def read(corpus: Path, **options) -> tuple[dict[str, Utterance], list[Rejected]]:
    settings = aishell2.Options(corpus=str(corpus), **options)
    folder = corpus.parents[1] / "corpus"
    aishell2.fetch(settings, folder, "zh")
    rows = list(aishell2.utterances(settings, folder, None))
    used = [row for row in rows if isinstance(row, Utterance)]
    assert len({row.id for row in used}) == len(used)
    return {row.id: row for row in used}, [row for row in rows if isinstance(row, Rejected)]


def test_training_is_ios_and_the_rest_stands_by_condition(corpus: Path) -> None:
    found, rejected = read(corpus)
    assert rejected == []
    assert Counter((row.split, row.condition) for row in found.values()) == {
        ("train", ""): 2 * len(tiny_corpora.READ),
        **{("dev", condition): 3 for condition in aishell2.CONDITIONS},
        **{("test", condition): 10 for condition in aishell2.CONDITIONS},
    }
    assert all(row.audio.is_file() for row in found.values())
    sets = corpus.parent / "AISHELL-DEV-TEST-SET"
    assert found["Mic-MT0002W0003"] == Utterance(
        id="Mic-MT0002W0003",
        split="test",
        audio=sets / "Mic" / "test" / "wav" / "T0002" / "MT0002W0003.wav",
        text="今天天气",
        speaker="T0002",
        language="",
        condition="Mic",
    )
    speakers = {c: {r.speaker for r in found.values() if r.condition == c} for c in ("iOS", "Mic")}
    assert speakers["iOS"] == speakers["Mic"], "the same people on another device"


def test_text_stays_raw_and_is_normalised_as_one_would_write_it(corpus: Path) -> None:
    found, _ = read(corpus)
    text = {n: found[f"IC0001W{n:04}"] for n in range(1, len(tiny_corpora.READ) + 1)}
    assert [row.text for row in text.values()] == list(tiny_corpora.READ)  # and no \r
    expected = {
        2: "电影节评委画家赵孟頫的后人",
        3: "去atm取钱",
        4: "搬不走的要及时关停并转",
        5: "帮我放一首歌let's go",
        6: "明年二月底小成",
        7: "打开wi fi",
    }
    learnt = {n: normalise(row.text, "zh") for n, row in text.items()}
    assert {n: learnt[n] for n in expected} == expected


def test_what_does_not_fit_is_listed(corpus: Path) -> None:
    data, mic = corpus / "iOS" / "data", corpus.parent / "AISHELL-DEV-TEST-SET" / "Mic" / "test"
    append(data / "wav.scp", "IC0803W0380\twav/C0803/IC0803W0380.wav", "IC9\twav/C9/IC9.wav", "IC8")
    append(data / "trans.txt", "IC0803W0380\t你好", "IC7\t只有文字", "IC8\t没有路径")
    append(data / "trans.txt", "IC0001W0001\t厨房用具")
    append(mic / "wav.scp", "MT9\twav/T9/MT9.wav")
    found, rejected = read(corpus)
    assert len(found) == 24 + 9 + 30
    last = 2 * len(tiny_corpora.READ)
    assert {(row.id, row.split, row.reason, row.where) for row in rejected} == {
        (
            *("IC0803W0380", "train", "bad recording (left out by ESPnet's recipe)"),
            f"{data / 'trans.txt'}:{last + 1}",
        ),
        ("IC7", "train", "not in wav.scp", f"{data / 'trans.txt'}:{last + 2}"),
        ("IC8", "train", "no path in wav.scp", f"{data / 'wav.scp'}:{last + 3}"),
        ("IC0001W0001", "train", "id twice in trans.txt", f"{data / 'trans.txt'}:{last + 4}"),
        ("IC9", "train", "not in trans.txt", f"{data / 'wav.scp'}:{last + 2}"),
        ("MT9", "test", "not in trans.txt", f"{mic / 'wav.scp'}:11"),
    }


def test_where_the_sets_may_stand(corpus: Path) -> None:
    usual, _ = read(corpus)
    assert read(corpus.parent)[0] == usual  # the folder that holds both
    sets = corpus.parent / "AISHELL-DEV-TEST-SET"
    inside = corpus / "AISHELL-DEV-TEST-SET"
    sets.rename(inside)
    assert read(corpus)[0].keys() == usual.keys()
    elsewhere = corpus.parent / "elsewhere"
    inside.rename(elsewhere)
    with pytest.raises(UserError, match=r"no iOS/dev in .* --corpus\.evaluation"):
        read(corpus)
    assert read(corpus, evaluation=str(elsewhere))[0].keys() == usual.keys()
    for split in ("dev", "test"):  # iOS/dev beside iOS/data, and no other condition
        (elsewhere / "iOS" / split).rename(corpus / "iOS" / split)
    found, _ = read(corpus, conditions=["iOS"])
    assert Counter(row.split for row in found.values()) == {"train": 24, "dev": 3, "test": 10}


def test_tables_that_changed_since_stage_0_are_refused(corpus: Path) -> None:
    read(corpus)
    append(corpus.parent / "AISHELL-DEV-TEST-SET" / "Mic" / "test" / "trans.txt", "MT9\t新的")
    options = aishell2.Options(corpus=str(corpus))
    with pytest.raises(UserError, match=r"Mic/test/trans\.txt has changed since stage 0; run"):
        next(aishell2.utterances(options, corpus.parents[1] / "corpus", None))
    assert len(read(corpus)[1]) == 1, "stage 0 again, and it is seen"


def test_bad_input_is_a_sentence(corpus: Path, tmp_path: Path) -> None:
    folder = tmp_path / "corpus"
    with pytest.raises(UserError, match="Mandarin"):
        aishell2.fetch(aishell2.Options(corpus=str(corpus)), folder, "hi")
    with pytest.raises(UserError, match="give --corpus"):
        aishell2.fetch(aishell2.Options(), folder, "zh")
    with pytest.raises(UserError, match="neither iOS/data nor"):
        aishell2.fetch(aishell2.Options(corpus=str(tmp_path)), folder, "zh")
    for wrong in (["iPhone"], []):
        with pytest.raises(UserError, match="choose some of iOS, Android, Mic"):
            aishell2.Options(conditions=wrong)
    sets = corpus.parent / "AISHELL-DEV-TEST-SET" / "Android"
    (sets / "test" / "trans.txt").unlink()
    with pytest.raises(UserError, match=r"Android/test/trans\.txt is missing"):
        read(corpus)
    (sets / "test").rename(sets / "old")
    (sets / "test.tar.gz").touch()
    with pytest.raises(UserError, match=r"Android/test\.tar\.gz is packed; unpack it"):
        read(corpus)
    read(corpus, conditions=["iOS", "Mic"])
    with pytest.raises(UserError, match=r"made with corpus\.conditions .*; run stage 0 again"):
        next(aishell2.utterances(aishell2.Options(), folder, None))
