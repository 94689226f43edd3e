"""`adakd bench decode`: greedy decoding against Hugging Face's, with the same weights.

Whisper, one batch, features made from the waveforms within the clock:

    generate              Hugging Face, 30 s of input
    ... kept              the same, where its process keeps the memory that it frees, as ours do
                          (`adakd.memory`; on a CPU)
    adakd, encode full    our search on the same input; its hypotheses must be the same
    adakd, encode speech  our search, encoding only what is there: other input, so a model may say
                          something else; how often it does is printed
    encoder alone         features and our encoder on 30 s of input, which no search can do without

From random weights no utterance ever ends: all take --tokens steps. With --model FOLDER, a model
that says where it ends, the noise that stands for speech makes hypotheses of many lengths.

All compute in full float32, as stage 7 does.

With --family wav2vec2 (CTC), four batches of clips of 3 to 7 s:

    pipeline              Hugging Face, batches in the order of the clips
    ... kept              the same, with its memory kept
    adakd                 as stage 7 does it: batches as large, of clips of like length

Every contender has a process of its own, on a CPU a new one in every round. Its first time does not
count.
"""

from __future__ import annotations

import argparse
import contextlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from adakd.bench import measure
from adakd.options import Parser, natural, path

KEPT = ", freed memory kept"
GENERATE, FULL, SPEECH = "generate", "adakd, encode full", "adakd, encode speech"
ENCODER = "encoder alone"
PIPELINE, OURS = "pipeline", "adakd"
SETS = 4  # batches of the CTC model's test set


def main(arguments: Sequence[str]) -> int:
    """Measure, and print a table in Markdown; 0 on success."""
    parser = Parser(prog="adakd bench decode")
    parser.add_argument("--family", default="whisper", choices=("whisper", "wav2vec2"))
    parser.add_argument("--role", default="student", choices=("teacher", "student"))
    parser.add_argument("--size", default="true", choices=("true", "tiny"))
    help = "a folder of Whisper's instead of random weights; role, size and tokens are its own then"
    parser.add_argument("--model", type=path, help=help)
    parser.add_argument(
        "--batch", type=natural, default=16,
        help="clips in a batch, of 5 to 5.5 s, for wav2vec2 of 3 to 7 s (16)",
    )  # fmt: skip
    parser.add_argument("--tokens", type=natural, default=40, help="of a Whisper hypothesis (40)")
    parser.add_argument("--rounds", type=natural, default=5, help="times that all run (5)")
    options = parser.parse_args(list(arguments))
    if options.family == "wav2vec2" and options.model:
        parser.error("--model is for Whisper: a CTC model takes no longer for what it says")
    measure.print_heading("decode", arguments)
    ctc = options.family == "wav2vec2"
    rival, ours = (PIPELINE, [OURS]) if ctc else (GENERATE, [FULL, SPEECH, ENCODER])
    rivals = [rival, rival + KEPT] if measure.memory_is_ours() else [rival]
    found = measure.apart(second_time, options, [*rivals, *ours], options.rounds)
    costs = {name: [each.cost for each in rounds] for name, rounds in found.items()}
    measure.print_costs(costs, dict.fromkeys([*rivals[1:], *ours], [rival]))
    rows = [[name, *(measure.times(costs, name, each) for each in rivals)] for name in ours]
    measure.print_table(["what", *(f"x {each}" for each in rivals)], rows)
    said = {name: rounds[0].said for name, rounds in found.items()}
    if ctc:
        same = sum(
            bool(b) and a.startswith(b) for a, b in zip(said[PIPELINE], said[OURS], strict=True)
        )
        print(
            f"{same} of {len(said[OURS])} hypotheses of adakd are those of the pipeline, or what "
            "they begin with: it decodes the padding of a batch as well."
        )
        return 0
    for name in (FULL, SPEECH):
        same = sum(a == b for a, b in zip(said[name], said[GENERATE], strict=True))
        print(f"{name}: {same} of {options.batch} hypotheses are those of generate.")
    lengths = sorted(len(text.split()) for text in said[GENERATE])
    print(f"Tokens of a hypothesis: {lengths[0]} to {lengths[-1]}.")
    return 0


@dataclass(frozen=True)
class Decoded:
    """Of one process."""

    cost: measure.Cost
    said: list[str] = field(repr=False)  # the hypotheses


