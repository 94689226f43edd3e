"""How much an utterance's task loss and its distillation loss count: the heart of AdaKD.

A weighting takes what the student lost on each utterance of a batch and says how to add it up:

    weighting(task, distill, difficulty, progress, doubt)
        -> Weighted(loss, task_weight, distill_weight)

    task        (B,)            the student's loss against the transcript, per target unit
    distill     (B,) or None    the student's loss against the teacher, per the same target units
    difficulty  (B,) or None    x: the teacher's own task loss on the utterance, per target unit
    progress    0 to 1          step / (steps - 1), in optimiser steps of the whole run
    doubt       (B,) or None    how likely the transcript is wrong, 0 to 1 (see `wrong_transcript`):
                                for a weighting with a guard

All vectors run over utterances; the trainer sums the loss over a batch and divides. A weighting
knows nothing of speech, models or files and needs torch alone, so it goes into any training loop
(docs/plug_and_play.md shows one). What it learns from data lives in buffers, which travel with the
checkpoint through `state_dict`, its options do not; what it gathers while training (a running mean,
say) stands still in eval mode. Numbers of a batch are not looked at, which would make a GPU wait:
of a NaN comes a NaN.

    finetune    FineTune      loss_i = task_i
    kd          FixedWeight   loss_i = (1 - alpha) task_i + alpha distill_i       arXiv 1503.02531
    superloss   SuperLoss     that loss, less where it is large, more where small NeurIPS 2020
    focal       FocalLoss     that loss, less of it where it is small             arXiv 1708.02002
    annealing   AnnealingKD   loss_i = distill_i, then task_i                     arXiv 2104.07163
    adakd       AdaKD         loss_i = (1 - alpha_i) task_i + alpha_i distill_i   arXiv 2405.08019
    adakd-learned  LearnedAdaKD   the same, its k and t learned on held-out utterances

`build` makes one from its name and its options, the keywords of the class.
"""

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, cast, get_args

import torch
from torch import Tensor, nn

from adakd.errors import UserError, suggest

ThresholdName = Literal["mean", "p25", "p50", "p75"]
Scale = Literal["linear", "log", "rank"]
Control = Literal["none", "permuted", "inverted", "mean", "threshold"]
Guard = Literal["drop"] | float
Values = Tensor | Sequence[float]  # one of every training utterance
Maybe = Tensor | None

# The paper's alpha at x = t, and of all utterances where k is 0.
ALPHA_AT_T = math.exp(-1)
# "k: auto" gives the utterance at this quantile of the teacher's losses this alpha at the start, if
# the alpha at t is the paper's.
AUTO_QUANTILE = 0.95
AUTO_ALPHA = 0.1
# On the log scale what is easier than this counts as this easy: float32 has no say below it.
EASIEST = 1e-8
# How much of SuperLoss's running mean stays from one optimiser step to the next.
RUNNING_MEAN = 0.9


class Weighted(NamedTuple):
    """A weighted batch, each (B,), in float32 or wider. Only `loss` carries a gradient.

    The weights are the factors of task and distillation loss within `loss`.
    """

    loss: Tensor
    task_weight: Tensor
    distill_weight: Tensor


class Weighting(nn.Module):
    """The base of all weightings: checks what comes in; `weigh` of a subclass does the rest.

    What a trainer asks it:

        uses_distill, uses_difficulty,  what it must supply, at least at times
        uses_doubt
        wants_task, wants_distill       which of the two losses count at this time
        logits_scale                    which distillation loss it is
        step_done                       to be called after every optimiser step
        restart_at                      where training starts again, or None
        learn_every, held_out           when to call `learn`, and what to hold out for that
    """

    uses_distill: bool = True
    uses_difficulty: bool = False
    uses_doubt: bool = False
    # The progress from which the student goes on from its best checkpoint so far, with a fresh
    # optimiser and learning-rate schedule. A trainer moves it to where it has checkpoints.
    restart_at: float | None = None
    # Every so many optimiser steps a trainer calls `learn`; 0: never.
    learn_every: int = 0
    # The share of the training utterances that are kept from the student, for `learn`.
    held_out: float = 0.0

    def fit(self, difficulties: Values, doubts: Values | None = None) -> None:
        """Learn from the whole training set's difficulties, and doubts, before training.

        Here: nothing.
        """

    def summary(self) -> dict[str, Any]:
        """What a report should say of the weights; plain numbers.

        Some names are the reports': "start" and "end", alpha over the training set as training
        begins and as it ends, each as {"min", "p10", "mean", "p90", "max"}, and beside these "t",
        "k_start" and "k_end": a study shows them.
        """
        return {}

    def wants_distill(self, progress: float) -> bool:
        """Whether the distillation loss counts at this progress; elsewhere it may be None."""
        return self.uses_distill

    def wants_task(self, progress: float) -> bool:
        """Whether the task loss counts at this progress; elsewhere its weights are 0."""
        return True

    def logits_scale(self, progress: float) -> float | None:
        """None where the distillation loss is the KL divergence.

        Else it is the squared error between the student's logits and this times the teacher's.
        """
        return None

    def step_done(self, task: Tensor, distill: Maybe) -> None:
        """Learn from an optimiser step that has been made; here: nothing.

        A trainer calls it once a step on every process, also where N is 0. It does nothing in eval
        mode.

        Args:
            task: (N,) the task losses of all utterances that this process had in the step.
            distill: (N,) their distillation losses, None where none were wanted.
        """

    def learn(self, difficulty: Tensor, slope: Tensor) -> None:
        """Learn from held-out utterances what to weigh; here: nothing.

        A trainer calls it on every process, also where B is 0, before the step that it describes.

        Args:
            difficulty: (B,) x of the utterances that this process has in the step.
            slope: (B,) by how much the loss on held-out utterances will rise with the weight of
                each one's distillation loss, up to a factor that all have in common.
        """

    def logged(self, progress: float) -> dict[str, float | None]:
        """What changes in the course of training, by name; None where it is not known yet."""
        return {}

    def forward(
        self, task: Tensor, distill: Maybe, difficulty: Maybe, progress: float, doubt: Maybe = None
    ) -> Weighted:
        """Weigh a batch; the module's first lines describe the arguments.

        Raises:
            UserError: a needed vector is missing, a shape is not (B,), progress is not in 0 to 1.
            TypeError: `weigh` of a subclass returns anything but three vectors of shape (B,).
        """
        name = type(self).__name__
        if task.dim() != 1:
            raise UserError(
                f"{name} needs one task loss per utterance, shape (B,), and got shape "
                f"{tuple(task.shape)}: do not average over the batch first."
            )
        for what, values, needed in (
            ("distill", distill, self.wants_distill(progress)),
            ("difficulty", difficulty, self.uses_difficulty),
            ("doubt", doubt, self.uses_doubt),
        ):
            if values is None and needed:
                raise UserError(f"{name} needs `{what}`, one value per utterance, and got None.")
            if values is not None and values.shape != task.shape:
                raise UserError(
                    f"{name} got task losses of shape {tuple(task.shape)} and `{what}` of shape "
                    f"{tuple(values.shape)}: both need one value per utterance."
                )
        if not 0.0 <= progress <= 1.0:
            raise UserError(f"{name} got progress {progress}: it runs from 0 (first step) to 1.")
        weighted = self.weigh(task, distill, difficulty, progress, doubt)
        if not isinstance(weighted, Weighted) or not all(
            isinstance(each, Tensor) and each.shape == task.shape for each in weighted
        ):
            # One number for the whole batch would train, and count it as a single utterance.
            raise TypeError(
                f"{name}.weigh must return Weighted(loss, task_weight, distill_weight), a value "
                f"per utterance each, of shape {tuple(task.shape)}."
            )
        return weighted

    def weigh(
        self, task: Tensor, distill: Maybe, difficulty: Maybe, progress: float, doubt: Maybe
    ) -> Weighted:
        """What `forward` returns; the arguments are checked."""
        raise NotImplementedError(f"{type(self).__name__} lacks `weigh`")


