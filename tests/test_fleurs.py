"""adakd.corpora.fleurs, on a corpus of the published layout that is made here."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import soundfile
from tiny_corpora import files

from adakd.corpora import Rejected, Utterance, fleurs
from adakd.corpora.fleurs import Options
from adakd.errors import UserError
from adakd.files import sha256

# (sentence id, file, raw transcription); 1175 is read by two people
ROWS = {
    "train": [
        ("1175", "111.wav", 'मंगलवार को "जाँच" शुरू हुई।'),
        ("1175", "112.wav", 'मंगलवार को "जाँच" शुरू हुई।'),
        ("903", "113.wav", "1976 में पेरिस"),
    ],
    "dev": [("12", "121.wav", '"यह ठीक है।"')],
    "test": [("13", "131.wav", "नहीं।"), ("14", "132.wav", "हाँ।")],
}


def fetch(options: Options, folder: Path, language: str = "hi") -> None:
    fleurs.fetch(options, folder, language)


def line(sentence: str, file: str, raw: str) -> str:
    words = raw.strip('"।').lower()
    return "\t".join([sentence, file, raw, words, "|".join(words), "9600", "FEMALE"])


def write_split(place: Path, split: str, rows: list[tuple[str, str, str]], end: str = "\n") -> None:
    """<split>.tsv, and audio/<split>.tar.gz with a recording for each row and one more."""
    (place / "audio").mkdir(parents=True, exist_ok=True)
    table = "".join(line(*row) + end for row in rows)
    (place / f"{split}.tsv").write_text(table, encoding="utf-8", newline="")
    with tarfile.open(place / "audio" / f"{split}.tar.gz", "w:gz") as tar:
        for file in [row[1] for row in rows] + ["999.wav"]:
            content = io.BytesIO()
            soundfile.write(content, 0.1 * np.sin(np.arange(9600) / 9), 16_000, format="WAV")
            member = tarfile.TarInfo(f"{split}/{file}")
            member.size = len(content.getvalue())
            tar.addfile(member, io.BytesIO(content.getvalue()))


@pytest.fixture
def hub(tmp_path: Path) -> Path:
    """The hub's repository with hi_in and ta_in."""
    for name in ("hi_in", "ta_in"):
        for split, rows in ROWS.items():
            write_split(tmp_path / "fleurs" / "data" / name, split, rows)
    return tmp_path / "fleurs"


def read(options: Options, folder: Path) -> tuple[list[Utterance], list[Rejected]]:
    found = list(fleurs.utterances(options, folder, None))
    good = [one for one in found if isinstance(one, Utterance)]
    return good, [one for one in found if isinstance(one, Rejected)]


def test_stage_1_is_of_what_stage_0_was_given(hub: Path, tmp_path: Path) -> None:
    folder = tmp_path / "corpus"
    fetch(Options(corpus=str(hub)), folder)
    assert read(Options(), folder) == read(Options(corpus=str(hub), name="hi_in"), folder)
    for other in (Options(corpus=str(hub / "data")), Options(name="ta_in")):
        with pytest.raises(UserError, match=r"made with corpus\..*, but now .*; run stage 0 again"):
            read(other, folder)


@pytest.mark.parametrize("inside", ["", "data", "data/hi_in"])
def test_every_recording_with_its_raw_text(hub: Path, tmp_path: Path, inside: str) -> None:
    options, folder = Options(corpus=str(hub / inside)), tmp_path / "corpus"
    fetch(options, folder)
    good, bad = read(options, folder)
    assert bad == []
    expected = [
        (split, f"{sentence}-{file[:-4]}", raw, folder / "audio" / split / file)
        for split, rows in ROWS.items()
        for sentence, file, raw in rows
    ]
    assert [(u.split, u.id, u.text, u.audio) for u in good] == expected
    assert {u.speaker for u in good} == {""}, "unknown, so that intervals are over utterances"
    assert all(soundfile.info(u.audio).frames == 9600 for u in good)
    assert not list(folder.rglob("999.wav")), "what no table names stays packed"
    facts = json.loads((folder / "fetched.json").read_text())
    place = hub / "data" / "hi_in"
    assert facts["name"] == "hi_in" and facts["folder"] == str(place)
    assert facts["sha256"] == {table: sha256(place / table) for table in fleurs.TABLES}
    assert {split: one["sha256"] for split, one in facts["archives"].items()} == {
        split: sha256(place / "audio" / f"{split}.tar.gz") for split in ROWS
    }


def test_unpacked_folders_are_read_in_place(hub: Path, tmp_path: Path) -> None:
    place, options = hub / "data" / "hi_in", Options(corpus=str(hub))
    unpack_in_place(place)
    fetch(options, tmp_path / "corpus")
    good, bad = read(options, tmp_path / "corpus")
    assert len(good) == 6 and bad == []
    assert good[0].audio == place / "audio" / "train" / "111.wav"
    assert [path.name for path in (tmp_path / "corpus").iterdir()] == ["fetched.json"]


