"""Intervals, Holm and power against hand computation, plain loops, closed forms, simulations."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import pytest
from scipy import stats

from adakd import significance


@pytest.mark.parametrize(
    ("given", "adjusted"),
    [
        ([], []),
        ([0.04], [0.04]),
        # Holm 1979 by hand: 0.01 x 4; 0.015 x 3 = 0.045; 0.03 x 2; 0.04 x 1, raised to 0.06
        ([0.01, 0.04, 0.03, 0.015], [0.04, 0.06, 0.06, 0.045]),
        ([0.4, 0.5, 0.9], [1.0, 1.0, 1.0]),
        ([0.02, 0.02], [0.04, 0.04]),
    ],
)
def test_holm_by_hand(given: list[float], adjusted: list[float]) -> None:
    assert significance.holm(given) == pytest.approx(adjusted)


def drawn_counts(columns: int = 2, seed: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Two folds, the first of three groups and four seeds, the second of two groups and two."""
    draw = np.random.default_rng(seed)
    counts = draw.integers(1, 40, (5, 6, columns)).astype(float)
    counts[..., 1::2] = 100
    folds = np.array([0, 0, 0, 0, 1, 1])
    counts[:3, 4:] = counts[3:, :4] = 0
    return counts, folds


def test_nothing_resampled_is_the_mean_over_seeds_of_the_pooled_folds() -> None:
    counts, folds = drawn_counts()
    sums = significance.pooled(counts, folds)
    errors = counts[:3, :4, 0].sum() / 4 + counts[3:, 4:, 0].sum() / 2
    assert sums == pytest.approx([errors, 500])


def test_equal_sums_are_a_tie_however_they_are_spread() -> None:
    """Of five runs each, whose fifths add up to two numbers if they are rounded one by one."""
    counts = np.zeros((1, 5, 4))
    counts[0, :, 0], counts[0, :, 2] = (6, 9, 6, 2, 8), (7, 8, 2, 6, 8)
    sums = significance.pooled(counts, np.zeros(5))
    assert sums[0] == sums[2] == 31 / 5


def test_resampling_agrees_with_a_plain_loop() -> None:
    counts, folds = drawn_counts(columns=4)
    fast = significance.log_rate(significance.resample(counts, folds, 40_000))
    draw = np.random.default_rng(99)
    slow = []
    for _ in range(6000):
        sums = np.zeros(4)
        seeds = {0: draw.choice([0, 1, 2, 3], 3), 1: draw.choice([4, 5], 1)}
        for group in draw.choice(5, 4):
            for runs in seeds.values():
                for run in runs:
                    sums += counts[group, run] / len(runs) * 5 / 4
        own, other = (sums[0] + 0.5) / sums[1], (sums[2] + 0.5) / sums[3]
        slow.append(math.log(own / other))
    assert fast.mean() == pytest.approx(np.mean(slow), abs=4 * np.std(slow) / math.sqrt(6000))
    assert fast.std() == pytest.approx(np.std(slow), rel=0.06)


