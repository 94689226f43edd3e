"""Text normalisation for training targets and for the normalised CER.

The rules, in this order. They look at characters, so that a language needs no code of its own; the
few whose spelling they would harm have a line in a table below, with the reason.

1. Width forms (full-width Latin and punctuation, half-width kana, the ideographic space) become
   their ordinary selves, and so do characters that are letters in another guise: Arabic
   presentation forms and ligatures (ﷲ), Latin, Armenian and Hebrew ones (ﬁ), Kangxi radicals (⽇).
   No other compatibility character is touched: this is not NFKC.
2. What has no width is dropped: controls, U+200B, U+FEFF, soft hyphens, direction marks, variation
   selectors, Hangul fillers; and what stands in the middle of a word without parting it, see
   _IN_THE_WAY. So are ZWNJ and, after NFC, ZWJ (U+200C, U+200D): in Indic scripts they choose
   between shapes of the same letters, seldom between words, and transcribers use them as they
   please (of the Hindi sentences collected for Common Voice one in fifteen has a ZWJ, at times
   within a syllable that it breaks).
   A ZWNJ that spells stays: between two Arabic letters that would join without it (Persian, Urdu).
   A ZWJ that spells stays: in Bengali between ra and hasanta, ya, in Kannada between ra and virama
   (which are reph without it), in Sinhala after the virama that joins two consonants. In Malayalam
   an old chillu (consonant, virama, ZWJ) becomes the letter, U+0D7A to U+0D7F, and Bengali's khanda
   ta, written so, U+09CE; the eyelash ra of Marathi and Nepali becomes U+0931 and virama. In
   Central Kurdish heh and ZWNJ are the old way to write ە.
3. NFC, then lower case: that of İ is i, and of I in Turkish and its neighbours ı. NFC writes most
   nukta letters (U+0958 to U+095F, such as U+095C) as letter and nukta, and Tamil's vowel signs of
   two parts as one. What looks alike on the screen, or is the same letter on another keyboard, is
   written in one way, see _TYPED.
4. Decimal digits of every script become 0-9, so that १, ௧, ١ and 1 are one character.
5. Letters, marks and numbers (Unicode L, M, N) stay: vowel signs, viramas and nuktas are letters'
   parts, as is a ZWJ that spells, and so do the words that Unicode counts as punctuation or
   symbols, see _WORDS. Other punctuation and symbols (P, S) become spaces, so that words they part
   stay apart: hyphens among them, the danda and double danda, in whichever code (_DANDAS) or as a
   bar, and the abbreviation sign U+0970.
   What spells within a word stays, see _WITHIN: an apostrophe between two letters of an alphabet
   that has one, written ' (any other counts as a quotation mark, in Devanagari names, O'Brien's,
   too), Hebrew's geresh and gershayim, Catalan's l·l, the Tibetan tsheg. At a word's edge an
   apostrophe and a quotation mark look alike: it stays in the languages of _BY_LANGUAGE alone.
   ʻ of Uzbek and Hawaiian: see _OKINA. The colon that is typed for a visarga becomes one, see
   _VISARGA. U+FFFD, which in a hypothesis is an unknown character, stays: it is a wrong one.
6. Substitutions of characters that a corpus writes in an unusual way: see SUBSTITUTIONS.
7. Runs of white space become one space; none stands at either end. In Chinese and Japanese one
   beside a Han, kana or bopomofo character goes, so that a Latin word in a Chinese sentence is
   written alike by those who set it off and those who do not; one between two Latin words stays.

normalise(normalise(x)) == normalise(x). Letters, vowel signs, viramas and nuktas change by these
rules only. Numbers are not spelt out, and nothing is transliterated. Vowel marks of Arabic and
Hebrew stay where a corpus has them.
Whisper's normalisers are not used anywhere: they delete or split off Indic vowel signs.

Sources: Unicode's core specification (sections 7.6 Armenian, 9.1 Hebrew, 9.2 Arabic, 12.1
Devanagari R5 and R5a, 13.4 Tibetan, 23.2 joiners), SpecialCasing.txt, ArabicShaping.txt, UAX #29
(which characters part no word), and CLDR's exemplar characters of each language.
"""

from __future__ import annotations

import re
import unicodedata
from functools import cache

