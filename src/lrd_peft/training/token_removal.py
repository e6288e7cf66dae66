"""Removal of written steps token by token: how many each update removes, and the rows that are left.

    steps     t_1 t_2 ... t_n      removed on the left: t_1 ... t_{s + o}, on the right: t_{n - s - o + 1} ... t_n
    s         scheduled tokens: 0 at first, then one more every round(updates per epoch / tokens per epoch) updates
    o         offset of a row, P(o) = (1 - exp(-lambda)) exp(-lambda o): removal smoothing

(Stepwise internalization: Deng et al., arXiv 2405.14838, section 3.)
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

# The largest offset of a row, as in the authors' code.
_MOST_OFFSET = 99


@dataclass(frozen=True, slots=True)
class TokenRemoval:
    """The schedule of a training.

    Attributes:
        updates_per_token: Updates after which one more token is removed. 0: one more in each update, from its first on.
        first_update: First update of the removal; before it nothing is removed.
        longest: Step tokens of the longest problem; no more are ever scheduled.
        smoothing: lambda; None for no offset.
        side: `left` or `right`.
        all_beyond: Number of scheduled tokens from which on all are removed; None for never.
        seed: Seed of the offsets.
        fixed: Remove this many tokens, without offset, in every update.
    """

    updates_per_token: int
    first_update: int
    longest: int
    smoothing: float | None = None
    side: str = "left"
    all_beyond: int | None = None
    seed: int = 0
    fixed: int | None = None

    def scheduled(self, update: int) -> int:
        """Return how many tokens an update removes from each row, without the offset.

        Args:
            update: Number of the update, from 0.
        """
        if self.fixed is not None:
            return self.fixed
        done = update - self.first_update
        if done < 0:
            return 0
        count = done // self.updates_per_token if self.updates_per_token else done + 1
        if self.all_beyond is not None and count >= self.all_beyond:
            return self.longest
        return min(count, self.longest)

    def offset(self, update: int, index: int) -> int:
        """Return how many further tokens a row loses: a function of the seed, the update and the problem."""
        if self.smoothing is None or self.fixed is not None or update < self.first_update:
            return 0
        draw = random.Random(f"{self.seed}/{update}/{index}").random()
        return min(int(-math.log1p(-draw) / self.smoothing), _MOST_OFFSET)

    def kept(self, steps: Sequence[Sequence[int]], *, update: int, index: int) -> tuple[int, ...]:
        """Return the ids of a problem's written steps that an update leaves.

        Args:
            steps: Ids of each step.
            update: Number of the update, from 0.
            index: Position of the problem in the data set.
        """
        tokens = tuple(token for step in steps for token in step)
        removed = min(len(tokens), self.scheduled(update) + self.offset(update, index))
        return tokens[removed:] if self.side == "left" else tokens[: len(tokens) - removed]
