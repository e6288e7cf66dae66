"""aqua-mini: the letter's option is found again from the question's text; the other options are mistakes."""

from __future__ import annotations

import itertools
import random
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lrd_peft.data.generators import aqua_mini, generate_problems
from lrd_peft.data.generators.draft import Draft
from lrd_peft.data.problem import LETTERS, Problem
from tests.data.arithmetic import Solver, match, number, result_of

SEEDS = st.integers(min_value=0, max_value=2**64)


def _percent(base: int, percent: int) -> Fraction:
    return base * Fraction(percent, 100)


def _percent_rest(base: int, percent: int) -> Fraction:
    return base * Fraction(100 - percent, 100)


def _percent_rise(base: int, percent: int) -> Fraction:
    return base * Fraction(100 + percent, 100)


def _percent_more(base: int, percent: int, more: int) -> Fraction:
    return _percent(base, percent) + more


def _more_percent(percent: int, base: int, more: int) -> Fraction:
    return _percent(base, percent) + more


def _percent_fewer(base: int, percent: int, fewer: int) -> Fraction:
    return _percent(base, percent) - fewer


def _fewer_percent(percent: int, base: int, fewer: int) -> Fraction:
    return _percent(base, percent) - fewer


def _whole(part: int, percent: int) -> Fraction:
    return Fraction(part * 100, percent)


def _distance(speed: int, hours: int) -> int:
    return sum([speed] * hours)


def _distance_in(hours: int, speed: int) -> int:
    return _distance(speed, hours)


def _time(speed: int, distance: int) -> Fraction:
    return Fraction(distance, speed)


def _time_for(distance: int, speed: int) -> Fraction:
    return Fraction(distance, speed)


def _speed(distance: int, hours: int) -> Fraction:
    return Fraction(distance, hours)


def _speed_in(hours: int, distance: int) -> Fraction:
    return Fraction(distance, hours)


def _legs(t: int, v: int, u: int, w: int) -> int:
    return _distance(v, t) + _distance(w, u)


def _way_left(way: int, hours: int, speed: int) -> int:
    return way - _distance(speed, hours)


def _left_of_way(way: int, speed: int, hours: int) -> int:
    return way - _distance(speed, hours)


def _average(*values: int) -> Fraction:
    return Fraction(sum(values), len(values))


def _missing(average: int, a: int, b: int) -> int:
    (missing,) = (c for c in range(100) if _average(a, b, c) == average)
    return missing


def _first_share(total: int, a: int, b: int) -> Fraction:
    return total * Fraction(a, a + b)


def _second_share(total: int, a: int, b: int) -> Fraction:
    return total * Fraction(b, a + b)


def _difference_of_shares(total: int, a: int, b: int) -> Fraction:
    return _first_share(total, a, b) - _second_share(total, a, b)


def _other(a: int, b: int, part: int) -> Fraction:
    return part * Fraction(b, a)


def _profit(count: int, price: int, income: int) -> int:
    return income - sum([price] * count)


def _loss(count: int, price: int, income: int) -> int:
    return -_profit(count, price, income)


def _profit_of(price: int, sold: int, count: int) -> int:
    return sold * count - price * count


def _profit_each(price: int, count: int, sold: int) -> int:
    return _profit_of(price, sold, count)


def _selling_price(count: int, price: int, profit: int) -> Fraction:
    return price + Fraction(profit, count)


def _cost(first: int, cost: int, second: int) -> Fraction:
    return Fraction(cost, first) * second


def _change(money: int, count: int, price: int) -> int:
    return money - sum([price] * count)


def _days(first: int, days: int, second: int) -> Fraction:
    return days * Fraction(first, second)


def _made(a: int, b: int, hours: int) -> int:
    return a * hours + b * hours


def _hours(a: int, b: int, made: int) -> Fraction:
    return Fraction(made) / (a + b)


# Which of the numbers comes first does not change these problems, or only their first two.
SYMMETRIC = {_average}
SYMMETRIC_FIRST_TWO = {_made, _hours}

