"""From one row to one problem: GSM8K, MATH, AQuA-RAT and our own format. Knows schemas, not files."""

from __future__ import annotations

import math
import re
import reprlib
from collections.abc import Mapping
from typing import Any, Literal

from lrd_peft.data.problem import LETTERS, Problem
from lrd_peft.data.sentences import last_boxed, one_line, split_sentences

Schema = Literal["rows", "gsm8k", "math", "aqua"]
StepsStyle = Literal["text", "equations"]
STEPS_STYLES: tuple[StepsStyle, ...] = ("text", "equations")

_COLUMNS: dict[Schema, tuple[str, ...]] = {
    "rows": ("question", "steps", "answer"),
    "gsm8k": ("question", "answer"),
    "math": ("problem", "solution"),
    "aqua": ("question", "options", "rationale", "correct"),
}
_CALCULATOR = re.compile(r"<<([^<>]*)>>")
_NUMBER = re.compile(r"[-+]?(?:\d[\d,]*)?\.?\d+")
_TSV_OPTIONS = re.compile(r"(.*?)\nOptions:\n(\(A\) .*)", re.DOTALL)
# A line of a rationale that only names the letter: "Answer: B", "The correct option is (C).", "ANSWER C".
_NAMES_THE_LETTER = re.compile(
    r"\W*(?:so|hence|thus|therefore)?\W*(?:the\s+)?(?:correct\s+|right\s+)?"
    r"(?:ans(?:wer)?|option|choice)(?:\s+(?:option|choice))?(?:\s+is)?\W*[A-E]\W*",
    re.IGNORECASE,
)


class MalformedRow(Exception):
    """The row does not have its schema's shape: a mistake in the file, so that reading must stop."""


class UnusableRow(Exception):
    """The row has its schema's shape and cannot be used; the message is the reason that gets counted."""


def schema_of(fields: Mapping[str, Any]) -> Schema:
    """Recognise the schema of a row by its columns.

    Raises:
        MalformedRow: if the columns are no known schema's.
    """
    if "steps" in fields and "question" in fields:
        return "rows"
    if all(column in fields for column in _COLUMNS["aqua"]):
        return "aqua"
    if all(column in fields for column in _COLUMNS["math"]):
        return "math"
    if "question" in fields and "answer" in fields:
        return "gsm8k" if "####" in str(fields["answer"]) else "rows"
    known = "; ".join(f"{name}: {', '.join(columns)}" for name, columns in _COLUMNS.items())
    raise MalformedRow(f"columns {_listed(fields)} are no known schema; known are {known}")


def problem_of(fields: Mapping[str, Any], *, schema: Schema, row_id: str, steps_style: StepsStyle = "text") -> Problem:
    """Make a problem of a row. Steps may be empty: whether that is usable depends on the split.

    Raises:
        MalformedRow: if a column is missing or of the wrong type.
        UnusableRow: if the row holds no usable problem.
    """
    if schema == "gsm8k":
        return _gsm8k(fields, row_id, steps_style)
    if schema == "math":
        return _math(fields, row_id)
    if schema == "aqua":
        return _aqua(fields, row_id)
    return _row(fields, row_id)


def question_of(fields: Mapping[str, Any]) -> str:
    """Return the question of a row of any schema in the form in which questions are compared."""
    question = fields.get("question", fields.get("problem", ""))
    return comparable(question) if isinstance(question, str) else ""


def comparable(question: str) -> str:
    """Return a question without differences of case and white space."""
    return one_line(question).casefold()


