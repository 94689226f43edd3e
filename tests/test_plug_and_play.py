"""The Trainer of docs/ really trains, and so does what its page shows: a tiny wav2vec 2.0."""

import re
from pathlib import Path

import pytest
import torch

from adakd.objectives import ctc
from adakd.weighting import AdaKD, FixedWeight, wrong_transcript

pytest.importorskip("accelerate", reason="Trainer needs accelerate")
transformers = pytest.importorskip("transformers")

PAGE = Path(__file__).parents[1] / "docs" / "plug_and_play.md"
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


@pytest.fixture(scope="module")
def example(script):
    return script("docs/plug_and_play.py")


def tiny_model(seed: int):
    torch.manual_seed(seed)
    return transformers.Wav2Vec2ForCTC(
        transformers.Wav2Vec2Config(
            vocab_size=6,
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=16,
            conv_dim=(8, 8),
            conv_kernel=(10, 8),
            conv_stride=(10, 8),
            num_conv_pos_embeddings=4,
            num_conv_pos_embedding_groups=2,
            feat_extract_norm="layer",  # group norm would look at the padding
            do_stable_layer_norm=True,
            hidden_dropout=0.0,
            attention_dropout=0.0,
            activation_dropout=0.0,
            feat_proj_dropout=0.0,
            final_dropout=0.0,
            layerdrop=0.0,
            apply_spec_augment=False,
            pad_token_id=0,
        )
    )


def collate(rows):
    def pad(name, value):
        return torch.nn.utils.rnn.pad_sequence([row[name] for row in rows], True, value)

    audio = pad("input_values", 0.0)
    lengths = torch.tensor([len(row["input_values"]) for row in rows])
    batch = {
        "input_values": audio,
        "attention_mask": (torch.arange(audio.shape[1]) < lengths.unsqueeze(1)).long(),
        "labels": pad("labels", -100),
    }
    if "difficulty" in rows[0]:
        batch["difficulty"] = torch.tensor([row["difficulty"] for row in rows])
    if "doubt" in rows[0]:
        batch["doubt"] = torch.tensor([row["doubt"] for row in rows])
    return batch


@pytest.fixture(scope="module")
def teacher():
    return tiny_model(seed=1).eval()


@pytest.fixture(scope="module")
def dataset(teacher):
    generator = torch.Generator().manual_seed(2)
    rows = []
    for samples, units in ((1600, 3), (2400, 5), (1200, 2), (2000, 4)):
        audio = torch.randn(samples, generator=generator)
        labels = torch.randint(1, 6, (units,), generator=generator)
        with torch.no_grad():
            logits = teacher(audio.unsqueeze(0)).logits
        frames = torch.tensor([logits.shape[1]])
        difficulty = ctc(logits, frames, labels.unsqueeze(0), torch.tensor([units]))
        rows.append({"input_values": audio, "labels": labels, "difficulty": difficulty.item()})
    return rows


def train(example, folder, teacher, dataset, weighting, evaluated=None, **arguments):
    student = tiny_model(seed=3)
    student.accepts_loss_kwargs = True  # so Trainer takes any model whose forward has **kwargs
    trainer = example.DistillingTrainer(
        model=student,
        teacher=teacher,
        weighting=weighting,
        data_collator=collate,
        train_dataset=dataset,
        eval_dataset=evaluated,
        args=transformers.TrainingArguments(
            output_dir=str(folder),
            remove_unused_columns=False,
            learning_rate=1e-2,
            logging_steps=1,
            save_strategy="no",
            report_to=[],
            use_cpu=True,
            disable_tqdm=True,
            seed=4,
            **arguments,
        ),
    )
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return student, losses, trainer


def fitted(dataset) -> AdaKD:
    weighting = AdaKD()
    weighting.fit([row["difficulty"] for row in dataset])
    return weighting