SOLVERS: dict[str, Solver] = {
    "there are # children in a school and # percent of them walk home. how many walk home?": _percent,
    "Ann has # @ and # percent of them are red. how many @ are red?": _percent,
    "a shop has # @ and sells # percent of them. how many @ are left?": _percent_rest,
    "a @ costs # dollars and its price falls by # percent. what is the new price?": _percent_rest,
    "Bob gets # percent of # @ and then # more @. how many @ does he get?": _more_percent,
    "a school has # children. # percent of them and # more walk home. how many walk home?": _percent_more,
    "Bob gets # percent of # @ and loses # of them. how many @ does he have then?": _fewer_percent,
    "Ann has # @ and # percent are red. she sells # red ones. how many red are left?": _percent_fewer,
    "a @ costs # dollars and its price goes up by # percent. what is the new price?": _percent_rise,
    "a school had # children and now has # percent more. how many children does it have now?": _percent_rise,
    "# children walk home and they are # percent of the school. how many children are in the school?": _whole,
    "Bob sells # @, which are # percent of his @. how many @ did he have?": _whole,
    "a @ goes at # km an hour for # hours. how many km does it go?": _distance,
    "how many km does a @ go in # hours at a speed of # km an hour?": _distance_in,
    "a @ goes at # km an hour. how many hours does it need for # km?": _time,
    "how many hours does a @ need for # km at a speed of # km an hour?": _time_for,
    "a @ goes # km in # hours. what is its speed in km an hour?": _speed,
    "what is the speed in km an hour of a @ that needs # hours for # km?": _speed_in,
    "a @ goes # hours at # km an hour and # hours at # km an hour. how many km is this?": _legs,
    "Ann walks # hours at # km an hour and rides # hours at # km an hour. how many km is this?": _legs,
    "a @ has to go # km. it goes # hours at # km an hour. how many km are left?": _way_left,
    "a way is # km long. a @ goes at # km an hour for # hours. how many km are left?": _left_of_way,
    "what is the average of these 2 numbers of points: # and #?": _average,
    "Ann gets # and # points in 2 games. what is the average number of points?": _average,
    "what is the average of these 3 numbers of points: #, # and #?": _average,
    "Ann gets #, # and # points in 3 games. what is the average number of points?": _average,
    "the average of 3 numbers is #. two of them are # and #. what is the third number?": _missing,
    "Ann has an average of # points in 3 games. two of them bring # and #. what about the third?": _missing,
    "Ann and Bob share # @ in the ratio # to #. how many more does Ann get than Bob?": _difference_of_shares,
    "Ann and Bob share # @ in the ratio # to #. how many @ does Ann get?": _first_share,
    "Ann and Bob share # @ in the ratio # to #. how many @ does Bob get?": _second_share,
    "the ratio of red to blue @ is # to #. there are # red @. how many are blue?": _other,
    "a school has boys and girls in the ratio # to #. there are # boys. how many girls are there?": _other,
    "a shop buys # @ for # dollars each and sells them all for # dollars. what is its profit?": _profit,
    "Bob buys # @ at # dollars each. he sells them all for # dollars. what is his profit?": _profit,
    "a shop buys # @ for # dollars each and sells them all for # dollars. what is its loss?": _loss,
    "Bob buys # @ at # dollars each. he sells them all for # dollars. what is his loss?": _loss,
    "a shop buys @ at # dollars each and sells them at # dollars each. what is the profit from # @?": _profit_of,
    "Bob pays # dollars for each of # @ and sells each for # dollars. what is his profit?": _profit_each,
    "a shop buys # @ for # dollars each and makes a profit of # dollars on all of them. "
    "at what price does it sell each?": _selling_price,
    "Bob buys # @ at # dollars each. he wants a profit of # dollars in all. "
    "at what price must he sell each?": _selling_price,
    "# @ cost # dollars. how many dollars do # of these @ cost?": _cost,
    "a shop sells # @ for # dollars. at this price, what do # @ cost?": _cost,
    "Ann has # dollars and buys # @ for # dollars each. how many dollars are left?": _change,
    "Bob pays # dollars for # @ at # dollars each. how many dollars does he get back?": _change,
    "# men build a wall in # days. in how many days do # men build the same wall?": _days,
    "# machines do a job in # hours. how many hours do # machines need for this job?": _days,
    "one machine makes # @ an hour, another #. how many @ do both make in # hours?": _made,
    "Ann makes # @ an hour and Bob #. how many @ do they make in # hours?": _made,
    "one machine makes # @ an hour, another #. how many hours do both need for #?": _hours,
    "Ann makes # @ an hour and Bob #. how many hours do they need for # @?": _hours,
}


def _content(question: str) -> tuple[object, ...]:
    """Return what two wordings of the same problem have in common."""
    solver, numbers = match(question, SOLVERS)
    if solver in (_more_percent, _fewer_percent):
        solver = _percent_more if solver is _more_percent else _percent_fewer
        numbers = (numbers[1], numbers[0], numbers[2])
    elif solver in (_distance_in, _time_for, _speed_in):
        solver = {_distance_in: _distance, _time_for: _time, _speed_in: _speed}[solver]
        numbers = numbers[::-1]
    elif solver is _left_of_way:
        solver, numbers = _way_left, (numbers[0], numbers[2], numbers[1])
    elif solver is _profit_each:
        solver, numbers = _profit_of, (numbers[0], numbers[2], numbers[1])
    elif solver is _second_share:
        solver, numbers = _first_share, (numbers[0], numbers[2], numbers[1])
    elif solver is _legs:
        numbers = tuple(itertools.chain(*sorted((numbers[:2], numbers[2:]))))
    elif solver is _missing:
        numbers = (numbers[0], *sorted(numbers[1:]))
    elif solver in SYMMETRIC:
        numbers = tuple(sorted(numbers))
    elif solver in SYMMETRIC_FIRST_TWO:
        numbers = (*sorted(numbers[:2]), numbers[2])
    return solver, numbers


