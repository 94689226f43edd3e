"""The report of a study over made-up runs, against numbers computed here."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tiny_recipe
import yaml
from scipy import stats

from adakd import config as configuration
from adakd import finished, score, significance
from adakd.errors import UserError
from adakd.files import write_json
from adakd.inputs import code, data_settings, training_settings
from adakd.report import BASELINES, Run, label_of
from adakd.significance import Change, Interval, Variance
from adakd.study import findings, grid, tables, words
from adakd.study import page as study_page
from adakd.study.grid import Choice, Study

SEEDS = [1, 2, 3, 4, 5]
CELLS: dict[str, Any] = {
    "finetune": {},
    "kd": {},
    "adakd": {},
    "adakd-permuted": {"like": "adakd", "set": {"methods.adakd.control": "permuted"}},
    "adakd-mean": {"like": "adakd", "set": {"methods.adakd.control": "mean"}},
    "focal": {},
}
PRIMARY = [
    ["adakd", other] for other in ("kd", "finetune", "focal", "adakd-permuted", "adakd-mean")
]
LENGTH = 50  # characters of an utterance
SPEAKERS, UTTERANCES = 6, 48

Rates = Callable[[str, int, int], float]  # cell, seed, utterance -> share of wrong characters


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    monkeypatch.setattr(grid, "REPOSITORY", tmp_path)
    tiny_recipe.espeak_recipe(tmp_path)
    return study_of(tmp_path)


def study_of(folder: Path, **changes: Any) -> Study:
    content = {
        "title": "Made <up>",
        "recipes": {"tiny/hi": {}},
        "families": {"whisper": {}},
        "seeds": SEEDS,
        "cells": CELLS,
        "primary": PRIMARY,
        "ablations": {"controls": ["adakd-permuted", "adakd-mean", "adakd"]},
    }
    path = folder / "made.yaml"
    path.write_text(yaml.safe_dump(content | changes), encoding="utf-8")
    return Study(path, folder / "root")


def fill(
    made: Study,
    rate: Rates,
    failing: str = "",
    missing: str = "focal",
    group: int = 0,
    choice: Choice | None = None,
) -> None:
    """Runs of all cells but those that begin with `missing`, in one group after the other.

    x of an utterance is its number, its speaker that modulo 6.
    """
    records: dict[str, Any] = dict(made.read_records()) if group or choice else {}
    draw = np.random.default_rng(group)
    runs = [(cell, seed) for cell in made.cells for seed in made.seeds(cell, made.groups[group])]
    for cell, seed in [run for run in runs if not "{} {}".format(*run).startswith(missing)]:
        task = made.cell_task(made.groups[group], cell, seed, choice or Choice())
        record = {"kind": "cell", "status": "done", "fingerprint": task.fingerprint}
        records[task.name] = {**record, "seconds": 9.0, "reason": None}
        if f"{cell} {seed}" == failing:
            records[task.name] |= {"status": "failed", "reason": "the disk is full"}
            continue
        wrong = [int(draw.binomial(LENGTH, rate(cell, seed, n))) for n in range(UTTERANCES)]
        decoded(task.folder, wrong)
        facts = {
            "dev_cer": rate(cell, seed, 0),
            "train_seconds": 10.0 if cell == "finetune" else 15.0,
            "steps": 40,
            "alpha": {"t": 1.0, "k_start": 2.0, "k_end": 0.0},
        }
        (place,) = task.places
        inputs = training_settings(place, task.method) | code(place.config)
        finished.mark_done(task.folder, inputs | {"start": f"of seed {seed}"}, **facts)
    write_json(made.records, records)


def decoded(folder: Path, wrong: list[int]) -> None:
    """Hypotheses with so many wrong characters, scored."""
    rows = []
    for number, errors in enumerate(wrong):
        counts = [errors, 0, 0, LENGTH]
        rows.append(
            {"id": f"u{number}", "speaker": f"s{number % SPEAKERS}", "reference": "a",
             "raw": "a", "hypothesis": "a", "difficulty": float(number),
             "errors": {"normalised": counts, "raw": counts}}
        )  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "hyp.test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def folder_of(made: Study, cell: str, seed: int) -> Path:
    return made.cell_task(made.groups[0], cell, seed, Choice()).folder


def forget(made: Study, part: str) -> None:
    """As if the runs with this in their names had not come yet."""
    records = made.read_records()
    write_json(made.records, {name: each for name, each in records.items() if part not in name})


def outcomes(made: Study) -> dict[str, findings.Comparison]:
    table = findings.read_table(made, "tiny/hi", "whisper", made.read_records())
    return {one.pair[1]: one for one in findings.compared(made, [table])}


def report(made: Study) -> tuple[str, str]:
    study_page.write_report(made, "adakd benchmark made.yaml")
    text = (made.folder / "STUDY.md").read_text(encoding="utf-8")
    return text, (made.folder / "index.html").read_text(encoding="utf-8")


def table_of(made: Study) -> findings.Table:
    """The first table; its `problems` are what the page lists under "Failed"."""
    return findings.read_tables(made, made.read_records())[0]


def better_when_easy(cell: str, seed: int, number: int) -> float:
    base = 0.3 + 0.01 * seed + 0.002 * number
    gain = {"finetune": 1.15, "kd": 1.0, "adakd": 0.6 if number < 24 else 1.0}
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
    assert lines["AdaKD"][8] == "0:15" and lines["Fine-tuning"][8] == "0:10"
    assert lines["Focal loss"][1:4] == ["0 of 5", "not run", ""]


def test_counts_go_to_their_speaker_and_seed(made: Study) -> None:
    fill(made, better_when_easy)
    table = findings.read_table(made, "tiny/hi", "whisper", made.read_records())
    both = table.both(("adakd", "kd"))
    counts, folds = findings.counts_of(both)
    assert len(counts) == SPEAKERS and folds.tolist() == [-1] * 5
    expected = errors_of(made, "kd").reshape(5, UTTERANCES // SPEAKERS, SPEAKERS).sum(1).T
    assert (counts[:, :, 2] == expected).all() and (counts[:, :, 3] == 8 * LENGTH).all()
    kept = {((-1, seed), name) for seed in SEEDS for name in ("u0", "u6")}
    few, _ = findings.counts_of(both, [kept, kept])
    assert few.shape == (1, 5, 4) and (few[..., 1] == 2 * LENGTH).all()


# -- what may be claimed --------------------------------------------------------------------------


def test_a_gain_that_both_controls_lack_is_adaptive(made: Study) -> None:
    fill(made, better_when_easy)
    text, page = report(made)
    assert "Adaptivity: shown in 1 of 1: tiny/hi, whisper over KD and Fine-tuning. There" in text
    assert re.search(r"AdaKD against KD: better in 1 of 1 \(tiny/hi, whisper -\d", text)
    easy, _, _, hard = outcomes(made)["kd"].quarters
    assert easy.interval.high < -0.05, "the gain is where the teacher finds it easy"
    assert easy.interval.high < hard.interval.low
    assert "Made &lt;up&gt;" in page and "Made <up>" not in page


def test_no_gain_is_said_as_plainly(made: Study) -> None:
    fill(made, alike)
    text, _ = report(made)
    assert "Adaptivity: not shown. Nowhere does AdaKD gain and beat both controls" in text
    assert "no gain of AdaKD may be called adaptive" in text
    assert "AdaKD against KD: no difference shown in 1 of 1 (tiny/hi, whisper " in text
    assert "AdaKD against Focal loss: not run in 1 of 1" in text


def test_a_gain_that_the_correction_takes_back_says_so(made: Study) -> None:
    """Its interval excludes zero, its verdict does not follow from that."""
    table = findings.Table("tiny/hi", "whisper", {})
    change = Change(-0.04, Interval(-0.067, -0.013), 0.011, Variance(1e-4, 1e-4, 2e-4, 5, 1, 6))
    one = findings.Comparison(table, ("adakd", "finetune"), "", change, holm=0.182)
    assert words.amount(one) == "-4.0 % [-6.7, -1.3], p 0.011 alone but 0.182 corrected"
    assert "corrected" not in words.amount(dataclasses.replace(one, holm=0.01))


def test_a_comparison_with_runs_missing_claims_nothing(made: Study) -> None:
    """Those that are there may be there because they did not fail."""
    fill(made, better_when_easy)
    forget(made, "adakd-mean seed 4")
    assert outcomes(made)["kd"].verdict == "better"
    one = outcomes(made)["adakd-mean"]
    assert (one.verdict, one.open) == ("open", "4 of 5 runs") and one.change is not None
    text, _ = report(made)
    assert "Unfinished: 24 of 30 runs are there" in text
    assert "AdaKD (mean): open in 1 of 1 (tiny/hi, whisper 4 of 5 runs)" in text
    assert "Adaptivity: shown" not in text and "is adaptive" not in text


def test_missing_controls_forbid_the_word_too(made: Study) -> None:
    fill(made, better_when_easy)
    for control in findings.CONTROLS:
        forget(made, f"adakd-{control}")
    text, _ = report(made)
    assert "Adaptivity: not known. AdaKD against both controls" in text


def test_a_control_that_is_open_is_told(made: Study) -> None:
    fill(made, alike)
    forget(made, "adakd-mean seed 4")
    text, _ = report(made)
    assert (
        "gain and beat both controls" in text and "mean alpha) (open or not run in 1 of 1)" in text
    )


def test_a_single_seed_claims_nothing(made: Study, tmp_path: Path) -> None:
    """Its interval covers the test speech alone, not the luck of a training run."""
    alone = study_of(tmp_path, seeds=[1])
    fill(alone, better_when_easy)
    one = outcomes(alone)["finetune"]
    assert one.change is not None and one.change.p_value < 0.01
    assert (one.verdict, one.open) == ("open", "a single seed")


def test_a_fold_with_a_single_seed_is_a_group_of_its_own(made: Study) -> None:
    """What its seed does to one of its utterances, or speakers, it does to all of them."""
    fill(made, better_when_easy)
    table = findings.read_table(made, "tiny/hi", "whisper", made.read_records())
    folds = [0, 0, 1, 2, 3]

    def elsewhere(run: Run, fold: int) -> Run:
        return dataclasses.replace(run, experiment=dataclasses.replace(run.experiment, fold=fold))

    both = [
        (elsewhere(own, fold), elsewhere(other, fold))
        for fold, (own, other) in zip(folds, table.both(("adakd", "kd")), strict=True)
    ]
    counts, of_runs = findings.counts_of(both)
    assert of_runs.tolist() == folds and counts.shape == (4, 5, 4)
    assert (counts[0, :2, 1] == UTTERANCES * LENGTH).all() and (counts[1:, :2] == 0).all()
    errors = errors_of(made, "adakd").sum(1)
    assert (counts[[0, 0, 1, 2, 3], range(5), 0] == errors).all()
    # What is told of the pair heeds the folds: seeds are drawn within theirs.
    for name in ("adakd", "kd"):
        row = table.rows[name]
        row.runs = [elsewhere(run, fold) for fold, run in zip(folds, row.runs, strict=True)]
    (found,) = [
        one for one in findings.compared(made, [table]) if tuple(one.pair) == ("adakd", "kd")
    ]
    assert found.change == significance.compare(counts, np.array(folds))
    error, free = found.change.variance.error()
    assert found.detectable[0] == significance.detectable(error, free, significance.LEVEL)
    runs = [run.tested for run in table.rows["kd"].runs]
    assert score.unit_of(runs) == "fold"
    alone = score.unit_of(runs[2:3])
    assert alone == "speaker", "one fold alone: its seed's luck cannot be known"


def test_controls_that_were_not_named_beforehand_prove_nothing(tmp_path: Path, made: Study) -> None:
    late = study_of(tmp_path, primary=PRIMARY[:4])
    fill(late, better_when_easy)
    text, _ = report(late)
    assert "Adaptivity: not asked. Beating both mechanism controls of AdaKD is not among" in text


def test_adaptivity_is_not_asked_of_one_alpha_for_all(made: Study, tmp_path: Path) -> None:
    cells = {
        "kd": {},
        "kd-guard": {"method": "adakd", "set": {"methods.adakd.k": 0}},
        "adakd-other": {"set": {"methods.adakd.control": "inverted"}},
        "adakd": {},
    }
    for pairs, asked in (
        ([["kd-guard", "kd"], ["adakd-other", "kd"]], ""),
        ([["kd-guard", "kd"], ["adakd", "kd"]], "AdaKD"),
    ):
        flat = study_of(tmp_path, cells=cells, primary=pairs, ablations={})
        fill(flat, alike)
        text, _ = report(flat)
        told = f"not asked. Beating both mechanism controls of {asked} is not among the primary"
        assert (told in text) is bool(asked) and ("Adaptivity: " in text) is bool(asked)


def test_a_control_differs_in_nothing_else(made: Study, tmp_path: Path) -> None:
    assert findings.controls_of(made, "adakd") == {
        "permuted": "adakd-permuted",
        "mean": "adakd-mean",
    }
    other = {"methods.adakd.control": "mean", "methods.adakd.threshold": "p50"}
    plain = {"methods.adakd.control": "permuted"}  # nothing is tuned: it need not be `like`
    cells = {"adakd": {}, "adakd-a": {"like": "adakd", "set": other}, "adakd-b": {"set": plain}}
    changed = {"cells": cells, "primary": [["adakd", "adakd-b"]], "ablations": {}}
    assert findings.controls_of(study_of(tmp_path, **changed), "adakd") == {"permuted": "adakd-b"}


def test_holm_runs_over_all_that_were_named(made: Study) -> None:
    """What has not been run counts: else a claim could vanish as the study goes on."""
    fill(made, better_when_easy)
    text, _ = report(made)
    lines = table_lines(text, "Primary comparisons")
    assert [line[2] for line in lines[1:]].count("not run") == 1
    found = list(outcomes(made).values())
    p_values = [one.change.p_value if one.change else 1.0 for one in found]
    assert [one.holm for one in found] == significance.holm(p_values)
    shown = [f"{tables.p_text(one.holm)} (" for one in found if one.change]
    assert all(line[3].startswith(p) for line, p in zip(lines[1:3] + lines[4:], shown, strict=True))
    assert "Holm's correction covers all 5 primary comparisons" in text


# -- what is there, and what is not ---------------------------------------------------------------


def test_failures_and_what_was_not_run_are_told(made: Study) -> None:
    fill(made, alike, failing="kd 3")
    text, page = report(made)
    lines = {line[0]: line for line in table_lines(text, "tiny/hi, whisper")}
    assert lines["KD"][1] == "4 of 5" and lines["AdaKD"][1] == "5"
    records = made.read_records()
    table = findings.read_table(made, "tiny/hi", "whisper", records)
    assert table.rows["kd"].failed and not table.rows["adakd"].failed
    assert "AdaKD against KD: open in 1 of 1 (tiny/hi, whisper 4 of 5 runs)" in text
    (failure,) = study_page.failures_of(made, [table], records)
    assert failure == "tiny/hi whisper kd seed 3: the disk is full"
    grown = study_of(made.path.parent, seeds=[*SEEDS, 6])  # its teacher's turn has not come
    assert study_page.failures_of(grown, [table], grown.read_records()) == [failure]


def test_a_gain_that_is_open_is_not_denied(made: Study) -> None:
    fill(made, better_when_easy)
    for baseline in ("whisper kd seed 4", "whisper finetune seed 4"):
        forget(made, baseline)
    assert outcomes(made)["adakd-mean"].verdict == outcomes(made)["adakd-permuted"].verdict
    assert outcomes(made)["adakd-mean"].verdict == "better"
    text, _ = report(made)
    assert "Adaptivity: not known. Whether AdaKD gains where it beats both controls" in text
    assert "Nowhere does AdaKD gain" not in text


def test_families_that_are_tested_on_other_clips_say_so(made: Study) -> None:
    fill(made, alike)
    table = findings.read_table(made, "tiny/hi", "whisper", made.read_records())
    other = findings.read_table(made, "tiny/hi", "whisper", made.read_records())
    other.family = "wav2vec2"
    tested = f"{UTTERANCES} utterances by {SPEAKERS} speakers"
    assert f"tested on {tested})" in words.corpus([table, other], "tiny/hi")
    for run in other.runs:
        run.errors.pop()
    assert (
        f"tested on {tested} as whisper and {UTTERANCES - 1} utterances by {SPEAKERS} speakers as "
        "wav2vec2)" in words.corpus([table, other], "tiny/hi")
    )
    for run in other.runs:  # as published in sums, a speaker a line
        run.errors[:] = {one.speaker: one for one in run.errors}.values()
    assert f"tested on {tested})" in words.corpus([table, other], "tiny/hi")


def test_a_p_value_beside_the_level_tells_its_side() -> None:
    shown = [tables.p_text(p) for p in (0.0004, 0.0494, 0.0496, 0.05001, 0.05)]
    assert shown == ["< 0.001", "0.049", "0.0496", "0.05001", "0.050"]


def test_a_folder_that_another_study_has_taken_is_not_this_studys_run(made: Study) -> None:
    fill(made, better_when_easy)
    folder = folder_of(made, "adakd", 2)
    facts = finished.done(folder)
    assert facts is not None
    facts["inputs"]["method"]["threshold"] = "p75"
    write_json(folder / "done.json", facts)
    text, page = report(made)
    assert outcomes(made)["kd"].open == "4 of 5 runs"
    for written in (text, page):
        assert "was made with another method.threshold, perhaps by another study" in written


TAUGHT_BY_TEACHER = {"transcripts.source": "teacher"}


def remember(made: Study, cell: str, **settings: Any) -> None:
    """As if that run of seed 2 had been made with these settings, by its config.yaml."""
    place = made.place(made.groups[0], cell, 2, Choice())
    config = configuration.load(
        made.recipe_folder("tiny/hi"), "whisper", {**made.grid.set, **settings, "seed": 2}
    )
    text = configuration.dump_yaml(dataclasses.asdict(config))
    (place.experiment(made.method(cell)) / "config.yaml").write_text(text, encoding="utf-8")


@pytest.mark.parametrize(
    ("shared", "cell", "settings", "said"),
    [
        ({}, "kd", {"teacher.train.epochs": 7}, "teacher.train.epochs"),
        ({}, "kd", {"teacher.seed": 7}, "teacher.seed"),
        ({}, "kd", {"teacher.source": "a/b"}, "teacher.source and another teacher.config"),
        ({}, "kd", {"student.config": {"d_model": 4}}, "student.config.d_model"),
        ({}, "finetune", {"student.layers.encoder": 1, "student.source": "a/b"}, "student.source"),
        ({}, "finetune", {"data.max_seconds": 1.0}, "data.max_seconds"),
        ({}, "finetune", {"corpus.hours": 1.0}, "corpus.hours"),
        ({}, "finetune", {"units.size": 300}, "units.size"),
        ({}, "kd", TAUGHT_BY_TEACHER, "transcripts"),
        (TAUGHT_BY_TEACHER, "kd", {"transcripts.max_cer": 0.2}, "transcripts.max_cer"),
        (TAUGHT_BY_TEACHER, "finetune", {"teacher.train.epochs": 7}, "teacher.train.epochs"),
        ({}, "finetune", {"teacher.train.epochs": 7}, ""),
        ({}, "kd", {"transcripts.max_cer": 0.2, "corpus.corpus": "elsewhere"}, ""),
        ({}, "kd", {"data.jobs": 3, "train.workers": 2, "data.max_rejected": 0.5}, ""),
        ({}, "kd", {"methods.adakd.alpha": 0.1, "tag": "low"}, ""),
    ],
)
def test_a_run_with_another_teacher_or_other_data_is_not_this_studys(
    made: Study, shared: dict[str, Any], cell: str, settings: dict[str, Any], said: str
) -> None:
    """./run.sh has the folders in common: who makes one seed anew makes it with its settings."""
    made = study_of(made.path.parent, set=shared)
    fill(made, alike)
    remember(made, cell)
    assert not table_of(made).problems
    remember(made, cell, **settings)
    table = table_of(made)
    assert (f"was made with another {said}" in "".join(table.problems)) is bool(said)
    assert len(table.rows[cell].runs) == (4 if said else 5)


def test_other_settings_of_the_same_data_make_no_other_run(made: Study) -> None:
    fill(made, alike)
    remember(made, "kd", **{"data.max_seconds": 1.0})
    folder, place = folder_of(made, "kd", 2), made.start(made.groups[0])
    facts = finished.done(folder) or {}
    write_json(folder / "done.json", {**facts, "inputs": {**facts["inputs"], "data": "m"}})
    counts = {"train": {"seconds": 60}}
    for data, seconds, told in (("m", 2.0, False), ("m", 1.0, True), ("other", 2.0, True)):
        settings = data_settings(place.config)
        settings["data"]["max_seconds"] = seconds
        finished.mark_done(place.data, settings, manifests=data, counts=counts)
        assert ("another data.max_seconds" in "".join(table_of(made).problems)) is told
    finished.mark_done(place.data, data_settings(place.config), manifests="m", counts=counts)
    for key, told in (("test_minutes", False), ("hours", True)):
        remember(made, "kd", **{f"corpus.{key}": 0.5})
        assert (f"another corpus.{key}" in "".join(table_of(made).problems)) is told


def test_whispers_of_older_code_are_told_apart(made: Study) -> None:
    fill(made, alike)
    text = report(made)[0]
    assert "were trained along" not in text
    done = folder_of(made, "kd", 2) / "done.json"
    facts = json.loads(done.read_text(encoding="utf-8"))
    del facts["inputs"]["code"]  # as before 2026-11-29
    write_json(done, facts)
    assert f"{done.parent} was trained before 2026-11-29" in report(made)[0]


def test_hypotheses_of_another_decoding_are_not_this_studys(made: Study) -> None:
    fill(made, alike)
    for encode, told in (("full", False), ("speech", True)):
        mark = folder_of(made, "kd", 2) / "decode"
        finished.mark_done(mark, {"audio": {"encode": encode}, "data": None})
        assert ("another decode.encode, " in "".join(table_of(made).problems)) is told


@pytest.mark.parametrize("gone", ["done.json", "hyp.test.jsonl"])
def test_a_run_that_is_being_made_anew_does_not_stop_the_report(made: Study, gone: str) -> None:
    fill(made, alike)
    (folder_of(made, "kd", 2) / gone).unlink()
    text, _ = report(made)
    assert "tiny/hi whisper kd seed 2: " in text.split("## Failed")[1]
    assert outcomes(made)["kd"].verdict == "open"


def test_int8_students_stand_beside_the_others(made: Study, tmp_path: Path) -> None:
    small = study_of(tmp_path, set={"decode.int8": True})
    fill(small, alike)
    for seed in SEEDS:
        folder = folder_of(small, "kd", seed)
        facts = finished.done(folder)
        int8 = folder.parents[1] / "kd-int8" / f"seed{seed}"
        decoded(int8, [20] * UTTERANCES)
        (int8 / "model").mkdir()
        (int8 / "model" / "int8.pt").write_bytes(bytes(700_000))
        finished.mark_done(int8, {"model": facts and facts["fingerprint"]}, method="kd-int8")
    text, _ = report(small)
    lines = {line[0]: line for line in table_lines(text, "tiny/hi, whisper")}
    assert lines["Cell"][-1] == "On disk" and lines["KD (int8)"][-1] == "0.7 MB"
    assert lines["KD (int8)"][1] == "5" and lines["KD (int8)"][2].startswith("40.00 [")
    assert lines["AdaKD (int8)"][1:3] == ["0 of 5", "not run"]


def test_recipes_with_the_same_test_speech_stand_side_by_side(made: Study, tmp_path: Path) -> None:
    """Less data, say: all are worse by half, and the gain is four times as large."""

    def less(cell: str, seed: int, number: int) -> float:
        return 1.5 * (0.3 + 0.01 * seed) * {"adakd": 0.6, "finetune": 1.2}.get(cell, 1.0)

    def more(cell: str, seed: int, number: int) -> float:
        return (0.3 + 0.01 * seed) * {"adakd": 0.9, "finetune": 1.2}.get(cell, 1.0)

    names = {name: {"recipe": "tiny/hi"} for name in ("more", "less", "none")}
    pairs = study_of(tmp_path, recipes=names, across={"hours": ["more", "less", "none"]})
    for group, rate in enumerate((less, more)):  # YAML sorts them
        fill(pairs, rate, group=group)
    lines = table_lines(report(pairs)[0], "Across recipes: hours")
    assert lines[0] == ["", "Family", "more", "less, %", "none, %"]
    assert lines[1] == ["Epochs", "whisper", "2", "2", ""], "as in the recipe"
    of = {line[0]: line[2:] for line in lines[2:]}
    assert set(of) == {
        *map(label_of, CELLS),
        *(f"AdaKD against {label_of(b)}" for _, b in PRIMARY),
    }
    assert of["Focal loss"] == of["AdaKD against Focal loss"] == ["not run", "", ""]
    tables = {
        name: findings.read_table(pairs, name, "whisper", pairs.read_records()) for name in names
    }
    cers = {name: {cell: row.cer for cell, row in tables[name].rows.items()} for name in names}
    for cell in ("kd", "adakd"):
        label, (here, change, rest) = label_of(cell), of[label_of(cell)]
        assert here.startswith(f"{100 * cers['more'][cell]:.2f} ["), label
        expected = cers["less"][cell] / cers["more"][cell] - 1
        assert change.startswith(f"{100 * expected:+.1f} [") and rest == "not run"
    here, change, rest = of["AdaKD against KD"]
    ratio = {name: cers[name]["adakd"] / cers[name]["kd"] for name in ("more", "less")}
    assert here.startswith(f"{100 * (ratio['more'] - 1):+.1f} [") and rest == "not run"
    assert change.startswith(f"{100 * (ratio['less'] / ratio['more'] - 1):+.1f} [")
    low, high = map(float, re.findall(r"\[(.+), (.+)\]", change)[0])
    assert low < high < 0, "a larger gain, which this can tell"

    forget(pairs, "more whisper kd seed 5")
    of = {line[0]: line[2:] for line in table_lines(report(pairs)[0], "Across recipes: hours")[1:]}
    assert all(cell.endswith("] (4 of 5)") for cell in of["KD"][:2]), "runs that lack are told"
    assert "(4" in of["AdaKD against KD"][1] and "(" not in "".join(of["AdaKD"])

    for cell in CELLS:  # other sentences: nothing to pair
        for seed in SEEDS:
            file = pairs.cell_task(pairs.groups[0], cell, seed, Choice()).folder / "hyp.test.jsonl"
            if file.is_file():
                file.write_text(file.read_text().replace('"u0"', '"another"'))
    lines = table_lines(report(pairs)[0], "Across recipes: hours")
    assert {line[3] for line in lines[2:]} == {"other test speech", ""}


def test_power_is_reckoned_from_dev(made: Study) -> None:
    noise = dict(zip(SEEDS, (0.01, -0.02, 0.0, 0.03, -0.01), strict=True))

    def noisy(cell: str, seed: int, number: int) -> float:
        return 0.3 * math.exp(noise[seed] if cell == "adakd" else 0)

    fill(made, noisy)
    text, _ = report(made)
    lines = table_lines(text, "Noise, and how many seeds it takes")
    deviation = np.std(list(noise.values()), ddof=1)
    assert lines[1][2:5] == ["5", f"{100 * deviation:.1f} and 0.0", f"{100 * deviation:.1f}"]
    corrected = significance.seeds_needed(deviation, 0.03, level=0.05 / len(PRIMARY))
    assert lines[1][5] == f"{significance.seeds_needed(deviation, 0.03)} ({corrected})"
    assert f"The plan, by the spread of the dev CER alone: {corrected} seeds" in text


def test_what_can_be_told_is_reckoned_from_the_test_speech(made: Study) -> None:
    """From the interval: standard error and degrees of freedom are what made it."""
    fill(made, alike)
    found = outcomes(made)["kd"]
    counts, folds = findings.counts_of(found.table.both(found.pair))
    error, free = significance.variance(counts, folds).error()
    assert found.change is not None
    low, high = (math.log1p(end) for end in found.change.interval)
    assert (high - low) / 2 == pytest.approx(error * stats.t.ppf(0.975, free))
    shift = -math.log1p(-found.detectable[1]) / error
    assert significance.found_by_t(shift, free, 0.05 / len(PRIMARY)) == pytest.approx(0.8)
    text, _ = report(made)
    smallest = min(one.detectable[1] for one in outcomes(made).values() if one.detectable)
    assert f"with 80 % chance, after correction, from {100 * smallest:.1f} " in text
    assert "3 % can be told in 0 of 4 comparisons. No difference shown does not" in text


def test_trainings_that_still_fell_are_told(made: Study) -> None:
    fill(made, alike)
    assert "Length:" not in report(made)[0], "nothing is known of it"
    for seed in SEEDS:
        cers = [0.5, 0.45, 0.4, 0.4, 0.4 - 0.01 * seed]
        lines = [json.dumps({"epoch": n, "dev_cer": cer}) for n, cer in enumerate(cers, 1)]
        for cell, curve in (("finetune", lines), ("kd", [*lines[:4], lines[3]])):
            (folder_of(made, cell, seed) / "metrics.jsonl").write_text("\n".join(curve))
    text, _ = report(made)
    assert "dev CER still falls by 7.50 % (tiny/hi, whisper): longer" in text
    lines = table_lines(text, "How far training had come")
    falls = dict(zip(lines[0], lines[1], strict=True))
    told = [falls[name] for name in ("Fine-tuning", "KD", "AdaKD")]
    assert told == ["7.5", "0.0", "not known"]


def test_another_teacher_than_the_students_had_is_left_out(made: Study, tmp_path: Path) -> None:
    of_each_seed, made = made, study_of(tmp_path, set={"teacher.seed": 1})
    fill(made, alike)
    folder = folder_of(made, "kd", 1).parents[1] / "teacher" / "seed1"
    decoded(folder, [1] * UTTERANCES)
    facts = {"inputs": {}, "fingerprint": "one"}
    write_json(folder / "done.json", {**facts, "parameters": 2_000_000})
    for cell, taught in (("kd", "one"), ("finetune", None)):
        place = made.cell_task(made.groups[0], cell, 1, Choice()).places[0]
        inputs = training_settings(place, cell) | code(place.config)
        inputs |= {"start": "s", "teacher": taught}
        finished.mark_done(
            folder_of(made, cell, 1), inputs, dev_cer=0.3, train_seconds=1.0, steps=40
        )
    text, _ = report(made)
    (teacher,) = [line for line in table_lines(text, "tiny/hi, whisper") if line[0] == "Teacher"]
    assert teacher[:3] == ["Teacher", "1", "2.00"]
    changes = [UTTERANCES * len(SEEDS) / errors_of(made, name).sum() - 1 for name in BASELINES]
    for change, cell in zip(changes, (teacher[4], teacher[6]), strict=True):
        assert cell.startswith(f"{100 * change:+.1f} [") and cell.endswith("]")
    assert f"Teachers: CER against Fine-tuning {100 * changes[0]:+.1f} % [" in text
    table = findings.read_table(made, "tiny/hi", "whisper", made.read_records())
    alone = findings.against_teacher(of_each_seed, table, "kd")
    first = UTTERANCES / errors_of(made, "kd")[0].sum() - 1
    assert alone is not None and alone.relative == pytest.approx(first), "its own students' alone"
    forget(made, "finetune seed 5")
    assert "Teachers: " not in report(made)[0], "a run lacks: nothing is claimed"
    write_json(folder / "done.json", {**facts, "fingerprint": "other"})
    text, _ = report(made)
    assert "| Teacher |" not in text
    assert "teacher/seed1 holds another teacher than students here had" in text
    write_json(folder / "done.json", facts)
    file = folder / "hyp.test.jsonl"
    file.write_text(file.read_text().replace('"u0"', '"another"'))
    text, _ = report(made)
    assert "| Teacher |" not in text and "or other test speech" in text
    file.write_text(file.read_text().replace('"another"', '"u0"'))
    assert "| Teacher |" in report(made)[0]
    config = dataclasses.asdict(made.start(made.groups[0]).config)
    config["teacher"]["train"] = {"epochs": 7}
    (folder / "config.yaml").write_text(configuration.dump_yaml(config), encoding="utf-8")
    text, _ = report(made)
    assert "| Teacher |" not in text
    assert "teacher/seed1 holds another teacher than students here had" in text


def test_the_scores_are_what_the_intervals_resample(made: Study) -> None:
    """Errors of every utterance, and who spoke it, of which the table's mean comes again."""
    fill(made, better_when_easy)
    report(made)
    lines = [json.loads(line) for line in (made.folder / "scores.jsonl").read_text().splitlines()]
    (whole,) = [line for line in lines if line["kind"] == "group"]
    assert whole["utterances"] == [[f"u{n}", f"s{n % 6}", LENGTH] for n in range(UTTERANCES)]
    own = [line for line in lines if line.get("cell") == "adakd"]
    assert [line["seed"] for line in own] == SEEDS
    for line, expected in zip(own, errors_of(made, "adakd").tolist(), strict=True):
        assert line["errors"] == expected
        assert line["test_cer"] == pytest.approx(sum(expected) / (UTTERANCES * LENGTH))


