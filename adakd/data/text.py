"""Text normalisation for training targets and for the normalised CER.

The rules, the same for every language, in this order:

1. Width forms (full-width Latin and punctuation, half-width kana, the ideographic space) become
   their ordinary selves. No other compatibility character is touched: this is not NFKC.
2. What has no width is dropped: controls, U+200B, U+FEFF, soft hyphens, direction marks, variation
   selectors. So are ZWNJ and, after NFC, ZWJ (U+200C, U+200D): in Indic scripts they choose between
   shapes of the same letters, seldom between words, and transcribers use them as they please (of
   the Hindi sentences collected for Common Voice one in fifteen has a ZWJ, at times within a
   syllable that it breaks). Persian words that differ only in a ZWNJ become one.
   A ZWJ that spells stays: in Bengali between ra and hasanta, ya, in Kannada between ra and virama
   (which are reph without it), in Sinhala after the virama that joins two consonants. In Malayalam
   an old chillu (consonant, virama, ZWJ) becomes the letter, U+0D7A to U+0D7F, and Bengali's khanda
   ta, written so, U+09CE.
3. NFC, then lower case. NFC writes most nukta letters (U+0958 to U+095F, such as U+095C) as letter
   and nukta, and Tamil's vowel signs of two parts as one.
4. Decimal digits of every script become 0-9, so that १, ௧, ١ and 1 are one character.
5. Letters, marks and numbers (Unicode L, M, N) stay: vowel signs, viramas and nuktas are letters'
   parts, as is a ZWJ that spells. Punctuation and symbols (P, S) become spaces, so that words they
   part stay apart: the danda and double danda among them, the bar that is typed for a danda, and
   the abbreviation sign U+0970. An apostrophe between two Latin letters stays, written '; any other
   counts as a quotation mark, in Devanagari names (O'Brien's) too.
6. Substitutions of characters that a corpus writes in an unusual way: see SUBSTITUTIONS.
7. Runs of white space become one space; none stands at either end. In languages written without
   spaces (Chinese, Japanese), one beside a Han, kana or bopomofo character goes, so that a Latin
   word in a Chinese sentence is written alike by those who set it off and those who do not; one
   between two Latin words stays.

normalise(normalise(x)) == normalise(x). Letters, vowel signs, viramas and nuktas change by these
rules only. Numbers are not spelt out, and nothing is transliterated.
Whisper's normalisers are not used anywhere: they delete or split off Indic vowel signs.
"""

from __future__ import annotations

import re
import unicodedata

# Written without spaces between words: Chinese languages by their ISO 639 codes, and Japanese.
WITHOUT_SPACES = frozenset("zh cmn yue wuu nan hak gan hsn cdo mnp cjy lzh ja".split())

# In a hypothesis: something that the model's units, or their bytes, do not make a character of.
UNKNOWN_CHARACTER = "\N{REPLACEMENT CHARACTER}"

# AISHELL-2 writes the painter 赵孟頫 with U+2B5AF, a character that few fonts have.
SUBSTITUTIONS = {"\U0002b5af": "\u982b"}

ZWJ = "\N{ZERO WIDTH JOINER}"

# Letters that were written as a consonant, a virama and ZWJ before they had a code of their own:
# Malayalam's chillus (of nna, na, ra, la, lla, ka) and Bengali's khanda ta.
_LETTERS = {f"{old}\u0d4d": new for old, new in zip("ണനരലളക", "ൺൻർൽൾൿ", strict=True)}
_LETTERS["\u09a4\u09cd"] = "\u09ce"

# A run of ZWJs: the end of such a letter (first group), one that spells (second), any other.
_JOINERS = re.compile(
    f"({'|'.join(_LETTERS)}){ZWJ}+"
    f"|((?<=[\u09b0\u09f0]){ZWJ}+(?=\u09cd\u09af)"  # U+09F0: the ra of Assamese
    f"|(?<=\u0cb0){ZWJ}+(?=\u0ccd)"
    f"|(?<=[\u0d9a-\u0dc6]\u0dca){ZWJ}+(?=[\u0d9a-\u0dc6]))"
    f"|{ZWJ}+"
)

