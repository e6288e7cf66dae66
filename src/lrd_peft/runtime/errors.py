"""Errors that a user can cause, the system's refusals in one line, and the nearest name for a typo."""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Iterable, Iterator
from os import PathLike


class UserError(ValueError):
    """The request cannot be carried out; the message says what was wrong and what to do.

    The command line prints the message without a traceback and exits with status 2.
    """


def escaped(text: str) -> str:
    """Return a text with line breaks and other characters that do not print as escapes: a newline as "\\n"."""
    return "".join(mark if mark.isprintable() else mark.encode("unicode_escape").decode() for mark in text)


def nearest(name: str, known: Iterable[str]) -> str:
    """Return `' Did you mean "x"?'` for the known name closest to `name`, or an empty string."""
    matches = difflib.get_close_matches(name, list(known), n=1, cutoff=0.65)
    return f' Did you mean "{matches[0]}"?' if matches else ""


def explain_os_error(error: OSError) -> str:
    """Return the reason of a system error on one line, such as "No space left on device".

    Libraries also raise `OSError` with a message of their own, which is returned with its whitespace collapsed.
    """
    return error.strerror or " ".join(str(error).split()) or type(error).__name__


@contextlib.contextmanager
def os_errors(what: str, path: str | PathLike[str], remedy: str = "") -> Iterator[None]:
    """Turn an `OSError` of the block into a UserError: "cannot WHAT PATH: REASON; REMEDY".

    Args:
        what: the verb: "read" or "write".
        path: the file or folder.
        remedy: what the user can do, if there is more to say than the reason.
    """
    try:
        yield
    except OSError as error:
        more = f"; {remedy}" if remedy else ""
        raise UserError(f"cannot {what} {path}: {explain_os_error(error)}{more}") from error
