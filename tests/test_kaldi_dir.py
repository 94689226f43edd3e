"""adakd.corpora.kaldi_dir and .kaldi_tables: what the tables say comes out, and what is wrong."""

from __future__ import annotations

import json
import re
import subprocess
import textwrap
from pathlib import Path

import pytest
import tiny_corpora
import tiny_recipe
from tiny_corpora import append

from adakd import config as configuration
from adakd.corpora import SPLITS, Rejected, Utterance, kaldi_dir, kaldi_tables
from adakd.errors import UserError
from adakd.place import Place
from adakd.stages import preparation

REPOSITORY = Path(__file__).parents[1]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tiny_corpora.kaldi(tmp_path / "egs")


def read(data: Path, **options: str) -> tuple[dict[str, Utterance], list[Rejected]]:
    settings = kaldi_dir.Options(corpus=str(data), **options)
    folder = data.parents[2] / "corpus"
    kaldi_dir.fetch(settings, folder, "sw")
    rows = list(kaldi_dir.utterances(settings, folder, None))
    used = [row for row in rows if isinstance(row, Utterance)]
    assert len({row.id for row in used}) == len(used)
    return {row.id: row for row in used}, [row for row in rows if isinstance(row, Rejected)]


def test_ids_that_look_alike_are_told_from_others(data: Path) -> None:
    """As of a corpus that a Mac copied: the same letters in other code points."""
    dev = data / "dev"
    append(dev / "text", "cafe\u0301 maji", "the\u0301 maji")
    append(dev / "utt2spk", "caf\u00e9 s9", "the\u0301 s9")
    reasons = {row.id: row.reason for row in read(data)[1]}
    assert reasons["the\u0301"] == "not in segments"
    alike = "where it has another Unicode form (NFC, NFD)"
    assert reasons["cafe\u0301"] == f"not in segments, utt2spk, {alike}"


def table(path: Path, *lines: bytes) -> list[kaldi_tables.Row | Rejected]:
    path.write_bytes(b"".join(lines))
    return list(kaldi_tables.rows(path, "train"))


def test_a_table_is_read_as_people_write_it(tmp_path: Path) -> None:
    found = table(
        tmp_path / "text",
        b"\xef\xbb\xbfa  one\ttwo \r\n",
        b" \r\n",
        b"b\n",
        "c\t\u3000三 \u2028四\n".encode(),  # an ideographic space and a line separator are text
        b"d\tlast",
    )
    assert found == [
        ("a", "one\ttwo", 1),
        ("b", "", 3),
        ("c", "\u3000三 \u2028四", 4),
        ("d", "last", 5),
    ]


def test_a_line_in_another_encoding_is_told(tmp_path: Path) -> None:
    found = table(tmp_path / "text", b"a eins\n", b"b f\xfcnf\n", b"c drei\n")
    assert found[0] == ("a", "eins", 1) and found[2] == ("c", "drei", 3)
    place = f"{tmp_path / 'text'}:2"
    assert found[1] == Rejected("text:2", "train", "not UTF-8: byte 4 of the line", place)


def test_all_that_the_tables_say(data: Path) -> None:
    found, rejected = read(data)
    assert rejected == []
    splits = [row.split for row in found.values()]
    assert {split: splits.count(split) for split in tiny_corpora.SPLITS} == tiny_corpora.SAID
    s5 = data.parent
    assert found["train-s0-00"] == Utterance(
        *("train-s0-00", "train", s5 / "wav" / "train-s0-00.wav", "asubuhi maji", "train-s0", "")
    )
    cut = found["dev-s1-01"]
    assert (cut.audio, cut.start, cut.end) == (s5 / "wav" / "long.flac", 0.5, 1.0)
    assert (found["dev-s0-03"].start, found["dev-s0-03"].end) == (1.5, None)
    whole = found["test-s2-05"]
    assert whole.audio == data.parents[1] / "audio here" / "test-s2-05.wav"
    assert (whole.start, whole.end, whole.speaker) == (None, None, "")
    assert all(row.audio.is_file() for row in found.values())


