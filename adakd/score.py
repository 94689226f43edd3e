"""Character error rates with confidence intervals, from the hypotheses that decoding wrote.

Counts Unicode code points (not grapheme clusters): what the literature reports for Hindi, Tamil and
Chinese. The CER of a set is corpus-level: all errors over all reference characters, not the mean of
the utterances' own rates. Two numbers: *raw* against the untouched transcript, *normalised* with
`adakd.data.text.normalise` on both sides. Whisper's normalisers are never used: they delete vowel
signs. For Mandarin a third: the *pinyin* error rate, over tonal syllables (`adakd.data.pinyin`) of
the normalised texts. What was recorded under several conditions is scored by condition as well.

Not here: decoding (decode.py), and pooling over folds and seeds, tables and plots (report.py).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from adakd.errors import UserError
from adakd.files import write_json, write_text

if TYPE_CHECKING:
    import numpy as np

ENOUGH_SPEAKERS = 5  # from here on the bootstrap resamples speakers, below it utterances
DRAWS = 1000  # bootstrap resamples
SEED = 0  # of the bootstrap alone: the same hypotheses always give the same interval
TAILS = (2.5, 97.5)  # percentiles that bound every interval: 95 %


class Counts(NamedTuple):
    """Errors of one or more utterances, in code points (pinyin: in syllables)."""

    substitutions: int
    deletions: int
    insertions: int
    characters: int  # of the reference (pinyin: syllables)

    @property
    def errors(self) -> int:
        return self.substitutions + self.deletions + self.insertions

    @property
    def cer(self) -> float:
        """Errors over reference characters; may exceed 1."""
        return self.errors / self.characters

    def plus(self, other: Counts) -> Counts:
        return Counts(*(mine + theirs for mine, theirs in zip(self, other, strict=True)))


@dataclass(frozen=True)
class UtteranceErrors:
    """What was wrong in one utterance, and who spoke it (the unit of resampling)."""

    id: str
    speaker: str
    normalised: Counts
    raw: Counts
    pinyin: Counts | None = None  # of Mandarin
    condition: str = ""  # the recording condition, where a corpus has several


class Interval(NamedTuple):
    low: float
    high: float


@dataclass(frozen=True)
class Change:
    """Relative change of a system's CER against a baseline's: -0.1 is 10 % fewer errors."""

    relative: float
    interval: Interval
    p_value: float  # two-sided, of the test of the function that made this
    unit: str  # what was resampled: "speaker", "utterance" or "fold"

    @property
    def decided(self) -> bool:
        """Does the interval exclude zero?"""
        return self.interval.low > 0 or self.interval.high < 0


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
    import jiwer

    from adakd.data.pinyin import syllables

    if not references:
        return []
    spoken = [" ".join(syllables(text)) for text in references]
    return _counts(jiwer.process_words(spoken, [" ".join(syllables(text)) for text in hypotheses]))


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
    """Errors of every utterance, normalised, raw and (Mandarin) pinyin, in the order of `rows`.

    `rows` are lines of a hyp.<split>.jsonl (id, speaker, reference, raw, hypothesis). Spaces count,
    one for each run of white space; in languages written without them none does, in the raw text
    either. Raises UserError for a reference that holds nothing to count.
    """
    from adakd.data.pinyin import is_mandarin
    from adakd.data.text import normalise, units_of_error

    def sides(key: str, clean: bool) -> tuple[list[str], list[str]]:
        references, hypotheses = [], []
        for row in rows:
            pair = [row[key], row["hypothesis"]]
            if clean:
                pair = [normalise(side, language) for side in pair]
            reference, hypothesis = (units_of_error(side, language) for side in pair)
            if not reference:
                raise UserError(
                    f"Utterance {row['id']!r} has nothing to score in its {key} text {row[key]!r}: "
                    "prepare the data again (stage 1), which rejects empty transcripts."
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
    return [
        UtteranceErrors(
            row["id"], row["speaker"], of_normalised, of_raw, of_pinyin, row.get("condition", "")
        )
        for row, of_normalised, of_raw, of_pinyin in zip(rows, normalised, raw, pinyin, strict=True)
    ]


def total(counts: Iterable[Counts]) -> Counts:
    """The sum of all counts; its `.cer` is the corpus-level CER."""
    summed = Counts(0, 0, 0, 0)
    for one in counts:
        summed = summed.plus(one)
    return summed


# -- how sure --------------------------------------------------------------------------------------


def bootstrap_unit(utterances: Sequence[UtteranceErrors]) -> str:
    """ "speaker" where five or more are known, else "utterance".

    Utterances of one speaker fail together; resampling them apart would promise too narrow an
    interval.
    """
    speakers = {utterance.speaker for utterance in utterances}
    return "speaker" if len(speakers) >= ENOUGH_SPEAKERS and all(speakers) else "utterance"


def bootstrap_interval(
    utterances: Sequence[UtteranceErrors],
    kind: str = "normalised",
    draws: int = DRAWS,
    seed: int = SEED,
) -> Interval:
    """Percentile interval (95 %) of the corpus-level rate of `kind` (normalised, raw, pinyin).

    Each draw takes as many units as there are, with replacement, and divides the sum of their
    errors by the sum of their lengths (Bisani and Ney 2004, "Bootstrap estimates for confidence
    intervals in ASR performance evaluation").
    """
    unit = bootstrap_unit(utterances)
    groups = _groups([_group_of(utterance, unit) for utterance in utterances])
    sums = _resample(_per_group(groups, [getattr(one, kind) for one in utterances]), draws, seed)
    return _percentiles(sums[:, 0] / sums[:, 1])


def paired_bootstrap(
    errors_a: Sequence[UtteranceErrors],
    errors_b: Sequence[UtteranceErrors],
    kind: str = "normalised",
    draws: int = DRAWS,
    seed: int = SEED,
    names: tuple[str, str] = ("the system", "the baseline"),
) -> Change:
    """Relative change of CER from the baseline `errors_b` to `errors_a`, both resampled with the
    same draws.

    The p-value is two-sided: twice the smaller share of draws on either side of zero, with one
    added to either count (Davison and Hinkley 1997), so it is never below 2 / (draws + 1). A
    baseline without any error gives a relative change of infinity, or 0 where the system has none
    either. Raises UserError when the ids differ.
    """
    import numpy as np

    by_id = {utterance.id: utterance for utterance in errors_b}
    _same_ids(errors_a, errors_b, names)
    unit = bootstrap_unit(errors_a)
    groups = _groups([_group_of(utterance, unit) for utterance in errors_a])
    of_a = [getattr(one, kind) for one in errors_a]
    of_b = [getattr(by_id[one.id], kind) for one in errors_a]
    table = np.concatenate([_per_group(groups, of_a), _per_group(groups, of_b)], axis=1)
    sums = _resample(table, draws, seed)
    difference = sums[:, 0] / sums[:, 1] - sums[:, 2] / sums[:, 3]
    smaller = min(int((difference <= 0).sum()), int((difference >= 0).sum()))
    return Change(
        relative=float(_relative(table.sum(axis=0, keepdims=True))[0]),
        interval=_percentiles(_relative(sums)),
        p_value=min(1.0, 2 * (smaller + 1) / (draws + 1)),
        unit=unit,
    )


def _relative(sums: np.ndarray) -> np.ndarray:
    """CER a / CER b - 1 (n,) of columns errors a, length a, errors b, length b (n, 4).

    Two rates of 0 are no change.
    """
    import numpy as np

    rate_a, rate_b = sums[:, 0] / sums[:, 1], sums[:, 2] / sums[:, 3]
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(rate_a == rate_b, 0.0, rate_a / rate_b - 1.0)


def _same_ids(
    errors_a: Sequence[UtteranceErrors],
    errors_b: Sequence[UtteranceErrors],
    names: tuple[str, str],
) -> None:
    ids_a, ids_b = {one.id for one in errors_a}, {one.id for one in errors_b}
    for name, missing in ((names[0], ids_b - ids_a), (names[1], ids_a - ids_b)):
        if missing:
            shown = ", ".join(sorted(missing)[:5]) + (" ..." if len(missing) > 5 else "")
            raise UserError(
                f"{names[0]} and {names[1]} were not decoded on the same utterances: {name} lacks "
                f"{len(missing)} ({shown}); decode and score both again (stages 7 and 8)."
            )


def _group_of(utterance: UtteranceErrors, unit: str) -> str:
    return utterance.speaker if unit == "speaker" else utterance.id


def _groups(labels: Sequence[str]) -> np.ndarray:
    """Index (utterances,) of each one's group, numbered by sorted label, not by file order."""
    import numpy as np

    return np.unique(np.array(labels), return_inverse=True)[1]


def _per_group(groups: np.ndarray, counts: Sequence[Counts]) -> np.ndarray:
    """Errors and reference characters summed by group: (groups, 2)."""
    import numpy as np

    table = np.zeros((groups.max() + 1, 2), dtype=np.int64)
    np.add.at(table, groups, np.array([(one.errors, one.characters) for one in counts]))
    return table


def _resample(values: np.ndarray, draws: int, seed: int) -> np.ndarray:
    """Column sums (draws, C) of `draws` resamples of the rows of `values` (U, C)."""
    import numpy as np

    generator = np.random.default_rng(seed)
    at_once = max(
        1, 2_000_000 // values.size
    )  # keeps the gathered block near 16 MB on any test set
    blocks = []
    for start in range(0, draws, at_once):
        size = (min(at_once, draws - start), len(values))
        blocks.append(values[generator.integers(len(values), size=size)].sum(axis=1))
    return np.concatenate(blocks)


def _percentiles(values: np.ndarray) -> Interval:
    import numpy as np

    # each bound is itself a draw: interpolating next to an infinite relative change gives NaN
    low, high = np.percentile(values, TAILS, method="inverted_cdf")
    return Interval(float(low), float(high))


# -- files -----------------------------------------------------------------------------------------


def summarise(
    utterances: Sequence[UtteranceErrors], split: str, draws: int = DRAWS
) -> dict[str, Any]:
    """The numbers of one set, as in score.json: rates as fractions, S/D/I of normalised text.

    "per" and "interval_per" are of pinyin, Mandarin only. "conditions" holds the same numbers by
    recording condition, where there are any.
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
        "interval": list(bootstrap_interval(utterances, "normalised", draws)),
        "cer_raw": total(one.raw for one in utterances).cer,
        "interval_raw": list(bootstrap_interval(utterances, "raw", draws)),
    }
    if pinyin := total_pinyin(utterances):
        rates["per"] = pinyin.cer
        rates["interval_per"] = list(bootstrap_interval(utterances, "pinyin", draws))
    return rates | {
        "substitutions": normalised.substitutions,
        "deletions": normalised.deletions,
        "insertions": normalised.insertions,
        "characters": normalised.characters,
        "utterances": len(utterances),
        "bootstrap_unit": bootstrap_unit(utterances),
    }


def total_pinyin(utterances: Sequence[UtteranceErrors]) -> Counts | None:
    """The sum in syllables, None where the language has none or there is no utterance."""
    counts = [one.pinyin for one in utterances if one.pinyin is not None]
    return total(counts) if counts and len(counts) == len(utterances) else None


def read_hypotheses(path: Path) -> list[dict[str, Any]]:
    """Lines of a hyp.<split>.jsonl; what is missing, broken or twice there is a UserError."""
    if not path.is_file():
        raise UserError(f"There are no hypotheses at {path}: decode first (stage 7).")
    rows: list[dict[str, Any]] = []
    line_of: dict[str, int] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), start=1):
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
    errors = [
        UtteranceErrors(
            row["id"],
            row["speaker"],
            Counts(*row["errors"]["normalised"]),
            Counts(*row["errors"]["raw"]),
            Counts(*row["errors"]["pinyin"]) if "pinyin" in row["errors"] else None,
            row.get("condition", ""),
        )
        for row in rows
    ]
    return errors, [row.get("difficulty") for row in rows]


def score_file(hyp_path: Path, out: Path, language: str, draws: int = DRAWS) -> dict[str, Any]:
    """Score hyp.<split>.jsonl; return the split's numbers (see `summarise`) and keep them in two
    files.

    Each line of `hyp_path` gets `"errors": {"normalised": [S, D, I, N], "raw": [S, D, I, N]}`, and
    `"pinyin": [S, D, I, N]` among them for Mandarin.
    `out` (score.json) is one object with an entry per split, {"dev": {...}, "test": {...}}; entries
    of other splits stay. Both files are replaced whole, by rename.
    """
    rows = read_hypotheses(hyp_path)
    split = hyp_path.name.split(".")[1]
    utterances = score(rows, language)
    summary = summarise(utterances, split, draws)
    lines = []
    for row, utterance in zip(rows, utterances, strict=True):
        kinds = {"normalised": utterance.normalised, "raw": utterance.raw}
        if utterance.pinyin is not None:
            kinds["pinyin"] = utterance.pinyin
        row["errors"] = {kind: list(counts) for kind, counts in kinds.items()}
        lines.append(json.dumps(row, ensure_ascii=False) + "\n")
    write_text(hyp_path, "".join(lines))
    scores = json.loads(out.read_text(encoding="utf-8")) if out.is_file() else {}
    write_json(out, {**scores, split: summary})
    return summary
