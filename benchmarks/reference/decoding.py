"""Answering: one problem at a time, no cache, the whole sequence again for each thought and each token."""

from __future__ import annotations

import torch
from transformers import PreTrainedModel


@torch.no_grad()
def solve(
    lm: PreTrainedModel,
    question: tuple[int, ...],
    *,
    num_thoughts: int,
    forced: tuple[int, ...],
    max_new_tokens: int,
    eos_id: int,
) -> tuple[int, ...]:
    """Return the tokens that a model writes greedily after its thoughts and the forced ids."""
    embed = lm.get_input_embeddings()
    inputs = embed(torch.tensor([question]))
    for _ in range(num_thoughts):
        output = lm(inputs_embeds=inputs, output_hidden_states=True, use_cache=False)
        inputs = torch.cat([inputs, output.hidden_states[-1][:, -1:]], dim=1)
    if forced:
        inputs = torch.cat([inputs, embed(torch.tensor([forced]))], dim=1)
    written: list[int] = []
    for _ in range(max_new_tokens):
        token = int(lm(inputs_embeds=inputs, use_cache=False).logits[0, -1].argmax())
        if token == eos_id:
            break
        written.append(token)
        inputs = torch.cat([inputs, embed(torch.tensor([[token]]))], dim=1)
    return tuple(written)
