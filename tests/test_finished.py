"""What is done, what has changed, what was cut, and who may replace it."""

from __future__ import annotations

import errno
import json
import os
import shutil
import threading
import time
from datetime import timedelta
from pathlib import Path

import pytest
import tiny_recipe
import torch
from tiny_recipe import cut, place_of

from adakd import files, finished, processes
from adakd.errors import UserError
from adakd.files import fingerprint, shown, write_json
from adakd.place import Place


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return place_of(tmp_path)


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
    assert capsys.readouterr().out == f"kd: done ({shown(tmp_path)})\n"
    facts = finished.needed(tmp_path, "KD", 5)
    assert (facts["method"], facts["parameters"]) == ("kd", 7)
    assert facts["fingerprint"] == fingerprint(inputs)

    # Other weights from the same inputs are another model, for what depends on it alone.
    known = []
    for content in (b"one", b"one", b"other"):
        (tmp_path / "model").mkdir(exist_ok=True)
        (tmp_path / "model" / "model.safetensors").write_bytes(content)
        finished.mark_done(tmp_path, inputs, weights=finished.weights_of(tmp_path))
        known.append((finished.done(tmp_path) or {})["fingerprint"])
        assert finished.is_current(tmp_path, inputs, "kd")
    assert known[0] == known[1] != known[2] and facts["fingerprint"] not in known
    capsys.readouterr()

    changed = {"data": "xyz", "train": {"epochs": 4, "clip": 1.0}}
    assert not finished.is_current(tmp_path, changed, "kd")
    assert capsys.readouterr().out == "kd: data and train.epochs changed, made anew\n"


def test_a_number_spelt_otherwise_is_no_change(place: Place) -> None:
    folder = place.experiment("kd")
    finished.begin(folder, {"alpha": 1}, place.config)
    (folder / "ckpt" / "CKPT+1").mkdir(parents=True)
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
    said = f"kd: {shown(tmp_path / 'model')} is missing, made anew\n"
    assert capsys.readouterr().out == said
    (tmp_path / "model").mkdir()
    assert finished.is_current(tmp_path, {}, "kd", *outputs)
    capsys.readouterr()
    (tmp_path / "a").write_text("{}\n")
    assert finished.is_current(tmp_path, {}, "kd", lines={tmp_path / "a": 1})
    capsys.readouterr()
    assert not finished.is_current(tmp_path, {}, "kd", lines={tmp_path / "a": 2})
    said = f"kd: {shown(tmp_path / 'a')} has other than 2 lines, made anew\n"
    assert capsys.readouterr().out == said


def test_the_weights_of_a_large_model_are_in_parts(tmp_path: Path) -> None:
    model = tmp_path / "model"
    whole = model / "config.json", model / "model.safetensors"
    assert finished.model_files(tmp_path) == whole
    write_json(model / "model.safetensors.index.json", {})
    assert finished.model_files(tmp_path)[1].name == "model.safetensors.index.json"


def test_a_damaged_marker_does_not_empty_a_folder(tmp_path: Path) -> None:
    for content in ('{"inputs": {', "{}"):  # a disk that filled up, a power cut
        (tmp_path / "done.json").write_text(content)
        with pytest.raises(UserError, match="done.json is damaged: delete it"):
            finished.is_current(tmp_path, {}, "kd")


def test_paths_are_shown_as_one_would_type_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert shown(tmp_path / "exp" / "a") == "exp/a"
    assert shown(Path("/elsewhere/a")) == "/elsewhere/a"


def test_what_was_cut_is_kept_and_what_was_finished_is_emptied(place: Place) -> None:
    folder, inputs = place.experiment("kd"), {"seed": 1}
    finished.begin(folder, inputs, place.config)
    for name in ("config.yaml", "versions.json", "started.json"):
        assert (folder / name).is_file()
    versions = json.loads((folder / "versions.json").read_text())
    assert {"versions", "revision", "machine", "time"} <= versions.keys()
    assert {"python", "torch", "speechbrain"} <= versions["versions"].keys()
    (folder / "ckpt" / "CKPT+1").mkdir(parents=True)
    (folder / "metrics.jsonl").touch()
    finished.begin(folder, inputs, place.config)
    assert (folder / "ckpt").is_dir() and (folder / "metrics.jsonl").exists()
    # Nothing is lost with a run that has saved nothing, or half of something.
    (folder / "ckpt" / "CKPT+1").rename(folder / "ckpt" / ".CKPT+1")
    finished.begin(folder, {"seed": 2}, place.config)
    assert not (folder / "ckpt").exists() and not (folder / "metrics.jsonl").exists()
    # Where done.json was deleted, what was made of that model does not pass for the next one's.
    finished.mark_done(folder, {"seed": 2})
    (folder / "decode").mkdir()
    (folder / "done.json").unlink()
    finished.begin(folder, {"seed": 2}, place.config)
    assert not (folder / "decode").exists()
    # A finished run is not resumed, though what it saved is still there.
    (folder / "ckpt" / "CKPT+1").mkdir(parents=True)
    finished.mark_done(folder, {"seed": 2})
    finished.begin(folder, {"seed": 3}, place.config)
    assert not (folder / "ckpt").exists() and finished.done(folder) is None


