"""Stage 1 keeps the good, lists the bad, converts once, and stops when too much is bad."""

from __future__ import annotations

import csv
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
import zlib
from concurrent.futures import ProcessPoolExecutor
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from adakd import workers
from adakd.corpora import Rejected, Utterance
from adakd.data import audio, manifest
from adakd.data import prepare as stage
from adakd.data.manifest import Entry
from adakd.errors import UserError

CLIPS = {field.name for field in fields(stage.Clips)}
RATES = {"train": 16_000, "dev": 8_000, "test": 44_100}


def make_corpus(root: Path, each: int = 2) -> list[Utterance]:
    """`each` utterances of one second in each split, at the rates above."""
    root.mkdir(parents=True, exist_ok=True)
    utterances = []
    for split, rate in RATES.items():
        for number in range(each):
            path = root / f"{split}{number}.wav"
            wave = 0.1 * np.sin(np.arange(rate) * 2 * np.pi * 300 / rate)
            soundfile.write(path, wave, rate)
            utterances.append(Utterance(path.stem, split, path, f"नमस्ते, {number}!", split, "hi"))
    return utterances


def run(root: Path, utterances: list[Utterance], **changes: object) -> dict[str, stage.Counts]:
    options: dict = dict(limits=[], max_rejected=0.9, jobs=1)
    how: dict = dict(
        folder=root / "data" / "audio",
        root=root,
        language="hi",
        min_seconds=0.1,
        max_seconds=30.0,
        normalise=True,
    )
    for name, value in changes.items():
        (how if name in CLIPS else options)[name] = value
    return stage.prepare(utterances, root / "data", stage.Clips(**how), **options)


def rejected(root: Path) -> dict[str, dict[str, str]]:
    with open(root / "data" / "rejected.tsv", encoding="utf-8", newline="") as file:
        return {row["id"]: row for row in csv.DictReader(file, delimiter="\t")}


def entries(root: Path, split: str) -> list[Entry]:
    return list(manifest.read(root / "data" / f"{split}.jsonl"))


def test_good_utterances(tmp_path: Path) -> None:
    utterances = make_corpus(tmp_path / "corpus")
    counts = run(tmp_path, utterances)
    assert counts == {s: {"kept": 2, "rejected": 0, "seconds": 2.0} for s in RATES}
    assert json.loads((tmp_path / "data" / "counts.json").read_text()) == counts
    assert rejected(tmp_path) == {}
    train, dev = entries(tmp_path, "train"), entries(tmp_path, "dev")
    assert train[0] == Entry(
        "train0", "corpus/train0.wav", 1.0, "नमस्ते 0", "नमस्ते, 0!", "train", "hi"
    )
    checksum = 0
    for number in (0, 1):
        samples, _ = soundfile.read(tmp_path / "corpus" / f"train{number}.wav", dtype="int16")
        checksum = zlib.crc32(zlib.crc32(samples.tobytes()).to_bytes(4, "big"), checksum)
    checksums = json.loads((tmp_path / "data" / "checksums.json").read_text())
    assert checksums.keys() == RATES.keys() and checksums["train"] == f"{checksum:08x}"
    converted = tmp_path / dev[1].audio
    assert converted.is_relative_to(tmp_path / "data" / "audio") and "dev1" in converted.name
    header = soundfile.info(converted)
    assert (header.samplerate, header.channels, header.format) == (16_000, 1, "FLAC")


def test_training_audio_without_a_transcript_can_be_kept(tmp_path: Path) -> None:
    utterances = make_corpus(tmp_path / "corpus", each=3)
    bare = [one if one.id.endswith("0") else replace(one, text=" ") for one in utterances]
    counts = run(tmp_path, bare, untranscribed=True)
    kept = entries(tmp_path, "untranscribed")
    assert [(one.id, one.text, one.seconds) for one in kept] == [
        ("train1", "", 1.0),
        ("train2", "", 1.0),
    ]
    assert [entry.id for entry in entries(tmp_path, "train")] == ["train0"]
    assert counts["untranscribed"] == {"kept": 2, "rejected": 0, "seconds": 2.0}
    # Nothing could be scored against what dev and test do not say.
    listed = {key: row["reason"] for key, row in rejected(tmp_path).items()}
    assert listed == dict.fromkeys(("dev1", "dev2", "test1", "test2"), "empty transcript")
    # Limits of the models hold for it, too.
    limits = [lambda entry: "too much for the encoder" if entry.id == "train1" else None]
    run(tmp_path, bare, untranscribed=True, limits=limits)
    assert [entry.id for entry in entries(tmp_path, "untranscribed")] == ["train2"]
    assert "untranscribed" not in run(tmp_path, bare)
    assert not (tmp_path / "data" / "untranscribed.jsonl").exists()


