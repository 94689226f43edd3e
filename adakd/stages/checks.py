"""What the models cannot do, told before the teacher is trained and not hours later."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace

from adakd.config import TEACHER, Model
from adakd.errors import UserError
from adakd.finished import changes, done, spare, spare_cut
from adakd.inputs import teacher_inputs, units_of
from adakd.place import Place
from adakd.stages.teacher_pass import check_source_of_difficulty
from adakd.stages.training import student_start

SECONDS = 10  # of audio, for which frames are counted


def check_models(place: Place, steps: Sequence[str], methods: Sequence[str]) -> None:
    """Raise `UserError` where the models are not what the steps and methods to come need.

    The student of a teacher that is to be trained is made here, unless it comes from that: broken
    weights are told before. Of other models all is read but these. Without data the first step
    tells so.
    """
    config, passes = place.config, "teacher-pass" in steps
    if not done(place.data):
        return
    if passes and not done(place.difficulty):
        check_source_of_difficulty(place)
    teacher = done(place.experiment("teacher"))
    if "teacher" not in steps or teacher and not changes(teacher["inputs"], teacher_inputs(place)):
        return
    from adakd import difficulty, models

    units = units_of(place)
    if passes or set(methods) - {"finetune"}:
        taught_by = models.outline(config, "teacher", units)
    if passes and config.distill.difficulty == "dropout":
        difficulty.check_dropout(taught_by)
    if passes and config.distill.top_k > (count := taught_by.hf.config.vocab_size):
        raise UserError(
            f"{place.title}: distill.top_k is {config.distill.top_k}, and the teacher has {count} "
            f"units: give 1 to {count}, or 0, which keeps all."
        )
    # The output layer of a finished teacher's student is of the size of that teacher's own, which
    # stage 2 is still to fetch, and it loads the student as well.
    if methods and (config.student.source == TEACHER or config.teacher.finetuned):
        student = models.outline(config, "student", units)
    elif methods:
        # Nothing is replaced where stage 2 will refuse to.
        spare(place.experiment("teacher"), teacher_inputs(place))
        spare_cut(place.experiment("teacher"), teacher_inputs(place), asdict(config))
        start = Model(source=str(student_start(place) / "model"))
        student = models.outline(replace(config, student=start), "student")
    if set(methods) - {"finetune"}:
        found = [family.frames(SECONDS) for family in (taught_by, student)]
        if found[0] != found[1]:
            raise UserError(
                f"{place.title}: of {SECONDS} s of audio the teacher makes {found[0]} frames "
                f"and the student {found[1]}, and soft outputs are of frames: give models of "
                "one frame rate (conv_kernel and conv_stride in their config.json)."
            )
