"""math-mini: answers are found again from the question's text, steps are true, guessing pays nothing."""

from __future__ import annotations

import itertools
import random
import re
from collections import Counter, defaultdict
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lrd_peft.data.generators import generate_problems, math_mini
from lrd_peft.data.generators.draft import Draft
from tests.data.arithmetic import Solver, equations, latex, match, result_of, solution

SEEDS = st.integers(min_value=0, max_value=2**64)


def _gcd(a: int, b: int) -> int:
    return max(d for d in range(1, 100) if a % d == 0 and b % d == 0)


def _lcm(a: int, b: int) -> int:
    return min(m for m in range(1, 10_000) if m % a == 0 and m % b == 0)


def _rest(number: int, divisor: int) -> int:
    while number >= divisor:
        number -= divisor
    return number


def _missing(number: int, divisor: int) -> int:
    return min(k for k in range(100) if (number + k) % divisor == 0)


def _below(divisor: int, number: int) -> int:
    return max(m for m in range(number) if m % divisor == 0)


def _above(divisor: int, number: int) -> int:
    return min(m for m in range(number + 1, 200) if m % divisor == 0)


def _sum(a: int, b: int, c: int, d: int) -> Fraction:
    return Fraction(a, b) + Fraction(c, d)


def _difference(a: int, b: int, c: int, d: int) -> Fraction:
    return Fraction(a, b) - Fraction(c, d)


def _product(a: int, b: int, c: int, d: int) -> Fraction:
    return Fraction(a, b) * Fraction(c, d)


def _part(a: int, b: int, whole: int) -> Fraction:
    return Fraction(a * whole, b)


def _next(a: int, b: int, c: int, d: int) -> int:
    assert b - a == c - b == d - c
    return 2 * d - c


def _term(first: int, step: int, index: int) -> int:
    return [first + step * i for i in range(12)][index - 1]


def _step(first: int, index: int, last: int) -> int:
    (step,) = (s for s in range(1, 100) if _term(first, s, index) == last)
    return step


def _geometric(a: int, b: int) -> Fraction:
    return b * Fraction(b, a)


def _width(perimeter: int, length: int) -> int:
    (width,) = (w for w in range(1, 100) if length + w + length + w == perimeter)
    return width


def _perimeter_of_area(area: int, length: int) -> Fraction:
    return 2 * (length + Fraction(area, length))


def _perimeter(a: int, b: int) -> int:
    return a + b + a + b


def _area(a: int, b: int) -> int:
    return sum([a] * b)


def _triangle_area(base: int, height: int) -> Fraction:
    return Fraction(base * height, 2)


def _triangle_perimeter(*sides: int) -> int:
    assert 2 * max(sides) < sum(sides)
    return sum(sides)


def _ways(*counts: int) -> int:
    return len(list(itertools.product(*map(range, counts))))


def _boxes_and_more(boxes: int, each: int, more: int) -> int:
    return sum([each] * boxes, start=more)


def _boxes_and_fewer(boxes: int, each: int, fewer: int) -> int:
    return sum([each] * boxes, start=-fewer)


def _balls(*counts: int) -> int:
    return sum(counts)


def _range(first: int, last: int) -> int:
    return len(range(first, last + 1))


# Which of the numbers comes first does not change these problems.
SYMMETRIC = {_gcd, _lcm, _perimeter, _area, _triangle_area, _triangle_perimeter, _ways, _balls}

