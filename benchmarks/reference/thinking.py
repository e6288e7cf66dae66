"""A training step on continuous thoughts, in two ways that are in use (COCONUT, arXiv 2412.06769, section 3)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel


def positions_of(mask: Tensor) -> Tensor:
    """Position ids of a left-padded sequence: int64 [B, T]."""
    return (mask.cumsum(dim=1) - 1).clamp(min=0)


def rerun(
    lm: PreTrainedModel, question_ids: Tensor, question_mask: Tensor, num_thoughts: int, suffix_ids: Tensor
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Logits [B, T, V] and all hidden states [B, T, H]: the growing sequence is run again for each thought."""
    embed = lm.get_input_embeddings()
    inputs, mask = embed(question_ids), question_mask
    ones = torch.ones_like(mask[:, :1])

    def run() -> Any:
        positions = positions_of(mask)
        return lm(
            inputs_embeds=inputs,
            attention_mask=mask,
            position_ids=positions,
            output_hidden_states=True,
            use_cache=False,
        )

    for _ in range(num_thoughts):
        inputs = torch.cat([inputs, run().hidden_states[-1][:, -1:]], dim=1)
        mask = torch.cat([mask, ones], dim=1)
    inputs = torch.cat([inputs, embed(suffix_ids)], dim=1)
    mask = torch.cat([mask, ones.expand(-1, suffix_ids.shape[1])], dim=1)
    output = run()
    return output.logits, output.hidden_states


def cached(
    lm: PreTrainedModel, question_ids: Tensor, question_mask: Tensor, num_thoughts: int, suffix_ids: Tensor
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The same with a KV cache, as published training code has it.

    The embeddings of the whole sequence are taken apart and stacked again, position by position, to set in each
    thought; the head and all hidden states are computed in every pass.
    """
    num_rows, num_question = question_ids.shape
    slots = question_ids.new_zeros(num_rows, num_thoughts)
    ids = torch.cat([question_ids, slots, suffix_ids], dim=1)
    mask = torch.cat([question_mask, torch.ones_like(ids[:, num_question:])], dim=1)
    positions = positions_of(mask)
    inputs = lm.get_input_embeddings()(ids)
    past, start, logits, states = None, 0, [], []
    ends = [num_question + done for done in range(num_thoughts)] + [ids.shape[1]]
    for count, end in enumerate(ends):
        output = lm(
            inputs_embeds=inputs[:, start:end],
            attention_mask=mask[:, :end],
            position_ids=positions[:, start:end],
            past_key_values=past,
            output_hidden_states=True,
            use_cache=True,
        )
        past = output.past_key_values
        logits.append(output.logits)
        states.append(output.hidden_states)
        if count < num_thoughts:
            thought = output.hidden_states[-1][:, -1]
            parts = [[inputs[b, t] for t in range(ids.shape[1])] for b in range(num_rows)]
            for b in range(num_rows):
                parts[b][end] = thought[b]
            inputs = torch.stack([torch.stack(row) for row in parts])
        start = end
    joined = tuple(torch.cat([part[layer] for part in states], dim=1) for layer in range(len(states[0])))
    return torch.cat(logits, dim=1), joined


def task_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy with logits [B, T, V] at all positions; labels [B, S] belong to the last S of them."""
    padded = F.pad(labels, (logits.shape[1] - labels.shape[1], 0), value=-100)
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), padded[:, 1:].flatten(), ignore_index=-100)


def pad_to(ids: Tensor, mask: Tensor, num_positions: int) -> tuple[Tensor, Tensor]:
    """Left-pad questions to a fixed length."""
    missing = num_positions - ids.shape[1]
    return F.pad(ids, (missing, 0)), F.pad(mask, (missing, 0))
