"""What the runs of a study show: reads them, compares them, and says what may be claimed.

Something is claimed only of the comparisons that the grid names as primary, only once all their
runs are there (those that are done first, or do not fail, need not be like the others), and only
with five seeds or more, or with five people who each have a fold. Statistics are in
significance.py, reading a run is in report.py, and how all this is told in tables.py and
words.py.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections import Counter
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, stdev
from typing import TYPE_CHECKING, Any

from adakd import config as configuration
from adakd import finished, inputs, report, significance
from adakd.config import TEACHER
from adakd.errors import UserError
from adakd.files import another, read_json
from adakd.methods import METHODS
from adakd.place import INT8, Place
from adakd.report import NOT_RUN, Experiment, Run, label_of
from adakd.score import count_array, unit_of
from adakd.significance import Change, Interval
from adakd.study import published
from adakd.study.grid import Choice, Group, Study, Task, dev_curve, last_gain

if TYPE_CHECKING:
    import numpy as np

    from adakd import plots

BETTER, WORSE, SAME, OPEN = "better", "worse", "no difference shown", "open"
VERDICTS = (BETTER, WORSE, SAME, OPEN, NOT_RUN)
# With few, p-values promise too much at the small levels that Holm's correction asks for: where
# few seeds come out alike by chance, the luck of seeds all but drops out of the standard error, and
# its degrees of freedom become the speakers'. Five still err somewhat more often than they say, the
# more so the more speakers are tested: study/own.yaml, whose test set may have many, has eight.
FEWEST = 5
# AdaKD must beat both before a gain is called adaptive.
CONTROLS = {"permuted": "x permuted across utterances", "mean": "every utterance at the mean alpha"}

Pair = tuple[str, str]  # a cell, and the one that it is compared with


@dataclass
class Row:
    """A cell in one recipe and family, over all its seeds and folds."""

    name: str
    planned: set[tuple[int, int]] = field(default_factory=set)  # fold and seed, as `Run.key`
    runs: list[Run] = field(default_factory=list)
    failed: bool = False  # a run of it did
    cer: float = math.nan  # mean over seeds, of the test sets of all folds together
    interval: Interval = Interval(math.nan, math.nan)


@dataclass
class Table:
    """One recipe and family."""

    recipe: str
    family: str
    choices: dict[Group, Choice | None]
    rows: dict[str, Row] = field(default_factory=dict)
    teacher: list[Run] = field(default_factory=list)  # of the first seed, a run a fold
    minutes: list[float] = field(default_factory=list)  # of training speech, a number a fold
    problems: list[str] = field(default_factory=list)  # runs called done that cannot be used
    changes: dict[Pair, Change | None] = field(default_factory=dict)  # those asked for so far

    @property
    def title(self) -> str:
        return f"{self.recipe}, {self.family}"

    @property
    def runs(self) -> list[Run]:
        return [run for row in self.rows.values() for run in row.runs]

    def together(self, names: Sequence[str]) -> dict[tuple[int, int], tuple[Run, ...]]:
        """The runs of these cells by fold and seed, as `Run.key`, where all of them have one."""
        first, *others = ({run.key: run for run in self.rows[name].runs} for name in names)
        common = [key for key in first if all(key in other for other in others)]
        return {key: (first[key], *(other[key] for other in others)) for key in common}

    def planned(self, names: Sequence[str]) -> set[tuple[int, int]]:
        """Folds and seeds, as `Run.key`, that all of these cells are to have."""
        return set.intersection(*(self.rows[name].planned for name in names))

    def both(self, pair: Pair) -> list[tuple[Run, ...]]:
        """The runs of two cells with the same fold and seed."""
        return list(self.together(pair).values())

    def change(self, pair: Pair) -> Change | None:
        """Of the first cell against the second, over the runs that both have; None without any."""
        if pair not in self.changes:
            both = self.both(pair)
            self.changes[pair] = significance.compare(*counts_of(both)) if both else None
        return self.changes[pair]


@dataclass
class Comparison:
    """A primary comparison in one recipe and family; the verdict is one of VERDICTS."""

    table: Table
    pair: Pair
    open: str  # why nothing may be claimed yet, such as "3 of 5 runs"; empty: something may
    change: Change | None = None  # over the runs that both cells have
    quarters: list[Change] = field(default_factory=list)  # of the test sets, from easy to hard
    slope: Change | None = None  # the hardest quarter's ratio of CERs against the easiest's
    holm: float = 1.0  # corrected p-value
    seeds: int = 0  # that both cells have gone through, with all folds
    alone: list[float] = field(default_factory=list)  # SD over them of log dev CER, of each cell
    deviation: float = math.nan  # and of its difference
    needed: list[int | None] = field(default_factory=list)  # seeds to tell it; and if corrected
    # The same with the luck of the test speech in it, which more seeds leave; None: no number will.
    enough: list[int | None] = field(default_factory=list)
    # Smallest relative fall of the test CER that these runs would have shown; and if corrected.
    detectable: list[float] = field(default_factory=list)

    @property
    def title(self) -> str:
        return f"{label_of(self.pair[0])} against {label_of(self.pair[1])}"

    @property
    def verdict(self) -> str:
        if self.change is None:
            return NOT_RUN
        if self.open:
            return OPEN
        if self.holm >= significance.LEVEL:
            return SAME
        return BETTER if self.change.relative < 0 else WORSE


def read_tables(study: Study, records: dict[str, Any]) -> list[Table]:
    """A table for every recipe and family, in the grid's order."""
    pairs = dict.fromkeys((one.recipe, one.family) for one in study.groups)
    return [read_table(study, *pair, records) for pair in pairs]


