"""The report of a study: tables, verdicts and plots, as one HTML file and as Markdown.

Everything is written from what the runner's records and the experiments' folders hold, a negative
finding as plainly as a win, a cell that was not run as "not run". Reading runs, words and the look
of tables are report.py's, statistics significance.py's, figures plots.py's.
"""

from __future__ import annotations

import json
import math
import shutil
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
    html_lines,
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
    return Table(recipe, family, rows, choices)


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
    return f"p = {p_value:.3f}" if p_value >= 0.001 else "p < 0.001"


def against(table: Table, pair: tuple[str, str]) -> str:
    """One clause on a comparison, with what it can and cannot say."""
    change = table.change(pair)
    names = f"{label_of(pair[0])} against {label_of(pair[1])}"
    if change is None:
        return f"{names}: {NOT_RUN}"
    low, high = signed(change.interval.low), signed(change.interval.high)
    told = {1: "better", -1: "worse", 0: "no difference shown"}[table.better(pair)]
    corrected = "Holm-corrected " if pair in table.adjusted else "exploratory, "
    return (
        f"{names}: {signed(change.relative)} % ({low} % to {high} %, {corrected}"
        f"{p_text(table.p_value(pair))}), {told}"
    )


def adaptivity(study: Study, table: Table) -> list[str]:
    """For each AdaKD that has its controls: may a gain be called adaptive?"""
    said = []
    for name in study.cells:
        controls = {
            study.cells[other].set.get("methods.adakd.control"): other
            for other in study.cells
            if study.cells[other].like == name and study.method(other) == "adakd"
        }
        if not set(CONTROLS) & set(controls):
            continue
        label = label_of(name)
        lacking = [
            control
            for control in CONTROLS
            if control not in controls or table.change((name, controls[control])) is None
        ]
        if lacking:
            said.append(
                f"No gain of {label} may be called adaptive: its control "
                f"{' and '.join(lacking)} was not run."
            )
            continue
        checks = [(name, controls[control]) for control in CONTROLS]
        clauses = "; ".join(against(table, pair) for pair in checks)
        unbeaten = [control for control in CONTROLS if table.better((name, controls[control])) < 1]
        if unbeaten:
            said.append(
                f"No gain of {label} may be called adaptive: it does not beat its control "
                f"{' or '.join(f'`{control}`' for control in unbeaten)} ({clauses})."
            )
            continue
        beaten = [base for base in ("kd", "finetune") if table.better((name, base)) == 1]
        said.append(
            f"{label} beats both controls ({clauses}): "
            + (
                f"its gain over {' and '.join(label_of(base) for base in beaten)} is adaptive."
                if beaten
                else "its weights help as such, yet it is not shown to beat KD or fine-tuning."
            )
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
        "all other intervals and p-values are exploratory.",
        "won : lost counts runs (seeds x folds) with fewer and with more errors. Cost: time of "
        "training over fine-tuning's, dev decoding included and the teacher's training and pass "
        "left out, on a machine that may have done other things.",
        tuned,
        fairness(study, tables),
        "Test sets were decoded by the cells of the tables alone: epochs and candidates were "
        "chosen on dev, from runs that never decode test.",
    ]


# -- tables ---------------------------------------------------------------------------------------


def results(table: Table) -> list[list[Cell]]:
    """Lines under COLUMNS."""
    lines = []
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
            change = table.change((row.name, baseline)) if row.name != baseline else None
            line.append(change_cell(change))
            line.append(Cell(won_and_lost(row, table.rows[baseline]) if change else ""))
        base = table.rows.get("finetune")
        line.append(Cell(cost(row, base) if base else ""))
        lines.append(line)
    return lines


