"""All that the published studies compare, put together: one table, one correction, one figure.

Each page under docs/ has Holm's correction over its own comparisons. Whoever reads all of them sees
all of their chances to be wrong: here is the correction over all. docs/FINDINGS.png shows what
AdaKD comes to where there are enough seeds for a claim.

    .venv/bin/python study/together.py
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from adakd import plots
from adakd.files import atomic_write
from adakd.pages import aligned
from adakd.place import INT8
from adakd.report import NOT_RUN
from adakd.significance import holm
from adakd.study.findings import OPEN, Comparison, compared, read_tables, too_few
from adakd.study.grid import Study
from adakd.study.published import read_lines
from adakd.study.tables import p_text

HERE = Path(__file__).resolve().parent
DOCS = HERE.parent / "docs"
NOWHERE = HERE / "nowhere"  # what is published alone counts
EQUAL, PAPER = 0.5, -0.05  # KD's alpha in the paper, and the least that AdaKD gains on it there
AGAINST = {  # by the names that the grids have for them
    "against fine-tuning": ("finetune",),
    "against KD": ("kd-tuned", "kd"),
    "against KD, a lower alpha": ("kd-low",),
    "against x permuted": ("adakd-permuted",),
    "against one alpha for all": ("adakd-mean",),
}
# What the grids call their recipes, in words and in the figure's order; an hour where nothing else
# is said.
RECIPES = {
    "espeak/hi-1h": "Hindi, tier A",
    "espeak/hi-seeds": "Hindi",
    "espeak/hi-ctc": "Hindi",
    "espeak/hi-fixed": "Hindi, as trained now",
    "espeak/hi-teacher16": "Hindi, better teacher",
    "espeak/hi-teacher16-20epochs": "Hindi, better teacher, 20 epochs",
    "espeak/hi-15min-settled": "Hindi, 15 min, 24 epochs",
    "espeak/hi-15min-teachers": "the same, a teacher a seed",
    "espeak/hi-1h-settled": "Hindi, 48 epochs",
    "espeak/hi-1h-settled-whisper": "Hindi, 24 epochs",
    "espeak/hi-dense": "Hindi, all soft outputs",
    "espeak/hi-top16": "Hindi, top 16 soft outputs",
    "espeak/hi-layers-b": "Hindi, the teacher's layers",
    "espeak/hi-wrong20-ctc": "Hindi, a fifth wrong",
    "espeak/ta-1h": "Tamil",
    "espeak/zh-1h": "Mandarin",
    "fsdd/en": "digits, tier A",
    "fsdd/en-seeds": "digits",
    "fsdd/en-seeds-whisper": "digits",
    "fsdd/en-settled": "digits, 24 or 48 epochs",
    "fsdd/en-settled-whisper": "digits, 24 or 48 epochs",
}


def grid_of(page: Path) -> Path:
    """STUDY.md is of tier-a.yaml, STUDY-x.md of tier-a-x.yaml or tier-b-x.yaml."""
    name = page.stem.removeprefix("STUDY")
    (found,) = [path for tier in "ab" if (path := HERE / f"tier-{tier}{name}.yaml").is_file()]
    return found


def study_of(page: Path) -> Study:
    return Study(grid_of(page), NOWHERE, scores=page.with_suffix(".jsonl"))


def comparisons(page: Path) -> list[Comparison]:
    study = study_of(page)
    return compared(study, read_tables(study, {}))


def to_equal_weights(page: Path) -> list[Comparison]:
    """The paper's own comparison, named or not: AdaKD to KD with 0.5, neither with a guard."""
    study = study_of(page)
    first = study.groups[0]

    def plain(cell: str) -> dict[str, Any]:
        place = study.place(first, cell, study.grid.seeds[0], study.any_choice)
        options = place.config.methods.get(study.method(cell)) or {}
        return {} if options.get("guard") else {"alpha": None, **options}

    equal = [
        cell
        for cell in study.cells
        if study.method(cell) == "kd" and cell not in study.grid.tune
        if plain(cell).get("alpha") == EQUAL
    ]
    pairs = [("adakd", cell) for cell in equal if "adakd" in study.cells and plain("adakd")]
    found = []
    for pair in pairs:
        for table in read_tables(study, {}):
            both = table.both(pair)
            one = Comparison(table, pair, "", table.change(pair))
            if both and len(both) == len(table.planned(pair)) and not too_few(one):
                found.append(one)
    return found


