"""What a grid may not say: mistakes are told before anything has run.

The keys of a grid, and what there is to run for it, are in grid.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from adakd import config as configuration
from adakd.errors import UserError, suggest

if TYPE_CHECKING:
    from adakd.study.grid import Group, Study

FEWEST_EPOCHS = 5  # of a run that has a last fifth
# What the cells of a group share, and hence cannot set: their folders are the same.
SHARED = (
    "recipe", "family", "seed", "fold", "tag", "language", "corpus", "data", "audio", "units",
    "teacher", "transcripts", "train", "student.source", "student.layers", "student.config",
    "distill.top_k", "decode", "score",
)  # fmt: skip
# What names a run, and by what a grid gives it.
NAMING = {
    "recipe": "recipes: {NAME: {recipe: ...}}",
    "family": "families",
    "seed": "seeds",
    "fold": "recipes: {NAME: {folds: ...}}",
    "tag": "the name of a cell, METHOD-TAG",
}


def check(study: Study) -> None:
    """Raise `UserError` for whatever is wrong in a grid, with its line."""
    grid = study.grid
    for key in ("recipes", "families", "cells", "seeds", "tune_seeds"):
        if not getattr(grid, key):
            raise study.wrong(key, f"'{key}' is empty: a study needs at least one.")
    _check_shared_settings(study)
    before: list[str] = []
    for name, cell in study.cells.items():
        if cell.like and cell.like not in before:
            raise study.wrong(
                f"cells.{name}.like", f"'{name}' is like '{cell.like}', no cell above it."
            )
        _check_settings(study, f"cells.{name}.set", cell.set, study.method(name))
        before.append(name)
    named = [("tune", list(grid.tune)), *(("primary", pair) for pair in grid.primary)]
    named += [(f"ablations.{title}", cells) for title, cells in grid.ablations.items()]
    for key, cells in named:
        for name in cells:
            if name not in study.cells:
                hint = suggest(str(name), study.cells)
                raise study.wrong(key, f"there is no cell '{name}'; {hint}")
    for title, recipes in grid.across.items():
        for name in recipes:
            if name not in study.recipes:
                hint = suggest(str(name), study.recipes)
                raise study.wrong(f"across.{title}", f"there is no recipe '{name}'; {hint}")
        if len(recipes) < 2:
            raise study.wrong(
                f"across.{title}", "recipes that are compared are two or more, the first of "
                "them the one that the others stand against."
            )  # fmt: skip
    if any(len(pair) != 2 or len(set(pair)) != 2 for pair in grid.primary):
        raise study.wrong("primary", "a comparison is two cells, such as [adakd, kd].")
    for name, candidates in grid.tune.items():
        if not candidates:
            raise study.wrong(f"tune.{name}", f"'{name}' has no candidates.")
    if len({len(candidates) for candidates in grid.tune.values()}) > 1:
        counts = ", ".join(f"{name} {len(found)}" for name, found in grid.tune.items())
        raise study.wrong(
            "tune", f"all methods get the same tuning effort; the candidates are {counts}."
        )
    for name, candidates in grid.tune.items():
        for candidate in candidates:
            _check_settings(study, f"tune.{name}", candidate, study.method(name))
    if not 0 < grid.difference < 1:
        raise study.wrong(
            "difference", f"it is a share of the CER, such as 0.03, found {grid.difference:g}."
        )
    once: dict[str, list[Any]] = {
        key: getattr(grid, key) for key in ("seeds", "tune_seeds", "epochs", "primary")
    }
    once |= {f"cells.{name}.seeds": cell.seeds for name, cell in study.cells.items()}
    once |= {f"recipes.{name}.families": each.families for name, each in study.recipes.items()}
    for key, values in once.items():
        for value in values:
            if values.count(value) > 1:
                raise study.wrong(key, f"{value} stands twice in {values}: it counts once.")
    if grid.epochs and min(grid.epochs) < FEWEST_EPOCHS:
        raise study.wrong(
            "epochs",
            f"epochs are numbers from {FEWEST_EPOCHS} on, since the last fifth of them is looked "
            "at.",
        )
    if grid.epochs and study.baseline is None:
        raise study.wrong("epochs", "they are chosen by fine-tuning: add a cell 'finetune'.")
    _check_folders(study)
    for group in study.groups:
        for one, other in grid.primary:
            if not {*study.seeds(one, group)} & {*study.seeds(other, group)}:
                raise study.wrong(
                    "primary", f"'{one}' and '{other}' have no seed in common ({group})."
                )
        for name in study.cells:  # unknown keys and values are told before anything has run
            study.place(group, name, grid.seeds[0], study.any_choice)
        _check_stores(study, group)


def _check_stores(study: Study, group: Group) -> None:
    """What stage 4 keeps of the teacher is one for all cells of a tag, and for all tuned ones."""
    asked: dict[str, dict[Any, str]] = {}
    for name in study.cells:
        candidates = study.grid.tune.get(name, [])
        for number in range(max(1, len(candidates))):
            choice = replace(study.any_choice, tuned={**study.any_choice.tuned, name: number})
            distill = study.place(group, name, study.grid.seeds[0], choice).config.distill
            kept = distill.temperature if distill.top_k else None
            passes = distill.dropout_passes if distill.difficulty == "dropout" else None
            tag = "" if candidates else study.tag(name)
            if study.method(name) != "finetune":
                asked.setdefault(tag, {}).setdefault((kept, passes), name)
    for one, other in (list(names.values())[:2] for names in asked.values() if len(names) > 1):
        those = f"candidates of '{one}'" if one == other else f"'{one}' and '{other}'"
        raise study.wrong(
            f"cells.{other}", f"{those} differ in distill.temperature or distill.dropout_passes, "
            "and would share what is kept of the teacher: make each of them a cell with an ending "
            "of its own, such as kd-warm, untuned."
        )  # fmt: skip


def _check_shared_settings(study: Study) -> None:
    """What names a run is taken from the grid's own keys, whatever `set` says."""
    settings = {"set": study.grid.set}
    settings |= {f"families.{name}": own for name, own in study.families.items()}
    settings |= {f"recipes.{name}.set": source.set for name, source in study.recipes.items()}
    for key, own in settings.items():
        for name in filter(NAMING.get, own):
            problem = f"'{name}' is no setting here; a grid gives it by {NAMING[name]}."
            raise study.wrong(f"{key}.{name}", problem)


