"""What a study publishes beside its report: all scores, a line of JSON for each piece of work.

They are for those who want to reckon themselves, and for the study: where an experiment is not on
this machine its line stands for it, so that a study goes on from what it has published. Every line
has `name`, `kind`, `recipe`, `family` and `fold`; and

- `group`: `utterances`, the test set as (id, speaker, characters); `difficulty`, x of each by the
  teacher; `x` of the training set; `minutes` of it; `seconds` that the teacher took
- `cell`, and `teacher`: `errors` of each utterance, their kinds in all, how training went;
  `dev_curve`, the dev CER after each epoch as (epoch, CER); `difficulty` where it is of another
  teacher than the group's
- `trial`, a run that chooses on dev: `dev_cer`, and `dev_curve`, the lowest up to each epoch;
  of one that failed, the `reason`

`settings` is the fingerprint of the task, `of_data` that of the data, `of_start` and `of_teacher`
those of what made the models it came from; null is not known. `taught` is when the teacher was
trained: a study that goes on elsewhere trains it again. `code` is that of `inputs.code`, which runs
of Whisper from before 2026-11-29 lack.
"""

from __future__ import annotations

import json
from codecs import BOM_UTF8
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from adakd.errors import UserError
from adakd.report import Experiment, Run
from adakd.score import Counts, UtteranceErrors

Line = dict[str, Any]

FACTS = ("dev_cer", "steps", "train_seconds", "parameters", "alpha", "taken_over", "fingerprint")
LATER = ("learning_seconds",)  # of those that learn k and t; lines before 2026-11-28 lack it
INPUTS = ("data", "start", "teacher")
OF_RUN = {
    *("cell", "seed", "errors", "dev_curve", "weights", *FACTS, *Counts._fields),
    *(f"of_{name}" for name in INPUTS),
}
KINDS = {  # what a line must have
    "group": {"utterances", "difficulty", "x", "minutes", "seconds"},
    "teacher": OF_RUN,
    "trial": {"settings", "of_data", "dev_cer", "dev_curve", "train_seconds"},
    "cell": {"settings", *OF_RUN},
}


def read_lines(path: Path) -> dict[str, Line]:
    """The lines of a file by name; `UserError` where one is none of a study's, or a second one."""
    found: dict[str, Line] = {}
    # In bytes: names may hold signs at which text is split into lines, and editors put a BOM first.
    for number, text in enumerate(path.read_bytes().removeprefix(BOM_UTF8).splitlines(), start=1):
        try:
            line = json.loads(text.decode())
            wrong = {"name", "recipe", "family", "fold", *KINDS[line["kind"]]} - line.keys()
        except (ValueError, KeyError, AttributeError, TypeError):
            wrong = {"kind"}
        if wrong or line["name"] in found:
            what = f"lacks {sorted(wrong)[0]}" if wrong else f"is a second {line['name']}"
            raise UserError(
                f"{path}:{number} {what}: take the file as it was published, from git; without it "
                "the study publishes what is on this machine alone."
            )
        found[line["name"]] = line
    for name, line in found.items():
        utterances: list[Any] = found.get(name_of_group(line), {}).get("utterances", [])
        if len(line.get("errors", utterances)) != len(utterances):
            raise UserError(f"{path}: {name} has errors of other utterances than its group has.")
    return found


def name_of_group(line: Line) -> str:
    """As `adakd.study.grid.Group` is written."""
    fold = "" if line["fold"] is None else f" fold {line['fold']}"
    return f"{line['recipe']}{fold} {line['family']}"


def line_of(run: Run, utterances: Sequence[tuple[str, str, int]]) -> Line:
    """A run, with its errors in the order of `utterances`; `UserError` if it heard others."""
    errors = {(one.id, one.speaker, one.normalised.characters): one for one in run.errors}
    if errors.keys() != set(utterances):
        raise UserError(
            f"{run.experiment.folder} was decoded on other utterances than the runs beside it: run "
            "the benchmark again."
        )
    inputs = run.done.get("inputs", {})
    return {
        "cell": run.experiment.method,
        "seed": run.experiment.seed,
        "test_cer": run.counts.cer,
        **run.counts._asdict(),
        **{fact: run.done.get(fact) for fact in FACTS},
        **{fact: run.done[fact] for fact in LATER if fact in run.done},
        **{f"of_{name}": inputs.get(name) for name in INPUTS},
        **({"code": inputs["code"]} if "code" in inputs else {}),
        **run.made,
        "weights": run.weights,
        "dev_curve": run.dev_cer,
        "errors": [errors[each].normalised.errors for each in utterances],
    }


def run_of(line: Line, group: Line, experiment: Experiment) -> Run:
    """The run of which `line_of` made a line.

    What was wrong in an utterance is a number there: its kinds are known of the whole run.
    """
    difficulties = (
        line.get("difficulty") or group["difficulty"] or [None] * len(group["utterances"])
    )
    done = {fact: line[fact] for fact in (*FACTS, *LATER) if line.get(fact) is not None}
    inputs = {name: line[f"of_{name}"] for name in INPUTS if line[f"of_{name}"] is not None}
    if "code" in line:
        inputs["code"] = line["code"]
    unknown = Counts(0, 0, 0, 0)
    return Run(
        experiment,
        [
            UtteranceErrors(id, speaker, Counts(errors, 0, 0, characters), unknown)
            for errors, (id, speaker, characters) in zip(
                line["errors"], group["utterances"], strict=True
            )
        ],
        difficulties,
        done | {"inputs": inputs},
        [(epoch, cer) for epoch, cer in line["dev_curve"]],
        [],
        line["weights"],
        {name: line[name] for name in ("revision", "machine", "taught") if name in line},
        Counts(*(line[kind] for kind in Counts._fields)),
    )
