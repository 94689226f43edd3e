"""The results of one recipe: table for the terminal, RESULTS.md, and a page with plots.

Rows of a table pool all runs of a method: utterances of several folds are put together, errors of
several seeds on the same utterance are added. Every sentence is written from the numbers, a loss as
plainly as a win. All numbers come from the scored hypotheses (stage 8), so a table can be made
again from these files alone. Counting errors is in score.py, intervals are in significance.py,
figures in plots.py, and the look of a page is in pages.py.
"""

from __future__ import annotations

import json
import math
import re
import textwrap
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adakd import plots
from adakd.config import FAMILIES
from adakd.errors import UserError
from adakd.files import atomic_write, read_json, write_text
from adakd.methods import METHODS, method_of
from adakd.pages import Cell, Figure, Line, Part, aligned, markdown, page
from adakd.place import INT8
from adakd.progress import clock
from adakd.score import (
    DRAWS,
    ENOUGH_SPEAKERS,
    KINDS,
    Counts,
    Tested,
    UtteranceErrors,
    bootstrap_interval,
    by_condition,
    paired_bootstrap,
    read_errors,
    total,
    total_of,
    unit_of,
)
from adakd.significance import Change, Interval

if TYPE_CHECKING:
    import numpy as np


LABELS = {  # in the table's order
    "teacher": "Teacher",
    "untrained": "Untrained student",
    **{name: method.label for name, method in METHODS.items()},
}
EXPECTED = ("teacher", "untrained", "finetune", "kd")  # listed even where not run, as is AdaKD
IN_SENTENCES = {"teacher": "the teacher", "finetune": "fine-tuning", "kd": "KD"}
BASELINES = ("finetune", "kd")
HEADER = (
    "Method",
    "Parameters",
    "CER, %",
    "Raw CER, %",
    "S / D / I, %",
    "vs fine-tuning, %",
    "vs KD, %",
    "Training",
)
DISK = "On disk"  # a last column, where a row is of int8
PINYIN = "Pinyin, %"  # a column after the raw CER, in Mandarin
WER = "WER, %"  # there, too, where spaces part words
NOT_RUN = "not run"
UNTESTED = "has not been trained and tested"  # what has been trained may only lack stage 7
OF_VARIANTS = (
    "A variant, its tag in brackets, is compared with the fine-tuning and the KD of its own tag "
    "where there are others such, else with those without a tag."
)
BY_CONDITION = "CER by recording condition, %"


@dataclass(frozen=True)
class Experiment:
    """Where one run lies."""

    family: str
    method: str  # "teacher", "untrained", "finetune", "kd", "adakd", "adakd-<tag>", ...
    seed: int
    fold: int | None
    folder: Path


# How the results came about, told in the report as it is: command (exactly as typed), corpus
# (kind, release, checksums), versions (package -> version), revision (of git), machine, time,
# demonstration (true: the numbers show that every stage works, and prove nothing).
Context = Mapping[str, Any]


@dataclass(frozen=True)
class Run:
    """What one experiment left behind."""

    experiment: Experiment
    errors: list[UtteranceErrors]  # of the test set, in the order of the file
    difficulties: list[float | None]  # x of the same utterances
    done: dict[str, Any]
    dev_cer: list[tuple[float, float]]  # (epoch, CER)
    task_loss: list[tuple[float, float]]  # (optimiser step, loss)
    weights: int | None = None  # bytes on disk
    made: Mapping[str, str] = field(default_factory=dict)  # revision, machine, time of its teacher
    kinds: Counts | None = None  # of all errors, where they are not known of each utterance

    @property
    def counts(self) -> Counts:
        """All normalised errors of the test set together."""
        return self.kinds or total(one.normalised for one in self.errors)

    @property
    def key(self) -> tuple[int, int]:
        """Fold (-1: the recipe has none) and seed: sorts, and pairs runs of different methods."""
        fold = self.experiment.fold
        return (-1 if fold is None else fold), self.experiment.seed

    @property
    def tested(self) -> Tested:
        """As the statistics take it."""
        return Tested(self.errors, self.key[0], str(self.experiment.folder))


@dataclass(frozen=True)
class Row:
    """A method of one family, all its runs pooled. Without runs nothing else is known."""

    method: str
    label: str
    runs: list[Run]
    utterances: list[UtteranceErrors]
    interval: Interval
    interval_raw: Interval
    interval_pinyin: Interval | None  # of Mandarin
    parameters: int | None
    weights: int | None  # bytes on disk
    train_seconds: float | None  # mean over the runs
    changes: dict[str, Change]  # baseline's method -> relative change against it


# -- gathering ------------------------------------------------------------------------------------


