"""The report of a study: sentences, tables and figures, as one HTML file and as Markdown.

A negative finding is told as plainly as a win, a cell that was not run as "not run". What the runs
show, and what may be claimed, is decided in findings.py; the look of a report is report.py's,
figures are plots.py's.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from statistics import mean, median
from typing import Any

from adakd import finished, plots, published, report, significance, steps, versions
from adakd.config import ADAPTIVE
from adakd.errors import UserError
from adakd.files import atomic_write, write_text
from adakd.findings import (
    BETTER,
    CONTROL,
    CONTROLS,
    FEWEST,
    OPEN,
    SAME,
    VERDICTS,
    WORSE,
    Comparison,
    Pair,
    Table,
    adaptive,
    compared,
    controls_of,
    count_array,
    minutes_of,
    read_table,
    shares,
    still_falling,
    unit_of,
)
from adakd.grid import SETTLED, Choice, Group, Study
from adakd.place import INT8
from adakd.progress import clock
from adakd.report import (
    BASELINES,
    DISK,
    IN_SENTENCES,
    NOT_RUN,
    Cell,
    Figure,
    Line,
    Part,
    Run,
    aligned,
    bracket,
    change_cell,
    label_of,
    percent,
    signed,
    size,
)
from adakd.score import total
from adakd.significance import Change

PREDICTED = (
    "AdaKD gives the teacher more weight on easy utterances than on hard ones, most at first: what "
    "it gains over one weight for all should lie with the easy ones."
)
KINDS = ("substitutions", "deletions", "insertions")

# -- words ----------------------------------------------------------------------------------------


def listed(names: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(names[:-1]), *names[-1:])))


def counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def p_text(p_value: float) -> str:
    return f"{p_value:.3f}" if p_value >= 0.001 else "< 0.001"


def spanned(numbers: Sequence[int | None]) -> str:
    """The fewest and the most seeds; None is more than were looked at."""
    ends = [end(each or math.inf for each in numbers) for end in (min, max)]
    low, high = (f"over {significance.MOST_SEEDS}" if n == math.inf else str(n) for n in ends)
    return low if low == high else f"{low} to {high}"


def headline(study: Study, tables: Sequence[Table], comparisons: Sequence[Comparison]) -> list[str]:
    """The first screen: what was compared, on what, who wins by how much, is it the adaptivity.

    What stands before the first colon of a paragraph is what it is about.
    """
    planned = sum(len(row.planned) for table in tables for row in table.rows.values())
    there = sum(len(table.runs) for table in tables)
    methods = listed(list(dict.fromkeys(label_of(study.method(name)) for name in study.cells)))
    said = [
        f"Compared: {methods}; with variants {len(study.cells)} cells, as "
        f"{listed(list(study.families))}, on "
        f"{listed([corpus(tables, recipe) for recipe in study.recipes])}. "
        + (f"All {planned} runs" if there == planned else f"Unfinished: {there} of {planned} runs")
        + " are there. Below, changes of the test CER in percent with 95 % intervals, less than "
        "zero being better; the verdicts hold after Holm's correction.",
    ]
    for title in dict.fromkeys(one.title for one in comparisons):
        own = [one for one in comparisons if one.title == title]
        clauses = []
        for verdict in VERDICTS:
            if found := [one for one in own if one.verdict == verdict]:
                where = "; ".join(f"{one.table.title} {amount(one)}".strip() for one in found)
                clauses.append(f"{verdict} in {len(found)} of {len(own)} ({where})")
        said.append(f"{title}: {'; '.join(clauses)}.")
    said += adaptivity(study, comparisons)
    said += [*beside(study, tables), *headroom(study, tables), *lengths(tables)]
    return [*said, *telling(study, comparisons)]


def beside(study: Study, tables: Sequence[Table]) -> list[str]:
    """What the primary comparisons are about, against all that they do not name."""
    clear, others = [], 0
    for (own, other), table, change in unnamed(study, tables):
        if change.p_value >= significance.LEVEL:
            others += 1
            continue
        fewer = "fewer" if change.relative < 0 else "more"
        where = f"{table.title} {signed(change.relative)} % {bracket(change.interval, signed)}"
        clear.append(f"{label_of(own)} {fewer} than {label_of(other)} ({where})")
    if others:
        more = "other " if clear else ""
        clear.append(f"zero is inside in {counted(others, f'{more}comparison')}")
    if not clear:
        return []
    return [f"Errors beside, exploratory, without correction: {'; '.join(clear)}."]


def headroom(study: Study, tables: Sequence[Table]) -> list[str]:
    """How far ahead of fine-tuning the teachers are, where all of both are there."""
    ahead = [
        f"{signed(change.relative)} % {bracket(change.interval, signed)} ({table.title})"
        for table in tables
        if (change := against_teacher(study, table, "finetune"))
        and len(table.rows["finetune"].runs) == len(table.rows["finetune"].planned)
        and len(table.teacher) == len(table.choices)
    ]
    return [f"Teachers: CER against Fine-tuning {listed(ahead)}."] if ahead else []


def lengths(tables: Sequence[Table]) -> list[str]:
    """Where fine-tuning had not settled in the runs that are compared."""
    found = {
        table.title: still_falling(table.rows["finetune"].runs)
        for table in tables
        if "finetune" in table.rows
    }
    known = {title: gain for title, gain in found.items() if math.isfinite(gain)}
    falling = [f"{percent(gain)} % ({title})" for title, gain in known.items() if gain >= SETTLED]
    if not falling:
        return []
    return [
        f"Length: in the last fifth of the runs compared, fine-tuning's dev CER still falls by "
        f"{listed(falling)}: longer trainings may compare otherwise."
    ]


def telling(study: Study, comparisons: Sequence[Comparison]) -> list[str]:
    """How small a difference could be told, and how many seeds the wanted one may take."""
    known = [one for one in comparisons if one.detectable]
    if not known:
        return []
    wanted = percent(study.grid.difference, 0)
    found = [one.detectable[1] for one in known]
    enough = sum(each <= study.grid.difference for each in found)
    span = " to ".join(dict.fromkeys(percent(each, 1) for each in (min(found), max(found))))
    said = (
        "Noise: with the seeds and the test speech that there are, a difference is found with "
        f"80 % chance, after correction, from {span} % on; {wanted} % can be told in {enough} of "
        f"{len(known)} comparisons. No difference shown does not mean that there is none."
    )
    if planned := [one.needed[1] for one in comparisons if one.needed]:
        said += f" The plan, by the spread of the dev CER alone: {spanned(planned)} seeds"
        never = sum(one.enough[1] is None for one in comparisons if one.enough)
        tried = sum(bool(one.enough) for one in comparisons)
        said += (
            f"; with the luck of this test speech no number will do in {never} of {tried}."
            if never
            else "."
        )
    return [said]


def amount(one: Comparison) -> str:
    """The change with its interval; where nothing may be claimed, why."""
    if one.change is None or one.open:
        return one.open if one.change else ""
    said = f"{signed(one.change.relative)} % {bracket(one.change.interval, signed)}"
    if one.verdict == SAME and one.change.p_value < significance.LEVEL:  # an interval without zero
        said += f", p {p_text(one.change.p_value)} alone but {p_text(one.holm)} corrected"
    return said


def corpus(tables: Sequence[Table], recipe: str) -> str:
    """A recipe and how much is trained and tested on."""
    own = [table for table in tables if table.recipe == recipe]
    table = max(own, key=lambda table: len(table.runs))
    details = [counted(len(seeds_of(table)), "seed")]
    if len(table.choices) > 1:
        shared = "spread over" if own_seeds(table) else "in each of"
        details = [f"{details[0]} {shared} {len(table.choices)} folds"]
    if table.minutes:
        details.append(f"{mean(table.minutes):.0f} min to train on")
    if heard := {(run.key[0], one.id): one.speaker for run in table.runs for one in run.errors}:
        speakers = len(set(heard.values()))
        utterances = f"{len(heard)} utterances by " if len(heard) > speakers else ""
        details.append(f"tested on {utterances}{counted(speakers, 'speaker')}")
    return f"{recipe} ({', '.join(details)})" if details else recipe


def seeds_of(table: Table) -> set[int]:
    """All seeds that are, or will be, tested there."""
    return {seed for row in table.rows.values() for _, seed in row.planned}


def own_seeds(table: Table) -> bool:
    """Whether folds have seeds of their own: between seeds the fold then differs as well."""
    planned = {key for row in table.rows.values() for key in row.planned}
    return len(planned) < len(seeds_of(table)) * len({fold for fold, _ in planned})


def adaptivity(study: Study, comparisons: Sequence[Comparison]) -> list[str]:
    """Whether a gain may be called adaptive, of every cell whose alpha follows x."""
    every = {name for cell in study.cells for name in controls_of(study, cell).values()}
    asked = dict.fromkeys(one.pair[0] for one in comparisons if one.pair[0] not in every)
    places = len({one.table.title for one in comparisons})
    said, without = [], []
    for name in [name for name in asked if study.method(name) in ADAPTIVE]:
        label, shown = label_of(name), adaptive(study, comparisons, name)
        if shown is None:
            without.append(label)
            continue
        both = f"both controls ({'; '.join(CONTROLS.values())})"
        controls = {controls_of(study, name)[control] for control in CONTROLS}
        judged = [one for one in comparisons if one.pair[0] == name and one.pair[1] in controls]
        if shown:
            where = "; ".join(
                f"{title} over {listed([label_of(other) for other in others])}"
                for title, others in shown.items()
            )
            found = (
                f"shown in {len(shown)} of {places}: {where}. There {label} beats {both} as well; "
                f"nowhere else may a gain of {label} be called adaptive"
            )
        elif all(one.verdict in (OPEN, NOT_RUN) for one in judged):
            found = f"not known. {label} against {both} is open or {NOT_RUN}"
        else:
            unknown = {one.table.title for one in judged if one.verdict in (OPEN, NOT_RUN)}
            rest = f" (open or {NOT_RUN} in {len(unknown)} of {places})" if unknown else ""
            found = (
                f"not shown. Nowhere does {label} gain and beat {both}{rest}: no gain of {label} "
                "may be called adaptive"
            )
        said.append(f"Adaptivity: {found}.")
    if without:
        said.append(
            f"Adaptivity: not asked. Beating the mechanism controls of {listed(without)} is not "
            "among the primary comparisons, so no gain may be called adaptive."
        )
    return said


def fairness(study: Study, tables: Sequence[Table]) -> str:
    """Whether all cells of a group and seed had the same start, teacher and steps, as found."""
    odd = []
    for table in tables:
        beside: dict[Any, dict[Any, list[str]]] = {}
        for row in table.rows.values():
            for run in row.runs:
                facts = run.done["inputs"] | {"steps": run.done.get("steps")} | run.made
                for what in ("data", "steps", "start", "teacher", "machine"):
                    if facts.get(what) is not None:
                        kinds = beside.setdefault((*run.key, what), {})
                        kinds.setdefault(facts[what], []).append(label_of(row.name))
        for (fold, seed, what), kinds in beside.items():
            if len(kinds) > 1:
                fewest = ", ".join(sorted(kinds.values(), key=len)[0])
                where = f"{table.title}{'' if fold < 0 else f', fold {fold}'}, seed {seed}"
                odd.append(f"{fewest} ({where}: {what})")
    if odd:
        return f"NOT alike, other than the cells beside them: {'; '.join(odd)}."
    learned = "adakd-learned" in map(study.method, study.cells)
    but = ", but that AdaKD (learned) holds a part of the training set out" if learned else ""
    runs = [run for table in tables for run in table.runs if "steps" in run.done]  # not int8
    known = sum("start" in run.done["inputs"] for run in runs)
    whole = f"in {'every run' if known == len(runs) else f'{known} of {len(runs)} runs'}"
    alone = ""
    if known < len(runs):
        alone = " In all others only data and the number of steps could be checked."
    return (
        f"Checked {whole}: beside each other, all cells start from the same student, have the same "
        "data and teacher and make the same number of optimiser steps. Batches and their order "
        f"follow from the seed{but}.{alone}"
    )


def twice(study: Study, tables: Sequence[Table]) -> Iterator[tuple[str, Run, Run]]:
    """Runs of cells that differ in their names alone, as a tuned one may, and what to call both."""
    for table in tables:
        first: dict[Any, tuple[str, Run]] = {}
        chosen = {group.fold: (group, choice) for group, choice in table.choices.items() if choice}
        for name in study.cells:
            for run in table.rows[name].runs:
                group, choice = chosen[run.experiment.fold]
                same = study.cell_task(group, name, run.experiment.seed, choice).training
                label, other = first.setdefault(same, (label_of(name), run))
                if other is not run:
                    yield f"{label_of(name)} is {label}", run, other


def repeats(study: Study, tables: Sequence[Table]) -> str:
    """What dev chose that another cell has, and what cells that were run again gave."""
    alike: Counter[str] = Counter()
    apart = []
    for said, run, other in twice(study, tables):
        alike[said] += 1
        if "taken_over" not in run.done:
            pairs = zip(run.errors, other.errors, strict=True)
            apart.append(any(one.normalised.errors != two.normalised.errors for one, two in pairs))
    if not alike:
        return "Here no two cells have the same settings and seed."
    found = ", ".join(f"{both} in {counted(number, 'run')}" for both, number in alike.items())
    said = f"Dev chose what another cell has: {found}. What is the same is trained once"
    if not apart:
        return f"{said}."
    exact = ", as with one thread on a CPU they must: chance is in the seed alone"
    return (
        f"{said}, but {len(apart)} of these were run again: {len(apart) - sum(apart)} make the "
        f"same errors{'' if any(apart) else exact}."
    )


def same_twice(study: Study, tables: Sequence[Table]) -> str:
    """By how much the times of one and the same training differ, where some were run again."""
    times = [
        [each.done["train_seconds"] for each in runs]
        for _, *runs in twice(study, tables)
        if "taken_over" not in runs[0].done and all("train_seconds" in r.done for r in runs)
    ]
    if not times:
        return ""
    longest = max(max(both) / min(both) for both in times)
    return f" (of the same training run twice, one took up to {longest:.2f} x as long)"


def limits(study: Study, tables: Sequence[Table]) -> list[str]:
    """What the study cannot say: as the grid has it, and what is plain from its settings."""
    sizes = []
    for table in tables:
        ends = [
            next((size(run.done["parameters"]) for run in runs if "parameters" in run.done), "")
            for runs in (table.teacher, table.runs)
        ]
        if all(ends):
            sizes.append(f"{table.title}: {ends[0]} to {ends[1]}")
    found = list(study.grid.limits)
    if sizes:
        found.append(f"Models are small (parameters of teacher and student): {'; '.join(sizes)}.")
    permuted = [name for name in study.cells if study.cells[name].set.get(CONTROL) == "permuted"]
    if permuted and len({seed for table in tables for seed in seeds_of(table)}) > 1:
        found.append(
            f"{listed([label_of(name) for name in permuted])}: one permutation of x for all seeds; "
            "its luck is in no interval."
        )
    taught = {seed for table in tables for seed in teacher_seeds(study, table)}
    if len(taught) == 1 and any(len(seeds_of(table)) > 1 for table in tables):
        found.append(
            "Students of all seeds have one teacher (in each fold): its luck is in no interval."
        )
    for table in tables:
        for fold in sorted({run.key[0] for run in table.runs}):
            where = f"{table.title}{'' if fold < 0 else f', fold {fold}'}"
            runs = [run for run in table.runs if run.key[0] == fold]
            times = {run.made["taught"] for run in runs if "taught" in run.made}
            if len(times) > 1:
                found.append(
                    f"The students of {where} were made in {len(times)} sittings, each with a "
                    "teacher trained anew with the same settings, which need not be the same to "
                    "the bit."
                )
    if folded := sorted({table.recipe for table in tables if len(table.choices) > 1}):
        found.append(
            f"The folds of {listed(folded)} train on mostly the same people, but are counted as if "
            "they were independent."
        )
    return found


def teacher_seeds(study: Study, table: Table) -> set[int]:
    """With which seeds the teachers of a table are trained."""
    first = next(iter(study.cells))
    return {
        study.place(group, first, seed, study.any_choice).seed_of("teacher")
        for group in table.choices
        for seed in study.seeds(first, group)
    }


def once(study: Study, group: Group, records: dict[str, Any]) -> dict[str, list[float]]:
    """How long the tasks took that all cells of a group share, by kind, seconds; or published."""
    found: dict[str, list[float]] = {}
    for name, one in records.items():
        if one["kind"] in ("teacher", "difficulty") and name.startswith(f"{group} "):
            found.setdefault(one["kind"], []).append(one["seconds"])
    return {**study.lines.get(str(group), {}).get("seconds", {}), **found}


def notes(study: Study, tables: Sequence[Table], records: dict[str, Any]) -> list[str]:
    """What a reader must know to read the tables rightly."""
    grid = study.grid
    tuned = "Nothing was tuned here: settings are the grid's, and where it has none the recipe's."
    if grid.epochs:
        tuned = "Epochs alone were chosen here, on dev."
    if grid.tune:
        effort = len(next(iter(grid.tune.values())))
        labels = ", ".join(label_of(name) for name in grid.tune)
        tuned = (
            f"Tuning effort: {effort} candidates x {counted(len(grid.tune_seeds), 'seed')} for "
            f"each of {labels}, chosen by dev CER within each recipe, family and fold; the rest is "
            "as in the grid. A cell that is like a tuned one has its choice."
        )
        if rest := [name for name in study.cells if not set(study.ancestry(name)) & set(grid.tune)]:
            tuned += f" Not tuned: {listed([label_of(name) for name in rest])}."
        tested = {(table.recipe, seed) for table in tables for seed in seeds_of(table)}
        if both := [one for one in sorted(tested) if one[1] in grid.tune_seeds]:
            where = listed([f"seed {seed} of {recipe}" for recipe, seed in both])
            tuned += (
                f" Of the tested seeds, {where} also chose: with it a tuned cell has the luck of "
                f"the best of {effort}."
            )
    units = {unit_of(row.runs) for table in tables for row in table.rows.values() if row.runs}
    whole = ""
    if "fold" in units:
        whole = "A fold that has a single seed is drawn as a whole, its seed's luck with it. "
    over = " or ".join(f"{unit}s" for unit in sorted(units)) or "speakers"
    taught = [
        seconds
        for table in tables
        for run in table.teacher
        if (seconds := run.done.get("train_seconds"))
    ]
    teacher = f" ({clock(median(taught))} to train)" if taught else ""
    if looked := [
        seconds
        for group in study.groups
        for seconds in once(study, group, records).get("difficulty", [])
    ]:
        teacher += f" and, for x from another source, {clock(median(looked))}"
    found = [
        "CER: mean over seeds, all folds put together, of normalised text in code points. "
        "S / D / I: substitutions, deletions and insertions, in percent of the reference.",
        f"Brackets: 95 %, from a hierarchical bootstrap over seeds and then {over} (speakers "
        "where five or more are known), with t quantiles, since few seeds and speakers make the "
        f"error itself uncertain. {whole}Changes are relative, paired by seed and test speech; "
        "below zero is better.",
        f"Holm's correction covers all {len(tables) * len(grid.primary)} primary comparisons that "
        "the grid names, those not run too. One with runs missing is open: nothing is claimed of "
        "it. All other intervals are exploratory and have no colour.",
        "won : lost counts runs with fewer and with more errors. Training: median time of a run, "
        "dev decoding included, on a machine that did other things besides"
        f"{same_twice(study, tables)}: for what a method costs see docs/PERFORMANCE.md. The "
        f"teacher{teacher} and its pass come on top, once for all cells.",
        tuned,
        "Test sets were decoded by the cells of the tables alone: epochs and candidates were "
        "chosen on dev, from runs that never decode test.",
    ]
    return [*found, fairness(study, tables)] if any(table.runs for table in tables) else found


# -- tables: the first line is the header ---------------------------------------------------------


def table_of(
    names: Sequence[str],
    comparisons: Sequence[Comparison],
    columns: Callable[[Comparison, Change], Sequence[Cell | str]],
) -> list[Line]:
    """A line for every comparison, with these columns where it has been run."""
    lines: list[Line] = [["Comparison", "Recipe, family", *names]]
    for one in comparisons:
        found = columns(one, one.change) if one.change else [NOT_RUN, *[""] * (len(names) - 1)]
        lines.append([one.title, one.table.title, *found])
    return lines


def primary(comparisons: Sequence[Comparison]) -> list[Line]:
    """The comparisons named beforehand, with Holm's correction."""

    def columns(one: Comparison, change: Change) -> Sequence[Cell | str]:
        p_value = Cell(p_text(one.holm), f"({p_text(change.p_value)})")
        tone = {BETTER: "better", WORSE: "worse", OPEN: "open"}.get(one.verdict, "")
        verdict = Cell(f"{one.verdict}{': ' if one.open else ''}{one.open}", tone=tone)
        return [
            plain(change),
            "" if one.open else p_value,
            won_and_lost(one.table, one.pair),
            verdict,
        ]

    names = ("Change, %", "Holm's p (alone)", "won : lost", "Verdict")
    return table_of(names, comparisons, columns)