def read_table(study: Study, recipe: str, family: str, records: dict[str, Any]) -> Table:
    """All runs of a recipe and family that are done with the grid's present settings."""
    groups = [one for one in study.groups if (one.recipe, one.family) == (recipe, family)]
    chosen = {group: study.choose(group, records) for group in groups}
    choices = {group: choice for group, (_, choice) in chosen.items()}
    table = Table(recipe, family, choices)
    add_teachers(study, table)
    outdated = [
        task.name
        for trials, _ in chosen.values()
        for task in trials
        if task.name in records and not study.status(task, records)
    ]
    int8 = study.start(groups[0]).config.decode.int8
    for name in study.cells:
        for ending in ("", INT8) if int8 else ("",):
            outdated += add_row(study, table, name, ending, records)
    if outdated:
        table.problems.append(
            f"{len(set(outdated))} of the runs that were recorded had other settings than the grid "
            f"has now, or are gone, {outdated[0]} for one: run the benchmark again."
        )
    for group, training in teachers_of(study, table):
        add_published_teacher(study, group, training.name, table)
    for group in groups:
        if minutes := minutes_of(study, group, table):
            table.minutes.append(minutes)
    check_teachers(table)
    return table


def add_teachers(study: Study, table: Table) -> None:
    """The teachers that were trained and decoded here."""
    for group, training in teachers_of(study, table):
        place = training.places[0]
        seed, folder = place.config.seed, place.experiment("teacher")
        if not (folder / "hyp.test.jsonl").is_file():  # it has not been decoded
            continue
        try:
            teacher = report.read_run(Experiment(table.family, "teacher", seed, group.fold, folder))
        except UserError as error:
            table.problems.append(str(error))
            continue
        if changed_shared(place, "teacher"):
            table.problems.append(another_teacher(folder))
        else:
            table.teacher.append(teacher)


