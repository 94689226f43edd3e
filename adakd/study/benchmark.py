"""`adakd benchmark GRID.yaml`: runs a study, as many cells at a time as the machine bears.

    adakd benchmark study/tier-a.yaml --jobs 2      # runs what is missing, then writes the report
    adakd benchmark study/tier-a.yaml --report      # the report of what is there

Worker processes are started once, so that torch, transformers and SpeechBrain are imported once in
each; what they print goes to a log for every task. Each has one thread: a cell then comes out alike
however many run beside it. The same command goes on where it was stopped: experiments that are
done are done (`adakd.finished`), one that was cut resumes, one that failed is tried again. What
became of every task stands in records.json.

A study and ./run.sh have the folders of a recipe in common. What is finished there with the same
settings is used; with other settings it is made anew if this study made it, and else refused.

What there is to run is in grid.py, the report in page.py.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import fnmatch
import itertools
import multiprocessing
import os
import shlex
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Protocol

from adakd import finished, processes
from adakd.config import REPOSITORY
from adakd.errors import UserError, suggest
from adakd.files import write_json
from adakd.options import Parser, natural, path
from adakd.progress import clock
from adakd.stages import checks, preparation, results, teacher_pass, training
from adakd.study.grid import Study, Task
from adakd.workers import become_worker, processors

MEMORY = 2.0  # GiB that a worker with a small model may need; bigger models want --jobs


def main(arguments: Sequence[str]) -> int:
    """Run a study and write its report; 1 if a task has failed."""
    parser = Parser(prog="adakd benchmark", description=__doc__.split("\n")[0])
    parser.add_argument("grid", type=path, help="the study, a YAML file such as study/tier-a.yaml")
    parser.add_argument("--root", type=path, default=REPOSITORY, help="where corpus/ and exp/ go")
    parser.add_argument(
        "--jobs", type=natural,
        help="cells at a time (one a GPU, else as many as cores and memory bear)",
    )  # fmt: skip
    parser.add_argument("--only", default="*", help='cells to run, such as "espeak/* adakd*"')
    parser.add_argument("--report", action="store_true", help="run nothing, write the report")
    parser.add_argument(
        "--set", nargs=3, action="append", default=[], metavar=("RECIPE", "KEY", "VALUE"),
        help="a value of a recipe on this machine: --set fsdd/en corpus.corpus ~/fsdd",
    )  # fmt: skip
    parser.add_argument(
        "--publish", type=path,
        help="copy STUDY.md and its scores to this file, and its tables to recipes/*/RESULTS.md; "
        "what was published there before need not be run again",
    )  # fmt: skip
    options = parser.parse_args(list(arguments))
    if processes.world() > 1:
        raise UserError("adakd benchmark starts its own processes: run it without a launcher.")
    if options.publish and options.publish.is_dir():
        raise UserError(f"--publish {options.publish} is a folder: name a file, such as STUDY.md.")
    scores = options.publish.with_suffix(".jsonl") if options.publish else None
    study = Study(options.grid, options.root.resolve(), options.set, scores)
    failed = 0
    if not options.report:
        jobs = options.jobs or bearable()
        workers = Workers(jobs, perform, study.folder / "logs")
        try:
            failed = run(study, workers, options.only)
        finally:
            workers.stop()
    from adakd.study.page import write_report

    print(write_report(study, shlex.join(["adakd", "benchmark", *arguments]), options.publish))
    return 1 if failed else 0


def bearable() -> int:
    """Workers that this machine's cores and free memory bear: at most one a GPU, if it has any."""
    cores = processors()
    if gpus := visible_gpus():
        cores = min(cores, len(gpus))
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
        free = {line.split(":")[0]: int(line.split()[1]) for line in lines}["MemAvailable"] / 2**20
    except (OSError, KeyError):
        return cores
    return max(1, min(cores, int(free / MEMORY)))


# ------------------------------------------------------------------ one task


def perform(task: Task) -> None:
    """Do a task, in a worker: what is done already costs a look at its marker."""
    with finished.made_for(task.study):
        _perform(task)


