"""adakd.corpora.audio_cmn: on made-up words, and on the real names where they are there."""

from __future__ import annotations

import json
import os
import tarfile
from collections import Counter
from pathlib import Path

import pytest
import tiny_corpora
from tiny_corpora import commit, files

from adakd.corpora import Rejected, Utterance, audio_cmn
from adakd.errors import UserError

FEW = {"dev_words": 3, "test_words": 5}


def read(folder: Path, **options) -> tuple[list[Utterance], list[Rejected]]:
    settings = audio_cmn.Options(**FEW | options)
    audio_cmn.fetch(settings, folder, "zh")
    rows = list(audio_cmn.utterances(settings, folder, None))
    used = [row for row in rows if isinstance(row, Utterance)]
    return used, [row for row in rows if isinstance(row, Rejected)]


def check_split(splits: dict[str, str]) -> None:
    """No tested word is learnt, but each of its characters, from three words at least."""
    learnt = [word for word, split in splits.items() if split == "train"]
    for word, split in splits.items():
        if split != "train":
            assert word not in learnt
            for character in word:
                assert sum(character in other for other in learnt) >= 3, (word, character)


def test_file_names_are_the_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tiny_corpora.audio_cmn(tmp_path / "data")
    found, rejected = read(tmp_path / "corpus", corpus=str(data))
    assert "found 38 recordings, not the 8596 published ones" in capsys.readouterr().err
    assert Counter(row.text for row in found) == dict.fromkeys(tiny_corpora.words(), 1)
    assert Counter(row.split for row in found) == {"train": 28, "dev": 3, "test": 5}
    assert {row.speaker for row in found} == {"yue-tan"}
    for row in found:
        assert row.audio == data / "24k-abr" / "hsk" / f"cmn-{row.text}.mp3" and row.audio.is_file()
        assert row.id == f"cmn-{row.text}"
    check_split({row.text: row.split for row in found})
    assert [(row.id, row.split) for row in rejected] == [
        ("cmn-从_到_", "train"),
        ("cmn-越_越_", "train"),
    ]
    assert all("not a plain word" in row.reason and row.id in row.where for row in rejected)


def test_folder_archive_and_clone_give_the_same(tmp_path: Path) -> None:
    data = tiny_corpora.audio_cmn(tmp_path / "data")
    tiny_corpora.clip(data / "64k" / "hsk" / "cmn-多余.mp3", 1)
    with tarfile.open(tmp_path / "cmn.tar", "w") as tar:
        tar.add(data, "audio-cmn-master")
    expected, _ = read(tmp_path / "a", corpus=str(data))
    for name, options in {
        "b": {"corpus": str(data / "24k-abr" / "hsk")},
        "c": {"corpus": str(tmp_path / "cmn.tar")},
        "d": {"url": commit(data)},
    }.items():
        found, rejected = read(tmp_path / name, **options)
        assert len(rejected) == 2
        assert [(r.id, r.split, r.audio.read_bytes()) for r in found] == [
            (r.id, r.split, r.audio.read_bytes()) for r in expected
        ]
    assert not list(tmp_path.glob("[cd]/**/cmn-多余.mp3")), "only what is needed is fetched"
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "c").rglob("*")}
    read(tmp_path / "c", corpus=str(tmp_path / "cmn.tar"))
    read(tmp_path / "c")  # what was given before will do
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "c").rglob("*")} == before