def claimable(one: Comparison) -> bool:
    return one.change is not None and one.verdict not in (OPEN, NOT_RUN) and not too_few(one)


def figure(found: list[Comparison]) -> bytes:
    """AdaKD against the others and its controls, in every recipe and family with enough seeds.

    Raises:
        ValueError: RECIPES lacks one that has enough.
    """
    titles = {name: title for title, names in AGAINST.items() for name in names}
    own = [one for one in found if one.pair[0] == "adakd" and one.pair[1] in titles]
    own = [one for one in own if claimable(one)]
    own.sort(key=lambda one: (one.table.family, list(RECIPES).index(one.table.recipe)))
    columns: dict[str, list[plots.Difference]] = {title: [] for title in AGAINST}
    places = []
    for one in own:
        runs = len(one.table.both(one.pair))
        place = f"{one.table.family}, {RECIPES[one.table.recipe]}, {runs} runs"
        column = columns[titles[one.pair[1]]]
        known = any(place == other.place for other in column)  # of two pages the first
        if not known and one.change and all(map(math.isfinite, one.change.interval)):
            change = one.change.relative, one.change.interval
            column.append(plots.Difference(place, *change, one.verdict))
            places.append(place)
    return plots.side_by_side(columns, list(dict.fromkeys(places)))


def main() -> None:
    pages = sorted(DOCS.glob("STUDY*.md"), key=lambda page: page.stem)
    found = [(page, one) for page in pages for one in comparisons(page)]
    alone = [one.change.p_value if one.change and claimable(one) else 1.0 for _, one in found]
    lines = [["Page", "Comparison", "Recipe, family", "Change, %", "p", "of its page", "of all"]]
    for p, together, (page, one) in sorted(
        zip(alone, holm(alone), found, strict=True), key=lambda each: each[0]
    ):
        if one.change and claimable(one):
            change = f"{100 * one.change.relative:+.1f}"
            p_values = [p_text(each) for each in (p, one.holm, together)]
            lines.append([page.stem, one.title, one.table.title, change, *p_values])
    print(aligned(lines))
    print(f"\n{len(found)} comparisons on {len(pages)} pages; open, few or not run: p = 1.")
    scores = [read_lines(page.with_suffix(".jsonl")).values() for page in pages]
    results = [line for of_page in scores for line in of_page if line["kind"] == "cell"]
    runs, int8 = (
        {
            (line["family"], line["fold"], *line["errors"])
            for line in results
            if line["cell"].endswith(INT8) is int8
        }
        for int8 in (False, True)
    )
    print(
        f"{len(results)} results of students, which studies share in part: by their errors "
        f"{len(runs - int8)} runs, and {len(int8 - runs)} int8 copies."
    )
    to_equal = [one for page in pages for one in to_equal_weights(page)]
    # Studies share runs: equal numbers are the same comparison.
    same = {(one.table.family, str(one.change)): one.change for one in to_equal if one.change}
    changes = list(same.values())
    print(
        f"AdaKD against KD with {EQUAL}, without a guard, {len(changes)} times with enough seeds: "
        f"{sum(one.interval.high < 0 for one in changes)} intervals lie below zero, "
        f"{sum(one.interval.low > 0 for one in changes)} above, and "
        f"{sum(one.interval.low > PAPER for one in changes)} exclude {-PAPER:.0%} fewer errors."
    )
    with atomic_write(DOCS / "FINDINGS.png", "wb") as file:
        file.write(figure([one for _, one in found]))


if __name__ == "__main__":
    main()
