"""The report's figures: plain numbers in, PNG bytes out, one panel per family.

Knows nothing of experiment folders; report.py gathers the numbers. One look for all figures: the
Okabe-Ito palette (told apart by colour-blind readers) with a marker of its own for every method.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import cycle
from math import isfinite, nan
from typing import TYPE_CHECKING, Any

from adakd.methods import METHODS, method_of

if TYPE_CHECKING:
    import numpy as np

INK, MUTED, GRID = "#1f2937", "#6b7280", "#e5e7eb"
PANEL = 4.9  # inches: width of one family's panel
DOTS_PER_INCH = 160
POINTS = 60  # a curve over thousands of steps is drawn as this many block means
QUARTERS = ("easiest\nquarter", "second", "third", "hardest\nquarter")
OFF_SCALE = 3.0  # a dot further than this many times the others' largest CER is only written down

STYLES = {  # colour and marker
    "teacher": ("#6b7280", "D"),
    "untrained": ("#b6bcc6", "X"),
    **{name: (method.colour, method.marker) for name, method in METHODS.items()},
}
SPARE_STYLES = [("#000000", "<"), ("#44AA99", "d"), ("#999933", "p"), ("#332288", "h")]

Curve = Sequence[tuple[float, float]]  # (epoch or step, value)


@dataclass(frozen=True)
class Method:
    """What is drawn of one method of one family; CERs are fractions."""

    name: str  # as in the folder's name: chooses colour and marker
    label: str
    cer: float
    interval: tuple[float, float]
    dev_cer: list[Curve] = field(default_factory=list)  # one curve a run, by epoch
    task_loss: list[Curve] = field(default_factory=list)  # one curve a run, by optimiser step
    quartiles: list[float] = field(default_factory=list)  # CER, from the easiest quarter on


X_IS = {  # by the scale of x
    "linear": "difficulty x: the teacher's loss on the utterance",
    "log": "log of the teacher's loss on the utterance",
    "rank": "share of utterances that are easier to the teacher",
}


@dataclass(frozen=True)
class Schedule:
    """AdaKD's parameters in one run, and x (N,) of its training set on the run's scale."""

    threshold: float
    k_start: float
    k_end: float
    alpha_at_t: float
    difficulties: np.ndarray
    scale: str = "linear"

    def alpha(self, x: np.ndarray, progress: float) -> np.ndarray:
        """alpha = alpha_at_t ** exp(k (x - t) / 2); k falls linearly over progress 0..1."""
        import numpy as np

        k = self.k_start + progress * (self.k_end - self.k_start)
        return self.alpha_at_t ** np.exp(np.clip(k * (x - self.threshold) / 2, -50, 50))


Families = Mapping[str, Sequence[Method]]


def cer_by_method(families: Families) -> bytes:
    """A dot and its 95 % interval per method."""
    rows = max(len(methods) for methods in families.values())
    with _figure(len(families), 0.42 * rows + 1.1) as (figure, axes):
        colours = _styles(families)
        for axis, (family, methods) in zip(axes[0], families.items(), strict=True):
            kept = _on_scale(methods)
            for height, method in enumerate(methods):
                colour, marker = colours[method.name]
                if method not in kept:
                    axis.text(
                        0.02,
                        height,
                        f"{100 * method.cer:.1f} %, beyond this scale",
                        transform=axis.get_yaxis_transform(),
                        va="center",
                        color=MUTED,
                        size=9,
                    )
                    continue
                low, high = (100 * bound for bound in method.interval)
                axis.hlines(height, low, high, color=colour, linewidth=2.2, alpha=0.75)
                axis.plot(100 * method.cer, height, marker, color=colour, markersize=8)
            axis.set_yticks(range(len(methods)), [method.label for method in methods])
            axis.set_ylim(len(methods) - 0.4, -0.6)
            axis.tick_params(axis="y", length=0)
            axis.grid(axis="x")
            axis.set_title(family)
            axis.set_xlabel("CER on test, % (95 % interval)")
        return figure_bytes(figure)


def learning_curves(families: Families) -> bytes:
    """Dev CER by epoch above, training task loss by step below; runs as mean and range."""
    with _figure(len(families), 3.0, rows=2) as (figure, axes):
        styles = _styles(families)
        for column, (family, methods) in enumerate(families.items()):
            above, below = axes[0][column], axes[1][column]
            for method in methods:
                colour, marker = styles[method.name]
                _mean_and_range(above, method.dev_cer, colour, method.label, 100, marker)
                if method.name != "teacher":  # another model, whose loss would set the scale
                    _mean_and_range(below, [_blocks(c) for c in method.task_loss], colour, None)
            above.set_title(family)
            above.set_xlabel("epoch")
            above.xaxis.get_major_locator().set_params(integer=True)
            below.set_xlabel("optimiser step")
            for axis, label in ((above, "dev CER, %"), (below, "students' task loss (training)")):
                axis.set_ylabel(label if column == 0 else "")
                axis.set_ylim(bottom=0)
                axis.grid(axis="y")
        _legend(figure, axes)
        return figure_bytes(figure)


def alpha_by_difficulty(schedules: Mapping[str, Schedule]) -> bytes:
    """alpha over the teacher's loss at start, middle and end of training; histogram of x below."""
    import numpy as np

    moments = ((0.0, "start", "#004D3B"), (0.5, "middle", "#009E73"), (1.0, "end", "#86CDB8"))
    with _figure(len(schedules), 2.6, rows=2, heights=(2.4, 1.0)) as (figure, axes):
        for column, (family, schedule) in enumerate(schedules.items()):
            above, below = axes[0][column], axes[1][column]
            x = schedule.difficulties
            right = float(np.percentile(x, 99.5))
            left = min(float(x.min()), schedule.threshold)
            grid = np.linspace(left, max(right, schedule.threshold), 300)
            for progress, name, colour in moments:
                above.plot(grid, schedule.alpha(grid, progress), color=colour, label=name)
            for axis in (above, below):
                axis.axvline(schedule.threshold, color=MUTED, linewidth=1, linestyle=(0, (2, 3)))
                axis.set_xlim(grid[0], grid[-1])
            above.annotate(
                "threshold t",
                (schedule.threshold, 0.98),
                xytext=(4, 0),
                textcoords="offset points",
                va="top",
                color=MUTED,
                size=9,
            )
            above.set_ylim(0, 1)
            above.tick_params(labelbottom=False)
            above.grid(axis="y")
            above.set_title(family)
            below.hist(x[x <= grid[-1]], bins=40, color="#9ca3af")
            below.set_xlabel(X_IS[schedule.scale])
            if column == 0:
                above.set_ylabel("alpha: weight of the teacher")
                below.set_ylabel("utterances")
        figure.align_ylabels(axes[:, 0])
        _legend(figure, axes, "moment of training")
        return figure_bytes(figure)


