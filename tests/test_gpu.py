"""On a GPU everything is what it is on the CPU, within stated tolerances. Skipped without one."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import tiny
import tiny_recipe
import torch

from adakd import cli, weighting
from adakd import config as configuration
from adakd.brain import DistillationBrain
from adakd.data.loader import Steps, StepSampler, evaluation_loader, training_loader
from adakd.device import without_tf32
from adakd.models import Batch
from adakd.objectives import Dense, Projected, SoftOutputs, ctc, token_losses, top_k
from adakd.teacher_store import Store, Writer, begin, fill, finish

pytestmark = pytest.mark.usefixtures("gpu")

KINDS = ("whisper", "wav2vec2")
UNITS = 5_000
DEVICE = "cuda"


def draws(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("kind", ["none", "dense", "top k"])
def test_both_losses_of_tokens_and_their_gradients(kind: str, temperature: float) -> None:
    states = torch.randn(4, 9, 32, generator=draws(1))
    weight = torch.randn(UNITS, 32, generator=draws(2))
    teacher = 3 * torch.randn(4, 9, UNITS, generator=draws(3))
    targets = torch.randint(UNITS, (4, 9), generator=draws(4))
    mask = torch.arange(9) < torch.tensor([9, 3, 1, 6])[:, None]
    soft: SoftOutputs | None = None
    if kind == "dense":
        soft = Dense(teacher)
    elif kind == "top k":
        soft = top_k(teacher, 20, temperature, torch.rand(4, 9, generator=draws(5)))

    def results(device: str) -> list[torch.Tensor]:
        own = [each.to(device).requires_grad_() for each in (states, weight)]
        there = None if soft is None else soft.each(lambda tensor: tensor.to(device))
        with without_tf32():
            task, distill = token_losses(
                Projected(*own), targets.to(device), mask.to(device), there, temperature
            )
            total = task.sum() + (0.0 if distill is None else 0.7 * distill.sum())
            found = [task, *torch.autograd.grad(total, own)]
        return [each.detach().cpu() for each in (*found, *([] if distill is None else [distill]))]

    for here, there in zip(results("cpu"), results(DEVICE), strict=True):
        torch.testing.assert_close(there, here, rtol=1e-4, atol=1e-4)


def test_ctc() -> None:
    logits = 2 * torch.randn(3, 40, 30, generator=draws(1))
    frames, lengths = torch.tensor([40, 25, 33]), torch.tensor([9, 1, 0])
    labels = torch.randint(1, 30, (3, 9), generator=draws(2))

    def results(device: str) -> list[torch.Tensor]:
        own = logits.to(device).requires_grad_()
        losses = ctc(own, *(each.to(device) for each in (frames, labels, lengths)))
        return [losses.detach().cpu(), *(g.cpu() for g in torch.autograd.grad(losses.sum(), own))]

    for here, there in zip(results("cpu"), results(DEVICE), strict=True):
        torch.testing.assert_close(there, here, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("excluded", [False, True])
def test_the_top_k_and_what_is_drawn_of_the_rest(excluded: bool) -> None:
    logits = 3 * torch.randn(200, UNITS, generator=draws(1))
    if excluded:
        logits[:, 2_000:] = -math.inf
    starts = torch.rand(200, generator=draws(2))
    here, there = (top_k(logits.to(device), 50, 2.0, starts) for device in ("cpu", DEVICE))
    torch.testing.assert_close(there.values.cpu(), here.values)
    assert torch.equal(there.indices.cpu(), here.indices)
    torch.testing.assert_close(there.tail.cpu(), here.tail, rtol=1e-5, atol=1e-5)
    # The CPU adds up in float32, the GPU in float64: a point near the edge of a unit may fall on
    # the next one.
    same = there.drawn.cpu() == here.drawn
    assert same.float().mean() > 0.99
    assert not logits.gather(-1, there.drawn.cpu()).isinf().any()
    kept = torch.zeros(200, UNITS, dtype=torch.bool).scatter_(1, here.indices, True)
    assert not kept.gather(-1, there.drawn.cpu()).any(), "what is kept is not drawn as well"


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Any:
    return request.param


def one_batch(family: Any, entries: list[Any], folder: Path) -> Batch:
    return Steps(entries, folder, family).batch([*range(len(entries))])


def test_a_model_computes_and_writes_the_same(kind: str, tmp_path: Path) -> None:
    family, entries = tiny.family(kind, tmp_path), tiny.entries(tmp_path)
    batch = one_batch(family, entries, tmp_path)
    found = []
    for device in ("cpu", DEVICE):
        family.to(device)
        moved = batch.to(device)
        with torch.inference_mode(), without_tf32():
            output = family(moved)
            found.append(
                (
                    [
                        logits[:rows].cpu()
                        for logits, rows in zip(
                            output.logits, family.positions(batch).tolist(), strict=True
                        )
                    ],
                    family.task_loss(output, moved).cpu(),
                    family.transcribe(moved),
                )
            )
    (here, losses, said), (there, losses_there, said_there) = found
    for one, other in zip(here, there, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(losses_there, losses, rtol=1e-3, atol=1e-3)
    assert said_there == said and any(said)


@pytest.mark.parametrize("k", [0, 5])
@pytest.mark.parametrize("workers", [0, 2])
def test_the_teacher_store(kind: str, k: int, workers: int, tmp_path: Path) -> None:
    family, entries = tiny.family(kind, tmp_path), tiny.entries(tmp_path)
    stores = []
    for device in ("cpu", DEVICE):
        family.to(device)
        begin(tmp_path / device, {}, k, 2.0)
        with without_tf32(), Writer(tmp_path / device) as writer:
            # Several batches, so that one is written while the next is computed
            count = fill(
                writer,
                family,
                evaluation_loader(Steps(entries, tmp_path, family), 2.0, workers),
            )
        finish(tmp_path / device, count)
        stores.append(Store(tmp_path / device))
    here, there = stores
    assert there.difficulties() == pytest.approx(here.difficulties(), rel=1e-3)
    ids = [entry.id for entry in entries]
    one, other = here.soft(ids), there.soft(ids)
    if isinstance(one, Dense) and isinstance(other, Dense):
        torch.testing.assert_close(other.logits, one.logits, rtol=2e-3, atol=2e-2)
        return
    assert not isinstance(one, Dense) and not isinstance(other, Dense)
    torch.testing.assert_close(other.values, one.values, rtol=2e-3, atol=2e-2)
    torch.testing.assert_close(other.tail, one.tail, rtol=1e-3, atol=1e-3)
    assert (other.indices == one.indices).float().mean() > 0.9  # units of nearly the same logit
    assert (other.drawn == one.drawn).float().mean() > 0.9


def test_rounded_weights_say_the_same_under_autocast(kind: str, tmp_path: Path) -> None:
    family = tiny.family(kind, tmp_path).to(DEVICE).eval().requires_grad_(False)
    entries = tiny.entries(tmp_path)
    batch = Steps(entries, tmp_path, family).batch(list(range(len(entries)))).to(DEVICE)
    said = []
    for _ in range(2):
        with torch.no_grad(), torch.autocast("cuda", torch.bfloat16):
            said.append(family(batch).logits)
        family.round_weights_()
    assert torch.equal(*said)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("live", [False, True])
def test_training_steps(kind: str, live: bool, precision: str, tmp_path: Path) -> None:
    """fp32 without TF32 follows the CPU; bf16 nearly does."""
    entries = tiny.entries(tmp_path)
    teacher = tiny.family(kind, tmp_path, seed=2).requires_grad_(False)
    found = []
    for device in ("cpu", DEVICE):
        student = tiny.family(kind, tmp_path, seed=1)
        settings = configuration.Train(
            epochs=3,
            learning_rate=1e-3,
            mask_time=0.0,
            batch_seconds=3.0,
            precision="fp32" if device == "cpu" else precision,
        )
        student.prepare_training(settings)
        for module in student.modules():  # masks of dropout differ between devices
            for name in ("p", "dropout", "attention_dropout", "activation_dropout", "layerdrop"):
                if isinstance(getattr(module, name, None), float):
                    setattr(module, name, 0.0)
        student.hf.config.layerdrop = 0.0
        method = weighting.build("adakd")
        method.fit([0.5, 1.0, 2.0])
        extra = None
        if not live:
            soft = {}
            for entry in entries:
                with torch.inference_mode():
                    batch = one_batch(teacher.cpu(), [entry], tmp_path)
                    soft[entry.id] = teacher(batch).logits[0]

            def extra(batch: Batch, soft: Any = soft) -> Batch:
                rows = [soft[each] for each in batch.ids]
                batch.soft = Dense(torch.nn.utils.rnn.pad_sequence(rows, batch_first=True).clone())
                return with_difficulty(batch)

        steps = Steps(entries, tmp_path, student, extra or with_difficulty)
        sampler = StepSampler(
            [entry.seconds for entry in entries], 3.0, seed=1, padded=student.padded
        )
        with without_tf32():
            brain = DistillationBrain(
                student, method, settings, configuration.Distill(2.0), tmp_path / device, sampler,
                "test", teacher if live else None,
            )  # fmt: skip
            brain.device = torch.device(device)
            brain.modules.to(device)
            if brain.teacher is not None:
                brain.teacher.to(device)
            brain.on_fit_start()
            brain.modules.train()
            torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
            losses = []
            for epoch in (1, 2, 3):
                sampler.set_epoch(epoch)
                losses += [float(brain.fit_batch(step)) for step in training_loader(steps, sampler)]
            brain.metrics.close()
        found.append(losses)
    here, there = found
    assert len(here) > 3
    assert there == pytest.approx(here, rel=0.1 if precision == "bf16" else 2e-3)


def test_a_recipe_from_end_to_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """All stages, both families, in bf16; the last compares with Hugging Face's pipeline."""
    tiny_recipe.espeak_recipe(tmp_path / "repository")
    monkeypatch.setattr("adakd.config.REPOSITORY", tmp_path / "repository")
    root = tmp_path / "root"
    assert cli.main([*cli.STEPS, "--recipe", "tiny/hi", "--root", str(root)]) == 0
    told = capsys.readouterr().out
    assert f"trains on {torch.cuda.get_device_name()}, bf16" in told
    for family in KINDS:
        assert (root / "export" / "tiny/hi" / family / "model.safetensors").is_file()
        done = root / "exp" / "tiny/hi" / family / "adakd" / "seed1" / "decode" / "done.json"
        assert json.loads(done.read_text())["device"] == "cuda"


def with_difficulty(batch: Batch) -> Batch:
    batch.difficulty = torch.linspace(0.4, 2.0, len(batch.ids))
    return batch