class FineTune(Weighting):
    """The transcript alone: loss = task. The baseline without a teacher."""

    uses_distill = False

    def weigh(
        self, task: Tensor, distill: Maybe, difficulty: Maybe, progress: float, doubt: Maybe
    ) -> Weighted:
        loss = _at_least_float32(task)
        return Weighted(loss, torch.ones_like(loss), torch.zeros_like(loss))


class Guarded(Weighting):
    """The base of those that may have a guard against transcripts that are wrong.

    Where the teacher disagrees with a transcript, a high x alone cannot tell hard audio from a
    wrong transcript. A guard heeds the doubt d in the transcript (`wrong_transcript` gives it):

        alpha_i <- (1 - d_i) alpha_i + d_i guard

    so that without doubt nothing changes, and a surely wrong transcript hardly counts. The guard
    "drop" leaves such utterances out instead, teacher and all, as filtering the training set would
    (but that they stay in their batches, and count where a trainer takes the mean):

        loss_i  <- (1 - d_i) loss_i

    It tells what a guard gains by its teacher from what it gains by not believing the transcript.

    Args:
        guard: weight of the distillation loss where the transcript is surely wrong, 0 to 1, such as
            0.95; or "drop"; None takes every transcript as right.

    Buffers: with a guard doubted, the mean doubt and the share of the training set whose doubt is
    over one half.
    """

    doubted: Tensor

    def __init__(self, guard: Guard | None = None) -> None:
        super().__init__()
        self.guard: Guard | None = guard
        if not (guard is None or guard == "drop"):
            self.guard = _number("guard", guard, 'a number, "drop", or left out')
            if not 0 <= self.guard <= 1:
                raise UserError(f"guard is {guard}: the distillation loss weighs between 0 and 1.")
        self.uses_doubt = self.guard is not None
        if self.uses_doubt:
            self.register_buffer("doubted", torch.full((2,), math.nan))

    def _doubts(self, doubts: Values | None, count: int) -> Tensor:
        """All doubts of a training set, (N,) float64, checked; `doubted` is known then.

        Raises:
            UserError: there are none, or not as many as the ``count`` difficulties; some are no
                probability; no transcript is taken for right.
        """
        name = type(self).__name__
        if doubts is None:
            raise UserError(f"{name} has a guard and cannot be fitted without `doubts`.")
        every = _finite(name, "doubts", doubts)
        if len(every) != count:
            raise UserError(
                f"{name} cannot be fitted to {count} difficulties and {len(every)} doubts: it "
                "needs both of every utterance."
            )
        if every.min() < 0 or every.max() > 1:
            raise UserError(f"{name} cannot be fitted: a doubt is a probability, from 0 to 1.")
        wrong = every > 0.5
        if wrong.all():
            raise UserError(
                f"{name} cannot be fitted: the guard takes all {len(every)} transcripts for wrong."
            )
        self.doubted.copy_(torch.stack([every.mean(), wrong.double().mean()]))
        return every

    def _heeding(self, alpha: Tensor, doubt: Maybe) -> Tensor:
        """Alpha as the guard has it, same shape."""
        if doubt is None or self.guard is None or self.guard == "drop":
            return alpha
        return alpha + doubt.to(alpha) * (self.guard - alpha)

    def _mixed(self, task: Tensor, distill: Maybe, alpha: Tensor, doubt: Maybe) -> Weighted:
        """A batch by its alpha, and, where the guard drops, by what is not in doubt."""
        mixed = _mixture(task, distill, alpha)
        if self.guard != "drop":
            return mixed
        kept = 1 - cast(Tensor, doubt).detach().to(mixed.loss)
        return Weighted(*(kept * each for each in mixed))

    def _told(self) -> dict[str, Any]:
        """What `summary` says of the guard."""
        if self.guard is None:
            return {}
        mean, share = self.doubted.tolist()
        return {"guard": self.guard, "doubt_mean": mean, "doubted": share}