def plain(change: Change | None) -> Cell:
    """Without a colour, which would be a claim."""
    return change_cell(change)._replace(tone="")


def won_and_lost(table: Table, pair: Pair) -> str:
    """In how many runs a cell makes fewer errors, and in how many more."""
    errors = [
        [total(one.normalised for one in run.errors).errors for run in both]
        for both in table.both(pair)
    ]
    return f"{sum(a < b for a, b in errors)} : {sum(a > b for a, b in errors)}"


def cost(table: Table, name: str) -> str:
    """Median time of training, since a machine may stand still; int8 students have none."""
    known = [each for run in table.rows[name].runs if (each := run.done.get("train_seconds"))]
    return clock(median(known)) if known else ""


def by_kind(runs: Sequence[Run]) -> str:
    return " / ".join(percent(share, 1) for share in shares(runs))


def against_teacher(study: Study, table: Table, name: str) -> Change | None:
    """Relative change of the CER from a cell to its teachers, each in its fold."""
    teachers = {run.key[0]: run for run in table.teacher}
    runs = table.rows[name].runs if name in table.rows else []
    both = [(teachers[run.key[0]], run) for run in runs if run.key[0] in teachers]
    if len(teacher_seeds(study, table)) > 1:  # that of the first seed alone was read
        both = [(teacher, run) for teacher, run in both if teacher.key == run.key]
    return significance.compare(*count_array(both)) if both else None


