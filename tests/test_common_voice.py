"""adakd.corpora.common_voice and .tables, on a corpus of the published layout that is made here."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
from tiny_corpora import files

from adakd.corpora import Rejected, Utterance, common_voice, marker, tables
from adakd.corpora.common_voice import Options
from adakd.data import prepare
from adakd.errors import UserError
from adakd.files import sha256

RELEASE = "cv-corpus-11.0-2022-09-21"
HEADER = "client_id path sentence up_votes down_votes age gender accents locale segment".split()
SENTENCES = {
    "train": ["बारिश हो रही है।", '"कौन है?" "मैं हूँ"', "हाँ", "उसने कहा, 'ठीक है' |"],
    "dev": ["आप कहाँ रहते हैं?"],
    "test": ["मैं १९६० में पैदा हुआ था।", "हाँ"],
}


def fetch(options: Options, folder: Path, language: str = "hi") -> None:
    common_voice.fetch(options, folder, language)


def tone(path: Path, seconds: float = 0.3) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = 0.1 * np.sin(np.arange(round(seconds * 48_000)) / 30)
    soundfile.write(path, samples, 48_000)  # an mp3 by its name, as Common Voice has them


def row(clip: str, sentence: str, locale: str = "hi", speaker: str = "") -> str:
    values = [speaker or f"client-{clip}", clip, sentence, "2", "0", "", "", "", locale, ""]
    return "\t".join(values)


def write_table(path: Path, rows: list[str], end: str = "\n", start: str = "") -> None:
    text = start + end.join(["\t".join(HEADER), *rows]) + end
    path.write_bytes(text.encode())


@pytest.fixture
def release(tmp_path: Path) -> Path:
    """cv-corpus-11.0-2022-09-21/ with the language hi, and the tables of ta without clips."""
    folder = tmp_path / "downloads" / RELEASE
    for language in ("hi", "ta"):
        (folder / language / "clips").mkdir(parents=True)
        number = 0
        for split, sentences in SENTENCES.items():
            rows = []
            for sentence in sentences:
                number += 1
                clip = f"common_voice_{language}_{number}.mp3"
                if language == "hi":
                    tone(folder / language / "clips" / clip)
                rows.append(row(clip, sentence, language))
            write_table(folder / language / f"{split}.tsv", rows)
    tone(folder / "hi" / "clips" / "common_voice_hi_99.mp3")
    write_table(folder / "hi" / "validated.tsv", [row("common_voice_hi_99.mp3", "और")])
    return folder


def pack(release: Path, archive: Path, tables_last: bool = True) -> Path:
    """A .tar.gz of the release's Hindi folder."""
    files = sorted(path for path in (release / "hi").rglob("*") if path.is_file())
    files.sort(key=lambda path: (path.suffix == ".tsv") == tables_last)
    with tarfile.open(archive, "w:gz") as tar:
        for path in files:
            tar.add(path, str(path.relative_to(release.parent)))
    return archive


def read(options: Options, folder: Path) -> tuple[list[Utterance], list[Rejected]]:
    found = list(common_voice.utterances(options, folder, None))
    good = [one for one in found if isinstance(one, Utterance)]
    return good, [one for one in found if isinstance(one, Rejected)]


def test_stage_1_is_of_what_stage_0_was_given(release: Path, tmp_path: Path) -> None:
    folder = tmp_path / "corpus"
    fetch(Options(corpus=str(release)), folder)
    assert read(Options(), folder) == read(Options(corpus=str(release), name="hi"), folder)
    with pytest.raises(UserError, match=r"made with corpus.corpus .*, but now .*17; run stage 0"):
        read(Options(corpus=str(tmp_path / "17")), folder)
    with pytest.raises(UserError, match=r"made with corpus.name hi, but now it is ta; run stage 0"):
        read(Options(name="ta"), folder)