class FixedWeight(Guarded):
    """Knowledge distillation with one weight for all: loss = (1 - alpha) task + alpha distill.

    Hinton, Vinyals, Dean 2015, arXiv 1503.02531. The guard is ours: see `Guarded`.

    Args:
        alpha: weight of the distillation loss, 0 to 1. 0.5 weighs both equally, the AdaKD paper's
            baseline; CTC studies use 0.25, 0.9 and 1.0 (arXiv 2506.01503).
        guard: weight of the distillation loss where the transcript is surely wrong, 0 to 1, such as
            0.95; or "drop"; None takes every transcript as right.

    Buffers: those of `Guarded`, and with a guard alpha_range, (5,), the figures of `summary`.
    """

    alpha_range: Tensor

    def __init__(self, alpha: float = 0.5, guard: Guard | None = None) -> None:
        super().__init__(guard)
        if self.uses_doubt:
            self.register_buffer("alpha_range", torch.full((len(_RANGE),), math.nan))
        self.fixed_alpha = _number("alpha", alpha)
        if not 0.0 <= self.fixed_alpha <= 1.0:
            raise UserError(f"alpha is {alpha}: the distillation loss weighs between 0 and 1.")
        # A distillation loss that never counts need not be computed.
        self.uses_distill = self.fixed_alpha > 0 or self.guard not in (None, "drop")

    def weigh(
        self, task: Tensor, distill: Maybe, difficulty: Maybe, progress: float, doubt: Maybe
    ) -> Weighted:
        alpha = torch.full_like(_at_least_float32(task), self.fixed_alpha)
        alpha = self._heeding(alpha, None if doubt is None else doubt.detach())
        return self._mixed(task, distill, alpha, doubt)

    @torch.no_grad()
    def fit(self, difficulties: Values, doubts: Values | None = None) -> None:
        """With a guard: find what it makes of the training set, for `summary`.

        Args:
            difficulties: (N,), not looked at.
            doubts: (N,) of every training utterance, in any order.
        Raises:
            UserError: there are none, some are no probability, or no transcript is taken for right.
        """
        if self.uses_doubt:
            every = self._doubts(doubts, len(difficulties))
            alpha = torch.full((len(every),), self.fixed_alpha)
            self.alpha_range.copy_(_range(self._heeding(alpha, every)))

    def summary(self) -> dict[str, Any]:
        """{"alpha": float}, and with a guard what AdaKD's says of it, alpha's range included."""
        found: dict[str, Any] = {"alpha": self.fixed_alpha, **self._told()}
        if self.uses_doubt:
            found["start"] = found["end"] = _figures(self.alpha_range)
        return found


def lambert_w(y: Tensor) -> Tensor:
    """The principal branch of Lambert's W, w exp(w) = y with w >= -1, in float64; no gradient.

    Corless et al. 1996, "On the Lambert W function": its series at the branch point y = -1/e, and
    Halley's iteration elsewhere.

    Args:
        y: any shape, at least -1/e; what is below, if only by rounding, counts as -1/e.
    """
    y = y.detach().double()
    p = (2 * (1 + math.e * y)).clamp(min=0).sqrt()
    series = -1 + p - p**2 / 3 + 11 / 72 * p**3
    w = torch.where(y < 0, series, y.clamp(min=0).log1p())
    for _ in range(6):  # the error is cubed every time: four do up to 1e6, six in float64
        excess = w - y * torch.exp(-w)
        w = torch.where(p > 1e-4, w - excess / (w + 1 - (w + 2) * excess / (2 * w + 2)), w)
    return w


class SuperLoss(FixedWeight):
    """Less weight on what is harder than usual, more on what is easier, as the student sees it.

        loss_i = (l_i - tau) s_i + lambda (log s_i)^2
        s_i    = exp(-W(max(-2/e, (l_i - tau) / lambda) / 2))      W: Lambert's function
        l_i    = (1 - alpha) task_i + alpha distill_i

    Castells, Weinzaepfel, Revaud 2020, "SuperLoss: A Generic Loss for Robust Curriculum Learning",
    NeurIPS. s_i is the minimum of loss_i over s, so that no gradient need flow through it.

    tau is the running mean of l, over all utterances of an optimiser step:
    tau <- 0.9 tau + 0.1 mean(l) after every step, on the mean over all processes. A step is weighed
    with the tau of the steps before it, as its own mean is not known before its last micro-batch.
    In the first step every utterance counts as usual: s = 1. The loss that is told has tau taken
    off: it may fall below 0, and is to be compared with no other method's.

    Args:
        alpha: weight of the distillation loss in l, 0 to 1.
        regularisation: lambda, above 0. The larger it is, the nearer is s to 1; the authors take 1
            for some data sets and 0.25 for others.

    Buffers: tau, NaN before the first step.
    """

    tau: Tensor

    def __init__(self, alpha: float = 0.5, regularisation: float = 1.0) -> None:
        super().__init__(alpha)
        self.regularisation = _number("regularisation", regularisation)
        if self.regularisation <= 0:
            raise UserError(f"regularisation is {regularisation}: SuperLoss's lambda is above 0.")
        self.register_buffer("tau", torch.tensor(math.nan))

    def weigh(
        self, task: Tensor, distill: Maybe, difficulty: Maybe, progress: float, doubt: Maybe
    ) -> Weighted:
        plain = super().weigh(task, distill, difficulty, progress, doubt)
        loss = plain.loss.detach()
        usual = torch.where(self.tau.isnan(), loss, self.tau.to(loss.dtype))
        log_s = -lambert_w(((loss - usual) / self.regularisation).clamp(min=-2 / math.e) / 2)
        s = log_s.exp().to(loss.dtype)
        return Weighted(
            (plain.loss - usual) * s + self.regularisation * log_s.to(loss.dtype) ** 2,
            plain.task_weight * s,
            plain.distill_weight * s,
        )

    @torch.no_grad()
    def step_done(self, task: Tensor, distill: Maybe) -> None:
        if not self.training:
            return
        losses = super().weigh(task, distill, None, 0.0, None).loss.double()
        sums = torch.stack([losses.sum(), losses.new_tensor(len(losses))])
        total, count = over_processes(sums)
        mean = total / count
        if mean.isfinite():  # a step that is not is one that the optimiser skips, too
            before = mean if self.tau.isnan() else self.tau
            self.tau.copy_(RUNNING_MEAN * before + (1 - RUNNING_MEAN) * mean)

    def logged(self, progress: float) -> dict[str, float | None]:
        return {"tau": None if self.tau.isnan() else self.tau.item()}

    def summary(self) -> dict[str, Any]:
        return super().summary() | {"regularisation": self.regularisation} | self.logged(1.0)


