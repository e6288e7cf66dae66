"""What an ablation does to thoughts: each intervention maps the model's own thoughts to others of its own making.

An intervention acts at inference. All thoughts of a problem are replaced at once and then run as one pass, so that no
later thought can make up for a change. The exception is more thoughts than trained: those are the model's own.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

Rows = Sequence[int]


@dataclass(frozen=True, slots=True)
class Intervention:
    """A change of the thoughts.

    Attributes:
        name: Short name, as in tables and files: `zeros`, `other-answer`, `without-2`, ...
        title: What was done, in a few words.
        num_thoughts: Thoughts that the model then has.
        replace: Indices of problems -> their new thoughts, of shape [problem, num_thoughts, hidden]. None: the model
            thinks `num_thoughts` thoughts of its own.
        donors: For each problem the problem whose thoughts it gets, None where there is none. Empty: no donors.
    """

    name: str
    title: str
    num_thoughts: int
    replace: Callable[[Rows], Float[Tensor, "problem thought hidden"]] | None
    donors: tuple[int | None, ...] = ()

    def possible(self, problem: int) -> bool:
        """Return whether the intervention exists for a problem."""
        return not self.donors or self.donors[problem] is not None


def interventions(
    own: Float[Tensor, "problem thought hidden"],
    *,
    filler: Float[Tensor, " hidden"],
    golds: Sequence[str],
    seed: int,
    num_more: int = 2,
) -> list[Intervention]:
    """Return the interventions on a model's thoughts.

    Args:
        own: The model's own thoughts: the inputs at its slots.
        filler: Embedding of a token without content.
        golds: Reference answers; they decide who is a donor with the same or another answer.
        seed: Seed of the noise and of the choice of donors. Neither depends on the batches.
        num_more: How many thoughts more than trained are tried.

    Example:
        >>> import torch
        >>> own = torch.randn(3, 2, 8)
        >>> found = interventions(own, filler=torch.zeros(8), golds=["1", "1", "2"], seed=0)
        >>> [each.name for each in found][:4]
        ['none', 'zeros', 'noise', 'mean']
        >>> found[1].replace([0, 2]).abs().max()
        tensor(0.)
    """
    count = own.shape[1]
    norms, means = own.norm(dim=-1, keepdim=True), own.mean(dim=0)

    def noise(rows: Rows) -> Tensor:
        drawn = [
            torch.randn(own.shape[1:], generator=torch.Generator().manual_seed(seed * 1_000_003 + i)) for i in rows
        ]
        found = torch.stack(drawn)
        return found / found.norm(dim=-1, keepdim=True) * norms[list(rows)]

    def kept(slots: Sequence[int]) -> Callable[[Rows], Tensor]:
        return lambda rows: own[list(rows)][:, list(slots)]

    def of(donors: Sequence[int | None]) -> Callable[[Rows], Tensor]:
        return lambda rows: torch.stack([own[_present(donors[i])] for i in rows])

    same, other = _donors(golds, same=True, seed=seed), _donors(golds, same=False, seed=seed)
    found = [
        Intervention("none", "no thoughts", 0, kept(())),
        Intervention("zeros", "zeros", count, lambda rows: torch.zeros_like(own[list(rows)])),
        Intervention("noise", "noise of the same norm", count, noise),
        Intervention("mean", "the mean thought of each slot", count, lambda rows: means.expand(len(rows), -1, -1)),
        Intervention("filler", "a filler token in every slot", count, lambda rows: filler.expand(len(rows), count, -1)),
        Intervention("same-answer", "another problem's, same answer", count, of(same), same),
        Intervention("other-answer", "another problem's, other answer", count, of(other), other),
    ]
    if count > 1:
        found.append(Intervention("repeat-first", "the first thought in every slot", count, kept([0] * count)))
    for slot in range(count if count > 1 else 0):
        left = [each for each in range(count) if each != slot]
        found.append(Intervention(f"without-{slot + 1}", f"without thought {slot + 1}", count - 1, kept(left)))
    for number in range(1, count - 1):
        left = list(range(number))
        found.append(Intervention(f"first-{number}", f"only the first {number}", number, kept(left)))
    for number in range(1, count - 1):
        left = list(range(count - number, count))
        found.append(Intervention(f"last-{number}", f"only the last {number}", number, kept(left)))
    for number in range(count + 1, count + 1 + num_more):
        found.append(Intervention(f"think-{number}", f"{number} thoughts", number, None))
    return found


def _present(donor: int | None) -> int:
    assert donor is not None
    return donor


def _donors(golds: Sequence[str], *, same: bool, seed: int) -> tuple[int | None, ...]:
    rng = random.Random(f"{seed}/{same}")
    places: dict[str, list[int]] = {}
    for place, gold in enumerate(golds):
        places.setdefault(gold, []).append(place)
    found: list[int | None] = []
    for place, gold in enumerate(golds):
        if same:
            candidates = [each for each in places[gold] if each != place]
        else:
            shuffled = rng.sample(range(len(golds)), len(golds)) if len(places) > 1 else []
            candidates = [each for each in shuffled if golds[each] != gold]
        found.append(rng.choice(candidates) if candidates else None)
    return tuple(found)
