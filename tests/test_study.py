"""The report of a study over made-up runs, against numbers computed here."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_recipe
import yaml

from adakd import grid, significance, steps, study
from adakd.grid import Choice, Study

SEEDS = [1, 2, 3, 4, 5]
CELLS: dict[str, Any] = {
    "finetune": {},
    "kd": {},
    "adakd": {},
    "adakd-permuted": {"like": "adakd", "set": {"methods.adakd.control": "permuted"}},
    "adakd-mean": {"like": "adakd", "set": {"methods.adakd.control": "mean"}},
    "focal": {},
}
LENGTH = 50  # characters of an utterance
SPEAKERS, UTTERANCES = 6, 48

Rates = Callable[[str, int, int], float]  # cell, seed, utterance -> share of wrong characters


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    monkeypatch.setattr(grid, "REPOSITORY", tmp_path)
    tiny_recipe.espeak_recipe(tmp_path)
    content = {
        "title": "Made <up>",
        "recipes": {"tiny/hi": {}},
        "families": {"whisper": {}},
        "seeds": SEEDS,
        "cells": CELLS,
        "primary": [["adakd", "kd"], ["adakd", "finetune"], ["adakd", "focal"]],
        "ablations": {"controls": ["adakd-permuted", "adakd-mean", "adakd"]},
    }
    path = tmp_path / "made.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return Study(path, tmp_path / "root")


def fill(made: Study, rate: Rates, failing: str = "") -> None:
    """Runs of all cells but `focal`: x of an utterance is its number, its speaker that modulo 6."""
    records: dict[str, Any] = {}
    draw = np.random.default_rng(0)
    for cell in CELLS:
        for seed in SEEDS if cell != "focal" else []:
            task = made.cell_task(made.groups[0], cell, seed, Choice())
            record = {"kind": "cell", "status": "done", "fingerprint": task.fingerprint}
            records[task.name] = {**record, "seconds": 9.0, "reason": None}
            if f"{cell} {seed}" == failing:
                records[task.name] |= {"status": "failed", "reason": "the disk is full"}
                continue
            rows = []
            for number in range(UTTERANCES):
                wrong = int(draw.binomial(LENGTH, rate(cell, seed, number)))
                counts = [wrong, 0, 0, LENGTH]
                rows.append(
                    {"id": f"u{number}", "speaker": f"s{number % SPEAKERS}", "reference": "a",
                     "raw": "a", "hypothesis": "a", "difficulty": float(number),
                     "errors": {"normalised": counts, "raw": counts}}
                )  # fmt: skip
            task.folder.mkdir(parents=True)
            text = "".join(json.dumps(row) + "\n" for row in rows)
            (task.folder / "hyp.test.jsonl").write_text(text)
            facts = {
                "dev_cer": rate(cell, seed, 0),
                "train_seconds": 10.0 if cell == "finetune" else 15.0,
                "steps": 40,
                "alpha": {"t": 1.0, "k_start": 2.0, "k_end": 0.0},
            }
            steps.mark_done(task.folder, {"start": f"of seed {seed}"}, **facts)
    grid.steps.write_json(made.records, records)


def report(made: Study) -> tuple[str, str]:
    study.write_report(made, "adakd benchmark made.yaml")
    text = (made.folder / "STUDY.md").read_text(encoding="utf-8")
    return text, (made.folder / "index.html").read_text(encoding="utf-8")


def better_when_easy(cell: str, seed: int, number: int) -> float:
    base = 0.3 + 0.01 * seed + 0.002 * number
    gain = {"finetune": 1.15, "kd": 1.0, "adakd": 0.8 if number < 24 else 1.0}
    return base * gain.get(cell, 1.0)


def alike(cell: str, seed: int, number: int) -> float:
    return (0.3 + 0.01 * seed) * (1.2 if cell == "finetune" else 1.0)


def table_lines(text: str, heading: str) -> list[list[str]]:
    section = text.split(f"## {heading}\n", 1)[1].split("\n## ", 1)[0]
    return [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in section.splitlines()
        if line.startswith("|") and "---" not in line
    ]


def errors_of(made: Study, cell: str) -> np.ndarray:
    """(seeds, utterances) as they stand in the files."""
    folders = [made.cell_task(made.groups[0], cell, seed, Choice()).folder for seed in SEEDS]
    files = [(folder / "hyp.test.jsonl").read_text().splitlines() for folder in folders]
    return np.array(
        [[json.loads(line)["errors"]["normalised"][0] for line in lines] for lines in files]
    )


def test_numbers_of_the_table(made: Study) -> None:
    fill(made, better_when_easy)
    text, _ = report(made)
    lines = {line[0]: line for line in table_lines(text, "tiny/hi, whisper")}
    own, kd = errors_of(made, "adakd"), errors_of(made, "kd")
    rate = 100 * own.mean() / LENGTH
    assert lines["AdaKD"][1] == "5" and lines["AdaKD"][2].startswith(f"{rate:.2f} [")
    change = 100 * (own.sum() / kd.sum() - 1)
    assert lines["AdaKD"][6].startswith(f"{change:+.1f} [")
    won = (own.sum(1) < kd.sum(1)).sum(), (own.sum(1) > kd.sum(1)).sum()
    assert lines["AdaKD"][7] == f"{won[0]} : {won[1]}"
    assert lines["AdaKD"][8] == "1.50 x" and lines["Fine-tuning"][8] == "1.00 x"
    assert lines["Focal loss"][1:4] == ["0 of 5", "not run", ""]


def test_counts_go_to_their_speaker_and_seed(made: Study) -> None:
    fill(made, better_when_easy)
    table = study.read_table(made, "tiny/hi", "whisper", made.read_records())
    both = study.pairs(table.rows["adakd"], table.rows["kd"])
    counts, folds, unit = study.count_array(both)
    assert unit == "speaker" and folds.tolist() == [-1] * 5
    expected = errors_of(made, "kd").reshape(5, UTTERANCES // SPEAKERS, SPEAKERS).sum(1).T
    assert (counts[:, :, 2] == expected).all() and (counts[:, :, 3] == 8 * LENGTH).all()
    few, _, _ = study.count_array(both, {(-1, "u0"), (-1, "u6")})
    assert few.shape == (1, 5, 4) and (few[..., 1] == 2 * LENGTH).all()


def test_a_gain_that_both_controls_lack_is_adaptive(made: Study) -> None:
    fill(made, better_when_easy)
    text, page = report(made)
    assert "AdaKD beats both controls" in text
    assert "its gain over Fine-tuning and KD is adaptive" in text
    assert "AdaKD beats both mechanism controls, x permuted and the mean alpha, in 1 of 1" in text
    assert "AdaKD against KD, in 1 of 1 recipes and families run: better in 1" in text
    gains = study.quartile_gains(
        made, study.read_table(made, "tiny/hi", "whisper", made.read_records())
    )
    easy, _, _, hard = gains[0].changes
    assert easy[2] < -0.05 and hard[1] < 0 < hard[2], "the gain is where the teacher finds it easy"
    assert "Made &lt;up&gt;" in page and "Made <up>" not in page


def test_no_gain_is_said_as_plainly(made: Study) -> None:
    fill(made, alike)
    text, _ = report(made)
    assert "No gain of AdaKD may be called adaptive: it does not beat its control" in text
    assert "its control permuted or mean (AdaKD against AdaKD (permuted): " in text
    assert re.search(r"AdaKD against KD: [^)]*Holm's p [01]\.\d+\), no difference", text)
    assert "AdaKD against Focal loss: not run" in text


def test_missing_controls_forbid_the_word_too(made: Study) -> None:
    fill(made, better_when_easy)
    records = made.read_records()
    left = {name: record for name, record in records.items() if "adakd-mean" not in name}
    grid.steps.write_json(made.records, left)
    text, _ = report(made)
    assert "No gain of AdaKD may be called adaptive: its control mean was not run." in text


def test_holm_runs_over_what_was_compared(made: Study) -> None:
    fill(made, better_when_easy)
    text, _ = report(made)
    lines = table_lines(text, "Primary comparisons")
    assert lines[3][2] == "not run"
    table = study.read_table(made, "tiny/hi", "whisper", made.read_records())
    changes = [table.change(pair) for pair in (("adakd", "kd"), ("adakd", "finetune"))]
    adjusted = significance.holm([change.p_value for change in changes if change])
    assert [line[4] for line in lines[1:3]] == [study.p_text(p) for p in adjusted]
    assert "Holm's correction covers the 2 primary comparisons" in text


def test_failures_and_what_was_not_run_are_told(made: Study) -> None:
    fill(made, alike, failing="kd 3")
    text, page = report(made)
    lines = {line[0]: line for line in table_lines(text, "tiny/hi, whisper")}
    assert lines["KD"][1] == "4 of 5" and lines["AdaKD"][1] == "5"
    for written in (text, page):
        assert "tiny/hi whisper kd seed 3: the disk is full" in written


def test_power_is_reckoned_from_dev(made: Study) -> None:
    noise = dict(zip(SEEDS, (0.01, -0.02, 0.0, 0.03, -0.01), strict=True))

    def noisy(cell: str, seed: int, number: int) -> float:
        return 0.3 * math.exp(noise[seed] if cell == "adakd" else 0)

    fill(made, noisy)
    text, _ = report(made)
    lines = table_lines(text, "Noise, and how many seeds it takes")
    deviation = np.std(list(noise.values()), ddof=1)
    assert lines[1][2:5] == ["5", f"{100 * deviation:.1f} and 0.0", f"{100 * deviation:.1f}"]
    assert lines[1][5] == str(significance.seeds_needed(deviation))
    assert lines[1][6] == str(significance.seeds_needed(deviation, level=0.025))


def test_unequal_steps_are_not_hidden(made: Study) -> None:
    fill(made, alike)
    odd = made.cell_task(made.groups[0], "kd", 2, Choice()).folder
    facts = steps.done(odd)
    assert facts is not None
    grid.steps.write_json(odd / "done.json", {**facts, "steps": 41})
    text, _ = report(made)
    assert "NOT alike: these had another start" in text
    assert "KD (tiny/hi, whisper, seed 2)" in text


def test_nothing_run_is_a_report_too(made: Study) -> None:
    text, _ = report(made)
    assert "tiny/hi, whisper: nothing has been run." in text
    assert "AdaKD against KD: not run." in text
