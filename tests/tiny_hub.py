"""Checkpoints as the hub has them, in miniature: random weights, and the same files.

Helpers of tests/recipes; no test stands here.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import tiny_recipe

from adakd import config as configuration
from adakd import models
from adakd.models import units

WIDTHS = {"teacher": 16, "student": 8}


def checkpoints(folder: Path, family: str, texts: Sequence[str]) -> dict[str, str]:
    """Folders of a teacher and a student, by role.

    wav2vec2 as XLS-R: pretrained only, hence without a tokenizer. Whisper with one, over `texts`.
    """
    if family == "wav2vec2":
        units.train_characters(texts, folder / "units")
    else:
        units.train_bpe(texts * 2, folder / "units", 320)
    for role, width in WIDTHS.items():
        block = tiny_recipe.wav2vec2 if family == "wav2vec2" else tiny_recipe.whisper
        settings = configuration.Config(
            family=family,
            language=configuration.Language(code="hi"),
            **{role: configuration.Model(config=block(width))},
        )
        models.load(settings, role, folder / "units").save(folder / role)
        if family == "wav2vec2":
            for path in (folder / role).iterdir():
                if path.name not in (
                    "config.json",
                    "model.safetensors",
                    "preprocessor_config.json",
                ):
                    path.unlink()
    return {role: str(folder / role) for role in WIDTHS}
