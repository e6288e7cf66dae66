"""aqua-mini: word problems with five options, four of them typical mistakes."""

from __future__ import annotations

import random
from collections.abc import Callable

from lrd_peft.data.generators import aqua_money
from lrd_peft.data.generators.chain import Chain, draw_until_in_bounds, require
from lrd_peft.data.generators.draft import Draft
from lrd_peft.data.generators.mistakes import GOODS, aqua_draft

_RIDES = ("car", "bus", "boat", "train")

# --- speed


def _speed(rng: random.Random) -> Draft:
    speed, hours = rng.randint(3, 30), rng.randint(2, 12)
    distance = speed * hours
    ask = rng.choice(("distance", "time", "speed"))
    chain = Chain()
    if ask == "distance":
        numbers = (speed, hours)
        chain.add(speed, "*", hours)
        templates = (
            "a {ride} goes at {0} km an hour for {1} hours. how many km does it go?",
            "how many km does a {ride} go in {1} hours at a speed of {0} km an hour?",
        )
    elif ask == "time":
        numbers = (speed, distance)
        chain.add(distance, "/", speed)
        templates = (
            "a {ride} goes at {0} km an hour. how many hours does it need for {1} km?",
            "how many hours does a {ride} need for {1} km at a speed of {0} km an hour?",
        )
    else:
        numbers = (hours, distance)
        chain.add(distance, "/", hours)
        templates = (
            "a {ride} goes {1} km in {0} hours. what is its speed in km an hour?",
            "what is the speed in km an hour of a {ride} that needs {0} hours for {1} km?",
        )
    mistakes = [
        numbers[0] + numbers[1],
        abs(numbers[1] - numbers[0]),
        numbers[0] * numbers[1],
        numbers[1] / numbers[0],
        *numbers,
    ]
    ride = rng.choice(_RIDES)
    return aqua_draft(rng, f"speed/{ask}", numbers, templates, chain, mistakes, ride=ride)


def _two_legs(rng: random.Random) -> Draft:
    numbers = (rng.randint(2, 12), rng.randint(2, 9), rng.randint(2, 12), rng.randint(2, 9))
    v, t, w, u = numbers
    require(v != w)
    chain = Chain()
    chain.add(chain.add(v, "*", t), "+", chain.add(w, "*", u))
    templates = (
        "a {ride} goes {1} hours at {0} km an hour and {3} hours at {2} km an hour. how many km is this?",
        "Ann walks {1} hours at {0} km an hour and rides {3} hours at {2} km an hour. how many km is this?",
    )
    mistakes = [(v + w) * (t + u), v * t, (v + w) * t, abs(v * t - w * u), v + t + w + u]
    content = [n for leg in sorted(((v, t), (w, u))) for n in leg]
    ride = rng.choice(_RIDES)
    return aqua_draft(rng, "speed/legs", numbers, templates, chain, mistakes, content=content, ride=ride)


def _way_left(rng: random.Random) -> Draft:
    speed, hours, left = rng.randint(3, 20), rng.randint(2, 9), rng.randint(1, 20)
    way = speed * hours + left
    chain = Chain()
    chain.add(way, "-", chain.add(speed, "*", hours))
    templates = (
        "a {ride} has to go {0} km. it goes {2} hours at {1} km an hour. how many km are left?",
        "a way is {0} km long. a {ride} goes at {1} km an hour for {2} hours. how many km are left?",
    )
    mistakes = [way - speed, way - hours, way - speed - hours, way - speed * (hours - 1), speed + hours]
    ride = rng.choice(_RIDES)
    return aqua_draft(rng, "speed/left", (way, speed, hours), templates, chain, mistakes, ride=ride)


# --- average


