"""The espeak and the fsdd recipe from end to end in miniature: all stages, both families.

The models are random and learn nothing worth the name. What is checked is that every stage leaves
what the README promises, that nothing is done twice, and that what cannot be used is listed. The
last tests run the stages as people do, through run.sh, in a copy of the repository.
"""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import tiny_recipe
from safetensors.torch import load_file

from adakd import cli
from adakd.config import FAMILIES
from adakd.data import manifest
from adakd.objectives import Dense
from adakd.teacher_store import Store

REPOSITORY = Path(__file__).resolve().parents[2]
METHODS = ("finetune", "kd", "adakd")
TRAINED = ("teacher", *METHODS)
DECODED = ("teacher", "untrained", *METHODS)
ROWS = ("Teacher", "Untrained student", "Fine-tuning", "KD", "AdaKD")


@dataclass
class Finished:
    """A recipe that has been run through."""

    root: Path
    run: Callable[..., str]  # runs steps with options, returns what they print
    fold: str  # the part of a path that names the fold
    name: str
    bad: str  # id of the utterance that was spoilt
    reason: str  # why it had to be rejected
    printed: str

    def data(self, family: str) -> Path:
        return self.root / "data" / self.name / self.fold / family

    def experiment(self, family: str, method: str) -> Path:
        return self.root / "exp" / self.name / self.fold / family / method / "seed1"

    def export(self, family: str) -> Path:
        return self.root / "export" / self.name / self.fold / family

    def files(self) -> dict[Path, tuple[int, int]]:
        found = {path: path.stat() for path in self.root.rglob("*") if path.is_file()}
        return {path: (stat.st_mtime_ns, stat.st_size) for path, stat in found.items()}


def espeak(folder: Path, run: Callable[..., str]) -> tuple[str, str, str, str]:
    """A Hindi corpus with a file cut short after it was made."""
    tiny_recipe.espeak_recipe(folder / "repository")
    run("corpus")
    bad = folder / "root" / "corpus" / "tiny/hi" / "train" / "hi-train-000003.flac"
    bad.write_bytes(bad.read_bytes()[:1000])
    return "tiny/hi", "", bad.stem, "unreadable"


def fsdd(folder: Path, run: Callable[..., str]) -> tuple[str, str, str, str]:
    """Digits by six speakers, of which one goes on for too long."""
    recordings = tiny_recipe.fsdd_recordings(folder / "fsdd")
    tiny_recipe.fsdd_recipe(folder / "repository", recordings)
    drone = 0.1 * np.sin(np.arange(8000 * 3) / 3)
    soundfile.write(recordings / "recordings" / "7_speaker3_9.wav", drone.astype("f"), 8000)
    run("corpus")
    lines = (folder / "root/corpus/tiny/en/utterances.jsonl").read_text().splitlines()
    (bad,) = (row["id"] for row in map(json.loads, lines) if "7_speaker3_9" in row["recordings"])
    return "tiny/en", "fold0", bad, "too long"


@pytest.fixture(scope="module", params=[espeak, fsdd], ids=["espeak", "fsdd"])
def finished(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Finished]:
    folder = tmp_path_factory.mktemp("end-to-end")
    root = folder / "root"
    name = "tiny/hi" if request.param is espeak else "tiny/en"

    def run(*arguments: str) -> str:
        printed = StringIO()
        with redirect_stdout(printed):
            code = cli.main([*arguments, "--recipe", name, "--root", str(root)])
        assert code == 0
        return printed.getvalue()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("adakd.config.REPOSITORY", folder / "repository")
        name, fold, bad, reason = request.param(folder, run)
        yield Finished(root, run, fold, name, bad, reason, run(*cli.STEPS))


