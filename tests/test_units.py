"""Tokenizers that a recipe makes: what they write, SentencePiece and Hugging Face read alike."""

from __future__ import annotations

import json
import unicodedata

import pytest
from transformers import Wav2Vec2CTCTokenizer, WhisperTokenizer
from transformers.models.whisper.tokenization_whisper import LANGUAGES

from adakd.errors import UserError
from adakd.models.units import train_bpe, train_characters, without_unknown
from adakd.models.wav2vec2 import Wav2Vec2
from adakd.models.whisper import Whisper

HINDI = ["नमस्ते दुनिया", "मैं ठीक हूँ", "ज़रा रुको", "बच्चे पढ़ रहे हैं", "सन् 1995 में"]
TAMIL = ["வணக்கம் உலகம்", "நான் பள்ளிக்குப் போகிறேன்", "மொழி", "கொஞ்சம் பொறு"]
CHINESE = ["今天天气很好", "我喜欢喝茶", "你好世界", "人人为我"]
MARKED = ["e\u0301le\u0300ve", "ti\u1ebfng vi\u1ec7t", "q\u0323\u0307 x", "naïve café"]
TEXTS = {"hi": HINDI, "ta": TAMIL, "zh": CHINESE, "marks": MARKED, "en": ["aa  bb", "committee"]}


def test_an_unknown_unit_is_one_character(tmp_path) -> None:
    train_characters(HINDI, tmp_path)
    tokenizer = Wav2Vec2CTCTokenizer.from_pretrained(tmp_path)
    blank, unknown = tokenizer.pad_token_id, tokenizer.unk_token_id
    units = [*tokenizer("मैं ठीक").input_ids, blank, unknown, blank]
    decoded = tokenizer.decode(units)
    assert decoded == "मैं ठीक<unk>"  # as the pipeline says it
    assert without_unknown(f" {decoded} ", tokenizer) == "मैं ठीक\ufffd"


def recipe_text(language: str) -> list[str]:
    """As stage 1 writes it (NFC), but for the marks, which stay as they are."""
    texts = TEXTS[language]
    return texts if language == "marks" else [unicodedata.normalize("NFC", t) for t in texts]


@pytest.fixture(scope="module", params=list(TEXTS))
def characters(request, tmp_path_factory):
    """Texts, SentencePiece's model and Hugging Face's tokenizer of them, read back from disk."""
    import sentencepiece

    folder = tmp_path_factory.mktemp(request.param)
    texts = recipe_text(request.param)
    train_characters(texts, folder)
    processor = sentencepiece.SentencePieceProcessor(model_file=str(folder / "characters.model"))
    return texts, processor, Wav2Vec2CTCTokenizer.from_pretrained(folder)


def test_sentencepiece_and_hugging_face_give_the_same_indices(characters):
    texts, processor, tokenizer = characters
    for text in [*texts, " ".join(texts), "".join(reversed(texts[0])), f"{texts[0]}☃{texts[1]}"]:
        if " " in text and " " not in "".join(texts):
            continue  # no space in this script: SentencePiece has no unit for it
        ids = tokenizer(text).input_ids
        assert ids == processor.encode(text)
        # Independently of both: one unit a code point, the unknown one for the snowman.
        assert len(ids) == len(text)
        assert [i == tokenizer.unk_token_id for i in ids] == [c == "☃" for c in text]


def test_what_the_units_lack(tmp_path):
    train_characters(["ab c", "न्"], tmp_path)
    lacks = Wav2Vec2.lacks(tmp_path)
    assert [character for character in "abcABनम्☃" if lacks(character)] == ["A", "B", "म", "☃"]
    assert Whisper.lacks(tmp_path) is None  # bytes


def test_every_text_comes_back(characters):
    texts, processor, tokenizer = characters
    for text in texts:
        ids = tokenizer(text).input_ids
        assert tokenizer.decode(ids, group_tokens=False) == text
        assert processor.decode(ids) == text
        # As CTC writes it: every unit for two frames, a blank after it.
        frames = [frame for unit in ids for frame in (unit, unit, tokenizer.pad_token_id)]
        assert tokenizer.decode(frames) == text


def test_the_units_are_the_characters_and_three_more(characters):
    texts, _, tokenizer = characters
    vocabulary = tokenizer.get_vocab()
    assert set(vocabulary) == ({*"".join(texts)} - {" "}) | {"<pad>", "<unk>", "|"}
    assert sorted(vocabulary.values()) == list(range(len(tokenizer)))
    assert tokenizer.pad_token_id == vocabulary["<pad>"] == 0
    assert tokenizer.unk_token_id == vocabulary["<unk>"] == 1
    assert tokenizer.bos_token is None and tokenizer.eos_token is None


