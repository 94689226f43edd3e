"""Tables, sentences and page of a small made-up experiment tree, against numbers computed here."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from adakd import pages, plots, report, score, significance
from adakd.errors import UserError
from adakd.files import write_json

CONTEXT: report.Context = {
    "command": "./run.sh --recipe toy/en --student.note '<b> & co'",
    "corpus": "toy; release 7",
    "versions": {"torch": "2.11.0", "jiwer": "4.0.0"},
    "revision": "0123abc",
    "machine": "2 cores",
    "time": "2026-01-02 03:04 UTC",
    "demonstration": True,
}
REFERENCE = "abcdefghij"  # every utterance has ten characters
SPEAKERS = 6


def make_experiment(
    root: Path,
    method: str,
    wrong: list[int],
    *,
    family: str = "whisper",
    seed: int = 1,
    fold: int | None = None,
    done: bool = True,
) -> report.Experiment:
    """A run whose utterance i has wrong[i] substituted characters, difficulty i, speaker i % 6."""
    folder = root / f"fold{fold}" / family / method / f"seed{seed}"
    folder.mkdir(parents=True)
    rows = [
        {
            "id": f"u{index}",
            "speaker": f"speaker{index % SPEAKERS}",
            "reference": REFERENCE,
            "raw": REFERENCE + ".",
            "hypothesis": "z" * errors + REFERENCE[errors:],
            "seconds": 1.0,
            "difficulty": float(index),
        }
        for index, errors in enumerate(wrong)
    ]
    hyp = folder / "hyp.test.jsonl"
    hyp.write_text("".join(json.dumps(row) + "\n" for row in rows))
    score.score_file(hyp, folder / "score.json", "en")
    if done:
        alpha = {"t": 1.0, "k_start": 2.0, "k_end": 0.0} if method == "adakd" else {}
        facts = {"parameters": 1_234_567, "train_seconds": 75.4, "alpha": alpha}
        (folder / "done.json").write_text(json.dumps(facts))
        metrics = [
            {"step": 1, "epoch": 1, "loss": 9.0, "task": 3.0},
            {"step": 2, "epoch": 1, "loss": 9.0, "task": 2.0},
            {"step": 3, "epoch": 1, "loss": None, "task": None},  # a step that was skipped
            {"epoch": 1, "step": 2, "dev_cer": 0.5, "dev_loss": 1.0},
            {"step": 2, "epoch": 1, "loss": 9.0, "task": 1.5},  # logged again by a resumed run
        ]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(m) + "\n" for m in metrics))
    return report.Experiment(family, method, seed, fold, folder)


FINETUNE = [3, 2, 1, 4, 3, 2, 3, 5, 2, 4, 3, 6]  # 38 errors of 120 characters
KD = [2, 2, 1, 3, 3, 2, 2, 4, 2, 3, 3, 5]  # 32
ADAKD = [3, 1, 1, 3, 2, 3, 2, 4, 1, 4, 2, 5]  # 31


@pytest.fixture
def street(tmp_path: Path) -> list[report.Experiment]:
    return [
        make_experiment(tmp_path, "adakd", ADAKD),
        make_experiment(tmp_path, "kd", KD),
        make_experiment(tmp_path, "finetune", FINETUNE),
        make_experiment(tmp_path, "untrained", [10] * 12, done=False),
        make_experiment(tmp_path, "teacher", [0] * 11 + [6]),
    ]


def written(
    tmp_path: Path, experiments: list[report.Experiment], **changes
) -> tuple[str, str, str]:
    """Terminal text, RESULTS.md and the page."""
    out = tmp_path / "out"
    about = {name: changes.pop(name) for name in ("asked", "tag") if name in changes}
    context: report.Context = {**CONTEXT, **changes}
    difficulties = {"whisper": np.linspace(0.1, 4, 50)}
    text = report.write_report("toy/en", experiments, out, context, difficulties, **about)
    page = (out / "index.html").read_text(encoding="utf-8")
    return text, (out / "RESULTS.md").read_text(encoding="utf-8"), page


def markdown_rows(markdown: str) -> dict[str, list[str]]:
    lines = [line for line in markdown.splitlines() if line.startswith("| ")]
    split = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {row[0]: row[1:] for row in split}


@pytest.mark.parametrize("speakers", [1, SPEAKERS, 10])
def test_what_intervals_are_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, speakers: int
) -> None:
    monkeypatch.setitem(globals(), "SPEAKERS", speakers)
    _, markdown, _ = written(tmp_path, [make_experiment(tmp_path, "finetune", FINETUNE)])
    assert (f"bootstrap over {speakers} speakers, with t quantiles" in markdown) == (speakers >= 5)
    assert ("bootstrap over utterances" in markdown) == (speakers < 5)


def test_what_intervals_of_folds_are_over(tmp_path: Path) -> None:
    """With a seed each their luck is the folds', however many speakers are known."""
    for seeds, told in (
        (1, "over folds (one with a single seed is"),
        (2, "seeds, crossed with 6 "),
    ):
        root = tmp_path / str(seeds)
        runs = [
            make_experiment(root, "finetune", FINETUNE, seed=seed, fold=fold)
            for fold in range(4)
            for seed in range(1, 1 + seeds)
        ]
        _, markdown, _ = written(root, runs)
        assert told in markdown and "five known speakers" not in markdown


