"""The report of a study: tables, verdicts and plots, as one HTML file and as Markdown.

Everything is written from what the runner's records and the experiments' folders hold, a negative
finding as plainly as a win, a cell that was not run as "not run". Reading runs, words and the look
of tables are report.py's, statistics significance.py's, figures plots.py's.
"""

from __future__ import annotations

import json
import math
import shutil
from collections import Counter
from collections.abc import Container, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from statistics import mean, stdev
from typing import TYPE_CHECKING, Any

from adakd import plots, significance, steps, versions
from adakd.errors import UserError
from adakd.files import atomic_write, write_text
from adakd.grid import SETTLED, Choice, Group, Study, status
from adakd.report import (
    BASELINES,
    NOT_RUN,
    Cell,
    Experiment,
    Figure,
    Run,
    aligned,
    alpha_figure,
    bracket,
    change_cell,
    facts_of,
    html_figure,
    html_page,
    html_table,
    label_of,
    markdown_lines,
    percent,
    read_run,
    schedule_of,
    signed,
    typeset,
)
from adakd.score import Change, Interval, bootstrap_unit, total

if TYPE_CHECKING:
    import numpy as np

COLUMNS = (
    "Cell", "Runs", "CER, %", "S / D / I, %", "vs fine-tuning, %", "won : lost", "vs KD, %",
    "won : lost", "Cost",
)  # fmt: skip
VERDICTS = {1: "better", -1: "worse", 0: "no difference shown"}
TONES = {1: "better", -1: "worse", 0: ""}
CONTROLS = ("permuted", "mean")  # AdaKD must beat both before a gain is called adaptive


@dataclass
class Row:
    """A cell in one recipe and family, over all its seeds and folds."""

    name: str
    runs: list[Run] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)  # reasons
    missing: int = 0  # runs that the grid names and that are not there
    cer: float = math.nan  # mean over seeds, of the test sets of all folds together
    interval: Interval = Interval(math.nan, math.nan)

    @property
    def label(self) -> str:
        return label_of(self.name)


@dataclass
class Table:
    """One recipe and family."""

    recipe: str
    family: str
    rows: dict[str, Row]
    choices: dict[Group, Choice | None]
    teacher: list[Run] = field(default_factory=list)  # of the first seed, a run a fold
    changes: dict[tuple[str, str], Change] = field(default_factory=dict)
    adjusted: dict[tuple[str, str], float] = field(default_factory=dict)  # Holm's p-values

    @property
    def title(self) -> str:
        return f"{self.recipe}, {self.family}"

    def change(self, pair: tuple[str, str]) -> Change | None:
        """The first cell against the second, over the runs that both have."""
        if pair not in self.changes and all(name in self.rows for name in pair):
            common = pairs(self.rows[pair[0]], self.rows[pair[1]])
            if common:
                self.changes[pair] = significance.compare(*count_array(common))
        return self.changes.get(pair)

    def p_value(self, pair: tuple[str, str]) -> float:
        change = self.change(pair)
        return self.adjusted.get(pair, change.p_value if change else 1.0)

    def better(self, pair: tuple[str, str]) -> int:
        """1: shown to be better, -1: shown to be worse, 0: neither (or not run)."""
        change = self.change(pair)
        if change is None or self.p_value(pair) >= significance.LEVEL:
            return 0
        return 1 if change.relative < 0 else -1


# -- gathering ------------------------------------------------------------------------------------


