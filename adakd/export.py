"""A trained student as a Hugging Face folder, checked by decoding the test set with it.

Beside what transformers 5 reads lies what others do: transformers 4, and the converters to
faster-whisper (CTranslate2) and whisper.cpp, which is how a Whisper gets onto a phone.
"""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adakd import config as configuration
from adakd.data import audio, manifest
from adakd.data.text import primary
from adakd.errors import UserError
from adakd.files import read_json, replaced_folder, write_json, write_text
from adakd.progress import track

if TYPE_CHECKING:
    import numpy as np

    from adakd.place import Place

# Of the scores' standard deviation. A clip alone and the same clip in a batch are rounded
# differently: by 2e-6 of it on a CPU (fp32, a student of wav2vec2-micro). Of 120 Hindi utterances
# two had decisions as close as 1e-3. A GPU computes in full float32 here, as in stage 7.
ROUNDING = 1e-3
CHECKED = 1000  # test utterances that are compared at most: the pipeline takes them one by one
REPORT = "please report this"
TIMES = "since it writes timestamps, after which transformers begins anew: train it longer"
# transformers' CTC pipeline (5.24.0) takes the likeliest unit of every frame, padding included. In
# batches of 16 that added a letter to 2 of 48 Hindi utterances (a student of wav2vec2-micro).
PADDING_HEARD = (
    "- Give the pipeline one recording at a time: in a batch (`batch_size`) it also decodes the "
    "padding of shorter ones, and may add letters at their ends.\n"
)
OPENAI_UNITS = (51864, 51865, 51866)  # English-only, up to large-v2, large-v3: whisper.cpp's
TIMES_OF_OPENAI = 1502  # <|notimestamps|> and <|0.00|> to <|30.00|> come last


def write_export(place: Place, method: str) -> tuple[int, list[str]]:
    """Copy a student of this place to its export folder with a card, once it is checked.

    The check runs `pipeline("automatic-speech-recognition")` from the copy over the test set, or
    over CHECKED utterances spread evenly over it; a text that differs from our own decoding of the
    full input is a UserError, and the folder stays as it was. What rounding may decide is no fault
    of the copy: where its two likeliest units are closer than ROUNDING somewhere in an utterance,
    the text may differ.

    Returns the number of utterances compared, and the ids of those whose texts differ by rounding.
    """
    from adakd.device import without_tf32

    config, experiment, target = place.config, place.experiment(method), place.export
    with replaced_folder(target) as fresh:
        shutil.copytree(experiment / "model", fresh, dirs_exist_ok=True)
        write_for_others(fresh)
        _write_card(config, experiment, fresh, method)
        entries = _spread(place.manifest("test"))
        expected = _own_texts(place, experiment, entries)
        recognise = _pipeline(fresh)
        tipped = []
        for entry in track(entries, len(entries), f"{place.title}: checking the export"):
            clip = audio.read(place.root / entry.audio)
            options = _spoken(config, primary(entry.language))
            with without_tf32():
                said, text = _text(recognise, clip, options), expected[entry.id]
                if said == text:
                    continue
                margin = _least_margin(recognise, clip, options)
                times = margin >= ROUNDING and _writes_times(recognise, clip, options)
            if margin >= ROUNDING:
                raise UserError(
                    f"Utterance '{entry.id}': the exported model says '{said}' and ours said "
                    f"'{text}'; {target} is not written, {TIMES if times else REPORT}."
                )
            tipped.append(entry.id)
    return len(entries), tipped


def write_for_others(folder: Path) -> None:
    """Add to an exported folder what other readers than transformers 5 want of a tokenizer.

    All of a Whisper's is in tokenizer.json now. The converter of whisper.cpp
    (models/convert-h5-to-ggml.py) opens vocab.json and added_tokens.json; the slow tokenizer of
    transformers 4 reads vocab.json, merges.txt and the setting `added_tokens_decoder`. A list under
    `extra_special_tokens` stops transformers 4, of either family; both versions take it under its
    older name.
    """
    path = folder / "tokenizer_config.json"
    settings = read_json(path)
    for ours in ("is_local", "local_files_only"):  # how it was opened here
        settings.pop(ours, None)
    if isinstance(settings.get("extra_special_tokens"), list):
        settings["additional_special_tokens"] = settings.pop("extra_special_tokens")
    if (folder / "tokenizer.json").exists():
        whole = read_json(folder / "tokenizer.json")
        units: dict[str, int] = whole["model"]["vocab"]
        added = sorted(whole["added_tokens"], key=lambda token: token["id"])
        merges = "".join(f"{left} {right}\n" for left, right in whole["model"]["merges"])
        others = {token["content"]: token["id"] for token in added}
        write_json(folder / "vocab.json", dict(sorted(units.items(), key=lambda unit: unit[1])))
        write_json(
            folder / "added_tokens.json",
            {token: index for token, index in others.items() if token not in units},
        )
        write_text(folder / "merges.txt", f"#version: 0.2\n{merges}")
        settings["added_tokens_decoder"] = {
            str(token["id"]): {key: value for key, value in token.items() if key != "id"}
            for token in added
        }
    write_json(path, settings)


