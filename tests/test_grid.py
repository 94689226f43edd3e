"""What a grid may say, and what there is to run in which order. Nothing is trained here."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import tiny_recipe

from adakd import finished, report
from adakd.errors import UserError
from adakd.inputs import code, training_settings
from adakd.methods import METHODS, Method
from adakd.study import grid
from adakd.study.grid import Study

ROOT = Path(__file__).resolve().parents[1]
GRID: dict[str, Any] = {
    "recipes": {"tiny/en": {"folds": [0, 1]}},
    "families": {"wav2vec2": {}},
    "seeds": [1, 2],
    "set": {"teacher.seed": 1, "distill.temperature": 1.0},
    "epochs": [6, 5],
    "cells": {
        "finetune": {},
        "kd": {},
        "kd-tuned": {},
        "adakd": {},
        "adakd-permuted": {"like": "adakd", "set": {"methods.adakd.control": "permuted"}},
        "adakd-mean": {
            "like": "adakd",
            "set": {"methods.adakd.control": "mean"},
            "seeds": [1],
        },
    },
    "tune": {"kd-tuned": [{"methods.kd.alpha": 0.1}, {"methods.kd.alpha": 0.9}]},
    "primary": [["adakd", "kd-tuned"], ["adakd", "finetune"]],
    "ablations": {"controls of AdaKD": ["adakd-permuted", "adakd-mean", "adakd"]},
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(grid, "REPOSITORY", tmp_path)
    tiny_recipe.fsdd_recipe(tmp_path, tmp_path / "nowhere")
    return tmp_path


def study_of(folder: Path, **changes: Any) -> Study:
    path = folder / "grid.yaml"
    tiny_recipe.write_yaml(path, GRID | changes)
    return Study(path, folder / "root")


def finish(study: Study, records: dict[str, Any], task: grid.Task, dev_cer: float = 0.5) -> None:
    """As if a task had been done: its record and, of a training, done.json and metrics.jsonl."""
    records[task.name] = {"status": "done", "fingerprint": task.fingerprint, "kind": task.kind}
    if task.kind in ("trial", "cell"):
        (place,) = task.places
        inputs = training_settings(place, task.method) | code(place.config)
        finished.mark_done(task.folder, inputs, dev_cer=dev_cer)
        lines = [{"epoch": e, "step": e, "dev_cer": dev_cer + 0.1 / e} for e in range(1, 7)]
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (task.folder / "metrics.jsonl").write_text(text)


def due(study: Study, records: dict[str, Any]) -> list[grid.Task]:
    return [task for task in study.tasks(records) if not study.status(task, records)]


def test_where_a_machine_keeps_things_makes_no_other_task(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The corpus elsewhere, the grid run from elsewhere: what was recorded is still known."""
    path = folder / "grid.yaml"
    prints = []
    for corpus, epochs in (("digits", 5), ("other/digits", 5), ("digits", 9)):
        tiny_recipe.write_yaml(path, GRID)
        study = Study(path, folder / "root", [("tiny/en", "corpus.corpus", corpus)])
        choice = grid.Choice(epochs, tuned={"kd-tuned": 1})
        prints.append(study.cell_task(study.groups[0], "kd", 1, choice).fingerprint)
    assert prints[0] == prints[1] != prints[2]
    faster = {"data.jobs": 2, "train.workers": 4, "teacher.train.checkpoint_minutes": 5}
    tiny_recipe.write_yaml(path, GRID)
    own = [("tiny/en", key, str(value)) for key, value in faster.items()]
    study = Study(path, folder / "root", own)
    choice = grid.Choice(5, tuned={"kd-tuned": 1})
    assert study.cell_task(study.groups[0], "kd", 1, choice).fingerprint == prints[0]
    (folder / "models/small").mkdir(parents=True)
    monkeypatch.chdir(folder)
    assert grid._nameless("models/small") == "models/small"
    monkeypatch.chdir(folder / "models")
    assert grid._nameless(str(folder / "models/small")) == "models/small"
    assert grid._nameless("openai/whisper-tiny") == "openai/whisper-tiny"
    assert grid._nameless(None) is None


