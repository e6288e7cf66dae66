"""The offline problem sets: endless problems by seed, in splits that are disjoint by content."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable

from lrd_peft.data.generators import aqua_mini, gsm_mini, math_mini
from lrd_peft.data.generators.draft import Draft
from lrd_peft.data.problem import Problem
from lrd_peft.errors import UserError, nearest

SETS: dict[str, Callable[[random.Random], Draft]] = {
    "gsm-mini": gsm_mini.draw,
    "math-mini": math_mini.draw,
    "aqua-mini": aqua_mini.draw,
}
SPLITS = ("train", "validation", "test")
# Draws in a row that bring nothing new before a set counts as exhausted.
_PATIENCE = 20_000


def split_of(signature: str) -> str:
    """Return the split that a problem's content belongs to: 70% train, 15% validation, 15% test.

    A function of the content alone, so no seed can carry a held-out problem into the training split, not even
    with other names and things in it.
    """
    bucket = int.from_bytes(hashlib.sha256(signature.encode()).digest()[:8], "big") % 100
    return "train" if bucket < 70 else "validation" if bucket < 85 else "test"


def generate(name: str, *, split: str, num_problems: int, seed: int) -> list[Problem]:
    """Draw `num_problems` distinct problems of one split.

    The same arguments give the same problems, and a longer list begins with the shorter one.

    Raises:
        UserError: if the set or the split is unknown, or the split holds fewer distinct problems.
    """
    if name not in SETS:
        raise UserError(f'unknown problem set "{name}"; there are {", ".join(SETS)}.{nearest(name, SETS)}')
    if split not in SPLITS:
        raise UserError(f'unknown split "{split}"; there are {", ".join(SPLITS)}.{nearest(split, SPLITS)}')
    rng = random.Random(f"{name}/{split}/{seed}")
    problems: list[Problem] = []
    seen: set[str] = set()
    idle = 0
    while len(problems) < num_problems:
        draft = SETS[name](rng)
        if draft.question in seen or split_of(draft.signature) != split:
            idle += 1
            if idle > _PATIENCE:
                raise UserError(
                    f"{name} has only about {len(problems)} distinct {split} problems; {num_problems} were asked for"
                )
            continue
        idle = 0
        seen.add(draft.question)
        problems.append(
            Problem(
                id=f"{name}/{split}/{seed}/{len(problems)}",
                question=draft.question,
                steps=draft.steps,
                answer=draft.answer,
                options=draft.options,
                subject=draft.subject,
            )
        )
    return problems
