"""What the stages do and say where something is missing, changed, cut or in the way.

No model is trained here; tests/recipes runs the stages themselves.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
import sys
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import tiny_hub
import tiny_recipe
from tiny_recipe import cut, mark, place_of

import adakd
from adakd import config as configuration
from adakd import corpora, files, finished, inputs, score
from adakd.corpora import marker
from adakd.data import manifest
from adakd.data import text as rules_of
from adakd.errors import UserError
from adakd.files import fingerprint, shown, write_json
from adakd.inputs import (
    check_settings_of_teacher,
    code,
    data_inputs,
    decoded,
    decoding_inputs,
    folder_of,
    lessons_inputs,
    open_store,
    source_fingerprint,
    start_inputs,
    store_parts,
    teacher_inputs,
    training_settings,
    untrained,
)
from adakd.place import Place
from adakd.stages import (
    checks,
    pieces,
    preparation,
    results,
    teacher_pass,
    training,
    transcripts,
)

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return place_of(tmp_path)


def model(place: Place, name: str) -> Path:
    """As if an experiment had been trained; its folder."""
    folder = place.experiment(name)
    finished.mark_done(folder, training_settings(place, name) if name in METHODS else {})
    (folder / "model").mkdir()
    for path in finished.model_files(folder):
        path.touch()
    return folder


def mark_decoded(place: Place, name: str, **otherwise: object) -> None:
    """As if an experiment had been decoded with the settings of this place, or others."""
    inputs = decoding_inputs(place, name) | otherwise
    finished.mark_done(folder_of(place, name) / "decode", inputs)


METHODS = ["finetune", "kd", "adakd"]


def test_every_stage_names_the_one_that_is_missing(place: Place) -> None:
    def asks_for(stage: int, step: object, *arguments: object) -> str:
        assert callable(step)
        with pytest.raises(UserError, match=rf"run --stage {stage} first") as caught:
            step(place, *arguments)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    asks_for(0, preparation.prepare)
    asks_for(1, training.teacher)
    asks_for(1, training.train, "finetune")
    asks_for(1, results.decode, METHODS)
    mark(place.data, manifests="m")
    asks_for(2, teacher_pass.teacher_pass)
    asks_for(2, training.train, "kd")
    asks_for(2, training.train, "adakd")
    asks_for(3, results.decode, METHODS)
    model(place, "finetune")
    assert "kd has not been trained" in asks_for(5, results.decode, METHODS)
    model(place, "kd")
    asks_for(6, results.decode, METHODS)
    model(place, "adakd")
    asks_for(7, results.score, METHODS)
    with pytest.raises(UserError, match="finetune has no scores: run --stage 8 first"):
        results.export([place], METHODS)
    with pytest.raises(UserError, match="run --stage 8 first"):
        results.report([place], METHODS, "./run.sh", False)


class Model:
    """Stands in for a model that `models.load` has made."""

    parameters_count = 1

    def __init__(self, units: str = "abc") -> None:
        self.units = units

    def save(self, folder: Path) -> None:
        for name in ("config.json", "model.safetensors"):
            (folder / name).touch()


def fake_models(monkeypatch: pytest.MonkeyPatch, **functions: object) -> None:
    """In the place of `adakd.models`, which takes long to import."""
    fake = types.SimpleNamespace(**{"load": lambda *_: Model(), **functions})
    monkeypatch.setitem(sys.modules, "adakd.models", fake)
    monkeypatch.setattr(adakd, "models", fake, raising=False)
    seeding = types.SimpleNamespace(seed_everything=lambda *_: None)
    monkeypatch.setitem(sys.modules, "adakd.checkpoints", seeding)


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
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    mark(place.data, manifests="m")
    mark(start := place.experiment("untrained"))
    fake_models(monkeypatch)
    monkeypatch.setattr(Model, "save", stop)
    with pytest.raises(KeyboardInterrupt):
        training.student_start(place)
    assert not finished.done(start)
    folder = model(place, "teacher")
    mark_decoded(place, "teacher")
    mark(folder / "score")
    monkeypatch.setattr(score, "score_file", stop)
    with pytest.raises(KeyboardInterrupt):
        results.score(place, [])
    assert not finished.done(folder / "score")
    mark(folder / "score")
    mark(place.report)
    monkeypatch.setattr(marker, "described", stop)
    with pytest.raises(KeyboardInterrupt):
        results.report([place], [], "./run.sh", False)
    assert not finished.done(place.report)


def hypotheses(folder: Path) -> list[str]:
    return [
        json.loads((folder / f"hyp.{split}.jsonl").read_text())["hypothesis"]
        for split in results.SCORED
    ]


@dataclass
class Hearing:
    """The teacher transcribes 8 utterances; the transcribing of piece number `cut` is cut."""

    place: Place
    capsys: pytest.CaptureFixture[str]
    cut: int = 0
    opened: int = 0  # how often the model was
    heard: list[str] = field(default_factory=list)
    titles: list[str] = field(default_factory=list)

    def open_folder(self, *_: object) -> None:
        self.opened += 1

    def transcribe(self, *given: Any) -> list[dict[str, str]]:
        _, _, piece, _, title = given
        self.titles.append(title)
        if len(self.titles) == self.cut:
            raise KeyboardInterrupt
        self.heard += [entry.id for entry in piece]
        return [{"id": one.id, "hypothesis": f"a {one.id}", "raw": one.raw} for one in piece]

    def again(self, cut: int = 0) -> str:
        """Stage 2's transcripts; returns what was said."""
        self.cut, self.opened = cut, 0
        self.heard.clear()
        self.titles.clear()
        with pytest.raises(KeyboardInterrupt) if cut else contextlib.nullcontext():
            transcripts.transcribe_training(self.place)
        assert bool(finished.done(self.hypotheses)) is not bool(cut) and self.opened <= 1
        return self.capsys.readouterr().out

    @property
    def hypotheses(self) -> Path:
        return self.place.transcripts / "hypotheses"

    @property
    def lessons(self) -> bytes:
        return (self.place.transcripts / "train.jsonl").read_bytes()


IDS = [f"u{number}" for number in range(8)]


@pytest.fixture
def hearing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Hearing]:
    def of(name: str, train: int = 5) -> Hearing:
        options = {"transcripts": {"source": "teacher", "max_cer": 9.0}}
        place = place_of(tmp_path / name, data={"untranscribed": True}, **options)
        mark(place.data, manifests="m")
        mark(place.experiment("teacher"))
        for split, ids, text in (("train", IDS[:train], "a"), ("untranscribed", IDS[train:], "")):
            made = [manifest.Entry(one, "a.flac", 1.0, text, text, "s", "en") for one in ids]
            manifest.write(place.data / f"{split}.jsonl", made)
        here = Hearing(place, capsys)
        limit = lambda *_: lambda entry: None  # noqa: E731
        fake_models(monkeypatch, open_folder=here.open_folder, limit=limit)
        fake = types.SimpleNamespace(transcribe=here.transcribe)
        monkeypatch.setitem(sys.modules, "adakd.decode", fake)
        return here

    monkeypatch.setattr(pieces, "PIECE", 2)
    return of