def test_weights_in_pieces_are_the_same_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of 100,000 utterances do not fit into memory at once, and are not kept."""
    counts, folds = drawn_counts(columns=4)
    whole = significance.resample(counts, folds, 100)
    alone = significance.resample(counts, folds, 100, runs=False)
    assert not np.allclose(whole, alone)
    monkeypatch.setattr(significance, "PIECE", 35)  # seven draws of five groups
    kept = significance._kept_weights.cache_info().misses
    assert significance.resample(counts, folds, 100) == pytest.approx(whole, rel=1e-12)
    assert significance.resample(counts, folds, 100, runs=False) == pytest.approx(alone, rel=1e-12)
    assert significance._kept_weights.cache_info().misses == kept


def test_the_exact_variance_is_that_of_all_draws_there_are() -> None:
    """Two folds, of three and two seeds, tested on the same four groups: every draw, one by one."""
    parts = np.random.default_rng(8).standard_normal((4, 5))
    folds = np.array([0, 0, 0, 1, 1])
    of_seeds = [
        {0: first, 1: second}
        for first in itertools.product([0, 1, 2], repeat=2)
        for second in itertools.product([3, 4], repeat=1)
    ]
    of_groups = list(itertools.product(range(4), repeat=3))

    def total(seeds: dict[int, tuple[int, ...]], groups: Sequence[int]) -> float:
        heard = parts[list(groups)].sum(axis=0) * 4 / len(groups)
        return float(sum(heard[list(runs)].mean() for runs in seeds.values()))

    runs = np.var([total(seeds, range(4)) for seeds in of_seeds])
    every = {0: (0, 1, 2), 1: (3, 4)}
    groups = np.var([total(every, drawn) for drawn in of_groups])
    both = np.var([total(seeds, drawn) for seeds in of_seeds for drawn in of_groups])
    assert significance.exact(parts, folds) == pytest.approx((runs, groups, both))


@pytest.mark.parametrize("few", [1, 30])
def test_a_few_draws_say_what_many_do(monkeypatch: pytest.MonkeyPatch, few: int) -> None:
    """Of tens of errors a group and of hundreds: the luck of the draws is not in the interval."""
    counts, folds = drawn_counts(columns=4)
    counts[..., ::2] *= few
    many = significance.resample(counts, folds, 400_000)
    truth = float(significance.log_rate(many).std())
    found = []
    for seed in (1, 2, 3):
        monkeypatch.setattr(significance, "SEED", seed)
        significance._kept_weights.cache_clear()
        found.append(math.sqrt(significance.variance(counts, folds, 4000).of_both))
    significance._kept_weights.cache_clear()  # they are of another seed
    assert found == pytest.approx([truth] * 3, rel=0.006)


def test_a_draw_without_speech_leaves_nothing_known() -> None:
    """The hardest quarter may be spoken by two of six: a draw without them has no ratio."""
    counts = np.random.default_rng(2).integers(5, 40, (6, 5, 8)).astype(float)
    counts[..., 1::2] = 100
    counts[2:, :, :4] = 0
    with np.errstate(all="ignore"):
        change = significance.compare(counts, np.zeros(5))
    assert math.isnan(change.interval.low) and math.isnan(change.interval.high)


def test_variance_of_balanced_normal_data_has_its_closed_form() -> None:
    """E var* = s_g^2 / G + s_r^2 / R + 3 s_e^2 / (G R) for x = group + run + noise: each level is
    exact, the noise within cells is counted three times (Owen 2007: mildly conservative)."""
    groups, runs, s_group, s_run, s_noise = 6, 5, 1.0, 0.7, 0.5
    draw = np.random.default_rng(0)
    found = []
    for _ in range(300):
        x = s_group * draw.standard_normal((groups, 1)) + s_run * draw.standard_normal((1, runs))
        x = x + s_noise * draw.standard_normal((groups, runs))
        counts = np.stack([x, np.ones_like(x)], axis=2)
        sums = significance.resample(counts, np.zeros(runs))
        found.append((sums[:, 0] / groups).var())
    expected = s_group**2 / groups + s_run**2 / runs + 3 * s_noise**2 / (groups * runs)
    assert np.mean(found) == pytest.approx(expected, rel=4 * np.std(found) / 300**0.5 / expected)


def test_one_seed_or_one_group_is_the_textbook_standard_error() -> None:
    """With one level only the t interval of a mean must come out (errors are large and alike, so
    the logarithm is nearly linear)."""
    errors = 10_000 + np.array([10.0, -30, 25, 0, -5])
    counts = np.stack([errors, np.full(5, 1e5)], axis=1)
    textbook = stats.t.interval(0.95, 4, errors.mean() / 1e5, stats.sem(errors) / 1e5)
    for shaped in (counts[:, None], counts[None]):
        folds = np.zeros(shaped.shape[1])
        interval = significance.cer_interval(shaped, folds, 200_000)
        assert interval == pytest.approx(textbook, rel=1e-4)
        width = interval.high - interval.low
        assert width == pytest.approx(textbook[1] - textbook[0], rel=0.02)


def test_intervals_cover_and_p_values_do_not_promise_too_much() -> None:
    """No difference in truth; five seeds, eight speakers, luck at both levels."""
    draw = np.random.default_rng(5)
    covered = rejected = 0
    for _ in range(400):
        shift = 0.03 * draw.standard_normal((1, 5)) + 0.03 * draw.standard_normal((8, 1))
        base = 200 * np.exp(0.2 * draw.standard_normal((8, 1)) + np.zeros((1, 5)))
        length = np.full((8, 5), 1000.0)
        counts = np.stack([base * np.exp(shift), length, base, length], axis=2)
        change = significance.compare(counts, np.zeros(5), 300)
        covered += change.interval.low <= 0 <= change.interval.high
        rejected += change.p_value < 0.05
    assert 0.93 <= covered / 400 <= 0.99
    assert covered + rejected == 400, "interval and p-value say the same"


@pytest.mark.parametrize("apart", [0.0, 0.012])
def test_luck_of_seed_and_speaker_together_counts_once(apart: float) -> None:
    """No difference in truth, and nearly all luck is of one seed with one speaker: the standard
    error is not far above the true one, where counting that luck three times makes it 1.7 times."""
    draw = np.random.default_rng(7)
    found, errors, covered = [], [], 0
    for _ in range(300):
        luck = apart * (draw.standard_normal((1, 5)) + draw.standard_normal((8, 1)))
        luck = luck + 0.04 * draw.standard_normal((8, 5))
        base = 200 * np.exp(0.2 * draw.standard_normal((8, 1)) + np.zeros((1, 5)))
        length = np.full((8, 5), 1000.0)
        counts = np.stack([base * np.exp(luck), length, base, length], axis=2)
        change = significance.compare(counts, np.zeros(5), 300)
        found.append(math.log1p(change.relative))
        errors.append(change.variance.error()[0] ** 2)
        covered += change.interval.low <= 0 <= change.interval.high
    assert 0.9 < math.sqrt(np.mean(errors)) / np.std(found) < 1.35
    assert 0.94 <= covered / 300


def test_a_seed_for_each_fold_covers_too() -> None:
    """No difference in truth; six folds, each with people and a seed of its own: both kinds of luck
    are in how far apart the folds come out."""
    draw = np.random.default_rng(6)
    covered = 0
    for _ in range(400):
        counts = np.zeros((6, 6, 4))
        luck = 0.03 * draw.standard_normal(6) + 0.03 * draw.standard_normal(6)
        base = 200 * np.exp(0.2 * draw.standard_normal(6))
        one = np.arange(6)
        counts[one, one] = np.stack(
            [base * np.exp(luck), 0 * base + 1000, base, 0 * base + 1000], 1
        )
        change = significance.compare(counts, one, 300)
        covered += change.interval.low <= 0 <= change.interval.high
    assert 0.92 <= covered / 400 <= 0.98


def test_two_seeds_and_few_errors_have_an_interval() -> None:
    """Taking off what is of both together may leave next to no degrees of freedom."""
    luck = significance.Variance(of_runs=1.0, of_groups=1.0, of_both=2.9, runs=2, folds=1, groups=8)
    error, free = luck.error()
    assert error == pytest.approx(math.sqrt(1.1)) and free == 1.0
    draw = np.random.default_rng(2)
    for _ in range(50):
        wrong = draw.binomial(30, 0.01, size=(8, 2, 2))
        counts = np.stack([wrong, np.full_like(wrong, 30)], axis=-1).reshape(8, 2, 4)
        change = significance.compare(counts, np.zeros(2), 50)
        assert not math.isnan(change.relative)


def test_seeds_are_free_within_their_folds() -> None:
    """Two folds of one speaker each, equal on average: the textbook's stratified mean.

    se = sqrt(s0^2 / n + s1^2 / n) / 2, with 2 (n - 1) degrees of freedom.
    """
    draw, n = np.random.default_rng(3), 6
    errors = 200 + np.array([[4.0], [2.0]]) * draw.standard_normal((2, n))
    errors *= 200 / errors.mean(axis=1, keepdims=True)
    folds = np.repeat([0, 1], n)
    counts = np.zeros((2, 2 * n, 2))
    for fold in (0, 1):
        counts[fold, folds == fold] = np.stack([errors[fold], np.full(n, 1000.0)], axis=1)
    error, free = significance.variance(counts, folds, 20_000).error()
    truth = np.sqrt((errors.var(axis=1, ddof=1) / n).sum()) / 2 / 200
    assert free == pytest.approx(2 * (n - 1))
    assert error == pytest.approx(truth, rel=0.05)


def test_pairing_cancels_what_seeds_and_speakers_share() -> None:
    draw = np.random.default_rng(1)
    base = 100 * np.exp(0.5 * draw.standard_normal((8, 1)) + 0.3 * draw.standard_normal((1, 5)))
    length = np.full((8, 5), 1000.0)
    paired = np.stack([0.95 * base, length, base, length], axis=2)
    change = significance.compare(paired, np.zeros(5))
    assert change.relative == pytest.approx(-0.05)
    assert change.p_value < 1e-6 and -0.051 < change.interval.low < change.interval.high < -0.049
    broken = np.concatenate([paired[:, :, :2], paired[::-1, ::-1, 2:]], axis=2)
    assert significance.compare(broken, np.zeros(5)).p_value > 0.5


def test_two_pairs_tell_by_how_much_a_gain_differs() -> None:
    """Twice as independent pairs, each ratio known: quotient, and the sum of both variances."""
    draw = np.random.default_rng(2)
    changes, parts = [], []
    for gain in (0.8, 0.9):
        base = 100 * np.exp(0.3 * draw.standard_normal((40, 5)))
        own = gain * base * np.exp(0.2 * draw.standard_normal((40, 5)))
        own *= gain * base.sum() / own.sum()
        parts.append(np.stack([own, 0 * base + 1000, base, 0 * base + 1000], axis=2))
        changes.append(significance.compare(parts[-1], np.zeros(5)))
    change = significance.compare(np.concatenate(parts, axis=2), np.zeros(5))
    assert change.relative == pytest.approx(0.8 / 0.9 - 1)
    widths = [math.log1p(one.interval.high) - math.log1p(one.interval.low) for one in changes]
    width = math.log1p(change.interval.high) - math.log1p(change.interval.low)
    assert width == pytest.approx(math.hypot(*widths), rel=0.25)
    same = significance.compare(np.concatenate(parts[:1] * 2, axis=2), np.zeros(5))
    assert (same.relative, same.p_value) == (0.0, 1.0), "a gain is as large as itself"
    few = np.tile([0.0, 100, 5, 100, 0, 100, 20, 100], (6, 3, 1))
    found = significance.compare(few, np.zeros(3))
    assert found.relative == pytest.approx((120.5 / 30.5) - 1), "half an error, not none at all"


def test_range_quantile_is_the_tables() -> None:
    """Studentized range, 95 %, of printed tables; and a simulation."""
    for number, free, known in ((2, math.inf, 2.772), (5, math.inf, 3.858), (5, 4, 6.287)):
        assert significance.range_quantile(number, free) == pytest.approx(known, abs=1e-3)
    draw = np.random.default_rng(0)
    ranges = np.ptp(draw.standard_normal((20_000, 7)), axis=1)
    ranges /= np.sqrt(draw.chisquare(4, 20_000) / 4)
    assert (ranges > significance.range_quantile(7, 4)).mean() == pytest.approx(0.05, abs=0.006)


def test_the_same_errors_and_no_errors() -> None:
    counts = np.full((6, 3, 4), 10.0)
    same = significance.compare(counts, np.zeros(3))
    assert (same.relative, same.p_value, same.interval) == (0.0, 1.0, (0.0, 0.0))
    counts[..., 0], counts[:3, :, 2] = 0, 20
    none = significance.compare(counts, np.zeros(3))
    assert none.relative == -1 and math.isfinite(none.interval.low)
    alone = significance.compare(drawn_counts(4)[0][:1, :1], np.zeros(1))
    assert math.isnan(alone.interval.low) and alone.p_value == 1.0, "nothing to resample"
    for errors in (1, 2):  # half of the errors in every single one: of 2 the logarithm is not exact
        counts = np.full((3, 2, 4), 10.0)
        counts[..., 0], counts[..., 2] = errors, 2 * errors
        alike = significance.compare(counts, np.zeros(2))
        assert alike.relative == -0.5 and math.isnan(alike.interval.low) and alike.p_value == 1.0


def test_an_interval_holds_what_it_is_of() -> None:
    """Half an error is added for the logarithm, and not to the number that is shown."""
    folds = np.zeros(3)
    counts = np.full((6, 3, 4), 100.0)
    counts[..., 0], counts[..., 2] = 10, 20
    counts[0, :, 2] += 1e-4  # hardly any luck, and a margin far below what the half error does
    change = significance.compare(counts, folds)
    assert change.relative == pytest.approx(-0.5) and change.relative == change.interval.low
    back = significance.compare(counts[..., [2, 3, 0, 1]], folds)
    assert back.relative == pytest.approx(1, rel=1e-5) and back.relative == back.interval.high
    counts[..., 0] = 0
    assert significance.compare(counts, folds).interval.low == -1
    low, high = significance.cer_interval(counts[..., :2], folds)
    exact = stats.binomtest(0, 600).proportion_ci(method="exact")
    assert (low, high) == (exact.low, pytest.approx(exact.high))


def test_more_seeds_leave_the_luck_of_speakers() -> None:
    """Expected variances of seeds, speakers and both together, as ANOVA has them."""
    seed, speaker, both, seeds, speakers = 0.03**2, 0.05**2, 0.1**2, 5, 8
    together = both / seeds / speakers
    of_runs, of_groups = seed / seeds + together, speaker / speakers + together
    found = significance.Variance(
        of_runs, of_groups, of_runs + of_groups + together, seeds, 1, speakers
    )
    for more in (0.4, 1, 4, 100):
        wanted = seed / seeds / more + speaker / speakers + together / more
        assert found.error(more)[0] == pytest.approx(math.sqrt(wanted))
    free = (
        (of_runs + of_groups - together) ** 2
        / (of_runs**2 / 4 + of_groups**2 / 7 + together**2 / 28)
    )  # fmt: skip
    assert found.error()[1] == pytest.approx(free)
    # 3 % is 1.7 standard errors of these speakers however many seeds there are, 10 % is 6.
    assert significance.seeds_enough(found, 0.03) is None
    enough = significance.seeds_enough(found, 0.1)
    assert enough is not None

    def chance(seeds: int) -> float:
        error, free = found.error(seeds / 5)
        return significance.found_by_t(-math.log(0.9) / error, free)

    assert chance(enough) >= 0.8 > chance(enough - 1)
    alone = significance.Variance(0.02**2 / 5, 0.0, 0.02**2 / 5, 5, 1, 8)
    assert significance.seeds_enough(alone, 0.03) == significance.seeds_needed(0.02, 0.03)
    nothing = significance.Variance(0.0, 0.0, 0.0, 5, 1, 8)
    assert significance.seeds_enough(nothing, 0.03) == significance.seeds_needed(0.0, 0.03) == 2


def test_seeds_enough_are_of_each_fold() -> None:
    seed, speaker = 0.03**2 / 5, 0.02**2 / 6
    found = significance.Variance(seed, speaker, seed + speaker, runs=30, folds=6, groups=6)
    enough = significance.seeds_enough(found, 0.05)
    assert enough is not None

    def chance(seeds: int) -> float:
        return significance.found_by_t(
            -math.log(0.95) / (error := found.error(seeds / 5))[0], error[1]
        )

    assert chance(enough) >= 0.8 > chance(enough - 1)


def test_less_luck_of_both_than_of_either_takes_nothing_off() -> None:
    """The estimate may come out below zero, where there is none."""
    found = significance.Variance(1.0, 1.0, 1.5, runs=5, folds=1, groups=8)
    assert found.error()[0] ** 2 == pytest.approx(2)


@pytest.mark.parametrize(("of_runs", "of_groups"), [(1.0, 0.8), (0.8, 1.0), (1.0, 1e-6)])
def test_luck_of_both_that_seems_more_than_either_changes_nothing(
    of_runs: float, of_groups: float
) -> None:
    """Where the estimate of the luck together passes the lesser of the levels nothing jumps."""

    def found(together: float) -> tuple[float, float]:
        both = of_runs + of_groups + together
        return significance.Variance(of_runs, of_groups, both, 5, 1, 11).error()

    least = min(of_runs, of_groups)
    at_most = found(least)
    assert at_most[0] == pytest.approx(max(of_runs, of_groups) ** 0.5)
    assert found(0.999 * least) == pytest.approx(at_most, rel=0.004)
    for more in (1.001, 1.5, 10):
        assert found(more * least) == pytest.approx(at_most)


@pytest.mark.parametrize(("seeds", "deviation"), [(3, 0.01), (5, 0.025), (12, 0.03), (30, 0.1)])
def test_power_against_simulation(seeds: int, deviation: float) -> None:
    draw = np.random.default_rng(seeds)
    differences = math.log(0.97) + deviation * draw.standard_normal((20_000, seeds))
    found = np.mean(stats.ttest_1samp(differences, 0, axis=1).pvalue < 0.05)
    assert significance.power(seeds, deviation, 0.03) == pytest.approx(found, abs=0.015)


def test_power_is_that_of_the_noncentral_t() -> None:
    """Where SciPy's own distribution has a value, and where it has none."""
    for free in (1, 2, 7.6, 29):
        for shift in (0.1, 1.0, 3.0):
            ends = stats.t.ppf([0.025, 0.975], free)
            known = 1 - np.diff(stats.nct.cdf(ends, free, shift))[0]
            assert significance.found_by_t(shift, free) == pytest.approx(known, abs=2e-4)
    assert significance.found_by_t(10.0, 4) == pytest.approx(1.0, abs=1e-6)


