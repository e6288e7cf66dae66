"""math-mini: exercises of six subjects, with the subjects and answer format of MATH."""

from __future__ import annotations

import random
from collections.abc import Callable

from lrd_peft.data.generators import math_numbers
from lrd_peft.data.generators.chain import LARGEST, Chain, draw_until_in_bounds, math_draft, require
from lrd_peft.data.generators.draft import Draft

_ITEMS = ("shirts", "hats", "cups", "plates", "pens", "books")
_COLORS = ("red", "blue", "green", "black", "white")


# --- sequences


def _arithmetic_next(rng: random.Random) -> Draft:
    start, step, up = rng.randint(1, 70), rng.randint(2, 20), rng.random() < 0.6
    terms = [start + step * i * (1 if up else -1) for i in range(4)]
    require(min(terms) >= 0 and max(terms) <= LARGEST)
    chain = Chain()
    if up:
        chain.add(terms[3], "+", chain.add(terms[1], "-", terms[0], "step"), "term")
    else:
        chain.add(terms[3], "-", chain.add(terms[0], "-", terms[1], "step"), "term")
    templates = (
        "a sequence begins {0}, {1}, {2}, {3} and goes on like this. what is the next term?",
        "find the next number of the sequence that begins {0}, {1}, {2}, {3}.",
    )
    return math_draft(rng, "sequences/next", terms, templates, chain)


def _arithmetic_term(rng: random.Random) -> Draft:
    first, step, index = rng.randint(1, 30), rng.randint(2, 12), rng.randint(3, 10)
    chain = Chain()
    chain.add(first, "+", chain.add(step, "*", chain.add(index, "-", 1)), "term")
    templates = (
        "the first term of a sequence is {0} and each next term is {1} more. what is term {2}?",
        "term 1 of a sequence is {0}. we add {1} to get each next term. find term {2}.",
    )
    return math_draft(rng, "sequences/term", (first, step, index), templates, chain)


def _arithmetic_step(rng: random.Random) -> Draft:
    first, step, index = rng.randint(1, 30), rng.randint(2, 19), rng.randint(3, 9)
    chain = Chain()
    total = chain.add(first + step * (index - 1), "-", first)
    chain.add(total, "/", chain.add(index, "-", 1), "step")
    templates = (
        "each term of a sequence is the term before plus the same number. "
        "term 1 is {0} and term {1} is {2}. what number is added each time?",
        "a sequence goes up by the same number each time. term 1 is {0} and term {1} is {2}. find this number.",
    )
    return math_draft(rng, "sequences/step", (first, index, first + step * (index - 1)), templates, chain)


def _geometric_next(rng: random.Random) -> Draft:
    first, ratio = rng.randint(1, 24), rng.randint(2, 9)
    terms = (first, first * ratio)
    chain = Chain()
    chain.add(terms[1], "*", chain.add(terms[1], "/", terms[0], "ratio"), "term")
    templates = (
        "a geometric sequence begins with the two terms {0} and {1}. what is the next term?",
        "the first two terms of a geometric sequence are {0} and {1}. find the next term.",
    )
    return math_draft(rng, "sequences/geometric", terms, templates, chain)


# --- geometry


def _rectangle(rng: random.Random) -> Draft:
    long, wide = rng.randint(2, 30), rng.randint(2, 20)
    require(long != wide)
    ask = rng.choice(("perimeter", "perimeter", "area"))
    chain = Chain()
    if ask == "perimeter":
        chain.add(chain.add(long, "+", wide), "*", 2, ask)
    else:
        chain.add(long, "*", wide, ask)
    templates = (
        "a rectangle is {0} cm long and {1} cm wide. what is its {ask}?",
        "the sides of a rectangle are {0} cm and {1} cm. find the {ask} of the rectangle.",
    )
    content = sorted((long, wide))
    return math_draft(rng, f"geometry/{ask}", (long, wide), templates, chain, content=content, ask=ask)


def _rectangle_side(rng: random.Random) -> Draft:
    long, wide = rng.randint(2, 30), rng.randint(2, 20)
    chain = Chain()
    half = chain.add(2 * (long + wide), "/", 2)
    chain.add(half, "-", long, "width")
    templates = (
        "the perimeter of a rectangle is {0} cm and it is {1} cm long. how wide is it?",
        "a rectangle with a perimeter of {0} cm is {1} cm long. find its width.",
    )
    return math_draft(rng, "geometry/width", (2 * (long + wide), long), templates, chain)


def _rectangle_from_area(rng: random.Random) -> Draft:
    long, wide = rng.randint(2, 24), rng.randint(2, 12)
    chain = Chain()
    width = chain.add(long * wide, "/", long, "width")
    chain.add(chain.add(long, "+", width), "*", 2, "perimeter")
    templates = (
        "the area of a rectangle is {0} and it is {1} cm long. what is its perimeter?",
        "a rectangle with an area of {0} is {1} cm long. find its perimeter.",
    )
    return math_draft(rng, "geometry/area-perimeter", (long * wide, long), templates, chain)


