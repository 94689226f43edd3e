"""Character error rates with confidence intervals, from the hypotheses that decoding wrote.

Counts Unicode code points (not grapheme clusters): what the literature reports for Hindi, Tamil and
Chinese. The CER of a set is corpus-level: all errors over all reference characters, not the mean of
the utterances' own rates. Two numbers: *raw* against the untouched transcript, both sides in NFC so
that equal letters are equal code points; *normalised* with `adakd.data.text.normalise` on both
sides. Whisper's normalisers are never used: they delete vowel signs. A third, of the normalised
texts: the word error rate where spaces part words, and for Mandarin the *pinyin* error rate, over
tonal syllables (`adakd.data.pinyin`). What was recorded under several conditions is scored by
condition as well.

Not here: decoding (decode.py), how an interval is made (significance.py), and pooling over folds
and seeds, tables and plots (report.py).
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from adakd import significance
from adakd.errors import UserError
from adakd.files import read_json, write_json, write_jsonl
from adakd.significance import Change, Interval

if TYPE_CHECKING:
    import numpy as np

ENOUGH_SPEAKERS = 5  # from here on the bootstrap may resample speakers: see `unit_of`
DRAWS = 1000  # bootstrap resamples
KINDS = ("normalised", "raw", "pinyin", "words")  # of errors; the last two where there are any


class Counts(NamedTuple):
    """Errors of one or more utterances, in code points (pinyin: in syllables; WER: in words)."""

    substitutions: int
    deletions: int
    insertions: int
    characters: int  # of the reference (pinyin: syllables; WER: words)

    @property
    def errors(self) -> int:
        return self.substitutions + self.deletions + self.insertions

    @property
    def cer(self) -> float:
        """Errors over reference characters; may exceed 1."""
        return self.errors / self.characters


@dataclass(frozen=True)
class UtteranceErrors:
    """What was wrong in one utterance, and who spoke it (the unit of resampling)."""

    id: str
    speaker: str
    normalised: Counts
    raw: Counts
    pinyin: Counts | None = None  # of Mandarin
    condition: str = ""  # the recording condition, where a corpus has several
    words: Counts | None = None  # where spaces part them; older score files lack it


class Tested(NamedTuple):
    """One run of a system: a seed of a fold. Seeds of a fold hear the same utterances."""

    errors: Sequence[UtteranceErrors]
    fold: int = 0
    name: str = "a system"


# -- counting --------------------------------------------------------------------------------------


def count(references: Sequence[str], hypotheses: Sequence[str]) -> list[Counts]:
    """Substitutions, deletions, insertions and length of each pair, in code points with spaces.

    An empty hypothesis is all deletions. References must not be empty.
    """
    import jiwer

    if not references:
        return []
    return _counts(jiwer.process_characters(list(references), list(hypotheses)))


def count_syllables(references: Sequence[str], hypotheses: Sequence[str]) -> list[Counts]:
    """The same of Mandarin texts in tonal syllables; what is no Chinese character counts as one."""
    from adakd.data.pinyin import syllables

    return count_words(
        *([" ".join(syllables(text)) for text in texts] for texts in (references, hypotheses))
    )


def count_words(references: Sequence[str], hypotheses: Sequence[str]) -> list[Counts]:
    """The same in words, which are what spaces part."""
    import jiwer

    return _counts(jiwer.process_words(list(references), list(hypotheses))) if references else []


def _counts(output: Any) -> list[Counts]:
    """Substitutions, deletions, insertions and length of each pair that jiwer aligned."""
    counts = []
    for reference, chunks in zip(output.references, output.alignments, strict=True):
        of_kind = {"substitute": 0, "delete": 0, "insert": 0, "equal": 0}
        for chunk in chunks:
            of_kind[chunk.type] += max(
                chunk.ref_end_idx - chunk.ref_start_idx, chunk.hyp_end_idx - chunk.hyp_start_idx
            )
        counts.append(
            Counts(of_kind["substitute"], of_kind["delete"], of_kind["insert"], len(reference))
        )
    return counts


def score(rows: Sequence[Mapping[str, Any]], language: str) -> list[UtteranceErrors]:
    """Errors of every utterance, normalised, raw and in words or (Mandarin) pinyin, in their order.

    `rows` are lines of a hyp.<split>.jsonl (id, speaker, reference, raw, hypothesis). Spaces count,
    one for each run of white space; in languages written without them none does, in the raw text
    either. Raises UserError for a reference that holds nothing to count.
    """
    from adakd.data.pinyin import is_mandarin
    from adakd.data.text import canonical, normalise, spaces_count, units_of_error

    def sides(key: str, clean: bool) -> tuple[list[str], list[str]]:
        references, hypotheses = [], []
        for row in rows:
            pair = [row[key], row["hypothesis"]]
            pair = [normalise(side, language) if clean else canonical(side) for side in pair]
            reference, hypothesis = (units_of_error(side, language) for side in pair)
            if not reference:
                raise UserError(
                    f"Utterance {row['id']!r} has nothing to score in its {key} text {row[key]!r}: "
                    "delete done.json of the prepared data and run from stage 1 on, which rejects "
                    "empty transcripts."
                )
            references.append(reference)
            hypotheses.append(hypothesis)
        return references, hypotheses

    texts = sides("reference", clean=True)
    normalised = count(*texts)
    raw = count(*sides("raw", clean=False))
    pinyin: Sequence[Counts | None] = [None] * len(rows)
    if is_mandarin(language):
        pinyin = count_syllables(*texts)
    words: Sequence[Counts | None] = [None] * len(rows)
    if spaces_count(language):
        words = count_words(*texts)
    counts = zip(normalised, raw, pinyin, words, strict=True)
    return [
        UtteranceErrors(
            row["id"],
            row["speaker"],
            of_normalised,
            of_raw,
            of_pinyin,
            row.get("condition", ""),
            of_words,
        )
        for row, (of_normalised, of_raw, of_pinyin, of_words) in zip(rows, counts, strict=True)
    ]


def total(counts: Iterable[Counts]) -> Counts:
    """The sum of all counts; its `.cer` is the corpus-level CER."""
    return Counts(*map(sum, zip(Counts(0, 0, 0, 0), *counts, strict=True)))


# -- how sure --------------------------------------------------------------------------------------


def unit_of(runs: Sequence[Tested]) -> str:
    """What is resampled beside the seeds: "speaker", "fold" or "utterance".

    Utterances of one speaker fail together; resampling them apart would promise too narrow an
    interval: speakers, where five or more are known. So it would with those of a fold, which has a
    few people, and a training, of its own: folds, where there are fewer speakers, and where one of
    several folds has a single seed, whose luck is then all of this fold's.
    """
    seeds = Counter(run.fold for run in runs)
    folds = len(seeds) > 1
    if folds and 1 in seeds.values():
        return "fold"
    speakers = {one.speaker for run in runs for one in run.errors} - {""}
    if len(speakers) >= ENOUGH_SPEAKERS:
        return "speaker"
    return "fold" if folds else "utterance"


def count_array(
    systems: Sequence[Sequence[Tested]], kind: str = "normalised", unit: str = ""
) -> tuple[np.ndarray, np.ndarray]:
    """Counts (groups, runs, 2 a system) and folds (runs,) for significance.py.

    systems: runs of each, one by one of the same folds and seeds. kind: of errors, see `KINDS`.
    unit: what the groups are, by default what `unit_of` says of the first system. An utterance
    whose speaker is not known is a group of its own. Groups are numbered as they first appear.
    """
    import numpy as np

    unit = unit or unit_of(systems[0])

    def label(run: Tested, one: UtteranceErrors) -> tuple[int, str, str]:
        if unit == "speaker" and one.speaker:  # the same one may be in several folds
            return -1, one.speaker, ""
        return run.fold, "", "" if unit == "fold" else one.id

    number: dict[tuple[int, str, str], int] = {}
    groups = [
        [[number.setdefault(label(run, one), len(number)) for one in run.errors] for run in both]
        for both in zip(*systems, strict=True)
    ]  # of each utterance, by run and system
    counts = np.zeros((len(number), len(systems[0]), len(systems), 2))
    for place, system in enumerate(systems):
        for column, run in enumerate(system):
            of_kind: list[Counts] = [getattr(one, kind) for one in run.errors]
            found = np.array([(one.errors, one.characters) for one in of_kind]).reshape(-1, 2)
            np.add.at(counts[:, column, place], np.array(groups[column][place], dtype=int), found)
    folds = np.array([run.fold for run in systems[0]])
    return counts.reshape(len(number), len(folds), -1), folds


def bootstrap_interval(
    runs: Sequence[Tested], kind: str = "normalised", draws: int = DRAWS
) -> Interval:
    """95 % interval of the corpus-level rate of `kind` (normalised, raw, pinyin).

    Over seeds, where a fold has several, and what `unit_of` says: a t interval from the bootstrap's
    standard error, see significance.py.
    """
    return significance.cer_interval(*_added([runs], kind), draws)


def paired_bootstrap(
    runs_a: Sequence[Tested], runs_b: Sequence[Tested], draws: int = DRAWS
) -> Change:
    """Relative change of CER from the baseline's runs to the system's, one by one the same folds
    and seeds, so that both are resampled with the same draws.

    A baseline without any error gives a relative change of infinity, or 0 where the system has none
    either. Raises UserError when the ids differ.
    """
    for a, b in zip(runs_a, runs_b, strict=True):
        _same_ids(a, b)
    return significance.compare(*_added([runs_a, runs_b], "normalised"), draws)


def _added(systems: Sequence[Sequence[Tested]], kind: str) -> tuple[np.ndarray, np.ndarray]:
    """The `count_array` of systems, of each fold the errors of all its seeds.

    significance.py takes the mean over seeds: so a fold counts as often as it has some, and nothing
    changes where all have equally many. Sorted, so that draws do not depend on the order of files.
    """
    import numpy as np

    systems = [
        [
            run._replace(errors=sorted(run.errors, key=lambda one: (one.speaker, one.id)))
            for run in system
        ]
        for system in systems
    ]
    counts, folds = count_array(systems, kind)
    _, fold_of, seeds = np.unique(folds, return_inverse=True, return_counts=True)
    return counts * (seeds / seeds.mean())[fold_of, None], folds


def _same_ids(a: Tested, b: Tested) -> None:
    ids_a, ids_b = ({one.id for one in each.errors} for each in (a, b))
    for name, missing in ((a.name, ids_b - ids_a), (b.name, ids_a - ids_b)):
        if missing:
            shown = ", ".join(sorted(missing)[:5]) + (" ..." if len(missing) > 5 else "")
            raise UserError(
                f"{a.name} and {b.name} were not decoded on the same utterances: {name} lacks "
                f"{len(missing)} ({shown}); decode and score both again (stages 7 and 8)."
            )


# -- files -----------------------------------------------------------------------------------------


def summarise(
    utterances: Sequence[UtteranceErrors], split: str, draws: int = DRAWS
) -> dict[str, Any]:
    """The numbers of one set, as in score.json: rates as fractions, S/D/I of normalised text.

    "per" and "interval_per" are of pinyin, Mandarin only; "wer" is where spaces part words.
    "conditions" holds the same numbers by recording condition, where there are any.
    """
    if not utterances:
        raise UserError(
            f"The {split} set has no hypotheses to score: decode it (stage 7), or give the corpus "
            f"some speech in {split}, from stage 0 on."
        )
    conditions = by_condition(utterances)
    apart = {"conditions": {name: _rates(own, draws) for name, own in conditions.items()}}
    return {"split": split, **_rates(utterances, draws), **(apart if conditions else {})}


def by_condition(utterances: Sequence[UtteranceErrors]) -> dict[str, list[UtteranceErrors]]:
    """The utterances of each recording condition, in the order of first occurrence; {} without."""
    found: dict[str, list[UtteranceErrors]] = {}
    for utterance in utterances:
        if utterance.condition:
            found.setdefault(utterance.condition, []).append(utterance)
    return found


def _rates(utterances: Sequence[UtteranceErrors], draws: int) -> dict[str, Any]:
    normalised = total(one.normalised for one in utterances)
    rates: dict[str, Any] = {
        "cer": normalised.cer,
        "interval": _written(bootstrap_interval([Tested(utterances)], "normalised", draws)),
        "cer_raw": total(one.raw for one in utterances).cer,
        "interval_raw": _written(bootstrap_interval([Tested(utterances)], "raw", draws)),
    }
    if words := total_of("words", utterances):
        rates["wer"] = words.cer
    if pinyin := total_of("pinyin", utterances):
        rates["per"] = pinyin.cer
        found = bootstrap_interval([Tested(utterances)], "pinyin", draws)
        rates["interval_per"] = _written(found)
    return rates | {
        "substitutions": normalised.substitutions,
        "deletions": normalised.deletions,
        "insertions": normalised.insertions,
        "characters": normalised.characters,
        "utterances": len(utterances),
        "bootstrap_unit": unit_of([Tested(utterances)]),
    }


def _written(interval: Interval) -> list[float] | None:
    """As JSON has it: null where there is a single utterance."""
    return list(interval) if all(map(math.isfinite, interval)) else None


def total_of(kind: str, utterances: Sequence[UtteranceErrors]) -> Counts | None:
    """The sum in syllables ("pinyin") or "words"; None where an utterance has none, or none is."""
    counts: list[Counts] = [
        found for one in utterances if (found := getattr(one, kind)) is not None
    ]
    return total(counts) if counts and len(counts) == len(utterances) else None


def read_hypotheses(path: Path) -> list[dict[str, Any]]:
    """Lines of a hyp.<split>.jsonl; what is missing, broken or twice there is a UserError."""
    if not path.is_file():
        raise UserError(f"There are no hypotheses at {path}: decode first (stage 7).")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise UserError(
            f"{path} is not UTF-8 text: delete the file and decode again (stage 7)."
        ) from None
    rows: list[dict[str, Any]] = []
    line_of: dict[str, int] = {}
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise UserError(
                f"{where} is not a JSON line ({error.msg}): "
                "delete the file and decode again (stage 7)."
            ) from None
        for key in ("id", "speaker", "reference", "raw", "hypothesis"):
            if not isinstance(row, dict) or not isinstance(row.get(key), str):
                raise UserError(
                    f"{where} has no text under {key!r}: "
                    "delete the file and decode again (stage 7)."
                )
        if row["id"] in line_of:
            raise UserError(
                f"{where} holds utterance {row['id']!r}, which stands in line {line_of[row['id']]} "
                "already: delete the file and decode again (stage 7)."
            )
        line_of[row["id"]] = number
        rows.append(row)
    return rows


def read_errors(path: Path) -> tuple[list[UtteranceErrors], list[float | None]]:
    """Errors and difficulty x of each utterance in a hypothesis file that has been scored."""
    rows = read_hypotheses(path)
    if any("errors" not in row for row in rows):
        raise UserError(f"{path} has not been scored: run stage 8.")
    try:
        errors = [
            UtteranceErrors(
                row["id"],
                row["speaker"],
                **{kind: _read(row["errors"][kind]) for kind in KINDS if kind in row["errors"]},
                condition=row.get("condition", ""),
            )
            for row in rows
        ]
    except (TypeError, ValueError):
        raise UserError(f"{path} has errors that are no counts: score again (stage 8).") from None
    return errors, [row.get("difficulty") for row in rows]


def _read(numbers: Any) -> Counts:
    if not all(type(number) is int and 0 <= number < 2**53 for number in numbers):
        raise ValueError
    return Counts(*numbers)


def score_file(hyp_path: Path, out: Path, language: str, draws: int = DRAWS) -> dict[str, Any]:
    """Score hyp.<split>.jsonl; return the split's numbers (see `summarise`) and keep them in two
    files.

    Each line of `hyp_path` gets `"errors": {"normalised": [S, D, I, N], "raw": [S, D, I, N]}`, and
    among them `"pinyin": [S, D, I, N]` for Mandarin, `"words"` where spaces part words.
    `out` (score.json) is one object with an entry per split, {"dev": {...}, "test": {...}}; entries
    of other splits stay. Both files are replaced whole, by rename.
    """
    rows = read_hypotheses(hyp_path)
    split = hyp_path.name.split(".")[1]
    utterances = score(rows, language)
    summary = summarise(utterances, split, draws)
    for row, utterance in zip(rows, utterances, strict=True):
        counts = {kind: getattr(utterance, kind) for kind in KINDS}
        row["errors"] = {kind: list(found) for kind, found in counts.items() if found is not None}
    write_jsonl(hyp_path, rows)
    scores = read_json(out) if out.is_file() else {}
    write_json(out, {**scores, split: summary})
    return summary
