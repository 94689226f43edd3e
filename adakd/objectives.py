"""Per-utterance losses of a student: against the transcript (task) and against a teacher (distil).

Four losses, two for each family, and one for both:

    CTC              task: `ctc`             distillation: `frame_kl`   or `logits_mse`
    encoder-decoder  task: `cross_entropy`   distillation: `token_kl`   or `logits_mse`
                     both at once, in less memory and time: `token_losses`

Each takes a padded batch of raw logits and returns one loss per utterance, shape (B,), in nats.
How much each utterance counts is decided in `adakd.weighting`, and the trainer sums over the batch.
This module needs torch and nothing else, and knows no model, file or configuration.

Normalisation. The weights of `adakd.weighting` compare like with like only if an utterance's task
and distillation loss divide by the same count of target units: `ctc` and `frame_kl` divide a sum
over frames by the number of labels; `cross_entropy` and `token_kl` are means over the same tokens.
`logits_mse` takes the positions and the divisor of whichever it stands beside.

Numerics. Logits of less than 32 bits become float32 before the log-softmax (float64 stays).
Positions that do not count are left out before anything is computed on them, so whatever padding
holds, NaN included, reaches neither the loss nor the gradient. The teacher carries no gradient.

Shapes: B utterances, T frames, U tokens or labels, V units of the vocabulary, K <= V kept ones, M
drawn from the others.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from adakd.errors import UserError

FrameSelection = Literal["all", "nonblank", "symmetric"]

# Blank frames kept on either side of a non-blank one by the selection "symmetric".
SYMMETRIC_NEIGHBOURS = 1

# `token_losses` takes so many bytes of float32 logits at a time: what stays in a processor's cache,
# and for a GPU, whose time goes by the call, as many as it easily has room for.
CHUNK_BYTES = {"cpu": 4 << 20, "cuda": 256 << 20}


@dataclass(frozen=True)
class Dense:
    """A teacher's soft outputs in full: its raw logits, (B, T, V), of any floating dtype."""

    logits: Tensor

    def at(self, where: Tensor) -> "Dense":
        """The outputs at N positions, (N, V); see `_rows`."""
        return self.each(lambda tensor: _rows(tensor, where))

    def each(self, change: Callable[[Tensor], Tensor]) -> "Dense":
        """The same with every tensor changed."""
        return Dense(change(self.logits))

    def best(self) -> Tensor:
        """The most probable unit at each position, (B, T)."""
        return self.logits.argmax(dim=-1)


@dataclass(frozen=True)
class TopK:
    """A teacher's K most probable units, and M of the others, drawn; `top_k` makes it.

    values (B, T, K)    raw logits
    indices (B, T, K)   which units these are, int64, no unit twice
    tail (B, T)         log of the sum of exp(logit / temperature) over the other V - K units
    drawn (B, T, M)     units drawn from these, each as often as its probability among them asks
    level (B, T)        mean of logit / temperature over the drawn ones
    temperature         the one of all this: what is drawn at another cannot be computed from it

    V is not kept: losses cannot see that a teacher with other units was asked.
    """

    values: Tensor
    indices: Tensor
    tail: Tensor
    drawn: Tensor
    level: Tensor
    temperature: float

    def at(self, where: Tensor) -> "TopK":
        """The outputs at N positions, (N, K), (N, M) and (N,); see `_rows`."""
        return self.each(lambda tensor: _rows(tensor, where))

    def each(self, change: Callable[[Tensor], Tensor]) -> "TopK":
        """The same with every tensor changed."""
        return TopK(
            change(self.values), change(self.indices), change(self.tail),
            change(self.drawn), change(self.level), self.temperature,
        )  # fmt: skip

    def best(self) -> Tensor:
        """The most probable unit at each position, (B, T)."""
        place = self.values.argmax(dim=-1, keepdim=True)
        return self.indices.gather(-1, place).squeeze(-1)


SoftOutputs = Dense | TopK