@pytest.mark.parametrize("packed", [False, True])
def test_a_folder_may_have_another_name_than_its_language(
    release: Path, tmp_path: Path, packed: bool
) -> None:
    if packed:
        (release / "hi").rename(release / "hindi")
        source = tmp_path / "hindi.tar.gz"
        with tarfile.open(source, "w:gz") as tar:
            tar.add(release / "hindi", f"{release.name}/hindi")
    else:
        (release / "hi").rename(source := release / "hindi")
    options, folder = Options(corpus=str(source), name="hindi"), tmp_path / "corpus"
    fetch(options, folder)
    good, bad = read(options, folder)
    assert not bad and len(good) == sum(map(len, SENTENCES.values()))


def test_every_clip_of_the_official_splits_and_no_other(release: Path, tmp_path: Path) -> None:
    options = Options(corpus=str(release))
    fetch(options, tmp_path / "corpus")
    good, bad = read(options, tmp_path / "corpus")
    assert bad == []
    assert {s: [u.text for u in good if u.split == s] for s in SENTENCES} == SENTENCES
    first = good[0]
    assert first.id == "common_voice_hi_1" and first.speaker == "client-common_voice_hi_1.mp3"
    assert first.audio == release / "hi" / "clips" / "common_voice_hi_1.mp3"
    assert [path.name for path in (tmp_path / "corpus").iterdir()] == ["fetched.json"]


@pytest.mark.parametrize("inside", ["", "hi", ".."])
def test_the_language_is_found_wherever_it_lies(release: Path, tmp_path: Path, inside: str) -> None:
    options = Options(corpus=str(release / inside))
    fetch(options, tmp_path / "corpus")
    assert len(read(options, tmp_path / "corpus")[0]) == 7
    facts = json.loads((tmp_path / "corpus" / "fetched.json").read_text())
    assert facts["release"] == RELEASE and facts["name"] == "hi"
    assert facts["sha256"] == {n: sha256(release / "hi" / n) for n in tables.TABLES}


def test_the_folder_may_have_another_name_than_the_language(release: Path, tmp_path: Path) -> None:
    options = Options(corpus=str(release), name="hi")
    fetch(options, tmp_path / "corpus", "hi-IN")
    assert len(read(options, tmp_path / "corpus")[0]) == 7


@pytest.mark.parametrize("tables_last", [True, False])
def test_of_an_archive_only_what_the_splits_name_is_unpacked(
    release: Path, tmp_path: Path, tables_last: bool
) -> None:
    archive = pack(release, tmp_path / "hi.tar.gz", tables_last)
    options = Options(corpus=str(archive))
    fetch(options, tmp_path / "corpus")
    good, bad = read(options, tmp_path / "corpus")
    assert len(good) == 7 and bad == []
    assert {u.audio.read_bytes() for u in good} == {
        path.read_bytes() for path in (release / "hi" / "clips").iterdir() if "99" not in path.name
    }
    unpacked = {path.name for path in (tmp_path / "corpus").rglob("*") if path.is_file()}
    clips = {f"common_voice_hi_{number}.mp3" for number in range(1, 8)}
    assert unpacked == {"fetched.json", *tables.TABLES, *clips}
    facts = json.loads((tmp_path / "corpus" / "fetched.json").read_text())
    assert facts["release"] == RELEASE
    assert facts["archive"] == {"bytes": archive.stat().st_size, "sha256": sha256(archive)}
    told = marker.described(tmp_path / "corpus")
    assert told.startswith(f"release {RELEASE}; SHA-256 archive {sha256(archive)[:16]}, dev.tsv ")
    assert f"train.tsv {sha256(release / 'hi' / 'train.tsv')[:16]}" in told


def test_a_second_fetch_does_nothing_and_another_archive_replaces(
    release: Path, tmp_path: Path
) -> None:
    folder, archive = tmp_path / "corpus", pack(release, tmp_path / "hi.tar.gz")
    fetch(Options(corpus=str(archive)), folder)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    fetch(Options(corpus=str(archive)), folder)
    fetch(Options(), folder)  # what was given before will do
    archive.unlink()
    fetch(Options(), folder)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    (release / "hi" / "clips" / "common_voice_hi_1.mp3").unlink()
    pack(release, archive)
    fetch(Options(), folder)
    assert not list(folder.rglob("common_voice_hi_1.mp3"))
    fetch(Options(corpus=str(release)), folder)
    before = (folder / "fetched.json").stat().st_mtime_ns
    fetch(Options(corpus=str(release)), folder)
    assert (folder / "fetched.json").stat().st_mtime_ns == before