def primary(study: Study, tables: Sequence[Table]) -> list[list[Cell]]:
    """The comparisons named beforehand, with Holm's correction; the first line is the header."""
    names = ("Comparison", "Recipe, family", "Change, %", "p", "Holm", "won : lost", "Verdict")
    lines = [[Cell(name) for name in names]]
    told = {1: ("better", "better"), -1: ("worse", "worse"), 0: ("no difference shown", "")}
    for a, b in study.grid.primary:
        for table in tables:
            change = table.change((a, b))
            line = [Cell(f"{label_of(a)} against {label_of(b)}"), Cell(table.title)]
            if change is None:
                lines.append([*line, Cell(NOT_RUN), *[Cell("")] * 4])
                continue
            word, tone = told[table.better((a, b))]
            shown = change_cell(change)
            lines.append(
                [
                    *line,
                    Cell(shown.value, shown.detail),
                    Cell(f"{change.p_value:.3f}"),
                    Cell(f"{table.adjusted[a, b]:.3f}"),
                    Cell(won_and_lost(table.rows[a], table.rows[b])),
                    Cell(word, tone=tone),
                ]
            )
    return lines


def noise(study: Study, tables: Sequence[Table]) -> list[list[str]]:
    """Spread over seeds on dev, and the seeds that the wanted difference needs."""
    wanted = f"{percent(study.grid.difference, 0)} %"
    count = max(1, sum(len(table.adjusted) for table in tables))
    lines = [
        [
            "Recipe, family", "Cells", "Seeds", "SD of one, %", "SD of the difference, %",
            f"Seeds for {wanted}", f"the same, {count} comparisons",
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
    return lines


def chosen(study: Study, tables: Sequence[Table]) -> list[list[str]]:
    """What dev has chosen in every group."""
    lines = [["Group", "Epochs", *[label_of(name) for name in study.grid.tune]]]
    if not study.grid.tune and not study.grid.epochs:
        return lines
    for table in tables:
        for group, choice in table.choices.items():
            if choice is None:
                lines.append([str(group), *[NOT_RUN] * (len(lines[0]) - 1)])
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
    return lines


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
    context = {
        **versions.describe(),
        "command": command,
        "corpus": ", ".join(study.recipes),
    }
    shown: dict[str, Any] = {
        "summary": summary(study, tables),
        "paragraphs": [paragraph(study, table) for table in tables],
        "primary": primary(study, tables),
        "results": {table.title: results(table) for table in tables},
        "noise": noise(study, tables),
        "chosen": chosen(study, tables),
        "failures": [f for table in tables for row in table.rows.values() for f in row.failures]
        + [
            f"{name}: {record['reason']}"
            for name, record in records.items()
            if record["status"] == "failed" and record["kind"] != "cell"
        ],
        "notes": notes(study, tables),
        "facts": [*facts_of(context), *trained_by(tables)],
    }
    figures = [figure for recipe in study.recipes for figure in figures_of(study, tables, recipe)]
    text = _markdown(title, shown, command)
    write_text(study.folder / "STUDY.md", text)
    write_text(study.folder / "index.html", _page(title, shown, command, figures))
    _write_scores(study.folder / "scores.jsonl", tables)
    if publish:
        shutil.copyfile(study.folder / "STUDY.md", publish)
        shutil.copyfile(study.folder / "scores.jsonl", publish.with_suffix(".jsonl"))
    tail = [*shown["summary"], f"Report: {steps.shown(study.folder / 'index.html')}"]
    return "\n".join([aligned([[str(c) for c in line] for line in shown["primary"]]), "", *tail])


def trained_by(tables: Sequence[Table]) -> list[tuple[str, str]]:
    """The revisions and machines that made the runs, which need not be the report's."""
    found: dict[str, dict[str, int]] = {"revision": {}, "machine": {}}
    for table in tables:
        for row in table.rows.values():
            for run in row.runs:
                path = run.experiment.folder / "versions.json"
                told = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
                for kind, counts in found.items():
                    name = told.get(kind, "unknown")
                    counts[name] = counts.get(name, 0) + 1
    return [
        (f"Runs by {kind}", "; ".join(f"{name} ({n})" for name, n in counts.items()) or "none")
        for kind, counts in found.items()
    ]


def _write_scores(path: Path, tables: Sequence[Table]) -> None:
    with atomic_write(path) as file:
        for table in tables:
            for row in table.rows.values():
                for run in row.runs:
                    counts = total(one.normalised for one in run.errors)
                    line = {
                        "recipe": table.recipe,
                        "family": table.family,
                        "fold": run.experiment.fold,
                        "cell": row.name,
                        "seed": run.experiment.seed,
                        "dev_cer": run.done["dev_cer"],
                        "test_cer": counts.cer,
                        "substitutions": counts.substitutions,
                        "deletions": counts.deletions,
                        "insertions": counts.insertions,
                        "characters": counts.characters,
                        "steps": run.done["steps"],
                        "train_seconds": run.done["train_seconds"],
                    }
                    file.write(json.dumps(line) + "\n")


SECTIONS = (
    ("noise", "Noise, and how many seeds it takes",
     "Standard deviations over seeds of the dev CER, relative, and the fewest seeds with which a "
     "paired t-test (two-sided 5 %, power 80 %, noncentral t; Cohen 1988) finds the difference: "
     "for one comparison, and with the level shared among all primary ones (Bonferroni)."),
    ("chosen", "What dev has chosen",
     "Epochs: the fewest of those tried with which fine-tuning's dev CER falls by under "
     f"{SETTLED:.0%} (relative) over the last fifth; in brackets its change there. Candidates: the "
     "chosen one, and the dev CERs (%) of all in their order."),
)  # fmt: skip


def _markdown(title: str, shown: dict[str, Any], command: str) -> str:
    def table(lines: Sequence[Sequence[Cell]]) -> str:
        return markdown_lines([[str(cell) for cell in line] for line in lines])

    head = [Cell(name) for name in COLUMNS]
    parts = [f"# {title}", "\n".join(f"- {sentence}" for sentence in shown["summary"])]
    if len(shown["primary"]) > 1:
        parts += ["## Primary comparisons", table(shown["primary"])]
    parts += ["## In words", *shown["paragraphs"]]
    for name, lines in shown["results"].items():
        parts += [f"## {name}", table([head, *lines])]
    parts.append("\n".join(f"- {note}" for note in shown["notes"]))
    for key, heading, text in SECTIONS:
        if len(shown[key]) > 1:
            parts += [f"## {heading}", text, markdown_lines(shown[key])]
    if shown["failures"]:
        parts += ["## Failed", "\n".join(f"- {failure}" for failure in shown["failures"])]
    parts += ["## How this was made", f"```\n{command}\n```"]
    parts.append("\n".join(f"- {name}: {value}" for name, value in shown["facts"]))
    return "\n\n".join(part for part in parts if part) + "\n"


def _page(title: str, shown: dict[str, Any], command: str, figures: Sequence[Figure]) -> str:
    body = [f"<h1>{escape(title)}</h1>", '<p class="meta">A study of AdaKD</p>']
    body.append(
        f'<div class="headline">{"".join(f"<p>{typeset(s)}</p>" for s in shown["summary"])}</div>'
    )
    if len(shown["primary"]) > 1:
        first, *lines = shown["primary"]
        body += ["<h2>Primary comparisons</h2>", html_table([c.value for c in first], lines)]
    body.append("<h2>In words</h2>")
    body += [f"<p>{typeset(sentences)}</p>" for sentences in shown["paragraphs"]]
    body.append("<h2>All cells</h2>")
    for name, lines in shown["results"].items():
        body += [f"<h3>{escape(name)}</h3>", html_table(COLUMNS, lines)]
    items = "".join(f"<li>{typeset(note)}</li>" for note in shown["notes"])
    body.append(f'<ul class="notes">{items}</ul>')
    body += [html_figure(figure) for figure in figures]
    for key, heading, text in SECTIONS:
        if len(shown[key]) > 1:
            body += [f"<h2>{heading}</h2>", f"<p>{typeset(text)}</p>", html_lines(shown[key])]
    if shown["failures"]:
        items = "".join(f"<li>{escape(failure)}</li>" for failure in shown["failures"])
        body += ["<h2>Failed</h2>", f'<ul class="notes">{items}</ul>']
    body += ["<h2>How this was made</h2>", f"<pre>{escape(command)}</pre>"]
    facts = "".join(f"<dt>{escape(n)}</dt><dd>{escape(value)}</dd>" for n, value in shown["facts"])
    body.append(f"<dl>{facts}</dl>")
    return html_page(f"AdaKD: {title}", body)