def test_audio_outside_the_root_is_absolute(tmp_path: Path) -> None:
    run(tmp_path / "root", make_corpus(tmp_path / "elsewhere", each=1))
    assert entries(tmp_path / "root", "train")[0].audio == str(tmp_path / "elsewhere/train0.wav")


def test_segments_are_cut(tmp_path: Path) -> None:
    base, *rest = make_corpus(tmp_path, each=1)
    parts = [replace(base, id="first", end=0.4), replace(base, id="second", start=0.4)]
    run(tmp_path, [*parts, *rest])
    assert [entry.seconds for entry in entries(tmp_path, "train")] == [0.4, 0.6]
    # The corpus mends its segments: clips of the old ones must not be believed.
    run(tmp_path, [replace(parts[0], end=0.5), replace(parts[1], start=0.5), *rest])
    assert [entry.seconds for entry in entries(tmp_path, "train")] == [0.5, 0.5]


def test_every_trouble_is_listed(tmp_path: Path) -> None:
    utterances = make_corpus(tmp_path)
    good = utterances[0]
    bad = {
        "no file": replace(good, audio=tmp_path / "none.wav"),
        "no text": replace(good, text=" \n"),
        "only marks": replace(good, text="…।"),
        "broken": replace(good, text="na\ufffdve"),
        "low rate": replace(good, audio=tmp_path / "low.wav"),
        "cut off": replace(good, audio=tmp_path / "cut.wav"),
        "nan": replace(good, audio=tmp_path / "nan.wav"),
        "garbage": replace(good, audio=tmp_path / "garbage.wav"),
        "short": replace(good, start=0.5, end=0.55),
        "long": replace(good, audio=tmp_path / "long.wav"),
        "limit": replace(good, text="x" * 50),
        "beyond": replace(good, start=2.0, end=3.0),
        "tab\tin it": replace(good, text=""),
        "silent": replace(good, audio=tmp_path / "silent.wav"),
        "cancelled": replace(good, audio=tmp_path / "cancelled.wav"),
        "not scaled": replace(good, audio=tmp_path / "scaled.wav"),
        "no such name": replace(good, audio=tmp_path / ("ä" * 128)),
    }
    wave = np.sin(np.arange(8_000))
    soundfile.write(tmp_path / "silent.wav", 0 * wave, 16_000)
    soundfile.write(tmp_path / "cancelled.wav", 0.5 * np.stack([wave, -wave], axis=1), 8_000)
    soundfile.write(tmp_path / "scaled.wav", 10_000 * wave, 8_000, subtype="FLOAT")
    soundfile.write(tmp_path / "low.wav", np.zeros(6_000), 6_000)
    (tmp_path / "cut.wav").write_bytes(good.audio.read_bytes()[:9_000])
    soundfile.write(tmp_path / "nan.wav", np.full(16_000, np.nan), 16_000, subtype="FLOAT")
    (tmp_path / "garbage.wav").write_bytes(b"RIFF" * 1_000)
    soundfile.write(tmp_path / "long.wav", np.zeros(8_000 * 3), 8_000)
    utterances += [replace(utterance, id=id) for id, utterance in bad.items()]

    def limit(entry: Entry) -> str | None:
        return f"too many labels: {len(entry.text)}" if len(entry.text) > 40 else None

    counts = run(tmp_path, utterances, max_seconds=2.5, limits=[lambda _: None, limit])
    rows = rejected(tmp_path)
    expected = {
        "no file": "missing audio file",
        "no text": "empty transcript",
        "only marks": "transcript empty once normalised",
        "broken": "broken characters in the transcript: U+FFFD",
        "low rate": "sampling rate too low",
        "cut off": "truncated audio",
        "nan": "samples that are not numbers",
        "garbage": "unreadable audio",
        "short": "too short",
        "long": "too long",
        "limit": "too many labels: 50",
        "beyond": "segment outside the file",
        "tab in it": "empty transcript",
        "silent": "silent audio",
        "cancelled": "silent audio",
        "not scaled": "samples beyond full scale: up to 10",
        "no such name": "unreadable audio: File name too long",
    }
    assert rows.keys() == expected.keys()
    for id, reason in expected.items():
        assert rows[id]["reason"].startswith(reason) and rows[id]["split"] == "train"
    assert rows["no file"]["where"] == str(tmp_path / "none.wav")
    assert rows["beyond"]["where"] == f"{good.audio} (2 s to 3 s)"
    assert counts["train"] == {"kept": 2, "rejected": 17, "seconds": 2.0}
    assert [entry.id for entry in entries(tmp_path, "train")] == ["train0", "train1"]
    kept_or_test = {Path(e.audio).name for s in ("dev", "test") for e in entries(tmp_path, s)}
    on_disk = {path.name for path in (tmp_path / "data" / "audio").rglob("*.*")}
    assert on_disk == kept_or_test  # nothing that is rejected was written


