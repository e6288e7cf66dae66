"""The offline problem sets: unlimited problems from a seed, in splits with disjoint content."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from functools import partial

from lrd_peft.data.generators import aqua_mini, graph_mini, gsm_mini, math_mini
from lrd_peft.data.generators.draft import Draft
from lrd_peft.data.problem import Problem
from lrd_peft.runtime.errors import UserError, nearest

SETS: dict[str, Callable[[random.Random], Draft]] = {
    "gsm-mini": gsm_mini.draw_gsm_mini,
    "math-mini": math_mini.draw_math_mini,
    "aqua-mini": aqua_mini.draw_aqua_mini,
    **{name: partial(graph_mini.draw_graph, level) for name, level in graph_mini.LEVELS.items()},
    "gsm-mini-long": gsm_mini.draw_gsm_mini_long,
}
SPLITS = ("train", "validation", "test")
# A set counts as exhausted after this many draws in a row without a new problem.
_PATIENCE = 20_000


def split_of(signature: str) -> str:
    """Return the split of a signature: 70% train, 15% validation, 15% test.

    The split depends on the content alone. A held-out problem never appears in the training split, whatever
    the seed and the wording.
    """
    bucket = int.from_bytes(hashlib.sha256(signature.encode()).digest()[:8], "big") % 100
    return "train" if bucket < 70 else "validation" if bucket < 85 else "test"


def is_generated(name: str) -> bool:
    """Return whether a name is that of an offline set, with or without settings."""
    return name.partition(":")[0] in SETS


def _drawer(name: str) -> Callable[[random.Random], Draft]:
    base, colon, settings = name.partition(":")
    if base not in SETS:
        raise UserError(f'unknown problem set "{base}"; choose one of {", ".join(SETS)}.{nearest(base, SETS)}')
    if not colon:
        return SETS[base]
    if not graph_mini.is_graph_set(base):
        raise UserError(f'"{name}" has settings, but {base} takes none; those that do: {", ".join(graph_mini.LEVELS)}')
    return partial(graph_mini.draw_graph, graph_mini.level_of(base, settings))


def generate_problems(name: str, *, split: str, num_problems: int, seed: int) -> list[Problem]:
    """Draw distinct problems of one split.

    The same arguments give the same problems, and a longer list starts with the shorter one.

    Args:
        name: Name of the set; a graph set may have settings, such as `graph-mini:nodes=20,depth=5`.
        split: `train`, `validation` or `test`.
        num_problems: Number of problems.
        seed: Seed of the draws.

    Returns:
        The problems.

    Raises:
        UserError: If the set, a setting or the split is unknown, or the split has too few distinct problems.
    """
    draw = _drawer(name)
    if split not in SPLITS:
        raise UserError(f'unknown split "{split}"; choose one of {", ".join(SPLITS)}.{nearest(split, SPLITS)}')
    rng = random.Random(f"{name}/{split}/{seed}")
    problems: list[Problem] = []
    seen: set[str] = set()
    idle = 0
    while len(problems) < num_problems:
        draft = draw(rng)
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
