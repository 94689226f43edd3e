"""What makes a stage's result current, and what is said where something is missing or changed.

No model is trained here; tests/recipes runs the stages themselves.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import sys
import threading
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import tiny_recipe

import adakd
from adakd import config as configuration
from adakd import corpora, files, finished, score, steps
from adakd.errors import UserError
from adakd.files import write_json
from adakd.place import Place

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path, tiny_recipe.config("whisper"))


def place_of(root: Path, **changes: object) -> Place:
    return Place(root, tiny_recipe.config("whisper", **changes))


# ------------------------------------------------------------------ where things lie


def test_the_layout_on_disk(tmp_path: Path) -> None:
    here = place_of(tmp_path, seed=3)
    assert here.corpus == tmp_path / "corpus/tiny/en"
    assert here.data == tmp_path / "data/tiny/en/whisper"
    assert here.audio == tmp_path / "data/tiny/en/audio"
    assert here.experiment("kd") == tmp_path / "exp/tiny/en/whisper/kd/seed3"
    assert here.store == tmp_path / "exp/tiny/en/whisper/teacher/seed3/store"
    assert here.results == tmp_path / "exp/tiny/en"
    assert here.export == tmp_path / "export/tiny/en/whisper"
    assert place_of(tmp_path, tag="a").export == tmp_path / "export/tiny/en/whisper-a"


def test_folds_lie_apart_and_share_corpus_audio_and_results(tmp_path: Path) -> None:
    one, other = place_of(tmp_path, fold=0), place_of(tmp_path, fold=5)
    assert one.experiment("kd") == tmp_path / "exp/tiny/en/fold0/whisper/kd/seed1"
    assert other.data == tmp_path / "data/tiny/en/fold5/whisper"
    assert other.export == tmp_path / "export/tiny/en/fold5/whisper"
    for shared in ("corpus", "audio", "results"):
        assert getattr(one, shared) == getattr(other, shared)


def test_a_tag_is_for_methods_alone(tmp_path: Path) -> None:
    here = place_of(tmp_path, tag="warm")
    assert here.experiment("kd").parent.name == "kd-warm"
    # All variants are distilled from one teacher and start from one student.
    assert here.experiment("teacher").parent.name == "teacher"
    assert here.experiment("untrained").parent.name == "untrained"


def test_one_teacher_may_serve_students_of_all_seeds(tmp_path: Path) -> None:
    teacher = {**tiny_recipe.family_settings("whisper")["teacher"], "seed": 1}
    here = place_of(tmp_path, seed=3, teacher=teacher)
    assert here.experiment("teacher").name == "seed1" and here.seed_of("teacher") == 1
    assert here.store.parent == here.experiment("teacher")
    for student in ("kd", "untrained"):
        assert here.experiment(student).name == "seed3" and here.seed_of(student) == 3
    assert place_of(tmp_path, seed=3).experiment("teacher").name == "seed3"


def test_a_tag_does_not_make_one_experiment_of_two(tmp_path: Path) -> None:
    assert place_of(tmp_path).experiment("adakd-learned").parent.name == "adakd-learned"
    # adakd-learned tagged foo, and kd in int8 tagged foo.
    for tag in ("learned", "learned-foo", "int8", "int8-foo", "foo-int8"):
        with pytest.raises(UserError, match=f"--tag {tag}: a tag .* other experiments"):
            place_of(tmp_path, tag=tag)
    for tag in ("learnedly", "t-mean", "k_end.0", "größer", "2"):
        name = place_of(tmp_path, tag=tag).experiment("adakd").parent.name
        assert name == f"adakd-{tag}"


@pytest.mark.parametrize("tag", ["a/b", "..", "../../x", ".hidden", "a b", "it's", "a\n", " "])
def test_a_tag_is_a_plain_name(tmp_path: Path, tag: str) -> None:
    with pytest.raises(UserError, match="a tag is made of letters"):
        place_of(tmp_path, tag=tag)


# ------------------------------------------------------------------ done, changed, missing


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ({"a": 1}, {"a": 1}, []),
        ({"a": 1}, {"a": 2}, ["a"]),
        ({"a": 1, "b": {"c": 1, "d": 2}}, {"a": 1, "b": {"c": 1, "d": 3}}, ["b.d"]),
        ({"a": 1, "b": {"c": 1}}, {"b": {"c": 1, "e": [1]}}, ["a", "b.e"]),
        ({"a": [1, 2]}, {"a": (1, 2)}, []),
        ({"a": {"b": 1}}, {"a": None}, ["a"]),
        ({"a": "x"}, {"a": {"b": 1}}, ["a"]),
        ({"a": {"b": 1}}, {"a": {"b": 1.0}}, []),
        (
            {"train": {"workers": 0, "clip": 1}},
            {"train": {"workers": 8, "clip": 2}},
            ["train.clip"],
        ),
        ({"train": {"checkpoint_minutes": 5}}, {"train": {"checkpoint_minutes": 60}}, []),
    ],
)
def test_changes_are_named_with_their_path(old: dict, new: dict, expected: list[str]) -> None:
    assert finished.changes(old, new) == expected


def test_a_step_is_current_while_its_inputs_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    inputs = {"data": "abc", "train": {"epochs": 3, "clip": 1.0}}
    assert not finished.is_current(tmp_path, inputs, "kd")
    assert capsys.readouterr().out == "", "nothing was there: nothing to say"
    finished.mark_done(tmp_path, inputs, method="kd", parameters=7)
    assert finished.is_current(tmp_path, inputs, "kd")
    assert capsys.readouterr().out == f"kd: done ({finished.shown(tmp_path)})\n"
    facts = finished.needed(tmp_path, "KD", 5)
    assert (facts["method"], facts["parameters"]) == ("kd", 7)
    assert facts["fingerprint"] == finished.key_of(inputs)

    changed = {"data": "xyz", "train": {"epochs": 4, "clip": 1.0}}
    assert not finished.is_current(tmp_path, changed, "kd")
    assert capsys.readouterr().out == "kd: data and train.epochs changed, made anew\n"


def test_a_number_spelt_otherwise_is_no_change(place: Place) -> None:
    folder = place.experiment("kd")
    finished.begin(folder, {"alpha": 1}, place.config)
    (folder / "metrics.jsonl").touch()
    finished.begin(folder, {"alpha": 1.0}, place.config)
    assert (folder / "metrics.jsonl").exists(), "a cut run goes on"
    finished.mark_done(folder, {"alpha": 1})
    assert finished.is_current(folder, {"alpha": 1.0}, "kd")


def test_a_step_whose_output_was_lost_is_not_current(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    finished.mark_done(tmp_path, {})
    outputs = tmp_path / "a", tmp_path / "model"
    (tmp_path / "a").touch()
    assert not finished.is_current(tmp_path, {}, "kd", *outputs)
    said = f"kd: {finished.shown(tmp_path / 'model')} is missing, made anew\n"
    assert capsys.readouterr().out == said
    (tmp_path / "model").mkdir()
    assert finished.is_current(tmp_path, {}, "kd", *outputs)


def test_a_damaged_marker_does_not_empty_a_folder(tmp_path: Path) -> None:
    (tmp_path / "done.json").write_text('{"inputs": {')  # a disk that filled up, a power cut
    with pytest.raises(UserError, match="done.json is damaged: delete it"):
        finished.is_current(tmp_path, {}, "kd")


def test_paths_are_shown_as_one_would_type_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert finished.shown(tmp_path / "exp" / "a") == "exp/a"
    assert finished.shown(Path("/elsewhere/a")) == "/elsewhere/a"


def mark(folder: Path, **facts: object) -> None:
    finished.mark_done(folder, {}, **facts)


def model(place: Place, name: str) -> Path:
    """As if an experiment had been trained; its folder."""
    folder = place.experiment(name)
    finished.mark_done(folder, steps.training_settings(place, name) if name in METHODS else {})
    (folder / "model").mkdir()
    return folder


def mark_decoded(place: Place, name: str, **otherwise: object) -> None:
    """As if an experiment had been decoded with the settings of this place, or others."""
    inputs = steps.decoding_inputs(place, name) | otherwise
    finished.mark_done(steps.folder_of(place, name) / "decode", inputs)


METHODS = ["finetune", "kd", "adakd"]


def test_every_stage_names_the_one_that_is_missing(place: Place) -> None:
    def asks_for(stage: int, step: object, *arguments: object) -> str:
        assert callable(step)
        with pytest.raises(UserError, match=rf"run --stage {stage} first") as caught:
            step(place, *arguments)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    asks_for(0, steps.prepare)
    asks_for(1, steps.teacher)
    asks_for(1, steps.train, "finetune")
    asks_for(1, steps.decode, METHODS)
    mark(place.data, manifests="m")
    asks_for(2, steps.teacher_pass)
    asks_for(2, steps.train, "kd")
    asks_for(2, steps.train, "adakd")
    asks_for(3, steps.decode, METHODS)
    model(place, "finetune")
    assert "kd has not been trained" in asks_for(5, steps.decode, METHODS)
    model(place, "kd")
    asks_for(6, steps.decode, METHODS)
    model(place, "adakd")
    asks_for(7, steps.score, METHODS)
    with pytest.raises(UserError, match="finetune has no scores: run --stage 8 first"):
        steps.export([place], METHODS)
    with pytest.raises(UserError, match="run --stage 8 first"):
        steps.report([place], METHODS, "./run.sh", False)


class Model:
    """Stands in for a model that `models.load` has made."""

    parameters_count = 1

    def __init__(self, units: str = "abc") -> None:
        self.units = units

    def save(self, folder: Path) -> None:
        (folder / "weights").touch()


def fake_models(monkeypatch: pytest.MonkeyPatch, **functions: object) -> None:
    """In the place of `adakd.models`, which takes long to import."""
    fake = types.SimpleNamespace(**{"load": lambda *_: Model(), **functions})
    monkeypatch.setitem(sys.modules, "adakd.models", fake)
    monkeypatch.setattr(adakd, "models", fake, raising=False)
    brain = types.SimpleNamespace(seed_everything=lambda *_: None)
    monkeypatch.setitem(sys.modules, "adakd.brain", brain)


@dataclass
class FakeDecoder:
    """Stands in for adakd.decode: hears `says`, and is cut before the call of number `cut`."""

    says: str = "a"
    cut: int = 0
    heard: list[str] = field(default_factory=list)

    def transcribe(self, *arguments: object, **options: object) -> list[dict[str, object]]:
        self.heard.append(str(arguments[1]))
        if len(self.heard) == self.cut:
            raise KeyboardInterrupt
        texts = {"speaker": "s", "reference": "a", "raw": "a", "hypothesis": self.says}
        return [{"id": "u", **texts, "seconds": 1.0, "difficulty": None}]


@pytest.fixture
def decoder(monkeypatch: pytest.MonkeyPatch) -> FakeDecoder:
    fake = FakeDecoder()
    monkeypatch.setitem(sys.modules, "adakd.decode", fake)
    monkeypatch.setattr(Place, "manifest", lambda *_: [])
    return fake


def test_what_is_cut_is_not_done(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def cut(*_: object) -> None:
        raise KeyboardInterrupt

    mark(place.data, manifests="m")
    mark(start := place.experiment("untrained"))
    fake_models(monkeypatch)
    monkeypatch.setattr(Model, "save", cut)
    with pytest.raises(KeyboardInterrupt):
        steps.student_start(place)
    assert not finished.done(start)
    folder = model(place, "teacher")
    mark_decoded(place, "teacher")
    mark(folder / "score")
    monkeypatch.setattr(score, "score_file", cut)
    with pytest.raises(KeyboardInterrupt):
        steps.score(place, [])
    assert not finished.done(folder / "score")
    mark(folder / "score")
    mark(place.results / "report")
    monkeypatch.setattr(steps.marker, "described", cut)
    with pytest.raises(KeyboardInterrupt):
        steps.report([place], [], "./run.sh", False)
    assert not finished.done(place.results / "report")


def hypotheses(folder: Path) -> list[str]:
    return [
        json.loads((folder / f"hyp.{split}.jsonl").read_text())["hypothesis"]
        for split in steps.SCORED
    ]


def decoded(place: Place, decoder: FakeDecoder) -> Path:
    """A teacher that stage 7 and stage 8 have been through."""
    mark(place.data, manifests="m")
    folder = model(place, "teacher")
    steps.decode(place, [])
    (folder / "score.json").touch()
    mark(folder / "score")
    return folder


def test_what_is_cut_while_decoding_is_not_done(place: Place, decoder: FakeDecoder) -> None:
    folder = decoded(place, decoder)
    assert hypotheses(folder) == ["a", "a"] and finished.done(folder / "decode")
    changed = dataclasses.replace(place.config, decode=configuration.Decode(encode="speech"))
    decoder.says, decoder.cut = "b", 4
    with pytest.raises(KeyboardInterrupt):
        steps.decode(Place(place.root, changed), [])
    assert hypotheses(folder) == ["b", "a"]
    assert not finished.done(folder / "decode") and not finished.done(folder / "score")
    assert not (folder / "score.json").exists()
    # With the settings of before, the hypotheses are those of before.
    decoder.says = "a"
    steps.decode(place, [])
    assert hypotheses(folder) == ["a", "a"]


def test_hypotheses_that_were_lost_are_made_again(place: Place, decoder: FakeDecoder) -> None:
    folder = decoded(place, decoder)
    steps.decode(place, [])
    assert len(decoder.heard) == 2, "dev and test, once"
    (folder / "hyp.test.jsonl").unlink()
    steps.decode(place, [])
    assert hypotheses(folder) == ["a", "a"]


def test_what_was_lost_is_made_again(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> None:
        raise ImportError

    def goes_to_work(lost: Path, step: object, *arguments: object) -> None:
        assert callable(step)
        step(*arguments)  # done
        lost.rename(lost.with_suffix(".lost"))
        with pytest.raises(ImportError):  # it sets to work
            step(*arguments)
        lost.with_suffix(".lost").rename(lost)

    for name in ("adakd.models", "adakd.weighting", "adakd.brain"):
        monkeypatch.setitem(sys.modules, name, None)
    # Data.
    write_json(place.corpus / "marker.json", {})
    for split in corpora.SPLITS:
        (place.data / f"{split}.jsonl").parent.mkdir(parents=True, exist_ok=True)
        (place.data / f"{split}.jsonl").touch()
    place.units.mkdir()
    for module in (finished, steps):
        monkeypatch.setattr(module, "key_of", lambda _: "the same")
        monkeypatch.setattr(module, "changes", lambda *_: [])
    mark(place.data, manifests="m", counts={"train": {"rejected": 0}})
    monkeypatch.setattr(steps, "Walk", lambda _: [])  # the corpus has nothing against it
    monkeypatch.setattr(steps, "corpus_options", never)
    for name in ("train.jsonl", "test.jsonl", "units"):
        goes_to_work(place.data / name, steps.prepare, place)
    # Models.
    for name in ("teacher", "finetune", "untrained"):
        model(place, name)
    goes_to_work(place.experiment("teacher") / "model", steps.train, place, "teacher")
    goes_to_work(place.experiment("finetune") / "model", steps.train, place, "finetune")
    goes_to_work(place.experiment("untrained") / "model", steps.student_start, place)
    # The report.
    report = place.results / "report"
    for name in ("teacher", "untrained"):
        mark_decoded(place, name)
        mark(place.experiment(name) / "score")
    for path in (report / "table.txt", report / "index.html", place.results / "RESULTS.md"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    monkeypatch.setattr(steps.marker, "described", never)
    for path in (report / "table.txt", report / "index.html", place.results / "RESULTS.md"):
        mark(report)
        goes_to_work(path, steps.report, [place], [], "./run.sh", False)


def test_a_tag_without_baselines_is_reported_beside_those_without_a_tag(tmp_path: Path) -> None:
    here, plain = place_of(tmp_path, tag="t-mean"), place_of(tmp_path)
    mark(here.data, manifests="m")
    for name, data in (("finetune", "m"), ("kd", "another")):
        model(plain, name)
        mark_decoded(plain, name, data=data)
        mark(plain.experiment(name) / "score")
    (found,) = steps.other_baselines(here, ["adakd"])
    assert found[1:] == ("finetune", plain.experiment("finetune"))
    assert steps.other_baselines(here, METHODS) == []
    assert steps.other_baselines(plain, ["adakd"]) == []
    own = model(here, "finetune")  # of the tag itself, if not asked for today
    mark_decoded(here, "finetune")
    mark(own / "score")
    assert [each[2] for each in steps.other_baselines(here, ["adakd"])] == [own]
    mark_decoded(here, "finetune", audio={"encode": "speech"})  # other input than the tag's
    assert [each[1:] for each in steps.other_baselines(here, ["adakd"])] == [found[1:]]


def test_what_was_decoded_otherwise_is_neither_scored_nor_reported(
    place: Place, decoder: FakeDecoder
) -> None:
    """./run.sh, then `--stage 7 --stop-stage 8 --decode.encode speech`, then `--stage 9`."""
    folder = decoded(place, decoder)
    speech = dataclasses.replace(place.config, decode=configuration.Decode(encode="speech"))
    steps.decode(Place(place.root, speech), [])
    told = r"teacher was decoded with another audio.encode: give the settings .* or run --stage 7"
    with pytest.raises(UserError, match=told):
        steps.score_one(place, "teacher")
    mark(folder / "score")
    with pytest.raises(UserError, match=told):
        steps.report([place], [], "", False)
    # A teacher that came later changes no text, only what stands beside it.
    steps.decode(place, [])
    mark_decoded(place, "teacher", teacher=None)
    steps.decoded(place, "teacher")
    shutil.rmtree(place.data)  # what was scored can be reported without its audio
    steps.decoded(place, "teacher")


def test_the_store_is_asked_for_and_checked(place: Place) -> None:
    mark(place.data, manifests="m")
    model(place, "teacher")
    with pytest.raises(UserError, match="run stage 4"):
        steps.open_store(place)
    place.store.mkdir()
    parts = steps.store_parts(place)
    write_json(place.store / "meta.json", {"parts": parts, "top_k": 0, "temperature": 2.0})
    steps.open_store(place)
    # Dense logits serve any temperature, top-k ones only their own; another teacher never.
    place.config.distill.temperature = 3.0
    steps.open_store(place)
    place.config.distill.top_k = 8
    with pytest.raises(UserError, match="another top_k and another temperature.*stage 4"):
        steps.open_store(place)
    place.config.distill.top_k = 0
    finished.mark_done(place.experiment("teacher"), {"source": "another"})
    with pytest.raises(UserError, match="another teacher.*stage 4"):
        steps.open_store(place)


def test_what_was_cut_is_kept_and_what_was_finished_is_emptied(place: Place) -> None:
    folder, inputs = place.experiment("kd"), {"seed": 1}
    finished.begin(folder, inputs, place.config)
    for name in ("config.yaml", "versions.json", "started.json"):
        assert (folder / name).is_file()
    versions = json.loads((folder / "versions.json").read_text())
    assert {"versions", "revision", "machine", "time"} <= versions.keys()
    assert {"python", "torch", "speechbrain"} <= versions["versions"].keys()
    (folder / "ckpt").mkdir()
    (folder / "metrics.jsonl").touch()
    finished.begin(folder, inputs, place.config)
    assert (folder / "ckpt").is_dir() and (folder / "metrics.jsonl").exists()
    # Nothing is lost with a run that has saved nothing, or half of something.
    (folder / "ckpt" / ".CKPT+1").mkdir()
    finished.begin(folder, {"seed": 2}, place.config)
    assert not (folder / "ckpt").exists() and not (folder / "metrics.jsonl").exists()
    # A finished run is not resumed, though what it saved is still there.
    (folder / "ckpt" / "CKPT+1").mkdir(parents=True)
    finished.mark_done(folder, {"seed": 2})
    finished.begin(folder, {"seed": 3}, place.config)
    assert not (folder / "ckpt").exists() and finished.done(folder) is None


def cut(folder: Path, inputs: dict, place: Place) -> Path:
    """As if a training had been cut; its checkpoint."""
    finished.begin(folder, inputs, place.config)
    saved = folder / "ckpt" / "CKPT+1"
    saved.mkdir(parents=True)
    return saved


def test_a_cut_run_is_not_lost_to_other_settings(place: Place) -> None:
    folder = place.experiment("kd")
    train = {"epochs": 3, "clip": 1.0, "workers": 0, "checkpoint_minutes": 10.0}
    saved = cut(folder, {"seed": 1, "train": train}, place)
    other = {"seed": 2, "train": {**train, "epochs": 9}}
    with pytest.raises(UserError) as caught:
        finished.begin(folder, other, place.config)
    where = finished.shown(folder)
    assert str(caught.value) == (
        f"{where} holds a cut run that was begun with another seed and another train.epochs: go on "
        "with the settings that stand in its config.yaml, or remove that folder to begin anew."
    )
    assert saved.is_dir() and (folder / "config.yaml").is_file()
    # What changes no result does not count.
    quick = {"seed": 1, "train": {**train, "workers": 8, "checkpoint_minutes": 60.0}}
    finished.begin(folder, quick, place.config)
    assert saved.is_dir()
    # A finished twin with other settings does not take its place either.
    finished.mark_done(place.experiment("kd-try1"), other)
    with pytest.raises(UserError, match="holds a cut run"):
        finished.take_over(folder, place.experiment("kd-try1"))
    assert saved.is_dir()
    shutil.rmtree(folder)
    finished.begin(folder, other, place.config)


def test_every_training_spares_a_cut_one(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also a half, and where a teacher that is taken as it is would take its place."""
    mark(place.data, manifests="m")
    monkeypatch.setattr(Place, "transcribed", lambda _: [])
    ready = dataclasses.replace(place.config.teacher, finetuned=True)
    as_it_is = Place(place.root, dataclasses.replace(place.config, teacher=ready))
    teacher, inputs = place.experiment("teacher"), steps.teacher_inputs(place)

    def refused(folder: Path, before: dict, step: Callable[..., object], *given: object) -> None:
        saved = cut(folder, before, place)
        with pytest.raises(UserError, match="holds a cut run that was begun with another "):
            step(*given)
        assert saved.is_dir()
        shutil.rmtree(folder)

    refused(place.half(0), {"half": "other"}, steps.train, place, "teacher", (0, [1, 2]))
    refused(teacher, {**inputs, "seed": 2}, steps.train, place, "teacher")
    fake_models(monkeypatch, check_same_units=lambda *_: None)
    refused(teacher, inputs, steps.teacher, as_it_is)