# Raise it when the same text would come out otherwise: data prepared before are made anew.
RULES = 2

# Chinese languages, by their ISO 639 codes.
CHINESE = frozenset("zh cmn yue wuu nan hak gan hsn cdo mnp cjy lzh".split())
# Written without spaces between words: they and Japanese; Thai with Isan and Northern Thai, Lao,
# Khmer, Burmese with Rakhine, Mon and Shan, whose spaces part phrases; Tibetan and Dzongkha.
WITHOUT_SPACES = CHINESE | frozenset("ja th tts nod lo km my rki mnw shn bo dz".split())

# In a hypothesis: something that the model's units, or their bytes, do not make a character of.
UNKNOWN_CHARACTER = "\N{REPLACEMENT CHARACTER}"

# AISHELL-2 writes the painter 赵孟頫 with U+2B5AF, a character that few fonts have. Catalan's l·l
# has a code for its first half, of which Unicode's chart says to write l and U+00B7.
# Afrikaans' ŉ is a code of its own for two characters; Unicode deprecates it.
SUBSTITUTIONS = {"\U0002b5af": "\u982b", "\u0140": "l·", "\u0149": "'n"}

ZWJ = "\N{ZERO WIDTH JOINER}"
ZWNJ = "\N{ZERO WIDTH NON-JOINER}"

# Tatweel stretches an Arabic word; the Armenian signs of emphasis, exclamation and question stand
# over a vowel in the middle of one.
_IN_THE_WAY = "\N{ARABIC TATWEEL}\u055b\u055c\u055e"

# Whose alphabet has both i and ı: Turkish and Azerbaijani (SpecialCasing.txt), Crimean Tatar and
# Gagauz.
_DOTLESS = frozenset("tr az crh gag".split())

# What lower() makes of İ, so that a text can be told to come from it.
_SECOND_DOT = re.compile("i\u0307+")

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

# The eyelash ra, not a reph, of Marathi, Konkani and Nepali as it is often typed, and its code.
# Hindi has none: there the ZWJ is a slip.
_EYELASH = ("\u0930\u094d" + ZWJ, "\u0931\u094d")
_WITH_EYELASH = frozenset("mr kok gom knn ne".split())

# ە of Central Kurdish as it was written before it had a code.
_OLD_AE = ("\u0647" + ZWNJ, "\u06d5")

# Arabic letters that join the one after them (Joining_Type D), and all of them.
_JOINING = (
    "\u0620\u0626\u0628\u062a-\u062e\u0633-\u063f\u0641-\u0647\u0649\u064a\u066e\u066f\u0678-\u0687"
    "\u069a-\u06bf\u06c1\u06c2\u06cc\u06ce\u06d0\u06d1\u06fa-\u06fc\u06ff"
)
_ARABIC = "\u0620-\u063f\u0641-\u064a\u066e\u066f\u0671-\u06d3\u06d5\u06ee\u06ef\u06fa-\u06fc\u06ff"
_JOINED = f"(?:(?<=[{_JOINING}])|(?<=[{_JOINING}][\u064b-\u065f\u0670]))"  # marks join nothing
_NON_JOINERS = re.compile(f"{_JOINED}({ZWNJ})+(?=[{_ARABIC}])|{ZWNJ}+")

# Lower-case Latin letters and the marks that may follow one (text is lower-cased before use); those
# of the other alphabets in which an apostrophe spells: Greek elisions, Ukrainian and Belarusian
# м'я, Russian names (д'артаньян), Western Armenian կ'ուզեմ.
_LATIN = "a-zªºß-öø-ʯ\u0300-\u036fᴀ-ᶿḁ-ỿⱡ-ⱿꜢ-ꟿꬰ-ꭤ"
_GREEK = "\u0386\u0388-\u03ce\u1f00-\u1fbc\u1fc2-\u1fcc\u1fd0-\u1fdb\u1fe0-\u1fec\u1ff2-\u1ffc"
_CYRILLIC = "а-ҁ\u0483-\u0487ҋ-ԯ"
_ALPHABETS = f"{_LATIN}{_GREEK}{_CYRILLIC}ա-ֈ"