def test_the_teachers_transcripts_go_on_where_they_were_cut(
    hearing: Callable[..., Hearing],
) -> None:
    whole = hearing("whole")
    whole.again()
    assert whole.heard == IDS
    here = hearing("cut")
    here.again(cut=5)
    assert here.heard == IDS[:7]
    rows = [row for path in here.hypotheses.glob("*.jsonl") for row in files.read_jsonl(path)]
    assert all(row == {"id": row["id"], "hypothesis": f"a {row['id']}"} for row in rows)
    said, what = here.again(), "tiny/en whisper: the teacher transcribes"
    assert here.heard == IDS[7:] and here.titles == [f"{what} untranscribed, piece 2 of 2"]
    assert f"{what} train: goes on, 5 of 5 utterances are there" in said
    assert f"{what} untranscribed: goes on, 2 of 3 utterances are there" in said
    assert here.lessons == whole.lessons
    here.again()
    assert here.opened == 0 and here.heard == []


def test_transcripts_by_other_text_rules_are_chosen_again_and_nothing_is_heard_again(
    hearing: Callable[..., Hearing], monkeypatch: pytest.MonkeyPatch
) -> None:
    here = hearing("here")
    here.again()
    monkeypatch.setattr(rules_of, "RULES", rules_of.RULES + 1)
    with pytest.raises(UserError, match=r"chosen with another version of the text rules.*stage 2"):
        lessons_inputs(here.place)
    assert "version of the text rules changed, made anew" in here.again()
    assert here.heard == []


def test_transcripts_of_another_teacher_are_not_gone_on_with(
    hearing: Callable[..., Hearing],
) -> None:
    here = hearing("here")
    here.again(cut=2)
    finished.mark_done(here.place.experiment("teacher"), {}, weights="other")
    said = here.again(cut=2)
    assert here.heard == IDS[:2] and "train: cut, and teacher changed, begun anew" in said
    assert "hypotheses of train: cut" not in here.again()
    # Nor do those of a finished one remain.
    finished.mark_done(here.place.experiment("teacher"), {}, weights="third")
    assert "hypotheses of train: teacher changed, made anew" in here.again(cut=1)
    assert not list(here.hypotheses.glob("*.jsonl"))


def test_hypotheses_that_are_lost_are_named_and_made_again(
    hearing: Callable[..., Hearing],
) -> None:
    here = hearing("here")
    here.again()
    whole = here.lessons
    (here.hypotheses / "untranscribed.2.jsonl").unlink()
    finished.mark_done(here.place.transcripts, {})  # they are to be chosen anew
    with pytest.raises(UserError, match=r"in 1 utterances is lost, such as u7: remove .*done"):
        here.again()
    (here.hypotheses / "done.json").unlink()
    here.again()
    assert here.heard == IDS[7:] and here.lessons == whole


def test_where_nothing_has_a_transcript_the_teachers_are_made_once(
    hearing: Callable[..., Hearing],
) -> None:
    here = hearing("here", train=0)
    for expected in (IDS, []):
        here.again()
        assert here.heard == expected


def decoded_teacher(place: Place, decoder: FakeDecoder) -> Path:
    """A teacher that stage 7 and stage 8 have been through."""
    mark(place.data, manifests="m")
    folder = model(place, "teacher")
    results.decode(place, [])
    (folder / "score.json").touch()
    mark(folder / "score")
    return folder


def test_what_is_cut_while_decoding_is_not_done(place: Place, decoder: FakeDecoder) -> None:
    folder = decoded_teacher(place, decoder)
    assert hypotheses(folder) == ["a", "a"] and finished.done(folder / "decode")
    changed = dataclasses.replace(place.config, decode=configuration.Decode(encode="speech"))
    decoder.says, decoder.cut = "b", 4
    with pytest.raises(KeyboardInterrupt):
        results.decode(Place(place.root, changed), [])
    assert hypotheses(folder) == ["b", "a"]
    assert not finished.done(folder / "decode") and not finished.done(folder / "score")
    assert not (folder / "score.json").exists()
    # With the settings of before, the hypotheses are those of before.
    decoder.says = "a"
    results.decode(place, [])
    assert hypotheses(folder) == ["a", "a"]


def test_hypotheses_that_were_lost_are_made_again(place: Place, decoder: FakeDecoder) -> None:
    folder = decoded_teacher(place, decoder)
    results.decode(place, [])
    assert len(decoder.heard) == 2, "dev and test, once"
    (folder / "hyp.test.jsonl").unlink()
    results.decode(place, [])
    assert hypotheses(folder) == ["a", "a"]
    # And where lines of them were.
    mark(place.data, manifests="m", counts={"dev": {"kept": 1}, "test": {"kept": 1}})
    (folder / "hyp.test.jsonl").write_text("")
    results.decode(place, [])
    assert hypotheses(folder) == ["a", "a"]
    results.decode(place, [])
    assert len(decoder.heard) == 6, "dev and test, thrice"


def test_checkpoints_of_what_is_done_are_removed(place: Place) -> None:
    """A run may have been killed between the two."""
    mark(place.data, manifests="m")
    saved = model(place, "teacher") / "ckpt" / "CKPT+1"
    finished.mark_done(place.experiment("teacher"), teacher_inputs(place))
    saved.mkdir(parents=True)
    training.train(place, "teacher")
    assert not saved.parent.exists()