def test_no_unit_is_made_of_a_broken_character(tmp_path: Path) -> None:
    utterances = make_corpus(tmp_path)
    utterances[0] = replace(utterances[0], text="na\ufffdve")
    texts = list(stage.training_texts(utterances, "en", True))
    assert texts and "\ufffd" not in "".join(texts)


def test_too_many_rejections_stop_the_stage(tmp_path: Path) -> None:
    utterances = make_corpus(tmp_path)
    utterances[0] = replace(utterances[0], text="")
    utterances[2] = replace(utterances[2], audio=tmp_path / "a.wav")
    utterances[4] = replace(utterances[4], audio=tmp_path / "b.wav")
    with pytest.raises(
        UserError, match=r"3 of 6 .* \(2\) because of: missing audio file"
    ) as raised:
        run(tmp_path, utterances, max_rejected=0.49)
    assert str(tmp_path / "data" / "rejected.tsv") in str(raised.value)
    assert len(rejected(tmp_path)) == 3
    assert not (tmp_path / "data" / "train.jsonl").exists()
    assert run(tmp_path, utterances, max_rejected=0.5)["train"]["rejected"] == 1


def test_losing_a_whole_split_stops_the_stage(tmp_path: Path) -> None:
    utterances = make_corpus(tmp_path)
    utterances[2:4] = [replace(one, text="?") for one in utterances[2:4]]
    with pytest.raises(UserError, match="all 2 utterances of dev were rejected"):
        run(tmp_path, utterances)


@pytest.mark.parametrize("split", ["train", "dev"])
def test_a_split_that_the_corpus_lacks_stops_the_stage(tmp_path: Path, split: str) -> None:
    utterances = [one for one in make_corpus(tmp_path) if one.split != split]
    with pytest.raises(UserError, match=f"no transcribed utterance in {split},"):
        run(tmp_path, utterances, max_rejected=0.0)
    assert not (tmp_path / "data" / "test.jsonl").exists()


def test_training_audio_without_any_transcript_is_no_training_set_but_for_a_teacher(
    tmp_path: Path,
) -> None:
    bare = [replace(u, text="") if u.split == "train" else u for u in make_corpus(tmp_path)]
    # A clip that is rejected for its length counts under train.
    counts = run(tmp_path, bare, untranscribed=True)
    bare[0] = replace(bare[0], end=0.001)
    counts = run(tmp_path, bare, untranscribed=True, max_rejected=0.5)
    assert counts["train"] == {"kept": 0, "rejected": 1, "seconds": 0.0}
    assert entries(tmp_path, "train") == []
    assert len(entries(tmp_path, "untranscribed")) == counts["untranscribed"]["kept"] > 0
    with pytest.raises(UserError, match="of train were rejected, most often"):
        run(tmp_path, bare, max_rejected=1.0)