def test_units_do_not_depend_on_anything_but_the_texts(tmp_path):
    train_characters(HINDI, tmp_path / "a")
    train_characters(iter(HINDI), tmp_path / "b")
    read = [(tmp_path / name / "vocab.json").read_text(encoding="utf-8") for name in "ab"]
    assert read[0] == read[1]
    train_bpe(HINDI, tmp_path / "c", 300)
    train_bpe(iter(HINDI), tmp_path / "d", 300)
    both = [WhisperTokenizer.from_pretrained(tmp_path / name).get_vocab() for name in "cd"]
    assert both[0] == both[1]


def test_large_inventories_and_rare_characters_are_covered(tmp_path):
    """Thousands of characters, as Chinese has them, most of them once."""
    texts = ["".join(map(chr, range(first, first + 40))) for first in range(0x4E00, 0x5A00, 40)]
    train_characters(texts, tmp_path)
    vocabulary = json.loads((tmp_path / "vocab.json").read_text(encoding="utf-8"))
    assert len(vocabulary) == len("".join(texts)) + 3


def test_text_with_the_space_sign_or_without_content_is_an_error(tmp_path):
    with pytest.raises(UserError, match=r"'one \| two' holds '\|'.*data.normalise"):
        train_characters(["three", "one | two"], tmp_path)
    with pytest.raises(UserError, match="No training text.*units.kind to source"):
        train_characters(["", "  "], tmp_path)


# ---- byte-level BPE ------------------------------------------------------------------------------

UNSEEN = [
    "Ελληνικά και עברית",
    "ᚠᛇᚻ ቋንቋ 한국어",
    "flag 🇮🇳 family 👩‍👩‍👧 snow ☃️ 🤖",
    "zero\u200dwidth \u0915\u094d\u200d\u0937",
    "  two  spaces, punctuation!? <|tags|>",
    "𓀀\U0010fffd\x01",
]


@pytest.fixture(scope="module")
def bpe(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bpe")
    train_bpe([*HINDI, *TAMIL, *CHINESE] * 3, folder, 350)
    return WhisperTokenizer.from_pretrained(folder)


@pytest.mark.parametrize("text", [*HINDI, *TAMIL, *CHINESE, *MARKED, *UNSEEN])
def test_bpe_brings_back_any_text_without_an_unknown_unit(bpe, text):
    for form in (text, f" {text}"):
        ids = bpe(form, add_special_tokens=False).input_ids
        assert bpe.decode(ids) == form
        assert bpe.decode(ids, skip_special_tokens=True) == form
        assert bpe.unk_token_id not in ids and bpe.eos_token_id not in ids


def test_bpe_has_learnt_its_language(bpe):
    text = " ".join(HINDI)
    assert len(bpe(text, add_special_tokens=False).input_ids) < len(text.encode()) / 3


def test_all_language_and_task_tokens_stand_above_the_pieces(bpe):
    special = [
        *(f"<|{code}|>" for code in LANGUAGES),
        *("<|endoftext|>", "<|startoftranscript|>", "<|translate|>", "<|transcribe|>"),
        *("<|startoflm|>", "<|startofprev|>", "<|nospeech|>", "<|notimestamps|>"),
    ]
    vocabulary = bpe.get_vocab()
    first = vocabulary["<|endoftext|>"]
    assert first == 350
    assert {vocabulary[token] for token in special} == set(range(first, len(bpe)))
    assert bpe.eos_token_id == bpe.pad_token_id == first
    # Whisper's own order, which its tokenizer's arithmetic relies on.
    start = vocabulary["<|startoftranscript|>"]
    for code in ("en", "zh", "hi", "ta", "yue"):
        bpe.set_prefix_tokens(language=code, task="transcribe", predict_timestamps=False)
        tokens = ["<|startoftranscript|>", f"<|{code}|>", "<|transcribe|>", "<|notimestamps|>"]
        assert bpe.prefix_tokens == [vocabulary[token] for token in tokens]
        assert vocabulary[f"<|{code}|>"] == start + 1 + list(LANGUAGES).index(code)


def test_special_tokens_vanish_from_a_transcript(bpe):
    ids = [*bpe.prefix_tokens, *bpe(" नमस्ते", add_special_tokens=False).input_ids, bpe.eos_token_id]
    assert bpe.decode(ids, skip_special_tokens=True) == " नमस्ते"


def test_a_bpe_smaller_than_its_bytes_is_an_error(tmp_path):
    with pytest.raises(UserError, match="units.size is 255"):
        train_bpe(HINDI, tmp_path, 255)
