"""Chains of equations within the arithmetic that a tiny model can learn."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from lrd_peft.data.generators.draft import Draft

# Every number of a problem is one token of the tiny tokenizer.
LARGEST = 99
# One part of each sum or difference is at most this, which limits the number of facts to learn.
LARGEST_ADDEND = 20


class Redraw(Exception):
    """The drawn numbers are out of bounds; draw again."""


class Chain:
    """Steps of a solution, computed and written one by one."""

    def __init__(self) -> None:
        self.steps: list[str] = []
        self.results: list[int] = []

    def add(self, left: int, operator: str, right: int, label: str = "") -> int:
        """Append the step `label: left operator right = result`.

        Returns:
            The result.

        Raises:
            Redraw: If the equation is out of bounds.
        """
        result = _work_out(left, operator, right)
        equation = f"{left} {operator} {right} = {result}"
        self.steps.append(f"{label}: {equation}" if label else equation)
        self.results.append(result)
        return result


def _work_out(left: int, operator: str, right: int) -> int:
    if operator == "+":
        result = left + right
        learnable = min(left, right) <= LARGEST_ADDEND
    elif operator == "-":
        result = left - right
        learnable = min(right, result) <= LARGEST_ADDEND
    elif operator == "*":
        result = left * right
        learnable = _in_times_table(left, right)
    else:
        assert operator == "/", operator
        if right == 0 or left % right:
            raise Redraw
        result = left // right
        learnable = _in_times_table(right, result)
    if not (learnable and min(left, right) >= 0 and 0 <= result <= LARGEST and max(left, right) <= LARGEST):
        raise Redraw
    return result


def _in_times_table(a: int, b: int) -> bool:
    small, large = min(a, b), max(a, b)
    return small <= 4 or (small <= 9 and large <= 12)


def require(condition: bool) -> None:
    """Raise `Redraw` unless the drawn numbers meet the condition."""
    if not condition:
        raise Redraw


def wording(rng: random.Random, templates: Sequence[str], numbers: Sequence[int], **words: str) -> str:
    """Fill a random template with the numbers (`{0}`, `{1}`, ...) and the words (by name)."""
    require(all(0 <= number <= LARGEST for number in numbers))
    return rng.choice(templates).format(*numbers, **words)


def signature_of(kind: str, numbers: Sequence[int]) -> str:
    """Return the signature of a problem: its kind and its numbers."""
    return "/".join([kind, *map(str, numbers)])


def draw_until_in_bounds(kind: Callable[[random.Random], Draft], rng: random.Random) -> Draft:
    """Call a generator until its numbers are within the bounds."""
    while True:
        try:
            return kind(rng)
        except Redraw:
            continue


def math_draft(
    rng: random.Random,
    kind: str,
    numbers: Sequence[int],
    templates: Sequence[str],
    chain: Chain,
    *,
    answer: str = "",
    content: Sequence[int] | None = None,
    **words: str,
) -> Draft:
    """Word a problem. `content` gives the numbers of the signature if the order of `numbers` does not matter."""
    return Draft(
        question=wording(rng, templates, numbers, **words),
        steps=tuple(chain.steps),
        answer=answer or str(chain.results[-1]),
        signature=signature_of(f"math/{kind}", numbers if content is None else content),
        subject=kind.split("/")[0],
    )
