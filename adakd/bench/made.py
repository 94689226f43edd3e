"""Models of the paper's sizes from random weights, and made-up speech: no download, no corpus.

What a step costs depends on sizes and lengths, not on what the weights know. `tiny` is a miniature
of everything, for trying a benchmark and for its test.
"""

from __future__ import annotations

import contextlib
import gc
import random
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from adakd import config as configuration
from adakd.data.audio import SAMPLE_RATE
from adakd.data.manifest import Entry
from adakd.models import units

if TYPE_CHECKING:
    from adakd.brain import DistillationBrain
    from adakd.data.loader import Steps
    from adakd.models import Batch, Family
    from adakd.objectives import SoftOutputs
    from adakd.teacher_store import Store

UNITS = 51_865  # of multilingual Whisper
TOKENS_A_SECOND = 8  # a guess at Hindi in Whisper's tokens, and in CTC's characters
LETTERS = "abcdefghijklmnopqrstuvwxyz"
TEMPERATURE = 1.0  # as recipes that keep only the top k have it

Sizes = dict[str, dict[str, dict[str, Any]]]


def shape(name: str, width: int, layers: int) -> dict[str, Any]:
    """The part of a family's configuration that says how wide and deep a model is."""
    if name == "whisper":
        return {
            "d_model": width,
            "encoder_layers": layers,
            "decoder_layers": layers,
            "encoder_attention_heads": max(2, width // 64),
            "decoder_attention_heads": max(2, width // 64),
            "encoder_ffn_dim": 4 * width,
            "decoder_ffn_dim": 4 * width,
        }
    return {
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": 16,
        "intermediate_size": 4 * width,
    }


def _whisper(width: int, layers: int, positions: int) -> dict[str, Any]:
    return {
        **shape("whisper", width, layers),
        "num_mel_bins": 80,
        "max_source_positions": positions,
    }


def _wav2vec2(width: int, layers: int, **changes: Any) -> dict[str, Any]:
    return {
        **shape("wav2vec2", width, layers),
        "feat_extract_norm": "layer",
        "do_stable_layer_norm": True,
        "conv_bias": True,
        "activation_dropout": 0.0,
        "final_dropout": 0.0,
        "feat_proj_dropout": 0.1,
        **changes,
    }


_SMALL = {"conv_dim": (32,) * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4}

# As published: openai/whisper-small and -tiny, facebook/wav2vec2-xls-r-1b and -300m.
MODELS: dict[str, Sizes] = {
    "whisper": {
        "true": {"teacher": _whisper(768, 12, 1500), "student": _whisper(384, 4, 1500)},
        "tiny": {"teacher": _whisper(64, 2, 400), "student": _whisper(32, 2, 400)},
    },
    "wav2vec2": {
        "true": {"teacher": _wav2vec2(1280, 48), "student": _wav2vec2(1024, 24)},
        "tiny": {
            "teacher": _wav2vec2(64, 2, **_SMALL),
            "student": _wav2vec2(32, 2, **_SMALL),
        },
    },
}


@dataclass
class Speech:
    """Made-up utterances."""

    entries: list[Entry]
    clips: list[np.ndarray]  # float32 (n,) at 16 kHz

    @property
    def seconds(self) -> float:
        """Of all together."""
        return sum(entry.seconds for entry in self.entries)


def speech(lengths: Sequence[float], tokens: int | None = None, seed: int = 0) -> Speech:
    """Noise of these lengths in seconds, with text.

    It has ``tokens`` tokens, its leading space among them, or as many as fit the length.
    """
    draw, letters = np.random.default_rng(seed), random.Random(seed)
    entries, clips = [], []
    for number, seconds in enumerate(lengths):
        clip = (0.1 * draw.standard_normal(round(seconds * SAMPLE_RATE))).astype(np.float32)
        # One token a letter, and one for the space that begins Whisper's text
        count = tokens - 1 if tokens else round(TOKENS_A_SECOND * seconds) - 1
        text = "".join(letters.choices(LETTERS, k=count))
        clips.append(clip)
        entries.append(
            Entry(
                id=f"{seed}-{number}",
                audio=f"{seed}-{number}.flac",
                seconds=len(clip) / SAMPLE_RATE,
                text=text,
                raw=text,
                speaker="nobody",
                language="hi",
            )
        )
    return Speech(entries, clips)


def batches(count: int, size: int) -> list[Speech]:
    """Batches of clips of 3 to 7 s, about 5 on average, as bucketing makes them of a big corpus.

    The clips of a batch lie within half a second, so that Whisper pads them to one length (`audio.
    encode: speech`: by 0.75 s on average); the batches evenly cover the range.
    """
    draw = random.Random(0)
    made = []
    for number in range(count):
        shortest = int(2 * (3 + 4 * (number + 0.5) / count)) / 2
        lengths = [shortest + draw.uniform(0.01, 0.49) for _ in range(size)]
        made.append(speech(lengths, seed=number))
    return made


def family(
    name: str,
    role: str,
    size: str,
    folder: Path,
    encode: str = "speech",
    longest: int = 448,
    **changes: Any,
) -> Family:
    """A ``teacher`` or ``student``, ``true`` or ``tiny``; ``folder`` is for its tokenizer.

    ``encode`` is `audio.encode`; ``longest`` the tokens that Whisper's decoder takes; ``changes``
    what is to differ in the model's configuration, see `shape`.
    """
    import transformers

    torch.manual_seed({"teacher": 1, "student": 2}[role])
    settings = {**MODELS[name][size][role], **changes}
    config = configuration.Config(
        family=name,
        language=configuration.Language(code="hi"),
        audio=configuration.Audio(encode=encode),
    )
    own = folder / name
    if name == "wav2vec2":
        from adakd.models.wav2vec2 import Wav2Vec2

        units.train_characters([LETTERS], own)
        tokenizer = transformers.Wav2Vec2CTCTokenizer.from_pretrained(own)
        made = transformers.Wav2Vec2Config(
            **{"vocab_size": len(tokenizer), **settings}, pad_token_id=0, apply_spec_augment=False
        )
        extractor = transformers.Wav2Vec2FeatureExtractor(return_attention_mask=True)
        return Wav2Vec2(transformers.Wav2Vec2ForCTC(made), tokenizer, extractor).eval()

    from adakd.models.whisper import Whisper

    units.train_bpe([LETTERS], own, 256)  # bytes and nothing else: a letter is a token
    words = transformers.WhisperTokenizer.from_pretrained(own)
    end = words.eos_token_id
    whisper = transformers.WhisperConfig(
        **{"vocab_size": UNITS if size == "true" else len(words), **settings},
        max_target_positions=longest,
        suppress_tokens=None,
        begin_suppress_tokens=None,
        pad_token_id=end,
        bos_token_id=end,
        eos_token_id=end,
        decoder_start_token_id=words.convert_tokens_to_ids("<|startoftranscript|>"),
    )
    features = transformers.WhisperFeatureExtractor(
        feature_size=whisper.num_mel_bins, chunk_length=whisper.max_source_positions // 50
    )
    hf = transformers.WhisperForConditionalGeneration(whisper)
    return Whisper(hf, words, features, config).eval()


_brains: list[DistillationBrain] = []  # their logs are open


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A folder that goes afterwards; the logs of the brains in it, which write late, are closed."""
    # Brains refer to themselves. Two of XLS-R's size and their optimisers, left by the scratch
    # before, are 7 GB that would wait for the garbage collector's own time.
    gc.collect()
    with tempfile.TemporaryDirectory() as folder:
        try:
            yield Path(folder)
        finally:
            while _brains:
                _brains.pop().metrics.close()


def in_memory(clips: Sequence[Speech], family: Family, extra: Callable[[Batch], Batch]) -> Steps:
    """What reads batches of these clips for a loader, without files."""
    from adakd.data.loader import Steps

    samples = {
        entry.id: clip
        for each in clips
        for entry, clip in zip(each.entries, each.clips, strict=True)
    }

    class InMemory(Steps):
        def _read(self, entry: Entry) -> np.ndarray:
            return samples[entry.id]

    entries = [entry for each in clips for entry in each.entries]
    return InMemory(entries, Path(), family, extra)


def brain(
    student: Family,
    method: str,
    folder: Path,
    teacher: Family | None = None,
    **train: Any,
) -> DistillationBrain:
    """A Brain that is ready for `fit_batch`: the training that recipes run; see `scratch`.

    ``train``: settings of `config.Train`, such as ``precision="fp32"``.
    """
    from adakd import weighting as weightings
    from adakd.brain import DistillationBrain
    from adakd.data.loader import StepSampler

    # Steps enough (6,000) that no benchmark sees the end of the learning-rate schedule,
    # and the convolutions of wav2vec2 frozen, as the recipes for XLS-R have them.
    train = {"freeze_feature_encoder": True, **train}
    settings = configuration.Train(
        epochs=3_000, learning_rate=1e-5, mask_time=0.0, batch_seconds=1, **train
    )
    student.prepare_training(settings)
    weighting = weightings.build(method)
    weighting.fit([0.1 * number for number in range(1, 20)])
    folder.mkdir(parents=True)
    made = DistillationBrain(
        student, weighting, settings, configuration.Distill(TEMPERATURE), folder,
        StepSampler([1.0, 1.0], 1.0), method, teacher,
    )  # fmt: skip
    made.on_fit_start()
    made.modules.train()
    _brains.append(made)
    return made


def optimiser_step(
    brain: DistillationBrain, clips: Speech, top_k: int | None = None
) -> Callable[[], Tensor]:
    """A whole step of training on clips that lie in memory as one batch.

    With ``top_k`` there are soft outputs of so many units, 0 for dense ones; without there are
    none, as fine-tuning and a live teacher want it.
    """
    batch = brain.student.collate(clips.entries, clips.clips)
    soft = None if top_k is None else soft_outputs(brain.student, batch, top_k)
    batch = supervised(batch, soft)
    if torch.cuda.is_available():  # as the loader hands it over
        batch = batch.pin_memory()
    return partial(brain.fit_batch, [batch])


def supervised(batch: Batch, soft: SoftOutputs | None) -> Batch:
    """The batch with difficulties, and with soft outputs as if they came from the store."""
    batch.difficulty = torch.linspace(0.2, 1.8, len(batch.ids))
    batch.soft = soft
    return batch


def kept(family: str, top_k: int) -> int:
    """Units that a store keeps of a family's, 0 for all: small vocabularies are stored dense."""
    return top_k if family == "whisper" else 0


def soft_outputs(student: Family, batch: Batch, top_k: int) -> SoftOutputs:
    """What the store would hold for a batch, of no teacher in particular: dense for top_k = 0."""
    from adakd.objectives import Dense, TopK

    draw = torch.Generator().manual_seed(0)
    units_count = student.hf.config.vocab_size
    shape = (len(batch.ids), int(student.positions(batch).max()))
    if not top_k:
        return Dense(torch.randn(*shape, units_count, generator=draw, dtype=torch.float16))
    top = min(top_k, units_count)
    drawn = torch.randint(units_count, (*shape, min(top, units_count - top)), generator=draw)
    first = torch.randint(units_count, (*shape, 1), generator=draw)
    apart = units_count // top
    indices = (first + apart * torch.arange(top)) % units_count
    values = 5 + torch.randn(*shape, top, generator=draw)
    tail = torch.full(shape, 5.0)
    return TopK(values.half(), indices, tail, drawn, tail - 8, TEMPERATURE)


def store(student: Family, clips: Sequence[Speech], folder: Path, top_k: int) -> Store:
    """A teacher store over these clips, of no teacher in particular."""
    from adakd.teacher_store import Store, Writer, begin, finish

    begin(folder, {}, top_k, TEMPERATURE)
    draw = torch.Generator().manual_seed(0)
    with Writer(folder) as writer:
        for each in clips:
            batch = student.collate(each.entries, each.clips)
            for utterance, rows in zip(batch.ids, student.positions(batch).tolist(), strict=True):
                logits = 3 * torch.randn(rows, student.hf.config.vocab_size, generator=draw)
                writer.add(writer.reduce([utterance], [rows], logits), [1.0])
    finish(folder, sum(len(each.entries) for each in clips))
    return Store(folder)
