"""The per-utterance losses against torch.distributions, all CTC paths and unpadded utterances."""

import math
from itertools import groupby, product

import pytest
import torch
from torch.distributions import Categorical, kl_divergence
from torch.nn import functional

from adakd import objectives
from adakd.errors import UserError
from adakd.objectives import (
    Dense,
    Projected,
    SoftOutputs,
    TopK,
    cross_entropy,
    ctc,
    frame_kl,
    logits_mse,
    selected_frames,
    token_kl,
    token_losses,
    top_k,
)

UNITS = 7
FRAMES = torch.tensor([12, 5, 9])
LABEL_LENGTHS = torch.tensor([4, 1, 3])


def random_logits(*shape: int, seed: int = 0, scale: float = 3.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64) * scale


def starts(seed: int, teacher: torch.Tensor) -> torch.Tensor:
    """Where `top_k` begins to draw, at every position."""
    return torch.rand(teacher.shape[:-1], generator=torch.Generator().manual_seed(seed))


def ctc_batch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Logits of student and teacher (3, 12, V), labels (3, 4); padding holds garbage."""
    student, teacher = random_logits(3, 12, UNITS, seed=1), random_logits(3, 12, UNITS, seed=2)
    for row, length in enumerate(FRAMES):
        student[row, length:], teacher[row, length:] = 1e30, -1e30
    labels = torch.tensor([[3, 3, 1, 6], [2, -100, -100, -100], [5, 4, 5, -100]])
    return student, teacher, labels


def token_batch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Logits (3, 6, V), targets and mask (3, 6): a prompt of two tokens, text, then padding."""
    student, teacher = random_logits(3, 6, UNITS, seed=3), random_logits(3, 6, UNITS, seed=4)
    mask = torch.tensor([[0, 0, 1, 1, 1, 1], [0, 0, 1, 0, 0, 0], [0, 0, 1, 1, 1, 0]]).bool()
    targets = torch.randint(UNITS, (3, 6), generator=torch.Generator().manual_seed(5))
    student[~mask], teacher[~mask], targets[~mask] = 1e30, -1e30, -100
    return student, teacher, targets, mask


# ---- CTC -----------------------------------------------------------------------------------------


def test_ctc_is_the_sum_over_all_paths():
    """Every path of 4 frames over 3 units is enumerated, collapsed, and its probability added."""
    probabilities = random_logits(1, 4, 3, scale=1.0).softmax(dim=-1)[0]
    for labels in ([1], [1, 2], [1, 1], [2, 1, 2]):
        total = 0.0
        for path in product(range(3), repeat=4):
            if [unit for unit, _ in groupby(path) if unit != 0] == labels:
                total += math.prod(
                    probabilities[frame, unit].item() for frame, unit in enumerate(path)
                )
        loss = ctc(
            probabilities.log().unsqueeze(0),
            torch.tensor([4]),
            torch.tensor([labels]),
            torch.tensor([len(labels)]),
        )
        assert loss.item() == pytest.approx(-math.log(total) / len(labels))


@pytest.mark.parametrize("blank", [0, UNITS - 1])
def test_ctc_of_a_padded_batch_is_torch_on_each_utterance_alone(blank):
    student, _, labels = ctc_batch()
    labels = (labels - 1).where(labels > 0, labels) if blank else labels
    batch = ctc(student, FRAMES, labels, LABEL_LENGTHS, blank=blank)
    for row, (frames, count) in enumerate(zip(FRAMES, LABEL_LENGTHS, strict=True)):
        alone = functional.ctc_loss(
            student[row, :frames].log_softmax(dim=-1),
            labels[row, :count],
            frames,
            count,
            blank=blank,
            reduction="sum",
        )
        torch.testing.assert_close(batch[row], alone / count)


def test_ctc_does_not_hide_an_impossible_alignment():
    """Three equal labels need five frames; the second utterance has four."""
    labels, lengths = torch.tensor([[1, 1, 1], [1, 1, 1]]), torch.tensor([3, 3])
    loss = ctc(random_logits(2, 5, 3), torch.tensor([5, 4]), labels, lengths)
    assert loss[0].isfinite() and loss[1].isinf()


