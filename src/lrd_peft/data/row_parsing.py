"""Parses rows into problems: the schemas of GSM8K, MATH and AQuA-RAT, written solutions, and our own."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, Literal, get_args

from lrd_peft.config.choices import AnswerKind, StepsStyle
from lrd_peft.data.gold import gold_number, number_text
from lrd_peft.data.option_texts import letter_of, options_in
from lrd_peft.data.problem import Problem
from lrd_peft.data.row_values import MalformedRow, UnusableRow, checked_text, question_in, shown, text_in
from lrd_peft.data.sentences import last_boxed, one_line, split_sentences
from lrd_peft.data.step_texts import steps_in, steps_of_text

RowSchema = Literal["rows", "solution", "gsm8k", "math", "aqua"]

_MARK = "####"
_ANSWER_IS = re.compile(
    r"(?:^|(?<=[\n.]))[ \t]*the (?:final )?answer is:?[ \t]*([^\n]+?)[ \t.]*(?=\n|$)", re.IGNORECASE
)
_TSV_OPTIONS = re.compile(r"(.*?)\nOptions:\n(\(A\) .*)", re.DOTALL)
# A line of a rationale that only names the answer's letter: "Answer: B", "The correct option is (C).", "ANSWER C".
_NAMES_THE_LETTER = re.compile(
    r"\W*(?:so|hence|thus|therefore)?\W*(?:the\s+)?(?:correct\s+|right\s+)?"
    r"(?:ans(?:wer)?|option|choice)(?:\s+(?:option|choice))?(?:\s+is)?\W*[A-E]\W*",
    re.IGNORECASE,
)
_LONG_ANSWER = 100
_BEHIND_ANSWER = "with text behind the answer, which is not read"


def problem_of(
    fields: Mapping[str, Any],
    *,
    schema: RowSchema,
    row_id: str,
    steps_style: StepsStyle = "text",
    notes: list[str] | None = None,
) -> Problem:
    """Parse a row. Steps may be empty; whether such a problem is usable depends on the split.

    Args:
        fields: The row, under the names of its schema (see `lrd_peft.data.layouts`).
        schema: Schema of the row.
        row_id: Id of the problem if the row has none.
        steps_style: Use steps as text, or their calculator annotations as equations.
        notes: Receives remarks on the row.

    Returns:
        The problem.

    Raises:
        MalformedRow: If a column is missing or has the wrong type.
        UnusableRow: If the row has no usable problem.
    """
    remarks = [] if notes is None else notes
    if schema == "gsm8k":
        return _gsm8k(fields, row_id, steps_style, remarks)
    if schema == "math":
        return _math(fields, row_id)
    if schema == "aqua":
        return _aqua(fields, row_id, remarks)
    return _row(fields, row_id, steps_style, remarks, is_solution=schema == "solution")


def has_answer_marker(text: str) -> bool:
    r"""Return whether a text is a solution that ends in its answer: after ####, "The answer is", or in a \boxed."""
    return _MARK in text or _ANSWER_IS.search(text) is not None or last_boxed(text) is not None


def question_of(fields: Mapping[str, Any]) -> str:
    """Return the question of a row of any schema, in comparable form."""
    question = fields.get("question", fields.get("problem", ""))
    return comparable_question(question) if isinstance(question, str) else ""


def comparable_question(question: str) -> str:
    """Normalize the case and white space of a question, for comparison."""
    return one_line(question).casefold()


def aqua_tsv_fields(line: str) -> dict[str, Any]:
    r"""Read one line of the tab-separated AQuA-RAT: question with options, letter, rationale.

    Line breaks are written as a backslash and an n.

    Args:
        line: The line.

    Returns:
        The fields of the JSON schema.

    Raises:
        MalformedRow: If the line has another form.
    """
    cells = line.split("\t")
    if len(cells) != 3:
        raise MalformedRow(f"{len(cells)} tab-separated cells instead of 3 (question, letter, rationale)")
    text, letter, rationale = (cell.replace("\\n", "\n") for cell in cells)
    match = _TSV_OPTIONS.fullmatch(text)
    if match is None:
        raise MalformedRow('no "\\nOptions:\\n(A) ..." after the question')
    options = [option.strip() for option in re.split(r"\n(?=\([B-E]\) )", match.group(2))]
    return {
        "question": match.group(1),
        "options": options,
        "rationale": rationale,
        "correct": letter.strip().strip("()"),
    }


def _gsm8k(fields: Mapping[str, Any], row_id: str, steps_style: StepsStyle, notes: list[str]) -> Problem:
    question, solution = question_in(fields), text_in(fields, "answer")
    if _MARK not in solution:
        raise UnusableRow(f'no "{_MARK}" before the answer')
    body, answer = _divided(solution, notes)
    if not answer:
        raise UnusableRow("empty answer")
    number = gold_number(answer)
    if number is None:
        raise UnusableRow("answer is not a number")
    return Problem(row_id, question, tuple(steps_of_text(body, steps_style, notes, by_lines=True)), number)