def cer_by_quartile(families: Families) -> bytes:
    """CER by quarter of the test set, quarters by the teacher's loss."""
    with _figure(len(families), 3.1) as (figure, axes):
        styles = _styles(families)
        for column, (axis, (family, methods)) in enumerate(
            zip(axes[0], families.items(), strict=True)
        ):
            kept = _on_scale([method for method in methods if method.quartiles])
            for method in kept:
                colour, marker = styles[method.name]
                heights = [100 * cer for cer in method.quartiles]
                axis.plot(range(4), heights, color=colour, marker=marker, label=method.label)
            axis.set_xticks(range(4), QUARTERS)
            axis.set_xlim(-0.25, 3.25)
            axis.set_ylim(0, 1.05 * axis.get_ylim()[1])  # so that no marker is cut
            axis.set_ylabel("CER on test, %" if column == 0 else "")
            axis.grid(axis="y")
            axis.set_title(family)
        _legend(figure, axes)
        return figure_bytes(figure)


@dataclass(frozen=True)
class Gain:
    """Relative changes of a comparison, from the easiest quarter on: (change, low, high) each."""

    label: str  # such as "AdaKD against KD"
    changes: list[tuple[float, float, float]]  # infinite where the other made no error


@dataclass(frozen=True)
class Difference:
    """One comparison in one place: relative change of CER and its interval."""

    place: str  # such as a recipe and family
    change: float
    interval: tuple[float, float]
    verdict: str  # better, worse, or anything else


CHANGE = "change of CER on test, % (left of 0: better), with its 95 % interval"


def _draw(axis: Any, one: Difference, height: float) -> None:
    """A dot and its interval, in the colour of the verdict."""
    colours = {"better": STYLES["adakd"][0], "worse": STYLES["annealing"][0]}
    colour = colours.get(one.verdict, MUTED)
    axis.hlines(height, *(100 * end for end in one.interval), color=colour)
    axis.plot(100 * one.change, height, "o", color=colour)