def test_one_setting_for_all_weighs_recipes_alike_and_folds_within_them() -> None:
    candidates = [{"methods.kd.alpha": 0.1}, {"methods.kd.alpha": 0.9}]
    asked: Any = SimpleNamespace(grid=SimpleNamespace(tune={"kd-tuned": candidates}))

    def table(title: str, *folds: list[float] | None) -> Any:
        choices = [cers and Choice(dev={"kd-tuned": cers}) for cers in folds]
        return SimpleNamespace(title=title, choices=dict(enumerate(choices)))

    hindi, open_one = table("Hindi", [0.2, 0.3]), table("none yet", None)
    digits = table("digits", [0.3, 0.1], [0.1, 0.1], None)
    heading, *lines = tables.one_for_all(asked, [hindi, digits, open_one])
    assert heading[2:] == ["All, %", "Hindi, %", "digits, %"]
    assert lines == [
        ["KD (tuned)", "alpha 0.1", "+2.5", "-20.0", "+25.0"],  # 0.2 / 0.25; (0.3 / 0.2 + 1) / 2
        ["KD (tuned)", "alpha 0.9 (best)", "-2.5", "+20.0", "-25.0"],
    ]
    lines = tables.one_for_all(asked, [hindi, table("digits", [0.3, math.inf])])[1:]
    assert lines[0][1:] == ["alpha 0.1 (best)", "-10.0", "-20.0", "+0.0"]
    assert lines[1][1:] == ["alpha 0.9", "failed", "+20.0", "failed"]
    lines = tables.one_for_all(asked, [hindi, table("digits", [math.inf, math.inf])])[1:]
    assert lines[0][1:] == ["alpha 0.1 (best)", "-20.0", "-20.0", "failed"]
    assert lines[1][1:] == ["alpha 0.9", "+20.0", "+20.0", "failed"]
    lines = tables.one_for_all(asked, [table("perfect", [0.0, 0.0])])[1:]
    assert [line[3] for line in lines] == ["+0.0", "+0.0"]
    assert tables.one_for_all(asked, [open_one])[1:] == [], "nothing has been chosen"