def test_whatever_does_not_fit_is_listed_with_its_place(data: Path) -> None:
    train, dev = data / "train", data / "dev"
    append(train / "wav.scp", "alone-in-scp wav/a.wav", "no-path", "train-s0-00 wav/again.wav")
    append(train / "text", "alone-in-text maji", "train-s1-01 tena", "no-speaker maji", "no-path x")
    append(train / "utt2spk", "alone-in-utt2spk s9", "no-path s9")
    append(train / "wav.scp", "no-speaker wav/b.wav")
    with open(train / "text", "ab") as file:
        file.write(b"bad-bytes \xff\n")
    append(
        dev / "segments", "lost nowhere 0 1", "odd long 0", "odd2 long zero 1", "odd3 long 0 1 A"
    )
    for one in ("lost", "odd", "odd2", "odd3"):
        append(dev / "text", f"{one} maji")
        append(dev / "utt2spk", f"{one} s9")
    append(dev / "wav.scp", "unused wav/unused.wav", "untold wav/untold.wav")
    append(dev / "segments", "no-text untold 0 1")
    found, rejected = read(data)
    assert len(found) == sum(tiny_corpora.SAID.values())
    assert found["train-s0-00"].audio.name == "train-s0-00.wav"  # the first of two lines stands
    assert {
        (row.id, row.split, row.reason, Path(row.where).relative_to(data).as_posix())
        for row in rejected
    } == {
        ("alone-in-scp", "train", "not in text", "train/wav.scp:13"),
        ("no-path", "train", "no path in wav.scp", "train/wav.scp:14"),
        ("train-s0-00", "train", "id twice in wav.scp, first in line 1", "train/wav.scp:15"),
        ("alone-in-text", "train", "not in wav.scp, utt2spk", "train/text:13"),
        ("train-s1-01", "train", "id twice in text", "train/text:14"),
        ("no-speaker", "train", "not in utt2spk", "train/text:15"),
        ("text:17", "train", "not UTF-8: byte 11 of the line", "train/text:17"),
        ("alone-in-utt2spk", "train", "not in text", "train/utt2spk:13"),
        ("lost", "dev", "segment of an unknown recording: nowhere", "dev/segments:5"),
        *(
            (one, "dev", f"broken segment: '{value}' is not a recording and two times", f"dev/{at}")
            for one, value, at in (
                ("odd", "long 0", "segments:6"),
                ("odd2", "long zero 1", "segments:7"),
                ("odd3", "long 0 1 A", "segments:8"),
            )
        ),
        ("unused", "dev", "recording without a segment", "dev/wav.scp:2"),
        ("no-text", "dev", "not in text", "dev/segments:9"),
    }
    assert len(rejected) == 14, "nothing is listed twice"


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("sph2pipe -f wav a.sph |", "is a command"),
        ("flac -dc wav/a.flac|", "is a command"),
        ("dump/wav.ark:1234", "is a place in a Kaldi archive"),
        ("wav.ark:57[0:100]", "is a place in a Kaldi archive"),
    ],
)
def test_paths_only(data: Path, value: str, words: str, capsys: pytest.CaptureFixture) -> None:
    append(data / "dev" / "wav.scp", f"bad {value}")
    place = f"{data / 'dev' / 'wav.scp'}:2"
    with pytest.raises(UserError) as refused:
        read(data)
    assert str(refused.value).startswith(f"{place}: '{value}' {words}")
    shown = re.search(r"as (recipes/\S+) shows$", str(refused.value))
    assert (shown is not None) == ("command" in words)
    if shown:
        assert "wav.scp" in (REPOSITORY / shown[1]).read_text(encoding="utf-8")
    assert not (data.parents[2] / "corpus" / "fetched.json").exists()