def differences(panels: Mapping[str, Sequence[Difference]]) -> bytes:
    """Every comparison (a name and where it was made) as a dot and its interval, in one column."""
    height, names = 0.0, []
    with _figure(1, 0.27 * sum(len(own) + 1.6 for own in panels.values()) + 0.8, width=8.2) as (
        figure,
        axes,
    ):
        axis = axes[0][0]
        axis.axvline(0, color=MUTED, linewidth=1)
        for title, own in panels.items():
            axis.text(
                0, height, title, transform=axis.get_yaxis_transform(), weight="bold", va="center"
            )
            for one in own:
                height += 1
                _draw(axis, one, height)
                names.append((height, one.place))
            height += 1.6
        axis.set_yticks(*zip(*names, strict=True))
        axis.set_ylim(height - 0.8, -0.8)
        axis.tick_params(axis="y", length=0)
        axis.grid(axis="x")
        axis.set_xlabel(CHANGE)
        return figure_bytes(figure)


def side_by_side(columns: Mapping[str, Sequence[Difference]], places: Sequence[str]) -> bytes:
    """These places below each other, in a column for each comparison; some may be missing."""
    every = [one for own in columns.values() for one in own]
    widest = 100 * max(abs(end) for one in every for end in one.interval)
    with _figure(len(columns), 0.3 * len(places) + 1.0, width=3.0) as (figure, axes):
        for number, (axis, (title, own)) in enumerate(zip(axes[0], columns.items(), strict=True)):
            axis.axvline(0, color=MUTED, linewidth=1)
            for one in own:
                _draw(axis, one, places.index(one.place))
            axis.set_yticks(range(len(places)), places if number == 0 else [])
            axis.set_ylim(len(places) - 0.5, -0.5)
            axis.set_xlim(-1.05 * widest, 1.05 * widest)
            axis.tick_params(axis="y", length=0)
            axis.grid(axis="x")
            axis.set_title(title)
        figure.supxlabel(CHANGE, size=10)
        return figure_bytes(figure)


def ablation(panels: Mapping[str, tuple[Sequence[Method], Sequence[Method]]]) -> bytes:
    """CER and its interval of some cells in their order, over those that they are to beat.

    panels: name -> (the cells along the axis, the cells drawn as lines across).
    """
    with _figure(len(panels), 3.1) as (figure, axes):
        styles = _styles({name: [*own, *lines] for name, (own, lines) in panels.items()})
        for column, (axis, (name, (own, lines))) in enumerate(
            zip(axes[0], panels.items(), strict=True)
        ):
            for line in lines:
                colour = styles[line.name][0]
                axis.axhline(100 * line.cer, color=colour, linestyle=(0, (4, 3)), label=line.label)
            for place, method in enumerate(own):
                low, high = (100 * bound for bound in method.interval)
                axis.vlines(place, low, high, color=STYLES["adakd"][0], linewidth=2.2, alpha=0.75)
            heights = [100 * method.cer for method in own]
            axis.plot(range(len(own)), heights, "o", color=STYLES["adakd"][0], markersize=8)
            labels = [method.label.replace(" (", "\n(") for method in own]
            axis.set_xticks(range(len(own)), labels)
            axis.set_xlim(-0.4, len(own) - 0.6)
            axis.set_ylabel("CER on test, % (95 % interval)" if column == 0 else "")
            axis.grid(axis="y")
            axis.set_title(name)
        _legend(figure, axes)
        return figure_bytes(figure)


def gain_by_quartile(panels: Mapping[str, Sequence[Gain]]) -> bytes:
    """Relative change of CER in each quarter of the test set by the teacher's loss."""
    with _figure(len(panels), 3.1) as (figure, axes):
        names = dict.fromkeys(gain.label for gains in panels.values() for gain in gains)
        styles = dict(zip(names, cycle([*STYLES.values(), *SPARE_STYLES][2:]), strict=False))
        for column, (axis, (name, gains)) in enumerate(zip(axes[0], panels.items(), strict=True)):
            axis.axhline(0, color=MUTED, linewidth=1)
            for index, gain in enumerate(gains):
                colour, marker = styles[gain.label]
                x = [quarter + 0.1 * (index - (len(gains) - 1) / 2) for quarter in range(4)]
                heights, low, high = (  # nothing is drawn where a change is infinite
                    [100 * each if isfinite(each) else nan for each in kind]
                    for kind in zip(*gain.changes, strict=True)
                )
                axis.vlines(x, low, high, color=colour, linewidth=1.4, alpha=0.6)
                axis.plot(x, heights, color=colour, marker=marker, label=gain.label)
            axis.set_xticks(range(4), QUARTERS)
            axis.set_xlim(-0.4, 3.4)
            axis.set_ylabel("change of CER, %\n(below 0: better)" if column == 0 else "")
            axis.grid(axis="y")
            axis.set_title(name)
        _legend(figure, axes)
        return figure_bytes(figure)