# -- a study that goes on elsewhere ---------------------------------------------------------------

TUNED: dict[str, Any] = {
    "epochs": [5, 6],
    "tune": {"kd": [{"methods.kd.alpha": 0.1}, {"methods.kd.alpha": 0.9}]},
}


def fill_trials(tuned: Study, curve: list[float]) -> Choice:
    """Trials of the only group: 5 epochs are enough, the second candidate is better."""
    (group,) = tuned.groups
    choice = None
    while choice is None:
        records: dict[str, Any] = dict(tuned.read_records())
        for task in tuned.choose(group, records)[0]:
            task.folder.mkdir(parents=True, exist_ok=True)
            cer = 0.4 if "try2" in task.name else 0.5
            (place,) = task.places
            inputs = training_settings(place, task.method) | code(place.config)
            finished.mark_done(task.folder, inputs, dev_cer=cer, train_seconds=7.0)
            epochs = [{"epoch": n, "dev_cer": each} for n, each in enumerate(curve, 1)]
            (task.folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, epochs)))
            records[task.name] = {"kind": "trial", "status": "done", "seconds": 7.0} | {
                "fingerprint": task.fingerprint
            }
        write_json(tuned.records, records)
        choice = tuned.choose(group, records)[1]
    return choice


@pytest.fixture
def moved(made: Study, tmp_path: Path) -> Callable[..., Study]:
    """Runs a study's report, and opens it with these scores alone in an empty folder."""

    def move(old: Study, **changes: Any) -> Study:
        report(old)
        shutil.copyfile(old.folder / "scores.jsonl", tmp_path / "scores.jsonl")
        shutil.rmtree(tmp_path / "root")
        path = study_of(tmp_path, **changes).path
        return Study(path, tmp_path / "root", scores=tmp_path / "scores.jsonl")

    return move