def test_a_cell_is_an_experiment_with_a_tag(folder: Path) -> None:
    study = study_of(folder)
    group = study.groups[1]
    choice = grid.Choice(epochs=6, tuned={"kd-tuned": 1})
    task = study.cell_task(group, "kd-tuned", 2, choice)
    assert task.folder == folder / "root/exp/tiny/en/fold1/wav2vec2/kd-tuned/seed2"
    assert task.places[0].experiment("teacher").name == "seed1", "one teacher for all seeds"
    config = task.places[0].config
    assert (config.train_of("student").epochs, config.train_of("teacher").epochs) == (6, 1)
    assert config.methods["kd"] == {"alpha": 0.9} and config.distill.temperature == 1.0
    assert study.cell_task(group, "finetune", 1, choice).folder.parent.name == "finetune"
    controlled = study.place(group, "adakd-permuted", 1, choice).config.methods["adakd"]
    assert controlled == {"threshold": "mean", "k": "auto", "control": "permuted"}
    tried = study.place(group, "kd-tuned", 1, choice, tried=0)
    assert tried.config.tag == "tuned-try1" and tried.config.methods["kd"] == {"alpha": 0.1}


def test_a_recipe_under_another_name_lies_elsewhere(folder: Path) -> None:
    renamed = {
        "tiny/en-short": {"recipe": "tiny/en", "folds": [2], "set": {"corpus.max_digits": 1}}
    }
    study = study_of(folder, recipes=renamed)
    place = study.place(study.groups[0], "finetune", 1, grid.Choice(tuned={"kd-tuned": 0}))
    assert place.corpus == folder / "root/corpus/tiny/en-short"
    assert place.config.corpus["max_digits"] == 1 and place.config.fold == 2


