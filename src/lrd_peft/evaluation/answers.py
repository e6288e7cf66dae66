r"""Answers: find one in a text, compare it with the gold one. Knows no models, tokens or files.

Two ways of finding are kept apart. *Strict* reads the form that training teaches: the steps, then a last line
`### ANSWER` (or `#### ANSWER`, as in GSM8K). *Flexible* guesses, for models that were never taught it, and is
used only where strict finds nothing. What counts as what, `VERSION` 1:

numeric
    strict: the rest of the line after the last `###` is one number.
    flexible: the last number of the text.
math
    strict: the rest of the line after the last `###`, if only blank lines follow it.
    flexible: the last `\boxed{...}`; else what follows the last "answer is"; else the last number.
option
    strict: the rest of the line after the last `###` is one of `B`, `(B)`, `B)`, `B.`.
    flexible: the letter after the last "answer is", "option", "choice" or `###`; else the last `(B)` or `B)`;
    else the text, if it is only a letter.

A number is ASCII digits with or without thousands commas, a decimal part, a sign, a currency sign, a percent
sign (which does not scale: 50% is 50) and a final full stop; `2,125.00` and `2125` are equal. Other digits,
`1e3` and `1,5` are not numbers. Two math answers are equal if their normalised strings or rational values
are, or if math-verify says so in time (`math_equality`); more than `MAX_MATH_CHARS` characters are no answer.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from lrd_peft.data.problem import LETTERS, Problem
from lrd_peft.errors import UserError, nearest
from lrd_peft.evaluation.math_equality import equal_math

VERSION = 1
"""Raised whenever the same text may be graded differently than before."""

Kind = Literal["numeric", "math", "option"]
KINDS: tuple[Kind, ...] = ("numeric", "math", "option")
MAX_MATH_CHARS = 1_000
MAX_NUMBER_CHARS = 100

_MARKER = "###"
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
_MINUS = "-\u2212"
_NUMBER = re.compile(
    r"(?P<sign>[-+\u2212]?)\s*(?:\\?[$€£])?\s*(?P<inner_sign>[-\u2212]?)\s*"
    r"(?P<whole>[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)?(?:\.(?P<decimals>[0-9]*))?\s*(?:\\?[%$])*\.?"
)
_DIGITS = re.compile(r"[0-9][0-9,]*(?:\.[0-9]+)?|\.[0-9]+")
_EXPONENT = re.compile(r"[eE][-+]?[0-9]")
_ANSWER_IS = re.compile(r"\banswer(?:\s+is\b|\s*[:=])\s*:?\s*", re.IGNORECASE)
_OPTION = re.compile(rf"\(?([{LETTERS}])\)?\.?")
_OPTION_NAMED = re.compile(
    rf"(?i:\banswer(?:\s+is\b|\s*[:=])|\boption\b|\bchoice\b|###)\W{{0,10}}([{LETTERS}])(?![A-Za-z0-9])"
)
_OPTION_BRACKETED = re.compile(rf"(?<![A-Za-z0-9])([{LETTERS}])\)")
_FRACTION = re.compile(r"(-?)(?:\\frac\{(-?[0-9]{1,30})\}\{(-?[0-9]{1,30})\}|([0-9]{1,30})/([0-9]{1,30}))")


@dataclass(frozen=True, slots=True)
class Extracted:
    """An answer found in a text: its value, or None, and whether it stood where strict looks."""

    value: str | None
    strict: bool


@dataclass(frozen=True, slots=True)
class Grade:
    """A graded text.

    Attributes:
        predicted: the answer that was found, or None.
        right: it equals the gold answer.
        parsed: an answer was found.
        strict: it was found strictly.
    """

    predicted: str | None
    right: bool
    parsed: bool
    strict: bool


def kind_of(problem: Problem, *, dataset: str = "") -> Kind:
    """Return how a problem's answer is to be found and compared.

    Options make it "option". Else the name of the data set (a part between slashes of the problem's id, or of
    `dataset`) or one of MATH's subjects decides. Else a gold answer that is a number makes it "numeric", and
    any other "math".
    """
    if problem.options:
        return "option"
    is_number = parse_number(problem.answer) is not None
    names = {part.lower() for part in (*problem.id.split("/"), *dataset.split("/"))}
    if is_number and names & _NUMERIC_SETS:
        return "numeric"
    subject = problem.subject.lower().replace("_", " ").replace("&", "and")
    if names & _MATH_SETS or subject in _MATH_SUBJECTS or not is_number:
        return "math"
    return "numeric"


def extract(kind: Kind, text: str) -> Extracted:
    """Find the answer in what a model wrote: strictly, else flexibly. Takes time linear in the text."""
    _check_kind(kind)
    strict, flexible = {
        "numeric": (_strict_number, _last_number),
        "math": (_strict_math, _flexible_math),
        "option": (_strict_option, _flexible_option),
    }[kind]
    value = strict(text)
    if value is not None:
        return Extracted(value, strict=True)
    return Extracted(flexible(text), strict=False)


def equal(kind: Kind, predicted: str | None, gold: str) -> bool:
    """Return whether an extracted answer equals the gold one, in bounded time. None equals nothing.

    Raises:
        UserError: if `gold` is no answer of this kind, which would count every prediction as wrong.
    """
    _check_kind(kind)
    _check_gold(kind, gold)
    if predicted is None:
        return False
    if kind == "math":
        return _equal_math(predicted, gold)
    if kind == "numeric":
        return parse_number(predicted) == parse_number(gold)
    return predicted.strip() == gold.strip()


def grade(kind: Kind, text: str, gold: str) -> Grade:
    """Find the answer in `text` and compare it with `gold`."""
    found = extract(kind, text)
    right = equal(kind, found.value, gold)
    return Grade(predicted=found.value, right=right, parsed=found.value is not None, strict=found.strict)


def parse_number(text: str) -> str | None:
    """Return the canonical form of a text that is one number ("$2,125.50" gives "2125.5"), or None."""
    text = text.strip()
    match = _NUMBER.fullmatch(text) if len(text) <= MAX_NUMBER_CHARS else None
    if match is None:
        return None
    whole, decimals = match["whole"] or "", match["decimals"] or ""
    if not (whole or decimals) or (match["sign"] and match["inner_sign"]):
        return None
    # Strings, not floats: exact for any number of digits.
    number = whole.replace(",", "").lstrip("0") or "0"
    if decimals := decimals.rstrip("0"):
        number += "." + decimals
    sign = match["sign"] or match["inner_sign"]
    return f"-{number}" if sign and sign in _MINUS and number != "0" else number


def _check_kind(kind: str) -> None:
    if kind not in KINDS:
        raise UserError(f'unknown kind of answer "{kind}"; there are {", ".join(KINDS)}.{nearest(kind, KINDS)}')


def _check_gold(kind: Kind, gold: str) -> None:
    if kind == "numeric" and parse_number(gold) is None:
        raise UserError(f"the gold answer {gold[:80]!r} is not a number; grade this problem as math")
    if kind == "option" and (len(gold.strip()) != 1 or gold.strip() not in LETTERS):
        raise UserError(f"the gold answer {gold[:80]!r} is not one of the letters {', '.join(LETTERS)}")
    if not gold.strip():
        raise UserError("the gold answer is empty; drop this problem")


def _after_marker(text: str) -> tuple[str, str] | None:
    """Return the rest of the line of the last marker, and what follows that line."""
    start = text.rfind(_MARKER)
    if start < 0:
        return None
    line, _, rest = text[start + len(_MARKER) :].partition("\n")
    return line.strip(), rest


def _strict_number(text: str) -> str | None:
    marked = _after_marker(text)
    return parse_number(marked[0]) if marked else None


def _last_number(text: str) -> str | None:
    for match in reversed(list(_DIGITS.finditer(text))):
        start, digits = match.start(), match.group()
        before, after = text[start - 1 : start], text[match.end() : match.end() + 1]
        # Not the 2 of "x2" or "x_2", no number that goes on in another script, not "1e3".
        if before.isalnum() or before == "_" or (after.isdigit() and not after.isascii()):
            continue
        if _EXPONENT.match(text, match.end()):
            continue
        value = parse_number(digits.rstrip(","))
        if value is None:  # "1,5" is a list
            value = parse_number(digits.rstrip(",").rpartition(",")[2])
            if value is not None:
                return value
            continue
        sign_at = start - 1 - (before in ("$", "€", "£"))
        if sign_at >= 0 and text[sign_at] in _MINUS and value != "0":
            left = text[sign_at - 1 : sign_at] if sign_at else ""
            if not (left.isalnum() or left == ")"):  # else it is a subtraction
                return f"-{value}"
        return value
    return None


def _strict_math(text: str) -> str | None:
    marked = _after_marker(text)
    # A heading of a chat model ("### Solution") has more text below it.
    return _math_value(marked[0]) if marked and not marked[1].strip() else None


def _flexible_math(text: str) -> str | None:
    if (boxed := _last_boxed(text)) is not None:
        return boxed
    phrases = list(_ANSWER_IS.finditer(text))
    if phrases:
        sentence = text[phrases[-1].end() :].partition("\n")[0][: 2 * MAX_MATH_CHARS]
        inline = re.match(r"\$([^$]+)\$", sentence)
        value = _math_value(inline[1] if inline else re.split(r"\.(?:\s|$)", sentence)[0])
        if value is not None:
            return value
    return _last_number(text)


def _last_boxed(text: str) -> str | None:
    r"""Return what the last \boxed{...} holds, with braces of any depth, or None if it does not close."""
    start = text.rfind("\\boxed")
    if start < 0:
        return None
    rest = text[start + len("\\boxed") :][: MAX_MATH_CHARS + 10].lstrip()
    if not rest.startswith("{"):
        return _math_value(re.split(r"[\s$]", rest, maxsplit=1)[0])
    depth, at = 0, 0
    while at < len(rest):
        if rest[at] == "\\":
            at += 1  # \{ and \} are not groups
        elif rest[at] == "{":
            depth += 1
        elif rest[at] == "}":
            depth -= 1
            if depth == 0:
                return _math_value(rest[1:at])
        at += 1
    return None


def _math_value(text: str) -> str | None:
    """Return a math answer without its delimiters and final full stop, or None if it is empty or too long."""
    text = text.strip()
    if len(text) > MAX_MATH_CHARS:
        return None
    while True:
        inner = text
        for left, right in (("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]")):
            if len(inner) >= len(left) + len(right) and inner.startswith(left) and inner.endswith(right):
                inner = inner[len(left) : -len(right)].strip()
        if inner.endswith(".") and not inner.endswith(("\\left.", "\\right.")):
            inner = inner[:-1].strip()
        if inner.startswith("\\boxed{") and inner.endswith("}"):
            inner = inner[len("\\boxed{") : -1].strip()
        if inner == text:
            return text or None
        text = inner


def _normalise_math(text: str) -> str:
    """Return a string that is equal for answers that differ only in how they are typeset."""
    text = (_math_value(text) or "").replace("\\!", "").replace("{,}", ",").replace("\u2212", "-")
    # Rows of a matrix: some copies of MATH lost one of the two backslashes.
    text = re.sub(r"\\\\\s*", r"\\", text)
    text = re.sub(r"\\(?:left|right)(?![A-Za-z])", "", text)
    text = re.sub(r"\\[dtc]frac", r"\\frac", text)
    text = re.sub(r"\\(?:text|mbox|textbf|mathrm|mathbf)\{([^{}]*)\}", r"\1", text)
    text = re.sub(r"\\[,;: ]|\^\{?\\circ\}?|\\?[%$]", " ", text)
    text = re.sub(r"\\frac\s*([0-9])\s*([0-9])", r"\\frac{\1}{\2}", text)
    text = re.sub(r"\\sqrt\s*([0-9])", r"\\sqrt{\1}", text)
    text = re.sub(r"(?<![0-9])\s+|\s+(?![0-9])", "", text)  # "1 2" is not "12"
    return parse_number(text) or text


def _rational(text: str) -> Fraction | None:
    """Return the value of a normalised number or fraction of integers, or None."""
    number = parse_number(text)
    if number is not None:
        return Fraction(number)
    match = _FRACTION.fullmatch(text)
    if match is None:
        return None
    numerator, denominator = int(match[2] or match[4]), int(match[3] or match[5])
    if denominator == 0:
        return None
    return Fraction(-numerator if match[1] else numerator, denominator)


def _equal_math(predicted: str, gold: str) -> bool:
    if max(len(predicted), len(gold)) > MAX_MATH_CHARS:
        return predicted.strip() == gold.strip()
    ours, theirs = _normalise_math(predicted), _normalise_math(gold)
    if "=" not in theirs:
        ours = re.sub(r"^[A-Za-z]=(?=[^=]+$)", "", ours)  # "x = 3" answers "3"
    if not ours or not theirs:
        return False
    if ours == theirs:
        return True
    left, right = _rational(ours), _rational(theirs)
    if left is not None and right is not None:
        # Exact against exact is decided; a rounded decimal is left to math-verify.
        if left == right:
            return True
        if "." not in ours and "." not in theirs:
            return False
    return equal_math(predicted, gold)


def _strict_option(text: str) -> str | None:
    marked = _after_marker(text)
    match = _OPTION.fullmatch(marked[0]) if marked else None
    return match[1] if match else None


def _flexible_option(text: str) -> str | None:
    for pattern in (_OPTION_NAMED, _OPTION_BRACKETED):
        if matches := pattern.findall(text):
            return matches[-1]
    match = _OPTION.fullmatch(text.strip())
    return match[1] if match else None