# What spells within a word, by how it is written then. U+02BC is the apostrophe that Unicode counts
# as a letter. Beside a number an apostrophe joins an ending (Turkish 1990'da) or an article (l'11).
_GERESH, _GERSHAYIM = "\u05f3", "\u05f4"
_HEBREW = "א-ת\u05b0-\u05c7"  # with its points
_WITHIN = {
    # of acronyms; as " or '' before the last letter alone, for others begin a quotation
    _GERSHAYIM: f"(?<=[{_HEBREW}]){_GERSHAYIM}(?=[א-ת])"
    f"|(?<=[{_HEBREW}])(?:\"|''|{_GERESH * 2})(?=[א-ת](?![א-ת]))",
    # Hebrew's j, zh and ch, and an abbreviation's end, which as ' could be one of a quotation
    _GERESH: f"(?<=[{_HEBREW}])(?:{_GERESH}|['\u02bc](?=[א-ת]))|(?<=[גזצץ])['\u02bc]",
    "'": f"(?<=[{_ALPHABETS}0-9])['\u02bc](?=[{_ALPHABETS}])|(?<=[{_ALPHABETS}])['\u02bc](?=[0-9])",
    "·": "(?<=l)·(?=l)",  # Catalan
    "\u0f0b": "(?<=[\u0f40-\u0fbc])\u0f0b(?=[\u0f40-\u0fbc])",
}

# Letters of the Bengali and the Ethiopic script; consonants and vowel signs of the first.
_BENGALI, _ETHIOPIC = "\u0981-\u09e3\u09f0\u09f1", "\u1200-\u135a"
_IN_DEVANAGARI = "(?<=[\u0900-\u0963])['\u02bc](?=[\u0900-\u0963])"
_CONSONANT, _VOWEL_SIGN = "[\u0995-\u09b9]", "[\u09be-\u09cc]"
_BENGALI_WORD = f"(?<![{_BENGALI}'])"  # where one begins, and no quotation

# What spells at a word's edge, or is punctuation elsewhere, by language.
_ONE_LETTER = f"(?<![{_LATIN}])'(?=[a-z](?![{_LATIN}'\u02bc]))"
_FINAL_VOWEL = f"(?<=[aeiou])['\u02bc](?![{_LATIN}])"
_BY_LANGUAGE = {
    # 'n, 's, 't, 'e: Afrikaans, Dutch, Frisian, Limburgish, Low German, Luxembourgish
    **dict.fromkeys("af nl fy li nds lb".split(), _ONE_LETTER),
    "mt": _FINAL_VOWEL,  # ta', jista': the Maltese letter għ at a word's end
    "so": _FINAL_VOWEL,  # lo': the glottal stop, a letter of Somali
    "ha": f"(?<![{_LATIN}])['\u02bc](?=y)",  # 'yan: a letter of Hausa
    "it": f"(?<=(?<![{_LATIN}'\u02bc])(?:po|mo|be))['\u02bc](?![{_LATIN}])",  # else no words
    "el": f"(?<=[{_GREEK}])'|'(?=[{_GREEK}])"  # elision: απ' όλα, θα 'ρθω; quoted is « »
    f"|(?<=(?<![{_GREEK}])[οόὅ]),(?=τι)",  # ό,τι, what; ότι is that
    "as": f"(?<=[{_BENGALI}])'(?=[{_BENGALI}])",  # হ'ল, নক'লে: the vowel of ক' is not that of ক
    # দু'জন, হ'ল: one syllable before it; after more it ends a quotation, 'গীতাঞ্জলি'র.
    "bn": f"(?:(?<={_BENGALI_WORD}{_CONSONANT})|(?<={_BENGALI_WORD}{_CONSONANT}{_VOWEL_SIGN}))"
    f"'(?=[{_BENGALI}])",
    "ti": f"(?<=[{_ETHIOPIC}])'(?=[{_ETHIOPIC}])",  # ከም'ዚ: an elision
    "fi": f"(?<=[{_LATIN}0-9]):(?=[{_LATIN}])",  # eu:n, 1990:n, a case ending
    "sv": f"(?<=[{_LATIN}0-9]):(?=[{_LATIN}])",  # eu:s, 12:e
    "oc": "(?<=[sn])·(?=h)",  # des·har
    **dict.fromkeys(("brx", "doi", "mai"), _IN_DEVANAGARI),  # ब'र: a tone, or a vowel drawn out
}

