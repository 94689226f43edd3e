"""CER against cases counted by hand, intervals against their formula and in a simulation."""

from __future__ import annotations

import json
import math
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import jiwer
import numpy as np
import pytest
from scipy import stats

from adakd import score, significance
from adakd.errors import UserError


def row(reference: str, hypothesis: str, *, id: str = "u", speaker: str = "s", raw: str = ""):
    return {
        "id": id,
        "speaker": speaker,
        "reference": reference,
        "raw": raw or reference,
        "hypothesis": hypothesis,
        "seconds": 1.0,
        "difficulty": 0.5,
    }


def one(reference: str, hypothesis: str, language: str, raw: str = "") -> score.UtteranceErrors:
    return score.score([row(reference, hypothesis, raw=raw)], language)[0]


def made_up(
    errors: list[int], lengths: list[int], speakers: list[str]
) -> list[score.UtteranceErrors]:
    counts = [score.Counts(0, 0, e, n) for e, n in zip(errors, lengths, strict=True)]
    return [
        score.UtteranceErrors(f"u{i:04}", speaker, count, count)
        for i, (count, speaker) in enumerate(zip(counts, speakers, strict=True))
    ]


# -- counting -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("language", "reference", "hypothesis", "expected"),
    [
        # namaste: na, ma, sa, virama, ta, vowel sign e = 6 code points (3 grapheme clusters)
        ("hi", "नमस्ते", "नमस्ते", (0, 0, 0, 6)),
        ("hi", "नमस्ते", "नमसत", (0, 2, 0, 6)),  # virama and vowel sign lost
        ("hi", "की", "कि", (1, 0, 0, 2)),  # long for short i
        ("hi", "दिन", "दीना", (1, 0, 1, 3)),
        ("hi", "यह घर", "यहघर", (0, 1, 0, 5)),  # spaces count
        ("ta", "தமிழ்", "தமிழ", (0, 1, 0, 5)),  # the pulli is a code point of its own
        ("ta", "அம்மா", "அமா", (0, 2, 0, 5)),
        ("en", "seven", "", (0, 5, 0, 5)),  # an empty hypothesis
        ("en", "at", "flat", (0, 0, 2, 2)),
        ("zh", "今天天气", "今 天 天 气", (0, 0, 0, 4)),  # spaces do not count
        ("zh", "今天天气", "今天 气", (0, 1, 0, 4)),
        (
            "zh-CN",
            "我用 wifi 上网",
            "我用wifi上往",
            (1, 0, 0, 8),
        ),  # nor do those around Latin words
    ],
)
def test_hand_computed(language, reference, hypothesis, expected):
    errors = one(reference, hypothesis, language)
    assert errors.normalised == expected
    assert errors.raw == expected


@pytest.mark.parametrize(
    ("language", "reference", "hypothesis", "characters"),
    [
        ("ta", "க\u0bcaடி", "க\u0bc6\u0bbeடி", 4),  # U+0BCA is U+0BC6 U+0BBE in one code point
        ("hi", "ल\u095cका", "ल\u0921\u093cका", 5),  # U+095C, which NFC writes in two
        ("vi", "Vie\u0323\u0302t", "Vi\u1ec7t", 4),
    ],
)
def test_composed_and_decomposed_letters_are_the_same(language, reference, hypothesis, characters):
    for pair in ((reference, hypothesis), (hypothesis, reference)):
        assert one(*pair, language).raw == (0, 0, 0, characters)
    assert one(reference, hypothesis, language).normalised.errors == 0


def test_raw_is_against_the_untouched_transcript():
    errors = one("it rains", "it rains", "en", raw="It rains.")
    assert errors.normalised == (0, 0, 0, 8)
    assert errors.raw == (1, 1, 0, 9)  # the capital and the full stop


def test_an_unknown_character_is_a_wrong_one_normalised_as_well():
    """A Whisper that writes broken bytes on and on is no better for it."""
    for language, reference, hypothesis in (
        ("hi", "मैं हूँ", "मैं\ufffdहूँ\ufffd"),
        ("zh", "我去", "我\ufffd\ufffd去"),
    ):
        errors = one(reference, hypothesis, language)
        assert errors.normalised == errors.raw
        assert errors.normalised.errors == 2