def test_what_is_unpacked_stays_until_another_archive_is(release: Path, tmp_path: Path) -> None:
    folder, archive = tmp_path / "corpus", pack(release, tmp_path / "hi.tar.gz")
    fetch(Options(corpus=str(archive)), folder)
    before = files(folder)
    whole = archive.read_bytes()
    archive.write_bytes(whole[: len(whole) // 2])  # half of a newer one
    with pytest.raises(UserError, match="hi.tar.gz: the archive is damaged"):
        fetch(Options(corpus=str(archive)), folder)
    with pytest.raises(UserError, match="does not exist"):
        fetch(Options(corpus=str(tmp_path / "typo.tar.gz")), folder)
    assert files(folder) == before and len(read(Options(), folder)[0]) == 7
    assert [path.name for path in folder.iterdir() if path.is_dir()] == ["unpacked"]


def test_what_was_unpacked_and_is_damaged_is_unpacked_again(release: Path, tmp_path: Path) -> None:
    folder, archive = tmp_path / "corpus", pack(release, tmp_path / "hi.tar.gz")
    fetch(Options(corpus=str(archive)), folder)
    before = files(folder)
    next(folder.rglob("dev.tsv")).unlink()
    fetch(Options(corpus=str(archive)), folder)
    assert files(folder) == before


def test_a_corpus_where_stage_0_writes_is_never_removed(release: Path, tmp_path: Path) -> None:
    folder = tmp_path / "corpus"
    (folder / "unpacked").mkdir(parents=True)
    inside = pack(release, folder / "unpacked" / "hi.tar.gz")
    with pytest.raises(UserError, match="hi.tar.gz' lies where stage 0 writes .*: move it elsewhe"):
        fetch(Options(corpus=str(inside)), folder)
    assert inside.is_file()
    inside.rename(folder / "hi.tar.gz")  # beside what is written: read there
    fetch(Options(corpus=str(folder / "hi.tar.gz")), folder)
    assert len(read(Options(), folder)[0]) == 7 and (folder / "hi.tar.gz").is_file()
    fetch(Options(corpus=str(folder / "unpacked")), folder)  # a folder, too
    before = files(folder)
    with pytest.raises(UserError, match="unpacked' lies where stage 0 writes"):
        fetch(Options(corpus=str(folder / "hi.tar.gz")), folder)
    assert files(folder) == before


@pytest.mark.parametrize("packed", [False, True])
def test_a_table_in_another_encoding_is_named(release: Path, tmp_path: Path, packed: bool) -> None:
    table = release / "hi" / "train.tsv"
    table.write_bytes(table.read_text("utf-8").encode("utf-16"))
    source, shown = release, table
    if packed:
        source = pack(release, tmp_path / "hi.tar.gz")
        shown = source / release.name / "hi" / "train.tsv"
    with pytest.raises(UserError, match=f"^{shown}:1: not UTF-8: .*; save the table as UTF-8"):
        fetch(Options(corpus=str(source)), tmp_path / "corpus")


def test_tables_that_change_after_stage_0_are_noticed(release: Path, tmp_path: Path) -> None:
    options = Options(corpus=str(release))
    fetch(options, tmp_path / "corpus")
    write_table(release / "hi" / "dev.tsv", [row("common_voice_hi_5.mp3", "नया")])
    with pytest.raises(UserError, match="hi: dev.tsv has changed since stage 0; run stage 0"):
        read(options, tmp_path / "corpus")
    fetch(Options(), tmp_path / "corpus")
    good, _ = read(options, tmp_path / "corpus")
    assert [u.text for u in good if u.split == "dev"] == ["नया"]


def test_what_was_unpacked_goes_when_it_is_not_needed_any_more(
    release: Path, tmp_path: Path
) -> None:
    folder, archive = tmp_path / "corpus", pack(release, tmp_path / "hi.tar.gz")
    fetch(Options(corpus=str(archive)), folder)
    fetch(Options(corpus=str(folder / "unpacked")), folder)  # needed after all, and the user's now
    fetch(Options(corpus=str(release)), folder)
    assert (folder / "unpacked").is_dir()
    shutil.rmtree(folder / "unpacked")
    fetch(Options(corpus=str(archive)), folder)
    fetch(Options(corpus=str(release)), folder)
    assert [path.name for path in folder.iterdir()] == ["fetched.json"]


def test_line_ends_marks_and_quotes(release: Path, tmp_path: Path) -> None:
    sentences = ['"कौन है?" "मैं हूँ"', '"', 'कौन "है', "एक\u2028दो\x85तीन", "  दो  "]
    rows = [row(f"common_voice_hi_{i + 1}.mp3", text) for i, text in enumerate(sentences)]
    write_table(release / "hi" / "train.tsv", rows, end="\r\n", start="\ufeff")
    options = Options(corpus=str(release))
    fetch(options, tmp_path / "corpus")
    good, bad = read(options, tmp_path / "corpus")
    assert [u.text for u in good if u.split == "train"] == sentences and bad == []
    assert good[0].speaker.startswith("client-")


def test_bad_rows_are_told_with_their_line(release: Path, tmp_path: Path) -> None:
    train = release / "hi" / "train.tsv"
    rows = [
        row("common_voice_hi_1.mp3", "अच्छा"),
        row("common_voice_hi_2.mp3", "एक\tदो"),
        row("common_voice_hi_3.mp3", "कम").rsplit("\t", 2)[0],
        "",
        row("common_voice_hi_77.mp3", "कहाँ"),
        row("../../../secret.mp3", "बाहर"),
        row("/etc/passwd", "बाहर"),
        row("..\\secret.mp3", "बाहर"),
        row("", "कुछ नहीं"),
        row("common_voice_hi_4.mp3", "வணக்கம்", locale="ta"),
        row("common_voice_hi_4.mp3", "BYTES"),
    ]
    write_table(train, rows)
    train.write_bytes(train.read_bytes().replace(b"BYTES", b"\xe0\xa4"))
    (release.parent / "secret.mp3").write_bytes(b"secret")
    options = Options(corpus=str(release))
    fetch(options, tmp_path / "corpus")
    good, bad = read(options, tmp_path / "corpus")
    assert [u.text for u in good if u.split == "train"] == ["अच्छा"]
    assert [(one.where, one.reason.partition(":")[0]) for one in bad] == [
        (f"{train}:{line}", reason)
        for line, reason in (
            (3, "wrong number of fields"),
            (4, "wrong number of fields"),
            (6, "missing clip"),
            (7, "clip outside clips/"),
            (8, "clip outside clips/"),
            (9, "clip outside clips/"),
            (10, "no clip named"),
            (11, "another language"),
            (12, "not UTF-8"),
        )
    ]
    assert bad[0].reason == "wrong number of fields: 11 in a table of 10 columns"
    assert bad[2].id == "common_voice_hi_77" and bad[0].id == "train.tsv:3"
    assert {one.split for one in bad} == {"train"}
    assert len({one.id for one in bad}) == len(bad)


def test_prepare_counts_and_lists_what_the_corpus_and_the_audio_spoil(
    release: Path, tmp_path: Path
) -> None:
    clips = release / "hi" / "clips"
    whole = (clips / "common_voice_hi_1.mp3").read_bytes()
    (clips / "common_voice_hi_1.mp3").write_bytes(whole[: len(whole) // 2])
    (clips / "common_voice_hi_2.mp3").write_bytes(b"")
    (clips / "common_voice_hi_3.mp3").unlink()
    options = Options(corpus=str(release))
    fetch(options, tmp_path / "corpus")
    how = prepare.Clips(tmp_path / "data/audio", tmp_path, "hi", 0.1, 30.0, normalise=True)
    counts = prepare.prepare(
        list(common_voice.utterances(options, tmp_path / "corpus", None)), tmp_path / "data",
        how, [], 0.9, 1,
    )  # fmt: skip
    assert {split: (c["kept"], c["rejected"]) for split, c in counts.items()} == {
        "train": (1, 3), "dev": (1, 0), "test": (2, 0),
    }  # fmt: skip
    lines = (tmp_path / "data" / "rejected.tsv").read_text("utf-8").splitlines()[1:]
    listed = {line.split("\t")[0]: line.split("\t")[1:] for line in lines}
    assert listed["common_voice_hi_3"] == [
        "train", "missing clip: common_voice_hi_3.mp3", f"{release}/hi/train.tsv:4",
    ]  # fmt: skip
    assert listed["common_voice_hi_2"][1] == "empty audio file"
    assert listed["common_voice_hi_1"][1].startswith(("unreadable", "truncated"))


def test_what_an_unsafe_archive_holds_stays_inside(release: Path, tmp_path: Path) -> None:
    """Names that leave the folder are refused, or never asked for; links are refused."""
    write_table(
        release / "hi" / "train.tsv",
        [row("common_voice_hi_1.mp3", "अच्छा"), row("../../../../escaped.mp3", "बाहर")],
    )
    for number, (name, kind) in enumerate(
        [
            (f"{RELEASE}/hi/clips/../../../../escaped.mp3", tarfile.REGTYPE),
            (f"{RELEASE}/hi/clips/common_voice_hi_1.mp3", tarfile.SYMTYPE),
            (f"{RELEASE}/hi/clips/common_voice_hi_1.mp3", tarfile.LNKTYPE),
            ("../train.tsv", tarfile.REGTYPE),
            (str(tmp_path / "absolute" / "train.tsv"), tarfile.REGTYPE),
        ]
    ):
        archive = pack(release, tmp_path / f"{number}.tar.gz")
        with tarfile.open(archive) as tar:
            members = [(m, tar.extractfile(m).read()) for m in tar]  # type: ignore[union-attr]
        with tarfile.open(archive, "w:gz") as tar:
            for member, content in members:
                if member.name != name:
                    tar.addfile(member, io.BytesIO(content))
            member = tarfile.TarInfo(name)
            member.type, member.linkname, member.size = kind, "/etc/passwd", 0
            tar.addfile(member)
        options = Options(corpus=str(archive))
        if number == 0:
            fetch(options, tmp_path / "corpus0")
            _, bad = read(options, tmp_path / "corpus0")
            assert [one.reason for one in bad] == ["clip outside clips/: ../../../../escaped.mp3"]
        else:
            with pytest.raises(UserError, match="refused to unpack"):
                fetch(options, tmp_path / f"corpus{number}")
            assert not (tmp_path / f"corpus{number}" / "fetched.json").exists()
    assert not list(tmp_path.rglob("escaped*")) and not (tmp_path / "absolute").exists()
    assert [path for path in tmp_path.rglob("*") if path.is_symlink()] == []


def test_bad_input_is_a_sentence(release: Path, tmp_path: Path) -> None:
    folder = tmp_path / "corpus"
    with pytest.raises(UserError, match="--corpus: get the archive of 'hi' from Mozilla Data"):
        fetch(Options(), folder)
    with pytest.raises(UserError, match="does not exist"):
        fetch(Options(corpus=str(tmp_path / "nowhere")), folder)
    with pytest.raises(UserError, match="run stage 0"):
        read(Options(), folder)
    with pytest.raises(UserError, match="no folder 'sw' that holds train.tsv.* but hi, ta; give"):
        fetch(Options(corpus=str(release)), folder, "sw")
    (tmp_path / "hi.tar.gz").write_bytes(b"not an archive")
    with pytest.raises(UserError, match="neither a tar nor a zip"):
        fetch(Options(corpus=str(tmp_path / "hi.tar.gz")), folder)
    (release.parent / "cv-corpus-12.0-2022-12-07").symlink_to(release)
    with pytest.raises(UserError, match="there are cv-corpus-11.*/hi and cv-corpus-12.*/hi"):
        fetch(Options(corpus=str(release.parent)), folder)
    (release / "hi" / "test.tsv").write_text("client_id\tpath\ttext\n")
    with pytest.raises(UserError, match="test.tsv:1: no column sentence among 'client_id, path"):
        fetch(Options(corpus=str(release)), folder)
    (release / "hi" / "test.tsv").write_text("")
    with pytest.raises(UserError, match="test.tsv:1: no column client_id, path, sentence"):
        fetch(Options(corpus=str(release)), folder)
    (release / "hi" / "test.tsv").unlink()
    with pytest.raises(UserError, match="cv-corpus-11.*/hi has no test.tsv: give --corpus a whole"):
        fetch(Options(corpus=str(release)), folder)


def test_rows_without_a_header(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_bytes(b"\xef\xbb\xbf1\t2\r\n\r\n3\t4\t5\n6\t\n7\t8")
    found = list(tables.rows(tmp_path / "a.tsv", width=2))
    assert [(one.line, one.fields, bool(one.problem)) for one in found] == [
        (1, ["1", "2"], False),
        (3, ["3", "4", "5"], True),
        (4, ["6", ""], False),
        (5, ["7", "8"], False),
    ]
    with pytest.raises(UserError, match="no such table"):
        next(tables.rows(tmp_path / "none.tsv"))


@pytest.mark.parametrize("packed", [False, True])
def test_all_that_was_validated_may_train(
    release: Path, tmp_path: Path, packed: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """But no speaker and no sentence of dev and test, however the sentence is written."""
    hi, clip = release / "hi", "common_voice_hi_{}.mp3".format
    (of_dev,) = (hi / "dev.tsv").read_text("utf-8").splitlines()[1:]
    speaker = of_dev.split("\t")[0]
    rows = [line for split in SENTENCES for line in (hi / f"{split}.tsv").read_text().splitlines()]
    rows = [line for line in rows if not line.startswith("client_id")]
    more = {
        50: ("बारिश हो रही है।", "client-new"),  # a sentence of train's once more
        51: ("एक और वाक्य", speaker),
        52: (f" {SENTENCES['dev'][0].replace(' ', '  ')}", "client-new"),
        53: ("हाँ", "client-new"),
        54: ("हाँ!", "client-new"),  # as it is said
        57: ("आप १२ बजे आए", "client-new"),  # as it is normalised
    }
    for number, (sentence, who) in more.items():
        tone(hi / "clips" / clip(number))
        rows.append(row(clip(number), sentence, speaker=who))
    nameless = {55: "बिना नाम के", 56: "आप 12 बजे आए?"}  # which makes them no one speaker
    for number, sentence in nameless.items():
        tone(hi / "clips" / clip(number))
        rows.append("\t" + row(clip(number), sentence).partition("\t")[2])
    write_table(hi / "dev.tsv", [of_dev, rows[-1]])
    write_table(hi / "validated.tsv", rows)
    source = pack(release, tmp_path / f"{RELEASE}-hi.tar.gz") if packed else release
    options, folder = Options(corpus=str(source), train="validated"), tmp_path / "corpus"
    fetch(options, folder)
    assert "validated.tsv: 10 of 15 rows are left out of train" in capsys.readouterr().err
    good, bad = read(options, folder)
    assert bad == []
    splits = {each.id.split("_")[-1]: each.split for each in good}
    # Of train's own four the third says what test says, too: "हाँ".
    assert splits == dict.fromkeys(("1", "2", "4", "50", "55"), "train") | {
        "5": "dev", "56": "dev", "6": "test", "7": "test"
    }  # fmt: skip
    assert marker.stored(folder)["train"] == "validated"

    with pytest.raises(UserError, match="made with corpus.train validated, but now it is train"):
        read(Options(), folder)
    fetch(Options(corpus=str(source)), folder)
    assert "train" not in marker.stored(folder) and len(read(Options(), folder)[0]) == 8
    with pytest.raises(UserError, match="corpus.train is 'other': it is train or validated"):
        Options(train="other")
