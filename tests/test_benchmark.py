"""The runner: a miniature study from nothing to its report, and what happens when cells die."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import tiny_recipe

from adakd import cli
from adakd.errors import UserError
from adakd.finished import done, mark_done
from adakd.place import Place
from adakd.stages import results, training
from adakd.study import benchmark, grid
from adakd.study.benchmark import Workers, attempt, perform, run
from adakd.study.findings import read_table
from adakd.study.grid import Study, Task
from adakd.study.page import write_report
from adakd.study.published import read_lines

MINIATURE = Path(__file__).with_name("miniature.yaml")


class Here:
    """Runs tasks in this process, one at a time."""

    jobs = 1

    def __init__(self, doing: Any = perform) -> None:
        self.doing, self.given = doing, [Task("", "", ())][:0]

    def start(self, task: Task) -> None:
        self.given.append(task)

    def finished(self) -> list[tuple[Task, str | None, float]]:
        return [(self.given[-1], attempt(self.doing, self.given[-1]), 1.0)]


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    recordings = tiny_recipe.fsdd_recordings(folder / "fsdd")
    tiny_recipe.fsdd_recipe(folder, recordings)
    return folder


@pytest.fixture(scope="module")
def finished(repository: Path) -> Any:
    """The miniature study, run; `given` are the tasks in their order."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(grid, "REPOSITORY", repository)
        study = Study(MINIATURE, repository / "root")
        pool = Here()
        assert run(study, pool) == 0
        yield study, [task.name for task in pool.given]


def test_every_task_runs_once(finished: Any) -> None:
    study, given = finished
    records = study.read_records()
    assert Counter(given) == Counter(records.keys())
    assert {record["status"] for record in records.values()} == {"done"}
    kinds = Counter(record["kind"] for record in records.values())
    assert kinds == {"data": 1, "teacher": 1, "trial": 3, "reference": 1, "cell": 7}
    assert study.sizes(records) == kinds | {"difficulty": 0}


def test_what_only_chooses_never_opens_test(finished: Any) -> None:
    study, _ = finished
    below = study.root / "exp/tiny/en/fold1/wav2vec2"
    for trial in ("finetune-epochs5", "kd-try1", "kd-try2"):
        folder = below / trial / "seed1"
        assert (folder / "done.json").exists()
        assert not list(folder.glob("hyp.*")) and not (folder / "score.json").exists()
    assert len(list(below.glob("*/seed*/hyp.test.jsonl"))) == 7 + 1 + 2, "teacher, two starts"


def test_what_a_trial_has_trained_is_taken_over_and_is_what_training_gives(finished: Any) -> None:
    study, _ = finished
    (task,) = (each for each in study.tasks(study.read_records()) if "finetune seed 1" in each.name)
    facts = done(task.folder)
    assert facts and facts["taken_over"] == "finetune-epochs5/seed1"
    tuned = done(task.folder.parents[1] / "kd" / "seed1")
    assert tuned and tuned["taken_over"] in ("kd-try1/seed1", "kd-try2/seed1")
    other = done(task.folder.parent / "seed2")
    assert other and "taken_over" not in other
    result = [
        (task.folder / name).read_bytes() for name in ("model/model.safetensors", "hyp.test.jsonl")
    ]
    shutil.rmtree(task.folder)
    perform(task)
    assert "taken_over" not in (done(task.folder) or {})
    for name, before in zip(("model/model.safetensors", "hyp.test.jsonl"), result, strict=True):
        assert (task.folder / name).read_bytes() == before


def test_what_is_being_trained_is_waited_for(finished: Any) -> None:
    """Side by side, a cell and its twin would both train."""
    study, _ = finished
    running: list[Task] = []

    class Two(Here):
        jobs = 2

        def start(self, task: Task) -> None:
            assert not task.training or task.training not in [each.training for each in running]
            running.append(task)

        def finished(self) -> list[tuple[Task, str | None, float]]:
            task = running.pop()
            self.given.append(task)
            return [(task, None, 1.0)]

    pool = Two()
    assert run(study, pool) == 0
    twins = {task.name.split("wav2vec2 ")[1] for task in pool.given if task.twin is not None}
    assert twins == {"finetune seed 1", "kd seed 1"}


