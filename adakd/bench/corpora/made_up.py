"""A corpus of any size without a file of its own: every utterance has the same clip.

Only `adakd.bench.memory` puts it among the corpora. It never holds what it yields.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from adakd.corpora import Utterance
from adakd.files import write_json

SECONDS = 1.0
HELD_OUT = 20  # utterances of dev and of test


@dataclass
class Options:
    """How much of it there is."""

    utterances: int = 1000  # of train


def fetch(options: Options, folder: Path, language: str) -> None:
    """Write the one clip, 1 s of noise at 16 kHz."""
    import numpy as np

    from adakd.data import audio

    frames = round(SECONDS * audio.SAMPLE_RATE)
    noise = 0.1 * np.random.default_rng(1).standard_normal(frames)
    audio.write_flac(folder / "clip.flac", noise.astype(np.float32))
    write_json(folder / "corpus.json", {"utterances": options.utterances})


def utterances(options: Options, folder: Path, fold: int | None) -> Iterator[Utterance]:
    """Ids and paths as long as Common Voice's, and a sentence as long as its Hindi ones."""
    draw = random.Random(1)
    letters = "कखगघचछजझटठडढणतथदधनपफबभमयरलवशसह ािीुूेो"
    sizes = {"train": options.utterances, "dev": HELD_OUT, "test": HELD_OUT}
    for split, size in sizes.items():
        for number in range(size):
            # CTC needs a frame for every letter, and a second has 50.
            text = "".join(draw.choices(letters, k=30)) + "।"
            name = f"common_voice_hi_{split}_{number:08}"
            yield Utterance(name, split, folder / "clip.flac", text, f"speaker{number % 999}", "hi")