# Where ʻ (U+02BB) is a letter (CLDR), most people type an apostrophe.
_OKINA = {
    "uz": "(?<=[og])['\u02bc]",  # oʻ, gʻ; others are apostrophes: san'at
    # Hawaiian, Samoan, Tongan, Tahitian, Cook Islands Maori, Niuean, Wallisian
    **dict.fromkeys("haw sm to ty rar niu wls".split(), "['\u02bc](?=[aeiouāēīōū])"),
}

# What of a language is typed in several ways that look alike, or are the same letter on another
# keyboard: (pattern, how it is written).
_TONES, _LAO_TONES = "\u0e48-\u0e4c", "\u0ec8-\u0ecc"  # and the sign of a silent letter
_BURMESE_DIGITS = "0-9\u1040-\u1049"
_YEH_AND_KAF = [("[\u064a\u0649]", "\u06cc"), ("\u0643", "\u06a9")]  # of Arabic keyboards
_TYPED = {
    language: [(re.compile(pattern), written) for pattern, written in pairs]
    for language, pairs in {
        # e twice for ae; nikhahit and aa for am; a tone after am; one before the vowel above or
        # below which it stands
        "th tts nod": [
            ("เเ", "แ"),
            (f"\u0e4d([{_TONES}]*)\u0e32", "\\1\u0e33"),
            (f"(\u0e33)([{_TONES}]+)", "\\2\\1"),
            (f"([{_TONES}]+)([\u0e31\u0e34-\u0e39]+)", "\\2\\1"),
        ],
        "lo": [
            ("ເເ", "ແ"),
            (f"\u0ecd([{_LAO_TONES}]*)\u0eb2", "\\1\u0eb3"),
            (f"(\u0eb3)([{_LAO_TONES}]+)", "\\2\\1"),
            (f"([{_LAO_TONES}]+)([\u0eb1\u0eb4-\u0eb9\u0ebb\u0ecd]+)", "\\2\\1"),
        ],
        # 0 for wa, 7 for ra and 4 for "the said", which look the same: before a vowel sign, and 0
        # at a word's beginning, where no number goes on
        "my": [
            (
                "\u1040(?=[\u102b-\u103e])"
                f"|(?<![{_BURMESE_DIGITS}])(?<![{_BURMESE_DIGITS}][.,:၊])\u1040(?=[\u1000-\u1021])",
                "\u101d",
            ),
            ("\u1047(?=[\u102b-\u103e])", "\u101b"),
            (f"(?<![{_BURMESE_DIGITS}])\u1044(?=\u1004\u103a\u1038)", "\u104e"),
        ],
        "fa ckb pnb skr": _YEH_AND_KAF,
        "ur": [*_YEH_AND_KAF, ("\u0647", "\u06c1")],
        # cedillas, of fonts that lacked the comma below
        "ro": [("ş\u0327*", "ș"), ("ţ\u0327*", "ț")],
        # a letter to Unicode, a middle dot in the press
        "ko": [("\u318d", " ")],
    }.items()
    for language in language.split()
}

# Words with a visarga inside, of Hindi and its neighbours and of Bengali, in which a colon is often
# typed for it: दु:ख, नि:शुल्क. Elsewhere headlines part with one, दिल्ली:नाबालिग.
_VISARGA = re.compile(
    "(?<![\u0900-\u0963\u0980-\u09e3])(दु|नि|अंत|अन्त|प्रात|पुन|দু|নি|অন্ত|প্রাত|পুন):"
    "(?=[\u0915-\u0939\u0995-\u09b9])"
)

# Words that Unicode counts as symbols or punctuation: Sindhi's "and" and "in", Burmese locative,
# "having", "the said" and genitive, each of which is read aloud.
_WORDS = frozenset("\u06fd\u06fe\u104c\u104d\u104e\u104f")

# What is typed for a danda in place of U+0964: the places that Unicode keeps free for it in eight
# scripts, and a Bengali number that looks like it.
_DANDAS = frozenset([chr(block + n) for block in range(0x980, 0xD80, 0x80) for n in (0x64, 0x65)])
_DANDAS |= {"\u09f7"}