def test_published_whispers_tell_of_older_code(made: Study, moved: Callable[..., Study]) -> None:
    fill(made, alike)
    published = moved(made)
    old = published.lines["tiny/hi whisper kd seed 2"]
    assert old.pop("code")  # lines from before 2026-11-29 lack it
    said = report(published)[0].split("## What it cannot say\n")[1]
    assert re.search(r"In 1 of \d+ runs of tiny/hi, whisper the positions of Whisper's", said)


def test_a_report_from_what_was_published_is_the_same(
    made: Study, tmp_path: Path, moved: Callable[..., Study]
) -> None:
    tuned = study_of(tmp_path, **TUNED)
    choice = fill_trials(tuned, [0.9, 0.7, 0.5, 0.5, 0.5])
    assert (choice.epochs, choice.tuned) == (5, {"kd": 1})
    fill(tuned, better_when_easy, choice=choice)
    before = report(tuned)
    folder = folder_of(tuned, "adakd", 1).parents[1] / "teacher" / "seed1"
    assert "| Teacher |" not in before[0] and not folder.exists()
    elsewhere = moved(tuned, **TUNED)
    made_of = re.compile(r"(?m)^- Time: .*$|Time</dt><dd>[^<]*|data:image/png;base64,[^\"]*")
    for one, other in zip(before, report(elsewhere), strict=True):
        assert made_of.sub("", one) == made_of.sub("", other)
    again = (elsewhere.folder / "scores.jsonl").read_text()
    assert again == (tmp_path / "scores.jsonl").read_text(), "and may be published again"