def test_a_second_fetch_does_nothing_and_a_new_archive_is_unpacked(
    hub: Path, tmp_path: Path
) -> None:
    options, folder = Options(corpus=str(hub)), tmp_path / "corpus"
    fetch(options, folder)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    fetch(options, folder)
    fetch(Options(), folder)  # what was given before will do
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    write_split(hub / "data" / "hi_in", "dev", [("12", "121.wav", "नया"), ("15", "122.wav", "और")])
    with pytest.raises(UserError, match="hi_in: dev.tsv has changed since stage 0; run stage 0"):
        read(options, folder)
    fetch(Options(), folder)
    assert [u.text for u in read(options, folder)[0] if u.split == "dev"] == ["नया", "और"]
    # What is not mounted is not fetched from the hub instead.
    hub.rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=f"'{hub}', .* is no longer there; mount it, or give"):
        fetch(Options(), folder)
    fetch(Options(corpus=str(tmp_path / "elsewhere")), folder)


def unpack_in_place(place: Path) -> None:
    for split in ROWS:
        with tarfile.open(place / "audio" / f"{split}.tar.gz") as tar:
            tar.extractall(place / "audio", filter="data")
        (place / "audio" / f"{split}.tar.gz").unlink()


def test_what_is_unpacked_stays_until_newer_archives_are(hub: Path, tmp_path: Path) -> None:
    options, folder = Options(corpus=str(hub)), tmp_path / "corpus"
    fetch(options, folder)
    before = files(folder)
    archive = hub / "data" / "hi_in" / "audio" / "test.tar.gz"
    archive.write_bytes(archive.read_bytes()[:-200])
    with pytest.raises(UserError, match="test.tar.gz: the archive is damaged"):
        fetch(options, folder)
    assert files(folder) == before and len(read(options, folder)[0]) == 6
    assert [path.name for path in folder.iterdir() if path.is_dir()] == ["audio"]


@pytest.mark.parametrize("linked", [False, True])
def test_archives_where_stage_0_writes_are_refused_and_stay(
    hub: Path, tmp_path: Path, linked: bool
) -> None:
    place, folder = hub / "data" / "hi_in", tmp_path / "root" / "fleurs" / "hi"
    folder.parent.mkdir(parents=True)
    if linked:
        folder.symlink_to(place)
    else:
        place.rename(folder)
        place = folder
    before = files(place)
    for given in (place, folder):
        with pytest.raises(UserError, match="tar.gz' lies where stage 0 writes .*audio.: move it"):
            fetch(Options(corpus=str(given)), folder)
        assert files(place) == before


def test_unpacked_recordings_where_stage_0_writes_are_read_there(hub: Path, tmp_path: Path) -> None:
    place, folder = hub / "data" / "hi_in", tmp_path / "hi"
    folder.symlink_to(place)
    unpack_in_place(place)
    before = files(place)
    options = Options(corpus=str(folder))
    fetch(options, folder)
    good, bad = read(options, folder)
    assert len(good) == 6 and bad == []
    shutil.copytree(hub / "data" / "ta_in", other := tmp_path / "other" / "hi_in")
    with pytest.raises(UserError, match="audio/train' lies where stage 0 writes"):
        fetch(Options(corpus=str(other)), folder)
    unpack_in_place(other)
    fetch(Options(corpus=str(other)), folder)  # nothing to write
    assert before.items() <= files(place).items()


def test_what_was_unpacked_goes_when_it_is_not_needed_any_more(hub: Path, tmp_path: Path) -> None:
    folder = tmp_path / "corpus"
    fetch(Options(corpus=str(hub)), folder)
    unpack_in_place(hub / "data" / "ta_in")
    fetch(Options(corpus=str(hub), name="ta_in"), folder)
    assert [path.name for path in folder.iterdir()] == ["fetched.json"]
    assert len(read(Options(name="ta_in"), folder)[0]) == 6


@pytest.mark.parametrize(
    ("language", "name"),
    [
        *(("hi", "hi_in"), ("ta", "ta_in"), ("zh", "cmn_hans_cn"), ("zh-CN", "cmn_hans_cn")),
        *(("sw", "sw_ke"), ("en-GB", "en_us"), ("yue", "yue_hant_hk"), ("pt-BR", "pt_br")),
        *(("zh_CN", "cmn_hans_cn"), ("zh_HK", "yue_hant_hk"), ("en_GB", "en_us")),
    ],
)
def test_the_code_tells_the_folder(language: str, name: str) -> None:
    assert fleurs.default_name(language) == name
    assert len(fleurs.NAMES) == len(set(fleurs.NAMES)) == 102


