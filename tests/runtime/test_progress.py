"""Plain lines of progress in a pipe: done of all, rate, time left; at most one in ten seconds."""

from __future__ import annotations

import sys

import pytest

from lrd_peft.runtime import progress
from lrd_peft.runtime.progress import Progress


class Clock:
    """Stands in for `time.monotonic`."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress.time, "monotonic", clock)
    return clock


def test_a_line_has_rate_and_time_left(clock: Clock, capsys: pytest.CaptureFixture[str]):
    with Progress("teacher", total=4000, unit="steps") as shown:
        clock.now += 20
        shown.update(50, "loss 1.2500")
    captured = capsys.readouterr()
    # 2.5 a second, 3950 left: 1580 seconds
    assert captured.err == "teacher  50/4000 steps  2.5/s  26:20 left  loss 1.2500\n"
    assert captured.out == ""


def test_what_was_done_before_does_not_count_into_the_rate(clock: Clock, capsys: pytest.CaptureFixture[str]):
    with Progress("teacher", total=100, unit="steps", initial=50) as shown:
        clock.now += 20
        shown.update(60)
    assert capsys.readouterr().err == "teacher  60/100 steps  0.5/s  1:20 left\n"


def test_lines_come_ten_seconds_apart_and_keep_the_note(clock: Clock, capsys: pytest.CaptureFixture[str]):
    with Progress("x", total=10_000, unit="problems") as shown:
        for second in range(1, 31):
            clock.now += 1
            shown.update(second, "note" if second == 1 else "")
    lines = capsys.readouterr().err.splitlines()
    assert [line.split()[1] for line in lines] == ["10/10000", "20/10000", "30/10000"]
    assert all(line.endswith("note") and "1.0/s" in line for line in lines)


def test_hours_and_an_unknown_rate(clock: Clock, capsys: pytest.CaptureFixture[str]):
    with Progress("x", total=7400, unit="steps") as shown:
        clock.now += 10
        shown.update(0)
        clock.now += 10
        shown.update(20)
    first, second = capsys.readouterr().err.splitlines()
    assert "? left" in first
    assert "2:03:00 left" in second  # 7380 seconds at one a second


def test_quick_work_says_nothing(clock: Clock, capsys: pytest.CaptureFixture[str]):
    with Progress("x", total=3, unit="steps") as shown:
        for done in range(4):
            clock.now += 3
            shown.update(done)
    assert capsys.readouterr().err == ""


def test_a_terminal_gets_a_live_bar(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    shown = Progress("teacher", total=10, unit="steps")
    shown.update(5, "loss 1")
    shown.close()
    shown.close()  # twice is fine
    assert "x  " not in capsys.readouterr().err


def test_uneven_work_has_no_rate_and_is_told_the_time_left(clock: Clock, capsys: pytest.CaptureFixture[str]):
    with Progress("study alpha", total=4, unit="cells", uneven=True) as shown:
        clock.now += 59
        shown.update(1, "now: a", seconds_left=500)
        clock.now += 1
        shown.update(1, "now: a", seconds_left=480)
        clock.now += 60
        shown.update(2)
    assert capsys.readouterr().err.splitlines() == [
        "study alpha  1/4 cells  8:00 left  now: a",
        "study alpha  2/4 cells  ? left  now: a",
    ]
