"""How much an utterance's task loss and its distillation loss count: the heart of AdaKD.

A weighting takes what the student lost on each utterance of a batch and says how to add it up:

    weighting(task, distill, difficulty, progress) -> Weighted(loss, task_weight, distill_weight)

    task        (B,)            the student's loss against the transcript, per target unit
    distill     (B,) or None    the student's loss against the teacher, per the same target units
    difficulty  (B,) or None    x: the teacher's own task loss on the utterance, per target unit
    progress    0 to 1          step / (steps - 1), in optimiser steps of the whole run

All vectors run over utterances; the trainer sums the loss over a batch and divides. A weighting
knows nothing of speech, models or files and needs torch alone, so it goes into any training loop
(docs/plug_and_play.md shows one). What it learns from data lives in buffers, which travel with the
checkpoint through `state_dict`; what it gathers while training (a running mean, say) stands still
in eval mode.

    finetune   FineTune      loss_i = task_i
    kd         FixedWeight   loss_i = (1 - alpha) task_i + alpha distill_i       arXiv 1503.02531
    adakd      AdaKD         loss_i = (1 - alpha_i) task_i + alpha_i distill_i   arXiv 2405.08019

`build` makes one from its name and its options, the keywords of the class.
"""

import difflib
import inspect
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, cast, get_args

import torch
from torch import Tensor, nn

from adakd.errors import UserError

ThresholdName = Literal["mean", "p25", "p50", "p75"]

# "k: auto" gives the utterance at this quantile of the teacher's losses this alpha at the start.
AUTO_QUANTILE = 0.95
AUTO_ALPHA = 0.1


class Weighted(NamedTuple):
    """A weighted batch, each (B,), in float32 or wider. Only `loss` carries a gradient."""

    loss: Tensor
    task_weight: Tensor
    distill_weight: Tensor