def test_cells_share_the_start_the_steps_and_one_teacher(finished: Any) -> None:
    study, _ = finished
    below = study.root / "exp/tiny/en/fold1/wav2vec2"
    assert [path.name for path in (below / "teacher").glob("[!.]*")] == ["seed1"]
    facts = [done(below / cell / "seed2") for cell in ("finetune", "kd", "adakd")]
    assert len({each["inputs"]["start"] for each in facts if each}) == 1
    assert [each["steps"] for each in facts if each] == [2, 2, 2]
    assert {each["alpha"].get("control", "none") for each in facts if each} == {"none"}


def test_a_second_start_does_nothing_twice(finished: Any) -> None:
    study, given = finished
    files = {p: p.stat().st_mtime_ns for p in study.root.rglob("*") if p.is_file()}
    before = study.read_records()
    pool = Here()
    assert run(study, pool) == 0
    assert sorted(task.name for task in pool.given) == sorted(given), "everything is looked at"
    changed = {p for p, at in files.items() if p.stat().st_mtime_ns != at}
    assert changed <= {study.records, study.folder / "lock"}
    assert study.read_records() == before, "with the seconds that it took to do"


def test_a_failing_cell_is_recorded_and_tried_again(
    finished: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, _ = finished
    train = training.train

    def failing(place: Place, method: str, **options: Any) -> None:
        if method == "adakd" and place.config.tag == "permuted":
            raise RuntimeError("no more\nroom")
        train(place, method, **options)

    monkeypatch.setattr(training, "train", failing)
    assert run(study, Here()) == 1
    records = study.read_records()
    name = "tiny/en fold 1 wav2vec2 adakd-permuted seed 1"
    assert records[name]["reason"] == "RuntimeError: no more room"
    assert sum(record["status"] == "done" for record in records.values()) == len(records) - 1
    assert benchmark.main([str(MINIATURE), "--root", str(study.root), "--report"]) == 0
    text = (study.folder / "STUDY.md").read_text(encoding="utf-8")
    assert f"- {name}: RuntimeError: no more room" in text
    monkeypatch.setattr(training, "train", train)
    pool = Here()
    assert run(study, pool, only="permuted") == 0
    assert [task.name for task in pool.given if task.kind == "cell"] == [name]


def test_a_folder_is_no_file_to_publish_to(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["benchmark", str(MINIATURE), "--report", "--publish", str(tmp_path)]
    assert cli.main(arguments) == 1
    assert f"--publish {tmp_path} is a folder: name a file" in capsys.readouterr().err


def test_the_report_of_the_miniature(
    finished: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study, _ = finished
    published = grid.REPOSITORY / "docs/STUDY.md"
    published.parent.mkdir(exist_ok=True)
    arguments = [str(MINIATURE), "--root", str(study.root), "--report", "--publish", str(published)]
    assert cli.main(["benchmark", *arguments]) == 0
    assert "AdaKD against KD" in capsys.readouterr().out
    text = published.read_text(encoding="utf-8")
    assert "beside each other, all cells start from the same student, have the same" in text
    lines = [json.loads(line) for line in published.with_suffix(".jsonl").read_text().splitlines()]
    kinds = Counter(line["kind"] for line in lines)
    trials = sum(task.kind == "trial" for task in study.tasks(study.read_records()))
    assert kinds == {"group": 1, "teacher": 1, "trial": trials, "cell": 7}
    results = (grid.REPOSITORY / "recipes/tiny/en/RESULTS.md").read_text(encoding="utf-8")
    table = text.split("## tiny/en, wav2vec2\n")[1].split("\n\n- ")[0]
    assert table.strip() in results and "| AdaKD (permuted) | " in table
    assert "[STUDY](../../../docs/STUDY.md)" in results and "All 7 runs" in results
    (grid.REPOSITORY / "recipes/tiny/en/RESULTS.md").unlink()
    write_report(study, "somewhere else", tmp_path / "STUDY.md")
    assert not (grid.REPOSITORY / "recipes/tiny/en/RESULTS.md").exists()
    page = (study.folder / "index.html").read_text(encoding="utf-8")
    assert page.count("data:image/png;base64") >= 2
    assert "http://" not in page and "https://" not in page


def test_a_study_goes_on_elsewhere_from_its_scores(finished: Any, tmp_path: Path) -> None:
    """Where a run is missing it alone is made, with the data and the teacher that it needs."""
    study, _ = finished
    published = tmp_path / "STUDY.md"
    write_report(study, "there", published)
    scores = published.with_suffix(".jsonl")
    whole = scores.read_text(encoding="utf-8").splitlines(keepends=True)
    pool = Here()
    elsewhere = Study(MINIATURE, tmp_path / "root", scores=scores)
    assert run(elsewhere, pool) == 0 and not pool.given
    group = "tiny/en fold 1 wav2vec2"
    missing = f"{group} adakd seed 2"
    scores.write_text("".join(line for line in whole if f'"{missing}"' not in line))
    elsewhere = Study(MINIATURE, tmp_path / "root", scores=scores)
    assert run(elsewhere, pool) == 0
    made = ["tiny/en data", f"{group} teacher", f"{group} reference", missing]
    assert [task.name for task in pool.given] == made == list(elsewhere.read_records())
    write_report(elsewhere, "here", published)
    lines = [json.loads(line) for line in scores.read_text(encoding="utf-8").splitlines()]
    before = [json.loads(line) for line in whole]
    for line in lines + before:  # of those made here they differ
        for times in ("train_seconds", "seconds", "taught"):
            line.pop(times, None)
    assert lines == before


def test_nothing_of_a_reader_gets_into_what_is_published(finished: Any, tmp_path: Path) -> None:
    """Who publishes what is committed, after stage 1 of one fold, leaves it as it is."""
    study, _ = finished
    write_report(study, "there", tmp_path / "STUDY.md")
    published = tmp_path / "STUDY.jsonl"
    lines = [json.loads(line) for line in published.read_text(encoding="utf-8").splitlines()]
    unknown = [line | {"minutes": None} if "minutes" in line else line for line in lines]
    published.write_text("".join(json.dumps(line) + "\n" for line in unknown), encoding="utf-8")
    before = read_lines(published)
    elsewhere = Study(MINIATURE, tmp_path / "root", scores=published)
    for group in elsewhere.groups:
        facts = done(study.start(group).data)
        mark_done(
            elsewhere.start(group).data,
            **{name: facts[name] for name in facts if name != "fingerprint"},
        )
    write_report(elsewhere, "here", tmp_path / "STUDY.md")
    assert read_lines(published) == before


@pytest.mark.parametrize(
    ("only", "hint"),
    [
        ("kdd", "did you mean 'kd'?"),
        ("tiny/en* wisper *", "there are tiny/en, wav2vec2, finetune"),
        ("kd adakd", "give its words in that order, with * between them."),
        ("*seed [3-9]", "there are "),
    ],
)
def test_a_pattern_that_no_run_has_is_a_sentence(finished: Any, only: str, hint: str) -> None:
    study, _ = finished
    pool = Here()
    with pytest.raises(UserError) as error:
        run(study, pool, only)
    told = f"--only '{only}': no run has such a name, like 'tiny/en fold 1 wav2vec2 adakd seed 1'; "
    assert str(error.value).startswith(told) and hint in str(error.value)
    assert not pool.given


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            {"adakd-x": {"set": {"methods.adakd.contol": "mean"}}},
            "adakd-x: Method adakd has no option 'contol': did you mean 'control'?",
        ),
        ({"kd-x": {"set": {"methods.kd.alpha": "a"}}}, "kd-x-try1: methods.kd: alpha is 'a'"),
    ],
)
def test_wrong_options_of_a_method_are_told_before_anything_runs(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: Any, told: str
) -> None:
    monkeypatch.setattr(grid, "REPOSITORY", repository)
    path, pool = tmp_path / "small.yaml", Here()
    tune = {"kd-x": [changes["kd-x"]["set"]]} if "kd-x" in changes else {}
    tiny_recipe.write_yaml(path, SMALL | {"cells": SMALL["cells"] | changes, "tune": tune})
    with pytest.raises(UserError) as error:
        run(Study(path, tmp_path), pool)
    assert f"small.yaml: {GROUP} {told}" in str(error.value)
    assert not pool.given


