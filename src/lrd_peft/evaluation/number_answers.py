r"""Reads numbers in texts: "$2,125.50", "1 1/2", "3 x 10^2", "\frac{3}{4}", "- 5", "70{,}000", "18 m^2"."""

from __future__ import annotations

import re
from fractions import Fraction

from lrd_peft.data.gold import MAX_NUMBER_CHARS, parse_number, without_remark
from lrd_peft.evaluation.answer_phrases import (
    Statement,
    boxed_answers,
    is_heading,
    marked_answer,
    phrases,
    tagged_answer,
    without_run_on,
)
from lrd_peft.evaluation.exact_expressions import exact_value
from lrd_peft.evaluation.math_structure import is_name
from lrd_peft.evaluation.math_text import bare_math, canonical_math, plain_characters, without_spaces
from lrd_peft.evaluation.math_words import is_wordy, number_in_words, quantity_of, unmarked

_MAX_EXPONENT = 30
_MAX_NUMBERS = 100  # at the end of a text; no line that states an answer has more

_FRACTION = re.compile(r"(-?[0-9]+)/([0-9]+)")
_PLAIN = r"(?:[0-9][0-9,]*(?:(?:\{,\}|\\,|,\\!)[0-9]{3})*(?:\.[0-9]+)?|\.[0-9]+)"
_PART = r"\s{0,2}(?:\{\s{0,2}-?[0-9]{1,30}\s{0,2}\}|[0-9])"
_FRAC = rf"\\[dtc]?frac{_PART}{_PART}"
_IN_TEXT = re.compile(
    rf"(?P<mixed>[0-9]{{1,30}}\s{{0,2}}{_FRAC}|[0-9]{{1,30}} [0-9]{{1,30}}/[0-9]{{1,30}})|(?P<frac>{_FRAC})|"
    rf"(?P<over>{_PLAIN}\s?/\s?[0-9][0-9,]{{0,30}}(?![0-9./]))|(?P<plain>{_PLAIN})"
)
_SKIPPED_AFTER = re.compile(r"[eE][-+]?[0-9]|\s{0,2}\\(?:pi|sqrt)|\^(?!\s?\{?\\circ)")
_ROOT_BEFORE = re.compile(r"\\sqrt\s{0,2}(?:\[[0-9]\])?\s{0,2}\{?$|\\binom\{?$")
_CLAUSE_END = re.compile(
    r",?\s+(?:because|since|which|where|as|when|if|for|per|in|after|with|leaving|not|assuming|given)\b"
    r"|,\s+(?:so|but|and)\b|\s+and\s+(?:there|he|she|they|it|we|the)\b|;",
    re.IGNORECASE,
)
_RELATIVE = re.compile(r"\b(?:which is|that is|i\.e\.,?|equals|is equal to)\s+(?=[-$\\0-9])", re.IGNORECASE)
_CORRECTED = re.compile(r"^\s*not\b.{0,60}?(?:\bbut\b|\bit is\b|\bit's\b|\brather\b)\s*", re.IGNORECASE)
_SEVERAL = re.compile(r"\b(?:or|and|to|between|either)\b|,|\u00b1|\\pm")
_TIMES_TEN = r"\s{0,2}(?:\\times|\\cdot|[x*\u00d7\u00b7])\s{0,2}10\s?(?:\^|\*\*)\s?"
_SCIENTIFIC = re.compile(
    rf"(?<![\w.^{{}}\\])(?P<digits>[0-9][0-9,]{{0,30}}(?:\.[0-9]{{1,30}})?)"
    rf"(?:{_TIMES_TEN}(?:\{{\s?(?P<braced>[-+\u2212]?[0-9]{{1,2}})\s?\}}|(?P<power>[-+\u2212]?[0-9]{{1,2}}))"
    rf"|[eE](?P<exponent>[-+\u2212]?[0-9]{{1,2}}))(?![\w^])(?!\.[0-9])"
)
_REFUSAL = re.compile(
    r"\W*(?:unknown|undefined|undetermined|indeterminate|impossible|insufficient|n/a|no\s+(?:answer|solution)"
    r"|not\s+(?:known|enough|possible|determined|given|sure|clear)|(?:it\s+)?(?:cannot|can't|can\s+not|could\s+not)"
    r"|(?:i|we)\s+(?:do\s+not|don't|cannot|can't|can\s+not|could\s+not)\s+(?:know|tell|say|determine|find))\b",
    re.IGNORECASE,
)
_UNANSWERED = re.compile(
    r"\b(?:answer|problem|question)\s+(?:cannot|can't|can\s+not|could\s+not)\s+be\s+"
    r"(?:answered|calculated|computed|determined|found|known|solved)\b",
    re.IGNORECASE,
)
_TIMES = re.compile(r"(?<=[0-9)])\s{0,2}[x\u00d7]\s{0,2}(?=[0-9(])")
_THIN_THOUSANDS = re.compile("(?<=[0-9])[\u00a0\u2007\u2009\u202f](?=[0-9]{3}(?![0-9]))")
_REMARK = re.compile(r"\([^()]*\)")
_CALCULATOR = re.compile(r"<<[^<>\n]*>>")
_NUMBERED_PART = re.compile(
    r"^(?:step|part|case|example|problem|question|method|exercise|stage)\b\s*[0-9]*", re.IGNORECASE
)


