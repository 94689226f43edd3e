"""`adakd bench decode`: greedy decoding of Whisper against Hugging Face's `generate`.

Same weights, same clips in one batch, features made from the waveforms within the clock:

    generate              Hugging Face, 30 s of input
    adakd, encode full    our search on the same input; its hypotheses must be the same
    adakd, encode speech  our search, encoding only what is there: other input, so a model may say
                          something else; how often it does is printed

From random weights no utterance ever ends: all take --tokens steps. With --model FOLDER, a model
that says where it ends, the noise that stands for speech makes hypotheses of many lengths.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adakd.bench import measure

if TYPE_CHECKING:
    from adakd.models import Family

GENERATE, FULL, SPEECH = "generate", "adakd, encode full", "adakd, encode speech"


def main(arguments: Sequence[str]) -> int:
    """Measure, and print a table in Markdown; 0 on success."""
    parser = argparse.ArgumentParser(prog="adakd bench decode", allow_abbrev=False)
    parser.add_argument("--role", default="student", choices=("teacher", "student"))
    parser.add_argument("--size", default="true", choices=("true", "tiny"))
    parser.add_argument("--model", type=Path, help="a folder instead of random weights")
    parser.add_argument("--batch", type=int, default=16, help="clips of about 5 s in a batch (16)")
    parser.add_argument("--tokens", type=int, default=40, help="tokens of a hypothesis (40)")
    parser.add_argument("--rounds", type=int, default=5, help="times that all contenders run (5)")
    options = parser.parse_args(list(arguments))
    measure.print_heading("decode", arguments)
    said: dict[str, list[str]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        work = contenders(options, Path(scratch), said)
        costs = measure.interleaved(work, options.rounds)
    measure.print_costs(costs, {FULL: [GENERATE], SPEECH: [GENERATE]})
    for name in (FULL, SPEECH):
        same = sum(a == b for a, b in zip(said[name], said[GENERATE], strict=True))
        print(f"{name}: {same} of {options.batch} hypotheses are those of generate.")
    lengths = sorted(len(text.split()) for text in said[GENERATE])
    print(f"Tokens of a hypothesis: {lengths[0]} to {lengths[-1]}.")
    return 0


def contenders(
    options: argparse.Namespace, folder: Path, said: dict[str, list[str]]
) -> dict[str, Callable[[], Any]]:
    """The ways to decode one batch; each leaves its hypotheses in ``said``."""
    import torch

    from adakd.bench import made
    from adakd.brain import device

    clips = made.batches(1, options.batch)[0]

    def family(encode: str) -> Any:
        if options.model is None:
            longest = 4 + options.tokens  # with the prompt
            random: Any = made.family(
                "whisper", options.role, options.size, folder, encode, longest
            )
            # All tokens above "no timestamps" say times: after some, `generate` begins anew.
            last = random.hf.config.vocab_size - 1
            random.hf.generation_config.no_timestamps_token_id = last
            random.prompts["hi"] = [*random.prompt("hi")[:-1], last]
            return random
        from adakd import config as configuration
        from adakd import models

        config = configuration.Config(
            family="whisper",
            language=configuration.Language(code="hi"),
            audio=configuration.Audio(encode=encode),
        )
        return models.open_folder(config, options.model)

    full, short = (family(encode).to(device()).eval() for encode in ("full", "speech"))
    for each in (full, short):
        # The prompt needs the real tokenizer, once.
        each.tokenizer = Numbers(each.tokenizer, {*each.prompt("hi"), each.tokenizer.eos_token_id})

    def generate() -> None:
        batch = full.collate(clips.entries, clips.clips).to(device())
        with torch.inference_mode():
            indices = full.hf.generate(
                batch.inputs, language="hi", task="transcribe", return_timestamps=False
            )
        said[GENERATE] = full.tokenizer.batch_decode(indices)

    def ours(name: str, model: Family) -> Callable[[], None]:
        def decode() -> None:
            batch = model.collate(clips.entries, clips.clips).to(device())
            with torch.inference_mode():
                said[name] = model.transcribe(batch)

        return decode

    return {GENERATE: generate, FULL: ours(FULL, full), SPEECH: ours(SPEECH, short)}


class Numbers:
    """A tokenizer that writes tokens as numbers: no text, however random the weights, hides any."""

    def __init__(self, tokenizer: Any, silent: set[int]) -> None:
        self._tokenizer, self._silent = tokenizer, silent

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        return self._tokenizer(*arguments, **options)

    def batch_decode(self, rows: Any, skip_special_tokens: bool = True) -> list[str]:
        """Each row of indices, without the prompt's and the end, as decimal numbers."""
        return [" ".join(str(i) for i in row if i not in self._silent) for row in rows.tolist()]