def test_a_corpus_without_a_test_set_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    counts = run(tmp_path, [one for one in make_corpus(tmp_path) if one.split != "test"])
    assert counts["test"]["kept"] == 0
    assert "no utterance in test" in capsys.readouterr().err


def test_equal_reasons_with_different_numbers_count_together(tmp_path: Path) -> None:
    utterances = make_corpus(tmp_path)
    limits = [lambda entry: f"{len(entry.id)}.5 labels but {entry.id[-1]} frames"]
    with pytest.raises(UserError, match=r"\(6\) because of: N labels but N frames"):
        run(tmp_path, utterances, limits=limits)


def test_duplicate_ids_name_both_places(tmp_path: Path) -> None:
    utterances = make_corpus(tmp_path)
    utterances[5] = replace(utterances[5], id="train0")
    with pytest.raises(UserError, match="'train0'") as raised:
        run(tmp_path, utterances)
    assert "train0.wav in train" in str(raised.value) and "test1.wav in test" in str(raised.value)


@pytest.mark.parametrize(
    ("change", "message"), [({"id": ""}, "no id"), ({"split": "valid"}, "unknown split 'valid'")]
)
def test_unusable_corpus(tmp_path: Path, change: dict, message: str) -> None:
    utterances = make_corpus(tmp_path, each=1)
    with pytest.raises(UserError, match=message):
        run(tmp_path, [replace(utterances[0], **change)])
    with pytest.raises(UserError, match="no utterances"):
        run(tmp_path, [])


def test_converts_only_what_is_missing_stale_or_spoilt(tmp_path: Path) -> None:
    utterances = make_corpus(tmp_path, each=4)
    run(tmp_path, utterances)
    clips = [tmp_path / entry.audio for entry in entries(tmp_path, "dev")]
    before = (tmp_path / "data" / "dev.jsonl").read_bytes()
    clips[0].unlink()
    clips[1].write_bytes(b"spoilt")
    now = clips[2].stat().st_mtime
    os.utime(utterances[6].audio, (now + 60, now + 60))
    inodes = [clip.stat().st_ino for clip in clips[1:]]
    run(tmp_path, utterances)
    assert (tmp_path / "data" / "dev.jsonl").read_bytes() == before
    assert clips[0].exists()
    after = [clip.stat().st_ino for clip in clips[1:]]
    assert after[0] != inodes[0] and after[1] != inodes[1] and after[2] == inodes[2]