def aqua_tsv_fields(line: str) -> dict[str, Any]:
    r"""Read one line of the tab-separated AQuA-RAT: question with options, letter, rationale.

    Line breaks are written as backslash-n, two characters. Returns the fields of the JSON schema.
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


def _gsm8k(fields: Mapping[str, Any], row_id: str, steps_style: StepsStyle) -> Problem:
    question, solution = _question(fields), _text(fields, "answer")
    body, mark, answer = solution.rpartition("####")
    if not mark:
        raise UnusableRow('no "####" before the answer')
    answer = answer.strip()
    if not answer:
        raise UnusableRow("empty answer")
    if not _NUMBER.fullmatch(answer):
        raise UnusableRow("answer is not a number")
    equations = [one_line(equation) for equation in _CALCULATOR.findall(body) if equation.strip()]
    lines = [one_line(_CALCULATOR.sub("", line)) for line in body.splitlines()]
    steps = equations if steps_style == "equations" and equations else [line for line in lines if line]
    return Problem(row_id, question, tuple(steps), answer.replace(",", ""))


def _math(fields: Mapping[str, Any], row_id: str) -> Problem:
    question, solution = _question(fields, "problem"), _text(fields, "solution")
    # The box first: an "answer" column is somebody's normalisation of it, and files are about whose column
    # lost the row breaks of matrices and the spaces of texts.
    boxed, column = last_boxed(solution), _text(fields, "answer", default="").strip()
    if boxed is None and not column:
        raise UnusableRow("no boxed answer")
    answer = boxed or column
    if not answer:
        raise UnusableRow("empty answer")
    subject = _text(fields, "subject" if "subject" in fields else "type", default="")
    steps = tuple(split_sentences(solution, latex=True))
    return Problem(row_id, question, steps, one_line(answer), subject=subject)


def _aqua(fields: Mapping[str, Any], row_id: str) -> Problem:
    question, rationale = _question(fields), _text(fields, "rationale")
    lettered, letter = _texts(fields, "options"), _text(fields, "correct").strip()
    options = []
    for own, text in zip(LETTERS.ljust(len(lettered)), lettered, strict=False):
        label = re.match(r"\s*\(?([A-E])\)", text)
        if label and label.group(1) != own:
            raise UnusableRow("options not lettered in order")
        options.append(one_line(re.sub(rf"^(?:\s*\(?{own}\))+", "", text)))
    _check_options(options, letter)
    sentences = [s for line in rationale.splitlines() for s in split_sentences(line, latex=False)]
    steps = tuple(sentence for sentence in sentences if not _NAMES_THE_LETTER.fullmatch(sentence))
    return Problem(row_id, question, steps, letter, options=tuple(options))


def _row(fields: Mapping[str, Any], row_id: str) -> Problem:
    question = _question(fields)
    steps = [one_line(step) for step in _texts(fields, "steps", default=())]
    # Equations-only sets keep the calculator's brackets: "<<600*30/100=180>>".
    steps = [_CALCULATOR.sub(r"\1", step) for step in steps]
    if not all(steps):
        raise UnusableRow("blank step")
    answer = fields.get("answer")
    if isinstance(answer, bool) or not isinstance(answer, str | int | float):
        raise MalformedRow(f'"answer" must be a text or a number, not {_shown(answer)}')
    if isinstance(answer, float) and not math.isfinite(answer):
        raise MalformedRow(f'"answer" must be a finite number, not {answer}')
    answer = one_line(_checked(str(answer), "answer"))
    if not answer:
        raise UnusableRow("empty answer")
    options = [one_line(option) for option in _texts(fields, "options", default=())]
    if options:
        _check_options(options, answer)
    num_steps = fields.get("num_steps", -1)
    if isinstance(num_steps, bool) or not isinstance(num_steps, int) or num_steps < -1:
        raise MalformedRow(f'"num_steps" must be a count, not {_shown(num_steps)}')
    own_id = fields.get("id")
    if own_id is not None and (isinstance(own_id, bool) or not isinstance(own_id, str | int)):
        raise MalformedRow(f'"id" must be a text or a whole number, not {_shown(own_id)}')
    return Problem(
        id=row_id if own_id in (None, "") else _checked(str(own_id), "id"),
        question=question,
        steps=tuple(steps),
        answer=answer,
        options=tuple(options),
        subject=_text(fields, "subject", default=""),
        num_steps=num_steps,
    )


def _check_options(options: list[str], letter: str) -> None:
    if not 2 <= len(options) <= len(LETTERS):
        raise UnusableRow(f"fewer than 2 or more than {len(LETTERS)} options")
    if not all(options):
        raise UnusableRow("empty option")
    if letter not in LETTERS[: len(options)] or len(letter) != 1:
        raise UnusableRow("answer is not the letter of an option")


def _question(fields: Mapping[str, Any], column: str = "question") -> str:
    question = _text(fields, column).strip()
    if not question:
        raise UnusableRow("empty question")
    return question


def _text(fields: Mapping[str, Any], column: str, *, default: str | None = None) -> str:
    value = fields.get(column)
    if value is None and default is not None:
        return default
    if column not in fields:
        raise MalformedRow(f'no "{column}"; the columns are {_listed(fields)}')
    if not isinstance(value, str):
        raise MalformedRow(f'"{column}" must be a text, not {_shown(value)}')
    return _checked(value, column)


def _texts(fields: Mapping[str, Any], column: str, *, default: tuple[str, ...] | None = None) -> list[str]:
    value = fields.get(column)
    if value is None and default is not None:
        return list(default)
    if column not in fields:
        raise MalformedRow(f'no "{column}"; the columns are {_listed(fields)}')
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise MalformedRow(f'"{column}" must be a list of texts, not {_shown(value)}')
    return [_checked(item, column) for item in value]


def _checked(text: str, column: str) -> str:
    # JSON may spell half of a surrogate pair, which no file and no tokenizer can take.
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise MalformedRow(f'"{column}" holds half a surrogate pair, which is no character')
    return text


def _listed(fields: Mapping[str, Any]) -> str:
    return ", ".join(_shown(name) for name in list(fields)[:12]) or "none"


def _shown(value: object) -> str:
    return reprlib.repr(value).encode("utf-8", "backslashreplace").decode()