def read_metrics(folder: Path) -> tuple[list[tuple[float, float]], list[tuple[float, float]]]:
    """(epoch, dev CER) and (optimiser step, task loss) of a training; metrics.jsonl may lack."""
    dev_cer: dict[float, float] = {}
    task_loss: dict[float, float] = {}
    metrics = folder / "metrics.jsonl"
    lines = (
        metrics.read_text(encoding="utf-8", errors="replace").splitlines()
        if metrics.is_file()
        else []
    )
    for number, line in enumerate(lines, start=1):
        try:
            entry = json.loads(line)
            # a resumed run may have logged a step twice: the later entry counts
            if "dev_cer" in entry:
                dev_cer[entry["epoch"]] = entry["dev_cer"]
            elif entry.get("task") is not None:
                task_loss[entry["step"]] = entry["task"]
        except (ValueError, LookupError, TypeError, AttributeError):
            raise UserError(
                f"{metrics}:{number} is no line that a training writes: remove {folder}, and the "
                "training runs again, or that line alone, and its curve lacks it."
            ) from None
    return sorted(dev_cer.items()), sorted(task_loss.items())


def read_run(experiment: Experiment) -> Run:
    """Scored hypotheses, done.json and metrics.jsonl of one experiment (the last two may lack)."""
    errors, difficulties = read_errors(experiment.folder / "hyp.test.jsonl")
    if not errors:
        raise UserError(f"{experiment.folder}/hyp.test.jsonl is empty: decode again (stage 7).")
    done, decoded = (experiment.folder / name for name in ("done.json", "decode/done.json"))
    facts = read_json(done) if done.is_file() else {}
    if decoded.is_file() and "data" in facts.get("inputs", {}):
        # Not those of its training, which knows of no test set.
        facts["inputs"]["data"] = read_json(decoded, needs=["inputs"])["inputs"]["data"]
    versions = experiment.folder / "versions.json"
    known = read_json(versions) if versions.is_file() else {}
    files = [
        path.stat().st_size
        for path in (experiment.folder / "model").glob("*")
        if path.suffix in (".safetensors", ".pt")
    ]
    return Run(
        experiment,
        errors,
        difficulties,
        facts,
        *read_metrics(experiment.folder),
        sum(files) if files else None,
        {name: known[name] for name in ("revision", "machine") if name in known},
    )


def pool(runs: Sequence[Run]) -> list[UtteranceErrors]:
    """Utterances of all folds, each once, with the errors of all seeds added."""
    pooled: dict[str, UtteranceErrors] = {}
    for run in runs:
        fold = run.experiment.fold
        for one in run.errors:
            name = one.id if fold is None else f"fold {fold}: {one.id}"
            so_far = pooled.get(name)
            added: dict[str, Any] = {}
            for kind in KINDS if so_far else ():
                both = [getattr(each, kind) for each in (so_far, one)]
                added[kind] = total(both) if all(both) else None
            pooled[name] = replace(one, id=name, **added)
    return list(pooled.values())


def as_one(runs: Sequence[Run]) -> Tested:
    """Runs of one fold as if they were one: all their errors."""
    first = runs[0]
    return Tested(pool(runs), first.key[0], str(first.experiment.folder))


def compare(runs: Sequence[Run], baseline: Sequence[Run], draws: int = DRAWS) -> Change | None:
    """Paired comparison over the runs that both have: same fold and seed, or at least same fold.

    Other seeds of the same fold are no pairs: their errors are added, and the interval covers the
    choice of test speech alone.
    """
    sides = [{run.key: [run] for run in each} for each in (runs, baseline)]
    if not sides[0].keys() & sides[1].keys():
        sides = [
            {(fold, 0): [run for run in each if run.key[0] == fold] for fold, _ in side}
            for side, each in zip(sides, (runs, baseline), strict=True)
        ]
    common = sorted(sides[0].keys() & sides[1].keys())
    if not common:
        return None
    ours, theirs = ([as_one(side[key]) for key in common] for side in sides)
    return paired_bootstrap(ours, theirs, draws=draws)


def label_of(method: str) -> str:
    """'adakd-p25' -> 'AdaKD (p25)'; a method without a name of its own keeps the folder's."""
    name = _name_of(method)
    tag, label = method[len(name) + 1 :], LABELS.get(name, name)
    if not tag:
        return label
    return f"{label[:-1]}, {tag})" if label.endswith(")") else f"{label} ({tag})"


def _name_of(method: str) -> str:
    """The method of an experiment, 'teacher' or 'untrained'; of others what stands before '-'."""
    return method_of(method) or method.partition("-")[0]