# -- shared by the figures ------------------------------------------------------------------------


@contextmanager
def _figure(
    columns: int,
    height: float,
    rows: int = 1,
    heights: Sequence[float] | None = None,
    width: float = PANEL,
) -> Iterator[tuple[Any, Any]]:
    """A figure and its axes (rows, columns), `width` by `height` inches each."""
    import matplotlib
    from matplotlib.figure import Figure

    look: dict[Any, Any] = {
        "font.family": "DejaVu Sans",
        "font.size": 10,
        "text.color": INK,
        "axes.edgecolor": "#9ca3af",
        "axes.labelcolor": INK,
        "axes.labelsize": 10,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.titlelocation": "left",
        "axes.titleweight": "bold",
        "axes.titlesize": 11,
        "axes.titlepad": 10,
        "axes.axisbelow": True,
        "grid.color": GRID,
        "xtick.color": "#9ca3af",
        "ytick.color": "#9ca3af",
        "xtick.labelcolor": INK,
        "ytick.labelcolor": INK,
        "lines.linewidth": 1.9,
        "lines.markersize": 6,
    }
    with matplotlib.rc_context(look):
        # a Figure without pyplot draws with Agg, needs no display and leaves no global state
        figure = Figure(
            figsize=(width * columns, height * rows), dpi=DOTS_PER_INCH, layout="constrained"
        )
        axes = figure.subplots(rows, columns, squeeze=False, height_ratios=heights)
        yield figure, axes


def figure_bytes(figure: Any) -> bytes:
    """The figure as PNG; the same figure gives the same bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _styles(families: Families) -> dict[str, tuple[str, str]]:
    """Colour and marker per method name, the same in every panel."""
    styles = dict(STYLES)
    names = dict.fromkeys(method.name for methods in families.values() for method in methods)
    spare = cycle(SPARE_STYLES)
    for name in names:
        if name not in styles:
            # A variant looks like its method, unless that, or another variant of it, is there too.
            kin = [each for each in names if method_of(each) and method_of(each) == method_of(name)]
            styles[name] = STYLES[method_of(name)] if kin == [name] else next(spare)
    return styles


def _on_scale(methods: Sequence[Method]) -> list[Method]:
    """All but an untrained student so bad that it would squeeze the others into a corner."""
    others = [method.cer for method in methods if method.name != "untrained"]
    return [
        method
        for method in methods
        if method.name != "untrained" or not others or method.cer <= OFF_SCALE * max(others)
    ]


def _blocks(curve: Curve) -> Curve:
    """At most POINTS means of neighbouring points."""
    import numpy as np

    if len(curve) <= POINTS:
        return curve
    parts = np.array_split(np.array(curve, dtype=np.float64), POINTS)
    return [tuple(part.mean(axis=0)) for part in parts]


def _mean_and_range(
    axis: Any,
    curves: Sequence[Curve],
    colour: str,
    label: str | None,
    factor: float = 1.0,
    marker: str | None = None,
) -> None:
    """Mean of the runs' curves, with the range between lowest and highest run as a band."""
    import numpy as np

    curves = [curve for curve in curves if len(curve)]
    if not curves:
        return
    length = min(len(curve) for curve in curves)
    stacked = np.array([curve[:length] for curve in curves], dtype=np.float64)  # (runs, length, 2)
    x = stacked[:, :, 0].mean(axis=0)
    values = factor * stacked[:, :, 1]
    axis.plot(x, values.mean(axis=0), color=colour, label=label, marker=marker, markersize=4.5)
    if len(curves) > 1:
        low, high = values.min(axis=0), values.max(axis=0)
        axis.fill_between(x, low, high, color=colour, alpha=0.13, linewidth=0)


def _legend(figure: Any, axes: Any, title: str | None = None) -> None:
    """One legend under all panels."""
    entries: dict[str, Any] = {}
    for axis in axes.flat:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
    # Three fit below a panel, and three below two panels if they are long.
    fitting = 3 * axes.shape[-1] // (2 if max(map(len, entries), default=0) > 20 else 1)
    figure.legend(
        list(entries.values()),
        list(entries),
        loc="outside lower center",
        ncols=max(1, min(len(entries), fitting)),
        frameon=False,
        title=title,
        title_fontsize=9,
        fontsize=9.5,
    )