def test_what_was_published_need_not_be_run(
    made: Study, tmp_path: Path, moved: Callable[..., Study]
) -> None:
    tuned = study_of(tmp_path, **TUNED)
    choice = fill_trials(tuned, [0.9, 0.7, 0.5, 0.5, 0.5])
    fill(tuned, better_when_easy, choice=choice)  # focal is missing
    elsewhere = moved(tuned, **TUNED)
    asked = [task.name for task in tasks_of(elsewhere)]
    group = "tiny/hi whisper"
    teachers = [f"{group} teacher seed {seed}" for seed in SEEDS]
    shared = ["tiny/hi data", *teachers, f"{group} reference"]
    assert asked == [*shared, *(f"{group} focal seed {seed}" for seed in SEEDS)]
    cells = {name: each for name, each in CELLS.items() if name != "focal"}
    fewer = TUNED | {"cells": cells, "primary": [["adakd", "kd"]]}
    path = study_of(tmp_path, **fewer).path
    whole = Study(path, tmp_path / "root", scores=tmp_path / "scores.jsonl")
    assert not list(tasks_of(whole)), "no teacher for a group that is all there"


def test_teachers_of_several_seeds_are_tasks_of_their_own(made: Study, tmp_path: Path) -> None:
    """Side by side, then; what has learnt from one waits for no other."""
    crossfit = {"set": {"distill.difficulty": "crossfit"}}
    cells = {"finetune": {}, "kd": {}, "adakd-crossfit": crossfit}
    tuned = study_of(tmp_path, cells=cells, epochs=[5], primary=[["kd", "finetune"]], ablations={})
    group = "tiny/hi whisper"
    records: dict[str, Any] = {}

    def next_ones() -> list[str]:
        return [task.name for task in tuned.tasks(records) if not tuned.status(task, records)]

    def succeed(*names: str) -> None:
        for task in tuned.tasks(records):
            if task.name in names:
                records[task.name] = {"status": "done", "fingerprint": task.fingerprint}

    succeed("tiny/hi data")
    teachers = [f"{group} teacher seed {seed}" for seed in SEEDS]
    assert next_ones() == teachers
    succeed(teachers[0])
    assert next_ones() == [*teachers[1:], f"{group} finetune-epochs5 seed 1"]
    succeed(*teachers[1:])
    assert next_ones() == [f"{group} difficulty crossfit", f"{group} finetune-epochs5 seed 1"]
    assert tuned.sizes({})["teacher"] == len(SEEDS)
    assert {*teachers, f"{group} difficulty crossfit"} < tuned.names(lambda name: "kd" in name)
    shared = study_of(tmp_path, set={"teacher.seed": 1})
    assert [task.name for task in shared.teachers(shared.groups[0]).values()] == [
        f"{group} teacher"
    ]


def test_every_teacher_has_its_part_in_the_table(
    made: Study, tmp_path: Path, moved: Callable[..., Study]
) -> None:
    fill(made, alike)
    for seed in SEEDS:
        folder = folder_of(made, "kd", seed).parents[1] / "teacher" / f"seed{seed}"
        decoded(folder, [seed] * UTTERANCES)
        finished.mark_done(folder, {}, parameters=2_000_000, train_seconds=60.0 * seed)
        write_json(folder / "versions.json", {"time": f"of seed {seed}"})
        facts = json.loads((folder_of(made, "kd", seed) / "done.json").read_text())
        facts["inputs"]["teacher"] = (finished.done(folder) or {})["fingerprint"]
        write_json(folder_of(made, "kd", seed) / "done.json", facts)
        for cell in made.cells:  # for every other teacher the hard ones are easy
            file = folder_of(made, cell, seed) / "hyp.test.jsonl"
            if file.exists() and seed % 2:
                rows = [json.loads(line) for line in file.read_text().splitlines()]
                turned = [row | {"difficulty": -row["difficulty"]} for row in rows]
                file.write_text("".join(json.dumps(row) + "\n" for row in turned))
    text, _ = report(made)
    (teacher,) = [line for line in table_lines(text, "tiny/hi, whisper") if line[0] == "Teacher"]
    assert teacher[:3] == ["Teacher", "5", "6.00"], "errors 1 to 5 of 50 characters"
    students = errors_of(made, "finetune").sum()
    change = f"{100 * (UTTERANCES * sum(SEEDS) / students - 1):+.1f} % ["
    assert f"Teachers: CER against Fine-tuning {change}" in text
    assert (
        "The teacher (3:00 to train) and its pass come on top, once for all cells of a seed" in text
    )
    assert "have one teacher" not in text and "sittings" not in text
    gains = table_lines(text, "Gain by difficulty")
    again, _ = report(moved(made))
    assert table_lines(again, "tiny/hi, whisper")[1] == teacher, "as published"
    assert table_lines(again, "Gain by difficulty") == gains and "sittings" not in again


def tasks_of(made: Study) -> list[grid.Task]:
    """What a start would do, everything succeeding."""
    made.read_records()
    records: dict[str, Any] = {}
    todo: list[grid.Task] = []
    while new := [task for task in made.tasks(records) if not made.status(task, records)]:
        for task in new:
            records[task.name] = {"status": "done", "fingerprint": task.fingerprint}
        todo += new
    return todo


def runs_of(made: Study) -> int:
    return len(findings.read_table(made, "tiny/hi", "whisper", made.read_records()).runs)


def test_what_was_published_of_other_settings_or_data_says_nothing(
    made: Study, tmp_path: Path, moved: Callable[..., Study]
) -> None:
    fill(made, better_when_easy)
    other = moved(made, set={"student.train.epochs": 7})
    assert runs_of(other) == 0
    group = other.groups[0]
    counts = {"train": {"seconds": 60}}
    finished.mark_done(other.start(group).data, {}, manifests="here", counts=counts)
    lines = (tmp_path / "scores.jsonl").read_text()
    for data, runs in (("null", 25), ('"here"', 25), ('"there"', 0)):  # null: nobody knows
        scores = tmp_path / "other.jsonl"
        scores.write_text(lines.replace('"of_data": null', f'"of_data": {data}'))
        assert runs_of(Study(study_of(tmp_path).path, other.root, scores=scores)) == runs


@pytest.mark.parametrize("state", ["failed", "outdated"])
def test_a_failure_here_leaves_what_was_published(
    made: Study, moved: Callable[..., Study], state: str
) -> None:
    """So do results of settings that the grid no longer has."""
    fill(made, better_when_easy)
    elsewhere = moved(made)
    name = "tiny/hi whisper adakd seed 1"
    fingerprint = elsewhere.lines[name]["settings"] if state == "failed" else "another"
    status = "failed" if state == "failed" else "done"
    record = {"kind": "cell", "seconds": 1.0, "reason": "no room", "fingerprint": fingerprint}
    write_json(elsewhere.records, {name: record | {"status": status}})
    assert runs_of(elsewhere) == 25
    assert name not in [task.name for task in tasks_of(elsewhere)]


def test_a_failed_candidate_stays_failed_elsewhere(
    made: Study, tmp_path: Path, moved: Callable[..., Study]
) -> None:
    """Or what it had been compared with would be chosen anew."""
    tuned = study_of(tmp_path, **TUNED)
    fill_trials(tuned, [0.9, 0.7, 0.5, 0.5, 0.5])
    records = tuned.read_records()
    name = "tiny/hi whisper kd-try2 seed 1"
    records[name] |= {"status": "failed", "reason": "no room"}
    write_json(tuned.records, records)
    choice = tuned.choose(tuned.groups[0], records)[1]
    assert choice and choice.dev == {"kd": [0.5, math.inf]}
    fill(tuned, better_when_easy, choice=choice)
    elsewhere = moved(tuned, **TUNED)
    assert elsewhere.choose(elsewhere.groups[0], {})[1] == choice
    assert f"- {name}: no room" in report(elsewhere)[0]