def published_trial(name: str, **changes: Any) -> dict[str, Any]:
    """A line of a published study."""
    line = {"name": name, "kind": "trial", "recipe": "a/b", "family": "whisper", "fold": None}
    keys = ("settings", "of_data", "dev_cer", "dev_curve", "train_seconds")
    return line | dict.fromkeys(keys) | changes


def test_published_lines_end_at_line_ends_alone(tmp_path: Path) -> None:
    """And an editor may have put a byte order mark before the first."""
    path = tmp_path / "STUDY.jsonl"
    lines = [published_trial("one", reason="a\u2028b\u0085c\x0bd"), published_trial("two")]
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    for start in ("", "\ufeff"):
        path.write_text(start + text, encoding="utf-8")
        assert list(read_lines(path).values()) == lines


def test_published_lines_of_other_bytes_are_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "STUDY.jsonl"
    lines = [json.dumps(published_trial(name)).encode() for name in ("one", "two")]
    path.write_bytes(lines[0] + b"\n" + lines[1].replace(b"two", b"\xff") + b"\n")
    with pytest.raises(UserError, match=r"STUDY\.jsonl:2 lacks kind: take the file as it was"):
        read_lines(path)


def test_a_root_may_lie_at_home(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grid, "REPOSITORY", repository)
    monkeypatch.setenv("HOME", str(tmp_path))
    seen: list[Study] = []
    monkeypatch.setattr(benchmark, "run", lambda study, *_: seen.append(study) or 1)
    monkeypatch.setattr("adakd.study.page.write_report", lambda *_: "")
    shutil.copy(MINIATURE, tmp_path)
    assert benchmark.main([f"~/{MINIATURE.name}", "--root=~/out"]) == 1
    assert [study.root for study in seen] == [tmp_path / "out"]