def _divided(solution: str, notes: list[str]) -> tuple[str, str]:
    """Return a solution's text without the answer, and the answer."""
    body, mark, rest = solution.rpartition(_MARK)
    if mark:
        answer, _, behind = rest.strip().partition("\n")
        if behind.strip() and _ANSWER_IS.sub("", behind).strip():
            notes.append(_BEHIND_ANSWER)
        return body, answer.strip()
    stated = list(_ANSWER_IS.finditer(solution))
    if stated:
        last = stated[-1]
        if solution[last.end() :].strip(" .\n"):
            notes.append(_BEHIND_ANSWER)
        return solution[: last.start()], last[1].strip().strip("$").strip()
    boxed = last_boxed(solution)
    assert boxed is not None
    return solution, boxed


def _math(fields: Mapping[str, Any], row_id: str) -> Problem:
    question, solution = question_in(fields, "problem"), text_in(fields, "solution")
    # The box has priority. An "answer" column is a normalization of it, and in some files it has lost the row breaks of
    # matrices and the spaces in texts.
    boxed, column = last_boxed(solution), text_in(fields, "answer", default="").strip()
    if boxed is None and not column:
        raise UnusableRow("no boxed answer")
    answer = boxed or column
    if not answer:
        raise UnusableRow("empty answer")
    subject = text_in(fields, "subject" if "subject" in fields else "type", default="")
    steps = tuple(split_sentences(solution, latex=True))
    return Problem(row_id, question, steps, one_line(answer), subject=subject)


def _aqua(fields: Mapping[str, Any], row_id: str, notes: list[str]) -> Problem:
    question, rationale, letter = question_in(fields), text_in(fields, "rationale"), text_in(fields, "correct")
    if not isinstance(fields.get("options"), list):
        raise MalformedRow(f'"options" must be a list of texts, not {shown(fields.get("options"))}')
    options = options_in(fields["options"], notes)
    sentences = [s for line in rationale.splitlines() for s in split_sentences(line, latex=False)]
    steps = tuple(sentence for sentence in sentences if not _NAMES_THE_LETTER.fullmatch(sentence))
    return Problem(row_id, question, steps, letter_of(letter, options), options=tuple(options))


def _row(
    fields: Mapping[str, Any], row_id: str, steps_style: StepsStyle, notes: list[str], *, is_solution: bool
) -> Problem:
    question = question_in(fields)
    steps, value = fields.get("steps"), _single(fields.get("answer"))
    kind = _kind_in(fields)
    if isinstance(value, bool) and kind is None:
        kind = "boolean"
    has_options = fields.get("options") not in (None, "", [], {})
    answer, found = _answer_text(value), None
    if has_answer_marker(answer) and not has_options:
        body, answer = _divided(answer, notes)
        answer = gold_number(answer) or answer
        if steps in (None, "", []):
            found = steps_of_text(body, steps_style, notes)
    elif "\n" in answer.strip() and steps in (None, "", []) and not is_solution:
        raise UnusableRow("answer of several lines, without a marker such as ####")
    elif is_solution and steps in (None, "", []):
        raise UnusableRow(f'no "{_MARK}" before the answer')
    answer = one_line(answer)
    if not answer:
        raise UnusableRow("empty answer")
    if len(answer) > _LONG_ANSWER:
        notes.append(f"with an answer of more than {_LONG_ANSWER} characters")
    options = options_in(fields["options"], notes) if has_options else []
    num_steps = fields.get("num_steps")
    num_steps = -1 if num_steps is None else num_steps
    if isinstance(num_steps, bool) or not isinstance(num_steps, int) or num_steps < -1:
        raise MalformedRow(f'"num_steps" must be a count, not {shown(num_steps)}')
    own_id = fields.get("id")
    if own_id is not None and (isinstance(own_id, bool) or not isinstance(own_id, str | int)):
        raise MalformedRow(f'"id" must be a text or a whole number, not {shown(own_id)}')
    return Problem(
        id=row_id if own_id in (None, "") else checked_text(str(own_id), "id"),
        question=question,
        steps=tuple(steps_in(steps, steps_style, notes) if found is None else found),
        answer=letter_of(value, options) if options else answer,
        options=tuple(options),
        subject=text_in(fields, "subject", default=""),
        num_steps=num_steps,
        answer_kind=None if options else kind,
    )


def _single(value: Any) -> Any:
    """Return the element of a list of one."""
    if isinstance(value, list) and len(value) > 1:
        raise UnusableRow("several answers")
    return value[0] if isinstance(value, list) and value else value


def _answer_text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if not isinstance(value, str | int | float):
        raise MalformedRow(f'"answer" must be a text or a number, not {shown(value)}')
    if isinstance(value, float):
        if not math.isfinite(value):
            raise MalformedRow(f'"answer" must be a finite number, not {value}')
        return number_text(value)
    return checked_text(str(value), "answer")


def _kind_in(fields: Mapping[str, Any]) -> AnswerKind | None:
    kind = fields.get("answer_kind")
    if kind not in (None, *get_args(AnswerKind)):
        raise MalformedRow(f'"answer_kind" must be one of {", ".join(get_args(AnswerKind))}, not {shown(kind)}')
    return kind