@pytest.mark.parametrize("label", [4, 2000, -100])
def test_ctc_refuses_a_label_that_is_no_unit(label):
    logits, frames, lengths = torch.randn(2, 6, 4), torch.tensor([6, 6]), torch.tensor([2, 1])
    padded = torch.tensor([[1, 2], [1, label]])
    assert ctc(logits, frames, padded, lengths).isfinite().all(), "padding may be anything"
    wrong = torch.tensor([[1, label], [1, 0]])
    with pytest.raises(UserError, match=rf"A label is {label}, and the logits have 4 units"):
        ctc(logits, frames, wrong, lengths)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_ctc_refuses_a_blank_among_the_labels_but_not_as_their_padding(dtype):
    student, _, labels = ctc_batch()
    labels = labels.to(dtype)
    blank = int(labels[0, 0])
    with pytest.raises(UserError, match=f"A label is the blank, {blank}: name the model's own"):
        ctc(student[:1], FRAMES[:1], labels[:1, :1], torch.ones(1, dtype=torch.int64), blank)
    padded = labels.masked_fill(torch.arange(labels.shape[1]) >= LABEL_LENGTHS.unsqueeze(1), 0)
    torch.testing.assert_close(
        ctc(student, FRAMES, padded, LABEL_LENGTHS), ctc(student, FRAMES, labels, LABEL_LENGTHS)
    )


def test_ctc_gradient_against_finite_differences():
    student, _, labels = ctc_batch()
    small = student.clamp(-9, 9).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: ctc(x, FRAMES, labels, LABEL_LENGTHS), [small])


# ---- Cross-entropy -------------------------------------------------------------------------------


def test_cross_entropy_is_the_mean_over_the_counted_tokens():
    student, _, targets, mask = token_batch()
    batch = cross_entropy(student, targets, mask)
    for row in range(3):
        alone = Categorical(logits=student[row, mask[row]]).log_prob(targets[row, mask[row]])
        torch.testing.assert_close(batch[row], -alone.mean())


def test_cross_entropy_gradient_against_finite_differences():
    student, _, targets, mask = token_batch()
    small = student.clamp(-9, 9).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: cross_entropy(x, targets, mask), [small])


# ---- Distillation --------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0, 8.0])
def test_token_kl_is_the_divergence_of_torch_distributions(temperature):
    student, teacher, _, mask = token_batch()
    batch = token_kl(student, Dense(teacher), mask, temperature)
    for row in range(3):
        alone = kl_divergence(
            Categorical(logits=teacher[row, mask[row]] / temperature),
            Categorical(logits=student[row, mask[row]] / temperature),
        )
        torch.testing.assert_close(batch[row], temperature**2 * alone.mean())


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_frame_kl_is_the_divergence_summed_over_frames_per_label(temperature):
    student, teacher, _ = ctc_batch()
    batch = frame_kl(student, Dense(teacher), FRAMES, LABEL_LENGTHS, temperature)
    for row, (frames, count) in enumerate(zip(FRAMES, LABEL_LENGTHS, strict=True)):
        alone = kl_divergence(
            Categorical(logits=teacher[row, :frames] / temperature),
            Categorical(logits=student[row, :frames] / temperature),
        )
        torch.testing.assert_close(batch[row], temperature**2 * alone.sum() / count)


@pytest.mark.parametrize("kept", [None, 3])
@pytest.mark.parametrize("select", ["all", "nonblank", "symmetric"])
def test_frame_kl_of_a_padded_batch_is_that_of_each_utterance_alone(select, kept):
    student, teacher, _ = ctc_batch()

    def soft(logits):
        # The same start for every position, so that an utterance alone is drawn as in its batch.
        same = torch.full(logits.shape[:-1], 0.3)
        return Dense(logits) if kept is None else top_k(logits, kept, 2.0, same)

    batch = frame_kl(student, soft(teacher), FRAMES, LABEL_LENGTHS, 2.0, select)
    for row, frames in enumerate(FRAMES):
        alone = frame_kl(
            student[row : row + 1, :frames],
            soft(teacher[row : row + 1, :frames]),
            FRAMES[row : row + 1],
            LABEL_LENGTHS[row : row + 1],
            2.0,
            select,
        )
        torch.testing.assert_close(batch[row], alone[0])


