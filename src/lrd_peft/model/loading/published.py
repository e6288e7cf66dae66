"""Configurations of a few well-known hub models, as their authors published them.

A dry run uses them to count parameters on a machine that cannot reach the hub.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

_LLAMA2: dict[str, Any] = {"max_position_embeddings": 4096, "rms_norm_eps": 1e-5}
_LLAMA2_13B: dict[str, Any] = _LLAMA2 | {
    "hidden_size": 5120,
    "intermediate_size": 13824,
    "num_hidden_layers": 40,
    "num_attention_heads": 40,
    "num_key_value_heads": 40,
}
_GPT2_MEDIUM: dict[str, Any] = {"n_embd": 1024, "n_layer": 24, "n_head": 16}
_LLAMA_3_2_1B: dict[str, Any] = {
    "vocab_size": 128_256,
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "max_position_embeddings": 131_072,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": True,
}

# Hub id -> model type, and the differences from that type's default configuration in transformers.
PUBLISHED: dict[str, tuple[str, dict[str, Any]]] = {
    "meta-llama/Llama-2-7b-hf": ("llama", _LLAMA2),
    "meta-llama/Llama-2-13b-hf": ("llama", _LLAMA2_13B),
    "meta-llama/Llama-3.2-1B": ("llama", _LLAMA_3_2_1B),
    "meta-llama/Llama-3.2-1B-Instruct": ("llama", _LLAMA_3_2_1B),
    "mistralai/Mistral-7B-v0.1": ("mistral", {}),
    "gpt2": ("gpt2", {}),
    "openai-community/gpt2": ("gpt2", {}),
    "gpt2-medium": ("gpt2", _GPT2_MEDIUM),
    "openai-community/gpt2-medium": ("gpt2", _GPT2_MEDIUM),
}


def published_config(name: str) -> PreTrainedConfig:
    """Return the published configuration of one of the `PUBLISHED` hub models."""
    from transformers import AutoConfig

    model_type, values = PUBLISHED[name]
    return AutoConfig.for_model(model_type, **values)
