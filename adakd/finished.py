"""What is finished, whose it is, and who works on it: `done.json`, and the locks of folders.

A step that finishes leaves a `done.json` with the *inputs* that it depends on. A step whose inputs
are unchanged does nothing; one whose inputs changed says which, and starts anew; a training that
was cut goes on, with these inputs alone. What the inputs of each step are, is in inputs.py.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import fcntl
import functools
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from adakd import config as configuration
from adakd.errors import UserError
from adakd.files import (
    another,
    count_lines,
    differences,
    empty,
    fingerprint,
    fingerprint_of_files,
    read_json,
    remove_half_written,
    shown,
    write_json,
    write_text,
)
from adakd.processes import rank, say, wait_for_all, world

P = ParamSpec("P")
T = TypeVar("T")


def done(folder: Path) -> dict[str, Any] | None:
    """What a finished step left in ``folder``; None if it is not finished."""
    try:
        return read_json(folder / "done.json", needs=("inputs", "fingerprint"))
    except FileNotFoundError:
        return None


def begun(folder: Path) -> dict[str, Any] | None:
    """What a pass in pieces that was cut in ``folder`` was begun with; None if there is none.

    Its ``inputs``, as done.json will have them, and what its pieces depend on ``beside``: see
    `adakd.stages.pieces`.
    """
    started = folder / "started.json"
    if (folder / "done.json").exists() or not started.exists():
        return None
    return read_json(started, needs=("inputs", "beside"))


def mark_done(folder: Path, inputs: dict[str, Any], **facts: Any) -> None:
    """Declare a step finished; ``facts`` is what later steps and the report want to know.

    From the same inputs another machine, or other numbers of processes and threads, train other
    ``weights`` (`weights_of`): for what depends on the model, these make it another one.
    """
    of_model = {"weights": facts["weights"]} if "weights" in facts else {}
    key = fingerprint({**inputs, **of_model})
    write_json(folder / "done.json", {**facts, "inputs": inputs, "fingerprint": key})


def needed(folder: Path, what: str, stage: int) -> dict[str, Any]:
    """`done` of a step that must have run; otherwise a `UserError` that names the stage."""
    facts = done(folder)
    if facts is None:
        raise UserError(f"{what} is missing ({folder}): run --stage {stage} first.")
    return facts


def is_current(
    folder: Path,
    inputs: dict[str, Any],
    what: str,
    *outputs: Path,
    lines: Mapping[Path, int] | None = None,
) -> bool:
    """Whether a step is finished with these very inputs, and its outputs are there.

    Says so, or says what has changed or is missing. ``lines``: of outputs, how many they have.
    """
    facts = done(folder)
    if facts is None:
        return False
    # Not by the fingerprint: that of 1 and that of 1.0 differ.
    if changed := changes(facts["inputs"], inputs):
        say(f"{what}: {' and '.join(changed)} changed, made anew")
        return False
    for path in outputs:
        if not path.exists():
            say(f"{what}: {shown(path)} is missing, made anew")
            return False
    for path, count in (lines or {}).items():
        if count_lines(path) != count:
            say(f"{what}: {shown(path)} has other than {count} lines, made anew")
            return False
    say(f"{what}: done ({shown(folder)})")
    return True


def model_files(folder: Path) -> tuple[Path, Path]:
    """The outputs without which an experiment has no model: its settings and its weights."""
    model = folder / "model"
    in_parts = model / "model.safetensors.index.json"  # what is too large for one file
    weights = in_parts if in_parts.exists() else model / "model.safetensors"
    return model / "config.json", weights


def weights_of(folder: Path) -> str:
    """16 hexadecimal digits over the weights of an experiment's model."""
    return fingerprint_of_files(sorted((folder / "model").glob("*.safetensors")))


# What a training depends on beside its settings, which nobody can give back.
ON_DISK = (
    "data", "units", "samples", "start", "teacher", "source", "half", "transcripts", "code",
    "positions",  # of runs from before `code` came
)  # fmt: skip
# How fast a training goes and how often it is saved: another value makes nothing anew.
UNHEEDED = ("train.workers", "train.checkpoint_minutes")


