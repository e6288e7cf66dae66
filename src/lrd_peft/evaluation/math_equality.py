"""Whether two mathematical answers are equal, in bounded time. Knows LaTeX, not problems or models.

math-verify bounds its time with SIGALRM, which works in the main thread only, takes the alarm away from
anybody else who uses it, and cannot interrupt one long operation of the interpreter, such as a power with a
million digits. So the comparison happens in one child process, started when it is first needed and killed
when it does not answer in time:

    parent: equal_math(predicted, gold) --json line--> child: math-verify
                                        <--json line--

Any thread may ask; questions are answered one at a time.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import logging
import os
import subprocess
import sys
import threading

# One comparison may take this long; then it counts as "not equal". Usual are a few milliseconds.
LIMIT_SECONDS = 3.0
# math-verify's own alarm, in whole seconds, for what can be interrupted without losing the child.
_SOFT_LIMIT_SECONDS = 1
_MEMORY_LIMIT_BYTES = 2 << 30
_START_LIMIT_SECONDS = 120.0

_log = logging.getLogger(__name__)


class _Child:
    """The process that compares. A fork of this process starts its own."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._inherited: list[subprocess.Popen[bytes]] = []

    def ask(self, predicted: str, gold: str) -> bool | None:
        """Return the verdict, or None if there was none in time."""
        with self._lock:
            if self._process is None or self._process.poll() is not None:
                self._start()
            reply = self._exchange({"predicted": predicted, "gold": gold}, LIMIT_SECONDS)
            if reply is None:
                self.stop()
                return None
            return bool(reply["equal"])

    def stop(self) -> None:
        """End the process, if there is one."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            for pipe in (self._process.stdin, self._process.stdout):
                # What was never read may not be flushable any more.
                with contextlib.suppress(OSError):
                    if pipe is not None:
                        pipe.close()
        self._process = None

    def forget(self) -> None:
        """Leave the process to the one that this process was forked from."""
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
        reply = self._exchange({"predicted": "2x+1", "gold": "1+2x"}, _START_LIMIT_SECONDS)
        if reply is None or not reply.get("equal"):
            self.stop()
            reason = (reply or {}).get("error", f"no reply within {_START_LIMIT_SECONDS:.0f} seconds")
            raise RuntimeError(f"math-verify does not run in a child process: {reason}")

    def _exchange(self, question: dict[str, str], limit_seconds: float) -> dict[str, object] | None:
        process = self._process
        assert process is not None and process.stdin is not None and process.stdout is not None
        expired = threading.Event()

        def expire() -> None:
            expired.set()
            process.kill()

        timer = threading.Timer(limit_seconds, expire)
        timer.daemon = True
        timer.start()
        line = b""
        try:
            process.stdin.write(json.dumps(question).encode() + b"\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except BrokenPipeError:
            pass  # it died before it could read
        finally:
            timer.cancel()
            timer.join()  # from here on nobody kills the process any more
        return json.loads(line) if line.endswith(b"\n") and not expired.is_set() else None


_child = _Child()
atexit.register(_child.stop)
if sys.platform != "win32":
    os.register_at_fork(after_in_child=_child.forget)


@functools.lru_cache(maxsize=4096)
def equal_math(predicted: str, gold: str) -> bool:
    """Return whether math-verify calls two LaTeX strings equal; False if that takes over `LIMIT_SECONDS`.

    Raises:
        RuntimeError: if math-verify cannot be started at all.
    """
    verdict = _child.ask(predicted, gold)
    if verdict is None:
        _log.warning("comparing %.60r with %.60r took too long or failed: not equal", predicted, gold)
    return bool(verdict)


def _limit_memory() -> None:
    try:
        import resource
    except ImportError:  # Windows: only the parent's clock holds there
        return
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = _MEMORY_LIMIT_BYTES if hard == resource.RLIM_INFINITY else min(_MEMORY_LIMIT_BYTES, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))


def _limit_processor_time(seconds: float) -> None:
    """Let the kernel end this process after `seconds` more of work, should the parent have died meanwhile."""
    try:
        import resource
    except ImportError:
        return
    usage = resource.getrusage(resource.RUSAGE_SELF)
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    limit = int(usage.ru_utime + usage.ru_stime + seconds) + 1
    if hard == resource.RLIM_INFINITY or limit < hard:
        resource.setrlimit(resource.RLIMIT_CPU, (limit, hard))


def _compare(predicted: str, gold: str) -> bool:
    from math_verify import parse, verify

    try:
        # Boxed, so that commas and words inside belong to the answer.
        sides = [
            parse(rf"\boxed{{{text}}}", parsing_timeout=_SOFT_LIMIT_SECONDS, fallback_mode="no_fallback")
            for text in (gold, predicted)
        ]
        if not all(sides):
            return False
        return verify(sides[0], sides[1], timeout_seconds=_SOFT_LIMIT_SECONDS)
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError, MemoryError):
        return False  # sympy could not make sense of one of them


def _main() -> None:
    """Answer the parent's questions until it closes the pipe."""
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # a library's prints must not mix with the replies
    _limit_memory()
    for line in sys.stdin.buffer:
        question = json.loads(line)
        _limit_processor_time(10 * LIMIT_SECONDS)
        try:
            reply: dict[str, object] = {"equal": _compare(question["predicted"], question["gold"])}
        except ImportError as error:
            reply = {"equal": False, "error": str(error)}
        print(json.dumps(reply), file=replies, flush=True)


if __name__ == "__main__":
    _main()