def parse_rational(text: str) -> str | None:
    r"""Return the canonical form of a rational number, also of "3/4", "\frac34", "1 1/2" and "18 apples", or None."""
    number = parse_number(text)
    if number is not None:
        return number
    text = _TIMES.sub("*", _SCIENTIFIC.sub(_expanded, text[: 2 * MAX_NUMBER_CHARS + 1]))
    bare = bare_math(without_remark(_CALCULATOR.sub("", text))) if len(text) <= 2 * MAX_NUMBER_CHARS else None
    if bare is None:
        return None
    number = parse_number(bare)
    if number is not None:
        return number
    canonical = canonical_math(bare)
    name, equals, right = canonical.rpartition("=")
    if equals:
        if not is_name(name) and exact_value(without_spaces(unmarked(name.replace("=", "+")))) is None:
            return None
        canonical = right
    quantity = quantity_of(number_in_words(canonical.strip()))
    value = without_spaces(unmarked(quantity.value))
    if is_wordy(value) or not value:
        return None
    exact = exact_value(value)
    rational = exact.rational() if exact is not None else None
    return None if rational is None else _written(rational)


def same_number(predicted: str, gold: str) -> bool:
    """Compare two canonical numbers exactly."""
    ours, theirs = parse_rational(predicted), parse_rational(gold)
    return ours is not None and theirs is not None and (ours == theirs or Fraction(ours) == Fraction(theirs))


def number_answer(text: str) -> Statement:
    """Find the number that a text states as its answer, or else its last number."""
    text = _SCIENTIFIC.sub(_expanded, plain_characters(_THIN_THOUSANDS.sub(",", without_run_on(text))))
    marked = marked_answer(text, _bare_number, _number_within, _is_heading)
    if marked is not None:
        return marked
    boxes = boxed_answers(text)
    if boxes:
        values = {value for value in map(_boxed_number, boxes) if value is not None}
        return Statement(values.pop() if len(values) == 1 and len(boxes) == 1 else None)
    tagged = tagged_answer(text)
    if tagged is not None:
        return _number_within(tagged) or Statement(None)
    for sentence in phrases(text):
        stated = _number_within(sentence)
        if stated is not None:
            return stated
    return Statement(None if _UNANSWERED.search(text) else last_number(text))


def last_number(text: str) -> str | None:
    """Return the last number of a text in canonical form, with the whole fraction and the sign that belong to it."""
    found = list(_numbers(text))
    if len(found) > 1 and re.fullmatch(r"[0-9.,/\s$]*\bor\b\W*", text[found[-2][0] : found[-1][0]]):
        return None  # "2 or 3"
    return found[-1][1] if found else None


def _is_heading(line: str) -> bool:
    return is_heading(line) and not _REFUSAL.match(line)


def _expanded(match: re.Match[str]) -> str:
    """Return "300" for "3 x 10^2" and "3e2"."""
    digits = parse_number(match["digits"])
    exponent = int((match["braced"] or match["power"] or match["exponent"]).replace("\u2212", "-"))
    if digits is None or abs(exponent) > _MAX_EXPONENT:
        return match.group()
    return _written(Fraction(digits) * Fraction(10) ** exponent)


def _bare_number(line: str) -> str | None:
    """Return the value of a line without words."""
    return None if re.search(r"(?<![A-Za-z\\])[A-Za-z]{2,}", line) else parse_rational(line)


def _boxed_number(content: str) -> str | None:
    value = parse_rational(content)
    if value is not None:
        return value
    stated = _number_within(content)
    return stated.value if stated is not None else None