def counted(*systems: list[int], characters: int = 10) -> np.ndarray:
    """Counts of the six speakers for significance.py (6, 1, 2 x systems), from the test's sums."""
    columns = [
        [sum(wrong[s::SPEAKERS]), characters * len(wrong[s::SPEAKERS])]
        for s in range(SPEAKERS)
        for wrong in systems
    ]
    return np.array(columns, dtype=float).reshape(SPEAKERS, 1, -1)


def of_cer(counts: np.ndarray) -> str:
    low, high = significance.cer_interval(counts, np.zeros(1), 1000)
    return f"[{100 * low:.2f}, {100 * high:.2f}]"


def of_change(own: list[int], other: list[int]) -> str:
    low, high = significance.compare(counted(own, other), np.zeros(1), 1000).interval
    return f"[{100 * low:+.1f}, {100 * high:+.1f}]"


def test_numbers_of_the_table(tmp_path, street):
    _, markdown, _ = written(tmp_path, street)
    rows = markdown_rows(markdown)
    assert list(rows)[2:] == ["Teacher", "Untrained student", "Fine-tuning", "KD", "AdaKD"]

    full_stops = counted([errors + 1 for errors in ADAKD], characters=11)
    assert rows["AdaKD"] == [
        "1.23 M",
        f"{100 * 31 / 120:.2f} {of_cer(counted(ADAKD))}",
        f"{100 * 43 / 132:.2f} {of_cer(full_stops)}",
        "100.00",  # no word without an error
        "25.8 / 0.0 / 0.0",
        f"{100 * (31 / 38 - 1):+.1f} {of_change(ADAKD, FINETUNE)}",
        f"{100 * (31 / 32 - 1):+.1f} {of_change(ADAKD, KD)}",
        "1:15",
    ]
    assert rows["KD"][5].startswith(f"{100 * (32 / 38 - 1):+.1f} [")
    assert rows["KD"][6] == ""  # not against itself
    assert rows["Fine-tuning"][5] == ""
    assert rows["Untrained student"][0] == "1.23 M"  # the size of its trained brothers
    assert rows["Untrained student"][1] == f"100.00 {of_cer(counted([10] * 12))}"
    assert rows["Untrained student"][7] == "none"


def test_single_run_agrees_with_score_json(tmp_path, street):
    scores = json.loads((street[0].folder / "score.json").read_text())["test"]
    (row,) = [row for row in report.make_rows([report.read_run(street[0])]) if row.runs]
    assert list(row.interval) == scores["interval"]
    assert list(row.interval_raw) == scores["interval_raw"]


def test_text_table_is_aligned_and_holds_the_same(tmp_path, street):
    text, markdown, _ = written(tmp_path, street)
    lines = text.splitlines()
    rule = next(line for line in lines if line.startswith("---"))
    spans = [match.span() for match in re.finditer("-+", rule)]
    for label, cells in list(markdown_rows(markdown).items())[2:]:
        line = next(line for line in lines if line.startswith(label)).ljust(len(rule))
        assert [line[start:end].strip() for start, end in spans] == [label, *cells]


def test_demonstration_says_so_everywhere(tmp_path, street):
    for output in written(tmp_path, street):
        flat = " ".join(output.split())
        assert "a demonstration, not evidence" in flat
        assert "a single seed" in flat
    for output in written(tmp_path, street, demonstration=False):
        assert "demonstration" not in output


@pytest.mark.parametrize(
    ("speakers", "seeds", "told"),
    [
        (6, 2, []),
        (6, 1, ["with another seed each CER"]),
        (2, 2, ["other speakers than these 2 speakers"]),
        (2, 1, ["with another seed each CER", "other speakers than these 2 speakers"]),
        (1, 2, ["other speakers than this speaker may"]),
    ],
)
def test_what_a_recipes_intervals_do_not_hold_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, speakers: int, seeds: int, told: list[str]
) -> None:
    monkeypatch.setitem(globals(), "SPEAKERS", speakers)
    runs = [
        make_experiment(tmp_path, name, wrong, seed=seed)
        for name, wrong in (("finetune", FINETUNE), ("kd", KD))
        for seed in range(1, seeds + 1)
    ]
    runs.append(make_experiment(tmp_path, "teacher", KD))  # one of them for all seeds
    for output in written(tmp_path, runs, demonstration=False):
        flat = " ".join(output.split())
        for each in ("with another seed each CER", "other speakers than these 2 speakers",
                     "other speakers than this speaker may"):  # fmt: skip
            assert (each in flat) is (each in told)


def test_a_recipe_keeps_its_own_results_and_those_of_every_study(tmp_path):
    run, target = tmp_path / "run.md", tmp_path / "recipe/RESULTS.md"
    run.write_text("# Results\n\nfirst\n")
    report.publish_study(target, "a study", "A", [pages.Part("words", "a1")])
    report.publish(run, target)
    report.publish_study(target, "b", "B: more", [pages.Part("code", "# b1\nb2")])
    report.publish_study(target, "a study", "A anew", [pages.Part("heading", "x")])
    run.write_text("# Results\n\nsecond\n")
    report.publish(run, target)
    begin = "<!-- study {}: adakd benchmark --publish -->\n"
    assert target.read_text() == (
        f"# Results\n\nsecond\n\n{begin.format('a study')}# A anew\n\n## x\n\n"
        f"{begin.format('b')}# B: more\n\n```\n# b1\nb2\n```\n"
    )
    once = target.read_text()
    report.publish(run, target)
    assert target.read_text() == once
    report.publish(run, other := tmp_path / "other/RESULTS.md")
    assert other.read_text() == run.read_text()