@dataclass(frozen=True)
class Projected:
    """A student's logits before they are computed: states (B, U, D) times weight (V, D).

    At 51,865 units the logits of a batch are larger than all else that a small Whisper keeps.
    """

    states: Tensor
    weight: Tensor

    def logits(self) -> Tensor:
        """All of them, (B, U, V)."""
        return functional.linear(self.states, self.weight)


def top_k(logits: Tensor, k: int, temperature: float, starts: Tensor | None = None) -> TopK:
    """Shrink a teacher's logits (..., V) to their k largest and a sample of the rest.

    As many of the rest as are kept, M = min(k, V - k), by systematic sampling: equal steps through
    the cumulated probabilities from a random start (Madow 1949, "On the theory of systematic
    sampling, II"). So the KL that a loss estimates from them has the dense one as its mean, and its
    gradient too, over draws (Anshumann et al. 2025, "Sparse Logit Sampling", arXiv 2503.16870, who
    draw all units at random); the k largest alone, or the rest as one number, would leave out what
    the teacher says of tens of thousands of units.

    Args:
        logits: raw logits, (..., V).
        k: units to keep, 1 to V.
        temperature: the tau that a later `token_kl` or `frame_kl` will use.
        starts: (...) where to begin drawing, uniform in [0, 1); None draws that.
    Raises:
        UserError: k is not within 1 to V, or the temperature is not positive.
    """
    units = logits.shape[-1]
    if not 1 <= k <= units:
        raise UserError(f"top_k is {k}, but the teacher has {units} units: take 1 to {units}.")
    _check_temperature(temperature)
    values, indices = logits.topk(k, dim=-1)
    # In one piece of memory throughout: a teacher pass comes here for every utterance.
    rest = (_at_least_float32(logits) / temperature).contiguous()
    rest.scatter_(-1, indices, -torch.inf)
    # Finite where the teacher excludes all of the rest: the tail is then log 0, and what is drawn,
    # without probability, has no weight.
    top = rest.amax(dim=-1, keepdim=True).clamp_(min=torch.finfo(rest.dtype).min)
    weights = rest.sub_(top).exp_()
    if weights.device.type == "cpu":
        cumulated = weights.cumsum_(dim=-1)
    else:  # which adds up in parts: rounded to float32 a sum could fall here and there
        cumulated = weights.cumsum(dim=-1, dtype=torch.float64)
    total = cumulated[..., -1:].clone()
    draws = min(k, units - k)
    if starts is None:
        starts = torch.rand(total.shape[:-1])
    steps = torch.arange(draws, device=total.device) + starts.to(total).unsqueeze(-1)
    # Below the total, or rounding would draw a unit without probability.
    points = torch.minimum(steps / max(1, draws) * total, torch.nextafter(total, total - 1))
    drawn = torch.searchsorted(cumulated, points, right=True).clamp_(max=units - 1)
    tail = (top + total.log()).squeeze(-1).to(rest.dtype)
    level = torch.zeros_like(tail)
    if draws:
        level = (_at_least_float32(logits.gather(-1, drawn)) / temperature).mean(dim=-1)
    return TopK(values, indices, tail, drawn, level, temperature)