# Greek accents that stand beside their letter; elsewhere these are typed for an apostrophe.
_BESIDE = str.maketrans("`\u00b4", "  ")

# 々 and 〇, kana, bopomofo, Han with its extensions and compatibility forms.
_HAN = (
    "々〇\u3040-\u312f\u31a0-\u31bf\u31f0-\u31ff"
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
)
_SPACE_BESIDE_HAN = re.compile(f"(?<=[{_HAN}]) | (?=[{_HAN}])")


# Ligatures and radicals that are letters in another guise: Latin, Armenian, Hebrew; Kangxi's, and
# two more radicals of which Unicode says the same.
_GUISES = frozenset(
    chr(code) for code in (*range(0xFB00, 0xFB18), 0xFB4F, *range(0x2F00, 0x2FD6), 0x2E9F, 0x2EF3)
)
# Decompositions of Arabic letters in another guise.
_PRESENTED = ("<isolated>", "<initial>", "<medial>", "<final>")

# Where Unicode keeps places for symbols alone: pictographs, currency.
_SYMBOLS_TO_COME = re.compile("[\U0001f000-\U0001fbff\u20c1-\u20cf]")


class _Table(dict[int, str]):
    """A table for str.translate that works out each code point's replacement when first met."""

    def __missing__(self, code: int) -> str:
        self[code] = self.replacement(chr(code))
        return self[code]

    def replacement(self, character: str) -> str:
        raise NotImplementedError


class _Forms(_Table):
    """Rules 1 and 2: width forms folded, what has no width dropped, but for joiners: `_joined`."""

    def replacement(self, character: str) -> str:
        if character in (ZWJ, ZWNJ):
            return character
        if character in _IN_THE_WAY:
            return ""
        if _is_invisible(character):
            return ""
        kind = unicodedata.decomposition(character).partition(" ")[0]
        if kind in ("<wide>", "<narrow>") or character in _GUISES:
            return unicodedata.normalize("NFKC", character)
        if kind in _PRESENTED:  # a mark of these stands on a tatweel, or on a space
            return unicodedata.normalize("NFKC", character).replace("\u0640", "").strip()
        if character.isspace():
            return " "
        # Cn stays: a code point unknown to this Python may be a letter of a newer Unicode.
        return "" if unicodedata.category(character) in ("Cc", "Cf", "Co", "Cs") else character


# Punctuation that spells in some places: `_written` decides. And others that are written as it.
_SPELLING = f"'\",:·\u0f0b{_GERESH}{_GERSHAYIM}"
_ALIKE = {
    # Typographic, Armenian, Greek; grave and acute accent and prime, as they are typed.
    **dict.fromkeys("\u2018\u2019\u055a\u1fbd\u1fbf`\u00b4\u2032", "'"),
    **dict.fromkeys("\u201c\u201d", '"'),
    **dict.fromkeys("\u2022\u2027\u2219\u22c5", "·"),
    "\u0f0c": "\u0f0b",
}


class _Contents(_Table):
    """Rules 4 to 6: letters, marks and numbers stay, digits become ASCII, the rest spaces."""

    def replacement(self, character: str) -> str:
        if character in (ZWJ, ZWNJ) or character in _SPELLING:
            return character
        if character in SUBSTITUTIONS:
            return SUBSTITUTIONS[character]
        if character in _ALIKE:
            return _ALIKE[character]
        if character in _WORDS or character == UNKNOWN_CHARACTER:
            return character
        if character in _DANDAS:
            return " "
        category = unicodedata.category(character)
        if category == "Nd":
            return str(unicodedata.decimal(character))
        if category == "Cn":
            return " " if _SYMBOLS_TO_COME.match(character) else character
        # Me encloses what it stands on, such as the keycap of 1️⃣, and spells nothing.
        return character if category[0] in "LMN" and category != "Me" else " "


def _is_invisible(character: str) -> bool:
    name = unicodedata.name(character, "")
    filler = name.endswith("FILLER") and "HANGUL" in name
    return filler or "VARIATION SELECTOR" in name or name == "COMBINING GRAPHEME JOINER"