def test_two_runs_of_a_study_are_refused(finished: Any) -> None:
    study, _ = finished

    def again(task: Task) -> None:
        run(study, Here())

    assert attempt(again, Task("x", "data", ())) is None
    with open(study.folder / "lock", "w") as lock:
        benchmark.fcntl.flock(lock, benchmark.fcntl.LOCK_EX)
        with pytest.raises(UserError, match="is being run already"):
            run(study, Here())


# ------------------------------------------------------------------ what ./run.sh has made

SMALL = {
    "recipes": {"tiny/en": {"folds": [1]}},
    "families": {"wav2vec2": {}},
    "set": {"teacher.seed": 1, "train.max_steps": 2},
    "cells": {"finetune": {}, "kd": {}, "kd-low": {"set": {"methods.kd.alpha": 0.1}}},
    "primary": [["kd", "finetune"]],
}
GROUP = "tiny/en fold 1 wav2vec2"


@dataclass
class Beside:
    """A study in folders where ./run.sh trained a teacher, fine-tuning, and KD with alpha 0.9."""

    root: Path

    def study(self, **settings: Any) -> Study:
        path = self.root / "small.yaml"
        tiny_recipe.write_yaml(path, SMALL | {"set": {**SMALL["set"], **settings}})
        return Study(path, self.root)

    def failures(self, **settings: Any) -> dict[str, str]:
        """Why tasks fail, by name, in a start with these settings of the study."""
        study = self.study(**settings)
        run(study, Here())
        records = study.read_records()
        return {name: each["reason"] for name, each in records.items() if each["reason"]}

    def folder(self, name: str) -> Path:
        return self.root / "exp/tiny/en/fold1/wav2vec2" / name / "seed1"

    def alpha(self, name: str) -> float:
        return (done(self.folder(name)) or {})["inputs"]["method"]["alpha"]

    def trained(self) -> dict[Path, int]:
        """What is of ./run.sh, and when it was written."""
        folders = [*map(self.folder, ("teacher", "finetune", "kd")), self.root / "data"]
        files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
        kept = [path for path in files if not path.match("*/score*") and "hyp." not in path.name]
        return {path: path.stat().st_mtime_ns for path in kept if path.parent.name != "decode"}


