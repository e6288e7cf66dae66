"""aqua-mini problems about percentages and money."""

from __future__ import annotations

import random

from lrd_peft.data.generators.chain import Chain, require
from lrd_peft.data.generators.draft import Draft
from lrd_peft.data.generators.mistakes import GOODS, aqua_draft

_PRICED = ("book", "cup", "bag", "ball")
# How the share of a percentage is taken: divide by the first number, multiply by the second.
_SHARES = {
    10: (10, 1), 20: (5, 1), 25: (4, 1), 30: (10, 3), 40: (5, 2), 50: (2, 1),
    60: (5, 3), 70: (10, 7), 75: (4, 3), 80: (5, 4), 90: (10, 9),
}  # fmt: skip


# --- percent


def _share(chain: Chain, percent: int, base: int) -> int:
    divisor, times = _SHARES[percent]
    share = chain.add(base, "/", divisor)
    return share if times == 1 else chain.add(share, "*", times)


def percent_of(rng: random.Random) -> Draft:
    percent = rng.choice(tuple(_SHARES))
    base, more = rng.randint(4, 99), rng.randint(2, 20)
    chain = Chain()
    share = _share(chain, percent, base)
    ask = rng.choice(("of", "rest", "more", "fewer"))
    mistakes = [share, base - share, base - percent, percent, base / 2, share + more, base - more]
    if ask == "of":
        numbers = (base, percent)
        templates = (
            "there are {0} children in a school and {1} percent of them walk home. how many walk home?",
            "Ann has {0} {goods} and {1} percent of them are red. how many {goods} are red?",
        )
    elif ask == "rest":
        numbers = (base, percent)
        chain.add(base, "-", share)
        templates = (
            "a shop has {0} {goods} and sells {1} percent of them. how many {goods} are left?",
            "a {thing} costs {0} dollars and its price falls by {1} percent. what is the new price?",
        )
    elif ask == "more":
        numbers = (base, percent, more)
        chain.add(share, "+", more)
        templates = (
            "Bob gets {1} percent of {0} {goods} and then {2} more {goods}. how many {goods} does he get?",
            "a school has {0} children. {1} percent of them and {2} more walk home. how many walk home?",
        )
    else:
        numbers = (base, percent, more)
        chain.add(share, "-", more)
        templates = (
            "Bob gets {1} percent of {0} {goods} and loses {2} of them. how many {goods} does he have then?",
            "Ann has {0} {goods} and {1} percent are red. she sells {2} red ones. how many red are left?",
        )
    return aqua_draft(
        rng,
        f"percent/{ask}",
        numbers,
        templates,
        chain,
        mistakes,
        goods=rng.choice(GOODS),
        thing=rng.choice(_PRICED),
    )


def percent_rise(rng: random.Random) -> Draft:
    percent, base = rng.choice(tuple(_SHARES)), rng.randint(4, 80)
    chain = Chain()
    share = _share(chain, percent, base)
    chain.add(base, "+", share)
    templates = (
        "a {thing} costs {0} dollars and its price goes up by {1} percent. what is the new price?",
        "a school had {0} children and now has {1} percent more. how many children does it have now?",
    )
    mistakes = [base - share, base + percent, percent, base]
    return aqua_draft(rng, "percent/rise", (base, percent), templates, chain, mistakes, thing=rng.choice(_PRICED))


def percent_whole(rng: random.Random) -> Draft:
    percent, base = rng.choice(tuple(_SHARES)), rng.randint(4, 99)
    divisor, times = _SHARES[percent]
    require(base % divisor == 0)
    part = base // divisor * times
    require(part > 1)
    chain = Chain()
    chain.add(part if times == 1 else chain.add(part, "/", times), "*", divisor)
    templates = (
        "{0} children walk home and they are {1} percent of the school. how many children are in the school?",
        "Bob sells {0} {goods}, which are {1} percent of his {goods}. how many {goods} did he have?",
    )
    mistakes = [base - part, part * 2, part + percent, part * times, percent, part]
    return aqua_draft(rng, "percent/whole", (part, percent), templates, chain, mistakes, goods=rng.choice(GOODS))


