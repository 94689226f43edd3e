"""Training: one SpeechBrain Brain for every method and both families.

What differs between families is behind `adakd.models.Family`, what differs between methods behind
`adakd.weighting.Weighting`; `DistillationBrain.compute_objectives` is the one place where a loss
is put together.

Where this departs from SpeechBrain's defaults (adakd's loader hands over whole optimiser steps):

- `fit_batch` takes an optimiser step, a list of micro-batches, so accumulation loses no batch.
- The loss is summed over utterances and divided by the utterances of the whole step, over all
  micro-batches and processes.
- Clipping covers all parameters, not the first group.
- The teacher is not in `modules`: it would be set to train mode and saved with every checkpoint.
- Checkpoints appear whole or not at all.

A weighting may have training start again on the way (`Weighting.restart_at`): at the end of the
epoch nearest to that, the student goes back to its best checkpoint, and the optimiser and the
learning-rate schedule begin anew. Steps, epochs and the order of the batches run on, so that the
whole takes as many steps as any other method.
"""

from __future__ import annotations

import json
import logging
import math
import os
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import speechbrain
import torch
from speechbrain.utils.epoch_loop import EpochCounter
from torch import Tensor, nn

from adakd import config as configuration
from adakd import score
from adakd.checkpoints import Clock, RandomState, WholeCheckpointer
from adakd.data.loader import Steps, StepSampler, seconds_of
from adakd.data.text import normalise, units_of_error
from adakd.device import device, precision, without_tf32
from adakd.errors import UserError
from adakd.files import shown, write_text
from adakd.models import Batch, Family, Output
from adakd.objectives import Dense, SoftOutputs
from adakd.processes import rank, say, world
from adakd.progress import Progress
from adakd.weighting import Weighting, derivatives_along, over_processes

PATIENCE = 20  # optimiser steps in a row whose gradient is not finite, before training gives up

Predictions = tuple[Output, SoftOutputs | None]  # the student's, and the teacher's

logging.getLogger("speechbrain").setLevel(logging.WARNING)


@dataclass
class Loss:
    """One micro-batch: the weighted sum, and what there is to log of each utterance that counts."""

    total: Tensor  # () sum over utterances; zero where none counts
    task: Tensor  # (B,), or (0,)
    distill: Tensor | None  # the same
    alpha: Tensor  # the same, weight of the distillation loss


