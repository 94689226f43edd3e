"""adakd.corpora.fsdd and .archive: on a made-up data set, and on the real one where it is there."""

from __future__ import annotations

import errno
import io
import json
import os
import re
import shutil
import tarfile
import unicodedata
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile
from tiny_corpora import commit, files

from adakd.corpora import Rejected, Utterance, fsdd, marker
from adakd.corpora.archive import extract, replaced
from adakd.data import audio
from adakd.errors import UserError

SPEAKERS = ("ann", "bob", "cem")


def fetch(options: fsdd.Options, folder: Path) -> None:
    fsdd.fetch(options, folder, "en")


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """recordings/ of three speakers, each digit twice, 8 kHz; digit d lasts (d + 2) / 20 s."""
    folder = tmp_path / "dataset"
    (folder / "recordings").mkdir(parents=True)
    for digit in range(10):
        samples = np.full(400 * (digit + 2), 0.3)
        for speaker in SPEAKERS:
            for number in range(2):
                path = folder / "recordings" / f"{digit}_{speaker}_{number}.wav"
                soundfile.write(path, samples, 8000)
    (folder / "recordings" / "notes.txt").write_text("not a recording")
    return folder


def digit(folder: Path, name: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    soundfile.write(folder / name, np.full(800, 0.3), 8000)


def flacs(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*.flac")}


def sounds(samples: np.ndarray) -> list[float]:
    """Seconds of each stretch of sound between stretches of at least 0.05 s of digital silence."""
    loud = np.flatnonzero(np.abs(samples) > 0.01)
    parts = np.split(loud, np.flatnonzero(np.diff(loud) > 0.05 * 16_000) + 1)
    return [(part[-1] + 1 - part[0]) / 16_000 for part in parts]


def test_each_recording_occurs_in_exactly_one_utterance(dataset: Path) -> None:
    plan = fsdd.join(fsdd.find_recordings(dataset), fsdd.Options(max_digits=4))
    used = Counter(path.name for item in plan for path in item.recordings)
    assert used == Counter(path.name for path in dataset.rglob("*.wav"))
    assert {len(item.recordings) for item in plan} == {1, 2, 3, 4}
    assert len({item.id for item in plan}) == len(plan)
    for item in plan:
        assert all(f"_{item.speaker}_" in path.name for path in item.recordings)
        assert len(item.pauses) == len(item.recordings) - 1
        assert all(0.05 <= pause <= 0.4 for pause in item.pauses)


def test_the_text_names_the_digits_that_are_heard(dataset: Path, tmp_path: Path) -> None:
    options = fsdd.Options(corpus=str(dataset), pause_min=0.1)
    fetch(options, tmp_path / "corpus")
    said: dict[str, list[str]] = {speaker: [] for speaker in SPEAKERS}
    for utterance in fsdd.utterances(options, tmp_path / "corpus", None):
        assert audio.is_ready(utterance.audio)
        words = utterance.text.split()
        expected = [(fsdd.WORDS.index(word) + 2) / 20 for word in words]
        assert sounds(audio.read(utterance.audio)) == pytest.approx(expected, abs=0.01)
        said[utterance.speaker] += words
    for words in said.values():
        assert Counter(words) == dict.fromkeys(fsdd.WORDS, 2)


def test_the_same_seed_gives_the_same_bytes_from_folder_and_archives(
    dataset: Path, tmp_path: Path
) -> None:
    with tarfile.open(tmp_path / "a.tar.xz", "w:xz") as tar:
        tar.add(dataset / "recordings", "recordings")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as packed:
        for path in (dataset / "recordings").iterdir():
            packed.write(path, f"free-spoken-digit-dataset-master/recordings/{path.name}")
    made = {}
    for number, source in enumerate((dataset, tmp_path / "a.tar.xz", tmp_path / "a.zip")):
        folder = tmp_path / f"corpus{number}"
        fetch(fsdd.Options(corpus=str(source)), folder)
        made[source.name] = flacs(folder)
        assert not list(folder.glob("unpacked-*"))
    assert made["dataset"] and made["dataset"] == made["a.tar.xz"] == made["a.zip"]
    fetch(fsdd.Options(corpus=str(dataset), seed=2), tmp_path / "corpus0")
    assert flacs(tmp_path / "corpus0") != made["dataset"]


def test_it_clones_once_when_no_corpus_is_given(dataset: Path, tmp_path: Path) -> None:
    options = fsdd.Options(url=commit(dataset))
    fetch(options, tmp_path / "corpus")
    cloned = flacs(tmp_path / "corpus")
    dataset.rename(tmp_path / "gone")
    fetch(fsdd.Options(url=options.url, seed=2), tmp_path / "corpus")
    fetch(options, tmp_path / "corpus")
    assert flacs(tmp_path / "corpus") == cloned
    with pytest.raises(UserError, match="cannot clone .*--corpus"):
        fetch(options, tmp_path / "another")


def test_a_second_fetch_does_nothing(dataset: Path, tmp_path: Path) -> None:
    folder = tmp_path / "corpus"
    fetch(fsdd.Options(corpus=str(dataset)), folder)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    fetch(fsdd.Options(corpus=str(dataset)), folder)
    fetch(fsdd.Options(), folder)  # what was given before will do
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_a_newer_archive_at_the_same_path_is_noticed(dataset: Path, tmp_path: Path) -> None:
    folder, path = tmp_path / "corpus", tmp_path / "a.tar"
    for number in range(2):
        with tarfile.open(path, "w") as tar:
            tar.add(dataset / "recordings", "recordings")
        fetch(fsdd.Options(corpus=str(path) if number == 0 else None), folder)
        speakers = {one.speaker for one in fsdd.utterances(fsdd.Options(), folder, None)}
        assert speakers == {*SPEAKERS, *["dia"][:number]}
        digit(dataset / "recordings", "1_dia_0.wav")
    path.unlink()
    before = files(folder)
    fetch(fsdd.Options(), folder)
    assert files(folder) == before
    assert marker.described(folder).startswith("SHA-256 61 recordings ")


def test_a_folder_that_was_given_before_is_looked_at_again(dataset: Path, tmp_path: Path) -> None:
    folder = tmp_path / "corpus"
    fetch(fsdd.Options(corpus=str(dataset)), folder)
    digit(dataset / "recordings", "1_dia_0.wav")
    fetch(fsdd.Options(), folder)
    options = fsdd.Options(seed=2)
    fetch(options, folder)  # and not cloned for other options
    assert "dia" in {one.speaker for one in fsdd.utterances(options, folder, None)}
    shutil.rmtree(dataset)
    dataset.mkdir()  # a disk that is not there now
    fetch(fsdd.Options(seed=2), folder)
    assert len(list(fsdd.utterances(options, folder, None)))


def test_a_url_that_is_a_folder_is_cloned_and_remembered(dataset: Path, tmp_path: Path) -> None:
    folder, url = tmp_path / "corpus", commit(dataset).removeprefix("file://")
    fetch(fsdd.Options(url=url), folder)
    made = (folder / "fetched.json").stat().st_mtime_ns
    for options in (fsdd.Options(), fsdd.Options(url=url)):
        fetch(options, folder)
        assert len(list(fsdd.utterances(options, folder, None)))
    assert (folder / "fetched.json").stat().st_mtime_ns == made
    fetch(fsdd.Options(seed=2), folder)  # from there again
    assert json.loads((folder / "fetched.json").read_text())["source"] == url


def test_another_url_is_noticed(dataset: Path, tmp_path: Path) -> None:
    folder, gone = tmp_path / "corpus", fsdd.Options(url=(tmp_path / "gone").as_uri())
    fetch(fsdd.Options(corpus=str(dataset)), folder)
    with pytest.raises(
        UserError, match="made with corpus.url .*dataset, but now .*gone; run stage 0"
    ):
        next(fsdd.utterances(gone, folder, None))
    with pytest.raises(UserError, match="cannot clone file:.*gone"):
        fetch(gone, folder)
    facts = json.loads((folder / "fetched.json").read_text())
    (folder / "fetched.json").write_text(json.dumps({**facts, "source": gone.url}))  # a clone of it
    fetch(gone, folder)
    assert len(list(fsdd.utterances(gone, folder, None)))
    fetch(fsdd.Options(), folder)  # one that was given before is remembered, as a folder is
    assert len(list(fsdd.utterances(fsdd.Options(), folder, None)))
    fetch(fsdd.Options(corpus=str(dataset), url=gone.url), folder)  # where one is given, it counts


def test_the_report_learns_which_recordings_these_were(dataset: Path, tmp_path: Path) -> None:
    def told(folder: str) -> str:
        fetch(fsdd.Options(corpus=str(dataset)), tmp_path / folder)
        return marker.described(tmp_path / folder)

    recordings = sorted(dataset.rglob("*.wav"))
    before = told("a")
    assert re.fullmatch(rf"SHA-256 {len(recordings)} recordings [0-9a-f]{{16}}", before)
    assert told("b") == before
    samples, rate = soundfile.read(recordings[0])
    soundfile.write(recordings[0], samples * 0.5, rate)
    assert told("c") != before
    assert marker.described(tmp_path / "nothing") == ""


def test_every_speaker_tests_once_and_splits_share_none(dataset: Path, tmp_path: Path) -> None:
    options = fsdd.Options(corpus=str(dataset))
    fetch(options, tmp_path)
    testers = []
    ids = {u.id for u in fsdd.utterances(options, tmp_path, None)}
    for fold in range(3):
        rows = list(fsdd.utterances(options, tmp_path, fold))
        assert {u.id for u in rows} == ids and len(rows) == len(ids)
        speakers = {s: {u.speaker for u in rows if u.split == s} for s in ("train", "dev", "test")}
        assert speakers["test"] == {SPEAKERS[fold]}
        assert speakers["dev"] == {SPEAKERS[(fold + 1) % 3]}
        assert speakers["train"] == {SPEAKERS[(fold + 2) % 3]}
        testers += speakers["test"]
    assert sorted(testers) == sorted(SPEAKERS)
    first = list(fsdd.utterances(options, tmp_path, 0))
    assert list(fsdd.utterances(options, tmp_path, None)) == first
    for fold in (3, -1):
        with pytest.raises(UserError, match="folds 0 to 2"):
            next(fsdd.utterances(options, tmp_path, fold))


def test_an_utterance_does_not_depend_on_who_else_is_there(dataset: Path) -> None:
    everybody = fsdd.find_recordings(dataset)
    alone = fsdd.join({"bob": everybody["bob"]}, fsdd.Options())
    assert [i for i in fsdd.join(everybody, fsdd.Options()) if i.speaker == "bob"] == alone


def test_other_numbers_of_recordings_work_and_are_told(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fetch(fsdd.Options(corpus=str(dataset)), tmp_path)
    told = capsys.readouterr().err
    assert "60 recordings by 3 speakers, not the 3000 by 6 that are published" in told
    assert "; --fold knows 0 to 5 alone, and there is one fold for each speaker" in told
    for speaker in ("dia", "eli", "fay"):
        digit(dataset / "recordings", f"1_{speaker}_0.wav")
    fetch(fsdd.Options(corpus=str(dataset)), tmp_path)
    told = capsys.readouterr().err
    assert "63 recordings by 6 speakers" in told and "--fold" not in told


def test_bad_input_is_a_sentence(dataset: Path, tmp_path: Path) -> None:
    folder = tmp_path / "corpus"
    with pytest.raises(UserError, match="corpus: FSDD is not here; run stage 0"):
        next(fsdd.utterances(fsdd.Options(), folder, None))
    with pytest.raises(UserError, match="English"):
        fsdd.fetch(fsdd.Options(), folder, "hi")
    with pytest.raises(UserError, match="does not exist"):
        fetch(fsdd.Options(corpus=str(tmp_path / "nowhere")), folder)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no recordings named like"):
        fetch(fsdd.Options(corpus=str(tmp_path / "empty")), folder)
    (tmp_path / "broken.tar.xz").write_bytes(b"not an archive")
    with pytest.raises(UserError, match="broken.tar.xz: neither a tar nor a zip"):
        fetch(fsdd.Options(corpus=str(tmp_path / "broken.tar.xz")), folder)
    for wrong in (
        *({"max_digits": 0}, {"pause_min": -1.0}, {"pause_min": 0.5}),
        *({"pause_max": float("inf")}, {"pause_max": float("nan")}),
    ):
        with pytest.raises(UserError, match="corpus."):
            fsdd.Options(**wrong)
    options = fsdd.Options(corpus=str(dataset))
    fetch(options, folder)
    with pytest.raises(UserError, match="corpus.seed 1, but now it is 5; run stage 0"):
        next(fsdd.utterances(fsdd.Options(seed=5), folder, None))
    for path in dataset.rglob("?_cem_?.wav"):
        path.unlink()
    fetch(fsdd.Options(corpus=str(dataset), seed=3), folder)
    with pytest.raises(UserError, match="2 speakers .ann, bob."):
        next(fsdd.utterances(fsdd.Options(seed=3), folder, None))


def test_a_damaged_recording_is_named_and_nothing_counts_as_fetched(
    dataset: Path, tmp_path: Path
) -> None:
    (dataset / "recordings" / "7_bob_1.wav").write_bytes(b"")
    with pytest.raises(UserError, match="1 of .* the first: .*7_bob_1.wav: empty"):
        fetch(fsdd.Options(corpus=str(dataset)), tmp_path)
    with pytest.raises(UserError, match="run stage 0"):
        next(fsdd.utterances(fsdd.Options(), tmp_path, None))


def test_what_is_there_stays_until_all_of_the_new_is_made(dataset: Path, tmp_path: Path) -> None:
    folder = tmp_path / "corpus"
    fetch(fsdd.Options(corpus=str(dataset)), folder)
    before = files(folder)
    (tmp_path / "empty").mkdir()
    with tarfile.open(tmp_path / "whole.tar", "w") as tar:
        tar.add(dataset, "dataset")
    (tmp_path / "cut.tar").write_bytes((tmp_path / "whole.tar").read_bytes()[:20_000])
    for path in dataset.rglob("9_cem_1.wav"):
        path.write_bytes(b"")
    with tarfile.open(tmp_path / "damaged.tar", "w") as tar:
        tar.add(dataset, "dataset")
    for wrong, words in {
        "typo": "does not exist",
        "empty": "empty: no recordings",
        "cut.tar": "cut.tar: the archive is damaged",
        "damaged.tar": "damaged recording",
    }.items():
        with pytest.raises(UserError, match=words):
            fetch(fsdd.Options(corpus=str(tmp_path / wrong)), folder)
        assert files(folder) == before, wrong
        assert not [path for path in folder.iterdir() if "unpacked" in path.name], wrong
    with pytest.raises(UserError, match="cannot clone"):
        fetch(fsdd.Options(url=(tmp_path / "nowhere").as_uri(), seed=2), folder)
    assert files(folder) == before


def test_another_url_that_fails_leaves_the_clone(dataset: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("no recordings")
    url, other = commit(dataset), commit(tmp_path / "other")
    fetch(fsdd.Options(url=url), tmp_path / "corpus")
    before = files(tmp_path / "corpus")
    for wrong, words in (
        (other, f"{other}: no recordings"),
        ((tmp_path / "x").as_uri(), "cannot clone"),
    ):
        with pytest.raises(UserError, match=words):
            fetch(fsdd.Options(url=wrong, seed=2), tmp_path / "corpus")
        assert files(tmp_path / "corpus") == before


def test_a_corpus_where_stage_0_writes_is_refused_and_stays(dataset: Path, tmp_path: Path) -> None:
    folder = tmp_path / "corpus"
    (tmp_path / "link").symlink_to(folder / "audio" / "recordings")
    for place, given in (
        (folder / "audio", folder / "audio"),
        (folder / "audio" / "recordings", folder),
        (folder / "audio" / "recordings", tmp_path / "link"),
    ):
        folder.mkdir(exist_ok=True)
        place.parent.mkdir(exist_ok=True)
        (dataset / "recordings").rename(place)
        before = files(folder)
        with pytest.raises(
            UserError, match="lies where stage 0 writes .*audio.: move it elsewhere"
        ):
            fetch(fsdd.Options(corpus=str(given)), folder)
        assert files(folder) == before
        place.rename(dataset / "recordings")


def test_a_corpus_beside_what_stage_0_writes_is_read_there(dataset: Path, tmp_path: Path) -> None:
    folder = tmp_path / "corpus"
    folder.mkdir()
    (dataset / "recordings").rename(folder / "recordings")
    before = files(folder)
    for seed in (1, 2):
        fetch(fsdd.Options(corpus=str(folder), seed=seed), folder)
        assert before.items() <= files(folder).items()
        assert len({u.speaker for u in fsdd.utterances(fsdd.Options(seed=seed), folder, None)}) == 3


def test_a_link_in_the_place_of_a_folder_loses_nothing_but_itself(tmp_path: Path) -> None:
    (tmp_path / "big").mkdir()
    (tmp_path / "big" / "mine").write_text("mine")
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "audio").symlink_to(tmp_path / "big")
    with replaced(tmp_path / "corpus" / "audio") as fresh:
        (fresh / "new").write_text("new")
    assert [path.name for path in (tmp_path / "corpus" / "audio").iterdir()] == ["new"]
    assert (tmp_path / "big" / "mine").read_text() == "mine"


def test_recordings_that_are_added_make_the_corpus_anew(dataset: Path, tmp_path: Path) -> None:
    options = fsdd.Options(corpus=str(dataset))
    fetch(options, tmp_path)
    for number in range(3):
        digit(dataset / "recordings", f"{number}_dia_0.wav")
    fetch(options, tmp_path)
    assert {u.speaker for u in fsdd.utterances(options, tmp_path, None)} == {*SPEAKERS, "dia"}


def test_utterances_that_were_lost_are_made_again(dataset: Path, tmp_path: Path) -> None:
    options, path = fsdd.Options(corpus=str(dataset)), tmp_path / "corpus" / "utterances.jsonl"
    fetch(options, path.parent)
    before = path.read_bytes()
    path.unlink()
    fetch(options, path.parent)
    assert path.read_bytes() == before
    path.write_text('{"a": 1}\n')
    with pytest.raises(UserError, match="utterances.jsonl is damaged"):
        list(fsdd.utterances(options, path.parent, None))


def test_a_marker_from_before_recordings_were_looked_at_still_holds(
    dataset: Path, tmp_path: Path
) -> None:
    options = fsdd.Options(corpus=str(dataset))
    fetch(options, tmp_path)
    facts = json.loads((tmp_path / "fetched.json").read_text())
    for old in ({**facts, "rejected": None}, {**facts, "rejected": None, "sha256": None}):
        old = {name: each for name, each in old.items() if each is not None}
        (tmp_path / "fetched.json").write_text(json.dumps(old))
        before = files(tmp_path)
        fetch(options, tmp_path)
        assert files(tmp_path) == before
        assert len(list(fsdd.utterances(options, tmp_path, None)))


def test_names_of_any_letters_are_speakers(dataset: Path, tmp_path: Path) -> None:
    composed, split = (unicodedata.normalize(form, "josé") for form in ("NFC", "NFD"))
    names = [f"1_{composed}_0.wav", f"2_{split}_0.wav", "3_Ann Smith_0.wav", "4_सीता_0.WAV"]
    for name in names:
        digit(dataset / "recordings", name)
    options = fsdd.Options(corpus=str(dataset))
    fetch(options, tmp_path)
    said: dict[str, list[str]] = {}
    for one in fsdd.utterances(options, tmp_path, None):
        assert isinstance(one, Utterance) and one.audio.is_file()
        said.setdefault(one.speaker, []).extend(one.text.split())
    assert sorted(said.pop(composed)) == ["one", "two"]
    assert (said.pop("Ann_Smith"), said.pop("सीता")) == (["three"], ["four"])
    assert sorted(said) == list(SPEAKERS)


@pytest.mark.parametrize("packed", [False, True])
def test_odd_names_are_rejected_by_name(dataset: Path, tmp_path: Path, packed: bool) -> None:
    recordings = dataset / "recordings"
    odd = ["5_ann_0 (copy).wav", "5_.._0.wav", "five_ann_0.wav", "seven.WAV"]
    for name in odd:
        digit(recordings, name)
    latin_1 = os.fsdecode("5_jos\u00e9_0.wav".encode("latin-1"))
    (recordings / "notes.txt").rename(recordings / latin_1)
    (recordings / "._5_ann_0.wav").write_bytes(b"of macOS, without sound")
    source = dataset
    if packed:
        source = tmp_path / "a.tar"
        with tarfile.open(source, "w") as tar:
            tar.add(recordings, "recordings")
    options = fsdd.Options(corpus=str(source))
    fetch(options, tmp_path / "corpus")
    found = list(fsdd.utterances(options, tmp_path / "corpus", None))
    rejected = [one for one in found if isinstance(one, Rejected)]
    shown = sorted([*odd, "5_jos\\udce9_0.wav"])
    assert [one.where for one in rejected] == [f"{source}/recordings/{name}" for name in shown]
    assert [one.id for one in rejected] == [Path(name).stem for name in shown]
    assert {one.speaker for one in found if isinstance(one, Utterance)} == set(SPEAKERS)
    digit(recordings, "6_ann_x.wav")
    if not packed:  # and the next stage 0 sees one more
        fetch(options, tmp_path / "corpus")
        found = list(fsdd.utterances(options, tmp_path / "corpus", None))
        assert [one.id for one in found if isinstance(one, Rejected)].count("6_ann_x") == 1


@pytest.mark.parametrize("name", ["../escaped", "a/../../escaped", "{tmp}/escaped"])
@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_no_member_leaves_the_folder(tmp_path: Path, name: str, kind: str) -> None:
    name = name.format(tmp=tmp_path)
    archive = tmp_path / f"evil.{kind}"
    if kind == "tar":
        with tarfile.open(archive, "w") as tar:
            member = tarfile.TarInfo(name)
            member.size = 3
            tar.addfile(member, io.BytesIO(b"bad"))
    else:
        with zipfile.ZipFile(archive, "w") as packed:
            packed.writestr(name, b"bad")
    with pytest.raises(UserError, match="evil.*refused.*escaped"):
        extract(archive, tmp_path / "inside", lambda path: True)
    assert not list(tmp_path.rglob("escaped"))


def test_links_are_refused(tmp_path: Path) -> None:
    for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE):
        with tarfile.open(tmp_path / "links.tar", "w") as tar:
            member = tarfile.TarInfo("recordings/1_ann_0.wav")
            member.type, member.linkname = kind, "/etc/passwd"
            tar.addfile(member)
        with pytest.raises(UserError, match="refused"):
            extract(tmp_path / "links.tar", tmp_path / "inside", lambda path: True)
    with zipfile.ZipFile(tmp_path / "links.zip", "w") as packed:
        info = zipfile.ZipInfo("recordings/1_ann_0.wav")
        info.external_attr = 0o120777 << 16
        packed.writestr(info, "/etc/passwd")
    with pytest.raises(UserError, match="refused"):
        extract(tmp_path / "links.zip", tmp_path / "inside", lambda path: True)
    assert not (tmp_path / "inside" / "recordings" / "1_ann_0.wav").exists()


def test_a_cut_archive_is_named(dataset: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "whole.tar.gz", "w:gz") as tar:
        tar.add(dataset, "dataset")
    whole = (tmp_path / "whole.tar.gz").read_bytes()
    (tmp_path / "cut.tar.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="cut.tar.gz: the archive is damaged"):
        extract(tmp_path / "cut.tar.gz", tmp_path / "inside", lambda path: True)


def small_tar(path: Path) -> list[tarfile.TarInfo]:
    """Three files of 700 bytes; returns where each stands."""
    with tarfile.open(path, f"w:{path.suffix[1:]}" if path.suffix != ".tar" else "w") as tar:
        for name in "abc":
            member = tarfile.TarInfo(name)
            member.size = 700
            tar.addfile(member, io.BytesIO(name.encode() * 700))
    with tarfile.open(path) as tar:
        return tar.getmembers()


@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_what_cannot_be_written_is_no_damage_of_the_archive(tmp_path: Path, kind: str) -> None:
    path, long = tmp_path / f"a.{kind}", "x" * 300
    if kind == "tar":
        small_tar(path)
    else:
        with zipfile.ZipFile(path, "w") as packed:
            packed.writestr("b", b"b" * 700)
    (tmp_path / "inside").mkdir()
    (tmp_path / "inside" / "b").symlink_to("/dev/full")  # as a disk without space
    with pytest.raises(OSError) as raised:
        extract(path, tmp_path / "inside", lambda path: True)
    assert raised.value.errno == errno.ENOSPC
    assert raised.value.filename == str(tmp_path / "inside" / "b")
    with zipfile.ZipFile(tmp_path / "long.zip", "w") as packed:
        packed.writestr(long, b"")
    with pytest.raises(OSError) as raised:
        extract(tmp_path / "long.zip", tmp_path / "inside", lambda path: True)
    assert raised.value.errno == errno.ENAMETOOLONG


@pytest.mark.parametrize("damage", ["garbage", "zeros", "cut at a member"])
@pytest.mark.parametrize("which", [1, 2])
def test_a_damaged_header_does_not_pass_for_the_end(
    tmp_path: Path, which: int, damage: str
) -> None:
    path = tmp_path / "a.tar"
    place = small_tar(path)[which].offset
    assert extract(path, tmp_path / "whole", lambda path: True) == 3
    data = bytearray(path.read_bytes())
    if damage == "garbage":
        data[place + 140 : place + 180] = b"?" * 40
    elif damage == "zeros":
        data[place : place + 512] = bytes(512)
    else:
        del data[place:]
    path.write_bytes(data)
    with pytest.raises(UserError, match="a.tar: the archive is damaged"):
        extract(path, tmp_path / "inside", lambda path: True)


@pytest.mark.parametrize("kind", ["gz", "bz2", "xz"])
def test_a_compressed_archive_is_read_to_its_sum(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"a.{kind}"
    small_tar(path)
    assert extract(path, tmp_path / "whole", lambda path: True) == 3
    path.write_bytes(path.read_bytes()[:-6])  # the sum, and no file's data
    with pytest.raises(UserError, match=rf"a.{kind}: the archive is damaged"):
        extract(path, tmp_path / "inside", lambda path: True)


def test_the_published_data_set(shared_data: Path | None, tmp_path: Path) -> None:
    """Counts of the real archive; without it, of empty files with the same names."""
    archive = shared_data / "fsdd.tar.xz" if shared_data else None
    if archive is not None and archive.is_file():
        extract(archive, tmp_path, lambda path: path.suffix == ".wav")
    else:
        (tmp_path / "recordings").mkdir()
        for number in range(50):
            for digit in range(10):
                for speaker in ("george", "jackson", "lucas", "nicolas", "theo", "yweweler"):
                    (tmp_path / "recordings" / f"{digit}_{speaker}_{number}.wav").touch()
    found = fsdd.find_recordings(tmp_path)
    assert {speaker: len(paths) for speaker, paths in found.items()} == dict.fromkeys(
        ("george", "jackson", "lucas", "nicolas", "theo", "yweweler"), 500
    )
    plan = fsdd.join(found, fsdd.Options())
    assert sum(len(item.recordings) for item in plan) == fsdd.PUBLISHED
    lengths = Counter(len(item.recordings) for item in plan)
    assert set(lengths) == set(range(1, 8)) and min(lengths.values()) > 60