def add_row(
    study: Study, table: Table, name: str, ending: str, records: dict[str, Any]
) -> list[str]:
    """All runs of a cell that are done; returns the names of those done with other settings."""
    row = table.rows[name + ending] = Row(name + ending)
    outdated = []
    for group, choice in table.choices.items():
        for seed in study.seeds(name, group):
            row.planned.add((-1 if group.fold is None else group.fold, seed))
            if choice is None:
                continue
            task = study.cell_task(group, name, seed, choice)
            state = study.status(task, records)
            row.failed |= state == "failed"
            if not state and task.name in records:
                outdated.append(task.name)
            if state == "done":
                try:
                    row.runs.append(read_cell(study, task, name + ending, ending))
                except UserError as error:
                    table.problems.append(f"{task.name}: {error}")
    if row.runs:
        row.cer = sum(shares(row.runs))
        row.interval = significance.cer_interval(*counts_of([(run,) for run in row.runs]))
    return outdated


def add_published_teacher(study: Study, group: Group, name: str, table: Table) -> None:
    """The teacher of published runs that count, if it was not trained here again."""
    line = study.lines.get(name)
    if line is None:
        return

    def its(run: Run) -> bool:
        own = len(study.teachers(group)) == 1 or run.experiment.seed == line["seed"]
        return run.experiment.fold == group.fold and own

    runs = list(filter(its, table.runs))
    if not any(map(its, table.teacher)) and any(run.kinds is not None for run in runs):
        folder = runs[0].experiment.folder.parents[1] / "teacher" / f"seed{line['seed']}"
        teacher = Experiment(group.family, "teacher", line["seed"], group.fold, folder)
        table.teacher.append(published.run_of(line, study.lines[str(group)], teacher))


def minutes_of(study: Study, group: Group, table: Table) -> float | None:
    """Minutes of training speech, by the data here or, of published runs, as published.

    None if unknown. Of these, what lies here may be other data of the same recipe.
    """
    runs = [run for run in table.runs if run.experiment.fold == group.fold]
    if any(run.kinds is not None for run in runs):
        return study.lines[str(group)]["minutes"]
    data = finished.done(study.start(group).data)
    return data["counts"]["train"]["seconds"] / 60 if data else None


def check_teachers(table: Table) -> None:
    """Leave out a teacher that is not, or no longer, the one that its students had."""
    for teacher in list(table.teacher):
        folder = teacher.experiment.folder
        # Of those made here: for published ones it was trained again, and `limits` says so.
        here = [run for run in table.runs if run.key == teacher.key and run.kinds is None]
        own = [run.done["inputs"] for run in here]
        taught = {inputs.get("teacher") for inputs in own} - {None}  # fine-tuning has none
        beside = [run for run in table.runs if run.key[0] == teacher.key[0]]
        elsewhere = any(spoken(run) != spoken(teacher) for run in beside)
        if elsewhere or taught - {teacher.done.get("fingerprint")}:
            table.teacher.remove(teacher)
            table.problems.append(another_teacher(folder))


def another_teacher(folder: Path) -> str:
    return (
        f"{folder} holds another teacher than students here had, or other test speech, perhaps of "
        "the recipe's own run: give the recipe a name of its own in the grid, or delete that "
        "folder, and run the benchmark again."
    )