# --- profit


def profit(rng: random.Random) -> Draft:
    count, price = rng.randint(2, 9), rng.randint(2, 12)
    cost = count * price
    gain = rng.choice((-1, 1)) * rng.randint(1, 20)
    income = cost + gain
    require(income > 1)
    ask = "profit" if gain > 0 else "loss"
    chain = Chain()
    spent = chain.add(count, "*", price)
    if gain > 0:
        chain.add(income, "-", spent)
    else:
        chain.add(spent, "-", income)
    templates = (
        "a shop buys {0} {goods} for {1} dollars each and sells them all for {2} dollars. what is its {ask}?",
        "Bob buys {0} {goods} at {1} dollars each. he sells them all for {2} dollars. what is his {ask}?",
    )
    mistakes = [income - price, income - count, income, income / count, price + count, income - price - count]
    return aqua_draft(
        rng,
        "profit/all",
        (count, price, income),
        templates,
        chain,
        mistakes,
        goods=rng.choice(GOODS),
        ask=ask,
    )


def profit_each(rng: random.Random) -> Draft:
    price, count = rng.randint(2, 40), rng.randint(2, 12)
    sold = price + rng.randint(1, 12)
    chain = Chain()
    chain.add(chain.add(sold, "-", price), "*", count)
    templates = (
        "a shop buys {goods} at {0} dollars each and sells them at {1} dollars each. "
        "what is the profit from {2} {goods}?",
        "Bob pays {0} dollars for each of {2} {goods} and sells each for {1} dollars. what is his profit?",
    )
    mistakes = [sold + price, sold * count, price * count, sold - price + count, sold, count]
    return aqua_draft(rng, "profit/each", (price, sold, count), templates, chain, mistakes, goods=rng.choice(GOODS))


def profit_price(rng: random.Random) -> Draft:
    count, price, profit = rng.randint(2, 9), rng.randint(2, 12), rng.randint(2, 40)
    chain = Chain()
    chain.add(chain.add(chain.add(count, "*", price), "+", profit), "/", count)
    templates = (
        "a shop buys {0} {goods} for {1} dollars each and makes a profit of {2} dollars on all of them. "
        "at what price does it sell each?",
        "Bob buys {0} {goods} at {1} dollars each. he wants a profit of {2} dollars in all. "
        "at what price must he sell each?",
    )
    mistakes = [price + profit, count * price - profit, profit / count, price + count, profit + count, price]
    return aqua_draft(rng, "profit/price", (count, price, profit), templates, chain, mistakes, goods=rng.choice(GOODS))


# --- price


def unit_price(rng: random.Random) -> Draft:
    first, price, second = rng.randint(2, 12), rng.randint(2, 12), rng.randint(2, 12)
    require(first != second)
    chain = Chain()
    each = chain.add(first * price, "/", first)
    chain.add(each, "*", second)
    templates = (
        "{0} {goods} cost {1} dollars. how many dollars do {2} of these {goods} cost?",
        "a shop sells {0} {goods} for {1} dollars. at this price, what do {2} {goods} cost?",
    )
    cost = first * price
    mistakes = [cost + second, cost + second - first, cost * second, first * second, cost + price, cost]
    return aqua_draft(rng, "price/unit", (first, cost, second), templates, chain, mistakes, goods=rng.choice(GOODS))


def change(rng: random.Random) -> Draft:
    count, price, rest = rng.randint(2, 9), rng.randint(2, 12), rng.randint(1, 20)
    money = count * price + rest
    chain = Chain()
    chain.add(money, "-", chain.add(count, "*", price))
    templates = (
        "Ann has {0} dollars and buys {1} {goods} for {2} dollars each. how many dollars are left?",
        "Bob pays {0} dollars for {1} {goods} at {2} dollars each. how many dollars does he get back?",
    )
    mistakes = [money - count, money - price, money - count - price, count + price, rest + price, money]
    return aqua_draft(rng, "price/change", (money, count, price), templates, chain, mistakes, goods=rng.choice(GOODS))