def changes(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Dotted names of the values that differ between two nested mappings, but for UNHEEDED."""
    return [name for name in differences(old, new, prefix) if name not in UNHEEDED]


# ------------------------------------------------------------------ locks


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Let only one run at a time work in a folder; another one waits, and says so."""
    with contextlib.ExitStack() as stack:
        if rank() == 0:
            try:
                folder.parent.mkdir(parents=True, exist_ok=True)
                file = stack.enter_context(open(folder.with_name(f".{folder.name}.lock"), "a"))
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    say(f"waiting for another run, which is at work in {shown(folder)}")
                    fcntl.flock(file, fcntl.LOCK_EX)
                remove_half_written(folder)  # by a run that was killed
            except OSError as error:
                # Anything else the step meets itself, or nothing can be written, nor need be.
                if error.errno in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
                    say(
                        f"no lock can be had for {shown(folder)} ({error.strerror}): let no other "
                        "run work there meanwhile"
                    )
        wait_for_all()
        yield


def one_at_a_time(
    folder_of: Callable[P, Path],
) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Decorates a step with the lock of the folder that it works in."""

    def decorate(step: Callable[P, T]) -> Callable[P, T]:
        @functools.wraps(step)
        def alone(*args: P.args, **kwargs: P.kwargs) -> T:
            with locked(folder_of(*args, **kwargs)):
                return step(*args, **kwargs)

        return alone

    return decorate


# ------------------------------------------------------------------ whose it is


# The study that is at work. What others trained in its folders is theirs.
_study: ContextVar[str | None] = ContextVar("study", default=None)


@contextlib.contextmanager
def made_for(study: str) -> Iterator[None]:
    """Within it a training is the study's, and only what is its own is made anew.

    ./run.sh makes anew what was trained with other settings, and says so to whoever asked for that.
    A study works in the same folders and would say so in a log.
    """
    token = _study.set(study)
    try:
        yield
    finally:
        _study.reset(token)


def whose() -> dict[str, str | None]:
    """What a training tells of who made it: a study, or ./run.sh (None)."""
    return {"study": _study.get()}


def foreign(facts: dict[str, Any]) -> bool:
    """Whether a finished training is neither the study's that is at work, nor may it be."""
    return _study.get() is not None and facts.get("study") != _study.get()


def spare(folder: Path, inputs: dict[str, Any]) -> None:
    """Raise `UserError` where others have trained with other inputs: see `made_for`."""
    facts = done(folder)
    if facts is None or not foreign(facts):
        return
    if changed := changes(facts["inputs"], inputs):
        raise UserError(
            f"{shown(folder)} holds a finished experiment with "
            f"{another(changed)}, which this study did not make: {_ways_out(folder)}."
        )


def foreign_below(folder: Path) -> Path | None:
    """A finished training below, of others than the study that is at work."""
    for path in sorted(folder.rglob("seed*/done.json")) if _study.get() else ():
        facts = done(path.parent) or {}
        if facts.get("train_seconds") and foreign(facts):
            return path.parent
    return None


def spare_below(folder: Path, problem: str) -> None:
    """Raise `UserError` where what others have trained would lose the data it was trained on."""
    if found := foreign_below(folder):
        raise UserError(
            f"{problem}, and from what lies there {shown(found)} was trained, which this study did "
            f"not make: {_ways_out(folder)}."
        )


def _ways_out(folder: Path) -> str:
    return (
        "give the recipe a name of its own in the grid, such as hi-study: {recipe: espeak/hi}, or "
        f"the study another --root, or delete {shown(folder)}"
    )


# ------------------------------------------------------------------ the folder of an experiment


def begin(folder: Path, inputs: dict[str, Any], config: configuration.Config) -> None:
    """Make an experiment folder ready: empty it, unless it holds a cut run of the same inputs.

    Without a checkpoint there is nothing to go on with, and what else lies there may be of a model
    whose done.json was deleted: its outputs, which would pass for the new one's.

    Raises:
        UserError: it holds checkpoints of a cut run with other inputs (`spare_cut`), or of as many
            processes as there are no longer: so many make one of its optimiser steps.
    """
    started = folder / "started.json"
    before = read_json(started, needs=("inputs",)) if started.exists() else {}
    finished = (folder / "done.json").exists()
    cut = bool(before) and not finished and bool(_checkpoints(folder))
    same = cut and not changes(before["inputs"], inputs)
    _tell_cut(folder, spare_cut(folder, inputs, dataclasses.asdict(config)))
    processes = before.get("processes", world())
    if same and processes != world():
        as_many = f"--launcher torchrun --nproc {processes}, or slurm in its place"
        raise UserError(
            f"{shown(folder)} holds a cut run of {processes} process{'es' * (processes > 1)}, and "
            f"this one has {world()}: go on with as many "
            f"({as_many if processes > 1 else 'without --launcher'}), or remove that folder to "
            "begin anew."
        )
    wait_for_all()  # all have read it
    if rank() == 0:
        if not same:
            empty(folder)
        key = fingerprint(inputs)
        facts = {"processes": world(), "inputs": inputs, "fingerprint": key, **whose()}
        write_json(started, facts)
        from adakd.versions import describe

        write_text(folder / "config.yaml", configuration.dump_yaml(dataclasses.asdict(config)))
        write_json(folder / "versions.json", describe())
    wait_for_all()


def spare_cut(folder: Path, inputs: dict[str, Any], settings: Mapping[str, Any]) -> list[str]:
    """Raise `UserError` where a cut run with other inputs would lose its checkpoints.

    An option that was forgotten when going on would cost all that was trained. What a study trains
    stands in its grid: it begins its own anew, as it makes anew what it has finished. ``settings``
    are those of `changed_sources`.

    Returns: the names of what changed where a cut run is to be begun anew, else none.
    """
    started = folder / "started.json"
    if (folder / "done.json").exists() or not started.exists() or not _checkpoints(folder):
        return []
    before = read_json(started, needs=("inputs",))
    if not (changed := changes(before["inputs"], inputs)):
        return []
    named = [name for name in changed if name.split(".")[0] not in ON_DISK]
    named += changed_sources(folder, changed, settings)
    own = _study.get() is not None and not foreign(before)
    if own or not named:  # nobody could give it back the data or the teacher of then
        return changed
    raise UserError(
        f"{shown(folder)} holds a cut run that was begun with "
        f"{another(named)}: go on with the settings that stand in its config.yaml, "
        "or remove that folder to begin anew."
    )


def _tell_cut(folder: Path, changed: Sequence[str]) -> None:
    if changed:
        say(f"{shown(folder)}: cut, and {' and '.join(changed)} changed, begun anew")


def changed_sources(folder: Path, changed: Sequence[str], settings: Mapping[str, Any]) -> list[str]:
    """Dotted names of what its model starts from that differ between an experiment and settings.

    Where only contents have changed, of a source or of a teacher whose layers a student has, there
    are none, nor of a folder that is no longer there: nobody could give these back.

    Args:
        changed: what of the experiment's inputs has changed, such as "start".
        settings: a whole configuration, nested as in its config.yaml.
    """
    path, found = folder / "config.yaml", []
    known = configuration.read_yaml(path) if path.exists() else {}
    whole = dataclasses.asdict(configuration.Layers())  # as what was trained before there were any
    for name, model in (("source", "teacher"), ("start", "student")):
        if name not in {each.split(".")[0] for each in changed}:
            continue
        if not (model in known and model in settings):
            continue
        made, now = (
            {
                "source": _resolved(each[model].get("source")),
                "config": each[model].get("config"),
                "layers": each[model].get("layers", whole),
            }
            for each in (known, settings)
        )
        if Path(made["source"] or "").is_absolute() and not Path(made["source"]).is_dir():
            made["source"] = now["source"]
        found += changes(made, now, f"{model}.")
    return found


def _resolved(source: str | None) -> str | None:
    """The same for a folder, however it is named."""
    return str(Path(source).resolve()) if source and Path(source).is_dir() else source


def _checkpoints(folder: Path) -> bool:
    """Whether a run has left any; one whose name begins with a dot is half written."""
    return any(folder.glob("ckpt/CKPT*"))


@one_at_a_time(lambda folder, twin: folder)
def take_over(folder: Path, twin: Path) -> None:
    """Copy a finished experiment of the same method, unless this one is finished with its inputs.

    Whether these are what `folder` should have is for `train` to find out, as always.
    """
    facts, here = needed(twin, "The experiment to take over", 6), done(folder)
    if here is not None and not changes(here["inputs"], facts["inputs"]):
        return
    spare(folder, facts["inputs"])
    of_twin = twin / "config.yaml"
    settings = configuration.read_yaml(of_twin) if of_twin.exists() else {}
    _tell_cut(folder, spare_cut(folder, facts["inputs"], settings))
    if folder.exists():
        shutil.rmtree(folder)
    # done.json is written last: a copy that was cut is none. Checkpoints may go at any time.
    shutil.copytree(twin, folder, ignore=shutil.ignore_patterns("done.json", "ckpt"))
    origin = {"taken_over": f"{twin.parent.name}/{twin.name}"}
    write_json(folder / "done.json", {**origin, **facts, **whose()})
