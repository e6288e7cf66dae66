"""Decides in bounded processor time and memory whether two mathematical expressions are equal.

math-verify limits its time with an alarm of the wall clock. That works in the main thread only, depends on what else
the machine does, and cannot interrupt a single long operation of the interpreter, such as a power with a million
digits. Comparisons therefore run in one child process, which starts on first use, with its alarms off:

    parent: equal_math(predicted, gold) --json line--> child: math-verify
                                        <--json line--

The child limits its own processor time: a timer of processor time interrupts the interpreter, and the system ends the
process soon after if it cannot be interrupted. A busy machine makes a verdict late, not different. Any thread may ask.
Questions are answered one at a time.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import logging
import os
import signal
import subprocess
import sys
import threading
from types import FrameType
from typing import Any, NoReturn

LIMIT_SECONDS = 2.0
"""Processor time of a comparison. Most take a few milliseconds."""

_HARD_LIMIT_SECONDS = 1.0  # in addition, for an operation that cannot be interrupted
_MEMORY_LIMIT_BYTES = 2 << 30
# Seconds of the wall clock without a reply after which the process counts as broken (stopped, or never scheduled).
_STALL_SECONDS = 900.0
_MAX_RELATIVE_ERROR = 1e-12
_MAX_ROUNDING_ERROR = 5e-6

_log = logging.getLogger(__name__)


class _Child:
    """The process that compares expressions. A fork of the parent starts its own."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._inherited: list[subprocess.Popen[bytes]] = []

    def ask(self, predicted: str, gold: str) -> bool | None:
        """Return the verdict, or None if the process ran into a limit or crashed."""
        with self._lock:
            if self._process is None or self._process.poll() is not None:
                self._start()
            reply = self._exchange({"predicted": predicted, "gold": gold, "limit": LIMIT_SECONDS})
            if reply is None:
                self.stop()
                return None
            verdict = reply["equal"]
            return None if verdict is None else bool(verdict)

    def stop(self) -> None:
        """Stop the process if it runs."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            for pipe in (self._process.stdin, self._process.stdout):
                # Unread input can no longer be flushed.
                with contextlib.suppress(OSError):
                    if pipe is not None:
                        pipe.close()
        self._process = None

    def forget(self) -> None:
        """Leave the process to the parent of this fork."""
        self._lock = threading.Lock()  # another thread may have held it at the fork
        if self._process is not None:
            self._inherited.append(self._process)
        self._process = None

    def _start(self) -> None:
        self.stop()
        path = os.pathsep.join(os.path.abspath(entry) for entry in sys.path)
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": path},
        )
        # Any reply shows that it runs.
        reply = self._exchange({"predicted": "2x+1", "gold": "1+2x", "limit": LIMIT_SECONDS})
        if reply is None or "error" in reply:
            self.stop()
            reason = (reply or {}).get("error", "it ended without a reply")
            raise RuntimeError(f"math-verify does not run in a child process: {reason}")

    def _exchange(self, question: dict[str, object]) -> dict[str, Any] | None:
        process = self._process
        assert process is not None and process.stdin is not None and process.stdout is not None
        timer = threading.Timer(_patience(), process.kill)
        timer.daemon = True
        timer.start()
        line = b""
        try:
            process.stdin.write(json.dumps(question).encode() + b"\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except BrokenPipeError:
            pass  # it crashed before it could read
        finally:
            timer.cancel()
            timer.join()  # from here on the process is not killed
        return json.loads(line) if line.endswith(b"\n") else None


_child = _Child()
atexit.register(_child.stop)
if sys.platform != "win32":
    os.register_at_fork(after_in_child=_child.forget)


@functools.lru_cache(maxsize=4096)
def equal_math(predicted: str, gold: str) -> bool | None:
    """Compare two LaTeX strings with math-verify.

    Args:
        predicted: Answer of the model.
        gold: Correct answer.

    Returns:
        Whether they are equal; None if that takes more than `LIMIT_SECONDS` of processor time or too much memory.

    Raises:
        RuntimeError: If math-verify cannot be started.
    """
    verdict = _child.ask(predicted, gold)
    if verdict is None:
        _log.warning("comparing %.60r with %.60r reached a limit: counted as not equal", predicted, gold)
    return verdict


def _patience() -> float:
    """Return how many seconds of the wall clock the parent waits."""
    # Windows has no limits of processor time.
    return 60.0 + LIMIT_SECONDS if sys.platform == "win32" else _STALL_SECONDS


class _OutOfTime(BaseException):
    """The limit of processor time is reached. No handler of a library takes this for one of its own errors."""


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    raise _OutOfTime


def _limit_memory() -> None:
    try:
        import resource
    except ImportError:  # Windows: only the parent's clock holds there
        return
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = _MEMORY_LIMIT_BYTES if hard == resource.RLIM_INFINITY else min(_MEMORY_LIMIT_BYTES, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))


@contextlib.contextmanager
def _processor_time(seconds: float) -> Any:
    """Raise `_OutOfTime` after this much processor time of the block; the system ends the process somewhat later."""
    try:
        import resource
    except ImportError:
        yield
        return
    usage = resource.getrusage(resource.RUSAGE_SELF)
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    limit = int(usage.ru_utime + usage.ru_stime + seconds + _HARD_LIMIT_SECONDS) + 1
    if hard == resource.RLIM_INFINITY or limit < hard:
        resource.setrlimit(resource.RLIMIT_CPU, (limit, hard))
    signal.signal(signal.SIGPROF, _interrupt)
    signal.setitimer(signal.ITIMER_PROF, seconds, 0.05)  # again, in case a library swallows the first one
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def _compare(predicted: str, gold: str) -> bool:
    from math_verify import parse, verify

    try:
        # In a box, commas and words belong to the answer.
        sides = [
            parse(rf"\boxed{{{text}}}", parsing_timeout=0, fallback_mode="no_fallback") for text in (gold, predicted)
        ]
        if not all(sides):
            return False
        return bool(verify(sides[0], sides[1], timeout_seconds=0)) and _are_close(sides[0][0], sides[1][0])
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError):
        return False  # sympy cannot read one of them


def _are_close(gold: Any, predicted: Any) -> bool:
    """Return whether two numbers agree in their leading digits; math-verify compares six places after the point."""
    from sympy import Expr, Float

    if not all(isinstance(side, Expr) and side.is_number for side in (gold, predicted)):
        return True
    exact = [complex(side.evalf(30)) for side in (gold, predicted)]
    error = complex((gold - predicted).evalf(30))
    limit = _MAX_ROUNDING_ERROR if gold.has(Float) or predicted.has(Float) else _MAX_RELATIVE_ERROR
    return abs(error) <= limit * max(abs(side) for side in exact)


def _reply(question: dict[str, Any]) -> dict[str, object]:
    try:
        with _processor_time(question["limit"]):
            return {"equal": _compare(question["predicted"], question["gold"])}
    except ImportError as error:
        return {"equal": False, "error": str(error)}
    except (_OutOfTime, MemoryError):
        return {"equal": None}


def _main() -> None:
    """Answer questions until the parent closes the pipe."""
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # keeps the output of libraries apart from the replies
    _limit_memory()
    with contextlib.suppress(ImportError):
        import math_verify  # noqa: F401  the first comparison has as much time as the others
    for line in sys.stdin.buffer:
        try:
            reply = _reply(json.loads(line))
        except _OutOfTime:  # the timer fired once more on the way out
            reply = {"equal": None}
        print(json.dumps(reply), file=replies, flush=True)


if __name__ == "__main__":
    _main()
