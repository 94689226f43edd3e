"""Training: what one step does, what a run logs, and that a cut run ends as an uncut one.

The models are random and tiny; the losses and gradients they are checked against are computed here
one utterance at a time, without the Brain.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import random
import re
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_recipe
import torch
from speechbrain.utils.epoch_loop import EpochCounter
from torch import Tensor

from adakd import brain as training
from adakd import checkpoints, device, models, progress
from adakd import config as configuration
from adakd import weighting as weightings
from adakd.brain import DistillationBrain
from adakd.data.loader import Steps, StepSampler, evaluation_loader, training_loader
from adakd.data.manifest import Entry
from adakd.errors import UserError
from adakd.models import Batch
from adakd.objectives import Dense
from adakd.weighting import Weighted

FAMILIES = configuration.FAMILIES


@dataclass
class Speech:
    """Utterances on disk, and units for them."""

    root: Path
    train: list[Entry]
    dev: list[Entry]
    units: dict[str, Path]


@pytest.fixture(scope="module")
def speech(tmp_path_factory: pytest.TempPathFactory) -> Speech:
    root = tmp_path_factory.mktemp("speech")
    train = tiny_recipe.entries(root, 13)
    texts = [entry.text for entry in train]
    return Speech(
        root,
        train,
        tiny_recipe.entries(root, 3, "dev"),
        {f: tiny_recipe.train_units(f, root / f, texts) for f in FAMILIES},
    )


def difficulty(utterance: str) -> float:
    """A made-up x of a training utterance, 0 to 3."""
    return (7 * int(utterance[1:]) % 13) / 4


class Cut(Exception):
    """Stands for whatever ends a run before its time."""


class Watched(DistillationBrain):
    """A Brain that a test can look into and cut."""

    cut_at: int | None = None  # optimiser step that is not reached any more
    seen: list[Batch]
    states: dict[int, dict[str, Tensor]]  # parameters at the end of each epoch

    def fit_batch(self, step: list[Batch]) -> Tensor:  # type: ignore[override]
        if self.optimizer_step == self.cut_at:
            raise Cut
        return super().fit_batch(step)

    def on_stage_end(self, stage: Any, stage_loss: float, epoch: int | None = None) -> None:
        super().on_stage_end(stage, stage_loss, epoch)
        assert epoch is not None
        self.states[epoch] = state_of(self.student)


Build = Callable[..., Watched]


@pytest.fixture
def build(speech: Speech, tmp_path: Path) -> Build:
    """Builds a Brain over `speech` in a folder: the same one for the same arguments."""

    def make(
        family: str = "wav2vec2",
        method: str = "finetune",
        folder: str = "experiment",
        still: bool = False,
        online: bool = False,
        changes: dict[str, Any] | None = None,
        **train: Any,
    ) -> Watched:
        block = getattr(tiny_recipe, family)(8) | (tiny_recipe.STILL[family] if still else {})
        block |= changes or {}
        config = tiny_recipe.config(family, student={"config": block})
        settings = configuration.from_dict(
            configuration.Train,
            {"batch_seconds": 4, "epochs": 2, "learning_rate": 1e-2, **train},
            "the test",
        )
        checkpoints.seed_everything(1, "training")
        student = models.load(config, "student", speech.units[family])
        teacher = models.load(config, "teacher", speech.units[family]) if online else None
        student.prepare_training(settings)
        sampler = StepSampler(
            [entry.seconds for entry in speech.train],
            settings.batch_seconds,
            settings.accumulate,
            padded=student.padded,
        )
        weighting = weightings.build(method)
        weighting.fit([difficulty(entry.id) for entry in speech.train])
        (tmp_path / folder).mkdir(exist_ok=True)
        made = Watched(
            student, weighting, settings, config.distill, tmp_path / folder, sampler, "a test",
            teacher,
        )  # fmt: skip
        made.states = {}
        return made

    return make


def supply(batch: Batch) -> Batch:
    batch.difficulty = torch.tensor([difficulty(utterance) for utterance in batch.ids])
    return batch


def run(made: Watched, speech: Speech, workers: int = 0) -> dict[str, Any]:
    """Train from where the folder stands to the end."""
    steps = Steps(speech.train, speech.root, made.student, supply)
    dev = evaluation_loader(Steps(speech.dev, speech.root, made.student), 8.0, workers)
    return made.run(training_loader(steps, made.train_sampler, workers), dev)


def state_of(family: torch.nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in family.state_dict().items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Equal to the bit."""
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def metrics(made: Watched) -> list[dict[str, Any]]:
    """The lines of the log, without what depends on the clock."""
    lines = (made.folder / "metrics.jsonl").read_text().splitlines()
    found = [json.loads(line) for line in lines]
    for line in found:
        line.pop("audio_seconds_per_second", None)
    return found


def started(made: Watched) -> Watched:
    """Ready for `fit_batch`, in train mode."""
    made.on_fit_start()
    made.modules.train()
    return made


