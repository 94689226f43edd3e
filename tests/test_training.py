"""What a training is given: its start, the order of its batches, what chooses its best epoch."""

from __future__ import annotations

import gc
import shutil
import weakref
from pathlib import Path
from typing import Any

import pytest
import tiny_recipe
import torch

from adakd import checkpoints, finished, inputs, models
from adakd.brain import DistillationBrain
from adakd.files import read_json, write_json
from adakd.place import Place
from adakd.stages import training


class Begun(Exception):
    """Raised in place of the first epoch."""


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list[tuple[DistillationBrain, Any]]:
    """Every training with its dev loader, none of which takes a step."""
    found: list[tuple[DistillationBrain, Any]] = []

    def run(brain: DistillationBrain, train_loader: object, dev_loader: Any) -> dict[str, Any]:
        found.append((brain, dev_loader))
        raise Begun

    monkeypatch.setattr(DistillationBrain, "run", run)
    return found


def begin(place: Place, method: str) -> None:
    with pytest.raises(Begun):
        training.train(place, method)


def test_the_best_epoch_is_chosen_on_dev_with_batches_of_the_seed(
    tmp_path: Path, begun: list[tuple[DistillationBrain, Any]]
) -> None:
    place = tiny_recipe.prepared(tmp_path, "wav2vec2", seed=7)
    for method in ("teacher", "finetune"):
        begin(place, method)
    for _, dev_loader in begun:
        assert [entry.id for entry in dev_loader.dataset.entries] == ["dev0", "dev1"]
    seeds = [brain.train_sampler.seed for brain, _ in begun]
    assert seeds == [place.seed_of("teacher"), 7]


def test_a_student_starts_from_weights_of_its_seed(tmp_path: Path) -> None:
    def weights(root: str, seed: int) -> dict[str, torch.Tensor]:
        place = tiny_recipe.prepared(tmp_path / root, "wav2vec2", seed=seed)
        start = training.student_start(place) / "model"
        return models.open_folder(place.config, start).state_dict()

    torch.manual_seed(1)  # what else this process has drawn is not to matter
    first = weights("a", 1)
    torch.manual_seed(2)
    again, other = weights("b", 1), weights("c", 2)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_what_other_weights_come_to_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tiny_recipe.prepared(tmp_path, "wav2vec2", seed=7)

    def run(brain: DistillationBrain, *_: object) -> dict[str, Any]:
        with torch.no_grad():
            next(brain.student.parameters()).add_(moved)
        return {"train_seconds": 1.0, "dev_cer": 0.5, "epoch": 1}

    monkeypatch.setattr(DistillationBrain, "run", run)

    def made(folder: Path) -> str:
        shutil.rmtree(folder, ignore_errors=True)
        training.train(place, folder.parent.name)
        return str((finished.done(folder) or {})["fingerprint"])

    teacher, student = place.experiment("teacher"), place.experiment("finetune")
    moved = 0.0
    first, again = made(teacher), made(teacher)
    one = made(student)
    asked = [inputs.training_inputs(place, "kd"), inputs.store_parts(place)]
    moved = 1e-3  # as another machine might have it
    assert made(teacher) != first == again and made(student) != one
    now = [inputs.training_inputs(place, "kd"), inputs.store_parts(place)]
    changed = [finished.changes(*each) for each in zip(asked, now, strict=True)]
    assert changed == [["teacher"], ["teacher"]]


def test_a_training_that_is_over_lets_go_of_its_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With AdamW's states, which the next stage would find on its GPU."""
    place = tiny_recipe.prepared(tmp_path, "wav2vec2")
    kept: list[weakref.ref[torch.optim.Optimizer]] = []

    def run(brain: DistillationBrain, *_: object) -> dict[str, Any]:
        brain.init_optimizers()
        kept.append(weakref.ref(brain.optimizer))
        return {"train_seconds": 1.0, "dev_cer": 0.5, "epoch": 1}

    monkeypatch.setattr(DistillationBrain, "run", run)
    gc.disable()  # or chance decides
    try:
        training.train(place, "finetune")
        assert [optimizer() for optimizer in kept] == [None]
    finally:
        gc.enable()


@pytest.mark.parametrize("rank", [0, 1])
def test_every_process_draws_its_own_dropout(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    begun: list[tuple[DistillationBrain, Any]],
    rank: int,
) -> None:
    place = tiny_recipe.prepared(tmp_path, "wav2vec2", seed=7)
    training.student_start(place)
    seeds = []
    seed_everything = checkpoints.seed_everything

    def noted(*what: object) -> None:
        seeds.append(what)
        seed_everything(*what)

    monkeypatch.setattr(checkpoints, "seed_everything", noted)
    monkeypatch.setenv("RANK", str(rank))
    begin(place, "finetune")
    assert seeds == [(7, "training"), (7, "training 1")][: rank + 1]


def test_a_student_may_say_what_it_was_trained_on(tmp_path: Path) -> None:
    """Tokens that its source suppresses, as OpenAI's Whispers do the apostrophe."""
    here = tiny_recipe.prepared(tmp_path, "whisper")
    start = training.student_start(here) / "model"
    used = models.open_folder(here.config, start)._units(here.manifest("train")[0])[-1]
    path = start / "generation_config.json"
    write_json(path, read_json(path) | {"suppress_tokens": [used, 0]})
    training.train(here, "finetune")
    written = read_json(here.experiment("finetune") / "model/generation_config.json")
    assert written["suppress_tokens"] == [0]
