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
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from adakd import plots, report, significance, steps, versions
from adakd.config import ADAPTIVE
from adakd.errors import UserError
from adakd.files import atomic_write, write_text
from adakd.findings import (
    BETTER,
    CONTROLS,
    OPEN,
    VERDICTS,
    WORSE,
    Comparison,
    Pair,
    Table,
    adaptive,
    compared,
    controls_of,
    count_array,
    read_table,
)
from adakd.grid import SETTLED, Study, status
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
)
from adakd.score import Change, Counts, total
from adakd.steps import INT8

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
    if known := [one for one in comparisons if one.needed]:
        enough = sum((one.needed[1] or math.inf) <= one.seeds for one in known)
        folds = {one.table.recipe for one in known if own_seeds(one.table)}
        also = f" (in {listed(sorted(folds))} over folds as well)" if folds else ""
        rest = "; elsewhere no difference shown does not mean that there is none"
        said.append(
            f"Noise: to tell {percent(study.grid.difference, 0)} % takes "
            f"{spanned([one.needed[1] for one in known])} seeds, by the spread of the dev CER over "
            f"seeds{also}; with the {spanned([one.seeds for one in known])} that there are it can "
            f"be told in {enough} of {len(known)}{rest if enough < len(known) else ''}."
        )
    return said


def amount(one: Comparison) -> str:
    """The change with its interval; where nothing may be claimed, why."""
    if one.change is None or one.open:
        return one.open if one.change else ""
    return f"{signed(one.change.relative)} % {bracket(one.change.interval, signed)}"


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
        details.append(f"tested on {len(heard)} utterances by {counted(speakers, 'speaker')}")
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
                facts = run.done["inputs"] | {"steps": run.done.get("steps")}
                for what in ("steps", "start", "teacher"):
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
    return (
        "Checked in every run: beside each other, all cells start from the same student, have the "
        "same teacher and make the same number of optimiser steps; batches and their order follow "
        f"from the seed{but}."
    )


def repeats(study: Study, tables: Sequence[Table]) -> str:
    """Cells that differ in their names alone, as a tuned one may, and what those run twice gave."""
    alike: Counter[str] = Counter()
    apart = []
    for table in tables:
        first: dict[Any, tuple[str, Run]] = {}
        for name in study.cells:
            for run in table.rows[name].runs:
                same = (run.key, study.method(name), run.done["fingerprint"])
                label, other = first.setdefault(same, (label_of(name), run))
                if other is run:
                    continue
                alike[f"{label_of(name)} is {label}"] += 1
                if "taken_over" not in run.done:
                    pairs = zip(run.errors, other.errors, strict=True)
                    apart.append(any(one.normalised != two.normalised for one, two in pairs))
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


def notes(study: Study, tables: Sequence[Table], records: dict[str, Any]) -> list[str]:
    """What a reader must know to read the tables rightly."""
    grid = study.grid
    tuned = "Nothing was tuned."
    if grid.tune:
        effort = len(next(iter(grid.tune.values())))
        labels = ", ".join(label_of(name) for name in grid.tune)
        tuned = (
            f"Tuning effort: {effort} candidates x {counted(len(grid.tune_seeds), 'seed')} for "
            f"each of {labels}, chosen by dev CER within each recipe, family and fold; the rest is "
            "as in the grid. A cell that is like a tuned one has its choice."
        )
        tested = {(table.recipe, seed) for table in tables for seed in seeds_of(table)}
        if both := [one for one in sorted(tested) if one[1] in grid.tune_seeds]:
            where = listed([f"seed {seed} of {recipe}" for recipe, seed in both])
            tuned += (
                f" Of the tested seeds, {where} also chose: with it a tuned cell has the luck of "
                f"the best of {effort}."
            )
    units = {
        count_array([(run,) for run in row.runs])[2]
        for table in tables
        for row in table.rows.values()
        if row.runs
    }
    whole = ""
    if "fold" in units:
        whole = "A fold that has a single seed is drawn as a whole, its seed's luck with it. "
    over = " or ".join(f"{unit}s" for unit in sorted(units)) or "speakers"
    spent = [one["seconds"] for one in records.values() if one["kind"] == "teacher"]
    teacher = f" ({clock(mean(spent))} on average)" if spent else ""
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
        "won : lost counts runs with fewer and with more errors. Training: mean "
        "time of a run, and over fine-tuning's, dev decoding included, on a machine that may have "
        f"done other things. The teacher and its pass{teacher} come on top, once for all cells.",
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


def plain(change: Change) -> Cell:
    """Without a colour, which would be a claim."""
    return change_cell(change)._replace(tone="")


def won_and_lost(table: Table, pair: Pair) -> str:
    """In how many runs a cell makes fewer errors, and in how many more."""
    errors = [
        [total(one.normalised for one in run.errors).errors for run in both]
        for both in table.both(pair)
    ]
    return f"{sum(a < b for a, b in errors)} : {sum(a > b for a, b in errors)}"


