"""Distilling from a teacher that runs beside the student, all positions padded to one length, heads and all states."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from benchmarks.reference.thinking import pad_to, rerun, task_loss


def chosen(states: Tensor, *, num_question: int, num_thoughts: int, answer_start: Tensor) -> Tensor:
    """The slots and the position that predicts the answer: [B, T, H] -> [B, N + 1, H]."""
    slots = torch.arange(num_question, num_question + num_thoughts).expand(len(answer_start), -1)
    where = torch.cat([slots, (num_question + num_thoughts + answer_start - 1)[:, None]], dim=1)
    return states.gather(1, where[:, :, None].expand(-1, -1, states.shape[-1]))


@torch.no_grad()
def online_states(
    teacher: PreTrainedModel,
    question_ids: Tensor,
    question_mask: Tensor,
    num_thoughts: int,
    suffix_ids: Tensor,
    answer_start: Tensor,
    *,
    layers: Sequence[int],
    num_positions: int,
) -> dict[int, Tensor]:
    """Layer -> [B, N + 1, H] of a teacher that is run for this batch, padded to `num_positions` question tokens."""
    ids, mask = pad_to(question_ids, question_mask, num_positions)
    _, states = rerun(teacher, ids, mask, num_thoughts, suffix_ids)
    where = {"num_question": num_positions, "num_thoughts": num_thoughts, "answer_start": answer_start}
    return {layer: chosen(states[layer], **where) for layer in layers}


def loss(
    student: PreTrainedModel,
    teacher_states: Mapping[int, Tensor],
    question_ids: Tensor,
    question_mask: Tensor,
    num_thoughts: int,
    suffix_ids: Tensor,
    labels: Tensor,
    answer_start: Tensor,
    *,
    layer_map: Mapping[int, int],
    variance: Mapping[int, float],
    alpha: float,
    num_positions: int,
) -> Tensor:
    """alpha times the mean over layers of MSE / variance, plus (1 - alpha) times the cross-entropy."""
    ids, mask = pad_to(question_ids, question_mask, num_positions)
    logits, states = rerun(student, ids, mask, num_thoughts, suffix_ids)
    where = {"num_question": num_positions, "num_thoughts": num_thoughts, "answer_start": answer_start}
    distances = [
        (chosen(states[own], **where) - teacher_states[layer]).square().mean() / variance[layer]
        for layer, own in layer_map.items()
    ]
    return alpha * torch.stack(distances).mean() + (1.0 - alpha) * task_loss(logits, labels)