def read_table(study: Study, recipe: str, family: str, records: dict[str, Any]) -> Table:
    """All runs of a recipe and family that are done with the grid's present settings."""
    groups = [one for one in study.groups if (one.recipe, one.family) == (recipe, family)]
    choices = {group: study.choose(group, records)[1] for group in groups}
    rows = {}
    for name in study.cells:
        row = rows[name] = Row(name)
        for group, choice in choices.items():
            for seed in study.seeds(name):
                task = choice and study.cell_task(group, name, seed, choice)
                state = status(task, records) if task else ""
                if task and state == "done":
                    experiment = Experiment(family, name, seed, group.fold, task.folder)
                    row.runs.append(read_run(experiment))
                elif task and state == "failed":
                    row.failures.append(f"{task.name}: {records[task.name]['reason']}")
                else:
                    row.missing += 1
        if row.runs:
            counts, folds, _ = count_array([(run,) for run in row.runs])
            (sums,) = significance.resample(counts, folds, 1, runs=False, groups=False)
            row.cer = float(sums[0] / sums[1])
            row.interval = significance.cer_interval(counts, folds)
    teacher = []
    for group, choice in choices.items():
        first = next(iter(study.cells))
        place = choice and study.place(group, first, study.seeds(first)[0], choice)
        if place and (place.experiment("teacher") / "score.json").is_file():
            folder = place.experiment("teacher")
            teacher.append(read_run(Experiment(family, "teacher", 0, group.fold, folder)))
    return Table(recipe, family, rows, choices, teacher)


def pairs(own: Row, other: Row) -> list[tuple[Run, Run]]:
    """The runs of two cells with the same fold and seed."""
    theirs = {run.key: run for run in other.runs}
    return [(run, theirs[run.key]) for run in own.runs if run.key in theirs]


def count_array(
    runs: Sequence[tuple[Run, ...]], kept: Container[tuple[int, str]] | None = None
) -> tuple[np.ndarray, np.ndarray, str]:
    """Counts (groups, runs, 2 or 4) and folds (runs,) for significance.py, and what a group is.

    runs: one system, or two that are compared, in the same fold and with the same seed.
    kept: the utterances that count, (fold, id) each; all if None.
    """
    import numpy as np

    heard = {(run.key[0], one.id): one for run, *_ in runs for one in run.errors}
    unit = bootstrap_unit(list(heard.values()))
    numbers: dict[Any, int] = {}
    entries = []
    for column, systems in enumerate(runs):
        if len({frozenset(one.id for one in run.errors) for run in systems}) > 1:
            raise UserError(
                f"{systems[0].experiment.folder} and {systems[-1].experiment.folder} were not "
                "decoded on the same utterances: run the benchmark again."
            )
        for kind, run in enumerate(systems):
            for one in run.errors:
                name = (run.key[0], one.id)
                if kept is None or name in kept:
                    group = one.speaker if unit == "speaker" else name
                    number = numbers.setdefault(group, len(numbers))
                    entries.append((number, column, 2 * kind, one.normalised))
    counts = np.zeros((len(numbers), len(runs), 2 * len(runs[0])))
    for number, column, kind, found in entries:
        counts[number, column, kind : kind + 2] += (found.errors, found.characters)
    return counts, np.array([systems[0].key[0] for systems in runs]), unit


def won_and_lost(own: Row, other: Row) -> str:
    """In how many runs a cell makes fewer errors, and in how many more."""
    errors = [
        [total(one.normalised for one in run.errors).errors for run in both]
        for both in pairs(own, other)
    ]
    return f"{sum(a < b for a, b in errors)} : {sum(a > b for a, b in errors)}" if errors else ""


def cost(own: Row, other: Row) -> str:
    """Seconds of training over those of the same runs of another cell."""
    seconds = [[run.done["train_seconds"] for run in both] for both in pairs(own, other)]
    spent = sum(b for _, b in seconds)
    return f"{sum(a for a, _ in seconds) / spent:.2f} x" if spent else ""


