"""Reads typed values from the columns of a row, and refuses those of another type."""

from __future__ import annotations

import ast
import json
import reprlib
from collections.abc import Iterable, Mapping
from typing import Any

# Longer texts are no lists that a table has written as text.
_MAX_LIST_CHARS = 100_000


class MalformedRow(Exception):
    """The row does not match its schema. This is a mistake in the file, so reading stops."""


class UnusableRow(Exception):
    """The row matches its schema but cannot be used. Rows are counted by this message."""


def text_in(fields: Mapping[str, Any], column: str, *, default: str | None = None) -> str:
    """Return a text column; `default` where it is missing or null.

    Raises:
        MalformedRow: If the column is missing or holds no text.
    """
    value = fields.get(column)
    if value is None and default is not None:
        return default
    if column not in fields:
        raise MalformedRow(f'no "{column}"; the columns are {listed(fields)}')
    if not isinstance(value, str):
        raise MalformedRow(f'"{column}" must be a text, not {shown(value)}')
    return checked_text(value, column)


def texts_in(value: Any, column: str) -> list[str]:
    """Return a list of texts.

    Raises:
        MalformedRow: If the value is none.
    """
    if not isinstance(value, list | tuple) or not all(isinstance(item, str) for item in value):
        raise MalformedRow(f'"{column}" must be a list of texts, not {shown(value)}')
    return [checked_text(item, column) for item in value]


def question_in(fields: Mapping[str, Any], column: str = "question") -> str:
    """Return the question.

    Raises:
        MalformedRow: If the column is missing or holds no text.
        UnusableRow: If the question is blank.
    """
    question = text_in(fields, column).strip()
    if not question:
        raise UnusableRow("empty question")
    return question


def list_in_text(text: str) -> list[Any] | None:
    """Return the list that a table has written as a text, in JSON or in Python's spelling, or None."""
    text = text.strip()
    if not (text.startswith("[") and text.endswith("]")) or len(text) > _MAX_LIST_CHARS:
        return None
    for parse in (json.loads, ast.literal_eval):
        try:
            value = parse(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        if isinstance(value, list):
            return value
    return None


def checked_text(text: str, column: str) -> str:
    """Return a text that files and tokenizers accept.

    Raises:
        MalformedRow: If it holds a lone surrogate, which JSON can contain.
    """
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise MalformedRow(f'"{column}" holds half a surrogate pair, which is no character')
    return text


def listed(names: Iterable[Any]) -> str:
    """Return the first names of columns, for a message."""
    return ", ".join(shown(name) for name in list(names)[:12]) or "none"


def shown(value: object) -> str:
    """Return a value in few characters of one line, for a message."""
    return reprlib.repr(value).encode("utf-8", "backslashreplace").decode()
