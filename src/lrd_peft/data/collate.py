"""Rows to batches. Knows token ids and where the answer begins; knows no models.

question   left-padded:  . . q q q        slots must align across a batch
slots      one number of thoughts for the whole batch
suffix     right-padded: s s # a e . .    remaining steps, marker, answer
steps      right-padded: s s . .          one row for each step that a thought must write, if any
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

import torch
from torch import Tensor
from typing_extensions import NotRequired

IGNORED = -100


@dataclass(frozen=True, slots=True)
class ReplacedStep:
    """Written steps that stand in thoughts: the thought that must write them (counted from 0), and their ids."""

    slot: int
    ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Row:
    """One problem at one stage of the curriculum.

    Attributes:
        index: its place in the data set, and so in the store.
        question: prompt ids.
        num_thoughts: slots after the question.
        suffix: ids after the slots; all of them carry a label.
        answer_start: index into `suffix` of the answer's first token.
        steps: what thoughts must write; empty unless the training asks for it.
    """

    index: int
    question: tuple[int, ...]
    num_thoughts: int
    suffix: tuple[int, ...]
    answer_start: int
    steps: tuple[ReplacedStep, ...] = ()

    @property
    def length(self) -> int:
        return len(self.question) + self.num_thoughts + len(self.suffix)


class Batch(TypedDict):
    """A collated batch; B rows, Q question tokens, S suffix tokens, K replaced steps of up to W tokens.

    Keys:
        index: int64 [B].
        question_ids, question_mask: int64 [B, Q], left-padded; the mask is 1 on tokens.
        suffix_ids: int64 [B, S], right-padded.
        labels: int64 [B, S], the suffix ids, -100 on padding.
        answer_start: int64 [B].
        num_thoughts: the batch's number of slots.
        step_labels: int64 [K, W], right-padded, -100 on padding; left out, as is `step_places`, where K is 0.
        step_places: int64 [K, 2], row and slot of the thought that must write it.
    """

    index: Tensor
    question_ids: Tensor
    question_mask: Tensor
    suffix_ids: Tensor
    labels: Tensor
    answer_start: Tensor
    num_thoughts: int
    step_labels: NotRequired[Tensor]
    step_places: NotRequired[Tensor]


def left_pad(sequences: Sequence[Sequence[int]], *, pad_id: int) -> tuple[Tensor, Tensor]:
    """Return ids and mask, int64 [B, Q], of sequences that end together."""
    longest = max(len(sequence) for sequence in sequences)
    ids = torch.full((len(sequences), longest), pad_id)
    mask = torch.zeros_like(ids)
    for i, sequence in enumerate(sequences):
        if sequence:
            ids[i, -len(sequence) :] = torch.tensor(sequence)
            mask[i, -len(sequence) :] = 1
    return ids, mask


def collate(rows: Sequence[Row], *, pad_id: int) -> Batch:
    """Make a batch of rows that have one number of thoughts."""
    counts = {row.num_thoughts for row in rows}
    assert len(counts) == 1, f"rows of one batch need one number of thoughts, got {sorted(counts)}"
    question_ids, question_mask = left_pad([row.question for row in rows], pad_id=pad_id)
    longest = max(len(row.suffix) for row in rows)
    suffix_ids = torch.full((len(rows), longest), pad_id)
    labels = torch.full((len(rows), longest), IGNORED)
    for i, row in enumerate(rows):
        suffix_ids[i, : len(row.suffix)] = torch.tensor(row.suffix)
        labels[i, : len(row.suffix)] = suffix_ids[i, : len(row.suffix)]
    batch = Batch(
        index=torch.tensor([row.index for row in rows]),
        question_ids=question_ids,
        question_mask=question_mask,
        suffix_ids=suffix_ids,
        labels=labels,
        answer_start=torch.tensor([row.answer_start for row in rows]),
        num_thoughts=counts.pop(),
    )
    steps = [(i, step) for i, row in enumerate(rows) for step in row.steps]
    if steps:
        batch["step_labels"] = torch.full((len(steps), max(len(step.ids) for _, step in steps)), IGNORED)
        for j, (_, step) in enumerate(steps):
            batch["step_labels"][j, : len(step.ids)] = torch.tensor(step.ids)
        batch["step_places"] = torch.tensor([(i, step.slot) for i, step in steps])
    return batch


def to_device(batch: Batch, device: torch.device) -> dict[str, Any]:
    """Return the batch with its tensors on a device."""
    return {key: value.to(device) if isinstance(value, Tensor) else value for key, value in batch.items()}