def test_what_is_detectable_is_found_with_that_chance() -> None:
    for free in (2.5, 6, 40):
        change = significance.detectable(0.02, free, level=0.01)
        shift = -math.log1p(-change) / 0.02
        assert significance.found_by_t(shift, free, 0.01) == pytest.approx(0.8, abs=1e-6)
    known = 1 - math.exp(-0.02 * 2.8016)  # normal quantiles: 1.960 + 0.842
    assert significance.detectable(0.02, 1e6) == pytest.approx(known, rel=1e-3)


def test_seeds_needed_is_the_fewest_that_will_do() -> None:
    for deviation in (0.005, 0.02, 0.035, 0.2):
        number = significance.seeds_needed(deviation, 0.03)
        assert number is not None and significance.power(number, deviation, 0.03) >= 0.8
        assert number == 2 or significance.power(number - 1, deviation, 0.03) < 0.8
    assert significance.seeds_needed(0.0, 0.03) == 2
    assert significance.seeds_needed(1e-6, 0.03) == 2
    assert significance.seeds_needed(10.0, 0.03) is None
    # By the normal quantiles ((1.960 + 0.842) deviation / 0.0305)^2: 9,000 and 12,000.
    assert significance.seeds_needed(1.031, 0.03) == pytest.approx(9_000, rel=0.01)
    assert significance.seeds_needed(1.191, 0.03) is None
    plain = significance.seeds_needed(0.02, 0.03)
    assert significance.seeds_needed(0.02, 0.03, level=0.01) > plain
