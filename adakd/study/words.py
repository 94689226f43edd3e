"""The sentences of a study's report: what may be claimed, what not, and what it cannot say."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from statistics import mean, median
from typing import Any

from adakd import significance
from adakd.place import INT8
from adakd.progress import clock
from adakd.report import NOT_RUN, Run, bracket, counted, label_of, percent, signed, size
from adakd.score import ENOUGH_SPEAKERS, unit_of
from adakd.study.findings import (
    BETTER,
    CONTROLS,
    OPEN,
    SAME,
    VERDICTS,
    Comparison,
    Pair,
    Table,
    adaptive,
    against_teacher,
    control_key,
    controls_of,
    follows_x,
    once,
    one_teacher,
    own_seeds,
    seeds_of,
    still_falling,
    teachers_of,
    unnamed,
)
from adakd.study.grid import SETTLED, Study
from adakd.study.tables import p_text, spanned

SMALL = 10_000_000  # parameters; real recipes have many more


def listed(names: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(names[:-1]), *names[-1:])))


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
        clear.append(f"{label_of(own)} makes {fewer} errors than {label_of(other)} ({where})")
    if others:
        these = counted(others, "other" if clear else "comparison")
        clear.append(f"in {these} the interval holds zero")
    if not clear:
        return []
    return [
        f"Not among the primary comparisons (exploratory, without correction): {'; '.join(clear)}."
    ]


def headroom(study: Study, tables: Sequence[Table]) -> list[str]:
    """How far ahead of fine-tuning the teachers are, where all of both are there."""
    ahead = [
        f"{signed(change.relative)} % {bracket(change.interval, signed)} ({table.title})"
        for table in tables
        if (change := against_teacher(study, table, "finetune"))
        and len(table.rows["finetune"].runs) == len(table.rows["finetune"].planned)
        and len(table.teacher) == len(teachers_of(study, table))
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
    wanted = f"{100 * study.grid.difference:g}"
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
    sizes: dict[str, list[str]] = {}  # of test sets: families may have rejected other clips
    for table in own:
        if heard := {(run.key[0], one.id): one.speaker for run in table.runs for one in run.errors}:
            speakers = set(heard.values())
            tested = [counted(len(heard), "utterance")] if len(heard) > len(speakers) else []
            if all(speakers):
                tested.append(counted(len(speakers), "speaker"))
            sizes.setdefault(" by ".join(tested), []).append(table.family)
    for short in list(sizes):  # of summed runs the utterances are not known
        if whole := [other for other in sizes if other.endswith(f" by {short}")]:
            sizes[whole[0]] += sizes.pop(short)
    told = [
        f"{size} as {listed(families)}" if len(sizes) > 1 else size
        for size, families in sizes.items()
    ]
    if told:
        details.append(f"tested on {listed(told)}")
    return f"{recipe} ({', '.join(details)})"


def adaptivity(study: Study, comparisons: Sequence[Comparison]) -> list[str]:
    """Whether a gain may be called adaptive, of every cell whose alpha follows x."""
    asked = dict.fromkeys(one.pair[0] for one in comparisons)
    places = len({one.table.title for one in comparisons})
    said, without = [], []
    for name in [name for name in asked if follows_x(study, name)]:
        label, shown = label_of(name), adaptive(study, comparisons, name)
        if shown is None:
            without.append(label)
            continue
        both = f"both controls ({'; '.join(CONTROLS.values())})"
        controls = {controls_of(study, name)[control] for control in CONTROLS}
        judged = [one for one in comparisons if one.pair[0] == name and one.pair[1] in controls]
        unsure = undecided(comparisons, name, controls)
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
        elif len(unsure) == places:
            found = f"not known. Whether {label} gains where it beats {both} is open or {NOT_RUN}"
        else:
            unknown = {one.table.title for one in judged if one.verdict in (OPEN, NOT_RUN)} | unsure
            rest = f" (open or {NOT_RUN} in {len(unknown)} of {places})" if unknown else ""
            found = (
                f"not shown. Nowhere does {label} gain and beat {both}{rest}: no gain of {label} "
                "may be called adaptive"
            )
        said.append(f"Adaptivity: {found}.")
    if without:
        said.append(
            f"Adaptivity: not asked. Beating both mechanism controls of {listed(without)} is not "
            "among the primary comparisons, so no gain may be called adaptive."
        )
    return said


def undecided(comparisons: Sequence[Comparison], cell: str, controls: Collection[str]) -> set[str]:
    """Recipes and families in which a gain of a cell may yet turn out adaptive: none of its
    controls is known not to be beaten, and of them or of the others some comparison is not known.
    """
    missing, unbeaten = set(), set()
    for one in comparisons:
        if one.pair[0] == cell:
            if one.verdict in (OPEN, NOT_RUN):
                missing.add(one.table.title)
            elif one.pair[1] in controls and one.verdict != BETTER:
                unbeaten.add(one.table.title)
    return missing - unbeaten


def fairness(study: Study, tables: Sequence[Table]) -> str:
    """Whether all cells of a group and seed had the same start, teacher and steps, as found."""
    odd = []
    for table in tables:
        beside: dict[Any, dict[Any, list[str]]] = {}
        for row in table.rows.values():
            of_code = [] if row.name.endswith(INT8) else ["code"]  # int8 weights have none
            for run in row.runs:
                made = {"code": "earlier"} | run.done["inputs"] | run.made
                facts = made | {"steps": run.done.get("steps")}
                for what in ("data", "steps", "start", "teacher", "machine", *of_code):
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


def twice(study: Study, tables: Sequence[Table]) -> Iterator[tuple[Pair, Run, Run]]:
    """Pairs of cells that differ in their names alone, as a tuned one may, and a run of each."""
    for table in tables:
        first: dict[str, tuple[str, Run]] = {}
        chosen = {group.fold: (group, choice) for group, choice in table.choices.items() if choice}
        for name in study.cells:
            for run in table.rows[name].runs:
                group, choice = chosen[run.experiment.fold]
                same = study.cell_task(group, name, run.experiment.seed, choice).training
                earlier, other = first.setdefault(same, (name, run))
                if other is not run:
                    yield (name, earlier), run, other


def repeats(study: Study, tables: Sequence[Table]) -> str:
    """Which cells have the same settings, by dev's choice or the grid's, and what those gave."""
    alike: dict[str, Counter[str]] = {}
    apart = []
    for pair, run, other in twice(study, tables):
        tuned = any(set(study.ancestry(name)) & set(study.grid.tune) for name in pair)
        why = "Dev chose what another cell has" if tuned else "The same settings stand in two cells"
        alike.setdefault(why, Counter())[" is ".join(map(label_of, pair))] += 1
        if "taken_over" not in run.done:
            pairs = zip(run.errors, other.errors, strict=True)
            apart.append(any(one.normalised.errors != two.normalised.errors for one, two in pairs))
    if not alike:
        return "Here no two cells have the same settings and seed."
    found = [
        f"{why}: " + ", ".join(f"{both} in {counted(n, 'run')}" for both, n in own.items())
        for why, own in alike.items()
    ]
    said = f"{'. '.join(found)}. What is the same is trained once"
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
    sizes, largest = [], 0
    for table in tables:
        ends = [
            next((run.done["parameters"] for run in runs if "parameters" in run.done), 0)
            for runs in (table.teacher, table.runs)
        ]
        if all(ends):
            sizes.append(f"{table.title}: {' to '.join(map(size, ends))}")
            largest = max(largest, *ends)
    found = list(study.grid.limits)
    starts = {group.recipe: study.start(group).config for group in study.groups}
    if synthetic := [recipe for recipe, config in starts.items() if config.demonstration]:
        found.append(
            f"The speech of {listed(synthetic)} is synthetic: its speakers are voices, not people."
        )
    if sizes:
        what = "Models are small" if largest < SMALL else "Sizes"
        found.append(f"{what} (parameters of teacher and student): {'; '.join(sizes)}.")
    if apart := [
        table.title
        for table in tables
        if any(
            unit_of([run.tested for run in row.runs]) == "utterance"
            for row in table.rows.values()
            if row.runs
        )
    ]:
        found.append(
            f"Other speakers are outside the intervals of {listed(apart)}: utterances were "
            f"resampled, since fewer than {ENOUGH_SPEAKERS} speakers are known."
        )
    for table in tables:
        rows = [row for name, row in table.rows.items() if not name.endswith(INT8)]
        made = [run.done["inputs"] for row in rows for run in row.runs]
        old = sum("code" not in each for each in made) if table.family == "whisper" else 0
        if old:
            how_many = "all" if old == len(made) else f"{old} of {len(made)}"
            found.append(
                f"In {how_many} runs of {table.title} the positions of Whisper's encoder were "
                "trained along, and SpecAugment masked what follows the speech as well; since "
                "2026-11-29 neither is so."
            )
    permuted = [
        name
        for name, cell in study.cells.items()
        if cell.set.get(control_key(study, name)) == "permuted"
    ]
    if permuted and len({seed for table in tables for seed in seeds_of(table)}) > 1:
        found.append(
            f"{listed([label_of(name) for name in permuted])}: one permutation of x for all seeds; "
            "its luck is in no interval."
        )
    if any(one_teacher(study, table) and len(seeds_of(table)) > 1 for table in tables):
        found.append(
            "Students of all seeds have one teacher (in each fold): its luck is in no interval."
        )
    for table in tables:
        taught: dict[tuple[int, ...], set[Any]] = {}  # when, of all that have one teacher
        for run in table.runs:
            if "taught" in run.made:
                own = run.key[:1] if one_teacher(study, table) else run.key
                taught.setdefault(own, set()).add(run.made["taught"])
        for (fold, *seeds), times in sorted(taught.items()):
            where = f"{table.title}{'' if fold < 0 else f', fold {fold}'}"
            where += "".join(f", seed {seed}" for seed in seeds)
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
    units = {
        unit_of([run.tested for run in row.runs])
        for table in tables
        for row in table.rows.values()
        if row.runs
    }
    over = " or ".join(f"{unit}s" for unit in sorted(units)) or "speakers"
    whole = ""
    if "fold" in units:
        over += " (speakers where five or more are known and every fold has several seeds)"
        whole = "A fold that has a single seed is drawn as a whole, its seed's luck with it. "
    elif "utterance" in units:
        over += " (speakers where five or more are known)"
    taught = [
        seconds
        for table in tables
        for run in table.teacher
        if (seconds := run.done.get("train_seconds"))
    ]
    teacher = f"The teacher{f' ({clock(median(taught))} to train)' if taught else ''} and its pass"
    if looked := [
        seconds
        for group in study.groups
        for seconds in once(study, group, records).get("difficulty", [])
        if seconds >= 1  # in less it was found done
    ]:
        asked = "what a guard or x from another source asks of it"
        teacher += f", and {asked} ({clock(median(looked))}),"
    shared = all(one_teacher(study, table) for table in tables)
    of_a_seed = "" if shared else " of a seed"
    primary = len(tables) * len(grid.primary)
    found = [
        "CER: mean over seeds, all folds put together, of normalised text in code points. "
        "S / D / I: substitutions, deletions and insertions, in percent of the reference.",
        f"Brackets: 95 %, from a bootstrap over seeds, crossed with {over}, with t quantiles, "
        "since few seeds and speakers make the error itself uncertain. "
        f"{whole}Changes are relative, paired by seed and test speech; below zero is better.",
        f"Holm's correction covers {'the one' if primary == 1 else f'all {primary}'} primary "
        f"comparison{'' if primary == 1 else 's'} that the grid names, those not run too. One with "
        "runs missing is open: nothing is claimed of it. All other intervals are exploratory and "
        "have no colour.",
        "won : lost counts runs with fewer and with more errors. Training: median time of a run, "
        "dev decoding included, on a machine that did other things besides"
        f"{same_twice(study, tables)}: for what a method costs see docs/PERFORMANCE.md. "
        f"{teacher} come on top, once for all cells{of_a_seed}.",
        tuned,
        "Test sets were decoded by the cells of the tables alone: epochs and candidates were "
        "chosen on dev, from runs that never decode test.",
    ]
    return [*found, fairness(study, tables)] if any(table.runs for table in tables) else found
