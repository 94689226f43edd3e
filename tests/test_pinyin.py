"""Tonal syllables against readings from a dictionary, written by hand."""

from __future__ import annotations

import pytest

from adakd.data.pinyin import is_mandarin, syllables


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("你好", "ni3 hao3"),
        ("绿茶", "lv4 cha2"),
        ("女儿", "nv3 er2"),
        ("银行", "yin2 hang2"),  # one character, two readings: the phrase decides
        ("行人", "xing2 ren2"),
        ("重庆很重要", "chong2 qing4 hen3 zhong4 yao4"),
        ("走了", "zou3 le5"),  # 5: no tone
        ("去 atm 取钱2", "qu4 a t m qu3 qian2 2"),  # what has no reading counts as it stands
        ("", ""),
    ],
)
def test_readings(text: str, expected: str) -> None:
    assert " ".join(syllables(text)) == expected


def test_one_syllable_a_character() -> None:
    text = "赵孟頫與龍龜鑿㐀𠀀abc"
    assert len(syllables(text)) == len(text)


def test_homophones_are_equal_and_tones_are_not() -> None:
    assert syllables("他") == syllables("她") == syllables("它")
    assert syllables("妈") != syllables("马")


@pytest.mark.parametrize(
    ("language", "expected"),
    [
        *(("zh", True), ("zh-CN", True), ("zh_TW", True), ("cmn", True), ("cmn-Hans-CN", True)),
        *(("zh-yue", False), ("zh-min-nan", False), ("zh-Hant-HK", False), ("zh-Hant-TW", True)),
        *(("zh-HK", False), ("yue", False), ("ja", False), ("hi", False), ("en", False)),
    ],
)
def test_which_languages_are_mandarin(language: str, expected: bool) -> None:
    assert is_mandarin(language) is expected