def split_tag(method: str) -> tuple[str, str]:
    """'adakd-learned-p25' -> ('adakd-learned', 'p25'): an experiment's name without its tag."""
    name = _name_of(method)
    if f"{method}-".startswith(f"{name}{INT8}-"):
        name += INT8
    return name, method[len(name) + 1 :]


def baseline_of(method: str, baseline: str, there: Collection[str]) -> str | None:
    """Which experiment a method is compared with: the baseline of its own tag, else without one.

    None where neither is there but itself.
    """
    tag = split_tag(method)[1]
    names = [f"{baseline}-{tag}", baseline] if tag else [baseline]
    return next((name for name in names if name in there and name != method), None)


def make_rows(
    runs: Sequence[Run], draws: int = DRAWS, asked: Sequence[str] = ("adakd",)
) -> list[Row]:
    """Rows of one family's table: the five of every recipe, run or not, and any others.

    What was run with a tag alone has no row without it, nor has AdaKD one where nobody asked for
    it. For what is compared with what see `baseline_of`.
    """
    trained = {run.experiment.method for run in runs}
    expected = {*EXPECTED, *({"adakd"} & set(asked))} - {split_tag(name)[0] for name in trained}
    by_method: dict[str, list[Run]] = {name: [] for name in sorted(trained | expected, key=_order)}
    for run in sorted(runs, key=lambda run: run.key):
        by_method[run.experiment.method].append(run)
    sizes = {
        method: next((run.done["parameters"] for run in own if "parameters" in run.done), None)
        for method, own in by_method.items()
    }
    if "untrained" in sizes and sizes["untrained"] is None:
        # Its folder is not needed: it is as big as the others.
        students = (size for method, size in sizes.items() if method != "teacher" and size)
        sizes["untrained"] = next(students, None)
    rows = []
    for method, own in by_method.items():
        utterances = pool(own)
        seconds = [run.done["train_seconds"] for run in own if "train_seconds" in run.done]
        heard = [run.tested for run in own]
        nothing = Interval(math.nan, math.nan)
        changes = {}
        for baseline in BASELINES:
            name = baseline_of(method, baseline, trained)
            if own and name is not None:
                changes[baseline] = compare(own, by_method[name], draws)
        rows.append(
            Row(
                method,
                label_of(method),
                own,
                utterances,
                bootstrap_interval(heard, "normalised", draws) if own else nothing,
                bootstrap_interval(heard, "raw", draws) if own else nothing,
                bootstrap_interval(heard, "pinyin", draws)
                if total_of("pinyin", utterances)
                else None,
                sizes[method],
                next((run.weights for run in own if run.weights), None),
                sum(seconds) / len(seconds) if seconds else None,
                {baseline: change for baseline, change in changes.items() if change},
            )
        )
    return rows


def _order(method: str) -> tuple[bool, int, str]:
    """Sorts the rows of `LABELS` as they stand there, and behind them variants by their method."""
    name = _name_of(method)
    place = list(LABELS).index(name) if name in LABELS else len(LABELS)
    return method not in LABELS, place, method


