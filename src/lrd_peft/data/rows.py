"""Python data as problems: lists of dicts, `datasets.Dataset`, data frames."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lrd_peft.data.layouts import arrangement_of, check_columns
from lrd_peft.data.problem import Problem
from lrd_peft.data.row_parsing import problem_of
from lrd_peft.data.row_values import MalformedRow, UnusableRow
from lrd_peft.runtime.errors import UserError

logger = logging.getLogger(__name__)

# SPEC.md's rows also carry hidden states.
_STORED = "hidden_states"
_NUM_INSPECTED = 200


def as_problems(rows: Any, *, columns: Mapping[str, str] | None = None) -> list[Problem]:
    """Convert rows to problems.

    Rows have the columns `question`, `steps` (a list of sentences or equations) and `answer`, and optionally
    `options`, `subject`, `num_steps` and `id`. Rows of the named data sets (GSM8K's "#### 72", MATH, AQuA-RAT, SVAMP,
    ...) are recognized by their columns. SPEC.md's `hidden_states` are ignored: they belong in a store.

    Args:
        rows: Problems, dicts, a `datasets.Dataset`, or a pandas data frame.
        columns: Field of a problem -> name of the column that holds it; "a+b" joins two texts.

    Returns:
        The problems, in order.

    Raises:
        UserError: If a column is missing, or a row holds no usable problem.

    Example:
        >>> rows = [{"query": "2 + 3?", "steps": ["2 + 3 = 5"], "answer": 5}]
        >>> as_problems(rows, columns={"question": "query"})[0].question
        '2 + 3?'
    """
    if isinstance(rows, Sequence) and all(isinstance(row, Problem) for row in rows):
        if columns:
            raise UserError("columns names columns of rows, but the data are problems already; leave it out")
        return list(rows)
    mapping = check_columns(columns)
    seen = [_plain_row(row, number) for number, row in enumerate(_iterate(rows))]
    if not seen:
        return []
    try:
        arrangement = arrangement_of(seen[:_NUM_INSPECTED], mapping)
    except MalformedRow as error:
        raise UserError(f"row 0 of the data: {error}{'' if columns else _ADVICE}") from error
    problems: list[Problem] = []
    unused: dict[str, None] = {}
    for number, row in enumerate(seen):
        try:
            fields = arrangement.arrange(row)
            unused |= dict.fromkeys(arrangement.unused(row))
            problems.append(problem_of(fields, schema=arrangement.schema, row_id=str(number)))
        except MalformedRow as error:
            raise UserError(f"row {number} of the data: {error}{'' if columns else _ADVICE}") from error
        except UnusableRow as error:
            raise UserError(f"row {number} of the data holds no usable problem: {error}; remove it") from error
    if _STORED in seen[0]:
        logger.warning("the column %s is ignored: training reads hidden states from a store", _STORED)
    if unused:
        logger.warning("columns not used: %s; columns={...} names those that are", ", ".join(unused))
    return problems


_ADVICE = '; name your columns with columns={"question": ..., "steps": ..., "answer": ...}'


def _iterate(rows: Any) -> Iterable[Any]:
    if hasattr(rows, "to_dict") and hasattr(rows, "columns"):  # a data frame
        return rows.to_dict("records")
    if isinstance(rows, str | bytes | Mapping) or not isinstance(rows, Iterable):
        raise UserError(
            f"the data are a {type(rows).__name__}; give problems, a list of dicts, a datasets.Dataset or a data frame "
            "(a DatasetDict: one of its splits; a file: load_problems)"
        )
    return rows


def _plain_row(row: Any, number: int) -> dict[str, Any]:
    """Return a row with lists for tuples and arrays."""
    if isinstance(row, Problem):
        raise UserError("the data mix problems and rows; give one of the two")
    if not isinstance(row, Mapping):
        raise UserError(f"row {number} of the data is a {type(row).__name__}; it must be a dict or a Problem")
    return {str(name): _plain(value) for name, value in row.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return list(value)
    return value.tolist() if hasattr(value, "tolist") else value
