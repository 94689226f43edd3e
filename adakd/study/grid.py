"""A study as a YAML grid, and what has to run for it: recipes x families x folds x cells x seeds.

A *cell* is a method and settings; with a seed it is nothing but an experiment of `adakd.stages`
that has a tag, in the folder where `adakd --tag` would put it. This module says which experiments
there are, in which order they may run, and what dev has chosen. Running them is in benchmark.py,
judging them in findings.py.

    recipes:                    # name: where it lies below corpus/, data/ and exp/
      espeak/hi-1h: {recipe: espeak/hi, set: {corpus.hours: 1.0}}
      fsdd/en: {folds: all}
    families: {wav2vec2: {}, whisper: {train.batch_seconds: 48}}
    seeds: [1, 2, 3]
    set: {teacher.seed: 1}      # for everything: one teacher for all seeds
    epochs: [6, 8, 12]          # the fewest with which fine-tuning's dev CER has settled
    cells:
      finetune: {}              # a name is METHOD or METHOD-TAG, as the experiment's folder
      kd-tuned: {}
      adakd: {}
      adakd-permuted: {like: adakd, set: {methods.adakd.control: permuted}}
    tune: {kd-tuned: [{methods.kd.alpha: 0.3}, {methods.kd.alpha: 0.7}]}
    primary: [[adakd, kd-tuned], [adakd, finetune]]
    across: {}                  # title: [recipe, others that test the same speech]

Choices are made within one recipe, family and fold, on its own dev: other folds test the speakers
of that dev set. With `folds: {0: [2], 1: [3], ...}` each fold has seeds of its own: where folds
test different people, a run more with another person tells more than one with the same.

A group of keys is merged with the recipe's: `set: {train: {clip: 3}}` is `set: {train.clip: 3}`.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from adakd import config as configuration
from adakd import finished
from adakd.config import REPOSITORY, from_dict, read_yaml
from adakd.errors import UserError, suggest
from adakd.files import fingerprint, read_json
from adakd.inputs import (
    changed_settings,
    learnt_from,
    same_code,
    training_settings,
)
from adakd.methods import METHODS, method_of
from adakd.place import INT8, Place
from adakd.report import read_metrics
from adakd.stages.preparation import folds
from adakd.study import grid_check
from adakd.study.grid_check import NAMING
from adakd.study.published import Line, name_of_group, read_lines

SETTLED = 0.01  # relative gain of the dev CER over the last fifth of training that ends the search
# How fast a machine works: see `Task.fingerprint`.
SPEED = {
    name: getattr(configuration.Train, name)
    for name in (key.removeprefix("train.") for key in finished.UNHEEDED)
}


@dataclass
class Source:
    """Where a recipe of a study comes from."""

    recipe: str = ""  # the folder below recipes/; empty: the name in the grid
    folds: Any = None  # all, a list, or {fold: its seeds}; empty: the recipe's own
    families: list[str] = field(default_factory=list)  # empty: the study's
    set: dict[str, Any] = field(default_factory=dict)  # configuration values


@dataclass
class Cell:
    """A method and what it changes in the configuration."""

    method: str = ""  # empty: what the name begins with
    like: str = ""  # an earlier cell whose settings, tuned ones too, it has before its own
    set: dict[str, Any] = field(default_factory=dict)
    seeds: list[int] = field(default_factory=list)  # empty: the fold's, or the study's


@dataclass
class Grid:
    """The keys of a grid file."""

    title: str = ""
    recipes: dict[str, Any] = field(default_factory=dict)  # name -> Source
    families: dict[str, dict[str, Any] | None] = field(default_factory=dict)  # name -> values
    seeds: list[int] = field(default_factory=lambda: [1])
    set: dict[str, Any] = field(default_factory=dict)  # configuration values of everything
    epochs: list[int] = field(default_factory=list)  # to choose from; empty: the recipe's own
    cells: dict[str, Any] = field(default_factory=dict)  # name -> Cell
    # cell -> candidates, as `set`
    tune: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    tune_seeds: list[int] = field(default_factory=lambda: [1])  # of the runs that choose
    primary: list[list[str]] = field(default_factory=list)  # [cell, against], named beforehand
    ablations: dict[str, list[str]] = field(default_factory=dict)  # title -> cells, in order
    across: dict[str, list[str]] = field(default_factory=dict)  # title -> recipes with one test set
    limits: list[str] = field(default_factory=list)  # sentences of the report: what it cannot say
    difference: float = 0.03  # relative change of CER that the study wants to be able to tell


@dataclass(frozen=True)
class Group:
    """What shares data, a teacher and choices: a recipe's family and fold."""

    recipe: str
    family: str
    fold: int | None

    def __str__(self) -> str:
        return name_of_group(dataclasses.asdict(self))


