"""What an export holds for other programs, which cannot be installed here, and what its card says.

That the pipeline says what was scored is tested in test_models.py, with the models.
"""

from __future__ import annotations

import json
import sys
import types
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import tokenizers
import torch
from transformers import (
    AutoTokenizer,
    Wav2Vec2CTCTokenizer,
    WhisperFeatureExtractor,
    WhisperTokenizer,
)
from transformers.models.whisper.tokenization_whisper import LANGUAGES

from adakd import config as configuration
from adakd import export, finished
from adakd.data import manifest
from adakd.data.audio import SAMPLE_RATE
from adakd.files import read_json, write_json
from adakd.place import Place

SPECIAL = [
    "<|startoftranscript|>", *(f"<|{code}|>" for code in LANGUAGES), "<|translate|>",
    "<|transcribe|>", "<|startoflm|>", "<|startofprev|>", "<|nospeech|>", "<|notimestamps|>",
]  # fmt: skip
SPOKEN = ("नमस्ते दुनिया", " नमस्ते", "hello, world 12", "我们", "क<|hi|>ख")


def ids(tokenizer: Any) -> list[list[int]]:
    return [tokenizer(text, add_special_tokens=False).input_ids for text in SPOKEN]


@pytest.fixture
def whisper(tmp_path: Path) -> Path:
    """A folder as `Family.save` leaves it, as far as the tokenizer goes."""
    WhisperTokenizer.from_pretrained(tiny.bpe_folder(tmp_path)).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


# ---- the files -----------------------------------------------------------------------------------


def test_the_converter_of_whisper_cpp_finds_every_unit_by_its_number(whisper: Path) -> None:
    """It takes the k-th unit of vocab.json for number k, and each of its characters for a byte."""
    known = WhisperTokenizer.from_pretrained(whisper).get_vocab()
    export.write_for_others(whisper)
    units, added = read_json(whisper / "vocab.json"), read_json(whisper / "added_tokens.json")
    assert units | added == known and not units.keys() & added.keys()
    assert sorted(added, key=lambda token: added[token]) == SPECIAL
    assert list(units.values()) == list(range(len(units)))
    del units["<|endoftext|>"]  # as it does
    assert set("".join(units)) <= set(tokenizers.pre_tokenizers.ByteLevel.alphabet())


def test_the_slow_tokenizer_of_transformers_4_has_its_files(whisper: Path) -> None:
    known = ids(WhisperTokenizer.from_pretrained(whisper))
    export.write_for_others(whisper)
    # The same byte-level BPE, by another library, for the texts without special tokens.
    files = str(whisper / "vocab.json"), str(whisper / "merges.txt")
    other = tokenizers.ByteLevelBPETokenizer.from_file(*files)
    assert [other.encode(text).ids for text in SPOKEN[:-1]] == known[:-1]
    (whisper / "tokenizer.json").unlink()
    assert ids(WhisperTokenizer.from_pretrained(whisper)) == known


def test_no_setting_of_the_tokenizer_stops_transformers_4(whisper: Path) -> None:
    """4.57.6 calls .keys() of what is under extra_special_tokens."""
    assert isinstance(read_json(whisper / "tokenizer_config.json")["extra_special_tokens"], list)
    known = AutoTokenizer.from_pretrained(whisper)
    export.write_for_others(whisper)
    settings = read_json(whisper / "tokenizer_config.json")
    assert "extra_special_tokens" not in settings
    assert settings["additional_special_tokens"] == SPECIAL
    numbers = {token["content"]: int(n) for n, token in settings["added_tokens_decoder"].items()}
    assert numbers == known.get_added_vocab()
    opened = AutoTokenizer.from_pretrained(whisper)
    assert type(opened) is type(known) and ids(opened) == ids(known)
    assert opened.all_special_tokens == known.all_special_tokens
    assert opened.extra_special_tokens == known.extra_special_tokens
    ours = ids(known)[-1]
    assert opened.decode(ours, skip_special_tokens=True) == "कख"


