"""What results depend on, and which of them are those of a place."""

from __future__ import annotations

import dataclasses
import os
import shutil
from pathlib import Path

import pytest
import tiny_recipe
from tiny_recipe import mark, place_of

from adakd import config as configuration
from adakd import finished
from adakd import inputs as inputs_module
from adakd.errors import UserError
from adakd.files import fingerprint, fingerprint_of_files, write_json, write_jsonl
from adakd.inputs import (
    changed_on_disk,
    changed_settings,
    check_shared,
    data_inputs,
    data_settings,
    decoding_inputs,
    difficulties,
    difficulty_of,
    difficulty_parts,
    heard_inputs,
    lessons_inputs,
    prepared,
    source_fingerprint,
    start_inputs,
    store_of,
    store_parts,
    teacher_inputs,
    training_inputs,
    training_settings,
    transcripts_inputs,
    transcripts_of,
)
from adakd.place import Place
from adakd.stages import pieces, preparation


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return place_of(tmp_path)


def test_other_units_of_the_same_manifests_are_other_inputs(tmp_path: Path) -> None:
    place = place_of(tmp_path)

    def inputs(**facts: object) -> list[dict]:
        mark(place.data, manifests="m", **facts)
        return [teacher_inputs(place), start_inputs(place)]

    before = inputs()  # as stage 1 left it before 2026-11-28, and where checkpoints bring their own
    assert before == inputs(units=None)
    for old, new, other in zip(before, inputs(units="a"), inputs(units="b"), strict=True):
        assert finished.changes(old, new) == finished.changes(new, other) == ["units"]
    # Students do not look at the configuration for that, or stage 7 would ask them for it.
    finished.mark_done(place.experiment("kd"), {"units": "a", **training_settings(place, "kd")})
    assert changed_settings(place, "kd", finished.done(place.experiment("kd"))) == []


def test_data_that_were_prepared_otherwise_are_refused(tmp_path: Path) -> None:
    """Another data.normalise after stage 1, and then stage 3: its text would be the old one."""
    here = place_of(tmp_path, data={"max_seconds": 2.0})
    write_json(here.corpus / "marker.json", {})
    finished.mark_done(here.data, data_inputs(here), manifests="m")
    assert prepared(here) == {"data": "m"}
    free = {"max_seconds": 2.0, "max_rejected": 0.5, "jobs": 7}
    prompted = {"code": "en", "whisper": "de"}  # what stage 1 does not look at
    assert prepared(place_of(tmp_path, data=free, language=prompted)) == {"data": "m"}
    for changes, named in (
        ({"data": {"max_seconds": 1.0}}, "data.max_seconds"),
        ({"data": {"max_seconds": 2.0, "label_noise": {"missing": 0.1}}}, "data.label_noise"),
        ({"data": {"max_seconds": 2.0}, "language": {"code": "hi"}}, "language.code"),
        ({"data": {"max_seconds": 2.0}, "units": {"kind": "bpe", "size": 999}}, "units.size"),
    ):
        other = place_of(tmp_path, **changes)
        told = f"was prepared with another {named}: give the settings .* or run --stage 1 first"
        with pytest.raises(UserError, match=told):
            teacher_inputs(other)


def test_a_manifest_that_was_edited_is_refused(place: Place) -> None:
    paths = [place.data / f"{split}.jsonl" for split in ("train", "dev")]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}\n" * 3)
    counts = {path.stem: {"kept": 3} for path in paths}
    mark(place.data, manifests="m", files=fingerprint_of_files(paths), counts=counts)
    assert prepared(place) == {"data": "m"}
    paths[0].write_text("{}\n" * 2)  # sed -i 1d
    told = r"is not as stage 1 left it \(train.jsonl was written last\): put it back, or delete "
    with pytest.raises(UserError, match=told + ".*done.json and run --stage 1"):
        teacher_inputs(place)
    paths[0].write_text("{}\n" * 3)
    assert prepared(place) == {"data": "m"}
    paths[1].unlink()  # which is told where it is read
    assert prepared(place) == {"data": "m"}


