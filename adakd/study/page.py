"""The report of a study: sentences, tables and figures, as one HTML file and as Markdown.

A negative finding is told as plainly as a win, a cell that was not run as "not run". What the runs
show, and what may be claimed, is decided in findings.py; the sentences are words.py's, the
tables tables.py's, the look of a page is pages.py's, figures are plots.py's.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from adakd import pages, plots, report, versions
from adakd.errors import UserError
from adakd.files import shown, write_jsonl, write_text
from adakd.methods import METHODS
from adakd.pages import Figure, Line, Part, aligned
from adakd.place import INT8
from adakd.report import BASELINES, Run, counted, label_of
from adakd.study import grid, published
from adakd.study.findings import (
    FEWEST,
    Comparison,
    Table,
    begun,
    compared,
    difficulties,
    first_schedule,
    minutes_of,
    once,
    read_tables,
)
from adakd.study.grid import SETTLED, Choice, Group, Study, Task
from adakd.study.tables import (
    PREDICTED,
    RARE,
    across,
    chosen,
    falling,
    kinds,
    leverage,
    noise,
    one_for_all,
    others,
    plain,
    primary,
    results,
    table_of,
    weights,
)
from adakd.study.words import headline, limits, notes, repeats

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


# -- the report -----------------------------------------------------------------------------------


def write_report(study: Study, command: str, publish: Path | None = None) -> str:
    """Write STUDY.md, index.html and scores.jsonl into the study's folder; return what to print.

    publish: a Markdown file that gets a copy of STUDY.md; scores.jsonl is copied beside it, and if
    that is in this repository, the tables of each recipe go to its RESULTS.md.
    """
    records = study.read_records()
    tables = read_tables(study, records)
    comparisons = compared(study, tables)
    said = headline(study, tables, comparisons)
    title = study.grid.title or study.path.stem
    parts = [Part("said", said), *parts_of(study, tables, comparisons, records, command)]
    write_text(study.folder / "STUDY.md", pages.markdown(title, parts))
    write_text(study.folder / "index.html", pages.page(title, "A study of AdaKD", parts))
    write_scores(study.folder / "scores.jsonl", study, tables, records)
    if publish:
        check_nothing_is_lost(study, study.folder / "scores.jsonl", publish.with_suffix(".jsonl"))
        for name, copy in (("STUDY.md", publish), ("scores.jsonl", publish.with_suffix(".jsonl"))):
            write_text(copy, (study.folder / name).read_text(encoding="utf-8"))
        publish_tables(study, tables, title, publish)
    where = f"Report: {shown(study.folder / 'index.html')}"
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


def publish_tables(study: Study, tables: Sequence[Table], title: str, whole: Path) -> None:
    """Put the tables that have something in them into the RESULTS.md of this repository's recipes.

    whole: the published report, to which they link.
    """
    if not whole.resolve().is_relative_to(grid.REPOSITORY):
        return
    of_recipes: dict[Path, list[Table]] = {}
    for table in filter(begun, tables):
        of_recipes.setdefault(study.recipe_folder(table.recipe), []).append(table)
    for folder, own in of_recipes.items():
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
    for heading, words, lines in sections(study, tables, comparisons):
        if len(lines) > 1:
            parts += [Part("heading", heading), Part("words", words), Part("table", lines)]
    if failures := failures_of(study, tables, records):
        parts += [Part("heading", "Failed"), Part("list", failures)]
    context = {**versions.describe(), "corpus": ", ".join(study.recipes), "command": command}
    runs = [run for table in tables for run in table.runs]
    return [*parts, *report.made_by(context, report.trained_by(runs))]


def sections(
    study: Study, tables: Sequence[Table], comparisons: Sequence[Comparison]
) -> Sequence[tuple[str, str, Sequence[Line]]]:
    """The exploratory tables: heading, words, and lines, of which the first is the header."""
    choosing = len(study.grid.tune_seeds)
    by = counted(choosing, "run")
    of_those = "a single run" if choosing == 1 else f"{by}, their mean,"
    chose = (
        f" Epochs were chosen by {by} of fine-tuning in each group." if study.grid.epochs else ""
    )
    told = weights(tables)
    return (
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
            "AdaKD's t and k, and alpha in the training set: mean [10th, 90th percentile], as "
            "training begins and as it ends; median over runs."
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
            f"comparisons (Bonferroni). Whatever stands here, a claim takes {FEWEST} seeds, or as "
            "many folds.",
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
            f"compared, relative in %, mean over runs.{chose}",
            falling(study, tables),
        ),
        (
            "What dev has chosen",
            (
                f"Epochs: the fewest of those tried with which the dev CER of {of_those} of "
                "fine-tuning, best epoch so far, falls by under "
                f"{100 * SETTLED:.0f} % (relative) over the last fifth, or the most of all; in "
                "brackets its change there. Of five epochs a fifth is one: that other runs fall no "
                "further does not follow (above)."
                if study.grid.epochs
                else "Epochs are the grid's or the recipe's."
            )
            + (
                " Candidates: the chosen one, and the dev CERs (%) of all in their order; *: the "
                "least or greatest number tried, a better one may lie beyond."
                if study.grid.tune
                else ""
            ),
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


def failures_of(study: Study, tables: Sequence[Table], records: dict[str, Any]) -> list[str]:
    """The runs that failed, each with its reason, and what of the others cannot be read."""
    every: list[Task] = []  # also where the grid has grown, and what comes before is not done
    for group in study.groups:
        trials, choice = study.choose(group, records)
        every += trials
        if choice is not None:
            every += study.cell_tasks(group, choice)
    failures = [
        f"{name}: {(study.published(task) or records[name])['reason']}"
        for name, task in {task.name: task for task in [*study.tasks(records), *every]}.items()
        if study.status(task, records) == "failed"
    ]
    return failures + [problem for table in tables for problem in table.problems]


def write_scores(
    path: Path, study: Study, tables: Sequence[Table], records: dict[str, Any]
) -> None:
    """Write all that the report is made from, in the lines that published.py tells of."""
    groups = [(table, *each) for table in tables for each in table.choices.items()]
    lines = [line for each in groups for line in lines_of(study, *each, records)]
    write_jsonl(path, lines)


def lines_of(
    study: Study, table: Table, group: Group, choice: Choice | None, records: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    """The lines of a group, its own first; none where nothing has been done."""
    named = {"recipe": group.recipe, "family": group.family, "fold": group.fold}
    runs = [run for run in table.runs if run.experiment.fold == group.fold]
    # Without students it would not be read again (`add_published_teacher`).
    teachers = [run for run in table.teacher if runs and run.experiment.fold == group.fold]
    trials = [one for one in study.choose(group, records)[0] if study.status(one, records)]
    if not (runs or trials):
        return
    heard = runs + teachers
    utterances = [
        (one.id, one.speaker, one.normalised.characters) for run in heard[:1] for one in run.errors
    ]
    known = [run.difficulties for run in heard if any(x is not None for x in run.difficulties)]
    # No int8 student is among them.
    cells = {name for name in study.cells if METHODS[study.method(name)].uses_difficulty}
    adaptive_runs = [run for run in runs if run.experiment.method in cells]
    x = next(filter(None, (difficulties(study, table, run) for run in adaptive_runs)), [])
    yield {
        **{"name": str(group), "kind": "group", **named},
        "minutes": minutes_of(study, group, table),
        "seconds": once(study, group, records),
        "utterances": utterances,
        "difficulty": known[0] if known else [],
        "x": [float(f"{each:.6g}") for each in x],
    }
    names = {task.places[0].config.seed: task.name for task in study.teachers(group).values()}

    def line_of(run: Run) -> dict[str, Any]:
        other = bool(known) and run.difficulties not in (known[0], [None] * len(utterances))
        own = {"difficulty": run.difficulties} if other else {}  # by another seed's teacher
        return published.line_of(run, utterances) | own

    for run in teachers:
        name = names[run.experiment.seed]
        yield {"name": name, "kind": "teacher", **named} | line_of(run)
    for task in trials:
        failed = study.status(task, records) == "failed"
        facts = {} if failed else study.trial(task)
        yield {
            **{"name": task.name, "kind": "trial", **named, "settings": task.fingerprint},
            **{name: facts.get(name) for name in ("dev_cer", "dev_curve", "train_seconds")},
            "of_data": facts.get("inputs", {}).get("data"),
            "reason": (study.published(task) or records[task.name])["reason"] if failed else None,
        }
    for run in runs:
        assert choice is not None  # or there were no cells
        ending = INT8 if run.experiment.method.endswith(INT8) else ""
        cell = run.experiment.method.removesuffix(INT8)
        task = study.cell_task(group, cell, run.experiment.seed, choice)
        yield {
            **{"name": task.name + ending, "kind": "cell", **named, "settings": task.fingerprint},
            **line_of(run),
        }
