"""Recipes, models, places and recordings small enough to run every stage in seconds.

Helpers of many tests; no test stands here. The models have random weights and a few thousand
parameters, so nothing here says how well anything works.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from adakd import config as configuration
from adakd import finished
from adakd.data import audio, manifest
from adakd.data.manifest import Entry
from adakd.place import Place

SECONDS = 2  # the longest clip that the tiny Whisper encoders take
STILL = {  # dropout off, for what is to come out alike
    "wav2vec2": {
        "hidden_dropout": 0.0,
        "attention_dropout": 0.0,
        "activation_dropout": 0.0,
        "feat_proj_dropout": 0.0,
        "final_dropout": 0.0,
    },
    "whisper": {"dropout": 0.0},
}

HINDI = """\
words:
  who: [राम, सीता, मोहन, गीता, "मेरा भाई", "मेरी बहन", "वह आदमी", "एक लड़की"]
  what: [पानी, दूध, चाय, फल, रोटी, खाना]
  does: ["लाया है", "माँगता है", "देता है", "चाहता है", "रखता है"]
patterns:
  - "{who} {what} {does}।"
"""


def wav2vec2(width: int) -> dict[str, Any]:
    """A `config:` block: two convolutions (one frame in 20 ms) and one transformer layer."""
    return {
        "hidden_size": width,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 2 * width,
        "conv_dim": [width, width],
        "conv_kernel": [160, 3],
        "conv_stride": [160, 2],
        "num_feat_extract_layers": 2,
        "feat_extract_norm": "layer",
        "do_stable_layer_norm": True,
        "conv_bias": True,
        "num_conv_pos_embeddings": 4,
        "num_conv_pos_embedding_groups": 2,
        "hidden_dropout": 0.1,
        "mask_time_length": 4,
    }


def whisper(width: int) -> dict[str, Any]:
    """A `config:` block: one layer in the encoder, one in the decoder."""
    return {
        "d_model": width,
        "encoder_layers": 1,
        "decoder_layers": 1,
        "encoder_attention_heads": 2,
        "decoder_attention_heads": 2,
        "encoder_ffn_dim": 2 * width,
        "decoder_ffn_dim": 2 * width,
        "num_mel_bins": 80,
        "max_source_positions": 50 * SECONDS,
        "max_target_positions": 48,
        "dropout": 0.1,
        "mask_time_length": 4,
    }


BLOCKS = {"wav2vec2": wav2vec2, "whisper": whisper}


def family_settings(family: str) -> dict[str, Any]:
    """conf/<family>.yaml of a tiny recipe, as a mapping."""
    block = BLOCKS[family]
    units = {"kind": "characters"} if family == "wav2vec2" else {"kind": "bpe", "size": 270}
    return {
        "units": units,
        "teacher": {"config": block(16), "train": {"epochs": 1}},
        "student": {"config": block(8)},
        "train": {
            "epochs": 2,
            "batch_seconds": 12,
            "learning_rate": 3.0e-3,
            "ctc_weight": 0.3 if family == "whisper" else 0.0,
        },
        "methods": {"kd": {"alpha": 0.5}, "adakd": {"threshold": "mean", "k": "auto"}},
    }


def write_recipe(
    repository: Path, name: str, language: str, corpus: dict[str, Any], **more: Any
) -> Path:
    """Write recipes/<name>/conf below `repository`; returns the recipe's folder."""
    folder = repository / "recipes" / name
    (folder / "conf").mkdir(parents=True)
    settings = {
        "demonstration": True,
        "language": {"code": language},
        "corpus": corpus,
        "data": {"max_seconds": SECONDS, "jobs": 1},
        "score": {"bootstrap": 50},
        **more,
    }
    write_yaml(folder / "conf" / "recipe.yaml", settings)
    for family in configuration.FAMILIES:
        write_yaml(folder / "conf" / f"{family}.yaml", family_settings(family))
    return folder


def write_yaml(path: Path, content: dict[str, Any]) -> None:
    path.write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True), encoding="utf-8")


def espeak_recipe(repository: Path, name: str = "tiny/hi") -> Path:
    """Half a minute of Hindi from eSpeak NG, in which no two splits share a sentence."""
    grammar = repository / "grammar.yaml"
    grammar.parent.mkdir(parents=True, exist_ok=True)
    grammar.write_text(HINDI, encoding="utf-8")
    corpus = {
        "kind": "espeak",
        "grammar": str(grammar),
        "hours": 0.009,
        "dev_minutes": 0.1,
        "test_minutes": 0.12,
        "max_seconds": SECONDS,
        "rate": [220, 260],
        "reverb": [0.0, 0.0],
    }
    return write_recipe(repository, name, "hi", corpus)