# Lower-case Latin letters and the marks that may follow one (text is lower-cased before use).
_LATIN = "a-zªºß-öø-ʯ\u0300-\u036fᴀ-ᶿḁ-ỿⱡ-ⱿꜢ-ꟿꬰ-ꭤ"
_STRAY_APOSTROPHE = re.compile(f"(?<![{_LATIN}])'|'(?![{_LATIN}])")

# 々 and 〇, kana, bopomofo, Han with its extensions and compatibility forms.
_HAN = (
    "々〇\u3040-\u312f\u31a0-\u31bf\u31f0-\u31ff"
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
)
_SPACE_BESIDE_HAN = re.compile(f"(?<=[{_HAN}]) | (?=[{_HAN}])")


class _Table(dict[int, str]):
    """A table for str.translate that works out each code point's replacement when first met."""

    def __missing__(self, code: int) -> str:
        self[code] = self.replacement(chr(code))
        return self[code]

    def replacement(self, character: str) -> str:
        raise NotImplementedError


class _Forms(_Table):
    """Rules 1 and 2: width forms folded, what has no width dropped, but for ZWJ: `_joined`."""

    def replacement(self, character: str) -> str:
        if character == ZWJ:
            return character
        if unicodedata.decomposition(character).startswith(("<wide>", "<narrow>")):
            return unicodedata.normalize("NFKC", character)
        if character.isspace():
            return " "
        category = unicodedata.category(character)
        # Cn stays: a code point unknown to this Python may be a letter of a newer Unicode.
        if category in ("Cc", "Cf", "Co", "Cs") or _is_invisible_mark(character):
            return ""
        return character


class _Contents(_Table):
    """Rules 4 to 6: letters, marks and numbers stay, digits become ASCII, the rest spaces."""

    def replacement(self, character: str) -> str:
        if character == ZWJ:
            return character
        if character in SUBSTITUTIONS:
            return SUBSTITUTIONS[character]
        if character in "'\u2018\u2019":
            return "'"
        category = unicodedata.category(character)
        if category == "Nd":
            return str(unicodedata.decimal(character))
        return character if category[0] in "LMN" or category == "Cn" else " "


def _is_invisible_mark(character: str) -> bool:
    name = unicodedata.name(character, "")
    return "VARIATION SELECTOR" in name or name == "COMBINING GRAPHEME JOINER"


def _joined(text: str) -> str:
    """`text`, in NFC, with ZWJ only where rule 2 keeps it; in NFC again."""

    def replacement(run: re.Match[str]) -> str:
        letter, spelling = run.groups()
        return _LETTERS[letter] if letter else ZWJ if spelling else ""

    return unicodedata.normalize("NFC", _JOINERS.sub(replacement, text))


_FORMS = _Forms()
_CONTENTS = _Contents()


def spaces_count(language: str) -> bool:
    """Whether spaces part words in `language` (a code such as "hi", "zh-CN", "zh_TW")."""
    return re.split("[-_]", language.lower())[0] not in WITHOUT_SPACES


def normalise(text: str, language: str) -> str:
    """`text` by the rules at the head of this module; may be empty. Idempotent.

    language: an ISO 639 code, with or without a region ("hi", "ta", "zh-CN").
    """
    text = unicodedata.normalize("NFC", text.translate(_FORMS))
    if ZWJ in text:  # in few languages
        text = _joined(text)
    text = _STRAY_APOSTROPHE.sub(" ", text.lower().translate(_CONTENTS))
    text = " ".join(text.split())
    if not spaces_count(language):
        text = _SPACE_BESIDE_HAN.sub("", text)
    # Again, since a mark may now stand beside a letter it was parted from.
    return unicodedata.normalize("NFC", text)


def units_of_error(text: str, language: str) -> str:
    """The code points of `text` that the CER counts; nothing else about `text` is changed.

    Where spaces part words they count, one for each run of white space inside the text; in Chinese
    and Japanese none counts.
    """
    return (" " if spaces_count(language) else "").join(text.split())
