"""Where everything of a recipe lies, for one family, seed and fold."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from adakd import config as configuration
from adakd.data import manifest
from adakd.errors import UserError
from adakd.methods import named_by

INT8 = "-int8"  # ends the name of a student's experiment with int8 weights


@dataclass(frozen=True)
class Place:
    """One family, seed and fold of a recipe: its settings, and where everything of it lies."""

    root: Path  # corpus/, data/, exp/ and export/ stand here
    config: configuration.Config

    def __post_init__(self) -> None:
        tag = self.config.tag
        # Every experiment has a folder and a row of its own: kd-int8 is not kd tagged int8.
        if tag and (INT8 in f"-{tag}" or not re.fullmatch(r"(?!\.)[\w.-]+", tag)):
            raise UserError(
                f"--tag {tag}: a tag is made of letters, digits, '_', '-' and '.', does not begin "
                "with '.', and no part of it between '-' begins with 'int8', which names other "
                "experiments."
            )
        if tag and (other := named_by(tag)):
            raise UserError(
                f"--tag {tag}: with it a method would have the folder of another one, {other}: "
                "give another tag."
            )

    @property
    def _name(self) -> Path:
        fold = self.config.fold
        return Path(self.config.recipe) / ("" if fold is None else f"fold{fold}")

    @property
    def corpus(self) -> Path:
        return self.root / "corpus" / self.config.recipe

    @property
    def audio(self) -> Path:
        return self.root / "data" / self.config.recipe / "audio"

    @property
    def data(self) -> Path:
        return self.root / "data" / self._name / self.config.family

    @property
    def units(self) -> Path:
        return self.data / "units"

    @property
    def export(self) -> Path:
        tag = f"-{self.config.tag}" if self.config.tag else ""
        return self.root / "export" / self._name / f"{self.config.family}{tag}"

    @property
    def results(self) -> Path:
        return self.root / "exp" / self.config.recipe

    @property
    def report(self) -> Path:
        """Table and plots of all folds, families and seeds; a tag has its own."""
        return self.results / (f"report-{self.config.tag}" if self.config.tag else "report")

    def experiment(self, method: str) -> Path:
        """The folder of a method, of the teacher, or of the untrained student."""
        tagged = method not in ("teacher", "untrained") and self.config.tag
        name = f"{method}-{self.config.tag}" if tagged else method
        seed = f"seed{self.seed_of(method)}"
        return self.root / "exp" / self._name / self.config.family / name / seed

    def seed_of(self, method: str) -> int:
        """The seed of training; students of several seeds may have one teacher."""
        of_teacher = self.config.teacher.seed
        return self.config.seed if method != "teacher" or of_teacher is None else of_teacher

    @property
    def transcripts(self) -> Path:
        """What the teacher hears in the training set, where students learn to write that."""
        return self.experiment("teacher") / "transcripts"

    @property
    def store(self) -> Path:
        own = self.config.learns_hypotheses
        return self.experiment("teacher") / ("store-transcripts" if own else "store")

    @property
    def difficulty(self) -> Path:
        """Where x lies, where it is not the store's own."""
        return self.experiment("teacher") / "difficulty" / self.config.distill.difficulty

    def half(self, number: int) -> Path:
        """The folder of the teacher that is fine-tuned on one half, for difficulty: crossfit."""
        return self.experiment("teacher") / f"half{number + 1}"

    @property
    def title(self) -> str:
        fold = "" if self.config.fold is None else f" fold {self.config.fold}"
        return f"{self.config.recipe}{fold} {self.config.family}"

    def transcribed(self) -> manifest.Manifest:
        """The training utterances that have a transcript; `UserError` if none has."""
        found = self.manifest("train")
        if not len(found):
            raise UserError(
                f"{self.title}: no training utterance has a transcript; a teacher that is "
                "fine-tuned already can write them: --teacher.source FOLDER --teacher.finetuned "
                "true --units.kind source --transcripts.source teacher, from stage 1 on."
            )
        return found

    def manifest(self, split: str) -> manifest.Manifest:
        """The prepared utterances of a split."""
        return manifest.read(self.data / f"{split}.jsonl")
