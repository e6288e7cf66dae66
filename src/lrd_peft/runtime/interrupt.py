"""Ctrl-C and SIGTERM: work stops immediately or, within `until_safe`, at its next safe point.

with heard():                    entered by the command line
    ...                          a signal raises Stopped here
    with until_safe():           a signal is noted; a second one raises Stopped
        while not asked(): ...
                                 Stopped is raised at the end of the block
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
    """A signal asked the program to stop.

    Attributes:
        status: exit status by the shell's convention, 128 + the signal's number.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.status = 128 + number


class _State:
    asked: int | None = None
    by_another = False  # process
    depth = 0  # of until_safe blocks


def asked() -> bool:
    """Return whether the work should stop at its next safe point."""
    return _State.asked is not None


def signal_asked() -> int:
    """Return the number of the signal that asked for it, or 0."""
    return _State.asked or 0


def take_up(number: int) -> None:
    """Note a signal that another process of this command received; one received here later counts as the first."""
    if _State.asked is None:
        _State.asked, _State.by_another = number, True


@contextmanager
def heard() -> Iterator[None]:
    """Turn both signals into `Stopped` during the block; does nothing outside the main thread."""
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
    """Let the block finish after a signal: it checks `asked()`, saves and returns; then `Stopped` is raised."""
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
        print("lrd: saving before stopping; interrupt again to stop immediately", file=sys.stderr, flush=True)
