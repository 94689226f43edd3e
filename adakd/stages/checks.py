"""What the models cannot do, told before the teacher is trained and not hours later."""

from __future__ import annotations

from collections.abc import Sequence

from adakd.finished import changes, done
from adakd.inputs import teacher_inputs, units_of, untrained
from adakd.place import Place
from adakd.stages.teacher_pass import check_source_of_difficulty


def check_models(place: Place, steps: Sequence[str], methods: Sequence[str]) -> None:
    """Raise `UserError` where the models are not what the steps and methods to come need.

    Configurations and tokenizers are read, weights are not. Without data the first step tells so.
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
    if passes and config.distill.difficulty == "dropout":
        difficulty.check_dropout(models.outline(config, "teacher", units))
    if methods and not done(untrained(place)):  # its source may be out of reach by now
        models.outline(config, "student", units)
