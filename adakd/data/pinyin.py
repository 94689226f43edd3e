"""Mandarin as it sounds: tonal syllables of a text, for an error rate that forgives homophones.

他, 她 and 它 sound alike, and out of context no listener can tell which was said. The readings come
from pypinyin (MIT): its phrase table decides how a heteronym is read (银行 yin2 hang2, 行人 xing2
ren2), its character table where no phrase fits.

What that cannot do: a heteronym outside any phrase gets its most frequent reading whatever was
said (得 alone is de2); a wrong neighbour may take a heteronym's phrase away, and with it the
reading; some phrases have their tones as spoken (不是 bu2 shi4) and others not (一下 yi1 xia4); 儿
is a syllable. Reference and hypothesis are read alike: equal in writing is equal in sound.
"""

from __future__ import annotations

import re

from adakd.data.text import CHINESE

# Regions whose zh is Cantonese, in Common Voice say, and the other languages that a zh may name.
_SINITIC_BUT_NOT_MANDARIN = {"hk", "mo", "yue", "min", "hakka", *CHINESE - {"zh", "cmn"}}


def is_mandarin(language: str) -> bool:
    """Whether a language code ("zh", "zh-CN", "cmn", "zh_TW") means Mandarin."""
    primary, *rest = re.split("[-_]", language.lower())
    return primary in ("zh", "cmn") and not _SINITIC_BUT_NOT_MANDARIN.intersection(rest)


def syllables(text: str) -> list[str]:
    """The syllables of a text with their tone, 1 to 5 (5: none): 绿茶 is lv4 cha2.

    Whatever is not a Chinese character, a Latin letter say, stands for itself; spaces are left out.
    """
    from pypinyin import Style, lazy_pinyin

    return lazy_pinyin(
        "".join(text.split()),
        style=Style.TONE3,
        neutral_tone_with_five=True,
        errors=list,  # type: ignore[arg-type]  # its documentation allows a list
    )