def dev_deviation(own: Row, other: Row | None = None) -> tuple[int, float]:
    """Seeds, and the standard deviation over them of log dev CER, or of its difference."""
    both = pairs(own, other) if other else [(run,) for run in own.runs]
    by_seed: dict[int, list[tuple[float, ...]]] = {}
    for systems in both:
        cers = tuple(run.done["dev_cer"] for run in systems)
        by_seed.setdefault(systems[0].experiment.seed, []).append(cers)
    most = max(map(len, by_seed.values()), default=0)
    values = []
    for found in by_seed.values():
        means = [mean(column) for column in zip(*found, strict=True)]
        if len(found) == most and all(means):  # with all folds
            values.append(math.log(means[0]) - (math.log(means[1]) if other else 0.0))
    return len(values), stdev(values) if len(values) > 1 else math.nan


# -- words ----------------------------------------------------------------------------------------


def p_text(p_value: float) -> str:
    return f"{p_value:.3f}" if p_value >= 0.001 else "< 0.001"


def against(table: Table, pair: tuple[str, str]) -> str:
    """One clause on a comparison, with what it can and cannot say."""
    change = table.change(pair)
    names = f"{label_of(pair[0])} against {label_of(pair[1])}"
    if change is None:
        return f"{names}: {NOT_RUN}"
    low, high = signed(change.interval.low), signed(change.interval.high)
    corrected = "Holm's p" if pair in table.adjusted else "exploratory, p"
    return (
        f"{names}: {signed(change.relative)} % ({low} % to {high} %, {corrected} "
        f"{p_text(table.p_value(pair))}), {VERDICTS[table.better(pair)]}"
    )


def controls_of(study: Study, cell: str) -> dict[str, str]:
    """control -> the cell that is like this one in all but that."""
    return {
        study.cells[name].set["methods.adakd.control"]: name
        for name in study.cells
        if study.cells[name].like == cell and "methods.adakd.control" in study.cells[name].set
    }


def adaptivity(study: Study, table: Table) -> list[str]:
    """For each AdaKD that has its controls: may a gain be called adaptive?"""
    said = []
    for name in study.cells:
        controls = controls_of(study, name)
        if not set(CONTROLS) & set(controls) or not table.rows[name].runs:
            continue
        no = f"No gain of {label_of(name)} may be called adaptive: "
        checks = {control: (name, controls.get(control, "")) for control in CONTROLS}
        lacking = [control for control, pair in checks.items() if table.change(pair) is None]
        unbeaten = [control for control, pair in checks.items() if table.better(pair) < 1]
        new = "; ".join(against(table, p) for p in checks.values() if p not in table.adjusted)
        clauses = f" ({new})" if new else ""
        if lacking:
            said.append(f"{no}its control {' and '.join(lacking)} was not run.")
        elif unbeaten:
            said.append(f"{no}it does not beat its control {' or '.join(unbeaten)}{clauses}.")
        elif beaten := [label_of(base) for base in BASELINES if table.better((name, base)) == 1]:
            said.append(
                f"{label_of(name)} beats both controls{clauses}: its gain over "
                f"{' and '.join(beaten)} is adaptive."
            )
        else:
            said.append(
                f"{label_of(name)} beats both controls{clauses}, and yet is not shown to beat "
                "fine-tuning or KD."
            )
    return said


def paragraph(study: Study, table: Table) -> str:
    """The outcome for one recipe and family, from the numbers."""
    there = [row for row in table.rows.values() if row.runs]
    if not there:
        return f"{table.title}: nothing has been run."
    best = min(there, key=lambda row: row.cer)
    seeds = len({run.experiment.seed for row in there for run in row.runs})
    named = [table.rows[name] for name in ("finetune", "kd", "adakd") if name in table.rows]
    cers = ", ".join(f"{row.label} {percent(row.cer)} %" for row in named if row.runs)
    if table.teacher:
        whole = total(one.normalised for run in table.teacher for one in run.errors)
        cers = f"the teacher {percent(whole.cer)} %, {cers}"
    said = [
        f"{table.title} ({seeds} seed{'s' if seeds > 1 else ''}): {cers}"
        f"{'; ' if cers else ''}lowest is {best.label} with {percent(best.cer)} %."
    ]
    clauses = [against(table, (a, b)) for a, b in study.grid.primary]
    if clauses:
        said.append(f"{'; '.join(clauses)}.")
    said += adaptivity(study, table)
    return " ".join(said)