def ctc(
    logits: Tensor, frames: Tensor, labels: Tensor, label_lengths: Tensor, blank: int = 0
) -> Tensor:
    """CTC loss per label: -log p(labels | logits) / number of labels (Graves et al. 2006).

    Args:
        logits: (B, T, V), raw.
        frames: (B,) int, frames that are not padding.
        labels: (B, U) int, 0 to V - 1, padded with anything.
        label_lengths: (B,) int, labels that are not padding. An utterance without labels is divided
            by one.
        blank: index of the blank unit.
    Returns:
        (B,) nats per label. Labels that do not fit into the frames (each repeated label needs a
        blank before it) give inf and a NaN gradient: nothing is hidden here. Data preparation finds
        such utterances and rejects them by name.
    Raises:
        UserError: a label is no unit of the logits, or the blank. torch's own CTC does not look: it
            reads, and in the backward pass writes, memory that is not its own, and gives a number
            for another blank than the model's.
    """
    if labels.numel():
        counted = _counted(label_lengths, labels.shape[1], labels.device)
        own = labels.masked_fill(~counted, 0)
        blanks = ((labels == blank) & counted).sum().to(own.dtype)
        low, high, blanks = torch.stack([*own.aminmax(), blanks]).tolist()  # a GPU waits once
        if low < 0 or high >= logits.shape[-1]:
            raise UserError(
                f"A label is {low if low < 0 else high}, and the logits have {logits.shape[-1]} "
                "units, from 0 on: is it another tokenizer's?"
            )
        if blanks:
            raise UserError(
                f"A label is the blank, {blank}: name the model's own blank "
                "(Hugging Face's is pad_token_id), and the labels that are not padding."
            )
    padding = ~_counted(frames, logits.shape[1], logits.device)
    clean = _at_least_float32(logits.masked_fill(padding.unsqueeze(-1), 0.0))
    total = functional.ctc_loss(
        clean.log_softmax(dim=-1).transpose(0, 1),  # (T, B, V)
        labels.clamp(min=0),  # -100 is a common padding, and no index
        frames,
        label_lengths,
        blank=blank,
        reduction="none",
        zero_infinity=False,
    )
    return total / _divisor(label_lengths, total)


def cross_entropy(logits: Tensor, targets: Tensor, mask: Tensor) -> Tensor:
    """Cross-entropy per token: the mean of -log p(target) over an utterance's counted tokens.

    Args:
        logits: (B, U, V), raw, under teacher forcing.
        targets: (B, U) int, anything where the mask is false.
        mask: (B, U), true where a token counts: end-of-text does; prompt and padding do not.
    Returns:
        (B,) nats per token; 0 where no token counts.
    """
    counted = mask.bool()
    losses = functional.cross_entropy(
        _at_least_float32(logits[counted]), targets[counted], reduction="none"
    )
    return _per_utterance(losses, counted, counted.sum(dim=1))


def token_kl(
    student: Tensor, teacher: SoftOutputs | Tensor, mask: Tensor, temperature: float = 1.0
) -> Tensor:
    """tau^2 KL(teacher || student) per token: the mean over an utterance's counted tokens.

    Student and teacher have read the same decoder inputs. See `_divergence` for the formula.

    Args:
        student: (B, U, V), raw logits.
        teacher: raw logits (B, U, V), or their top k at this temperature.
        mask: (B, U), true where a token counts, the same as in `cross_entropy`.
        temperature: tau > 0; 1 leaves the distributions as they are.
    Returns:
        (B,) nats per token, times tau^2; 0 where no token counts.
    Raises:
        UserError: the shapes differ, or the teacher's top k was stored at another temperature.
    """
    teacher = _at_same_positions(student.shape, teacher)
    counted = mask.bool()
    losses = _divergence(student[counted], teacher.at(counted), temperature)
    return _per_utterance(losses, counted, counted.sum(dim=1))


def token_losses(
    student: Projected,
    targets: Tensor,
    mask: Tensor,
    teacher: SoftOutputs | Tensor | None = None,
    temperature: float = 1.0,
) -> tuple[Tensor, Tensor | None]:
    """`cross_entropy` and `token_kl` of one student at once, for training with large vocabularies.

    The logits of the tokens that count are there once, and become their own gradient in the
    backward pass; whatever else has the size of the vocabulary lives in chunks (CHUNK_BYTES). No
    logit is computed for padding, or twice. Backward works once, and only for first derivatives.

    Args:
        student: what the logits (B, U, V) would be computed from; a gradient goes to both.
        targets, mask: as in `cross_entropy`.
        teacher, temperature: as in `token_kl`; None asks for no distillation loss.
    Returns:
        (B,) cross-entropy and (B,) KL, or None.
    Raises:
        UserError: as `token_kl`.
    """
    counted = mask.bool()
    if teacher is not None:
        _check_temperature(temperature)
        teacher = _at_same_positions((*student.states.shape[:2], len(student.weight)), teacher)
        if isinstance(teacher, Dense):  # a view, say without a prompt, is not copied chunk by chunk
            teacher = Dense(teacher.logits.contiguous())
    logits = functional.linear(student.states[counted], student.weight)  # (N, V)
    where = counted.flatten().nonzero().squeeze(1)
    task, distill = _TokenLosses.apply(logits, targets[counted], teacher, where, temperature)
    units = counted.sum(dim=1)
    task = _per_utterance(task, counted, units)
    return task, None if distill is None else _per_utterance(distill, counted, units)


