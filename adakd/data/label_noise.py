"""Wrong transcripts on purpose, to try how a method bears them: for experiments, off by default.

Three kinds, of the training set alone; dev and test are never touched:

    shuffled   an utterance gets the transcript of another one, a different text that fits its clip
    missing    words are left out
    misspelt   words get one wrong letter: another, one too few, one doubled, or two changed round

Words are left out and misspelt in utterances that are not shuffled. Without spaces between words
every character is a word, and a misspelt one is another character. What was done to whom stands in
label_noise.tsv beside the manifest; an entry's `raw` stays as the corpus has it. Audio stays as it
is: not augmentation.
"""

from __future__ import annotations

import csv
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path

from adakd.config import LabelNoise
from adakd.data import manifest
from adakd.data.manifest import Entry, Limit
from adakd.data.text import normalise, spaces_count
from adakd.files import atomic_write

LISTING = "label_noise.tsv"


def corrupt(folder: Path, noise: LabelNoise, limits: Sequence[Limit]) -> dict[str, int]:
    """Give train.jsonl in `folder` wrong transcripts; list them in label_noise.tsv beside it.

    limits: what the models cannot take, as in `adakd.data.prepare`; no wrong transcript breaks them
        where the right one did not. The same noise and manifest always give the same result.

    Returns how many utterances have which kind of noise ("missing, misspelt" is a kind). There are
    fewer shuffled ones than asked for where no other transcript fits a clip.
    """
    draw = random.Random(f"label noise {noise.seed}")
    entries = manifest.read(folder / "train.jsonl")
    chosen = sorted(draw.sample(range(len(entries)), round(noise.shuffled * len(entries))))
    swapped = _exchanged([entries[i] for i in chosen], limits, draw)
    letters: dict[str, set[str]] = {}
    for entry in entries if noise.misspelt else ():
        letters.setdefault(entry.language, set()).update(entry.text.replace(" ", ""))
    inventory = {language: sorted(found) for language, found in letters.items()}
    kinds: Counter[str] = Counter()
    shuffled = set(chosen)
    with (
        atomic_write(folder / LISTING) as listing,
        atomic_write(folder / "train.jsonl") as file,
    ):
        listing.write("id\tnoise\tright\twrong\n")
        for number, entry in enumerate(entries):
            text, done = entry.text, "shuffled"
            if number in shuffled:
                text = swapped.get(entry.id, text)
            else:
                text, done = _spoilt(entry, noise, inventory.get(entry.language, []), draw)
            wrong = replace(entry, text=text)
            if text != entry.text and manifest.refusal(wrong, limits) is None:
                kinds[done] += 1
                listing.write(f"{entry.id}\t{done}\t{entry.text}\t{text}\n")
                entry = wrong
            file.write(manifest.to_line(entry))
    return dict(sorted(kinds.items()))


def taken_for_wrong(folder: Path, doubts: Mapping[str, float]) -> str:
    """How many transcripts of each kind of noise, and of the others, are doubted by over a half.

    doubts: of every utterance of train.jsonl in `folder`, by id. Empty without a listing there.
    """
    if not (folder / LISTING).exists():
        return ""
    with open(folder / LISTING, encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        kinds = {row["id"]: row["noise"] for row in rows}
    of_kind: dict[str, list[bool]] = {}
    for utterance, doubt in doubts.items():
        of_kind.setdefault(kinds.get(utterance, "right"), []).append(doubt > 0.5)
    counts = [f"{sum(of_kind[kind])} of {len(of_kind[kind])} {kind}" for kind in sorted(of_kind)]
    return "; ".join(counts)


def _exchanged(
    entries: Sequence[Entry], limits: Sequence[Limit], draw: random.Random
) -> dict[str, str]:
    """Transcripts dealt out anew among `entries`: utterance id -> the text of another one.

    Short clips choose first, since long ones take any text. Where none of the texts left will do,
    one is given twice, and where none at all will do, the utterance has no line.
    """
    pool = list(entries)
    draw.shuffle(pool)
    everyone = list(pool)
    found = {}
    for entry in sorted(entries, key=lambda entry: entry.seconds):
        for place, other in enumerate(chain(pool, everyone)):
            if (
                other.text != entry.text
                and other.language == entry.language
                and manifest.refusal(replace(entry, text=other.text), limits) is None
            ):
                found[entry.id] = other.text
                if place < len(pool):
                    pool[place] = pool[-1]
                    pool.pop()
                break
    return found


def _spoilt(
    entry: Entry, noise: LabelNoise, inventory: Sequence[str], draw: random.Random
) -> tuple[str, str]:
    """The transcript with words missing and misspelt, and which of the two it has become."""
    spaced = spaces_count(entry.language)
    words = entry.text.split() if spaced else list(entry.text)
    kept, done = [], set()
    for word in words:
        if word != " " and draw.random() < noise.missing:
            done.add("missing")
            continue
        if word != " " and draw.random() < noise.misspelt:
            other = _misspelt(word, inventory, draw, one_letter=not spaced)
            if other != word:
                done.add("misspelt")
                word = other
        kept.append(word)
    text = (" " if spaced else "").join(kept).strip()
    # A transcript is never empty, nor punctuation alone: if all its words are drawn, it keeps them.
    said = normalise(text, entry.language)
    return (text, ", ".join(sorted(done))) if said else (entry.text, "")


def _misspelt(word: str, inventory: Sequence[str], draw: random.Random, one_letter: bool) -> str:
    """`word` after one wrong stroke; itself where nothing can be wrong with it."""
    at = draw.randrange(len(word))
    other = draw.choice([letter for letter in inventory if letter != word[at]] or [word[at]])
    wrong = {word[:at] + other + word[at + 1 :]}
    if not one_letter:
        wrong.add(word[: at + 1] + word[at:])
        wrong.add(word[:at] + word[at + 1 :])
        wrong.add(word[:at] + word[at : at + 2][::-1] + word[at + 2 :])
    return draw.choice(sorted(wrong - {word, ""}) or [word])