def test_the_space_without_width_is_one_where_spaces_do_not_count():
    """It parts words in Khmer, and no model writes it."""
    errors = one("ភាសាខ្មែរ", "ភាសាខ្មែរ", "km", raw="ភាសា\u200bខ្មែរ")
    assert errors.raw == errors.normalised == (0, 0, 0, len("ភាសាខ្មែរ"))


def test_chinese_raw_drops_spaces_and_keeps_punctuation():
    errors = one("你好吗", "你好吗", "zh", raw="你好 吗？")
    assert errors.raw == (0, 1, 0, 4)


def test_empty_reference_names_the_utterance():
    with pytest.raises(UserError, match="hi-17.*reference"):
        score.score([row("।", "क", id="hi-17")], "hi")
    with pytest.raises(UserError, match="hi-18.*raw"):
        score.score([row("क", "क", id="hi-18", raw="  ")], "hi")


def test_corpus_level_is_not_the_mean_of_utterances():
    utterances = score.score([row("a", "b", id="1"), row("a b c d e", "a b c d e", id="2")], "en")
    assert score.total(u.normalised for u in utterances).cer == pytest.approx(1 / 10)
    assert np.mean([u.normalised.cer for u in utterances]) == pytest.approx(1 / 2)


def test_counts_against_a_plain_edit_distance():
    def distance(a: str, b: str) -> int:
        previous = list(range(len(b) + 1))
        for i, x in enumerate(a, start=1):
            current = [i]
            for j, y in enumerate(b, start=1):
                current.append(min(previous[j] + 1, current[-1] + 1, previous[j - 1] + (x != y)))
            previous = current
        return previous[-1]

    rng = random.Random(3)
    letters = "कखिा्ं"
    pairs = [
        (
            "".join(rng.choices(letters, k=rng.randint(1, 12))),
            "".join(rng.choices(letters, k=rng.randint(0, 12))),
        )
        for _ in range(200)
    ]
    counts = score.count([a for a, _ in pairs], [b for _, b in pairs])
    for (reference, hypothesis), found in zip(pairs, counts, strict=True):
        assert found.errors == distance(reference, hypothesis)
        assert found.characters == len(reference)
        assert found.insertions - found.deletions == len(hypothesis) - len(reference)


# -- bootstrap ------------------------------------------------------------------------------------


def test_unit_is_speakers_from_five_on():
    def unit(speakers: list[str]) -> str:
        errors = made_up([1] * len(speakers), [9] * len(speakers), speakers)
        return score.unit_of([score.Tested(errors)])

    assert unit(["a", "b", "c", "d"] * 5) == "utterance"
    assert unit(["a", "b", "c", "d", "e"]) == "speaker"
    assert unit(["a", "b", "c", "d", ""]) == "utterance"
    assert unit(["a", "b", "c", "d", "e", ""]) == "speaker"


def test_who_has_no_speaker_is_a_group_and_leaves_those_of_the_others():
    """Six people of ten utterances each, of which two are nobody's: eight groups, not sixty."""
    speakers = [f"s{i % 6}" for i in range(60)]
    errors = [1 + i % 6 for i in range(60)]
    known = made_up(errors, [20] * 60, speakers)
    counts, _ = score.count_array([[score.Tested(known)]])
    two_lost = made_up(errors, [20] * 60, ["", "", *speakers[2:]])
    lost, _ = score.count_array([[score.Tested(two_lost)]])
    assert counts[:, 0].tolist() == [[10.0 * (1 + i), 200.0] for i in range(6)]
    assert lost[:, 0].tolist()[:2] == [[1, 20], [2, 20]] and len(lost) == 8
    assert lost.sum(axis=0).tolist() == counts.sum(axis=0).tolist()