def test_logits_mse_is_torchs_on_each_utterance_alone():
    student, teacher, _ = ctc_batch()
    counted = torch.arange(12) < FRAMES.unsqueeze(1)
    batch = logits_mse(student, Dense(teacher), counted, LABEL_LENGTHS, 0.3)
    for row, (frames, count) in enumerate(zip(FRAMES, LABEL_LENGTHS, strict=True)):
        alone = functional.mse_loss(student[row, :frames], 0.3 * teacher[row, :frames])
        torch.testing.assert_close(batch[row], alone * frames / count)
    # Over tokens and their own count it is the mean, over the vocabulary as well.
    student, teacher, _, mask = token_batch()
    batch = logits_mse(student, Dense(teacher), mask, mask.sum(dim=1))
    for row in range(3):
        alone = functional.mse_loss(student[row, mask[row]], teacher[row, mask[row]])
        torch.testing.assert_close(batch[row], alone)


def test_logits_mse_needs_all_logits():
    student, teacher, _ = ctc_batch()
    mask = torch.ones(3, 12)
    with pytest.raises(UserError, match="needs all logits"):
        logits_mse(student, top_k(teacher, 3, 1.0), mask, LABEL_LENGTHS)
    with pytest.raises(UserError, match="same positions"):
        logits_mse(student, Dense(teacher[:, :11]), mask, LABEL_LENGTHS)


def test_equal_distributions_have_no_divergence_and_no_gradient():
    student, _, _ = ctc_batch()
    student.requires_grad_()
    loss = frame_kl(student, Dense(student.detach() + 4), FRAMES, LABEL_LENGTHS, 2.0)
    loss.sum().backward()
    torch.testing.assert_close(loss, torch.zeros_like(loss))
    torch.testing.assert_close(student.grad, torch.zeros_like(student))


@pytest.mark.parametrize("kept", [None, 3, UNITS])
def test_distillation_gradients_against_finite_differences(kept):
    student, teacher, _ = ctc_batch()
    mask = torch.arange(12) < FRAMES.unsqueeze(1)
    small, teacher = student.clamp(-9, 9).requires_grad_(), teacher.clamp(-9, 9)
    soft = Dense(teacher) if kept is None else top_k(teacher, kept, 2.0)
    assert torch.autograd.gradcheck(lambda x: token_kl(x, soft, mask, 2.0), [small])
    assert torch.autograd.gradcheck(
        lambda x: frame_kl(x, soft, FRAMES, LABEL_LENGTHS, 2.0, "symmetric"), [small]
    )
    assert torch.autograd.gradcheck(
        lambda x: logits_mse(x, Dense(teacher), mask, LABEL_LENGTHS, 0.4), [small]
    )


def test_a_teachers_logits_need_no_wrapping():
    student, teacher, _ = ctc_batch()
    mask = torch.arange(12) < FRAMES.unsqueeze(1)
    projected = Projected(student, torch.eye(student.shape[-1], dtype=student.dtype))
    for bare, wrapped in (
        (token_kl(student, soft, mask, 2.0) for soft in (teacher, Dense(teacher))),
        (
            frame_kl(student, soft, FRAMES, LABEL_LENGTHS, 2.0, "symmetric")
            for soft in (teacher, Dense(teacher))
        ),
        (logits_mse(student, soft, mask, LABEL_LENGTHS) for soft in (teacher, Dense(teacher))),
        (
            token_losses(projected, torch.zeros_like(mask).long(), mask, soft, 2.0)[1]
            for soft in (teacher, Dense(teacher))
        ),
    ):
        assert torch.equal(bare, wrapped)
    with pytest.raises(UserError, match="only its top k are there"):
        logits_mse(student, top_k(teacher, 2, 1.0), mask, LABEL_LENGTHS)


def test_the_teacher_gets_no_gradient():
    student, teacher, _ = ctc_batch()
    teacher.requires_grad_(), student.requires_grad_()
    for soft in (Dense(teacher), top_k(teacher, 3, 1.0)):
        frame_kl(student, soft, FRAMES, LABEL_LENGTHS).sum().backward()
    logits_mse(student, Dense(teacher), torch.ones(3, 12), LABEL_LENGTHS).sum().backward()
    assert teacher.grad is None


