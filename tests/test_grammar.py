"""The grammar reader against grammars small enough to count by hand."""

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from adakd.corpora import grammar
from adakd.data.text import letters_of
from adakd.errors import UserError

SMALL = """\
words:
  person: [राम, सीता, "मेरा {relative}"]
  relative: [भाई, दोस्त]
  place:
    - घर
    - बाज़ार
patterns:
  - "{person} {place} जा रहा है।"
  - क्या {person} आएगा?
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "grammar.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_all_sentences_of_a_small_grammar(tmp_path: Path) -> None:
    loaded = grammar.load(write(tmp_path, SMALL))
    found = list(grammar.sentences(loaded, 1))
    people = ["राम", "सीता", "मेरा भाई", "मेरा दोस्त"]
    expected = {f"{p} {place} जा रहा है।" for p in people for place in ("घर", "बाज़ार")}
    expected |= {f"क्या {p} आएगा?" for p in people}
    assert loaded.possible == len(expected) == 12
    assert len(found) == 12 and set(found) == expected


def test_order_depends_on_the_seed_alone(tmp_path: Path) -> None:
    loaded = grammar.load(write(tmp_path, SMALL))
    assert list(grammar.sentences(loaded, 3)) == list(grammar.sentences(loaded, 3))
    assert list(grammar.sentences(loaded, 3)) != list(grammar.sentences(loaded, 4))


def test_sentences_that_differ_in_punctuation_only_are_one(tmp_path: Path) -> None:
    loaded = grammar.load(write(tmp_path, 'patterns: ["चलो घर!", "चलो, घर", "चलो  घर"]'))
    assert loaded.possible == 3
    assert len(list(grammar.sentences(loaded, 1))) == 1


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("words: {a: [x]}\npatterns:\n  - '{a}'\n  - '{aa} y'\n", 4, "did you mean 'a'"),
        ("words: {a: [x]}\npatterns:\n  - '{b}'\n", 3, "no word list 'b'"),
        ("words:\n  a: [x\npatterns: [y]\n", 3, "broken YAML"),
        ("words:\n  a: [x]\n  a: [y]\npatterns: [z]\n", 3, "twice"),
        ("word: {a: [x]}\npatterns: [z]\n", 1, "unknown key 'word'"),
        ("words: {a: [x]}\n", 1, "no 'patterns'"),
        ("words:\n  a: []\npatterns: [z]\n", 2, "at least one entry"),
        ("patterns:\n  - 'a {b'\n", 2, "brace"),
        ("patterns:\n  - ''\n", 2, "not a text"),
        ("words:\n  a: ['{b}']\n  b: ['{a}']\npatterns: ['{a}']\n", 2, "circle: a -> b -> a"),
        ("", 1, "must be a mapping"),
        ("patterns: [z]\n? [a]\n: [b]\n", 2, "a name in a grammar is not a text"),
        ("patterns: [z]\nwords:\n  ? {a: b}\n  : [b]\n", 3, "a name in 'words' is not a text"),
    ],
)
def test_errors_name_file_and_line(tmp_path: Path, text: str, line: int, words: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(UserError) as caught:
        grammar.load(path)
    assert f"{path}:{line}: " in str(caught.value)
    assert words in str(caught.value)


def test_a_missing_file_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        grammar.load(tmp_path / "nowhere.yaml")


def test_text_file_one_sentence_a_line(tmp_path: Path) -> None:
    path = tmp_path / "mine.txt"
    path.write_text("\ufeffपहला वाक्य।\r\n\r\nbraces {stay} here\n", encoding="utf-8")
    found = set(grammar.sentences(grammar.load_text(path), 1))
    assert found == {"पहला वाक्य।", "braces {stay} here"}
    path.write_text("अच्छा\n...\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"mine.txt:2: no letters"):
        grammar.load_text(path)


def test_split_is_pinned_for_ever() -> None:
    """Changing these would put test sentences of the past into training."""
    # By hand: sha256("हाँ") etc. as hexadecimal; first two digits < c0 train, < e0 dev, else test.
    import hashlib

    for word in ("हाँ", "नहीं", "आम", "ঘর", "家", "வீடு", "चाय"):
        first = int(hashlib.sha256(word.encode()).hexdigest()[:2], 16)
        expected = "train" if first < 0xC0 else "dev" if first < 0xE0 else "test"
        assert grammar.split_of(word) == expected


def test_split_ignores_what_normalisation_drops() -> None:
    assert letters_of("मेरा भाई, घर गया!") == "मेराभाईघरगया"
    for one, other in (("हाँ, चलो!", "हाँ चलो"), ("ＡＢＣ", "abc"), ("caf\u00e9", "cafe\u0301")):
        assert letters_of(one) == letters_of(other)
        assert grammar.split_of(one) == grammar.split_of(other)


def test_split_shares() -> None:
    counts = Counter(grammar.split_of(f"वाक्य {n}") for n in range(8000))
    assert abs(counts["train"] - 6000) < 200  # five standard deviations
    assert abs(counts["dev"] - 1000) < 150 and abs(counts["test"] - 1000) < 150


def test_light_import() -> None:
    code = (
        "import sys, adakd.corpora, adakd.corpora.grammar, adakd.corpora.espeak as e;"
        "heavy = {'torch', 'numpy', 'scipy', 'soundfile', 'espeakng_loader'} & set(sys.modules);"
        "sys.exit(f'{heavy}' if heavy else 0)"
    )
    root = Path(__file__).resolve().parents[1]
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root)