class FocalLoss(FixedWeight):
    """Less weight on what the student has already learnt.

        loss_i = (1 - p_i)^gamma l_i      p_i = exp(-l_i)
        l_i    = (1 - alpha) task_i + alpha distill_i

    Lin et al. 2017, "Focal Loss for Dense Object Detection", arXiv 1708.02002, where l_i is the
    cross-entropy -log p_i. The gradient flows through (1 - p_i)^gamma, too. A loss per target unit
    is needed: of a sum over units p is about 0, and nothing happens.

    Args:
        alpha: weight of the distillation loss in l, 0 to 1.
        gamma: at least 0; 0 gives l itself.
    """

    def __init__(self, alpha: float = 0.5, gamma: float = 2.0) -> None:
        super().__init__(alpha)
        self.gamma = _number("gamma", gamma)
        if self.gamma < 0:
            raise UserError(f"gamma is {gamma}: Focal loss takes 0 or more.")

    def weigh(
        self, task: Tensor, distill: Maybe, difficulty: Maybe, progress: float, doubt: Maybe
    ) -> Weighted:
        plain = super().weigh(task, distill, difficulty, progress, doubt)
        # 1 - p, above 0: a KL may be below 0 by rounding, or as an estimate from a top-k teacher,
        # and the slope of 0^gamma may be infinite.
        rest = -torch.expm1(-plain.loss)
        factor = rest.clamp(min=torch.finfo(rest.dtype).tiny) ** self.gamma
        weight = factor.detach()
        return Weighted(
            factor * plain.loss, weight * plain.task_weight, weight * plain.distill_weight
        )

    def summary(self) -> dict[str, Any]:
        return super().summary() | {"gamma": self.gamma}


class AnnealingKD(Weighting):
    """The teacher alone, from a faint image of it to a clear one; then the transcript alone.

        phase I    loss_i = distill_i, the squared error between z_s and phi(T) z_t (logits)
                   phi(T) = 1 - (T - 1) / T_max, T falls from T_max to 1 in equal stages
        phase II   loss_i = task_i, from the best checkpoint of phase I on, with a fresh optimiser
                   and learning-rate schedule

    Jafari et al. 2021, "Annealing Knowledge Distillation", arXiv 2104.07163.

    Args:
        max_temperature: T_max, a whole number from 1 on.
        first_phase: share of the optimiser steps in phase I. 2/3 is what the authors' published
            code does (200 epochs, then 100). A trainer rounds it to whole epochs.
    """

    def __init__(self, max_temperature: int = 10, first_phase: float = 2 / 3) -> None:
        super().__init__()
        self.max_temperature = _number("max_temperature", max_temperature)
        if self.max_temperature < 1 or self.max_temperature % 1:
            raise UserError(f"max_temperature is {max_temperature}: give a whole number from 1 on.")
        self.restart_at: float = _number("first_phase", first_phase)
        if not 0 < self.restart_at < 1:
            raise UserError(f"first_phase is {first_phase}: a share of the steps between 0 and 1.")

    def wants_distill(self, progress: float) -> bool:
        return progress < self.restart_at

    def wants_task(self, progress: float) -> bool:
        return not self.wants_distill(progress)

    def temperature(self, progress: float) -> float:
        """T, a whole number; 1 in phase II."""
        # Without the small number a rounded quotient would put off the next stage by a step.
        stage = math.floor(self.max_temperature * progress / self.restart_at + 1e-9)
        return max(1.0, self.max_temperature - stage)

    def logits_scale(self, progress: float) -> float | None:
        return 1 - (self.temperature(progress) - 1) / self.max_temperature

    def weigh(
        self, task: Tensor, distill: Maybe, difficulty: Maybe, progress: float, doubt: Maybe
    ) -> Weighted:
        first = self.wants_distill(progress)
        loss = _at_least_float32(cast(Tensor, distill) if first else task)
        none, full = torch.zeros_like(loss), torch.ones_like(loss)
        return Weighted(loss, none, full) if first else Weighted(loss, full, none)

    def logged(self, progress: float) -> dict[str, float | None]:
        phase = 1 if self.wants_distill(progress) else 2
        return {"phase": phase, "temperature": self.temperature(progress)}

    def summary(self) -> dict[str, Any]:
        return {"max_temperature": self.max_temperature, "restart_at": self.restart_at}


def adaptive_alpha(
    difficulty: Tensor, threshold: Tensor, k: Tensor, alpha_at_t: float = ALPHA_AT_T
) -> Tensor:
    """AdaKD's weight of the distillation loss: alpha = exp(-exp(k (x - t) / 2)).

    The paper (arXiv 2405.08019) writes it in two steps, alpha = exp(-1 / sqrt(d_f)) with the
    difficulty factor d_f = exp(-k (x - t)). As 1 / sqrt(d_f) = exp(k (x - t) / 2), one line is the
    same, without the division and without the overflow of d_f. With k > 0:

        x far below t (easy)  alpha -> 1      x = t, or k = 0  alpha = 1/e = 0.368
        x far above t (hard)  alpha -> 0

    The 1/e is a basis like any other: alpha = a ** exp(k (x - t) / 2) is the same curve through
    a at x = t. That generalisation is ours; a is the paper's 1/e unless given.

    Args:
        difficulty, threshold, k: x, t and k of any shapes that broadcast, of any floating dtype;
            they and x - t are finite.
        alpha_at_t: a, above 0 and below 1.
    Returns: alpha in float32 or wider; neither it nor its derivatives are ever NaN.
    """
    exponent = _at_least_float32(k) * (_at_least_float32(difficulty) - threshold) / 2
    exponent = exponent + math.log(-math.log(alpha_at_t))  # exactly 0 for 1/e
    return _falling(exponent)


def _falling(exponent: Tensor) -> Tensor:
    """exp(-exp(e)), same shape."""
    # From 7 on it is 0 even in float64: the clamp costs nothing. Without it the inner exp
    # overflows, and the derivative -exp(e) exp(-exp(e)) becomes inf * 0 = NaN.
    return torch.exp(-torch.exp(exponent.clamp(max=10.0)))