def _average(rng: random.Random) -> Draft:
    numbers = [rng.randint(1, 30) for _ in range(rng.choice((2, 3, 3, 3)))]
    chain = Chain()
    total = numbers[0]
    for number in numbers[1:]:
        total = chain.add(total, "+", number)
    require(len(set(numbers)) > 1)
    chain.add(total, "/", len(numbers))
    listed = "{0} and {1}" if len(numbers) == 2 else "{0}, {1} and {2}"
    templates = (
        f"what is the average of these {len(numbers)} numbers of points: {listed}?",
        f"Ann gets {listed} points in {len(numbers)} games. what is the average number of points?",
    )
    mistakes = [
        total / 2, total / (len(numbers) + 1), sorted(numbers)[len(numbers) // 2], max(numbers),
        (min(numbers) + max(numbers)) / 2, total,
    ]  # fmt: skip
    return aqua_draft(rng, "average/of", numbers, templates, chain, mistakes, content=sorted(numbers))


def _average_missing(rng: random.Random) -> Draft:
    average, a, b = rng.randint(3, 33), rng.randint(1, 30), rng.randint(1, 30)
    chain = Chain()
    chain.add(chain.add(chain.add(average, "*", 3), "-", a), "-", b)
    templates = (
        "the average of 3 numbers is {0}. two of them are {1} and {2}. what is the third number?",
        "Ann has an average of {0} points in 3 games. two of them bring {1} and {2}. what about the third?",
    )
    mistakes = [
        average,
        average * 2 - a,
        abs(average - a),
        abs(a + b - average),
        (a + b) / 2,
        average * 2 - b,
    ]
    content = (average, *sorted((a, b)))
    return aqua_draft(rng, "average/missing", (average, a, b), templates, chain, mistakes, content=content)


# --- ratio


def _ratio_share(rng: random.Random) -> Draft:
    a, b, unit = rng.randint(1, 9), rng.randint(1, 9), rng.randint(2, 12)
    require(a != b)
    total = (a + b) * unit
    chain = Chain()
    share = chain.add(total, "/", chain.add(a, "+", b))
    ask = rng.choice(("Ann", "Bob", "more"))
    if ask == "more":
        require(a > b)
        chain.add(share, "*", chain.add(a, "-", b))
        templates = (
            "Ann and Bob share {2} {goods} in the ratio {0} to {1}. how many more does Ann get than Bob?",
            "Ann and Bob share {2} dollars in the ratio {0} to {1}. how many more does Ann get than Bob?",
        )
    else:
        part = a if ask == "Ann" else b
        if part > 1:
            chain.add(share, "*", part)
        templates = (
            "Ann and Bob share {2} {goods} in the ratio {0} to {1}. how many {goods} does {ask} get?",
            "Ann and Bob share {2} dollars in the ratio {0} to {1}. how many dollars does {ask} get?",
        )
    mistakes = [a * unit, b * unit, abs(a - b) * unit, total / 2, total / a, total / b, total - a - b]
    # The signature depends on which part the question asks for, not on the name of the person.
    content = (*((b, a) if ask == "Bob" else (a, b)), total)
    kind = "ratio/more" if ask == "more" else "ratio/share"
    return aqua_draft(
        rng,
        kind,
        (a, b, total),
        templates,
        chain,
        mistakes,
        content=content,
        goods=rng.choice(GOODS),
        ask=ask,
    )


def _ratio_other(rng: random.Random) -> Draft:
    a, b, unit = rng.randint(2, 9), rng.randint(2, 9), rng.randint(2, 12)
    require(a != b)
    part = a * unit
    chain = Chain()
    chain.add(chain.add(part, "/", a), "*", b)
    templates = (
        "the ratio of red to blue {goods} is {0} to {1}. there are {2} red {goods}. how many are blue?",
        "a school has boys and girls in the ratio {0} to {1}. there are {2} boys. how many girls are there?",
    )
    mistakes = [part * b, part + b - a, part + b, (a + b) * unit, abs(a - b) * unit, part + a, part]
    return aqua_draft(rng, "ratio/other", (a, b, part), templates, chain, mistakes, goods=rng.choice(GOODS))


# --- work


def _workers(rng: random.Random) -> Draft:
    first, days, second = rng.randint(2, 12), rng.randint(2, 12), rng.randint(2, 12)
    require(first != second)
    chain = Chain()
    work = chain.add(first, "*", days)
    chain.add(work, "/", second)
    templates = (
        "{0} men build a wall in {1} days. in how many days do {2} men build the same wall?",
        "{0} machines do a job in {1} hours. how many hours do {2} machines need for this job?",
    )
    mistakes = [
        days * second / first,
        days + first - second,
        work - second,
        first + days,
        days,
        work + second,
    ]
    return aqua_draft(rng, "work/inverse", (first, days, second), templates, chain, mistakes)


def _machines(rng: random.Random) -> Draft:
    a, b, hours = rng.randint(2, 9), rng.randint(2, 9), rng.randint(2, 12)
    chain = Chain()
    both = chain.add(a, "+", b)
    if rng.random() < 0.5:
        chain.add(both, "*", hours)
        kind, numbers = "made", (a, b, hours)
        templates = (
            "one machine makes {0} {goods} an hour, another {1}. how many {goods} do both make in {2} hours?",
            "Ann makes {0} {goods} an hour and Bob {1}. how many {goods} do they make in {2} hours?",
        )
    else:
        chain.add(both * hours, "/", both)
        kind, numbers = "hours", (a, b, both * hours)
        templates = (
            "one machine makes {0} {goods} an hour, another {1}. how many hours do both need for {2}?",
            "Ann makes {0} {goods} an hour and Bob {1}. how many hours do they need for {2} {goods}?",
        )
    mistakes = [
        a * numbers[2], b * numbers[2], a + b + numbers[2], abs(a - b) * numbers[2],
        numbers[2] / a, numbers[2] / b, numbers[2] - both, a * b,
    ]  # fmt: skip
    content = (*sorted((a, b)), numbers[2])
    return aqua_draft(
        rng, f"work/{kind}", numbers, templates, chain, mistakes, content=content, goods=rng.choice(GOODS)
    )


AQUA_KINDS: dict[str, tuple[Callable[[random.Random], Draft], ...]] = {
    "percent": (
        aqua_money.percent_of,
        aqua_money.percent_of,
        aqua_money.percent_rise,
        aqua_money.percent_whole,
    ),
    "speed": (_speed, _two_legs, _way_left),
    "average": (_average, _average_missing),
    "ratio": (_ratio_share, _ratio_share, _ratio_other),
    "profit": (aqua_money.profit, aqua_money.profit_each, aqua_money.profit_price),
    "price": (aqua_money.unit_price, aqua_money.change),
    "work": (_workers, _machines, _machines),
}


def draw_aqua_mini(rng: random.Random) -> Draft:
    """Draw one problem; kinds are equally likely, and so are the letters of the correct option."""
    return draw_until_in_bounds(rng.choice(AQUA_KINDS[rng.choice(tuple(AQUA_KINDS))]), rng)
