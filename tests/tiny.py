"""Models small enough to build in a blink, and noise for them to listen to.

Random weights, two layers, and all that can differ between real checkpoints. The weights are drawn
wide: then units differ clearly in probability, and hypotheses differ between utterances.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from adakd import config as configuration
from adakd import models
from adakd.data.audio import SAMPLE_RATE, write_flac
from adakd.data.manifest import Entry
from adakd.models import units

TEXTS = ("नमस्ते दुनिया", "क्या हाल है", "अच्छा", "बारिश हो रही है", "आम")
SECONDS = (1.7, 0.9, 0.5, 1.9, 0.31)
WHISPER_SECONDS = 2.0  # what the tiny encoder takes


def wav2vec2_config(norm: str = "layer", **changes: Any) -> dict[str, Any]:
    """A wav2vec2 of 20 ms frames; ``norm`` is "layer", as XLS-R has it, or "group"."""
    return {
        "hidden_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "conv_dim": [24, 24],
        "conv_kernel": [400, 3],
        "conv_stride": [160, 2],
        "num_feat_extract_layers": 2,
        "feat_extract_norm": norm,
        "do_stable_layer_norm": norm == "layer",
        "num_conv_pos_embeddings": 8,
        "num_conv_pos_embedding_groups": 4,
        "initializer_range": 0.4,
        **changes,
    }


def whisper_config(**changes: Any) -> dict[str, Any]:
    """A Whisper for 2 s of audio and 40 tokens."""
    return {
        "d_model": 16,
        "encoder_layers": 2,
        "decoder_layers": 2,
        "encoder_attention_heads": 2,
        "decoder_attention_heads": 2,
        "encoder_ffn_dim": 32,
        "decoder_ffn_dim": 32,
        "num_mel_bins": 20,
        "max_source_positions": round(WHISPER_SECONDS * 50),
        "max_target_positions": 40,
        "init_std": 0.9,
        **changes,
    }


def config(family: str, language: str = "hi", **changes: Any) -> configuration.Config:
    """A configuration that names a language; ``changes`` replace whole fields of it."""
    return configuration.Config(
        family=family, language=configuration.Language(code=language), **changes
    )


@cache
def bpe_folder(parent: Path) -> Path:
    """Whisper's units for the texts of this module, made once in a folder."""
    folder = parent / "bpe"
    units.train_bpe(TEXTS * 2, folder, 300)
    return folder


@cache
def characters_folder(parent: Path) -> Path:
    """CTC units for the texts of this module, made once in a folder."""
    folder = parent / "characters"
    units.train_characters(TEXTS, folder)
    return folder


def family(
    name: str, folder: Path, seed: int = 1, model: dict[str, Any] | None = None, **changes: Any
) -> Any:
    """A tiny model in eval mode. ``folder`` keeps its units; ``model`` is its `config:` block."""
    torch.manual_seed(seed)
    if name == "whisper":
        made, own = whisper_config(), bpe_folder(folder)
    else:
        made, own = wav2vec2_config(), characters_folder(folder)
    settings = config(name, student=configuration.Model(config=model or made), **changes)
    return models.load(settings, "student", own).eval()


def noise(seconds: float, seed: int) -> np.ndarray:
    """Noise whose colour and level change, float32 (n,) at 16 kHz: no two stretches sound alike."""
    draw = np.random.default_rng(seed)
    samples = draw.standard_normal(round(seconds * SAMPLE_RATE))
    parts = []
    for part in np.array_split(samples, max(1, round(seconds / 0.15))):
        smooth = np.convolve(part, np.ones(draw.integers(1, 40)), mode="same")
        parts.append(draw.uniform(0.02, 0.2) * smooth / smooth.std())
    return np.concatenate(parts).astype(np.float32)


def entries(
    folder: Path,
    texts: Sequence[str] = TEXTS,
    seconds: Sequence[float] = SECONDS,
    language: str = "hi",
) -> list[Entry]:
    """A manifest of noise, written as FLAC to ``folder``; paths are relative to it."""
    made = []
    for number, (text, length) in enumerate(zip(texts, seconds, strict=True)):
        clip = noise(length, number)
        write_flac(folder / f"{number}.flac", clip)
        made.append(
            Entry(
                id=f"utterance-{number}",
                audio=f"{number}.flac",
                seconds=len(clip) / SAMPLE_RATE,
                text=text,
                raw=text,
                speaker="nobody",
                language=language,
            )
        )
    return made