class _TokenLosses(torch.autograd.Function):
    """Logits (N, V) to cross-entropy (N,) and tau^2 KL (N,) or None, a chunk of rows at a time.

    With q = softmax(z / tau), and p the teacher's, the gradients by a logit z_v are

        cross-entropy   softmax(z)_v - [v = target]
        tau^2 KL        tau (q_v - p_v)

    Autograd would come to the same with a dozen passes over the whole vocabulary, each kept. At
    tau = 1 both losses share the student's softmax. With a top-k teacher, whose p is zero but for a
    few units, that is one pass each way, as for the cross-entropy alone.
    """

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        logits: Tensor,
        targets: Tensor,
        teacher: SoftOutputs | None,
        where: Tensor,
        temperature: float,
    ) -> tuple[Tensor, Tensor | None]:
        wide = torch.promote_types(logits.dtype, torch.float32)
        task, distill = (logits.new_empty(len(logits), dtype=wide) for _ in range(2))
        few = None  # of a top-k teacher, for all rows at once: for a GPU they are few
        if isinstance(teacher, TopK):
            few = _sparse(teacher.at(where), temperature)
        for rows, (one, two, three) in _chunks(logits, wide, teacher, temperature):
            z = logits[rows].to(wide)
            log = torch.log_softmax(z, dim=-1, out=one)
            task[rows] = -log.gather(-1, targets[rows, None]).squeeze(-1)
            if teacher is None:
                continue
            if temperature != 1:
                log = torch.log_softmax(_scaled(z, temperature, two), dim=-1, out=one)
            if few is not None:
                units, probability, teacher_log = (each[rows] for each in few)
                kl = _kl(probability, teacher_log, log.gather(-1, units))
                distill[rows] = temperature**2 * kl
                continue
            assert isinstance(teacher, Dense)
            # As `_divergence`, in the same memory throughout
            raw = _rows(teacher.logits, where[rows])
            torch.log_softmax(_scaled(raw, temperature, two), dim=-1, out=three)
            probability = torch.exp(three, out=two)
            # 0 log 0 = 0: what was -inf is finite, and its probability 0.
            difference = three.clamp_(min=torch.finfo(wide).min).sub_(log)
            with torch.autocast(logits.device.type, enabled=False):  # it would take 16 bits here
                kl = torch.linalg.vecdot(probability, difference)
            distill[rows] = temperature**2 * kl
        # Not save_for_backward: that would refuse the logits once they are overwritten.
        ctx.kept = logits, targets, teacher, few, where, temperature
        return task, None if teacher is None else distill

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, task: Tensor, distill: Tensor | None) -> Any:  # type: ignore[override]
        if ctx.kept is None:
            raise RuntimeError("token_losses: backward works once, the logits are overwritten.")
        logits, targets, teacher, few, where, temperature = ctx.kept
        ctx.kept = None
        for rows, (one, two, three) in _chunks(logits, task.dtype, teacher, temperature):
            z, weight = logits[rows].to(task.dtype), task[rows, None]
            if distill is None:
                gradient = torch.softmax(z, dim=-1, out=one).mul_(weight)
            else:
                factor = temperature * distill[rows, None]
                both = temperature == 1  # one softmax then serves both losses
                share = factor + weight if both else factor
                scaled = _scaled(z, temperature, two)
                gradient = torch.softmax(scaled, dim=-1, out=one).mul_(share)
                if not both:
                    gradient.addcmul_(torch.softmax(z, dim=-1, out=two), weight)
                if few is not None:
                    units, probability, _ = (each[rows] for each in few)
                    gradient.scatter_add_(-1, units, -factor * probability.to(z.dtype))
                else:
                    scaled = _scaled(_rows(teacher.logits, where[rows]), temperature, two)
                    gradient.addcmul_(torch.softmax(scaled, dim=-1, out=three), -factor)
            logits[rows] = gradient.scatter_add_(-1, targets[rows, None], -weight)
        return logits, None, None, None, None


