"""Recipes over corpora of the layouts that people have, from end to end in miniature.

The recipes are the committed ones, with their own conf/; the corpora are made here, with all that
is odd in the real ones, and the models are random and tiny. What every stage leaves behind is
checked in test_end_to_end.py; here it is what these corpora bring along: rejected rows,
recording conditions, syllables.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import pytest
import tiny_corpora
import tiny_recipe
import yaml

from adakd import cli, report
from adakd.config import FAMILIES
from adakd.corpora import aishell2
from adakd.data import audio, manifest
from adakd.data.manifest import Entry

DECODED = ("teacher", "untrained", "finetune", "kd", "adakd")


@dataclass
class Finished:
    """One family of a recipe, run through."""

    name: str
    family: str
    root: Path
    corpus: Path  # as the user has it
    printed: str

    def entries(self, split: str) -> list[Entry]:
        return manifest.read(self.root / "data" / self.name / self.family / f"{split}.jsonl")

    def rejected(self) -> list[dict[str, str]]:
        path = self.root / "data" / self.name / self.family / "rejected.tsv"
        with open(path, encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file, delimiter="\t"))

    def scores(self, method: str) -> dict:
        folder = self.root / "exp" / self.name / self.family / method / "seed1"
        return json.loads((folder / "score.json").read_text())

    def rows(self, method: str, split: str) -> list[dict]:
        folder = self.root / "exp" / self.name / self.family / method / "seed1"
        lines = (folder / f"hyp.{split}.jsonl").read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines]

    def results(self) -> str:
        return (self.root / "exp" / self.name / "report" / "RESULTS.md").read_text(encoding="utf-8")


def tiny(family: str) -> list[str]:
    """Options that put tiny random models in the place of a recipe's own."""
    settings = tiny_recipe.family_settings(family)
    values = {
        "units.kind": settings["units"]["kind"],
        "units.size": 270,
        "teacher.config": settings["teacher"]["config"],
        "student.config": settings["student"]["config"],
        "teacher.train.epochs": 1,
        "train.epochs": 1,
        "train.batch_seconds": 12,
        "train.workers": 0,
        "train.max_steps": 2,
        "train.ctc_weight": settings["train"]["ctc_weight"],
        "data.max_seconds": tiny_recipe.SECONDS,
        "data.jobs": 1,
        "score.bootstrap": 50,
    }
    spelt = {
        key: yaml.safe_dump(v, default_flow_style=True, width=9999) for key, v in values.items()
    }
    return [word for key, text in spelt.items() for word in (f"--{key}", text.split("\n")[0])]


def finish(name: str, family: str, folder: Path, corpus: Path, *options: str) -> Finished:
    arguments = ["--recipe", name, "--family", family, "--root", str(folder / "root")]
    arguments += ["--corpus.corpus", str(corpus), *tiny(family), *options]
    printed = StringIO()
    with redirect_stdout(printed):
        assert cli.main([*cli.STEPS, *arguments]) == 0
    return Finished(name, family, folder / "root", corpus, printed.getvalue())


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def kaldi(family: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Finished]:
    folder = tmp_path_factory.mktemp("kaldi")
    data = tiny_corpora.kaldi(folder / "egs")
    with open(data / "dev" / "text", "a") as file:
        file.write("dev-alone maji\n")
    yield finish("kaldi/any", family, folder, data, "--language.code", "sw")


@pytest.fixture(scope="module")
def of_aishell2(family: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Finished]:
    folder = tmp_path_factory.mktemp("aishell2")
    corpus = tiny_corpora.aishell2(folder / "disk")
    with open(corpus.parent / "AISHELL-DEV-TEST-SET" / "Mic" / "test" / "wav.scp", "a") as file:
        file.write("MT0009W0001\twav/T0009/MT0009W0001.wav\n")
    yield finish("aishell2/zh", family, folder, corpus)


@pytest.fixture(scope="module")
def of_audio_cmn(family: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Finished]:
    folder = tmp_path_factory.mktemp("audio_cmn")
    corpus = tiny_corpora.audio_cmn(folder / "data", gaps=("越_越_",))
    words = ("--corpus.dev_words", "3", "--corpus.test_words", "5")
    yield finish("audio_cmn/zh", family, folder, corpus, *words)