def wrong_transcript(transcript: Values, hypothesis: Values) -> Tensor:
    """How likely each transcript of a training set is wrong, as far as its teacher can tell.

    A high loss of the teacher means hard audio or a wrong transcript. They are told apart by what
    the teacher would rather have read: on hard audio its own hypothesis costs it much as well; with
    a wrong transcript the hypothesis costs little, and all of the loss is a gap between the two.

        gap_i   = transcript_i - hypothesis_i
        z_i     = (gap_i - median(gap)) / (1.4826 MAD(gap) + max(mean(hypothesis), hypothesis_i))
        doubt_i = z_i^4 / (z_i^4 + 1)      where z_i > 0, else 0

    A transcript is doubted by one half where its gap exceeds the usual one by the spread of the
    gaps and the teacher's own uncertainty together. The rule is ours, after the robust z-scores
    that find outliers (Iglewicz and Hoaglin 1993, "How to Detect and Handle Outliers"). Why like
    this:

    - The unit of z has two parts, as each alone fails. The median absolute deviation is 0 where the
      teacher gets more than half of the set right to the letter (most gaps are 0), and then every
      slip of the teacher would count as infinitely odd. How much its own hypotheses cost it is
      never 0, and holds no transcript, so that no share of wrong ones moves it; but it is small for
      a teacher that errs and is sure of itself. Where that one errs on most utterances the spread
      of the gaps is wide. Where it gets most right to the letter both parts are small, and its sure
      slips are taken for wrong transcripts: the known weakness of this rule, as are hypotheses
      that run away, whose losses raise the mean for all.
    - Audio harder than usual is measured by its own hypothesis: of what the teacher hardly
      understands it cannot say that something else was said.
    - Median and MAD stand until half of the transcripts are wrong.
    - Nothing has a unit: all losses times a constant give the same doubts. Only ratios count.
    - It is no test with a fixed share of rejections: how many are doubted follows from the losses,
      gradually (z = 1/2 gives 0.06, z = 2 gives 0.94).
    - Where to put the half was tried on teachers of an hour of Hindi, a fifth of whose transcripts
      were shuffled: another sentence costs such a teacher two units, in the middle, and not the ten
      or hundred of one that errs seldom. With the half at z = 3 a fifth of them were found, and of
      those that the teacher had not been trained on hardly one (docs/FINDINGS.md). A right
      transcript that is doubted is still learnt from its teacher.

    A teacher that was fine-tuned on these very transcripts may have learnt the wrong ones by heart:
    losses of a teacher that has not seen them tell more. Losses of several teachers are not to be
    mixed: ask for each teacher's utterances by themselves.

    Args:
        transcript: (N,) the teacher's losses on the transcripts, per target unit.
        hypothesis: (N,) its losses on its own greedy hypotheses, divided by the target units of
            the *transcripts*: the gap is then the log-likelihood ratio per unit.
    Returns:
        (N,) float64, 0 to 1.
    Raises:
        UserError: there are none, they differ in number, or some are not finite.
    """
    said, heard = (
        torch.as_tensor(values, dtype=torch.float64).detach().flatten()
        for values in (transcript, hypothesis)
    )
    if len(said) == 0 or len(said) != len(heard):
        raise UserError(
            f"{len(said)} losses on transcripts and {len(heard)} on hypotheses: a guard needs one "
            "of each for every utterance."
        )
    broken = int((~(said.isfinite() & heard.isfinite())).sum())
    if broken:
        raise UserError(
            f"{broken} of {len(said)} pairs of losses are not finite: look for texts that do not "
            "fit into their audio."
        )
    gap = said - heard
    excess = gap - gap.quantile(0.5)
    spread = 1.4826 * excess.abs().quantile(0.5)
    unit = spread + torch.maximum(heard, heard.mean())
    z = excess.clamp(min=0) / unit.clamp(min=torch.finfo(torch.float64).tiny)
    return 1 / (1 + z**-4)  # z = 0: 1 / inf


