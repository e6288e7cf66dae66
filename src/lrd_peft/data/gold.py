r"""Cleans gold answers by the rules that the grader reads answers by: numbers, remarks, boxes, yes and no."""

from __future__ import annotations

import math
import re
from decimal import Decimal

MAX_NUMBER_CHARS = 100

_MINUS = "-\u2212"
_NUMBER = re.compile(
    r"(?P<sign>[-+\u2212]?)\s*(?:\\?[$€£])?\s*(?P<inner_sign>[-\u2212]?)\s*"
    r"(?P<whole>[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)?(?:\.(?P<decimals>[0-9]*))?\s*(?:\\?[%$])*\.?"
)
_REMARK_BEHIND = re.compile(r"(?<=[0-9%])\s+\([^()]*\)\.?$")
_FRACTION = re.compile(r"[-\u2212]?[0-9]{1,30}/[0-9]{1,30}")
_UNBRACED = re.compile(r"[^\s$]*")
_MAX_UNBRACED_CHARS = 1_000
_WORDS_ONLY = re.compile(r"[^\W\d_][^\d_\\$=^*/+<>{}\[\]|()]*")
_MATH_WORDS = frozenset({"sin", "cos", "tan", "log", "sqrt", "exp", "infinity", "theta", "alpha", "beta", "gamma"})
_TRUE, _FALSE = ("yes", "true"), ("no", "false")


def parse_number(text: str) -> str | None:
    """Return the canonical form of a number ("$2,125.50" gives "2125.5"), or None if the text is not a number."""
    text = text.strip()
    match = _NUMBER.fullmatch(text) if len(text) <= MAX_NUMBER_CHARS else None
    if match is None:
        return None
    whole, decimals = match["whole"] or "", match["decimals"] or ""
    if not (whole or decimals) or (match["sign"] and match["inner_sign"]):
        return None
    # Strings are exact for any number of digits.
    number = whole.replace(",", "").lstrip("0") or "0"
    if decimals := decimals.rstrip("0"):
        number += "." + decimals
    sign = match["sign"] or match["inner_sign"]
    return f"-{number}" if sign and sign in _MINUS and number != "0" else number


def without_remark(text: str) -> str:
    """Drop a remark in brackets behind a number: "9 (apples)" gives "9"."""
    return _REMARK_BEHIND.sub("", text)


def gold_number(text: str) -> str | None:
    """Return a gold answer that is a number or a fraction in its canonical form, or None.

    Args:
        text: Gold answer as a data set has it, such as "$18", "18.", "50%", "9 (apples)" or "3/4".
    """
    text = without_remark(text.strip())
    number = parse_number(text)
    if number is None and _FRACTION.fullmatch(text):
        return text.replace("\u2212", "-")
    return number


def number_text(number: float) -> str:
    """Return a finite number without an exponent, and without a decimal part that is zero: 145.0 gives "145"."""
    assert math.isfinite(number)
    text = format(Decimal(repr(number)), "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


def parse_boolean(text: str) -> bool | None:
    """Return the truth value of "yes", "no", "true" or "false" in any case, with or without a period, or None."""
    word = text.strip().strip(".!").casefold()
    return True if word in _TRUE else False if word in _FALSE else None


def normalized_text(text: str) -> str:
    """Return an answer in words as it is compared: lower case, single spaces, no outer punctuation or quotes."""
    return " ".join(text.casefold().split()).strip(" .,;:!?\"'`*_")


def is_in_words(text: str) -> bool:
    """Return whether an answer consists of words and no mathematics: "Tom is a lempus.", but not "x + y" or "pi"."""
    words = re.findall(r"[^\W\d_]+", text)
    if not words or not _WORDS_ONLY.fullmatch(text) or any(word.casefold() in _MATH_WORDS for word in words):
        return False
    return any(len(word) >= 3 for word in words) or len([word for word in words if len(word) == 2]) >= 2


def unbraced_box(text: str, start: int) -> tuple[str, int]:
    r"""Return what a `\boxed` without braces holds, up to a space or dollar sign, and the index behind it.

    Args:
        text: The text.
        start: Index behind the command and its spaces. `\boxed\frac12.` holds `\frac12`.
    """
    match = _UNBRACED.match(text, start, start + _MAX_UNBRACED_CHARS)
    assert match is not None
    return match.group().rstrip(".,;:"), match.end()