@pytest.mark.parametrize("split", ["train", "dev"])  # used in place, and converted
def test_other_audio_has_another_checksum(tmp_path: Path, split: str) -> None:
    """Of the same ids and lengths, from sources older than the clips: as tar and rsync put them."""
    utterances = make_corpus(tmp_path, each=2)

    def told() -> tuple[bytes, dict[str, str]]:
        run(tmp_path, utterances)
        written = (tmp_path / "data" / f"{split}.jsonl").read_bytes()
        return written, json.loads((tmp_path / "data" / "checksums.json").read_text())

    manifest_before, before = told()
    first = entries(tmp_path, split)[0]
    source = next(one.audio for one in utterances if one.id == first.id)
    samples, rate = soundfile.read(source, dtype="int16")
    soundfile.write(source, samples // 2, rate)
    earlier = source.stat().st_mtime - 3600
    os.utime(source, (earlier, earlier))
    manifest_after, after = told()
    assert manifest_after == manifest_before
    assert after != before and {**after, split: before[split]} == before
    louder = np.abs(samples / 32768).max()
    assert np.abs(audio.read(tmp_path / first.audio)).max() < 0.6 * louder
    soundfile.write(source, samples, rate)
    assert told() == (manifest_before, before)


def test_contents_are_the_same_wherever_the_audio_lies(tmp_path: Path) -> None:
    def contents(folder: str, each: int = 2, **changes: str) -> dict[str, str]:
        root = tmp_path / folder
        utterances = [replace(one, **changes) for one in make_corpus(root / folder, each)]
        run(root, utterances)
        return {split: stage.contents(root / "data", split) for split in RATES}

    here = contents("here")
    assert len(set(here.values())) == 3
    assert (
        contents("there") == here
    )  # one is used where it lies, the others have names of their own
    audio_paths = [entries(tmp_path / folder, "dev")[0].audio for folder in ("here", "there")]
    assert audio_paths[0] != audio_paths[1]
    for number, change in enumerate(({"text": "एक"}, {"speaker": "x"}, {"condition": "Mic"})):
        other = contents(f"other{number}", **change)
        assert all(other[split] != here[split] for split in RATES), change
    fewer = contents("fewer", each=1)
    assert all(fewer[split] != here[split] for split in RATES)
    path = tmp_path / "here" / "data" / "checksums.json"  # of the samples, which texts do not tell
    path.write_text(path.read_text().replace('"dev": "', '"dev": "0'))
    louder = {split: stage.contents(path.parent, split) for split in RATES}
    assert {**louder, "dev": here["dev"]} == here and louder["dev"] != here["dev"]


@pytest.mark.parametrize("moment", [0, 315_532_800])  # 1970 and 1980
def test_other_audio_of_a_time_that_an_archive_made_up(tmp_path: Path, moment: int) -> None:
    utterances = make_corpus(tmp_path, each=1)
    for one in utterances:
        os.utime(one.audio, (moment, moment))
    time.sleep(0.05)  # a file system's clock ticks every few milliseconds
    run(tmp_path, utterances)
    clip = tmp_path / entries(tmp_path, "dev")[0].audio
    before, inode = audio.read(clip), clip.stat().st_ino
    run(tmp_path, utterances)
    assert clip.stat().st_ino == inode, "what a cut run has converted is kept"
    source = utterances[1].audio
    samples, rate = soundfile.read(source, dtype="int16")
    soundfile.write(source, samples // 2, rate)  # as large as before
    os.utime(source, (moment, moment))
    run(tmp_path, utterances)
    assert np.abs(audio.read(clip)).max() < 0.6 * np.abs(before).max()


def test_a_file_system_of_whole_seconds_makes_nothing_stale(tmp_path: Path) -> None:
    utterances = make_corpus(tmp_path, each=1)
    run(tmp_path, utterances)
    clip = tmp_path / entries(tmp_path, "dev")[0].audio
    inode, moment = clip.stat().st_ino, clip.stat().st_mtime_ns
    coarse = moment // 10**9 * 10**9
    os.utime(clip, ns=(coarse, coarse))
    run(tmp_path, utterances)
    assert clip.stat().st_ino == inode


def test_each_utterance_is_normalised_in_its_own_language(tmp_path: Path) -> None:
    train, dev, test = make_corpus(tmp_path, each=1)
    run(tmp_path, [replace(train, text="你 好", language="zh"), replace(dev, text="Ｘ　Y"), test])
    assert entries(tmp_path, "train")[0].text == "你好"
    assert entries(tmp_path, "dev")[0].text == "x y"
    run(tmp_path, [replace(train, text=" Hi,  you!\n", language=""), dev, test], normalise=False)
    assert entries(tmp_path, "train")[0].text == "Hi, you!"
    assert entries(tmp_path, "train")[0].language == "hi"


def test_processes_give_the_same_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # At 16 kHz alone, so that the processes need not load torch.
    utterances = [one for one in make_corpus(tmp_path, each=20) if one.split == "train"]
    utterances = [replace(one, end=0.5) for one in utterances]
    utterances[1] = replace(utterances[1], split="dev")
    utterances[3] = replace(utterances[3], text="")
    serial = run(tmp_path, utterances)
    manifests = [(tmp_path / "data" / n).read_bytes() for n in ("train.jsonl", "rejected.tsv")]
    monkeypatch.setattr(stage, "WORTH_PROCESSES", 1)
    assert run(tmp_path, utterances, jobs=2, limits=[lambda _: None]) == serial
    assert manifests == [
        (tmp_path / "data" / n).read_bytes() for n in ("train.jsonl", "rejected.tsv")
    ]


SCRIPT = """
import multiprocessing, sys, time
from pathlib import Path
from adakd.corpora import Rejected
from adakd.data import prepare as stage

if __name__ == "__main__":
    stage.CHUNK, stage.AHEAD = 1, 0
    clips = stage.Clips(Path("a"), Path("."), "hi", 0.1, 30.0, True)
    corpus = [Rejected("a", "train", "no clip", "here")] * 4
    for _ in stage._examine_all(corpus, clips, 2):
        print(*[worker.pid for worker in multiprocessing.active_children()], flush=True)
        time.sleep(600)
"""


def test_processes_end_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT, encoding="utf-8")
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        workers = [int(pid) for pid in parent.stdout.readline().split()]
        parent.kill()
        assert workers
        try:
            parent.communicate(timeout=20)  # until the last of them has closed what it inherited
        except subprocess.TimeoutExpired:
            for pid in workers:
                os.kill(pid, signal.SIGKILL)
            pytest.fail("workers live on")


def test_processes_leave_ctrl_c_to_their_parent() -> None:
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, context, initializer=stage.become_worker) as pool:
        assert pool.submit(signal.getsignal, signal.SIGINT).result() == signal.SIG_IGN


