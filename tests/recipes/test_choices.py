"""Choices of data and students that a recipe can make, end to end in miniature, both families.

Students from the teacher's layers, wrong transcripts, the teacher's transcripts, int8. The corpus
is a Kaldi folder in which some training audio has no transcript.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import tiny_recipe
import torch
from safetensors.torch import load_file

from adakd import cli, decode
from adakd.brain import DistillationBrain
from adakd.config import FAMILIES
from adakd.data import manifest
from adakd.models import Batch
from adakd.score import read_hypotheses
from adakd.teacher_store import Store

NAME = "tiny/kaldi"
BARE = ("train2", "train9")  # without a transcript
QUICK = ("--train.max_steps", "2")


@dataclass
class Ready:
    """A recipe whose teacher is trained."""

    root: Path
    run: Callable[..., str]  # runs steps with options, returns what they print

    def data(self, family: str, root: Path | None = None) -> Path:
        return (root or self.root) / "data" / NAME / family

    def experiment(self, family: str, method: str) -> Path:
        return self.root / "exp" / NAME / family / method / "seed1"

    def facts(self, family: str, method: str) -> dict[str, Any]:
        return json.loads((self.experiment(family, method) / "done.json").read_text())


def corpus(folder: Path, bare: Sequence[str] = BARE) -> Path:
    """Tones in Kaldi's layout; the ids of ``bare`` stand alone in their lines."""
    for split, count in (("train", 14), ("dev", 4), ("test", 4)):
        entries = tiny_recipe.entries(folder / split, count, split)
        for table in ("wav.scp", "text"):
            lines = []
            for entry in entries:
                value = folder / split / entry.audio if table == "wav.scp" else entry.text
                lines.append(
                    entry.id if table == "text" and entry.id in bare else f"{entry.id} {value}"
                )
            (folder / split / table).write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ready]:
    folder = tmp_path_factory.mktemp("choices")
    root = folder / "root"

    def run(*arguments: str, root: Path = root) -> str:
        printed = StringIO()
        with redirect_stdout(printed):
            assert cli.main([*arguments, "--recipe", NAME, "--root", str(root)]) == 0
        return printed.getvalue()

    recipe = tiny_recipe.write_recipe(
        folder / "repository",
        NAME,
        "en",
        {"kind": "kaldi_dir", "corpus": str(corpus(folder / "corpus"))},
        data={"max_seconds": tiny_recipe.SECONDS, "jobs": 1, "untranscribed": True},
    )
    for family in FAMILIES:  # teachers of three layers
        settings = tiny_recipe.family_settings(family)
        keys = (
            ["num_hidden_layers"] if family == "wav2vec2" else ["encoder_layers", "decoder_layers"]
        )
        settings["teacher"]["config"] |= dict.fromkeys(keys, 3)
        tiny_recipe.write_yaml(recipe / "conf" / f"{family}.yaml", settings)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("adakd.config.REPOSITORY", folder / "repository")
        run("corpus", "prepare", "teacher", "teacher-pass", "finetune", *QUICK)
        yield Ready(root, run)


def weights(folder: Path) -> dict[str, Any]:
    return load_file(folder / "model" / "model.safetensors")


@pytest.mark.parametrize("family", FAMILIES)
def test_a_student_of_the_teachers_layers(ready: Ready, family: str) -> None:
    options = ["--family", family, "--tag", "layers", *QUICK]
    options += ["--student.source", "teacher", "--student.layers.encoder", "2"]
    if family == "whisper":
        options += ["--student.layers.decoder", "1"]
    methods = ("finetune", "kd", "adakd")
    ready.run(*methods, *options)
    teacher = weights(ready.experiment(family, "teacher"))
    student = weights(ready.experiment(family, "untrained-layers"))
    for name, value in student.items():
        same = name.replace("encoder.layers.1.", "encoder.layers.2.")
        same = same.replace("decoder.layers.0.", "decoder.layers.2.")
        assert bool((value == teacher[same]).all()), name
    assert len(student) < len(teacher)
    for method in methods:
        trained = weights(ready.experiment(family, f"{method}-layers"))
        assert trained.keys() == student.keys()
        assert any(bool((trained[name] != student[name]).any()) for name in student)
    assert "done" in ready.run("kd", *options)
    # Another number of layers is another start.
    said = ready.run("kd", *options, "--student.layers.encoder", "3")
    assert "start changed, made anew" in said