def quarters(run: Run) -> list[list[UtteranceErrors]]:
    """The test set in four by the teacher's loss on it, from easy to hard; [] if that is unknown.

    Taken within each run, since every fold has a teacher of its own.
    """
    known = sorted(
        (x, one.id, one)
        for x, one in zip(run.difficulties, run.errors, strict=True)
        if x is not None
    )
    found: list[list[UtteranceErrors]] = [[], [], [], []]
    for place, (_, _, one) in enumerate(known):
        found[4 * place // len(known)].append(one)
    return found if all(found) else []


def cer_by_quartile(runs: Sequence[Run]) -> list[float]:
    """CER in each of the `quarters`, those of all runs put together; [] if one is unknown."""
    found = [quarters(run) for run in runs]
    if not all(found):
        return []
    return [
        total(one.normalised for part in parts for one in part).cer
        for parts in zip(*found, strict=True)
    ]


# -- words ----------------------------------------------------------------------------------------


def counted(number: int, what: str) -> str:
    """The number, and what it counts in singular or plural."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def percent(fraction: float, digits: int = 2) -> str:
    return f"{100 * fraction:.{digits}f}"


def signed(change: float) -> str:
    """Relative change in percent with its sign; infinite where the baseline made no error."""
    return f"{100 * change:+.1f}" if math.isfinite(change) else "inf"


def size(parameters: int | None) -> str:
    if parameters is None:
        return "unknown"
    for unit, name in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if parameters >= 0.9995 * unit:  # what three digits round up to it
            return f"{parameters / unit:.3g} {name}"
    return str(parameters)


def on_disk(weights: int | None) -> str:
    if not weights:
        return ""
    unit, name = (1e9, "GB") if weights >= 0.9995e9 else (1e6, "MB")
    return f"{weights / unit:.3g} {name}"


def verdict(label: str, other: str, change: Change) -> str:
    """One clause: who is better, by how much, and whether this run can tell."""
    if not math.isfinite(change.relative):
        return f"{other} makes no error at all here, which {label} does"
    low, high = map(signed, change.interval)
    if change.relative == 0:
        claim = f"{label} makes exactly as many errors as {other}"
    else:
        word = "better" if change.relative < 0 else "worse"
        claim = f"{label} is {percent(abs(change.relative), 1)} % relative {word} than {other}"
    if math.isnan(change.interval.low):
        return f"{claim}; without an interval this run can't tell"
    if change.decided:
        return f"{claim}; the interval ({low} % to {high} %) excludes zero"
    return f"{claim}; the interval ({low} % to {high} %) includes zero, so this run can't tell"


def headline(family: str, rows: Sequence[Row], tag: str = "") -> str:
    """The outcome for one family in a few sentences: of a tag's student, where it has one."""
    there = {row.method: row for row in rows if row.runs}
    by_method: dict[str, Row] = {}
    for row in sorted(there.values(), key=lambda row: split_tag(row.method)[1] != tag):
        by_method.setdefault(split_tag(row.method)[0], row)
    students = [name for name in by_method if not name.startswith(("teacher", "untrained"))]
    if not students:
        return f"{family}: no student has been trained."
    rivals = [name for name in students if method_of(name) == name and name not in BASELINES]
    order = ("adakd", *rivals, "kd", "finetune", *students)
    ours = [by_method[name] for name in order if name in students]
    best = min(ours, key=lambda row: bool(tag) and split_tag(row.method)[1] != tag)
    sentences = [f"{family}: {best.label} reaches a CER of {percent(_cer(best))} %"]
    if not math.isnan(best.interval.low):
        sentences[0] += " (95 % interval {} to {})".format(*map(percent, best.interval))
    others = {each: baseline_of(best.method, each, there) for each in BASELINES}
    beside = [there[name] for name in (*others.values(), "teacher") if name in there]
    named = [f"{_in_sentence(row)} {percent(_cer(row))} %" for row in beside]
    sentences[0] += f"; {', '.join(named)}." if named else "."
    for baseline in reversed(BASELINES):
        name = others[baseline]
        if name is not None and baseline in best.changes:
            clause = verdict(best.label, _in_sentence(there[name]), best.changes[baseline])
            sentences.append(clause + ".")
        elif baseline not in by_method:
            sentences.append(f"{LABELS[baseline]} {UNTESTED}.")
    if any(row.method == "adakd" and not row.runs for row in rows):
        sentences.append(f"AdaKD {UNTESTED}.")
    return " ".join(sentences)


def _in_sentence(row: Row) -> str:
    name, tag = split_tag(row.method)
    return IN_SENTENCES[name] + (f" ({tag})" if tag else "")


def _resampled(row: Row) -> str:
    """What the intervals of a row are over, beside its seeds."""
    unit = unit_of([run.tested for run in row.runs])
    if unit == "speaker":
        return f"{len({one.speaker for one in row.utterances} - {''})} speakers"
    if unit == "fold" and 1 in Counter(run.key[0] for run in row.runs).values():
        return "folds (one with a single seed is drawn as a whole)"
    return f"{unit}s (five known speakers are needed to draw over those)"


def notes(families: Mapping[str, Sequence[Row]]) -> list[str]:
    """What a reader must know to read the table rightly."""
    rows = [row for table in families.values() for row in table if row.runs]
    sizes = {}  # of the test set of each family, which may have rejected other clips
    for family, table in families.items():
        if row := next((row for row in table if row.runs), None):
            sizes[family] = f"{len(row.utterances)} utterances"
            if len(row.runs) == 1:
                sizes[family] += f", {row.runs[0].counts.characters} characters"
    tested = " and ".join(
        dict.fromkeys(sizes.values())
        if len(set(sizes.values())) == 1
        else (f"{size} as {family}" for family, size in sizes.items())
    )
    seeds = sorted({run.experiment.seed for row in rows for run in row.runs})
    folds = {run.experiment.fold for row in rows for run in row.runs} - {None}
    over = " or ".join(dict.fromkeys(_resampled(row) for row in rows))
    if len(seeds) > 1:
        over = f"seeds, crossed with {over}"
    found = [
        f"CER counts Unicode code points over the whole test set ({tested}): normalised text on "
        "both sides; raw is against the untouched transcript. S / D / I: substitutions, deletions "
        "and insertions in percent of the reference's characters.",
        f"Brackets: 95 %, from a bootstrap over {over}, with t quantiles, since the standard error "
        "is itself uncertain. vs: relative change of the CER, paired; below zero is better.",
    ]
    if any(split_tag(row.method)[1] for row in rows):
        found.append(OF_VARIANTS)
    if any("-int8" in row.method for row in rows):
        found.append(
            "int8: the same student with the weights of its linear layers in int8, activations "
            "quantised on the fly, decoded on the CPU clip by clip; not trained any further."
        )
    if any(row.interval_pinyin for row in rows):
        found.append(
            "Pinyin: the error rate over tonal syllables, so that homophones count as right. Both "
            "sides are read by pypinyin, a heteronym by the phrase that it stands in."
        )
    if any(total_of("words", row.utterances) for row in rows):
        found.append(
            "WER: the error rate over the words of the normalised text, which spaces part. Models "
            "are picked by their CER on dev, and intervals are given for the CER alone."
        )
    if folds:
        found.append(f"Pooled over {len(folds)} folds.")
    if len(seeds) == 1:
        found.append(
            f"All with one training seed ({seeds[0]}): the intervals cover the choice of test "
            "speech, not the luck of a training run."
        )
    else:
        listed = ", ".join(map(str, seeds))
        found.append(
            f"Errors of the seeds {listed} are added; the intervals cover the choice of test "
            "speech and, where a method has several seeds (vs: both have the same), the luck of "
            "a training run."
        )
    for row in rows:
        folders = {run.experiment.folder for run in row.runs}
        if row.method == "teacher" and len(folders) < len(row.runs):
            of_fold = " of each fold" if folds else ""
            found.append(
                f"The seeds{of_fold} share one teacher: its luck is in no interval, and its row is "
                "the same training every time."
            )
            break
    for family, table in families.items():
        held = {row.label: len(row.runs) for row in table if row.runs}
        keys = {frozenset(run.key for run in row.runs) for row in table if row.runs}
        if len(keys) > 1:
            counts = ", ".join(f"{label} {number}" for label, number in held.items())
            found.append(
                f"The rows of {family} do not hold the same runs ({counts}): read vs, which "
                "compares only runs that both have, rather than the CERs."
            )
        steps: dict[tuple[int, int], dict[int, list[str]]] = {}
        for row in table:
            for run in row.runs:
                if row.method != "teacher" and (number := run.done.get("steps")):
                    steps.setdefault(run.key, {}).setdefault(number, []).append(row.label)
        for unlike in [kinds for kinds in steps.values() if len(kinds) > 1][:1]:
            made = "; ".join(f"{', '.join(labels)} {number}" for number, labels in unlike.items())
            found.append(
                f"The students of {family} did not make the same number of optimiser steps "
                f"({made}), by other epochs, batches or numbers of processes (--nproc), or since "
                "AdaKD (learned) holds utterances out: that difference is part of what is compared."
            )
    return found


def caution(families: Mapping[str, Sequence[Row]]) -> str:
    """What one run cannot tell, whatever its interval says; empty where nothing of it holds."""
    runs = [run for table in families.values() for row in table for run in row.runs]
    few = []
    if len({run.experiment.seed for run in runs if run.experiment.method != "teacher"}) == 1:
        few.append("with another seed each CER would be another, often by more than methods differ")
    speakers = {one.speaker for run in runs for one in run.errors} - {""}
    if 0 < len(speakers) < ENOUGH_SPEAKERS:
        these = "this speaker" if len(speakers) == 1 else f"these {len(speakers)} speakers"
        few.append(f"other speakers than {these} may differ more")
    return f"Not in the intervals: {'; '.join(few)} (docs/studies.md)." if few else ""


def demonstration(runs: Sequence[Run]) -> str:
    seeds = {run.experiment.seed for run in runs}
    luck = "a single seed and " if len(seeds) == 1 else ""
    return (
        f"This is a demonstration, not evidence: {luck}minutes of synthetic speech show that every "
        "step works, not which method is better."
    )


# -- table ----------------------------------------------------------------------------------------


def _cer(row: Row) -> float:
    return total(one.normalised for one in row.utterances).cer


def header(table: Sequence[Row]) -> tuple[str, ...]:
    """Names of the columns: HEADER, and those of pinyin, words and int8 where a row has them."""
    column = HEADER.index("Raw CER, %") + 1
    added = [PINYIN] if any(row.interval_pinyin for row in table) else []
    added += [WER] if any(total_of("words", row.utterances) for row in table) else []
    last = (DISK,) if any("-int8" in row.method for row in table) else ()
    return (*HEADER[:column], *added, *HEADER[column:], *last)


def cells(row: Row, columns: Sequence[str]) -> list[Cell]:
    """One line of the table, in the order of `header`."""
    parameters = Cell(size(row.parameters)) if row.parameters or row.runs else Cell("")
    if not row.runs:
        return [Cell(row.label), parameters, Cell(NOT_RUN), *[Cell("") for _ in columns[3:]]]
    counts = total(one.normalised for one in row.utterances)
    raw = total(one.raw for one in row.utterances)
    kinds = (counts.substitutions, counts.deletions, counts.insertions)
    trained = clock(row.train_seconds) if row.train_seconds is not None else ""
    added = []
    if PINYIN in columns:
        heard, interval = total_of("pinyin", row.utterances), row.interval_pinyin
        if heard is not None and interval is not None:
            added.append(Cell(percent(heard.cer), bracket(interval, percent)))
        else:
            added.append(Cell(""))
    if WER in columns:
        words = total_of("words", row.utterances)
        added.append(Cell(percent(words.cer) if words else ""))
    return [
        Cell(row.label),
        parameters,
        Cell(percent(counts.cer), bracket(row.interval, percent)),
        Cell(percent(raw.cer), bracket(row.interval_raw, percent)),
        *added,
        Cell(" / ".join(percent(kind / counts.characters, 1) for kind in kinds)),
        *[change_cell(row.changes.get(baseline)) for baseline in BASELINES],
        Cell("none" if split_tag(row.method)[0] == "untrained" else trained),
        *([Cell(on_disk(row.weights))] if DISK in columns else []),
    ]


def bracket(interval: Interval, written: Any) -> str:
    if math.isnan(interval.low):
        return ""
    return f"[{written(interval.low)}, {written(interval.high)}]"


def change_cell(change: Change | None) -> Cell:
    if change is None:
        return Cell("")
    tone = "open" if not change.decided else "better" if change.relative < 0 else "worse"
    hint = f"two-sided p = {change.p_value:.3g}"
    return Cell(signed(change.relative), bracket(change.interval, signed), tone, hint)


def results_table(table: Sequence[Row]) -> list[Line]:
    """A line for every method; the first line, here and in all tables, is the header."""
    columns = header(table)
    return [columns, *[cells(row, columns) for row in table]]


def conditions_table(table: Sequence[Row], draws: int = DRAWS) -> list[Line]:
    """CER with its interval by recording condition, methods as rows; [] for corpora without."""
    own = {row.label: by_condition(row.utterances) for row in table if row.runs}
    names = list(dict.fromkeys(name for conditions in own.values() for name in conditions))
    lines: list[Line] = [["Method", *names]] if names else []
    for row in [row for row in table if row.runs and names]:
        line: list[Cell | str] = [row.label]
        for name in names:
            found = own[row.label].get(name)
            if found is None:
                line.append(NOT_RUN)
                continue
            cer = total(one.normalised for one in found).cer
            heard = [Tested(by_condition(run.errors).get(name, []), run.key[0]) for run in row.runs]
            interval = bootstrap_interval(heard, "normalised", draws)
            line.append(Cell(percent(cer), bracket(interval, percent)))
        lines.append(line)
    return lines


def runs_table(table: Sequence[Row]) -> list[Line]:
    """CER of every single run, methods as columns; [] where no method has more than one run."""
    if all(len(row.runs) < 2 for row in table):
        return []
    own = [row for row in table if row.runs]
    keys = sorted({run.key for row in own for run in row.runs})
    lines: list[Line] = [["Run", *[row.label for row in own]]]
    for fold, seed in keys:
        line = [f"seed {seed}" if fold < 0 else f"fold {fold}, seed {seed}"]
        for row in own:
            found = [run for run in row.runs if run.key == (fold, seed)]
            line.append(percent(found[0].counts.cer) if found else NOT_RUN)
        lines.append(line)
    return lines


# -- the report -----------------------------------------------------------------------------------


def write_report(
    recipe: str,
    experiments: Sequence[Experiment],
    out_folder: Path,
    context: Context,
    difficulties: Mapping[str, np.ndarray] | None = None,
    draws: int = DRAWS,
    asked: Sequence[str] = ("adakd",),
    tag: str = "",
) -> str:
    """Write RESULTS.md, index.html and its plots to `out_folder`; return the text table.

    Reads from every experiment's folder hyp.test.jsonl (scored), done.json and metrics.jsonl.
    `difficulties`: family -> teacher's losses x (N,) on the training set of the first AdaKD run
    (lowest fold, then lowest seed); without them there is no plot of alpha. `asked`: the methods
    that it is about, `tag`: the variant. Raises UserError when nothing has been decoded and scored,
    or methods were tested on different utterances.
    """
    if not experiments:
        raise UserError(f"No experiments of {recipe} are there to report: run stages 2 to 8 first.")
    runs = [read_run(experiment) for experiment in experiments]
    families = {
        family: make_rows([run for run in runs if run.experiment.family == family], draws, asked)
        for family in dict.fromkeys(run.experiment.family for run in runs)
    }
    warning = demonstration(runs) if context["demonstration"] else ""
    said = [headline(family, table, tag) for family, table in families.items()]
    if not warning and (luck := caution(families)):
        said.append(luck)
    figures = make_figures(families, difficulties or {})
    conditions = {family: conditions_table(table, draws) for family, table in families.items()}

    parts = [Part("warning", warning)] if warning else []
    parts.append(Part("said", said))
    for family, table in families.items():
        parts += [Part("heading", family), Part("table", results_table(table))]
        if conditions[family]:
            title = f"{family}: {BY_CONDITION}"
            parts += [Part("subheading", title), Part("table", conditions[family])]
    parts.append(Part("list", notes(families)))
    for family, table in families.items():
        if lines := runs_table(table):
            parts.append(Part("details", (f"{family}: CER of every run, %", lines)))
    parts += [Part("figure", figure) for figure in figures.values()]
    parts += made_by(context, trained_by(runs))

    write_text(out_folder / "RESULTS.md", markdown(f"Results of {recipe}", parts))
    for name, figure in figures.items():
        with atomic_write(out_folder / f"{name}.png", "wb") as file:
            file.write(figure.png)
    meta = f"AdaKD results, {context['time']}"
    write_text(out_folder / "index.html", page(recipe, meta, parts))

    shown = []
    for family, table in families.items():
        shown.append(f"{family}\n{aligned(results_table(table))}")
        if conditions[family]:
            shown.append(f"{family}: {BY_CONDITION}\n{aligned(conditions[family])}")
    of_variants = OF_VARIANTS if any(split_tag(run.experiment.method)[1] for run in runs) else ""
    shown += [_filled(text) for text in (warning, *said, of_variants) if text]
    return "\n\n".join(shown) + "\n"


def _filled(text: str) -> str:
    """Broken into lines for a terminal, a percent sign never parted from its number."""
    return textwrap.fill(text.replace(" %", "\u00a0%"), 100).replace("\u00a0", " ")


def make_figures(
    families: Mapping[str, Sequence[Row]], difficulties: Mapping[str, np.ndarray]
) -> dict[str, Figure]:
    """File name -> figure; a figure whose data are not there is left out."""
    drawn = {
        family: [
            plots.Method(
                row.method,
                row.label,
                _cer(row),
                row.interval,
                [run.dev_cer for run in row.runs],
                [run.task_loss for run in row.runs],
                cer_by_quartile(row.runs),
            )
            for row in table
            if row.runs
        ]
        for family, table in families.items()
    }
    every = [method for methods in drawn.values() for method in methods]
    figures = {
        "cer": Figure(
            plots.cer_by_method(drawn),
            "CER by method",
            "The dot is the CER over the whole test set, the line its 95 % interval. Overlapping "
            "lines say little: the paired comparisons in the table are sharper.",
        )
    }
    if any(curve for method in every for curve in method.dev_cer + method.task_loss):
        figures["learning"] = Figure(
            plots.learning_curves(drawn),
            "Learning curves",
            "Dev CER after each epoch, and the students' loss on the transcripts during training "
            "(the same quantity for every method, unlike the total loss). Several runs: mean, "
            "with the range as a band.",
        )
    if any(method.quartiles for method in every):
        figures["quartiles"] = Figure(
            plots.cer_by_quartile(drawn),
            "CER by difficulty",
            "The test set in four equal parts by the teacher's loss x: where does a method gain?",
        )
    schedules = {}
    for family, table in families.items():
        run = next(
            (row.runs[0] for row in table if split_tag(row.method)[0] == "adakd" and row.runs), None
        )
        if run and (schedule := schedule_of(run, difficulties.get(family, ()))):
            schedules[family] = schedule
    if schedules:
        figures["alpha"] = alpha_figure(schedules)
    return figures


def schedule_of(run: Run, difficulties: Sequence[float] | np.ndarray) -> plots.Schedule | None:
    """AdaKD's parameters in a run; None where the curve of alpha over x itself is not known."""
    import numpy as np

    alpha: dict[str, Any] = run.done.get("alpha", {})
    plain = alpha.get("control", "none") == "none" and "guard" not in alpha
    if not ({"t", "k_start", "k_end"} <= alpha.keys() and plain and len(difficulties)):
        return None
    x, scale = np.asarray(difficulties, dtype=np.float64), alpha.get("scale", "linear")
    if scale == "log":
        from adakd.weighting import EASIEST

        x = np.log(np.maximum(x, EASIEST))
    elif scale == "rank":
        from scipy.stats import rankdata

        x = (rankdata(x) - 0.5) / len(x)
    at_t = alpha.get("alpha", math.exp(-1))  # runs before 2026-11-28 do not say so
    return plots.Schedule(alpha["t"], alpha["k_start"], alpha["k_end"], at_t, x, scale)


def alpha_figure(schedules: Mapping[str, plots.Schedule]) -> Figure:
    """alpha over x, one panel for each name."""
    return Figure(
        plots.alpha_by_difficulty(schedules),
        "AdaKD's weight of the teacher",
        "alpha = a ^ exp(k (x - t) / 2): the weight of the distillation loss on a training "
        "utterance of difficulty x, as k falls, and how many utterances have that x. "
        + " ".join(_alpha_range(*item) for item in schedules.items()),
    )


def first_alphas(schedule: plots.Schedule, shares: Sequence[float]) -> list[float]:
    """These percentiles of alpha over the training set, as training begins."""
    import numpy as np

    alpha = schedule.alpha(schedule.difficulties, 0.0)
    return [float(each) for each in np.percentile(alpha, shares)]


def _alpha_range(family: str, schedule: plots.Schedule) -> str:
    low, tenth, half, ninetieth, high = first_alphas(schedule, (0, 10, 50, 90, 100))
    return (
        f"{family}: a = {schedule.alpha_at_t:.3g}, t = {schedule.threshold:.3g}, k from "
        f"{schedule.k_start:.3g} to {schedule.k_end:.3g}; at the start alpha runs from {low:.2f} "
        f"to {high:.2f}, the middle 80 % of the utterances from {tenth:.2f} to {ninetieth:.2f}, "
        f"half below {half:.2f}."
    )


def made_by(context: Context, more: Sequence[tuple[str, str]] = ()) -> list[Part]:
    """The last parts of a report: the command, and what it ran on."""
    versions = ", ".join(f"{name} {version}" for name, version in context["versions"].items())
    facts = [
        ("Corpus", context["corpus"]),
        ("Revision", context["revision"]),
        ("Versions", versions),
        ("Machine", context["machine"]),
        ("Time", context["time"]),
        *more,
    ]
    return [
        Part("heading", "How this was made"),
        Part("code", context["command"]),
        Part("facts", facts),
    ]


def trained_by(runs: Sequence[Run]) -> list[tuple[str, str]]:
    """The revisions and machines that made the runs, which need not be the report's."""
    found: dict[str, Counter[str]] = {"revision": Counter(), "machine": Counter()}
    for run in runs:
        for kind, counter in found.items() if run.experiment.method != "untrained" else ():
            counter[run.made.get(kind, "unknown")] += 1
    return [
        (f"Runs by {kind}", "; ".join(f"{name} ({n})" for name, n in counter.items()) or "none")
        for kind, counter in found.items()
    ]


# -- a recipe's RESULTS.md ------------------------------------------------------------------------

_FAMILY = re.compile(rf"(?m)^## ({'|'.join(FAMILIES)})$")
_STUDY = re.compile(r"(?m)^<!-- study (.+): adakd benchmark --publish -->\n")


def publish(source: Path, target: Path) -> None:
    """Copy the RESULTS.md of a run to its recipe, and leave there what studies have added.

    Raises:
        UserError: the table of a family would be lost.
    """
    before, studies = _results(target)
    now = source.read_text(encoding="utf-8")
    if lost := set(_FAMILY.findall(before)) - set(_FAMILY.findall(now)):
        raise UserError(
            f"{target} has a table of {' and '.join(sorted(lost))} as well, which this report "
            "lacks: publish a report of both families, or delete that table there first."
        )
    _write_results(target, now, studies)


def publish_study(target: Path, name: str, title: str, parts: Sequence[Part]) -> None:
    """Put what a study of this name found into a recipe's RESULTS.md, in place of what is there."""
    own, studies = _results(target)
    _write_results(target, own, studies | {name: markdown(title, parts)})


def _results(path: Path) -> tuple[str, dict[str, str]]:
    """What a RESULTS.md says of the recipe's own run, and of each study."""
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    own, *studies = _STUDY.split(text)
    return own, dict(zip(studies[::2], studies[1::2], strict=True))


def _write_results(path: Path, own: str, studies: Mapping[str, str]) -> None:
    marked = [
        f"<!-- study {name}: adakd benchmark --publish -->\n{text.strip()}\n"
        for name, text in studies.items()
    ]
    write_text(path, "\n".join([*([f"{own.strip()}\n"] if own.strip() else []), *marked]))
