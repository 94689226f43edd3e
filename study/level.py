"""How often a comparison is called different where nothing differs: simulated, over what it should.

The intervals of a study are t intervals with degrees of freedom that are estimated. Here is how far
they keep their promise with few seeds, at the level of one comparison and of one among many, for
luck of the seed, of the speaker, and of the two together (standard deviations): where all runs are
tested by the same eleven voices, and where each of six people tests the runs of a fold of its own.

    .venv/bin/python study/level.py
"""

from __future__ import annotations

import numpy as np
from scipy.special import stdtr

from adakd.pages import aligned
from adakd.significance import Variance, exact

VOICES, PEOPLE, TRIALS = 11, 6, 200_000
AMONG = (1, 5, 238)  # comparisons that share 5 %
LUCK = (
    (1, 1, 1), (0, 0, 1), (1, 0, 1), (0, 1, 1), (1, 0.3, 0), (1, 0.3, 0.3), (1, 0.4, 0.1),
    (0.3, 1, 0.3),
)  # fmt: skip


def p_values(
    speakers: int, seeds: int, own_folds: bool, of_seed: float, of_speaker: float, of_both: float
) -> np.ndarray:
    """Two-sided, of so many trials without any difference; errors are taken to be many."""
    draw, found = np.random.default_rng(0), np.empty((2, TRIALS))
    folds = np.repeat(np.arange(speakers if own_folds else 1), seeds)
    tests = np.arange(speakers)[:, None] == folds if own_folds else True
    size = len(folds), len(np.unique(folds)), speakers
    for trial in range(TRIALS):
        parts = of_both * draw.standard_normal((speakers, len(folds)))
        parts += of_seed * draw.standard_normal(len(folds))
        parts += of_speaker * draw.standard_normal((speakers, 1))
        parts *= tests
        error, free = Variance(*exact(parts, folds), *size).error()
        found[:, trial] = free, -abs(parts.sum() / seeds) / error
    return 2 * stdtr(*found)


def main() -> None:
    lines = [["Speech", "Luck of seed, speaker, both", *(f"5 % / {number}" for number in AMONG)]]
    designs = [(f"{VOICES} voices, {seeds} seeds", VOICES, seeds, False) for seeds in (5, 10)]
    designs += [(f"{PEOPLE} folds, {seeds} seeds each", PEOPLE, seeds, True) for seeds in (1, 2, 5)]
    for title, *design in designs:
        for luck in LUCK:
            p = p_values(*design, *luck)
            rates = [f"{float(np.mean(p < 0.05 / each)) / (0.05 / each):.2f}" for each in AMONG]
            lines.append([title, ", ".join(f"{each:g}" for each in luck), *rates])
    print(aligned(lines))


if __name__ == "__main__":
    main()