def test_bad_rows_are_told_with_their_line(hub: Path, tmp_path: Path) -> None:
    place, options, folder = hub / "data" / "hi_in", Options(corpus=str(hub)), tmp_path / "corpus"
    table = place / "train.tsv"
    lines = [line(*row) for row in ROWS["train"]]
    lines += [
        line("1", "114.wav", "नहीं"),
        line("903", "113.wav", "दूसरा"),
        line("2", "../dev/121.wav", "बाहर"),
        line("3", "/etc/passwd", "बाहर"),
        line("4", "", "कुछ नहीं"),
        line("5", "115.wav", "एक\tदो"),
        "6\t116.wav",
    ]
    table.write_text("\ufeff" + "\r\n".join(lines) + "\r\n", encoding="utf-8", newline="")
    fetch(options, folder)
    good, bad = read(options, folder)
    train = [u for u in good if u.split == "train"]
    assert [u.text for u in train] == [raw for _, _, raw in ROWS["train"]]
    assert [(one.where, one.reason.partition(":")[0]) for one in bad] == [
        (f"{table}:{number}", reason)
        for number, reason in (
            (4, "missing recording"),
            (5, "recording listed twice"),
            (6, "recording outside audio/"),
            (7, "recording outside audio/"),
            (8, "missing recording"),
            (9, "wrong number of fields"),
            (10, "wrong number of fields"),
        )
    ]
    assert bad[1].reason == "recording listed twice: 113.wav, first in line 3"


def test_without_a_corpus_it_comes_from_the_hub(
    hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = tmp_path / "cache" / "snapshots" / "0123abcd"

    def download(repository: str, *, repo_type: str, allow_patterns: list[str]) -> str:
        assert (repository, repo_type) == ("google/fleurs", "dataset")
        for name in allow_patterns:  # names of files, no patterns
            (snapshot / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(hub / name, snapshot / name)
        return str(snapshot)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    fetch(Options(), tmp_path / "corpus", "ta")
    assert len(read(Options(), tmp_path / "corpus")[0]) == 6
    assert sorted(path.name for path in snapshot.glob("data/*")) == ["ta_in"]
    facts = json.loads((tmp_path / "corpus" / "fetched.json").read_text())
    assert (facts["source"], facts["release"]) == ("google/fleurs", "0123abcd")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", None)  # not called again
    fetch(Options(), tmp_path / "corpus", "ta")


def test_no_network_is_a_sentence_that_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def download(*_: Any, **__: Any) -> str:
        raise huggingface_hub.errors.LocalEntryNotFoundError("no such host\nand much more")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    with pytest.raises(UserError, match="hf download google/fleurs .*hi_in.* --corpus") as raised:
        fetch(Options(), tmp_path / "corpus")
    assert "(no such host)" in str(raised.value) and "\n" not in str(raised.value)
    assert not (tmp_path / "corpus" / "fetched.json").exists()


def test_bad_input_is_a_sentence(hub: Path, tmp_path: Path) -> None:
    folder, place = tmp_path / "corpus", hub / "data" / "hi_in"
    with pytest.raises(UserError, match="run stage 0"):
        read(Options(), folder)
    with pytest.raises(UserError, match="set corpus.name"):
        fetch(Options(corpus=str(hub)), folder, "zh-TW")
    with pytest.raises(UserError, match="no folder 'sw_ke' that holds .* but hi_in, ta_in"):
        fetch(Options(corpus=str(hub)), folder, "sw")
    with pytest.raises(UserError, match="is no folder"):
        fetch(Options(corpus=str(place / "train.tsv")), folder)
    (place / "audio" / "dev.tar.gz").write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(UserError, match="dev.tar.gz: neither a tar nor a zip archive"):
        fetch(Options(corpus=str(hub)), folder)
    (place / "audio" / "dev.tar.gz").unlink()
    with pytest.raises(UserError, match="dev.tar.gz: there is no such archive"):
        fetch(Options(corpus=str(hub)), folder)


def test_links_and_paths_that_leave_the_folder_are_refused(hub: Path, tmp_path: Path) -> None:
    archive = hub / "data" / "hi_in" / "audio" / "train.tar.gz"
    for name, kind in (("train/111.wav", tarfile.SYMTYPE), ("../train/111.wav", tarfile.REGTYPE)):
        with tarfile.open(archive, "w:gz") as tar:
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "/etc/passwd"
            tar.addfile(member)
        options, folder = Options(corpus=str(hub)), tmp_path / "corpus"
        if kind == tarfile.SYMTYPE:
            with pytest.raises(UserError, match="refused to unpack 'train/111.wav'"):
                fetch(options, folder)
        else:  # never asked for
            fetch(options, folder)
            assert "missing recording: 111.wav" in [one.reason for one in read(options, folder)[1]]
    assert not (tmp_path / "train").exists()