def test_processors_are_those_that_this_process_may_use() -> None:
    allowed = os.sched_getaffinity(0)
    assert workers.processors() == len(allowed)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        assert workers.processors() == 1
    finally:
        os.sched_setaffinity(0, allowed)


def test_targets_are_normalised_unless_told_otherwise(tmp_path: Path) -> None:
    train, dev, test = make_corpus(tmp_path, each=1)
    corpus = [replace(train, text="Ａ  B。", language="zh"), dev, test]
    run(tmp_path, [*corpus, replace(train, id="marks", text="'")])
    entry = entries(tmp_path, "train")[0]
    assert (entry.text, entry.raw) == ("a b", "Ａ  B。")
    assert rejected(tmp_path)["marks"]["reason"] == "transcript empty once normalised: '"
    run(tmp_path, [*corpus, replace(train, id="marks", text="'")], normalise=False)
    assert [entry.text for entry in entries(tmp_path, "train")] == ["Ａ B。"]
    assert rejected(tmp_path)["marks"]["reason"] == "transcript empty once normalised: '", (
        "its CER would be of nothing"
    )


def test_what_the_corpus_rejects_is_listed_and_counted(tmp_path: Path) -> None:
    utterances = make_corpus(tmp_path)
    rows = [
        Rejected("", "train", "no clip: the column 'path' is empty", "train.tsv:7"),
        Rejected("", "test", "too few columns: 3", "test.tsv:2"),
        Rejected("train0", "train", "no clip: outside clips/", "train.tsv:9"),
    ]
    mixed = [rows[0], *utterances, *rows[1:]]
    counts = run(tmp_path, mixed)
    assert [counts[split]["rejected"] for split in RATES] == [2, 0, 1]
    lines = (tmp_path / "data" / "rejected.tsv").read_text(encoding="utf-8").splitlines()
    assert lines[1:] == [f"{r.id}\t{r.split}\t{r.reason}\t{r.where}" for r in rows]
    with pytest.raises(UserError, match=r"3 of 9 .* \(2\) because of: no clip"):
        run(tmp_path, mixed, max_rejected=0.3)
    with pytest.raises(UserError, match=r"train.tsv:7: .* unknown split 'other'"):
        run(tmp_path, [replace(rows[0], split="other"), *utterances])


def test_characters_that_the_units_lack_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train, *others = make_corpus(tmp_path, each=1)
    corpus = [replace(train, text="a" * 95 + " bbb xy"), *others]
    run(tmp_path, corpus, lacks=lambda character: character in "bxy7")
    before = (tmp_path / "data" / "train.jsonl").read_bytes()
    said = capsys.readouterr().err
    assert (
        "train: 5 of 100 characters (5.00%) are not among the text units and are <unk> to the "
        "models: 'b' U+0062 3x (first in train0), 'x' U+0078 1x (first in train0), 'y' U+0079 1x "
        "(first in train0)\n"
    ) in said
    assert "dev:" not in said and "test:" not in said
    run(tmp_path, corpus, lacks=lambda character: character not in "ab xy")
    said = capsys.readouterr().err
    assert "train:" not in said and "dev: 7 of 7 characters (100.00%)" in said
    assert ", and 2 more\n" in said  # seven kinds of character, five of them named
    assert (tmp_path / "data" / "train.jsonl").read_bytes() == before


