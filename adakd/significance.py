"""Which differences between trained models can be believed: intervals over seeds and speakers,
correction for many comparisons, and how many seeds a difference needs.

A study trains every cell with several seeds and tests all of them on the same speech. Both are
luck: other seeds and other speakers would have given other numbers. So both are resampled. Where
there is one seed the test speech alone is. Not here: counting errors (score.py), reading and
comparing runs (findings.py).

Folds may have seeds of their own, down to one. The luck of a fold's only seed cannot be told from
that of the people whom it tests, and need not be: with the fold as the group, how far apart the
folds come out holds both.

Counts come as arrays (groups, runs, 2): errors and reference characters of each group of test
speech (a speaker or an utterance) in each run (a seed of a fold); a pair of systems has (groups,
runs, 4), the second system's two columns behind the first's, and two pairs (groups, runs, 8). A
group that a run's fold does not test holds zeros. `folds` (runs,) says which fold each run belongs
to.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy as np

DRAWS = 4000  # resamples behind each standard error
PIECE = 5_000_000  # weights drawn at a time, 40 MB
SEED = 0  # of the bootstrap alone: the same hypotheses always give the same interval
LEVEL = 0.05  # two-sided; intervals are of 1 - LEVEL
ROUNDING = 1e-18  # a variance this small is of floating-point numbers alone
POWER = 0.8  # wanted chance to find a difference that is there
MOST_SEEDS = 10_000  # a power calculation looks no further
SIGNS = {1: (1,), 2: (1, -1), 4: (1, -1, -1, 1)}  # of each system's log CER, by their number


class Interval(NamedTuple):
    """Of 95 %; NaN where nothing varies: a single utterance, or one difference everywhere."""

    low: float
    high: float


@dataclass(frozen=True)
class Change:
    """Relative change of a system's CER against a baseline's: -0.1 is 10 % fewer errors."""

    relative: float
    interval: Interval
    p_value: float  # two-sided
    variance: Variance  # of the logarithm of the ratio of CERs

    @property
    def decided(self) -> bool:
        """Does the interval exclude zero?"""
        return self.interval.low > 0 or self.interval.high < 0


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction (1979): adjusted p-values, in the order given.

    The i-th smallest of m is multiplied by m - i + 1, and is never below the one before it. To call
    significant what is below 5 % then errs in 5 % of studies at most, whatever depends on what.
    """
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        highest = max(highest, (len(p_values) - rank) * p_values[place])
        adjusted[place] = min(1.0, highest)
    return adjusted


def pooled(counts: np.ndarray, folds: np.ndarray) -> np.ndarray:
    """Sums (C,) over all groups and folds, of each fold the mean over its seeds."""
    import numpy as np

    names, seeds = np.unique(folds, return_counts=True)
    of_folds = np.array([counts[:, folds == name].sum(axis=(0, 1)) for name in names])
    return (of_folds / seeds[:, None]).sum(axis=0)  # divided last: equal sums stay equal


def resample(
    counts: np.ndarray,
    folds: np.ndarray,
    draws: int = DRAWS,
    runs: bool = True,
    groups: bool = True,
) -> np.ndarray:
    """Sums (draws, C) over resampled runs and groups; what is not resampled counts once.

    One draw takes seeds with replacement, within each fold, and then groups of test speech, the
    same for all these seeds, since the same people speak to each of them (crossed, not nested: the
    "pigeonhole bootstrap", Owen 2007, Annals of Applied Statistics 1). Each level draws one fewer
    than there are, scaled up again: that makes the variance of a mean unbiased for few units
    (Rao and Wu 1988, JASA 83), where drawing all n of 5 would lose a fifth of it.
    """
    import numpy as np

    names, seeds = np.unique(folds, return_counts=True)
    # The same whether asked for or not: variances of both levels and of each, with the same draws,
    # differ by less chance.
    weights = iter(_weights((*seeds.tolist(), len(counts)), draws))
    of_runs = np.empty((draws, len(folds)))
    for fold, number in zip(names, seeds, strict=True):
        drawn = next(weights)
        of_runs[:, folds == fold] = (drawn if runs else 1.0) / number  # mean over its seeds
    flat = counts.reshape(len(counts), -1)
    if groups:
        sums = np.concatenate([piece @ flat for piece in weights])
    else:
        sums = np.broadcast_to(flat.sum(axis=0), (draws, flat.shape[1]))
    return np.einsum("drc,dr->dc", sums.reshape(draws, *counts.shape[1:]), of_runs)