def test_a_ctc_tokenizer_stays_as_it_is_but_for_such_settings(tmp_path: Path) -> None:
    tokenizer = Wav2Vec2CTCTokenizer.from_pretrained(tiny.characters_folder(tmp_path))
    tokenizer.save_pretrained(tmp_path / "plain")
    before = {path.name: path.read_bytes() for path in (tmp_path / "plain").iterdir()}
    export.write_for_others(tmp_path / "plain")
    assert {path.name for path in (tmp_path / "plain").iterdir()} == set(before)
    assert (tmp_path / "plain" / "vocab.json").read_bytes() == before["vocab.json"]
    settings = json.loads(before["tokenizer_config.json"])
    for opened in ("is_local", "local_files_only"):
        settings.pop(opened, None)
    assert read_json(tmp_path / "plain" / "tokenizer_config.json") == settings

    # Checkpoints that were fine-tuned with Hugging Face's script have such tokens.
    tokenizer.add_special_tokens({"additional_special_tokens": ["<s>", "</s>"]})
    tokenizer.save_pretrained(tmp_path / "more")
    assert "extra_special_tokens" in read_json(tmp_path / "more" / "tokenizer_config.json")
    export.write_for_others(tmp_path / "more")
    assert "extra_special_tokens" not in read_json(tmp_path / "more" / "tokenizer_config.json")
    opened = AutoTokenizer.from_pretrained(tmp_path / "more")
    assert opened.extra_special_tokens == ["<s>", "</s>"]
    assert opened.get_vocab() == tokenizer.get_vocab() and ids(opened) == ids(tokenizer)


# ---- the check -----------------------------------------------------------------------------------


def test_a_timestamp_is_told_from_other_tokens(whisper: Path) -> None:
    tokenizer = WhisperTokenizer.from_pretrained(whisper)
    tokenizer.add_tokens(["<|1.08|>"])

    def writes(*units: str) -> bool:
        ids = torch.tensor([tokenizer.convert_tokens_to_ids(list(units))])
        recognise = types.SimpleNamespace(
            type="seq2seq_whisper",
            device="cpu",
            model=types.SimpleNamespace(generate=lambda **_: ids),
            tokenizer=tokenizer,
            feature_extractor=WhisperFeatureExtractor(),
        )
        return export._writes_times(recognise, np.zeros(800, np.float32), {})

    assert writes("<|notimestamps|>", "<|1.08|>", "<|endoftext|>")
    assert not writes("<|notimestamps|>", "<|hi|>", "a", "<|endoftext|>")


@pytest.mark.parametrize(("most", "heard"), [(5, [0, 1, 2, 3, 4]), (4, [0, 1, 2, 4]), (1, [4])])
def test_of_a_large_test_set_so_many_are_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int, heard: list[int]
) -> None:
    place = Place(tmp_path, tiny.config("wav2vec2", recipe="tiny/hi"))
    experiment = place.experiment("kd")
    tiny.family("wav2vec2", tmp_path).save(experiment / "model")
    entries = [replace(e, audio=str(tmp_path / e.audio)) for e in tiny.entries(tmp_path)]
    manifest.write(place.data / "test.jsonl", entries)
    finished.mark_done(experiment / "decode", {}, device="cuda")  # so that it decodes anew
    score = {"test": {"cer": 0.25, "interval": [0.2, 0.3], "utterances": 5}}
    write_json(experiment / "score.json", score)
    decoded: list[str] = []
    own = export._own_texts

    def watched(*arguments: Any) -> dict[str, str]:
        texts = own(*arguments)
        decoded.extend(texts)
        return texts

    monkeypatch.setattr(export, "_own_texts", watched)
    monkeypatch.setattr(export, "CHECKED", most)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert export.write_export(place, "kd") == (len(heard), [])
    assert decoded == [entries[index].id for index in heard]


# ---- the card ------------------------------------------------------------------------------------

Card = Callable[..., str]


