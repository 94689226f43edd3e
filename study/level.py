"""How often a comparison is called different where nothing differs: simulated, over what it should.

The intervals of a study are t intervals with degrees of freedom that are estimated. Here is how far
they keep their promise with few seeds, at the level of one comparison and of one among many, for
luck of the seed, of the speaker, and of the two together (standard deviations).

    .venv/bin/python study/level.py
"""

from __future__ import annotations

import numpy as np
from scipy.special import stdtr

from adakd.pages import aligned
from adakd.significance import Variance, exact

SPEAKERS, TRIALS = 11, 200_000
AMONG = (1, 5, 190)  # comparisons that share 5 %
LUCK = ((1, 1, 1), (0, 0, 1), (1, 0, 1), (0, 1, 1), (1, 0.3, 0.3), (1, 0.4, 0.1), (0.3, 1, 0.3))


def p_values(seeds: int, of_seed: float, of_speaker: float, of_both: float) -> np.ndarray:
    """Two-sided, of so many trials without any difference; errors are taken to be many."""
    draw, found = np.random.default_rng(0), np.empty((2, TRIALS))
    folds = np.zeros(seeds)
    for trial in range(TRIALS):
        parts = of_both * draw.standard_normal((SPEAKERS, seeds))
        parts += of_seed * draw.standard_normal(seeds)
        parts += of_speaker * draw.standard_normal((SPEAKERS, 1))
        error, free = Variance(*exact(parts, folds), seeds, 1, SPEAKERS).error()
        found[:, trial] = free, -abs(parts.sum() / seeds) / error
    return 2 * stdtr(*found)


def main() -> None:
    lines = [["Seeds", "Luck of seed, speaker, both", *(f"5 % / {number}" for number in AMONG)]]
    for seeds in (5, 10):
        for luck in LUCK:
            p = p_values(seeds, *luck)
            rates = [f"{float(np.mean(p < 0.05 / each)) / (0.05 / each):.2f}" for each in AMONG]
            lines.append([str(seeds), ", ".join(f"{each:g}" for each in luck), *rates])
    print(aligned(lines))


if __name__ == "__main__":
    main()