def _weights(numbers: tuple[int, ...], draws: int) -> Iterable[np.ndarray]:
    """How often each of so many is drawn, (draws, number) for each level, 1 on average.

    Those of the last level, the groups, in pieces: of utterances there may be 100,000.
    """
    few = draws * numbers[-1] <= PIECE
    return _kept_weights(numbers, draws) if few else _drawn_weights(numbers, draws)


@lru_cache(maxsize=2)  # drawing takes the time, and a table is of systems on the same speech
def _kept_weights(numbers: tuple[int, ...], draws: int) -> list[np.ndarray]:
    return list(_drawn_weights(numbers, draws))


def _drawn_weights(numbers: tuple[int, ...], draws: int) -> Iterator[np.ndarray]:
    import numpy as np

    generator = np.random.default_rng(SEED)

    def drawn(number: int, size: int) -> np.ndarray:
        if number == 1:
            return np.ones((size, 1))
        found = generator.multinomial(number - 1, np.full(number, 1 / number), size=size)
        return found * (number / (number - 1))

    *of_folds, groups = numbers
    for number in of_folds:
        yield drawn(number, draws)
    size = max(1, PIECE // groups)
    for start in range(0, draws, size):
        yield drawn(groups, min(size, draws - start))


def log_rate(sums: np.ndarray) -> np.ndarray:
    """log CER (n,) of sums (n, 2); of sums (n, 4), log of the first's CER over the second's.

    Of sums (n, 8), that of the first two less that of the last two: by how much a gain differs.
    Half an error is added to each, so that a system without errors has a logarithm too.
    """
    import numpy as np

    rates = np.log((sums[:, ::2] + 0.5) / sums[:, 1::2])
    return rates @ np.array(SIGNS[rates.shape[1]], dtype=float)


class Variance(NamedTuple):
    """Of `log_rate`, by the bootstrap of both levels, and of how many runs, folds and groups."""

    of_runs: float  # resampling the seeds alone
    of_groups: float  # resampling the speakers, or utterances, alone
    of_both: float
    runs: int
    folds: int
    groups: int

    def error(self, more: float = 1.0) -> tuple[float, float]:
        """Standard error and its degrees of freedom, if there were `more` times as many seeds.

        Luck that is neither a seed's nor a speaker's, but of the two together, is in the variance
        that resampling the seeds gives, in that of the speakers, and three times in that of both
        (Owen 2007); once is right: seeds + speakers - (both - seeds - speakers). Since it is
        estimated, it is never taken for more than either level has, nor so the result for less.
        The degrees of freedom are Satterthwaite's (1946), from those of each part, and one at
        least, since taking a part off may leave next to none: a standard error from five seeds is
        itself uncertain, and a percentile or a normal quantile would promise too much.

        More seeds make both what is theirs and what is of the two together smaller; the luck of
        the speakers stays.
        """
        most = min(self.of_runs, self.of_groups)
        together = min(max(0.0, self.of_both - self.of_runs - self.of_groups), most)
        of_runs, of_groups = self.of_runs / more, self.of_groups - together * (1 - 1 / more)
        together /= more
        free_runs, free_groups = self.runs * more - self.folds, self.groups - 1
        parts = [
            (of_runs, free_runs), (of_groups, free_groups), (together, free_runs * free_groups)
        ]  # fmt: skip
        total = of_runs + of_groups - together
        uncertain = sum(part**2 / free for part, free in parts if free)
        if total < ROUNDING:  # all come out alike, if there is more than one
            return 0.0, max(free_runs, free_groups)
        return math.sqrt(total), max(1.0, total**2 / uncertain) if uncertain else 0.0


def linear(counts: np.ndarray, folds: np.ndarray) -> np.ndarray:
    """What each group adds to `log_rate` in each run, to first order (the delta method).

    (groups, runs); resampled like counts it moves nearly as `log_rate` does.
    """
    import numpy as np

    sums = pooled(counts, folds)
    signs = np.array(SIGNS[len(sums) // 2])
    slopes = np.stack([signs / (sums[::2] + 0.5), -signs / sums[1::2]], axis=1)
    return counts @ slopes.ravel()


def exact(parts: np.ndarray, folds: np.ndarray) -> tuple[float, float, float]:
    """The variance of resampled sums of (groups, runs), without drawing: runs, groups and both.

    Weights of n units as `resample` draws them have a mean of 1, a variance of 1 and covariances of
    -1 / (n - 1), so that the variance of a sum is n / (n - 1) times the sum of squared deviations.
    """
    import numpy as np

    def spread(values: np.ndarray, *numbers: int) -> float:
        scale = math.prod(number / (number - 1) if number > 1 else 0.0 for number in numbers)
        return scale * float((values**2).sum())

    of_runs = together = 0.0
    of_groups = np.zeros(len(parts))
    for fold in np.unique(folds):
        own = parts[:, folds == fold]
        number = own.shape[1]
        mean = own.mean(axis=1)  # of its seeds
        of_groups += mean
        own = (own - mean[:, None]) / number
        of_runs += spread(own.sum(axis=0), number)
        together += spread(own - own.mean(axis=0), number, len(parts))
    groups = spread(of_groups - of_groups.mean(), len(parts))
    return of_runs, groups, of_runs + groups + together


def variance(counts: np.ndarray, folds: np.ndarray, draws: int = DRAWS) -> Variance:
    """How `log_rate` varies with other seeds, other speakers, and both.

    Nearly all of it is what `linear` varies, which is `exact`. The draws add by how much the
    logarithm itself varies more, which is much only where errors are few: from the difference to
    `linear` in the same draws, so that their luck hardly counts but there (a control variate:
    Davison and Hinkley 1997, Bootstrap Methods and their Application, ch. 9).
    """
    import numpy as np

    parts = linear(counts, folds)
    both = np.concatenate([counts, parts[..., None]], axis=2)
    of_runs, of_groups, of_both = exact(parts, folds)

    def of(known: float, runs: bool, groups: bool) -> float:
        sums = resample(both, folds, draws, runs, groups)
        # In this order, max keeps NaN: where a draw has no speech nothing is known.
        return max(known + float(log_rate(sums[:, :-1]).var() - sums[:, -1].var()), 0.0)

    size = len(folds), len(np.unique(folds)), len(counts)
    return Variance(
        of(of_runs, True, False), of(of_groups, False, True), of(of_both, True, True), *size
    )


def _margin(error: float, free: float) -> float:
    """Half the width of the interval on the log scale; NaN where nothing could be resampled."""
    from scipy.special import stdtrit

    return error * float(stdtrit(free, 1 - LEVEL / 2)) if free else math.nan


def cer_interval(counts: np.ndarray, folds: np.ndarray, draws: int = DRAWS) -> Interval:
    """95 % interval of the CER over seeds and speech: exp(log CER +- t standard errors).

    It contains the CER, which has no half error added. Where no error was made at all, it ends
    where none among so many characters would be a chance of 1 in 40 (Clopper and Pearson 1934).
    """
    sums = pooled(counts, folds)
    cer, whole = float(sums[0] / sums[1]), float(log_rate(sums[None])[0])
    if not sums[0]:
        return Interval(0.0, -math.expm1(math.log(LEVEL / 2) / float(sums[1])))
    margin = _margin(*variance(counts, folds, draws).error())
    return _with(cer, math.exp(whole - margin), math.exp(whole + margin))


def _with(value: float, low: float, high: float) -> Interval:
    """An interval from the logarithms, whose half an error may have left the value itself out."""
    return Interval(min(low, value), max(high, value))


def compare(counts: np.ndarray, folds: np.ndarray, draws: int = DRAWS) -> Change:
    """Relative change of the first system's CER against the second's, of counts (groups, runs, 4).

    Of counts (groups, runs, 8), that of the first pair's ratio of CERs against the second pair's.
    Paired: all are heard by the same seeds and groups in every draw. The two-sided p-value is that
    of t = log ratio / standard error.
    """
    import numpy as np
    from scipy.special import stdtr

    sums = pooled(counts, folds)
    rates = sums[::2] / sums[1::2]
    signs = np.array(SIGNS[len(rates)])
    own, other = (float(rates[signs == sign].prod()) for sign in (1, -1))
    relative = 0.0 if own == other else own / other - 1 if other else math.inf
    whole = float(log_rate(sums[None])[0])
    if len(rates) > 2 and not rates.all():  # a ratio of ratios needs the half an error
        relative = math.expm1(whole)
    luck = variance(counts, folds, draws)
    error, free = luck.error()
    if error == 0.0 and whole == 0.0:  # the very same errors everywhere
        return Change(relative, Interval(0.0, 0.0), 1.0, luck)
    free = free if error else 0.0  # the very same difference everywhere tells of no luck
    margin = _margin(error, free)
    p_value = 2 * float(stdtr(free, -abs(whole) / error)) if free and error else 1.0
    interval = _with(relative, math.expm1(whole - margin), math.expm1(whole + margin))
    return Change(relative, interval, p_value, luck)


def range_quantile(number: int, free: float) -> float:
    """What the range of so many standard normal numbers exceeds in LEVEL of all cases.

    In units of a standard deviation that was estimated with so many degrees of freedom: the
    studentized range's quantile (Tukey 1949, Biometrics 5).
    """
    from scipy.stats import studentized_range

    return float(studentized_range.ppf(1 - LEVEL, number, free))


def found_by_t(shift: float, free: float, level: float = LEVEL) -> float:
    """Chance that a two-sided t-test finds a true difference of so many standard errors.

    The statistic follows a noncentral t (Cohen 1988, Statistical Power Analysis, ch. 2): a normal
    one over the square root of chi^2 / free, the mean over whose quantiles is taken here, since
    SciPy's own distribution is NaN for many ordinary values.
    """
    import numpy as np
    from scipy.special import chdtri, ndtr, stdtrit

    quantiles = (np.arange(4000) + 0.5) / 4000
    critical = stdtrit(free, 1 - level / 2) * np.sqrt(chdtri(free, quantiles) / free)
    return float(np.mean(ndtr(shift - critical) + ndtr(-shift - critical)))


def detectable(error: float, free: float, level: float = LEVEL) -> float:
    """The smallest relative fall of the CER that `compare` finds with a chance of POWER.

    error, free: of the runs and the test speech that there are, as `Variance` says.
    """
    low, high = 0.0, 1.0
    while found_by_t(high, free, level) < POWER:
        low, high = high, 2 * high
    for _ in range(20):
        middle = (low + high) / 2
        enough = found_by_t(middle, free, level) >= POWER
        low, high = (low, middle) if enough else (middle, high)
    return -math.expm1(-high * error)


def power(seeds: int, deviation: float, change: float, level: float = LEVEL) -> float:
    """Chance that a paired t-test over `seeds` seeds finds a relative change of the CER.

    deviation: standard deviation over seeds of log CER a - log CER b.
    """
    if deviation == 0:
        return 1.0
    return found_by_t(abs(math.log1p(-change)) * math.sqrt(seeds) / deviation, seeds - 1, level)


def seeds_needed(deviation: float, change: float, level: float = LEVEL) -> int | None:
    """The fewest seeds whose `power` is enough; None if more than MOST_SEEDS."""
    return _fewest(lambda seeds: power(seeds, deviation, change, level) >= POWER)


def seeds_enough(variance: Variance, change: float, level: float = LEVEL) -> int | None:
    """The fewest seeds (of each fold) with which `compare` finds a fall of the CER by `change`.

    On the same test speech, of which more seeds make no more. None where they are not enough,
    however many (MOST_SEEDS); where nothing varies, the fewest are.
    """
    now = variance.runs / variance.folds

    def enough(seeds: int) -> bool:
        error, free = variance.error(seeds / now)
        shift = abs(math.log1p(-change)) / error if error else math.inf
        return bool(free) and found_by_t(shift, free, level) >= POWER

    return _fewest(enough)


def _fewest(enough: Callable[[int], bool]) -> int | None:
    """The least number above 1 that is enough, when all above it are; None above MOST_SEEDS."""
    low, high = 1, 2
    while not enough(high):
        low, high = high, 2 * high
        if low >= MOST_SEEDS:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high if high <= MOST_SEEDS else None
