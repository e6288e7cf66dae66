"""Facts about an architecture that need no weights: depth, width, context, parameter count, the model in adapters."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

from lrd_peft.runtime.errors import UserError

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedConfig, PreTrainedModel

# Names under which architectures keep their longest sequence; transformers maps GPT-2's n_positions to the first.
_CONTEXT_NAMES = (
    "max_position_embeddings",
    "n_positions",
    "max_seq_len",
    "max_sequence_length",
    "seq_length",
)


def block_count(config: PreTrainedConfig) -> int:
    """Return the number of decoder blocks L. Layer indices run from 0 (embeddings) to L."""
    count = _whole_number(config, "num_hidden_layers")
    # LongCat counts two attention layers for each of its blocks.
    blocks = getattr(config.get_text_config(decoder=True), "num_layers", None)
    return min(count, blocks) if isinstance(blocks, int) else count


def hidden_size(config: PreTrainedConfig) -> int:
    """Return the width of the hidden states."""
    return _whole_number(config, "hidden_size")


def context_length(config: PreTrainedConfig) -> int | None:
    """Return the longest sequence in tokens, or None if the configuration states no limit."""
    text_config = config.get_text_config(decoder=True)
    for name in _CONTEXT_NAMES:
        length = getattr(text_config, name, None)
        if isinstance(length, int) and length > 0:
            return length
    return None


def count_parameters(config: PreTrainedConfig) -> int:
    """Count the parameters of the causal LM with this configuration, tied weights once, without allocating them."""
    return sum(parameter.numel() for parameter in meta_model(config).parameters())


def meta_model(config: PreTrainedConfig) -> PreTrainedModel:
    """Build the causal LM with this configuration on torch's meta device, without memory for its weights.

    Raises:
        UserError: If the configuration does not describe a causal LM.
    """
    import torch
    from transformers import AutoModelForCausalLM

    # from_config writes the dtype and the attention into its argument.
    config = copy.deepcopy(config)
    try:
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config)
    except ValueError as error:
        raise UserError(
            f'a configuration of type "{config.model_type}" does not make a causal language model: '
            f"{str(error).splitlines()[0]}"
        ) from error


def unwrap(lm: nn.Module) -> PreTrainedModel:
    """Return the transformers model inside a PEFT model, or the model itself. Adapters stay active."""
    from peft import PeftModel
    from transformers import PreTrainedModel

    inner = lm.get_base_model() if isinstance(lm, PeftModel) else lm
    assert isinstance(inner, PreTrainedModel)
    return inner


def _whole_number(config: PreTrainedConfig, name: str) -> int:
    value = getattr(config.get_text_config(decoder=True), name, None)
    if not isinstance(value, int):
        raise UserError(f'a configuration of type "{config.model_type}" has no {name}, which is required here')
    return value