def pack(data: Path, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        tar.add(data / "24k-abr", "audio-cmn/24k-abr")
    return path


def test_what_is_there_stays_until_the_new_is_whole(tmp_path: Path) -> None:
    data = tiny_corpora.audio_cmn(tmp_path / "data")
    archive, folder = pack(data, tmp_path / "cmn.tar"), tmp_path / "corpus"
    read(folder, corpus=str(archive))
    before = files(folder)
    (tmp_path / "cut.tar").write_bytes(archive.read_bytes()[:30_000])
    with tarfile.open(tmp_path / "none.tar", "w") as tar:
        tar.add(data / "24k-abr/hsk/cmn-天气.mp3", "24k-abr/hsk/天气.mp3")
    for wrong, words in {
        "typo": "does not exist",
        "cut.tar": "damaged",
        "none.tar": "none.tar: no recordings",
    }.items():
        with pytest.raises(UserError, match=words):
            read(folder, corpus=str(tmp_path / wrong))
        assert files(folder) == before, wrong
    found, _ = read(folder, corpus=str(archive), seed=2)
    assert len(found) == 36 and all(row.audio.is_file() for row in found)


def test_a_corpus_where_stage_0_writes_is_never_removed(tmp_path: Path) -> None:
    data, folder = tiny_corpora.audio_cmn(tmp_path / "data"), tmp_path / "corpus"
    inside = pack(data, folder / "unpacked" / "cmn.tar")
    with pytest.raises(UserError, match="cmn.tar' lies where stage 0 writes .*unpacked.: move it"):
        read(folder, corpus=str(inside))
    assert inside.is_file()
    inside.rename(tmp_path / "cmn.tar")
    (data / "24k-abr").rename(folder / "unpacked" / "24k-abr")  # a folder is read where it lies
    before = files(folder / "unpacked")
    found, _ = read(folder, corpus=str(folder / "unpacked"))
    assert len(found) == 36 and files(folder / "unpacked") == before
    with pytest.raises(UserError, match="unpacked' lies where stage 0 writes"):
        read(folder, corpus=str(tmp_path / "cmn.tar"))
    assert files(folder / "unpacked") == before


def test_recordings_that_are_added_change_the_marker(tmp_path: Path) -> None:
    data, folder = tiny_corpora.audio_cmn(tmp_path / "data"), tmp_path / "corpus"
    read(folder, corpus=str(data))
    facts = json.loads((folder / "fetched.json").read_text())
    old = {name: each for name, each in facts.items() if name != "sha256"}
    (folder / "fetched.json").write_text(json.dumps(old))
    read(folder, corpus=str(data))
    assert json.loads((folder / "fetched.json").read_text()) == old, "it holds without checksums"
    (folder / "fetched.json").write_text(json.dumps(facts))
    tiny_corpora.clip(data / "24k-abr/hsk/cmn-天天.mp3", 1)
    read(folder, corpus=str(data))
    assert list(json.loads((folder / "fetched.json").read_text())["sha256"]) == ["39 recordings"]


def test_a_newer_archive_and_another_url_are_noticed(tmp_path: Path) -> None:
    data, folder = tiny_corpora.audio_cmn(tmp_path / "data"), tmp_path / "corpus"
    archive = pack(data, tmp_path / "cmn.tar")
    assert len(read(folder, corpus=str(archive))[0]) == 36
    tiny_corpora.clip(data / "24k-abr/hsk/cmn-天天.mp3", 1)
    pack(data, archive)
    assert len(read(folder)[0]) == 37
    with pytest.raises(UserError, match="cannot clone file:.*nowhere"):
        read(folder, url=(tmp_path / "nowhere").as_uri())
    assert len(read(folder)[0]) == 37


def test_a_name_that_is_not_utf_8_is_rejected(tmp_path: Path) -> None:
    data = tiny_corpora.audio_cmn(tmp_path / "data", gaps=())
    odd = os.fsdecode("cmn-jos\u00e9.mp3".encode("latin-1"))
    tiny_corpora.clip(data / "24k-abr/hsk/cmn-a.mp3", 1)
    (data / "24k-abr/hsk/cmn-a.mp3").rename(data / "24k-abr/hsk" / odd)
    _, (rejected,) = read(tmp_path / "corpus", corpus=str(data))
    assert rejected.id == "cmn-jos\\udce9" and rejected.where.endswith("cmn-jos\\udce9.mp3")


def test_the_split_follows_words_and_seed_alone() -> None:
    words = sorted(tiny_corpora.words())
    first = audio_cmn.split(words, audio_cmn.Options(**FEW))
    assert audio_cmn.split(words, audio_cmn.Options(**FEW)) == first
    second = audio_cmn.split(words, audio_cmn.Options(**FEW, seed=2))
    assert second != first and sorted(second.values()) == sorted(first.values())
    check_split(first)
    check_split(second)


def test_bad_input_is_a_sentence(tmp_path: Path) -> None:
    data = tiny_corpora.audio_cmn(tmp_path / "data")
    folder = tmp_path / "corpus"
    with pytest.raises(UserError, match="Mandarin"):
        audio_cmn.fetch(audio_cmn.Options(), folder, "hi")
    with pytest.raises(UserError, match="run stage 0"):
        next(audio_cmn.utterances(audio_cmn.Options(), folder, None))
    with pytest.raises(UserError, match="no recordings named like cmn-你好.mp3"):
        (tmp_path / "empty").mkdir()
        read(folder, corpus=str(tmp_path / "empty"))
    with tarfile.open(tmp_path / "other.tar", "w") as tar:
        tar.add(__file__, "other.py")
    with pytest.raises(UserError, match="nothing of audio-cmn is in this archive"):
        read(folder, corpus=str(tmp_path / "other.tar"))
    with pytest.raises(UserError, match="must be at least 1"):
        audio_cmn.Options(dev_words=0)
    with pytest.raises(UserError, match="36 words yield only .* for test .*test_words is 30"):
        read(folder, corpus=str(data), test_words=30)
    with pytest.raises(UserError, match="made with corpus.test_words 30, but now it is 1000"):
        next(audio_cmn.utterances(audio_cmn.Options(dev_words=3), folder, None))


def test_the_published_data_set(shared_data: Path | None) -> None:
    """Names in the real archive; without it, as many made-up words."""
    archive = shared_data / "audio_cmn.tar" if shared_data else None
    if archive is not None and archive.is_file():
        with tarfile.open(archive) as tar:
            names = [Path(name).name for name in tar.getnames() if name.endswith(".mp3")]
        plain = [match[1] for name in names if (match := audio_cmn._RECORDING.fullmatch(name))]
        assert len(names) == audio_cmn.PUBLISHED and len(names) - len(plain) == 27
    else:
        characters = [chr(code) for code in range(0x4E00, 0x4E00 + 100)]
        plain = [a + b for a in characters for b in characters][:8569]
    splits = audio_cmn.split(sorted(plain), audio_cmn.Options())
    assert Counter(splits.values()) == {"train": 7069, "dev": 500, "test": 1000}
    learnt = Counter(c for w, s in splits.items() if s == "train" for c in set(w))
    tested = {c for word, split in splits.items() if split != "train" for c in word}
    assert min(learnt[character] for character in tested) >= 3