def test_two_steps_train_the_student_and_leave_the_teacher(example, tmp_path, teacher, dataset):
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    seen = []

    class Recorder(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = fitted(dataset)

        def forward(self, task, distill, difficulty, progress, doubt):
            seen.append(progress)
            weighted = self.inner(task, distill, difficulty, progress, doubt)
            assert task.shape == distill.shape == weighted.loss.shape == difficulty.shape
            return weighted

    student, losses, _ = train(
        example, tmp_path, teacher, dataset, Recorder(), max_steps=2, per_device_train_batch_size=2
    )
    assert seen == [0.0, 1.0]
    assert len(losses) == 2 and all(0 < loss < float("inf") for loss in losses)
    fresh = tiny_model(seed=3).state_dict()
    assert any(not torch.equal(value, fresh[name]) for name, value in student.state_dict().items())
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())


def test_evaluation_is_of_the_task_alone(example, tmp_path, teacher, dataset):
    """And needs neither the teacher nor a difficulty; rows that have one change nothing."""
    plain = [{name: row[name] for name in ("input_values", "labels")} for row in dataset]
    calls = []
    handle = teacher.register_forward_hook(lambda *_: calls.append(1))
    student, _, trainer = train(
        example, tmp_path, teacher, dataset, fitted(dataset), evaluated=plain[:3],
        max_steps=2, per_device_train_batch_size=2, per_device_eval_batch_size=2,
        eval_strategy="steps", eval_steps=1,
    )  # fmt: skip
    found = [row["eval_loss"] for row in trainer.state.log_history if "eval_loss" in row]
    whole = trainer.evaluate(dataset)["eval_loss"]
    handle.remove()
    assert len(calls) == 2, "once a training step"

    student.eval()
    expected = []
    for row in plain:  # clip by clip, so without padding
        with torch.no_grad():
            scores = student(row["input_values"].unsqueeze(0)).logits.log_softmax(-1)  # (1, T, V)
        total = torch.nn.functional.ctc_loss(
            scores.transpose(0, 1),
            row["labels"].unsqueeze(0),
            torch.tensor([scores.shape[1]]),
            torch.tensor([len(row["labels"])]),
            reduction="sum",
        )
        expected.append(total.item() / len(row["labels"]))
    assert len(found) == 2
    assert found[1] == pytest.approx(sum(expected[:3]) / 3, rel=1e-4)
    assert whole == pytest.approx(sum(expected) / 4, rel=1e-4)


def test_a_student_that_is_its_teacher_has_only_the_transcript_to_learn(example, tmp_path, dataset):
    """With weight 1 on a distillation loss of zero, the first step's loss is zero."""
    _, losses, _ = train(
        example,
        tmp_path,
        tiny_model(seed=3),
        dataset,
        FixedWeight(1.0),
        max_steps=1,
        per_device_train_batch_size=4,
    )
    assert losses[0] == pytest.approx(0.0, abs=1e-5)


