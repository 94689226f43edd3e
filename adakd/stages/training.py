"""Stages 2, 3, 5 and 6: the teacher, the untrained student, and the student by every method."""

from __future__ import annotations

import dataclasses
import gc
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from adakd import config as configuration
from adakd.errors import UserError
from adakd.files import fingerprint, replaced_folder, shown
from adakd.finished import (
    begin,
    done,
    is_current,
    mark_done,
    model_files,
    one_at_a_time,
    spare,
    spare_cut,
    weights_of,
    whose,
)
from adakd.inputs import (
    difficulties,
    lessons,
    open_store,
    start_inputs,
    start_stands,
    teacher_inputs,
    training_inputs,
    units_of,
    untrained,
)
from adakd.methods import METHODS
from adakd.place import Place
from adakd.processes import rank, say, wait_for_all, world
from adakd.stages.transcripts import transcribe_training

if TYPE_CHECKING:
    from adakd.data.manifest import Manifest
    from adakd.models import Batch, Family
    from adakd.weighting import Weighting


def teacher(place: Place) -> None:
    """Stage 2: fine-tune the teacher, or take one that is already fine-tuned.

    With transcripts.source `teacher` it then transcribes the training set: students need that from
    stage 3 on.
    """
    if place.config.teacher.finetuned:
        ready_teacher(place)
    else:
        train(place, "teacher")
    if place.config.learns_hypotheses:
        transcribe_training(place)


@one_at_a_time(lambda place: place.experiment("teacher"))
def ready_teacher(place: Place) -> None:
    """Take the teacher as its source has it."""
    folder, inputs = place.experiment("teacher"), teacher_inputs(place)
    spare(folder, inputs)
    if is_current(folder, inputs, f"{place.title}: teacher", *model_files(folder)):
        return
    from adakd import models

    family = models.load(place.config, "teacher") if rank() == 0 else None
    sources = place.config.student.source, place.config.transcripts.source
    if family is not None and configuration.TEACHER not in sources:
        # Told now, not after the student has been fine-tuned. Its transcripts need no units.
        models.check_same_units(family, models.load(place.config, "student", units_of(place)))
    begin(folder, inputs, place.config)  # what an earlier teacher has left is not this one's
    if family is not None:
        with replaced_folder(folder / "model") as fresh:
            family.save(fresh)
        mark_done(
            folder,
            inputs,
            method="teacher",
            parameters=family.parameters_count,
            weights=weights_of(folder),
            train_seconds=0,
            **whose(),
        )
    wait_for_all()
    if place.config.family != "whisper":
        return
    if place.config.data.normalise:
        say(
            f"{place.title}: the teacher is taken as it is. If it writes capitals and punctuation, "
            "as OpenAI's do, it disagrees with normalised transcripts for that alone: set "
            "data.normalise to false, or fine-tune it."
        )
    if place.config.language.leading_space:
        say(
            f"{place.title}: if the teacher was fine-tuned with Hugging Face's scripts, its texts "
            "begin without a space, as here they do with language.leading_space false."
        )


@one_at_a_time(untrained)
def student_start(place: Place) -> Path:
    """The untrained student from which every method of a seed starts; made once.

    With student.source `teacher` it has the layers of the teacher as stage 2 left it, as in
    Distil-Whisper: the student starts from the model that it is distilled from, whose output layer
    knows the recipe's units. Layers of the checkpoint before that: name the teacher's own source.
    """
    folder = untrained(place)
    if start_stands(place) and done(folder):
        return folder
    inputs = start_inputs(place)
    current = (done(folder) or {}).get("fingerprint") == fingerprint(inputs)
    current = current and all(path.exists() for path in model_files(folder))
    if not current and rank() == 0:
        from adakd import models
        from adakd.checkpoints import seed_everything

        seed_everything(place.config.seed, "weights")
        config, units = place.config, units_of(place)
        if config.student.source == configuration.TEACHER:
            source, units = str(place.experiment("teacher") / "model"), None  # it brings its own
            student = dataclasses.replace(config.student, source=source)
            config = dataclasses.replace(config, student=student)
        if (own := place.experiment("teacher") / "model").is_dir() and config.teacher.finetuned:
            # As stage 2 has it: where it came from may be out of reach by now.
            teacher = dataclasses.replace(config.teacher, source=str(own))
            config = dataclasses.replace(config, teacher=teacher)
        family = models.load(config, "student", units)
        (folder / "done.json").unlink(missing_ok=True)
        with replaced_folder(folder / "model") as fresh:
            family.save(fresh)
        mark_done(folder, inputs, method="untrained", parameters=family.parameters_count)
    wait_for_all()
    return folder