def test_a_unit_that_the_teacher_excludes_costs_nothing():
    student, teacher, _ = ctc_batch()
    teacher[:, :, 4] = -math.inf
    student.requires_grad_()
    loss = frame_kl(student, Dense(teacher), FRAMES, LABEL_LENGTHS)
    (gradient,) = torch.autograd.grad(loss.sum(), student)
    assert loss.isfinite().all() and gradient.isfinite().all()
    truth = kl_divergence(
        Categorical(logits=teacher[1, :5]), Categorical(logits=student.detach()[1, :5])
    )
    torch.testing.assert_close(loss[1].detach(), truth.sum())


# ---- Top k ---------------------------------------------------------------------------------------


DRAWS = 4000


@pytest.fixture
def many_draws():
    """many_draws(logits (V,), k): their top k at temperature 2 from 4,000 starts, (1, DRAWS, ...).

    Evenly spaced starts, so that a mean over them is the mean over all starts but for the spacing.
    """
    even = ((torch.arange(DRAWS, dtype=torch.float64) + 0.5) / DRAWS).unsqueeze(0)
    return lambda teacher, k: top_k(teacher.expand(1, DRAWS, -1), k, 2.0, even)


@pytest.mark.parametrize("k", [1, 3, 5])
def test_the_mean_over_draws_is_the_dense_divergence_and_its_gradient(many_draws, k):
    teacher, student = random_logits(UNITS, seed=8), random_logits(UNITS, seed=9)
    drawn = many_draws(teacher, k)
    many = student.expand(1, DRAWS, -1).clone().requires_grad_()
    one = student.expand(1, 1, -1).clone().requires_grad_()
    mask = torch.ones(1, DRAWS)
    sampled = token_kl(many, drawn, mask, 2.0)
    dense = token_kl(one, Dense(teacher.expand(1, 1, -1)), mask[:, :1], 2.0)
    (slopes,) = torch.autograd.grad(sampled.sum(), many)
    (truth,) = torch.autograd.grad(dense.sum(), one)
    torch.testing.assert_close(sampled, dense, rtol=1e-3, atol=0.0)
    torch.testing.assert_close(slopes.sum(dim=1), truth.sum(dim=1), rtol=0.0, atol=1e-3)
    # What the rest has to say is far more than that.
    share = (drawn.tail[0, 0] - (teacher / 2).logsumexp(dim=-1)).exp()
    assert share > 0.01


def test_the_whole_vocabulary_is_dense():
    student, teacher, _ = ctc_batch()
    mask = torch.arange(12) < FRAMES.unsqueeze(1)
    kept = top_k(teacher, UNITS, 2.0)
    assert kept.drawn.shape[-1] == 0
    torch.testing.assert_close(
        token_kl(student, kept, mask, 2.0), token_kl(student, Dense(teacher), mask, 2.0)
    )


def test_one_unit_outside_is_drawn_for_sure_and_makes_it_dense():
    student, teacher, _ = ctc_batch()
    mask = torch.arange(12) < FRAMES.unsqueeze(1)
    kept = top_k(teacher, UNITS - 1, 2.0)
    assert kept.drawn.shape[-1] == 1
    torch.testing.assert_close(
        token_kl(student, kept, mask, 2.0), token_kl(student, Dense(teacher), mask, 2.0)
    )


def test_the_divergence_is_the_sum_over_kept_and_drawn_units_written_out():
    student, teacher = random_logits(1, 1, UNITS, seed=8), random_logits(1, 1, UNITS, seed=9)
    soft = top_k(teacher, 3, 2.0, starts(2, teacher))
    kept = set(teacher[0, 0].argsort(descending=True)[:3].tolist())
    drawn = soft.drawn[0, 0].tolist()
    assert set(soft.indices[0, 0].tolist()) == kept and not kept & set(drawn) and len(drawn) == 3
    p, q = ((each[0, 0] / 2).softmax(dim=-1).tolist() for each in (teacher, student))
    left = 1 - sum(p[unit] for unit in kept)
    truth = sum(p[unit] * math.log(p[unit] / q[unit]) for unit in kept)
    truth += sum(left / 3 * math.log(p[unit] / q[unit]) for unit in drawn)
    assert token_kl(student, soft, torch.ones(1, 1), 2.0).item() == pytest.approx(4 * truth)