def _number_within(line: str) -> Statement | None:
    """Read the number that a clause states. None if it holds no number; a value of None if it holds several."""
    line = _CORRECTED.sub("", _CALCULATOR.sub("", plain_characters(line))).replace("**", " ").strip()
    value = parse_rational(line)
    if value is not None:
        return Statement(value)
    if _REFUSAL.match(line):
        return Statement(None)
    if PHRASE_INSIDE.match(line):
        line = PHRASE_INSIDE.sub("", line, count=1)
    line = re.sub(r"(?<![0-9] )\b(?:minus|negative)\s+(?=[$0-9.])", "-", line, flags=re.IGNORECASE)
    line = _NUMBERED_PART.sub("", line)
    if relative := list(_RELATIVE.finditer(line)):
        line = line[relative[-1].end() :]
    for end in _CLAUSE_END.finditer(line):
        if re.search("[0-9]", line[: end.start()]):
            line = line[: end.start()]
            break
    if "=" in line and re.search("[0-9]", line.rpartition("=")[2]):
        line = line.rpartition("=")[2]
    value = parse_rational(line)
    if value is not None:
        return Statement(value)
    found = list(_numbers(line))
    if not found:
        # A formula without a rational value is an answer that is no number.
        return Statement(None) if re.search(r"\\(?:frac|sqrt|pi)|[0-9]", line) else None
    outside = _REMARK.sub("", line)
    if len(found) > 1 and (inside := list(_numbers(outside))):
        found, line = inside, outside
    values = list(dict.fromkeys(value for _, value in found))
    if len(values) == 1:
        return Statement(values[0])
    starts_with_it = not re.search("[A-Za-z0-9]", line[: found[0][0]])
    if starts_with_it and not _SEVERAL.search(line[found[0][0] : found[-1][0]]):
        between = re.sub(r"[-+*/x\u00d7\\]", "", line[found[0][0] : found[1][0]])
        if re.search("[A-Za-z]{2}", between):
            return Statement(values[0])
    return Statement(None)


PHRASE_INSIDE = re.compile(
    r".{0,80}?\b(?:answers?|ans|total|result|value)\b[^0-9:=]{0,40}?(?:\bis\b|\bare\b|\bbe\b|[:=])\s*", re.IGNORECASE
)


def _numbers(text: str) -> list[tuple[int, str]]:
    """Return index and canonical form of the last numbers of a text."""
    found: list[tuple[int, str]] = []
    for match in list(_IN_TEXT.finditer(text))[-_MAX_NUMBERS:]:
        start, shown = match.start(), match.group()
        before, after = text[start - 1 : start], text[match.end() : match.end() + 1]
        # Skip the 2 of "x2" and "x_2", numbers that continue in another script, powers, roots and "1e3".
        if (before.isalnum() and not _ends_command(text, start)) or before in ("_", "^"):
            continue
        if before == "{" and text[start - 2 : start - 1] in ("_", "^"):
            continue
        if (after.isdigit() and not after.isascii()) or _SKIPPED_AFTER.match(text, match.end()):
            continue
        if _ROOT_BEFORE.search(text[max(0, start - 12) : start]):
            continue
        value = parse_rational(shown.rstrip(","))
        if value is not None:
            found.append((start, _signed(text, start, value)))
        elif match["plain"] is not None:  # "1,5" is a list
            parts = map(parse_number, shown.rstrip(",").split(",")[-_MAX_NUMBERS:])
            found += [(start, part) for part in parts if part is not None]
    return found


def _ends_command(text: str, start: int) -> bool:
    return re.search(r"\\(?:text|quad|cdot|times|approx|le|ge|leq|geq)$", text[max(0, start - 8) : start]) is not None


def _signed(text: str, start: int, value: str) -> str:
    before = text[max(0, start - 6) : start]
    match = re.search(r"([-\u2212])\s?(?:\\?[$€£])?$", before)
    if match is None or value == "0" or value.startswith("-"):
        return value
    left = before[: match.start()].rstrip()
    if not left and start > 6:
        left = text[: start - 6].rstrip()[-1:]
    is_subtraction = (
        bool(left)
        and (left[-1].isalnum() or left[-1] in ")}%")
        and (left[-1].isdigit() or left[-1] in ")}%" or before[match.start() - 1 : match.start()] not in (" ", ""))
    )
    return value if is_subtraction else f"-{value}"


def _written(number: Fraction) -> str:
    """Return a number as a whole number, a finite decimal, or a fraction."""
    places, rest = 0, number.denominator
    for prime in (2, 5):
        count = 0
        while rest % prime == 0:
            rest, count = rest // prime, count + 1
        places = max(places, count)
    if rest != 1 or places > 30:
        return f"{number.numerator}/{number.denominator}"
    if not places:
        return str(number.numerator)
    digits = str(abs(number.numerator) * 10**places // number.denominator).zfill(places + 1)
    return f"{'-' if number < 0 else ''}{digits[:-places]}.{digits[-places:]}"