class AdaKD(Guarded):
    """A weight for every utterance: easy ones are distilled first, hard ones as training goes on.

        loss_i  = (1 - alpha_i) task_i + alpha_i distill_i
        alpha_i = alpha ** exp(k (x_i - t) / 2)                     see `adaptive_alpha`
        k       = k_start + (k_end - k_start) progress

    Ganguly et al. 2024, arXiv 2405.08019, with alpha = 1/e. x_i is the difficulty of the utterance
    for the frozen teacher, so alpha_i carries no gradient. `fit` finds t and k_start on the
    training set.

    `scale` puts something else in place of x throughout, t and k included. Losses are skewed, and
    few utterances far above the others leave the others alphas that hardly differ.

        linear   x itself, as in the paper
        log      log x
        rank     the share of the training set that is easier, 0 to 1: with t, k and alpha as they
                 are by default, alpha_i starts out spread from 0.67 to 0.08, whatever x is like

    `control` changes one thing only, to tell what of AdaKD it is that helps:

        none        nothing
        permuted    every utterance has the x of another one (or, as it falls, its own), drawn once,
                    the same for all seeds; equal x have the same partner
        inverted    the easiest utterance has the x of the hardest, and so on: hard ones come first
        mean        every utterance has the mean alpha of the training set at this progress: the
                    schedule without the instances (not the mean of its batch, whose utterances are
                    of one length, and so of like x: that would keep part of the instances)
        threshold   two alphas at a time, the means over the training utterances with x <= t and
                    with x > t: the instances without degrees

    `guard` is for transcripts that may be wrong, and have a high x: AdaKD trusts the transcript
    there. See `Guarded`. t, k and what `control` exchanges are found on utterances whose doubt is
    not over one half: wrong transcripts have the highest x of all, and would make everything else
    look easy.

    Args:
        threshold: t, as the mean or the 25th, 50th or 75th percentile of the training set's x, or
            as a number in the units of x (nats per target unit, if the scale is linear).
        k: k_start, as a number in 1 / units of x, or "auto": such that the utterance at the 95th
            percentile of x starts with alpha ** 2.3, which is 0.1 for the paper's alpha, whatever
            the scale of x: k_start = 2 ln(ln(1 / 0.1)) / (x_95 - t).
        k_end: k at the end of training, as a number in the same units, or "mirror", -k_start. 0
            gives every utterance the weight `alpha` in the end; below 0 the hard ones end with more
            weight on the teacher than the easy ones. The paper only says that k falls linearly;
            the 0 is our choice.
        scale, control: see above.
        alpha: weight of the distillation loss where x = t, and of all utterances where k is 0,
            between 0 and 1: it is KD's alpha then. Before that their mean lies elsewhere (`summary`
            has it). The paper has 1/e, and no setting for it.
        guard: weight of the distillation loss where the transcript is surely wrong, 0 to 1, such as
            0.95; or "drop"; None takes every transcript as right.

    Buffers: t, k_start, alpha_range, (2, 5), the figures of `summary` as training begins and as it
    ends, and known, (2, N): x of the training set (with a guard, of the trusted transcripts) in
    rising order, and what each of them is exchanged for; (2, 0) where nobody asks for it.
    And those of `Guarded`.
    """

    uses_difficulty = True
    t: Tensor
    k_start: Tensor
    alpha_range: Tensor
    known: Tensor

    def __init__(
        self,
        threshold: ThresholdName | float = "mean",
        k: Literal["auto"] | float = "auto",
        k_end: Literal["mirror"] | float = 0.0,
        scale: Scale = "linear",
        control: Control = "none",
        guard: Guard | None = None,
        alpha: float = ALPHA_AT_T,
    ) -> None:
        super().__init__(guard)
        names = get_args(ThresholdName)
        self.threshold = (
            threshold
            if threshold in names
            else _number("threshold", threshold, f"one of {', '.join(names)} or a number")
        )
        self.k = "auto" if k == "auto" else _number("k", k, "auto or a number")
        mirror = k_end == "mirror"
        self.k_end = "mirror" if mirror else _number("k_end", k_end, "mirror or a number")
        self.scale = _choice("scale", scale, get_args(Scale))
        self.control = _choice("control", control, get_args(Control))
        self.alpha_at_t = _number("alpha", alpha)
        if not 0 < self.alpha_at_t < 1:
            raise UserError(f"alpha is {alpha}: AdaKD's lies above 0 and below 1.")
        # NaN stands for "not known before fit", and survives the trip through a checkpoint.
        known_t = math.nan if isinstance(self.threshold, str) else self.threshold
        known_k = math.nan if isinstance(self.k, str) else self.k
        self.register_buffer("t", torch.tensor(known_t))
        self.register_buffer("k_start", torch.tensor(known_k))
        self.register_buffer("alpha_range", torch.full((2, len(_RANGE)), math.nan))
        self.register_buffer("known", torch.empty(2, 0))
        self._is_known = False
        self._levels_of: tuple[float, torch.device] | None = None

    @property
    def _needs_known(self) -> bool:
        return self.scale == "rank" or self.control != "none"

    @torch.no_grad()
    def fit(self, difficulties: Values, doubts: Values | None = None) -> None:
        """Set t and k_start from the teacher's losses x on the whole training set.

        Args:
            difficulties: (N,) x of every training utterance, in any order.
            doubts: (N,) with a guard, in the same order.
        Raises:
            UserError: there are none, some are not finite, or no k answers to "auto".
        """
        every = _finite(type(self).__name__, "difficulties", difficulties).to(self.t.device)
        doubt, x = None, every
        if self.uses_doubt:
            doubt = self._doubts(doubts, len(every)).to(every.device)
            x = every[doubt <= 0.5]
        if self._needs_known:
            rising = x.float().sort().values
            places = torch.arange(len(x), device=x.device)
            if self.control == "inverted":
                places = places.flip(0)
            elif self.control == "permuted":
                # The same draw whenever a run is resumed, whatever came before.
                places = torch.randperm(len(x), generator=torch.Generator().manual_seed(1))
            self.known = torch.stack([rising, rising[places.to(x.device)]])
        self._levels_of = None
        scaled = self._scaled(x)
        self.t.fill_(_threshold(scaled, self.threshold))
        self.k_start.fill_(self._solve_k(scaled) if isinstance(self.k, str) else self.k)
        if self.control == "threshold":
            easy = self._scaled(self.known[0]) <= self.t
            if easy.all() or not easy.any():
                raise UserError(
                    f"control: threshold has nothing to tell apart: all {len(x)} difficulties are "
                    f"on one side of the threshold t = {self.t.item():.6g} ({self.threshold}); set "
                    "threshold by hand."
                )
        if self.guard == "drop":
            every, doubt = x, None
        for row, progress in enumerate((0.0, 1.0)):
            self.alpha_range[row] = _range(self.alpha(every, progress, doubt))

    def _scaled(self, x: Tensor) -> Tensor:
        """What stands in place of x on this scale, same shape."""
        if self.scale == "log":
            return x.clamp(min=EASIEST).log()
        if self.scale == "rank":
            rising = self.known[0]
            below, up_to = (
                torch.searchsorted(rising, x.to(rising), right=right) for right in (False, True)
            )
            return (below + up_to).to(rising) / (2 * len(rising))  # equals share a rank
        return x

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *others: Any) -> None:
        # A fresh module does not know the size of the training set.
        if (known := state_dict.get(f"{prefix}known")) is not None:
            self.known = self.known.new_empty(known.shape)
        self._is_known, self._levels_of = False, None
        super()._load_from_state_dict(state_dict, prefix, *others)

    def _solve_k(self, x: Tensor) -> float:
        """k with exp(k (x_q - t) / 2) = ln(1 / 0.1): with alpha(t) = 1/e it is alpha(x_q) = 0.1."""
        quantile = x.quantile(AUTO_QUANTILE).float().item()
        t = self.t.item()
        rise = 2 * math.log(math.log(1 / AUTO_ALPHA))
        # Both are float32 by now: a gap in the rounding of a float64 mean is no gap, and one whose
        # k would be infinite is none either.
        if quantile - t <= rise / torch.finfo(torch.float32).max:
            raise UserError(
                f"k: auto has no solution: the {AUTO_QUANTILE:.0%} quantile of the teacher's "
                f"{len(x)} losses, {quantile:.6g}, is not above the threshold t = {t:.6g} "
                f"({self.threshold}), so no k lets it start with less of the teacher; set k or "
                "threshold by hand."
            )
        return rise / (quantile - t)

    @property
    def _last_k(self) -> Tensor | float:
        return -self.k_start if isinstance(self.k_end, str) else self.k_end

    def k_at(self, progress: float) -> Tensor:
        """k after this share of the training, () float32: linear from k_start to k_end."""
        return self.k_start + (self._last_k - self.k_start) * progress

    def alpha(self, difficulty: Tensor, progress: float, doubt: Maybe = None) -> Tensor:
        """The weight of the distillation loss of utterances with these x, same shape, no gradient.

        doubt: heeded by a guard that is a number; None as where all transcripts are right.

        Raises:
            UserError: `fit` was not called, and t or k is not a given number.
        """
        if not self._is_known:  # asked once: to look at t and k makes a GPU wait
            if (self.t + self.k_start).isnan() or (self._needs_known and not self.known.numel()):
                raise UserError(
                    "AdaKD does not know its threshold and k yet: call fit() with the difficulties "
                    "of the whole training set before training, or load a checkpoint."
                )
            self._is_known = True
        alpha = self._unguarded(difficulty.detach(), progress)
        return self._heeding(alpha, None if doubt is None else doubt.detach())

    def _unguarded(self, x: Tensor, progress: float) -> Tensor:
        """Alpha of these x, same shape, whatever the transcripts are like."""
        k = self.k_at(progress)
        if self.control in ("permuted", "inverted"):
            places = torch.searchsorted(self.known[0], x.to(self.known))
            x = self.known[1][places.clamp(max=self.known.shape[1] - 1)]
        x = self._scaled(x)
        if self.control not in ("mean", "threshold"):
            return adaptive_alpha(x, self.t, k, self.alpha_at_t)
        easy, hard = self._levels(progress)
        return torch.where(x <= self.t, easy, hard)

    def _levels(self, progress: float) -> tuple[Tensor, Tensor]:
        """What the controls mean and threshold give in place of alpha, to x up to t and above, ().

        Computed once a step: from all of the training set, be it a million utterances.
        """
        asked = progress, self.known.device
        if self._levels_of != asked:
            others = self._scaled(self.known[0])
            every = adaptive_alpha(others, self.t, self.k_at(progress), self.alpha_at_t)
            sides = [others <= self.t, others > self.t]
            if self.control == "mean":
                sides = [torch.ones_like(sides[0])] * 2
            self._kept_levels = every[sides[0]].mean(), every[sides[1]].mean()
            self._levels_of = asked
        return self._kept_levels

    def weigh(
        self, task: Tensor, distill: Maybe, difficulty: Maybe, progress: float, doubt: Maybe
    ) -> Weighted:
        alpha = self.alpha(cast(Tensor, difficulty), progress, doubt)
        return self._mixed(task, distill, alpha, doubt)

    def logged(self, progress: float) -> dict[str, float | None]:
        return {"k": self.k_at(progress).item()}

    def summary(self) -> dict[str, Any]:
        """t, k and alpha's real range over the training set, which a skewed x makes narrow.

        Returns:
            {"t", "k_start", "k_end", "alpha": float, "scale", "control": str,
            "start", "end": {"min", "p10", "mean", "p90", "max"}}, and with a guard "guard",
            "doubt_mean", "doubted": float, the last the share of transcripts taken for wrong
        Raises:
            UserError: `fit` was not called.
        """
        if self.alpha_range.isnan().any():
            raise UserError("AdaKD knows the range of its alpha only after fit().")
        start, end = map(_figures, self.alpha_range)
        return {
            "t": self.t.item(),
            "k_start": self.k_start.item(),
            "k_end": float(self._last_k),
            "alpha": self.alpha_at_t,
            "scale": self.scale,
            "control": self.control,
            "start": start,
            "end": end,
            **self._told(),
        }


