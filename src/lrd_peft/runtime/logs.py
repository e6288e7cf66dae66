"""Shows what the library logs: plain lines on standard output, for the command line and the processes of a study."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterator


class _StandardOutput(logging.Handler):
    """Prints each message; standard output is looked up each time, so that it can be redirected."""

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), flush=True)


class _StandardError(logging.Handler):
    """Prints warnings and errors."""

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), file=sys.stderr, flush=True)


@contextlib.contextmanager
def shown_logs() -> Iterator[None]:
    """Print what the package logs during the block: messages to standard output, warnings to standard error."""
    package = logging.getLogger("lrd_peft")
    if any(isinstance(handler, _StandardOutput) for handler in package.handlers):
        yield  # shown already
        return
    level, propagate = package.level, package.propagate
    output, errors = _StandardOutput(), _StandardError()
    output.addFilter(lambda record: record.levelno < logging.WARNING)
    errors.setLevel(logging.WARNING)
    handlers = (output, errors)
    for handler in handlers:
        package.addHandler(handler)
    package.setLevel(logging.INFO)
    package.propagate = False
    try:
        yield
    finally:
        for handler in handlers:
            package.removeHandler(handler)
        package.setLevel(level)
        package.propagate = propagate
