"""CER against cases counted by hand, and the bootstrap against a plain one that loops."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adakd import score
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


def test_composed_and_decomposed_letters_are_the_same_only_when_normalised():
    # U+0BCA is U+0BC6 U+0BBE in one code point
    errors = one("க\u0bcaடி", "க\u0bc6\u0bbeடி", "ta")
    assert errors.normalised == (0, 0, 0, 4)
    assert errors.raw.errors == 2


def test_raw_is_against_the_untouched_transcript():
    errors = one("it rains", "it rains", "en", raw="It rains.")
    assert errors.normalised == (0, 0, 0, 8)
    assert errors.raw == (1, 1, 0, 9)  # the capital and the full stop


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
        return score.bootstrap_unit(made_up([1] * len(speakers), [9] * len(speakers), speakers))

    assert unit(["a", "b", "c", "d"] * 5) == "utterance"
    assert unit(["a", "b", "c", "d", "e"]) == "speaker"
    assert unit(["a", "b", "c", "d", "e", ""]) == "utterance"  # one speaker unknown


@pytest.mark.parametrize("number_of_speakers", [3, 8])
def test_interval_against_a_plain_loop_with_the_same_draws(number_of_speakers):
    rng = random.Random(1)
    size = 40
    utterances = made_up(
        [rng.randint(0, 5) for _ in range(size)],
        [rng.randint(5, 30) for _ in range(size)],
        [f"speaker{i % number_of_speakers}" for i in range(size)],
    )
    by_unit: dict[str, list[score.Counts]] = {}
    for utterance in utterances:
        unit = utterance.speaker if number_of_speakers >= 5 else utterance.id
        by_unit.setdefault(unit, []).append(utterance.normalised)
    units = [by_unit[name] for name in sorted(by_unit)]
    generator = np.random.default_rng(7)
    rates = []
    for _ in range(500):
        errors = characters = 0
        for index in generator.integers(len(units), size=len(units)):
            errors += sum(count.errors for count in units[index])
            characters += sum(count.characters for count in units[index])
        rates.append(errors / characters)
    rates.sort()
    expected = (rates[math.ceil(0.025 * 500) - 1], rates[math.ceil(0.975 * 500) - 1])
    assert score.bootstrap_interval(utterances, draws=500, seed=7) == pytest.approx(expected)


def test_interval_against_the_normal_approximation():
    rng = np.random.default_rng(2)
    errors = rng.binomial(20, 0.15, size=2000)
    utterances = made_up(errors.tolist(), [20] * 2000, ["a"] * 2000)
    low, high = score.bootstrap_interval(utterances, draws=4000)
    half = 1.96 * errors.std() / 20 / math.sqrt(2000)
    assert low == pytest.approx(errors.mean() / 20 - half, abs=0.15 * half)
    assert high == pytest.approx(errors.mean() / 20 + half, abs=0.15 * half)


def test_speakers_that_differ_widen_the_interval():
    speakers = [f"s{i % 8}" for i in range(80)]
    errors = [i % 8 for i in range(80)]
    by_speaker = score.bootstrap_interval(made_up(errors, [10] * 80, speakers))
    by_utterance = score.bootstrap_interval(made_up(errors, [10] * 80, ["one"] * 80))
    assert by_speaker.high - by_speaker.low > 2 * (by_utterance.high - by_utterance.low)


def test_interval_does_not_depend_on_the_order_of_utterances():
    utterances = made_up(list(range(30)), [40] * 30, [f"s{i % 6}" for i in range(30)])
    assert score.bootstrap_interval(utterances) == score.bootstrap_interval(utterances[::-1])


def test_many_draws_in_blocks_equal_one_block():
    # 3 * 10^6 numbers to gather: more than one block of `_resample`
    values = np.arange(600).reshape(300, 2)
    in_blocks = score._resample(values, 5000, seed=4)
    picks = np.random.default_rng(4).integers(300, size=(5000, 300))
    np.testing.assert_array_equal(in_blocks, values[picks].sum(axis=1))


def test_paired_bootstrap_sees_a_clear_difference():
    rng = random.Random(5)
    lengths = [20] * 200
    worse = [rng.randint(2, 8) for _ in lengths]
    better = [max(0, errors - rng.randint(0, 2)) for errors in worse]
    speakers = [f"s{i % 10}" for i in range(200)]
    change = score.paired_bootstrap(
        made_up(better, lengths, speakers), made_up(worse, lengths, speakers)
    )
    assert change.relative == pytest.approx(sum(better) / sum(worse) - 1)
    assert change.interval.low < change.relative < change.interval.high < 0
    assert change.decided
    assert change.p_value == pytest.approx(2 / 1001)
    assert change.unit == "speaker"


def test_paired_bootstrap_of_identical_systems_is_undecided():
    utterances = made_up([1, 2, 3, 4] * 5, [20] * 20, ["a"] * 20)
    change = score.paired_bootstrap(utterances, utterances[::-1])
    assert change.relative == 0
    assert change.interval == (0, 0)
    assert not change.decided
    assert change.p_value == 1


def test_paired_bootstrap_of_equally_good_systems_includes_zero():
    rng = random.Random(6)
    first = [rng.randint(0, 6) for _ in range(100)]
    second = first[50:] + first[:50]
    speakers = ["a"] * 100
    change = score.paired_bootstrap(
        made_up(first, [20] * 100, speakers), made_up(second, [20] * 100, speakers)
    )
    assert change.relative == 0
    assert change.interval.low < 0 < change.interval.high
    assert change.p_value > 0.3


def test_paired_bootstrap_against_a_plain_loop():
    a = made_up([1, 0, 4, 2, 2, 3], [10, 12, 14, 9, 8, 20], list("abcdef"))
    b = made_up([2, 1, 3, 2, 5, 1], [10, 12, 14, 9, 8, 20], list("abcdef"))
    generator = np.random.default_rng(0)
    changes = []
    for _ in range(200):
        picks = generator.integers(6, size=6)
        changes.append(
            sum(a[i].normalised.errors for i in picks) / sum(b[i].normalised.errors for i in picks)
            - 1
        )
    changes.sort()
    found = score.paired_bootstrap(a, b, draws=200)
    assert found.interval == pytest.approx((changes[4], changes[194]))
    below, above = sum(c <= 0 for c in changes), sum(c >= 0 for c in changes)
    assert found.p_value == pytest.approx(min(1, 2 * (min(below, above) + 1) / 201))


def test_a_faultless_baseline():
    perfect = made_up([0] * 10, [10] * 10, ["a"] * 10)
    some = made_up([1] * 10, [10] * 10, ["a"] * 10)
    assert score.paired_bootstrap(some, perfect).relative == math.inf
    assert score.paired_bootstrap(perfect, perfect).relative == 0
    assert score.paired_bootstrap(perfect, some).interval == (-1, -1)


def test_different_utterances_are_named():
    utterances = made_up([1, 2, 3], [9] * 3, ["a"] * 3)
    with pytest.raises(UserError, match=r"KD lacks 1 \(u0002\)"):
        score.paired_bootstrap(utterances, utterances[:2], names=("AdaKD", "KD"))
    with pytest.raises(UserError, match=r"AdaKD lacks 2 \(u0001, u0002\)"):
        score.paired_bootstrap(utterances[:1], utterances, names=("AdaKD", "KD"))


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
    assert written[0] == {**rows[0], "errors": {"normalised": [1, 0, 0, 2], "raw": [1, 1, 0, 3]}}
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
    write_rows(path, [row("a", "a")])
    with pytest.raises(UserError, match="stage 8"):
        score.read_errors(path)
    path.write_text("")
    with pytest.raises(UserError, match="dev set has no hypotheses"):
        score.score_file(path, tmp_path / "score.json", "en")


# -- pinyin and recording conditions ---------------------------------------------------------------


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
    # The interval is of syllables: where only characters are wrong there is nothing to draw.
    same = tmp_path / "same.jsonl"
    write_rows(same, [row("他们", "她们", id="1"), row("银行很大", "银杭很大", id="2")])
    heard = score.score_file(same, tmp_path / "same.json", "zh", draws=100)
    assert heard["per"] == 0 and heard["interval_per"] == [0, 0]
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
