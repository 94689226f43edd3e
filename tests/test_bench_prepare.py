"""The benchmark's tables come out, on a few clips: what they say about speed is not tested."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from adakd import cli, corpora
from adakd.bench import measure
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


def test_the_floor_averages_channels(tmp_path: Path) -> None:
    draw = np.random.default_rng(1)
    stereo = 0.1 * draw.standard_normal((48_000, 2))
    for name, samples in (("stereo", stereo), ("mono", stereo.mean(axis=1))):
        soundfile.write(tmp_path / f"{name}.wav", samples, 48_000, subtype="FLOAT")
    bench.convert([tmp_path / "stereo.wav", tmp_path / "mono.wav"], tmp_path)
    found, expected = (soundfile.read(tmp_path / f"{n}.flac")[0] for n in ("stereo", "mono"))
    assert found.shape == (16_000,) and np.abs(found - expected).max() < 2**-14


def test_the_table_of_memory(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = []

    def alone(peaks: Any, stage: Any, root: Path, *given: Any) -> Any:
        found = peaks(stage, root, *given)
        trained.append(len(list((root / "exp").rglob("finetune/seed1/done.json"))))
        return found

    monkeypatch.setattr(measure, "alone", alone)
    monkeypatch.setattr(corpora, "__path__", list(corpora.__path__))
    arguments = ["--utterances", "40", "--processes", "1", "--root", str(tmp_path)]
    assert cli.main(["bench", "prepare", *arguments]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"    adakd bench prepare {shlex.join(arguments)}" and "torch" in lines[2]
    rows = [line.strip("| ").split(" | ") for line in lines if line.startswith("| 40 ")]
    assert [row[1] for row in rows] == ["prepare", "training"]
    assert all(10 < int(row[2]) < 20_000 for row in rows)
    assert trained == [0, 1] and not list(tmp_path.iterdir())
    assert "made_up" not in [path.stem for path in Path(corpora.__file__).parent.iterdir()]