def test_publishing_loses_no_result(
    made: Study, tmp_path: Path, moved: Callable[..., Study]
) -> None:
    fill(made, better_when_easy)
    other = moved(made, set={"student.train.epochs": 7})
    page = tmp_path / "scores.md"
    with pytest.raises(UserError, match="scores.jsonl has 25 results that the study does not find"):
        study_page.write_report(other, "adakd benchmark", page)
    assert not page.exists() and (tmp_path / "scores.jsonl").read_text().count("errors") == 25
    same = Study(study_of(tmp_path).path, other.root, scores=tmp_path / "scores.jsonl")
    study_page.write_report(same, "adakd benchmark", page)
    assert page.exists() and (tmp_path / "scores.jsonl").read_text().count("errors") == 25


def test_int8_students_are_published_beside_the_others(
    made: Study, tmp_path: Path, moved: Callable[..., Study]
) -> None:
    small: dict[str, Any] = {
        "set": {"decode.int8": True}, "cells": {"kd": {}}, "primary": [], "ablations": {},
    }  # fmt: skip
    both = study_of(tmp_path, **small)
    fill(both, alike)
    for seed in SEEDS:
        folder = folder_of(both, "kd", seed)
        int8 = folder.parents[1] / "kd-int8" / folder.name
        decoded(int8, [1] * UTTERANCES)
        finished.mark_done(int8, {"model": (finished.done(folder) or {})["fingerprint"]})
    before = report(both)[0]
    assert "| KD (int8) | 5 | 2.00 " in before
    elsewhere = moved(both, **small)
    assert "| KD (int8) | 5 | 2.00 " in report(elsewhere)[0] and not tasks_of(elsewhere)
    scores = tmp_path / "scores.jsonl"
    lines = scores.read_text().splitlines(keepends=True)
    scores.write_text("".join(line for line in lines if '"kd-int8", "seed": 1,' not in line))
    again = Study(elsewhere.path, elsewhere.root, scores=scores)
    assert tasks_of(again)[-1].name == "tiny/hi whisper kd seed 1", "its weights are needed"


def test_what_was_published_of_tier_a_still_stands() -> None:
    """Whoever changes settings, or adds one, voids these runs: then convert them, or run anew."""
    path = grid.REPOSITORY / "study/tier-a.yaml"
    own = [("fsdd/en", "corpus.corpus", "not needed")]
    tier = Study(path, Path("nowhere"), own, grid.REPOSITORY / "docs/STUDY.jsonl")
    choices = {group: tier.choose(group, {})[1] for group in tier.groups}
    found = {
        f"{group} {name} seed {seed}"
        for group, choice in choices.items()
        for name in tier.cells
        for seed in tier.seeds(name, group)
        if choice and tier.published(tier.cell_task(group, name, seed, choice))
    }
    assert found == {name for name, line in tier.lines.items() if line["kind"] == "cell"}
    assert len(found) >= 255


def test_a_run_here_stands_before_the_published_one(
    made: Study, tmp_path: Path, moved: Callable[..., Study]
) -> None:
    fill(made, better_when_easy)
    elsewhere = moved(made)
    task = elsewhere.cell_task(elsewhere.groups[0], "adakd", 1, Choice())
    decoded(task.folder, [0] * UTTERANCES)
    (place,) = task.places
    inputs = training_settings(place, task.method) | code(place.config)
    finished.mark_done(task.folder, inputs | {"start": "of seed 1"}, dev_cer=0.1, steps=40)
    record = {"kind": "cell", "status": "done", "seconds": 1.0, "fingerprint": task.fingerprint}
    write_json(elsewhere.records, {task.name: record})
    table = findings.read_table(elsewhere, "tiny/hi", "whisper", elsewhere.read_records())
    first, second = table.rows["adakd"].runs[:2]
    assert first.counts.errors == 0 and second.counts.errors > 0


def test_a_published_run_stands_again_where_the_folder_is_gone(
    made: Study, tmp_path: Path, moved: Callable[..., Study]
) -> None:
    tuned = study_of(tmp_path, **TUNED)
    choice = fill_trials(tuned, [0.9, 0.7, 0.5, 0.5, 0.5])
    fill(tuned, better_when_easy, choice=choice)
    records = tuned.read_records()
    elsewhere = moved(tuned, **TUNED)
    write_json(elsewhere.records, records)
    study_page.write_report(elsewhere, "adakd benchmark", tmp_path / "scores.md")
    table = findings.read_table(elsewhere, "tiny/hi", "whisper", elsewhere.read_records())
    assert len(table.runs) == 25 and not table.problems
    # So it does where another run has come there.
    task = elsewhere.cell_task(elsewhere.groups[0], "adakd", 1, choice)
    decoded(task.folder, [0] * UTTERANCES)
    finished.mark_done(task.folder, {"seed": 9}, dev_cer=0.1, steps=40)
    assert runs_of(elsewhere) == 25


def test_trials_that_are_gone_or_of_other_settings_are_told(made: Study, tmp_path: Path) -> None:
    tuned = study_of(tmp_path, **TUNED)
    choice = fill_trials(tuned, [0.9, 0.7, 0.5, 0.5, 0.5])
    fill(tuned, better_when_easy, choice=choice)
    said = "of the runs that were recorded had other settings than the grid has now, or are gone, "
    assert said not in report(tuned)[0]
    trial = tuned.choose(tuned.groups[0], tuned.read_records())[0][-1]
    shutil.rmtree(trial.folder)
    text, _ = report(study_of(tmp_path, **TUNED))
    assert f"- 1 {said}tiny/hi whisper kd-try2 seed 1 for one: run the benchmark again." in text
    text, _ = report(study_of(tmp_path, **TUNED, set={"train.clip": 2.0}))
    assert f"- 1 {said}tiny/hi whisper finetune-epochs5 seed 1 for one: run the " in text


def test_a_published_trial_does_not_depend_on_the_test_set(
    made: Study, tmp_path: Path, moved: Callable[..., Study]
) -> None:
    tuned = study_of(tmp_path, **TUNED)
    fill_trials(tuned, [0.9, 0.7, 0.5, 0.5, 0.5])
    elsewhere = moved(tuned, **TUNED)
    place = elsewhere.start(elsewhere.groups[0])
    lines = (tmp_path / "scores.jsonl").read_text()
    scores = tmp_path / "other.jsonl"
    scores.write_text(lines.replace('"of_data": null', '"of_data": "train and dev"'))
    counts = {"train": {"seconds": 60}}
    for learnt, chosen in (("train and dev", True), ("others", False)):
        facts = {"learnt": {"data": learnt}, "manifests": "with test", "counts": counts}
        finished.mark_done(place.data, {}, **facts)
        again = Study(study_of(tmp_path, **TUNED).path, elsewhere.root, scores=scores)
        assert bool(again.choose(again.groups[0], {})[1]) is chosen


def test_a_teacher_that_was_trained_again_is_told(made: Study, tmp_path: Path) -> None:
    taught = study_of(tmp_path, set={"teacher.seed": 1})
    fill(taught, alike)
    for cell, day in (("kd", "Monday"), ("adakd", "Tuesday")):
        folder = folder_of(taught, cell, 1)
        facts = finished.done(folder) or {}
        facts["inputs"]["teacher"] = "the same"
        write_json(folder / "done.json", facts)
        write_json(folder.parents[1] / "teacher" / "seed1" / "versions.json", {"time": day})
        again = "made in 2 sittings" in report(taught)[0]
        assert not again, "all have the teacher that is there"
    scores = tmp_path / "scores.jsonl"
    lines = (taught.folder / "scores.jsonl").read_text()
    scores.write_text(lines.replace('"Tuesday"', '"Monday"', 1))
    shutil.rmtree(taught.root)
    there = Study(taught.path, taught.root, scores=scores)
    assert "The students of tiny/hi, whisper were made in 2 sittings, each" in report(there)[0]


def test_students_of_two_machines_are_not_alike(made: Study) -> None:
    fill(made, alike)
    for cell in ("finetune", "kd", "adakd"):
        machine = "another" if cell == "kd" else "one"
        write_json(folder_of(made, cell, 2) / "versions.json", {"machine": machine})
    assert (
        "NOT alike, other than the cells beside them: KD (tiny/hi, whisper, seed 2: machine)"
        in (report(made)[0])
    )


@pytest.mark.parametrize("line", ["{", "[]", '{"recipe": "a"}', '{"kind": "odd", "name": "a"}'])
def test_a_file_of_other_scores_is_refused(made: Study, tmp_path: Path, line: str) -> None:
    scores = tmp_path / "scores.jsonl"
    scores.write_text(f"{line}\n")
    with pytest.raises(UserError, match=r"scores\.jsonl:1 lacks kind: take the file as it was"):
        Study(made.path, tmp_path, scores=scores)


def test_scores_that_do_not_fit_each_other_are_refused(made: Study, tmp_path: Path) -> None:
    fill(made, alike)
    report(made)
    lines = (made.folder / "scores.jsonl").read_text().splitlines()
    scores = tmp_path / "scores.jsonl"
    for text, said in (
        ("\n".join([*lines, lines[1]]), r":27 is a second tiny/hi whisper adakd seed 1:"),
        ("\n".join(lines).replace('"errors": [', '"errors": [1, '), "errors of other utterances"),
        ("\n".join(lines).replace('"settings"', '"setting"'), ":2 lacks settings"),
        ("\n".join(lines[1:]), "errors of other utterances than its group"),
    ):
        scores.write_text(text)
        with pytest.raises(UserError, match=said):
            Study(made.path, tmp_path, scores=scores)


