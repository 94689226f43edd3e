"""What a corpus is to the rest of the package: a module of this folder that yields utterances.

Each module (espeak, fsdd, ...) has, and docs/extending.md shows in the smallest one there can be:

    Options          a frozen dataclass: what may stand below `corpus:`, with defaults
    fetch(options, folder, language)
                     stage 0: download, generate or locate. What it needs later it writes below
                     folder, last of all the marker fetched.json (`marker.keep`), with the options
                     and what tells other files from these: later steps see a change by it alone
    utterances(options, folder, fold)
                     stage 1 and later, several times: yields every `Utterance`, in the same order
                     each time, and a `Rejected` for what cannot become one. First it asks
                     `marker.recall`, which refuses options that are not those of stage 0
    FOLDS            how many there are, where the corpus has folds

Text is passed on as the corpus has it, without normalisation; only kaldi_dir's `drop_tokens` takes
words out of it, those that the user names.
"""

import importlib
import pkgutil
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from adakd.errors import UserError, suggest

SPLITS = ("train", "dev", "test")
# Modules of this folder that are no corpora.
_HELPERS = {"archive", "grammar", "kaldi_tables", "marker", "tables"}


@dataclass(frozen=True)
class Utterance:
    """One utterance as its corpus has it."""

    id: str  # unique within the recipe; the key of everything that follows
    split: str  # one of SPLITS
    audio: Path
    text: str  # the transcript, not normalised
    speaker: str
    language: str
    start: float | None = None  # seconds inside `audio`; None: from its beginning
    end: float | None = None  # seconds inside `audio`; None: to its end
    condition: str = ""  # recording condition that is also scored by itself

    def __post_init__(self) -> None:
        for name in ("id", "split", "text", "speaker", "language", "condition"):
            if not isinstance(value := getattr(self, name), str):
                raise UserError(
                    f"Utterance {self.id!r} of the corpus has the {name} {value!r}, which is not "
                    'text: yield a string, or `Rejected` ("" stands for what is not known).'
                )


@dataclass(frozen=True)
class Rejected:
    """A row of a corpus that cannot become an utterance, and why."""

    id: str
    split: str
    reason: str
    where: str


def kinds() -> list[str]:
    """Names of the corpora there are, sorted."""
    return sorted(m.name for m in pkgutil.iter_modules(__path__) if m.name not in _HELPERS)


def module(kind: str) -> ModuleType:
    """The module of a corpus kind, e.g. "espeak". An unknown kind is a UserError."""
    if kind not in kinds():
        hint = suggest(kind, kinds())
        raise UserError(f"corpus.kind: there is no corpus kind '{kind}'; {hint}")
    found = importlib.import_module(f"{__name__}.{kind}")
    for name in ("Options", "fetch", "utterances"):
        if not hasattr(found, name):
            raise UserError(
                f"adakd/corpora/{kind}.py has no `{name}`: adakd/corpora/__init__.py says what a "
                "corpus has."
            )
    return found