def written(s5: Path, split: str) -> subprocess.CompletedProcess:
    """Run what recipes/kaldi/any/README.md gives for a wav.scp with commands."""
    readme = (REPOSITORY / "recipes" / "kaldi" / "any" / "README.md").read_text(encoding="utf-8")
    snippet = re.search(r"^    data=data/train.*?(?=^\S)", readme, re.MULTILINE | re.DOTALL)
    assert snippet
    code = textwrap.dedent(snippet[0]).replace("train", split)
    return subprocess.run(["bash", "-c", code], cwd=s5, capture_output=True, text=True)


def test_what_commands_make_can_be_written_to_files(data: Path) -> None:
    s5, scp = data.parent, data / "test" / "wav.scp"
    paths = scp.read_text()
    first, second, third, *others = (line.split(" ", 1) for line in paths.splitlines())
    sound = Path(second[1]).read_bytes()
    (s5 / "kept.wav").write_bytes(sound)
    lines = [
        f"{first[0]} cat '{first[1]}' |",
        f"{second[0]}\tcat kept.wav | cat|",  # from where Kaldi's scripts run; a pipe inside
        f"{third[0]} cat; cat '{third[1]}' |  ",  # reads none of wav.scp
        *(" ".join(other) for other in others),
    ]
    lines[1] += "\r"  # from Windows
    scp.write_bytes("\n".join(lines).encode())  # the last line without an end
    given = scp.read_text()
    with pytest.raises(UserError, match="is a command"):
        read(data)
    done = written(s5, "test")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (data / "test" / "wav.scp.commands").read_text() == given
    found, rejected = read(data)
    assert rejected == [] and len(found) == sum(tiny_corpora.SAID.values())
    for key, path in (first, second, third):
        assert found[key].audio == s5 / "written" / "test" / f"{key}.wav"
        assert found[key].audio.read_bytes() == Path(path).read_bytes()
    assert [str(found[key].audio) for key, _ in others] == [path for _, path in others]


@pytest.mark.parametrize("broken", ["cat nowhere.wav |", "cat nowhere.wav | cat |"])
def test_a_command_that_fails_leaves_wav_scp_as_it_was(data: Path, broken: str) -> None:
    scp = data / "dev" / "wav.scp"
    append(scp, f"a {broken}", "b touch later |")
    given = scp.read_text()
    done = written(data.parent, "dev")
    assert done.returncode == 1
    assert done.stderr.endswith(f"a: failed: {broken}\n")
    assert scp.read_text() == given
    assert not (data.parent / "later").exists()


def mark(data: Path, split: str, number: int, words: str) -> str:
    """Put other words in the place of a transcript's; returns its id."""
    path = data / split / "text"
    lines = path.read_text(encoding="utf-8").splitlines()
    key = lines[number - 1].split()[0]
    lines[number - 1] = f"{key} {words}"
    tiny_corpora.write_lines(path, lines)
    return key


def test_markers_in_transcripts_are_refused_until_they_are_dropped(
    data: Path, capsys: pytest.CaptureFixture
) -> None:
    one = mark(data, "train", 3, "<unk>  maji [noise] <unk>")
    two = mark(data, "dev", 2, "{breath} !SIL\tasubuhi <SPOKEN_NOISE> <unk>")
    three = mark(data, "test", 4, "[noise] <unk> <unk>")
    with pytest.raises(UserError) as refused:
        read(data)
    assert str(refused.value) == (
        f"{data / 'train' / 'text'}:3: markers in transcripts, which would be learnt as words, in "
        "all splits together: <unk> 5x, [noise] 2x, {breath} 1x, !SIL 1x, <SPOKEN_NOISE> 1x; take "
        "them out with --corpus.drop_tokens '<unk> [noise] {breath} !SIL <SPOKEN_NOISE>', or take "
        "the brackets (or the !) away where one is a word"
    )
    assert not (data.parents[2] / "corpus" / "fetched.json").exists()
    with pytest.raises(UserError) as refused:
        read(data, drop_tokens="<unk> {breath} <SPOKEN_NOISE>")
    assert str(refused.value).startswith(f"{data / 'train' / 'text'}:3: ")
    assert "together: [noise] 2x, !SIL 1x; take" in str(refused.value)
    assert "'<unk> {breath} <SPOKEN_NOISE> [noise] !SIL', or" in str(refused.value), "all together"
    capsys.readouterr()
    found, rejected = read(data, drop_tokens=" <unk> {breath} <SPOKEN_NOISE>\t[noise] !SIL asu uh")
    assert (found[one].text, found[two].text) == ("maji", "asubuhi"), "whole tokens alone"
    assert rejected == [
        Rejected(
            *(three, "test", "transcript empty without corpus.drop_tokens: [noise] <unk> <unk>"),
            f"{data / 'test' / 'text'}:4",
        )
    ]
    said = capsys.readouterr().err
    taken = "<unk> 5x, {breath} 1x, <SPOKEN_NOISE> 1x, [noise] 2x, !SIL 1x, asu 0x, uh 0x"
    assert f"{data}: taken out of transcripts: {taken}\n" in said


