"""Batched greedy decoding after a question and its thoughts. Knows token ids and one model, not text or answers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lrd_peft.errors import UserError
from lrd_peft.model.thinking import Projection, head_logits, think


@dataclass(frozen=True, slots=True)
class Generated:
    """What one row wrote.

    Attributes:
        tokens: generated ids, the end-of-text token left out; forced ids are not among them.
        probabilities: the model's probability of each of `tokens`.
        num_tokens: generated ids, the end-of-text token included.
        num_thoughts: continuous thoughts before them.
        num_passes: sequential model passes that this row needed.
        finished: whether it ended by itself before the limit.
        thought_tokens: for each slot the ids that the LM head finds most likely there, best first.
        thought_probabilities: the probability of each of them.
    """

    tokens: tuple[int, ...]
    probabilities: tuple[float, ...]
    num_tokens: int
    num_thoughts: int
    num_passes: int
    finished: bool
    thought_tokens: tuple[tuple[int, ...], ...] = ()
    thought_probabilities: tuple[tuple[float, ...], ...] = ()


@torch.no_grad()
def generate(
    lm: nn.Module,
    question_ids: Tensor,
    question_mask: Tensor,
    *,
    num_thoughts: int,
    forced: Sequence[int] = (),
    max_new_tokens: int,
    eos_id: int,
    projection: Projection | None = None,
    jacobi_passes: int | None = None,
    top_tokens: int = 0,
    context: int | None = None,
) -> list[Generated]:
    """Think, then decode greedily; rows that have ended leave the batch.

    Raises:
        UserError: if the model's output is NaN.

    Args:
        lm: a causal LM, PEFT-wrapped or not.
        question_ids, question_mask: int64 [B, Q], left-padded.
        num_thoughts: slots after the question.
        forced: ids that every row is made to write first, in the same pass as the last slot (the answer marker).
        max_new_tokens: the most ids that a row may generate.
        eos_id: the end-of-text token.
        projection, jacobi_passes: as in `think`.
        top_tokens: how many of the LM head's tokens to report for each slot.
        context: the longest sequence that the model takes; a row stops there as it does at `max_new_tokens`.
    """
    num_rows = question_ids.shape[0]
    suffix = torch.tensor([list(forced)] * num_rows, dtype=torch.long, device=question_ids.device)
    kept: list[Any] = []
    thinking = think(
        lm,
        question_ids,
        question_mask,
        num_thoughts=num_thoughts,
        suffix_ids=suffix.reshape(num_rows, len(forced)),
        projection=projection,
        jacobi_passes=jacobi_passes,
        cache_out=kept,
    )
    sequence = kept[0]
    tops: list[tuple[tuple[int, ...], ...]] = [() for _ in range(num_rows)]
    shares: list[tuple[tuple[float, ...], ...]] = [() for _ in range(num_rows)]
    if top_tokens and num_thoughts:
        # Slot j's input is the state before it: what the head reads there is what thought j "says".
        best = head_logits(lm, thinking.last[:, :num_thoughts]).softmax(dim=-1).topk(top_tokens, dim=-1)
        tops = [tuple(tuple(slot) for slot in row) for row in best.indices.tolist()]
        shares = [tuple(tuple(slot) for slot in row) for row in best.values.tolist()]

    tokens: list[list[int]] = [[] for _ in range(num_rows)]
    probabilities: list[list[float]] = [[] for _ in range(num_rows)]
    done: dict[int, bool] = {}
    rows = list(range(num_rows))
    padded = not bool(question_mask.all())
    lengths = (question_mask.sum(dim=1) + num_thoughts + len(forced)).tolist()
    hidden = thinking.last[:, -1]
    for step in range(max_new_tokens):
        log_probabilities = head_logits(lm, hidden).log_softmax(dim=-1)
        best_value, best_id = log_probabilities.max(dim=-1)
        alive = []
        for place, (row, token, value) in enumerate(
            zip(rows, best_id.tolist(), best_value.exp().tolist(), strict=True)
        ):
            if math.isnan(value):
                raise UserError(
                    "the model's output is NaN: its weights are broken, or float16 is too narrow for it; load it in "
                    "float32 or bfloat16"
                )
            if token == eos_id:
                done[row] = True
                continue
            tokens[row].append(token)
            probabilities[row].append(value)
            if context is None or lengths[row] + len(tokens[row]) <= context:
                alive.append(place)
        if not alive or step == max_new_tokens - 1:
            break
        keep = torch.tensor(alive, device=best_id.device)
        if len(alive) < len(rows):
            sequence.select(keep)
            rows = [rows[place] for place in alive]
            best_id = best_id[keep]
        ones = torch.ones_like(best_id[:, None])
        state, _ = sequence.extend(sequence.embed(best_id[:, None]), ones, padded=padded, keep=False)
        hidden = state[:, -1]
    results = []
    for row in range(num_rows):
        num_tokens = len(tokens[row]) + (row in done)
        results.append(
            Generated(
                tokens=tuple(tokens[row]),
                probabilities=tuple(probabilities[row]),
                num_tokens=num_tokens,
                num_thoughts=num_thoughts,
                num_passes=thinking.num_passes + max(0, num_tokens - 1),
                finished=row in done,
                thought_tokens=tops[row],
                thought_probabilities=shares[row],
            )
        )
    return results