def _check(draft: Draft) -> None:
    solver, numbers = match(draft.question, SOLVERS)
    right = Fraction(solver(*numbers))
    assert len(set(draft.options)) == len(draft.options) == 5
    assert [LETTERS[i] for i in range(5) if number(draft.options[i]) == right] == [draft.answer]
    assert 1 <= len(draft.steps) <= 4
    assert [result_of(step) for step in draft.steps][-1] == right
    assert [re.findall(r"\([A-E]\)", step) for step in draft.steps][-1] == [f"({draft.answer})"]
    assert not any("(" in step for step in draft.steps[:-1])
    texts = " ".join([draft.question, *draft.options])
    assert all(int(digits) <= 99 for digits in re.findall(r"\d+", texts))
    assert all(1 <= int(option) <= 99 for option in draft.options)
    assert 12 <= len(draft.question.split()) <= 40
    assert draft.subject in aqua_mini.AQUA_KINDS


@settings(deadline=None)
@given(SEEDS)
def test_any_draft_is_true(seed: int) -> None:
    _check(aqua_mini.draw_aqua_mini(random.Random(seed)))


def test_a_long_series_is_true() -> None:
    rng = random.Random(1)
    for _ in range(3_000):
        _check(aqua_mini.draw_aqua_mini(rng))


@pytest.mark.parametrize(
    ("step", "options", "answer"),
    [
        ("12 * 8 = 95 (A)", ("96", "20", "4", "12", "8"), "A"),
        ("12 * 8 = 96 (B)", ("96", "20", "4", "12", "8"), "B"),
        ("12 * 8 = 96 (B)", ("96", "20", "4", "12", "8"), "A"),
        ("12 * 8 = 96 (A)", ("96", "20", "20", "12", "8"), "A"),
        ("12 + 8 = 20 (A)", ("96", "20", "4", "12", "8"), "A"),
    ],
)
def test_the_checker_finds_faults(step: str, options: tuple[str, ...], answer: str) -> None:
    question = "a car goes at 12 km an hour for 8 hours. how many km does it go?"
    _check(Draft(question, ("12 * 8 = 96 (A)",), "A", "", "speed", ("96", "20", "4", "12", "8")))
    with pytest.raises(AssertionError):
        _check(Draft(question, (step,), answer, "", "speed", options))


def test_splits_share_no_content_in_any_wording() -> None:
    train, validation, test = (
        {_content(problem.question) for problem in generate_problems("aqua-mini", split=split, num_problems=n, seed=n)}
        for split, n in (("train", 2_000), ("validation", 500), ("test", 500))
    )
    assert not train & test
    assert not train & validation
    assert not validation & test


def _value(problem: Problem) -> int:
    return int(problem.options[LETTERS.index(problem.answer)])


def _best_share(answers: Sequence[object]) -> float:
    return Counter(answers).most_common(1)[0][1] / len(answers)


def test_no_guess_pays() -> None:
    problems = generate_problems("aqua-mini", split="train", num_problems=10_000, seed=0)
    letters = Counter(problem.answer for problem in problems)
    assert all(0.18 <= letters[letter] / len(problems) <= 0.22 for letter in LETTERS)
    # Neither the largest nor the smallest nor the middle option is a good guess.
    ranks = Counter(sorted(map(int, p.options)).index(_value(p)) for p in problems)
    assert all(0.16 <= ranks[rank] / len(problems) <= 0.24 for rank in range(5))
    subjects: dict[str, list[int]] = defaultdict(list)
    for problem in problems:
        subjects[problem.subject].append(_value(problem))
    assert set(subjects) == set(aqua_mini.AQUA_KINDS)
    assert _best_share([_value(problem) for problem in problems]) <= 0.06
    assert all(_best_share(values) <= 0.12 for values in subjects.values())


def test_most_wrong_options_are_results_of_mistakes() -> None:
    """A mistake stops early, copies a number or joins two numbers of the problem the wrong way."""
    rng = random.Random(5)
    mistakes = wrong = 0
    for _ in range(500):
        draft = aqua_mini.draw_aqua_mini(rng)
        _, given_numbers = match(draft.question, SOLVERS)
        known = {Fraction(n) for n in given_numbers} | {Fraction(result_of(step)) for step in draft.steps[:-1]}
        known |= {number(f"{a} {o} {b}") for a, b in itertools.permutations(known, 2) for o in "+-*/" if b}
        options = {Fraction(option) for option in draft.options}
        options.remove(Fraction(draft.options[LETTERS.index(draft.answer)]))
        wrong += len(options)
        mistakes += len(options & known)
    assert mistakes / wrong > 0.65
