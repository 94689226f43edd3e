"""Recipes of corpora that people bring and of models from the hub, from end to end in miniature.

Each runs with its own conf/, on a corpus of exactly its own layout that is made here, from mp3 or
wav to the exported student. Only what costs time is overridden: tiny random checkpoints stand in
for those of the hub, and one epoch is enough.
"""

from __future__ import annotations

import csv
import io
import json
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import soundfile
import tiny_hub

from adakd import cli
from adakd import config as configuration
from adakd.config import FAMILIES
from adakd.data import manifest, text

RECIPES = Path(__file__).resolve().parents[2] / "recipes"
SOURCES = {
    "wav2vec2": ("facebook/wav2vec2-xls-r-1b", "facebook/wav2vec2-xls-r-300m"),
    "whisper": ("openai/whisper-small", "openai/whisper-tiny"),
}
TEXTS = {
    "hi": ["बारिश हो रही है।", "“कौन है?” मैं हूँ", "१९६० में", "नहीं", "लड़का पढ़ता है"],
    "ta": ["வணக்கம், உலகம்!", "௧௨ பேர்", "மழை பெய்கிறது.", "இல்லை", "அவன் படிக்கிறான்"],
    "zh": ["不是啊", "去 ＡＴＭ 取钱。", "社游取消了？", "没有", "修改照片"],
}
SIZES = {"train": 20, "dev": 4, "test": 5}
ROWS = ("Teacher", "Untrained student", "Fine-tuning", "KD", "AdaKD")


def sound(number: int, rate: int) -> np.ndarray:
    """0.4 to 0.8 s of tones and noise, of a level that an mp3 keeps."""
    draw = np.random.default_rng(number)
    time = np.arange(round(draw.uniform(0.4, 0.8) * rate)) / rate
    tones = sum(np.sin(2 * np.pi * draw.uniform(200, 3000) * time) for _ in range(3))
    return 0.1 * tones + 0.01 * draw.standard_normal(len(time))


def spoken(language: str) -> list[tuple[str, int, str]]:
    """(split, number, text) of all utterances."""
    texts = TEXTS[language[:2]]
    splits = [split for split, size in SIZES.items() for _ in range(size)]
    return [(split, i, texts[i % len(texts)]) for i, split in enumerate(splits)]


