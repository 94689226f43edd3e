"""A trained student as a Hugging Face folder, checked by decoding the test set with it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from adakd import config as configuration
from adakd.data import audio
from adakd.errors import UserError
from adakd.files import write_text
from adakd.progress import track


def write_export(
    config: configuration.Config, experiment: Path, target: Path, method: str, root: Path
) -> int:
    """Copy the model of ``experiment`` to ``target`` with a card, and check it.

    The check runs `pipeline("automatic-speech-recognition")` from the exported folder over the
    whole test set; a text that differs from the scored hypothesis is a UserError. Returns the
    number of utterances compared.
    """
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(experiment / "model", target)
    scores = json.loads((experiment / "score.json").read_text(encoding="utf-8"))["test"]
    low, high = scores["interval"]
    write_text(
        target / "README.md",
        f"# {config.recipe}, {config.family}, {method}\n\n"
        f"A student trained by AdaKD's recipe `{config.recipe}` with the method `{method}`, chosen "
        f"among its methods by CER on dev. Test CER (normalised): {scores['cer']:.2%} "
        f"[{low:.2%}, {high:.2%}] over {scores['utterances']} utterances.\n\n"
        "    from transformers import pipeline\n\n"
        '    pipeline("automatic-speech-recognition", "THIS_FOLDER")("speech.wav")\n',
    )
    lines = (experiment / "hyp.test.jsonl").read_text(encoding="utf-8").splitlines()
    expected = {row["id"]: row["hypothesis"] for row in map(json.loads, lines)}
    found = pipeline_texts(config, target, root, list(expected))
    for utterance, text in expected.items():
        if found[utterance] != text:
            raise UserError(
                f"Utterance '{utterance}': the exported model says '{found[utterance]}' and was "
                f"scored with '{text}'; {target} is not to be used, please report this."
            )
    return len(expected)


def pipeline_texts(
    config: configuration.Config, folder: Path, root: Path, ids: list[str]
) -> dict[str, str]:
    """What Hugging Face's pipeline makes of test utterances, one at a time."""
    from transformers import pipeline

    from adakd.data import manifest
    from adakd.steps import Place

    recognise: Any = pipeline("automatic-speech-recognition", str(folder), device=-1)
    entries = {entry.id: entry for entry in manifest.read(Place(root, config).data / "test.jsonl")}
    texts = {}
    for utterance in track(ids, len(ids), f"{config.recipe} {config.family}: checking the export"):
        clip = audio.read(root / entries[utterance].audio)
        said = recognise({"raw": clip, "sampling_rate": audio.SAMPLE_RATE})
        texts[utterance] = said["text"].strip()
    return texts