@dataclass(frozen=True, eq=False)
class Task:
    """A piece of work that one process does from start to end."""

    name: str  # unique in a study
    kind: str  # data | teacher | difficulty | trial | reference | cell
    places: tuple[Place, ...]
    method: str = ""
    twin: Path | None = None  # the folder of a finished run with the same training
    study: str = ""  # whose it is: see `finished.made_for`

    @cached_property
    def fingerprint(self) -> str:
        """Changes with the settings; a record with another one is of another task.

        Not with where a machine keeps things, since of contents the experiments' own markers know,
        nor with how fast it works.
        """
        configs = [dataclasses.asdict(place.config) for place in self.places]
        for config in configs:
            for name in ("corpus", "url", "relative_to", "evaluation"):
                config["corpus"].pop(name, None)
            config["data"]["jobs"] = configuration.Data.jobs
            if config["language"]["leading_space"]:  # records from before it came have no such key
                del config["language"]["leading_space"]
            config["train"] |= SPEED
            for role in ("teacher", "student"):
                config[role]["source"] = _nameless(config[role]["source"])
                for name in SPEED:
                    config[role]["train"].pop(name, None)
        return fingerprint([self.method, configs])

    @cached_property
    def training(self) -> str:
        """What the task trains; nothing for those that train no student."""
        if self.kind not in ("trial", "cell"):
            return ""
        settings = training_settings(self.places[0], self.method)
        return json.dumps([self.group, self.method, settings], sort_keys=True)

    @property
    def folder(self) -> Path:
        return self.places[0].experiment(self.method)

    @property
    def group(self) -> str:
        return self.places[0].title


@dataclass(frozen=True)
class Choice:
    """What dev has chosen in a group."""

    epochs: int | None = None  # None: as in the recipe
    gains: tuple[tuple[int, float], ...] = ()  # epochs -> relative gain over the last fifth
    tuned: Mapping[str, int] = field(default_factory=dict)  # cell -> number of the candidate
    dev: Mapping[str, list[float]] = field(default_factory=dict)  # cell -> CER of each candidate


Records = Mapping[str, dict[str, Any]]  # task's name -> {"status", "fingerprint", "reason", ...}