def cost(table: Table, name: str) -> Cell:
    """Mean time of training, over that of fine-tuning in the same runs."""
    known = [run for run in table.rows[name].runs if "train_seconds" in run.done]  # int8: none
    if not known:
        return Cell("")
    both = table.both((name, "finetune")) if "finetune" in table.rows else []
    spent = [sum(run.done["train_seconds"] for run in runs) for runs in zip(*both, strict=True)]
    own = clock(mean(run.done["train_seconds"] for run in known))
    return Cell(own, f"{spent[0] / spent[1]:.2f} x" if spent else "")


def by_kind(counts: Counts) -> str:
    kinds = (counts.substitutions, counts.deletions, counts.insertions)
    return " / ".join(percent(kind / counts.characters, 1) for kind in kinds)


def results(table: Table) -> list[Line]:
    """A line for every cell."""
    line: list[Cell | str]
    bases = [name for name in BASELINES if name in table.rows]
    int8 = any(row.name.endswith(INT8) for row in table.rows.values())
    compared = [each for name in bases for each in (f"vs {IN_SENTENCES[name]}, %", "won : lost")]
    header = ["Cell", "Runs", "CER, %", "S / D / I, %", *compared, "Training"]
    lines: list[Line] = [[*header, DISK] if int8 else header]
    if table.teacher:
        heard = total(one.normalised for run in table.teacher for one in run.errors)
        line = ["Teacher", str(len(table.teacher)), percent(heard.cer), by_kind(heard)]
        lines.append([*line, *[""] * (len(lines[0]) - len(line))])
    for row in table.rows.values():
        there, planned = len(row.runs), len(row.planned)
        runs = str(there) if there == planned else f"{there} of {planned}"
        line = [label_of(row.name), runs]
        if not row.runs:
            line.append("failed" if row.failed else NOT_RUN)
            lines.append([*line, *[""] * (len(lines[0]) - len(line))])
            continue
        counts = total(one.normalised for run in row.runs for one in run.errors)
        line += [Cell(percent(row.cer), bracket(row.interval, percent)), by_kind(counts)]
        for base in bases:
            both = table.both((row.name, base)) if row.name != base else []
            line.append(plain(significance.compare(*count_array(both))) if both else "")
            line.append(won_and_lost(table, (row.name, base)) if both else "")
        line.append(cost(table, row.name))
        if int8:
            weights = row.runs[0].weights
            line.append(f"{weights / 1e6:.3g} MB" if weights else "")
        lines.append(line)
    return lines


def noise(study: Study, comparisons: Sequence[Comparison]) -> list[Line]:
    """Spread over seeds on dev, and the seeds that the wanted difference needs."""
    return table_of(
        (
            "Seeds", "SD of each, %", "SD of the difference, %",
            f"Seeds for {percent(study.grid.difference, 0)} %", "Seeds, corrected",
        ),
        [one for one in comparisons if one.needed],
        lambda one, _: [
            str(one.seeds),
            " and ".join(percent(each, 1) for each in one.alone),
            percent(one.deviation, 1),
            *[spanned([number]) for number in one.needed],
        ],
    )  # fmt: skip


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
            one.deviation
            for one in comparisons
            if one.table is table
            and math.isfinite(one.deviation)
            and "finetune" not in map(study.method, one.pair)
        ]
        luck = "not known"
        if known and not own_seeds(table):
            # Of a mean over tune_seeds; a difference has the luck of two runs.
            of_one = math.sqrt(mean(one**2 for one in known) / 2 / len(study.grid.tune_seeds))
            luck = percent(math.expm1(significance.range_quantile(candidates) * of_one), 1)
        ranges = []
        for name in tuned:
            dev = [each.dev[name] for each in choices]
            apart = [
                max(cers) / min(cers) - 1 for cers in dev if 0 < min(cers) <= max(cers) < math.inf
            ]
            ranges.append(percent(mean(apart), 1) if apart else "")
        alpha = ""
        if found := first_schedule(study, table):
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
        epochs: Cell | str = "the recipe's"
        if choice.epochs:
            gained = ", ".join(f"{n}: {signed(-gain)} %" for n, gain in choice.gains)
            settled = choice.gains[-1][1] < SETTLED
            epochs = Cell(str(choice.epochs) + ("" if settled else ", NOT settled"), f"({gained})")
        line: list[Cell | str] = [str(group), epochs]
        for name, candidates in study.grid.tune.items():
            picked = candidates[choice.tuned[name]]
            settings = ", ".join(f"{key.split('.')[-1]} {value}" for key, value in picked.items())
            cers = " ".join(
                percent(cer, 1) if math.isfinite(cer) else "failed" for cer in choice.dev[name]
            )
            line.append(Cell(settings, f"({cers})"))
        lines.append(line)
    return lines


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
            "on the utterance, with 95 % intervals (exploratory). AdaKD distils easy utterances "
            "first: its gains are predicted to differ between the quarters.",
        )
    schedules: dict[str, plots.Schedule] = {}
    for family, table in own.items():
        if found := first_schedule(study, table):
            schedules[f"{family}, {label_of(found[0])}"] = found[1]
    if schedules:
        figure = report.alpha_figure(schedules)
        yield figure._replace(title=f"{recipe}: {figure.title}")


