"""`adakd bench training`: seconds of audio a second, ours against Hugging Face's Trainer with KD.

The same clips in the same batches, teacher and student of the same sizes, the same precision:

    Hugging Face     Seq2SeqTrainer (CTC: Trainer) with a plain KD loss, as Distil-Whisper's script
                     has it: Whisper's features padded to 30 s, a live teacher (with bf16 its
                     weights, too), the logits of the whole batch, one mean over its tokens.
                     Features were made beforehand.
    ... kept         the same, where its process keeps the memory that it frees, as ours do
                     (`adakd.memory`; on a CPU)
    AdaKD, live      our training with a live teacher; features are made within the clock
    AdaKD, cached    our training with soft outputs as the teacher store gives them

With --workers all have as many processes that hand over batches: theirs as they are, ours make the
features. Theirs begin anew in every pass and ours do not, which is a few tenths of a second: passes
are to be long (--epochs).

The convolutions of wav2vec2 are frozen, in the recipes for XLS-R as in Hugging Face's own script.
Clips last 3 to 7 s and lie in memory as samples (`adakd bench loading` says what reading costs).
Every contender has a process of its own, on a CPU a new one in every round, which goes over the
batches twice before a pass counts.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adakd.bench import measure
from adakd.errors import UserError
from adakd.options import Parser, natural, whole

if TYPE_CHECKING:
    from adakd.bench.made import Speech
    from adakd.models import Family

THEIRS, KEPT = "Hugging Face", "Hugging Face, freed memory kept"
LIVE, CACHED = "AdaKD, live teacher", "AdaKD, cached"
TASK_WEIGHT, DISTILL_WEIGHT = 0.8, 1.0  # Distil-Whisper's, arXiv 2311.00430


def main(arguments: Sequence[str]) -> int:
    """Measure, and print tables in Markdown; 0 on success."""
    parser = Parser(prog="adakd bench training")
    parser.add_argument("--family", default="whisper", choices=("whisper", "wav2vec2"))
    parser.add_argument("--size", default="true", choices=("true", "tiny"))
    parser.add_argument("--batch", type=natural, default=16, help="clips in a batch (16)")
    parser.add_argument("--steps", type=natural, default=4, help="batches of a pass (4)")
    parser.add_argument("--epochs", type=natural, default=1, help="times over them in a pass (1)")
    parser.add_argument("--workers", type=whole, default=0, help="processes that make batches (0)")
    parser.add_argument("--rounds", type=natural, default=3, help="times that all run (3)")
    parser.add_argument("--top-k", type=natural, default=100, help="of Whisper's store (100)")
    parser.add_argument("--precision", default="auto", choices=("auto", "bf16", "fp32"))
    help = "Whisper: what ours encodes, as audio.encode (speech)"
    parser.add_argument("--encode", default="speech", choices=("full", "speech"), help=help)
    options = parser.parse_args(list(arguments))
    measure.print_heading("training", arguments)
    rivals = [THEIRS, KEPT] if measure.memory_is_ours() else [THEIRS]
    costs = measure.apart(third_pass, options, [*rivals, LIVE, CACHED], options.rounds)
    # Processor time counts processes when they end, which ours for batches do after all passes.
    clocks = ("wall",) if options.workers else ("wall", "processor")
    measure.print_costs(costs, {}, clocks)
    seconds = options.epochs * sum(clip.seconds for clip in _clips(options))
    head, rows = ["what"], []
    for clock in clocks:
        head += [f"audio s a {clock} s", *(f"x {rival}" for rival in rivals)]
    for name, found in costs.items():
        row = [name]
        for clock in clocks:
            row.append(measure.spread([seconds / getattr(cost, clock) for cost in found], 2))
            for rival in rivals:
                row.append("" if name in rivals else measure.times(costs, name, rival, clock))
        rows.append(row)
    measure.print_table(head, rows)
    return 0


def _clips(options: argparse.Namespace) -> list[Speech]:
    from adakd.bench import made

    return made.batches(options.steps, options.batch)


@contextlib.contextmanager
def third_pass(options: argparse.Namespace, name: str) -> Iterator[Callable[[], measure.Cost]]:
    """What a pass costs when the process has its memory."""
    if name == THEIRS:
        measure.leave_memory_to_libc()
    from adakd.bench import made

    with made.scratch() as folder:
        go_over = contender(options, name, folder)
        go_over(1)
        go_over(1)
        yield lambda: measure.clocked(lambda: go_over(options.epochs))


def contender(options: argparse.Namespace, name: str, folder: Path) -> Callable[[int], Any]:
    """What goes over all batches so many times, as one pass, in one of the ways to train."""
    from adakd.bench import made
    from adakd.data.loader import training_loader

    whisper = options.family == "whisper"
    clips = _clips(options)
    student = made.family(options.family, "student", options.size, folder, options.encode)

    def teacher() -> Family:
        found = made.family(options.family, "teacher", options.size, folder, options.encode)
        return found.requires_grad_(False)

    if name in (THEIRS, KEPT):
        if not whisper:
            student.hf.freeze_feature_encoder()
            student.hf.config.layerdrop = 0.0
        batches = theirs_batches(student, clips)
        theirs = trainer(student, teacher().hf, folder, options)

        def go_over(times: int) -> None:
            theirs.train_dataset = batches * times
            theirs.train()

        return go_over

    live = teacher() if name == LIVE else None
    brain = made.brain(student, "adakd", folder / "ours", live, precision=options.precision)
    top_k = made.kept(options.family, options.top_k)
    stored = {
        each.entries[0].id: made.soft_outputs(
            student, student.collate(each.entries, each.clips), top_k
        )
        for each in clips
        if name == CACHED
    }
    steps = made.in_memory(
        clips, student, lambda batch: made.supervised(batch, stored.get(batch.ids[0]))
    )
    once: list[Any] = [
        [(list(range(first, first + options.batch)), True)]
        for first in range(0, len(steps.entries), options.batch)
    ]
    plan = list(once)
    loader = training_loader(steps, plan, options.workers)  # type: ignore[arg-type]

    def ours(times: int) -> None:
        plan[:] = once * times  # the loader looks at it anew
        for step in loader:
            brain.fit_batch(step)

    return ours


def theirs_batches(student: Any, clips: Sequence[Speech]) -> list[dict[str, Any]]:
    """Batches as Hugging Face's scripts make them: 30 s of features, labels padded with -100."""
    import torch

    whisper = student.hf.config.model_type == "whisper"
    made = []
    for each in clips:
        batch = student.collate(each.entries, each.clips)
        labels = batch.labels
        if not whisper:
            counted = torch.arange(labels.shape[1]) < batch.label_lengths.unsqueeze(1)
            mask = torch.arange(batch.inputs.shape[1]) < batch.lengths.unsqueeze(1)
            made.append(
                {
                    "input_values": batch.inputs,
                    "attention_mask": mask.long(),
                    "labels": labels.masked_fill(~counted, -100),
                }
            )
            continue
        prompt = len(student.prompt("hi"))
        positions = torch.arange(labels.shape[1])
        counted = positions < prompt + batch.label_lengths.unsqueeze(1)
        features = student.extractor(
            each.clips, sampling_rate=16_000, return_tensors="pt", padding="max_length"
        ).input_features
        made.append(
            {
                "input_features": features,
                # The first token is put back by the model, which shifts the labels.
                "labels": labels.masked_fill(~counted, -100)[:, 1:],
            }
        )
    return made