class Study:
    """A grid, validated, and its tasks. Raises `UserError` for whatever is wrong in the file."""

    def __init__(
        self,
        path: Path,
        root: Path,
        own: Sequence[tuple[str, str, str]] = (),
        scores: Path | None = None,
    ) -> None:
        """own: (recipe, key, value) that this machine sets beyond the file, such as a path.

        scores: what was published of the study, if that is there: it counts where an experiment
            is not here.
        """
        if not path.is_file():
            raise UserError(f"There is no grid {path}: name one, such as study/tier-a.yaml.")
        self.path, self.root = path, root
        self.lines = read_lines(scores) if scores and scores.is_file() else {}
        where = str(path)
        content = read_yaml(path)
        self.grid = from_dict(Grid, content, where, path)
        self.recipes = {
            name: from_dict(Source, value or {}, where, path, f"recipes.{name}.")
            for name, value in self.grid.recipes.items()
        }
        self.cells = {
            name: from_dict(Cell, value or {}, where, path, f"cells.{name}.")
            for name, value in self.grid.cells.items()
        }
        self.grid.set = configuration.ungrouped(self.grid.set)
        every: list[Source | Cell] = [*self.recipes.values(), *self.cells.values()]
        for each in every:
            each.set = configuration.ungrouped(each.set)
        self.grid.tune = {
            name: [configuration.ungrouped(candidate) for candidate in candidates]
            for name, candidates in self.grid.tune.items()
        }
        for recipe, key, value in own:
            if recipe not in self.recipes:
                hint = suggest(recipe, self.recipes)
                raise UserError(f"--set {recipe}: {path} has no such recipe; {hint}")
            if key in NAMING:
                raise UserError(f"--set {recipe} {key}: {path} gives it by {NAMING[key]}.")
            self.recipes[recipe].set[key] = value
        self.families = {
            name: configuration.ungrouped(value or {}) for name, value in self.grid.families.items()
        }
        self._tasks: dict[str, Task] = {}
        self._trials: dict[Task, Line] = {}
        self._here: Records = {}  # as they were last read
        self._configs: dict[str, configuration.Config] = {}
        self._places: dict[Any, Place] = {}
        grid_check.check(self)

    @property
    def folder(self) -> Path:
        """Records, logs and the report; the experiments themselves lie where they always do."""
        return self.root / "exp" / "benchmark" / self.path.stem

    @property
    def records(self) -> Path:
        """What became of every task."""
        return self.folder / "records.json"

    def read_records(self) -> dict[str, dict[str, Any]]:
        """The records of earlier starts; none yet is an empty mapping."""
        found = self.records
        self._here = read_json(found) if found.is_file() else {}
        return self._here

    # ------------------------------------------------------------------ what is known of a task

    def status(self, task: Task, records: Records) -> str:
        """ "done", "failed", or nothing for a task that has not run with these settings.

        A trial whose folder holds it no longer has not run either: what it chose is not known.
        """
        if line := self.published(task):
            return "failed" if line.get("reason") else "done"
        record = records.get(task.name, {})
        same = record.get("fingerprint") == task.fingerprint
        state = str(record.get("status", "")) if same else ""
        gone = task.kind == "trial" and state == "done" and not self.trial(task)
        return "" if gone else state

    def published(self, task: Task, ending: str = "") -> Line | None:
        """The line that stands for a task; ending: INT8 for a cell's int8 weights.

        It must be of the same settings, and of the data that are prepared here, if any are. None
        where the task was done on this machine, too, and its folder holds it: that is looked at.
        """
        line = self.lines.get(task.name + ending)
        if line is None or line.get("settings") != task.fingerprint:  # a teacher's has none
            return None
        (place, *_) = task.places
        if data := finished.done(place.data):  # a trial has not looked at the test set
            here = learnt_from(data)["data"] if task.kind == "trial" else data["manifests"]
            if line["of_data"] not in (None, here):
                return None
        if task.kind == "cell" and place.config.decode.int8:
            if task.name + INT8 not in self.lines:
                return None
        record = self._here.get(task.name, {})
        done = record.get("status") == "done" and record["fingerprint"] == task.fingerprint
        return None if done and _trained(task) else line

    # ------------------------------------------------------------------ names and places

    def wrong(self, key: str, problem: str) -> UserError:
        """What is wrong in the file, and on which line."""
        line = configuration.line_of(self.path, key)
        return UserError(f"{self.path}{f', line {line}' if line else ''}: {problem}")

    def method(self, cell: str) -> str:
        """The method of a cell: as given, of the cell it is like, or what its name begins with."""
        given = self.cells[cell].method
        if not given and self.cells[cell].like:
            return self.method(self.cells[cell].like)
        found = given or method_of(cell)
        if found not in METHODS:
            raise self.wrong(
                f"cells.{cell}", f"'{cell}' has no method that is known; name it METHOD-TAG, or "
                f"give method: {', '.join(METHODS)}."
            )  # fmt: skip
        return found

    def recipe_folder(self, name: str) -> Path:
        """The folder below recipes/ of a recipe in the grid."""
        return REPOSITORY / "recipes" / (self.recipes[name].recipe or name)

    @cached_property
    def baseline(self) -> str | None:
        """The first cell that fine-tunes: with its own settings the epochs are chosen."""
        return next((name for name in self.cells if self.method(name) == "finetune"), None)

    def tag(self, cell: str, tried: int | None = None) -> str:
        """What the folder of a cell, or of its candidate `tried`, has behind the method."""
        own = cell.removeprefix(self.method(cell)).removeprefix("-")
        return "-".join(filter(None, (own, "" if tried is None else f"try{tried + 1}")))

    def ancestry(self, cell: str) -> list[str]:
        """The cell, and before it those whose settings it takes over."""
        like = self.cells[cell].like
        return [*(self.ancestry(like) if like else ()), cell]

    def seeds(self, cell: str, group: Group) -> list[int]:
        """The cell's own, else those of the fold, else the study's."""
        folds = self.recipes[group.recipe].folds
        of_fold = folds[group.fold] if isinstance(folds, dict) else []
        return self.cells[cell].seeds or of_fold or self.grid.seeds

    @cached_property
    def any_choice(self) -> Choice:
        """For what does not depend on dev's choice: the first of all candidates."""
        return Choice(tuned=dict.fromkeys(self.grid.tune, 0))

    @cached_property
    def groups(self) -> list[Group]:
        """All recipes x families x folds."""
        found = []
        for recipe, source in self.recipes.items():
            for family in source.families or self.families:
                if family not in self.families:
                    hint = suggest(family, self.families)
                    raise self.wrong(f"recipes.{recipe}.families", f"no '{family}' here; {hint}")
                asked = source.folds
                seeds = isinstance(asked, dict) and _seeds_by_fold(asked)
                if not (seeds or _each_once(asked) or asked in (None, "all")):
                    raise self.wrong(
                        f"recipes.{recipe}.folds",
                        "give all, a list of folds, each once, or folds each with a list of seeds, "
                        "such as {0: [1, 2]}.",
                    )
                chosen = list(asked) if isinstance(asked, dict) else asked
                config = self._config(recipe, family, {})
                try:
                    found += [Group(recipe, family, fold) for fold in folds(chosen, config)]
                except UserError as error:
                    raise self.wrong(f"recipes.{recipe}.folds", str(error)) from None
        return found

    def _config(self, recipe: str, family: str, settings: dict[str, Any]) -> configuration.Config:
        key = json.dumps([recipe, family, settings], default=str)
        if key in self._configs:
            return self._configs[key]
        source, folder = self.recipes[recipe], self.recipe_folder(recipe)
        if not (folder / "conf").is_dir():
            raise self.wrong(
                f"recipes.{recipe}", f"there is no recipe '{source.recipe or recipe}'."
            )
        shared = {**self.grid.set, **self.families[family], **source.set, "recipe": recipe}
        try:
            config = configuration.load(folder, family, {**shared, **settings})
        except UserError as error:
            raise UserError(f"{self.path}: {recipe}, {family}: {error}") from None
        self._configs[key] = config
        return config

    def place(
        self, group: Group, cell: str, seed: int, choice: Choice, tried: int | None = None
    ) -> Place:
        """Where a cell's experiment lies, with its settings; `tried`: that candidate instead."""
        settings: dict[str, Any] = {}
        if choice.epochs is not None:
            settings["student.train.epochs"] = choice.epochs
        for name in self.ancestry(cell):
            settings |= self.cells[name].set
            if name in self.grid.tune:
                number = tried if name == cell and tried is not None else choice.tuned[name]
                settings |= self.grid.tune[name][number]
        return self._place(group, settings, seed, self.tag(cell, tried))

    def _place(self, group: Group, settings: dict[str, Any], seed: int, tag: str) -> Place:
        key = (group, json.dumps(settings, default=str), seed, tag)
        if key not in self._places:  # asked for again after every task
            config = self._config(group.recipe, group.family, settings)
            self._places[key] = Place(
                self.root, dataclasses.replace(config, fold=group.fold, seed=seed, tag=tag)
            )
        return self._places[key]

    # ------------------------------------------------------------------ tasks

    def tasks(self, records: Records) -> Iterator[Task]:
        """All tasks whose turn has come, the finished ones among them.

        For every group in turn: data; teachers; difficulties from other sources than its losses;
        trials with more and more epochs; trials of the candidates; what the table refers to
        (teacher and untrained student); cells, seed by seed. Only the last two look at test. What
        trains on a difficulty waits for it, and is tried even where it failed, to say so. A group
        of which everything was published, and nothing is here, has no tasks.
        """
        for recipe in self.recipes:
            groups = [
                group
                for group in self.groups
                if group.recipe == recipe and not self._published_whole(group, records)
            ]
            if not groups:
                continue
            data = self._task(f"{recipe} data", "data", [self.start(group) for group in groups])
            yield data
            if self.status(data, records) != "done":
                continue
            for group in groups:
                yield from self._tasks_of(group, records)

    def _tasks_of(self, group: Group, records: Records) -> Iterator[Task]:
        teachers = self.teachers(group)
        yield from teachers.values()

        def taught(task: Task) -> bool:
            own = {teachers[place.seed_of("teacher")] for place in task.places}
            return all(self.status(teacher, records) == "done" for teacher in own)

        by_source = self._difficulties(group)
        yield from filter(taught, by_source.values())

        def ready(task: Task) -> bool:
            source = by_source.get(_source_of_difficulty(task.places[0]))
            return taught(task) and (source is None or bool(self.status(source, records)))

        trials, choice = self.choose(group, records)
        yield from filter(ready, trials)
        if choice is None:
            return
        seeds = dict.fromkeys(seed for _, seed in self.runs(group))
        first = next(iter(self.cells))
        reference = self._task(
            f"{group} reference",
            "reference",
            [self.place(group, first, seed, choice) for seed in seeds],
        )
        yield from filter(taught, [reference])
        if self.status(reference, records) != "done":
            return
        yield from filter(ready, self.cell_tasks(group, choice))

    def _published_whole(self, group: Group, records: Records) -> bool:
        choice = self.choose(group, records)[1] if str(group) in self.lines else None
        return choice is not None and all(map(self.published, self.cell_tasks(group, choice)))

    def teachers(self, group: Group) -> dict[int, Task]:
        """What trains the teachers of a group, by the seed of each: one, or one for every seed."""
        places: dict[int, list[Place]] = {}
        for name in self.cells:
            for seed in self._all_seeds(name, group):
                place = self.place(group, name, seed, self.any_choice)
                places.setdefault(place.seed_of("teacher"), []).append(place)
        endings = {seed: f" seed {seed}" if len(places) > 1 else "" for seed in places}
        return {
            seed: self._task(f"{group} teacher{endings[seed]}", "teacher", own)
            for seed, own in places.items()
        }

    def _difficulties(self, group: Group) -> dict[str, Task]:
        """What finds out the difficulties that cells of this group ask for, by their source."""
        places: dict[str, list[Place]] = {}
        for name in self.cells:
            tried = range(len(self.grid.tune.get(name, [0])))
            for number, seed in itertools.product(tried, self._all_seeds(name, group)):
                choice = Choice(tuned={**self.any_choice.tuned, name: number})
                place = self.place(group, name, seed, choice)
                if source := _source_of_difficulty(place):
                    places.setdefault(source, []).append(place)
        found = {}
        for source, own in places.items():
            # With a guard first: what it finds out serves those without.
            own.sort(key=lambda place: not place.config.guarded)
            found[source] = self._task(f"{group} difficulty {source}", "difficulty", own)
        return found

    def _all_seeds(self, cell: str, group: Group) -> list[int]:
        """Those that are tested and those that choose."""
        return list(dict.fromkeys([*self.seeds(cell, group), *self.grid.tune_seeds]))

    def cell_task(self, group: Group, cell: str, seed: int, choice: Choice) -> Task:
        place = self.place(group, cell, seed, choice)
        return self._task(_name_of_run(group, cell, seed), "cell", [place], self.method(cell))

    def runs(self, group: Group) -> list[tuple[str, int]]:
        """What is tested of a group, a cell and one of its seeds each: seed by seed."""
        every = [(cell, seed) for cell in self.cells for seed in self.seeds(cell, group)]
        order = list(dict.fromkeys(seed for _, seed in every))
        return sorted(every, key=lambda run: order.index(run[1]))

    def cell_tasks(self, group: Group, choice: Choice) -> Iterator[Task]:
        """Those of `runs`."""
        return (self.cell_task(group, *run, choice) for run in self.runs(group))

    def choose(self, group: Group, records: Records) -> tuple[list[Task], Choice | None]:
        """The trials of a group so far, and what they choose: None while some are to run."""
        trials, choice = self._choose_epochs(group, records)
        if choice is None:
            return trials, None
        tuned: dict[str, int] = {}
        dev: dict[str, list[float]] = {}
        for cell in filter(self.grid.tune.get, self.cells):  # after those that they are like
            candidates = self.grid.tune[cell]
            before = set(self.ancestry(cell)[:-1]) & set(self.grid.tune)
            if before - set(tuned):
                continue  # its turn comes when what it is like has been tuned
            so_far = Choice(choice.epochs, tuned=dict(tuned))
            own = [
                [
                    self._task(
                        f"{group} {cell}-try{number + 1} seed {seed}",
                        "trial",
                        [self.place(group, cell, seed, so_far, number)],
                        self.method(cell),
                    )
                    for seed in self.grid.tune_seeds
                ]
                for number in range(len(candidates))
            ]
            trials += [task for tasks in own for task in tasks]
            if all(self.status(task, records) for tasks in own for task in tasks):
                dev[cell] = [self._mean_dev(tasks, records) for tasks in own]
                tuned[cell] = dev[cell].index(min(dev[cell]))
        if len(tuned) < len(self.grid.tune):
            return trials, None
        return trials, Choice(choice.epochs, choice.gains, tuned, dev)

    def _choose_epochs(self, group: Group, records: Records) -> tuple[list[Task], Choice | None]:
        """The fewest epochs in whose last fifth fine-tuning's dev CER falls by under SETTLED."""
        trials: list[Task] = []
        gains: list[tuple[int, float]] = []
        for epochs in sorted(self.grid.epochs):
            assert self.baseline is not None
            settings = {**self.cells[self.baseline].set, "student.train.epochs": epochs}
            own = [
                self._task(
                    f"{group} finetune-epochs{epochs} seed {seed}",
                    "trial",
                    [self._place(group, settings, seed, f"epochs{epochs}")],
                    "finetune",
                )
                for seed in self.grid.tune_seeds
            ]
            trials += own
            states = [self.status(task, records) for task in own]
            if not all(states):
                return trials, None
            curves = [
                self.trial(task)["dev_curve"]
                for task, state in zip(own, states, strict=True)
                if state == "done"
            ]
            gains.append((epochs, last_gain(curves)))
            if gains[-1][1] < SETTLED:
                break
        return trials, Choice(gains[-1][0] if gains else None, tuple(gains))

    def trial(self, task: Task) -> Mapping[str, Any]:
        """`dev_cer`, `dev_curve`, `train_seconds` and `inputs` of a trial that is done.

        Nothing where its folder holds it no longer.
        """
        if line := self.published(task):
            return {**line, "inputs": {"data": line["of_data"]}}
        if task not in self._trials:  # asked for after every task
            if (facts := _trained(task)) is None:
                return {}
            dev_cer, _ = read_metrics(task.folder)
            epochs = [epoch for epoch, _ in dev_cer]
            if not epochs or epochs != [*range(1, facts.get("epochs", len(epochs)) + 1)]:
                raise UserError(
                    f"{task.folder}/metrics.jsonl lacks the dev CER of some epochs, and the number "
                    f"of epochs is chosen by these: remove {task.folder}, and it is trained again."
                )
            self._trials[task] = {**facts, "dev_curve": dev_curve(dev_cer)}
        return self._trials[task]

    def _mean_dev(self, tasks: list[Task], records: Records) -> float:
        """Mean dev CER of a candidate over its seeds; infinite where one failed."""
        if any(self.status(task, records) != "done" for task in tasks):
            return math.inf
        return sum(self.trial(task)["dev_cer"] for task in tasks) / len(tasks)

    def start(self, group: Group) -> Place:
        """Where the data of a group lie."""
        return self._place(group, {}, self.grid.seeds[0], "")

    def _task(self, name: str, kind: str, places: list[Place], method: str = "") -> Task:
        """The same object for the same settings: fingerprints are made once."""
        found = self._tasks.get(name)
        if found is None or found.places != tuple(places):
            found = self._tasks[name] = Task(name, kind, tuple(places), method)
        return found

    def names(self, wanted: Callable[[str], bool]) -> set[str]:
        """The tasks of these cells and what they need; the group's name stands for its trials."""
        found: set[str] = set()
        for group in self.groups:
            if cells := {*filter(wanted, (_name_of_run(group, *run) for run in self.runs(group)))}:
                shared = [*self.teachers(group).values(), *self._difficulties(group).values()]
                needs = {f"{group.recipe} data", f"{group} reference", str(group)}
                found |= {*cells, *needs, *(task.name for task in shared)}
        return found

    def sizes(self, records: Records) -> dict[str, int]:
        """How many tasks of each kind there are, at most (epochs may be chosen early).

        Without those that were published and have no record.
        """
        trials = sum(map(len, self.grid.tune.values())) + len(self.grid.epochs)
        groups = [group for group in self.groups if not self._published_whole(group, records)]
        cells = {_name_of_run(group, *run) for group in groups for run in self.runs(group)}
        elsewhere = self.lines.keys() - records.keys()
        of_groups = tuple(f"{group} " for group in groups)
        chosen = [
            name
            for name in elsewhere
            if self.lines[name]["kind"] == "trial" and name.startswith(of_groups)
        ]
        return {
            "data": len({group.recipe for group in groups}),
            "teacher": sum(len(self.teachers(group)) for group in groups),
            "difficulty": sum(len(self._difficulties(group)) for group in groups),
            "trial": len(groups) * trials * len(self.grid.tune_seeds) - len(chosen),
            "reference": len(groups),
            "cell": len(cells - elsewhere),
        }