def common_voice(folder: Path, language: str) -> Path:
    """An archive; one row of train names a clip that is not there."""
    top = folder / "cv-corpus-11.0-2022-09-21" / language
    (top / "clips").mkdir(parents=True)
    columns = "client_id path sentence up_votes down_votes age gender accents locale segment"
    tables = {split: ["\t".join(columns.split())] for split in SIZES}
    for split, number, sentence in [*spoken(language), ("train", 999, "खोया")]:
        clip = f"common_voice_{language}_{number}.mp3"
        if number != 999:
            soundfile.write(top / "clips" / clip, sound(number, 48_000), 48_000)
        row = [f"speaker{number % 7}", clip, sentence, "2", "0", "", "", "", language, ""]
        tables[split].append("\t".join(row))
    for split, rows in tables.items():
        (top / f"{split}.tsv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    archive = folder / f"cv-corpus-11.0-2022-09-21-{language}.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(top, f"{top.parent.name}/{language}")
    return archive


def fleurs(folder: Path, language: str) -> Path:
    """A copy of the hub's folder; one row of train names a recording that is not there."""
    name = {"hi": "hi_in", "ta": "ta_in", "zh": "cmn_hans_cn"}[language]
    place = folder / "fleurs" / "data" / name
    (place / "audio").mkdir(parents=True)
    rows = [*spoken(language), ("train", 999, "खोया")]
    for split in SIZES:
        own = [(number, raw) for part, number, raw in rows if part == split]
        lines = [
            f"{number // 2}\t{1000 + number}.wav\t{raw}\t{raw}\t{'|'.join(raw)}\t9600\tMALE\n"
            for number, raw in own
        ]
        (place / f"{split}.tsv").write_text("".join(lines), encoding="utf-8")
        with tarfile.open(place / "audio" / f"{split}.tar.gz", "w:gz") as tar:
            for number, _ in own:
                content = io.BytesIO()
                soundfile.write(content, sound(number, 16_000), 16_000, format="WAV")
                member = tarfile.TarInfo(f"{split}/{1000 + number}.wav")
                member.size = len(content.getvalue())
                if number != 999:
                    tar.addfile(member, io.BytesIO(content.getvalue()))
    return folder / "fleurs"


CORPORA: dict[str, Callable[[Path, str], Path]] = {"commonvoice": common_voice, "fleurs": fleurs}
NAMES = [
    *("commonvoice/hi", "commonvoice/ta", "commonvoice/zh-CN"),
    *("fleurs/hi", "fleurs/ta", "fleurs/zh"),
]


@dataclass
class Finished:
    """A recipe that has been run through."""

    root: Path
    name: str
    corpus: Path

    def data(self, family: str) -> Path:
        return self.root / "data" / self.name / family

    def experiment(self, family: str, method: str) -> Path:
        return self.root / "exp" / self.name / family / method / "seed1"


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    """Tiny checkpoints by family and role."""
    folder = tmp_path_factory.mktemp("hub")
    texts = [text.normalise(one, code) for code, many in TEXTS.items() for one in many]
    return {family: tiny_hub.checkpoints(folder / family, family, texts) for family in FAMILIES}


@pytest.fixture(scope="module", params=NAMES)
def finished(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    hub: dict[str, dict[str, str]],
) -> Finished:
    folder = tmp_path_factory.mktemp("recipe")
    kind, language = request.param.split("/")
    corpus = CORPORA[kind](folder, language)
    for family in FAMILIES:
        settings = configuration.load(RECIPES / request.param, family)
        top_k = min(settings.distill.top_k, 16)  # 64 units are more than the tiny models have
        code = cli.main(
            [
                *(*cli.STEPS, "--recipe", request.param, "--root", str(folder / "root")),
                *("--family", family, "--corpus.corpus", str(corpus)),
                *("--teacher.source", hub[family]["teacher"]),
                *("--student.source", hub[family]["student"]),
                *("--train.epochs", "1", "--train.workers", "0", "--data.jobs", "1"),
                *("--score.bootstrap", "50", "--distill.top_k", str(top_k)),
            ]
        )
        assert code == 0
    return Finished(folder / "root", request.param, corpus)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("family", FAMILIES)
def test_the_recipe_names_the_models_of_the_paper(name: str, family: str) -> None:
    config = configuration.load(RECIPES / name, family)
    assert (config.teacher.source, config.student.source) == SOURCES[family]
    assert config.units.kind == ("characters" if family == "wav2vec2" else "source")
    assert config.whisper_language == config.language.code[:2]
    if family == "wav2vec2":
        assert config.train_of("teacher").freeze_feature_encoder
        assert config.train_of("teacher").learning_rate < config.train_of("student").learning_rate
    readme = (RECIPES / name / "README.md").read_text(encoding="utf-8")
    assert "not run here" in readme and not (RECIPES / name / "RESULTS.md").exists()


@pytest.mark.parametrize("family", FAMILIES)
def test_every_utterance_is_kept_or_listed(finished: Finished, family: str) -> None:
    kind, language = finished.name.split("/")
    with open(finished.data(family) / "rejected.tsv", encoding="utf-8", newline="") as file:
        (row,) = csv.DictReader(file, delimiter="\t")
    assert row["reason"].startswith("missing") and "999" in row["reason"]
    assert row["split"] == "train" and "train.tsv:2" in row["where"]
    entries = {s: manifest.read(finished.data(family) / f"{s}.jsonl") for s in SIZES}
    assert {split: len(kept) for split, kept in entries.items()} == SIZES
    expected = [raw for split, _, raw in spoken(language) if split == "train"]
    assert [entry.raw for entry in entries["train"]] == expected
    assert [entry.text for entry in entries["train"]] == [
        text.normalise(raw, language) for raw in expected
    ]
    speakers = {entry.speaker for kept in entries.values() for entry in kept}
    assert len(speakers) == (7 if kind == "commonvoice" else 1)
    assert {entry.language for entry in entries["dev"]} == {language}


def test_the_corpus_is_recorded(finished: Finished) -> None:
    path = finished.root / "corpus" / finished.name / "fetched.json"
    facts = json.loads(path.read_text(encoding="utf-8"))
    assert set(facts["sha256"]) == {"train.tsv", "dev.tsv", "test.tsv"}
    if finished.name.startswith("commonvoice"):
        assert facts["release"] == "cv-corpus-11.0-2022-09-21" and "sha256" in facts["archive"]
    else:
        assert len(facts["archives"]) == 3


@pytest.mark.parametrize("family", FAMILIES)
def test_all_stages_leave_what_they_promise(finished: Finished, family: str) -> None:
    scored = {}
    for method in ("teacher", "untrained", "finetune", "kd", "adakd"):
        folder = finished.experiment(family, method)
        rows = (folder / "hyp.test.jsonl").read_text("utf-8").splitlines()
        assert len(rows) == SIZES["test"]
        scored[method] = json.loads((folder / "score.json").read_text())["test"]
        assert scored[method]["utterances"] == SIZES["test"]
    # Five speakers of Common Voice's test set are enough to resample; FLEURS names none.
    unit = "speaker" if finished.name.startswith("commonvoice") else "utterance"
    assert scored["kd"]["bootstrap_unit"] == unit
    meta = json.loads((finished.experiment(family, "teacher") / "store/meta.json").read_text())
    config = configuration.load(RECIPES / finished.name, family)
    assert bool(meta["parts"]["top_k"]) == bool(config.distill.top_k)
    assert (finished.root / "export" / finished.name / family / "model.safetensors").is_file()


def test_the_table_holds_every_row(finished: Finished) -> None:
    results = (finished.root / "exp" / finished.name / "report" / "RESULTS.md").read_text("utf-8")
    assert all(row in results for row in ROWS) and "demonstration" not in results
