"""The tables of a study's report: what the runs show, cell by cell and comparison by comparison.

A table is its lines, the first of them the header.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from statistics import mean, median
from typing import Any

from adakd import report, significance
from adakd.errors import UserError
from adakd.pages import Cell, Line
from adakd.place import INT8
from adakd.progress import clock
from adakd.report import (
    BASELINES,
    DISK,
    IN_SENTENCES,
    NOT_RUN,
    Run,
    bracket,
    change_cell,
    label_of,
    on_disk,
    percent,
    signed,
)
from adakd.significance import Change
from adakd.study.findings import (
    BETTER,
    OPEN,
    WORSE,
    Comparison,
    Pair,
    Table,
    against_teacher,
    begun,
    counts_of,
    first_schedule,
    own_seeds,
    shares,
    still_falling,
    unnamed,
)
from adakd.study.grid import SETTLED, Choice, Group, Study

PREDICTED = (
    "AdaKD gives the teacher more weight on easy utterances than on hard ones, most at first: what "
    "it gains over one weight for all should lie with the easy ones."
)
KINDS = ("substitutions", "deletions", "insertions")


def p_text(p_value: float) -> str:
    """In three digits; in more where three would not tell on which side of LEVEL it is."""
    if p_value < 0.001:
        return "< 0.001"
    telling = (f"{p_value:.{digits}f}" for digits in range(3, 9))
    return next((said for said in telling if float(said) != significance.LEVEL), f"{p_value:.3f}")


def spanned(numbers: Sequence[int | None]) -> str:
    """The fewest and the most seeds; None is more than were looked at."""
    ends = [end(each or math.inf for each in numbers) for end in (min, max)]
    low, high = (f"over {significance.MOST_SEEDS}" if n == math.inf else str(n) for n in ends)
    return low if low == high else f"{low} to {high}"


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
    errors = [[run.counts.errors for run in both] for both in table.both(pair)]
    return f"{sum(a < b for a, b in errors)} : {sum(a > b for a, b in errors)}"


def cost(table: Table, name: str) -> str:
    """Median time of training, since a machine may stand still; int8 students have none."""
    known = [each for run in table.rows[name].runs if (each := run.done.get("train_seconds"))]
    return clock(median(known)) if known else ""


def by_kind(runs: Sequence[Run]) -> str:
    return " / ".join(percent(share, 1) for share in shares(runs))


def results(study: Study, table: Table) -> list[Line]:
    """A line for every cell."""
    line: list[Cell | str]
    bases = [name for name in BASELINES if name in table.rows]
    int8 = any(row.name.endswith(INT8) for row in table.rows.values())
    compared = [each for name in bases for each in (f"vs {IN_SENTENCES[name]}, %", "won : lost")]
    disk = [DISK] if int8 else []
    lines: list[Line] = [["Cell", "Runs", "CER, %", "S / D / I, %", *compared, "Training", *disk]]
    if table.teacher:
        cer = percent(sum(shares(table.teacher)))
        line = ["Teacher", str(len(table.teacher)), cer, by_kind(table.teacher)]
        for base in bases:
            line += [plain(against_teacher(study, table, base)), ""]
        lines.append(line)
    for row in table.rows.values():
        there, planned = len(row.runs), len(row.planned)
        runs = str(there) if there == planned else f"{there} of {planned}"
        line = [label_of(row.name), runs]
        if not row.runs:
            lines.append([*line, "failed" if row.failed else NOT_RUN])
            continue
        line += [Cell(percent(row.cer), bracket(row.interval, percent)), by_kind(row.runs)]
        for base in bases:
            pair = row.name, base
            change = table.change(pair) if row.name != base else None
            line += [plain(change), won_and_lost(table, pair) if change else ""]
        line.append(cost(table, row.name))
        if int8:
            line.append(on_disk(row.runs[0].weights))
        lines.append(line)
    return [[*line, *[""] * (len(lines[0]) - len(line))] for line in lines]


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
    """How substitutions, deletions and insertions differ, in percent of the reference."""
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
    """The teacher's weight in every cell that gives it to each utterance or has a guard."""
    lines: list[list[Cell | str]] = [
        ["Cell", "Recipe, family", "t", "k", "alpha at first", "alpha in the end", *RARE]
    ]
    for table, row in [(each, row) for each in tables for row in each.rows.values()]:
        runs = [run for run in row.runs if _has_range(run.done.get("alpha", {}))]
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
        if {"t", "k_start", "k_end"} <= found[0].keys():
            t = from_to(middle("t", found), median(one.get("t_end", one["t"]) for one in found))
            k = from_to(middle("k_start", found), middle("k_end", found))
        else:  # KD with a guard
            t = k = ""
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
                t,
                k,
                *ends,
                f"{percent(median(doubted), 1)} %" if doubted else "",
                f"{percent(mean(spent), 0)} % of the time" if spent else "",
            ]
        )
    empty = {place for place, column in enumerate(zip(*lines[1:], strict=True)) if not any(column)}
    return [[cell for place, cell in enumerate(line) if place not in empty] for line in lines]


def _has_range(alpha: dict[str, Any]) -> bool:
    """Whether a weighting has told alpha's range as `Weighting.summary` would have it."""
    ends = [alpha.get("start"), alpha.get("end")]
    return all(isinstance(each, dict) and {"p10", "mean", "p90"} <= each.keys() for each in ends)


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
                    found = significance.compare(*counts_of(both)) if both else None
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
            f"Seeds for {100 * study.grid.difference:g} % (corrected)",
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
            and one.deviation > 0  # not of a cell and its double, nor where it is not known
            and "finetune" not in map(study.method, one.pair)
        ]
        luck = "not known"
        if known and candidates > 1 and not own_seeds(table):
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
            gained = ", ".join(
                f"{n}: {signed(-gain)} %" if gain < math.inf else f"{n}: failed"
                for n, gain in choice.gains
            )
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
        telling = [group for group in ratios if min(group) < math.inf]  # not where all failed
        of_all = [mean(of_one) for of_one in zip(*telling, strict=True)]
        of_all = of_all or [math.inf] * len(candidates)
        of_each = zip(*ratios, strict=True)
        for candidate, whole, own in zip(candidates, of_all, of_each, strict=False):
            best = " (best)" if whole == min(of_all) < math.inf else ""
            told = [signed(each - 1) if each < math.inf else "failed" for each in (whole, *own)]
            lines.append([label_of(name), said(candidate) + best, *told])
    return lines


def over_mean(cers: Sequence[float]) -> list[float]:
    """CERs over the mean of those that are finite; one without errors at all is average."""
    finite = [cer for cer in cers if cer < math.inf]
    middle = mean(finite) if finite else math.inf
    return [cer if cer == math.inf else cer / middle if middle else 1.0 for cer in cers]
