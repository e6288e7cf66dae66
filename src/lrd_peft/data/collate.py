"""Collation of encoded problems into padded batches.

question   left-padded:  . . q q q        slots must align across a batch
slots      the same number for the whole batch, or a number for each row
suffix     right-padded: s s # a e . .    remaining steps, marker, answer
steps      right-padded: s s . .          one row per step that a thought must write, if any
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

import torch
from jaxtyping import Bool, Int
from torch import Tensor

IGNORED = -100


@dataclass(frozen=True, slots=True)
class ReplacedStep:
    """Written steps that thoughts replace.

    Attributes:
        slot: Slot of the thought that must write them, from 0.
        ids: Their token ids.
        group: Group whose sum they belong to, if an auxiliary decoder writes them.
    """

    slot: int
    ids: tuple[int, ...]
    group: int | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """One problem at one stage of the curriculum.

    Attributes:
        index: Position in the data set, and in the store.
        question: Prompt ids.
        num_thoughts: Slots after the question.
        suffix: Ids after the slots.
        answer_start: Index in `suffix` of the answer's first token.
        steps: What thoughts must write; empty unless the step loss is used.
        num_unlabeled: First ids of the suffix without a label: the marker <eot>, if there is one.
    """

    index: int
    question: tuple[int, ...]
    num_thoughts: int
    suffix: tuple[int, ...]
    answer_start: int
    steps: tuple[ReplacedStep, ...] = ()
    num_unlabeled: int = 0

    @property
    def length(self) -> int:
        """Number of positions of the sequence."""
        return len(self.question) + self.num_thoughts + len(self.suffix)


class _Extras(TypedDict, total=False):
    """Entries that most batches lack."""

    row_thoughts: Int[Tensor, " batch"]
    fills: bool
    step_labels: Int[Tensor, "step word"]
    step_places: Int[Tensor, "step 2"]
    step_groups: Int[Tensor, " step"]


class Batch(_Extras):
    """A collated batch. All tensors are int64.

    Keys:
        index: Positions of the problems in the data set.
        question_ids: Prompt ids, left-padded.
        question_mask: 1 on tokens, 0 on padding.
        suffix_ids: Ids after the slots, right-padded.
        labels: The suffix ids, -100 on padding and on the marker <eot>.
        answer_start: Index in the suffix of the answer's first token.
        num_thoughts: Number of slots, the largest if rows have numbers of their own.
        row_thoughts: Number of slots of each row; missing if all are equal.
        step_labels: Ids of the steps that thoughts must write, right-padded with -100; missing if there are none.
        step_places: Row and slot of each step's thought; missing if there are none.
        step_groups: Group of each step; missing without an auxiliary decoder.
        fills: The batch runs and counts nothing; missing where it counts. The trainer takes it out.
    """

    index: Int[Tensor, " batch"]
    question_ids: Int[Tensor, "batch question"]
    question_mask: Int[Tensor, "batch question"]
    suffix_ids: Int[Tensor, "batch suffix"]
    labels: Int[Tensor, "batch suffix"]
    answer_start: Int[Tensor, " batch"]
    num_thoughts: int


def left_pad(
    sequences: Sequence[Sequence[int]], *, pad_id: int
) -> tuple[Int[Tensor, "batch question"], Int[Tensor, "batch question"]]:
    """Pad sequences on the left.

    Args:
        sequences: At least one sequence of ids.
        pad_id: Id of the padding.

    Returns:
        Ids, and a mask with 1 on tokens and 0 on padding; int64.
    """
    longest = max(len(sequence) for sequence in sequences)
    ids = torch.full((len(sequences), longest), pad_id)
    mask = torch.zeros_like(ids)
    for i, sequence in enumerate(sequences):
        if sequence:
            ids[i, -len(sequence) :] = torch.tensor(sequence)
            mask[i, -len(sequence) :] = 1
    return ids, mask


def collate(rows: Sequence[Row], *, pad_id: int) -> Batch:
    """Collate rows into a batch.

    Args:
        rows: At least one row.
        pad_id: Id of the padding.
    """
    counts = [row.num_thoughts for row in rows]
    question_ids, question_mask = left_pad([row.question for row in rows], pad_id=pad_id)
    longest = max(len(row.suffix) for row in rows)
    suffix_ids = torch.full((len(rows), longest), pad_id)
    labels = torch.full((len(rows), longest), IGNORED)
    for i, row in enumerate(rows):
        suffix_ids[i, : len(row.suffix)] = torch.tensor(row.suffix)
        labels[i, row.num_unlabeled : len(row.suffix)] = suffix_ids[i, row.num_unlabeled : len(row.suffix)]
    batch = Batch(
        index=torch.tensor([row.index for row in rows]),
        question_ids=question_ids,
        question_mask=question_mask,
        suffix_ids=suffix_ids,
        labels=labels,
        answer_start=torch.tensor([row.answer_start for row in rows]),
        num_thoughts=max(counts),
    )
    if len(set(counts)) > 1:
        batch["row_thoughts"] = torch.tensor(counts)
    steps = [(i, step) for i, row in enumerate(rows) for step in row.steps]
    if steps:
        batch["step_labels"] = torch.full((len(steps), max(len(step.ids) for _, step in steps)), IGNORED)
        for j, (_, step) in enumerate(steps):
            batch["step_labels"][j, : len(step.ids)] = torch.tensor(step.ids)
        batch["step_places"] = torch.tensor([(i, step.slot) for i, step in steps])
        groups = [step.group for _, step in steps if step.group is not None]
        if groups:
            batch["step_groups"] = torch.tensor(groups)
    return batch


def suffix_mask(
    labels: Int[Tensor, "batch suffix"], answer_start: Int[Tensor, " batch"]
) -> Bool[Tensor, "batch suffix"]:
    """Return True on the tokens of suffixes, with a label or without, and False on padding."""
    before_answer = torch.arange(labels.shape[1], device=labels.device) < answer_start[:, None]
    return (labels != IGNORED) | before_answer


def split_rows(
    row_thoughts: Int[Tensor, " batch"],
    tensors: Mapping[str, Tensor],
    *,
    step_labels: Int[Tensor, "step word"] | None = None,
    step_places: Int[Tensor, "step 2"] | None = None,
    step_groups: Int[Tensor, " step"] | None = None,
) -> list[dict[str, Any]]:
    """Split a batch into parts whose rows have equal numbers of thoughts.

    Args:
        row_thoughts: Number of slots of each row.
        tensors: Tensors with a row of the batch in each row.
        step_labels: Steps that thoughts must write.
        step_places: Row and slot of each step's thought.
        step_groups: Group of each step.

    Returns:
        One part for each number, in rising order: the tensors, `num_thoughts` and the part's steps.
    """
    parts = []
    for count in sorted(set(row_thoughts.tolist())):
        chosen = row_thoughts == count
        part: dict[str, Any] = {name: value[chosen] for name, value in tensors.items()}
        part["num_thoughts"] = count
        if step_labels is not None and step_places is not None:
            own = chosen[step_places[:, 0]]
            if own.any():
                rows = chosen.cumsum(0)[step_places[own, 0]] - 1
                part["step_labels"] = step_labels[own]
                part["step_places"] = torch.stack([rows, step_places[own, 1]], dim=1)
                if step_groups is not None:
                    part["step_groups"] = step_groups[own]
        parts.append(part)
    return parts


def to_device(batch: Batch, device: torch.device) -> dict[str, Any]:
    """Move the tensors of a batch to a device."""
    return {key: value.to(device) if isinstance(value, Tensor) else value for key, value in batch.items()}