def test_a_study_begins_its_own_cut_runs_anew(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    """As it does its finished ones: with a trial that fails another candidate would be chosen."""
    folder = place.experiment("kd-try1")
    with finished.made_for("a", known=False):
        saved = cut(folder, {"seed": 1}, place)
    with finished.made_for("b", known=True), pytest.raises(UserError, match="another seed"):
        finished.begin(folder, {"seed": 2}, place.config)
    with pytest.raises(UserError, match="another seed"):  # ./run.sh
        finished.begin(folder, {"seed": 2}, place.config)
    assert saved.is_dir()
    with finished.made_for("a", known=False):
        finished.begin(folder, {"seed": 2}, place.config)
    assert not saved.exists()
    assert (
        capsys.readouterr().out == f"{finished.shown(folder)}: cut, and seed changed, begun anew\n"
    )
    saved = cut(folder, {"seed": 2}, place)  # of ./run.sh
    with finished.made_for("a", known=True), pytest.raises(UserError, match="another seed"):
        finished.begin(folder, {"seed": 1}, place.config)
    assert saved.is_dir()


def test_a_cut_run_of_other_data_is_begun_anew(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    """No setting would bring back the data or the teacher that it came from."""
    folder = place.experiment("kd")
    before = {"seed": 1, "data": "m", "teacher": "t", "train": {"epochs": 3}}
    saved = cut(folder, before, place)
    with pytest.raises(UserError, match="begun with another train.epochs: go on"):
        finished.begin(folder, before | {"data": "n", "train": {"epochs": 4}}, place.config)
    assert saved.is_dir()
    finished.begin(folder, before | {"data": "n", "teacher": "u"}, place.config)
    assert not saved.exists()
    assert "kd/seed1: cut, and data and teacher changed, begun anew" in capsys.readouterr().out
    # A study takes what was cut before a run said whose it is for its own.
    saved = cut(folder, before, place)
    started = folder / "started.json"
    facts = json.loads(started.read_text())
    del facts["study"]
    write_json(started, facts)
    with finished.made_for("a", known=False):
        finished.begin(folder, before | {"seed": 2}, place.config)
    assert not saved.exists()


def test_a_cut_run_goes_on_with_as_many_processes(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, inputs = place.experiment("kd"), {"seed": 1}
    monkeypatch.setattr(finished, "wait_for_all", lambda: None)
    monkeypatch.setenv("WORLD_SIZE", "4")
    finished.begin(folder, inputs, place.config)
    monkeypatch.setenv("WORLD_SIZE", "1")
    finished.begin(folder, inputs, place.config)  # nothing had been saved
    monkeypatch.setenv("WORLD_SIZE", "2")
    (folder / "ckpt" / "CKPT+1").mkdir(parents=True)
    with pytest.raises(UserError, match=r"cut run of 1 processes, and this one has 2: .*--nproc 1"):
        finished.begin(folder, inputs, place.config)
    assert (folder / "ckpt" / "CKPT+1").is_dir()


def test_other_units_of_the_same_manifests_are_other_inputs(tmp_path: Path) -> None:
    place = place_of(tmp_path)

    def inputs(**facts: object) -> list[dict]:
        mark(place.data, manifests="m", **facts)
        return [steps.teacher_inputs(place), steps.start_inputs(place)]

    before = inputs()  # as stage 1 left it before 2026-11-28, and where checkpoints bring their own
    assert before == inputs(units=None)
    for old, new, other in zip(before, inputs(units="a"), inputs(units="b"), strict=True):
        assert finished.changes(old, new) == finished.changes(new, other) == ["units"]
    # Students do not look at the configuration for that, or stage 7 would ask them for it.
    finished.mark_done(
        place.experiment("kd"), {"units": "a", **steps.training_settings(place, "kd")}
    )
    assert steps.changed_settings(place, "kd", finished.done(place.experiment("kd"))) == []


def test_prepared_data_are_of_the_corpus_that_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def utterances(options: object, folder: Path, fold: int | None) -> Iterator[None]:
        raise UserError("made with other options; run stage 0 again")
        yield

    place = place_of(tmp_path)
    place.corpus.mkdir(parents=True)
    (place.corpus / "fetched.json").write_text("{}")
    finished.mark_done(place.data, steps.data_inputs(place))
    corpus = types.SimpleNamespace(utterances=utterances)
    monkeypatch.setattr(steps, "corpus_options", lambda config: (corpus, None))
    with pytest.raises(UserError, match="made with other options"):
        steps.prepare(place)
    assert finished.done(place.data), "what is there stays"


def test_finished_data_tell_what_was_left_out(
    place: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(steps, "Walk", lambda _: [])
    write_json(place.corpus / "fetched.json", {})
    place.units.mkdir(parents=True)
    for split in corpora.SPLITS:
        (place.data / f"{split}.jsonl").touch()
    for rejected in (0, 3):
        counts = {split: {"rejected": rejected} for split in ("train", "dev")}
        finished.mark_done(place.data, steps.data_inputs(place), manifests="m", counts=counts)
        steps.prepare(place)
        said = capsys.readouterr().out
        assert ("6 rejected (" in said) == bool(rejected)


def test_an_utterance_that_tells_no_language_has_the_recipes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = corpora.Utterance("a", "train", Path("a.wav"), "one", "s", "")
    said = [plain, dataclasses.replace(plain, id="b", language="ta")]
    corpus = types.SimpleNamespace(utterances=lambda options, folder, fold: iter(said))
    monkeypatch.setattr(steps, "corpus_options", lambda config: (corpus, None))
    for languages, expected in (([], "ab"), (["en"], "a"), (["ta"], "b"), (["en", "ta"], "ab")):
        here = place_of(tmp_path, language={"code": "en"}, data={"languages": languages})
        assert "".join(one.id for one in steps.Walk(here)) == expected


def test_another_prompt_is_another_training(tmp_path: Path) -> None:
    mark(place_of(tmp_path).data, manifests="m")
    plain, named = (
        steps.training_settings(place_of(tmp_path, language={"code": "en", "whisper": code}), "kd")
        for code in (None, "de")
    )
    assert finished.changes(plain, named) == ["prompt"] and named["prompt"] == "de"


def test_a_twin_takes_the_place_of_what_was_trained_otherwise(tmp_path: Path) -> None:
    twin, folder = tmp_path / "kd-tuned" / "seed1", tmp_path / "kd" / "seed1"
    for path, alpha in ((twin, 0.1), (folder, 0.5)):
        path.mkdir(parents=True)
        (path / "weights").write_text(str(alpha))
        finished.mark_done(path, {"method": {"alpha": alpha}})
    finished.take_over(folder, twin)
    assert (folder / "weights").read_text() == "0.1"
    assert finished.done(folder)["taken_over"] == "kd-tuned/seed1"
    (folder / "weights").write_text("mine")  # as it should be already
    finished.take_over(folder, twin)
    assert (folder / "weights").read_text() == "mine"
    # Whoever copies has made the copy.
    finished.mark_done(twin, {"method": {"alpha": 0.9}}, study=None)
    shutil.rmtree(folder)
    with finished.made_for("one", known=True):
        finished.take_over(folder, twin)
        finished.take_over(folder, twin)
    assert finished.done(folder)["study"] == "one" and finished.done(twin)["study"] is None


def test_a_study_keeps_what_is_not_its_own(place: Place) -> None:
    """Within `made_for`, and with other settings; see also tests/test_benchmark.py."""
    mark(place.data, manifests="m")
    inputs = steps.teacher_inputs(place)
    teacher, twin = place.experiment("teacher"), place.experiment("kd-try1")
    other = {**inputs, "source": {"hidden_size": 8}}
    finished.mark_done(teacher, other, train_seconds=3.0)
    finished.mark_done(twin, inputs)

    def refused(step: Callable[..., object], *arguments: object) -> None:
        before = {path: path.stat().st_mtime_ns for path in teacher.rglob("*")}
        with finished.made_for("a", known=False):
            with pytest.raises(UserError, match="holds a finished experiment with another source"):
                step(*arguments)
        assert {path: path.stat().st_mtime_ns for path in teacher.rglob("*")} == before

    refused(steps.train, place, "teacher")
    refused(finished.take_over, teacher, twin)
    ready = dataclasses.replace(place.config.teacher, finetuned=True)
    as_it_is = Place(place.root, dataclasses.replace(place.config, teacher=ready))
    finished.mark_done(teacher, {**steps.teacher_inputs(as_it_is), "source": "another"})
    refused(steps.teacher, as_it_is)
    finished.spare(teacher, inputs)  # ./run.sh
    with finished.made_for("a", known=True):
        finished.spare(teacher, inputs)  # of a time when nobody said
    with finished.made_for("a", known=False):
        finished.spare(twin, inputs)  # it would not be made anew
        finished.spare(place.experiment("kd"), inputs)  # nothing there
        finished.mark_done(teacher, other, **finished.whose())
        finished.spare(teacher, inputs)
    for owner in ({"study": None}, {"study": "b"}):
        finished.mark_done(teacher, other, **owner)
        with finished.made_for("a", known=True), pytest.raises(UserError, match="did not make"):
            finished.spare(teacher, inputs)


def test_data_are_kept_for_the_sake_of_what_was_trained_on_them(place: Place) -> None:
    folder = place.experiment("teacher").parents[1]
    finished.mark_done(place.experiment("untrained"), {"a": 1}, parameters=1)
    finished.mark_done(place.experiment("kd-int8"), {"a": 2}, parameters=1)
    with finished.made_for("a", known=False):
        finished.spare_below(folder, "Other data")
        finished.mark_done(place.experiment("kd"), {"a": 3}, train_seconds=1.0)
        with pytest.raises(UserError) as caught:
            finished.spare_below(folder, "Other data")
    kd = finished.shown(place.experiment("kd"))
    assert str(caught.value).startswith(f"Other data, and from what lies there {kd} was trained, ")
    assert str(caught.value).endswith(f"or delete {finished.shown(folder)}.")
    finished.spare_below(folder, "Other data")
    with finished.made_for("a", known=True):
        finished.spare_below(folder, "Other data")
    finished.mark_done(place.experiment("kd"), {"a": 3}, train_seconds=1.0, study="a")
    with finished.made_for("a", known=False):
        finished.spare_below(folder, "Other data")


def test_what_was_trained_otherwise_is_neither_decoded_nor_reported(place: Place) -> None:
    mark(place.data, manifests="m")
    for name in METHODS:
        model(place, name)
        mark(place.experiment(name) / "score")
    assert steps.trained(place, METHODS) == METHODS

    def refusal(changes: dict, methods: list[str]) -> str:
        other = place_of(place.root, **changes)
        sentences = set()
        for step in (steps.decode, steps.score):
            with pytest.raises(UserError) as caught:
                step(other, methods)
            sentences.add(str(caught.value))
        with pytest.raises(UserError) as caught:
            steps.report([other], methods, "./run.sh", False)
        (sentence,) = sentences | {str(caught.value)}
        return sentence

    train = {**tiny_recipe.family_settings("whisper")["train"], "epochs": 99}
    assert "finetune was trained with another train.epochs: " in refusal({"train": train}, METHODS)
    assert "--stage 6 first" in refusal({"train": train}, ["adakd"])
    weaker = {"methods": {"kd": {"alpha": 0.1}, "adakd": {"threshold": "mean", "k": "auto"}}}
    assert "kd was trained with another method.alpha: " in refusal(weaker, METHODS)
    # What training does not depend on may differ.
    free = {"decode": {"encode": "speech"}, "score": {"bootstrap": 9}, **weaker}
    assert steps.trained(place_of(place.root, **free), ["finetune", "adakd"]) == METHODS[::2]


def test_a_student_of_other_data_or_another_teacher_is_not_decoded(place: Place) -> None:
    mark(place.data, manifests="m")
    finished.mark_done(place.experiment("teacher"), {"seed": 1})
    (place.experiment("teacher") / "model").mkdir()
    teacher = finished.done(place.experiment("teacher"))["fingerprint"]
    for name in METHODS:
        settings = steps.training_settings(place, name)
        of_teacher = {} if name == "finetune" else {"teacher": teacher}
        finished.mark_done(place.experiment(name), settings | {"data": "m"} | of_teacher)
        (place.experiment(name) / "model").mkdir()
    assert steps.trained(place, METHODS) == ["teacher", *METHODS]

    def refusal(methods: list[str]) -> str:
        with pytest.raises(UserError) as caught:
            steps.trained(place, methods)
        return str(caught.value)

    finished.mark_done(place.experiment("teacher"), {"seed": 2})
    assert "kd was trained with another teacher than lies here now: run --stage 4" in refusal(
        METHODS
    )
    assert steps.trained(place, ["finetune"]) == ["teacher", "finetune"]
    shutil.rmtree(place.experiment("teacher"))  # it may be removed, to make room
    assert steps.trained(place, METHODS) == METHODS
    mark(place.data, manifests="m", samples="louder")
    assert "finetune was trained with another samples than lies here now" in refusal(METHODS)
    louder = steps.training_settings(place, "finetune") | {"data": "m", "samples": "louder"}
    finished.mark_done(place.experiment("finetune"), louder)
    assert steps.trained(place, ["finetune"]) == ["finetune"]
    mark(place.data, manifests="m")
    assert "finetune was trained with another samples than lies here now" in refusal(METHODS)
    mark(place.data, manifests="other")
    assert "kd was trained with another data than lies here now: run --stage 2" in refusal(["kd"])
    (place.data / "done.json").unlink()
    assert steps.trained(place, METHODS) == METHODS
    place.config.transcripts.source = "teacher"
    assert "another transcripts than lies here" in refusal(METHODS)


def test_other_audio_of_the_same_manifests_makes_anew_what_was_made_here(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    assert steps._other_samples(folder, "m", "quiet") is None
    assert steps._other_samples(folder, "m", "loud") == "loud"
    assert steps._other_samples(folder, "other", "loud") is None
    assert steps._other_samples(folder, "m", "quiet") is None, "back to where it was"


@dataclass
class Corpus:
    """Tones of half a second in three splits: two clips each, of ids such as train0."""

    place: Place
    runs: int = 0

    def prepare(
        self,
        folder: str = "here",
        test: int = 2,
        texts: dict[str, str] | None = None,
        loud: tuple[str, ...] = (),
    ) -> tuple[dict, dict]:
        """Stage 1; what trainings then depend on, and what hypotheses do.

        test: clips of test. texts, loud: ids with another transcript, and twice as loud.
        """
        import numpy as np

        from adakd.data import audio

        said = []
        for split, count in (("train", 2), ("dev", 2), ("test", test)):
            for number in range(count):
                name = f"{split}{number}"
                path = self.place.root.parent / folder / f"{name}.flac"
                volume = 0.2 if name in loud else 0.1
                wave = volume * np.sin(np.arange(8000) * (number + 1) / 9)
                audio.write_flac(path, wave.astype(np.float32))
                text = (texts or {}).get(name, f"one {name}")
                said.append(corpora.Utterance(name, split, path, text, "s", "en"))
        self.runs += 1
        write_json(self.place.corpus / "fetched.json", {"source": folder, "run": self.runs})
        module = types.SimpleNamespace(utterances=lambda *_: iter(said))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(steps, "corpus_options", lambda _: (module, None))
            steps.prepare(self.place)
        decoding = steps.decoding_inputs(self.place, "teacher")
        return steps.teacher_inputs(self.place), decoding

    @property
    def facts(self) -> Path:
        return self.place.data / "done.json"

    def manifests(self) -> str:
        return files.fingerprint(self.place.data / f"{split}.jsonl" for split in corpora.SPLITS)


@pytest.fixture
def tones(tmp_path: Path) -> Corpus:
    here = Corpus(place_of(tmp_path / "root"))
    mark(here.place.experiment("teacher"))
    return here


def test_what_no_training_learns_from_makes_none_anew(tones: Corpus) -> None:
    first = training, decoding = tones.prepare()
    assert training["data"] == decoding["data"] == tones.manifests() and "samples" not in training
    # A corpus that was moved is the same.
    assert tones.prepare("elsewhere") == first and tones.manifests() != training["data"]
    assert "elsewhere" in (tones.place.data / "test.jsonl").read_text()
    # Another test set is for decoding alone, also if only its audio is another.
    others = [
        tones.prepare(test=1),
        tones.prepare("elsewhere", test=1),
        tones.prepare(texts={"test0": "two"}),
        tones.prepare(loud=("test0",)),
    ]
    assert [found[0] for found in others] == [training] * 4
    differ = [finished.changes(decoding, found[1]) for found in others]
    assert differ == [["data"], ["data"], ["data"], ["samples"]]
    assert others[0] == others[1]
    tones.facts.unlink()  # cut, or to look again at what was rejected
    assert tones.prepare(test=1) == others[0]
    assert tones.prepare() == first


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"texts": {"train1": "two"}}, ["data", "units"]),
        ({"texts": {"dev1": "two"}}, ["data"]),
        ({"loud": ("train1",)}, ["samples"]),
        ({"loud": ("dev1",)}, ["samples"]),
    ],
)
def test_what_trainings_learn_from_makes_them_anew(
    tones: Corpus, change: dict, expected: list[str]
) -> None:
    training, decoding = tones.prepare()
    other, _ = tones.prepare(**change)
    assert finished.changes(training, other) == expected
    # Test changes as well, and so does the place: other data than either, and the same ones again.
    for more in ({"test": 1}, {"folder": "elsewhere"}, {"folder": "elsewhere", "test": 1}):
        assert tones.prepare(**change, **more)[0] == other
    assert tones.prepare() == (training, decoding)


def test_new_audio_and_a_new_test_set_at_once_are_new_data(tones: Corpus) -> None:
    training, _ = tones.prepare()
    other, _ = tones.prepare(test=1, loud=("train1",))
    assert finished.changes(training, other)
    assert tones.prepare(loud=("train1",))[0] == other


def test_data_of_before_are_known_again(tones: Corpus) -> None:
    """As stage 1 left them until 2026-11-29."""
    training, decoding = tones.prepare()
    (tones.place.data / "first_prepared.json").unlink()
    facts = json.loads(tones.facts.read_text())
    for name in ("learnt", "files"):
        del facts[name]
    write_json(tones.facts, facts)
    assert steps.teacher_inputs(tones.place) == training
    assert steps.decoding_inputs(tones.place, "teacher") == decoding
    assert tones.prepare("elsewhere", test=1)[0] == training
    assert tones.prepare() == (training, decoding)


def test_a_tag_that_asks_for_another_difficulty_has_one_of_its_own(tmp_path: Path) -> None:
    def of(tag: str, passes: int) -> Place:
        distill = {"difficulty": "dropout", "dropout_passes": passes}
        return place_of(tmp_path, tag=tag, distill=distill)

    plain = of("", 5)
    mark(plain.data, manifests="m")
    mark(plain.experiment("teacher"))
    assert steps.difficulty_of(of("more", 20)) == plain.difficulty  # none is there yet
    finished.mark_done(plain.difficulty, steps.difficulty_parts(plain))
    assert steps.difficulty_of(of("same", 5)) == plain.difficulty
    assert steps.difficulty_of(of("more", 20)) == plain.difficulty.with_name("dropout@more")


def test_a_tag_that_asks_for_another_store_has_one_of_its_own(tmp_path: Path) -> None:
    def of(tag: str, **distill: object) -> Place:
        return place_of(tmp_path, tag=tag, distill={"top_k": 8, **distill})

    plain = of("", temperature=2.0)
    mark(plain.data, manifests="m")
    mark(plain.experiment("teacher"))
    assert steps.store_of(of("warm", temperature=4.0)) == plain.store  # none is there yet
    write_json(plain.store / "meta.json", {"parts": steps.store_parts(plain)})
    assert steps.store_of(of("same", temperature=2.0)) == plain.store
    warm = steps.store_of(of("warm", temperature=4.0))
    assert warm == plain.store.with_name("store@warm")
    # Its own counts once it is there, whatever becomes of the shared one.
    write_json(warm / "meta.json", {"parts": steps.store_parts(of("warm", temperature=4.0))})
    (plain.store / "meta.json").unlink()
    assert steps.store_of(of("warm", temperature=4.0)) == warm
    # Without a tag there is one, made anew.
    assert steps.store_of(of("", temperature=4.0)) == plain.store
    # A pass that was cut goes on: no tag takes its folder for another store.
    shutil.rmtree(warm)
    write_json(plain.store / "unfinished.json", {"parts": steps.store_parts(plain)})
    assert steps.store_of(of("same", temperature=2.0)) == plain.store
    assert steps.store_of(of("warm", temperature=4.0)) == warm


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"distill": {"top_k": 8}}, "annealing compares all logits.*top_k to 0.*--stage 4"),
        ({"methods": {"focal": {"gama": 2}}}, "Method focal has no option 'gama'.*'gamma'"),
        (
            {"student": {"config": tiny_recipe.whisper(8), "train": {"ctc_weight": 0.3}}},
            "adakd-learned learns its weights .*without the auxiliary CTC loss.*ctc_weight to 0",
        ),
    ],
)
def test_what_cannot_work_is_told_before_anything_is_emptied(
    tmp_path: Path, changes: dict, sentence: str
) -> None:
    here = place_of(tmp_path, **changes)
    mark(here.data, manifests="m")
    mark(here.experiment("teacher"))
    method = "adakd-learned" if "student" in changes else "annealing"
    folder = here.experiment(method)
    (folder / "ckpt").mkdir(parents=True)
    with pytest.raises(UserError, match=sentence):
        steps.train(here, method)
    assert (folder / "ckpt").is_dir()