def results(study: Study, table: Table) -> list[Line]:
    """A line for every cell."""
    line: list[Cell | str]
    bases = [name for name in BASELINES if name in table.rows]
    int8 = any(row.name.endswith(INT8) for row in table.rows.values())
    compared = [each for name in bases for each in (f"vs {IN_SENTENCES[name]}, %", "won : lost")]
    header = ["Cell", "Runs", "CER, %", "S / D / I, %", *compared, "Training"]
    lines: list[Line] = [[*header, DISK] if int8 else header]
    if table.teacher:
        cer = percent(sum(shares(table.teacher)))
        line = ["Teacher", str(len(table.teacher)), cer, by_kind(table.teacher)]
        for base in bases:
            line += [plain(against_teacher(study, table, base)), ""]
        lines.append([*line, *[""] * (len(lines[0]) - len(line))])
    for row in table.rows.values():
        there, planned = len(row.runs), len(row.planned)
        runs = str(there) if there == planned else f"{there} of {planned}"
        line = [label_of(row.name), runs]
        if not row.runs:
            line.append("failed" if row.failed else NOT_RUN)
            lines.append([*line, *[""] * (len(lines[0]) - len(line))])
            continue
        line += [Cell(percent(row.cer), bracket(row.interval, percent)), by_kind(row.runs)]
        for base in bases:
            pair = row.name, base
            change = table.change(pair) if row.name != base else None
            line += [plain(change), won_and_lost(table, pair) if change else ""]
        line.append(cost(table, row.name))
        if int8:
            weights = row.runs[0].weights
            line.append(f"{weights / 1e6:.3g} MB" if weights else "")
        lines.append(line)
    return lines


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