def test_the_most_frequent_markers_are_named(data: Path) -> None:
    mark(data, "test", 1, " ".join(f"<m{number:02}>" for number in range(13)))
    mark(data, "test", 2, "<m12> <m12> <m11>")
    named = ["<m12> 3x", "<m11> 2x", *(f"<m{number:02}> 1x" for number in range(8))]
    with pytest.raises(UserError) as refused:
        read(data)
    assert f"together: {', '.join(named)}, and 3 more; take" in str(refused.value)


@pytest.mark.parametrize(
    "words", ["3 < 5 > 2", "<3 a[ 0 ] {", "habari! ! !sil !A Aha!x a!SIL", "<> [] {}"]
)
def test_what_is_no_marker_stays_as_it_is(data: Path, words: str) -> None:
    key = mark(data, "train", 2, words)
    found, rejected = read(data)
    assert rejected == [] and found[key].text == words


def test_markers_within_words_and_with_spaces_inside_are_found_and_dropped(data: Path) -> None:
    glued = mark(data, "train", 3, "嗯[LAUGHTER]对<NOISE>")
    spaced = mark(data, "dev", 2, "maji [background <NOISE> noise], [LAUGHTER].")
    with pytest.raises(UserError) as refused:
        read(data)
    told = "together: [LAUGHTER] 2x, <NOISE> 1x, [background <NOISE> noise] 1x; take"
    assert told in str(refused.value)
    tokens = "[LAUGHTER] <NOISE>"
    with pytest.raises(
        UserError, match=re.escape("together: [background noise] 1x; take")
    ) as next_:
        read(data, drop_tokens=tokens)
    tokens += " [background noise]"
    assert f"--corpus.drop_tokens '{tokens}', or" in str(next_.value)
    found, rejected = read(data, drop_tokens=tokens)
    assert rejected == [] and (found[glued].text, found[spaced].text) == ("嗯 对", "maji , .")


def test_a_table_in_which_each_utterance_is_its_own_speaker_names_none(data: Path) -> None:
    own = data / "dev" / "utt2spk"
    ids = [line.split()[0] for line in own.read_text(encoding="utf-8").splitlines()]
    tiny_corpora.write_lines(own, [f"{key} {key}" for key in ids])
    found, _ = read(data)
    speakers = {split: {u.speaker for u in found.values() if u.split == split} for split in SPLITS}
    assert speakers["dev"] == {""} and all(speakers["train"])


def test_noise_alone_does_not_become_audio_without_a_transcript(data: Path) -> None:
    noise = mark(data, "train", 2, "[noise] <unk>")
    silent_one = mark(data, "train", 5, "")
    found, (rejected,) = read(data, drop_tokens="<unk> [noise]")
    assert found[silent_one].text == "", "as whoever wrote the table meant it"
    assert rejected.id == noise and rejected.where == f"{data / 'train' / 'text'}:2"