@contextlib.contextmanager
def second_time(options: argparse.Namespace, name: str) -> Iterator[Callable[[], Decoded]]:
    """A contender that has decoded once: what another time costs, and what it says."""
    if name in (GENERATE, PIPELINE):
        measure.leave_memory_to_libc()
    make = contender if options.family == "whisper" else ctc_contender
    with tempfile.TemporaryDirectory() as scratch:
        decode = make(options, name, Path(scratch))
        said = decode()
        yield lambda: Decoded(measure.clocked(decode), said)


def contender(options: argparse.Namespace, name: str, folder: Path) -> Callable[[], list[str]]:
    """One of the ways to decode a batch with Whisper; returns the hypotheses."""
    import torch

    from adakd.bench import made
    from adakd.device import device, without_tf32

    clips = made.batches(1, options.batch)[0]
    encode = "speech" if name == SPEECH else "full"
    model: Any
    if options.model is None:
        longest = 4 + options.tokens  # with the prompt
        model = made.family("whisper", options.role, options.size, folder, encode, longest)
        # All tokens above "no timestamps" say times: after some, `generate` begins anew.
        last = model.hf.config.vocab_size - 1
        model.hf.generation_config.no_timestamps_token_id = last
        model.prompts["hi"] = [*model.prompt("hi")[:-1], last]
    else:
        from adakd import config as configuration
        from adakd import models

        config = configuration.Config(
            family="whisper",
            language=configuration.Language(code="hi"),
            audio=configuration.Audio(encode=encode),
        )
        model = models.open_folder(config, options.model)
    model.to(device()).eval()
    # The prompt needs the real tokenizer, once.
    silent = {*model.prompt("hi"), model.tokenizer.eos_token_id}
    model.tokenizer = Numbers(model.tokenizer, silent)

    def decode() -> list[str]:
        batch = model.collate(clips.entries, clips.clips).to(device())
        with torch.inference_mode(), without_tf32():
            if name == ENCODER:
                model._encode(batch.inputs)
                return []
            if name in (FULL, SPEECH):
                return model.transcribe(batch)
            indices = model.hf.generate(
                batch.inputs, language="hi", task="transcribe", return_timestamps=False
            )
        return model.tokenizer.batch_decode(indices)

    return decode


def ctc_contender(options: argparse.Namespace, name: str, folder: Path) -> Callable[[], list[str]]:
    """One of the ways to decode a small test set with CTC; returns the hypotheses."""
    import random

    import torch
    from transformers import pipeline

    from adakd.bench import made
    from adakd.data.audio import SAMPLE_RATE
    from adakd.device import device, without_tf32
    from adakd.models.units import without_unknown

    draw = random.Random(0)
    clips = made.speech([draw.uniform(3, 7) for _ in range(SETS * options.batch)])
    where = device()
    model: Any = made.family("wav2vec2", options.role, options.size, folder).to(where)
    recognise: Any = pipeline(
        "automatic-speech-recognition", model.hf, device=where, tokenizer=model.tokenizer,
        feature_extractor=model.extractor,
    )  # fmt: skip

    def theirs() -> list[str]:
        inputs = [{"raw": clip, "sampling_rate": SAMPLE_RATE} for clip in clips.clips]
        with without_tf32():
            found = recognise(inputs, batch_size=options.batch)
        return [without_unknown(each["text"], recognise.tokenizer) for each in found]

    def ours() -> list[str]:
        by_length = sorted(range(len(clips.clips)), key=lambda i: clips.entries[i].seconds)
        texts: dict[int, str] = {}
        for first in range(0, len(by_length), options.batch):
            chosen = by_length[first : first + options.batch]
            batch = model.collate(
                *([each[i] for i in chosen] for each in (clips.entries, clips.clips))
            )
            with torch.inference_mode(), without_tf32():
                texts.update(zip(chosen, model.transcribe(batch.to(where)), strict=True))
        return [texts[i] for i in range(len(texts))]

    return ours if name == OURS else theirs


class Numbers:
    """A tokenizer that writes tokens as numbers: no text, however random the weights, hides any."""

    def __init__(self, tokenizer: Any, silent: set[int]) -> None:
        self._tokenizer, self._silent = tokenizer, silent

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        return self._tokenizer(*arguments, **options)

    def batch_decode(self, rows: Any, skip_special_tokens: bool = True) -> list[str]:
        """Each row of indices, without the prompt's and the end, as decimal numbers."""
        return [" ".join(str(i) for i in row if i not in self._silent) for row in rows.tolist()]
