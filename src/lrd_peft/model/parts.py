"""The parts of a causal LM: its decoder and its head."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils.generic import ModelOutput

from lrd_peft.model.inspection import unwrap
from lrd_peft.model.paths import paths_of

# Factors between the hidden states and the logits, by their names in configurations.
_HEAD_FACTORS = ("logit_scale", "logits_scaling", "final_logit_softcapping")


def decoder_of(lm: nn.Module) -> nn.Module:
    """Return the part of a causal LM below its head, which returns the last hidden states."""
    inner = unwrap(lm)
    base = inner.base_model
    if base is not inner:
        return base
    # Llama 4's text model names a prefix that it does not have.
    return next((child for child in inner.children() if isinstance(child, PreTrainedModel)), inner)


# Names of the norm after the last block.
_FINAL_NORMS = ("norm", "ln_f", "final_layer_norm", "final_layernorm", "final_norm", "norm_f")


def final_norm(lm: nn.Module) -> nn.Module | None:
    """Return the norm between the last block and the head, or None if it is not known.

    Args:
        lm: Causal LM, PEFT-wrapped or not.
    """
    decoder = decoder_of(lm)
    return next(
        (module for name in _FINAL_NORMS if isinstance(module := getattr(decoder, name, None), nn.Module)), None
    )


def head_logits(lm: nn.Module, hidden: Float[Tensor, "*positions hidden"]) -> Float[Tensor, "*positions vocabulary"]:
    """Apply the LM head to chosen positions.

    Args:
        lm: Causal LM, PEFT-wrapped or not.
        hidden: Last hidden states, post-norm.

    Returns:
        Logits, at least float32, equal to the model's own: the scaling of Cohere's and Granite's heads and the
        soft-capping of Gemma's are included, and any other head is run by the model itself.
    """
    if paths_of(lm).own_head:
        return own_logits(lm, hidden)
    inner = unwrap(lm)
    head = inner.get_output_embeddings()
    assert head is not None, "a causal LM has a head"
    logits = _widened(head(hidden))
    config = inner.config.get_text_config()
    scale = getattr(config, "logit_scale", None)
    if scale is not None:
        logits = logits * scale
    divisor = getattr(config, "logits_scaling", None)
    if divisor is not None:
        logits = logits / divisor
    cap = getattr(config, "final_logit_softcapping", None)
    return logits if cap is None else torch.tanh(logits / cap) * cap


def own_logits(lm: nn.Module, hidden: Float[Tensor, "*positions hidden"]) -> Float[Tensor, "*positions vocabulary"]:
    """Apply the LM head to chosen positions by the model's own forward pass, with its decoder replaced by `hidden`.

    Args:
        lm: Causal LM, PEFT-wrapped or not.
        hidden: Last hidden states, post-norm.

    Returns:
        Logits, at least float32.
    """
    inner, decoder = unwrap(lm), decoder_of(lm)
    flat = hidden.reshape(1, -1, hidden.shape[-1])
    # OPT and BART call a model inside of the one below their head.
    replaced = [part for part in decoder.modules() if part is decoder or isinstance(part, PreTrainedModel)]
    before = [vars(part).get("forward") for part in replaced]
    for part in replaced:
        part.forward = lambda *args, **kwargs: _Given(last_hidden_state=flat)
    try:
        logits = inner(inputs_embeds=flat, use_cache=False).logits
    finally:
        for part, forward in zip(replaced, before, strict=True):
            del part.forward
            if forward is not None:
                part.forward = forward
    return _widened(logits.reshape(*hidden.shape[:-1], -1))


def has_plain_head(lm: nn.Module) -> bool:
    """Return whether the LM head is a single matrix without bias, scaling, capping, adapters or hooks."""
    inner = unwrap(lm)
    head = inner.get_output_embeddings()
    config = inner.config.get_text_config()
    return (
        type(head) is nn.Linear
        and head.bias is None
        and type(head.weight) is nn.Parameter  # not sharded, not quantized
        and "forward" not in vars(head)
        and not (head._forward_hooks or head._forward_pre_hooks)
        and all(getattr(config, name, None) is None for name in _HEAD_FACTORS)
        and not paths_of(lm).own_head
    )


def _widened(logits: Tensor) -> Tensor:
    # Half precision is not enough for a log-softmax over a vocabulary.
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


@dataclass
class _Given(ModelOutput):
    """Output of a decoder that was not run; every other output is None."""

    last_hidden_state: Any = None

    def __getattr__(self, name: str) -> None:
        if name.startswith("__"):
            raise AttributeError(name)
