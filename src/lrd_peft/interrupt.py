"""Ctrl-C and SIGTERM: work ends at once, or, where it says so, at the next safe place. Knows signals, not work.

with heard():                    what the command line does
    ...                          a signal raises Stopped here
    with until_safe():           a signal is noted; a second one raises Stopped
        while not asked(): ...
                                 Stopped is raised when the block ends
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(KeyboardInterrupt):
    """A signal asked the program to end.

    Attributes:
        status: the exit status that the shell knows the signal by, 128 + its number.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.status = 128 + number


class _State:
    asked: int | None = None
    by_another = False  # process
    depth = 0  # of until_safe blocks


def asked() -> bool:
    """Return whether the work should end at its next safe place."""
    return _State.asked is not None


def signal_asked() -> int:
    """Return the number of the signal that asked for it; 0 if none did."""
    return _State.asked or 0


def take_up(number: int) -> None:
    """Note a signal that another process of this work got; one that comes here later is not the second."""
    if _State.asked is None:
        _State.asked, _State.by_another = number, True


@contextmanager
def heard() -> Iterator[None]:
    """Turn both signals into `Stopped` for the length of the block; in a thread other than the main one, do nothing."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, _receive) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _State.asked, _State.by_another = None, False


@contextmanager
def until_safe() -> Iterator[None]:
    """Let the block end by itself after a signal: it looks at `asked()`, saves, and leaves."""
    _State.depth += 1
    try:
        yield
    finally:
        _State.depth -= 1
    if _State.depth == 0 and _State.asked is not None:
        raise Stopped(_State.asked)


def _receive(number: int, frame: FrameType | None) -> None:
    first = _State.asked is None or _State.by_another
    _State.asked, _State.by_another = number, False
    if _State.depth == 0 or not first:
        raise Stopped(number)
    if sys.stderr.isatty():
        print("lrd: saving before the end; once more ends at once", file=sys.stderr, flush=True)