def _perform(task: Task) -> None:
    place = task.places[0]
    if task.twin is not None:
        finished.take_over(task.folder, task.twin)
    if task.kind == "data":
        preparation.corpus(place)
        for each in task.places:
            preparation.prepare(each)
    elif task.kind == "teacher":
        for each in task.places:
            checks.check_models(each, ["teacher", "finetune"], ["finetune"])
            training.teacher(each)
            teacher_pass.write_store(each)
            training.student_start(each)  # here, since cells that run side by side share it
    elif task.kind == "difficulty":
        for each in task.places:
            teacher_pass.teacher_pass(each)
    elif task.kind == "trial":
        training.train(place, task.method)
    elif task.kind == "reference":
        for each in task.places:
            results.decode(each, [])
            results.score(each, [])
    else:
        training.train(place, task.method)
        results.decode(place, [task.method])
        results.score(place, [task.method])


# ------------------------------------------------------------------ the runner

Outcome = str | None  # why a task failed; None: it did not


class Pool(Protocol):
    """What runs tasks: `Workers`, or something simpler in tests."""

    jobs: int

    def start(self, task: Task) -> None: ...

    def finished(self) -> list[tuple[Task, Outcome, float]]: ...


def run(study: Study, workers: Pool, only: str = "*") -> int:
    """Run all tasks of a study whose cells' names match `only`; how many have failed."""
    check_options(study)
    study.folder.mkdir(parents=True, exist_ok=True)
    with open(study.folder / "lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(f"{study.path} is being run already: wait, or stop it.") from None
        return _run(study, workers, only)


def check_options(study: Study) -> None:
    """Raise `UserError` for what a method does not take, in a cell or a candidate.

    Told now, not after hours of training; nor when the grid is read, for which torch is not needed.
    """
    for group, name in itertools.product(study.groups, study.cells):
        for tried in range(len(study.grid.tune.get(name, ()))) or [None]:
            place = study.place(group, name, study.grid.seeds[0], study.any_choice, tried)
            try:
                training.check_options(place)
            except UserError as error:
                folder = place.experiment(study.method(name)).parent
                raise UserError(f"{study.path}: {place.title} {folder.name}: {error}") from None
            training.check_methods(place, [study.method(name)])


def _run(study: Study, workers: Pool, only: str) -> int:
    earlier = study.read_records()
    now: dict[str, dict[str, Any]] = {}  # of this start: everything is looked at once
    running: dict[str, Task] = {}
    trained: dict[str, Path] = {}  # what has been trained -> the first folder that holds it
    pattern = only if any(sign in only for sign in "*?[") else f"*{only}*"
    matching = study.names(lambda name: fnmatch.fnmatch(name, pattern))
    if not matching:
        raise no_such_run(study, only)

    def wanted(task: Task) -> bool:
        return task.name in matching or (task.kind == "trial" and task.group in matching)

    while True:
        for task in study.tasks(now):
            if len(running) >= workers.jobs:
                break
            if not wanted(task) or task.name in running or study.status(task, now):
                continue
            # A candidate may be what another cell is anyway, and the one chosen is a cell again.
            if task.training and task.training in (each.training for each in running.values()):
                continue  # its turn comes when that one is there
            running[task.name] = dataclasses.replace(
                task, twin=trained.get(task.training), study=study.path.stem
            )
            workers.start(running[task.name])
        if not running:
            break
        for task, reason, seconds in workers.finished():
            running.pop(task.name)
            if reason is None and task.training:
                trained.setdefault(task.training, task.folder)
            old = earlier.get(task.name, {})
            same = old.get("status") == "done" and old["fingerprint"] == task.fingerprint
            if reason is None and same:
                seconds = old["seconds"]  # of doing it, not of finding it done
            now[task.name] = {
                "kind": task.kind,
                "status": "done" if reason is None else "failed",
                "reason": reason,
                "seconds": round(seconds, 1),
                "fingerprint": task.fingerprint,
            }
            write_json(study.records, {**earlier, **now})
            outcome = clock(seconds) if reason is None else f"FAILED: {reason}"
            left = estimate(study, now, workers.jobs) if pattern == "*" else ""
            processes.say(f"{time.strftime('%H:%M')} {task.name}: {outcome}{left}")
    return sum(record["status"] == "failed" for record in now.values())


def no_such_run(study: Study, only: str) -> UserError:
    """Tells what a run is called, and the nearest to the first word that is in no name."""
    names = sorted(study.names(lambda name: True))
    unknown = [word for word in only.replace("*", " ").split() if word not in " ".join(names)]
    hint = "give its words in that order, with * between them."
    if unknown:
        hint = suggest(unknown[0], [*study.recipes, *study.families, *study.cells])
    example = next(name for name in names if " seed " in name)
    return UserError(f"--only '{only}': no run has such a name, like '{example}'; {hint}")


def estimate(study: Study, records: dict[str, dict[str, Any]], jobs: int) -> str:
    """How many cells are done, and about how long the rest takes, from the means so far."""
    left = 0.0
    sizes = study.sizes(records)
    for kind, size in sizes.items():
        seconds = [each["seconds"] for each in records.values() if each["kind"] == kind]
        if size and not seconds:
            return f" [{len(records)} of {sum(sizes.values())}]"
        left += (size - len(seconds)) * sum(seconds) / max(1, len(seconds))
    return f" [{len(records)} of {sum(sizes.values())}, about {clock(left / jobs)} left]"


# ------------------------------------------------------------------ workers


class Workers:
    """Processes that perform tasks one after the other, each replaced when it dies."""

    def __init__(self, jobs: int, perform: Callable[[Task], None], logs: Path) -> None:
        self.jobs, self.perform, self.logs = jobs, perform, logs
        self.context = multiprocessing.get_context("spawn")
        self.idle: list[_Worker] = []
        self.busy: list[_Worker] = []

    def start(self, task: Task) -> None:
        """Give a task to an idle worker, or to a new one."""
        self.idle = [worker for worker in self.idle if worker.process.is_alive()]
        if self.idle:
            worker = self.idle.pop()
        else:
            taken = {each.number for each in self.busy}
            number = next(n for n in range(self.jobs) if n not in taken)
            worker = _Worker(self.context, number, self.perform, self.logs)
        worker.task, worker.started = task, time.monotonic()
        with contextlib.suppress(BrokenPipeError):  # it has died: `finished` will say so
            worker.pipe.send(task)
        self.busy.append(worker)

    def finished(self) -> list[tuple[Task, Outcome, float]]:
        """Wait until a task ends, one way or the other: (task, why it failed or None, seconds)."""
        found = []
        ready = wait([each.pipe for each in self.busy])
        for worker in [each for each in self.busy if each.pipe in ready]:
            self.busy.remove(worker)
            try:
                reason = worker.pipe.recv()
                self.idle.append(worker)
            except (EOFError, ConnectionResetError):  # the process is gone, with its end of it
                worker.process.join()
                code = worker.process.exitcode
                how = f"killed by signal {-code}" if code and code < 0 else f"ended with {code}"
                memory = ": perhaps out of memory, try fewer --jobs" if code == -9 else ""
                reason = f"its process was {how}{memory} ({log_of(self.logs, worker.task)})"
            found.append((worker.task, reason, time.monotonic() - worker.started))
        return found

    def stop(self) -> None:
        """End all processes; what they were at resumes with the next start."""
        for worker in self.busy:
            worker.process.terminate()
        for worker in self.idle:
            worker.pipe.close()  # it ends by itself, having cleared up
        for worker in self.idle + self.busy:
            worker.process.join()


class _Worker:
    def __init__(self, context: Any, number: int, perform: Callable, logs: Path) -> None:
        self.number = number
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_work, args=(theirs, number, perform, logs))
        self.process.start()
        theirs.close()  # or its death would not be noticed here
        self.task: Task
        self.started = 0.0


