"""The plain definition of thinking, for tests: no cache, no batch, the whole sequence again for each thought."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from lrd_peft.model.loop import Projection, unwrap

VOCAB = 61


def gpt2_like(seed: int = 0) -> PreTrainedModel:
    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=VOCAB,
        n_embd=24,
        n_layer=3,
        n_head=3,
        n_positions=64,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        initializer_range=0.2,
    )
    return GPT2LMHeadModel(config)


def llama_like(seed: int = 0) -> PreTrainedModel:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=24,
        intermediate_size=40,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        initializer_range=0.2,
    )
    return LlamaForCausalLM(config)


MODELS = {"gpt2": gpt2_like, "llama": llama_like}


def recompute(
    lm: nn.Module,
    question: list[int],
    num_thoughts: int,
    suffix: list[int],
    projection: Projection | None = None,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Return logits [T, V] and all hidden states ([T, H] each) of one unpadded sequence, thoughts recomputed.

    Uses the public forward of transformers only.
    """
    embed = unwrap(lm).get_input_embeddings()
    inputs = embed(torch.tensor([question]))
    for _ in range(num_thoughts):
        hidden = lm(inputs_embeds=inputs, output_hidden_states=True, use_cache=False).hidden_states[-1][:, -1:]
        inputs = torch.cat([inputs, projection(hidden) if projection else hidden], dim=1)
    if suffix:
        inputs = torch.cat([inputs, embed(torch.tensor([suffix]))], dim=1)
    output = lm(inputs_embeds=inputs, output_hidden_states=True, use_cache=False)
    return output.logits[0], tuple(state[0] for state in output.hidden_states)