def test_a_training_text_in_other_characters_stops_the_stage(tmp_path: Path) -> None:
    train, *others = make_corpus(tmp_path, each=1)
    corpus = [replace(train, text="a" * 94 + "b" * 6), *others]
    with pytest.raises(
        UserError, match=r"train: 6 of 100 .*'b' U\+0062 6x.*units.kind to characters"
    ):
        run(tmp_path, corpus, lacks="b".__eq__)
    assert not (tmp_path / "data" / "train.jsonl").exists()


def test_a_condition_reaches_the_manifest(tmp_path: Path) -> None:
    train, dev, test = make_corpus(tmp_path, each=1)
    run(tmp_path, [train, dev, replace(test, condition="android")])
    assert [entries(tmp_path, split)[0].condition for split in RATES] == ["", "", "android"]


class Generated:
    """A corpus that is never in memory: counts how far it was read ahead of what was prepared."""

    def __init__(self, count: int, audio: Path) -> None:
        self.count, self.audio = count, audio
        self.passes = self.prepared = self.furthest = 0

    def __iter__(self):
        self.passes += 1
        self.prepared = 0
        for number in range(self.count):
            if self.passes == 2:
                self.furthest = max(self.furthest, number - self.prepared)
            split = "train" if number else "dev"
            yield Utterance(f"u{number}", split, self.audio, "एक", "s", "hi")

    def limit(self, entry: Entry) -> None:
        self.prepared += 1


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_corpus_is_never_read_far_ahead(
    tmp_path: Path, jobs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage, "WORTH_PROCESSES", 1)
    monkeypatch.setattr(stage, "CHUNK", 2)
    soundfile.write(tmp_path / "a.wav", np.sin(np.arange(3_200)), 16_000)
    corpus = Generated(200, tmp_path / "a.wav")
    counts = run(tmp_path, corpus, jobs=jobs, limits=[corpus.limit])
    assert counts["train"]["kept"] + 1 == corpus.prepared == 200 and corpus.passes == 2
    assert corpus.furthest <= 2 * (stage.AHEAD * jobs + 2)
    assert [entry.id for entry in entries(tmp_path, "train")] == [f"u{n}" for n in range(1, 200)]


def test_a_corpus_that_can_be_read_only_once_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="changed while it was prepared"):
        run(tmp_path, iter(make_corpus(tmp_path)))
    assert not (tmp_path / "data" / "train.jsonl").exists()


def test_what_a_killed_run_left_is_swept_away(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / ".0123456789abcdef.tmp").write_text("half a manifest")
    run(tmp_path, make_corpus(tmp_path))
    names = {path.name for path in (tmp_path / "data").iterdir() if path.is_file()}
    told = {"rejected.tsv", "counts.json", "checksums.json"}
    assert names == {"train.jsonl", "dev.jsonl", "test.jsonl"} | told


def test_real_recordings(tmp_path: Path, shared_data: Path | None) -> None:
    """Recordings of people, 8 kHz, where they are at hand; else noise takes their place."""
    import tarfile

    utterances = make_corpus(tmp_path, each=1)
    if shared_data is not None and (shared_data / "fsdd.tar.xz").exists():
        utterances = []
        with tarfile.open(shared_data / "fsdd.tar.xz") as archive:
            for member in archive:
                if member.name.endswith(".wav") and (data := archive.extractfile(member)):
                    path = tmp_path / Path(member.name).name
                    path.write_bytes(data.read())
                    speaker = path.stem.split("_")[1]
                    split = ("train", "dev", "test")[len(utterances) % 3]
                    utterances.append(Utterance(path.stem, split, path, "digit", speaker, "en"))
                if len(utterances) == 12:
                    break
    counts = run(tmp_path, utterances, max_rejected=0.0)
    total = sum(soundfile.info(one.audio).duration for one in utterances)
    assert sum(split["seconds"] for split in counts.values()) == pytest.approx(total, abs=0.01)