def test_runs_of_other_settings_are_told_of(made: Study) -> None:
    fill(made, alike)
    other = study_of(made.path.parent, set={"student.train.epochs": 7})
    text, _ = report(other)
    assert "25 of the runs that were recorded had other settings than the grid has now, " in text
    assert "adakd seed 1 for one: run the benchmark again." in text


def test_what_a_study_cannot_say_is_said(made: Study, tmp_path: Path) -> None:
    grown = study_of(tmp_path, limits=["One <voice>."], set={"teacher.seed": 1})
    fill(grown, alike)
    text, page = report(grown)
    said = text.split("## What it cannot say\n")[1].split("\n## ")[0]
    assert "- One <voice>." in said and "One &lt;voice&gt;." in page
    assert "Students of all seeds have one teacher" in said and "folds" not in said.lower()[:20]
    assert "- The speech of tiny/hi is synthetic: its speakers are voices, not people." in said
    assert "Other speakers are outside" not in said
    human = study_of(tmp_path, set={"demonstration": False})
    assert "is synthetic" not in report(human)[0]


@pytest.mark.parametrize(
    ("parameters", "said"),
    [(2_000_000, "Models are small"), (20_000_000, "Sizes")],
)
def test_what_is_small_is_called_so(made: Study, parameters: int, said: str) -> None:
    fill(made, alike)
    folder = folder_of(made, "finetune", 1)
    facts = finished.done(folder) or {}
    write_json(folder / "done.json", {**facts, "parameters": 500_000})
    teacher = folder.parents[1] / "teacher" / "seed1"
    decoded(teacher, [1] * UTTERANCES)
    finished.mark_done(teacher, {}, parameters=parameters)
    sizes = f"tiny/hi, whisper: {parameters // 10**6} M to 500 k."
    assert f"- {said} (parameters of teacher and student): {sizes}" in report(made)[0]


@pytest.mark.parametrize(
    ("speakers", "told"),
    [
        (1, "48 utterances by 1 speaker"),
        (0, "48 utterances"),  # nobody says who speaks
        (6, "48 utterances by 6 speakers"),
    ],
)
def test_few_or_unknown_speakers_are_told(made: Study, speakers: int, told: str) -> None:
    fill(made, alike)
    for cell, seed in [(cell, seed) for cell in CELLS if cell != "focal" for seed in SEEDS]:
        file = folder_of(made, cell, seed) / "hyp.test.jsonl"
        name = '"speaker": "one"' if speakers else '"speaker": ""'
        if speakers < 6:
            file.write_text(re.sub(r'"speaker": "s\d"', name, file.read_text()))
    text, _ = report(made)
    assert f"tested on {told})" in text
    alone = (
        "- Other speakers are outside the intervals of tiny/hi, whisper: utterances were "
        "resampled, since fewer than 5 speakers are known."
    )
    assert (alone in text) is (speakers < 6)


def test_other_methods_are_compared_without_a_verdict(made: Study) -> None:
    """All that the grid does not name: focal is in PRIMARY."""
    fill(made, better_when_easy, missing="none")
    text, _ = report(made)
    assert "## Against the other cells" not in text and "Not among the primary" not in text
    fewer = study_of(made.path.parent, primary=[["adakd", "kd"], ["adakd", "adakd-mean"]])
    text, _ = report(fewer)
    lines = table_lines(text, "Against the other cells")
    assert [line[0] for line in lines[1:]] == [
        "AdaKD against AdaKD (permuted)", "AdaKD against Fine-tuning", "AdaKD against Focal loss"
    ]  # fmt: skip
    own, other = errors_of(made, "adakd"), errors_of(made, "finetune")
    change = 100 * (own.sum() / other.sum() - 1)
    assert lines[2][2] == "5" and lines[2][3].startswith(f"{change:+.1f} [")
    about = "\nNot among the primary comparisons (exploratory, without correction): AdaKD makes "
    said = f"AdaKD makes fewer errors than Fine-tuning (tiny/hi, whisper {change:+.1f} % ["
    assert about in text and said in text and "the interval holds zero" not in text
    fill(made, lambda cell, seed, number: 0.3 + 0.01 * seed, missing="none")
    assert "correction): in 3 comparisons the interval holds zero." in report(fewer)[0]
    fill(made, better_when_easy)
    forget(made, "finetune seed 2")
    assert table_lines(report(fewer)[0], "Against the other cells")[2][2] == "4 of 5"
    both = study_of(made.path.parent, primary=[["adakd", "finetune"], ["kd", "finetune"]])
    pairs = [line[0] for line in table_lines(report(both)[0], "Against the other cells")[1:]]
    assert "AdaKD against KD" in pairs and "KD against AdaKD" not in pairs, "once each"


def test_a_claim_takes_five_seeds(made: Study, tmp_path: Path) -> None:
    """With three, p-values at the levels of Holm's correction are too small (FEWEST)."""
    few = study_of(tmp_path, seeds=[1, 2, 3])
    fill(few, better_when_easy)
    found = outcomes(few)
    one = found["finetune"]
    assert one.change is not None and one.change.p_value < 0.001 and one.change.relative < 0
    assert (one.verdict, one.open, one.holm) == ("open", "3 seeds, a claim takes 5", 1.0)
    fill(few, alike)
    assert outcomes(few)["kd"].verdict == "no difference shown"


@pytest.mark.parametrize(
    ("folds", "said"),
    [
        ([-1] * 5, ""),
        ([-1] * 4, "4 seeds, a claim takes 5"),
        ([0, 1, 2, 3, 4], ""),
        ([0] * 5 + [1] * 5, ""),
        ([0] * 2 + [1] * 3, "2 seeds a fold, a claim takes 5, or as many folds"),
    ],
)
def test_what_is_too_few_for_a_claim(folds: list[int], said: str) -> None:
    both = [(SimpleNamespace(key=(fold, seed)), None) for seed, fold in enumerate(folds)]
    table = SimpleNamespace(both=lambda pair: both)
    one: Any = SimpleNamespace(table=table, pair=("adakd", "kd"))
    assert findings.too_few(one) == said


def test_folds_that_test_few_people_are_the_groups(made: Study) -> None:
    """Utterances of four people would count as if they were of many."""
    fill(made, better_when_easy)
    table = findings.read_table(made, "tiny/hi", "whisper", made.read_records())
    (run, *_) = table.rows["adakd"].runs

    def by(person: str, fold: int) -> Run:
        errors = [dataclasses.replace(one, speaker=person) for one in run.errors]
        return dataclasses.replace(
            run, errors=errors, experiment=dataclasses.replace(run.experiment, fold=fold)
        )

    few = [by(f"p{fold}", fold) for fold in range(4) for _ in SEEDS]
    counts, _ = findings.counts_of([(run,) for run in few])
    assert score.unit_of([run.tested for run in few]) == "fold" and len(counts) == 4
    enough = [by(f"p{fold}", fold) for fold in range(5) for _ in SEEDS]
    assert score.unit_of([run.tested for run in enough]) == "speaker"


def test_kinds_of_errors_are_means_over_the_seeds_of_each_fold(made: Study) -> None:
    """As the CER beside them is, so that they add up to it where folds have unlike many."""
    fill(made, better_when_easy)
    table = findings.read_table(made, "tiny/hi", "whisper", made.read_records())
    folds = [0, 0, 0, 1, 1]
    runs = [
        dataclasses.replace(run, experiment=dataclasses.replace(run.experiment, fold=fold))
        for run, fold in zip(table.rows["adakd"].runs, folds, strict=True)
    ]
    errors = errors_of(made, "adakd").sum(1)
    expected = (errors[:3].mean() + errors[3:].mean()) / (2 * UTTERANCES * LENGTH)
    assert findings.shares(runs) == (pytest.approx(expected), 0, 0)


def test_the_weights_of_runs_and_where_gains_lie(made: Study) -> None:
    fill(made, better_when_easy)
    for seed in SEEDS:
        path = folder_of(made, "adakd", seed) / "done.json"
        facts = json.loads(path.read_text(encoding="utf-8"))
        ends = [{"p10": low, "mean": low + seed / 100, "p90": 0.9} for low in (0.1, 0.3)]
        facts["alpha"] |= {"start": ends[0], "end": ends[1], "t_end": 2.0}
        facts["learning_seconds"] = 3.0
        write_json(path, facts)
        path = folder_of(made, "kd", seed) / "done.json"  # KD with a guard
        facts = json.loads(path.read_text(encoding="utf-8"))
        facts["alpha"] = {"alpha": 0.1, "start": ends[0], "end": ends[0], "doubted": 0.21}
        write_json(path, facts)
    text, _ = report(made)
    line, guarded = table_lines(text, "The teacher's weight")[1:]
    assert guarded == [
        "KD", "tiny/hi, whisper", "", "", "0.13 [0.10, 0.90]", "0.13 [0.10, 0.90]", "21.0 %", "",
    ]  # fmt: skip
    assert line == [
        "AdaKD", "tiny/hi, whisper", "1 to 2", "2 to 0", "0.13 [0.10, 0.90]", "0.33 [0.30, 0.90]",
        "", "20 % of the time",
    ]  # fmt: skip
    lines = {line[0]: line for line in table_lines(text, "Gain by difficulty")[1:]}
    own, other = errors_of(made, "adakd"), errors_of(made, "kd")
    hard, easy = (own[:, part].sum() / other[:, part].sum() for part in (np.s_[36:], np.s_[:12]))
    slope = 100 * (hard / easy - 1)
    assert slope > 20 and lines["AdaKD against KD"][6].startswith(f"{slope:+.1f} [")
    lines = {line[0]: line for line in table_lines(text, "By kind of error")[1:]}
    points = 100 * (own.sum() - other.sum()) / own.size / LENGTH
    assert lines["AdaKD against KD"][2:] == [f"{points:+.1f}", "+0.0", "+0.0"]