SOLVERS: dict[str, Solver] = {
    "what is the greatest common divisor of the two numbers # and #?": _gcd,
    "find the largest number that divides both # and # with no remainder.": _gcd,
    "what is the largest whole number that divides # and also divides #?": _gcd,
    "what is the least common multiple of the two numbers # and #?": _lcm,
    "find the smallest positive number that is a multiple of both # and #.": _lcm,
    "what is the remainder when the number # is divided by #?": _rest,
    "find the remainder that is left when # is divided by #.": _rest,
    "# pens are put in boxes of # pens. how many pens are left over?": _rest,
    "what is the smallest number that must be added to # to make a multiple of #?": _missing,
    "find the smallest number that we can add to # so that # divides the sum.": _missing,
    "what is the largest multiple of the number # that is smaller than #?": _below,
    "pens come in boxes of #. what is the largest number of pens in full boxes below #?": _below,
    "what is the smallest multiple of the number # that is larger than #?": _above,
    "pens come in boxes of #. what is the smallest number of pens in full boxes above #?": _above,
    "what is # / # + # / # as a fraction in lowest terms?": _sum,
    "work out # / # + # / # and give the answer in lowest terms.": _sum,
    "what is # / # - # / # as a fraction in lowest terms?": _difference,
    "work out # / # - # / # and give the answer in lowest terms.": _difference,
    "what is the product of # / # and # / # in lowest terms?": _product,
    "multiply # / # by # / # and give the answer in lowest terms.": _product,
    "# / # of a class of # children can swim. how many children can swim?": _part,
    "what number do you get when you take # / # of #?": _part,
    "a sequence begins #, #, #, # and goes on like this. what is the next term?": _next,
    "find the next number of the sequence that begins #, #, #, #.": _next,
    "the first term of a sequence is # and each next term is # more. what is term #?": _term,
    "term 1 of a sequence is #. we add # to get each next term. find term #.": _term,
    "each term of a sequence is the term before plus the same number. "
    "term 1 is # and term # is #. what number is added each time?": _step,
    "a sequence goes up by the same number each time. term 1 is # and term # is #. find this number.": _step,
    "a geometric sequence begins with the two terms # and #. what is the next term?": _geometric,
    "the first two terms of a geometric sequence are # and #. find the next term.": _geometric,
    "a rectangle is # cm long and # cm wide. what is its perimeter?": _perimeter,
    "the sides of a rectangle are # cm and # cm. find the perimeter of the rectangle.": _perimeter,
    "a rectangle is # cm long and # cm wide. what is its area?": _area,
    "the sides of a rectangle are # cm and # cm. find the area of the rectangle.": _area,
    "the perimeter of a rectangle is # cm and it is # cm long. how wide is it?": _width,
    "a rectangle with a perimeter of # cm is # cm long. find its width.": _width,
    "the area of a rectangle is # and it is # cm long. what is its perimeter?": _perimeter_of_area,
    "a rectangle with an area of # is # cm long. find its perimeter.": _perimeter_of_area,
    "a triangle has a base of # cm and a height of # cm. what is its area?": _triangle_area,
    "find the area of a triangle with a base of # cm and a height of # cm.": _triangle_area,
    "the sides of a triangle are # cm, # cm and # cm. what is its perimeter?": _triangle_perimeter,
    "find the perimeter of a triangle with sides of # cm, # cm and # cm.": _triangle_perimeter,
    "a shop has # @ and # @. in how many ways can we choose one of each?": _ways,
    "Ann chooses one of # @ and one of # @. how many ways are there?": _ways,
    "a shop has # @, # @ and # @. in how many ways can we choose one of each?": _ways,
    "Ann chooses one of # @, one of # @ and one of # @. how many ways are there?": _ways,
    "we choose one of # @ and one of # @, or only one of # @. how many ways are there?": _boxes_and_more,
    "a shop has # boxes with # @ in each box, and # more @. how many @ are there?": _boxes_and_more,
    "a hall has # rows of # seats and # seats are taken. how many seats are free?": _boxes_and_fewer,
    "a shop has # boxes with # @ in each box and sells # @. how many @ are left?": _boxes_and_fewer,
    "a bag has # @, # @ and # @ balls. how many balls are in the bag?": _balls,
    "there are # @ balls, # @ balls and # @ balls. how many balls are there?": _balls,
    "how many whole numbers are there from # to # with both ends counted?": _range,
    "we write all the whole numbers from # to #. how many numbers do we write?": _range,
}


def _normal(question: str) -> str:
    """Bring the two wordings that hide an equation or name a third number into the others' shape."""
    given = re.match(r"the greatest common divisor of (\d+) and (\d+) is (\d+)\. ", question)
    if given:
        assert _gcd(int(given[1]), int(given[2])) == int(given[3])
        question = question.removeprefix(given[0])
    return question.replace(" equal to ", " = ").replace("number x is", "number")


def _solve(question: str) -> Fraction:
    question = _normal(question)
    if not equations(question):
        solver, numbers = match(question, SOLVERS)
        return Fraction(solver(*numbers))
    asked = re.search(r"(?:value of|which number) ([xy]\b)?", question)
    assert asked
    return solution(question)[asked[1] or "x"]