class Weighting(nn.Module):
    """The base of all weightings: checks what comes in; `weigh` of a subclass does the rest.

    `uses_distill` and `uses_difficulty` tell a trainer what it must supply.
    """

    uses_distill: bool = True
    uses_difficulty: bool = False

    def fit(self, difficulties: Tensor | Sequence[float]) -> None:
        """Learn from x of the whole training set, (N,), before training; here: nothing."""

    def summary(self) -> dict[str, Any]:
        """What a report should say of the weights; plain numbers."""
        return {}

    def forward(
        self, task: Tensor, distill: Tensor | None, difficulty: Tensor | None, progress: float
    ) -> Weighted:
        """Weigh a batch; the module's first lines describe the arguments.

        Raises:
            UserError: a needed vector is missing, a shape is not (B,), progress is not in 0 to 1.
        """
        name = type(self).__name__
        if task.dim() != 1:
            raise UserError(
                f"{name} needs one task loss per utterance, shape (B,), and got shape "
                f"{tuple(task.shape)}: do not average over the batch first."
            )
        for what, values, needed in (
            ("distill", distill, self.uses_distill),
            ("difficulty", difficulty, self.uses_difficulty),
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
        return self.weigh(task, distill, difficulty, progress)

    def weigh(
        self, task: Tensor, distill: Tensor | None, difficulty: Tensor | None, progress: float
    ) -> Weighted:
        """What `forward` returns; the arguments are checked."""
        raise NotImplementedError


class FineTune(Weighting):
    """The transcript alone: loss = task. The baseline without a teacher."""

    uses_distill = False

    def weigh(
        self, task: Tensor, distill: Tensor | None, difficulty: Tensor | None, progress: float
    ) -> Weighted:
        loss = _at_least_float32(task)
        return Weighted(loss, torch.ones_like(loss), torch.zeros_like(loss))


class FixedWeight(Weighting):
    """Knowledge distillation with one weight for all: loss = (1 - alpha) task + alpha distill.

    Hinton, Vinyals, Dean 2015, arXiv 1503.02531.

    Args:
        alpha: weight of the distillation loss, 0 to 1. 0.5 weighs both equally, the AdaKD paper's
            baseline; CTC studies use 0.25, 0.9 and 1.0 (arXiv 2506.01503).
    """

    def __init__(self, alpha: float = 0.5) -> None:
        super().__init__()
        self.fixed_alpha = _number("alpha", alpha)
        if not 0.0 <= self.fixed_alpha <= 1.0:
            raise UserError(f"alpha is {alpha}: the distillation loss weighs between 0 and 1.")

    def weigh(
        self, task: Tensor, distill: Tensor | None, difficulty: Tensor | None, progress: float
    ) -> Weighted:
        alpha = torch.full_like(task, self.fixed_alpha, dtype=_at_least_float32(task).dtype)
        return _mixture(task, cast(Tensor, distill), alpha)

    def summary(self) -> dict[str, Any]:
        return {"alpha": self.fixed_alpha}


def adaptive_alpha(difficulty: Tensor, threshold: Tensor, k: Tensor) -> Tensor:
    """AdaKD's weight of the distillation loss: alpha = exp(-exp(k (x - t) / 2)).

    The paper (arXiv 2405.08019) writes it in two steps, alpha = exp(-1 / sqrt(d_f)) with the
    difficulty factor d_f = exp(-k (x - t)). As 1 / sqrt(d_f) = exp(k (x - t) / 2), one line is the
    same, without the division and without the overflow of d_f. With k > 0:

        x far below t (easy)  alpha -> 1      x = t, or k = 0  alpha = 1/e = 0.368
        x far above t (hard)  alpha -> 0

    Args: x, t and k of any shapes that broadcast, finite, of any floating dtype.
    Returns: alpha in float32 or wider; neither it nor its derivatives are ever NaN.
    """
    exponent = _at_least_float32(k) * (_at_least_float32(difficulty) - threshold) / 2
    # From 7 on alpha is 0 even in float64: the clamp costs nothing. Without it the inner exp
    # overflows, and the derivative -exp(e) exp(-exp(e)) becomes inf * 0 = NaN.
    return torch.exp(-torch.exp(exponent.clamp(max=10.0)))


class AdaKD(Weighting):
    """A weight for every utterance: easy ones are distilled first, hard ones as training goes on.

        loss_i  = (1 - alpha_i) task_i + alpha_i distill_i
        alpha_i = exp(-exp(k (x_i - t) / 2))                        see `adaptive_alpha`
        k       = k_start + (k_end - k_start) progress

    Ganguly et al. 2024, arXiv 2405.08019. x_i is the difficulty of the utterance for the frozen
    teacher, so alpha carries no gradient. `fit` finds t and k_start on the training set.

    Args:
        threshold: t, as the mean or the 25th, 50th or 75th percentile of the training set's x, or
            as a number in the units of x (nats per target unit).
        k: k_start, as a number in 1 / units of x, or "auto": such that the utterance at the 95th
            percentile of x starts with alpha = 0.1, whatever the scale of x:
            k_start = 2 ln(ln(1 / 0.1)) / (x_95 - t).
        k_end: k at the end of training. 0 gives every utterance the weight 1/e in the end. The
            paper only says that k falls linearly; the 0 is our choice.

    Buffers: t, k_start, and alpha_range, the figures of `summary`.
    """

    uses_difficulty = True
    t: Tensor
    k_start: Tensor
    alpha_range: Tensor

    def __init__(
        self,
        threshold: ThresholdName | float = "mean",
        k: Literal["auto"] | float = "auto",
        k_end: float = 0.0,
    ) -> None:
        super().__init__()
        names = get_args(ThresholdName)
        self.threshold = (
            threshold
            if threshold in names
            else _number("threshold", threshold, f"one of {', '.join(names)} or a number")
        )
        self.k = "auto" if k == "auto" else _number("k", k, "auto or a number")
        self.k_end = _number("k_end", k_end)
        # NaN stands for "not known before fit", and survives the trip through a checkpoint.
        known_t = math.nan if isinstance(self.threshold, str) else self.threshold
        known_k = math.nan if isinstance(self.k, str) else self.k
        self.register_buffer("t", torch.tensor(known_t))
        self.register_buffer("k_start", torch.tensor(known_k))
        self.register_buffer("alpha_range", torch.full((2, len(_RANGE)), math.nan))

    @torch.no_grad()
    def fit(self, difficulties: Tensor | Sequence[float]) -> None:
        """Set t and k_start from the teacher's losses x on the whole training set.

        Args:
            difficulties: (N,) x of every training utterance, in any order.
        Raises:
            UserError: there are none, some are not finite, or no k answers to "auto".
        """
        x = torch.as_tensor(difficulties, dtype=torch.float64).detach().flatten().cpu()
        if len(x) == 0:
            raise UserError("AdaKD cannot be fitted to no difficulties: is the training set empty?")
        broken = int((~x.isfinite()).sum())
        if broken:
            raise UserError(
                f"AdaKD cannot be fitted: {broken} of {len(x)} difficulties are not finite; look "
                "for targets that do not fit into their audio, and run the teacher pass again."
            )
        self.t.fill_(_threshold(x, self.threshold))
        self.k_start.fill_(self._solve_k(x) if isinstance(self.k, str) else self.k)
        for row, progress in enumerate((0.0, 1.0)):
            self.alpha_range[row] = _range(self.alpha(x.to(self.t.device), progress))

    def _solve_k(self, x: Tensor) -> float:
        """k with alpha(x_q) = 0.1: exp(k (x_q - t) / 2) = ln(1 / 0.1), solved for k."""
        quantile = x.quantile(AUTO_QUANTILE).float().item()
        t = self.t.item()
        # Both are float32 by now: a gap in the rounding of a float64 mean is no gap.
        if quantile <= t:
            raise UserError(
                f"k: auto has no solution: the {AUTO_QUANTILE:.0%} quantile of the teacher's "
                f"{len(x)} losses, {quantile:.6g}, is not above the threshold t = {t:.6g} "
                f"({self.threshold}), so no k gives it alpha = {AUTO_ALPHA}; set k or threshold by "
                "hand."
            )
        return 2 * math.log(math.log(1 / AUTO_ALPHA)) / (quantile - t)

    def k_at(self, progress: float) -> Tensor:
        """k after this share of the training, () float32: linear from k_start to k_end."""
        return self.k_start + (self.k_end - self.k_start) * progress

    def alpha(self, difficulty: Tensor, progress: float) -> Tensor:
        """The weight of the distillation loss of utterances with these x, same shape, no gradient.

        Raises:
            UserError: `fit` was not called, and t or k is not a given number.
        """
        if (self.t + self.k_start).isnan():
            raise UserError(
                "AdaKD does not know its threshold and k yet: call fit() with the difficulties of "
                "the whole training set before training, or load a checkpoint."
            )
        return adaptive_alpha(difficulty.detach(), self.t, self.k_at(progress))

    def weigh(
        self, task: Tensor, distill: Tensor | None, difficulty: Tensor | None, progress: float
    ) -> Weighted:
        alpha = self.alpha(cast(Tensor, difficulty), progress)
        return _mixture(task, cast(Tensor, distill), alpha)

    def summary(self) -> dict[str, Any]:
        """t, k and alpha's real range over the training set, which a skewed x makes narrow.

        Returns:
            {"t", "k_start", "k_end": float, "start", "end": {"min", "p10", "mean", "p90", "max"}}
        Raises:
            UserError: `fit` was not called.
        """
        if self.alpha_range.isnan().any():
            raise UserError("AdaKD knows the range of its alpha only after fit().")
        start, end = (dict(zip(_RANGE, row, strict=True)) for row in self.alpha_range.tolist())
        return {
            "t": self.t.item(),
            "k_start": self.k_start.item(),
            "k_end": self.k_end,
            "start": start,
            "end": end,
        }


METHODS: dict[str, type[Weighting]] = {"finetune": FineTune, "kd": FixedWeight, "adakd": AdaKD}


def build(name: str, options: Mapping[str, Any] | None = None) -> Weighting:
    """A weighting by the name of its method, with its options.

    Raises:
        UserError: the method or an option is unknown (the nearest is suggested), or ill-typed.
    """
    options = options or {}
    if name not in METHODS:
        raise UserError(f"Unknown method {name!r}.{_suggestion(name, list(METHODS))}")
    method = METHODS[name]
    parameters = inspect.signature(method).parameters.values()
    known = [each.name for each in parameters if each.kind is each.POSITIONAL_OR_KEYWORD]
    for option in options:
        if option not in known:
            raise UserError(f"Method {name} has no option {option!r}.{_suggestion(option, known)}")
    return method(**options)


def _mixture(task: Tensor, distill: Tensor, alpha: Tensor) -> Weighted:
    """(1 - alpha) task + alpha distill, each (B,)."""
    task, distill = _at_least_float32(task), _at_least_float32(distill)
    # One dtype for all methods: equal alphas then give equal bits.
    alpha = alpha.to(task.dtype)
    return Weighted((1 - alpha) * task + alpha * distill, 1 - alpha, alpha)


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


def _at_least_float32(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _number(name: str, value: object, expected: str = "a number") -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise UserError(f"{name} is {value!r}: it must be {expected}.")
    return float(value)


def _suggestion(found: str, known: Sequence[str]) -> str:
    """The end of an error message: the nearest known name, and all of them."""
    if not known:
        return " It has none."
    nearest = difflib.get_close_matches(found, known, n=1)
    guess = f" Did you mean {nearest[0]!r}?" if nearest else ""
    return f"{guess} Known: {', '.join(known)}."
