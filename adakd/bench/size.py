"""`adakd bench size`: does a recipe fit? One step of its training at the true sizes: its memory.

Models as large as those that the recipe names, from random weights (`adakd.bench.made`), in batches
as its configuration has them, of made-up clips. Each row is a process of its own; its peak is that
of the whole process, or on a GPU what torch allocated there.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from adakd.bench import measure
from adakd.errors import UserError
from adakd.options import Parser, natural, one_of, positive, several

if TYPE_CHECKING:
    from adakd.config import Config
    from adakd.models import Family

LIVE = "AdaKD, live teacher"
ROWS = {  # what -> its stage
    "fine-tuning the teacher": 2,
    "fine-tuning the student": 3,
    "teacher pass": 4,
    "AdaKD, cached": 6,
    LIVE: 6,
}
# What the recipes name, and `adakd.bench.made` can make.
PUBLISHED = {
    "teacher": ("openai/whisper-small", "facebook/wav2vec2-xls-r-1b"),
    "student": ("openai/whisper-tiny", "facebook/wav2vec2-xls-r-300m"),
}


def main(arguments: Sequence[str]) -> int:
    """Measure, and print a table in Markdown; 0 on success."""
    from adakd import config as configuration

    parser = Parser(prog="adakd bench size")
    parser.add_argument("--recipe", default="commonvoice/hi")
    parser.add_argument("--family", default="whisper", choices=configuration.FAMILIES)
    parser.add_argument("--size", default="true", choices=("true", "tiny"))
    parser.add_argument("--clip", type=positive, default=5.0, help="seconds of every clip (5)")
    parser.add_argument("--batch", type=natural, help="clips in a micro-batch (the recipe's)")
    stages = several(one_of("2", "3", "4", "6"))
    parser.add_argument("--stages", type=stages, default="2 3 4 6", help='of "2 3 4 6"')
    options = parser.parse_args(list(arguments))
    config = configuration.load(measure.recipe_folder(options.recipe), options.family)
    for role, known in PUBLISHED.items():
        source = getattr(config, role).source
        if options.size == "true" and source not in known:
            raise UserError(
                f"{options.recipe}: {role}.source is {source}; sizes are known here of "
                f"{' and '.join(known)}."
            )
    measure.print_heading("size", arguments)
    rows = []
    for name, stage in ROWS.items():
        if str(stage) not in options.stages:
            continue
        clips, micro, seconds, mebibytes = measure.alone(step, name, options, config)
        batch = f"{micro} x {clips}" if micro > 1 else str(clips)
        rows.append([f"stage {stage}: {name}", batch, f"{mebibytes / 1024:.1f}", f"{seconds:.0f}"])
    measure.print_table(["what", "clips", "peak, GiB", "s"], rows)
    return 0


def step(name: str, options: argparse.Namespace, config: Config) -> tuple[int, int, float, float]:
    """One row: clips in a micro-batch, micro-batches, seconds of the step, peak in MiB."""
    from adakd.bench import made, teacher

    stage = ROWS[name]
    role = "teacher" if stage in (2, 4) else "student"
    train = config.train_of(role)
    with made.scratch() as folder:

        def family(which: str) -> Family:
            return made.family(
                options.family, which, options.size, folder / which, config.audio.encode
            )

        model = family(role)
        length = model.padded(options.clip) if model.padded else options.clip
        seconds = train.batch_seconds if stage != 4 else train.batch_seconds_without_gradients
        count = options.batch or max(1, int(seconds / length))
        if stage == 4:
            speech = made.speech([options.clip] * count)
            batch = model.collate(speech.entries, speech.clips)
            top_k = min(config.distill.top_k, model.hf.config.vocab_size)
            work = teacher.stage(model, [[batch]], folder, top_k)
            work()  # like the step below, and what follows: the second of its kind
            measure.forget_peak()
            return count, 1, measure.clocked(work).wall, measure.peak()
        brain = made.brain(
            model,
            "adakd" if stage == 6 else "finetune",
            folder / "experiment",
            family("teacher").requires_grad_(False) if name == LIVE else None,
            freeze_feature_encoder=train.freeze_feature_encoder,
            precision=train.precision,
        )
        batches = []
        for number in range(train.accumulate):
            speech = made.speech([options.clip] * count, seed=number)
            batch = model.collate(speech.entries, speech.clips)
            cached = stage == 6 and name != LIVE
            soft = made.soft_outputs(model, batch, config.distill.top_k) if cached else None
            batches.append(made.supervised(batch, soft))
        brain.fit_batch(batches)  # from the next step on, AdamW's states are there, too
        measure.forget_peak()
        took = measure.clocked(partial(brain.fit_batch, batches)).wall
        return count, len(batches), took, measure.peak()
