"""math-mini problems about numbers: algebra, number theory, fractions."""

from __future__ import annotations

import math
import random

from lrd_peft.data.generators.chain import LARGEST, Chain, math_draft, require
from lrd_peft.data.generators.draft import Draft

# --- algebra


def linear(rng: random.Random) -> Draft:
    a, x, b = rng.randint(2, 9), rng.randint(1, 20), rng.randint(1, 20)
    chain = Chain()
    if rng.random() < 0.5:
        c, sign = a * x + b, "+"
        left = chain.add(c, "-", b, "x")
    else:
        c, sign = a * x - b, "-"
        left = chain.add(c, "+", b, "x")
    chain.add(left, "/", a, "x")
    templates = (
        "the number x satisfies {0} * x {sign} {1} = {2}. what is the value of x?",
        "solve the equation {0} * x {sign} {1} = {2} and give the value of x.",
        "for which number x is {0} * x {sign} {1} equal to {2}?",
    )
    return math_draft(rng, f"algebra/linear{sign}", (a, b, c), templates, chain, sign=sign)


def bracket(rng: random.Random) -> Draft:
    a, x, b = rng.randint(2, 9), rng.randint(1, 30), rng.randint(1, 20)
    chain = Chain()
    if rng.random() < 0.5:
        c, sign, inverse = a * (x + b), "+", "-"
    else:
        c, sign, inverse = a * (x - b), "-", "+"
    chain.add(chain.add(c, "/", a, "x"), inverse, b, "x")
    templates = (
        "the number x satisfies {0} * (x {sign} {1}) = {2}. what is the value of x?",
        "solve the equation {0} * (x {sign} {1}) = {2} and give the value of x.",
    )
    return math_draft(rng, f"algebra/bracket{sign}", (a, b, c), templates, chain, sign=sign)


def evaluate_expression(rng: random.Random) -> Draft:
    a, x, b = rng.randint(2, 9), rng.randint(2, 12), rng.randint(1, 20)
    sign = rng.choice("+-")
    chain = Chain()
    chain.add(chain.add(a, "*", x, "y"), sign, b, "y")
    templates = (
        "let y = {0} * x {sign} {1}. what is the value of y when x = {2}?",
        "if x = {2} and y = {0} * x {sign} {1}, what is the value of y?",
    )
    return math_draft(rng, f"algebra/evaluate{sign}", (a, b, x), templates, chain, sign=sign)


def known_x(rng: random.Random) -> Draft:
    a, x, y = rng.randint(2, 9), rng.randint(2, 12), rng.randint(1, 40)
    chain = Chain()
    if rng.random() < 0.5:
        kind, numbers = "product", (a, a * x, x + y)
        chain.add(x + y, "-", chain.add(a * x, "/", a, "x"), "y")
        templates = (
            "two numbers satisfy {0} * x = {1} and x + y = {2}. what is the value of y?",
            "if {0} * x = {1} and x + y = {2}, find the value of y.",
        )
    else:
        kind, numbers = "given", (x, a, a * x + y)
        chain.add(a * x + y, "-", chain.add(a, "*", x, "x"), "y")
        templates = (
            "two numbers satisfy x = {0} and {1} * x + y = {2}. what is the value of y?",
            "if x = {0} and {1} * x + y = {2}, find the value of y.",
        )
    return math_draft(rng, f"algebra/{kind}", numbers, templates, chain)


def sum_and_difference(rng: random.Random) -> Draft:
    x, y = rng.randint(2, 40), rng.randint(1, 30)
    chain = Chain()
    first = chain.add(chain.add(x + y, "+", x - y, "x"), "/", 2, "x")
    ask = rng.choice("xy")  # not in the signature: x is on the way to y
    if ask == "y":
        chain.add(x + y, "-", first, "y")
    templates = (
        "two numbers satisfy x + y = {0} and x - y = {1}. what is the value of {ask}?",
        "if x + y = {0} and x - y = {1}, find the value of {ask}.",
    )
    return math_draft(rng, "algebra/system", (x + y, x - y), templates, chain, ask=ask)


