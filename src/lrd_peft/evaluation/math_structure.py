r"""Compares mathematical answers by their structure: lists, sets, tuples, intervals, unions, matrices and relations.

Lists and sets have no order. Only single expressions are compared by value: exactly (`exact_expressions`) where that
is possible, otherwise by math-verify. Words are compared as words.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from lrd_peft.evaluation.exact_expressions import exact_value
from lrd_peft.evaluation.exact_values import ExactValue, difference, proportional, same_value
from lrd_peft.evaluation.math_text import canonical_math, without_spaces
from lrd_peft.evaluation.math_words import (
    based_digits,
    is_wordy,
    number_in_words,
    quantity_of,
    same_words,
    unmarked,
    without_label,
)

# Decides about two expressions that have no exact values.
Decide = Callable[[str, str], bool]

_MIN_DIGITS = 6  # of a rounded decimal that may stand for an exact value
_MAX_PARTS = 100
_MAX_DEPTH = 8
_MAX_NESTING = 30
_MATRIX = re.compile(r"\\begin\{([a-zA-Z]*matrix\*?|array)\}(?:\{[^{}]*\})?(.*)\\end\{\1\}", re.DOTALL)
_RELATION = re.compile(r"=|<|>|\\(?:leq|geq|neq|in|equiv|approx)(?![A-Za-z])")
_TURNED = {">": "<", r"\geq": r"\leq"}
_PAIRS = {"(": ")", "[": "]", r"\{": r"\}", r"\langle": r"\rangle"}
_AND = re.compile(r"(?:,\s*)?(?:\ue000\s*)?\b(?:and|or)\b(?:\s*\ue001)?|\s&\s")
_TOKENS = re.compile(r"\\begin\{[^{}]*\}|\\end\{[^{}]*\}|\\[A-Za-z]+|\\.|.", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Structure:
    """A parsed answer.

    Attributes:
        kind: What the parts form.
        text: Canonical text.
        parts: Elements of a list, set, tuple or union; rows of a matrix; sides of a relation.
        signs: Brackets of a tuple, or the operators between the sides of a relation.
    """

    kind: Literal["single", "list", "set", "tuple", "union", "matrix", "row", "relation"]
    text: str
    parts: tuple[Structure, ...] = ()
    signs: tuple[str, ...] = ()


def equal_structures(predicted: str, gold: str, decide: Decide) -> bool:
    """Compare two answers.

    Args:
        predicted: Answer of the model.
        gold: Correct answer.
        decide: Compares expressions without an exact value.

    Returns:
        Whether they are equal.
    """
    ours, theirs = canonical_math(predicted), canonical_math(gold)
    if not ours or not theirs:
        return False
    if unmarked(without_spaces(ours)) == unmarked(without_spaces(theirs)):
        return True
    return _same(structure_of(without_label(ours)), structure_of(without_label(theirs)), decide)


def structure_of(text: str, depth: int = 0) -> Structure:
    """Parse canonical text."""
    text = text.strip()
    if depth > _MAX_DEPTH:
        return Structure("single", text)
    if is_sentence(text):
        return Structure("single", text)

    def inner(part: str) -> Structure:
        return structure_of(part, depth + 1)

    parts = _split(_AND.sub(",", text) if re.search("[0-9\\\\=<>]|^.{0,12}$", text) else text, (",", ";"))
    if 1 < len(parts) <= _MAX_PARTS:
        return Structure("list", text, tuple(inner(part) for part in parts if part.strip()))
    if len(pieces := _split(text, (r"\cup",))) > 1:
        return Structure("union", text, tuple(inner(part) for part in pieces))
    if (sides := _relation(text)) is not None:
        return Structure("relation", text, tuple(inner(side) for side in sides[0]), sides[1])
    if (matrix := _MATRIX.fullmatch(text)) is not None and r"\begin" not in matrix[2]:
        rows = [row for row in re.split(r"\\cr|\\\\", matrix[2]) if row.strip()]
        cells = [Structure("row", row, tuple(inner(cell) for cell in row.split("&"))) for row in rows]
        return Structure("matrix", text, tuple(cells), (re.sub("[pbB]matrix|array", "matrix", matrix[1]),))
    if (brackets := _bracketed(text)) is not None:
        opening, content, closing = brackets
        elements = [part for part in _split(content, (",", ";")) if part.strip()]
        if opening == r"\{" or (opening == "{" and len(elements) > 1):
            return Structure("set", text, tuple(inner(part) for part in elements))
        if len(elements) > 1:
            signs = ("(", ")") if opening == r"\langle" else (opening, closing)
            return Structure("tuple", text, tuple(inner(part) for part in elements), signs)
        if elements and not (is_wordy(content) and len(content) > 1):
            return inner(content)
    if text.count(r"\pm") == 1 and r"\mp" not in text:
        plus = re.sub(r"^\s*\+", "", text.replace(r"\pm", "+"))
        return Structure("list", text, (inner(plus), inner(text.replace(r"\pm", "-"))))
    return Structure("single", text)


def is_sentence(text: str) -> bool:
    """Return whether a text is words without any mathematics."""
    return is_wordy(text) and re.search(r"[0-9\\=<>^_+|]", unmarked(text)) is None


def _same(a: Structure, b: Structure, decide: Decide) -> bool:
    if unmarked(without_spaces(a.text)) == unmarked(without_spaces(b.text)):
        return True
    kinds = {a.kind, b.kind}
    if kinds == {"single"}:
        return _same_single(a.text, b.text, decide)
    if kinds == {"relation"}:
        return _same_relation(a, b, decide)
    if "relation" in kinds:
        relation, other = (a, b) if a.kind == "relation" else (b, a)
        return _same_unnamed(relation, other, decide)
    if kinds <= {"list", "set"}:
        if r"\ldots" in a.text or r"\ldots" in b.text:
            return _same_parts(a.parts, b.parts, decide)
        return _same_without_order(a.parts, b.parts, decide)
    if kinds == {"tuple"}:
        return a.signs == b.signs and _same_parts(a.parts, b.parts, decide)
    if kinds == {"list", "tuple"}:
        signs = a.signs or b.signs
        return signs == ("(", ")") and _same_parts(a.parts, b.parts, decide)
    if kinds == {"union"}:
        return _same_without_order(a.parts, b.parts, decide)
    if kinds == {"list", "union"}:
        ours, theirs = ([_interval(part) or part for part in each.parts] for each in (a, b))
        return _same_without_order(ours, theirs, decide)
    if kinds in ({"matrix"}, {"row"}):
        return a.signs == b.signs and _same_parts(a.parts, b.parts, decide)
    if kinds == {"matrix", "tuple"}:
        vector, other = (a, b) if a.kind == "matrix" else (b, a)
        cells = [cell for row in vector.parts for cell in row.parts]
        flat = len(vector.parts) in (1, len(cells))
        return (
            flat
            and vector.signs == ("matrix",)
            and other.signs == ("(", ")")
            and _same_parts(cells, other.parts, decide)
        )
    collections = [each for each in (a, b) if each.kind in ("list", "set")]
    if len(collections) == 1:
        parts = _flattened(collections[0].parts)
        return len(parts) == 1 and _same(parts[0], b if collections[0] is a else a, decide)
    return False


def _same_parts(a: Sequence[Structure], b: Sequence[Structure], decide: Decide) -> bool:
    return len(a) == len(b) and all(_same(x, y, decide) for x, y in zip(a, b, strict=True))


def _same_without_order(a: Sequence[Structure], b: Sequence[Structure], decide: Decide) -> bool:
    ours, theirs = _flattened(a), _flattened(b)
    if len(ours) != len(theirs):
        return False
    waiting = list(theirs)
    for part in ours:
        found = next((other for other in waiting if _same(part, other, decide)), None)
        if found is None:
            return False
        waiting.remove(found)
    return True


def _flattened(parts: Sequence[Structure]) -> list[Structure]:
    """Replace a list in a list (1 \\pm 2 in a set) by its elements, and drop repetitions."""
    flat = [inner for part in parts for inner in (_flattened(part.parts) if part.kind == "list" else [part])]
    kept: list[Structure] = []
    for part in flat:
        if not any(_same(part, other, _undecided) for other in kept):
            kept.append(part)
    return kept


def _undecided(predicted: str, gold: str) -> bool:
    return False


def _same_single(a: str, b: str, decide: Decide) -> bool:
    a, b = number_in_words(a), number_in_words(b)
    based = based_digits(a), based_digits(b)
    if any(based):
        return based[0] == based[1]
    ours, theirs = quantity_of(a), quantity_of(b)
    if ours.unit and theirs.unit and ours.unit != theirs.unit:
        return False
    left, right = without_spaces(unmarked(ours.value)), without_spaces(unmarked(theirs.value))
    if left == right:
        return True
    if is_wordy(ours.value) or is_wordy(theirs.value):
        return same_words(ours.value, theirs.value)
    if r"\ldots" in left or r"\ldots" in right or _is_two_numbers(left) or _is_two_numbers(right):
        return False
    x, y = exact_value(left), exact_value(right)
    if x is not None and y is not None:
        verdict = _same_exact(left, x, right, y)
        if verdict is not None:
            return verdict
    return _is_readable(left) and _is_readable(right) and decide(left, right)


def _is_readable(text: str) -> bool:
    """Return whether braces and parentheses are closed and not nested as no answer is; parsers fail on others."""
    for opening, closing in ("{}", "()"):
        depth = 0
        for character in text:
            depth += (character == opening) - (character == closing)
            if not 0 <= depth <= _MAX_NESTING:
                return False
        if depth:
            return False
    return True


def _is_two_numbers(text: str) -> bool:
    return re.search(r"[0-9]\s+[0-9]", text) is not None and exact_value(text) is None


def _same_exact(left: str, x: ExactValue, right: str, y: ExactValue) -> bool | None:
    same = same_value(x, y)
    if same is not False or not ("." in left or "." in right):
        return same
    a, b = x.approximate(), y.approximate()
    if a is None or b is None:
        return False
    steps = [step for step in (_rounding_step(left), _rounding_step(right)) if step is not None]
    if not steps:
        return False
    p, q = x.rational(), y.rational()
    if p is not None and q is not None:
        return abs(p - q) <= max(steps) / 2
    return abs(a - b) <= float(max(steps)) * 0.500001


def _rounding_step(text: str) -> Fraction | None:
    """Return the last place of a decimal with enough digits to stand for an exact value."""
    match = re.fullmatch(r"-?([0-9]*)\.([0-9]+)", text)
    if match is None or len((match[1] + match[2]).lstrip("0")) < _MIN_DIGITS:
        return None
    return Fraction(1, 10 ** len(match[2]))


def _same_relation(a: Structure, b: Structure, decide: Decide) -> bool:
    a, b = _ascending(a), _ascending(b)
    if a.signs == b.signs:
        if _same_parts(a.parts, b.parts, decide):
            return True
        if a.signs == ("=",) and _same_parts(a.parts, b.parts[::-1], decide):
            return True
    intervals = _interval(a), _interval(b)
    if intervals[0] is not None and intervals[1] is not None:
        return _variable(a) == _variable(b) and _same(intervals[0], intervals[1], decide)
    if a.signs == b.signs == ("=",):
        values = [exact_value(without_spaces(unmarked(side.text))) for side in (*a.parts, *b.parts)]
        if all(value is not None for value in values):
            w, x, y, z = (value for value in values if value is not None)
            left, right = difference(w, x), difference(y, z)
            verdict = proportional(left, right) if left is not None and right is not None else None
            if verdict is not None:
                return verdict
    if any(is_wordy(side.text) for side in (*a.parts, *b.parts)) or a.signs != b.signs:
        return False
    return decide(without_spaces(unmarked(a.text)), without_spaces(unmarked(b.text)))


def _same_unnamed(relation: Structure, other: Structure, decide: Decide) -> bool:
    """Compare "x = 5" with "5", and "x > 2" with an interval."""
    interval = _interval(relation)
    if interval is not None:
        return _same(interval, other, decide)
    *names, last = relation.parts
    if relation.signs[-1] == r"\approx" and _is_number(names[-1].text):
        *names, last = names  # 7/9, about 0.78
    if set(relation.signs) - {"=", r"\approx"}:
        return False
    if all(is_name(name.text) or _is_number(name.text) for name in names):
        return _same(last, other, decide)
    return False


def is_name(text: str) -> bool:
    """Return whether a text names what an answer is the value of: a variable, f(x), a segment, words."""
    text = re.sub(r"_\s*(?:\{[^{}]*\}|[0-9A-Za-z])", "", unmarked(text)).strip()
    return re.search("[0-9]", text) is None and re.search("[A-Za-z]", text) is not None


def _is_number(text: str) -> bool:
    value = exact_value(without_spaces(unmarked(text)))
    return value is not None and not value.has_variables()


def _ascending(relation: Structure) -> Structure:
    """Write "a > b" as "b < a"."""
    if relation.signs and all(sign in _TURNED for sign in relation.signs):
        signs = tuple(_TURNED[sign] for sign in reversed(relation.signs))
        return Structure("relation", relation.text, relation.parts[::-1], signs)
    return relation


def _variable(relation: Structure) -> str:
    return next((part.text for part in relation.parts if re.fullmatch(r"\\?[A-Za-z]+", part.text)), "")


def _interval(relation: Structure) -> Structure | None:
    """Return the interval of an inequality that bounds one variable, or None."""
    if relation.kind != "relation":
        return None
    turned = _ascending(relation)
    signs, parts = turned.signs, turned.parts
    if signs == (r"\in",) and is_name(parts[0].text):
        return parts[1]
    if not set(signs) <= {"<", r"\leq"} or not signs:
        return None
    single = [re.fullmatch(r"\\?[A-Za-z]+", part.text) is not None for part in parts]
    if len(parts) == 3 and single[1] and not (single[0] or single[2]):
        low, high = parts[0], parts[2]
        left, right = signs
    elif len(parts) == 2 and single == [True, False]:
        low, high, left, right = Structure("single", r"-\infty"), parts[1], "<", signs[0]
    elif len(parts) == 2 and single == [False, True]:
        low, high, left, right = parts[0], Structure("single", r"\infty"), signs[0], "<"
    else:
        return None
    brackets = ("(" if left == "<" else "[", ")" if right == "<" else "]")
    return Structure("tuple", f"{brackets[0]}{low.text},{high.text}{brackets[1]}", (low, high), brackets)


def _relation(text: str) -> tuple[list[str], tuple[str, ...]] | None:
    if _RELATION.search(text) is None:
        return None
    signs = ("=", "<", ">", r"\leq", r"\geq", r"\neq", r"\in", r"\equiv", r"\approx")
    found: list[str] = []
    sides = _split(text, signs, found)
    return (sides, tuple(found)) if found and all(side.strip() for side in sides) else None


def _split(text: str, separators: Sequence[str], found: list[str] | None = None) -> list[str]:
    """Split at separators outside of brackets; `found` receives them."""
    parts, depth = [""], 0
    for token in _TOKENS.findall(text):
        if token in ("(", "[", "{", r"\{", r"\langle") or token.startswith(r"\begin"):
            depth += 1
        elif token in (")", "]", "}", r"\}", r"\rangle") or token.startswith(r"\end"):
            depth -= 1
        if depth == 0 and token in separators:
            parts.append("")
            if found is not None:
                found.append(token)
        else:
            parts[-1] += token
    return parts if depth == 0 else [text]


def _bracketed(text: str) -> tuple[str, str, str] | None:
    """Return opening bracket, content and closing bracket, if one pair encloses the whole text."""
    tokens = _TOKENS.findall(text)
    if len(tokens) < 3 or tokens[0] not in (*_PAIRS, "{"):
        return None
    opening, closing = tokens[0], tokens[-1]
    ends = {")", "]"} if opening in ("(", "[") else {_PAIRS.get(opening, "}")}
    if closing not in ends:
        return None
    depth = 0
    for at, token in enumerate(tokens):
        depth += (token in _PAIRS or token == "{") - (token in (")", "]", "}", r"\}", r"\rangle"))
        if depth == 0 and at < len(tokens) - 1:
            return None
    return opening, "".join(tokens[1:-1]), closing