def _check_folders(study: Study) -> None:
    """Two runs with one name or folder would make each other anew with every start."""
    for name in study.recipes:
        try:
            configuration.check_recipe(name)
        except UserError as error:
            raise study.wrong(f"recipes.{name}", str(error)) from None
    runs = [
        (f"the cell '{name}'", name, study.method(name), study.tag(name)) for name in study.cells
    ]
    for name, candidates in study.grid.tune.items():
        for n in range(len(candidates)):
            what = f"candidate {n + 1} of '{name}'"
            runs.append((what, f"{name}-try{n + 1}", study.method(name), study.tag(name, n)))
    for n in study.grid.epochs:
        what = f"the trial of {n} epochs"
        runs.append((what, f"finetune-epochs{n}", "finetune", f"epochs{n}"))
    taken: dict[Any, str] = {}
    for what, name, *folder in runs:
        if cell := taken.get(name) or taken.get(tuple(folder)):
            raise study.wrong(
                f"cells.{cell}", f"'{cell}' has the name or the folder of {what}: rename it."
            )
        taken[name] = taken[tuple(folder)] = name


def _check_settings(study: Study, key: str, settings: Mapping[str, Any], method: str) -> None:
    for name in settings:
        if name.startswith("methods.") and name.split(".")[1] != method:
            raise study.wrong(
                key, f"'{name}' does nothing here, where the method is {method}: set it for "
                "the study or a recipe, or for a cell of that method."
            )  # fmt: skip
        for shared in SHARED:
            if f"{name}.".startswith(f"{shared}."):
                better = f"; here it is student.{name}" if shared == "train" else ""
                raise study.wrong(
                    key, f"'{name}' cannot differ between cells, which share data, teacher and "
                    f"the student's start: set it for the study or a recipe{better}."
                )  # fmt: skip