# --- number theory


def gcd(rng: random.Random) -> Draft:
    """Euclid's algorithm in one or two rounds: the last remainder that is not zero."""
    divisor = rng.randint(2, 15)
    # A gcd of 2 in two rounds has so many pairs that 2 would become the answer to guess.
    if divisor == 2 or rng.random() < 0.4:
        small, rest = divisor * rng.randint(2, 9), divisor
    else:
        rest = divisor * rng.randint(2, 6)
        small = rest * rng.randint(1, 4) + divisor
    large = small * rng.randint(1, 6) + rest
    require(large <= LARGEST)
    chain = Chain()
    a, b = large, small
    while a % b:
        whole = a // b
        multiple = b if whole == 1 else chain.add(b, "*", whole, "multiple")
        a, b = b, chain.add(a, "-", multiple, "rest")
    require(len(chain.steps) <= 4)
    numbers = (large, small) if rng.random() < 0.5 else (small, large)
    templates = (
        "what is the greatest common divisor of the two numbers {0} and {1}?",
        "find the largest number that divides both {0} and {1} with no remainder.",
        "what is the largest whole number that divides {0} and also divides {1}?",
    )
    return math_draft(rng, "number theory/gcd", numbers, templates, chain, content=(large, small))


_LCM = (
    "what is the least common multiple of the two numbers {0} and {1}?",
    "find the smallest positive number that is a multiple of both {0} and {1}.",
)


def lcm(rng: random.Random) -> Draft:
    a, b = rng.randint(2, 24), rng.randint(2, 24)
    require(a != b and a * b <= LARGEST)
    chain = Chain()
    product = chain.add(a, "*", b, "product")
    if math.gcd(a, b) > 1:
        chain.add(product, "/", math.gcd(a, b), "multiple")
    return math_draft(rng, "number theory/lcm", (a, b), _LCM, chain, content=sorted((a, b)))


def lcm_from_gcd(rng: random.Random) -> Draft:
    """As `lcm`, and with its signature, but the question gives the greatest common divisor away."""
    divisor, m, n = rng.randint(2, 12), rng.randint(2, 9), rng.randint(2, 9)
    require(m != n and math.gcd(m, n) == 1)
    a, b = divisor * m, divisor * n
    chain = Chain()
    chain.add(b, "*", chain.add(a, "/", divisor), "multiple")
    templates = tuple(f"the greatest common divisor of {{0}} and {{1}} is {{2}}. {text}" for text in _LCM)
    return math_draft(rng, "number theory/lcm", (a, b, divisor), templates, chain, content=sorted((a, b)))