def test_a_store_that_lost_a_shard_is_made_again(
    place: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    mark(place.data, manifests="m", counts={"train": {"kept": 1}})
    model(place, "teacher")
    meta = {"parts": store_parts(place), "top_k": 0, "temperature": 2.0}
    write_json(place.store / "meta.json", meta)
    line = {"id": "u", "x": 1.0, "shard": 0, "row": 0, "rows": 1}
    files.write_jsonl(place.store / "index.0.0.jsonl", [line])
    (place.store / "logits.0.0.npy").touch()
    monkeypatch.setitem(sys.modules, "adakd.data.loader", None)
    teacher_pass.write_store(place)
    (place.store / "logits.0.0.npy").unlink()
    with pytest.raises(ImportError):  # at work
        teacher_pass.write_store(place)
    where = shown(place.store)
    assert f"teacher store: part of {where} is lost, made anew" in capsys.readouterr().out


def test_what_was_lost_is_made_again(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> None:
        raise ImportError("at work")

    def goes_to_work(lost: Path, step: object, *arguments: object) -> None:
        assert callable(step)
        step(*arguments)  # done
        lost.rename(lost.with_suffix(".lost"))
        with pytest.raises(ImportError, match="at work|halted; None in sys.modules"):
            step(*arguments)
        lost.with_suffix(".lost").rename(lost)

    for name in ("adakd.models", "adakd.weighting", "adakd.brain", "adakd.checkpoints"):
        monkeypatch.setitem(sys.modules, name, None)
    # Data.
    write_json(place.corpus / "marker.json", {})
    for split in corpora.SPLITS:
        (place.data / f"{split}.jsonl").parent.mkdir(parents=True, exist_ok=True)
        (place.data / f"{split}.jsonl").touch()
    place.units.mkdir()
    for module in (finished, inputs, preparation, training):
        monkeypatch.setattr(module, "fingerprint", lambda _: "the same")
    monkeypatch.setattr(finished, "changes", lambda *_: [])
    mark(place.data, manifests="m", counts={"train": {"rejected": 0}})
    monkeypatch.setattr(preparation, "Walk", lambda _: [])  # the corpus has nothing against it
    monkeypatch.setattr(preparation, "corpus_options", never)
    for name in ("train.jsonl", "test.jsonl", "units"):
        goes_to_work(place.data / name, preparation.prepare, place)
    # Models.
    for name in ("teacher", "finetune", "untrained"):
        model(place, name)
    for name in ("model", "model/config.json", "model/model.safetensors"):
        goes_to_work(place.experiment("teacher") / name, training.train, place, "teacher")
        goes_to_work(place.experiment("finetune") / name, training.train, place, "finetune")
        goes_to_work(place.experiment("untrained") / name, training.student_start, place)
    # The report.
    report = place.report
    for name in ("teacher", "untrained"):
        mark_decoded(place, name)
        mark(place.experiment(name) / "score")
    for path in (report / "table.txt", report / "index.html", place.report / "RESULTS.md"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    monkeypatch.setattr(marker, "described", never)
    for path in (report / "table.txt", report / "index.html", place.report / "RESULTS.md"):
        mark(report)
        goes_to_work(path, results.report, [place], [], "./run.sh", False)


def test_a_report_is_made_anew_where_a_model_says_something_else(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Deleted and trained again with the same settings, it has the same fingerprints."""
    mark(place.data, manifests="m")
    asked = []
    (place.report).mkdir(parents=True)
    (place.report / "table.txt").touch()
    monkeypatch.setattr(results, "is_current", lambda _, inputs, *__: asked.append(inputs) or True)
    for name in ("teacher", "untrained"):
        model(place, name)
        mark_decoded(place, name)
        mark(place.experiment(name) / "score")
    for said in ("a", "b", "b"):
        (place.experiment("teacher") / "hyp.test.jsonl").write_text(said)
        results.report([place], [], "", False)
    assert asked[0] != asked[1] == asked[2]


def test_hypotheses_and_reports_that_were_changed_since_are_not_taken_for_done(
    place: Place,
    decoder: FakeDecoder,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    decoded_teacher(place, decoder)
    folder = place.experiment("teacher")
    for stale in ("score.json", "score/done.json"):
        (folder / stale).unlink(missing_ok=True)
    results.score_one(place, "teacher")
    path = folder / "hyp.test.jsonl"
    scored = path.read_text()
    assert "errors" in scored
    path.write_text(scored.replace('"errors"', '"other"'))  # an older copy, from before scoring
    capsys.readouterr()
    results.score_one(place, "teacher")
    assert "the hypotheses are not as they were scored, scored anew" in capsys.readouterr().out
    assert '"errors"' in path.read_text()
    results.score_one(place, "teacher")
    assert "score of teacher: done" in capsys.readouterr().out

    with monkeypatch.context() as later:  # by other text rules it would be another score
        later.setattr(rules_of, "RULES", rules_of.RULES + 1)
        results.score_one(place, "teacher")
        assert "score of teacher: score.text changed, made anew" in capsys.readouterr().out
    results.score_one(place, "teacher")

    results.report([place], [], "", False)
    table = place.report / "RESULTS.md"
    whole = table.read_text()
    table.write_text(whole[: len(whole) // 2])
    capsys.readouterr()
    results.report([place], [], "", False)
    said = capsys.readouterr().out
    assert "RESULTS.md is not as it was written, made anew" in said and "| teacher" not in said
    rows = [line for line in table.read_text().splitlines() if line.startswith("|")]
    assert rows == [line for line in whole.splitlines() if line.startswith("|")]


@pytest.mark.parametrize(
    ("families", "told"),
    [
        (["wav2vec2", "whisper"], "report is of whisper alone, and no longer of wav2vec2: both"),
        (["whisper"], ""),
    ],
)
def test_a_report_of_one_family_tells_that_the_other_is_gone(
    place: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    families: list[str], told: str,
) -> None:  # fmt: skip
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    mark(place.data, manifests="m")
    mark(model(place, "teacher") / "score")
    mark_decoded(place, "teacher")
    before = [[f"exp/tiny/en/{family}/teacher/seed1", {}, False] for family in families]
    finished.mark_done(place.report, {"scores": before})
    monkeypatch.setattr(marker, "described", stop)
    with pytest.raises(KeyboardInterrupt):
        results.report([place], [], "", False)
    said = capsys.readouterr().out
    assert told in said if told else "no longer of" not in said


def test_a_teacher_of_another_source_is_noticed_by_what_comes_after(tmp_path: Path) -> None:
    here = place_of(tmp_path)
    check_settings_of_teacher(here)  # there is none yet
    finished.mark_done(here.experiment("teacher"), {"source": None})
    own = {**tiny_recipe.family_settings("whisper")["teacher"], "source": "a/b", "config": None}
    other = place_of(tmp_path, teacher=own)
    with pytest.raises(UserError, match="was made from another teacher.source: give the one"):
        check_settings_of_teacher(other)
    now = {"source": source_fingerprint(other.config.teacher)}
    finished.mark_done(here.experiment("teacher"), now | training_settings(other, "teacher"))
    check_settings_of_teacher(other)
    longer = place_of(tmp_path, teacher={**own, "train": {"epochs": 77}})
    with pytest.raises(UserError, match=r"was made with another train.epochs: give the settings"):
        check_settings_of_teacher(longer)
    student = {**tiny_recipe.family_settings("whisper")["student"], "train": {"epochs": 77}}
    check_settings_of_teacher(place_of(tmp_path, teacher=own, student=student))
    with pytest.raises(UserError, match="with another .*train"):
        check_settings_of_teacher(place_of(tmp_path, teacher={**own, "finetuned": True}))


def test_a_tag_without_baselines_is_reported_beside_those_without_a_tag(tmp_path: Path) -> None:
    here, plain = place_of(tmp_path, tag="t-mean"), place_of(tmp_path)
    mark(here.data, manifests="m")
    for name, data in (("finetune", "m"), ("kd", "another")):
        model(plain, name)
        mark_decoded(plain, name, data=data)
        mark(plain.experiment(name) / "score")
    (found,) = results.other_baselines(here, ["adakd"])
    assert found[1:] == ("finetune", plain.experiment("finetune"))
    assert results.other_baselines(here, METHODS) == [found], "a tag beside what it is a variant of"
    assert results.other_baselines(plain, ["adakd"]) == [found], "if nobody asked for it today"
    assert results.other_baselines(plain, METHODS) == [], "they are there already"
    own = model(here, "finetune")  # of the tag itself, if not asked for today
    mark_decoded(here, "finetune")
    mark(own / "score")
    assert [each[2] for each in results.other_baselines(here, ["adakd"])] == [own]
    mark_decoded(here, "finetune", audio={"encode": "speech"})  # other input than the tag's
    assert [each[1:] for each in results.other_baselines(here, ["adakd"])] == [found[1:]]


def test_what_was_decoded_otherwise_is_neither_scored_nor_reported(
    place: Place, decoder: FakeDecoder
) -> None:
    """./run.sh, then `--stage 7 --stop-stage 8 --decode.encode speech`, then `--stage 9`."""
    folder = decoded_teacher(place, decoder)
    speech = dataclasses.replace(place.config, decode=configuration.Decode(encode="speech"))
    results.decode(Place(place.root, speech), [])
    told = r"teacher was decoded with another audio.encode: give the settings .* or run --stage 7"
    with pytest.raises(UserError, match=told):
        results.score_one(place, "teacher")
    mark(folder / "score")
    with pytest.raises(UserError, match=told):
        results.report([place], [], "", False)
    # A teacher that came later changes no text, only what stands beside it.
    results.decode(place, [])
    mark_decoded(place, "teacher", teacher=None)
    decoded(place, "teacher")
    shutil.rmtree(place.data)  # what was scored can be reported without its audio
    decoded(place, "teacher")


def test_scores_of_other_draws_are_made_anew(
    place: Place, decoder: FakeDecoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded_teacher(place, decoder)
    (place.experiment("teacher") / "score" / "done.json").unlink()
    draws = []
    monkeypatch.setattr(score, "score_file", lambda *given: draws.append(given[-1]) or {"cer": 0.5})
    for number in (9, 9, 10):
        settings = configuration.Score(bootstrap=number)
        here = Place(place.root, dataclasses.replace(place.config, score=settings))
        results.score_one(here, "teacher")
    assert draws == [9, 9, 10, 10], "dev and test, once of each"


def test_int8_weights_are_of_the_student_that_is_there(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []

    def save(_: object, folder: Path) -> None:
        made.append((folder / "int8.pt").write_text("weights"))

    fake_models(monkeypatch, open_folder=lambda *_: types.SimpleNamespace(hf=None))
    monkeypatch.setitem(sys.modules, "adakd.quantise", quantise := types.SimpleNamespace())
    monkeypatch.setattr(adakd, "quantise", quantise, raising=False)
    quantise.save, quantise.FILE = save, "int8.pt"
    for alpha, weights in ((0.1, "a"), (0.1, "a"), (0.2, "a"), (0.2, "b")):
        facts = {"parameters": 1, "weights": weights}
        finished.mark_done(place.experiment("kd"), {"method": {"alpha": alpha}}, **facts)
        results.quantise(place, "kd")
    assert len(made) == 3, "once of each student"


def test_the_store_is_asked_for_and_checked(place: Place) -> None:
    mark(place.data, manifests="m")
    model(place, "teacher")
    with pytest.raises(UserError, match="run stage 4"):
        open_store(place)
    place.store.mkdir()
    parts = store_parts(place)
    write_json(place.store / "meta.json", {"parts": parts, "top_k": 0, "temperature": 2.0})
    open_store(place)
    # Dense logits serve any temperature, top-k ones only their own; another teacher never.
    place.config.distill.temperature = 3.0
    open_store(place)
    place.config.distill.top_k = 8
    with pytest.raises(UserError, match="another top_k and another temperature.*stage 4"):
        open_store(place)
    place.config.distill.top_k = 0
    finished.mark_done(place.experiment("teacher"), {"source": "another"})
    with pytest.raises(UserError, match="another teacher.*stage 4"):
        open_store(place)


def test_every_training_spares_a_cut_one(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also a half, and where a teacher that is taken as it is would take its place."""
    mark(place.data, manifests="m")
    monkeypatch.setattr(Place, "transcribed", lambda _: [])
    ready = dataclasses.replace(place.config.teacher, finetuned=True)
    as_it_is = Place(place.root, dataclasses.replace(place.config, teacher=ready))
    teacher, inputs = place.experiment("teacher"), teacher_inputs(place)

    def refused(folder: Path, before: dict, step: Callable[..., object], *given: object) -> None:
        saved = cut(folder, before, place)
        with pytest.raises(UserError, match="holds a cut run that was begun with another "):
            step(*given)
        assert saved.is_dir()
        shutil.rmtree(folder)

    refused(place.half(0), {"half": "other"}, training.train, place, "teacher", (0, [1, 2]))
    refused(teacher, {**inputs, "seed": 2}, training.train, place, "teacher")
    fake_models(monkeypatch, check_same_units=lambda *_: None)
    refused(teacher, inputs, training.teacher, as_it_is)


def test_prepared_data_are_of_the_corpus_that_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def utterances(options: object, folder: Path, fold: int | None) -> Iterator[None]:
        raise UserError("made with other options; run stage 0 again")
        yield

    place = place_of(tmp_path)
    place.corpus.mkdir(parents=True)
    (place.corpus / "fetched.json").write_text("{}")
    finished.mark_done(place.data, data_inputs(place))
    corpus = types.SimpleNamespace(utterances=utterances)
    monkeypatch.setattr(preparation, "corpus_options", lambda config: (corpus, None))
    with pytest.raises(UserError, match="made with other options"):
        preparation.prepare(place)
    assert finished.done(place.data), "what is there stays"


def test_finished_data_tell_what_was_left_out(
    place: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(preparation, "Walk", lambda _: [])
    write_json(place.corpus / "fetched.json", {})
    place.units.mkdir(parents=True)
    for split in corpora.SPLITS:
        (place.data / f"{split}.jsonl").touch()
    for rejected in (0, 3):
        counts = {split: {"rejected": rejected} for split in ("train", "dev")}
        finished.mark_done(place.data, data_inputs(place), manifests="m", counts=counts)
        preparation.prepare(place)
        said = capsys.readouterr().out
        assert ("6 rejected (" in said) == bool(rejected)


def test_an_utterance_that_tells_no_language_has_the_recipes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = corpora.Utterance("a", "train", Path("a.wav"), "one", "s", "")
    said = [plain, dataclasses.replace(plain, id="b", language="ta")]
    corpus = types.SimpleNamespace(utterances=lambda options, folder, fold: iter(said))
    monkeypatch.setattr(preparation, "corpus_options", lambda config: (corpus, None))
    for languages, expected in (([], "ab"), (["en"], "a"), (["ta"], "b"), (["en", "ta"], "ab")):
        here = place_of(tmp_path, language={"code": "en"}, data={"languages": languages})
        assert "".join(one.id for one in preparation.Walk(here)) == expected


def test_a_corpus_for_a_recipe_that_makes_its_own_is_refused(tmp_path: Path) -> None:
    """./run.sh --corpus fsdd.tar.xz, which forgot --recipe."""
    here = place_of(tmp_path, corpus={"kind": "espeak", "corpus": "fsdd.tar.xz"})
    with pytest.raises(UserError, match="tiny/en makes its corpus itself .*--recipe.*--text"):
        preparation.corpus(here)


def test_a_study_keeps_what_is_not_its_own(place: Place) -> None:
    """Within `made_for`, and with other settings; see also tests/test_benchmark.py."""
    mark(place.data, manifests="m")
    inputs = teacher_inputs(place)
    teacher, twin = place.experiment("teacher"), place.experiment("kd-try1")
    other = {**inputs, "source": {"hidden_size": 8}}
    finished.mark_done(teacher, other, train_seconds=3.0)
    finished.mark_done(twin, inputs)

    def refused(step: Callable[..., object], *arguments: object) -> None:
        before = {path: path.stat().st_mtime_ns for path in teacher.rglob("*")}
        with finished.made_for("a"):
            with pytest.raises(UserError, match="holds a finished experiment with another source"):
                step(*arguments)
        assert {path: path.stat().st_mtime_ns for path in teacher.rglob("*")} == before

    refused(training.train, place, "teacher")
    refused(finished.take_over, teacher, twin)
    ready = dataclasses.replace(place.config.teacher, finetuned=True)
    as_it_is = Place(place.root, dataclasses.replace(place.config, teacher=ready))
    finished.mark_done(teacher, {**teacher_inputs(as_it_is), "source": "another"})
    refused(training.teacher, as_it_is)
    finished.spare(teacher, inputs)  # ./run.sh
    with finished.made_for("a"):
        finished.spare(twin, inputs)  # it would not be made anew
        finished.spare(place.experiment("kd"), inputs)  # nothing there
        finished.mark_done(teacher, other, **finished.whose())
        finished.spare(teacher, inputs)
    for owner in ({"study": None}, {"study": "b"}):
        finished.mark_done(teacher, other, **owner)
        with finished.made_for("a"), pytest.raises(UserError, match="did not make"):
            finished.spare(teacher, inputs)


def test_what_was_trained_otherwise_is_neither_decoded_nor_reported(place: Place) -> None:
    mark(place.data, manifests="m")
    for name in METHODS:
        model(place, name)
        mark(place.experiment(name) / "score")
    assert results.trained(place, METHODS) == METHODS

    def refusal(changes: dict, methods: list[str]) -> str:
        other = place_of(place.root, **changes)
        sentences = set()
        for step in (results.decode, results.score):
            with pytest.raises(UserError) as caught:
                step(other, methods)
            sentences.add(str(caught.value))
        with pytest.raises(UserError) as caught:
            results.report([other], methods, "./run.sh", False)
        (sentence,) = sentences | {str(caught.value)}
        return sentence

    train = {**tiny_recipe.family_settings("whisper")["train"], "epochs": 99}
    assert "finetune was trained with another train.epochs: " in refusal({"train": train}, METHODS)
    assert "--stage 6 first" in refusal({"train": train}, ["adakd"])
    weaker = {"methods": {"kd": {"alpha": 0.1}, "adakd": {"threshold": "mean", "k": "auto"}}}
    assert "kd was trained with another methods.kd.alpha: " in refusal(weaker, METHODS)
    guarded = {"methods": {"kd": {"alpha": 0.5, "guard": "drop"}, "adakd": {}}}
    assert "kd was trained with another methods.kd.guard: " in refusal(guarded, ["kd"])
    # What training does not depend on may differ.
    free = {"decode": {"encode": "speech"}, "score": {"bootstrap": 9}, **weaker}
    assert results.trained(place_of(place.root, **free), ["finetune", "adakd"]) == METHODS[::2]


def test_a_student_with_another_start_is_not_decoded(place: Place) -> None:
    mark(place.data, manifests="m")
    student = {"source": "somebody/whisper"}
    plain = place_of(place.root, student=student)
    other = place_of(place.root, student={**student, "layers": {"encoder": 1}})
    for made, asked in ((plain, other), (other, plain)):
        facts = training_settings(made, "kd") | {"start": fingerprint(start_inputs(made))}
        finished.begin(place.experiment("kd"), facts, made.config)
        finished.mark_done(place.experiment("kd"), facts)
        (place.experiment("kd") / "model").mkdir()
        assert results.trained(made, ["kd"]) == ["kd"]
        with pytest.raises(UserError, match=r"with another student\.layers\.encoder"):
            results.trained(asked, ["kd"])
    mark(place.data, manifests="other data")  # told as such, not as another start
    with pytest.raises(UserError, match="kd was trained with another data than lies here"):
        finished.mark_done(place.experiment("kd"), {**facts, "data": "m"})
        results.trained(other, ["kd"])


def test_a_student_of_other_data_or_another_teacher_is_not_decoded(place: Place) -> None:
    mark(place.data, manifests="m")
    finished.mark_done(place.experiment("teacher"), {"seed": 1})
    (place.experiment("teacher") / "model").mkdir()
    teacher = finished.done(place.experiment("teacher"))["fingerprint"]
    for name in METHODS:
        settings = training_settings(place, name)
        of_teacher = {} if name == "finetune" else {"teacher": teacher}
        finished.mark_done(place.experiment(name), settings | {"data": "m"} | of_teacher)
        (place.experiment(name) / "model").mkdir()
    assert results.trained(place, METHODS) == ["teacher", *METHODS]

    def refusal(methods: list[str]) -> str:
        with pytest.raises(UserError) as caught:
            results.trained(place, methods)
        return str(caught.value)

    now = training_settings(place, "kd") | {"data": "m", "teacher": teacher} | code(place.config)
    before = finished.done(place.experiment("kd"))["inputs"]
    finished.mark_done(place.experiment("kd"), now)
    assert "finetune was trained by an earlier version of this code, others by this one: " in (
        refusal(METHODS)
    )
    assert results.trained(place, ["kd"]) == ["teacher", "kd"]
    finished.mark_done(place.experiment("kd"), before)
    finished.mark_done(place.experiment("teacher"), {"seed": 2})
    assert (
        "kd was trained with another teacher than lies here now: run from --stage 4 on"
        in refusal(METHODS)
    )
    assert results.trained(place, ["finetune"]) == ["teacher", "finetune"]
    shutil.rmtree(place.experiment("teacher"))  # it may be removed, to make room
    assert results.trained(place, METHODS) == METHODS
    mark(place.data, manifests="m", samples="louder")
    assert "finetune was trained with another samples than lies here now" in refusal(METHODS)
    louder = training_settings(place, "finetune") | {"data": "m", "samples": "louder"}
    finished.mark_done(place.experiment("finetune"), louder)
    assert results.trained(place, ["finetune"]) == ["finetune"]
    mark(place.data, manifests="m")
    assert "finetune was trained with another samples than lies here now" in refusal(METHODS)
    mark(place.data, manifests="other")
    assert "kd was trained with another data than lies here now: run from --stage 2 on" in refusal(
        ["kd"]
    )
    (place.data / "done.json").unlink()
    assert results.trained(place, METHODS) == METHODS
    place.config.transcripts.source = "teacher"
    assert "another transcripts than lies here" in refusal(METHODS)


@pytest.mark.parametrize("tag", ["", "layers"])
def test_a_student_of_a_teacher_that_was_removed_is_decoded(
    tmp_path: Path, decoder: FakeDecoder, monkeypatch: pytest.MonkeyPatch, tag: str
) -> None:
    fake_models(monkeypatch)
    other = place_of(tmp_path)
    mark(other.data, manifests="m")
    training.student_start(other)
    here = place_of(tmp_path, tag=tag, student={"source": "teacher"})
    model(here, "teacher")
    start = training.student_start(here)
    assert start.parent.name == ("untrained-layers" if tag else "untrained")
    facts = training_settings(here, "finetune") | {"start": fingerprint(start_inputs(here))}
    finished.begin(here.experiment("finetune"), facts, here.config)
    finished.mark_done(here.experiment("finetune"), facts)
    (here.experiment("finetune") / "model").mkdir()
    shutil.rmtree(here.experiment("teacher"))
    results.decode(here, ["finetune"])
    assert (start / "hyp.test.jsonl").exists() and len(decoder.heard) == 4


STILL = {
    family: {"config": {**block(16), **tiny_recipe.STILL[family]}}
    for family, block in (("wav2vec2", tiny_recipe.wav2vec2), ("whisper", tiny_recipe.whisper))
}


@pytest.mark.parametrize("family", configuration.FAMILIES)
@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"distill": {"difficulty": "pretrained"}}, "starts from random weights: try crossfit"),
        (
            {"distill": {"difficulty": "crossfit"}, "teacher": {"source": "a", "finetuned": True}},
            "teacher.finetuned takes it as it is",
        ),
        ({"distill": {"difficulty": "dropout"}, "teacher": STILL}, "The teacher has no dropout"),
        ({"distill": {"top_k": 5000}}, "top_k is 5000, and the teacher has [0-9]+ units"),
        ({"student": {"source": "teacher", "layers": {"encoder": 3}}}, "encoder has 1 layers"),
        ({"student": {"config": {"encoder_attention_heads": 3, "d_model": 8}}}, "makes no model"),
    ],
)
def test_what_the_models_cannot_do_is_told_before_the_teacher_is_trained(
    tmp_path: Path, family: str, changes: dict, sentence: str
) -> None:
    changes = {name: value.get(family, value) for name, value in changes.items()}
    if "makes" in sentence and family == "wav2vec2":
        changes = {"student": {"config": {"hidden_size": 8, "num_attention_heads": 3}}}
    here = Place(tmp_path, tiny_recipe.config(family, **changes))
    steps, methods = ["teacher", "finetune", "teacher-pass", "adakd"], ["finetune", "adakd"]
    checks.check_models(here, steps, methods)  # stage 2 asks for the data
    mark(here.data, manifests="m")
    tiny_recipe.train_units(family, here.units, ["one two"] * 2)
    with pytest.raises(UserError, match=sentence):
        checks.check_models(here, steps, methods)
    checks.check_models(here, ["teacher"], [])  # needed by no stage that is to come


@pytest.mark.parametrize("family", configuration.FAMILIES)
@pytest.mark.parametrize("role", ["teacher", "student"])
def test_a_checkpoint_without_its_features_is_told_before_the_teacher_is_trained(
    tmp_path: Path, family: str, role: str
) -> None:
    sources = tiny_hub.checkpoints(tmp_path / "hub", family, ["one two"] * 2)
    changes: dict[str, Any] = {each: {"source": source} for each, source in sources.items()}
    units = {"units": {"kind": "source"}} if family == "whisper" else {}
    here = Place(tmp_path, tiny_recipe.config(family, **changes, **units))
    mark(here.data, manifests="m")
    if family == "wav2vec2":
        tiny_recipe.train_units(family, here.units, ["one two"] * 2)
    steps, methods = ["teacher", "finetune", "teacher-pass", "kd"], ["finetune", "kd"]
    checks.check_models(here, steps, methods)
    features = Path(sources[role]) / "preprocessor_config.json"
    content = json.loads(features.read_text())
    odd = {"sampling_rate": 8000} if family == "wav2vec2" else {"feature_size": 11}
    features.write_text(json.dumps(content | odd))
    with pytest.raises(UserError, match="8000 Hz|11 mel bins"):
        checks.check_models(here, steps, methods)
    features.unlink()
    with pytest.raises(UserError, match="The feature extractor cannot be loaded from"):
        checks.check_models(here, steps, methods)


def test_a_student_of_another_frame_rate_is_told_before_the_teacher_is_trained(
    tmp_path: Path,
) -> None:
    block = tiny_recipe.wav2vec2(8) | {"conv_stride": [160, 1]}
    here = Place(tmp_path, tiny_recipe.config("wav2vec2", student={"config": block}))
    mark(here.data, manifests="m")
    tiny_recipe.train_units("wav2vec2", here.units, ["one two"] * 2)
    steps = ["teacher", "finetune", "teacher-pass", "kd"]
    checks.check_models(here, steps, ["finetune"])  # no frame is compared
    # By hand: windows of 160 samples without overlap, then of three of these, two or one apart.
    with pytest.raises(UserError, match="the teacher makes 499 frames and the student 998"):
        checks.check_models(here, steps, ["finetune", "kd"])


@pytest.mark.parametrize("family", configuration.FAMILIES)
def test_a_student_with_broken_weights_is_told_before_the_teacher_is_trained(
    tmp_path: Path, family: str
) -> None:
    source = tiny_hub.checkpoints(tmp_path / "hub", family, ["one two"] * 2)["student"]
    units = {"units": {"kind": "source"}} if family == "whisper" else {}
    here = Place(tmp_path, tiny_recipe.config(family, student={"source": source}, **units))
    mark(here.data, manifests="m")
    if family == "wav2vec2":
        tiny_recipe.train_units(family, here.units, ["one two"] * 2)
    else:
        here = Place(
            tmp_path, dataclasses.replace(here.config, teacher=configuration.Model(source=source))
        )
    weights = Path(source) / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="The model cannot be loaded"):
        checks.check_models(here, ["teacher", "finetune"], ["finetune"])
    checks.check_models(here, ["teacher"], [])  # no student is asked for
    assert not finished.done(here.experiment("untrained"))
    weights.write_bytes(whole)
    teacher = here.experiment("teacher")
    finished.mark_done(teacher, {"source": "another"}, study=None)
    with finished.made_for("a"), pytest.raises(UserError, match="this study did not make"):
        checks.check_models(here, ["teacher", "finetune"], ["finetune"])
    assert not finished.done(here.experiment("untrained"))  # nothing is made where it stops
    shutil.rmtree(teacher)
    checks.check_models(here, ["teacher", "finetune"], ["finetune"])
    assert finished.done(here.experiment("untrained"))