@pytest.mark.parametrize("k", [2, 5])
def test_units_are_drawn_as_often_as_their_probability_asks(many_draws, k):
    """Systematic sampling: M p of a unit, rounded up or down each time, and so on average."""
    teacher = random_logits(12, seed=10)
    soft = many_draws(teacher, k)
    rest = (teacher / 2).softmax(dim=-1)
    rest[teacher.topk(k).indices] = 0
    expected = k * rest / rest.sum()
    counts = functional.one_hot(soft.drawn[0], 12).sum(dim=1)  # (draws, V)
    assert ((counts >= expected.floor()) & (counts <= expected.ceil())).all()
    torch.testing.assert_close(counts.double().mean(dim=0), expected, rtol=0.0, atol=1e-3)
    level = (teacher / 2)[soft.drawn].mean(dim=-1)
    torch.testing.assert_close(soft.level, level)


def test_the_same_start_draws_the_same_units_and_another_draws_others():
    teacher = random_logits(2, 9, 40)
    first, again, other = (
        top_k(teacher, 4, 2.0, starts(seed, teacher)).drawn for seed in (5, 5, 6)
    )
    assert torch.equal(first, again) and not torch.equal(first, other)


@pytest.mark.parametrize("excluded", [[4], [3, 4], [2, 3, 4]])
def test_a_unit_that_the_teacher_excludes_is_never_drawn(excluded):
    teacher = torch.tensor([5.0, 4.0, 3.0, 2.0, 1.0]).index_fill(
        0, torch.tensor(excluded), -math.inf
    )
    student = random_logits(5, seed=3).expand(1, 500, -1).clone().requires_grad_()
    teacher = teacher.expand(1, 500, -1).double()
    soft = top_k(teacher, 2, 2.0, starts(1, teacher))
    loss = token_kl(student, soft, torch.ones(1, 500), 2.0)
    (slope,) = torch.autograd.grad(loss.sum(), student)
    assert loss.isfinite().all() and slope.isfinite().all()
    dense = token_kl(student, Dense(teacher.expand(1, 500, -1)), torch.ones(1, 500), 2.0)
    torch.testing.assert_close(loss, dense.to(loss), rtol=0.02, atol=0.0)


def test_top_k_keeps_the_whole_mass():
    teacher = random_logits(2, 5, UNITS)
    kept = top_k(teacher, 3, 2.0)
    assert kept.values.shape == kept.indices.shape == kept.drawn.shape == (2, 5, 3)
    assert kept.tail.shape == kept.level.shape == (2, 5)
    mass = (kept.values / 2.0).exp().sum(dim=-1) + kept.tail.exp()
    torch.testing.assert_close(mass, (teacher / 2.0).exp().sum(dim=-1))


def test_top_k_of_another_temperature_is_an_error():
    student, teacher, _ = ctc_batch()
    with pytest.raises(UserError, match="stored at temperature 2.0"):
        frame_kl(student, top_k(teacher, 3, 2.0), FRAMES, LABEL_LENGTHS, 1.0)


@pytest.mark.parametrize("k", [0, UNITS + 1])
def test_top_k_outside_the_vocabulary_is_an_error(k):
    with pytest.raises(UserError, match="take 1 to 7"):
        top_k(random_logits(1, 2, UNITS), k, 1.0)


# ---- Which frames count --------------------------------------------------------------------------


@pytest.mark.parametrize("blank", [0, 2])
@pytest.mark.parametrize("kept", [None, 2])
@pytest.mark.parametrize(
    ("best", "frames", "select", "expected"),
    [
        ("..a.....", 8, "all", "11111111"),
        ("..a.....", 5, "all", "11111000"),
        ("..a..bb.", 8, "nonblank", "00100110"),
        ("..a..bb.", 6, "nonblank", "00100100"),
        ("..a.....", 8, "symmetric", "01110000"),
        ("..a..bb.", 8, "symmetric", "01111111"),
        ("a......b", 8, "symmetric", "11000011"),
        ("a..b....", 4, "symmetric", "11110000"),
        ("....a...", 4, "symmetric", "00000000"),
        ("........", 8, "symmetric", "00000000"),
    ],
)
def test_selected_frames(best, frames, select, expected, kept, blank):
    others = [unit for unit in range(4) if unit != blank]
    units = {".": blank, "a": others[0], "b": others[1]}
    logits = torch.zeros(1, 8, 4)
    for frame, letter in enumerate(best):
        logits[0, frame, units[letter]] = 5.0
    teacher = Dense(logits) if kept is None else top_k(logits, kept, 1.0)
    counted = selected_frames(teacher, torch.tensor([frames]), select, blank)
    assert "".join(str(int(each)) for each in counted[0]) == expected