def _folder_of_training(
    place: Place, method: str, half: tuple[int, list[int]] | None = None
) -> Path:
    return place.half(half[0]) if half else place.experiment(method)


@one_at_a_time(_folder_of_training)
def train(place: Place, method: str, half: tuple[int, list[int]] | None = None) -> None:
    """Train the student with a method, or the teacher (method ``teacher``), from start to end.

    ``half``, a number and its utterances, trains another teacher, on these alone.
    """
    config = place.config
    title = f"{place.title}: {place.experiment(method).parent.name}"
    title += f" of half {half[0] + 1}" if half else ""
    role = "teacher" if method == "teacher" else "student"
    settings = config.train_of(role)
    name = "finetune" if method == "teacher" else method
    inputs = training_inputs(place, method, half[1] if half else None)
    folder = _folder_of_training(place, method, half)
    if not half:  # halves go with the teacher
        spare(folder, inputs)
    if is_current(folder, inputs, title, *model_files(folder)):
        if rank() == 0:  # where a run was killed before it removed them
            shutil.rmtree(folder / "ckpt", ignore_errors=True)
        return
    spare_cut(folder, inputs, dataclasses.asdict(config))  # as `begin` does, before models load

    import torch

    from adakd import weighting as weightings
    from adakd.brain import DistillationBrain
    from adakd.checkpoints import seed_everything
    from adakd.data.loader import Steps, StepSampler, evaluation_loader, training_loader
    from adakd.device import described, precision

    check_options(place)
    weighting = weightings.build(name, config.methods.get(method))
    check_method(place, method, weighting)
    if role == "teacher" and not half:
        check_units(place)
    entries = place.transcribed() if role == "teacher" else lessons(place)
    gc.collect()  # as below; one that failed may still be there
    seed = place.seed_of(method)
    family = _beginner(place, method, entries)
    live, extra = supervision(place, weighting, family)
    begin(folder, inputs, config)  # here, since it empties what was finished with other inputs
    seed_everything(seed, "training")  # whatever else this process has done
    family.prepare_training(settings)
    family.permit(entries)
    if rank():  # what it has made is the same everywhere; dropout and masks are not to be
        seed_everything(seed, f"training {rank()}")
    if half:
        entries = entries.pick(half[1])
    held_out = None
    if weighting.held_out:
        held, entries = entries.split(weighting.held_out, config.seed)
        held_out = Steps(held, place.root, family)
    sampler = StepSampler(
        entries.seconds,
        settings.batch_seconds,
        settings.accumulate,
        seed,
        family.padded,
        rank(),
        world(),
    )
    say(f"{title}: trains {described()}, {precision(settings.precision)}")
    if world() > 1:
        say(f"{title}: {step_of_all(config, role)}")
    brain = DistillationBrain(
        family, weighting, settings, config.distill, folder, sampler, title, live, held_out
    )
    train_loader = training_loader(
        Steps(entries, place.root, family, extra, live), sampler, settings.workers
    )
    dev_loader = evaluation_loader(
        Steps(place.manifest("dev")[rank() :: world()], place.root, family),
        settings.batch_seconds_without_gradients,
        settings.workers,
    )
    try:
        outcome = brain.run(train_loader, dev_loader)
    except torch.OutOfMemoryError as error:
        raise too_little_memory(title, config, role, folder) from error
    wait_for_all()  # every process has read the best checkpoint, before they are removed
    if rank() == 0:
        with replaced_folder(folder / "model") as fresh:
            family.save(fresh)
        mark_done(
            folder,
            inputs,
            method=method,
            processes=world(),
            parameters=family.parameters_count,
            weights=weights_of(folder),
            steps=brain.total_steps,
            alpha=weighting.summary(),
            **outcome,
            **whose(),
        )
        shutil.rmtree(folder / "ckpt", ignore_errors=True)
    wait_for_all()
    # A brain and its checkpointer hold each other: a GPU would keep the student and AdamW's states,
    # 12 bytes a parameter, while the next stage wants the memory.
    del brain
    gc.collect()
    say(
        f"{title} trained in {outcome['train_seconds']:.0f} s, dev CER "
        f"{outcome['dev_cer']:.2%} at epoch {outcome['epoch']} of {settings.epochs}"
    )