def test_a_marker_without_dropped_tokens_is_as_it_was_before_there_were_any(data: Path) -> None:
    """Else every Kaldi corpus would be prepared anew for the sake of an option."""
    read(data)
    marker = data.parents[2] / "corpus" / "fetched.json"
    assert "drop_tokens" not in json.loads(marker.read_text(encoding="utf-8"))["settings"]


def test_other_dropped_tokens_are_noticed(data: Path) -> None:
    mark(data, "train", 2, "maji [noise]")
    read(data, drop_tokens="[noise]")
    folder = data.parents[2] / "corpus"
    for now in ("", "[noise] <unk>"):
        said = now or "None"
        change = re.escape(f"corpus.drop_tokens [noise], but now it is {said}; run stage 0 again")
        with pytest.raises(UserError, match=change):
            next(kaldi_dir.utterances(kaldi_dir.Options(drop_tokens=now), folder, None))


def test_tokens_from_the_command_line_are_text_and_no_yaml() -> None:
    for tokens in ("[noise] <unk>", "!SIL", "{breath}", ""):
        recipe = REPOSITORY / "recipes" / "kaldi" / "any"
        given = {"corpus.drop_tokens": tokens, "language.code": "sw"}
        found = preparation.corpus_options(configuration.load(recipe, "wav2vec2", given))[1]
        assert found.drop_tokens == tokens


@pytest.mark.parametrize(
    ("start", "above"),
    [("s5", ""), ("", "s5/"), ("s5/data", ""), ("s5/data/train", "")],
)
def test_where_relative_paths_start(
    data: Path, start: str, above: str, capsys: pytest.CaptureFixture
) -> None:
    egs = data.parents[1]
    if start == "":
        lines = (data / "train" / "wav.scp").read_text().replace("\twav/", "\ts5/wav/")
        (data / "train" / "wav.scp").write_text(lines)
    elif start != "s5":
        (egs / "s5" / "wav").rename(egs / start / "wav")
        (egs / "s5" / "wav").mkdir()  # it is files that are looked for
    found, _ = read(data)
    assert found["train-s0-00"].audio == egs / start / f"{above}wav" / "train-s0-00.wav"
    said = capsys.readouterr().err
    assert f"train/wav.scp: relative paths start from {egs / start}\n" in said
    assert "test/wav.scp" not in said, "absolute paths start from nowhere"


def test_an_option_says_where_relative_paths_start(data: Path, tmp_path: Path) -> None:
    found, _ = read(data, relative_to=str(tmp_path / "elsewhere"))
    assert found["train-s0-00"].audio == tmp_path / "elsewhere" / "wav" / "train-s0-00.wav"
    assert found["test-s0-00"].audio.is_file()


def test_other_names(data: Path) -> None:
    (data / "train").rename(data / "train_sp")
    with pytest.raises(UserError, match=r"train/wav\.scp is missing; .* --corpus\.train"):
        read(data)
    found, _ = read(data, train="train_sp")
    assert len(found) == sum(tiny_corpora.SAID.values())


