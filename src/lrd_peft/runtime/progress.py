"""Progress on standard error: a live bar on a terminal, plain lines in a pipe or file."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any

_PLAIN_EVERY_SECONDS = 10.0
_PLAIN_EVERY_SECONDS_UNEVEN = 60.0


def duration(seconds: float) -> str:
    """Return seconds as 4:05 or 1:02:03."""
    seconds = int(seconds)
    hours, rest = divmod(seconds, 3600)
    minutes, seconds = divmod(rest, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


class Progress:
    """Shows the progress of some work, its rate and the time left.

    Args:
        label: name of the work.
        total: number of units.
        unit: name of the units, plural.
        initial: units done before this process (a resumed training); they do not count towards the rate.
        quiet: show nothing (only one of several processes shows progress).
        uneven: units differ too much for a rate (runs of a study); `update` is given the time left.
    """

    def __init__(
        self, label: str, *, total: int, unit: str, initial: int = 0, uneven: bool = False, quiet: bool = False
    ) -> None:
        self.label, self.total, self.unit, self.initial, self.uneven = label, total, unit, initial, uneven
        self._quiet = quiet
        self.done = initial
        self._start = self._last_line = time.monotonic()
        self._live: Any = None
        self._task: Any = None
        self._note = ""
        if sys.stderr.isatty() and not quiet:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Live

            columns: list[ProgressColumn] = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()]
            columns.append(TextColumn("{task.fields[note]}"))
            if not uneven:
                columns.append(TimeRemainingColumn())
            self._live = Live(*columns, console=Console(stderr=True), transient=True)
            self._live.start()
            self._task = self._live.add_task(label, total=total, completed=initial, note="")

    @property
    def rate(self) -> float:
        """Units per second of this process."""
        elapsed = time.monotonic() - self._start
        return (self.done - self.initial) / elapsed if elapsed > 0 else 0.0

    def update(self, done: int, note: str = "", *, seconds_left: float | None = None) -> None:
        """Report progress.

        Args:
            done: units done in total.
            note: short text to show with it; an empty one keeps the last.
            seconds_left: for uneven units.
        """
        self.done = done
        self._note = note or self._note
        if not self.uneven and self.rate > 0:
            seconds_left = (self.total - done) / self.rate
        left = "?" if seconds_left is None else duration(seconds_left)
        if self._live is not None:
            pace = f"{left} left" if self.uneven else f"{self.rate:.1f} {self.unit}/s"
            self._live.update(self._task, completed=done, note=f"{pace} {self._note}")
            return
        if self._quiet:
            return
        now = time.monotonic()
        every = _PLAIN_EVERY_SECONDS_UNEVEN if self.uneven else _PLAIN_EVERY_SECONDS
        if now - self._last_line >= every and done < self.total:
            self._last_line = now
            pace = f"{left} left" if self.uneven else f"{self.rate:.1f}/s  {left} left"
            print(f"{self.label}  {done}/{self.total} {self.unit}  {pace}  {self._note}".rstrip(), file=sys.stderr)
            sys.stderr.flush()

    def close(self) -> None:
        """Remove the live bar."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: object, trace: TracebackType | None) -> None:
        self.close()