def test_a_method_with_a_hyphen_is_known_by_its_whole_name(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(METHODS, "adakd-own", Method("Own", "#123456", "1"))
    cells = {"finetune": {}, "adakd-own-fast": {}, "x": {"method": "kd"}, "y": {"like": "x"}}
    study = study_of(folder, cells=cells, tune={}, primary=[], ablations={})
    assert [study.method(name) for name in study.cells] == ["finetune", "adakd-own", "kd", "kd"]
    place = study.place(study.groups[0], "adakd-own-fast", 1, grid.Choice())
    assert place.config.tag == "fast"


def test_tasks_come_in_their_order_and_test_is_read_last(folder: Path) -> None:
    study = study_of(folder, recipes={"tiny/en": {"folds": [0]}})
    records: dict[str, Any] = {}
    seen = []
    while tasks := due(study, records):
        seen.append([task.name.removeprefix("tiny/en ") for task in tasks])
        for task in tasks:
            finish(study, records, task, 0.4 if "try2" in task.name else 0.5)
    fold = "fold 0 wav2vec2"
    assert seen[:2] == [["data"], [f"{fold} teacher"]]
    # At epoch 4 of 5 the CER is 0.525, in the end 0.516: over 1 %, so six epochs are tried.
    assert seen[2:4] == [[f"{fold} finetune-epochs{n} seed 1"] for n in (5, 6)]
    assert seen[4] == [f"{fold} kd-tuned-try1 seed 1", f"{fold} kd-tuned-try2 seed 1"]
    assert seen[5] == [f"{fold} reference"]
    assert len(seen) == 7 and len(seen[6]) == 6 + 5
    assert seen[6][:2] == [f"{fold} finetune seed 1", f"{fold} kd seed 1"]
    assert f"{fold} adakd-mean seed 2" not in seen[6], "this cell has a seed of its own"
    _, choice = study.choose(study.groups[0], records)
    assert choice is not None and choice.tuned == {"kd-tuned": 1}
    assert choice.dev == {"kd-tuned": [0.5, 0.4]} and choice.epochs == 6
    kinds = {"data": 1, "teacher": 1, "difficulty": 0, "trial": 4, "reference": 1, "cell": 11}
    assert study.sizes({}) == kinds


@pytest.mark.parametrize("left", [[], [1, 2, 3], [2, 3, 4, 5]])
def test_a_trial_whose_curve_lost_an_epoch_chooses_nothing(folder: Path, left: list[int]) -> None:
    """As after a power cut: by what is left another number of epochs would be chosen."""
    study = study_of(folder, recipes={"tiny/en": {"folds": [0]}})
    records: dict[str, Any] = {}
    while due(study, records)[0].kind != "trial":
        for task in due(study, records):
            finish(study, records, task)
    (trial, *_) = due(study, records)
    finish(study, records, trial)
    facts = finished.done(trial.folder)
    assert facts is not None
    finished.mark_done(trial.folder, facts["inputs"], dev_cer=0.5, epochs=5)
    lines = [json.dumps({"epoch": e, "step": e, "dev_cer": 0.5}) + "\n" for e in left]
    (trial.folder / "metrics.jsonl").write_text("".join(lines))
    with pytest.raises(UserError, match="metrics.jsonl lacks the dev CER of some epochs"):
        study.trial(trial)


def test_a_candidate_counts_by_its_mean_over_all_tuning_seeds(folder: Path) -> None:
    study = study_of(folder, recipes={"tiny/en": {"folds": [0]}}, epochs=[], tune_seeds=[1, 2])
    cers = {"try1 seed 1": 0.30, "try1 seed 2": 0.50, "try2 seed 1": 0.38, "try2 seed 2": 0.38}
    records: dict[str, Any] = {}
    while tasks := [task for task in due(study, records) if task.kind != "cell"]:
        for task in tasks:
            cer = next((cers[name] for name in cers if task.name.endswith(name)), 0.5)
            finish(study, records, task, cer)
    _, choice = study.choose(study.groups[0], records)
    assert choice is not None and choice.tuned == {"kd-tuned": 1}
    assert choice.dev == {"kd-tuned": [pytest.approx(0.40), pytest.approx(0.38)]}


def test_candidates_wait_for_what_they_are_like_wherever_it_stands(folder: Path) -> None:
    cells = {"adakd": {}, "adakd-rank": {"like": "adakd"}}
    keys = {"adakd-rank": "k", "adakd": "threshold"}  # the child first
    tune = {name: [{f"methods.adakd.{key}": n} for n in (1, 2)] for name, key in keys.items()}
    study = study_of(
        folder, recipes={"tiny/en": {"folds": [0]}}, cells=cells, epochs=[], tune=tune, primary=[],
        ablations={},
    )  # fmt: skip
    records: dict[str, Any] = {}
    while tasks := [task for task in due(study, records) if task.kind != "cell"]:
        for task in tasks:
            finish(study, records, task, 0.4 if "try2" in task.name else 0.5)
    _, choice = study.choose(study.groups[0], records)
    assert choice is not None and choice.tuned == {"adakd": 1, "adakd-rank": 1}


def test_a_trial_whose_folder_is_gone_or_of_another_has_not_run(folder: Path) -> None:
    study = study_of(folder, recipes={"tiny/en": {"folds": [0]}})
    records: dict[str, Any] = {}
    while "trial" not in {task.kind for task in due(study, records)}:
        for task in due(study, records):
            finish(study, records, task)
    (trial,) = due(study, records)
    finish(study, records, trial)
    assert study.status(trial, records) == "done"
    (trial.folder / "done.json").unlink()
    again = study_of(folder, recipes={"tiny/en": {"folds": [0]}})
    assert [task.name for task in due(again, records)] == [trial.name]
    inputs = training_settings(trial.places[0], "finetune") | {"seed": 3}
    finished.mark_done(trial.folder, inputs, dev_cer=0.1)
    assert [task.name for task in due(again, records)] == [trial.name]


def test_a_difficulty_is_a_task_that_its_cells_wait_for(folder: Path) -> None:
    """One that fails, as dropout does where a model has none, leaves the other cells alone."""
    cells = {
        "kd": {},
        "adakd": {},
        "adakd-guard": {"set": {"distill.difficulty": "dropout", "methods.adakd.guard": 0.9}},
        "adakd-dropout": {"set": {"distill.difficulty": "dropout"}},
        "adakd-crossfit": {"set": {"distill.difficulty": "crossfit"}},
    }
    study = study_of(
        folder, recipes={"tiny/en": {"folds": [0]}}, cells=cells, seeds=[1], epochs=[], tune={},
        primary=[], ablations={},
    )  # fmt: skip
    records: dict[str, Any] = {}
    for _ in range(2):  # data, teacher
        (task,) = due(study, records)
        finish(study, records, task)
    group = "tiny/en fold 0 wav2vec2"
    dropout, crossfit, reference = due(study, records)
    assert [dropout.name, crossfit.name, reference.name] == [
        f"{group} difficulty dropout", f"{group} difficulty crossfit", f"{group} reference",
    ]  # fmt: skip
    guards = [place.config.methods["adakd"].get("guard") for place in dropout.places]
    assert guards == [0.9, None], "what a guard finds out serves the other"
    finish(study, records, reference)
    waiting = {f"{group} {name} seed 1" for name in ("kd", "adakd")}
    assert {task.name for task in due(study, records)} - {dropout.name, crossfit.name} == waiting
    records[dropout.name] = {"status": "failed", "fingerprint": dropout.fingerprint}
    told = {f"{group} {name} seed 1" for name in ("adakd-guard", "adakd-dropout")}
    assert {task.name for task in due(study, records)} == {*waiting, *told, crossfit.name}
    assert study.sizes({})["difficulty"] == 2
    assert crossfit.name in study.names(lambda name: "crossfit" in name)


def test_folds_may_have_seeds_of_their_own(folder: Path) -> None:
    study = study_of(folder, recipes={"tiny/en": {"folds": {4: [2, 8], 5: [3]}}})
    assert [group.fold for group in study.groups] == [4, 5]
    records: dict[str, Any] = {}
    seen = set()
    while tasks := due(study, records):
        for task in tasks:
            finish(study, records, task)
        seen |= {task.name.removeprefix("tiny/en ") for task in tasks if task.kind == "cell"}
    assert {name for name in seen if " kd seed" in name} == {
        "fold 4 wav2vec2 kd seed 2", "fold 4 wav2vec2 kd seed 8", "fold 5 wav2vec2 kd seed 3",
    }  # fmt: skip
    assert {name for name in seen if "adakd-mean" in name} == {
        f"fold {fold} wav2vec2 adakd-mean seed 1" for fold in (4, 5)
    }, "what a cell says of itself goes first"
    assert study.sizes({})["cell"] == len(seen) == 5 * 3 + 2
    assert "tiny/en fold 5 wav2vec2 kd seed 3" in study.names(lambda name: "seed 3" in name)
    assert "tiny/en fold 4 wav2vec2" not in study.names(lambda name: "seed 3" in name)


def test_a_record_of_other_settings_does_not_count(folder: Path) -> None:
    study, other = study_of(folder), study_of(folder, set={"train.max_steps": 5})
    records: dict[str, Any] = {}
    finish(study, records, next(study.tasks({})))
    assert len(due(study, records)) == 2, "both folds go on"
    assert len(due(other, records)) == 1


def test_a_failed_teacher_stops_its_group_only(folder: Path) -> None:
    study = study_of(folder)
    records: dict[str, Any] = {}
    finish(study, records, next(study.tasks({})))
    first, second = due(study, records)
    records[first.name] = {"status": "failed", "fingerprint": first.fingerprint}
    assert [task.name for task in due(study, records)] == [second.name]


@pytest.mark.parametrize(
    ("curves", "gain"),
    [
        ([[0.9, 0.6, 0.5, 0.4, 0.4]], 0.0),
        ([[0.9, 0.6, 0.5, 0.4, 0.3]], 0.25),
        ([[0.9] * 8 + [0.2, 0.1], [0.9] * 8 + [0.9, 0.8]], 0.5),  # 1 - 0.9 / 1.8
        ([[0.4, 0.3]], 0.25),
        ([[0.0] * 5], 0.0),
        ([], math.inf),
    ],
)
def test_gain_of_the_last_fifth(curves: list[list[float]], gain: float) -> None:
    assert grid.last_gain(curves) == pytest.approx(gain)


def test_a_dev_curve_is_of_the_best_so_far(tmp_path: Path) -> None:
    lines = [{"step": 1, "loss": 2.0}]
    lines += [{"epoch": e, "dev_cer": c} for e, c in ((1, 0.5), (2, 0.6), (3, 0.4), (3, 0.3))]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    dev_cer, _ = report.read_metrics(tmp_path)
    assert grid.dev_curve(dev_cer) == [0.5, 0.5, 0.3]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"sedes": [1]}, "unknown key 'sedes'; did you mean 'seeds'?"),
        ({"cells": {"kd": {"sets": {}}}}, "unknown key 'cells.kd.sets'; did you mean 'set'?"),
        ({"cells": {"klein": {}}}, "'klein' has no method that is known"),
        ({"cells": {"kd": {"like": "adakd"}}}, "'kd' is like 'adakd', no cell above it"),
        ({"cells": {}}, "'cells' is empty"),
        ({"primary": [["adakd", "kdd"]]}, "there is no cell 'kdd'; did you mean 'kd'?"),
        ({"across": {"hours": ["tiny/en", "tiny/e"]}}, "no recipe 'tiny/e'; did you mean"),
        ({"across": {"hours": ["tiny/en"]}}, "recipes that are compared are two or more"),
        ({"primary": [["adakd"]]}, "a comparison is two cells"),
        ({"primary": [["adakd", "adakd"]]}, "a comparison is two cells"),
        ({"tune": {"kd": [{}, {}], "adakd": [{}]}}, "candidates are kd 2, adakd 1"),
        ({"tune": {"kd": [0.5]}}, "'tune.kd' must be a mapping, found 0.5"),
        ({"tune": {"kd": [{"corpus.seed": 2}]}}, "'corpus.seed' cannot differ between cells"),
        (
            {"cells": {"finetune": {"set": {"train.epochs": 2}}}, "tune": {}, "primary": []},
            "here it is student.train.epochs",
        ),
        (
            {"cells": {"kd": {"set": {"methods.adakd.alpha": 0.1}}}, "tune": {}, "primary": []},
            "'methods.adakd.alpha' does nothing here, where the method is kd: set it for the study",
        ),
        (
            {"tune": {"kd-tuned": [{"methods": {"adakd": {"alpha": 0.1}}}]}},
            "'methods.adakd' does nothing here, where the method is kd",
        ),
        ({"set": {"distil.top_k": 3}}, "unknown key 'distil'; did you mean 'distill'?"),
        ({"recipes": {"tiny/xx": {}}}, "there is no recipe 'tiny/xx'"),
        ({"recipes": {"tiny/en": {"folds": [9]}}}, "fold 9: the folds are 0 to 5"),
        ({"recipes": {"tiny/en": {"folds": ["0 1"]}}}, "a list of folds, each once"),
        ({"recipes": {"tiny/en": {"folds": {9: [1]}}}}, "the folds are 0 to 5"),
        *(
            ({"recipes": {"tiny/en": {"folds": folds}}}, "each with a list of seeds, such as {0: ")
            for folds in ({1: 1}, {1: []}, {1: [2, 2]}, {1: [True]}, {"all": [2]}, {True: [2]}, {})
        ),
        (
            {
                "set": {"distill.top_k": 2},
                "tune": {"kd": [{"distill.temperature": 2.0}, {"distill.temperature": 4.0}]},
            },
            "candidates of 'kd' differ in distill.temperature",
        ),
        (
            {
                "cells": GRID["cells"]
                | {"kd-x": {"set": {"distill.temperature": 7.0}}, "adakd-x": {}},
                "set": {"distill.top_k": 2},
            },
            "'kd-x' and 'adakd-x' differ in distill.temperature",
        ),
        ({"epochs": [3]}, "numbers from 5 on"),
        ({"difference": 3}, "a share of the CER, such as 0.03, found 3"),
        ({"difference": 0}, "a share of the CER, such as 0.03, found 0"),
        ({"tune": {"kd": []}}, "'kd' has no candidates"),
        ({"tune": {"kd": None}}, "'tune.kd' must be a list, found None"),
        ({"ablations": {"t": None}}, "'ablations.t' must be a list, found None"),
        ({"across": {"hours": "tiny/en"}}, "'across.hours' must be a list, found 'tiny/en'"),
        ({"families": {"wav2vec2": [1]}}, "'families.wav2vec2' must be a mapping or empty"),
        ({"seeds": [1, 2, 2]}, "2 stands twice in [1, 2, 2]"),
        (
            {"cells": {"kd": {"seeds": [3, 3]}}, "tune": {}, "primary": [], "ablations": {}},
            "3 stands twice in [3, 3]",
        ),
        ({"epochs": [5, 6, 5]}, "5 stands twice in [5, 6, 5]"),
        ({"primary": [["kd", "adakd"]] * 2}, "['kd', 'adakd'] stands twice in"),
        ({"recipes": {"tiny/en": {"folds": [0, 0]}}}, "a list of folds, each once"),
        (
            {"recipes": {"tiny/en": {"families": ["wav2vec2", "wav2vec2"]}}},
            "wav2vec2 stands twice in ['wav2vec2', 'wav2vec2']",
        ),
        ({"set": {"seed": 7}}, "'seed' is no setting here; a grid gives it by seeds."),
        (
            {"set": {"recipe": "a/b"}},
            "'recipe' is no setting here; a grid gives it by recipes: {NAME: {recipe: ...}}.",
        ),
        (
            {"families": {"wav2vec2": {"family": "whisper"}}},
            "'family' is no setting here; a grid gives it by families",
        ),
        (
            {"recipes": {"tiny/en": {"set": {"fold": 3}}}},
            "'fold' is no setting here; a grid gives it by recipes: {NAME",
        ),
        (
            {"recipes": {"tiny/en": {"set": {"tag": "zz"}}}},
            "'tag' is no setting here; a grid gives it by the name of a cell, METHOD-TAG.",
        ),
        ({"cells": {"kd": {"set": {"tag": "zz"}}}}, "'tag' cannot differ between cells"),
        (
            {"cells": {"kd": {"set": {"student": {"source": "a"}}}}},
            "'student.source' cannot differ between cells",
        ),
        ({"recipes": {"/tiny/en": {"recipe": "tiny/en"}}}, "'/tiny/en' is no name of a recipe"),
        ({"recipes": {"tiny/en/": {}}}, "'tiny/en/' is no name of a recipe"),
        ({"recipes": {"../en": {"recipe": "tiny/en"}}}, "'../en' is no name of a recipe"),
        (
            {"cells": GRID["cells"] | {"finetune-epochs6": {}}},
            "'finetune-epochs6' has the name or the folder of the trial of 6 epochs: rename it.",
        ),
        (
            {"cells": GRID["cells"] | {"finetune-epochs6": {"method": "kd"}}},
            "'finetune-epochs6' has the name or the folder of the trial of 6 epochs: rename it.",
        ),
        (
            {"cells": GRID["cells"] | {"kd-tuned-try2": {}}},
            "'kd-tuned-try2' has the name or the folder of candidate 2 of 'kd-tuned': rename it.",
        ),
        (
            {"cells": GRID["cells"] | {"tuned": {"method": "kd"}}},
            "'kd-tuned' has the name or the folder of the cell 'tuned': rename it.",
        ),
        ({"families": {1: None}}, "in 'families' YAML reads a key as 1, which is no name"),
        ({"recipes": {1: None}}, "in 'recipes' YAML reads a key as 1, which is no name"),
        ({"recipes": {None: None}}, "in 'recipes' YAML reads a key as None, which is no name"),
        ({"cells": {1: {"method": "kd"}}}, "in 'cells' YAML reads a key as 1, which is no name"),
        ({"set": {1: 2}}, "in 'set' YAML reads a key as 1, which is no name"),
        ({"cells": {"kd": {"set": {1: 2}}}}, "in 'cells.kd.set' YAML reads a key as 1"),
        ({"tune": {"kd": [{1: 2}]}}, "in 'tune.kd' YAML reads a key as 1"),
        (
            {"seeds": [2, 3], "primary": [["adakd-mean", "kd"]]},
            "'adakd-mean' and 'kd' have no seed in common (tiny/en fold 0 wav2vec2)",
        ),
        ({"families": {"wav2vec": {}}}, "Unknown family 'wav2vec'"),
    ],
)
def test_mistakes_are_sentences(folder: Path, changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError) as error:
        study_of(folder, **changes)
    assert sentence in str(error.value) and "grid.yaml" in str(error.value)
    assert "distil" in sentence or ", line " in str(error.value) or "family" in sentence


