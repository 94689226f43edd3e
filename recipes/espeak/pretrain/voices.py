"""Fill in the CER of every eSpeak voice in ../voices.tsv, and choose the voices in use by it.

Every variant says the same Hindi sentences, clean, and the committed wav2vec2-mini writes down what
it hears. A voice that it does not understand (a croak, a joke) is taken out of use by
`adakd.corpora.espeak.measure_voices`; no other voice changes sides between train, dev and test.

    python recipes/espeak/pretrain/voices.py
"""

from __future__ import annotations

import itertools
from pathlib import Path

import torch

from adakd import config as configuration
from adakd import models, score
from adakd.corpora import espeak, grammar
from adakd.data import text
from adakd.data.manifest import Entry
from adakd.files import write_text

HERE = Path(__file__).resolve().parent
TABLE = HERE.parent / "voices.tsv"
SENTENCES = 12  # that no training has seen: of the dev bucket


def main() -> None:
    """Measure, write the CERs into the table, then let the table be chosen anew."""
    config = configuration.load(HERE, "wav2vec2")
    model = models.open_folder(config, HERE / "checkpoints" / "wav2vec2-mini").eval()
    hindi = grammar.load(HERE / "conf" / "grammar" / "hi.yaml")
    unseen = (s for s in grammar.sentences(hindi, seed=0) if grammar.split_of(s) == "dev")
    sentences = list(itertools.islice(unseen, SENTENCES))
    rows = espeak.measure_voices(TABLE)
    for row in rows:
        clips = [espeak.speak(sentence, "hi", row.variant) for sentence in sentences]
        entries = [
            Entry(str(i), "", 0.0, text.normalise(sentence, "hi"), sentence, row.variant, "hi")
            for i, sentence in enumerate(sentences)
        ]
        with torch.inference_mode():
            heard = model.transcribe(model.collate(entries, clips))
        row.cer = score.total(score.count([entry.text for entry in entries], heard)).cer
        print(f"{row.variant:16} {row.cer:.3f} {row.split}")
    write_text(TABLE, espeak.format_voices(rows))
    rows = espeak.measure_voices(TABLE)
    for split in (*espeak.SHARES, "unused"):
        names = [row.variant for row in rows if row.split == split]
        print(f"{split}: {len(names)}: {', '.join(names)}")


if __name__ == "__main__":
    main()