# ------------------------------------------------------------------ files


def test_a_folder_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "exp" / "model"
    with files.replaced_folder(target) as fresh:
        (fresh / "a").write_text("old")
        assert not target.exists(), "half a folder is never seen"
    assert (target / "a").read_text() == "old"
    with pytest.raises(ZeroDivisionError), files.replaced_folder(target) as fresh:
        (fresh / "a").write_text("half")
        raise ZeroDivisionError
    assert [path.name for path in target.iterdir()] == ["a"]
    assert (target / "a").read_text() == "old"
    # What the failed attempt left behind does not end in the next one.
    with files.replaced_folder(target) as fresh:
        assert list(fresh.iterdir()) == []
        (fresh / "b").write_text("new")
    assert [path.name for path in target.iterdir()] == ["b"]
    assert [path.name for path in target.parent.iterdir()] == ["model"]


def test_two_runs_in_one_folder_come_one_after_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "exp" / "kd" / "seed1"
    order: list[str] = []
    waits = threading.Event()

    def say(line: str) -> None:
        order.append(line)
        waits.set()

    def second() -> None:
        with finished.locked(folder):
            order.append("second")

    monkeypatch.setattr(finished, "say", say)
    other = threading.Thread(target=second)
    with finished.locked(folder):
        other.start()
        assert waits.wait(60)
        order.append("first")
        with finished.locked(folder.with_name("seed2")):  # is not waited for
            pass
    other.join()
    waiting = f"waiting for another run, which is at work in {finished.shown(folder)}"
    assert order == [waiting, "first", "second"]