@pytest.fixture
def card(tmp_path: Path) -> Card:
    """card(config, seconds, units, times): that of a student which hears so long, and has so many
    units and this one for <|notimestamps|>."""

    def written(
        config: configuration.Config, seconds: int = 30, units: int = 51865, times: int = 50363
    ) -> str:
        score = {"test": {"cer": 0.25, "interval": None, "utterances": 5}}
        write_json(tmp_path / "score.json", score)
        settings = {"max_source_positions": 50 * seconds, "vocab_size": units}
        write_json(tmp_path / "config.json", settings)
        write_json(tmp_path / "generation_config.json", {"suppress_tokens": [1, 7]})
        write_json(tmp_path / "added_tokens.json", {"<|notimestamps|>": times})
        export._write_card(config, tmp_path, tmp_path, "kd")
        return (tmp_path / "README.md").read_text(encoding="utf-8")

    return written


def settings(family: str = "whisper", language: str = "hi", **changes: Any) -> configuration.Config:
    student = configuration.Model(source="openai/whisper-tiny")
    return tiny.config(family, language, **{"student": student, "recipe": "tiny/hi", **changes})


def test_the_card_has_faster_whisper_decode_as_was_scored(
    card: Card, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[Any] = []

    class WhisperModel:
        def __init__(self, folder: str) -> None:
            asked.append(folder)

        def transcribe(self, audio: np.ndarray, **options: Any) -> tuple[list[Any], None]:
            assert audio[: len(clip)].tolist() == clip.tolist() and not audio[len(clip) :].any()
            asked.extend([len(audio) / SAMPLE_RATE, options])
            return [types.SimpleNamespace(text=" one"), types.SimpleNamespace(text=" two")], None

    clip = tiny.noise(1.5, seed=1)
    module = types.SimpleNamespace(WhisperModel=WhisperModel, decode_audio={"speech.wav": clip}.get)
    monkeypatch.setitem(sys.modules, "faster_whisper", module)
    text = card(settings(language="Hindi"))
    exec(text.split("```python\n")[2].split("```")[0], {})
    assert asked == [
        "CONVERTED",
        30.0,  # seconds: what it pads itself is filled with features that no silence has
        {
            "language": "hi",
            "beam_size": 1,
            "temperature": 0,
            "without_timestamps": True,
            "condition_on_previous_text": False,
            "suppress_tokens": [1, 7],  # and not its own list
        },
    ]
    assert capsys.readouterr().out == " one two\n"
    assert "whisper-cli -m ggml-model.bin -f speech.wav -l hi -nt -nfa -bs 1 -nf -mc 0\n" in text


def test_the_card_names_what_the_student_cannot_do(card: Card) -> None:
    text = card(settings())
    assert "hears 30 s at a time" in text and "no timestamps" in text
    assert "lower case without punctuation" in text and "normalise" in text
    cased = card(settings(data=configuration.Data(normalise=False)))
    assert "lower case" not in cased and "were not normalised" in cased
    assert 'language="LANGUAGE"' in card(settings(language="multilingual"))
    assert "whisper.cpp cannot run it" in card(settings(), units=1108)
    assert "whisper-cli" in card(settings(), units=51866, times=50364), "large-v3"
    assert "whisper-cli" in card(settings(), units=51864, times=50362), "English only"
    added = card(settings(), units=51866)  # a small one with a token more
    assert "whisper.cpp cannot run it" in added and "whisper-cli" not in added
    small = card(settings(), seconds=6, units=1108)
    assert "hears 6 s" in small and "faster-whisper and whisper.cpp cannot run it" in small
    ctc = card(settings("wav2vec2"))
    assert "whisper-tiny" in ctc and not any(word in ctc for word in ("hears", "faster", ".cpp"))
    assert "one recording at a time" in ctc and "one recording at a time" not in small


def test_the_card_names_the_base_model_and_no_folder_of_this_machine(
    card: Card, tmp_path: Path
) -> None:
    assert "`openai/whisper-tiny`" in card(settings())
    (tmp_path / "my-whisper").mkdir()
    own = configuration.Model(source=str(tmp_path / "my-whisper"))
    text = card(settings(student=own))
    assert "`my-whisper`" in text and str(tmp_path) not in text
    teacher = configuration.Model(source="teacher")
    text = card(settings(student=teacher, teacher=own))
    assert "layers of its teacher" in text and "`my-whisper`" in text and str(tmp_path) not in text
    assert "random weights" in card(settings(student=configuration.Model(config={})))