class LearnedAdaKD(AdaKD):
    """AdaKD with k and t that go where the loss on held-out training utterances falls.

        alpha_i = exp(-exp(slope * k_start (x_i - t_start) / 2 - level))
        k       = slope * k_start              t = t_start + 2 level / k

    slope = 1 and level = 0 are AdaKD as it starts. Its k falls on a schedule; here slope and level
    follow a gradient. A step of the student, at the learning rate r and with a preconditioner P
    (AdamW's 1 / sqrt(v)), is

        theta <- theta - r P mean_i [(1 - alpha_i) grad task_i + alpha_i grad distill_i]

    so that the loss L on utterances that the student does not learn from changes with alpha_i, to
    first order in r, by

        dL / d alpha_i = -(r / B) <P grad L, grad distill_i - grad task_i>

    A trainer computes these numbers (see `derivatives_along`) and hands them to `learn`, which goes
    on through d alpha_i / d (slope, level) by the formula above, and takes a step of Adam. Momentum
    and the clipping of the student's gradient change all these numbers by one factor and are left
    out. P is computed as if grad L were the next gradient, but not clipped: where its norm is far
    above the limit, P comes mostly from grad L itself. The cost is a backward pass of a held-out
    batch and two forward passes of the step, every so many steps.

    The loss on the training utterances themselves would not do: its derivative by alpha picks
    whichever of the two losses is smaller. Looking one step ahead is short-sighted, as all such
    methods are (Wu et al. 2018, arXiv 1803.02021); compare learning to reweight (Ren et al. 2018,
    arXiv 1803.09050), which learns a free weight for every example and forgets it after the step.

    Args:
        threshold, k, scale: as in AdaKD, at the start.
        rate: Adam's learning rate of slope and level.
        every: optimiser steps from one update to the next.
        held_out: share of the training utterances that are kept from the student for this.

    Buffers: those of AdaKD; learned, (3, 2): slope and level, and Adam's running means of their
    gradients and of the squares of these; updates, how many there have been.
    """

    learned: Tensor
    updates: Tensor

    def __init__(
        self,
        threshold: ThresholdName | float = "mean",
        k: Literal["auto"] | float = "auto",
        scale: Scale = "linear",
        rate: float = 0.05,
        every: int = 10,
        held_out: float = 0.05,
    ) -> None:
        super().__init__(threshold, k, scale=scale)
        self.rate = _number("rate", rate)
        self.learn_every = int(_number("every", every))
        self.held_out = _number("held_out", held_out)
        if self.rate < 0 or self.learn_every != every or every < 1 or not 0 < self.held_out < 1:
            raise UserError(
                f"rate is {rate}, every {every}, held_out {held_out}: rate is 0 or more, every a "
                "whole number from 1 on, held_out a share of the training set between 0 and 1."
            )
        self.register_buffer("learned", torch.tensor([[1.0, 0.0], [0.0, 0.0], [0.0, 0.0]]))
        self.register_buffer("updates", torch.tensor(0))

    @property
    def _needs_known(self) -> bool:
        return True  # for alpha's range in the end, which `fit` cannot foresee: see `summary`

    def k_at(self, progress: float) -> Tensor:
        return self.learned[0, 0] * self.k_start

    def t_now(self) -> Tensor:
        """t as it has been learned, (); infinite where k is 0 and the level is not."""
        return self.t + 2 * self.learned[0, 1] / self.k_at(1.0)

    def _unguarded(self, x: Tensor, progress: float) -> Tensor:
        return self._alpha(x, self.learned[0])

    def _alpha(self, difficulty: Tensor, learned: Tensor) -> Tensor:
        start = self.k_start * (self._scaled(_at_least_float32(difficulty)) - self.t) / 2
        return _falling(learned[0] * start - learned[1])

    @torch.no_grad()
    def learn(self, difficulty: Tensor, slope: Tensor) -> None:
        if not self.training:
            return
        with torch.enable_grad():
            learned = self.learned[0].clone().requires_grad_()
            moved = (self._alpha(difficulty.detach(), learned) * slope.detach().float()).sum()
            (gradient,) = torch.autograd.grad(moved, learned)
        sums = over_processes(torch.cat([gradient, gradient.new_tensor([len(slope)])]))
        gradient = sums[:2] / sums[2]
        if not gradient.isfinite().all():
            return  # as the optimiser skips such a step
        self.updates += 1
        value, mean, square = self.learned
        mean.lerp_(gradient, 1 - 0.9)
        square.lerp_(gradient**2, 1 - 0.99)
        count = self.updates.item()
        unbiased = (square / (1 - 0.99**count)).sqrt() + torch.finfo(square.dtype).tiny
        # By Cauchy and Schwarz the ratio is at most 2.4, unless the squares have underflowed.
        ratio = mean / (1 - 0.9**count) / unbiased
        value -= self.rate * ratio.clamp(-2.5, 2.5)

    def logged(self, progress: float) -> dict[str, float | None]:
        t = self.t_now().item()
        return {"k": self.k_at(progress).item(), "t": t if math.isfinite(t) else None}

    def summary(self) -> dict[str, Any]:
        """AdaKD's, with k_end, t_end and alpha's range in the end as they have been learned.

        After a training: up to the checkpoint that was kept, the one with the best dev CER.
        """
        found = super().summary()
        return found | {
            "k_end": self.k_at(1.0).item(),
            "t_end": self.logged(1.0)["t"],
            "end": _figures(_range(self.alpha(self.known[0], 1.0))),
            "updates": int(self.updates),
            "held_out": self.held_out,
        }