def test_a_cut_run_is_not_lost_to_other_settings(place: Place) -> None:
    folder = place.experiment("kd")
    train = {"epochs": 3, "clip": 1.0, "workers": 0, "checkpoint_minutes": 10.0}
    saved = cut(folder, {"seed": 1, "train": train}, place)
    other = {"seed": 2, "train": {**train, "epochs": 9}}
    with pytest.raises(UserError) as caught:
        finished.begin(folder, other, place.config)
    where = shown(folder)
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


def test_a_cut_run_is_not_lost_to_a_forgotten_source(tmp_path: Path) -> None:
    """./run.sh --student.source teacher --student.layers.encoder 2, cut, and then without these."""
    student = {"source": "somebody/whisper"}
    one = place_of(tmp_path, student={**student, "layers": {"encoder": 2}})
    other = place_of(tmp_path, student=student)
    folder = one.experiment("kd")
    saved = cut(folder, {"seed": 1, "start": "a"}, one)
    with pytest.raises(UserError, match=r"with another student\.layers\.encoder: go on with"):
        finished.begin(folder, {"seed": 1, "start": "b"}, other.config)
    assert saved.is_dir()
    # The same source with other contents cannot be given back.
    finished.begin(folder, {"seed": 1, "start": "b"}, one.config)
    assert not saved.exists()
    saved = cut(one.experiment("teacher"), {"source": "a"}, one)
    source = {**tiny_recipe.family_settings("whisper")["teacher"], "source": "somebody/whisper"}
    other = place_of(tmp_path, teacher={**source, "config": None})
    with pytest.raises(UserError, match=r"another teacher\.source and another teacher\.config: "):
        finished.begin(one.experiment("teacher"), {"source": "b"}, other.config)
    assert saved.is_dir()
    # Of random weights it is their configuration, which stands in the inputs.
    shutil.rmtree(saved.parents[1])
    small, wide = (
        place_of(tmp_path, teacher={"config": tiny_recipe.whisper(width)}) for width in (8, 16)
    )
    saved = cut(one.experiment("teacher"), {"source": small.config.teacher.config}, small)
    with pytest.raises(UserError, match=r"another teacher\.config\.d_model and another"):
        inputs = {"source": wide.config.teacher.config}
        finished.begin(one.experiment("teacher"), inputs, wide.config)
    assert saved.is_dir()


def test_a_source_that_was_moved_or_is_named_otherwise_is_none_that_was_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model").mkdir()
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "exp"
    cut(folder, {"start": "a"}, place_of(tmp_path, student={"source": str(tmp_path / "model")}))
    settings = {"student": {"source": "model", "config": None}}  # of before there were layers
    assert finished.changed_sources(folder, ["start"], settings) == []
    settings = {"student": {"source": "elsewhere/model"}}
    assert finished.changed_sources(folder, ["start"], settings) == ["student.source"]
    (tmp_path / "model").rename(tmp_path / "moved")
    assert finished.changed_sources(folder, ["start"], settings) == []
    assert finished.changed_sources(folder, ["data"], settings) == []


