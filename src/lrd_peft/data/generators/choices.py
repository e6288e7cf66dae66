"""Options of aqua-mini: the result and four typical mistakes. Knows no kinds of problems."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from itertools import permutations

from lrd_peft.data.generators.chain import LARGEST, Chain, require, signature_of, wording
from lrd_peft.data.generators.draft import Draft
from lrd_peft.data.problem import LETTERS

# What problems of any kind count, buy or make.
GOODS = ("pens", "books", "cups", "balls", "cards")


def aqua_draft(
    rng: random.Random,
    kind: str,
    numbers: Sequence[int],
    templates: Sequence[str],
    chain: Chain,
    mistakes: Iterable[float],
    *,
    content: Sequence[int] | None = None,
    **words: str,
) -> Draft:
    """Word the problem and mix its result with results of mistakes; the last step names the result's option.

    Args:
        mistakes: what comes out when a step is forgotten or goes wrong; results that are not whole numbers of
            1 to 99 are left out. Every result before the last one is a mistake too: stopping early. Where
            these are too few, any two numbers of the question joined by any operation are.
        content: the signature's numbers where the order of `numbers` says nothing.
    """
    correct = chain.results[-1]
    require(correct >= 1)
    joined = [n for a, b in permutations(numbers, 2) if b for n in (a + b, a - b, a * b, a / b)]
    options = _mistaken(rng, correct, ([*mistakes, *chain.results[:-1]], joined))
    place = rng.randrange(len(LETTERS))
    options.insert(place, correct)
    *steps, last = chain.steps
    return Draft(
        question=wording(rng, templates, numbers, **words),
        steps=(*steps, f"{last} ({LETTERS[place]})"),
        answer=LETTERS[place],
        signature=signature_of(f"aqua/{kind}", numbers if content is None else content),
        subject=kind.split("/")[0],
        options=tuple(map(str, options)),
    )


def _mistaken(rng: random.Random, correct: int, pools: Sequence[Sequence[float]]) -> list[int]:
    """Return four distinct wrong results in random order, from the first pools as far as they reach.

    How many of them are below the correct one is drawn first, so that the place of an option in the order of
    size says nothing; where a side has too few mistakes, slips of up to 6 of any option fill it.
    """
    num_below = min(rng.randint(0, 4), correct - 1)
    num_below = max(num_below, 4 - (LARGEST - correct))
    chosen: list[int] = []
    for is_below, wanted in ((True, num_below), (False, 4 - num_below)):
        picked: list[int] = []
        for pool in pools:
            whole = {int(m) for m in pool if m == int(m) and 1 <= m <= LARGEST and m != correct}
            side = sorted(m for m in whole if (m < correct) == is_below and m not in picked)
            picked += rng.sample(side, min(wanted - len(picked), len(side)))
        while len(picked) < wanted:
            slip = rng.choice([correct, *picked]) + rng.randint(1, 6) * (-1 if is_below else 1)
            if 1 <= slip <= LARGEST and slip not in picked:
                picked.append(slip)
        chosen += picked
    rng.shuffle(chosen)
    return chosen
