"""Sizes of a few well-known hub models, as their authors published them. Knows configurations, never weights.

They let a dry run tell parameter counts on a machine that does not reach the hub.
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

# Hub id -> model type, and what differs from the defaults of transformers' configuration class of that type.
PUBLISHED: dict[str, tuple[str, dict[str, Any]]] = {
    "meta-llama/Llama-2-7b-hf": ("llama", _LLAMA2),
    "meta-llama/Llama-2-13b-hf": ("llama", _LLAMA2_13B),
    "gpt2": ("gpt2", {}),
    "openai-community/gpt2": ("gpt2", {}),
    "gpt2-medium": ("gpt2", _GPT2_MEDIUM),
    "openai-community/gpt2-medium": ("gpt2", _GPT2_MEDIUM),
}


def published_config(name: str) -> PreTrainedConfig:
    """Return the published configuration of a hub model in `PUBLISHED`."""
    from transformers import AutoConfig

    model_type, values = PUBLISHED[name]
    return AutoConfig.for_model(model_type, **values)