def others(study: Study, tables: Sequence[Table]) -> list[Line]:
    """A line for each of `unnamed`."""
    lines: list[Line] = [["Comparison", "Recipe, family", "Runs", "Change, %", "won : lost"]]
    for pair, table, change in unnamed(study, tables):
        there, planned = len(table.both(pair)), len(table.planned(pair))
        lines.append(
            [
                f"{label_of(pair[0])} against {label_of(pair[1])}",
                table.title,
                f"{there} of {planned}" if there < planned else str(planned),
                plain(change),
                won_and_lost(table, pair),
            ]
        )
    return lines


def kinds(comparisons: Sequence[Comparison]) -> list[Line]:
    """By how many points substitutions, deletions and insertions differ."""
    lines: list[Line] = [["Comparison", "Recipe, family", *(kind.title() for kind in KINDS)]]
    for one in comparisons:
        if both := one.table.both(one.pair):
            own, other = (shares(runs) for runs in zip(*both, strict=True))
            apart = [signed(a - b) for a, b in zip(own, other, strict=True)]
            lines.append([one.title, one.table.title, *apart])
    return lines


# Columns of few studies, and what they say.
RARE = {
    "Taken for wrong": "the share of the transcripts that a guard doubts by more than one half",
    "Learning": "the share of a run in which AdaKD (learned) finds its k and t",
}