def _name_of_run(group: Group, cell: str, seed: int) -> str:
    return f"{group} {cell} seed {seed}"


def _trained(task: Task) -> dict[str, Any] | None:
    """What the training of a task left, unless its folder is gone or of other settings by now."""
    (place, *_), facts = task.places, finished.done(task.folder)
    if facts is None or changed_settings(place, task.method, facts):
        return None
    return facts if same_code(place.config, facts) else None


def _source_of_difficulty(place: Place) -> str:
    """Where x comes from, if stage 4 has to find out more than the teacher's plain losses."""
    source = place.config.distill.difficulty
    return source if source != "insample" or place.config.guarded else ""


def _nameless(source: str | None) -> str | None:
    """The same for a folder of this repository, from wherever it is named."""
    folder = Path(source or "")
    if source and folder.is_dir() and folder.resolve().is_relative_to(REPOSITORY):
        return str(folder.resolve().relative_to(REPOSITORY))
    return source


def _seeds_by_fold(folds: dict[Any, Any]) -> bool:
    """Whether this is {fold: its seeds, each once}."""
    return bool(folds) and all(
        type(fold) is int and _each_once(seeds) and len(seeds) > 0 for fold, seeds in folds.items()
    )


def _each_once(numbers: Any) -> bool:
    """Whether these are whole numbers in a list, none of them twice."""
    return (
        isinstance(numbers, list)
        and all(type(number) is int for number in numbers)
        and len(numbers) == len(set(numbers))
    )


def dev_curve(dev_cer: Sequence[tuple[float, float]]) -> list[float]:
    """The lowest dev CER up to each epoch of a training, from its (epoch, dev CER)."""
    return list(itertools.accumulate((cer for _, cer in dev_cer), min))


def last_gain(curves: Sequence[Sequence[float]]) -> float:
    """By how much the dev CER, averaged over runs, falls in the last fifth of training; relative.

    curves: `dev_curve` of each run. Infinite without any: nothing has settled.
    """
    if not curves:
        return math.inf
    before = sum(curve[max(1, math.floor(0.8 * len(curve))) - 1] for curve in curves)
    return 1 - sum(curve[-1] for curve in curves) / before if before else 0.0
