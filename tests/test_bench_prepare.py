"""The benchmark's table comes out, on three clips: what it says about speed is not tested."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from adakd import cli, corpora
from adakd.bench import memory
from adakd.bench import prepare as bench

# What SpeechBrain's file offers, as far as the benchmark uses it.
THEIRS = """
import os

def prepare_common_voice(data_folder, save_folder, accented_letters, language, convert_to_wav):
    os.makedirs(save_folder)
    rows = open(data_folder + "/train.tsv", encoding="utf-8").readlines()
    for row in rows[1:]:
        assert os.path.isfile(data_folder + "/clips/" + row.split("\\t")[1])
    with open(save_folder + "/train.csv", "w", encoding="utf-8") as file:
        file.writelines(rows)
"""


def test_the_table_of_speed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench, "DISTINCT", 2)
    (tmp_path / "theirs.py").write_text(THEIRS, encoding="utf-8")
    arguments = ["--clips", "3", "--rounds", "2", "--processes", "1", "--root", str(tmp_path)]
    given = [*arguments, "--speechbrain", str(tmp_path / "theirs.py")]
    assert cli.main(["bench", "prepare", *given]) == 0
    speed, storage = capsys.readouterr().out.split("| 16 kHz audio kept as |")
    assert "FLAC, a file a clip" in storage and "one large file" in storage
    rows = [line.split("|")[1:-1] for line in speed.splitlines() if line.startswith("|")]
    names = [row[0].strip() for row in rows[2:]]
    assert names[:3] == ["adakd", "floor", "speechbrain, headers only"]
    number = r"\d+\.\d+ \[\d+\.\d+, \d+\.\d+\]"
    for row in rows[2:]:
        assert row[1].strip() == "1"
        assert all(re.fullmatch(number, cell.strip()) for cell in row[2:])
    assert rows[3][3].strip() == rows[3][5].strip() == "1.00 [1.00, 1.00]"
    assert list(tmp_path.iterdir()) == [tmp_path / "theirs.py"], "nothing is left behind"


def test_clips_of_ones_own(tmp_path: Path) -> None:
    clips = bench.make_clips(tmp_path, 2)
    found = bench.find_clips(tmp_path / "clips", tmp_path / "x", 2)
    assert [clip.path.name for clip in found] == [clip.path.name for clip in clips]
    assert 2.5 <= bench.length(found) <= 7.6
    assert cli.main(["bench", "prepare", "--corpus", str(tmp_path), "--clips", "9"]) == 1


@pytest.mark.parametrize("value", ["", "0", "two", "1 -1"])
def test_numbers_that_are_none(value: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bench", "prepare", "--processes", value]) == 1
    assert "--processes: " in (said := capsys.readouterr().err)
    assert ("no whole number from 1 on" if value else "it is empty") in said


def test_the_steps_whose_memory_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corpora, "__path__", list(corpora.__path__))
    memory.prepare(tmp_path, 40, 1)
    memory.training(tmp_path, 40, 1)
    place = memory._place(tmp_path, 40, 1)
    assert len(place.manifest("train")) == 40
    assert (place.experiment("finetune") / "done.json").exists()
    assert "made_up" not in [path.stem for path in Path(corpora.__file__).parent.iterdir()]


def test_memory_is_that_of_the_process_itself() -> None:
    import os

    before = memory.high_water(os.getpid())
    block = bytearray(50_000_000)
    block[::4096] = b"x" * len(block[::4096])
    assert memory.high_water(os.getpid()) >= before
    assert 10 < before < 20_000
    assert memory.high_water(None) == 0.0