@pytest.mark.parametrize(
    ("key", "where"), [("tag", "METHOD-TAG"), ("seed", "seeds"), ("fold", "folds")]
)
def test_a_machine_does_not_set_what_names_a_run(folder: Path, key: str, where: str) -> None:
    path = folder / "grid.yaml"
    tiny_recipe.write_yaml(path, GRID)
    with pytest.raises(UserError, match=rf"--set tiny/en {key}: .* gives it by .*{where}"):
        Study(path, folder / "root", [("tiny/en", key, "3")])


def test_a_group_of_settings_leaves_the_others_alone(folder: Path) -> None:
    """A whole `train` would take batch_seconds, say, back to a default."""
    cells = {
        "finetune": {},
        "kd": {"set": {"distill": {"difficulty": "dropout"}, "student": {"train": {"clip": 2}}}},
    }
    tune = {"kd": [{"methods": {"kd": {"alpha": 0.1}}}]}
    changes = {"epochs": [], "tune": tune, "primary": [], "ablations": {}, "cells": cells}
    settings = {"train": {"max_steps": 7}, "distill": {"temperature": 1.0}}
    study = study_of(folder, set=settings, **changes)
    config = study.place(study.groups[0], "kd", 1, study.any_choice).config
    assert (config.train.max_steps, config.train.batch_seconds) == (7, 12)
    assert (config.distill.temperature, config.distill.difficulty) == (1.0, "dropout")
    assert config.train_of("student").clip == 2 and config.methods["kd"] == {"alpha": 0.1}
    assert config.methods["adakd"] == {"threshold": "mean", "k": "auto"}
    softer = study_of(folder, **changes | {"tune": {"kd": [{"distill": {"temperature": 3.0}}]}})
    assert softer.grid.tune == {"kd": [{"distill.temperature": 3.0}]}, "as the report tells it"
    # Whatever of the two ways something was set before, what comes later counts.
    recipes = {"tiny/en": {"folds": [0], "set": {"train": {"max_steps": 9}}}}
    for earlier in (settings, {"train.max_steps": 7}):
        study = study_of(folder, set=earlier, recipes=recipes, **changes)
        assert study.start(study.groups[0]).config.train.max_steps == 9