def weights(tables: Sequence[Table]) -> list[Line]:
    """The teacher's weight in every cell that gives each utterance its own, as runs have it."""
    lines: list[list[Cell | str]] = [
        ["Cell", "Recipe, family", "t", "k", "alpha at first", "alpha in the end", *RARE]
    ]
    for table, row in [(each, row) for each in tables for row in each.rows.values()]:
        runs = [run for run in row.runs if {"start", "end"} <= run.done.get("alpha", {}).keys()]
        if not runs:
            continue
        found = [run.done["alpha"] for run in runs]
        ends = [
            Cell(
                f"{middle('mean', each):.2f}",
                f"[{middle('p10', each):.2f}, {middle('p90', each):.2f}]",
            )
            for each in ([one[end] for one in found] for end in ("start", "end"))
        ]
        t = middle("t", found), median(one.get("t_end", one["t"]) for one in found)
        k = middle("k_start", found), middle("k_end", found)
        spent = [
            run.done["learning_seconds"] / run.done["train_seconds"]
            for run in runs
            if "learning_seconds" in run.done
        ]
        doubted = [one["doubted"] for one in found if "doubted" in one]
        lines.append(
            [
                label_of(row.name),
                table.title,
                from_to(*t),
                from_to(*k),
                *ends,
                f"{percent(median(doubted), 1)} %" if doubted else "",
                f"{percent(mean(spent), 0)} % of the time" if spent else "",
            ]
        )
    empty = {place for place, column in enumerate(zip(*lines[1:], strict=True)) if not any(column)}
    return [[cell for place, cell in enumerate(line) if place not in empty] for line in lines]


def middle(name: str, found: Sequence[dict[str, float]]) -> float:
    return median(one[name] for one in found)


def from_to(first: float, last: float) -> str:
    return f"{first:.3g}" if first == last else f"{first:.3g} to {last:.3g}"


def partly(cell: Cell, there: Sequence[Any], planned: Collection[Any]) -> Cell:
    """The cell, with how many of its runs there are where some are missing."""
    missing = f" ({len(there)} of {len(planned)})" if len(there) < len(planned) else ""
    return cell._replace(detail=cell.detail + missing)


def across(study: Study, tables: Sequence[Table], recipes: Sequence[str]) -> list[Line]:
    """Cells and gains in a recipe, and by how much they differ in others with the same test set."""
    first, *rest = recipes
    lines: list[Line] = [["", "Family", first, *[f"{name}, %" for name in rest]]]
    of_family = {(table.recipe, table.family): table for table in tables}
    for family in study.families:
        every = [of_family.get((name, family)) for name in recipes]
        epochs = [epochs_of(study, table) if table else "" for table in every]
        if any(epochs):
            lines.append(["Epochs", family, *epochs])
    for names in [*[(name,) for name in study.cells], *map(tuple, study.grid.primary)]:
        for family in study.families:
            base = of_family.get((first, family))
            if base is None:
                continue
            theirs = base.together(names)
            label = " against ".join(map(label_of, names))
            if not theirs:
                lines.append([label, family, NOT_RUN, *[""] * len(rest)])
                continue
            cells: list[Cell | str] = []
            for name in rest:
                table = of_family.get((name, family))
                own = table.together(names) if table else {}
                both = [(*own[key], *theirs[key]) for key in own if key in theirs]
                planned = base.planned(names) & table.planned(names) if table else set()
                try:
                    found = significance.compare(*count_array(both)) if both else None
                    cells.append(partly(plain(found), both, planned) if found else NOT_RUN)
                except UserError:
                    cells.append("other test speech")
            if len(names) == 1:
                row = base.rows[names[0]]
                here = Cell(percent(row.cer), bracket(row.interval, percent))
            else:
                here = plain(base.change((names[0], names[1])))
            here = partly(here, list(theirs), base.planned(names))
            lines.append([label, family, here, *cells])
    return lines


def epochs_of(study: Study, table: Table) -> str:
    """For how many epochs its students were trained; nothing where that is not known yet."""
    found = {epochs_set(study, group, choice) for group, choice in table.choices.items() if choice}
    return " or ".join(map(str, sorted(found))) if begun(table) else ""


def epochs_set(study: Study, group: Group, choice: Choice) -> int:
    """The epochs of a group's students, as its first cell has them."""
    first = next(iter(study.cells))
    place = study.place(group, first, study.seeds(first, group)[0], choice)
    return place.config.train_of("student").epochs


def falling(study: Study, tables: Sequence[Table]) -> list[Line]:
    """How much the dev CER still falls at the end of the runs that are compared."""
    told = {*BASELINES, *study.grid.tune, *(pair[0] for pair in study.grid.primary)}
    names = [each for each in study.cells if each in told]
    lines: list[Line] = [["Recipe, family", *map(label_of, names)]]
    for table in tables:
        rows = [table.rows[name] for name in names]
        gains = [still_falling(row.runs) for row in rows]
        if any(map(math.isfinite, gains)):
            cells = [
                percent(gain, 1) if math.isfinite(gain) else "not known" if row.runs else NOT_RUN
                for gain, row in zip(gains, rows, strict=True)
            ]
            lines.append([table.title, *cells])
    return lines


def noise(study: Study, comparisons: Sequence[Comparison]) -> list[Line]:
    """Spread over seeds on dev, and the seeds that the wanted difference needs."""
    return table_of(
        (
            "Seeds", "SD of each, %", "SD of the difference, %",
            f"Seeds for {percent(study.grid.difference, 0)} % (corrected)",
            "On this test speech (corrected)",
            "Told, % (corrected)",
        ),
        [one for one in comparisons if one.needed],
        lambda one, _: [
            str(one.seeds),
            " and ".join(percent(each, 1) for each in one.alone),
            percent(one.deviation, 1),
            "{} ({})".format(*[spanned([number]) for number in one.needed]),
            "{} ({})".format(*[str(number or "none") for number in seeds_in_all(one)])
            if one.enough
            else "not known",
            "{} ({})".format(*[percent(each, 1) for each in one.detectable])
            if one.detectable
            else "",
        ],
    )  # fmt: skip


def seeds_in_all(one: Comparison) -> list[int | None]:
    """`enough` in seeds as the table counts them: over all folds, where each has its own."""
    folds = len(one.table.choices) if own_seeds(one.table) else 1
    return [number and number * folds for number in one.enough]