def test_the_luck_of_a_folds_only_seed_is_the_folds():
    """As in a study: over the folds, whose speakers fail together, not over the speakers."""
    runs, others = (
        [
            score.Tested(made_up([e] * 5, [100] * 5, [f"s{fold}{i}" for i in range(5)]), fold)
            for fold, e in enumerate(each)
        ]
        for each in ((10, 20, 30, 40), (20, 20, 20, 20))
    )
    assert score.unit_of(runs) == "fold"
    change = score.paired_bootstrap(runs, others)
    assert change.variance.groups == 4 and change.interval.high > 1 > 0 > change.interval.low
    assert score.unit_of([*runs, *runs]) == "speaker", "two seeds each"


def interval(utterances: list[score.UtteranceErrors], draws: int = 1000) -> significance.Interval:
    return score.bootstrap_interval([score.Tested(utterances)], draws=draws)


def paired(
    own: list[score.UtteranceErrors], other: list[score.UtteranceErrors], draws: int = 1000
) -> significance.Change:
    names = ("AdaKD", "KD")
    a, b = (score.Tested(each, name=name) for each, name in zip((own, other), names, strict=True))
    return score.paired_bootstrap([a], [b], draws=draws)


def by_unit(utterances: list[score.UtteranceErrors], by_speaker: bool) -> list[tuple[int, int]]:
    """Errors and characters of each speaker or utterance, in a plain loop."""
    sums: dict[str, tuple[int, int]] = {}
    for one in utterances:
        unit = one.speaker if by_speaker else one.id
        errors, characters = sums.get(unit, (0, 0))
        sums[unit] = errors + one.normalised.errors, characters + one.normalised.characters
    return list(sums.values())


def t_interval(centre: float, influences: list[float]) -> tuple[float, float]:
    """exp(centre +- t s) with G - 1 degrees of freedom and s^2 = G / (G - 1) sum of influence^2: of
    a ratio's logarithm, linearised (Cochran 1977, Sampling Techniques, ch. 6)."""
    number = len(influences)
    error = math.sqrt(number / (number - 1) * sum(one**2 for one in influences))
    margin = stats.t.ppf(0.975, number - 1) * error
    return math.exp(centre - margin), math.exp(centre + margin)


@pytest.mark.parametrize("number_of_speakers", [3, 5, 8, 20])
def test_interval_is_the_t_interval_of_a_ratio(number_of_speakers):
    rng = random.Random(number_of_speakers)
    size = 80
    utterances = made_up(
        [rng.randint(20, 40) + i % number_of_speakers for i in range(size)],
        [rng.randint(100, 300) for _ in range(size)],
        [f"speaker{i % number_of_speakers}" for i in range(size)],
    )
    units = by_unit(utterances, number_of_speakers >= 5)
    errors, characters = map(sum, zip(*units, strict=True))
    influences = [e / errors - n / characters for e, n in units]
    expected = t_interval(math.log(errors / characters), influences)
    near = 0.015 * (expected[1] - expected[0])
    assert interval(utterances, draws=20_000) == pytest.approx(expected, abs=near)


