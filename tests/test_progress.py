"""Progress is shown where it helps: not for short work, not too often, in words that are right."""

from __future__ import annotations

import io
from contextlib import redirect_stderr

import pytest

from adakd import progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that the test sets."""
    time = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: time[0])
    return time


def work(stream: io.StringIO, now: list[float], items: int, seconds: float) -> None:
    with redirect_stderr(stream):
        for _ in progress.track(range(items), items, "work"):
            now[0] += seconds


def test_short_work_shows_nothing(now: list[float]) -> None:
    for stream in (io.StringIO(), Terminal()):
        work(stream, now, 10, 0.1)
        assert stream.getvalue() == ""


def test_a_log_gets_few_lines(now: list[float]) -> None:
    stream = io.StringIO()
    work(stream, now, 288, 0.125)
    lines = stream.getvalue().splitlines()
    assert len(lines) == 5 and "\r" not in stream.getvalue()  # after 2, 12, 22, 32 and 36 s
    assert lines[1] == "work: 96/288 (33%), 0:12 elapsed, 8/s, 0:24 left"
    assert lines[-1] == "work: 288/288 (100%), 0:36 elapsed, 8/s"


def test_of_several_processes_the_first_alone_shows_its_own(
    now: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    for stream in (io.StringIO(), Terminal()):
        work(stream, now, 100, 1.0)
        assert stream.getvalue() == ""


def test_a_terminal_gets_a_bar(now: list[float]) -> None:
    stream = Terminal()
    work(stream, now, 1_000, 0.01)
    shown = stream.getvalue().split("\r")[1:]
    assert 30 <= len(shown) <= 42  # at most five a second in the eight seconds that are shown
    assert "[############............]" in "".join(shown) and stream.getvalue().endswith("\n")


def test_units_of_work_and_unknown_totals(now: list[float]) -> None:
    bar = progress.Progress(7_200, "reading", unit="s of audio")
    bar.update(720)
    assert bar.describe(6) == (
        "reading: 720/7200 s of audio (10%), 0:06 elapsed, 120 s of audio/s, 0:54 left"
    )
    bar.update(6480)
    assert bar.describe(3).endswith("0:03 elapsed, 2400 s of audio/s"), "no exponent"
    unknown = progress.Progress(None, "reading")
    unknown.update(5)
    assert unknown.describe(3700) == "reading: 5, 1:01:40 elapsed, 0.00135/s"


def test_work_that_goes_on_counts_what_was_done_before(now: list[float]) -> None:
    bar = progress.Progress(100, "training", "steps", 60)
    bar.update(10)
    line = bar.describe(20.0)
    assert line == "training: 70/100 steps (70%), 0:20 elapsed, 0.5 steps/s, 1:00 left"


def test_an_error_passes_through_and_the_terminal_line_ends(now: list[float]) -> None:
    stream = Terminal()
    with pytest.raises(RuntimeError), redirect_stderr(stream):
        with progress.Progress(10, "work") as bar:
            now[0] += 5
            bar.update()
            raise RuntimeError
    assert stream.getvalue().endswith("\n")