@pytest.fixture
def gradients(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[dict[str, Tensor]]]:
    """What each optimiser step is given: the gradients after clipping, by name."""
    found: list[dict[str, Tensor]] = []
    original = torch.optim.AdamW.step

    def step(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        found.append(
            {str(i): p.grad.clone() for i, p in enumerate(parameters) if p.grad is not None}
        )
        original(optimizer)  # type: ignore[arg-type]

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    yield found


# ------------------------------------------------------------------ one step


@pytest.mark.parametrize(
    ("family", "method"),
    [
        *(("wav2vec2", "adakd"), ("whisper", "adakd"), ("wav2vec2", "superloss")),
        *(("whisper", "focal"), ("wav2vec2", "annealing")),
    ],
)
def test_four_small_batches_make_the_step_of_a_big_one(
    family: str, method: str, speech: Speech, build: Build
) -> None:
    # No clipping and no SpecAugment; learning is by plain gradient descent, for AdamW divides by
    # the gradient's size and would make much of rounding where it is nearly zero.
    settings = {"still": True, "online": True, "method": method, "clip": 1e9, "mask_time": 0.0}
    big, small = build(family, folder="big", **settings), build(family, folder="small", **settings)
    plans = {id(big): [list(range(10))], id(small): [[0, 1, 2], [3], [4, 5, 6, 7], [8, 9]]}
    for made in (big, small):
        started(made)
        made.optimizer = torch.optim.SGD(  # type: ignore[assignment]
            made.student.parameters(), lr=made.train_settings.learning_rate
        )
        steps = Steps(speech.train, speech.root, made.student, supply)
        for _ in range(2):  # in the second, SuperLoss has a running mean
            made.fit_batch([steps.batch(indices) for indices in plans[id(made)]])
    before, after, also = (state_of(each.student) for each in (build(family), big, small))
    assert not same(before, after)
    for name in after:
        torch.testing.assert_close(after[name], also[name], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(big.weighting.state_dict(), small.weighting.state_dict())


def test_the_running_mean_takes_every_utterance_of_a_step_once(
    speech: Speech, build: Build
) -> None:
    made = started(build(method="superloss", still=True, online=True, mask_time=0.0))
    student, teacher = made.student, made.teacher
    steps = Steps(speech.train, speech.root, student)
    assert teacher is not None
    means: list[float] = []
    for plan in ([[0, 1], [2]], [[3, 4, 5]], [[6], [7, 8]]):
        losses = []
        for index in itertools.chain(*plan):
            batch = steps.batch([index])
            with torch.no_grad():
                output, soft = student(batch), models.Dense(teacher(batch).logits)
                task, distill = student.losses(output, batch, soft, made.distill)
            losses.append((task + distill).item() / 2)
        mean = sum(losses) / len(losses)
        means.append(0.9 * means[-1] + 0.1 * mean if means else mean)
        filler = steps.batch([9], counted=False)  # of a process that has no other
        made.fit_batch([*(steps.batch(indices) for indices in plan), filler])
        tau = made.weighting.tau.item()  # type: ignore[union-attr,operator]
        assert tau == pytest.approx(means[-1], rel=1e-4)
    # Every step is weighed, and logged, with the mean of those before it.
    assert [line["tau"] for line in metrics(made)] == [None, *map(pytest.approx, means[:2])]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_loss_is_the_mean_over_the_utterances_of_the_whole_step(
    family: str, speech: Speech, build: Build, gradients: list[dict[str, Tensor]]
) -> None:
    made = started(build(family, "adakd", still=True, online=True, clip=1e9, mask_time=0.0))
    steps = Steps(speech.train, speech.root, made.student, supply)
    student, teacher = made.student, made.teacher
    assert teacher is not None and made.weighting.uses_difficulty
    # By hand: one utterance at a time, alpha from the closed form, 10 utterances in the step.
    total = torch.zeros(())
    t, k = made.weighting.t.item(), made.weighting.k_start.item()  # type: ignore[union-attr,operator]
    for index in range(10):
        batch = steps.batch([index])
        output = student(batch)
        with torch.no_grad():
            soft = models.Dense(teacher(batch).logits)
        alpha = math.exp(-math.exp(k * (difficulty(batch.ids[0]) - t) / 2))
        (task,), (distill,) = student.losses(output, batch, soft, made.distill)
        total = total + ((1 - alpha) * task + alpha * distill) / 10
    student.zero_grad()
    total.backward()
    parameters = [p for group in made.optimizer.param_groups for p in group["params"]]
    expected = {str(i): p.grad.clone() for i, p in enumerate(parameters) if p.grad is not None}
    student.zero_grad()

    loss = made.fit_batch(
        [steps.batch([0, 1, 2, 3]), steps.batch([4, 5, 6]), steps.batch([7, 8, 9])]
    )
    assert loss.item() == pytest.approx(total.item(), rel=1e-5)
    (found,) = gradients
    # A bias of the attention's keys has no effect: its gradient is rounding.
    scale = max(value.abs().max().item() for value in expected.values())
    assert found.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-3, atol=1e-6 * scale)


def test_a_micro_batch_that_does_not_count_changes_nothing(
    speech: Speech, build: Build, gradients: list[dict[str, Tensor]]
) -> None:
    for number in range(2):
        made = started(build(still=True, mask_time=0.0, folder=f"{number}"))
        steps = Steps(speech.train, speech.root, made.student)
        extra = [steps.batch([5], counted=False)] if number else []
        made.fit_batch([steps.batch([0, 1]), *extra])
    assert same(*gradients)


def test_clipping_covers_all_parameters(build: Build, gradients: list[dict[str, Tensor]]) -> None:
    made = started(build(clip=0.5))
    trained = [p for p in made.student.parameters() if p.requires_grad]
    assert len(made.optimizer.param_groups) > 1
    for number, parameter in enumerate(trained):
        parameter.grad = torch.full_like(parameter, 1.0 + number)
    size = math.sqrt(sum((p.grad**2).sum().item() for p in trained if p.grad is not None))
    made.optimizers_step()
    (found,) = gradients
    assert math.sqrt(sum((g**2).sum().item() for g in found.values())) == pytest.approx(
        0.5, rel=1e-4
    )
    # All by the same factor: the smallest is still 1.
    assert min(g.abs().min().item() for g in found.values()) == pytest.approx(0.5 / size, rel=1e-4)
    assert all(parameter.grad is None for parameter in trained)


def test_decay_is_for_matrices_and_everything_is_trained(build: Build) -> None:
    made = started(build(weight_decay=0.3))
    decayed, others = made.optimizer.param_groups
    assert decayed["weight_decay"] == 0.3 and others["weight_decay"] == 0.0
    assert all(p.dim() > 1 for p in decayed["params"])
    assert all(p.dim() <= 1 for p in others["params"])
    trained = {id(p) for p in made.student.parameters() if p.requires_grad}
    assert {id(p) for group in made.optimizer.param_groups for p in group["params"]} == trained


def test_a_step_that_is_not_finite_is_skipped(
    speech: Speech,
    build: Build,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(training, "PATIENCE", 2)
    made = started(build(still=True, epochs=9))
    told_steps = 0

    def step_done(*losses: object) -> None:
        nonlocal told_steps
        told_steps += 1

    monkeypatch.setattr(made.weighting, "step_done", step_done)
    step = [Steps(speech.train, speech.root, made.student).batch([0, 1])]
    healthy = made.student.task_loss
    broken = lambda output, batch: healthy(output, batch) * math.nan  # noqa: E731
    before = state_of(made.student)
    for _ in range(3):  # two in a row are forgiven, again and again
        made.student.task_loss = broken  # type: ignore[method-assign]
        made.fit_batch(step)
        made.fit_batch(step)
        assert same(before, state_of(made.student))
        made.student.task_loss = healthy  # type: ignore[method-assign]
        made.fit_batch(step)
        assert not same(before, state_of(made.student))
        before = state_of(made.student)
    assert made.optimizer_step == 9 and told_steps == 3
    assert [line["loss"] is None for line in metrics(made)] == [True, True, False] * 3
    told = [line for line in capsys.readouterr().err.splitlines() if "is skipped" in line]
    assert told == [
        f"a test: step {step} is skipped, its gradient is not finite" for step in (1, 2, 4, 5, 7, 8)
    ]
    made.student.task_loss = broken  # type: ignore[method-assign]
    with pytest.raises(UserError, match=r"a test: .* not finite 3 times .*train.learning_rate"):
        for _ in range(3):
            made.fit_batch(step)


def test_weights_that_are_not_finite_are_told_from_gradients(
    speech: Speech,
    build: Build,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    made = started(build(still=True))
    step = [Steps(speech.train, speech.root, made.student).batch([0, 1])]
    weigh = made.weighting.weigh

    def broken(*arguments: Any) -> Weighted:
        weighted = weigh(*arguments)
        return Weighted(*(each * math.nan for each in weighted))

    made.weighting.weigh = broken  # type: ignore[method-assign]
    made.fit_batch(step)
    told = "a test: step 1 is skipped, its weight of the distillation loss is not finite\n"
    assert capsys.readouterr().err.endswith(told)
    made.not_finite = training.PATIENCE
    with pytest.raises(UserError, match="begin anew when FineTune is mended"):
        made.fit_batch(step)
    # A weight that a broken loss has broken is not to blame.
    focal = started(build(still=True, method="focal", folder="focal"))
    healthy = focal.student.losses
    monkeypatch.setattr(
        focal.student,
        "losses",
        lambda *given: tuple(each * math.nan for each in (healthy(*given)[0],) * 2),
    )
    focal.fit_batch([supply(step[0])])
    assert capsys.readouterr().err.endswith("step 1 is skipped, its gradient is not finite\n")


def test_a_training_that_made_no_step_is_none(
    speech: Speech, build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = build(epochs=1)
    healthy = made.student.task_loss
    monkeypatch.setattr(made.student, "task_loss", lambda *given: healthy(*given) * math.nan)
    with pytest.raises(UserError, match="a test: nothing was learnt, every step was skipped"):
        run(made, speech)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_live_teacher_stays_in_eval_mode_and_learns_nothing(
    family: str, speech: Speech, build: Build
) -> None:
    made = build(family, "kd", online=True, epochs=1)
    teacher = made.teacher
    assert teacher is not None
    before = state_of(teacher)
    run(made, speech)
    assert same(before, state_of(teacher))
    assert not any(module.training for module in teacher.modules())
    assert all(parameter.grad is None for parameter in teacher.parameters())
    # Its dropout would make two passes differ.
    batch = Steps(speech.train, speech.root, teacher).batch([0])
    assert torch.equal(teacher(batch).logits, teacher(batch).logits)
    names = {name for path in made.folder.rglob("student.ckpt") for name in torch.load(path)}
    assert names == set(made.student.state_dict()), "no teacher in the checkpoint"


def test_a_live_teacher_hears_clips_as_it_wants_them(speech: Speech, build: Build) -> None:
    """One that takes samples as they are, and a student that wants them normalised."""
    made = started(build("wav2vec2", "kd", online=True))
    assert made.teacher is not None
    made.teacher.extractor.do_normalize = False
    steps = Steps(speech.train, speech.root, made.student, teacher=made.teacher)
    found = made._soft_outputs(steps.batch([0, 1]))
    truth = made.teacher(Steps(speech.train, speech.root, made.teacher).batch([0, 1])).logits
    assert isinstance(found, Dense)
    torch.testing.assert_close(found.logits, truth)
    own = made.teacher(Steps(speech.train, speech.root, made.student).batch([0, 1])).logits
    assert not torch.allclose(own, truth, rtol=1e-2)


def test_dev_counts_errors_over_the_references_characters(
    speech: Speech, build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = build(epochs=1)
    entry = speech.dev[0]
    text = entry.text.replace(" ", "")
    made.dev_entries = {entry.id: entry}
    batch = Steps(speech.dev, speech.root, made.student).batch([0])
    made.on_stage_start(training.speechbrain.Stage.VALID, 1)
    # Punctuation costs nothing, as in stage 8; an unknown character does.
    said_and_wrong = (
        (f"{text}xyz", 3),
        (text[2:], 2),
        (text, 0),
        (f"“{text}”!", 0),
        (f"{text}\ufffd", 1),
    )
    for said, errors in said_and_wrong:
        monkeypatch.setattr(made.student, "transcribe", lambda _, said=said: [said])
        before = made.errors
        made.evaluate_batch([batch], training.speechbrain.Stage.VALID)
        assert made.errors - before == errors
    assert made.characters == 5 * len(text)


def test_a_live_teacher_is_done_before_the_student_begins(speech: Speech, build: Build) -> None:
    """Between the student's two passes its memory would come on top."""
    made = started(build("whisper", "kd", online=True))
    heard: list[str] = []
    assert made.teacher is not None
    made.teacher.register_forward_hook(lambda *_: heard.append("teacher"))
    made.student.register_forward_pre_hook(lambda *_: heard.append("student"))
    made.fit_batch([Steps(speech.train, speech.root, made.student, supply).batch([0, 1])])
    assert heard == ["teacher", "student"]


@pytest.mark.parametrize("family", FAMILIES)
def test_autocast_ends_with_the_step_whoever_the_teacher_is(
    family: str, speech: Speech, build: Build
) -> None:
    """Dev is decoded in float32, whatever training computes in."""
    made = started(build(family, "kd", online=True, precision="bf16"))
    made.fit_batch([Steps(speech.train, speech.root, made.student, supply).batch([0, 1])])
    assert not torch.is_autocast_enabled("cpu")


@pytest.mark.parametrize("family", FAMILIES)
def test_a_live_teachers_weights_are_rounded_once_for_bf16(
    family: str, speech: Speech, build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses, dtypes = [], []
    for folder, rounds in (("once", True), ("every time", False)):
        if not rounds:
            monkeypatch.setattr(models.Family, "round_weights_", lambda _: None)
        made = started(build(family, "adakd-learned", folder, online=True, precision="bf16"))
        steps = Steps(speech.train, speech.root, made.student, supply)
        made.held_out = Steps(speech.dev, speech.root, made.student)
        losses.append([made.fit_batch([steps.batch([0, 1])]).item() for _ in range(2)])
        assert made.teacher is not None
        dtypes.append({each.dtype for each in made.teacher.parameters()})
    assert losses[0] == losses[1]
    assert dtypes == [{torch.float32, torch.bfloat16}, {torch.float32}]


# ------------------------------------------------------------------ a run and its log


def test_what_every_step_logs(speech: Speech, build: Build) -> None:
    made = build(method="adakd", online=True, epochs=3, accumulate=2, warmup=0.25)
    run(made, speech)
    lines = [json.loads(x) for x in (made.folder / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "loss" in line]
    count = len(steps)
    assert count == made.total_steps and [line["step"] for line in steps] == [*range(1, count + 1)]
    for line in steps:
        assert set(line) == {
            *("step", "epoch", "loss", "task", "distill", "alpha_mean", "alpha_p10", "alpha_p90"),
            *("k", "lr", "audio_seconds_per_second"),
        }
        assert all(isinstance(value, int | float) for value in line.values())
        assert line["audio_seconds_per_second"] > 0
        rising = [0, line["alpha_p10"], line["alpha_mean"], line["alpha_p90"], 1]
        assert all(low <= high + 1e-6 for low, high in itertools.pairwise(rising))
    # k falls linearly over all optimiser steps, and alpha ends at exp(-1) for every utterance.
    k_start = made.weighting.k_start.item()  # type: ignore[union-attr,operator]
    expected = [k_start * (1 - i / (count - 1)) for i in range(count)]
    assert [line["k"] for line in steps] == pytest.approx(expected, abs=1e-6)
    for name in ("alpha_mean", "alpha_p10", "alpha_p90"):
        assert steps[-1][name] == pytest.approx(math.exp(-1))
    # The learning rate rises over the first quarter and then falls linearly, to 0 after the end.
    warm = round(0.25 * count)
    rates = [1e-2 * min((i + 1) / warm, (count - i) / (count + 1 - warm)) for i in range(count)]
    assert [line["lr"] for line in steps] == pytest.approx(rates)
    # One line an epoch, behind its steps.
    epochs = [line for line in lines if "dev_cer" in line]
    assert [line["epoch"] for line in epochs] == [1, 2, 3]
    ends = [max(line["step"] for line in steps if line["epoch"] == e) for e in (1, 2, 3)]
    assert [line["step"] for line in epochs] == ends
    # TensorBoard has the same numbers.
    from tensorboard.backend.event_processing import event_accumulator  # type: ignore[import-untyped]

    board = event_accumulator.EventAccumulator(str(made.folder / "tb"))
    board.Reload()
    assert [event.step for event in board.Scalars("task")] == list(range(1, count + 1))
    assert [event.value for event in board.Scalars("dev_cer")] == pytest.approx(
        [line["dev_cer"] for line in epochs]
    )


def test_progress_reaches_one_at_the_last_step(speech: Speech, build: Build) -> None:
    made = build(epochs=2)
    asked: list[float] = []
    weigh = made.weighting.forward

    def forward(task: Tensor, distill: Any, difficulty: Any, progress: float, doubt: Any) -> Any:
        asked.append(progress)
        return weigh(task, distill, difficulty, progress, doubt)

    made.weighting.forward = forward  # type: ignore[method-assign]
    run(made, speech)
    total = made.total_steps
    assert asked == [i / (total - 1) for i in range(total)] and asked[-1] == 1.0


def test_finetuning_logs_no_distillation(speech: Speech, build: Build) -> None:
    made = build(epochs=1)
    run(made, speech)
    line = metrics(made)[0]
    assert line["distill"] is None and "k" not in line and line["alpha_mean"] == 0.0
    assert line["loss"] == pytest.approx(line["task"])


@pytest.mark.parametrize(("max_steps", "epochs"), [(3, 1), (7, 2)])
def test_max_steps_ends_a_run(max_steps: int, epochs: int, speech: Speech, build: Build) -> None:
    made = build(epochs=5, max_steps=max_steps)
    assert len(made.train_sampler.plan(1)) in range(4, 7)
    run(made, speech)
    lines = metrics(made)
    assert max(line["step"] for line in lines) == made.total_steps == max_steps
    assert [line["epoch"] for line in lines if "dev_cer" in line] == list(range(1, epochs + 1))


def spoil(made: Watched, speech: Speech, wrong: Sequence[int]) -> list[float]:
    """Have every dev hypothesis of an epoch begin with so many wrong letters; the dev CERs."""
    right = {entry.id: entry.text for entry in speech.dev}

    def transcribe(batch: Batch) -> list[str]:
        first = "x" * wrong[made.epochs.current - 1]
        return [first + right[utterance][len(first) :] for utterance in batch.ids]

    made.student.transcribe = transcribe  # type: ignore[method-assign]
    letters = sum(len(text) for text in right.values())
    return [count * len(right) / letters for count in wrong]


def test_the_best_epoch_on_dev_ends_in_the_model(speech: Speech, build: Build) -> None:
    made = build(epochs=4)
    cers = spoil(made, speech, [2, 1, 0, 1])
    outcome = run(made, speech)
    assert (outcome["epoch"], outcome["dev_cer"]) == (3, 0.0)
    found = [line["dev_cer"] for line in metrics(made) if "dev_cer" in line]
    assert found == pytest.approx(cers) and min(cers) == cers[2] == 0
    assert same(state_of(made.student), made.states[3])
    assert not same(made.states[3], made.states[4]) and not same(made.states[3], made.states[2])
    assert not made.student.training


def epochs_told(error: str) -> list[str]:
    return [line for line in error.splitlines() if ": epoch " in line]


@pytest.mark.parametrize("method", ["finetune", "annealing"])
def test_every_epoch_tells_its_loss_and_its_cer(
    method: str, speech: Speech, build: Build, capsys: pytest.CaptureFixture[str]
) -> None:
    made = build(method=method, epochs=5, online=method == "annealing")
    cers = spoil(made, speech, [2, 1, 2, 2, 1])  # phase I, where there is one, is epochs 1 to 3
    run(made, speech)
    losses = [
        [r["loss"] for r in metrics(made) if r["epoch"] == e and "loss" in r] for e in range(6)
    ]
    best = {
        "finetune": ["", "", f" is {cers[1]:.2%} of epoch 2", f" is {cers[1]:.2%} of epoch 2", ""],
        "annealing": ["", "", f" is {cers[1]:.2%} of epoch 2", "", ""],
    }[method]
    of_phase = " of this phase" if method == "annealing" else ""
    assert epochs_told(capsys.readouterr().err) == [
        f"a test: epoch {epoch} of 5, training loss {np.mean(losses[epoch]):.4g}, "
        f"dev CER {cer:.2%}, the best{of_phase} so far{end}"
        for epoch, (cer, end) in enumerate(zip(cers, best, strict=True), start=1)
    ]


def test_processes_that_read_ahead_change_nothing(speech: Speech, build: Build) -> None:
    """Over more than two epochs: dropout would differ where a loader begins an epoch otherwise."""
    plain = build(folder="plain", epochs=3)
    run(plain, speech)
    ahead = build(folder="ahead", epochs=3)
    run(ahead, speech, workers=2)
    for epoch in (1, 2, 3):
        for name, value in plain.states[epoch].items():
            assert torch.equal(ahead.states[epoch][name], value), (epoch, name)


@pytest.mark.parametrize(
    ("method", "epochs_before"), [("finetune", 0), ("finetune", 1), ("annealing", 3)]
)
def test_a_cut_run_tells_what_an_uncut_one_does(
    method: str,
    epochs_before: int,
    speech: Speech,
    build: Build,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def ready(folder: str) -> Watched:
        made = build(method=method, online=method == "annealing", epochs=4, folder=folder)
        spoil(made, speech, [1, 2, 0, 3])
        return made

    whole = ready("whole")
    run(whole, speech)
    told = epochs_told(capsys.readouterr().err)
    cut = ready("cut")
    lengths = [len(cut.train_sampler.plan(epoch)) for epoch in (1, 2, 3)]
    at = cut.cut_at = sum(lengths[:epochs_before]) + 2  # within an epoch, with a checkpoint
    cut._should_save_intra_epoch_ckpt = lambda *_: cut.optimizer_step == at  # type: ignore
    with pytest.raises(Cut):
        run(cut, speech)
    again = ready("cut")
    run(again, speech)
    out, error = capsys.readouterr()
    assert epochs_told(error) == told and len(told) == 4
    assert out == f"a test goes on after step {at} of {whole.total_steps}\n"
    assert again.bar.before == at and again.bar.done == again.bar.total == whole.total_steps


def test_what_an_epoch_tells_does_not_run_into_the_bar(
    speech: Speech,
    build: Build,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ADAKD_TERMINAL", "1")
    monkeypatch.setattr(progress, "QUIET_SECONDS", 0)
    monkeypatch.setattr(progress, "BAR_SECONDS", 0)
    made = build(epochs=3)
    run(made, speech)
    out, error = capsys.readouterr()
    assert error.count("\r[") > 6 and error.endswith("\n") and not out
    for line in error.split("\n"):
        # A line is a bar, drawn again and again, or what an epoch tells.
        assert not line or line.startswith(("\r[", "a test: epoch "))
        assert line.count(" epoch ") == (not line.startswith("\r") and line != "")
    done = [int(count) for count in re.findall(r"a test: (\d+)/", error)]
    assert done == sorted(done) and done[-1] == made.total_steps, "it counts on"


# ------------------------------------------------------------------ two phases


@pytest.mark.parametrize(("epochs", "first"), [(2, 1), (3, 2), (4, 3)])
def test_annealing_takes_the_steps_of_any_method_in_two_phases(
    epochs: int, first: int, speech: Speech, build: Build
) -> None:
    settings: dict[str, Any] = {"epochs": epochs, "warmup": 0.25, "online": True}
    made = build(method="annealing", **settings)
    seen: list[list[str]] = []
    whole = made.fit_batch
    made.fit_batch = lambda step: (seen.append(step[0].ids), whole(step))[1]  # type: ignore
    run(made, speech)
    lines = [line for line in metrics(made) if "loss" in line]
    plans = [made.train_sampler.plan(epoch) for epoch in range(1, epochs + 1)]
    sizes = [len(plan) for plan in plans]
    boundary, count = sum(sizes[:first]), sum(sizes)
    assert [line["step"] for line in lines] == [*range(1, count + 1)]
    assert count == build(folder="other", **settings).total_steps
    # The batches are those of any method, in the same order.
    assert seen == [[speech.train[i].id for i in step[0]] for plan in plans for step in plan]
    assert [line["phase"] for line in lines] == [1] * boundary + [2] * (count - boundary)
    for line in lines:
        if line["phase"] == 1:
            assert line["loss"] == pytest.approx(line["distill"], rel=1e-5)
            assert line["alpha_mean"] == 1.0
        else:
            assert line["distill"] is None, "the teacher is not asked any more"
            assert line["alpha_mean"] == 0.0 and line["temperature"] == 1
            assert line["loss"] == pytest.approx(line["task"], rel=1e-5)
    temperatures = [line["temperature"] for line in lines[:boundary]]
    assert temperatures == [10 - 10 * step // boundary for step in range(boundary)]
    # The learning rate rises and falls in each phase by itself.
    rates = []
    for length in (boundary, count - boundary):
        warm = max(1, round(0.25 * length))
        rates += [
            1e-2 * min((i + 1) / warm, (length - i) / (length + 1 - warm)) for i in range(length)
        ]
    assert [line["lr"] for line in lines] == pytest.approx(rates)


def test_the_second_phase_starts_from_the_best_of_the_first_and_its_own_best_wins(
    speech: Speech, build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = build(method="annealing", online=True, epochs=5)
    # Phase I is epochs 1 to 3, with epoch 2 the best of all; of phase II it is epoch 4.
    spoil(made, speech, [2, 0, 1, 2, 3])
    starts: list[dict[str, Tensor]] = []
    moments: list[int] = []
    whole = made.fit_batch

    def fit_batch(step: list[Batch]) -> Tensor:
        starts.append(state_of(made.student))
        moments.append(len(made.optimizer.state))
        return whole(step)

    monkeypatch.setattr(made, "fit_batch", fit_batch)
    outcome = run(made, speech)
    boundary = sum(len(made.train_sampler.plan(epoch)) for epoch in (1, 2, 3))
    assert same(starts[boundary], made.states[2]) and not same(made.states[2], made.states[3])
    assert [number for number, count in enumerate(moments) if count == 0] == [0, boundary]
    assert outcome["epoch"] == 4 and same(state_of(made.student), made.states[4])
    assert [line["epoch"] for line in metrics(made) if "dev_cer" in line] == [1, 2, 3, 4, 5]


@pytest.fixture
def in_ddp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A launcher's only process, whose students are in DDP."""
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("LOCAL_RANK", "0")
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path / 'meeting'}", rank=0, world_size=1
    )
    yield
    torch.distributed.destroy_process_group()


def test_the_auxiliary_head_may_wait_for_the_second_phase(
    speech: Speech, build: Build, in_ddp: None
) -> None:
    """DDP raises at the second step if a parameter of the first's output got no gradient."""
    made = started(build("whisper", "annealing", online=True, ctc_weight=0.4))
    assert isinstance(made.modules.student, torch.nn.parallel.DistributedDataParallel)
    steps = Steps(speech.train, speech.root, made.student, supply)
    head = made.student.ctc_head
    assert isinstance(head, torch.nn.Linear)
    before = state_of(head)
    for number in range(min(made.total_steps, 12)):
        made.fit_batch([steps.batch([number]), steps.batch([number + 1])])
        first = made.optimizer_step <= made.restart
        assert same(state_of(head), before) == first
    assert not first


@pytest.mark.parametrize(
    ("family", "settings", "looks"),
    [
        ("whisper", {}, False),
        ("whisper", {"ctc_weight": 0.4}, True),
        ("whisper", {"changes": {"encoder_layerdrop": 0.5}}, True),
        ("whisper", {"changes": {"decoder_layerdrop": 0.5}}, True),
        ("wav2vec2", {}, False),
        ("wav2vec2", {"mask_time": 0.0}, False),
        ("wav2vec2", {"changes": {"mask_time_length": 500}}, False),  # no clip is long enough
    ],
)
def test_ddp_looks_for_unused_parameters_where_there_may_be_some(
    family: str, settings: dict[str, Any], looks: bool, speech: Speech, build: Build, in_ddp: None
) -> None:
    """It raises at the second step if it was not told of one."""
    made = started(build(family, "kd", online=True, **settings))
    assert made.modules.student.find_unused_parameters is looks
    steps = Steps(speech.train, speech.root, made.student, supply)
    for number in range(6):
        before = state_of(made.student)
        made.fit_batch([steps.batch([number]), steps.batch([number + 1])])
        assert not same(state_of(made.student), before)


@pytest.mark.parametrize("settings", [{"epochs": 1}, {"epochs": 4, "max_steps": 3}])
def test_two_phases_need_two_epochs(settings: dict[str, Any], build: Build) -> None:
    with pytest.raises(UserError, match="a test: it trains in two phases.*train.epochs"):
        build(method="annealing", online=True, **settings)


# ------------------------------------------------------------------ cut and resumed

EVERY_STEP = 1e-9  # minutes between checkpoints


def uncut(build: Build, *given: str, **settings: Any) -> Watched:
    """The run to compare with. It has no checkpoint within an epoch: they must not matter."""
    return build(*given, folder="whole", **settings | {"checkpoint_minutes": 10.0})


def compare(whole: Watched, resumed: Watched, speech: Speech) -> None:
    """Train both to the end; they must agree to the bit."""
    outcome, also = run(whole, speech), run(resumed, speech)
    assert metrics(resumed) == metrics(whole)
    last = max(whole.states)
    assert same(whole.states[last], resumed.states[last])
    assert same(state_of(whole.student), state_of(resumed.student))
    for name in ("epoch", "dev_cer"):
        assert outcome[name] == also[name]


@pytest.mark.parametrize(
    ("family", "minutes", "epochs_before"),
    [
        ("wav2vec2", EVERY_STEP, 0),
        ("wav2vec2", 10.0, 1),  # goes back to the epoch's beginning
        ("whisper", EVERY_STEP, 1),
    ],
)
def test_a_run_cut_in_an_epoch_ends_as_an_uncut_one(
    family: str, minutes: float, epochs_before: int, speech: Speech, build: Build
) -> None:
    settings: dict[str, Any] = {
        "method": "adakd", "online": True, "epochs": 2, "accumulate": 2, "batch_seconds": 2.5,
        "mask_time": 0.2, "ctc_weight": 0.3, "checkpoint_minutes": minutes,
    }  # fmt: skip
    cut = build(family, folder="cut", **settings)
    lengths = [len(cut.train_sampler.plan(epoch)) for epoch in (1, 2)]
    assert min(lengths) >= 3
    cut.cut_at = sum(lengths[:epochs_before]) + 2
    with pytest.raises(Cut):
        run(cut, speech)
    resumed = build(family, folder="cut", **settings)
    checkpoints.seed_everything(99, "training")  # whatever came before must not matter
    compare(uncut(build, family, **settings), resumed, speech)


def test_the_clock_of_a_run_goes_on_where_it_was_cut(speech: Speech, build: Build) -> None:
    settings: dict[str, Any] = {"epochs": 2, "checkpoint_minutes": EVERY_STEP}
    cut = build(folder="cut", **settings)
    cut.cut_at, cut.clock.total = 2, 1000.0
    with pytest.raises(Cut):
        run(cut, speech)
    assert 1000 < run(build(folder="cut", **settings), speech)["train_seconds"] < 1600


def test_purposes_of_a_seed_draw_numbers_of_their_own() -> None:
    def drawn(seed: int, purpose: str) -> list[float]:
        checkpoints.seed_everything(seed, purpose)
        return [*torch.rand(8).tolist(), *np.random.rand(8), *(random.random() for _ in range(8))]

    assert drawn(1, "weights") == drawn(1, "weights")
    others = drawn(1, "training") + drawn(2, "weights")
    assert not set(drawn(1, "weights")) & set(others)


def test_masks_and_order_do_vary(speech: Speech, build: Build) -> None:
    # What the tests above resume is random indeed: another seed gives another run.
    made, other = (
        build(mask_time=0.2, epochs=1, folder="one"),
        build(mask_time=0.2, epochs=1, folder="other"),
    )
    run(made, speech)
    checkpoints.seed_everything(2, "training")
    run(other, speech)
    assert metrics(made) != metrics(other)
    assert made.train_sampler.plan(1) != made.train_sampler.plan(2)


def test_a_run_cut_after_an_epoch(speech: Speech, build: Build) -> None:
    settings: dict[str, Any] = {"epochs": 3, "mask_time": 0.2}
    cut = build(folder="cut", **settings)
    cut.cut_at = sum(len(cut.train_sampler.plan(epoch)) for epoch in (1, 2))
    with pytest.raises(Cut):
        run(cut, speech)
    resumed = build(folder="cut", **settings)
    compare(build(folder="whole", **settings), resumed, speech)
    assert list(resumed.states) == [3], "the first two epochs are not trained again"


@pytest.mark.parametrize(
    ("epochs_before", "steps_before", "minutes"),
    [
        (1, 2, EVERY_STEP),  # in phase I
        (2, 0, 10.0),  # between the phases
        (2, 0, EVERY_STEP),
        (2, 2, 10.0),  # in phase II, which begins once more
        (2, 2, EVERY_STEP),
    ],
)
def test_a_run_cut_in_either_phase(
    epochs_before: int, steps_before: int, minutes: float, speech: Speech, build: Build
) -> None:
    settings: dict[str, Any] = {
        "method": "annealing", "online": True, "epochs": 3, "mask_time": 0.2,
        "checkpoint_minutes": minutes,
    }  # fmt: skip
    cut = build(folder="cut", **settings)
    plans = [len(cut.train_sampler.plan(epoch)) for epoch in (1, 2)]
    assert cut.restart == sum(plans)
    cut.cut_at = sum(plans[:epochs_before]) + steps_before
    with pytest.raises(Cut):
        run(cut, speech)
    resumed = build(folder="cut", **settings)
    checkpoints.seed_everything(99, "training")
    compare(uncut(build, **settings), resumed, speech)


def test_the_running_mean_survives_a_cut(speech: Speech, build: Build) -> None:
    settings: dict[str, Any] = {
        "method": "superloss", "online": True, "checkpoint_minutes": EVERY_STEP,
    }  # fmt: skip
    cut = build(folder="cut", **settings)
    cut.cut_at = 3
    with pytest.raises(Cut):
        run(cut, speech)
    compare(uncut(build, **settings), build(folder="cut", **settings), speech)


@pytest.mark.parametrize("when", ["dev is decoded", "the epoch is logged"])
def test_a_run_cut_between_an_epoch_and_its_checkpoint(
    when: str, speech: Speech, build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings: dict[str, Any] = {"epochs": 2, "mask_time": 0.2, "checkpoint_minutes": EVERY_STEP}
    cut = build(folder="cut", **settings)

    def stop(*_: Any, **__: Any) -> None:
        raise Cut

    if when == "dev is decoded":
        monkeypatch.setattr(cut.student, "transcribe", stop)
    else:
        whole_save = cut.checkpointer.save_checkpoint

        def save(*arguments: Any, end_of_epoch: bool = True, **options: Any) -> Any:
            if end_of_epoch:
                raise Cut
            return whole_save(*arguments, end_of_epoch=end_of_epoch, **options)

        monkeypatch.setattr(cut.checkpointer, "save_checkpoint", save)
    with pytest.raises(Cut):
        run(cut, speech)
    compare(uncut(build, **settings), build(folder="cut", **settings), speech)


def test_a_run_killed_while_it_writes_a_checkpoint(
    speech: Speech, build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings: dict[str, Any] = {"epochs": 2, "mask_time": 0.2, "checkpoint_minutes": EVERY_STEP}
    cut = build(folder="cut", **settings)
    saved = 0

    def save(state: object, path: object) -> None:
        nonlocal saved
        saved += 1
        if saved == 3:
            Path(str(path)).write_bytes(b"half")
            raise Cut
        original(state, path)

    original = checkpoints.RandomState.save
    monkeypatch.setattr(cut.checkpointer, "custom_save_hooks", {"random": save})
    with pytest.raises(Cut):
        run(cut, speech)
    compare(uncut(build, **settings), build(folder="cut", **settings), speech)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("CKPT.yaml", b""),
        ("CKPT.yaml", b"\0" * 99),
        ("student.ckpt", None),  # half of it
        ("optimizer.ckpt", b"garbage"),
        ("random.ckpt", b""),
        ("clock.ckpt", b"\0" * 9),
    ],
)
def test_a_damaged_checkpoint_is_named_and_the_run_goes_on_without_it(
    file: str, content: bytes | None, speech: Speech, build: Build
) -> None:
    settings: dict[str, Any] = {"epochs": 2, "mask_time": 0.2, "checkpoint_minutes": EVERY_STEP}
    cut = build(folder="cut", **settings)
    cut.cut_at = cut.total_steps - 1
    with pytest.raises(Cut):
        run(cut, speech)
    newest = max((cut.folder / "ckpt").glob("CKPT*"), key=lambda path: path.stat().st_mtime_ns)
    whole = (newest / file).read_bytes()
    (newest / file).write_bytes(whole[: len(whole) // 2] if content is None else content)
    with pytest.raises(UserError, match=f"{re.escape(newest.name)} is damaged: remove that folder"):
        run(build(folder="cut", **settings), speech)
    shutil.rmtree(newest)
    compare(uncut(build, **settings), build(folder="cut", **settings), speech)


@pytest.mark.parametrize("content", [b"", b"\0" * 9, b"[1]\n", b'{"loss": 1}\n', b"\xff\n"])
def test_a_log_that_was_damaged_stops_no_run(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1, "loss": 2.0}\n' + content + b'{"step": 2, "loss": 2.0}\n')
    log = training.Metrics(tmp_path, 5, 1)
    log.write({"step": 6, "epoch": 2, "dev_cer": 0.5})
    log.close()
    steps = [json.loads(line)["step"] for line in path.read_text().splitlines()]
    assert steps == ([1, 2, 6] if not content else [1, 6])


def test_the_dev_cer_of_every_epoch_is_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, synced = training.Metrics(tmp_path, 0, 0), []
    monkeypatch.setattr(os, "fsync", synced.append)
    log.write({"step": 1, "loss": 2.0})
    assert synced == []
    log.write({"step": 1, "epoch": 1, "dev_cer": 0.5})
    assert synced == [log.file.fileno()]
    log.close()


@pytest.mark.parametrize("max_steps", [None, 7])
def test_a_run_cut_after_its_last_checkpoint_only_picks_the_best(
    max_steps: int | None, speech: Speech, build: Build
) -> None:
    settings: dict[str, Any] = {"epochs": 3, "max_steps": max_steps}
    whole = build(**settings)
    outcome = run(whole, speech)
    lines, state = metrics(whole), state_of(whole.student)
    again = build(**settings)
    also = run(again, speech)
    assert metrics(again) == lines and same(state_of(again.student), state)
    assert (also["epoch"], also["dev_cer"]) == (outcome["epoch"], outcome["dev_cer"])
    assert not again.states, "no epoch is trained or decoded again"


def test_processes_do_not_share_their_random_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = checkpoints.RandomState()
    checkpoints.seed_everything(1, "training")
    state.save(str(tmp_path / "random"))
    whole = torch.rand(3).tolist()

    def drawn(rank: int) -> list[float]:
        monkeypatch.setattr(checkpoints, "rank", lambda: rank)
        state.load(str(tmp_path / "random"), end_of_epoch=False)
        return torch.rand(3).tolist() + [random.random()]

    assert drawn(0)[:3] == whole
    assert len({tuple(drawn(rank)) for rank in range(3)}) == 3
    assert drawn(2) == drawn(2)


# ------------------------------------------------------------------ learning from held-out speech


def learning(family: str, speech: Speech, build: Build) -> tuple[Watched, list[Batch]]:
    """A Brain after its first step (AdamW knows sizes then), and the batches of the next one."""
    made = started(
        build(
            family, "adakd-learned", still=True, online=True,
            mask_time=0.0, learning_rate=1e-3, warmup=0.0, clip=1e9,
        )
    )  # fmt: skip
    made.held_out = Steps(speech.dev, speech.root, made.student)
    steps = Steps(speech.train, speech.root, made.student, supply)
    first, second, *_ = made.train_sampler
    made.fit_batch(steps[first])
    assert int(made.weighting.updates) == 1, "the first step is one to learn in"
    return made, steps[second]


def flat(tensors: Any) -> Tensor:
    return torch.cat([each.flatten() for each in tensors]).double()


@pytest.mark.parametrize("family", FAMILIES)
def test_slopes_are_inner_products_of_explicit_gradients(
    family: str, speech: Speech, build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, step = learning(family, speech, build)
    heard: list[Tensor] = []

    def learn(*both: Tensor) -> None:
        heard.extend(both)
        assert not torch.backends.cudnn.allow_tf32, "a GPU would round such differences away"

    monkeypatch.setattr(made.weighting, "learn", learn)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    before = state_of(made.student)
    made._learn(step)
    assert same(state_of(made.student), before) and made.student.training
    x, slopes = heard
    (batch,) = step
    assert x.tolist() == [difficulty(utterance) for utterance in batch.ids]

    # The same by a backward pass for every utterance.
    made.student.eval()
    parameters = [p for p in made.student.parameters() if p.requires_grad]
    held = made._held_out_batch()
    assert set(held.ids) <= {entry.id for entry in speech.dev}

    def gradient(loss: Tensor) -> list[Tensor]:
        found = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
        pairs = zip(found, parameters, strict=True)
        return [torch.zeros_like(p) if g is None else g for g, p in pairs]

    direction = []
    losses = made.student.task_loss(made.student(held), held)
    for parameter, g in zip(parameters, gradient(losses.mean()), strict=True):
        state = made.optimizer.state.get(parameter)
        square = 0.02 * g**2 + (0.98 * state["exp_avg_sq"] if state else 0)
        unbiased = square / (1 - 0.98 ** (2 if state else 1))
        direction.append(g / (unbiased**0.5 + 1e-8))
    expected = []
    for place in range(len(batch.ids)):
        soft = made._soft_outputs(batch)
        task, distill = made.student.losses(made.student(batch), batch, soft, made.distill)
        assert distill is not None
        gap = gradient((distill - task)[place])
        expected.append(-(flat(gap) @ flat(direction)).item())
    scale = max(map(abs, expected))
    assert slopes.tolist() == pytest.approx(expected, rel=0.03, abs=0.01 * scale)
    assert len(set(np.sign(expected))) == 2 or min(map(abs, expected)) < 0.8 * scale


@pytest.mark.parametrize("family", FAMILIES)
def test_a_real_step_moves_the_held_out_loss_as_the_slopes_say(
    family: str, speech: Speech, build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, step = learning(family, speech, build)
    heard: list[Tensor] = []
    monkeypatch.setattr(made.weighting, "learn", lambda *both: heard.extend(both))
    made._learn(step)
    slopes = heard[1] - heard[1].mean()  # whom to distil more, at the same mean alpha
    student, optimizer = state_of(made.student), made.optimizer.state_dict()
    held = made._held_out_batch()
    after = []
    for sign in (-1.0, 1.0):
        made.student.load_state_dict(student)
        made.optimizer.load_state_dict(optimizer)
        alpha = 0.5 + 0.4 * sign * slopes / slopes.abs().max()
        monkeypatch.setattr(made.weighting, "alpha", lambda *_, alpha=alpha: alpha)
        made.optimizer_step = 1
        made.fit_batch(step)
        made.student.eval()
        with torch.no_grad():
            after.append(made.student.task_loss(made.student(held), held).mean().item())
        made.student.train()
    assert after[0] < after[1]


def test_held_out_batches_come_in_mixed_order(
    speech: Speech, build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = build("wav2vec2", "adakd-learned", online=True)
    long = [replace(speech.dev[0], seconds=1 + i / 40) for i in range(120)]
    made.held_out = Steps(long, speech.root, made.student)
    monkeypatch.setattr(made.held_out, "batch", lambda batch: batch)
    made.weighting.learn_every = 10
    batches = []
    for update in range(len(made._held_out_plan)):
        made.optimizer_step = 10 * update
        batches.append(made._held_out_batch())
    assert sorted(index for batch in batches for index in batch) == list(range(120))
    middles = [np.mean(batch) for batch in batches]
    assert len(batches) > 50 and abs(np.corrcoef(middles, range(len(batches)))[0, 1]) < 0.3


def test_a_run_with_learned_weights_resumes_and_tells_its_cost(
    speech: Speech, build: Build
) -> None:
    def ready(folder: str) -> Watched:
        made = build("wav2vec2", "adakd-learned", folder, online=True, epochs=3)
        made.held_out = Steps(speech.dev, speech.root, made.student)
        made.weighting.learn_every = 2
        return made

    whole = ready("whole")
    outcome = run(whole, speech)
    assert 0 < outcome["learning_seconds"] < outcome["train_seconds"]
    lines = [line for line in metrics(whole) if "loss" in line]
    assert len({line["k"] for line in lines}) > 2, "k moves"
    assert lines[2]["k"] == lines[3]["k"] != lines[4]["k"], "every second step"

    cut = ready("cut")
    cut.cut_at = cut.total_steps - 3
    with pytest.raises(Cut):
        run(cut, speech)
    again = ready("cut")
    run(again, speech)
    assert metrics(again) == metrics(whole)
    assert same(state_of(again.student), state_of(whole.student))
    assert torch.equal(again.weighting.learned, whole.weighting.learned)


def test_the_last_checkpoint_is_the_latest_though_the_clock_was_put_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counter = EpochCounter(5)
    checkpointer = checkpoints.WholeCheckpointer(tmp_path, {"epochs": counter})
    for counter.current, now in enumerate((9000.0, 9010.0, 5000.0, 5010.0), start=1):
        monkeypatch.setattr(time, "time", lambda now=now: now)
        checkpointer.save_and_keep_only(
            meta={"cer": float(counter.current)}, min_keys=["cer"], importance_keys=[]
        )
    counter.current = 0
    checkpointer.recover_if_possible()
    assert counter.current == 4
    assert sorted(each.meta["cer"] for each in checkpointer.list_checkpoints()) == [1, 4]


def test_a_checkpoint_is_on_the_disk_before_the_last_one_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a power cut could leave neither: an empty file that has the new one's name."""
    there: list[set[str]] = []
    synced: list[str] = []
    fsync = os.fsync

    def flushed(number: int) -> None:
        synced.append(Path(os.readlink(f"/proc/self/fd/{number}")).name)
        there.append({path.name for path in tmp_path.glob("CKPT*")})
        fsync(number)

    monkeypatch.setattr(os, "fsync", flushed)
    checkpointer = checkpoints.WholeCheckpointer(tmp_path, {"epochs": EpochCounter(5)})
    for _ in range(2):
        there.clear()
        synced.clear()
        before = {path.name for path in tmp_path.glob("CKPT*")}
        checkpointer.save_and_keep_only(importance_keys=[])
        assert set(synced) == {"CKPT.yaml", "epochs.ckpt"} and all(each == before for each in there)
        assert {path.name for path in tmp_path.glob("CKPT*")} != before


# ------------------------------------------------------------------ precision


@pytest.mark.parametrize(("card", "chosen"), [("native", "bf16"), ("emulated", "fp32")])
def test_auto_takes_bf16_where_the_card_computes_in_it(
    card: str, chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def supported(including_emulation: bool = True) -> bool:
        return card == "native" or including_emulation

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert device.precision("auto") == chosen and device.precision("bf16") == "bf16"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert device.precision("auto") == "fp32"