@pytest.mark.parametrize("change", ["edit", "delete", "add"])
def test_text_units_that_were_edited_are_refused(place: Place, change: str) -> None:
    place.units.mkdir(parents=True)
    for name in ("tokenizer_config.json", "vocab.json"):
        (place.units / name).write_text("{}")
    units = fingerprint_of_files(sorted(place.units.iterdir()))
    mark(place.data, manifests="m", units=units)
    assert prepared(place) == {"data": "m", "units": units}
    path = place.units / ("special_tokens_map.json" if change == "add" else "vocab.json")
    path.unlink() if change == "delete" else path.write_text('{"a": 1}')
    with pytest.raises(UserError, match="A file of the text units in .*units is not as stage 1"):
        prepared(place)


def test_another_prompt_is_another_training(tmp_path: Path) -> None:
    mark(place_of(tmp_path).data, manifests="m")
    plain, named = (
        training_settings(place_of(tmp_path, language={"code": "en", "whisper": code}), "kd")
        for code in (None, "de")
    )
    assert finished.changes(plain, named) == ["prompt"] and named["prompt"] == "de"


def test_texts_that_begin_otherwise_are_another_training_and_another_store(tmp_path: Path) -> None:
    """Of a finished teacher, too, whose own inputs hold no settings. Manifests stay as they are."""
    spaced, bare = (
        place_of(tmp_path, language={"code": "en", "leading_space": space})
        for space in (True, False)
    )
    assert data_settings(spaced.config) == data_settings(bare.config)
    mark(spaced.data, manifests="m")
    mark(spaced.experiment("teacher"))
    for of in (lambda place: training_settings(place, "kd"), store_parts, difficulty_parts):
        assert finished.changes(of(spaced), of(bare)) == ["leading_space"]
    ctc = dataclasses.replace(bare.config, family="wav2vec2")
    assert "leading_space" not in training_settings(dataclasses.replace(bare, config=ctc), "kd")


def test_a_tag_that_asks_for_another_difficulty_has_one_of_its_own(tmp_path: Path) -> None:
    def of(tag: str, passes: int) -> Place:
        distill = {"difficulty": "dropout", "dropout_passes": passes}
        return place_of(tmp_path, tag=tag, distill=distill)

    plain = of("", 5)
    mark(plain.data, manifests="m")
    mark(plain.experiment("teacher"))
    assert difficulty_of(of("more", 20)) == plain.difficulty  # none is there yet
    finished.mark_done(plain.difficulty, difficulty_parts(plain))
    assert difficulty_of(of("same", 5)) == plain.difficulty
    assert difficulty_of(of("more", 20)) == plain.difficulty.with_name("dropout@more")
    # A pass that was cut goes on: no tag takes its folder for another x.
    shutil.rmtree(plain.difficulty)
    pieces.begin(plain.difficulty, "x", difficulty_parts(plain), guard=False)
    assert difficulty_of(of("same", 5)) == plain.difficulty
    assert difficulty_of(of("more", 20)) == plain.difficulty.with_name("dropout@more")


def test_a_tag_that_asks_for_another_store_has_one_of_its_own(tmp_path: Path) -> None:
    def of(tag: str, **distill: object) -> Place:
        return place_of(tmp_path, tag=tag, distill={"top_k": 8, **distill})

    plain = of("", temperature=2.0)
    mark(plain.data, manifests="m")
    mark(plain.experiment("teacher"))
    assert store_of(of("warm", temperature=4.0)) == plain.store  # none is there yet
    write_json(plain.store / "meta.json", {"parts": store_parts(plain)})
    assert store_of(of("same", temperature=2.0)) == plain.store
    warm = store_of(of("warm", temperature=4.0))
    assert warm == plain.store.with_name("store@warm")
    # Its own counts once it is there, whatever becomes of the shared one.
    write_json(warm / "meta.json", {"parts": store_parts(of("warm", temperature=4.0))})
    (plain.store / "meta.json").unlink()
    assert store_of(of("warm", temperature=4.0)) == warm
    # Without a tag there is one, made anew.
    assert store_of(of("", temperature=4.0)) == plain.store
    # A pass that was cut goes on: no tag takes its folder for another store.
    shutil.rmtree(warm)
    write_json(plain.store / "unfinished.json", {"parts": store_parts(plain)})
    assert store_of(of("same", temperature=2.0)) == plain.store
    assert store_of(of("warm", temperature=4.0)) == warm


