"""All that the published studies compare, put together: one table, one correction, one figure.

Each page under docs/ has Holm's correction over its own comparisons. Whoever reads all of them sees
all of their chances to be wrong: here is the correction over all. docs/FINDINGS.png shows what
AdaKD comes to where there are enough seeds for a claim.

    .venv/bin/python study/together.py
"""

from __future__ import annotations

import math
from pathlib import Path

from adakd import plots
from adakd.files import atomic_write
from adakd.findings import OPEN, Comparison, compared, read_tables, too_few
from adakd.grid import Study
from adakd.pages import aligned
from adakd.report import NOT_RUN
from adakd.significance import holm
from adakd.study_tables import p_text

HERE = Path(__file__).resolve().parent
DOCS = HERE.parent / "docs"
NOWHERE = HERE / "nowhere"  # what is published alone counts
AGAINST = {  # by the names that the grids have for them
    "against fine-tuning": ("finetune",),
    "against KD": ("kd-tuned", "kd"),
    "against KD, a lower alpha": ("kd-low",),
    "against x permuted": ("adakd-permuted",),
    "against one alpha for all": ("adakd-mean",),
}


def grid_of(page: Path) -> Path:
    """STUDY.md is of tier-a.yaml, STUDY-x.md of tier-a-x.yaml or tier-b-x.yaml."""
    name = page.stem.removeprefix("STUDY")
    (found,) = [path for tier in "ab" if (path := HERE / f"tier-{tier}{name}.yaml").is_file()]
    return found


def comparisons(page: Path) -> list[Comparison]:
    study = Study(grid_of(page), NOWHERE, scores=page.with_suffix(".jsonl"))
    return compared(study, read_tables(study, {}))


def claimable(one: Comparison) -> bool:
    return one.change is not None and one.verdict not in (OPEN, NOT_RUN) and not too_few(one)


def figure(found: list[Comparison]) -> bytes:
    """AdaKD against the others and its controls, in every recipe and family with enough seeds."""
    columns = {}
    for title, names in AGAINST.items():
        own: dict[str, plots.Difference] = {}
        for one in found:
            if one.pair[0] == "adakd" and one.pair[1] in names and claimable(one):
                assert one.change is not None
                place = f"{one.table.title}, {len(one.table.both(one.pair))} runs"
                change = one.change.relative, one.change.interval
                if all(map(math.isfinite, change[1])):
                    own.setdefault(place, plots.Difference(place, *change, one.verdict))
        columns[title] = list(own.values())
    return plots.side_by_side(columns)


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
    with atomic_write(DOCS / "FINDINGS.png", "wb") as file:
        file.write(figure([one for _, one in found]))


if __name__ == "__main__":
    main()