def read_cell(study: Study, task: Task, name: str, ending: str) -> Run:
    """A finished run, here or published; `UserError` where its folder holds another one by now.

    Studies that name a recipe and a cell alike have the folder in common, and may differ in its
    settings. ending: INT8 for the student's int8 weights.
    """
    (place,) = task.places
    config, folder = place.config, place.experiment(task.method + ending)
    experiment = Experiment(config.family, name, config.seed, config.fold, folder)
    if line := study.published(task, ending):
        return published.run_of(line, study.lines[task.group], experiment)
    facts = finished.done(task.folder)
    if facts is None:
        raise UserError(f"{task.folder} is not finished: run the benchmark again.")
    if not inputs.same_code(config, facts):
        raise UserError(
            f"{task.folder} was trained before 2026-11-29, when Whispers were trained otherwise "
            "(adakd.inputs.code): run the benchmark again."
        )
    changed = inputs.changed_settings(place, task.method, facts)
    changed += changed_shared(place, task.method)
    if decoding := finished.done(folder / "decode"):
        made, now = decoding["inputs"]["audio"], dataclasses.asdict(inputs.deployed(config))
        changed += finished.changes(made, now, "decode.")
    if changed:
        raise UserError(
            f"{task.folder} was made with {another(changed)}, perhaps by "
            "another study or ./run.sh: give the recipe a name of its own in the grid, or delete "
            "that folder, and run the benchmark again."
        )
    run = report.read_run(experiment)
    versions = place.experiment("teacher") / "versions.json"
    if facts["inputs"].get("teacher") and versions.is_file():
        taught = read_json(versions)["time"]
        run = dataclasses.replace(run, made={**run.made, "taught": taught})
    if ending and run.done.get("inputs") != {"model": facts["fingerprint"]}:
        raise UserError(f"{folder} is of an earlier student: run the benchmark again.")
    return run


def changed_shared(place: Place, method: str) -> list[str]:
    """Dotted names of the settings of its data, teacher or start with which a training differs.

    By its config.yaml: its inputs hold fingerprints of all this, and what lies here now may be of
    other settings itself.
    """
    folder, config = place.experiment(method), place.config
    path = folder / "config.yaml"
    if not path.is_file():
        return []
    made = configuration.from_dict(
        configuration.Config, configuration.read_yaml(path), str(path), path
    )
    unheeded = [*inputs.OF_NO_DATA]
    if of_data_here(place, method):  # other settings may make the same data, or another test set
        unheeded += ["data.", "language.", "units."]
        unheeded += ["corpus.test", "corpus.evaluation", "corpus.url", "corpus.relative_to"]
    if method == "teacher":
        unheeded.append("transcripts")
    found = [
        name
        for name in finished.changes(data_of(made), data_of(config))
        if not name.startswith(tuple(unheeded))
    ]
    sources = [] if method == "teacher" else ["start"]
    if method != "finetune" or TEACHER in (config.student.source, config.transcripts.source):
        sources.append("source")
        old, new = (inputs.teacher_settings(Place(place.root, each)) for each in (made, config))
        found += [f"teacher.{name}" for name in finished.changes(old, new)]
    return found + finished.changed_sources(folder, sources, dataclasses.asdict(config))


def data_of(config: configuration.Config) -> dict[str, Any]:
    """The settings of what is learnt from, wherever the corpus lies."""
    found = {"corpus": {**config.corpus, "corpus": None}, **inputs.data_settings(config)}
    if config.learns_hypotheses:
        found["transcripts"] = dataclasses.asdict(config.transcripts)
    return found


def of_data_here(place: Place, method: str) -> bool:
    """Whether the data that lie here have the place's settings, and it was trained on them."""
    facts = finished.done(place.experiment(method)) or {}
    try:
        here = inputs.prepared(place)
    except UserError:
        return False
    return here.items() <= facts.get("inputs", {}).items()


def spoken(run: Run) -> set[tuple[str, int]]:
    """What was said in a test set: utterances and how many characters they have."""
    return {(one.id, one.normalised.characters) for one in run.errors}


def shares(runs: Sequence[Run]) -> tuple[float, float, float]:
    """Substitutions, deletions and insertions over the characters: mean over seeds, all folds."""
    seeds = Counter(run.key[0] for run in runs)
    substitutions, deletions, insertions, characters = (
        sum(kind)
        for kind in zip(
            *([number / seeds[run.key[0]] for number in run.counts] for run in runs), strict=True
        )
    )
    return substitutions / characters, deletions / characters, insertions / characters


Kept = Container[tuple[tuple[int, int], str]]  # utterances: (`Run.key`, id) each