def summary(study: Study, tables: Sequence[Table]) -> list[str]:
    """One sentence for each primary comparison, over all recipes and families."""
    said = []
    for a, b in study.grid.primary:
        compared = [table for table in tables if table.change((a, b))]
        verdicts = [table.better((a, b)) for table in compared]
        if not compared:
            said.append(f"{label_of(a)} against {label_of(b)}: {NOT_RUN}.")
            continue
        said.append(
            f"{label_of(a)} against {label_of(b)}, in {len(compared)} of {len(tables)} recipes and "
            f"families run: better in {verdicts.count(1)}, worse in {verdicts.count(-1)}, no "
            f"difference shown in {verdicts.count(0)}."
        )
    for name in study.cells:
        controls = controls_of(study, name)
        if set(CONTROLS) <= set(controls):
            both = [(name, controls[control]) for control in CONTROLS]
            compared = [table for table in tables if all(table.change(pair) for pair in both)]
            beats = sum(all(table.better(pair) == 1 for pair in both) for table in compared)
            said.append(
                f"{label_of(name)} beats both mechanism controls, x permuted and the mean alpha, "
                f"in {beats} of {len(compared)}: only there may a gain be called adaptive."
                if compared
                else f"{label_of(name)} against its mechanism controls: {NOT_RUN}."
            )
    return said


def fairness(study: Study, tables: Sequence[Table]) -> str:
    """Whether all cells of a group and seed had the same start and as many steps, as found."""
    odd = []
    for table in tables:
        by_key: dict[Any, dict[Any, list[str]]] = {}
        for row in table.rows.values():
            for run in row.runs:
                same = (run.done.get("steps"), run.done.get("inputs", {}).get("start"))
                by_key.setdefault(run.key, {}).setdefault(same, []).append(row.label)
        for (fold, seed), kinds in by_key.items():
            if len(kinds) > 1:
                fewest = min(kinds.values(), key=len)
                where = f"{table.title}{'' if fold < 0 else f', fold {fold}'}, seed {seed}"
                odd.append(f"{', '.join(fewest)} ({where})")
    if not any(row.runs for table in tables for row in table.rows.values()):
        return "Nothing has been run yet."
    if odd:
        return (
            "NOT alike: these had another start or another number of optimiser steps than the "
            f"other cells beside them: {'; '.join(odd)}."
        )
    return (
        "Checked in every run: beside each other, all cells start from the same student and make "
        "the same number of optimiser steps; batches and their order follow from the seed alone."
    )


def notes(study: Study, tables: Sequence[Table]) -> list[str]:
    """What a reader must know to read the tables rightly."""
    grid = study.grid
    count = sum(pair in table.adjusted for table in tables for pair in table.adjusted)
    tuned = "Nothing was tuned."
    if grid.tune:
        effort = len(next(iter(grid.tune.values())))
        labels = ", ".join(label_of(name) for name in grid.tune)
        tuned = (
            f"Tuning effort: {effort} candidates x {len(grid.tune_seeds)} seed(s) for each of "
            f"{labels}, chosen by dev CER within each recipe, family and fold; the rest is as in "
            "the grid. A cell that is like a tuned one has its choice."
        )
    units = {
        count_array([(row.runs[0],)])[2]
        for table in tables
        for row in table.rows.values()
        if row.runs
    }
    return [
        "CER: mean over seeds, all folds put together, of normalised text in code points. "
        "S / D / I: substitutions, deletions and insertions, in percent of the reference.",
        "Brackets: 95 %, from a hierarchical bootstrap over seeds and then "
        f"{' or '.join(sorted(f'{unit}s' for unit in units)) or 'speakers'} (speakers where five "
        "or more are known), with t quantiles, since few seeds and speakers make the error itself "
        "uncertain. Changes are relative, paired by seed and test speech; below zero is better.",
        f"Holm's correction covers the {count} primary comparisons, named in the grid beforehand; "
        "all other intervals and p-values are exploratory and have no colour.",
        "won : lost counts runs (seeds x folds) with fewer and with more errors. Cost: time of "
        "training over fine-tuning's, dev decoding included and the teacher's training and pass "
        "left out, on a machine that may have done other things.",
        tuned,
        fairness(study, tables),
        "Test sets were decoded by the cells of the tables alone: epochs and candidates were "
        "chosen on dev, from runs that never decode test.",
    ]