def leverage(
    study: Study, tables: Sequence[Table], comparisons: Sequence[Comparison]
) -> list[Line]:
    """How far the settings of a method move the dev CER, beside what luck does."""
    tuned = study.grid.tune
    lines: list[Line] = [
        ["Recipe, family", "Luck", *[label_of(name) for name in tuned], "alpha at first"]
    ]
    for table in tables:
        choices = [choice for choice in table.choices.values() if choice]
        if not tuned or not choices:
            continue
        candidates = len(next(iter(tuned.values())))
        known = [
            one
            for one in comparisons
            if one.table is table
            and math.isfinite(one.deviation)
            and "finetune" not in map(study.method, one.pair)
        ]
        luck = "not known"
        if known and not own_seeds(table):
            # Of a mean over tune_seeds; a difference has the luck of two runs. The comparisons
            # share seeds and a cell: the degrees of freedom are those of one of them.
            spread = math.sqrt(mean(one.deviation**2 for one in known) / 2)
            free = min(one.seeds for one in known) - 1
            apart_by = significance.range_quantile(candidates, free)
            of_one = spread / math.sqrt(len(study.grid.tune_seeds))
            luck = percent(math.expm1(apart_by * of_one), 1)
        ranges = []
        for name in tuned:
            dev = [each.dev[name] for each in choices]
            apart = [
                max(cers) / min(cers) - 1 for cers in dev if 0 < min(cers) <= max(cers) < math.inf
            ]
            ranges.append(percent(mean(apart), 1) if apart else "")
        alpha = ""
        if found := first_schedule(study, table, table.runs):
            low, high = report.first_alphas(found[1], (10, 90))
            alpha = f"{low:.2f} to {high:.2f} ({label_of(found[0])})"
        lines.append([table.title, luck, *ranges, alpha])
    return lines


def chosen(study: Study, tables: Sequence[Table]) -> list[Line]:
    """What dev has chosen in every group that has come so far."""
    lines: list[Line] = [["Group", "Epochs", *[label_of(name) for name in study.grid.tune]]]
    for group, choice in [each for table in tables for each in table.choices.items()]:
        if choice is None:
            continue
        epochs: Cell | str = f"{epochs_set(study, group, choice)}, not chosen here"
        if choice.epochs:
            gained = ", ".join(f"{n}: {signed(-gain)} %" for n, gain in choice.gains)
            settled = choice.gains[-1][1] < SETTLED
            epochs = Cell(str(choice.epochs) + ("" if settled else ", NOT settled"), f"({gained})")
        line: list[Cell | str] = [str(group), epochs]
        for name, candidates in study.grid.tune.items():
            picked = candidates[choice.tuned[name]]
            cers = " ".join(
                percent(cer, 1) if math.isfinite(cer) else "failed" for cer in choice.dev[name]
            )
            line.append(Cell(said(picked) + at_an_end(picked, candidates), f"({cers})"))
        lines.append(line)
    return lines


def said(settings: dict[str, Any]) -> str:
    return ", ".join(f"{key.split('.')[-1]} {value}" for key, value in settings.items())


def at_an_end(picked: dict[str, Any], candidates: Sequence[dict[str, Any]]) -> str:
    """A mark where a number is the least or the greatest of those tried."""
    for key, value in picked.items():
        tried = [other[key] for other in candidates if key in other]
        numbers = all(type(number) in (int, float) for number in tried)
        if numbers and min(tried) < max(tried) and value in (min(tried), max(tried)):
            return " *"
    return ""


def one_for_all(study: Study, tables: Sequence[Table]) -> list[Line]:
    """The dev CER of each candidate over the mean of its method's, in every recipe and family."""
    choices = {table.title: [one for one in table.choices.values() if one] for table in tables}
    titles = [title for title in choices if choices[title]]
    lines: list[Line] = [["Method", "Candidate", "All, %", *[f"{title}, %" for title in titles]]]
    for name, candidates in study.grid.tune.items():
        ratios = []  # of each recipe and family: of each candidate, the mean over folds
        for title in titles:
            folds = [over_mean(one.dev[name]) for one in choices[title]]
            ratios.append([mean(of_one) for of_one in zip(*folds, strict=True)])
        of_candidate = list(zip(*ratios, strict=True))
        least = min(map(mean, of_candidate), default=math.inf)
        for candidate, own in zip(candidates, of_candidate, strict=False):
            best = " (best)" if mean(own) == least < math.inf else ""
            told = [signed(each - 1) if each < math.inf else "failed" for each in (mean(own), *own)]
            lines.append([label_of(name), said(candidate) + best, *told])
    return lines


def over_mean(cers: Sequence[float]) -> list[float]:
    """CERs over the mean of those that are finite; one without errors at all is average."""
    middle = mean([cer for cer in cers if cer < math.inf] or [0.0])
    return [cer / middle if middle else 1.0 for cer in cers]


# -- figures --------------------------------------------------------------------------------------


def forest(comparisons: Sequence[Comparison]) -> list[Figure]:
    """The primary comparisons at a glance."""
    panels: dict[str, list[plots.Difference]] = {}
    for one in comparisons:
        if one.change and all(map(math.isfinite, (one.change.relative, *one.change.interval))):
            drawn = plots.Difference(
                one.table.title, one.change.relative, one.change.interval, one.verdict
            )
            panels.setdefault(one.title, []).append(drawn)
    words = (
        "Relative change of the test CER with its 95 % interval. Colour: better or worse after "
        "Holm's correction; grey: no difference shown, or still open."
    )
    return [Figure(plots.differences(panels), "At a glance", words)] if panels else []


def figures_of(
    study: Study, tables: Sequence[Table], comparisons: Sequence[Comparison], recipe: str
) -> Iterator[Figure]:
    """The figures of a recipe, its families side by side; without data there is none."""
    own = {table.family: table for table in tables if table.recipe == recipe and table.runs}
    if not own:
        return

    def drawn(table: Table, names: Sequence[str]) -> list[plots.Method]:
        rows = [table.rows[name] for name in names if name in table.rows]
        return [plots.Method(r.name, label_of(r.name), r.cer, r.interval) for r in rows if r.runs]

    yield Figure(
        plots.cer_by_method(
            {family: drawn(table, list(table.rows)) for family, table in own.items()}
        ),
        f"{recipe}: CER by cell",
        "Mean over seeds and folds with its 95 % interval. Overlapping lines say little: the "
        "paired comparisons are sharper.",
    )
    for title, names in study.grid.ablations.items():
        panels = {
            family: (drawn(table, names), drawn(table, BASELINES))
            for family, table in own.items()
            if drawn(table, names)
        }
        if panels:
            yield Figure(
                plots.ablation(panels),
                f"{recipe}: {title}",
                "CER with its 95 % interval; dashed: the baselines.",
            )
    quarters: dict[str, list[plots.Gain]] = {}
    for one in comparisons:
        if one.table.recipe == recipe and one.quarters:
            changes = [(change.relative, *change.interval) for change in one.quarters]
            quarters.setdefault(one.table.family, []).append(plots.Gain(one.title, changes))
    if quarters:
        yield Figure(
            plots.gain_by_quartile(quarters),
            f"{recipe}: gain by difficulty",
            "Relative change of CER in four equal parts of each test set, by the teacher's loss x "
            f"on the utterance, with 95 % intervals (exploratory). {PREDICTED}",
        )
    schedules: dict[str, plots.Schedule] = {}
    for family, table in own.items():
        if found := first_schedule(study, table, table.runs):
            schedules[f"{family}, {label_of(found[0])}"] = found[1]
    if schedules:
        figure = report.alpha_figure(schedules)
        yield figure._replace(title=f"{recipe}: {figure.title}")


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
                return list(steps.difficulties(place).values())
            return study.lines.get(str(group), {}).get("x", [])
    return []