def test_no_selected_frame_gives_loss_zero_and_gradient_zero():
    student = random_logits(2, 6, UNITS).requires_grad_()
    teacher = random_logits(2, 6, UNITS, seed=1)
    frames, counts = torch.tensor([6, 6]), torch.tensor([2, 2])

    teacher[0, :, 0] = 99.0  # blank in every frame of the first utterance
    loss = frame_kl(student, Dense(teacher), frames, counts, 1.0, "nonblank")
    (gradient,) = torch.autograd.grad(loss.sum(), student)
    assert loss[0] == 0 and loss[1] > 0
    assert gradient[0].count_nonzero() == 0 and gradient[1].count_nonzero() > 0

    teacher[1, :, 0] = 99.0
    loss = frame_kl(student, Dense(teacher), frames, counts, 1.0, "nonblank")
    (gradient,) = torch.autograd.grad(loss.sum(), student)
    assert loss.count_nonzero() == 0 and gradient.count_nonzero() == 0


def test_an_unknown_selection_is_an_error():
    student, teacher, _ = ctc_batch()
    with pytest.raises(UserError, match="all, nonblank, symmetric"):
        frame_kl(student, Dense(teacher), FRAMES, LABEL_LENGTHS, 1.0, "blank")  # type: ignore


# ---- Both losses at once -------------------------------------------------------------------------


def soft_outputs(kind: str, teacher: torch.Tensor, temperature: float) -> SoftOutputs | None:
    """The teacher as "none", "dense", or its top k with drawn ones (3) or without any (7).

    Or dense, "excluding" a unit: its logit is -inf.
    """
    if kind == "excluding":
        return Dense(teacher.index_fill(-1, torch.tensor([4]), -math.inf))
    if kind in ("none", "dense"):
        return Dense(teacher) if kind == "dense" else None
    return top_k(teacher, int(kind), temperature, starts(6, teacher))


def projected_batch() -> tuple[Projected, torch.Tensor, torch.Tensor, torch.Tensor]:
    """States and weight of a student whose padding is NaN; teacher's logits, targets and mask."""
    _, teacher, targets, mask = token_batch()
    states = random_logits(3, 6, 4, seed=20, scale=1.0)
    states[~mask] = math.nan
    weight = random_logits(UNITS, 4, seed=21, scale=1.5)
    return Projected(states.requires_grad_(), weight.requires_grad_()), teacher, targets, mask


def weighed_like_focal(task: torch.Tensor, distill: torch.Tensor | None) -> torch.Tensor:
    """A sum whose weights differ between utterances and losses, and depend on both losses."""
    loss = task if distill is None else 0.3 * task + torch.tensor([0.1, 0.7, 0.4]) * distill
    return ((1 - (-loss).exp()) ** 2 * loss).sum()