# -- tables ---------------------------------------------------------------------------------------


def cells(texts: Sequence[str]) -> list[Cell]:
    return [Cell(text) for text in texts]


def results(table: Table) -> list[list[Cell]]:
    """A line for every cell; the first line of this and of all tables is the header."""
    lines = [cells(COLUMNS)]
    for row in table.rows.values():
        expected = len(row.runs) + len(row.failures) + row.missing
        state = "failed" if row.failures and not row.runs else NOT_RUN
        if not row.runs:
            lines.append([Cell(row.label), Cell(f"0 of {expected}"), Cell(state), *[Cell("")] * 6])
            continue
        counts = total(one.normalised for run in row.runs for one in run.errors)
        kinds = (counts.substitutions, counts.deletions, counts.insertions)
        runs = str(expected) if len(row.runs) == expected else f"{len(row.runs)} of {expected}"
        line = [
            Cell(row.label),
            Cell(runs),
            Cell(percent(row.cer), bracket(row.interval, percent)),
            Cell(" / ".join(percent(kind / counts.characters, 1) for kind in kinds)),
        ]
        for baseline in BASELINES:
            pair = (row.name, baseline)
            change = table.change(pair) if row.name != baseline else None
            tone = TONES[table.better(pair)] if pair in table.adjusted else ""
            line.append(change_cell(change)._replace(tone=tone))
            line.append(Cell(won_and_lost(row, table.rows[baseline]) if change else ""))
        base = table.rows.get("finetune")
        line.append(Cell(cost(row, base) if base else ""))
        lines.append(line)
    return lines


def primary(study: Study, tables: Sequence[Table]) -> list[list[Cell]]:
    """The comparisons named beforehand, with Holm's correction."""
    names = ("Comparison", "Recipe, family", "Change, %", "p", "Holm", "won : lost", "Verdict")
    lines = [cells(names)]
    for a, b in study.grid.primary:
        for table in tables:
            change = table.change((a, b))
            line = [Cell(f"{label_of(a)} against {label_of(b)}"), Cell(table.title)]
            if change is None:
                lines.append([*line, Cell(NOT_RUN), *[Cell("")] * 4])
                continue
            verdict = table.better((a, b))
            shown = change_cell(change)
            lines.append(
                [
                    *line,
                    Cell(shown.value, shown.detail),
                    Cell(p_text(change.p_value)),
                    Cell(p_text(table.adjusted[a, b])),
                    Cell(won_and_lost(table.rows[a], table.rows[b])),
                    Cell(VERDICTS[verdict], tone=TONES[verdict]),
                ]
            )
    return lines


def noise(study: Study, tables: Sequence[Table]) -> list[list[Cell]]:
    """Spread over seeds on dev, and the seeds that the wanted difference needs."""
    wanted = f"{percent(study.grid.difference, 0)} %"
    count = max(1, sum(len(table.adjusted) for table in tables))
    lines = [
        [
            "Recipe, family", "Cells", "Seeds", "SD of one, %", "SD of the difference, %",
            f"Seeds for {wanted}", f"Seeds (Bonferroni, {count})",
        ]
    ]  # fmt: skip
    for table in tables:
        for a, b in study.grid.primary:
            own, other = table.rows[a], table.rows[b]
            number, deviation = dev_deviation(own, other)
            if number < 2:
                continue
            alone = [dev_deviation(row)[1] for row in (own, other)]
            needed = [
                significance.seeds_needed(deviation, study.grid.difference, level)
                for level in (significance.LEVEL, significance.LEVEL / count)
            ]
            lines.append(
                [
                    table.title,
                    f"{own.label}, {other.label}",
                    str(number),
                    " and ".join(percent(each, 1) for each in alone),
                    percent(deviation, 1),
                    *[str(each or f"over {significance.MOST_SEEDS}") for each in needed],
                ]
            )
    return [cells(line) for line in lines]