def counts_of(
    runs: Sequence[tuple[Run, ...]], kept: Sequence[Kept] = ()
) -> tuple[np.ndarray, np.ndarray]:
    """Counts (groups, runs, 2, 4 or 8) and folds (runs,) for significance.py.

    runs: one system, or two or four that are compared, in the same fold and with the same seed.
    kept: of each system, the utterances that count; all if empty. Raises `UserError` where systems
    did not hear the same utterances.
    """
    for first, *others in runs:
        if any(spoken(run) != spoken(first) for run in others):
            raise UserError(
                f"{first.experiment.folder} and {others[-1].experiment.folder} were not "
                "decoded on the same utterances: run the benchmark again."
            )
    systems = [[run.tested for run in system] for system in zip(*runs, strict=True)]
    unit = unit_of(systems[0])
    if kept:
        systems = [
            [
                tested._replace(
                    errors=[one for one in tested.errors if (both[place].key, one.id) in own]
                )
                for both, tested in zip(runs, system, strict=True)
            ]
            for place, (system, own) in enumerate(zip(systems, kept, strict=True))
        ]
    return count_array(systems, unit=unit)


def compared(study: Study, tables: Sequence[Table]) -> list[Comparison]:
    """The primary comparisons, pair by pair, with Holm's correction over all that were named.

    Those of which nothing may be claimed yet count in it, as if their p-value were 1.
    """
    found = []
    level = significance.LEVEL / max(1, len(tables) * len(study.grid.primary))
    for a, b in study.grid.primary:
        for table in tables:
            planned, both = table.planned((a, b)), table.both((a, b))
            few = "a single seed" if len({seed for _, seed in planned}) < 2 else ""
            few = f"{len(both)} of {len(planned)} runs" if len(both) < len(planned) else few
            one = Comparison(table, (a, b), few, table.change((a, b)))
            found.append(one)
            if one.change is None:
                continue
            levels, variance = (significance.LEVEL, level), one.change.variance
            error, free = variance.error()
            if free and error:
                one.detectable = [significance.detectable(error, free, each) for each in levels]
            if variance.runs > variance.folds:  # or luck of the seeds cannot be told apart
                difference = study.grid.difference
                one.enough = [
                    significance.seeds_enough(variance, difference, each) for each in levels
                ]
            one.quarters, one.slope = by_difficulty(both)
            logs = log_dev_cers(both)
            one.seeds = len(logs)
            if one.seeds > 1:
                one.alone = [stdev(column) for column in zip(*logs, strict=True)]
                one.deviation = stdev(own - other for own, other in logs)
                one.needed = [
                    significance.seeds_needed(one.deviation, study.grid.difference, each)
                    for each in levels
                ]
    correct(found)
    for one in found:
        if not one.open and one.holm < significance.LEVEL:
            one.open = too_few(one)
    correct(found)
    return found


def by_difficulty(both: Sequence[tuple[Run, ...]]) -> tuple[list[Change], Change | None]:
    """Changes in four equal parts of each test set, easiest first, and hardest over easiest.

    None of them where a run's x is not known.
    """
    import numpy as np

    parts = [(run.key, report.quarters(run)) for run, _ in both]
    if not all(quarters for _, quarters in parts):
        return [], None
    kept = [
        {(key, each.id) for key, quarters in parts for each in quarters[place]}
        for place in range(4)
    ]
    twice = [(*runs, *runs) for runs in both]
    ends = [kept[3], kept[3], kept[0], kept[0]]
    with np.errstate(all="ignore"):  # a draw of few may have no speech of a quarter
        changes = [significance.compare(*counts_of(both, [own, own])) for own in kept]
        slope = significance.compare(*counts_of(twice, ends))
    return changes, slope if all(map(math.isfinite, slope.interval)) else None


def correct(comparisons: Sequence[Comparison]) -> None:
    """Holm's correction; those that are open count as if their p-value were 1."""
    p_values = [one.change.p_value if one.change and not one.open else 1.0 for one in comparisons]
    for one, p_value in zip(comparisons, significance.holm(p_values), strict=True):
        one.holm = p_value