@pytest.mark.parametrize("family", FAMILIES)
def test_wrong_transcripts_are_in_train_alone(ready: Ready, family: str, tmp_path: Path) -> None:
    options = ["corpus", "prepare", "--family", family]
    noise = ["--data.label_noise.shuffled", "0.5", "--data.label_noise.misspelt", "0.5"]
    said = ready.run(*options, *noise, root=tmp_path)
    before, after = ready.data(family), ready.data(family, tmp_path)
    for split in ("dev", "test"):
        old, new = (manifest.read(folder / f"{split}.jsonl") for folder in (before, after))
        assert [entry.text for entry in old] == [entry.text for entry in new]
    right, wrong = (
        {e.id: e.text for e in manifest.read(f / "train.jsonl")} for f in (before, after)
    )
    _, *lines = (after / "label_noise.tsv").read_text().splitlines()
    listed = {line.split("\t")[0]: line.split("\t")[1:] for line in lines}
    assert right.keys() == wrong.keys()
    assert {name for name in right if right[name] != wrong[name]} == listed.keys()
    assert all(listed[name][1:] == [right[name], wrong[name]] for name in listed)
    misspelt = sum(kind == "misspelt" for kind, *_ in listed.values())
    assert f"wrong transcripts in train: {misspelt} misspelt, 6 shuffled" in said
    assert "data: done" in ready.run(*options, *noise, root=tmp_path)
    # Without noise all is as it was, and no list tells of any.
    assert "data.label_noise changed" in ready.run(*options, root=tmp_path)
    assert not (after / "label_noise.tsv").exists()
    again = {entry.id: entry.text for entry in manifest.read(after / "train.jsonl")}
    assert again == right
    facts = [json.loads((folder / "done.json").read_text()) for folder in (before, after)]
    assert facts[0]["fingerprint"] == facts[1]["fingerprint"]
    assert "label_noise" not in facts[1]["inputs"]["data"], (
        "as it was before there was such a thing"
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_students_learn_the_teachers_transcripts(
    ready: Ready, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tiny teacher hears nothing: what it is said to hear is the truth with two mistakes."""
    truth = {
        entry.id: entry.text for entry in tiny_recipe.entries(ready.root / "again", 14, "train")
    }
    heard = truth | {"train0": "dddddddddd", "train1": truth["train1"][:-1], "train2": "abca"}
    really, calls = decode.transcribe, []

    def transcribe(*arguments: Any, **options: Any) -> list[dict[str, Any]]:
        rows = really(*arguments, **options)
        calls.append([row["id"] for row in rows])
        return [row | {"hypothesis": heard[row["id"]]} for row in rows]

    monkeypatch.setattr(decode, "transcribe", transcribe)
    options = ["--family", family, "--tag", "sequence", *QUICK]
    options += ["--transcripts.source", "teacher", "--transcripts.max_cer", "0.4"]
    data = ready.data(family)
    assert [entry.id for entry in manifest.read(data / "untranscribed.jsonl")] == list(BARE)
    with_text = [name for name in truth if name not in BARE]
    assert [entry.id for entry in manifest.read(data / "train.jsonl")] == with_text
    for step in ("finetune", "teacher-pass"):
        assert cli.main([step, *options, "--recipe", NAME, "--root", str(ready.root)]) == 1

    said = ready.run("teacher", "finetune", "teacher-pass", "kd", "adakd", *options)
    assert calls == [with_text, list(BARE)]
    folder = ready.experiment(family, "teacher") / "transcripts"
    lessons = {entry.id: entry.text for entry in manifest.read(folder / "train.jsonl")}
    assert lessons == {name: heard[name] for name in [*with_text, *BARE] if name != "train0"}
    (row,) = (folder / "rejected.tsv").read_text().splitlines()[1:]
    assert row.split("\t")[0] == "train0" and "far from the transcript" in row
    assert f"{len(lessons)} utterances" in said and "1 left out" in said
    store = Store(ready.experiment(family, "teacher") / "store-transcripts")
    assert store.difficulties().keys() == lessons.keys()
    for method in ("finetune", "kd", "adakd"):
        facts = ready.facts(family, f"{method}-sequence")
        assert facts["inputs"]["transcripts"] and facts["steps"] == 2
    assert "transcripts" not in ready.facts(family, "finetune")["inputs"]
    # What the corpus says is as it was, with its own store.
    plain = Store(ready.experiment(family, "teacher") / "store")
    assert plain.difficulties().keys() == set(with_text)
    for name in ("train3", "train5"):  # same transcripts: the same loss of the teacher
        assert store.difficulties()[name] == pytest.approx(plain.difficulties()[name], rel=1e-4)
    assert store.difficulties()["train1"] != pytest.approx(plain.difficulties()["train1"], rel=1e-4)
    # Another limit decodes nothing anew, but students learn anew. Another tag may have the first.
    options[options.index("0.4")] = "0.0"
    said = ready.run("teacher", "finetune", *options)
    assert len(calls) == 2 and "transcripts changed" in said
    own = folder.with_name("transcripts@sequence")
    assert len(manifest.read(own / "train.jsonl")) == len(lessons) - 1
    assert len(manifest.read(folder / "train.jsonl")) == len(lessons)


def test_a_corpus_that_was_moved_and_another_test_set_leave_what_was_trained(
    ready: Ready, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    really = decode.transcribe
    monkeypatch.setattr(  # the tiny teacher writes nothing that could be learnt from
        decode,
        "transcribe",
        lambda *a, **k: [row | {"hypothesis": "ab"} for row in really(*a, **k)],
    )
    here, there, root = tmp_path / "here", tmp_path / "there", tmp_path / "root"
    options = ["--family", "wav2vec2", "--methods", "finetune", *QUICK]
    options += ["--transcripts.source", "teacher", "--transcripts.max_cer", "9"]
    steps = ["corpus", "prepare", "teacher", "finetune", "decode"]
    said = ready.run(*steps, *options, "--corpus.corpus", str(corpus(here)), root=root)
    assert said.count("trained in") == 2

    (student,) = root.glob("exp/**/finetune/seed1")
    weights = (student / "model" / "model.safetensors").read_bytes()
    lessons = student.parents[1] / "teacher" / "seed1" / "transcripts" / "train.jsonl"
    before = manifest.read(lessons)
    here.rename(there)
    for split in ("train", "dev", "test"):
        table = there / split / "wav.scp"
        table.write_text(table.read_text().replace(str(here), str(there)))
    said = ready.run(*steps, *options, "--corpus.corpus", str(there), root=root)
    assert "corpus changed, made anew" in said and "trained in" not in said
    assert "hypotheses of finetune: done" in said and "hypotheses of train: done" in said
    # What students learn from names the audio where it is now.
    after = manifest.read(lessons)
    assert [entry.text for entry in after] == [entry.text for entry in before]
    assert [entry.audio for entry in after] == [
        entry.audio.replace(str(here), str(there)) for entry in before
    ]
    assert all((root / entry.audio).is_file() for entry in after)

    for table in ("wav.scp", "text"):
        lines = (there / "test" / table).read_text().splitlines()
        (there / "test" / table).write_text("\n".join(lines[:-1]) + "\n")
    said = ready.run(*steps, *options, "--corpus.corpus", str(there), root=root)
    assert "what was trained on them stands" in said and "trained in" not in said
    assert "hypotheses of finetune: data changed, made anew" in said
    assert len(read_hypotheses(student / "hyp.test.jsonl")) == len(lines) - 1
    assert (student / "model" / "model.safetensors").read_bytes() == weights


@pytest.mark.parametrize("family", FAMILIES)
def test_students_learn_from_audio_alone(
    ready: Ready,
    family: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No training utterance has a transcript: a teacher that is there already writes them all."""
    really = decode.transcribe
    monkeypatch.setattr(  # the tiny teacher writes too much
        decode,
        "transcribe",
        lambda *a, **k: [row | {"hypothesis": "ab"} for row in really(*a, **k)],
    )
    ids = [f"train{number}" for number in range(14)]
    source = ready.experiment(family, "teacher") / "model"
    options = ["--family", family, "--corpus.corpus", str(corpus(tmp_path / "corpus", ids)), *QUICK]
    options += ["--units.kind", "source", "--teacher.source", str(source)]
    options += ["--student.source", "teacher"]
    ready.run("corpus", "prepare", *options, root=tmp_path)
    arguments = [*options, "--recipe", NAME, "--root", str(tmp_path)]
    sentence = "no training utterance has a transcript"
    assert cli.main(["teacher", *arguments]) == 1 and sentence in capsys.readouterr().err
    options += ["--teacher.finetuned", "true"]
    ready.run("teacher", *options, root=tmp_path)
    arguments = [*options, "--recipe", NAME, "--root", str(tmp_path)]
    assert cli.main(["finetune", *arguments]) == 1 and sentence in capsys.readouterr().err
    options += ["--transcripts.source", "teacher"]
    ready.run("teacher", "finetune", "teacher-pass", "adakd", *options, root=tmp_path)
    experiments = tmp_path / "exp" / NAME / family
    lessons = manifest.read(experiments / "teacher" / "seed1" / "transcripts" / "train.jsonl")
    assert [(entry.id, entry.text) for entry in lessons] == [(name, "ab") for name in ids]
    assert json.loads((experiments / "adakd" / "seed1" / "done.json").read_text())["steps"] == 2


@pytest.mark.parametrize("family", FAMILIES)
def test_int8_students_are_rows_of_the_table(ready: Ready, family: str) -> None:
    options = ["--family", family, "--methods", "finetune", *QUICK]
    int8 = ["--decode.int8", "true"]
    ready.run("finetune", *options)
    ready.run("decode", "score", "report", *options)
    plain = json.loads((ready.experiment(family, "finetune") / "score.json").read_text())
    assert cli.main(["score", *options, *int8, "--recipe", NAME, "--root", str(ready.root)]) == 1
    said = ready.run("decode", "score", "report", *options, *int8)
    assert "Fine-tuning (int8)" in said and "On disk" in said
    folder = ready.experiment(family, "finetune-int8")
    assert {path.name for path in (folder / "model").iterdir()} == {"int8.pt"}
    assert (
        ready.facts(family, "finetune-int8")["parameters"]
        == (ready.facts(family, "finetune")["parameters"])
    )
    assert json.loads((folder / "score.json").read_text()).keys() == plain.keys()
    for split in ("dev", "test"):
        rows = (folder / f"hyp.{split}.jsonl").read_text().splitlines()
        assert len(rows) == len(manifest.read(ready.data(family) / f"{split}.jsonl"))
    again = ready.run("decode", "score", "report", *options, *int8)
    assert again.count("finetune-int8: done") == 3 and "changed" not in again


@pytest.mark.parametrize("family", FAMILIES)
def test_learned_weights_hold_out_a_part_of_train(
    ready: Ready, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = [*QUICK, "--family", family, "--methods", "adakd-learned"]
    options += ["--student.train.max_steps", "3"]
    options += ["--methods.adakd-learned.every", "1", "--methods.adakd-learned.held_out", "0.25"]
    options += ["--student.train.batch_seconds", "2.5", "--student.train.ctc_weight", "0"]
    learnt: set[str] = set()
    held: list[list[str]] = []
    fit_batch, held_out_batch = DistillationBrain.fit_batch, DistillationBrain._held_out_batch

    def noting(self: DistillationBrain, step: list[Batch]) -> torch.Tensor:
        learnt.update(utterance for batch in step for utterance in batch.ids)
        return fit_batch(self, step)

    def noting_held(self: DistillationBrain) -> Batch:
        batch = held_out_batch(self)
        held.append(batch.ids)
        return batch

    monkeypatch.setattr(DistillationBrain, "fit_batch", noting)
    monkeypatch.setattr(DistillationBrain, "_held_out_batch", noting_held)
    ready.run("adakd", *options)
    assert len(held) == 3 and learnt and not learnt & {one for ids in held for one in ids}
    assert len({tuple(ids) for ids in held}) > 1, "another batch every time"
    facts = ready.facts(family, "adakd-learned")
    assert facts["alpha"]["updates"] in (1, 2, 3), "as many as the best epoch has seen"
    assert facts["alpha"]["held_out"] == 0.25
    assert facts["alpha"]["k_end"] != facts["alpha"]["k_start"]
    assert 0 < facts["learning_seconds"] < facts["train_seconds"]
    assert "adakd-learned: done" in ready.run("adakd", *options)
    said = ready.run("decode", "score", "report", *options)
    assert "AdaKD (learned)" in said


def test_decoding_what_is_there_and_an_export_of_full_input(ready: Ready) -> None:
    folder = ready.experiment("whisper", "finetune")
    options = ["--family", "whisper", "--methods", "finetune", *QUICK]

    def losses(encode: str) -> list[float]:
        ready.run("decode", "score", *options, "--decode.encode", encode)
        return [row["difficulty"] for row in read_hypotheses(folder / "hyp.test.jsonl")]

    # The teacher's, on other input: clips are shorter than 2 s.
    assert losses("full") != pytest.approx(losses("speech"), rel=1e-4)
    said = ready.run("export", *options, "--decode.encode", "speech")
    assert "same text on 4 test utterances" in said
    card = (ready.root / "export" / NAME / "whisper" / "README.md").read_text()
    assert "4 utterances, not padded as the pipeline pads them." in card