class DistillationBrain(speechbrain.Brain):
    """Trains a student (or fine-tunes a teacher) with any weighting.

    Args:
        student: the model to train; its `prepare_training` has been called.
        weighting: fitted, if it needs the difficulties.
        train: the training settings.
        distill: temperature, frames, and so on.
        folder: the experiment folder; checkpoints, metrics.jsonl and tb/ go here.
        sampler: the plan of the optimiser steps.
        title: what the progress bar and the messages begin with.
        teacher: the live teacher, None when soft outputs come with the batch or are not needed.
        held_out: training utterances that the student does not learn from, for a weighting that
            learns from them.
    Raises:
        UserError: the weighting has two phases, and there is but one epoch.
    """

    def __init__(
        self,
        student: Family,
        weighting: Weighting,
        train: configuration.Train,
        distill: configuration.Distill,
        folder: Path,
        sampler: StepSampler,
        title: str,
        teacher: Family | None = None,
        held_out: Steps | None = None,
    ) -> None:
        self.weighting, self.train_settings, self.distill = weighting, train, distill
        self.held_out = held_out
        self.folder, self.title = folder, title
        limit = train.max_steps or math.inf
        self.total_steps = 0
        ends: list[int] = []  # the optimiser steps at the end of each epoch
        while len(ends) < train.epochs and self.total_steps < limit:
            steps = len(sampler.plan(len(ends) + 1))
            self.total_steps = int(min(limit, self.total_steps + steps))
            ends.append(self.total_steps)
        self.restart = 0  # the step with which the last phase begins
        if weighting.restart_at is not None:
            if len(ends) < 2:
                raise UserError(
                    f"{title}: it trains in two phases, of an epoch each at least: raise "
                    "train.epochs (or train.max_steps) to more than one epoch."
                )
            wanted = weighting.restart_at * self.total_steps
            self.restart = min(ends[:-1], key=lambda end: abs(end - wanted))
            weighting.restart_at = self.restart / (self.total_steps - 1)
        self.epochs = EpochCounter(len(ends))
        self.clock, self.learning = Clock(), Clock()
        checkpointer = WholeCheckpointer(
            folder / "ckpt",
            {
                "student": student,
                "epochs": self.epochs,
                "random": RandomState(),
                "clock": self.clock,
            },
        )
        if weighting.state_dict():  # SpeechBrain warns of a module without
            checkpointer.add_recoverable("weighting", weighting)
        if weighting.learn_every:
            checkpointer.add_recoverable("learning", self.learning)
        super().__init__(
            modules={"student": student, "weighting": weighting},
            run_opts={
                "precision": precision(train.precision),
                "noprogressbar": True,
                "ckpt_interval_minutes": train.checkpoint_minutes,
                "optimizer_step_limit": self.total_steps,
                "device": str(device()),
                "distributed_backend": "nccl" if torch.cuda.is_available() else "gloo",
                "find_unused_parameters": student.leaves_unused,
            },
            checkpointer=checkpointer,
        )
        self.student = student
        self.teacher = None
        if teacher is not None:
            if self.precision == "bf16":
                teacher.round_weights_()
            self.teacher = teacher.to(self.device).eval()
        self.train_sampler = sampler
        self.not_finite = 0

    # ------------------------------------------------------------------ the loss

    def compute_forward(self, batch: Batch, stage: speechbrain.Stage) -> Predictions:
        """Raw logits of the student under teacher forcing, and the teacher's where they are wanted.

        The live teacher comes first: between the student's two passes it would have to ask for
        fresh memory on top of what the backward pass needs, which takes a tenth of its time.
        """
        wanted = self.weighting.wants_distill(self.progress)
        soft = self._soft_outputs(batch) if wanted else None
        return self.modules.student(batch, self.weighting.wants_task(self.progress)), soft

    def compute_objectives(
        self, predictions: Predictions, batch: Batch, stage: speechbrain.Stage
    ) -> Loss:
        """THE loss: task and distillation loss of each utterance, weighted, summed."""
        output, soft = predictions
        progress = self.progress
        scale = self.weighting.logits_scale(progress)
        task, distill = self.student.losses(output, batch, soft, self.distill, scale)  # (B,) each
        weighted = self.weighting(task, distill, batch.difficulty, progress, batch.doubt)
        total = weighted.loss.sum() * batch.counted
        size = len(task) if batch.counted else 0
        distill = None if distill is None else distill.detach()[:size]
        return Loss(total, task.detach()[:size], distill, weighted.distill_weight.detach()[:size])

    def _soft_outputs(self, batch: Batch) -> SoftOutputs | None:
        """The teacher's: the batch's own, or those of a live one, computed within `training_ctx`.

        Which the caller has entered: entered here as well, it would never be left. A teacher whose
        weights are rounded can compute nowhere else.
        """
        if self.teacher is None:
            return batch.soft
        with torch.no_grad():
            return Dense(self.teacher(batch.teacher or batch).logits)

    @property
    def progress(self) -> float:
        """Share of the run that is done, step / (steps - 1), in optimiser steps."""
        return min(1.0, self.optimizer_step / max(1, self.total_steps - 1))

    # ------------------------------------------------------------------ one optimiser step

    def fit_batch(self, step: list[Batch]) -> Tensor:  # type: ignore[override]
        """Forward and backward of all micro-batches, then one step of the optimiser.

        Returns: the mean loss over the utterances of all processes, (), on the CPU.
        """
        started = time.monotonic()
        self._set_learning_rate()
        step = [batch.to(self.device) for batch in step]
        local = sum(len(batch.ids) for batch in step if batch.counted)
        utterances = local
        if world() > 1:  # by itself it need not wait for its GPU
            utterances = int(over_processes(torch.tensor(local, device=self.device)))
        if self.weighting.learn_every and self.optimizer_step % self.weighting.learn_every == 0:
            self._learn(step)
        losses = []
        for number, batch in enumerate(step):
            # Gradients are exchanged once, with the last micro-batch; DDP averages over processes.
            with self.no_sync(number < len(step) - 1):
                with self.training_ctx:
                    predictions = self.compute_forward(batch, speechbrain.Stage.TRAIN)
                    loss = self.compute_objectives(predictions, batch, speechbrain.Stage.TRAIN)
                del predictions  # or a live teacher's outputs stay while the next ones are made
                (loss.total * (world() / utterances)).backward()
                losses.append(loss)
        rate = self.optimizer.param_groups[0]["lr"]
        progress = self.progress
        self.optimizers_step()
        mean = self._log_step(step, losses, progress, rate, time.monotonic() - started)
        if self.not_finite:
            self._tell_skipped(losses)
        else:  # a step that was skipped taught the student nothing
            distill = [loss.distill for loss in losses if loss.distill is not None]
            self.weighting.step_done(
                torch.cat([loss.task for loss in losses]), torch.cat(distill) if distill else None
            )
        return mean

    @without_tf32()
    def _learn(self, step: list[Batch]) -> None:
        """Tell the weighting how the held-out loss will change with each utterance's alpha.

        See `LearnedAdaKD` for the formula. All of the student's in eval mode and float32, so that
        dropout and rounding do not hide small differences: a gradient on a held-out batch, and two
        forward passes of the step.
        """
        self.learning.start()
        self.student.eval()
        held = self._held_out_batch().to(self.device)
        with torch.enable_grad():
            loss = self.student.task_loss(self.student(held), held).mean()
            gradients = torch.autograd.grad(loss, self.trained, allow_unused=True)
        direction = [
            torch.zeros_like(parameter)
            if gradient is None
            else self._adam_step(parameter, gradient)
            for parameter, gradient in zip(self.trained, gradients, strict=True)
        ]
        batches = [batch for batch in step if batch.counted]
        with self.training_ctx:
            soft = [self._soft_outputs(batch) for batch in batches]

        def gaps() -> list[Tensor]:
            found = [
                self.student.losses(self.student(batch), batch, outputs, self.distill)
                for batch, outputs in zip(batches, soft, strict=True)
            ]
            return [distill - task for task, distill in found if distill is not None]

        slopes = [-each for each in derivatives_along(self.trained, direction, gaps)]
        nothing = [torch.zeros(0, device=self.device)]
        difficulties = [batch.difficulty for batch in batches if batch.difficulty is not None]
        self.weighting.learn(torch.cat(difficulties or nothing), torch.cat(slopes or nothing))
        self.student.train()
        self.learning.stop()

    def _held_out_batch(self) -> Batch:
        """Another batch every time, the same ones for the same step of a resumed run."""
        assert self.held_out is not None  # `training.train` gives it to weightings that learn
        number = self.optimizer_step // self.weighting.learn_every * world() + rank()
        return self.held_out.batch(self._held_out_plan[number % len(self._held_out_plan)])

    @cached_property
    def _held_out_plan(self) -> list[list[int]]:
        """All held-out utterances in batches, in mixed order.

        From short to long, what is learned would follow the length of the clips.
        """
        assert self.held_out is not None
        seconds, most = seconds_of(self.held_out.entries), self.train_settings.batch_seconds
        plan = StepSampler(seconds, most, padded=self.student.padded).plan(1)
        return [batch for step in plan for batch in step]

    def _adam_step(self, parameter: Tensor, gradient: Tensor) -> Tensor:
        """Where AdamW would go if this gradient were the next one, without momentum and rate."""
        group = self.optimizer.param_groups[0]
        beta = group["betas"][1]
        state = self.optimizer.state.get(parameter, {})
        count = int(state["step"]) + 1 if state else 1
        before = state["exp_avg_sq"] if state else torch.zeros_like(parameter)
        square = beta * before + (1 - beta) * gradient**2
        return gradient / ((square / (1 - beta**count)).sqrt() + group["eps"])

    def optimizers_step(self) -> None:
        """Clip over all parameters and step; a gradient that is not finite skips the step."""
        norm = nn.utils.clip_grad_norm_(self.trained, self.train_settings.clip)
        if torch.isfinite(norm):
            self.optimizer.step()
            self.not_finite = 0
        else:
            self.not_finite += 1
        self.optimizer.zero_grad(set_to_none=True)
        self.optimizer_step += 1

    def _tell_skipped(self, losses: list[Loss]) -> None:
        """Say that this step was skipped, and raise `UserError` where too many in a row were."""
        broken = "gradient"
        way_out = "with a lower train.learning_rate, and look for odd utterances in the manifest"
        odd = torch.zeros((), device=self.device)  # weights of losses that are finite
        for loss in losses:
            sound = (loss.task if loss.distill is None else loss.task + loss.distill).isfinite()
            odd += (sound & ~loss.alpha.isfinite()).sum()
        if over_processes(odd):
            broken = "weight of the distillation loss"
            way_out = f"when {type(self.weighting).__name__} is mended"
        if rank() == 0:
            self._tell(f"step {self.optimizer_step} is skipped, its {broken} is not finite")
        if self.not_finite > PATIENCE:
            raise UserError(
                f"{self.title}: the {broken} was not finite {self.not_finite} times in a row "
                f"(step {self.optimizer_step}): remove {shown(self.folder)} and begin anew "
                f"{way_out}."
            )

    def init_optimizers(self) -> None:
        """AdamW, with weight decay on matrices only."""
        train = self.train_settings
        self.trained = [p for p in self.student.parameters() if p.requires_grad]
        groups: list[dict[str, Any]] = [
            {"params": [p for p in self.trained if p.dim() > 1]},
            {"params": [p for p in self.trained if p.dim() <= 1], "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(
            groups,
            lr=train.learning_rate,
            weight_decay=train.weight_decay,
            betas=(0.9, 0.98),
            fused=True,
        )
        self.optimizers_dict = {"optimizer": self.optimizer}
        self.checkpointer.add_recoverable("optimizer", self.optimizer)

    def _set_learning_rate(self) -> None:
        """Linear warm-up, then linear decay, to zero one step past the end; in each phase anew."""
        last_phase = self.optimizer_step >= self.restart
        first, end = (self.restart, self.total_steps) if last_phase else (0, self.restart)
        step, total = self.optimizer_step + 1 - first, end - first
        warm = max(1, round(self.train_settings.warmup * total))
        scale = step / warm if step <= warm else (total + 1 - step) / (total + 1 - warm)
        for group in self.optimizer.param_groups:
            group["lr"] = self.train_settings.learning_rate * scale

    # ------------------------------------------------------------------ epochs

    def on_fit_start(self) -> None:
        """Resume from the latest checkpoint, and cut the log back to it."""
        super().on_fit_start()
        if rank() == 0:
            self.metrics = Metrics(self.folder, self.optimizer_step, self.epochs.current)
        if self.optimizer_step:
            say(f"{self.title} goes on after step {self.optimizer_step} of {self.total_steps}")
        self.bar = Progress(self.total_steps, self.title, "steps", self.optimizer_step)
        self.clock.start()

    def on_stage_start(self, stage: speechbrain.Stage, epoch: int | None = None) -> None:
        """Skip what a resumed epoch has behind it, begin a second phase; empty the error counts."""
        if stage == speechbrain.Stage.TRAIN:
            # The steps of this epoch that a run which was cut inside it has behind it; else 0.
            self.train_sampler.skip = self.step
            if self.restart and self.optimizer_step == self.restart and self.step == 0:
                self._start_again()
        else:
            self.errors = self.characters = 0

    def _start_again(self) -> None:
        """The student of the first phase's best checkpoint, and an optimiser that knows nothing."""
        best = self.checkpointer.find_checkpoint(min_key="first_phase_cer")
        state = torch.load(best.paramfiles["student"], map_location=self.device)
        self.student.load_state_dict(state)
        self.optimizer.state.clear()

    def evaluate_batch(self, step: list[Batch], stage: speechbrain.Stage) -> Tensor:  # type: ignore[override]
        """Decode one batch and count its character errors."""
        (batch,) = step
        with self.evaluation_ctx, without_tf32():  # as stage 7
            hypotheses = self.student.transcribe(batch.to(self.device))
        for utterance, hypothesis in zip(batch.ids, hypotheses, strict=True):
            entry = self.dev_entries[utterance]
            # As stage 8 counts: a model that writes punctuation is not the worse for it.
            clean = [normalise(text, entry.language) for text in (entry.text, hypothesis)]
            pair = [units_of_error(text, entry.language) for text in clean]
            (counts,) = score.count(pair[:1], pair[1:])
            self.errors += counts.errors
            self.characters += counts.characters
        return torch.tensor(0.0)

    def on_stage_end(
        self, stage: speechbrain.Stage, stage_loss: float, epoch: int | None = None
    ) -> None:
        """After dev: log and tell its CER, keep the best and the latest checkpoint.

        stage_loss: of training the mean over the steps of the epoch; SpeechBrain saves it with a
            checkpoint inside an epoch. Dev has none.
        """
        if stage != speechbrain.Stage.VALID:
            self.training_loss = stage_loss
            return
        counts = torch.tensor([self.errors, self.characters], device=self.device)
        errors, characters = over_processes(counts).tolist()
        cer = errors / max(1, characters)
        self.clock.stop()
        if rank() == 0:
            self.metrics.write({"epoch": epoch, "step": self.optimizer_step, "dev_cer": cer})
        # Under different names, so that the best of the last phase is kept, however good the first.
        name = "cer" if self.optimizer_step > self.restart else "first_phase_cer"
        self.checkpointer.save_and_keep_only(
            meta={name: cer, "epoch": epoch},
            min_keys=[name],
            importance_keys=[],
            num_to_keep=1,
            verbosity=logging.DEBUG,
        )
        self.clock.start()
        if rank() == 0:
            best = self.checkpointer.find_checkpoint(min_key=name).meta
            of_phase = " of this phase" if self.restart else ""
            found = f"the best{of_phase} so far"
            if best["epoch"] != epoch:
                found += f" is {best[name]:.2%} of epoch {best['epoch']}"
            self._tell(
                f"epoch {epoch} of {self.epochs.limit}, training loss {self.training_loss:.4g}, "
                f"dev CER {cer:.2%}, {found}"
            )

    def _tell(self, line: str) -> None:
        """A line below the progress bar, on its stream: from another one it might hit the bar."""
        self.bar.close()  # ends the bar's line; later updates draw a new one
        print(f"{self.title}: {line}", file=self.bar.stream, flush=True)

    def _log_step(
        self,
        step: list[Batch],
        losses: list[Loss],
        progress: float,
        rate: float,
        seconds: float,
    ) -> Tensor:
        """A line of what all processes had in the step; of alpha the quantiles are the first one's.

        Returns: the mean loss of its utterances, (), on the CPU.
        """
        distilled = [loss for loss in losses if loss.distill is not None]
        zero = torch.zeros((), device=self.device)
        alpha = torch.cat([loss.alpha for loss in losses]).float()
        sums = [
            sum((loss.total.detach() for loss in losses), zero),
            sum((loss.task.sum() for loss in losses), zero),
            sum((loss.distill.sum() for loss in distilled if loss.distill is not None), zero),
            alpha.sum(),
        ]
        counts = [
            sum(len(loss.task) for loss in losses),
            sum(len(loss.task) for loss in distilled),
            sum(batch.seconds for batch in step if batch.counted),
        ]
        numbers = torch.stack([each.float() for each in sums])
        if world() > 1:
            numbers = over_processes(torch.cat([numbers, numbers.new_tensor(counts)]))
        # In one piece: a GPU is waited for once, and what is small is faster on the CPU.
        together = torch.cat([numbers, alpha]).cpu()
        numbers, alpha = together[: len(numbers)], together[len(numbers) :]
        utterances, taught, audio = numbers[4:].tolist() if world() > 1 else counts
        mean = numbers[0] / utterances
        if rank() == 0:
            self.bar.update(1)
            line: dict[str, Any] = {
                "step": self.optimizer_step,
                "epoch": self.epochs.current,
                "loss": mean.item(),
                "task": numbers[1].item() / utterances,
                "distill": numbers[2].item() / taught if taught else None,
                "alpha_mean": numbers[3].item() / utterances,
                "alpha_p10": alpha.quantile(0.1).item(),
                "alpha_p90": alpha.quantile(0.9).item(),
                **self.weighting.logged(progress),
                "lr": rate,
                "audio_seconds_per_second": audio / seconds,
            }
            self.metrics.write(line)
        return mean

    # ------------------------------------------------------------------ the whole run

    def run(self, train_loader: Any, dev_loader: Any) -> dict[str, Any]:
        """Train (or go on where it was cut), then put the best checkpoint into the student.

        Returns the epoch and dev CER of the best checkpoint, the number of epochs and the seconds
        of training, which include decoding dev and, for a resumed run, the time before the cut;
        with a weighting that learns also how many of them that took.
        """
        self.dev_entries = {entry.id: entry for entry in dev_loader.dataset.entries}
        self.fit(self.epochs, train_loader, dev_loader)
        if not self.optimizer.state:
            phase = " of the last phase" if self.restart else ""
            raise UserError(
                f"{self.title}: nothing was learnt, every step{phase} was skipped since it was not "
                f"finite: remove {shown(self.folder)} and begin anew when the reason is mended."
            )
        self.clock.stop()
        if rank() == 0:
            self.metrics.close()
        best = self.checkpointer.recover_if_possible(min_key="cer")
        self.student.eval()
        outcome = {
            "epoch": best.meta["epoch"],
            "dev_cer": best.meta["cer"],
            "epochs": self.epochs.limit,
            "train_seconds": self.clock.total,
        }
        if self.weighting.learn_every:
            outcome["learning_seconds"] = self.learning.total  # they are among train_seconds
        return outcome


class Metrics:
    """metrics.jsonl and TensorBoard, a line an optimiser step and a line an epoch."""

    def __init__(self, folder: Path, step: int, epoch: int) -> None:
        """``step`` and ``epoch``: those that lie behind a resumed run, 0 for a new one."""
        from torch.utils.tensorboard import SummaryWriter

        path = folder / "metrics.jsonl"
        kept = []
        if path.exists():
            # What was logged after the checkpoint that a resumed run starts from comes again.
            for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
                try:
                    line = json.loads(text)
                    of_epoch = "dev_cer" not in line or line["epoch"] <= epoch
                    past = line["step"] <= step and of_epoch
                except (ValueError, LookupError, TypeError, AttributeError):
                    break  # the run was killed while it wrote this line
                if past:
                    kept.append(text + "\n")
        write_text(path, "".join(kept))
        self.file = path.open("a", encoding="utf-8", buffering=1)
        self.board = SummaryWriter(str(folder / "tb"), purge_step=step + 1)

    def write(self, line: dict[str, Any]) -> None:
        """Append one line, its fractions also to TensorBoard; NaN, which JSON has not, as null."""
        for name, value in line.items():
            if isinstance(value, float) and not math.isfinite(value):
                line[name] = None
            elif isinstance(value, float):
                self.board.add_scalar(name, value, line["step"])
        self.file.write(json.dumps(line) + "\n")
        if "dev_cer" in line:  # a study chooses by these, and no checkpoint has the earlier ones
            os.fsync(self.file.fileno())

    def close(self) -> None:
        self.file.close()
        self.board.close()