def remainder(rng: random.Random) -> Draft:
    rest = rng.randint(1, 11)
    divisor = rng.randint(max(6, rest + 1), 12)
    number = divisor * rng.randint(1, 9) + rest
    chain = Chain()
    chain.add(number, "-", chain.add(divisor, "*", number // divisor, "multiple"), "rest")
    templates = (
        "what is the remainder when the number {0} is divided by {1}?",
        "find the remainder that is left when {0} is divided by {1}.",
        "{0} pens are put in boxes of {1} pens. how many pens are left over?",
    )
    return math_draft(rng, "number theory/remainder", (number, divisor), templates, chain)


def to_next_multiple(rng: random.Random) -> Draft:
    missing = rng.randint(1, 11)
    divisor = rng.randint(max(6, missing + 1), 12)
    number = divisor * rng.randint(2, 9) - missing
    chain = Chain()
    chain.add(chain.add(divisor, "*", number // divisor + 1, "multiple"), "-", number, "rest")
    templates = (
        "what is the smallest number that must be added to {0} to make a multiple of {1}?",
        "find the smallest number that we can add to {0} so that {1} divides the sum.",
    )
    return math_draft(rng, "number theory/next", (number, divisor), templates, chain)


def nearest_multiple(rng: random.Random) -> Draft:
    divisor, times = rng.randint(3, 12), rng.randint(2, 9)
    number = divisor * times + rng.randint(1, divisor - 1)
    chain = Chain()
    if rng.random() < 0.5:
        kind = "below"
        chain.add(divisor, "*", times, "multiple")
        templates = (
            "what is the largest multiple of the number {1} that is smaller than {0}?",
            "pens come in boxes of {1}. what is the largest number of pens in full boxes below {0}?",
        )
    else:
        kind = "above"
        chain.add(divisor, "*", times + 1, "multiple")
        templates = (
            "what is the smallest multiple of the number {1} that is larger than {0}?",
            "pens come in boxes of {1}. what is the smallest number of pens in full boxes above {0}?",
        )
    return math_draft(rng, f"number theory/{kind}", (number, divisor), templates, chain)


# --- fractions


def _lowest_terms(chain: Chain, top: int, bottom: int) -> str:
    """Write the steps that simplify the fraction; return it as LaTeX, or as a plain whole number."""
    require(top > 0)
    common = math.gcd(top, bottom)
    if common == bottom:
        return str(chain.add(top, "/", bottom, "whole"))
    if common > 1:
        top, bottom = chain.add(top, "/", common, "top"), chain.add(bottom, "/", common, "bottom")
    return f"\\frac{{{top}}}{{{bottom}}}"


def fraction_sum(rng: random.Random) -> Draft:
    """The second denominator is the first one or a multiple of it."""
    bottom, times, sign = rng.randint(3, 12), rng.choice((1, 1, 2, 2, 3, 4)), rng.choice("+-")
    common = bottom * times
    m, n = rng.randint(1, bottom), rng.randint(1, min(common, 20))
    require(common <= 36 and math.gcd(n, common) < common and m < bottom)
    chain = Chain()
    top = m if times == 1 else chain.add(m, "*", times, "top")
    answer = _lowest_terms(chain, chain.add(top, sign, n, "top"), common)
    require(len(chain.steps) <= 4)
    numbers, content = (m, bottom, n, common), (m, bottom, n, common)
    if sign == "+" and rng.random() < 0.5:
        numbers = (n, common, m, bottom)
    if sign == "+" and times == 1:
        content = (*sorted((m, n)), bottom)
    templates = (
        "what is {0} / {1} {sign} {2} / {3} as a fraction in lowest terms?",
        "work out {0} / {1} {sign} {2} / {3} and give the answer in lowest terms.",
    )
    return math_draft(rng, f"fractions/sum{sign}", numbers, templates, chain, answer=answer, content=content, sign=sign)


def fraction_product(rng: random.Random) -> Draft:
    b, d = rng.randint(2, 12), rng.randint(2, 12)
    a, c = rng.randint(1, b - 1), rng.randint(1, d - 1)
    require(math.gcd(a, b) == math.gcd(c, d) == 1)
    chain = Chain()
    top, bottom = chain.add(a, "*", c, "top"), chain.add(b, "*", d, "bottom")
    answer = _lowest_terms(chain, top, bottom)
    templates = (
        "what is the product of {0} / {1} and {2} / {3} in lowest terms?",
        "multiply {0} / {1} by {2} / {3} and give the answer in lowest terms.",
    )
    content = [number for pair in sorted(((a, b), (c, d))) for number in pair]
    return math_draft(rng, "fractions/product", (a, b, c, d), templates, chain, answer=answer, content=content)


def fraction_of(rng: random.Random) -> Draft:
    bottom, part = rng.randint(2, 9), rng.randint(1, 12)
    top = rng.randint(1, bottom - 1)
    require(math.gcd(top, bottom) == 1)
    chain = Chain()
    share = chain.add(part * bottom, "/", bottom)
    if top > 1:
        chain.add(share, "*", top)
    templates = (
        "{0} / {1} of a class of {2} children can swim. how many children can swim?",
        "what number do you get when you take {0} / {1} of {2}?",
    )
    return math_draft(rng, "fractions/of", (top, bottom, part * bottom), templates, chain)
