"""`adakd bench growth`: how cost grows, and what it comes to for a whole corpus.

Tables:

- an optimiser step of fine-tuning and one of AdaKD with cached outputs (Whisper: top k), against
  the length of the clips, the vocabulary, the batch and the student's size. One of them varies at a
  time; the others stay at the base point, which is printed. Clips have 8 tokens a second.
- the teacher pass and its store against the amount of speech
- the plan: what each stage takes for corpora of --plan-hours on so many --gpus. It is computed:
  from rates that this same run measures at the base point. Those of steps are measured in turn,
  each in a process of its own, batches in memory; the teacher pass's is that of the most
  speech in the table before, which reads FLAC and runs in this process. Every hour of speech is
  assumed to take the same time, and devices to share the work without loss. KD takes AdaKD's time:
  their steps differ by the weights of utterances alone.
"""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from adakd.bench import measure
from adakd.bench.steps import FINE_TUNING, LIVE
from adakd.options import Parser, natural, one_of, positive, several, whole

if TYPE_CHECKING:
    from adakd.bench.measure import Cost
    from adakd.models import Family

CACHED, TEACHER, PASS = "AdaKD, cached", "fine-tuning the teacher", "teacher pass"
STEPS = (TEACHER, FINE_TUNING, CACHED, LIVE)
CLOCKS = ("wall", "processor")


@dataclass(frozen=True)
class Point:
    """What a step's cost depends on."""

    length: float  # seconds of every clip
    vocabulary: int
    batch: int  # clips
    student: str  # width x layers

    def size(self) -> tuple[float, ...]:
        """To sort by."""
        width, layers = map(int, self.student.split("x"))
        return (self.length, self.vocabulary, self.batch, width, layers)

    def describe(self) -> str:
        """In words."""
        return (
            f"{self.batch} clips of {self.length:g} s, {self.vocabulary:,} units, student "
            f"{self.student}"
        )


# The first value is the base point's.
Axes = dict[str, tuple[Any, ...]]
AXES: dict[str, dict[str, Axes]] = {
    "whisper": {
        "true": {
            "length": (5.0, 2.0, 10.0, 20.0, 30.0),
            "vocabulary": (51_865, 1_000, 5_000, 20_000),
            "batch": (4, 1, 16),
            "student": ("384x4", "512x6", "768x12"),  # tiny, base, small
        },
        "tiny": {
            "length": (2.0, 1.0),
            "vocabulary": (500, 400),
            "batch": (2, 1),
            "student": ("32x2", "48x3"),
        },
    },
    "wav2vec2": {
        "true": {
            "length": (5.0, 2.0, 10.0, 20.0),
            "vocabulary": (60, 500, 5_000),  # letters, syllables, Chinese characters
            "batch": (4, 1, 16),
            "student": ("1024x24", "768x12"),  # XLS-R 300M, the base size
        },
        "tiny": {
            "length": (2.0, 1.0),
            "vocabulary": (60, 40),
            "batch": (2, 1),
            "student": ("32x2", "48x3"),
        },
    },
}