def test_stage_0_is_remembered_and_must_fit(data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "corpus"
    with pytest.raises(UserError, match="corpus: a Kaldi-style corpus is not here; run stage 0"):
        next(kaldi_dir.utterances(kaldi_dir.Options(), folder, None))
    with pytest.raises(UserError, match="give --corpus"):
        kaldi_dir.fetch(kaldi_dir.Options(), folder, "sw")
    with pytest.raises(UserError, match="nowhere' does not exist"):
        kaldi_dir.fetch(kaldi_dir.Options(corpus=str(tmp_path / "nowhere")), folder, "sw")
    with pytest.raises(UserError, match="text' is a file, unpack it"):
        given = kaldi_dir.Options(corpus=str(data / "train" / "text"))
        kaldi_dir.fetch(given, folder, "sw")
    kaldi_dir.fetch(kaldi_dir.Options(corpus=str(data)), folder, "sw")
    marker = folder / "fetched.json"
    first = (marker.read_text(), marker.stat().st_mtime_ns)
    kaldi_dir.fetch(kaldi_dir.Options(), folder, "sw")  # as given before
    assert (marker.read_text(), marker.stat().st_mtime_ns) == first
    assert list(kaldi_dir.utterances(kaldi_dir.Options(), folder, None))
    with pytest.raises(UserError, match="made with corpus.dev dev, but now it is test; run stage"):
        next(kaldi_dir.utterances(kaldi_dir.Options(dev="test"), folder, None))
    with pytest.raises(UserError, match="made with corpus.corpus .*; run stage 0"):
        next(kaldi_dir.utterances(kaldi_dir.Options(corpus=str(tmp_path)), folder, None))
    for edit, words in (
        (lambda: append(data / "dev" / "text", "one more"), "dev/text has changed"),
        (lambda: (data / "dev" / "utt2spk").unlink(), "dev/utt2spk is gone"),
        (lambda: append(data / "test" / "utt2spk", "x y"), "test/utt2spk is new"),
    ):
        edit()
        with pytest.raises(UserError, match=f"{words} since stage 0; run stage 0 again"):
            next(kaldi_dir.utterances(kaldi_dir.Options(), folder, None))
        before = marker.read_text()
        kaldi_dir.fetch(kaldi_dir.Options(), folder, "sw")
        assert marker.read_text() != before, "a changed table is noticed"
        assert list(kaldi_dir.utterances(kaldi_dir.Options(), folder, None))


@pytest.mark.parametrize("family", ["wav2vec2", "whisper"])
def test_a_train_of_which_all_is_rejected_is_told_with_its_first_line(
    data: Path, tmp_path: Path, family: str
) -> None:
    scp = data / "train" / "wav.scp"
    scp.write_text("".join(f"x-{line}\n" for line in scp.read_text().splitlines()))
    corpus = {"kind": "kaldi_dir", "corpus": str(data)}
    here = Place(tmp_path / "root", tiny_recipe.config(family, corpus=corpus))
    preparation.corpus(here)
    with pytest.raises(UserError, match=r"all \d+ utterances of train .*text:1\) .*not in wav.scp"):
        preparation.prepare(here)


def test_an_empty_table_is_told(data: Path, tmp_path: Path) -> None:
    def fetch(name: str) -> None:
        kaldi_dir.fetch(kaldi_dir.Options(corpus=str(data)), tmp_path / name, "sw")

    for path in (data / "test").iterdir():
        path.write_text("")
    fetch("without test")
    (data / "train" / "text").write_text("")
    with pytest.raises(UserError, match="train/text is empty"):
        fetch("without text")


def test_capitals_are_not_learnt_as_unknown_by_a_teacher_of_small_letters(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from adakd import models

    for path in data.glob("*/text"):
        rows = [line.split(maxsplit=1) for line in path.read_text(encoding="utf-8").splitlines()]
        tiny_corpora.write_lines(path, [f"{key} {text.upper()}" for key, text in rows])
    units = tiny_recipe.train_units("wav2vec2", tmp_path / "units", ["abcdefghijklmnopqrstuvwxyz"])
    models.load(tiny_recipe.config("wav2vec2"), "teacher", units).save(tmp_path / "source")
    for normalise in (False, True):
        here = Place(
            tmp_path / "root",
            tiny_recipe.config(
                "wav2vec2",
                corpus={"kind": "kaldi_dir", "corpus": str(data)},
                teacher={"source": str(tmp_path / "source")},
                units={"kind": "source"},
                data={"normalise": normalise, "jobs": 1},
            ),
        )
        preparation.corpus(here)
        if not normalise:
            with pytest.raises(UserError, match=r"train: .* not among the text units.*'A' U\+0041"):
                preparation.prepare(here)
    preparation.prepare(here)
    assert len(here.manifest("train")) == tiny_corpora.SAID["train"]
    assert "not among" not in capsys.readouterr().err