def _scaled(logits: Tensor, temperature: float, out: Tensor) -> Tensor:
    """Logits over the temperature, by way of ``out``; at 1 themselves, if their dtype is its."""
    if logits.dtype == out.dtype:
        return logits if temperature == 1 else torch.div(logits, temperature, out=out)
    out.copy_(logits)  # first, or half precision would round the quotient
    return out if temperature == 1 else out.div_(temperature)


def _chunks(
    logits: Tensor, dtype: torch.dtype, teacher: SoftOutputs | None, temperature: float
) -> Iterator[tuple[slice, list[Tensor]]]:
    """Slices of the rows of (N, V), CHUNK_BYTES of float32 each, and three tensors of their shape.

    The tensors are the same for all: to ask for new memory costs more than most of what is done in
    it. Those that are not needed are empty. On a GPU all three together take CHUNK_BYTES, so that
    with a teacher they take no more than without.
    """
    needed = 3
    if not isinstance(teacher, Dense):
        needed = 1 if teacher is None or temperature == 1 else 2
    size = CHUNK_BYTES["cpu"] if logits.device.type == "cpu" else CHUNK_BYTES["cuda"] // needed
    size = max(1, min(size // 4 // logits.shape[1], len(logits)))
    room = logits.new_empty(needed, size, logits.shape[1], dtype=dtype)
    for start in range(0, len(logits), size):
        rows = slice(start, start + size)
        rooms = list(room[:, : len(logits[rows])])
        yield rows, rooms + [room[0, :0]] * (3 - needed)


def _rows(tensor: Tensor, where: Tensor) -> Tensor:
    """(B, T, ...) at a mask (B, T), or at N positions as they are counted in (B T): (N, ...)."""
    if where.dtype == torch.bool:
        return tensor[where]
    return tensor.flatten(0, 1).index_select(0, where)


def frame_kl(
    student: Tensor,
    teacher: SoftOutputs | Tensor,
    frames: Tensor,
    label_lengths: Tensor,
    temperature: float = 1.0,
    select: FrameSelection = "all",
    blank: int = 0,
) -> Tensor:
    """tau^2 KL(teacher || student) summed over the selected frames, per label.

    Args:
        student: (B, T, V), raw logits, at the teacher's frame rate, with its units and its blank.
        teacher: raw logits (B, T, V), or their top k at this temperature.
        frames: (B,) int, frames that are not padding.
        label_lengths: (B,) int, the divisor that `ctc` has: the loss is per label, not per frame.
        temperature: tau > 0; 1 leaves the distributions as they are.
        select: which frames count, see `selected_frames`.
        blank: index of the blank unit.
    Returns:
        (B,) nats per label, times tau^2. Where no frame is selected, it and its gradient are 0.
    Raises:
        UserError: the shapes differ, the selection is unknown, or the teacher's top k was stored at
            another temperature.
    """
    teacher = _at_same_positions(student.shape, teacher)
    counted = selected_frames(teacher, frames, select, blank)
    losses = _divergence(student[counted], teacher.at(counted), temperature)
    return _per_utterance(losses, counted, label_lengths)


def logits_mse(
    student: Tensor,
    teacher: SoftOutputs | Tensor,
    counted: Tensor,
    units: Tensor,
    scale: float = 1.0,
) -> Tensor:
    """Squared error between the student's logits and the teacher's times `scale`, per unit.

    At a position it is the mean over the vocabulary, (1/V) sum_v (z_s - scale z_t)^2, as in the
    published code of Jafari et al. 2021 (Annealing KD, arXiv 2104.07163). It is summed over the
    counted positions and divided by the utterance's target units.

    Args:
        student: (B, T, V), raw logits.
        teacher: raw logits (B, T, V), all of them.
        counted: (B, T) bool, the positions that count: the mask of `token_kl`, or the
            `selected_frames` of `frame_kl`.
        units: (B,) the divisor that the task loss has: counted tokens, or labels.
        scale: phi(T), what the teacher's logits are multiplied by.
    Returns:
        (B,) squared logits per target unit; 0 where no position counts.
    Raises:
        UserError: the shapes differ, or only the teacher's top k are there.
    """
    if isinstance(teacher, TopK):
        raise UserError(
            "A squared error needs all logits of the teacher, and only its top k are there: keep "
            "all of them, or run the teacher beside the student."
        )
    logits = cast(Dense, _at_same_positions(student.shape, teacher)).logits
    counted = counted.bool()
    target = scale * _at_least_float32(logits[counted].detach())  # (N, V)
    losses = (_at_least_float32(student[counted]) - target).square().mean(dim=-1)
    return _per_utterance(losses, counted, units)


def selected_frames(
    teacher: SoftOutputs | Tensor, frames: Tensor, select: FrameSelection, blank: int = 0
) -> Tensor:
    """Which frames a CTC student learns from its teacher, (B, T) bool; padding never.

    "all"        every frame. CTC posteriors are peaky: most of these are blanks.
    "nonblank"   the frames where blank is not the teacher's most probable unit.
    "symmetric"  those, and SYMMETRIC_NEIGHBOURS frames on their left and as many on their right:
                 one on each side, so a lone spike at t selects t-1, t, t+1. At the ends of the
                 utterance and between close spikes there is less to add; a frame counts once.

    Keeping equally many blanks on both sides is from Hilmes et al. 2025, arXiv 2506.01503, where
    their number is a setting; one is our choice.

    Raises:
        UserError: the selection is unknown.
    """
    if select not in get_args(FrameSelection):
        known = ", ".join(get_args(FrameSelection))
        raise UserError(f"Unknown selection of frames {select!r}: it is one of {known}.")
    teacher = _soft(teacher)
    held = teacher.tail if isinstance(teacher, TopK) else teacher.logits  # (B, T), (B, T, V)
    counted = _counted(frames, held.shape[1], held.device)
    if select == "all":
        return counted
    spikes = counted & (teacher.best() != blank)
    if select == "nonblank":
        return spikes
    width = 2 * SYMMETRIC_NEIGHBOURS + 1
    nearby = functional.max_pool1d(
        spikes.float(), kernel_size=width, stride=1, padding=SYMMETRIC_NEIGHBOURS
    )
    return counted & nearby.bool()


def _divergence(student: Tensor, teacher: SoftOutputs, temperature: float) -> Tensor:
    """tau^2 KL(p || q) at each of N positions (Hinton, Vinyals, Dean 2015, arXiv 1503.02531).

        p = softmax(teacher / tau)   q = softmax(student / tau)   KL = sum_v p_v (log p_v - log q_v)

    tau^2 keeps the gradient's size when tau changes. With a top-k teacher the sum over the other
    units is estimated from those drawn (see `_sparse`): its mean over draws is the KL, and the KL
    itself at K = V; for a single position it may be below zero.

    Args: student (N, V), teacher (N, ...). Returns (N,).
    """
    _check_temperature(temperature)
    student_log = (_at_least_float32(student) / temperature).log_softmax(dim=-1)  # (N, V)
    if isinstance(teacher, TopK):
        units, probability, teacher_log = _sparse(teacher, temperature)
        return temperature**2 * _kl(probability, teacher_log, student_log.gather(-1, units))
    teacher_log = (_at_least_float32(teacher.logits.detach()) / temperature).log_softmax(dim=-1)
    return temperature**2 * _kl(teacher_log.exp(), teacher_log, student_log)


def _sparse(teacher: TopK, temperature: float) -> tuple[Tensor, Tensor, Tensor]:
    """Units (N, K + M) that stand for all, the probability that each stands for, and log p of each.

    A drawn one stands for a Mth of what the K kept ones leave, so that the sum over units drawn
    estimates that over all the rest. Its log p is the mean over all drawn ones, which gives the
    same sum and is one number to store instead of M.
    """
    if teacher.temperature != temperature:
        raise UserError(
            f"The teacher's top-k outputs were stored at temperature {teacher.temperature}, "
            f"and the loss asks for {temperature}: use the former, or run the teacher again."
        )
    kept = _at_least_float32(teacher.values.detach()) / temperature  # (N, K)
    draws = teacher.drawn.shape[-1]
    tail, level = (each.detach().to(kept.dtype) for each in (teacher.tail, teacher.level))
    total = kept.logsumexp(dim=-1)
    if draws:
        total = torch.logaddexp(total, tail)
    total = total.unsqueeze(-1)
    kept_log = kept - total
    share = ((tail.unsqueeze(-1) - total).exp() / max(1, draws)).expand(-1, draws)
    drawn_log = (level.unsqueeze(-1) - total).expand(-1, draws)
    return (
        torch.cat([teacher.indices, teacher.drawn], dim=-1),
        torch.cat([kept_log.exp(), share], dim=-1),
        torch.cat([kept_log, drawn_log], dim=-1),
    )


def _kl(probability: Tensor, teacher_log: Tensor, student_log: Tensor) -> Tensor:
    """sum p (log p - log q) over the last dimension."""
    # 0 log 0 = 0: a unit the teacher excludes (logit -inf) adds nothing, not NaN.
    terms = torch.where(probability > 0, probability * (teacher_log - student_log), 0.0)
    return terms.sum(dim=-1)


def _at_least_float32(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _counted(lengths: Tensor, size: int, device: torch.device) -> Tensor:
    """(B,) lengths to a (B, size) mask, true below each length."""
    return torch.arange(size, device=device) < lengths.to(device).unsqueeze(-1)


def _per_utterance(losses: Tensor, counted: Tensor, units: Tensor) -> Tensor:
    """(N,) losses, one for each true element of `counted` (B, T): their sums over `units`, (B,)."""
    sums = losses.new_zeros(counted.shape).masked_scatter(counted, losses).sum(dim=1)
    return sums / _divisor(units, sums)


def _divisor(counts: Tensor, like: Tensor) -> Tensor:
    return counts.to(like).clamp(min=1)


def _check_temperature(temperature: float) -> None:
    if not temperature > 0:
        raise UserError(f"The distillation temperature is {temperature}: it must be above 0.")


def _soft(teacher: SoftOutputs | Tensor) -> SoftOutputs:
    return Dense(teacher) if isinstance(teacher, Tensor) else teacher


def _at_same_positions(student: tuple[int, ...], teacher: SoftOutputs | Tensor) -> SoftOutputs:
    """The teacher's outputs; `UserError` where they are not of the student's positions."""
    teacher = _soft(teacher)
    if isinstance(teacher, Dense):
        found, expected = teacher.logits.shape, student
    else:
        found, expected = teacher.values.shape[:-1], student[:-1]
    if found != expected:
        raise UserError(
            f"The student's outputs have shape {tuple(expected)}, the teacher's {tuple(found)}: "
            "both need the same positions (frame rate, padding) and the same units."
        )
    return teacher