@pytest.mark.parametrize("number_of_speakers", [3, 6])
def test_a_comparison_is_the_paired_t_test_of_a_ratio(number_of_speakers):
    rng = random.Random(8)
    size = 60
    lengths = [rng.randint(100, 300) for _ in range(size)]
    speakers = [f"speaker{i % number_of_speakers}" for i in range(size)]
    base = [length // 5 for length in lengths]
    own = made_up([each + rng.randint(-6, 4) for each in base], lengths, speakers)
    other = made_up([each + rng.randint(-5, 5) for each in base], lengths, speakers)
    pairs = zip(*(by_unit(each, number_of_speakers >= 5) for each in (own, other)), strict=True)
    units = [(mine, theirs) for (mine, _), (theirs, _) in pairs]
    mine, theirs = map(sum, zip(*units, strict=True))
    influences = [a / mine - b / theirs for a, b in units]
    low, high = t_interval(math.log(mine / theirs), influences)
    found = paired(own, other, draws=20_000)
    assert found.relative == pytest.approx(mine / theirs - 1)
    assert found.interval == pytest.approx((low - 1, high - 1), abs=0.015 * (high - low))
    number = len(units)
    error = math.sqrt(number / (number - 1) * sum(one**2 for one in influences))
    p_value = 2 * stats.t.sf(abs(math.log(mine / theirs)) / error, number - 1)
    assert found.p_value == pytest.approx(p_value, rel=0.1)
    assert found.decided == (found.p_value < 0.05)


@pytest.mark.parametrize("number_of_speakers", [5, 6, 11])
def test_equal_systems_are_told_apart_in_one_case_of_twenty(number_of_speakers):
    """No difference in truth, only speakers who are luckier with the one or the other."""
    draw = np.random.default_rng(number_of_speakers)
    names, cases = [f"s{i:02}" for i in range(number_of_speakers)], 1000
    decided = 0
    for _ in range(cases):
        base = 200 * np.exp(0.2 * draw.standard_normal(number_of_speakers))
        luck = np.exp(0.1 * draw.standard_normal((2, number_of_speakers)))
        own, other = (
            made_up(errors, [1000] * number_of_speakers, names)
            for errors in (base * luck).round().astype(int).tolist()
        )
        decided += paired(own, other, draws=200).decided
    chance = 3 * math.sqrt(0.05 * 0.95 / cases)
    assert decided / cases == pytest.approx(0.05, abs=chance)


def test_interval_against_the_normal_approximation():
    rng = np.random.default_rng(2)
    errors = rng.binomial(20, 0.15, size=2000)
    low, high = interval(made_up(errors.tolist(), [20] * 2000, ["a"] * 2000))
    half = 1.96 * errors.std() / 20 / math.sqrt(2000)
    assert low == pytest.approx(errors.mean() / 20 - half, abs=0.15 * half)
    assert high == pytest.approx(errors.mean() / 20 + half, abs=0.15 * half)


def test_speakers_that_differ_widen_the_interval():
    speakers = [f"s{i % 8}" for i in range(80)]
    errors = [i % 8 for i in range(80)]
    by_speaker = interval(made_up(errors, [10] * 80, speakers))
    by_utterance = interval(made_up(errors, [10] * 80, ["one"] * 80))
    assert by_speaker.high - by_speaker.low > 2 * (by_utterance.high - by_utterance.low)


def test_interval_does_not_depend_on_the_order_of_utterances():
    utterances = made_up(list(range(30)), [40] * 30, [f"s{i % 6}" for i in range(30)])
    assert interval(utterances) == interval(utterances[::-1]) == interval(utterances)
    alone = [replace(one, speaker="") for one in utterances]
    assert interval(alone) == interval(alone[::-1])


@pytest.mark.parametrize("by_speaker", [True, False])
def test_seeds_are_resampled_with_the_speech(by_speaker):
    """As significance.py does, of counts (groups, seeds, 2 or 4) put together here."""
    draw = np.random.default_rng(4)
    errors, other = draw.integers(20, 60, (2, 6, 3))  # (systems, utterances, seeds)
    errors[:, 2] += 40  # a seed without luck
    speakers = [f"s{i}" if by_speaker else "" for i in range(6)]

    def runs(of_system: np.ndarray) -> list[score.Tested]:
        return [score.Tested(made_up(column, [200] * 6, speakers)) for column in of_system.T]

    length = np.full((6, 3), 200)
    counts = np.stack([errors, length, other, length], axis=2)
    expected = significance.cer_interval(counts[..., :2], np.zeros(3), 500)
    assert score.bootstrap_interval(runs(errors), draws=500) == pytest.approx(expected)
    change = significance.compare(counts, np.zeros(3), 500)
    found = score.paired_bootstrap(runs(errors), runs(other), draws=500)
    assert found.relative == pytest.approx(errors.sum() / other.sum() - 1)
    assert found.interval == pytest.approx(change.interval)
    alone = interval(made_up(errors.sum(axis=1).tolist(), [600] * 6, speakers), draws=500)
    low, high = score.bootstrap_interval(runs(errors), draws=500)
    assert low < alone.low < alone.high < high, "the luck of a seed comes on top"


def test_a_fold_counts_as_often_as_it_has_seeds():
    """Their errors are added: the middle of the interval is the CER of all of them together."""
    speakers = [f"s{i}" for i in range(5)]
    runs = [
        score.Tested(made_up([errors + i for i in range(5)], [1000] * 5, speakers), fold)
        for fold, errors in ((0, 100), (0, 110), (0, 120), (1, 400))
    ]
    low, high = score.bootstrap_interval(runs)
    assert math.sqrt(low * high) == pytest.approx((112 + 102 + 122 + 402) / 4000, rel=1e-3)
    change = score.paired_bootstrap(runs, [*runs[:3], runs[3]._replace(errors=runs[0].errors)])
    assert change.relative == pytest.approx((112 + 102 + 122 + 402) / (112 + 102 + 122 + 102) - 1)


def test_folds_of_unknown_people_are_what_is_drawn():
    """As in a study: utterances of a fold have its few people, and its training, in common."""
    first, second = (
        made_up(errors, [100] * 20, [""] * 20) for errors in ([10, 20, 30, 40] * 5, [30, 40] * 10)
    )
    runs = [score.Tested(first, 0), score.Tested(second, 1)]
    found = score.bootstrap_interval(runs)
    # Two groups: their errors are apart by d, the standard error of the sum is |d|.
    totals = [sum(one.normalised.errors for one in each) for each in (first, second)]
    assert score.unit_of([*runs, *runs]) == "fold"
    assert found.low < 0.05 and found.high > 1, "one degree of freedom"
    assert math.log(found.high / found.low) / 2 == pytest.approx(
        stats.t.ppf(0.975, 1) * abs(totals[0] - totals[1]) / sum(totals), rel=0.05
    )


def test_a_person_heard_in_two_folds_is_one():
    """Five people, each of whom both folds test: five groups, not ten."""
    speakers = [f"s{i}" for i in range(5)]
    runs, others = (
        [
            score.Tested(made_up([e + i for i in range(5)], [100] * 5, speakers), fold)
            for fold in (0, 0, 1, 1)
        ]
        for e in (20, 30)
    )
    assert score.paired_bootstrap(runs, others).variance.groups == 5


def test_every_fold_s_people_are_drawn():
    """Three people a fold: six are known, though each fold alone has too few to draw them."""
    runs, others = (
        [
            score.Tested(
                made_up([e, e + 9, e + 3], [100] * 3, [f"s{fold}{i}" for i in range(3)]), fold
            )
            for fold in (0, 0, 1, 1)
        ]
        for e in (20, 30)
    )
    change = score.paired_bootstrap(runs, others)
    assert (change.variance.groups, change.variance.folds, change.variance.runs) == (6, 2, 4)


def test_one_utterance_alone_tells_nothing():
    utterances, others = (made_up([errors], [20], [""]) for errors in (3, 6))
    assert all(map(math.isnan, interval(utterances)))
    change = paired(utterances, others)
    assert (change.relative, change.p_value, change.decided) == (-0.5, 1.0, False)


@pytest.mark.parametrize("number", range(2, 13))
def test_the_same_rate_everywhere_is_an_interval_too(number):
    """An untrained student that says nothing at all; half an error is added to the logarithm's."""
    for length in (4, 7, 16, 25):
        low, high = interval(made_up([length] * number, [length] * number, [""] * number))
        assert low == 1 <= high <= 1 + 0.51 / (number * length)


def test_paired_bootstrap_sees_a_clear_difference():
    rng = random.Random(5)
    lengths = [20] * 200
    worse = [rng.randint(2, 8) for _ in lengths]
    better = [max(0, errors - rng.randint(0, 2)) for errors in worse]
    speakers = [f"s{i % 10}" for i in range(200)]
    change = paired(made_up(better, lengths, speakers), made_up(worse, lengths, speakers))
    assert change.relative == pytest.approx(sum(better) / sum(worse) - 1)
    assert change.interval.low < change.relative < change.interval.high < 0
    assert change.decided
    assert change.p_value < 1e-5
    assert change.variance.groups == 10, "speakers"


def test_paired_bootstrap_of_identical_systems_is_undecided():
    utterances = made_up([1, 2, 3, 4] * 5, [20] * 20, ["a"] * 20)
    change = paired(utterances, utterances[::-1])
    assert change.relative == 0
    assert change.interval == (0, 0)
    assert not change.decided
    assert change.p_value == 1


def test_paired_bootstrap_of_equally_good_systems_includes_zero():
    rng = random.Random(6)
    first = [rng.randint(0, 6) for _ in range(100)]
    second = first[50:] + first[:50]
    speakers = ["a"] * 100
    change = paired(made_up(first, [20] * 100, speakers), made_up(second, [20] * 100, speakers))
    assert change.relative == 0
    assert change.interval.low < 0 < change.interval.high
    assert change.p_value > 0.3


def test_a_faultless_baseline():
    perfect = made_up([0] * 10, [10] * 10, ["a"] * 10)
    some = made_up([1, 2] * 5, [10] * 10, ["a"] * 10)
    assert paired(some, perfect).relative == math.inf
    assert paired(perfect, perfect).relative == 0
    change = paired(perfect, some)
    assert change.relative == -1
    assert -1 <= change.interval.low <= change.interval.high < 0


def test_different_utterances_are_named():
    utterances = made_up([1, 2, 3], [9] * 3, ["a"] * 3)
    with pytest.raises(UserError, match=r"KD lacks 1 \(u0002\)"):
        paired(utterances, utterances[:2])
    with pytest.raises(UserError, match=r"AdaKD lacks 2 \(u0001, u0002\)"):
        paired(utterances[:1], utterances)
    whole = score.Tested(utterances, 0, "AdaKD")
    short = score.Tested(utterances[:2], 1, "KD")
    with pytest.raises(UserError, match=r"KD lacks 1 \(u0002\)"):
        score.paired_bootstrap([whole, whole._replace(fold=1)], [whole, short])


# -- files ----------------------------------------------------------------------------------------


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    lines = [json.dumps(one_row, ensure_ascii=False) + "\n" for one_row in rows]
    path.write_text("".join(lines), encoding="utf-8")


def test_score_file(tmp_path):
    rows = [
        row("की", "कि", id="1", speaker="a", raw="की।"),
        row("यह घर", "यह घर", id="2", speaker="b"),
    ]
    hyp, out = tmp_path / "hyp.test.jsonl", tmp_path / "score.json"
    write_rows(hyp, rows)
    out.write_text('{"dev": {"cer": 0.5}}')
    summary = score.score_file(hyp, out, "hi", draws=100)

    assert summary["cer"] == pytest.approx(1 / 7)
    assert summary["cer_raw"] == pytest.approx(2 / 8)
    assert (summary["substitutions"], summary["deletions"], summary["insertions"]) == (1, 0, 0)
    assert (summary["characters"], summary["utterances"]) == (7, 2)
    assert (summary["split"], summary["bootstrap_unit"]) == ("test", "utterance")
    assert summary["interval"][0] <= summary["cer"] <= summary["interval"][1]
    assert json.loads(out.read_text()) == {"dev": {"cer": 0.5}, "test": summary}

    written = [json.loads(line) for line in hyp.read_text(encoding="utf-8").splitlines()]
    counts = {"normalised": [1, 0, 0, 2], "raw": [1, 1, 0, 3], "words": [1, 0, 0, 1]}
    assert written[0] == {**rows[0], "errors": counts}
    errors, difficulties = score.read_errors(hyp)
    assert errors == score.score(rows, "hi")
    assert difficulties == [0.5, 0.5]

    before = hyp.read_bytes()
    assert score.score_file(hyp, out, "hi", draws=100) == summary  # twice is once
    assert hyp.read_bytes() == before


def test_bad_files_name_the_line(tmp_path):
    path = tmp_path / "hyp.dev.jsonl"
    with pytest.raises(UserError, match="stage 7"):
        score.read_hypotheses(path)
    write_rows(path, [row("a", "a", id="x"), row("a", "a", id="x")])
    with pytest.raises(UserError, match=r"jsonl:2 holds utterance 'x'.*line 1"):
        score.read_hypotheses(path)
    path.write_text('{"id": "x"}\n')
    with pytest.raises(UserError, match=r"jsonl:1 .*'speaker'"):
        score.read_hypotheses(path)
    path.write_text("\n{broken\n")
    with pytest.raises(UserError, match=r"jsonl:2 is not a JSON line"):
        score.read_hypotheses(path)
    path.write_bytes("नमस्ते".encode("utf-16"))
    with pytest.raises(UserError, match=r"dev\.jsonl is not UTF-8 text: delete the file"):
        score.read_hypotheses(path)
    write_rows(path, [row("a", "a")])
    with pytest.raises(UserError, match="stage 8"):
        score.read_errors(path)
    for wrong in (None, "a", [1, 2, 3], [1, 2, 3, math.nan], [True, 0, 0, 1], [0, 0, 0, 1e300]):
        write_rows(path, [row("a", "a") | {"errors": {"normalised": wrong, "raw": [0, 0, 0, 1]}}])
        with pytest.raises(UserError, match="errors that are no counts: score again"):
            score.read_errors(path)
    path.write_text("")
    with pytest.raises(UserError, match="dev set has no hypotheses"):
        score.score_file(path, tmp_path / "score.json", "en")


# -- words, pinyin and recording conditions --------------------------------------------------------


@pytest.mark.parametrize(
    ("language", "reference", "hypothesis", "expected"),
    [
        ("en", "One two three four five six.", "won two four five six, seven", (1, 1, 1, 6)),
        ("hi", "यह मेरा घर है।", "यह मेरा घर", (0, 1, 0, 4)),  # the danda is no part of the word
        ("hi", "पढ़ता", "प\u095dता", (0, 0, 0, 1)),
        ("ta", "அம்மா", "அம் மா", (1, 0, 1, 1)),  # a word in two
        ("en", "one two", "onetwo", (1, 1, 0, 2)),  # and two in one
        ("en", "one two", "", (0, 2, 0, 2)),
        ("en", "one two", "?!", (0, 2, 0, 2)),  # nothing is left of it
    ],
)
def test_words_counted_by_hand(language, reference, hypothesis, expected):
    assert one(reference, hypothesis, language).words == expected


def test_word_error_rate_is_jiwers_and_the_longest_common_subsequences(tmp_path):
    """Words that are only dropped or put in: N + M - 2 LCS errors, where none is substituted."""
    rng = random.Random(7)
    rows = []
    for number in range(40):
        words = rng.choices(["यह", "घर", "मेरा", "नहीं"], k=rng.randint(1, 9))
        kept = [word for word in words if rng.random() < 0.7]
        rows.append(row(" ".join(words), " ".join(kept), id=str(number)))
    assert "" in [each["hypothesis"] for each in rows]
    hyp, out = tmp_path / "hyp.test.jsonl", tmp_path / "score.json"
    write_rows(hyp, rows)
    summary = score.score_file(hyp, out, "hi", draws=10)
    references, hypotheses = ([each[key] for each in rows] for key in ("reference", "hypothesis"))
    assert summary["wer"] == pytest.approx(jiwer.wer(references, hypotheses))
    dropped = [len(a.split()) - len(b.split()) for a, b in zip(references, hypotheses, strict=True)]
    assert summary["wer"] == pytest.approx(sum(dropped) / sum(len(a.split()) for a in references))
    assert [each.words.deletions for each in score.read_errors(hyp)[0]] == dropped


def test_languages_without_spaces_have_no_words():
    for language, text in (("zh-CN", "你好"), ("ja", "こんにちは"), ("th", "สวัสดี ครับ")):
        errors = one(text, text, language)
        assert errors.words is None
        assert "wer" not in score.summarise([errors], "test", draws=10)


def test_a_sum_of_which_a_part_is_unknown_is_none():
    known, unknown = one("one two", "one", "en"), one("你好", "你好", "zh")
    assert score.total_of("words", [known, known]) == (0, 2, 0, 4)
    assert score.total_of("words", [known, unknown]) is None


def test_scores_of_earlier_versions_have_no_words(tmp_path):
    path = tmp_path / "hyp.test.jsonl"
    counts = {"normalised": [1, 0, 0, 2], "raw": [1, 1, 0, 3]}
    write_rows(path, [row("की", "कि") | {"errors": counts}])
    (errors,), _ = score.read_errors(path)
    assert errors.words is None and errors.raw == (1, 1, 0, 3)
    assert score.total_of("words", [errors]) is None


@pytest.mark.parametrize(
    ("reference", "hypothesis", "expected"),
    [
        ("他们", "她们", (0, 0, 0, 2)),  # homophones
        ("妈妈", "马妈", (1, 0, 0, 2)),  # the wrong tone
        ("你好吗", "你好", (0, 1, 0, 3)),
        ("你好", "您还好", (1, 0, 1, 2)),
        ("银行", "银杭", (0, 0, 0, 2)),  # hang2, since the phrase is yin2 hang2
        ("去ATM", "去atm", (0, 0, 0, 4)),  # normalised first
        ("你好", "", (0, 2, 0, 2)),
    ],
)
def test_mandarin_counts_syllables_too(reference, hypothesis, expected):
    assert one(reference, hypothesis, "zh-CN").pinyin == expected


def test_other_languages_have_no_pinyin():
    for language in ("hi", "ja", "yue", "zh-HK"):
        assert one("你好", "你好", language).pinyin is None
    assert "per" not in score.summarise([one("नमस्ते", "नमस्ते", "hi")], "test", draws=10)


def test_pinyin_in_files(tmp_path):
    hyp, out = tmp_path / "hyp.test.jsonl", tmp_path / "score.json"
    write_rows(hyp, [row("他们", "她门", id="1"), row("天气", "天其", id="2")])
    summary = score.score_file(hyp, out, "zh", draws=100)
    assert summary["cer"] == pytest.approx(3 / 4)
    assert summary["per"] == pytest.approx(2 / 4)  # men5 for men2, qi4 for qi2
    assert summary["interval_per"][0] <= summary["per"] <= summary["interval_per"][1]
    # The interval is of syllables: where only characters are wrong it begins at none.
    same = tmp_path / "same.jsonl"
    write_rows(same, [row("他们", "她们", id="1"), row("银行很大", "银杭很大", id="2")])
    heard = score.score_file(same, tmp_path / "same.json", "zh", draws=100)
    assert heard["per"] == heard["interval_per"][0] == 0
    assert heard["cer"] == pytest.approx(2 / 6) and heard["interval"][1] > 0.3
    written = [json.loads(line) for line in hyp.read_text(encoding="utf-8").splitlines()]
    assert [line["errors"]["pinyin"] for line in written] == [[1, 0, 0, 2], [1, 0, 0, 2]]
    errors, _ = score.read_errors(hyp)
    assert [one.pinyin for one in errors] == [(1, 0, 0, 2)] * 2


def test_every_condition_is_scored_by_itself(tmp_path):
    hyp, out = tmp_path / "hyp.test.jsonl", tmp_path / "score.json"
    said = {"iOS": ["abcd", "abcx"], "Mic": ["abxx", "axxx", "xxxx"]}
    rows = [
        row("abcd", text, id=f"{condition}-{i}") | {"condition": condition}
        for condition, texts in said.items()
        for i, text in enumerate(texts)
    ]
    write_rows(hyp, rows)
    summary = score.score_file(hyp, out, "en", draws=100)
    assert summary["cer"] == pytest.approx(10 / 20)
    assert list(summary["conditions"]) == ["iOS", "Mic"]
    for condition, errors in (("iOS", 1), ("Mic", 9)):
        alone = [one for one in rows if one["condition"] == condition]
        expected = score.summarise(score.score(alone, "en"), "test", draws=100)
        found = summary["conditions"][condition]
        assert found["cer"] == pytest.approx(errors / (4 * len(said[condition])))
        del expected["conditions"], expected["split"]
        assert found == expected
    assert [one.condition for one in score.read_errors(hyp)[0]] == ["iOS"] * 2 + ["Mic"] * 3
    assert json.loads(out.read_text())["test"] == summary


def test_without_conditions_there_is_no_such_key(tmp_path):
    assert "conditions" not in score.summarise([one("a", "b", "en")], "dev", draws=10)