def _joined(text: str, language: str) -> str:
    """`text`, in NFC, with ZWNJ and ZWJ only where rule 2 keeps them; in NFC again."""

    def replacement(run: re.Match[str]) -> str:
        letter, spelling = run.groups()
        return _LETTERS[letter] if letter else ZWJ if spelling else ""

    if language == "ckb":
        text = text.replace(*_OLD_AE)
    text = unicodedata.normalize("NFC", _NON_JOINERS.sub(r"\1", text))
    if language in _WITH_EYELASH:
        text = text.replace(*_EYELASH)
    return unicodedata.normalize("NFC", _JOINERS.sub(replacement, text))


@cache
def _punctuation(language: str) -> re.Pattern[str]:
    """Finds what spells in a language, in a group for each of `_WRITTEN`, and other punctuation."""
    okina = _OKINA.get(language, "(?!)")  # (?!) is nowhere
    spells = [okina, *_WITHIN.values(), _BY_LANGUAGE.get(language, "(?!)")]
    groups = "|".join(f"({each})" for each in spells)
    # What each alternative begins with, first: five times as fast.
    return re.compile(f"(?=[{_SPELLING}\u02bc])(?:{groups}|[{_SPELLING}])")


_WRITTEN = ("\u02bb", *_WITHIN, None)  # None: as it is, or as the apostrophe


def _written(found: re.Match[str]) -> str:
    """How punctuation of `_SPELLING` is written, rule 5."""
    if found.lastindex is None:
        return " "
    return _WRITTEN[found.lastindex - 1] or found[0].replace("\u02bc", "'")


def _with_visarga(found: re.Match[str]) -> str:
    """The word's beginning and the visarga of its script."""
    return found[1] + ("\u0903" if found[1] < "\u0980" else "\u0983")


_FORMS = _Forms()
_CONTENTS = _Contents()


def letters_of(sentence: str) -> str:
    """A sentence without what a normaliser may drop: letters, marks and numbers, lower case.

    NFKC rather than NFC, so that half-width and full-width forms of a sentence are one sentence.
    """
    folded = unicodedata.normalize("NFKC", sentence).lower()
    return "".join(c for c in folded if unicodedata.category(c)[0] in "LMN")


def primary(language: str) -> str:
    """The language of a code, without its region: "zh" of "zh-CN"."""
    return re.split("[-_]", language.lower())[0]


def spaces_count(language: str) -> bool:
    """Whether spaces part words in `language` (a code such as "hi", "zh-CN", "zh_TW")."""
    return primary(language) not in WITHOUT_SPACES


def canonical(text: str) -> str:
    """`text` as it is written, case and punctuation too, in NFC and each white space one space."""
    return unicodedata.normalize("NFC", " ".join(text.split()))


def normalise(text: str, language: str) -> str:
    """`text` by the rules at the head of this module; may be empty. Idempotent.

    language: an ISO 639 code, of two letters where there is one, with or without a region ("hi",
        "ta", "zh-CN").
    """
    code = primary(language)
    text = unicodedata.normalize("NFC", text.translate(_FORMS))
    if ZWJ in text or ZWNJ in text:  # in few languages
        text = _joined(text, code)
    if code in _DOTLESS:
        text = text.replace("I", "ı")
    text = unicodedata.normalize("NFC", _SECOND_DOT.sub("i", text.lower()))
    for pattern, written in _TYPED.get(code, ()):
        text = pattern.sub(written, text)
    if code == "el":
        text = text.translate(_BESIDE)
    text = text.translate(_CONTENTS)
    if ":" in text:
        text = _VISARGA.sub(_with_visarga, text)
    text = _punctuation(code).sub(_written, text)
    text = " ".join(text.split())
    if not spaces_count(language):
        text = _SPACE_BESIDE_HAN.sub("", text)
    # Again, since a mark may now stand beside a letter it was parted from.
    return unicodedata.normalize("NFC", text)


def units_of_error(text: str, language: str) -> str:
    """The code points of `text` that the CER counts; nothing else about `text` is changed.

    Where spaces part words they count, one for each run of white space inside the text; in the
    languages of WITHOUT_SPACES none counts, nor does the space without width (U+200B) that parts
    words in Khmer or Burmese.
    """
    if spaces_count(language):
        return " ".join(text.split())
    return "".join(text.replace("\N{ZERO WIDTH SPACE}", " ").split())