def too_few(one: Comparison) -> str:
    """Why a difference that seems to stand may not be claimed: too few seeds, and folds."""
    seeds = Counter(own.key[0] for own, _ in one.table.both(one.pair))
    if len(seeds) >= FEWEST or min(seeds.values()) >= FEWEST:
        return ""
    of_each = report.counted(min(seeds.values()), "seed") + (" a fold" if len(seeds) > 1 else "")
    return f"{of_each}, a claim takes {FEWEST}" + (", or as many folds" if len(seeds) > 1 else "")


def log_dev_cers(both: Sequence[tuple[Run, ...]]) -> list[tuple[float, float]]:
    """log dev CER of two cells, mean over folds, for every seed with as many folds as any.

    Where folds have seeds of their own these numbers are of different folds too.
    """
    by_seed: dict[int, list[tuple[float, float]]] = {}
    for own, other in both:
        cers = own.done["dev_cer"], other.done["dev_cer"]
        by_seed.setdefault(own.experiment.seed, []).append(cers)
    folds = max(map(len, by_seed.values()))
    means = [
        [mean(column) for column in zip(*cers, strict=True)]
        for cers in by_seed.values()
        if len(cers) == folds
    ]
    return [(math.log(own), math.log(other)) for own, other in means if own and other]


def still_falling(runs: Sequence[Run]) -> float:
    """By how much the dev CER of these runs falls in the last fifth of training; relative.

    NaN where no run tells: int8 students were not trained, and one epoch has no last fifth.
    """
    curves = [dev_curve(run.dev_cer) for run in runs if len(run.dev_cer) > 1]
    return last_gain(curves) if curves else math.nan


def control_key(study: Study, cell: str) -> str:
    """The setting that makes a mechanism control of a cell's method."""
    return f"methods.{study.method(cell)}.control"


def controls_of(study: Study, cell: str) -> dict[str, str]:
    """control -> the cell that is like this one, its tuned settings too, in all but that."""

    def settings(name: str) -> tuple[dict[str, Any], Any]:
        above = study.ancestry(name)
        own = {key: value for each in above for key, value in study.cells[each].set.items()}
        return own, (study.method(name), [each for each in above if each in study.grid.tune])

    wanted, found = settings(cell), {}
    for name in study.cells:
        own, rest = settings(name)
        control = own.pop(control_key(study, name), None)
        if control and (own, rest) == wanted:
            found[control] = name
    return found


def follows_x(study: Study, cell: str) -> bool:
    """Whether a cell gives each utterance an alpha by its x, and is no control."""
    method = study.method(cell)
    place = study.place(study.groups[0], cell, study.grid.seeds[0], study.any_choice)
    options = place.config.methods.get(method) or {}
    own = options.get("k") != 0 and options.get("control", "none") == "none"
    return METHODS[method].uses_difficulty and own


def adaptive(
    study: Study, comparisons: Sequence[Comparison], cell: str
) -> dict[str, list[str]] | None:
    """Recipe and family -> the cells over which a gain of this one may be called adaptive.

    That takes beating those of CONTROLS as well. None: they are not among the primary comparisons.
    """
    controls = controls_of(study, cell)
    wanted = {controls.get(control, "") for control in CONTROLS}
    own = [one for one in comparisons if one.pair[0] == cell]
    if not wanted <= {one.pair[1] for one in own}:
        return None
    beaten: dict[str, list[str]] = {}
    for one in own:
        if one.verdict == BETTER:
            beaten.setdefault(one.table.title, []).append(one.pair[1])
    gains = {
        title: [name for name in names if name not in controls.values()]
        for title, names in beaten.items()
        if wanted <= set(names)
    }
    return {title: names for title, names in gains.items() if names}