def _beginner(place: Place, method: str, entries: Manifest) -> Family:
    """The model as its training begins; `UserError` if it cannot hear all that it is to hear."""
    from adakd import models
    from adakd.checkpoints import seed_everything

    if method == "teacher":
        seed_everything(place.seed_of(method), "weights")
        family = models.load(place.config, "teacher", units_of(place))
    else:
        family = models.open_folder(place.config, student_start(place) / "model")
    for split in (entries, place.manifest("dev"), place.manifest("test")):
        if len(split):  # told now, not in the middle of an epoch or after the last
            longest = int(split.seconds.argmax())
            family.check_hears(split[longest].id, float(split.seconds[longest]))
    return family


def check_units(place: Place) -> None:
    """Raise `UserError` where nothing can be distilled, before the teacher is trained for days.

    Only where both models bring a tokenizer. A student of the teacher's layers has its units, and
    one that learns from its transcripts needs none of them.
    """
    config = place.config
    teacher, student = config.teacher.source, config.student.source
    if configuration.TEACHER in (student, config.transcripts.source) or units_of(place):
        return
    if teacher and student:
        from adakd import models

        models.check_same_units(teacher, student)


def check_methods(place: Place, methods: Sequence[str]) -> None:
    """`check_method` for all that are to be trained, before others are trained for days."""
    if methods := [method for method in methods if not done(place.experiment(method))]:
        from adakd.weighting import build

        check_options(place)
        for method in methods:
            check_method(place, method, build(method, place.config.methods.get(method)))


def check_options(place: Place) -> None:
    """`UserError` for a wrong option of any method, now and not after hours of other work."""
    from adakd.weighting import build

    for method, options in place.config.methods.items():
        build(method, options)


def check_method(place: Place, method: str, weighting: Weighting) -> None:
    """Raise `UserError` where a method cannot be trained with these settings."""
    config, distill = place.config, place.config.distill
    name = "finetune" if method == "teacher" else method
    if METHODS[name].uses_difficulty != weighting.uses_difficulty:
        raise UserError(  # else what x is made of would not be among its inputs
            f"{method}: uses_difficulty is {METHODS[name].uses_difficulty} in adakd/methods.py and "
            f"{weighting.uses_difficulty} in its class: make them agree."
        )
    if weighting.uses_doubt and (config.methods.get(method) or {}).get("guard") is None:
        raise UserError(  # stage 4 knows by that name that doubts are asked for
            f"{method}: its class uses doubts without an option called guard: give it one."
        )
    if weighting.logits_scale(0.0) is not None and distill.top_k and distill.teacher == "cached":
        raise UserError(
            f"{place.title}: {method} compares all logits, and the teacher store keeps the top "
            f"{distill.top_k}: give it a live teacher (distill.teacher online, for it alone: "
            f"--stage 6 --methods {method} --tag live, or its cell of a study), or set "
            "distill.top_k to 0, which makes the store and what learnt from it anew."
        )
    train = config.train_of("student")
    if weighting.restart_at is not None and train.epochs < 2:
        raise UserError(
            f"{place.title}: {method} trains in two phases, of an epoch each at least: raise "
            "train.epochs to more than one."
        )
    auxiliary = config.family == "whisper" and train.ctc_weight > 0
    if weighting.learn_every and auxiliary:
        raise UserError(
            f"{place.title}: {method} learns its weights from the task loss in eval mode, which is "
            "without the auxiliary CTC loss that the student is trained with: set "
            "student.train.ctc_weight to 0, or take adakd."
        )