def test_a_study_begins_its_own_cut_runs_anew(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    """As it does its finished ones: with a trial that fails another candidate would be chosen."""
    folder = place.experiment("kd-try1")
    with finished.made_for("a"):
        saved = cut(folder, {"seed": 1}, place)
    with finished.made_for("b"), pytest.raises(UserError, match="another seed"):
        finished.begin(folder, {"seed": 2}, place.config)
    with pytest.raises(UserError, match="another seed"):  # ./run.sh
        finished.begin(folder, {"seed": 2}, place.config)
    assert saved.is_dir()
    with finished.made_for("a"):
        finished.begin(folder, {"seed": 2}, place.config)
    assert not saved.exists()
    assert capsys.readouterr().out == f"{shown(folder)}: cut, and seed changed, begun anew\n"
    saved = cut(folder, {"seed": 2}, place)  # of ./run.sh
    with finished.made_for("a"), pytest.raises(UserError, match="another seed"):
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
    told = r"cut run of 1 process, and this one has 2: go on with as many \(without --launcher\)"
    with pytest.raises(UserError, match=told):
        finished.begin(folder, inputs, place.config)
    files.write_json(folder / "started.json", {"processes": 4, "inputs": inputs})
    told = r"of 4 processes, and this one has 2: .*\(--launcher torchrun --nproc 4, or slurm"
    with pytest.raises(UserError, match=told):
        finished.begin(folder, inputs, place.config)
    assert (folder / "ckpt" / "CKPT+1").is_dir()


def test_a_twin_takes_the_place_of_what_was_trained_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    twin, folder = tmp_path / "kd-tuned" / "seed1", tmp_path / "kd" / "seed1"
    for path, alpha in ((twin, 0.1), (folder, 0.5)):
        path.mkdir(parents=True)
        (path / "weights").write_text(str(alpha))
        finished.mark_done(path, {"method": {"alpha": alpha}})
    with monkeypatch.context() as cut:  # a copy without its last file is none
        cut.setattr(finished, "write_json", interrupted)
        with pytest.raises(KeyboardInterrupt):
            finished.take_over(folder, twin)
    assert (folder / "weights").exists() and finished.done(folder) is None
    finished.take_over(folder, twin)
    assert (folder / "weights").read_text() == "0.1"
    assert finished.done(folder)["taken_over"] == "kd-tuned/seed1"
    (folder / "weights").write_text("mine")  # as it should be already
    finished.take_over(folder, twin)
    assert (folder / "weights").read_text() == "mine"
    # Whoever copies has made the copy.
    finished.mark_done(twin, {"method": {"alpha": 0.9}}, study=None)
    shutil.rmtree(folder)
    with finished.made_for("one"):
        finished.take_over(folder, twin)
        finished.take_over(folder, twin)
    assert finished.done(folder)["study"] == "one" and finished.done(twin)["study"] is None


def test_data_are_kept_for_the_sake_of_what_was_trained_on_them(place: Place) -> None:
    folder = place.experiment("teacher").parents[1]
    finished.mark_done(place.experiment("untrained"), {"a": 1}, parameters=1)
    finished.mark_done(place.experiment("kd-int8"), {"a": 2}, parameters=1)
    with finished.made_for("a"):
        finished.spare_below(folder, "Other data")
        finished.mark_done(place.experiment("kd"), {"a": 3}, train_seconds=1.0)
        with pytest.raises(UserError) as caught:
            finished.spare_below(folder, "Other data")
    kd = shown(place.experiment("kd"))
    assert str(caught.value).startswith(f"Other data, and from what lies there {kd} was trained, ")
    assert str(caught.value).endswith(f"or delete {shown(folder)}.")
    finished.spare_below(folder, "Other data")
    finished.mark_done(place.experiment("kd"), {"a": 3}, train_seconds=1.0, study="a")
    with finished.made_for("a"):
        finished.spare_below(folder, "Other data")


def _one_of_two(rank: int, folder: Path) -> None:
    """Time-outs are over by the second meeting; to the third the first process does not come."""
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2"}
    torch.distributed.init_process_group(
        "gloo",
        init_method=f"file://{folder / 'meeting'}",
        rank=rank,
        world_size=2,
        timeout=timedelta(seconds=1),
    )
    processes.wait_for_all()
    time.sleep(2.0 if rank == 0 else 0.0)
    processes.wait_for_all()
    if rank:
        with pytest.raises(UserError, match="another process of this run has stopped"):
            processes.wait_for_all()
    (folder / str(rank)).touch()


def test_processes_wait_for_each_other_beyond_all_time_outs(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(_one_of_two, (tmp_path,), nprocs=2)
    assert (tmp_path / "0").exists() and (tmp_path / "1").exists()


def test_what_a_killed_run_had_half_written_goes_with_the_next_lock(tmp_path: Path) -> None:
    folder = tmp_path / "seed1"
    writing = files.atomic_write(folder / "hyp.test.jsonl")
    writing.__enter__()  # and nobody ends it
    (folder / "done.json").touch()
    with finished.locked(folder):
        assert [path.name for path in folder.iterdir()] == ["done.json"]


@pytest.mark.parametrize(("number", "told"), [(errno.ENOLCK, True), (errno.EROFS, False)])
def test_where_no_lock_can_be_had_a_run_goes_on_and_says_so(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    number: int,
    told: bool,
) -> None:
    def refused(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(finished.fcntl, "flock", refused)
    with finished.locked(tmp_path / "seed1"):
        said = capsys.readouterr().out
    assert ("no lock can be had for" in said and "(No locks available)" in said) == told
    assert bool(said) == told


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
    waiting = f"waiting for another run, which is at work in {shown(folder)}"
    assert order == [waiting, "first", "second"]
