r"""Extracts answers from texts and compares them with gold answers.

*Strict* extraction reads the format that training teaches: the steps, then a last line `### ANSWER` (or `#### ANSWER`,
as in GSM8K). *Flexible* extraction reads models that were not trained on this format. The rules of `VERSION` 3, in the
order in which they are tried; the first that finds an answer decides:

1. The line after the first `###` that has an answer. Nothing but this line counts. Headings ("### Solution", followed
   by text) are no answers.
2. The last `\boxed{...}`. Boxes joined by commas, "and" or "or" are one list.
3. An `<answer>` tag.
4. The sentence after the last "answer is", "Answer:", "the correct option is" and the like. Text after the sentence
   does not count, nor does another problem that the model goes on with. A denied value ("is not 5") is no answer.
   Where a number is asked, neither is a refusal ("unknown", "cannot be determined"), whatever follows it.
5. numeric: the last number. math: the last formula or number. option: the only letter named, or the one concluded with.
   text: the last sentence. boolean: the last sentence that says yes, no, true or false.

A fraction is one number and never its last digits, and so are "3 x 10^2" and "1e3". Several numbers where one is asked
are no answer. Numbers are compared exactly; a percent sign does not scale (50% is 50). Mathematical answers are
compared by structure (`math_structure`), their expressions exactly where possible (`exact_expressions`), words as
words, and the rest by math-verify within a limit of processor time (`math_equality`). Answers of more than
`MAX_MATH_CHARS` characters are ignored.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import get_args

from lrd_peft.config.choices import AnswerKind
from lrd_peft.data.gold import is_in_words, parse_boolean, parse_number
from lrd_peft.data.problem import LETTERS, Problem
from lrd_peft.evaluation.answer_phrases import Statement
from lrd_peft.evaluation.math_answers import math_answer
from lrd_peft.evaluation.math_equality import equal_math
from lrd_peft.evaluation.math_structure import equal_structures
from lrd_peft.evaluation.math_text import MAX_MATH_CHARS
from lrd_peft.evaluation.number_answers import number_answer, same_number
from lrd_peft.evaluation.option_answers import option_answer
from lrd_peft.evaluation.word_answers import boolean_answer, same_boolean, same_text, text_answer
from lrd_peft.runtime.errors import UserError, nearest

VERSION = 3
"""Incremented whenever the grade of a text may change."""

ANSWER_KINDS: tuple[AnswerKind, ...] = get_args(AnswerKind)

_NUMERIC_SETS = frozenset({"gsm-mini", "gsm8k", "gsm8k-aug"})
_MATH_SETS = frozenset({"math-mini", "math", "hendrycks_math", "math500", "math-500"})
_MATH_SUBJECTS = frozenset(
    {
        "algebra",
        "counting and probability",
        "geometry",
        "intermediate algebra",
        "number theory",
        "prealgebra",
        "precalculus",
    }
)


@dataclass(frozen=True, slots=True)
class Extracted:
    """An answer found in a text.

    Attributes:
        value: The answer, or None.
        strict: Whether strict extraction found it.
    """

    value: str | None
    strict: bool


@dataclass(frozen=True, slots=True)
class Grade:
    """A graded text.

    Attributes:
        predicted: The answer that was found, or None.
        right: Whether it equals the gold answer.
        parsed: Whether an answer was found.
        strict: Whether strict extraction found it.
        timed_out: Whether the comparison reached a limit of time or memory, so that the answer counts as wrong.
    """

    predicted: str | None
    right: bool
    parsed: bool
    strict: bool
    timed_out: bool = False


def kind_of(problem: Problem, *, dataset: str = "") -> AnswerKind:
    """Return how a problem's answer is extracted and compared.

    A problem with options is of kind "option". Otherwise the kind that the problem names decides, then the data set or
    a subject of MATH; failing that, the gold answer: a number is "numeric", yes or no "boolean", words "text", and the
    rest "math".

    Args:
        problem: The problem. Its data set is a part of its id between slashes.
        dataset: Further name of the data set.

    Returns:
        The kind.
    """
    if problem.options:
        return "option"
    if problem.answer_kind is not None:
        return problem.answer_kind
    is_number = parse_number(problem.answer) is not None
    names = {part.lower() for part in (*problem.id.split("/"), *dataset.split("/"))}
    if is_number and names & _NUMERIC_SETS:
        return "numeric"
    subject = problem.subject.lower().replace("_", " ").replace("&", "and")
    if names & _MATH_SETS or subject in _MATH_SUBJECTS:
        return "math"
    if is_number:
        return "numeric"
    if parse_boolean(problem.answer) is not None:
        return "boolean"
    return "text" if is_in_words(problem.answer) else "math"


def extract_answer(kind: AnswerKind, text: str) -> Extracted:
    """Extract the answer from a model's text, strictly if possible, otherwise flexibly, in linear time.

    Args:
        kind: Kind of the answer.
        text: Text of the model.

    Returns:
        The answer, if there is one.

    Raises:
        UserError: If the kind is unknown.
    """
    _check_kind(kind)
    found = _FINDERS[kind](text)
    return Extracted(found.value, strict=found.strict)


def equal(kind: AnswerKind, predicted: str | None, gold: str) -> bool:
    """Compare an extracted answer with the gold answer, in bounded processor time.

    Args:
        kind: Kind of the answers.
        predicted: Extracted answer; None is never equal.
        gold: Gold answer.

    Returns:
        Whether they are equal.

    Raises:
        UserError: If the kind is unknown, or `gold` is not an answer of this kind, so no prediction could be right.
    """
    return _compared(kind, predicted, gold)[0]


def grade(kind: AnswerKind, text: str, gold: str) -> Grade:
    """Extract the answer from a text and compare it with the gold answer. See `extract_answer` and `equal`."""
    found = extract_answer(kind, text)
    right, timed_out = _compared(kind, found.value, gold)
    return Grade(
        predicted=found.value, right=right, parsed=found.value is not None, strict=found.strict, timed_out=timed_out
    )


def _compared(kind: AnswerKind, predicted: str | None, gold: str) -> tuple[bool, bool]:
    """Return whether two answers are equal, and whether a comparison reached a limit without an answer."""
    _check_kind(kind)
    _check_gold(kind, gold)
    if predicted is None:
        return False, False
    if kind == "numeric":
        return same_number(predicted, gold), False
    if kind == "option":
        return predicted.strip().upper() == gold.strip().upper(), False
    if kind == "text":
        return same_text(predicted, gold), False
    if kind == "boolean":
        return same_boolean(predicted, gold), False
    if max(len(predicted), len(gold)) > MAX_MATH_CHARS:
        return predicted.strip() == gold.strip(), False
    undecided: list[str] = []

    def decide(ours: str, theirs: str) -> bool:
        verdict = equal_math(ours, theirs)
        if verdict is None:
            undecided.append(ours)
        return bool(verdict)

    right = equal_structures(predicted, gold, decide)
    return right, bool(undecided) and not right


def _check_kind(kind: str) -> None:
    if kind not in ANSWER_KINDS:
        raise UserError(
            f'unknown answer kind "{kind}"; choose one of {", ".join(ANSWER_KINDS)}.{nearest(kind, ANSWER_KINDS)}'
        )


def _check_gold(kind: AnswerKind, gold: str) -> None:
    if kind == "numeric" and parse_number(gold) is None:
        raise UserError(f"the gold answer {gold[:80]!r} is not a number; grade this problem as math")
    if kind == "option" and (len(gold.strip()) != 1 or gold.strip() not in LETTERS):
        raise UserError(f"the gold answer {gold[:80]!r} is not one of the letters {', '.join(LETTERS)}")
    if kind == "boolean" and parse_boolean(gold) is None:
        raise UserError(f"the gold answer {gold[:80]!r} is not one of yes, no, true, false; grade this problem as text")
    if not gold.strip():
        raise UserError("the gold answer is empty; drop this problem")


_FINDERS: dict[AnswerKind, Callable[[str], Statement]] = {
    "numeric": number_answer,
    "math": math_answer,
    "option": option_answer,
    "text": text_answer,
    "boolean": boolean_answer,
}