def _triangle(rng: random.Random) -> Draft:
    chain = Chain()
    if rng.random() < 0.4:
        base, height = rng.randint(2, 24), rng.randint(2, 24)
        chain.add(chain.add(base, "*", height), "/", 2, "area")
        templates = (
            "a triangle has a base of {0} cm and a height of {1} cm. what is its area?",
            "find the area of a triangle with a base of {0} cm and a height of {1} cm.",
        )
        kind, numbers = "triangle-area", (base, height)
    else:
        numbers = (rng.randint(3, 20), rng.randint(3, 20), rng.randint(3, 20))
        require(2 * max(numbers) < sum(numbers))
        chain.add(chain.add(numbers[0], "+", numbers[1]), "+", numbers[2], "perimeter")
        templates = (
            "the sides of a triangle are {0} cm, {1} cm and {2} cm. what is its perimeter?",
            "find the perimeter of a triangle with sides of {0} cm, {1} cm and {2} cm.",
        )
        kind = "triangle-perimeter"
    return math_draft(rng, f"geometry/{kind}", numbers, templates, chain, content=sorted(numbers))


# --- counting


def _choices(rng: random.Random) -> Draft:
    count = rng.choice((2, 3, 3))
    numbers = [rng.randint(2, 12) for _ in range(count)]
    chain = Chain()
    total = numbers[0]
    for number in numbers[1:]:
        total = chain.add(total, "*", number)
    a, b, c = rng.sample(_ITEMS, 3)
    if count == 2:
        templates = (
            "a shop has {0} {a} and {1} {b}. in how many ways can we choose one of each?",
            "Ann chooses one of {0} {a} and one of {1} {b}. how many ways are there?",
        )
    else:
        templates = (
            "a shop has {0} {a}, {1} {b} and {2} {c}. in how many ways can we choose one of each?",
            "Ann chooses one of {0} {a}, one of {1} {b} and one of {2} {c}. how many ways are there?",
        )
    return math_draft(rng, "counting/ways", numbers, templates, chain, content=sorted(numbers), a=a, b=b, c=c)


def _product_and_sum(rng: random.Random) -> Draft:
    numbers = rng.randint(2, 9), rng.randint(2, 12), rng.randint(2, 20)
    a, b, c = rng.sample(_ITEMS, 3)
    sign = rng.choice("+-")
    chain = Chain()
    chain.add(chain.add(numbers[0], "*", numbers[1]), sign, numbers[2])
    if sign == "+":
        templates = (
            "we choose one of {0} {a} and one of {1} {b}, or only one of {2} {c}. how many ways are there?",
            "a shop has {0} boxes with {1} {a} in each box, and {2} more {a}. how many {a} are there?",
        )
    else:
        templates = (
            "a hall has {0} rows of {1} seats and {2} seats are taken. how many seats are free?",
            "a shop has {0} boxes with {1} {a} in each box and sells {2} {a}. how many {a} are left?",
        )
    return math_draft(rng, f"counting/product{sign}", numbers, templates, chain, a=a, b=b, c=c)


def _colors(rng: random.Random) -> Draft:
    numbers = [rng.randint(2, 20) for _ in range(3)]
    a, b, c = rng.sample(_COLORS, 3)
    chain = Chain()
    chain.add(chain.add(numbers[0], "+", numbers[1]), "+", numbers[2])
    templates = (
        "a bag has {0} {a}, {1} {b} and {2} {c} balls. how many balls are in the bag?",
        "there are {0} {a} balls, {1} {b} balls and {2} {c} balls. how many balls are there?",
    )
    return math_draft(rng, "counting/sum", numbers, templates, chain, content=sorted(numbers), a=a, b=b, c=c)


def _whole_numbers(rng: random.Random) -> Draft:
    first = rng.randint(1, 79)
    last = first + rng.randint(2, 20)
    chain = Chain()
    chain.add(chain.add(last, "-", first), "+", 1)
    templates = (
        "how many whole numbers are there from {0} to {1} with both ends counted?",
        "we write all the whole numbers from {0} to {1}. how many numbers do we write?",
    )
    return math_draft(rng, "counting/range", (first, last), templates, chain)


SUBJECTS: dict[str, tuple[Callable[[random.Random], Draft], ...]] = {
    "algebra": (
        math_numbers.linear,
        math_numbers.linear,
        math_numbers.bracket,
        math_numbers.evaluate_expression,
        math_numbers.known_x,
        math_numbers.sum_and_difference,
    ),
    "number theory": (
        math_numbers.gcd,
        math_numbers.gcd,
        math_numbers.lcm,
        math_numbers.lcm_from_gcd,
        math_numbers.remainder,
        math_numbers.to_next_multiple,
        math_numbers.nearest_multiple,
    ),
    "fractions": (
        math_numbers.fraction_sum,
        math_numbers.fraction_sum,
        math_numbers.fraction_product,
        math_numbers.fraction_of,
    ),
    "sequences": (_arithmetic_next, _arithmetic_next, _arithmetic_term, _arithmetic_step, _geometric_next),
    "geometry": (_rectangle, _rectangle_side, _rectangle_from_area, _triangle),
    "counting": (_choices, _product_and_sum, _product_and_sum, _colors, _whole_numbers),
}


def draw_math_mini(rng: random.Random) -> Draft:
    """Draw one exercise; subjects are equally likely."""
    return draw_until_in_bounds(rng.choice(SUBJECTS[rng.choice(tuple(SUBJECTS))]), rng)
