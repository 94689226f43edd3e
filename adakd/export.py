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
    """Copy the model of ``experiment`` to ``target`` with a card, once it is checked.

    The check runs `pipeline("automatic-speech-recognition")` from the copy over the whole test
    set; a text that differs from the scored hypothesis is a UserError, and ``target`` stays as it
    was. Returns the number of utterances compared.
    """
    from adakd.steps import replaced_folder

    with replaced_folder(target) as fresh:
        shutil.copytree(experiment / "model", fresh, dirs_exist_ok=True)
        _write_card(config, experiment, fresh, method)
        with (experiment / "hyp.test.jsonl").open(encoding="utf-8") as file:
            expected = {row["id"]: row["hypothesis"] for row in map(json.loads, file)}
        found = pipeline_texts(config, fresh, root, list(expected))
        for utterance, text in expected.items():
            if found[utterance] != text:
                raise UserError(
                    f"Utterance '{utterance}': the exported model says '{found[utterance]}' and "
                    f"was scored with '{text}'; {target} is not written, please report this."
                )
    return len(expected)


def _write_card(config: configuration.Config, experiment: Path, folder: Path, method: str) -> None:
    scores = json.loads((experiment / "score.json").read_text(encoding="utf-8"))["test"]
    low, high = scores["interval"]
    write_text(
        folder / "README.md",
        f"# {config.recipe}, {config.family}, {method}\n\n"
        f"A student trained by AdaKD's recipe `{config.recipe}` with the method `{method}`, chosen "
        f"among its methods by CER on dev. Test CER (normalised): {scores['cer']:.2%} "
        f"[{low:.2%}, {high:.2%}] over {scores['utterances']} utterances.\n\n"
        "    from transformers import pipeline\n\n"
        '    pipeline("automatic-speech-recognition", "THIS_FOLDER")("speech.wav")\n',
    )


def pipeline_texts(
    config: configuration.Config, folder: Path, root: Path, ids: list[str]
) -> dict[str, str]:
    """What Hugging Face's pipeline makes of test utterances, one at a time."""
    from transformers import pipeline

    from adakd.brain import device
    from adakd.data import manifest
    from adakd.steps import Place

    # Where the hypotheses were made: the rounding of another device may tip a close decision.
    recognise: Any = pipeline("automatic-speech-recognition", str(folder), device=device())
    entries = {entry.id: entry for entry in manifest.read(Place(root, config).data / "test.jsonl")}
    texts = {}
    for utterance in track(ids, len(ids), f"{config.recipe} {config.family}: checking the export"):
        clip = audio.read(root / entries[utterance].audio)
        said = recognise({"raw": clip, "sampling_rate": audio.SAMPLE_RATE})
        texts[utterance] = said["text"].strip()
    return texts