def test_the_student_of_a_finished_teacher_waits_for_it(tmp_path: Path) -> None:
    """Its output layer is of that teacher's size, and another one may lie there yet."""
    changes = {"teacher": {"source": "a", "finetuned": True}, "units": {"kind": "source"}}
    here = Place(tmp_path, tiny_recipe.config("wav2vec2", **changes))
    mark(here.data, manifests="m")
    tiny_recipe.train_units("wav2vec2", here.units, ["one two"] * 2)
    checks.check_models(here, ["teacher", "finetune"], ["finetune"])
    assert not here.experiment("untrained").exists()


def test_what_is_finished_is_not_looked_at_again(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark(place.data, manifests="m")
    finished.mark_done(place.experiment("teacher"), teacher_inputs(place))
    monkeypatch.delattr(adakd, "models", raising=False)
    monkeypatch.setitem(sys.modules, "adakd.models", None)  # an import would raise
    steps, methods = ["teacher", "finetune", "teacher-pass", "adakd"], ["finetune", "adakd"]
    checks.check_models(place, steps, methods)
    pretrained = {"source": "a/b"}, {"difficulty": "pretrained"}
    other = place_of(place.root, teacher=pretrained[0], distill=pretrained[1])
    finished.mark_done(other.experiment("teacher"), teacher_inputs(other))
    mark(other.difficulty)
    checks.check_models(other, steps, methods)


def test_other_audio_of_the_same_manifests_makes_anew_what_was_made_here(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    assert preparation._other_samples(folder, "m", "quiet") is None
    assert preparation._other_samples(folder, "m", "loud") == "loud"
    assert preparation._other_samples(folder, "other", "loud") is None
    assert preparation._other_samples(folder, "m", "quiet") is None, "back to where it was"


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
            patch.setattr(preparation, "corpus_options", lambda _: (module, None))
            preparation.prepare(self.place)
        decoding = decoding_inputs(self.place, "teacher")
        return teacher_inputs(self.place), decoding

    @property
    def facts(self) -> Path:
        return self.place.data / "done.json"

    def manifests(self) -> str:
        return files.fingerprint_of_files(
            self.place.data / f"{split}.jsonl" for split in corpora.SPLITS
        )


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


@pytest.mark.parametrize(
    ("student", "sentence"),
    [
        ({"source": "/no/such/dir"}, "no such folder"),
        ({"config": {"d_modle": 8}}, "unknown key 'd_modle'"),
    ],
)
def test_a_wrong_model_costs_no_prepared_data(tones: Corpus, student: dict, sentence: str) -> None:
    before, _ = tones.prepare()
    right = tones.place
    units = {path.name: path.read_bytes() for path in right.units.iterdir()}
    tones.place = place_of(right.root, student=student)
    with pytest.raises(UserError, match=sentence):
        tones.prepare()
    assert teacher_inputs(right) == before
    assert units == {path.name: path.read_bytes() for path in right.units.iterdir()}
    assert not (right.data / ".units.new").exists()


def test_data_of_before_are_known_again(tones: Corpus) -> None:
    """As stage 1 left them until 2026-11-29."""
    training, decoding = tones.prepare()
    (tones.place.data / "first_prepared.json").unlink()
    facts = json.loads(tones.facts.read_text())
    for name in ("learnt", "files"):
        del facts[name]
    write_json(tones.facts, facts)
    assert teacher_inputs(tones.place) == training
    assert decoding_inputs(tones.place, "teacher") == decoding
    assert tones.prepare("elsewhere", test=1)[0] == training
    assert tones.prepare() == (training, decoding)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"distill": {"top_k": 8}},
            "annealing compares all logits.*online.*--tag live.*top_k to 0",
        ),
        ({"methods": {"focal": {"gama": 2}}}, "Method focal has no option 'gama'.*'gamma'"),
        ({"methods": {"adakd": {"alpha": 2}}}, "methods.adakd: alpha is 2"),
        ({"train": {"epochs": 1}}, "annealing trains in two phases.*train.epochs"),
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
    for step, what in ((training.train, method), (training.check_methods, [method])):
        with pytest.raises(UserError, match=sentence):
            step(here, what)
    assert (folder / "ckpt").is_dir()


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
        (place.corpus, preparation.corpus),
        (place.data, preparation.prepare),
        (place.experiment("teacher"), training.teacher),
        (place.experiment("teacher"), training.ready_teacher),
        (place.experiment("untrained"), training.student_start),
        (place.experiment("kd"), training.train, "kd"),
        (place.half(0), training.train, "teacher", half),
        (place.transcripts, transcripts.transcribe_training),
        (place.store, teacher_pass.write_store),
        (place.experiment("kd-int8"), results.quantise, "kd"),
        (place.experiment("kd"), results.decode_one, "kd"),
        (place.experiment("untrained"), results.score_one, "untrained"),
        (place.difficulty, teacher_pass.write_difficulty),
    ):
        with pytest.raises(Held) as caught:
            step(place, *arguments)
        assert caught.value.args == (folder,)
    with pytest.raises(Held) as caught:
        results.export([place], ["kd"])
    assert caught.value.args == (place.export,)
    with pytest.raises(Held) as caught:
        results.report([place], ["kd"], "", False)
    assert caught.value.args == (place.report,)
    with pytest.raises(Held) as caught:
        finished.take_over(place.experiment("kd"), place.experiment("kd-tuned"))
    assert caught.value.args == (place.experiment("kd"),)


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
    assert training.student_start(big) == shared
    assert training.student_start(plain) == shared == training.student_start(same)
    assert training.student_start(big) == shared.parents[1] / "untrained-big" / "seed1"
    assert finished.done(shared)["inputs"] == start_inputs(plain)
    # Stage 7 decodes the one that its methods started from, made anew where it has to be.
    for place in (plain, big):
        model(place, "finetune")
    results.decode(big, ["finetune"])
    assert decoder.heard[0] == str(untrained(big) / "model")
    finished.mark_done(shared, start_inputs(big))
    decoder.heard.clear()
    results.decode(plain, ["finetune"])
    assert decoder.heard[0] == str(shared / "model")
    assert finished.done(shared)["inputs"] == start_inputs(plain)


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
    training.teacher(here)
    assert (folder / "metrics.jsonl").exists() and not (folder / "model").exists()
    monkeypatch.setenv("RANK", "0")
    training.teacher(here)
    assert {path.name for path in folder.iterdir()} == {
        *("config.yaml", "versions.json", "started.json", "model", "done.json"),
    }
    facts = finished.done(folder)
    assert facts["inputs"] == teacher_inputs(here)
    assert facts["weights"] == finished.weights_of(folder)