def seeds_of(table: Table) -> set[int]:
    """All seeds that are, or will be, tested there."""
    return {seed for row in table.rows.values() for _, seed in row.planned}


def own_seeds(table: Table) -> bool:
    """Whether folds have seeds of their own: between seeds the fold then differs as well."""
    planned = {key for row in table.rows.values() for key in row.planned}
    return len(planned) < len(seeds_of(table)) * len({fold for fold, _ in planned})


def teachers_of(study: Study, table: Table) -> list[tuple[Group, Task]]:
    """The teachers of what is tested, one a group or one for every seed of it."""
    return [
        (group, task)
        for group in table.choices
        for task in study.teachers(group).values()
        if {place.config.seed for place in task.places} & tested(study, group)
    ]


def tested(study: Study, group: Group) -> set[int]:
    """The seeds of a group that are not for choosing alone."""
    return {seed for _, seed in study.runs(group)}


def one_teacher(study: Study, table: Table) -> bool:
    """Whether all seeds have one, in each fold."""
    return len({task.places[0].seed_of("teacher") for _, task in teachers_of(study, table)}) == 1


def against_teacher(study: Study, table: Table, name: str) -> Change | None:
    """Relative change of the CER from a cell to its teachers, each in its fold."""
    shared = one_teacher(study, table)
    teachers = {run.key[0] if shared else run.key: run for run in table.teacher}
    runs = table.rows[name].runs if name in table.rows else []
    own = [(teachers.get(run.key[0] if shared else run.key), run) for run in runs]
    both = [(teacher, run) for teacher, run in own if teacher]
    return significance.compare(*counts_of(both)) if both else None


def unnamed(study: Study, tables: Sequence[Table]) -> Iterator[tuple[Pair, Table, Change]]:
    """What the primary comparisons are about, against each cell that they do not compare it with.

    Where both have been run; exploratory.
    """
    told = {frozenset(pair) for pair in study.grid.primary}
    controls = {name for cell in study.cells for name in controls_of(study, cell).values()}
    about = [pair[0] for pair in study.grid.primary if pair[0] not in controls]
    for own in dict.fromkeys(about):
        for other in study.cells:
            if other == own or {own, other} in told:
                continue
            told.add(frozenset((own, other)))
            for table in tables:
                if change := table.change((own, other)):
                    yield (own, other), table, change


def first_schedule(
    study: Study, table: Table, runs: Sequence[Run]
) -> tuple[str, plots.Schedule] | None:
    """The first cell of AdaKD with a run whose difficulties are still known, and its alphas."""
    firsts: dict[str, Run] = {}
    for run in runs:
        firsts.setdefault(run.experiment.method, run)
    for name in [each for each in study.cells if study.method(each) == "adakd" and each in firsts]:
        found = report.schedule_of(firsts[name], difficulties(study, table, firsts[name]))
        if found:
            return name, found
    return None


def difficulties(study: Study, table: Table, run: Run) -> list[float]:
    """x of the training set of a run; where it is gone, what was published; [] if nothing was."""
    for group, choice in table.choices.items():
        if group.fold == run.experiment.fold and choice is not None:
            place = study.place(group, run.experiment.method, run.experiment.seed, choice)
            with contextlib.suppress(UserError):
                return list(inputs.difficulties(place)[0].values())
            return study.lines.get(str(group), {}).get("x", [])
    return []


def begun(table: Table) -> bool:
    return bool(table.teacher) or any(row.runs or row.failed for row in table.rows.values())


def once(study: Study, group: Group, records: dict[str, Any]) -> dict[str, list[float]]:
    """How long the tasks took that all cells of a group share, by kind, seconds; or published."""
    found: dict[str, list[float]] = {}
    for name, one in records.items():
        if one["kind"] in ("teacher", "difficulty") and name.startswith(f"{group} "):
            found.setdefault(one["kind"], []).append(one["seconds"])
    return {**study.lines.get(str(group), {}).get("seconds", {}), **found}
