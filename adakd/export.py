"""A trained student as a Hugging Face folder, checked by decoding the test set with it."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adakd import config as configuration
from adakd.data import audio, manifest
from adakd.errors import UserError
from adakd.files import read_json, replaced_folder, write_text
from adakd.progress import track

if TYPE_CHECKING:
    import numpy as np

    from adakd.place import Place

# Of the scores' standard deviation. A clip alone and the same clip in a batch are rounded
# differently: by 2e-6 of it on a CPU (fp32, a student of wav2vec2-micro). Of 120 Hindi utterances
# two had decisions as close as 1e-3. A GPU's convolutions keep 10 bits of a number: there it is a
# guess.
ROUNDING = {"cpu": 1e-3, "cuda": 1e-2}


def write_export(place: Place, method: str) -> tuple[int, list[str]]:
    """Copy a student of this place to its export folder with a card, once it is checked.

    The check runs `pipeline("automatic-speech-recognition")` from the copy over the whole test
    set; a text that differs from our own decoding of the full input is a UserError, and the folder
    stays as it was. What rounding may decide is no fault of the copy: where its two likeliest units
    are closer than ROUNDING somewhere in an utterance, the text may differ.

    Returns the number of utterances compared, and the ids of those whose texts differ by rounding.
    """
    config, experiment, target = place.config, place.experiment(method), place.export
    with replaced_folder(target) as fresh:
        shutil.copytree(experiment / "model", fresh, dirs_exist_ok=True)
        _write_card(config, experiment, fresh, method)
        entries = place.manifest("test")
        expected = _own_texts(place, experiment, entries)
        recognise = _pipeline(fresh)
        tipped = []
        for entry in track(entries, len(entries), f"{place.title}: checking the export"):
            clip = audio.read(place.root / entry.audio)
            options = _spoken(config, entry.language)
            said, text = _text(recognise, clip, options), expected[entry.id]
            if said == text:
                continue
            if _least_margin(recognise, clip, options) >= ROUNDING[recognise.device.type]:
                raise UserError(
                    f"Utterance '{entry.id}': the exported model says '{said}' and ours said "
                    f"'{text}'; {target} is not written, please report this."
                )
            tipped.append(entry.id)
    return len(expected), tipped


def _own_texts(place: Place, experiment: Path, entries: manifest.Manifest) -> dict[str, str]:
    """Our hypotheses of the test set as the pipeline would make them here: stage 7's, or new.

    Without padding a model may say something else, and another device rounds otherwise: neither
    would be the copy's fault.
    """
    from adakd.device import device

    config, where = place.config, device().type
    facts = read_json(experiment / "decode" / "done.json")
    if config.decode.encode == "full" and facts.get("device", where) == where:
        from adakd.score import read_hypotheses

        rows = read_hypotheses(experiment / "hyp.test.jsonl")
    else:
        from adakd.decode import transcribe

        rows = transcribe(
            dataclasses.replace(config, audio=configuration.Audio()),
            experiment / "model",
            entries,
            place.root,
            f"{place.title}: decoding test as the pipeline does",
        )
    return {row["id"]: row["hypothesis"] for row in rows}


def _spoken(config: configuration.Config, language: str) -> dict[str, str]:
    """What `generate` must be told where each utterance has a language of its own.

    Stage 7 says it in the prompt; without it Whisper guesses, and no training taught it to.
    """
    from adakd.models.whisper import MULTILINGUAL

    if config.family != "whisper" or config.whisper_language != MULTILINGUAL:
        return {}
    return {"language": language.split("-")[0]}


def _write_card(config: configuration.Config, experiment: Path, folder: Path, method: str) -> None:
    scores = read_json(experiment / "score.json")["test"]
    around = "" if scores["interval"] is None else " [{:.2%}, {:.2%}]".format(*scores["interval"])
    options = _spoken(config, "LANGUAGE")
    told = f", generate_kwargs={json.dumps(options)}" if options else ""
    guesses = "Put the code of the speech's language for LANGUAGE; without it Whisper guesses.\n"
    unpadded = "" if config.decode.encode == "full" else ", not padded as the pipeline pads them"
    write_text(
        folder / "README.md",
        f"# {config.recipe}, {config.family}, {method}\n\n"
        f"A student trained by AdaKD's recipe `{config.recipe}` with the method `{method}`, chosen "
        f"among its methods by CER on dev. Test CER (normalised): {scores['cer']:.2%}"
        f"{around} over {scores['utterances']} utterances{unpadded}.\n\n"
        # Not pipeline(...)("speech.wav"): transformers would read that with the program ffmpeg.
        "```python\n"
        "import soundfile\n"
        "from transformers import pipeline\n\n"
        'recognise = pipeline("automatic-speech-recognition", "THIS_FOLDER")\n'
        'samples, rate = soundfile.read("speech.wav", dtype="float32", always_2d=True)\n'
        "mono = samples.mean(axis=1)  # soundfile gives (samples, channels)\n"
        f'print(recognise({{"raw": mono, "sampling_rate": rate}}{told})["text"])\n'
        "```\n\n"
        f"The pipeline resamples what is not at {audio.SAMPLE_RATE // 1000} kHz, if torchaudio is "
        "installed. A file name in place of the samples works only where ffmpeg is installed.\n"
        + (f"\n{guesses}" if options else ""),
    )


def _pipeline(folder: Path) -> Any:
    """Hugging Face's pipeline from a folder."""
    from transformers import pipeline

    from adakd.device import device

    return pipeline("automatic-speech-recognition", str(folder), device=device())


def _text(recognise: Any, clip: np.ndarray, options: dict[str, str]) -> str:
    """What a pipeline makes of a clip (n,) at 16 kHz."""
    from adakd.models.units import without_unknown

    told = {"generate_kwargs": options} if options else {}  # CTC takes none
    said = recognise({"raw": clip, "sampling_rate": audio.SAMPLE_RATE}, **told)
    return without_unknown(said["text"], recognise.tokenizer)


def _least_margin(recognise: Any, clip: np.ndarray, options: dict[str, str]) -> float:
    """How near the two likeliest units of a clip come, in standard deviations of the scores."""
    import torch

    inputs = recognise.feature_extractor(
        clip, sampling_rate=audio.SAMPLE_RATE, return_tensors="pt"
    ).to(recognise.device)
    with torch.inference_mode():
        if recognise.type == "ctc":
            scores = recognise.model(**inputs).logits[0]  # (T, V)
        else:
            # Not the logits: tokens that are never said are out of it.
            found = recognise.model.generate(
                **inputs, **options, return_dict_in_generate=True, output_scores=True
            )
            scores = torch.cat(found.scores)
    first, second = scores.topk(2).values.unbind(-1)
    return float((first - second).min() / scores[scores.isfinite()].std())