def step_of_all(config: configuration.Config, role: str) -> str:
    """What several processes put into one optimiser step, and how to have the recipe's."""
    train, count = config.train_of(role), world()
    seconds = train.batch_seconds * train.accumulate
    batches = -(-train.accumulate // count)  # no batch is to be larger than the recipe's
    as_one = {"accumulate": batches, "batch_seconds": seconds / (count * batches)}
    options = options_of_training(config, role, as_one)
    # Batches of fewer seconds hold whole clips, too, and come out a little smaller or larger.
    about = "" if as_one["batch_seconds"] == train.batch_seconds else "about "
    return (
        f"{count} processes, {count * seconds:g} s of audio in a step where one has {seconds:g} s, "
        f"and so many times fewer steps; {about}as with one: {options}"
    )


def options_of_training(config: configuration.Config, role: str, values: dict[str, float]) -> str:
    """What to type for other values of one model's ``train``; the other model keeps its own."""
    train = config.train_of(role)
    return " ".join(
        f"--{role}.train.{name} {value:g}"
        for name, value in values.items()
        if value != getattr(train, name)
    )


def too_little_memory(
    title: str, config: configuration.Config, role: str, folder: Path
) -> UserError:
    """What to say where a training, in ``folder``, does not fit on its GPU."""
    train = config.train_of(role)
    halved = {"batch_seconds": train.batch_seconds / 2, "accumulate": 2 * train.accumulate}
    return UserError(
        f"{title}: the GPU's memory is full. PYTORCH_ALLOC_CONF=expandable_segments:True in the "
        "environment saves some, and the training goes on; smaller batches make the same steps, "
        f"but begin it anew: remove {shown(folder)} and give "
        f"{options_of_training(config, role, halved)}."
    )


def supervision(
    place: Place, weighting: Weighting, student: Family
) -> tuple[Family | None, Callable[[Batch], Batch] | None]:
    """What a method gets from the teacher: the live model, and what is added to every batch."""
    asks = weighting.uses_difficulty or weighting.uses_doubt
    if not (weighting.uses_distill or asks):
        return None, None
    import torch

    from adakd import models

    config = place.config
    folder = place.experiment("teacher") / "model"
    live, store = None, None
    if weighting.uses_distill:
        models.check_same_units(folder, student)
        if config.distill.teacher == "online":
            live = models.open_folder(config, folder)
            live.requires_grad_(False)
        else:
            store = open_store(place)
    x, doubts = difficulties(place, weighting.uses_doubt, store) if asks else ({}, {})
    if asks:
        ids = [entry.id for entry in lessons(place)]
        if lost := next((i for i in ids if i not in x), None):
            raise UserError(
                f"{place.title}: the teacher's losses lack utterance '{lost}': run stage 4 "
                "(teacher-pass) again."
            )
        weighting.fit([x[i] for i in ids], [doubts[i] for i in ids] if doubts else None)

    def extra(batch: Batch) -> Batch:
        if x:
            batch.difficulty = torch.tensor([x[i] for i in batch.ids])
        if doubts:
            batch.doubt = torch.tensor([doubts[i] for i in batch.ids])
        if store is not None:
            batch.soft = store.soft(batch.ids)
        return batch

    return live, extra