def _spread(entries: manifest.Manifest) -> manifest.Manifest:
    """All entries, or CHECKED of them, evenly spaced from the first to the last."""
    from adakd.models import evenly_spaced

    if len(entries) <= CHECKED:
        return entries
    return entries.pick(evenly_spaced(len(entries), CHECKED))


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
    return {"language": language}


def _write_card(config: configuration.Config, experiment: Path, folder: Path, method: str) -> None:
    scores = read_json(experiment / "score.json")["test"]
    around = "" if scores["interval"] is None else " [{:.2%}, {:.2%}]".format(*scores["interval"])
    unpadded = "" if config.decode.encode == "full" else ", not padded as the pipeline pads them"
    written = (
        "lower case without punctuation: its training text was normalised (adakd/data/text.py)"
        if config.data.normalise
        else "what its training transcripts write: they were not normalised"
    )
    whisper = config.family == "whisper"
    # In transformers 4 the pipeline searches five beams unless it is told not to here.
    options = _spoken(config, "LANGUAGE") | ({"num_beams": 1} if whisper else {})
    told = f", generate_kwargs={json.dumps(options)}" if options else ""
    guesses = "Put the code of the speech's language for LANGUAGE; without it Whisper guesses."
    write_text(
        folder / "README.md",
        f"# {config.recipe}, {config.family}, {method}\n\n"
        f"A student trained by AdaKD's recipe `{config.recipe}` with the method `{method}`, chosen "
        f"among its methods by CER on dev. Test CER (normalised): {scores['cer']:.2%}"
        f"{around} over {scores['utterances']} utterances{unpadded}.\n\n"
        f"- It began as {_beginning(config)}.\n"
        f"- It writes {written}.\n"
        + (_limit(folder) if whisper else PADDING_HEARD)
        # Not pipeline(...)("speech.wav"): transformers would read that with the program ffmpeg.
        + "\n```python\n"
        "import soundfile\n"
        "from transformers import pipeline\n\n"
        'recognise = pipeline("automatic-speech-recognition", "THIS_FOLDER")\n'
        'samples, rate = soundfile.read("speech.wav", dtype="float32", always_2d=True)\n'
        "mono = samples.mean(axis=1)  # soundfile gives (samples, channels)\n"
        f'print(recognise({{"raw": mono, "sampling_rate": rate}}{told})["text"])\n'
        "```\n\n"
        f"The pipeline resamples what is not at {audio.SAMPLE_RATE // 1000} kHz, if torchaudio is "
        "installed. A file name in place of the samples works only where ffmpeg is installed.\n"
        + (f"\n{guesses}\n" if "language" in options else "")
        + (_elsewhere(config, folder) if whisper else ""),
    )


def _beginning(config: configuration.Config) -> str:
    """What a student was before its training, in words; of a folder its name alone."""

    def named(model: configuration.Model) -> str:
        if model.source is None:
            return "random weights"
        # Where it lies on this machine is nobody else's business.
        return f"`{Path(model.source).name if Path(model.source).is_dir() else model.source}`"

    if config.student.source == configuration.TEACHER:
        return f"layers of its teacher, which began as {named(config.teacher)}"
    return named(config.student)


def _limit(folder: Path) -> str:
    from adakd.models.whisper import seconds_heard

    seconds = seconds_heard(read_json(folder / "config.json")["max_source_positions"])
    return (
        f"- It hears {seconds:g} s at a time, and has learnt no timestamps, by which programs cut "
        "what is longer: cut that at pauses beforehand.\n"
    )