def test_publishing_one_family_does_not_lose_the_other(tmp_path):
    run, target = tmp_path / "run.md", tmp_path / "RESULTS.md"
    both = "# Results\n\n## wav2vec2\n\nx\n\n## whisper\n\ny\n"
    for text in ("# Results\n\n## whisper\n\ny\n", both, both):
        run.write_text(text)
        report.publish(run, target)
    run.write_text("# Results\n\n## whisper\n\nz\n")
    with pytest.raises(UserError, match="RESULTS.md has a table of wav2vec2 as well, which this"):
        report.publish(run, target)
    assert target.read_text() == both


def test_missing_methods_are_not_run(tmp_path):
    text, markdown, _ = written(tmp_path, [make_experiment(tmp_path, "finetune", FINETUNE)])
    for label in ("Teacher", "Untrained student", "KD", "AdaKD"):
        assert markdown_rows(markdown)[label][1] == "not run"
    assert f"KD {report.UNTESTED}. AdaKD {report.UNTESTED}." in " ".join(text.split())


@pytest.mark.parametrize(
    ("methods", "label"),
    [(["adakd-learned"], "AdaKD (learned)"), (["focal", "superloss"], "SuperLoss")],
)
def test_a_student_of_another_method_is_told(tmp_path, methods, label):
    made = [make_experiment(tmp_path, name, KD) for name in ("teacher", *methods)]
    markdown = written(tmp_path, made)[1]
    assert f"whisper: {label} reaches a CER of {100 * 32 / 120:.2f} %" in markdown
    assert f"Fine-tuning {report.UNTESTED}." in markdown and "no student" not in markdown
    assert "no student has been trained" in written(tmp_path, made[:1])[1]


def test_other_methods_get_rows_of_their_own(tmp_path, street):
    tagged = make_experiment(tmp_path, "adakd-p25", KD)
    _, markdown, _ = written(tmp_path, [*street, tagged])
    assert markdown_rows(markdown)["AdaKD (p25)"][6] == "+0.0 [+0.0, +0.0]"


@pytest.mark.parametrize("tag", ["short", "t-mean"])
def test_a_tag_is_compared_with_the_baselines_of_its_own(tmp_path, tag):
    own = [
        make_experiment(tmp_path, f"{method}-{tag}", wrong)
        for method, wrong in (("finetune", FINETUNE), ("kd", KD), ("adakd", ADAKD))
    ]
    own += [make_experiment(tmp_path, name, [10] * 12) for name in ("teacher", f"untrained-{tag}")]
    _, markdown, page = written(tmp_path, own)
    rows = markdown_rows(markdown)
    labels = [f"{label} ({tag})" for label in ("Untrained student", "Fine-tuning", "KD", "AdaKD")]
    assert list(rows)[2:] == ["Teacher", *labels]
    ours = rows[f"AdaKD ({tag})"]
    assert ours[5].startswith(f"{100 * (31 / 38 - 1):+.1f} [")
    assert ours[6].startswith(f"{100 * (31 / 32 - 1):+.1f} [")
    assert rows[f"KD ({tag})"][5] and not rows[f"KD ({tag})"][6]
    assert rows[f"Untrained student ({tag})"][7] == "none"
    assert f"whisper: AdaKD ({tag}) reaches a CER of {100 * 31 / 120:.2f} %" in markdown
    assert f"AdaKD ({tag}) is 3.1 % relative better than KD ({tag})" in markdown
    assert "not run" not in markdown and "has not been" not in markdown
    # Those without a tag are not what it is compared with, and come first.
    plain = [make_experiment(tmp_path, name, [10] * 12) for name in ("finetune", "kd")]
    assert f"than KD ({tag}); the interval" in written(tmp_path, [*own, *plain])[1]
    plain.append(make_experiment(tmp_path, "adakd", [10] * 12))
    rows = markdown_rows(written(tmp_path, [*own, *plain])[1])
    assert rows[f"AdaKD ({tag})"] == ours
    assert list(rows)[2:6] == ["Teacher", "Fine-tuning", "KD", "AdaKD"]
    assert rows["AdaKD"][6].startswith("+0.0")


def test_a_tag_without_baselines_is_compared_with_those_without_a_tag(tmp_path):
    runs = [
        make_experiment(tmp_path, name, wrong)
        for name, wrong in (("finetune", FINETUNE), ("kd", KD), ("adakd-p25", ADAKD))
    ]
    text, markdown, _ = written(tmp_path, runs)
    assert markdown_rows(markdown)["AdaKD (p25)"][6].startswith(f"{100 * (31 / 32 - 1):+.1f} [")
    assert "AdaKD (p25) is 3.1 % relative better than KD; the interval" in markdown
    assert f"AdaKD {report.UNTESTED}" not in markdown
    assert report.OF_VARIANTS in markdown
    assert report.OF_VARIANTS in " ".join(text.split())  # in the terminal, too
    assert report.OF_VARIANTS not in " ".join(written(tmp_path, runs[:2])[0].split())