# -- the report -----------------------------------------------------------------------------------


def write_report(study: Study, command: str, publish: Path | None = None) -> str:
    """Write STUDY.md, index.html and scores.jsonl into the study's folder; return what to print.

    publish: a Markdown file that gets a copy of STUDY.md; scores.jsonl is copied beside it, and if
    that is in this repository, the tables of each recipe go to its RESULTS.md.
    """
    records = study.read_records()
    tables = [
        read_table(study, recipe, family, records)
        for recipe, family in dict.fromkeys((one.recipe, one.family) for one in study.groups)
    ]
    comparisons = compared(study, tables)
    said = headline(study, tables, comparisons)
    title = study.grid.title or study.path.stem
    parts = [Part("said", said), *parts_of(study, tables, comparisons, records, command)]
    write_text(study.folder / "STUDY.md", report.markdown(title, parts))
    write_text(study.folder / "index.html", report.page(title, "A study of AdaKD", parts))
    write_scores(study.folder / "scores.jsonl", study, tables, records)
    if publish:
        check_nothing_is_lost(study, study.folder / "scores.jsonl", publish.with_suffix(".jsonl"))
        for name, copy in (("STUDY.md", publish), ("scores.jsonl", publish.with_suffix(".jsonl"))):
            write_text(copy, (study.folder / name).read_text(encoding="utf-8"))
        publish_tables(study, tables, title, publish)
    where = f"Report: {finished.shown(study.folder / 'index.html')}"
    return "\n".join([aligned(primary(comparisons)), "", *said, where])


def check_nothing_is_lost(study: Study, new: Path, old: Path) -> None:
    """Raise `UserError` where a published result would go, perhaps the last trace of a run."""
    there = published.read_lines(new)
    lost = [n for n, line in study.lines.items() if "errors" in line and n not in there]
    if lost:
        raise UserError(
            f"{old} has {counted(len(lost), 'result')} that the study does not find with its "
            f"present settings and data, {lost[0]} for one: run the benchmark to have them anew, "
            f"or delete {old.name} to publish without them. Nothing was published."
        )


def begun(table: Table) -> bool:
    return bool(table.teacher) or any(row.runs or row.failed for row in table.rows.values())


def publish_tables(study: Study, tables: Sequence[Table], title: str, whole: Path) -> None:
    """Put the tables that have something in them into the RESULTS.md of this repository's recipes.

    whole: the published report, to which they link.
    """
    of_recipes: dict[Path, list[Table]] = {}
    for table in filter(begun, tables):
        of_recipes.setdefault(study.recipe_folder(table.recipe), []).append(table)
    for folder, own in of_recipes.items():
        if not whole.resolve().is_relative_to(folder.parents[2]):
            continue
        link = os.path.relpath(whole.resolve(), folder)
        every = [table for table in tables if study.recipe_folder(table.recipe) == folder]
        there = sum(len(table.runs) for table in every)
        planned = sum(len(row.planned) for table in every for row in table.rows.values())
        said = (
            f"{'All' if there == planned else f'Unfinished: {there} of'} {planned} runs. Changes "
            "are relative, below zero is better; brackets are exploratory 95 % intervals over "
            "seeds and test speech; won : lost counts runs. What may be claimed, and how all this "
            f"was made: [{whole.stem}]({link})."
        )
        parts = [Part("words", said)]
        for table in own:
            parts += [Part("heading", table.title), Part("table", results(study, table))]
        report.publish_study(folder / "RESULTS.md", study.path.stem, title, parts)


