"""All comparisons that the published studies named beforehand, corrected together.

Each page under docs/ has Holm's correction over its own comparisons. Whoever reads all of them sees
all of their chances to be wrong: here is the correction over all.

    .venv/bin/python study/together.py
"""

from __future__ import annotations

from pathlib import Path

from adakd.findings import OPEN, Comparison, compared, read_table
from adakd.grid import Study
from adakd.report import NOT_RUN, aligned
from adakd.significance import holm
from adakd.study import p_text

HERE = Path(__file__).resolve().parent
NOWHERE = HERE / "nowhere"  # what is published alone counts


def grid_of(page: Path) -> Path:
    """STUDY.md is of tier-a.yaml, STUDY-x.md of tier-a-x.yaml or tier-b-x.yaml."""
    name = page.stem.removeprefix("STUDY")
    (found,) = [path for tier in "ab" if (path := HERE / f"tier-{tier}{name}.yaml").is_file()]
    return found


def comparisons(page: Path) -> list[Comparison]:
    study = Study(grid_of(page), NOWHERE, scores=page.with_suffix(".jsonl"))
    pairs = dict.fromkeys((one.recipe, one.family) for one in study.groups)
    return compared(study, [read_table(study, *pair, {}) for pair in pairs])


def main() -> None:
    pages = sorted(HERE.parent.glob("docs/STUDY*.md"))
    found = [(page, one) for page in pages for one in comparisons(page)]
    alone = [
        1.0 if one.change is None or one.verdict == OPEN else one.change.p_value for _, one in found
    ]
    lines = [["Page", "Comparison", "Recipe, family", "Change, %", "p", "of its page", "of all"]]
    for p, together, (page, one) in sorted(
        zip(alone, holm(alone), found, strict=True), key=lambda each: each[0]
    ):
        if one.change is not None and one.verdict not in (OPEN, NOT_RUN):
            change = f"{100 * one.change.relative:+.1f}"
            p_values = [p_text(each) for each in (p, one.holm, together)]
            lines.append([page.stem, one.title, one.table.title, change, *p_values])
    print(aligned(lines))
    print(
        f"\n{len(found)} comparisons on {len(pages)} pages; those open or not run count as p = 1."
    )


if __name__ == "__main__":
    main()