def test_every_step_that_writes_holds_the_lock_of_its_folder(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark(place.data, manifests="m")
    mark(place.experiment("teacher"))

    class Held(Exception):
        pass

    def locked(folder: Path) -> object:
        raise Held(folder)

    monkeypatch.setattr(finished, "locked", locked)
    half = (0, [1])
    for folder, step, *arguments in (
        (place.corpus, steps.corpus),
        (place.data, steps.prepare),
        (place.experiment("teacher"), steps.teacher),
        (place.experiment("teacher"), steps.ready_teacher),
        (place.experiment("untrained"), steps.student_start),
        (place.experiment("kd"), steps.train, "kd"),
        (place.half(0), steps.train, "teacher", half),
        (place.store, steps.write_store),
        (place.experiment("kd"), steps.decode_one, "kd"),
        (place.experiment("untrained"), steps.score_one, "untrained"),
        (place.difficulty, steps.write_difficulty, False),
    ):
        with pytest.raises(Held) as caught:
            step(place, *arguments)
        assert caught.value.args == (folder,)
    with pytest.raises(Held) as caught:
        steps.export([place], ["kd"])
    assert caught.value.args == (place.export,)
    with pytest.raises(Held) as caught:
        finished.take_over(place.experiment("kd"), place.experiment("kd-tuned"))
    assert caught.value.args == (place.experiment("kd"),)


def test_a_source_is_known_by_its_contents(tmp_path: Path) -> None:
    def found(folder: Path) -> object:
        return steps.source_fingerprint(configuration.Model(source=str(folder)))

    folder = tmp_path / "one"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    weights = folder / "model.safetensors"
    weights.write_bytes(bytes(200_000))
    first = found(folder)
    os.utime(weights, (1, 1))
    (folder / "README.md").write_text("a card says nothing of the weights")
    renamed = folder.rename(tmp_path / "two")
    assert found(renamed) == first
    for position in (0, 199_999):
        content = bytearray(200_000)
        content[position] = 1
        (renamed / "model.safetensors").write_bytes(content)
        assert found(renamed) != first
    (renamed / "model.safetensors").write_bytes(bytes(200_000))
    assert found(renamed) == first
    (renamed / "config.json").write_text('{"a": 1}')
    assert found(renamed) != first


def test_hub_ids_and_random_weights_stand_for_themselves() -> None:
    assert steps.source_fingerprint(configuration.Model(source="org/model")) == "org/model"
    block = {"d_model": 8}
    assert steps.source_fingerprint(configuration.Model(config=block)) == block


def test_a_student_of_the_teacher_changes_with_it_and_with_its_layers(tmp_path: Path) -> None:
    def start(source: str | None, **layers: int) -> dict:
        student = {"source": source, "layers": layers} if source else {"config": {"d_model": 8}}
        return steps.start_inputs(place_of(tmp_path, student=student))

    mark(place_of(tmp_path).data, manifests="m")
    with pytest.raises(UserError, match="run --stage 2 first"):
        start("teacher")
    folder = place_of(tmp_path).experiment("teacher")
    finished.mark_done(folder, {"seed": 1})
    first = start("teacher", decoder=1)
    assert first == start("teacher", decoder=1) and "layers" not in start("teacher")
    for other in (start("teacher"), start("teacher", decoder=2), start("org/model", decoder=1)):
        assert finished.key_of(other) != finished.key_of(first)
    finished.mark_done(folder, {"seed": 2})
    assert finished.changes(first, start("teacher", decoder=1)) == ["teacher"]
    # A student with a start of its own does not wait for the teacher.
    assert start(None).keys() == start("org/model").keys() == {"data", "student", "seed"}


def test_a_tag_with_another_start_has_an_untrained_student_of_its_own(
    tmp_path: Path, decoder: FakeDecoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = {"config": tiny_recipe.whisper(24)}
    plain, big = place_of(tmp_path), place_of(tmp_path, tag="big", student=other)
    same = place_of(tmp_path, tag="same")
    mark(plain.data, manifests="m")
    shared = plain.experiment("untrained")

    fake_models(monkeypatch)
    # What comes first is shared, until those without a tag have another start.
    assert steps.student_start(big) == shared
    assert steps.student_start(plain) == shared == steps.student_start(same)
    assert steps.student_start(big) == shared.parents[1] / "untrained-big" / "seed1"
    assert finished.done(shared)["inputs"] == steps.start_inputs(plain)
    # Stage 7 decodes the one that its methods started from, made anew where it has to be.
    for place in (plain, big):
        model(place, "finetune")
    steps.decode(big, ["finetune"])
    assert decoder.heard[0] == str(steps.untrained(big) / "model")
    finished.mark_done(shared, steps.start_inputs(big))
    decoder.heard.clear()
    steps.decode(plain, ["finetune"])
    assert decoder.heard[0] == str(shared / "model")
    assert finished.done(shared)["inputs"] == steps.start_inputs(plain)


def test_a_tag_that_asks_for_other_transcripts_has_its_own(tmp_path: Path) -> None:
    def tagged(tag: str, max_cer: float = 0.1) -> Place:
        return place_of(tmp_path, tag=tag, transcripts={"source": "teacher", "max_cer": max_cer})

    first, other = tagged("a"), tagged("b", 0.3)
    mark(first.data, manifests="m")
    finished.mark_done(first.experiment("teacher"), steps.teacher_inputs(first))
    shared = first.transcripts
    assert steps.transcripts_of(other) == shared  # there are none yet
    finished.mark_done(shared, steps.transcripts_inputs(first))
    own = shared.with_name("transcripts@b")
    assert steps.transcripts_of(tagged("c")) == shared and steps.transcripts_of(other) == own
    # A student of the one does not take the other for what it has learnt from.
    finished.mark_done(own, steps.transcripts_inputs(other))
    inputs = {name: steps.lessons_inputs(place) for name, place in (("a", first), ("b", other))}
    for place, name, changed in ((first, "a", []), (other, "b", []), (other, "a", ["transcripts"])):
        assert steps.changed_on_disk(place, {"inputs": inputs[name]}) == changed
    # Without a tag they are made anew where they lie, as ever.
    plain = dataclasses.replace(other, config=dataclasses.replace(other.config, tag=""))
    assert steps.transcripts_of(plain) == shared


@pytest.mark.parametrize("step", ["prepare", "teacher"])
def test_a_tag_replaces_nothing_that_all_share(tmp_path: Path, step: str) -> None:
    faster = {"train": {**tiny_recipe.family_settings("whisper")["train"], "learning_rate": 1.0}}
    louder = {"data": {"max_seconds": 1.0}} | faster
    plain = place_of(tmp_path)
    write_json(plain.corpus / "marker.json", {})
    mark(plain.data, manifests="m")
    steps.check_shared(place_of(tmp_path / "fresh", tag="x"), step)  # nothing is there
    folder = plain.data if step == "prepare" else plain.experiment("teacher")
    inputs = steps.data_inputs if step == "prepare" else steps.teacher_inputs
    finished.mark_done(folder, inputs(plain), manifests="m")
    steps.check_shared(place_of(tmp_path, tag="same"), step)
    changed = "data.max_seconds" if step == "prepare" else "train.learning_rate"
    variant = place_of(tmp_path, tag="x", **louder)
    with pytest.raises(UserError, match=rf"another {changed}, and runs with a --tag.*--root DIR"):
        steps.check_shared(variant, step)
    steps.check_shared(variant, "kd")  # replaces nothing
    steps.check_shared(place_of(tmp_path, **louder), step)  # without a tag, as ever
    student = {"config": tiny_recipe.whisper(24), "train": {"learning_rate": 1.0}}
    other = place_of(tmp_path, tag="x", student=student)
    steps.check_shared(other, step)
    if step == "prepare":
        before = (plain.data / "done.json").read_bytes()
        steps.prepare(other)  # a student's data are anyone's
        assert (plain.data / "done.json").read_bytes() == before


def finetuned(root: Path, **changes: object) -> Place:
    """A place whose teacher is taken as it is; data are prepared."""
    teacher = {"config": tiny_recipe.whisper(16), "finetuned": True}
    here = place_of(root, teacher=teacher, **changes)
    mark(here.data, manifests="m")
    return here


def test_a_teacher_taken_as_it_is_is_made_by_one_process_in_an_empty_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = finetuned(tmp_path)
    fake_models(monkeypatch, check_same_units=lambda *_: None)
    folder = here.experiment("teacher")
    finished.mark_done(folder, {"source": "another"})
    (folder / "metrics.jsonl").touch()
    (folder / "tb").mkdir()
    monkeypatch.setenv("RANK", "1")
    steps.teacher(here)
    assert (folder / "metrics.jsonl").exists() and not (folder / "model").exists()
    monkeypatch.setenv("RANK", "0")
    steps.teacher(here)
    assert {path.name for path in folder.iterdir()} == {
        *("config.yaml", "versions.json", "started.json", "model", "done.json"),
    }
    assert finished.done(folder)["inputs"] == steps.teacher_inputs(here)


def test_a_teacher_of_other_units_is_refused_before_anything_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def check(teacher: Model, student: Model) -> None:
        if teacher.units != student.units:
            raise UserError("different units")

    def load(_: object, role: str, units: Path | None = None) -> Model:
        return Model("efg" if role == "teacher" else "abc")

    here = finetuned(tmp_path)
    fake_models(monkeypatch, load=load, check_same_units=check)
    finished.mark_done(here.experiment("teacher"), {"source": "another"})
    with pytest.raises(UserError, match="different units"):
        steps.teacher(here)
    assert finished.done(here.experiment("teacher"))
    # A student of its layers has its units.
    steps.teacher(finetuned(tmp_path, student={"source": "teacher"}))


def test_tokenizers_that_differ_are_told_before_the_teacher_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from adakd import models

    for name, words in {"mine": ["abab"], "other": ["cdcd efef"]}.items():
        config = tiny_recipe.config("whisper")
        units = tiny_recipe.train_units("whisper", tmp_path / f"{name}-units", words * 2)
        models.load(config, "student", units).save(tmp_path / name)
        (tmp_path / name / "model.safetensors").unlink()  # weights are not looked at

    def place(student: dict, units: str = "source", **changes: object) -> Place:
        teacher = {"source": str(tmp_path / "mine")}
        models = {"teacher": teacher, "student": student, "units": {"kind": units, "size": 270}}
        here = place_of(tmp_path / "root", **models, **changes)
        mark(here.data, manifests="m")
        return here

    other = {"source": str(tmp_path / "other")}
    with pytest.raises(UserError, match=r"Teacher \(\d+ units\) and student .* different units"):
        steps.teacher(place(other))
    assert not (tmp_path / "root/exp/tiny/en/whisper/teacher/seed1/started.json").exists()
    steps.check_units(place({"source": str(tmp_path / "mine")}))
    steps.check_units(place({"source": "teacher"}))  # its layers have its units
    steps.check_units(place(other, transcripts={"source": "teacher"}))  # text is all they share
    steps.check_units(place({"config": tiny_recipe.whisper(8)}, "bpe"))  # one tokenizer for both

    # A half has the units of the whole, which was looked at.
    def begun(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(steps, "begin", begun)
    monkeypatch.setattr(Place, "transcribed", lambda _: [])
    with pytest.raises(KeyboardInterrupt):
        steps.train(place(other), "teacher", (0, []))


def test_several_processes_are_told_what_they_make_of_a_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    teacher = {"config": tiny_recipe.whisper(16), "train": {"accumulate": 8}}
    train = {"batch_seconds": 480.0, "accumulate": 2}
    config = tiny_recipe.config("whisper", train=train, teacher=teacher)

    def told(processes: int, role: str) -> str:
        monkeypatch.setenv("WORLD_SIZE", str(processes))
        return steps.step_of_all(config, role)

    assert told(2, "student") == (
        "2 processes, 1920 s of audio in a step where one has 960 s, and so many times fewer "
        "steps; as with one: --student.train.accumulate 1"
    )
    options = "--student.train.accumulate 1 --student.train.batch_seconds 240"
    assert told(4, "student").endswith(f": {options}")
    assert told(4, "teacher").endswith(": --teacher.train.accumulate 2")
    config = tiny_recipe.config("whisper", train={"batch_seconds": 120.0, "accumulate": 5})
    options = "--student.train.accumulate 3 --student.train.batch_seconds 100"
    assert told(2, "student").endswith(f": {options}")


@pytest.mark.parametrize(("role", "other"), [("teacher", "student"), ("student", "teacher")])
def test_advice_for_one_model_leaves_the_other_as_it_is(role: str, other: str) -> None:
    """Followed as it stands: a student's is not to have the finished teacher made anew."""
    family = ROOT / "recipes" / "espeak" / "hi"
    plain = configuration.load(family, "wav2vec2")
    wanted = {"accumulate": 3, "batch_seconds": 7.5}
    words = steps.options_of_training(plain, role, wanted).split()
    overrides = {key[2:]: value for key, value in zip(words[::2], words[1::2], strict=True)}
    advised = configuration.load(family, "wav2vec2", overrides)
    assert advised.train_of(role) == dataclasses.replace(plain.train_of(role), **wanted)
    assert advised.train_of(other) == plain.train_of(other)


def test_the_best_of_all_seeds_is_exported_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    places = [place_of(tmp_path, seed=seed) for seed in (1, 2, 3)]
    for place, cers in zip(places, ((0.3, 0.2), (0.4, 0.1), (0.5, 0.3)), strict=True):
        for name, cer in zip(("finetune", "kd"), cers, strict=True):
            finished.mark_done(place.experiment(name), {"seed": place.config.seed})
            write_json(place.experiment(name) / "score.json", {"dev": {"cer": cer}})
            finished.mark_done(place.experiment(name) / "score", {"decode": "test 1"})
    written = []

    def write_export(place: Place, method: str) -> tuple[int, list[str]]:
        written.append(place.experiment(method))
        return 4, ["utterance-2"]

    fake = types.SimpleNamespace(write_export=write_export)
    monkeypatch.setitem(sys.modules, "adakd.export", fake)
    for _ in range(2):
        steps.export(places, ["finetune", "kd"])
    assert written == [places[1].experiment("kd")]
    said = capsys.readouterr().out
    assert "exported kd of seed 2, the best on dev" in said
    assert "4 test utterances but 1 that rounding decides, such as 'utterance-2'" in said
    facts = finished.done(places[0].export)
    assert (facts["method"], facts["seed"], facts["by_rounding"]) == ("kd", 2, ["utterance-2"])
    # Of one seed alone, what an export depends on reads as it always has.
    steps.export(places[:1], ["finetune", "kd"])
    assert finished.done(places[0].export)["inputs"]["dev"] == {"finetune": 0.3, "kd": 0.2}
    # What stands in its card, and was checked, is of another test set then.
    finished.mark_done(places[0].experiment("kd") / "score", {"decode": "test 2"})
    steps.export(places[:1], ["finetune", "kd"])
    assert written == [places[1].experiment("kd"), *[places[0].experiment("kd")] * 2]


def test_too_little_memory_is_told_with_the_way_out(tmp_path: Path) -> None:
    own = {**tiny_recipe.family_settings("whisper")["teacher"], "train": {"batch_seconds": 40.0}}
    config = place_of(tmp_path, teacher=own).config
    folder = tmp_path / "exp"
    said = {
        role: str(steps.too_little_memory("t", config, role, folder))
        for role in ("teacher", "student")
    }
    train = config.train
    for role, seconds in (("teacher", 20), ("student", train.batch_seconds / 2)):
        # Other settings than those of its checkpoints.
        assert f"begin it anew: remove {finished.shown(folder)} and give " in said[role]
        assert said[role].endswith(
            f" --{role}.train.batch_seconds {seconds:g} "
            f"--{role}.train.accumulate {2 * train.accumulate}."
        )


@pytest.mark.parametrize("teacher", ["cached", "online"])
def test_teacher_and_student_must_share_units(tmp_path: Path, teacher: str) -> None:
    from adakd import models, weighting

    config = tiny_recipe.config("whisper", distill={"teacher": teacher})
    units = [
        tiny_recipe.train_units("whisper", tmp_path / name, [f"{word} {word}" for word in words])
        for name, words in {"ours": ("abab", "cdcd"), "theirs": ("efef", "ghgh")}.items()
    ]
    student, other = (models.load(config, "student", folder) for folder in units)
    here = Place(tmp_path, config)
    other.save(here.experiment("teacher") / "model")
    with pytest.raises(UserError, match="have different units, for instance .*same tokenizer"):
        steps.supervision(here, weighting.build("kd"), student)
    # Without a teacher there is nothing to compare.
    assert steps.supervision(here, weighting.build("finetune"), student) == (None, None)


def test_a_student_of_few_units_depends_on_how_the_store_keeps_the_rest(tmp_path: Path) -> None:
    """One that was trained when the rest was kept as one number is trained anew."""
    few, live = (
        place_of(tmp_path, distill={"top_k": 8, "teacher": teacher})
        for teacher in ("cached", "online")
    )
    settings = steps.training_settings(few, "kd")
    assert settings["distill"]["top_k"] == "8 and as many drawn"
    older = {**settings, "distill": {**settings["distill"], "top_k": 8}}
    assert steps.changed_settings(few, "kd", {"inputs": older}) == ["distill.top_k"]
    assert steps.training_settings(live, "kd")["distill"]["top_k"] == 8