def test_the_first_sentence_is_of_what_is_no_baseline(tmp_path):
    runs = [
        make_experiment(tmp_path, name, wrong)
        for name, wrong in (("finetune", FINETUNE), ("kd", KD), ("superloss", ADAKD))
    ]
    _, markdown, _ = written(tmp_path, runs, asked=["finetune", "kd", "superloss"])
    assert f"whisper: SuperLoss reaches a CER of {100 * 31 / 120:.2f} %" in markdown
    assert "SuperLoss is 3.1 % relative better than KD; the interval" in markdown


def test_a_kd_with_a_tag_is_compared_with_the_kd_without(tmp_path):
    """--methods kd --tag drop: whether it beats plain KD, and not a word of an AdaKD."""
    runs = [
        make_experiment(tmp_path, name, wrong)
        for name, wrong in (("finetune", FINETUNE), ("kd", KD), ("kd-drop", ADAKD))
    ]
    text, markdown, _ = written(tmp_path, runs, asked=["kd"], tag="drop")
    ours = markdown_rows(markdown)["KD (drop)"]
    assert ours[5].startswith(f"{100 * (31 / 38 - 1):+.1f} [")
    assert ours[6].startswith(f"{100 * (31 / 32 - 1):+.1f} [")
    assert f"whisper: KD (drop) reaches a CER of {100 * 31 / 120:.2f} %" in markdown
    assert "KD (drop) is 3.1 % relative better than KD; the interval" in markdown
    assert "AdaKD" not in text.replace("AdaKD results", "")
    # A method with a tag that nobody asked about is not what the first sentence is of.
    also = [*runs, make_experiment(tmp_path, "adakd", KD)]
    _, markdown, _ = written(tmp_path, also, asked=["kd"], tag="drop")
    assert "whisper: KD (drop) reaches" in markdown


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("kd", ("kd", "")),
        ("kd-int8", ("kd-int8", "")),
        ("adakd-learned", ("adakd-learned", "")),
        ("adakd-learned-int8-t-mean", ("adakd-learned-int8", "t-mean")),
        ("adakd-learnedly", ("adakd", "learnedly")),
        ("kd-k_end.0", ("kd", "k_end.0")),
    ],
)
def test_the_tag_of_an_experiment(method, expected):
    assert report.split_tag(method) == expected


def test_rows_stand_in_the_papers_order_and_the_other_methods_only_where_they_were_run(
    tmp_path, street
):
    others = [make_experiment(tmp_path, name, KD) for name in ("annealing", "superloss")]
    _, markdown, _ = written(tmp_path, [*street, *others])
    labels = [label for label in markdown_rows(markdown) if label in report.LABELS.values()]
    assert labels == [
        *("Teacher", "Untrained student", "Fine-tuning"),
        *("KD", "SuperLoss", "Annealing KD", "AdaKD"),
    ]


def test_every_method_has_a_colour_and_a_marker_of_its_own():
    for part in zip(*plots.STYLES.values(), *plots.SPARE_STYLES, strict=True):
        twice = {each for each in part if part.count(each) > 1}
        assert not twice, "adakd/methods.py: give colours and markers that plots.py has not yet"
    assert set(plots.STYLES) == set(report.LABELS)


def test_a_variant_looks_like_its_method_where_that_is_not_there():
    def drawn(*names: str) -> plots.Families:
        nowhere = (0.1, 0.2)
        return {"whisper": [plots.Method(name, name, 0.1, nowhere) for name in names]}

    styles = plots._styles(drawn("teacher", "finetune-a", "kd-a", "adakd-learned-a"))
    for name, method in (("finetune-a", "finetune"), ("adakd-learned-a", "adakd-learned")):
        assert styles[name] == plots.STYLES[method]
    styles = plots._styles(drawn("kd", "kd-a", "adakd-a", "adakd-b", "own"))
    assert [styles[name] for name in ("kd-a", "adakd-a", "adakd-b", "own")] == plots.SPARE_STYLES


def test_nothing_to_report_names_the_stages(tmp_path):
    with pytest.raises(UserError, match="stages 2 to 8"):
        written(tmp_path, [])


def test_different_utterances_are_an_error(tmp_path):
    experiments = [
        make_experiment(tmp_path, "finetune", FINETUNE),
        make_experiment(tmp_path, "kd", KD[:-1]),
    ]
    with pytest.raises(UserError, match="kd.*lacks 1 .u11"):
        written(tmp_path, experiments)


def test_a_broken_metrics_line_is_named(tmp_path, street):
    (street[0].folder / "metrics.jsonl").write_text('{"step": 1, "task": 2.0}\n{"st')
    with pytest.raises(UserError, match=r"metrics\.jsonl:2"):
        report.read_run(street[0])


# -- sentences -------------------------------------------------------------------------------------