def test_one_permutation_is_told(made: Study) -> None:
    fill(made, alike)
    assert "- AdaKD (permuted): one permutation of x for all seeds" in report(made)[0]


@pytest.mark.parametrize(
    ("picked", "mark"),
    [
        *(({"alpha": alpha}, mark) for alpha, mark in ((0.1, " *"), (0.9, " *"), (0.5, ""))),
        *((odd, "") for odd in ({"t": "p50"}, {"on": True}, {"methods.kd": {"alpha": 0.1}})),
    ],
)
def test_a_choice_at_the_end_of_what_was_tried_is_marked(picked: dict[str, Any], mark: str) -> None:
    candidates = [{"alpha": 0.1}, {"alpha": 0.5}, {"alpha": 0.9}, {"t": "mean"}, {"t": "p50"}]
    candidates += [{"on": True}, {"on": False}, {"methods.kd": {"alpha": 0.1}}]
    assert tables.at_an_end(picked, candidates) == mark


@pytest.mark.parametrize("exact", [True, False])
def test_the_same_cell_twice_measures_what_is_not_the_seeds(
    made: Study, tmp_path: Path, exact: bool
) -> None:
    """A tuned cell may have become another; with one thread their runs are the same."""
    cells = {"finetune": {}, "kd": {}, "kd-tuned": {"set": {"methods.kd.alpha": 0.5}}}
    twice = study_of(tmp_path, cells=cells, primary=[["kd-tuned", "kd"]], ablations={})
    fill(twice, alike)
    if exact:
        for seed in SEEDS:
            hypotheses = (folder_of(twice, "kd", seed) / "hyp.test.jsonl").read_text()
            (folder_of(twice, "kd-tuned", seed) / "hyp.test.jsonl").write_text(hypotheses)
    text, _ = report(twice)
    assert "The same settings stand in two cells: KD (tuned) is KD in 5 runs. " in text
    assert f"but 5 of these were run again: {5 if exact else 0} make the same errors" in text
    assert ("chance is in the seed alone" in text) is exact
    if exact:
        assert "no difference shown in 1 of 1 (tiny/hi, whisper +0.0 % [+0.0, +0.0])" in text


def test_what_was_taken_over_is_no_repeat(made: Study, tmp_path: Path) -> None:
    cells = {"finetune": {}, "kd": {}, "kd-tuned": {"set": {"methods.kd.alpha": 0.5}}}
    twice = study_of(tmp_path, cells=cells, primary=[["kd-tuned", "kd"]], ablations={})
    fill(twice, alike)
    for seed in SEEDS:
        shutil.rmtree(folder_of(twice, "kd-tuned", seed))
        finished.take_over(folder_of(twice, "kd-tuned", seed), folder_of(twice, "kd", seed))
    text, _ = report(twice)
    assert "KD (tuned) is KD in 5 runs. What is the same is trained once. " in text


def test_what_dev_chose_is_told_from_what_the_grid_gives(made: Study, tmp_path: Path) -> None:
    cells = {"finetune": {}, "kd": {}, "kd-half": {"set": {"methods.kd.alpha": 0.5}}}
    tune = {"kd-tuned": [{"methods.kd.alpha": 0.9}, {"methods.kd.alpha": 0.5}]}
    tuned = study_of(
        tmp_path, cells=cells | {"kd-tuned": {}}, tune=tune, primary=[["kd-tuned", "kd"]],
        ablations={},
    )  # fmt: skip
    fill(tuned, alike, choice=fill_trials(tuned, [0.5]))
    text, _ = report(tuned)
    assert "The same settings stand in two cells: KD (half) is KD in 5 runs. Dev chose " in text
    assert " runs. Dev chose what another cell has: KD (tuned) is KD in 5 runs. " in text


def test_what_settings_move_stands_beside_luck(made: Study, tmp_path: Path) -> None:
    tune = {"kd": [{"methods.kd.alpha": alpha} for alpha in (0.1, 0.5, 0.9)]}
    tuned = study_of(tmp_path, tune=tune)
    (group,) = tuned.groups
    other = dataclasses.replace(group, fold=1)
    found = {
        group: Choice(5, (), {"kd": 1}, {"kd": [0.5, 0.4, 0.45]}),
        other: Choice(5, (), {"kd": 0}, {"kd": [0.4, math.inf, 0.5]}),
    }
    rows = {name: findings.Row(name, {(0, 1), (1, 1)}) for name in tuned.cells}
    table = findings.Table("tiny/hi", "whisper", found, rows)
    one = findings.Comparison(table, ("adakd", "kd"), "", deviation=0.02, seeds=5)
    two = findings.Comparison(table, ("adakd", "adakd-mean"), "", deviation=0.04, seeds=5)
    unlike = findings.Comparison(table, ("adakd", "finetune"), "", deviation=0.4, seeds=5)
    none = findings.Comparison(table, ("adakd", "focal"), "")
    double = findings.Comparison(table, ("adakd", "kd-x"), "", deviation=0.0, seeds=2)
    tuned.cells["kd-x"] = tuned.cells["kd"]
    head, line = tables.leverage(tuned, [table], [one, two, unlike, none, double])
    assert head[2] == "KD"
    # 5.040: the studentized range of three, 4 df, 95 %, in tables; a run's SD is sqrt(mean / 2).
    luck = 100 * math.expm1(5.040 * math.sqrt(0.001 / 2))
    assert line == ["tiny/hi, whisper", f"{luck:.1f}", "25.0", ""], "a failed one has no range"
    twice = study_of(tmp_path, tune=tune, tune_seeds=[1, 2])
    luck = 100 * math.expm1(5.040 * math.sqrt(0.001 / 4))
    assert tables.leverage(twice, [table], [one, two])[1][1] == f"{luck:.1f}"
    for row in table.rows.values():
        row.planned = {(0, 1), (1, 2)}
    assert tables.leverage(tuned, [table], [one])[1][1] == "not known", "its seeds differ in fold"
    assert len(tables.leverage(made, [table], [one])) == 1, "nothing was tuned"


def test_epochs_that_have_not_settled_are_called_so(made: Study, tmp_path: Path) -> None:
    tuned = study_of(tmp_path, epochs=[5, 6])
    (table,) = [findings.Table("tiny/hi", "whisper", {}) for _ in range(1)]
    (group,) = tuned.groups
    for gains, said in ((((5, 0.03), (6, 0.002)), "6"), (((5, 0.03), (6, 0.02)), "6, NOT settled")):
        table.choices[group] = Choice(6, gains)
        _, line = tables.chosen(tuned, [table])
        assert str(line[1]).startswith(f"{said} (5: -3.0 %, 6: ")


def test_seeds_and_folds_are_told_as_they_are(made: Study, tmp_path: Path) -> None:
    group = made.groups[0]
    folds = {dataclasses.replace(group, fold=fold): None for fold in (0, 1)}
    for planned, said in (
        ({(0, 1), (1, 1)}, "1 seed in each of 2 folds"),
        ({(0, 1), (0, 2), (1, 1), (1, 2)}, "2 seeds in each of 2 folds"),
        ({(0, 1), (1, 2)}, "2 seeds spread over 2 folds"),
    ):
        table = findings.Table("tiny/hi", "whisper", folds, {"kd": findings.Row("kd", planned)})
        assert words.corpus([table], "tiny/hi") == f"tiny/hi ({said})"
    tune = {"kd": [{"methods.kd.alpha": 0.1}, {"methods.kd.alpha": 0.9}]}
    for seeds, warned in (([1], True), ([9], False)):
        tuned = study_of(tmp_path, tune=tune, tune_seeds=seeds)
        text, _ = report(tuned)
        found = "Of the tested seeds, seed 1 of tiny/hi also chose: with it a tuned cell has"
        assert (found in text) is warned and "5 seeds" in text


def test_unequal_steps_are_not_hidden(made: Study) -> None:
    fill(made, alike)
    odd = folder_of(made, "kd", 2)
    facts = finished.done(odd)
    assert facts is not None
    write_json(odd / "done.json", {**facts, "steps": 41})
    text, _ = report(made)
    assert "NOT alike, other than the cells beside them: KD (tiny/hi, whisper, seed 2: st" in text


def test_published_whispers_of_older_code_are_not_like_those_of_now(
    made: Study, moved: Callable[..., Study]
) -> None:
    fill(made, alike)
    published = moved(made)
    for name, line in published.lines.items():
        if not name.endswith(" kd seed 2"):
            line.pop("code", None)
    text, _ = report(published)
    assert "NOT alike, other than the cells beside them: KD (tiny/hi, whisper, seed 2: c" in text


def test_nothing_run_is_a_report_too(made: Study) -> None:
    text, _ = report(made)
    assert "Unfinished: 0 of 30 runs are there" in text
    assert "AdaKD against KD: not run in 1 of 1 (tiny/hi, whisper)." in text
    assert "Not run: none of the 30 runs of 6 cells is there yet." in text