def _elsewhere(config: configuration.Config, folder: Path) -> str:
    """How to decode with other programs as was scored: greedily, once, without timestamps.

    Tried with a small model that knew six clips by heart, OpenAI's units and 30 s: transformers
    4.45.2 and 4.57.6, CTranslate2 4.8.5 with faster-whisper 1.2.1, and whisper.cpp of 2026-08-22
    (233fe1f) say what our pipeline says. With timestamps whisper.cpp got none of the six right;
    with flash attention, and faster-whisper without the silence, four each.
    """
    from transformers.models.whisper.tokenization_whisper import TO_LANGUAGE_CODE

    from adakd.models.whisper import MULTILINGUAL, seconds_heard

    settings, name = read_json(folder / "config.json"), config.whisper_language.lower()
    # faster-whisper has a list of its own, and what training writes the student may say.
    never = read_json(folder / "generation_config.json").get("suppress_tokens") or []
    code = "LANGUAGE" if name == MULTILINGUAL else TO_LANGUAGE_CODE.get(name, name)
    if seconds_heard(settings["max_source_positions"]) != 30:
        return "\nfaster-whisper and whisper.cpp cannot run it: they take models that hear 30 s.\n"
    # By the number of units both tell what a token is.
    units, added = settings["vocab_size"], read_json(folder / "added_tokens.json")
    if units not in OPENAI_UNITS or added.get("<|notimestamps|>") != units - TIMES_OF_OPENAI:
        return "\nfaster-whisper and whisper.cpp cannot run it: they know OpenAI's units only.\n"
    cpp = (
        "whisper.cpp, whose converter wants a copy of github.com/openai/whisper beside it; its "
        "flash attention (without `-nfa`) is faster, and near to what was scored only:\n\n"
        "```sh\n"
        "python models/convert-h5-to-ggml.py THIS_FOLDER OPENAI_WHISPER .\n"
        f"whisper-cli -m ggml-model.bin -f speech.wav -l {code} -nt -nfa -bs 1 -nf -mc 0\n"
        "```\n"
    )
    return (
        "\n## On phones and without PyTorch\n\n"
        "Both programs ask for timestamps unless told not to, which the student has not learnt, "
        "and try anew, by sampling, what they are unsure of. faster-whisper, after a conversion:"
        "\n\n"
        "```sh\n"
        "ct2-transformers-converter --model THIS_FOLDER --output_dir CONVERTED \\\n"
        "    --copy_files tokenizer.json preprocessor_config.json\n"
        "```\n\n"
        "```python\n"
        "import numpy\n"
        "from faster_whisper import WhisperModel, decode_audio\n\n"
        f'samples = decode_audio("speech.wav")  # (n,) at {audio.SAMPLE_RATE} Hz\n'
        "# What it fills up with itself is no silence, and the student has never heard it.\n"
        f"silence = max(0, {30 * audio.SAMPLE_RATE} - len(samples))\n"
        'segments, _ = WhisperModel("CONVERTED").transcribe(\n'
        f'    numpy.pad(samples, (0, silence)), language="{code}", beam_size=1, temperature=0,\n'
        "    without_timestamps=True, condition_on_previous_text=False,\n"
        f"    suppress_tokens={never},\n"
        ")\n"
        'print("".join(segment.text for segment in segments))\n'
        "```\n\n" + cpp
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


def _inputs(recognise: Any, clip: np.ndarray) -> Any:
    """What a pipeline's model gets of a clip."""
    return recognise.feature_extractor(
        clip, sampling_rate=audio.SAMPLE_RATE, return_tensors="pt"
    ).to(recognise.device)


def _writes_times(recognise: Any, clip: np.ndarray, options: dict[str, str]) -> bool:
    """Whether a Whisper writes timestamps, in spite of its prompt: it may have learnt no better."""
    if recognise.type == "ctc":
        return False
    (found,) = recognise.model.generate(**_inputs(recognise, clip), **options)
    units = recognise.tokenizer.convert_ids_to_tokens(found.tolist())
    return any(re.fullmatch(r"<\|\d+\.\d\d\|>", unit or "") for unit in units)


def _least_margin(recognise: Any, clip: np.ndarray, options: dict[str, str]) -> float:
    """How near the two likeliest units of a clip come, in standard deviations of the scores."""
    import torch

    inputs = _inputs(recognise, clip)
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