def run_sh(repository: Path, root: Path, *settings: str) -> None:
    """As ./run.sh with these settings, to KD."""
    stages = ["corpus", "prepare", "teacher", "finetune", "teacher-pass", "kd"]
    options = ["--recipe", "tiny/en", "--family", "wav2vec2", "--fold", "1", "--root", str(root)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("adakd.config.REPOSITORY", repository)
        assert cli.main([*stages, *options, "--train.max_steps", "2", *settings]) == 0


@pytest.fixture(scope="module")
def ran(repository: Path) -> Path:
    """What ./run.sh leaves, to be copied."""
    root = repository / "ran"
    run_sh(repository, root, "--methods.kd.alpha", "0.9")
    return root


@pytest.fixture
def beside(ran: Path, repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Beside:
    monkeypatch.setattr(grid, "REPOSITORY", repository)
    shutil.copytree(ran, tmp_path / "root", copy_function=shutil.copy2)
    return Beside(tmp_path / "root")


def test_what_run_sh_trained_with_other_settings_is_refused_and_kept(beside: Beside) -> None:
    before = beside.trained()
    for _ in range(2):  # that it was refused does not make it the study's
        failures = beside.failures()
        (reason,) = failures.values()
        assert list(failures) == [f"{GROUP} kd seed 1"]
        assert reason == (
            f"{beside.folder('kd')} holds a finished experiment with another method.alpha, which "
            "this study did not make: give the recipe a name of its own in the grid, such as "
            "hi-study: {recipe: espeak/hi}, or the study another --root, or delete "
            f"{beside.folder('kd')}."
        )
        after = beside.trained()
        assert {path: after[path] for path in before} == before, "the same settings: used as it is"
    shutil.rmtree(beside.folder("kd"))
    assert not beside.failures() and beside.alpha("kd") == 0.5


def test_a_study_makes_anew_what_it_made_itself_and_not_what_it_used(beside: Beside) -> None:
    shutil.rmtree(beside.folder("kd"))
    assert not beside.failures()
    assert not beside.failures(**{"methods.kd.alpha": 0.3}) and beside.alpha("kd") == 0.3
    ((name, reason),) = beside.failures(**{"train.learning_rate": 1e-3}).items()
    assert name == f"{GROUP} teacher" and "with another train.learning_rate, which" in reason


def test_what_run_sh_has_trained_since_then_is_refused_too(beside: Beside) -> None:
    shutil.rmtree(beside.folder("kd"))
    assert not beside.failures()
    facts = done(beside.folder("kd")) or {}
    mark_done(beside.folder("kd"), {**facts["inputs"], "method": {"alpha": 0.8}}, study=None)
    assert list(beside.failures()) == [f"{GROUP} kd seed 1"] and beside.alpha("kd") == 0.8


def test_what_run_sh_makes_anew_with_another_teacher_is_not_reported(
    beside: Beside, repository: Path
) -> None:
    shutil.rmtree(beside.folder("kd"))
    assert not beside.failures()
    study = beside.study()
    counted = [read_table(study, "tiny/en", "wav2vec2", study.read_records())]
    run_sh(repository, beside.root, "--teacher.train.max_steps", "1")
    counted.append(read_table(study, "tiny/en", "wav2vec2", study.read_records()))
    rows = [[name for name, row in table.rows.items() if row.runs] for table in counted]
    assert rows == [["finetune", "kd", "kd-low"], ["finetune", "kd-low"]]
    assert not counted[0].problems and not counted[1].teacher
    assert "kd/seed1 was made with another teacher.train.max_steps, " in counted[1].problems[-1]


@pytest.mark.parametrize(
    ("key", "value", "problem"),
    [
        ("data.max_seconds", 1.5, "have another data.max_seconds"),
        ("corpus.max_digits", 2, "made with corpus.max_digits 3, but now it is 2"),
    ],
)
def test_data_that_others_were_trained_on_are_refused_and_kept(
    beside: Beside, key: str, value: float, problem: str
) -> None:
    def sounds() -> dict[Path, int]:
        files = (beside.root / "corpus").rglob("*")
        return {path: path.stat().st_mtime_ns for path in files if path.is_file()}

    before, spoken = beside.trained(), sounds()
    ((name, reason),) = beside.failures(**{key: value}).items()
    assert name == "tiny/en data" and problem in reason and "stage 0" not in reason
    assert "was trained, which this study did not make: give" in reason
    after = beside.trained()
    assert {path: after[path] for path in before} == before and sounds() == spoken
    # With all that was trained on them the data may go; the study's own may, too.
    shutil.rmtree(beside.root / "exp/tiny")
    assert not beside.failures(**{key: value})
    assert not beside.failures()


def test_a_corpus_that_others_were_trained_on_is_taken_as_it_is(
    beside: Beside, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stage 0 knows more than its options, such as lists that came with another version."""

    def anew(*_: Any) -> None:
        raise AssertionError("the corpus would be made anew")

    monkeypatch.setattr("adakd.corpora.fsdd.fetch", anew)
    shutil.rmtree(beside.folder("kd"))
    assert not beside.failures()


def test_what_a_study_trained_is_its_own_even_if_its_task_failed(
    beside: Beside, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Settings are changed just then."""
    shutil.rmtree(beside.folder("kd"))
    with monkeypatch.context() as patch:
        decode = results.decode

        def breaks(place: Place, methods: list[str]) -> None:
            if methods == ["kd"]:
                raise UserError("The disk is full.")
            decode(place, methods)

        patch.setattr(results, "decode", breaks)
        assert f"{GROUP} kd seed 1" in beside.failures()
    assert not beside.failures(**{"methods.kd.alpha": 0.3}) and beside.alpha("kd") == 0.3


@pytest.mark.parametrize(
    ("gpus", "cores", "free", "jobs"),
    [("", 8, 16, 8), ("", 8, 5, 2), ("", 8, 1, 1), ("0,1", 8, 16, 2), ("3", 8, 16, 1),
     ("0,1,2,3", 2, 16, 2), ("0,1,2,3", 8, 5, 2), ("-1", 8, 16, 8), ("1,-1,0", 8, 16, 1)],
)  # fmt: skip
def test_a_gpu_has_one_worker_and_a_cpu_as_many_as_it_bears(
    monkeypatch: pytest.MonkeyPatch, gpus: str, cores: int, free: int, jobs: int
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", gpus)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)))
    told = f"MemTotal: {2**26} kB\nMemAvailable: {free * 2**20} kB\n"
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: told)
    assert benchmark.bearable() == jobs


def play(task: Task) -> None:
    """What the workers below do, by the task's kind."""
    print(f"playing {task.name}")
    if task.kind == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if task.kind == "fail":
        raise UserError("Mend it.")
    if task.kind == "meet":
        (Path(task.method) / task.name).touch()
        while len(list(Path(task.method).iterdir())) < 2:
            time.sleep(0.05)
    if task.kind == "tell":
        raise UserError(f"{os.getpid()} {os.environ['OMP_NUM_THREADS']}")


@pytest.fixture
def workers(tmp_path: Path) -> Any:
    made = Workers(2, play, tmp_path / "logs")
    yield made
    made.stop()


def all_of(workers: Workers, *tasks: Task) -> dict[str, str | None]:
    for task in tasks:
        workers.start(task)
    found: dict[str, str | None] = {}
    while len(found) < len(tasks):
        found |= {task.name: reason for task, reason, _ in workers.finished()}
    return found


def test_workers_run_side_by_side_and_live_on(workers: Workers, tmp_path: Path) -> None:
    meeting = tmp_path / "meeting"
    meeting.mkdir()
    met = all_of(workers, *[Task(n, "meet", (), str(meeting)) for n in ("a", "b")])
    assert met == {"a": None, "b": None}
    told = [all_of(workers, Task("c", "tell", ()))["c"] for _ in range(2)]
    assert told[0] == told[1], "the same process again"
    assert told[0] and told[0].endswith(" 1"), "with one thread"


def test_a_killed_worker_is_a_failed_task_and_no_hang(workers: Workers, tmp_path: Path) -> None:
    failed = all_of(workers, Task("a/b c", "die", ()), Task("d", "fail", ()))
    assert failed["d"] == "Mend it."
    reason = failed["a/b c"]
    assert reason and "killed by signal 9: perhaps out of memory" in reason
    log = tmp_path / "logs" / "a_b-c.log"
    assert str(log) in reason and log.read_text() == "playing a/b c\n"
    assert "Mend it." in (tmp_path / "logs" / "d.log").read_text()
    assert all_of(workers, Task("e", "fine", ())) == {"e": None}, "another one takes its place"


def test_a_worker_keeps_to_the_gpus_of_its_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    assert benchmark.visible_gpus() == ["2", "5"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert benchmark.visible_gpus() == []


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["nowhere.yaml"], "There is no grid nowhere.yaml"),
        ([], "the following arguments are required: grid"),
        (["x.yaml", "--jobs", "0"], "argument --jobs: '0' is no whole number from 1 on"),
        (["x.yaml", "--job", "2"], "unrecognized arguments: --job 2; see adakd benchmark --help"),
    ],
)
def test_wrong_commands_are_sentences(
    arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["benchmark", *arguments]) == 1
    assert sentence in capsys.readouterr().err