def _content(question: str) -> tuple[object, ...]:
    """Return what two wordings of the same problem have in common."""
    question = _normal(question)
    if equations(question):
        return tuple(sorted(equations(question)))
    solver, numbers = match(question, SOLVERS)
    if solver in (_sum, _product):
        numbers = tuple(n for pair in sorted((numbers[:2], numbers[2:])) for n in pair)
    elif solver in (_above, _below):
        numbers = numbers[::-1]
    return solver, *(sorted(numbers) if solver in SYMMETRIC else numbers)


def _check(draft: Draft) -> None:
    assert draft.answer == latex(_solve(draft.question))
    assert 1 <= len(draft.steps) <= 4
    results = [result_of(step) for step in draft.steps]
    if "frac" in draft.answer:
        # The top and the bottom stand in the last results, or in the question where no step changed them.
        top, bottom = map(int, re.findall(r"\d+", draft.answer))
        assert top in results
        assert bottom in results or bottom in map(int, re.findall(r"\d+", draft.question))
    else:
        assert draft.answer == str(results[-1])
    assert all(int(digits) <= 99 for digits in re.findall(r"\d+", draft.question + draft.answer))
    assert 12 <= len(draft.question.split()) <= 40
    assert draft.options == ()
    assert draft.subject in math_mini.SUBJECTS


@settings(deadline=None)
@given(SEEDS)
def test_any_draft_is_true(seed: int) -> None:
    _check(math_mini.draw_math_mini(random.Random(seed)))


def test_a_long_series_is_true() -> None:
    rng = random.Random(1)
    for _ in range(3_000):
        _check(math_mini.draw_math_mini(rng))


def test_the_checker_finds_faults() -> None:
    good = Draft(
        question="solve the equation 3 * x + 4 = 19 and give the value of x.",
        steps=("x: 19 - 4 = 15", "x: 15 / 3 = 5"),
        answer="5",
        signature="",
        subject="algebra",
    )
    _check(good)
    for steps, answer in (
        (("x: 19 - 4 = 14", "x: 15 / 3 = 5"), "5"),
        (("x: 19 - 4 = 15", "x: 15 / 3 = 5"), "6"),
        (("x: 19 - 4 = 15",), "5"),
        (("x: 19-4=15", "x: 15 / 3 = 5"), "5"),
    ):
        with pytest.raises(AssertionError):
            _check(Draft(good.question, steps, answer, "", "algebra"))


def test_one_signature_has_one_answer_per_unknown() -> None:
    # The signature of a system leaves out whether x or y is asked for; nothing else may be left out.
    answers: dict[tuple[str, str], set[str]] = defaultdict(set)
    rng = random.Random(2)
    for _ in range(20_000):
        draft = math_mini.draw_math_mini(rng)
        asked = draft.question[-2] if "/system/" in draft.signature else ""
        answers[draft.signature, asked].add(draft.answer)
    assert {key for key, found in answers.items() if len(found) > 1} == set()


def test_splits_share_no_content_in_any_wording() -> None:
    train, validation, test = (
        {_content(problem.question) for problem in generate_problems("math-mini", split=split, num_problems=n, seed=n)}
        for split, n in (("train", 2_000), ("validation", 500), ("test", 500))
    )
    assert not train & test
    assert not train & validation
    assert not validation & test


@pytest.mark.parametrize(("split", "count"), [("train", 10_000), ("test", 2_000)])
def test_guessing_the_most_frequent_answer_pays_nothing(split: str, count: int) -> None:
    problems = generate_problems("math-mini", split=split, num_problems=count, seed=0)
    subjects: dict[str, Counter[str]] = defaultdict(Counter)
    for problem in problems:
        subjects[problem.subject][problem.answer] += 1
    overall = sum(subjects.values(), Counter())
    assert overall.most_common(1)[0][1] / count <= 0.06
    for answers in subjects.values():
        assert answers.most_common(1)[0][1] / answers.total() <= 0.13
    guessed = sum(answers.most_common(1)[0][1] for answers in subjects.values())
    assert guessed / count <= 0.10


def test_math_verify_reads_the_answers() -> None:
    from math_verify import parse, verify

    rng = random.Random(4)
    drafts = [math_mini.draw_math_mini(rng) for _ in range(100)]
    for draft in drafts:
        gold = parse(f"${latex(_solve(draft.question))}$", parsing_timeout=0)
        said = parse(f"$\\boxed{{{draft.answer}}}$", parsing_timeout=0)
        assert verify(gold, said, timeout_seconds=0)