def change(relative: float, low: float, high: float) -> significance.Change:
    unused = significance.Variance(0.0, 0.0, 0.0, 1, 1, 6)
    return significance.Change(relative, significance.Interval(low, high), 0.5, unused)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (
            change(-0.047, -0.091, 0.002),
            "AdaKD is 4.7 % relative better than KD; the interval (-9.1 % to +0.2 %) includes "
            "zero, so this run can't tell",
        ),
        (
            change(0.05, 0.01, 0.09),
            "AdaKD is 5.0 % relative worse than KD; the interval (+1.0 % to +9.0 %) excludes zero",
        ),
        (
            change(0.0, -0.1, 0.1),
            "AdaKD makes exactly as many errors as KD; the interval (-10.0 % to +10.0 %) includes "
            "zero, so this run can't tell",
        ),
        (change(math.inf, 0.0, math.inf), "KD makes no error at all here, which AdaKD does"),
        (
            change(-0.5, math.nan, math.nan),
            "AdaKD is 50.0 % relative better than KD; without an interval this run can't tell",
        ),
    ],
)
def test_verdict(given, expected):
    assert report.verdict("AdaKD", "KD", given) == expected


def test_headline_tells_the_numbers(tmp_path, street):
    text, markdown, _ = written(tmp_path, street)
    start = f"whisper: AdaKD reaches a CER of {100 * 31 / 120:.2f} % (95 % interval "
    others = "fine-tuning 31.67 %, KD 26.67 %, the teacher 5.00 %."
    for output in (" ".join(text.split()), markdown):
        assert start in output
        assert others in output
        assert "AdaKD is 3.1 % relative better than KD; the interval" in output
        assert "AdaKD is 18.4 % relative better than fine-tuning; the interval" in output


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        *((None, "unknown"), (512, "512"), (431_000, "431 k"), (1_800_000, "1.8 M")),
        *((2**30, "1.07 G"), (999_400, "999 k"), (999_600, "1 M"), (999_960_000, "1 G")),
    ],
)
def test_size(parameters, expected):
    assert report.size(parameters) == expected


def test_a_size_on_disk_has_no_exponent():
    sizes = [None, 1_360_000, 354_530_000, 1_261_930_000]
    assert [report.on_disk(size) for size in sizes] == ["", "1.36 MB", "355 MB", "1.26 GB"]


# -- pooling ---------------------------------------------------------------------------------------


def test_folds_are_put_together_and_seeds_added(tmp_path):
    experiments = [
        make_experiment(tmp_path, "kd", [1, 2], fold=0, seed=1),
        make_experiment(tmp_path, "kd", [3, 2], fold=0, seed=2),
        make_experiment(tmp_path, "kd", [0, 4, 5], fold=1, seed=1),
    ]
    pooled = report.pool([report.read_run(one) for one in experiments])
    found = {one.id: (one.normalised.errors, one.normalised.characters) for one in pooled}
    assert found == {
        "fold 0: u0": (4, 20),
        "fold 0: u1": (4, 20),
        "fold 1: u0": (0, 10),
        "fold 1: u1": (4, 10),
        "fold 1: u2": (5, 10),
    }


def test_one_teacher_of_all_seeds_is_told(tmp_path):
    teacher = make_experiment(tmp_path, "teacher", [1] * 12)
    seeds = [make_experiment(tmp_path, "kd", KD, seed=seed) for seed in (1, 2)]
    shared = [dataclasses.replace(teacher, seed=seed) for seed in (1, 2)]
    told = "The seeds share one teacher: its luck is in no interval"
    assert told in written(tmp_path, [*seeds, *shared])[1]
    own = [teacher, make_experiment(tmp_path, "teacher", [2] * 12, seed=2)]
    assert told not in written(tmp_path, [*seeds, *own])[1]


def test_families_tested_on_other_clips_say_so(tmp_path):
    runs = [
        make_experiment(tmp_path, "kd", KD),
        make_experiment(tmp_path, "kd", KD[:-2], family="wav2vec2"),
    ]
    sizes = "12 utterances, 120 characters as whisper", "10 utterances, 100 characters as wav2vec2"
    markdown = written(tmp_path, runs)[1]
    assert all(size in markdown for size in sizes)


def test_comparison_uses_the_runs_that_both_have(tmp_path):
    runs = [
        report.read_run(make_experiment(tmp_path, method, wrong, fold=fold))
        for method, fold, wrong in (
            ("kd", 0, [2, 2]),
            ("kd", 1, [9, 9]),
            ("adakd", 0, [1, 1]),
        )
    ]
    found = report.compare(runs[2:], runs[:2])
    assert found is not None
    assert found.relative == pytest.approx(-0.5)
    assert report.compare(runs[2:], runs[1:2]) is None
    rows = {"whisper": report.make_rows(runs)}
    assert any("do not hold the same runs (KD 2, AdaKD 1)" in n for n in report.notes(rows))


def test_unlike_numbers_of_steps_are_told(tmp_path):
    """Such as of --nproc 4 in one stage alone; the teacher's own number is no matter."""
    made = [make_experiment(tmp_path, name, [1, 2, 3]) for name in ("teacher", "kd", "adakd")]
    for experiment, steps in zip(made, (99, 40, 10), strict=True):
        path = experiment.folder / "done.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"steps": steps}))

    def notes() -> str:
        rows = {"whisper": report.make_rows([report.read_run(each) for each in made])}
        return " ".join(report.notes(rows))

    assert "the same number of optimiser steps (KD 40; AdaKD 10), by other epochs" in notes()
    path.write_text(json.dumps(json.loads(path.read_text()) | {"steps": 40}))
    assert "optimiser steps" not in notes()