@pytest.mark.parametrize("kind", ["none", "dense", "excluding", "3", str(UNITS)])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_token_losses_are_cross_entropy_and_token_kl_and_so_are_their_gradients(
    kind, temperature, monkeypatch
):
    student, teacher, targets, mask = projected_batch()
    soft = soft_outputs(kind, teacher, temperature)
    # Two rows a chunk, and a last chunk that is not full
    monkeypatch.setitem(objectives.CHUNK_BYTES, "cpu", 2 * 4 * UNITS)
    leaves = (student.states, student.weight)

    found = token_losses(student, targets, mask, soft, temperature)
    gradients = torch.autograd.grad(weighed_like_focal(*found), leaves)

    logits = Projected(student.states.nan_to_num(), student.weight).logits()
    task = cross_entropy(logits, targets, mask)
    distill = None if soft is None else token_kl(logits, soft, mask, temperature)
    plain = torch.autograd.grad(weighed_like_focal(task, distill), leaves)

    torch.testing.assert_close(found[0], task, rtol=1e-12, atol=1e-12)
    assert (found[1] is None) == (distill is None)
    if distill is not None:
        torch.testing.assert_close(found[1], distill, rtol=1e-12, atol=1e-12)
    assert (gradients[0][~mask] == 0).all()
    for gradient, truth in zip(gradients, plain, strict=True):
        torch.testing.assert_close(gradient, truth, rtol=1e-10, atol=1e-12)
        assert truth.abs().max() > 1e-3


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.03)])
@pytest.mark.parametrize(("kind", "temperature"), [("dense", 2.0), ("3", 2.0), ("3", 1.0)])
def test_token_losses_in_less_precision_stay_near_float64(kind, temperature, dtype, tolerance):
    student, teacher, targets, mask = projected_batch()
    leaves = (student.states, student.weight)
    soft = soft_outputs(kind, teacher, temperature)
    truth = token_losses(student, targets, mask, soft, temperature)
    gradients = torch.autograd.grad(sum(truth).sum(), leaves)
    rounded = [leaf.detach().to(dtype).requires_grad_() for leaf in leaves]
    soft = soft_outputs(kind, teacher.to(dtype), temperature)
    found = token_losses(Projected(*rounded), targets, mask, soft, temperature)
    for one, other in zip(found, truth, strict=True):
        assert one.dtype == torch.float32
        torch.testing.assert_close(one.double(), other, rtol=tolerance, atol=tolerance)
    for one, other in zip(torch.autograd.grad(sum(found).sum(), rounded), gradients, strict=True):
        assert one.dtype == dtype
        torch.testing.assert_close(one.double(), other, rtol=0.0, atol=2 * tolerance)


@pytest.mark.parametrize("kind", ["dense", "3"])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_token_losses_are_float32_under_autocast(kind, temperature):
    student, teacher, targets, mask = projected_batch()
    student = Projected(student.states.float(), student.weight.float())
    soft = soft_outputs(kind, teacher.float(), temperature)
    with torch.autocast("cpu", torch.bfloat16):
        logits = student.logits()
        task, distill = token_losses(student, targets, mask, soft, temperature)
    assert logits.dtype == torch.bfloat16
    truth = token_kl(logits.double(), soft, mask, temperature)
    torch.testing.assert_close(distill.double(), truth, rtol=1e-5, atol=1e-6)
    truth = cross_entropy(logits.double(), targets, mask)
    torch.testing.assert_close(task.double(), truth, rtol=1e-5, atol=1e-6)


def test_token_losses_leave_the_teacher_and_the_student_as_they_were():
    student, teacher, targets, mask = projected_batch()
    before = [each.clone() for each in (student.states, student.weight, teacher)]
    sum(token_losses(student, targets, mask, Dense(teacher))).sum().backward()
    for each, copy in zip((student.states, student.weight, teacher), before, strict=True):
        torch.testing.assert_close(each.detach(), copy.detach(), rtol=0, atol=0, equal_nan=True)


def test_token_losses_of_a_sliced_teacher_are_those_of_a_copy():
    generator = torch.Generator().manual_seed(4)
    logits = torch.randn(3, 9, 11, generator=generator)
    student = Projected(torch.randn(3, 7, 5), torch.randn(11, 5))
    targets, mask = torch.zeros(3, 7, dtype=torch.long), torch.ones(3, 7)
    view = token_losses(student, targets, mask, Dense(logits[:, 2:]))
    copy = token_losses(student, targets, mask, Dense(logits[:, 2:].clone()))
    assert view[1] is not None and (view[1] == copy[1]).all()


def test_token_losses_of_utterances_without_a_token_are_zero():
    student, teacher, targets, mask = projected_batch()
    for counted in (mask & torch.tensor([[True], [False], [True]]), torch.zeros_like(mask)):
        losses = token_losses(student, targets, counted, Dense(teacher))
        empty = ~counted.any(dim=1)
        assert all((loss[empty] == 0).all() and loss.isfinite().all() for loss in losses)
        (gradient,) = torch.autograd.grad(sum(losses).sum(), student.states)
        assert (gradient[empty] == 0).all()


def test_token_losses_give_their_gradient_once_or_say_so():
    student, _, targets, mask = projected_batch()
    loss = token_losses(student, targets, mask)[0].sum()
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="works once"):
        loss.backward()