def main(arguments: Sequence[str]) -> int:
    """Measure, and print tables in Markdown; 0 on success."""
    parser = Parser(prog="adakd bench growth")
    parser.add_argument("--family", default="whisper", choices=tuple(AXES))
    parser.add_argument("--size", default="true", choices=("true", "tiny"))
    names = "length vocabulary batch student"
    axes_of = several(one_of(*names.split()), or_none=True)
    parser.add_argument(
        "--axes", type=axes_of, default=names, help=f'of "{names}" (all); "" for none'
    )
    parser.add_argument("--batch", type=natural, help="clips of the base point")
    parser.add_argument("--length", type=positive, help="seconds of its clips")
    parser.add_argument("--top-k", type=natural, default=100, help="of Whisper's store (100)")
    parser.add_argument("--rounds", type=natural, default=5, help="times that each is measured (5)")
    parser.add_argument("--precision", default="auto", choices=("auto", "bf16", "fp32"))
    parser.add_argument(
        "--pass-clips", type=several(natural), default="4 8 16",
        help='clips to pass over ("4 8 16")',
    )  # fmt: skip
    parser.add_argument("--workers", type=whole, default=0, help="processes that read (0)")
    parser.add_argument(
        "--plan-hours", type=several(positive, or_none=True), default="1000",
        help='hours of speech; "" for no plan (1000)',
    )  # fmt: skip
    parser.add_argument(
        "--gpus", type=several(natural), default="1 8", help='devices of the plan ("1 8")'
    )
    parser.add_argument("--teacher-epochs", type=natural, default=3, help="of the plan (3)")
    parser.add_argument("--student-epochs", type=natural, default=10, help="of the plan (10)")
    options = parser.parse_args(list(arguments))
    axes = AXES[options.family][options.size]
    base = Point(**{name: values[0] for name, values in axes.items()})
    base = replace(base, batch=options.batch or base.batch, length=options.length or base.length)
    measure.print_heading("growth", arguments)
    print(f"Base point: {base.describe()}.\n")
    costs: dict[Point, dict[str, list[Cost]]] = {}
    for axis in options.axes:
        points = {base} | {replace(base, **{axis: value}) for value in axes[axis]}
        rows = []
        for point in sorted(points, key=Point.size):
            if point not in costs:
                costs[point] = step_costs(options, point)
            value = getattr(point, axis)
            rows.append(
                [value if axis == "student" else f"{value:,g}", *_cells(costs[point], point)]
            )
        head = ["fine-tuning, s", "AdaKD, s", "audio s a s", "ratio, wall", "ratio, processor"]
        measure.print_table([axis, *head], rows)
    passing, bytes_an_hour = passes(options, base)
    if not options.plan_hours:
        return 0
    found = measure.apart(partial(rate, base), options, STEPS, options.rounds)
    found[PASS] = passing
    measure.print_table(
        ["rate, one device", "audio s a s"],
        [[name, measure.spread(each)] for name, each in found.items()],
    )
    rates = {name: median(each) for name, each in found.items()}
    print(
        "Computed from the rates above, linear scaling assumed over hours and devices: the plan is "
        "not measured.\n"
    )
    for hours in options.plan_hours:
        stages = plan(rates, hours, options.teacher_epochs, options.student_epochs)
        measure.print_table(
            [f"{hours:,g} h of speech", *(f"hours on {count}" for count in options.gpus)],
            [
                [name, *(f"{taken / n:,.1f}" for n in options.gpus)]
                for name, taken in stages.items()
            ],
        )
        print(f"Teacher store for {hours:,g} h: {bytes_an_hour * hours / 1e9:,.1f} GB.\n")
    return 0


def plan(
    rates: Mapping[str, float], hours: float, teacher_epochs: int, student_epochs: int
) -> dict[str, float]:
    """Hours that each stage takes on one device.

    Args:
        rates: seconds of audio a second, of everything in STEPS and of PASS.
        hours: speech in the training set.
        teacher_epochs, student_epochs: passes over it.
    """

    def takes(name: str, epochs: int) -> float:
        return epochs * hours / rates[name]

    cached, live = (takes(name, student_epochs) for name in (CACHED, LIVE))
    stages = {
        f"stage 2: {TEACHER}, {teacher_epochs} epochs": takes(TEACHER, teacher_epochs),
        f"stage 3: {FINE_TUNING}, {student_epochs} epochs": takes(FINE_TUNING, student_epochs),
        f"stage 4: {PASS}": takes(PASS, 1),
        f"stage 5: KD, cached, {student_epochs} epochs": cached,
        f"stage 6: {CACHED}, {student_epochs} epochs": cached,
    }
    total = sum(stages.values())
    stages["all five stages"] = total
    stages["all five, stages 5 and 6 with a live teacher"] = total + 2 * (live - cached)
    return stages