def check_all(finished: Finished) -> None:
    """What holds for each of them: all methods scored, reported, the best exported."""
    for method in DECODED:
        for split, score in finished.scores(method).items():
            rows = finished.rows(method, split)
            assert [row["id"] for row in rows] == [one.id for one in finished.entries(split)]
            assert score["utterances"] == len(rows)
            assert score["interval"][0] <= score["cer"] <= score["interval"][1]
    results = finished.results()
    for label in ("Teacher", "Untrained student", "Fine-tuning", "KD", "AdaKD"):
        assert f"| {label} |" in results and label in finished.printed
    assert (finished.root / "export" / finished.name / finished.family / "config.json").is_file()


def test_kaldi(kaldi: Finished) -> None:
    check_all(kaldi)
    for split, count in tiny_corpora.SAID.items():
        entries = kaldi.entries(split)
        assert len(entries) == count and {one.language for one in entries} == {"sw"}
        for entry in entries:
            samples = audio.read(kaldi.root / entry.audio)
            assert len(samples) / audio.SAMPLE_RATE == entry.seconds
    assert kaldi.entries("train")[0].text == "asubuhi maji"
    assert [one.seconds for one in kaldi.entries("dev")] == pytest.approx([0.5] * 4, abs=0.001)
    assert [one.speaker for one in kaldi.entries("dev")] == ["dev-s0", "dev-s1", "dev-s2", "dev-s0"]
    (bad,) = kaldi.rejected()
    assert (bad["id"], bad["reason"]) == ("dev-alone", "not in segments, utt2spk")
    assert bad["where"] == f"{kaldi.corpus / 'dev' / 'text'}:5"
    assert "per" not in kaldi.scores("kd")["test"]
    assert report.PINYIN not in kaldi.results() and report.BY_CONDITION not in kaldi.results()


def test_kaldi_asks_for_the_language(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    arguments = ["corpus", "--recipe", "kaldi/any", "--root", str(tmp_path)]
    assert cli.main(arguments) == 1
    assert "language.code is missing; give it, e.g. --language.code sw" in capsys.readouterr().err


def test_aishell2(of_aishell2: Finished) -> None:
    check_all(of_aishell2)
    train = {one.id: one for one in of_aishell2.entries("train")}
    assert len(train) == 2 * len(tiny_corpora.READ)
    painter = train["IC0002W0002"]
    assert "頫" in painter.text and "𫖯" in painter.raw and painter.speaker == "C0002"
    assert train["IC0001W0003"].text == "去atm取钱"
    assert [row["id"] for row in of_aishell2.rejected()] == ["MT0009W0001"]
    for method in DECODED:
        for split, sentences, speakers in (("dev", 3, 1), ("test", 5, 2)):
            score = of_aishell2.scores(method)[split]
            assert list(score["conditions"]) == list(aishell2.CONDITIONS)
            rows = of_aishell2.rows(method, split)
            for condition, alone in score["conditions"].items():
                errors = [r["errors"]["normalised"] for r in rows if r["condition"] == condition]
                assert len(errors) == alone["utterances"] == sentences * speakers
                wrong, characters = sum(sum(e[:3]) for e in errors), sum(e[3] for e in errors)
                assert alone["cer"] == pytest.approx(wrong / characters)
            assert score["per"] >= 0 and score["utterances"] == 3 * sentences * speakers
    results = of_aishell2.results()
    assert f"{of_aishell2.family}: {report.BY_CONDITION}" in results
    assert "| Method | iOS | Android | Mic |" in results and report.PINYIN in results
    assert report.BY_CONDITION in of_aishell2.printed


def test_audio_cmn(of_audio_cmn: Finished) -> None:
    check_all(of_audio_cmn)
    splits = {split: of_audio_cmn.entries(split) for split in tiny_corpora.SPLITS}
    assert {split: len(entries) for split, entries in splits.items()} == {
        "train": 28, "dev": 3, "test": 5,
    }  # fmt: skip
    (rejected,) = of_audio_cmn.rejected()
    assert "越_越_" in str(rejected)
    learnt = [one.text for one in splits["train"]]
    for one in [*splits["dev"], *splits["test"]]:
        assert one.text not in learnt
        assert all(sum(c in word for word in learnt) >= 3 for c in one.text)
    for method in DECODED:
        score = of_audio_cmn.scores(method)["test"]
        errors = [row["errors"]["pinyin"] for row in of_audio_cmn.rows(method, "test")]
        assert sum(one[3] for one in errors) == score["characters"] == 10
        assert score["per"] == pytest.approx(sum(sum(one[:3]) for one in errors) / 10)
        assert score["interval_per"][0] <= score["per"] <= score["interval_per"][1]
        assert "conditions" not in score
    assert report.PINYIN in of_audio_cmn.results() and report.PINYIN in of_audio_cmn.printed
