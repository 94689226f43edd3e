"""A trained student as a Hugging Face folder, checked by decoding the test set with it."""

from __future__ import annotations

import dataclasses
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
    set; a text that differs from our own decoding of the full input is a UserError, and ``target``
    stays as it was. Returns the number of utterances compared.
    """
    from adakd.steps import replaced_folder

    with replaced_folder(target) as fresh:
        shutil.copytree(experiment / "model", fresh, dirs_exist_ok=True)
        _write_card(config, experiment, fresh, method)
        expected = _own_texts(config, experiment, root)
        found = pipeline_texts(config, fresh, root, list(expected))
        for utterance, text in expected.items():
            if found[utterance] != text:
                raise UserError(
                    f"Utterance '{utterance}': the exported model says '{found[utterance]}' and "
                    f"ours said '{text}'; {target} is not written, please report this."
                )
    return len(expected)


def _own_texts(config: configuration.Config, experiment: Path, root: Path) -> dict[str, str]:
    """Our hypotheses of the test set from full input, as the pipeline pads it: stage 7's, or new.

    Without padding a model may say something else, and that would be no fault of the copy.
    """
    if config.decode.encode == "full":
        from adakd.score import read_hypotheses

        rows = read_hypotheses(experiment / "hyp.test.jsonl")
    else:
        from adakd.data import manifest
        from adakd.decode import transcribe
        from adakd.steps import Place

        rows = transcribe(
            dataclasses.replace(config, audio=configuration.Audio()),
            experiment / "model",
            manifest.read(Place(root, config).data / "test.jsonl"),
            root,
            f"{config.recipe} {config.family}: decoding test from full input",
        )
    return {row["id"]: row["hypothesis"] for row in rows}


def _write_card(config: configuration.Config, experiment: Path, folder: Path, method: str) -> None:
    scores = json.loads((experiment / "score.json").read_text(encoding="utf-8"))["test"]
    low, high = scores["interval"]
    unpadded = "" if config.decode.encode == "full" else ", not padded as the pipeline pads them"
    write_text(
        folder / "README.md",
        f"# {config.recipe}, {config.family}, {method}\n\n"
        f"A student trained by AdaKD's recipe `{config.recipe}` with the method `{method}`, chosen "
        f"among its methods by CER on dev. Test CER (normalised): {scores['cer']:.2%} "
        f"[{low:.2%}, {high:.2%}] over {scores['utterances']} utterances{unpadded}.\n\n"
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
    from adakd.models.units import without_unknown
    from adakd.steps import Place

    # Where the hypotheses were made: the rounding of another device may tip a close decision.
    recognise: Any = pipeline("automatic-speech-recognition", str(folder), device=device())
    entries = {entry.id: entry for entry in manifest.read(Place(root, config).data / "test.jsonl")}
    texts = {}
    for utterance in track(ids, len(ids), f"{config.recipe} {config.family}: checking the export"):
        clip = audio.read(root / entries[utterance].audio)
        said = recognise({"raw": clip, "sampling_rate": audio.SAMPLE_RATE})
        texts[utterance] = without_unknown(said["text"], recognise.tokenizer)
    return texts