def test_token_losses_check_teacher_and_temperature():
    student, teacher, targets, mask = projected_batch()
    with pytest.raises(UserError, match="same units"):
        token_losses(student, targets, mask, Dense(teacher[:, :, :-1]))
    with pytest.raises(UserError, match="stored at temperature 2.0"):
        token_losses(student, targets, mask, top_k(teacher, 3, 2.0), 1.0)
    with pytest.raises(UserError, match="above 0"):
        token_losses(student, targets, mask, Dense(teacher), 0.0)


# ---- All five ------------------------------------------------------------------------------------


@pytest.mark.parametrize("garbage", [0.0, 1e30, -1e30, math.nan, math.inf])
@pytest.mark.parametrize("kept", [None, 3])
def test_padding_reaches_neither_loss_nor_gradient(garbage, kept):
    def results(value):
        losses, gradients = [], []
        mask = torch.arange(12) < FRAMES.unsqueeze(1)
        student, teacher, labels = ctc_batch()
        student[~mask], teacher[~mask] = value, value
        student, teacher = student.float().requires_grad_(), teacher.float()
        soft = Dense(teacher) if kept is None else top_k(teacher, kept, 2.0, starts(6, teacher))
        targets = torch.full((3, 12), 2).where(mask, torch.tensor(-100))
        for loss in (
            ctc(student, FRAMES, labels, LABEL_LENGTHS),
            cross_entropy(student, targets, mask),
            frame_kl(student, soft, FRAMES, LABEL_LENGTHS, 2.0, "symmetric"),
            token_kl(student, soft, mask, 2.0),
            logits_mse(student, Dense(teacher), mask, LABEL_LENGTHS, 0.5),
        ):
            losses.append(loss.detach())
            gradients.append(torch.autograd.grad(loss.sum(), student)[0])
            assert (gradients[-1][~mask] == 0).all()
        return torch.stack(losses), torch.stack(gradients)

    for clean, padded in zip(results(1.0), results(garbage), strict=True):
        assert clean.isfinite().all()
        assert torch.equal(clean, padded)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_losses_are_computed_in_float32_from_logits_of_any_precision(dtype):
    """Rounding the logits is the only loss of precision that half-precision storage brings."""
    student, teacher, labels = ctc_batch()
    student, teacher = student.clamp(-9, 9).to(dtype), teacher.clamp(-9, 9).to(dtype)
    mask = torch.arange(12) < FRAMES.unsqueeze(1)
    targets = torch.full((3, 12), 2)
    for loss, truth in zip(
        *[
            (
                ctc(each, FRAMES, labels, LABEL_LENGTHS),
                cross_entropy(each, targets, mask),
                token_kl(each, Dense(other), mask, 2.0),
                token_kl(each, top_k(other, 3, 2.0, starts(6, other)), mask, 2.0),
                logits_mse(each, Dense(other), mask, LABEL_LENGTHS, 0.5),
            )
            for each, other in ((student, teacher), (student.double(), teacher.double()))
        ],
        strict=True,
    ):
        assert loss.dtype == torch.float32
        torch.testing.assert_close(loss.double(), truth, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", [(3, 11, UNITS), (3, 12, UNITS - 1), (2, 12, UNITS)])
def test_a_teacher_of_another_shape_is_an_error(shape):
    student, _, _ = ctc_batch()
    with pytest.raises(UserError, match="same positions"):
        frame_kl(student, Dense(torch.zeros(shape)), FRAMES, LABEL_LENGTHS)
    with pytest.raises(UserError, match="same positions"):
        token_kl(student, Dense(torch.zeros(shape)), torch.ones(3, 12))


def test_a_top_k_teacher_of_another_frame_rate_is_an_error():
    student, _, _ = ctc_batch()
    short = torch.zeros(3, 6, 2)
    with pytest.raises(UserError, match="same positions"):
        soft = TopK(short, short.long(), short[..., 0], short.long(), short[..., 0], 1.0)
        frame_kl(student, soft, FRAMES, LABEL_LENGTHS)


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan])
def test_a_temperature_that_is_not_positive_is_an_error(temperature):
    student, teacher, _ = ctc_batch()
    for ask in (
        lambda: frame_kl(student, Dense(teacher), FRAMES, LABEL_LENGTHS, temperature),
        lambda: token_kl(student, Dense(teacher), torch.ones(3, 12), temperature),
        lambda: top_k(teacher, 2, temperature),
    ):
        with pytest.raises(UserError, match="above 0"):
            ask()
