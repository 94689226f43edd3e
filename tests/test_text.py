"""Normalisation keeps what is spoken, drops what is not, and is done after one go."""

from __future__ import annotations

import random
import unicodedata
from pathlib import Path

import pytest

from adakd.data.text import normalise, spaces_count, units_of_error

# (language, as written, as it must come out): worked out by hand.
SENTENCES = [
    ("hi", "नमस्ते दुनिया", "नमस्ते दुनिया"),
    ("hi", "“क्या बात है?”  छोटे सफ़ेद खरगोश ने पूछा।", "क्या बात है छोटे सफ\u093cेद खरगोश ने पूछा"),
    ("hi", "यहाँ आओ।वहाँ मत जाओ॥", "यहाँ आओ वहाँ मत जाओ"),
    ("hi", "लड\u093cका पढ\u093cता है", "लड\u093cका पढ\u093cता है"),
    ("hi", "लड़का अपने-आप पढ़ता है".replace("ड\u093c", "\u095c"), "लड\u093cका अपने आप पढ\u093cता है"),
    ("hi", "१२३ रुपये", "123 रुपये"),
    ("ta", "வணக்கம், உலகம்!", "வணக்கம் உலகம்"),
    ("ta", '௧௨ பேர் — "வந்தார்கள்"…', "12 பேர் வந்தார்கள்"),
    ("ur", "\u06f1\u0662 دن", "12 دن"),
    ("zh-CN", "去 ＡＴＭ　取 钱。", "去 atm 取钱"),
    ("zh", "你好，世界！ 再见", "你好世界再见"),
    ("zh", "他说'好'，it's OK", "他说好 it's ok"),
    ("yue", "佢 哋 食 飯", "佢哋食飯"),
    ("ja", "ｶﾞｿﾘﾝ を 買う", "ガソリンを買う"),
    ("en", "Don’t say ‘never’, rock 'n' roll!", "don't say never rock n roll"),
    ("fr", "L’ÉTÉ, aujourd'hui: 5 €", "l'été aujourd'hui 5"),
    ("en", "\ufeffzero\u200bwidth\u00adhyphen ♥\ufe0f", "zerowidthhyphen"),
    ("hi", "क्\u200dया र\u200cवि", "क्या रवि"),
    ("de", "u\u0308ber\tdie\r\nStraße", "über die straße"),
    ("hi", "।!? ", ""),
]


@pytest.mark.parametrize(("language", "written", "expected"), SENTENCES)
def test_sentences(language: str, written: str, expected: str) -> None:
    assert normalise(written, language) == unicodedata.normalize("NFC", expected)


def test_composed_and_decomposed_nukta_are_one() -> None:
    assert normalise("\u095c", "hi") == normalise("\u0921\u093c", "hi") == "\u0921\u093c"


def test_signs_that_whisper_normalisers_lose_stay() -> None:
    for text, language in (("नमस्ते दुनिया", "hi"), ("தமிழ்நாட்டின்", "ta")):
        assert [c for c in text if unicodedata.category(c)[0] == "M"] == [
            c for c in normalise(text, language) if unicodedata.category(c)[0] == "M"
        ]


def test_idempotent_over_all_of_unicode() -> None:
    characters = [chr(c) for c in range(0x30000) if not 0xD800 <= c < 0xE000]
    random.Random(1).shuffle(characters)
    for language in ("hi", "zh"):
        for first in range(0, len(characters), 64):
            once = normalise("".join(characters[first : first + 64]), language)
            assert normalise(once, language) == once


def test_spaces_count() -> None:
    assert spaces_count("hi") and spaces_count("ta") and spaces_count("en_US")
    assert not any(map(spaces_count, ("zh", "zh-CN", "zh_TW", "yue", "ja", "cmn")))


def test_units_of_error() -> None:
    assert units_of_error("  नमस्ते \n दुनिया। ", "hi") == "नमस्ते दुनिया।"
    assert units_of_error("去 ATM\u3000取 钱。", "zh-CN") == "去ATM取钱。"


def test_collected_sentences(shared_data: Path | None) -> None:
    """On real sentences: done after one go, and each letter and mark survives, in order.

    The truth is computed differently: from NFKD, in which width, case and composition are gone.
    """
    sentences = [(language, written) for language, written, _ in SENTENCES]
    for name in ("hi", "ta", "zh-CN", "en"):
        if shared_data is not None and (shared_data / "text" / f"{name}.txt").exists():
            lines = (shared_data / "text" / f"{name}.txt").read_text(encoding="utf-8").split("\n")
            sentences += [(name, line) for line in random.Random(1).sample(lines, 1000)]
    for language, sentence in sentences:
        once = normalise(sentence, language)
        assert normalise(once, language) == once
        assert _letters(once) == _letters(sentence), sentence
        assert not any(unicodedata.category(c)[0] in "PSCZ" for c in once if c not in " '")
        assert "  " not in once and once == once.strip()


def _letters(text: str) -> str:
    letters = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", text).lower())
    return "".join(
        str(unicodedata.decimal(c, c))
        for c in letters
        if unicodedata.category(c)[0] in "LMN" and "VARIATION SELECTOR" not in unicodedata.name(c)
    )