def chosen(study: Study, tables: Sequence[Table]) -> list[list[Cell]]:
    """What dev has chosen in every group that has come so far."""
    lines = [["Group", "Epochs", *[label_of(name) for name in study.grid.tune]]]
    for table in tables:
        for group, choice in table.choices.items():
            if choice is None:
                continue
            gains = ", ".join(f"{n}: {signed(-gain)} %" for n, gain in choice.gains)
            line = [str(group), f"{choice.epochs} ({gains})" if choice.epochs else "the recipe's"]
            for name, candidates in study.grid.tune.items():
                picked = candidates[choice.tuned[name]]
                settings = ", ".join(f"{key.split('.')[-1]} {v}" for key, v in picked.items())
                cers = " ".join(
                    percent(cer, 1) if math.isfinite(cer) else "failed" for cer in choice.dev[name]
                )
                line.append(f"{settings} ({cers})")
            lines.append(line)
    return [cells(line) for line in lines]


# -- figures --------------------------------------------------------------------------------------


def figures_of(study: Study, tables: Sequence[Table], recipe: str) -> list[Figure]:
    """The figures of a recipe, its families side by side; without data there is none."""
    own = {
        table.family: table
        for table in tables
        if table.recipe == recipe and any(row.runs for row in table.rows.values())
    }
    if not own:
        return []

    def drawn(table: Table, names: Sequence[str]) -> list[plots.Method]:
        rows = [table.rows[name] for name in names if name in table.rows]
        return [plots.Method(r.name, r.label, r.cer, r.interval) for r in rows if r.runs]

    every = {family: drawn(table, list(table.rows)) for family, table in own.items()}
    figures = [
        Figure(
            plots.cer_by_method(every),
            f"{recipe}: CER by cell",
            "Mean over seeds and folds with its 95 % interval. Overlapping lines say little: the "
            "paired comparisons are sharper.",
        )
    ]
    for title, names in study.grid.ablations.items():
        panels = {
            family: (drawn(table, names), drawn(table, BASELINES)) for family, table in own.items()
        }
        panels = {family: panel for family, panel in panels.items() if panel[0]}
        if panels:
            figures.append(
                Figure(plots.ablation(panels), f"{recipe}: {title}", "Dashed: the baselines.")
            )
    gains = {family: quartile_gains(study, table) for family, table in own.items()}
    gains = {family: found for family, found in gains.items() if found}
    if gains:
        figures.append(
            Figure(
                plots.gain_by_quartile(gains),
                f"{recipe}: gain by difficulty",
                "Relative change of CER in four equal parts of each test set, by the teacher's "
                "loss x on the utterance, with 95 % intervals (exploratory). AdaKD distils easy "
                "utterances first: its gains are predicted to differ between the quarters.",
            )
        )
    schedules = {}
    for family, table in own.items():
        for name, row in table.rows.items():
            schedule = None
            if study.method(name) == "adakd" and row.runs:
                schedule = schedule_of(row.runs[0], difficulties(study, table, name))
            if schedule:
                schedules[family] = schedule
                break
    if schedules:
        figure = alpha_figure(schedules)
        figures.append(figure._replace(title=f"{recipe}: {figure.title}"))
    return figures