@pytest.mark.parametrize(
    ("family", "normalise", "told"),
    [("whisper", True, True), ("whisper", False, False), ("wav2vec2", True, False)],
)
def test_a_whisper_taken_as_it_is_may_disagree_with_normalised_transcripts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    family: str, normalise: bool, told: bool,
) -> None:  # fmt: skip
    here = finetuned(tmp_path, data={"normalise": normalise})
    here = Place(here.root, dataclasses.replace(here.config, family=family))
    mark(here.data, manifests="m")
    fake_models(monkeypatch, check_same_units=lambda *_: None)
    training.teacher(here)
    assert ("set data.normalise to false" in capsys.readouterr().out) is told


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
        training.teacher(here)
    assert finished.done(here.experiment("teacher"))
    # A student of its layers has its units.
    training.teacher(finetuned(tmp_path, student={"source": "teacher"}))


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
        training.teacher(place(other))
    assert not (tmp_path / "root/exp/tiny/en/whisper/teacher/seed1/started.json").exists()
    training.check_units(place({"source": str(tmp_path / "mine")}))
    training.check_units(place({"source": "teacher"}))  # its layers have its units
    training.check_units(place(other, transcripts={"source": "teacher"}))  # text is all they share
    training.check_units(place({"config": tiny_recipe.whisper(8)}, "bpe"))  # one tokenizer for both

    # A half has the units of the whole, which was looked at.
    def begun(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(models, "load", begun)
    monkeypatch.setattr(Place, "transcribed", lambda _: [])
    with pytest.raises(KeyboardInterrupt):
        training.train(place(other), "teacher", (0, []))


def test_several_processes_are_told_what_they_make_of_a_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    teacher = {"config": tiny_recipe.whisper(16), "train": {"accumulate": 8}}
    train = {"batch_seconds": 480.0, "accumulate": 2}
    config = tiny_recipe.config("whisper", train=train, teacher=teacher)

    def told(processes: int, role: str) -> str:
        monkeypatch.setenv("WORLD_SIZE", str(processes))
        return training.step_of_all(config, role)

    assert told(2, "student") == (
        "2 processes, 1920 s of audio in a step where one has 960 s, and so many times fewer "
        "steps; as with one: --student.train.accumulate 1"
    )
    options = "--student.train.accumulate 1 --student.train.batch_seconds 240"
    assert told(4, "student").endswith(f"; about as with one: {options}")
    assert told(4, "teacher").endswith("; as with one: --teacher.train.accumulate 2")
    config = tiny_recipe.config("whisper", train={"batch_seconds": 120.0, "accumulate": 5})
    options = "--student.train.accumulate 3 --student.train.batch_seconds 100"
    assert told(2, "student").endswith(f": {options}")


@pytest.mark.parametrize(("role", "other"), [("teacher", "student"), ("student", "teacher")])
def test_advice_for_one_model_leaves_the_other_as_it_is(role: str, other: str) -> None:
    """Followed as it stands: a student's is not to have the finished teacher made anew."""
    family = ROOT / "recipes" / "espeak" / "hi"
    plain = configuration.load(family, "wav2vec2")
    wanted = {"accumulate": 3, "batch_seconds": 7.5}
    words = training.options_of_training(plain, role, wanted).split()
    overrides = {key[2:]: value for key, value in zip(words[::2], words[1::2], strict=True)}
    advised = configuration.load(family, "wav2vec2", overrides)
    assert advised.train_of(role) == dataclasses.replace(plain.train_of(role), **wanted)
    assert advised.train_of(other) == plain.train_of(other)


def test_the_best_of_all_seeds_is_exported_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    places = [place_of(tmp_path, seed=seed) for seed in (1, 2, 3)]
    mark(places[0].data, manifests="m")
    for place, cers in zip(places, ((0.3, 0.2), (0.4, 0.1), (0.5, 0.3)), strict=True):
        for name, cer in zip(("finetune", "kd"), cers, strict=True):
            model(place, name)
            mark_decoded(place, name)
            write_json(place.experiment(name) / "score.json", {"dev": {"cer": cer}})
            finished.mark_done(place.experiment(name) / "score", {"decode": "test 1"})
    written = []

    def write_export(place: Place, method: str) -> tuple[int, list[str]]:
        written.append(place.experiment(method))
        write_json(place.export / "vocab.json", {})
        return 4, ["utterance-2"]

    fake = types.SimpleNamespace(write_export=write_export)
    monkeypatch.setitem(sys.modules, "adakd.export", fake)
    for _ in range(2):
        results.export(places, ["finetune", "kd"])
    assert written == [places[1].experiment("kd")]
    said = capsys.readouterr().out
    assert "exported kd of seed 2, the best on dev" in said
    assert "4 test utterances but 1 that rounding decides, such as 'utterance-2'" in said
    facts = finished.done(places[0].export)
    assert (facts["method"], facts["seed"], facts["by_rounding"]) == ("kd", 2, ["utterance-2"])
    (places[0].export / "vocab.json").unlink()
    results.export(places, ["finetune", "kd"])
    assert written.pop() == places[1].experiment("kd") and len(written) == 1, "a file was lost"
    # Of one seed alone, what an export depends on reads as it always has.
    capsys.readouterr()
    results.export(places[:1], ["finetune", "kd"])
    assert "kd of seed 2, which has been exported, had a lower dev CER" in capsys.readouterr().out
    assert finished.done(places[0].export)["inputs"]["dev"] == {"finetune": 0.3, "kd": 0.2}
    # What stands in its card, and was checked, is of another test set then.
    finished.mark_done(places[0].experiment("kd") / "score", {"decode": "test 2"})
    results.export(places[:1], ["finetune", "kd"])
    assert "lower dev CER" not in capsys.readouterr().out
    assert written == [places[1].experiment("kd"), *[places[0].experiment("kd")] * 2]
    with pytest.raises(UserError, match="finetune was trained with another train.epochs"):
        train = {**tiny_recipe.family_settings("whisper")["train"], "epochs": 99}
        results.export([place_of(tmp_path, train=train)], ["finetune", "kd"])
    # Hypotheses of other data are none of the model that would be exported and checked.
    mark(places[0].data, manifests="another test set")
    with pytest.raises(UserError, match="finetune was decoded with another data: .*--stage 7"):
        results.export(places[:1], ["finetune", "kd"])


def test_too_little_memory_is_told_with_the_way_out(tmp_path: Path) -> None:
    own = {**tiny_recipe.family_settings("whisper")["teacher"], "train": {"batch_seconds": 40.0}}
    config = place_of(tmp_path, teacher=own).config
    folder = tmp_path / "exp"
    said = {
        role: str(training.too_little_memory("t", config, role, folder))
        for role in ("teacher", "student")
    }
    train = config.train
    for role, seconds in (("teacher", 20), ("student", train.batch_seconds / 2)):
        # Other settings than those of its checkpoints.
        assert f"begin it anew: remove {shown(folder)} and give " in said[role]
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
        training.supervision(here, weighting.build("kd"), student)
    # Without a teacher there is nothing to compare.
    assert training.supervision(here, weighting.build("finetune"), student) == (None, None)