def test_a_source_is_known_by_its_contents(tmp_path: Path) -> None:
    def found(folder: Path) -> object:
        return source_fingerprint(configuration.Model(source=str(folder)))

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


@pytest.mark.parametrize(("mebibytes", "noticed"), [(20, True), (7, False)])
def test_of_large_weights_the_middle_counts_too(
    tmp_path: Path, mebibytes: int, noticed: bool
) -> None:
    """Both ends may be frozen. Small ones keep the fingerprint that results of them tell."""
    weights, source = tmp_path / "model.safetensors", configuration.Model(source=str(tmp_path))
    weights.write_bytes(bytes(mebibytes << 20))
    first = source_fingerprint(source)
    with weights.open("r+b") as file:
        file.seek((mebibytes - 3) << 20)
        file.write(b"\1" * (1 << 20))
    assert (source_fingerprint(source) != first) == noticed


def test_hub_ids_and_random_weights_stand_for_themselves() -> None:
    assert source_fingerprint(configuration.Model(source="org/model")) == "org/model"
    block = {"d_model": 8}
    assert source_fingerprint(configuration.Model(config=block)) == block


def test_a_student_of_the_teacher_changes_with_it_and_with_its_layers(tmp_path: Path) -> None:
    def start(source: str | None, **layers: int) -> dict:
        student = {"source": source, "layers": layers} if source else {"config": {"d_model": 8}}
        return start_inputs(place_of(tmp_path, student=student))

    mark(place_of(tmp_path).data, manifests="m")
    with pytest.raises(UserError, match="run --stage 2 first"):
        start("teacher")
    folder = place_of(tmp_path).experiment("teacher")
    finished.mark_done(folder, {"seed": 1})
    first = start("teacher", decoder=1)
    assert first == start("teacher", decoder=1) and "layers" not in start("teacher")
    for other in (start("teacher"), start("teacher", decoder=2), start("org/model", decoder=1)):
        assert fingerprint(other) != fingerprint(first)
    finished.mark_done(folder, {"seed": 2})
    assert finished.changes(first, start("teacher", decoder=1)) == ["teacher"]
    # A student with a start of its own does not wait for the teacher.
    assert start(None).keys() == start("org/model").keys() == {"data", "student", "seed"}


def test_a_tag_that_asks_for_other_transcripts_has_its_own(tmp_path: Path) -> None:
    def tagged(tag: str, max_cer: float = 0.1) -> Place:
        return place_of(tmp_path, tag=tag, transcripts={"source": "teacher", "max_cer": max_cer})

    first, other = tagged("a"), tagged("b", 0.3)
    mark(first.data, manifests="m")
    finished.mark_done(first.experiment("teacher"), teacher_inputs(first))
    shared = first.transcripts
    assert transcripts_of(other) == shared  # there are none yet
    finished.mark_done(shared, transcripts_inputs(first))
    own = shared.with_name("transcripts@b")
    assert transcripts_of(tagged("c")) == shared and transcripts_of(other) == own
    # A student of the one does not take the other for what it has learnt from.
    finished.mark_done(own, transcripts_inputs(other))
    inputs = {name: lessons_inputs(place) for name, place in (("a", first), ("b", other))}
    for place, name, changed in ((first, "a", []), (other, "b", []), (other, "a", ["transcripts"])):
        assert changed_on_disk(place, {"inputs": inputs[name]}) == changed
    # Without a tag they are made anew where they lie, as ever.
    plain = dataclasses.replace(other, config=dataclasses.replace(other.config, tag=""))
    assert transcripts_of(plain) == shared
    # From stage 3 on that is not for whoever forgets an option.
    with pytest.raises(UserError, match=r"were chosen with another transcripts.max_cer: give the"):
        lessons_inputs(plain)