def parts_of(
    study: Study,
    tables: Sequence[Table],
    comparisons: Sequence[Comparison],
    records: dict[str, Any],
    command: str,
) -> list[Part]:
    """The report below its first sentences, the same for both of its forms."""
    parts = [
        *(Part("figure", figure) for figure in forest(comparisons)),
        Part("heading", "Primary comparisons"),
        Part("table", primary(comparisons)),
    ]
    for table in tables:
        planned = sum(len(row.planned) for row in table.rows.values())
        idle = f"Not run: none of the {planned} runs of {len(table.rows)} cells is there yet."
        found = Part("table", results(study, table)) if begun(table) else Part("words", idle)
        parts += [Part("heading", table.title), found]
    parts.append(Part("list", notes(study, tables, records)))
    if cannot := limits(study, tables):
        parts += [Part("heading", "What it cannot say"), Part("list", cannot)]
    parts += [
        Part("figure", figure)
        for recipe in study.recipes
        for figure in figures_of(study, tables, comparisons, recipe)
    ]
    told = weights(tables)
    sections = (
        (
            "Against the other cells",
            "Not among the primary comparisons: exploratory, without correction.",
            others(study, tables),
        ),
        *(
            (
                f"Across recipes: {title}",
                f"CER of each cell, and change of each primary comparison, in {recipes[0]}, %; by "
                "how much the CER, or the ratio of CERs, is then higher or lower in the others, "
                "which test the same speech, relative in %. Paired by seed and test speech; "
                "exploratory. Where epochs differ, the length of training is in all of it.",
                across(study, tables, recipes),
            )
            for title, recipes in study.grid.across.items()
        ),
        (
            "Gain by difficulty",
            "Relative change of CER, %, in four equal parts of each test set by the teacher's loss "
            f"on the utterance; exploratory. {PREDICTED} Hardest over easiest: the ratio of CERs "
            "in the hardest quarter over that in the easiest, relative in %; above zero the gain "
            "is with the easy ones.",
            table_of(
                ("Easiest quarter", "Second", "Third", "Hardest", "Hardest over easiest"),
                [one for one in comparisons if one.quarters],
                lambda one, _: [
                    plain(each) if each else "not known" for each in (*one.quarters, one.slope)
                ],
            ),
        ),
        (
            "By kind of error",
            "By how many percent of the reference's characters they differ, mean over seeds; "
            "exploratory, without intervals.",
            kinds(comparisons),
        ),
        (
            "The teacher's weight",
            "AdaKD's t, k and alpha in the training set: mean [10th, 90th percentile], as training "
            "begins and as it ends; median over runs."
            + "".join(f" {name}: {RARE[name]}." for name in RARE if name in told[0]),
            told,
        ),
        (
            "Noise, and how many seeds it takes",
            f"{repeats(study, tables)} A plan: standard deviations over seeds of the dev CER, "
            "relative (over folds as well where each has seeds of its own), and the fewest seeds "
            "with which a paired t-test (two-sided 5 %, power 80 %, noncentral t; Cohen 1988) "
            "finds the difference, as if all speech had been tested. On this test speech: the "
            "fewest with the luck of its speakers, which more seeds leave as it is; none: however "
            "many, it takes other speakers. Told: the smallest fall of the test CER that the runs "
            "there are find with 80 % chance. In brackets with the level shared among all primary "
            f"comparisons (Bonferroni). Whatever stands here, a claim takes {FEWEST} seeds.",
            noise(study, comparisons),
        ),
        (
            "Where a gain could come from",
            "How far apart the dev CERs of a method's candidates are: the largest over the "
            "smallest, relative in %, mean over folds. Luck: how far apart they could be if their "
            "settings did nothing (95 % quantile), by how differently pairs of distilled students "
            "come out from seed to seed. An alpha of KD that moves the CER no further than luck "
            "when all utterances have it gives no hint that alphas of their own would. alpha: "
            "AdaKD's as training begins, for the middle 80 % of the utterances, in the first fold.",
            leverage(study, tables, comparisons),
        ),
        (
            "How far training had come",
            "By how much the dev CER, best epoch so far, still falls in the last fifth of the runs "
            "compared, relative in %, mean over runs. Epochs were chosen by one run of fine-tuning "
            "in each group, these are others.",
            falling(study, tables),
        ),
        (
            "What dev has chosen",
            "Epochs: the fewest of those tried with which the dev CER of a single run of "
            "fine-tuning, best epoch so far, falls by under "
            f"{100 * SETTLED:.0f} % (relative) over the last fifth, or the most of all; in "
            "brackets its change there. Of five epochs a fifth is one: that other runs fall no "
            "further does not follow (above). Candidates: the chosen one, and the dev CERs (%) of "
            "all in their order; *: the least or greatest number tried, a better one may lie "
            "beyond.",
            chosen(study, tables),
        ),
        (
            "One setting for all",
            "What dev would have as defaults: the dev CER of each candidate, relative in % to the "
            "mean of its method's candidates in the same group; folds averaged first, then all "
            "recipes and families alike. What lies within luck (above) tells nothing.",
            one_for_all(study, tables),
        ),
    )
    for heading, words, lines in sections:
        if len(lines) > 1:
            parts += [Part("heading", heading), Part("words", words), Part("table", lines)]
    every = [each for group in study.groups for each in study.choose(group, records)[0]]
    failures = [
        f"{name}: {records[name]['reason'] if name in records else study.lines[name]['reason']}"
        for name, task in {task.name: task for task in [*study.tasks(records), *every]}.items()
        if study.status(task, records) == "failed"
    ]
    failures += [problem for table in tables for problem in table.problems]
    if failures:
        parts += [Part("heading", "Failed"), Part("list", failures)]
    context = {**versions.describe(), "corpus": ", ".join(study.recipes), "command": command}
    return [*parts, *report.made_by(context, trained_by(tables))]


def trained_by(tables: Sequence[Table]) -> list[tuple[str, str]]:
    """The revisions and machines that made the runs, which need not be the report's."""
    found: dict[str, Counter[str]] = {"revision": Counter(), "machine": Counter()}
    for run in [run for table in tables for run in table.runs]:
        for kind, counter in found.items():
            counter[run.made.get(kind, "unknown")] += 1
    return [
        (f"Runs by {kind}", "; ".join(f"{name} ({n})" for name, n in counter.items()) or "none")
        for kind, counter in found.items()
    ]


def write_scores(
    path: Path, study: Study, tables: Sequence[Table], records: dict[str, Any]
) -> None:
    """Write all that the report is made from, in the lines that published.py tells of."""
    groups = [(table, *each) for table in tables for each in table.choices.items()]
    lines = [line for each in groups for line in lines_of(study, *each, records)]
    with atomic_write(path) as file:
        file.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)


def lines_of(
    study: Study, table: Table, group: Group, choice: Choice | None, records: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    """The lines of a group, its own first; none where nothing has been done."""
    named = {"recipe": group.recipe, "family": group.family, "fold": group.fold}
    runs = [run for run in table.runs if run.experiment.fold == group.fold]
    teachers = [run for run in table.teacher if run.experiment.fold == group.fold]
    trials = [one for one in study.choose(group, records)[0] if study.status(one, records)]
    if not (runs or teachers or trials):
        return
    heard = runs + teachers
    utterances = [
        (one.id, one.speaker, one.normalised.characters) for run in heard[:1] for one in run.errors
    ]
    known = [run.difficulties for run in heard if any(x is not None for x in run.difficulties)]
    cells = {name for name in study.cells if study.method(name) in ADAPTIVE}  # none is int8
    adaptive_runs = [run for run in runs if run.experiment.method in cells]
    x = next(filter(None, (difficulties(study, table, run) for run in adaptive_runs)), [])
    yield {
        **{"name": str(group), "kind": "group", **named},
        "minutes": minutes_of(study, group),
        "seconds": once(study, group, records),
        "utterances": utterances,
        "difficulty": known[0] if known else [],
        "x": [float(f"{each:.6g}") for each in x],
    }
    for run in teachers:
        yield {"name": f"{group} teacher", "kind": "teacher", **named} | published.line_of(
            run, utterances
        )
    for task in trials:
        failed = study.status(task, records) == "failed"
        where = records if task.name in records else study.lines
        facts = {} if failed else study.trial(task)
        yield {
            **{"name": task.name, "kind": "trial", **named, "settings": task.fingerprint},
            **{name: facts.get(name) for name in ("dev_cer", "dev_curve", "train_seconds")},
            "of_data": facts.get("inputs", {}).get("data"),
            "reason": where[task.name]["reason"] if failed else None,
        }
    for run in runs:
        assert choice is not None  # or there were no cells
        ending = INT8 if run.experiment.method.endswith(INT8) else ""
        cell = run.experiment.method.removesuffix(INT8)
        task = study.cell_task(group, cell, run.experiment.seed, choice)
        yield {
            **{"name": task.name + ending, "kind": "cell", **named, "settings": task.fingerprint},
            **published.line_of(run, utterances),
        }
