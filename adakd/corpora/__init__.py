"""What a corpus is to the rest of the package: a module of this folder that yields utterances.

Each module (espeak, fsdd, ...) offers `Options` (a dataclass), `fetch` (stage 0: download,
generate or locate) and `utterances` (stage 1: go through it; yields `Utterance` and, for rows that
cannot become one, `Rejected`). Text is passed on as the corpus has it, without normalisation; only
kaldi_dir's `drop_tokens` takes words out of it, those that the user names.
"""

import importlib
import pkgutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from adakd.errors import UserError, suggest

SPLITS = ("train", "dev", "test")
# Modules of this folder that are no corpora.
_HELPERS = {"archive", "grammar", "kaldi_tables", "marker", "tables"}

Progress = Callable[[Iterable[Any], float | None, str], Iterable[Any]]  # adakd.progress.track


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
    return importlib.import_module(f"{__name__}.{kind}")