def test_a_student_of_few_units_depends_on_how_the_store_keeps_the_rest(tmp_path: Path) -> None:
    """One that was trained when the rest was kept as one number is trained anew."""
    few, live = (
        place_of(tmp_path, distill={"top_k": 8, "teacher": teacher})
        for teacher in ("cached", "online")
    )
    settings = training_settings(few, "kd")
    assert settings["distill"]["top_k"] == "8 and as many drawn"
    older = {**settings, "distill": {**settings["distill"], "top_k": 8}}
    assert changed_settings(few, "kd", {"inputs": older}) == ["distill.top_k"]
    assert training_settings(live, "kd")["distill"]["top_k"] == 8


@pytest.mark.parametrize("step", ["prepare", "teacher"])
def test_a_tag_replaces_nothing_that_all_share(tmp_path: Path, step: str) -> None:
    faster = {"train": {**tiny_recipe.family_settings("whisper")["train"], "learning_rate": 1.0}}
    louder = {"data": {"max_seconds": 1.0}} | faster
    plain = place_of(tmp_path)
    write_json(plain.corpus / "marker.json", {})
    mark(plain.data, manifests="m")
    check_shared(place_of(tmp_path / "fresh", tag="x"), step)  # nothing is there
    folder = plain.data if step == "prepare" else plain.experiment("teacher")
    inputs = data_inputs if step == "prepare" else teacher_inputs
    finished.mark_done(folder, inputs(plain), manifests="m")
    check_shared(place_of(tmp_path, tag="same"), step)
    changed = "data.max_seconds" if step == "prepare" else "train.learning_rate"
    variant = place_of(tmp_path, tag="x", **louder)
    with pytest.raises(UserError, match=rf"another {changed}, and runs with a --tag.*--root DIR"):
        check_shared(variant, step)
    check_shared(variant, "kd")  # replaces nothing
    check_shared(place_of(tmp_path, **louder), step)  # without a tag, as ever
    student = {"config": tiny_recipe.whisper(24), "train": {"learning_rate": 1.0}}
    other = place_of(tmp_path, tag="x", student=student)
    check_shared(other, step)
    if step == "prepare":
        before = (plain.data / "done.json").read_bytes()
        preparation.prepare(other)  # a student's data are anyone's
        assert (plain.data / "done.json").read_bytes() == before


def trained(place: Place) -> dict:
    """What a student's training depends on."""
    return training_inputs(place, "kd")


def said(place: Place) -> dict:
    """What a student's hypotheses depend on."""
    return decoding_inputs(place, "kd")


