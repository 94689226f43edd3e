"""`adakd bench deploy`: what a student saves where it runs, on a CPU, one clip after the other.

    teacher
    student
    student, int8    its linear layers in int8 (`adakd.quantise`), as `decode.int8` decodes

Greedy decoding as stage 7 does it, features made from the waveforms within the clock. The real-time
factor (RTF) is the seconds that a second of speech takes. Models of the paper's sizes have random
weights, and Whisper's hypotheses --tokens tokens, since from random weights none ever ends; with
--recipe they are the teacher and the fine-tuned student of a recipe that has been run, on clips of
its test set.

Every contender has a process of its own, a new one in every round, and has decoded all clips once
before it is measured. Peaks are of whole processes: Python, torch and transformers are in them.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import statistics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from adakd.bench import measure
from adakd.config import FAMILIES, REPOSITORY
from adakd.errors import UserError
from adakd.options import Parser, natural, path

if TYPE_CHECKING:
    from adakd.bench.made import Speech
    from adakd.config import Config
    from adakd.models import Family

TEACHER, STUDENT, INT8 = "teacher", "student", "student, int8"


def main(arguments: Sequence[str]) -> int:
    """Measure, and print a table in Markdown; 0 on success."""
    parser = Parser(prog="adakd bench deploy")
    parser.add_argument("--family", default="whisper", choices=FAMILIES)
    parser.add_argument("--size", default="true", choices=("true", "tiny"))
    parser.add_argument("--recipe", help="a recipe that has been run, instead of random weights")
    parser.add_argument("--root", type=path, default=REPOSITORY, help="its --root")
    parser.add_argument("--fold", type=int, help="its test fold, where its corpus has folds (0)")
    help = "what Whisper encodes: all of its input, or the speech that is there (full)"
    parser.add_argument("--encode", default="full", choices=("full", "speech"), help=help)
    parser.add_argument("--clips", type=natural, default=8, help="of 3 to 7 s, made up (8)")
    parser.add_argument("--tokens", type=natural, default=40, help="of a Whisper hypothesis (40)")
    parser.add_argument("--threads", type=natural, default=1, help="of the CPU (1)")
    parser.add_argument("--rounds", type=natural, default=5, help="times that all run (5)")
    options = parser.parse_args(list(arguments))
    with tempfile.TemporaryDirectory() as scratch, _without_gpu():
        options.folder = Path(scratch)
        lengths, sizes = measure.alone(_prepare, options)
        seconds = sum(lengths)
        measure.print_heading("deploy", arguments, options.threads)
        found = measure.apart(_ready, options, list(sizes), options.rounds)
    costs = {name: [each.cost for each in rounds] for name, rounds in found.items()}
    rows = []
    for name, (parameters, on_disk) in sizes.items():
        rtf = [cost.wall / seconds for cost in costs[name]]
        peak = statistics.median(each.peak for each in found[name]) / 2**20
        row = [name, f"{parameters / 1e6:.2f}", f"{on_disk / 1e6:.2f}", f"{peak:.0f}"]
        row += [measure.spread(rtf), measure.times(costs, name, TEACHER)]
        rows.append(row)
    head = ["what", "parameters, M", "weights, MB", "peak, MiB", "RTF", "times as fast"]
    measure.print_table(head, rows)
    print(
        f"{len(lengths)} clips, {seconds:.0f} s of speech, one at a time. A process with the "
        f"libraries and no model: {measure.alone(_libraries) / 2**20:.0f} MiB."
    )
    return 0


@contextlib.contextmanager
def _without_gpu() -> Iterator[None]:
    """No GPU for this process and those that it starts: where there is one, too."""
    before = os.environ.get("CUDA_VISIBLE_DEVICES")
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    try:
        yield
    finally:
        del os.environ["CUDA_VISIBLE_DEVICES"]
        if before is not None:
            os.environ["CUDA_VISIBLE_DEVICES"] = before


def _prepare(options: argparse.Namespace) -> tuple[list[float], dict[str, tuple[int, int]]]:
    """Put the models into the folder; seconds of each clip, parameters and bytes of each model."""
    from adakd import quantise

    sizes = {}
    for name in (TEACHER, STUDENT):
        family = _source(options, name)
        family.save(options.folder / name)
        weights = (options.folder / name).glob("*.safetensors")
        sizes[name] = (family.parameters_count, sum(path.stat().st_size for path in weights))
    quantise.save(family.hf, options.folder / INT8)
    sizes[INT8] = (sizes[STUDENT][0], (options.folder / INT8 / quantise.FILE).stat().st_size)
    return [entry.seconds for entry in _clips(options).entries], sizes


def _source(options: argparse.Namespace, name: str) -> Family:
    """The teacher or the student as they come."""
    from adakd import models
    from adakd.bench import made

    if options.recipe is None:
        longest = 4 + options.tokens  # with the prompt
        return made.family(options.family, name, options.size, options.folder, longest=longest)
    from adakd.place import Place

    place = Place(options.root, _config(options))
    folder = place.experiment({TEACHER: "teacher", STUDENT: "finetune"}[name]) / "model"
    if not folder.is_dir():
        raise UserError(
            f"There is no {name} of {options.recipe} as {options.family} below {options.root}: run "
            f"./run.sh --recipe {options.recipe} --family {options.family} --stop-stage 3 first."
        )
    return models.open_folder(place.config, folder)


def _config(options: argparse.Namespace) -> Config:
    """With `audio.encode` as asked for, which is what opens a model."""
    from adakd import config as configuration

    if options.recipe is None:
        return configuration.Config(
            family=options.family,
            language=configuration.Language(code="hi"),
            audio=configuration.Audio(encode=options.encode),
        )
    from adakd.stages.preparation import folds

    recipe = measure.recipe_folder(options.recipe)
    config = configuration.load(recipe, options.family, {"audio.encode": options.encode})
    return replace(config, fold=folds(None if options.fold is None else [options.fold], config)[0])


def _clips(options: argparse.Namespace) -> Speech:
    """What is decoded: made-up clips, or some of a recipe's test set, from all over it."""
    from adakd.bench import made

    if options.recipe is None:
        draw = random.Random(0)
        return made.speech([draw.uniform(3, 7) for _ in range(options.clips)])
    from adakd.data import audio
    from adakd.place import Place

    place = Place(options.root, _config(options))
    every = place.manifest("test")
    count = min(options.clips, len(every))
    entries = [every[number * len(every) // count] for number in range(count)]
    return made.Speech(entries, [audio.read(place.root / entry.audio) for entry in entries])


@dataclass(frozen=True)
class Decoded:
    """Of one process."""

    cost: measure.Cost
    peak: int  # bytes


@contextlib.contextmanager
def _ready(options: argparse.Namespace, name: str) -> Iterator[Callable[[], Decoded]]:
    """A contender that has decoded all clips once: what another time costs."""
    import torch

    from adakd import models, quantise

    before = torch.get_num_threads()
    torch.set_num_threads(options.threads)
    folder = options.folder / (STUDENT if name == INT8 else name)
    family = models.open_folder(_config(options), folder).eval()
    if name == INT8:
        quantise.load_(family.hf, options.folder / INT8)
    speech = _clips(options)

    @torch.inference_mode()
    def decode() -> None:
        for entry, clip in zip(speech.entries, speech.clips, strict=True):
            family.transcribe(family.collate([entry], [clip]))

    decode()
    yield lambda: Decoded(measure.clocked(decode), measure.high_water())
    torch.set_num_threads(before)


def _libraries() -> int:
    """Bytes that a process has at the highest with all that decoding imports, and no model."""
    import transformers

    import adakd.models.wav2vec2
    import adakd.models.whisper  # noqa: F401

    for name in ("Wav2Vec2ForCTC", "WhisperForConditionalGeneration"):
        getattr(transformers, name)  # imported only when it is asked for
    return measure.high_water()
