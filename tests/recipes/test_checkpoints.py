"""The committed checkpoints: what the README says of them holds."""

from itertools import islice
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from adakd import config as configuration
from adakd import models, score
from adakd.corpora import espeak, grammar
from adakd.data import text
from adakd.data.manifest import Entry

ROOT = Path(__file__).resolve().parents[2]
CHECKPOINTS = ROOT / "recipes" / "espeak" / "pretrain" / "checkpoints"
# Said by no grammar; a voice of the test set.
SENTENCES = ["आज मौसम बहुत अच्छा है", "मेरी माँ बाज़ार से सब्ज़ी लाती है", "हम कल सुबह स्टेशन जाएँगे"]


def count(folder: Path) -> int:
    with safe_open(folder / "model.safetensors", "pt") as file:
        tensors = [file.get_tensor(name) for name in file.keys()]
    assert {tensor.dtype for tensor in tensors} == {torch.float16}
    return sum(tensor.numel() for tensor in tensors)


@pytest.mark.parametrize("family", configuration.FAMILIES)
def test_micro_has_at_most_a_quarter_of_minis_parameters(family: str) -> None:
    assert 4 * count(CHECKPOINTS / f"{family}-micro") <= count(CHECKPOINTS / f"{family}-mini")


def test_the_four_together_stay_under_20_megabytes() -> None:
    files = [path for path in CHECKPOINTS.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 20_000_000
    for family in configuration.FAMILIES:
        for size in ("mini", "micro"):
            card = (CHECKPOINTS / f"{family}-{size}" / "README.md").read_text(encoding="utf-8")
            for word in ("Data", "Command", "seed", "Time", "CER"):
                assert word in card


def sentences_of_dev(count: int) -> list[str]:
    """Sentences that pretraining kept for dev."""
    source = grammar.load(ROOT / "recipes" / "espeak" / "pretrain" / "conf" / "grammar" / "hi.yaml")
    drawn = grammar.sentences(source, 1)
    return list(islice((one for one in drawn if grammar.split_of(one) == "dev"), count))


# Whisper's decoder has learnt the grammars' phrases: of other sentences it makes such phrases.
@pytest.mark.parametrize(
    ("family", "sentences"),
    [("wav2vec2", SENTENCES), ("wav2vec2", sentences_of_dev(8)), ("whisper", sentences_of_dev(8))],
)
def test_mini_understands_clean_hindi_of_an_unheard_voice(
    family: str, sentences: list[str]
) -> None:
    config = configuration.load(ROOT / "recipes" / "espeak" / "hi", family)
    model = models.open_folder(config, CHECKPOINTS / f"{family}-mini").eval()
    voices = espeak.read_voices(ROOT / "recipes" / "espeak" / "voices.tsv")
    voice = next(row.variant for row in voices if row.split == "test")
    references = [text.normalise(sentence, "hi") for sentence in sentences]
    entries = [
        Entry(str(i), "", 0.0, reference, reference, voice, "hi")
        for i, reference in enumerate(references)
    ]
    clips = [espeak.speak(sentence, "hi", voice) for sentence in sentences]
    with torch.inference_mode():
        heard = model.transcribe(model.collate(entries, clips))
    heard = [text.normalise(each, "hi") for each in heard]
    assert score.total(score.count(references, heard)).cer < 0.6