@pytest.mark.parametrize(
    ("inputs", "now", "named"),
    [
        (trained, {"audio": {"encode": "speech"}}, ["audio.encode"]),
        (trained, {"distill": {"temperature": 3.0}}, ["distill.temperature"]),
        (trained, {"student": {"source": "elsewhere/model"}}, ["start"]),
        (trained, "data", ["start", "data"]),
        (trained, "teacher", ["teacher"]),
        (trained, "transcripts", ["transcripts"]),
        (heard_inputs, "data", ["data"]),
        (heard_inputs, "teacher", ["teacher"]),
        (heard_inputs, {"audio": {"encode": "speech"}}, ["audio.encode"]),
        (heard_inputs, {"language": {"code": "en", "whisper": "de"}}, ["prompt"]),
        (transcripts_inputs, "teacher", ["hypotheses"]),
        (transcripts_inputs, {"transcripts": {"max_cer": 0.3}}, ["max_cer"]),
        (transcripts_inputs, {"student": {"source": "elsewhere/model"}}, ["student"]),
        (transcripts_inputs, {"data": {"normalise": False}}, ["normalise"]),
        (store_parts, "data", ["manifest"]),
        (store_parts, "teacher", ["teacher"]),
        (store_parts, "transcripts", ["transcripts"]),
        (store_parts, {"units": {"kind": "bpe", "size": 300}}, ["units.size"]),
        (store_parts, {"language": {"code": "en", "whisper": "de"}}, ["prompt"]),
        (store_parts, {"data": {"normalise": False}}, ["normaliser"]),
        (store_parts, {"audio": {"encode": "speech"}}, ["input length"]),
        (difficulty_parts, "teacher", ["teacher"]),
        (
            difficulty_parts,
            {"distill": {"difficulty": "dropout"}},
            ["difficulty", "dropout_passes"],
        ),
        (said, "data", ["data"]),
        (said, "teacher", ["teacher"]),
        (said, "kd", ["model"]),
        (said, {"decode": {"encode": "speech"}}, ["audio.encode"]),
        (said, {"language": {"code": "en", "whisper": "de"}}, ["prompt"]),
    ],
    ids=lambda value: value if isinstance(value, str) else getattr(value, "__name__", None),
)
def test_what_changes_makes_anew_what_depends_on_it(tmp_path: Path, inputs, now, named) -> None:
    """One thing at a time: another file that it reads, or another setting."""

    def of(change: str | dict, **settings: object) -> dict:
        settings |= change if isinstance(change, dict) else {}
        place = place_of(tmp_path, **settings)
        mark(place.data, manifests="other" if change == "data" else "m")
        for name in ("teacher", "kd"):
            finished.mark_done(place.experiment(name), {"made": change == name})
        chosen = {"made": change == "transcripts", **transcripts_inputs(place)}
        finished.mark_done(place.transcripts, chosen)
        return inputs(place)

    settings = {"transcripts": {"source": "teacher"}} if now == "transcripts" else {}
    assert finished.changes(of("", **settings), of(now, **settings)) == named


def test_x_of_another_teacher_is_refused(tmp_path: Path) -> None:
    place = place_of(tmp_path, distill={"difficulty": "dropout"})
    mark(place.data, manifests="m")
    finished.mark_done(place.experiment("teacher"), {"made": 1})
    finished.mark_done(place.difficulty, difficulty_parts(place), guard=None)
    write_jsonl(place.difficulty / "x.jsonl", [{"id": "a", "x": 0.5}])
    assert difficulties(place) == ({"a": 0.5}, {})
    finished.mark_done(place.experiment("teacher"), {"made": 2})
    with pytest.raises(UserError, match="made with another teacher: run stage 4"):
        difficulties(place)


def test_a_teacher_of_a_half_and_another_code_are_other_trainings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = place_of(tmp_path)
    mark(place.data, manifests="m")
    finished.mark_done(place.experiment("teacher"), {})
    whole, one, other = (training_inputs(place, "teacher", of) for of in (None, [0, 1], [2]))
    assert finished.changes(whole, one) == finished.changes(one, other) == ["half"]
    # Fine-tuning asks for no teacher.
    student, tuned = (training_inputs(place, method) for method in ("kd", "finetune"))
    assert "teacher" in student and "teacher" not in tuned
    monkeypatch.setattr(inputs_module, "code", lambda config: {"code": "mended"})
    for method, before in (("teacher", whole), ("kd", student), ("finetune", tuned)):
        assert finished.changes(before, training_inputs(place, method)) == ["code"]


def test_adakd_with_more_dropout_passes_is_another_training(tmp_path: Path) -> None:
    few, many = (
        training_settings(
            place_of(tmp_path, distill={"difficulty": "dropout", "dropout_passes": passes}), "adakd"
        )
        for passes in (5, 20)
    )
    assert finished.changes(few, many) == ["difficulty"]