def test_intervals_of_several_seeds_have_their_luck_too(tmp_path):
    other = [errors + 2 for errors in ADAKD]
    runs = [
        report.read_run(make_experiment(tmp_path, method, wrong, seed=seed))
        for method, seed, wrong in (
            ("kd", 1, KD),
            ("kd", 2, FINETUNE),
            ("adakd", 1, ADAKD),
            ("adakd", 2, other),
            ("finetune", 3, FINETUNE),
            ("finetune", 4, KD),
        )
    ]
    rows = {row.method: row for row in report.make_rows(runs) if row.runs}
    seeds = np.zeros(2)
    counts = np.concatenate([counted(ADAKD, KD), counted(other, FINETUNE)], axis=1)
    expected = significance.cer_interval(counts[..., :2], seeds, 1000)
    assert rows["adakd"].interval == pytest.approx(expected)
    change = significance.compare(counts, seeds, 1000)
    found = rows["adakd"].changes["kd"]
    assert found.interval == pytest.approx(change.interval)
    assert found.relative == pytest.approx((31 + 55) / (32 + 38) - 1)
    # Without a seed in common what remains is the test speech, on which errors are added.
    sums = np.concatenate([counted(ADAKD, FINETUNE), counted(other, KD)], axis=1).sum(axis=1)
    change = significance.compare(sums[:, None], np.zeros(1), 1000)
    assert rows["adakd"].changes["finetune"].interval == pytest.approx(change.interval)
    notes = " ".join(report.notes({"whisper": list(rows.values())}))
    assert "bootstrap over seeds, crossed with 6 speakers" in notes
    assert "seeds 1, 2, 3, 4 are added" in notes and "luck of a training run" in notes


def test_a_single_utterance_has_no_interval(tmp_path):
    experiments = [make_experiment(tmp_path, name, [n]) for name, n in (("kd", 4), ("adakd", 2))]
    for output in written(tmp_path, experiments):
        flat = " ".join(unescape(output).split())
        assert "AdaKD reaches a CER of 20.00 %; KD 40.00 %." in flat
        assert "better than KD; without an interval this run can't tell." in flat
        assert "nan" not in re.sub(r"base64,[^\"]*", "", output)


def test_every_run_is_listed(tmp_path):
    experiments = [
        make_experiment(tmp_path, "kd", [1, 2], fold=10),
        make_experiment(tmp_path, "kd", [4, 2], fold=2),
        make_experiment(tmp_path, "adakd", [1, 0], fold=2),
    ]
    _, markdown, page = written(tmp_path, experiments)
    rows = markdown_rows(markdown)
    assert rows["Run"] == ["KD", "AdaKD"]
    assert rows["fold 2, seed 1"] == ["30.00", "5.00"]
    assert rows["fold 10, seed 1"] == ["15.00", "not run"]
    assert list(rows).index("fold 2, seed 1") < list(rows).index("fold 10, seed 1")
    assert "fold 10, seed 1" in page


def test_quartiles_are_of_the_teachers_loss(tmp_path):
    run = report.read_run(make_experiment(tmp_path, "kd", [0, 1, 2, 2, 3, 5, 9, 10]))
    assert report.cer_by_quartile([run]) == pytest.approx([0.05, 0.2, 0.4, 0.95])
    without = report.Run(run.experiment, run.errors, [None] * 8, {}, [], [])
    assert report.cer_by_quartile([without]) == []


def test_metrics_logged_twice_count_once(street):
    run = report.read_run(street[0])
    assert run.task_loss == [(1, 3.0), (2, 1.5)]
    assert run.dev_cer == [(1, 0.5)]


# -- the page and its plots ------------------------------------------------------------------------