@torch.no_grad()
def derivatives_along(
    parameters: Sequence[Tensor],
    direction: Sequence[Tensor],
    losses: Callable[[], Sequence[Tensor]],
    length: float = 0.01,
) -> list[Tensor]:
    """<direction, grad of each loss>, for all utterances at once, by central differences.

        (losses(theta + e d) - losses(theta - e d)) / 2e, with e = length / |d|

    Two forward passes, however many utterances there are: explicit gradients would need a backward
    pass for each. The error is of the order of length^2, and of the losses' rounding / length.

    Args:
        parameters, direction: of equal shapes; the parameters come out bit for bit as they were.
        losses: computes vectors of losses, of any shapes, with the parameters as they then are.
        length: how far all parameters together are moved, in the Euclidean norm.
    Returns: one tensor a vector, of its shape; zeros for a direction that is zero.
    """
    norm = torch.stack([d.float().square().sum() for d in direction]).sum().sqrt().item()
    if not norm:
        return [torch.zeros_like(values) for values in losses()]
    before = [parameter.detach().clone() for parameter in parameters]
    ends = []
    try:
        for step in (length / norm, -length / norm):
            for parameter, value, d in zip(parameters, before, direction, strict=True):
                parameter.copy_(value + step * d)
            ends.append([values.detach().clone() for values in losses()])
    finally:
        for parameter, value in zip(parameters, before, strict=True):
            parameter.copy_(value)
    return [(up - down) * (norm / (2 * length)) for up, down in zip(*ends, strict=True)]


METHODS: dict[str, type[Weighting]] = {
    "finetune": FineTune,
    "kd": FixedWeight,
    "superloss": SuperLoss,
    "focal": FocalLoss,
    "annealing": AnnealingKD,
    "adakd": AdaKD,
    "adakd-learned": LearnedAdaKD,
}


def build(name: str, options: Mapping[str, Any] | None = None) -> Weighting:
    """A weighting by the name of its method, with its options.

    Raises:
        UserError: the method or an option is unknown (the nearest is suggested), or ill-typed.
    """
    options = options or {}
    if name not in METHODS:
        raise UserError(
            f"Unknown method {name!r} (METHODS in adakd/weighting.py): {suggest(name, METHODS)}"
        )
    method = METHODS[name]
    parameters = inspect.signature(method).parameters.values()
    known = [each.name for each in parameters if each.kind is each.POSITIONAL_OR_KEYWORD]
    for option in options:
        if option not in known:
            raise UserError(f"Method {name} has no option {option!r}: {suggest(option, known)}")
    try:
        return method(**options)
    except UserError as error:
        raise UserError(f"methods.{name}: {error}") from None


def over_processes(sums: Tensor) -> Tensor:
    """These sums, with what all other processes have added to theirs; in place."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(sums)
    return sums


def _mixture(task: Tensor, distill: Maybe, alpha: Tensor) -> Weighted:
    """(1 - alpha) task + alpha distill, each (B,); alpha is 0 where there is no distill."""
    task = _at_least_float32(task)
    # One dtype for all methods: equal alphas then give equal bits.
    alpha = alpha.to(task.dtype)
    loss = (1 - alpha) * task
    if distill is not None:
        loss = loss + alpha * _at_least_float32(distill)
    return Weighted(loss, 1 - alpha, alpha)


def _finite(name: str, what: str, values: Values) -> Tensor:
    """(N,) float64 on the CPU, one number of every training utterance, all of them finite."""
    every = torch.as_tensor(values, dtype=torch.float64).detach().cpu()
    if every.numel() == 0:
        raise UserError(f"{name} cannot be fitted to no {what}: is the training set empty?")
    if every.dim() != 1:
        raise UserError(
            f"{name} cannot be fitted to {what} of shape {tuple(every.shape)}: it needs one of "
            "each, (N,)."
        )
    if broken := int((~every.isfinite()).sum()):
        raise UserError(
            f"{name} cannot be fitted: {broken} of {len(every)} {what} are not finite; look for "
            "targets that do not fit into their audio, and run the teacher pass again."
        )
    return every


def _threshold(x: Tensor, threshold: ThresholdName | float) -> float:
    if not isinstance(threshold, str):
        return threshold
    value = x.mean() if threshold == "mean" else x.quantile(int(threshold[1:]) / 100)
    return value.item()


_RANGE = ("min", "p10", "mean", "p90", "max")


def _range(alpha: Tensor) -> Tensor:
    """The figures of _RANGE, (5,)."""
    return torch.stack(
        [alpha.min(), alpha.quantile(0.1), alpha.mean(), alpha.quantile(0.9), alpha.max()]
    )


def _figures(alpha: Tensor) -> dict[str, float]:
    """The same by their names."""
    return dict(zip(_RANGE, alpha.tolist(), strict=True))


def _at_least_float32(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _number(name: str, value: object, expected: str = "a number") -> float:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not (number and abs(cast(float, value)) <= torch.finfo(torch.float32).max):  # nor NaN
        raise UserError(f"{name} is {value!r}: it must be {expected}.")
    return float(cast(float, value))


def _choice(name: str, value: object, choices: Sequence[str]) -> str:
    if value not in choices:
        raise UserError(f"{name} is {value!r}: it must be one of {', '.join(choices)}.")
    return str(value)