def first_schedule(study: Study, table: Table) -> tuple[str, plots.Schedule] | None:
    """The first cell of AdaKD that has a run whose difficulties are still there, and its alphas."""
    for name in [each for each in study.cells if study.method(each) == "adakd"]:
        run = next(iter(table.rows[name].runs), None)
        if run and (schedule := report.schedule_of(run, difficulties(study, table, run))):
            return name, schedule
    return None


def difficulties(study: Study, table: Table, run: Run) -> list[float]:
    """x of the training set of a run; [] if it is gone."""
    for group, choice in table.choices.items():
        if group.fold == run.experiment.fold and choice is not None:
            place = study.place(group, run.experiment.method, run.experiment.seed, choice)
            with contextlib.suppress(UserError):
                return list(steps.difficulties(place).values())
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
    write_scores(study.folder / "scores.jsonl", tables)
    if publish:
        shutil.copyfile(study.folder / "STUDY.md", publish)
        shutil.copyfile(study.folder / "scores.jsonl", publish.with_suffix(".jsonl"))
        publish_tables(study, tables, title, publish)
    where = f"Report: {steps.shown(study.folder / 'index.html')}"
    return "\n".join([aligned(primary(comparisons)), "", *said, where])


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
        there = sum(len(table.runs) for table in own)
        planned = sum(len(row.planned) for table in own for row in table.rows.values())
        said = (
            f"{'All' if there == planned else f'Unfinished: {there} of'} {planned} runs. Changes "
            "are relative, below zero is better; brackets are exploratory 95 % intervals over "
            "seeds and test speech; won : lost counts runs. What may be claimed, and how all this "
            f"was made: [{whole.stem}]({link})."
        )
        parts = [Part("words", said)]
        for table in own:
            parts += [Part("heading", table.title), Part("table", results(table))]
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
        found = Part("table", results(table)) if begun(table) else Part("words", idle)
        parts += [Part("heading", table.title), found]
    parts.append(Part("list", notes(study, tables, records)))
    parts += [
        Part("figure", figure)
        for recipe in study.recipes
        for figure in figures_of(study, tables, comparisons, recipe)
    ]
    sections = (
        (
            "Gain by difficulty",
            "Relative change of CER, %, in four equal parts of each test set by the teacher's loss "
            "on the utterance; exploratory.",
            table_of(
                ("Easiest quarter", "Second", "Third", "Hardest quarter"),
                [one for one in comparisons if one.quarters],
                lambda one, _: [plain(change) for change in one.quarters],
            ),
        ),
        (
            "Noise, and how many seeds it takes",
            f"{repeats(study, tables)} Standard deviations over seeds of the dev CER, relative "
            "(over folds as well where each has seeds of its own), and the fewest seeds with which "
            "a paired t-test (two-sided 5 %, power 80 %, noncentral t; Cohen 1988) finds the "
            "difference: for one comparison, and with the level shared among all primary ones "
            "(Bonferroni).",
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
            "What dev has chosen",
            "Epochs: the fewest of those tried with which fine-tuning's dev CER falls by under "
            f"{100 * SETTLED:.0f} % (relative) over the last fifth, or the most of all; in "
            "brackets its change there. Candidates: the chosen one, and the dev CERs (%) of all in "
            "their order.",
            chosen(study, tables),
        ),
    )
    for heading, words, lines in sections:
        if len(lines) > 1:
            parts += [Part("heading", heading), Part("words", words), Part("table", lines)]
    failures = [
        f"{task.name}: {records[task.name]['reason']}"
        for task in study.tasks(records)
        if status(task, records) == "failed"
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
        path = run.experiment.folder / "versions.json"
        known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        for kind, counter in found.items():
            counter[known.get(kind, "unknown")] += 1
    return [
        (f"Runs by {kind}", "; ".join(f"{name} ({n})" for name, n in counter.items()) or "none")
        for kind, counter in found.items()
    ]


def write_scores(path: Path, tables: Sequence[Table]) -> None:
    """One line a run: what the report is made of, for those who want to reckon themselves."""
    with atomic_write(path) as file:
        for table in tables:
            for run in table.runs:
                where = run.experiment
                counts = total(one.normalised for one in run.errors)
                line: dict[str, Any] = {
                    "recipe": table.recipe,
                    "family": table.family,
                    "cell": where.method,
                }
                line |= {"fold": where.fold, "seed": where.seed, "test_cer": counts.cer}
                line |= counts._asdict()
                line |= {key: run.done.get(key) for key in ("dev_cer", "steps", "train_seconds")}
                file.write(json.dumps(line) + "\n")
