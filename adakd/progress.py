"""Progress on standard error: how much is done, how fast, and when it should end.

A terminal gets a bar; anything else (a log file, CI) gets a plain line now and then. Work that is
over within two seconds shows nothing. Of several processes the first alone shows its own, which
stands for the others'. Not a logger: it records nothing.
"""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from adakd.processes import rank

Item = TypeVar("Item")

QUIET_SECONDS = 2.0  # shorter work is not worth a line
BAR_SECONDS = 0.2  # a terminal is redrawn at most five times a second
LINE_SECONDS = 10.0  # a log gets at most one line in ten seconds
BAR_WIDTH = 24  # characters


class Progress:
    """Counts work done, in any unit, and shows it: `with Progress(total, what) as p: p.update(n)`.

    total: the whole work in the unit that `update` counts in (items, seconds of audio, bytes), or
    None if unknown, and then no end is estimated. unit: its name where that is not plain, e.g. "s".
    done: of it, before this began.
    """

    def __init__(self, total: float | None, what: str, unit: str = "", done: float = 0.0) -> None:
        self.total = total
        self.what = what
        self.unit = unit
        self.stream = sys.stderr
        self.before = self.done = done
        # The recipes' shell sends standard error through tee, and says if a terminal is behind.
        self._terminal = self.stream.isatty() or os.environ.get("ADAKD_TERMINAL") == "1"
        self._started = time.monotonic()
        self._next = self._started + QUIET_SECONDS if rank() == 0 else math.inf
        self._shown = False

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def update(self, amount: float = 1) -> None:
        """Count `amount` more units of work as done."""
        self.done += amount
        now = time.monotonic()
        if now >= self._next:
            self._next = now + (BAR_SECONDS if self._terminal else LINE_SECONDS)
            self._show(now)

    def close(self) -> None:
        """Show the final count, if the work took long enough to be shown at all."""
        now = time.monotonic()
        if rank() == 0 and (self._shown or now - self._started >= QUIET_SECONDS):
            self._show(now)
            if self._terminal:
                self.stream.write("\n")
                self.stream.flush()

    def _show(self, now: float) -> None:
        self._shown = True
        line = self.describe(now - self._started)
        if self._terminal:
            bar = ""
            if self.total:
                filled = round(BAR_WIDTH * min(1.0, self.done / self.total))
                bar = "[" + "#" * filled + "." * (BAR_WIDTH - filled) + "] "
            # \x1b[K clears what a longer line left behind.
            self.stream.write(f"\r{bar}{line}\x1b[K")
        else:
            self.stream.write(line + "\n")
        self.stream.flush()

    def describe(self, elapsed: float) -> str:
        """One line after `elapsed` seconds: count, share, time, rate, estimated end."""
        rate = (self.done - self.before) / elapsed if elapsed > 0 else 0.0
        unit = f" {self.unit}" if self.unit else ""
        count = f"{self.done:.0f}{unit}"
        if self.total:
            share = min(1.0, self.done / self.total)
            count = f"{self.done:.0f}/{self.total:.0f}{unit} ({share:.0%})"
        pace = f"{rate:.0f}" if rate >= 100 else f"{rate:.3g}"  # no exponents
        line = f"{self.what}: {count}, {clock(elapsed)} elapsed, {pace}{unit}/s"
        if self.total and rate > 0 and self.done < self.total:
            line += f", {clock((self.total - self.done) / rate)} left"
        return line


def track(iterable: Iterable[Item], total: float | None, what: str) -> Iterator[Item]:
    """Yield the items of `iterable` and show how many of `total` have been worked through."""
    with Progress(total, what) as progress:
        for item in iterable:
            yield item
            progress.update()


def clock(seconds: float) -> str:
    """Seconds as m:ss, or h:mm:ss from an hour on."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