class Resources(HTMLParser):
    """Collects whatever a browser would load."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loaded += [value or "" for name, value in attrs if name in ("src", "href", "srcset")]


def test_page_stands_alone(tmp_path, street):
    _, _, page = written(tmp_path, street)
    resources = Resources()
    resources.feed(page)
    assert len(resources.loaded) == 4  # the plots
    assert all(one.startswith("data:image/png;base64,") for one in resources.loaded)
    assert "script" not in resources.tags and "link" not in resources.tags
    assert "@import" not in page and "url(" not in page
    without_pictures = re.sub(r"data:image/png;base64,[^\"]*", "", page)
    assert "http://" not in without_pictures and "https://" not in without_pictures


def test_page_says_how_it_was_made(tmp_path, street):
    _, markdown, page = written(tmp_path, street)
    assert CONTEXT["command"] in markdown
    assert "--student.note &#x27;&lt;b&gt; &amp; co&#x27;" in page
    facts = ("toy; release 7", "torch 2.11.0, jiwer 4.0.0", "0123abc", "2 cores")
    for fact in (*facts, CONTEXT["time"]):
        assert fact in markdown
        assert fact in page


def test_minus_signs_stand_before_numbers_alone():
    table = pages.html_table([["A", "B"], ["espeak/hi-1h", pages.Cell("-1.5", "[-2, +1]")]])
    assert "<td>\u22121.5" in table and "[\u22122, +1]" in table
    assert "<td>espeak/hi-1h</td>" in pages.html_table([["A", "B"], ["a", "espeak/hi-1h"]])


def test_plots_are_files_too(tmp_path, street):
    written(tmp_path, street)
    folder = tmp_path / "out"
    assert {path.name for path in folder.iterdir()} == {
        "RESULTS.md",
        "index.html",
        "cer.png",
        "learning.png",
        "quartiles.png",
        "alpha.png",
    }
    assert all(path.read_bytes()[:4] == b"\x89PNG" for path in folder.glob("*.png"))


def test_without_metrics_difficulties_and_alpha_only_the_first_plot_remains(tmp_path):
    experiment = make_experiment(tmp_path, "adakd", [1, 2, 3], done=False)
    rows = {"whisper": report.make_rows([report.read_run(experiment)])}
    assert list(report.make_figures(rows, {})) == ["cer"]


@pytest.mark.parametrize("changed", [{}, {"scale": "rank"}, {"control": "mean"}, {"guard": 0.9}])
def test_alpha_is_drawn_over_x_only_where_it_depends_on_x_itself(tmp_path, changed):
    experiment = make_experiment(tmp_path, "adakd", [1, 2, 3])
    path = experiment.folder / "done.json"
    done = json.loads(path.read_text())
    done["alpha"] |= {"scale": "linear", "control": "none"} | changed
    path.write_text(json.dumps(done))
    rows = {"whisper": report.make_rows([report.read_run(experiment)])}
    figures = report.make_figures(rows, {"whisper": np.array([0.1, 0.5, 2.0])})
    assert ("alpha" in figures) == (changed.keys() <= {"scale"})


@pytest.mark.parametrize("scale", ["linear", "log", "rank"])
def test_alpha_is_drawn_as_training_had_it(tmp_path, scale):
    """With equal x and an x of 0, where the scales have their corners."""
    import torch

    from adakd.weighting import AdaKD

    x = [0.0, 0.3, 0.3, 0.1, 2.5, 0.7]
    weighting = AdaKD(scale=scale, alpha=0.3)
    weighting.fit(x)
    experiment = make_experiment(tmp_path, "adakd", [1, 2, 3])
    path = experiment.folder / "done.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"alpha": weighting.summary()}))
    schedule = report.schedule_of(report.read_run(experiment), x)
    for progress in (0.0, 0.4, 1.0):
        expected = weighting.alpha(torch.tensor(x), progress).tolist()
        assert schedule.alpha(schedule.difficulties, progress) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("at_t", [0.1, math.exp(-1)])
@pytest.mark.parametrize(("progress", "k"), [(0.0, 2.0), (0.5, 1.0), (1.0, 0.0)])
def test_schedule_is_the_closed_form(progress, k, at_t):
    x = np.array([0.0, 1.0, 3.0])
    expected = [math.exp(math.log(at_t) * math.exp(k * (value - 1.0) / 2)) for value in x]
    schedule = plots.Schedule(1.0, 2.0, 0.0, at_t, x)
    assert schedule.alpha(x, progress) == pytest.approx(expected)
    assert np.isfinite(schedule.alpha(np.array([-1e9, 1e9]), progress)).all()


def test_an_untrained_student_does_not_squeeze_the_others():
    methods = [
        plots.Method("untrained", "Untrained student", 0.95, (0.9, 1.0)),
        plots.Method("kd", "KD", 0.2, (0.1, 0.3)),
        plots.Method("finetune", "Fine-tuning", 0.9, (0.8, 1.0)),
    ]
    assert plots._on_scale(methods) == methods
    assert plots._on_scale(methods[:2]) == methods[1:2]
    assert plots._on_scale(methods[:1]) == methods[:1]


# -- words, Mandarin, and recording conditions -----------------------------------------------------


def rescored(experiment: report.Experiment, language: str, change) -> report.Experiment:
    """The same run, its hypothesis rows changed and scored again."""
    hyp = experiment.folder / "hyp.test.jsonl"
    rows = [json.loads(line) for line in hyp.read_text(encoding="utf-8").splitlines()]
    for number, row in enumerate(rows):
        del row["errors"]
        row.update(change(number))
    hyp.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    score.score_file(hyp, experiment.folder / "score.json", language)
    return experiment


def test_words_have_a_column_where_spaces_part_them(tmp_path):
    """Two seeds of AdaKD: 1 and 2 of 6 words. What an earlier version scored has an empty cell."""
    said = [("a b c", "a b x"), ("d e f", "d e f")], [("a b c", "a b x y"), ("d e f", "d e f")]
    seeds = [
        rescored(
            make_experiment(tmp_path / str(seed), "adakd", [0, 0], seed=seed),
            "en",
            lambda n, own=own: {"reference": own[n][0], "hypothesis": own[n][1]},
        )
        for seed, own in enumerate(said, start=1)
    ]
    earlier = make_experiment(tmp_path / "earlier", "finetune", [0, 0])
    hyp = earlier.folder / "hyp.test.jsonl"
    hyp.write_text(re.sub(r', "words": \[[^]]*\]', "", hyp.read_text()))
    text, markdown, page = written(tmp_path, [*seeds, earlier])
    rows = markdown_rows(markdown)
    assert rows["Method"] == [*report.HEADER[1:4], report.WER, *report.HEADER[4:]]
    assert rows["AdaKD"][3] == f"{100 * (1 + 2) / (6 + 6):.2f}"
    assert rows["Fine-tuning"][3] == rows["KD"][3] == ""
    assert len(rows["Fine-tuning"]) == len(rows["KD"]) == len(rows["Method"])
    assert report.WER in text and f"<th>{report.WER}</th>" in page
    for output in (markdown, page):
        assert "picked by their CER" in output
    # Where no row has it there is no column, and no note.
    _, markdown, page = written(tmp_path, [earlier])
    assert markdown_rows(markdown)["Method"] == list(report.HEADER[1:])
    assert "WER" not in markdown and report.WER not in page and "WER: " not in page


def test_mandarin_has_a_column_more(tmp_path):
    said = [("他们", "她们"), ("天气", "天其"), ("学生", "学生")]  # CER 2 of 6, syllables 1 of 6
    experiments = [
        rescored(
            make_experiment(tmp_path, method, [0, 0, 0]),
            "zh",
            lambda n: {"reference": said[n][0], "raw": said[n][0], "hypothesis": said[n][1]},
        )
        for method in ("kd", "adakd")
    ]
    text, markdown, page = written(tmp_path, experiments)
    rows = markdown_rows(markdown)
    assert rows["Method"] == [*report.HEADER[1:4], report.PINYIN, *report.HEADER[4:]]
    assert rows["KD"][1].startswith("33.33 [") and rows["KD"][3].startswith("16.67 [")
    assert len(rows["Fine-tuning"]) == len(rows["KD"])
    assert report.PINYIN in text and f"<th>{report.PINYIN}</th>" in page
    assert "pypinyin" in markdown and "pypinyin" in page


def test_other_languages_do_not(tmp_path, street):
    for output in written(tmp_path, street):
        assert "inyin" not in output and report.BY_CONDITION not in output


def test_conditions_have_a_table_of_their_own(tmp_path):
    names = ("iOS", "Mic")
    experiments = [
        rescored(
            make_experiment(tmp_path, method, wrong, seed=seed),
            "en",
            lambda n: {"condition": names[n % 2]},
        )
        for method, seed, wrong in (
            ("finetune", 1, [1, 4, 2, 5]),
            ("finetune", 2, [3, 4, 0, 7]),
            ("adakd", 1, [0, 3, 1, 2]),
        )
    ]
    text, markdown, page = written(tmp_path, experiments)
    table = markdown.split(report.BY_CONDITION)[1].split("\n\n")[1]
    rows = markdown_rows(table)
    assert rows["Method"] == ["iOS", "Mic"]
    assert [cell.split()[0] for cell in rows["Fine-tuning"]] == ["15.00", "50.00"]  # seeds added
    assert [cell.split()[0] for cell in rows["AdaKD"]] == ["5.00", "25.00"]
    assert list(rows) == ["Method", "---", "Fine-tuning", "AdaKD"]
    (row,) = [
        row for row in report.make_rows(list(map(report.read_run, experiments[2:]))) if row.runs
    ]
    alone = [one for one in row.utterances if one.condition == "Mic"]
    low, high = score.bootstrap_interval([score.Tested(alone)])
    assert rows["AdaKD"][1] == f"25.00 [{100 * low:.2f}, {100 * high:.2f}]"
    for output in (text, page):
        assert f"whisper: {report.BY_CONDITION}" in output and "25.00" in output


def test_int8_students_stand_in_the_table_with_their_size(tmp_path, street):
    def column(markdown: str) -> dict[str, str]:
        return {label: cells[-1] for label, cells in markdown_rows(markdown).items()}

    assert "On disk" not in column(written(tmp_path, street)[1])["Method"]
    int8 = make_experiment(tmp_path, "kd-int8", KD)
    for experiment, name, size in ((street[1], "model.safetensors", 40), (int8, "int8.pt", 12)):
        (experiment.folder / "model").mkdir()
        (experiment.folder / "model" / name).write_bytes(bytes(size * 100_000))
        (experiment.folder / "model" / "tokenizer.json").write_text("counts as nothing")
    text, markdown, page = written(tmp_path, [*street, int8])
    found = column(markdown)
    assert found["Method"] == "On disk" and "On disk" in text and "On disk" in page
    assert (found["KD"], found["KD (int8)"]) == ("4 MB", "1.2 MB")
    assert found["AdaKD"] == "", "unknown where there are no weights"
    assert "decoded on the CPU" in markdown


def test_a_run_is_of_the_data_that_it_was_decoded_on(tmp_path: Path) -> None:
    """Its training knows of no test set; what is published is taken for that test set alone."""
    experiment = make_experiment(tmp_path, "kd", [0, 1])
    inputs = {"data": "train and dev", "seed": 1}
    write_json(experiment.folder / "done.json", {"inputs": inputs})
    assert report.read_run(experiment).done["inputs"] == inputs
    write_json(experiment.folder / "decode/done.json", {"inputs": {"data": "with test"}})
    assert report.read_run(experiment).done["inputs"] == inputs | {"data": "with test"}
    write_json(experiment.folder / "decode/done.json", {})
    with pytest.raises(UserError, match="decode/done.json is damaged"):
        report.read_run(experiment)
    write_json(experiment.folder / "done.json", {"inputs": {"model": "int8's"}})
    assert report.read_run(experiment).done["inputs"] == {"model": "int8's"}