def step_costs(options: argparse.Namespace, point: Point) -> dict[str, list[Cost]]:
    """Of fine-tuning's step and AdaKD's, in turn on the same student."""
    from adakd.bench import made

    with made.scratch() as folder:
        student = model(options, point, "student", folder)
        work = {name: step(options, point, name, student, folder) for name in (FINE_TUNING, CACHED)}
        return measure.interleaved(work, options.rounds)


@contextlib.contextmanager
def rate(point: Point, options: argparse.Namespace, name: str) -> Iterator[Callable[[], float]]:
    """Seconds of audio a second of a step in STEPS, in a process that has done it once."""
    from adakd.bench import made

    with made.scratch() as folder:
        trained = model(options, point, "teacher" if name == TEACHER else "student", folder)
        work = step(options, point, name, trained, folder)
        work()
        yield lambda: point.batch * point.length / measure.clocked(work).wall


def step(
    options: argparse.Namespace, point: Point, name: str, trained: Family, folder: Path
) -> Callable[[], Any]:
    """An optimiser step of a kind in STEPS."""
    from adakd.bench import made

    teacher = None
    if name == LIVE:
        teacher = model(options, point, "teacher", folder).requires_grad_(False)
    method = "adakd" if name in (CACHED, LIVE) else "finetune"
    brain = made.brain(trained, method, folder / name, teacher, precision=options.precision)
    clips = made.speech([point.length] * point.batch)
    top_k = made.kept(options.family, options.top_k) if name == CACHED else None
    return made.optimiser_step(brain, clips, top_k)


def model(options: argparse.Namespace, point: Point, role: str, folder: Path) -> Family:
    """The teacher, or a student of the point's size, both with its vocabulary."""
    from adakd.bench import made

    changes: dict[str, Any] = {"vocab_size": point.vocabulary}
    if role == "student":
        width, layers = map(int, point.student.split("x"))
        changes |= made.shape(options.family, width, layers)
    return made.family(options.family, role, options.size, folder, **changes)


def passes(options: argparse.Namespace, base: Point) -> tuple[list[float], float]:
    """Print what stage 4 takes for more and more speech.

    Returns:
        Of the most speech: seconds of audio a second in each round, and bytes of store an hour.
    """
    from adakd.bench import made, teacher

    top_k = made.kept(options.family, options.top_k)
    work, seconds, stores = {}, {}, {}
    with made.scratch() as scratch:
        listener = model(options, base, "teacher", scratch)
        for count in sorted(options.pass_clips):
            name, folder = f"{count} clips", scratch / str(count)
            speech = made.speech([base.length] * count)
            fits = base.batch * (base.length + 1)  # seconds of a batch, padding included
            loader = teacher.reading([speech], folder, listener, fits, options.workers)
            work[name] = teacher.stage(listener, loader, folder, top_k)
            seconds[name], stores[name] = speech.seconds, folder / "store"
        costs = measure.interleaved(work, options.rounds)
        size = {name: sum(p.stat().st_size for p in stores[name].iterdir()) for name in work}
    rows = []
    for name, found in costs.items():
        taken = [cost.wall for cost in found]
        rates = [seconds[name] / each for each in taken]
        hour = 3600 / seconds[name] * size[name]
        rows.append(
            [name, f"{seconds[name]:g}", measure.spread(taken), measure.spread(rates, 2)]
            + [f"{size[name] / 1e6:.3f}", f"{hour / 1e6:.1f}"]
        )
    head = ["audio, s", "wall, s", "audio s a s", "store, MB", "MB an hour"]
    measure.print_table([PASS, *head], rows)
    return rates, hour


def _cells(costs: Mapping[str, Sequence[Cost]], point: Point) -> list[str]:
    """Both steps in wall seconds, AdaKD's rate, and its ratio on both clocks."""
    taken = {name: [cost.wall for cost in found] for name, found in costs.items()}
    rates = [point.batch * point.length / each for each in taken[CACHED]]
    return [
        *(measure.spread(each) for each in taken.values()),
        measure.spread(rates, 2),
        *(measure.spread(measure.ratios(costs, CACHED, [FINE_TUNING], clock)) for clock in CLOCKS),
    ]