def _only(items: list[Any]) -> Any:
    return items[0]


def trainer(student: Family, teacher: Any, folder: Path, options: argparse.Namespace) -> Any:
    """Hugging Face's trainer, whose `train` goes over its `train_dataset`, a list of batches.

    teacher: a model of transformers'.
    """
    import torch
    import transformers
    from torch.nn import functional

    from adakd.bench.made import TEMPERATURE
    from adakd.device import device, precision

    whisper = student.hf.config.model_type == "whisper"
    base: Any
    kind: Any
    if whisper:
        base, kind = transformers.Seq2SeqTrainer, transformers.Seq2SeqTrainingArguments
    else:
        base, kind = transformers.Trainer, transformers.TrainingArguments
    half = precision(options.precision) == "bf16"
    # The trainer's autocast is for the student alone; whoever has bf16 loads the teacher in it.
    teacher = teacher.to(device()).to(torch.bfloat16 if half else torch.float32)

    class Distilling(base):
        """task + KL, each a mean over the tokens (CTC: frames) of the batch."""

        def compute_loss(self, model: Any, inputs: Any, **_: Any) -> Any:
            found = model(**inputs)
            name = teacher.main_input_name
            with torch.no_grad():
                heard = {**inputs, name: inputs[name].to(teacher.dtype)}
                target = teacher(**heard).logits.float()
            p = functional.softmax(target / TEMPERATURE, dim=-1)
            log_q = functional.log_softmax(found.logits / TEMPERATURE, dim=-1)
            divergence = functional.kl_div(log_q, p, reduction="none")
            if whisper:
                counted = inputs["labels"] >= 0
            else:
                lengths = inputs["attention_mask"].sum(dim=1)
                frames = student.hf._get_feat_extract_output_lengths(lengths)
                positions = torch.arange(divergence.shape[1], device=divergence.device)
                counted = positions < frames.unsqueeze(1)
            mean = (divergence * counted.unsqueeze(-1)).sum() / counted.sum()
            return TASK_WEIGHT * found.loss + DISTILL_WEIGHT * TEMPERATURE**2 * mean

    # Its workers begin as in a script of one's own, not as this process did.
    multiprocessing.set_start_method("fork", force=True)
    try:
        settings = kind(
            output_dir=str(folder / "theirs"),
            per_device_train_batch_size=1,  # of our list: its items are whole batches
            num_train_epochs=1,
            learning_rate=1e-5,
            bf16=half,
            dataloader_num_workers=options.workers,
            use_cpu=not torch.cuda.is_available(),
            save_strategy="no",
            logging_strategy="no",
            report_to=[],
            disable_tqdm=True,
            remove_unused_columns=False,
        )
    except ImportError as error:
        raise UserError(
            "Hugging Face's Trainer needs the package accelerate: pip install accelerate."
        ) from error
    made = Distilling(model=student.hf, args=settings, data_collator=_only)
    made.remove_callback(transformers.PrinterCallback)  # it would print into the tables
    return made