def log_of(logs: Path, task: Task) -> Path:
    return logs / f"{task.name.replace('/', '_').replace(' ', '-')}.log"


def _work(pipe: Connection, number: int, perform: Callable[[Task], None], logs: Path) -> None:
    """The life of a worker."""
    become_worker()
    gpus = visible_gpus()
    if gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus[number % len(gpus)]
    logs.mkdir(parents=True, exist_ok=True)
    while True:
        try:
            task = pipe.recv()
        except EOFError:
            return
        with open(log_of(logs, task), "a", encoding="utf-8", buffering=1) as log:
            for stream in (1, 2):
                os.dup2(log.fileno(), stream)
            reason = attempt(perform, task)
        pipe.send(reason)


def attempt(perform: Callable[[Task], None], task: Task) -> Outcome:
    """Perform a task; why it failed, in one line, or None."""
    try:
        perform(task)
    except UserError as error:
        reason = str(error)
    except Exception as error:
        traceback.print_exc()
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    else:
        return None
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    print(reason, file=sys.stderr, flush=True)
    return reason


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        named = itertools.takewhile(lambda name: not name.startswith("-"), chosen.split(","))
        return [name for name in named if name.strip()]  # CUDA stops at a -1
    return [str(n) for n in range(len(list(Path("/dev").glob("nvidia[0-9]*"))))]