def test_damaged_records_are_a_sentence(folder: Path) -> None:
    study = study_of(folder)
    study.records.parent.mkdir(parents=True)
    for text in ("", '{"tiny/en data": {"sta'):
        study.records.write_text(text)
        with pytest.raises(UserError, match=r"records\.json is damaged: delete it"):
            study.read_records()


def committed(path: Path, root: Path) -> Study:
    own = {"own": [("kaldi/study", "language.code", "ta")]}
    return Study(path, root, own.get(path.stem, []))


def test_a_study_asks_for_the_language_of_your_data(tmp_path: Path) -> None:
    """A default would make all anew in another language where one start forgets to name it."""
    with pytest.raises(UserError) as error:
        Study(ROOT / "study/own.yaml", tmp_path)
    assert "language.code is missing" in str(error.value)
    assert "for a study: --set kaldi/study language.code sw" in str(error.value)
    study = committed(ROOT / "study/own.yaml", tmp_path)
    (code,) = {study.start(group).config.language.code for group in study.groups}
    assert code == "ta"


def test_what_is_put_together_is_of_the_published_pages(
    tmp_path: Path, script: Callable[[str], ModuleType]
) -> None:
    """Every page has its grid, and the page's own numbers are found again."""
    together = script("study/together.py")
    for page in ROOT.glob("docs/STUDY*.md"):
        title = page.read_text(encoding="utf-8").splitlines()[0].removeprefix("# ")
        assert Study(together.grid_of(page), tmp_path).grid.title == title
    (page,) = ROOT.glob("docs/STUDY-learned.md")
    text = page.read_text(encoding="utf-8")
    for one in together.comparisons(page):
        row = f"| {one.title} | {one.table.title} | "
        found = "not run" if one.change is None else f"{100 * one.change.relative:+.1f} ["
        assert row + found in text