def quartile_gains(study: Study, table: Table) -> list[plots.Gain]:
    """The primary comparisons within each quarter of the test sets."""
    found = []
    for a, b in study.grid.primary:
        both = pairs(table.rows[a], table.rows[b])
        quarters: list[set[tuple[int, str]]] = [set(), set(), set(), set()]
        for run, _ in both:
            known = sorted(
                (x, one.id)
                for x, one in zip(run.difficulties, run.errors, strict=True)
                if x is not None
            )
            for place, (_, name) in enumerate(known):
                quarters[4 * place // len(known)].add((run.key[0], name))
        if not all(quarters):
            continue
        changes = []
        for quarter in quarters:
            change = significance.compare(*count_array(both, quarter))
            changes.append((change.relative, *change.interval))
        if all(math.isfinite(value) for values in changes for value in values):
            found.append(plots.Gain(f"{label_of(a)} against {label_of(b)}", changes))
    return found


def difficulties(study: Study, table: Table, cell: str) -> list[float]:
    """The teacher's losses on the training set of a cell's first run; [] if they are gone."""
    run = table.rows[cell].runs[0]
    for group, choice in table.choices.items():
        if group.fold == run.experiment.fold and choice is not None:
            place = study.place(group, cell, run.experiment.seed, choice)
            try:
                return list(steps.open_store(place).difficulties().values())
            except UserError:
                return []
    return []


# -- the report -----------------------------------------------------------------------------------


def write_report(study: Study, command: str, publish: Path | None = None) -> str:
    """Write STUDY.md, index.html and scores.jsonl into the study's folder; return what to print.

    publish: a Markdown file that gets a copy of STUDY.md; scores.jsonl is copied beside it.
    """
    records = study.read_records()
    tables = [
        read_table(study, recipe, family, records)
        for recipe, family in dict.fromkeys((one.recipe, one.family) for one in study.groups)
    ]
    compared = [
        (table, (a, b)) for table in tables for a, b in study.grid.primary if table.change((a, b))
    ]
    p_values = [table.changes[pair].p_value for table, pair in compared]
    for (table, pair), p_value in zip(compared, significance.holm(p_values), strict=True):
        table.adjusted[pair] = p_value

    title = study.grid.title or study.path.stem
    parts = parts_of(study, tables, records, command)
    write_text(study.folder / "STUDY.md", _markdown(title, parts))
    write_text(study.folder / "index.html", _page(title, parts))
    _write_scores(study.folder / "scores.jsonl", tables)
    if publish:
        shutil.copyfile(study.folder / "STUDY.md", publish)
        shutil.copyfile(study.folder / "scores.jsonl", publish.with_suffix(".jsonl"))
    lines = [[str(cell) for cell in line] for line in primary(study, tables)]
    where = f"Report: {steps.shown(study.folder / 'index.html')}"
    return "\n".join([aligned(lines), "", *summary(study, tables), where])


# A part of the report: its kind (heading, words, list, table, code, figure) and what it holds.
Part = tuple[str, Any]


def parts_of(
    study: Study, tables: Sequence[Table], records: dict[str, Any], command: str
) -> list[Part]:
    """The report from top to bottom, the same for both of its forms."""
    failures = [
        failure for table in tables for row in table.rows.values() for failure in row.failures
    ]
    failures += [
        f"{name}: {record['reason']}"
        for name, record in records.items()
        if record["status"] == "failed" and record["kind"] != "cell"
    ]
    context = {**versions.describe(), "corpus": ", ".join(study.recipes)}
    parts: list[Part] = [
        ("list", summary(study, tables)),
        ("heading", "Primary comparisons"),
        ("table", primary(study, tables)),
        ("heading", "In words"),
        *(("words", paragraph(study, table)) for table in tables),
    ]
    for table in tables:
        parts += [("heading", table.title), ("table", results(table))]
    parts.append(("list", notes(study, tables)))
    parts += [
        ("figure", figure)
        for recipe in study.recipes
        for figure in figures_of(study, tables, recipe)
    ]
    sections = (
        (
            "Noise, and how many seeds it takes",
            "Standard deviations over seeds of the dev CER, relative, and the fewest seeds with "
            "which a paired t-test (two-sided 5 %, power 80 %, noncentral t; Cohen 1988) finds the "
            "difference: for one comparison, and with the level shared among all primary ones "
            "(Bonferroni).",
            noise(study, tables),
        ),
        (
            "What dev has chosen",
            "Epochs: the fewest of those tried with which fine-tuning's dev CER falls by under "
            f"{100 * SETTLED:.0f} % (relative) over the last fifth; in brackets its change there. "
            "Candidates: the chosen one, and the dev CERs (%) of all in their order.",
            chosen(study, tables),
        ),
    )
    for heading, words, lines in sections:
        if len(lines) > 1:
            parts += [("heading", heading), ("words", words), ("table", lines)]
    if failures:
        parts += [("heading", "Failed"), ("list", failures)]
    facts = [f"{name}: {value}" for name, value in [*facts_of(context), *trained_by(tables)]]
    return [*parts, ("heading", "How this was made"), ("code", command), ("list", facts)]


def _markdown(title: str, parts: Sequence[Part]) -> str:
    written = [f"# {title}"]
    for kind, content in parts:
        if kind == "heading":
            written.append(f"## {content}")
        elif kind == "words":
            written.append(content)
        elif kind == "list":
            written.append("\n".join(f"- {line}" for line in content))
        elif kind == "table":
            written.append(markdown_lines([[str(cell) for cell in line] for line in content]))
        elif kind == "code":
            written.append(f"```\n{content}\n```")
    return "\n\n".join(written) + "\n"


def _page(title: str, parts: Sequence[Part]) -> str:
    body = [f"<h1>{escape(title)}</h1>", '<p class="meta">A study of AdaKD</p>']
    for kind, content in parts:
        if kind == "heading":
            body.append(f"<h2>{escape(content)}</h2>")
        elif kind == "words":
            body.append(f"<p>{typeset(content)}</p>")
        elif kind == "list":
            name = "notes" if len(body) > 2 else "headline"
            body.append(f'<ul class="{name}">')
            body += [f"<li>{typeset(line)}</li>" for line in content]
            body.append("</ul>")
        elif kind == "table":
            body.append(html_table([cell.value for cell in content[0]], content[1:]))
        elif kind == "figure":
            body.append(html_figure(content))
        elif kind == "code":
            body.append(f"<pre>{escape(content)}</pre>")
    return html_page(f"AdaKD: {title}", body)


def trained_by(tables: Sequence[Table]) -> list[tuple[str, str]]:
    """The revisions and machines that made the runs, which need not be the report's."""
    told = []
    for kind in ("revision", "machine"):
        found: Counter[str] = Counter()
        for table in tables:
            for row in table.rows.values():
                for run in row.runs:
                    path = run.experiment.folder / "versions.json"
                    known = json.loads(path.read_text("utf-8")) if path.is_file() else {}
                    found[known.get(kind, "unknown")] += 1
        said = "; ".join(f"{name} ({number})" for name, number in found.items())
        told.append((f"Runs by {kind}", said or "none"))
    return told


def _write_scores(path: Path, tables: Sequence[Table]) -> None:
    """One line a run: what the report is made of, for those who want to reckon themselves."""
    with atomic_write(path) as file:
        for table in tables:
            for row in table.rows.values():
                for run in row.runs:
                    counts = total(one.normalised for one in run.errors)
                    where = {"recipe": table.recipe, "family": table.family, "cell": row.name}
                    which = {"fold": run.experiment.fold, "seed": run.experiment.seed}
                    facts = {key: run.done[key] for key in ("dev_cer", "steps", "train_seconds")}
                    line = {**where, **which, "test_cer": counts.cer, **counts._asdict(), **facts}
                    file.write(json.dumps(line) + "\n")
