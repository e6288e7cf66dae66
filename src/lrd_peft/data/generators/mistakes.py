"""Answer options of aqua-mini: the result and four typical mistakes."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from itertools import permutations

from lrd_peft.data.generators.chain import LARGEST, Chain, require, signature_of, wording
from lrd_peft.data.generators.draft import Draft
from lrd_peft.data.problem import LETTERS

# Things that problems of any kind count, buy or make.
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
    """Word a problem and mix its result with the results of mistakes; the last step names the correct option.

    Args:
        rng: Source of randomness.
        kind: Kind of the problem, such as "speed/left".
        numbers: Numbers of the question, in the order of the templates.
        templates: Wordings to choose from.
        chain: Steps of the solution.
        mistakes: Results of forgetting a step or getting it wrong. Only integers from 1 to 99 are used. Intermediate
            results count as mistakes too (stopping early). If these are too few, any two numbers of the question are
            combined by any operation.
        content: Numbers of the signature, if the order of `numbers` does not matter.
        words: Words for the templates.

    Returns:
        The draft.

    Raises:
        Redraw: If the result or a number is out of bounds.
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
    """Return four distinct wrong results in random order, preferring the first pools.

    The number of results below the correct one is drawn first, so that the rank of an option by size reveals nothing.
    If a side has too few mistakes, options that differ by up to 6 from another one fill it.
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
