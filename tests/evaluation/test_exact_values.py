"""Exact arithmetic: equal values are equal, and the smallest difference is seen."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lrd_peft.evaluation.answers import equal
from lrd_peft.evaluation.exact_expressions import exact_value
from lrd_peft.evaluation.exact_values import same_value


def rational(text: str) -> Fraction | None:
    value = exact_value(text)
    return None if value is None else value.rational()


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2^{10}", Fraction(1024)),
        ("2^10", Fraction(1024)),
        ("-2^2", Fraction(-4)),
        ("(-2)^2", Fraction(4)),
        ("2^{-3}", Fraction(1, 8)),
        ("\\frac{1}{2^{3}}", Fraction(1, 8)),
        ("2\\frac{1}{3}", Fraction(7, 3)),
        ("2 1/3", Fraction(7, 3)),
        ("3\\cdot4-5", Fraction(7)),
        ("10/4", Fraction(5, 2)),
        ("5!", Fraction(120)),
        ("\\frac{6!}{4!}", Fraction(30)),
        ("\\binom{6}{2}", Fraction(15)),
        ("\\sqrt{49}", Fraction(7)),
        ("\\sqrt[3]{27}", Fraction(3)),
        ("\\sqrt{2}\\sqrt{8}", Fraction(4)),
        ("8^{\\frac{2}{3}}", Fraction(4)),
        ("(1+\\sqrt{2})(1-\\sqrt{2})", Fraction(-1)),
        ("(2+3i)(2-3i)", Fraction(13)),
        ("1.5\\times10^{3}", Fraction(1500)),
        (".25", Fraction(1, 4)),
        ("1/0", None),
        ("0^0", None),
        ("1 2", None),
        ("1/2/3", None),
        ("1/2x", None),
        ("2^{x}", None),
        ("\\sin{1}", None),
        ("\\sqrt{x^2}", None),
        ("9^{9^{9^{9}}}", None),
        ("5!!", None),
        ("", None),
    ],
)
def test_values(text: str, value: Fraction | None) -> None:
    assert rational(text) == value


NEAR = [(n, n + 1) for n in (15, 16, 40, 51, 52, 53, 63, 64, 100, 307, 308, 1000)]


@pytest.mark.parametrize(("n", "m"), NEAR)
@pytest.mark.parametrize(
    "shape",
    [
        "\\frac{{1}}{{2^{{{}}}}}",
        "\\frac{{1}}{{{}!}}",
        "10^{{-{}}}",
        "3^{{-{}}}",
        "7^{{{}}}",
        "e^{{-{}}}",
        "\\frac{{\\pi}}{{10^{{{}}}}}",
        "\\frac{{\\sqrt{{2}}}}{{5^{{{}}}}}",
        "2^{{{}}}-1",
        "\\frac{{1}}{{2^{{{}}}+1}}",
        "1-2^{{-{}}}",
        "x^{{{}}}",
        "2^{{-{}}}x",
        "\\left(\\frac{{2}}{{3}}\\right)^{{{}}}",
        "{}!",
    ],
)
def test_neighboring_powers_differ(shape: str, n: int, m: int) -> None:
    assert equal("math", shape.format(n), shape.format(n))
    assert not equal("math", shape.format(n), shape.format(m))
    assert not equal("math", shape.format(m), shape.format(n))
    assert not equal("math", shape.format(n), "0")


numbers = st.integers(-60, 60)


@st.composite
def expressions(draw: st.DrawFn, depth: int = 3) -> tuple[str, Fraction]:
    """An expression in LaTeX and its value, computed beside it."""
    if depth == 0 or draw(st.booleans()):
        number = draw(numbers)
        return (f"({number})" if number < 0 else str(number)), Fraction(number)
    left, x = draw(expressions(depth - 1))
    right, y = draw(expressions(depth - 1))
    kind = draw(st.sampled_from(["+", "-", "\\cdot", "frac", "^"]))
    if kind == "frac" and y:
        return f"\\frac{{{left}}}{{{right}}}", x / y
    if kind == "^":
        power = draw(st.integers(1, 4))
        return f"({left})^{{{power}}}", x**power
    if kind == "\\cdot":
        return f"({left})\\cdot({right})", x * y
    return (f"({left}+{right})", x + y) if kind == "+" else (f"({left}-({right}))", x - y)


@settings(deadline=None, max_examples=150)
@given(expression=expressions(), other=expressions())
def test_an_expression_has_the_value_of_fractions(
    expression: tuple[str, Fraction], other: tuple[str, Fraction]
) -> None:
    (text, value), (second, its_value) = expression, other
    found, its_found = exact_value(text), exact_value(second)
    assert found is not None and its_found is not None
    assert found.rational() == value
    assert same_value(found, its_found) is (value == its_value)


@settings(deadline=None, max_examples=100)
@given(roots=st.lists(numbers, min_size=1, max_size=4), order=st.randoms(use_true_random=False))
def test_a_polynomial_is_equal_to_its_factors_in_any_order(roots: list[int], order: object) -> None:
    coefficients = [1]
    for root in roots:
        coefficients = [a - root * b for a, b in zip([*coefficients, 0], [0, *coefficients], strict=True)]
    degree = len(roots)
    written = "+".join(f"({c})x^{{{degree - i}}}" for i, c in enumerate(coefficients[:-1])) + f"+({coefficients[-1]})"
    factors = [f"(x-({root}))" for root in roots]
    order.shuffle(factors)  # pyright: ignore[reportAttributeAccessIssue]
    assert equal("math", "".join(factors), written)
    assert not equal("math", "".join(factors), written + "+1")


@pytest.mark.parametrize(("a", "b"), [(2, 8), (3, 12), (5, 45), (7, 28), (6, 24), (10, 1000), (9973, 9973 * 4)])
def test_radicals_of_equal_squarefree_part_are_multiples(a: int, b: int) -> None:
    ratio = round((b // a) ** 0.5)
    assert equal("math", f"\\sqrt{{{b}}}", f"{ratio}\\sqrt{{{a}}}")
    assert not equal("math", f"\\sqrt{{{b}}}", f"{ratio}\\sqrt{{{a + 1}}}")
    assert equal("math", f"\\frac{{1}}{{\\sqrt{{{a}}}}}", f"\\frac{{\\sqrt{{{a}}}}}{{{a}}}")


@pytest.mark.parametrize("digits", range(1, 12))
def test_a_rounded_decimal_needs_six_digits(digits: int) -> None:
    assert equal("math", f"{2 / 3:.{digits}f}", "\\frac{2}{3}") is (digits >= 6)
    assert equal("math", f"{2**0.5:.{digits}f}", "\\sqrt{2}") is (digits >= 5)  # 1.41421 has six
    assert not equal("math", f"{2 / 3 + 3 * 10**-digits:.{digits}f}", "\\frac{2}{3}")
