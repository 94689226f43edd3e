"""Sentences from a grammar file or from a text file, and which split each sentence belongs to.

A grammar is a YAML file of word lists and patterns:

    words:
      person: [राम, सीता, "मेरा {relative}"]
      relative: [भाई, दोस्त]
    patterns:
      - "{person} घर जा रहा है।"

`{name}` stands for an entry drawn from that list; an entry may itself name other lists. This module
knows nothing of speech.
"""

import hashlib
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from adakd.data.text import letters_of
from adakd.errors import UserError

_PATIENCE = 10_000  # draws in a row without a new sentence before the grammar counts as exhausted

Piece = tuple[bool, str]  # (is it the name of a list?, the text or the name)
Phrase = tuple[Piece, ...]


@dataclass(frozen=True)
class Grammar:
    """Parsed patterns and word lists; a text file is a grammar without word lists."""

    path: Path
    words: dict[str, tuple[Phrase, ...]]
    patterns: tuple[Phrase, ...]

    @cached_property
    def possible(self) -> int:
        """How many sentences there can be (an upper bound: two patterns may give the same one)."""
        counts: dict[str, int] = {}

        def count(phrase: Phrase) -> int:
            total = 1
            for is_list, value in phrase:
                if is_list:
                    if value not in counts:
                        counts[value] = sum(count(entry) for entry in self.words[value])
                    total *= counts[value]
            return total

        return sum(count(pattern) for pattern in self.patterns)


def load(path: Path) -> Grammar:
    """Read a grammar file. What is wrong with it is a UserError with the file and the line."""
    import yaml

    try:
        root = yaml.compose(read_text(path), Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        line = f":{mark.line + 1}" if mark else ""
        raise UserError(f"{path}{line}: broken YAML: {error.problem}; mend that line") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path}: broken YAML: {error}; mend the file") from None

    def fail(node: yaml.Node | None, problem: str) -> UserError:
        line = node.start_mark.line + 1 if node else 1
        return UserError(f"{path}:{line}: {problem}")

    def mapping(node: yaml.Node | None, what: str) -> dict[str, yaml.Node]:
        if not isinstance(node, yaml.MappingNode):
            raise fail(node, f"{what} must be a mapping (name: value)")
        found: dict[str, yaml.Node] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise fail(key, f"a name in {what} is not a text; write one, with a colon")
            if key.value in found:
                raise fail(key, f"'{key.value}' stands here twice; join the two or rename one")
            found[key.value] = value
        return found

    def phrases(node: yaml.Node, what: str) -> tuple[tuple[Phrase, yaml.Node], ...]:
        if not isinstance(node, yaml.SequenceNode) or not node.value:
            raise fail(node, f"{what} must be a list with at least one entry")
        return tuple((phrase(entry, what), entry) for entry in node.value)

    def phrase(node: yaml.Node, what: str) -> Phrase:
        # The text as written counts: a bare 5 or `no` is a word here, not a number or a truth.
        if not isinstance(node, yaml.ScalarNode) or not node.value.strip():
            raise fail(node, f"an entry of {what} is not a text; write one, with quotes")
        pieces: list[Piece] = []
        for number, text in enumerate(re.split(r"\{([^{}]*)\}", node.value)):
            is_list = number % 2 == 1
            if not is_list and re.search(r"[{}]", text):
                raise fail(node, f"a brace without its partner in '{node.value}'")
            if text or is_list:
                pieces.append((is_list, text))
        return tuple(pieces)

    top = mapping(root, "a grammar")
    for key, node in top.items():
        if key not in ("words", "patterns"):
            raise fail(node, f"unknown key '{key}'; a grammar has 'words' and 'patterns'")
    if "patterns" not in top:
        raise fail(root, "no 'patterns'; add a list of sentence patterns")
    word_nodes = mapping(top["words"], "'words'") if "words" in top else {}
    words = {name: phrases(node, f"the list '{name}'") for name, node in word_nodes.items()}
    patterns = phrases(top["patterns"], "'patterns'")
    for entries in (patterns, *words.values()):
        for pieces, node in entries:
            for is_list, name in pieces:
                if is_list and name not in words:
                    raise fail(node, f"there is no word list '{name}'{_nearest(name, list(words))}")

    def visit(name: str, above: tuple[str, ...]) -> None:
        if name in above:
            circle = " -> ".join((*above[above.index(name) :], name))
            raise fail(word_nodes[name], f"word lists name each other in a circle: {circle}")
        for pieces, _ in words[name]:
            for is_list, inner in pieces:
                if is_list:
                    visit(inner, (*above, name))

    for name in words:
        visit(name, ())
    return Grammar(
        path=path,
        words={name: tuple(pieces for pieces, _ in entries) for name, entries in words.items()},
        patterns=tuple(pieces for pieces, _ in patterns),
    )


def load_text(path: Path) -> Grammar:
    """Read a plain text file, one sentence a line; blank lines are skipped."""
    lines = [line.strip() for line in read_text(path).splitlines()]
    for number, line in enumerate(lines, start=1):
        if line and not letters_of(line):
            raise UserError(f"{path}:{number}: no letters in this line; remove it or add words")
    found = tuple(((False, line),) for line in lines if line)
    if not found:
        raise UserError(f"{path}: no sentences; write one a line")
    return Grammar(path=path, words={}, patterns=found)


def sentences(grammar: Grammar, seed: int) -> Iterator[str]:
    """Distinct sentences in an order that depends on the seed alone.

    Ends when a long row of draws brings nothing new: the caller says what that means.
    Sentences that differ only in punctuation, case or spacing count as one.
    """
    draw = random.Random(seed)
    seen: set[bytes] = set()
    misses = 0
    while misses < _PATIENCE and len(seen) < grammar.possible:
        sentence = " ".join(_expand(grammar, draw.choice(grammar.patterns), draw).split())
        letters = letters_of(sentence)
        key = hashlib.sha256(letters.encode()).digest()[:12]  # a set of texts takes more
        if key in seen:
            misses += 1
            continue
        seen.add(key)
        misses = 0
        yield sentence


def split_of(sentence: str) -> str:
    """The only split this sentence may ever be in: "train" (75 %), "dev" or "test" (12.5 % each).

    It depends on the sentence alone (SHA-256 of its normalised, punctuation-stripped form), never
    on the seed, the corpus size or the grammar. So a sentence of some dev or test set, whatever its
    seed or size, is never in any training set, and never in the training set of pretraining.
    """
    digest = hashlib.sha256(letters_of(sentence).encode()).digest()
    share = int.from_bytes(digest[:8], "big") / 2**64
    return "train" if share < 0.75 else "dev" if share < 0.875 else "test"


def _expand(grammar: Grammar, phrase: Phrase, draw: random.Random) -> str:
    return "".join(
        _expand(grammar, draw.choice(grammar.words[value]), draw) if is_list else value
        for is_list, value in phrase
    )


def read_text(path: Path) -> str:
    """A file of UTF-8, with or without a byte order mark. What cannot be read is a UserError."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such file; check the path") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as UTF-8 text ({error})") from None


def _nearest(name: str, known: list[str]) -> str:
    import difflib

    near = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean '{near[0]}'?" if near else "; add it under 'words'"