def test_gradient_accumulation_is_one_big_batch(example, tmp_path, teacher, dataset):
    """To float noise. AdamW and clipping would hide a wrong scale of the gradient."""
    options = {"max_steps": 2, "optim": "sgd", "max_grad_norm": 0.0}
    whole, _, _ = train(
        example, tmp_path, teacher, dataset, fitted(dataset),
        per_device_train_batch_size=4, **options,
    )  # fmt: skip
    parts, _, _ = train(
        example, tmp_path, teacher, dataset, fitted(dataset),
        per_device_train_batch_size=1, gradient_accumulation_steps=4, **options,
    )  # fmt: skip
    for one, other in zip(whole.parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_a_guard_needs_nothing_but_doubts(example, tmp_path, teacher, dataset):
    losses = [row["difficulty"] for row in dataset]
    doubts = wrong_transcript(losses, [0.1, 0.2, 0.1, 0.3])
    weighting = AdaKD(k=1.0, guard=0.95)
    weighting.fit(losses, doubts)
    rows = [row | {"doubt": d} for row, d in zip(dataset, doubts.tolist(), strict=True)]
    _, found, _ = train(
        example, tmp_path, teacher, rows, weighting, max_steps=1, per_device_train_batch_size=4
    )
    assert len(found) == 1 and 0 < found[0] < float("inf")


def loss_of(logits, frames, labels, lengths):
    """CTC's loss for each label (B,), by torch."""
    total = torch.nn.functional.ctc_loss(
        logits.log_softmax(-1).transpose(0, 1), labels, frames, lengths, reduction="none"
    )
    return total / lengths


@pytest.fixture
def names():
    """What the page's blocks find in their reader's loop: four utterances, and step 1 of 5."""
    draw = torch.Generator().manual_seed(5)
    return {
        "torch": torch,
        "teacher_logits": 3 * torch.randn(4, 9, 6, generator=draw),
        "logits": torch.randn(4, 9, 6, generator=draw, requires_grad=True),
        "frames": torch.tensor([9, 7, 9, 8]),
        "labels": torch.randint(1, 6, (4, 4), generator=draw),
        "label_lengths": torch.tensor([3, 2, 4, 3]),
        "blank": 0,
        "step": 0,
        "steps": 5,
    }


def test_the_steps_of_the_page_weigh_what_the_teacher_finds_easy_more(names):
    speech = [names[name] for name in ("frames", "labels", "label_lengths")]
    ask, fit, weigh, *_ = BLOCKS
    exec(ask, names)
    difficulty = loss_of(names["teacher_logits"], *speech)
    torch.testing.assert_close(names["difficulty"], difficulty)

    names["difficulties"] = names["difficulty"].tolist()
    exec(fit, names)
    exec(weigh, names)
    task, distill, alpha = names["task"], names["distill"], names["weighted"].distill_weight
    torch.testing.assert_close(task, loss_of(names["logits"], *speech))
    assert alpha.argsort().tolist() == difficulty.argsort(descending=True).tolist()
    assert 0 < alpha.min() < alpha.max() < 1
    torch.testing.assert_close(names["weighted"].loss, (1 - alpha) * task + alpha * distill)
    counted = torch.arange(9) < names["frames"].unsqueeze(1)
    assert torch.equal(names["logits"].grad.abs().sum(-1) > 0, counted)


def test_the_guard_of_the_page_leaves_out_what_is_in_doubt(names):
    ask, *_, guard, _ = BLOCKS
    exec(ask, names)
    teachers, frames = names["teacher_logits"], names["frames"]
    best = [each[:count] for each, count in zip(teachers.argmax(-1), frames, strict=True)]
    heard = [torch.unique_consecutive(units) for units in best]
    heard = [units[units > 0] for units in heard]
    lengths = torch.tensor([len(units) for units in heard])
    padded = torch.nn.utils.rnn.pad_sequence(heard, True)
    own = loss_of(teachers, frames, padded, lengths) * lengths / names["label_lengths"]
    names["hypothesis_losses"] = own
    names["difficulties"] = names["difficulty"].tolist()
    exec(guard, names)
    torch.testing.assert_close(names["own"], own)
    doubts = names["doubts"]
    assert 0 == doubts.min() and doubts.max() > 0.1
    assert doubts.argmax() == (names["difficulty"] - own).argmax()
    losses = torch.ones(4)
    x = names["difficulty"]
    weighted = names["weighting"](losses, losses, x, progress=0.0, doubt=doubts)
    torch.testing.assert_close(weighted.distill_weight, (0.1 * (1 - doubts)).float())
    torch.testing.assert_close(weighted.task_weight, (0.9 * (1 - doubts)).float())


@pytest.mark.filterwarnings("ignore:.*pin_memory")  # as the Trainer does without a GPU
def test_the_trainer_of_the_page_trains(example, tmp_path, dataset, monkeypatch):
    monkeypatch.chdir(tmp_path)
    student = tiny_model(seed=3)
    names = {
        "DistillingTrainer": example.DistillingTrainer, "weighting": fitted(dataset),
        "TrainingArguments": transformers.TrainingArguments, "collate": collate,
        "student": student, "teacher": tiny_model(seed=1), "train": dataset,
    }  # fmt: skip
    exec(BLOCKS[-1], names)
    assert names["trainer"].state.global_step == 3  # an epoch is one batch
    fresh = tiny_model(seed=3).state_dict()
    now = student.state_dict()
    assert any(not torch.equal(value.cpu(), fresh[name]) for name, value in now.items())
