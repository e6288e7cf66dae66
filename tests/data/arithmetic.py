"""An evaluator of the generators' text that shares no code with them: a tiny parser of linear forms."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping
from fractions import Fraction

# The coefficients of x and of y, and the constant.
Form = tuple[Fraction, Fraction, Fraction]
Solver = Callable[..., int | Fraction]

_STEP = re.compile(r"(?:[A-Za-z]+: )?(\d+ [-+*/] \d+) = (\d+)(?: \([A-E]\))?")
_EQUATION = re.compile(r"(?:\b[xy\d]|\()[xy\d ()*+-]* = [xy\d ()*+-]*[xy\d)]")


def _constant(value: int | Fraction) -> Form:
    return Fraction(0), Fraction(0), Fraction(value)


def _combine(left: Form, operator: str, right: Form) -> Form:
    if operator == "+":
        return left[0] + right[0], left[1] + right[1], left[2] + right[2]
    if operator == "-":
        return left[0] - right[0], left[1] - right[1], left[2] - right[2]
    if operator == "/":
        assert not (right[0] or right[1]), "a form is divided by a constant only"
        right = _constant(1 / right[2])
    if left[0] or left[1]:
        left, right = right, left
    assert not (left[0] or left[1]), "a product has a constant factor"
    return left[2] * right[0], left[2] * right[1], left[2] * right[2]


def form(text: str) -> Form:
    """Return the linear form that an expression over x, y, + - * /, brackets and whole numbers stands for."""
    tokens = re.findall(r"\d+|\S", text)

    def atom() -> Form:
        token = tokens.pop(0)
        if token == "(":
            inside = chain(("+", "-"), term)
            assert tokens.pop(0) == ")"
            return inside
        if token in "xy":
            return Fraction(token == "x"), Fraction(token == "y"), Fraction(0)
        return _constant(int(token))

    def chain(operators: tuple[str, str], part: Callable[[], Form]) -> Form:
        value = part()
        while tokens and tokens[0] in operators:
            operator = tokens.pop(0)
            value = _combine(value, operator, part())
        return value

    def term() -> Form:
        return chain(("*", "/"), atom)

    whole = chain(("+", "-"), term)
    assert not tokens, f"text is left over: {tokens}"
    return whole


def number(text: str) -> Fraction:
    """Return the value of an expression without unknowns."""
    x, y, value = form(text)
    assert x == y == 0
    return value


def result_of(step: str) -> int:
    """Return what a step's equation ends in, after checking that it has the agreed shape and is true.

    A last step of multiple choice also names the option, which is not checked here.
    """
    fits = _STEP.fullmatch(step)
    assert fits, f"not an equation of two numbers: {step!r}"
    assert number(fits[1]) == int(fits[2]), f"not true: {step!r}"
    assert all(int(digits) <= 99 for digits in re.findall(r"\d+", step)), f"a number above 99: {step!r}"
    return int(fits[2])


def solution(text: str) -> dict[str, Fraction]:
    """Solve the equations over x and y that stand in a text."""
    rows = []
    for equation in equations(text):
        left, right = equation.split(" = ")
        rows.append(_combine(form(left), "-", form(right)))
    if len(rows) == 1:
        rows.append((Fraction(0), Fraction(1), Fraction(0)))
    (a, b, e), (c, d, f) = rows
    determinant = a * d - b * c
    return {"x": (b * f - d * e) / determinant, "y": (c * e - a * f) / determinant}


def latex(value: Fraction) -> str:
    """Return a number as MATH writes it in its box."""
    if value.denominator == 1:
        return str(value.numerator)
    return f"\\frac{{{value.numerator}}}{{{value.denominator}}}"


def equations(text: str) -> list[str]:
    """Return the equations over x and y that stand in a text."""
    return _EQUATION.findall(text)


@functools.cache
def _regex(pattern: str) -> re.Pattern[str]:
    return re.compile(re.escape(pattern).replace(r"\#", r"(\d+)").replace("@", "[A-Za-z]+"))


def match(question: str, solvers: Mapping[str, Solver]) -> tuple[Solver, tuple[int, ...]]:
    """Return the one solver whose pattern describes the whole question, and the question's numbers for it.

    In a pattern `#` is a number and `@` is a word.
    """
    found = []
    for pattern, solver in solvers.items():
        fits = _regex(pattern).fullmatch(question)
        if fits:
            found.append((solver, tuple(map(int, fits.groups()))))
    assert len(found) == 1, f"{len(found)} solvers for {question!r}"
    return found[0]