@pytest.mark.parametrize("path", sorted(ROOT.glob("study/*.yaml")), ids=lambda path: path.stem)
def test_the_committed_studies_are_valid(path: Path, tmp_path: Path) -> None:
    study = committed(path, tmp_path)
    assert study.grid.primary and study.sizes({})["cell"] > 0
    seeds = {
        seed for group in study.groups for name in study.cells for seed in study.seeds(name, group)
    }
    assert len(seeds) >= (5 if path.stem == "tier-a" else 3)
    for group in study.groups:  # every setting reaches its cell's configuration
        for name, cell in study.cells.items():
            place = study.place(group, name, 1, study.any_choice)
            for key, value in cell.set.items():
                found: Any = dataclasses.asdict(place.config)
                for part in key.split("."):
                    found = found[part]
                assert found == value


def test_no_two_committed_studies_put_other_runs_into_the_same_folder(tmp_path: Path) -> None:
    """They would take turns in making them anew, and either report would hold the other's."""
    found: dict[str, dict[str, set[str]]] = {}
    for path in sorted(ROOT.glob("study/*.yaml")):
        study = committed(path, tmp_path)
        tune = study.grid.tune
        for group in study.groups:
            epochs = str(study.grid.epochs)  # chosen alike from alike: by the group's fine-tuning
            for name in study.cells:
                above = [each for each in study.ancestry(name) if each in tune]
                for number in range(max([len(tune[each]) for each in above], default=1)):
                    choice = grid.Choice(tuned={each: number for each in tune})
                    place, method = study.place(group, name, 1, choice), study.method(name)
                    settings = json.dumps([epochs, training_settings(place, method)])
                    folder = str(place.experiment(method).relative_to(tmp_path))
                    found.setdefault(folder, {}).setdefault(settings, set()).add(path.stem)
    for folder, kinds in found.items():
        others = [study for studies in kinds.values() for study in studies]
        assert len(kinds) == 1 or len(set(others)) == 1, f"{folder}: {set(others)}"