@pytest.mark.parametrize("family", FAMILIES)
def test_every_file_of_the_design_appears(finished: Finished, family: str) -> None:
    data = finished.data(family)
    for name in ("train.jsonl", "dev.jsonl", "test.jsonl", "rejected.tsv", "counts.json"):
        assert (data / name).stat().st_size > 0, name
    for method in TRAINED:
        folder = finished.experiment(family, method)
        for name in ("config.yaml", "versions.json", "metrics.jsonl", "model/config.json"):
            assert (folder / name).stat().st_size > 0, (method, name)
        assert list((folder / "tb").glob("events.*"))
        assert not (folder / "ckpt").exists(), "the checkpoints of a finished run are cleared"
    for method in DECODED:
        folder = finished.experiment(family, method)
        for name in ("hyp.dev.jsonl", "hyp.test.jsonl", "score.json", "done.json"):
            assert (folder / name).stat().st_size > 0, (method, name)
        assert (folder / "model" / "model.safetensors").is_file()
    store = finished.experiment(family, "teacher") / "store"
    assert (store / "meta.json").is_file() and list(store.glob("logits.*.npy"))
    for name in ("config.json", "model.safetensors", "preprocessor_config.json", "README.md"):
        assert (finished.export(family) / name).is_file(), name


def test_the_results_of_the_recipe(finished: Finished) -> None:
    folder = finished.root / "exp" / finished.name
    results = (folder / "report" / "RESULTS.md").read_text()
    page = (folder / "report" / "index.html").read_text()
    for text in (finished.printed, results, page):
        assert all(text.count(row) >= len(FAMILIES) for row in ROWS)
        assert "demonstration" in text
    assert f"--recipe {finished.name}" in results, "the command that repeats it"
    for name in ("cer", "learning", "alpha", "quartiles"):
        assert (folder / "report" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert finished.printed.rstrip().splitlines()[-1].count("exported") == 1
    assert f"{folder / 'report' / 'index.html'}" in finished.printed


def test_nothing_half_done_is_left(finished: Finished) -> None:
    hidden = [path for path in finished.root.rglob("*") if path.name.startswith(".")]
    assert [path for path in hidden if path.suffix != ".lock"] == []


@pytest.mark.parametrize("family", FAMILIES)
def test_what_cannot_be_used_is_listed_and_nothing_else_is_lost(
    finished: Finished, family: str
) -> None:
    with open(finished.data(family) / "rejected.tsv", encoding="utf-8", newline="") as file:
        (row,) = csv.DictReader(file, delimiter="\t")
    assert row["id"] == finished.bad and row["split"] == "train"
    assert finished.reason in row["reason"] and finished.bad in row["where"]
    counts = json.loads((finished.data(family) / "counts.json").read_text())
    assert {split: count["rejected"] for split, count in counts.items()} == {
        "train": 1, "dev": 0, "test": 0,
    }  # fmt: skip
    corpus = finished.root / "corpus" / finished.name
    made = sum(len(path.read_text().splitlines()) for path in corpus.glob("*.jsonl"))
    assert sum(count["kept"] for count in counts.values()) + 1 == made
    entries = manifest.read(finished.data(family) / "train.jsonl")
    assert finished.bad not in {entry.id for entry in entries}


def test_splits_share_no_speaker(finished: Finished) -> None:
    speakers = {}
    for split in ("train", "dev", "test"):
        entries = manifest.read(finished.data("whisper") / f"{split}.jsonl")
        speakers[split] = {entry.speaker for entry in entries}
        assert speakers[split]
    assert sum(map(len, speakers.values())) == len(set().union(*speakers.values()))


@pytest.mark.parametrize("family", FAMILIES)
def test_hypotheses_are_complete(finished: Finished, family: str) -> None:
    for split in ("dev", "test"):
        entries = manifest.read(finished.data(family) / f"{split}.jsonl")
        of_teacher = None
        for method in DECODED:
            path = finished.experiment(family, method) / f"hyp.{split}.jsonl"
            rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
            assert [row["id"] for row in rows] == [entry.id for entry in entries]
            for row, entry in zip(rows, entries, strict=True):
                assert (row["reference"], row["raw"]) == (entry.text, entry.raw)
                assert (row["speaker"], row["seconds"]) == (entry.speaker, entry.seconds)
                assert isinstance(row["hypothesis"], str)
                s, d, i, characters = row["errors"]["normalised"]
                assert characters == len(row["reference"]) and min(s, d, i) >= 0
            # x is the teacher's loss, whoever's hypothesis it stands beside.
            difficulties = [row["difficulty"] for row in rows]
            of_teacher = of_teacher or difficulties
            assert difficulties == of_teacher and all(x > 0 for x in difficulties)


@pytest.mark.parametrize("family", FAMILIES)
def test_scores_add_up(finished: Finished, family: str) -> None:
    for method in DECODED:
        folder = finished.experiment(family, method)
        scores = json.loads((folder / "score.json").read_text())
        for split, score in scores.items():
            lines = (folder / f"hyp.{split}.jsonl").read_text("utf-8").splitlines()
            errors = np.array([json.loads(line)["errors"]["normalised"] for line in lines])
            assert score["cer"] == pytest.approx(errors[:, :3].sum() / errors[:, 3].sum())
            assert score["interval"][0] <= score["cer"] <= score["interval"][1]
            assert score["utterances"] == len(lines)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_export_is_the_best_on_dev_and_was_checked(finished: Finished, family: str) -> None:
    dev = {
        method: json.loads((finished.experiment(family, method) / "score.json").read_text())
        for method in METHODS
    }
    best = min(METHODS, key=lambda method: dev[method]["dev"]["cer"])
    facts = json.loads((finished.export(family) / "done.json").read_text())
    assert facts["method"] == best
    assert facts["checked"] == len(manifest.read(finished.data(family) / "test.jsonl"))
    ours = load_file(finished.experiment(family, best) / "model" / "model.safetensors")
    exported = load_file(finished.export(family) / "model.safetensors")
    assert all(bool((ours[name] == exported[name]).all()) for name in ours | exported)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_method_reports_what_it_did(finished: Finished, family: str) -> None:
    facts = {
        m: json.loads((finished.experiment(family, m) / "done.json").read_text()) for m in DECODED
    }
    assert facts["teacher"]["parameters"] > facts["untrained"]["parameters"]
    for method in METHODS:
        assert facts[method]["parameters"] == facts["untrained"]["parameters"]
        assert facts[method]["train_seconds"] > 0 and facts[method]["steps"] > 0
    assert facts["kd"]["alpha"] == {"alpha": 0.5}
    alpha = facts["adakd"]["alpha"]
    assert alpha["k_start"] > 0 and alpha["k_end"] == 0
    assert 0 <= alpha["start"]["min"] < alpha["start"]["max"] <= 1
    assert alpha["end"]["min"] == pytest.approx(np.exp(-1)) == alpha["end"]["max"]


def test_a_second_run_does_nothing(finished: Finished) -> None:
    before = finished.files()
    printed = finished.run(*cli.STEPS)
    assert finished.files() == before
    assert "trained in" not in printed and "changed" not in printed
    for method in TRAINED:
        assert printed.count(f": {method}: done (") == len(FAMILIES)
    assert all(row in printed for row in ROWS), "the table is shown again"


@pytest.mark.parametrize("family", FAMILIES)
def test_a_teacher_pass_that_was_cut_goes_on(finished: Finished, family: str) -> None:
    folder = finished.experiment(family, "teacher") / "store"
    whole = Store(folder)
    whole.soft(list(whole.difficulties()))  # read before it is changed
    (index,) = folder.glob("index.*")
    lines = index.read_text("utf-8").splitlines(keepends=True)
    half = len(lines) // 2
    index.write_text("".join(lines[:half]), "utf-8")
    (folder / "meta.json").rename(folder / "unfinished.json")
    printed = finished.run("teacher-pass", "--family", family)
    assert f"goes on, {half} of {len(lines)} utterances are there" in printed
    assert len(list(folder.glob("index.*"))) == 2
    compare_stores(whole, Store(folder))


@pytest.mark.parametrize("family", FAMILIES)
def test_cached_and_live_teacher_give_the_same_losses(finished: Finished, family: str) -> None:
    first = {}
    for teacher in ("cached", "online"):
        finished.run(
            *("kd", "--family", family, "--tag", teacher, "--distill.teacher", teacher),
            *("--student.train.mask_time", "0", "--student.train.max_steps", "1"),
        )
        path = finished.experiment(family, f"kd-{teacher}") / "metrics.jsonl"
        first[teacher] = json.loads(path.read_text().splitlines()[0])
    assert first["cached"]["task"] == first["online"]["task"]
    # The store holds fp16.
    assert first["cached"]["distill"] == pytest.approx(first["online"]["distill"], rel=5e-3)
    assert first["cached"]["distill"] > 0


@pytest.mark.parametrize("family", FAMILIES)
def test_the_other_methods_of_the_paper(finished: Finished, family: str) -> None:
    names = ("superloss", "focal", "annealing")
    options = ("--family", family, "--methods", "finetune kd adakd superloss focal annealing")
    printed = finished.run("adakd", "decode", "score", "report", *options)
    assert printed.count("trained in") == len(names)
    rows = [line.split("  ")[0] for line in printed.splitlines()]
    expected = ["Fine-tuning", "KD", "SuperLoss", "Focal loss", "Annealing KD", "AdaKD"]
    assert [row for row in rows if row in expected] == expected
    plain = json.loads((finished.experiment(family, "kd") / "done.json").read_text())
    for name in names:
        folder = finished.experiment(family, name)
        done = json.loads((folder / "done.json").read_text())
        assert done["steps"] == plain["steps"] and done["parameters"] == plain["parameters"]
        assert (folder / "model" / "model.safetensors").is_file()
        assert not (folder / "ckpt").exists()
    lines = (finished.experiment(family, "annealing") / "metrics.jsonl").read_text().splitlines()
    phases = [line["phase"] for line in map(json.loads, lines) if "loss" in line]
    assert len(phases) == plain["steps"] and phases == sorted(phases) and set(phases) == {1, 2}
    assert done["alpha"]["max_temperature"] == 10
    again = finished.run("adakd", *options)
    assert "trained in" not in again and "changed" not in again
    finished.run("report")  # as it was, for the tests that come after


def test_what_changed_is_named_and_made_anew(finished: Finished) -> None:
    options = ["finetune", "--family", "wav2vec2", "--tag", "again", "--train.max_steps", "1"]
    assert "trained in" in finished.run(*options)
    folder = finished.experiment("wav2vec2", "finetune-again")
    weights = (folder / "model" / "model.safetensors").read_bytes()
    printed = finished.run(*options, "--train.learning_rate", "1e-4")
    assert "train.learning_rate changed, made anew" in printed and "trained in" in printed
    assert (folder / "model" / "model.safetensors").read_bytes() != weights
    # And back: the same seed and settings give the same weights, to the bit.
    finished.run(*options)
    assert (folder / "model" / "model.safetensors").read_bytes() == weights


# ------------------------------------------------------------------ through run.sh


@dataclass
class Copy:
    """A copy of the repository in which recipes/tiny/en is the only tiny recipe."""

    folder: Path
    root: Path

    def run(self, *options: str) -> subprocess.CompletedProcess[str]:
        environment = {k: v for k, v in os.environ.items() if not k.startswith("ADAKD_")}
        environment |= {"ADAKD_PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
        return subprocess.run(
            [
                *(str(self.folder / "run.sh"), "--recipe", "tiny/en", "--root", str(self.root)),
                *("--family", "wav2vec2", *options),
            ],
            env=environment,
            cwd=self.folder.parent,
            capture_output=True,
            text=True,
            timeout=300,
        )

    def experiment(self, method: str) -> Path:
        return self.root / "exp/tiny/en/fold0/wav2vec2" / method / "seed1"


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Copy:
    parent = tmp_path_factory.mktemp("run")
    folder = parent / "a copy"
    folder.mkdir()
    for name in ("run.sh", "path.sh", "pyproject.toml"):
        shutil.copy(REPOSITORY / name, folder / name)
    for name in ("local", "adakd"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(REPOSITORY / name, folder / name, ignore=ignored)
    recordings = tiny_recipe.fsdd_recordings(parent / "fsdd")
    recipe = tiny_recipe.fsdd_recipe(folder, recordings)
    settings = tiny_recipe.family_settings("wav2vec2")
    settings["student"]["config"] |= tiny_recipe.STILL["wav2vec2"]
    tiny_recipe.write_yaml(recipe / "conf" / "wav2vec2.yaml", settings)
    shutil.copy(REPOSITORY / "recipes" / "TEMPLATE" / "run.sh", recipe / "run.sh")
    return Copy(folder, parent / "out put")


def test_a_stage_without_its_inputs_says_which_stage_to_run(copy: Copy) -> None:
    for options, stage in ((("--stage", "1"), 0), (("--stage", "5", "--stop-stage", "6"), 1)):
        result = copy.run(*options)
        assert result.returncode == 1 and result.stdout == ""
        assert f"run --stage {stage} first" in result.stderr
        assert "Traceback" not in result.stderr


def test_run_sh_goes_from_nothing_to_the_table_and_then_does_nothing(copy: Copy) -> None:
    result = copy.run()
    assert result.returncode == 0, result.stderr
    assert all(row in result.stdout for row in ROWS)
    assert "Traceback" not in result.stderr
    (log,) = sorted((copy.root / "exp/tiny/en/log").glob("*.log"))[-1:]
    assert all(row in log.read_text() for row in ROWS)
    again = copy.run()
    assert again.returncode == 0 and "trained in" not in again.stdout
    assert "AdaKD" in again.stdout


def test_two_processes_train_as_one(copy: Copy) -> None:
    # The same batches in the same steps: four micro-batches of one process, or two of each of two.
    # The last step has a micro-batch less than there are places for.
    options = ["--student.train.batch_seconds", "1.5", "--student.train.mask_time", "0"]
    options += ["--student.train.epochs", "1"]
    stages = ["--stage", "5", "--stop-stage", "6", "--methods", "kd superloss adakd"]
    one = copy.run(*stages, *options, "--tag", "one", "--student.train.accumulate", "4")
    assert one.returncode == 0, one.stderr
    store = copy.experiment("teacher") / "store"
    alone = Store(Path(shutil.move(store, copy.root / "store of one")))
    stages = ["--stage=4", "--stop_stage=6", "--methods=superloss adakd"]
    stages += ["--launcher", "torchrun", "--nproc", "2"]
    two = copy.run(*stages, *options, "--tag", "two", "--student.train.accumulate", "2")
    assert two.returncode == 0, two.stderr
    assert two.stdout.count("trained in") == 2, "one stage, and one process speaks"
    compare_stores(alone, Store(store))
    x = alone.difficulties().values()
    assert f"mean loss x {sum(x) / len(x):.4f} nats" in two.stdout, "that of both processes"
    made = sorted(path.name for path in copy.experiment("kd").parents[1].glob("*-*"))
    assert made == ["adakd-one", "adakd-two", "kd-one", "superloss-one", "superloss-two"]
    for method in ("adakd", "superloss"):
        compare_processes(copy, method)


def compare_stores(one: Store, two: Store) -> None:
    """The teacher pass of two processes left what one leaves."""
    assert one.difficulties() == pytest.approx(two.difficulties(), rel=1e-4)
    for name in one.difficulties():
        ours, theirs = (store.soft([name]) for store in (one, two))
        assert isinstance(ours, Dense) and isinstance(theirs, Dense)
        np.testing.assert_allclose(ours.logits, theirs.logits, atol=0.02)  # float16


def compare_processes(copy: Copy, method: str) -> None:
    """The runs of one and of two processes made the same model in the same steps."""
    ours, theirs = (
        load_file(copy.experiment(f"{method}-{tag}") / "model" / "model.safetensors")
        for tag in ("one", "two")
    )
    before = load_file(copy.experiment("untrained") / "model" / "model.safetensors")
    assert ours.keys() == theirs.keys() == before.keys()
    moved = 0.0
    for name in ours:
        if not name.endswith("k_proj.bias"):  # no effect: AdamW makes steps of mere rounding
            np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-3, atol=2e-5, err_msg=name)
            moved = max(moved, float((ours[name] - before[name]).abs().max()))
    assert moved > 1e-3
    steps = [
        [json.loads(line) for line in (copy.experiment(f"{method}-{tag}") / "metrics.jsonl").open()]
        for tag in ("one", "two")
    ]
    for mine, its in zip(*steps, strict=True):
        for name in ("tau", "loss", "task", "distill", "alpha_mean"):  # of all processes
            if mine.get(name) is not None:
                assert its[name] == pytest.approx(mine[name], rel=1e-3)
        assert {k: mine.get(k) for k in ("step", "epoch", "k", "lr", "dev_cer")} == {
            k: its.get(k) for k in ("step", "epoch", "k", "lr", "dev_cer")
        }
