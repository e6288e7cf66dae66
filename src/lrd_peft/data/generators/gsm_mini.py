"""gsm-mini: word problems about people and things, with 1 to 5 steps of one equation each; gsm-mini-long: 6 to 8.

All numbers are integers from 0 to 40, so a tiny model can memorize the arithmetic and has to learn which numbers to
combine. A story is a chain: each step uses the result of the previous one.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from lrd_peft.data.generators.draft import Draft

_PEOPLE = (
    *(("Ann", "She"), ("Bob", "He"), ("Carl", "He"), ("Dana", "She"), ("Eve", "She"), ("Finn", "He")),
    *(("Gina", "She"), ("Hugo", "He"), ("Iris", "She"), ("Jack", "He"), ("Kate", "She"), ("Leo", "He")),
)
_NAMES = tuple(name for name, _ in _PEOPLE)
_THINGS = (
    "apples",
    "pens",
    "coins",
    "books",
    "cards",
    "stamps",
    "shells",
    "eggs",
    "cakes",
    "balls",
    "keys",
    "cups",
)
_BOXES = ("bags", "boxes", "packs", "jars")
_NUM_STEPS = (1, 2, 3, 4, 5)
_NUM_STEPS_WEIGHTS = (20, 25, 25, 25, 5)
# More steps than gsm-mini has, so that a model trained there is asked for longer chains than it has seen.
_NUM_LONG_STEPS = (6, 7, 8)
_LIMIT = 40
_LARGEST_CHANGE = 9
_LARGEST_START = 30

# An operation on the running value: sign, operand, the value after it.
Operation = tuple[str, int, int]

_GAINS = ("buys {k} more", "finds {k} more", "gets {k} more", "wins {k} more")
_LOSSES = ("gives away {k}", "loses {k}", "sells {k}", "gives {k} to {other}")


def _operation(rng: random.Random, value: int) -> Operation:
    """Draw the next operation on `value`; the result stays within 0 to 40."""
    signs = ["+"] * 4 + ["-"] * 4
    if value >= 2 and value * 2 <= _LIMIT:
        signs += ["*"] * 2
    if value >= 4 and value % 2 == 0:
        signs += ["/"]
    sign = rng.choice(signs)
    if sign == "+" and value + 1 > _LIMIT:
        sign = "-"
    if sign == "-" and value < 2:
        sign = "+"
    if sign == "+":
        operand = rng.randint(1, min(_LARGEST_CHANGE, _LIMIT - value))
        return sign, operand, value + operand
    if sign == "-":
        operand = rng.randint(1, min(_LARGEST_CHANGE, value))
        return sign, operand, value - operand
    if sign == "/":
        return sign, 2, value // 2
    operand = rng.choice([k for k in (2, 2, 3) if value * k <= _LIMIT])
    return sign, operand, value * operand


def _event(rng: random.Random, operation: Operation, person: tuple[str, str], first: bool) -> str:
    """Describe an operation as an event: a person gains, loses or multiplies things."""
    sign, operand, _ = operation
    other = rng.choice([name for name in _NAMES if name != person[0]])
    if sign == "+":
        what = rng.choice(_GAINS).format(k=operand)
    elif sign == "-":
        what = rng.choice(_LOSSES).format(k=operand, other=other)
    elif sign == "/":
        what = rng.choice(("gives half to {other}", "sells half")).format(other=other)
    else:
        what = f"makes them {operand} times as many"
    pronoun = person[1]
    return f"{pronoun} {what}." if first else f"Then {pronoun.lower()} {what}."


def _comparison(operation: Operation, name: str, than: str, things: str) -> str:
    """Describe an operation as a comparison of two people."""
    sign, operand, _ = operation
    if sign == "+":
        return f"{name} has {operand} more {things} than {than}."
    if sign == "-":
        return f"{name} has {operand} fewer {things} than {than}."
    if sign == "/":
        return f"{name} has half as many {things} as {than}."
    return f"{name} has {operand} times as many {things} as {than}."


def _chain(rng: random.Random, start: int, length: int) -> list[Operation]:
    operations: list[Operation] = []
    value = start
    for _ in range(length):
        operations.append(_operation(rng, value))
        value = operations[-1][2]
    return operations


def _signature(kind: str, start: str, operations: list[Operation]) -> str:
    return "|".join(["gsm-mini", kind, start, *(f"{sign}{operand}" for sign, operand, _ in operations)])


def _equations(start: int, operations: list[Operation], labels: list[str]) -> list[str]:
    value, lines = start, []
    for (sign, operand, after), label in zip(operations, labels, strict=True):
        lines.append(f"{label}: {value} {sign} {operand} = {after}")
        value = after
    return lines


def _events(rng: random.Random, num_steps: int) -> Draft:
    """Draw a story of one person whose things change event by event."""
    person, things = rng.choice(_PEOPLE), rng.choice(_THINGS)
    start = rng.randint(2, _LARGEST_START)
    operations = _chain(rng, start, num_steps)
    sentences = [f"{person[0]} has {start} {things}."]
    sentences += [_event(rng, operation, person, i == 0) for i, operation in enumerate(operations)]
    sentences.append(f"How many {things} does {person[0]} have now?")
    return Draft(
        question=" ".join(sentences),
        steps=tuple(_equations(start, operations, [person[0]] * num_steps)),
        answer=str(operations[-1][2]),
        signature=_signature("chain", str(start), operations),
        subject="events",
    )


def _compare(rng: random.Random, num_steps: int) -> Draft:
    """Draw a chain of comparisons between people; the question asks about the last one."""
    names, things = rng.sample(_NAMES, num_steps + 1), rng.choice(_THINGS)
    start = rng.randint(2, _LARGEST_START)
    operations = _chain(rng, start, num_steps)
    sentences = [f"{names[0]} has {start} {things}."]
    sentences += [
        _comparison(operation, name, than, things)
        for operation, name, than in zip(operations, names[1:], names, strict=False)
    ]
    sentences.append(f"How many {things} does {names[-1]} have?")
    return Draft(
        question=" ".join(sentences),
        steps=tuple(_equations(start, operations, names[1:])),
        answer=str(operations[-1][2]),
        # The same chain as in `_events`, so one signature: a held-out chain is held out in both wordings.
        signature=_signature("chain", str(start), operations),
        subject="compare",
    )


def _boxes(rng: random.Random, num_steps: int) -> Draft:
    """Draw boxes of things (a product) followed by events."""
    person, things, boxes = rng.choice(_PEOPLE), rng.choice(_THINGS), rng.choice(_BOXES)
    count, each = rng.randint(2, 6), rng.randint(2, 6)
    operations = [("*", each, count * each), *_chain(rng, count * each, num_steps - 1)]
    sentences = [f"{person[0]} has {count} {boxes} with {each} {things} each."]
    sentences += [_event(rng, operation, person, i == 0) for i, operation in enumerate(operations[1:])]
    sentences.append(f"How many {things} does {person[0]} have now?")
    return Draft(
        question=" ".join(sentences),
        steps=tuple(_equations(count, operations, [person[0]] * num_steps)),
        answer=str(operations[-1][2]),
        signature=_signature("boxes", str(count), operations),
        subject="boxes",
    )


def _shopping(rng: random.Random, num_steps: int) -> Draft:
    """Draw a purchase (a product and a difference) followed by events; at least two steps."""
    person = rng.choice(_PEOPLE)
    things = rng.choice([things for things in _THINGS if things != "coins"])
    count, price = rng.randint(2, 6), rng.randint(2, 6)
    cost = count * price
    purse = rng.randint(cost, _LIMIT)
    left = purse - cost
    operations = _chain(rng, left, num_steps - 2)
    sentences = [
        f"{person[0]} has {purse} coins.",
        f"{person[1]} buys {count} {things} for {price} coins each.",
    ]
    sentences += [_event(rng, operation, person, False) for operation in operations]
    sentences.append(f"How many coins does {person[0]} have now?")
    steps = [f"cost: {count} * {price} = {cost}", f"{person[0]}: {purse} - {cost} = {left}"]
    steps += _equations(left, operations, [person[0]] * (num_steps - 2))
    return Draft(
        question=" ".join(sentences),
        steps=tuple(steps),
        answer=str(operations[-1][2] if operations else left),
        signature=_signature("shopping", f"{purse}-{count}*{price}", operations),
        subject="shopping",
    )


_KINDS: tuple[Callable[[random.Random, int], Draft], ...] = (_events, _compare, _boxes, _shopping)
_KIND_WEIGHTS = (35, 35, 15, 15)


def draw_gsm_mini(rng: random.Random) -> Draft:
    """Draw one problem. Its `subject` is `events`, `compare`, `boxes` or `shopping`."""
    num_steps = rng.choices(_NUM_STEPS, _NUM_STEPS_WEIGHTS)[0]
    return _draw(rng, num_steps)


def draw_gsm_mini_long(rng: random.Random) -> Draft:
    """Draw one problem with more steps than gsm-mini has, but of its kinds, words and numbers."""
    return _draw(rng, rng.choice(_NUM_LONG_STEPS))


def _draw(rng: random.Random, num_steps: int) -> Draft:
    kind = rng.choices(_KINDS, _KIND_WEIGHTS)[0]
    if kind is _shopping and num_steps == 1:
        kind = _events
    return kind(rng, num_steps)