def fsdd_recordings(folder: Path, speakers: int = 6, takes: int = 1) -> Path:
    """Made-up recordings in FSDD's layout: a tone of 0.2 s for each digit, at 8 kHz."""
    import soundfile

    recordings = folder / "recordings"
    recordings.mkdir(parents=True)
    time = np.arange(1600) / 8000
    for speaker in range(speakers):
        for digit in range(10):
            for take in range(takes):
                tone = 0.3 * np.sin(2 * np.pi * (300 + 200 * digit + 20 * speaker + take) * time)
                name = f"{digit}_speaker{speaker}_{take}.wav"
                soundfile.write(recordings / name, tone.astype(np.float32), 8000)
    return folder


def fsdd_recipe(repository: Path, recordings: Path, name: str = "tiny/en") -> Path:
    """A recipe over `fsdd_recordings`."""
    corpus = {"kind": "fsdd", "corpus": str(recordings), "max_digits": 3, "pause_max": 0.1}
    # What training encoded makes no difference to decoding, which stage 10 checks.
    return write_recipe(repository, name, "en", corpus, audio={"encode": "speech"})


def entries(root: Path, count: int, prefix: str = "u", seed: int = 0) -> list[Entry]:
    """Utterances of 0.5 s to 1.5 s, one tone a letter, written below `root`."""
    draw = random.Random(f"{seed}-{prefix}")
    found = []
    for number in range(count):
        letters = [draw.choice("abcd") for _ in range(draw.randint(3, 8))]
        length = draw.randint(2000, 3200)
        time = np.arange(length) / audio.SAMPLE_RATE
        tones = [np.sin(2 * np.pi * 400 * (1 + "abcd".index(a)) * time) for a in letters]
        noise = np.random.default_rng(number).standard_normal(length * len(letters))
        clip = 0.1 * np.concatenate(tones) + 0.01 * noise
        path = Path("audio", f"{prefix}{number}.flac")
        audio.write_flac(root / path, clip.astype(np.float32))
        text = "".join(letters)
        seconds = len(clip) / audio.SAMPLE_RATE
        speaker = f"s{number % 3}"
        found.append(Entry(f"{prefix}{number}", str(path), seconds, text, text, speaker, "en"))
    return found


def config(family: str, **changes: Any) -> configuration.Config:
    """A validated configuration with tiny models; `changes` are merged over the top level."""
    mapping = {
        "recipe": "tiny/en",
        "family": family,
        "language": {"code": "en"},
        "corpus": {"kind": "fsdd"},
        **family_settings(family),
        **changes,
    }
    made = configuration.from_dict(configuration.Config, mapping, "tests/tiny_recipe.py")
    configuration.check(made)
    return made


def train_units(family: str, folder: Path, texts: Sequence[str]) -> Path:
    """The family's own tokenizer over `texts`."""
    from adakd.models import units

    if family == "wav2vec2":
        units.train_characters(texts, folder)
    else:
        units.train_bpe(texts, folder, 270)
    return folder


def prepared(root: Path, family: str, **changes: Any) -> Place:
    """A place whose stage 1 is done: 14 utterances by three speakers to train on."""
    changes = {"teacher": {"config": BLOCKS[family](8), "train": {"epochs": 1}}, **changes}
    place = Place(root, config(family, **changes))
    if not (place.data / "done.json").exists():
        train = entries(root, 14)
        manifest.write(place.data / "train.jsonl", train)
        for split in ("dev", "test"):
            manifest.write(place.data / f"{split}.jsonl", entries(root, 2, split))
        train_units(family, place.units, [entry.text for entry in train])
        finished.mark_done(place.data, {}, manifests="m", counts={"train": {"kept": 14}})
    return place


def place_of(root: Path, **changes: Any) -> Place:
    """The place of a tiny Whisper recipe."""
    return Place(root, config("whisper", **changes))


def mark(folder: Path, **facts: object) -> None:
    """As if a step had left its results there."""
    finished.mark_done(folder, {}, **facts)


def cut(folder: Path, inputs: dict, place: Place) -> Path:
    """As if a training had been cut; its checkpoint."""
    finished.begin(folder, inputs, place.config)
    saved = folder / "ckpt" / "CKPT+1"
    saved.mkdir(parents=True)
    return saved
