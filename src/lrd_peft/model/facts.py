"""What can be said of a model without running it: sizes, fingerprints of weights and tokenizer.

Knows nothing of where models come from.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from lrd_peft.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import nn
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

# Names that architectures give the longest sequence; transformers maps GPT-2's n_positions to the first.
_CONTEXT_NAMES = (
    "max_position_embeddings",
    "n_positions",
    "max_seq_len",
    "max_sequence_length",
    "seq_length",
)
_DIGEST_BYTES = 16
_SAMPLED = 4096


def block_count(config: PreTrainedConfig) -> int:
    """Return the number of blocks L of the decoder; layer indices then run from 0 (embeddings) to L."""
    return _whole_number(config, "num_hidden_layers")


def hidden_size(config: PreTrainedConfig) -> int:
    """Return the width H of the hidden states."""
    return _whole_number(config, "hidden_size")


def context_length(config: PreTrainedConfig) -> int | None:
    """Return the longest sequence the model takes, or None where the configuration states no limit."""
    text_config = config.get_text_config(decoder=True)
    for name in _CONTEXT_NAMES:
        length = getattr(text_config, name, None)
        if isinstance(length, int) and length > 0:
            return length
    return None


def count_parameters(config: PreTrainedConfig) -> int:
    """Count the parameters of the causal language model of this configuration; tied weights count once.

    No weight is allocated: the model is built on torch's meta device.
    """
    return sum(parameter.numel() for parameter in meta_model(config).parameters())


def meta_model(config: PreTrainedConfig) -> PreTrainedModel:
    """Build the causal language model of this configuration without memory for its weights."""
    import torch
    from transformers import AutoModelForCausalLM

    # from_config writes the dtype and the attention into what it is given.
    config = copy.deepcopy(config)
    try:
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config)
    except ValueError as error:
        raise UserError(
            f'a configuration of type "{config.model_type}" does not make a causal language model: '
            f"{str(error).splitlines()[0]}"
        ) from error


def fingerprint_weights(lm: nn.Module) -> str:
    """Return a hash over names, dtypes, shapes and bytes of all parameters and saved buffers.

    It does not depend on the device, on the order of the parameters or on the module's mode. Tied weights are
    read once.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(_stored_tensors(lm), key=lambda item: item[0]):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(_bytes_of(tensor))  # pyright: ignore[reportArgumentType]
    return digest.hexdigest()[: 2 * _DIGEST_BYTES]


def fingerprint_base(lm: nn.Module) -> str:
    """Return a short hash that tells one base model from another at no cost: names, shapes and a sample of the values.

    Every parameter gives up to `_SAMPLED` values, evenly spaced. Another checkpoint differs in nearly all of them; a
    single flipped bit may go unseen, for which files have checksums.
    """
    digest = hashlib.sha256()
    for name, parameter in sorted(lm.named_parameters(), key=lambda item: item[0]):
        digest.update(f"{name} {parameter.dtype} {tuple(parameter.shape)}\n".encode())
        flat = parameter.detach().reshape(-1)
        digest.update(_bytes_of(flat[:: max(1, flat.numel() // _SAMPLED)]))  # pyright: ignore[reportArgumentType]
    return digest.hexdigest()[:_DIGEST_BYTES]


def fingerprint_tokenizer(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return a hash over what decides the ids of a text: vocabulary, merges, splitting, special tokens.

    Left out are padding and truncation, which every call may change, the pad token, which loading may choose,
    and the chat template.
    """
    specials = [tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id]
    get_added: Any = tokenizer.get_added_vocab
    added = dict(get_added())
    if tokenizer.pad_token_id not in specials:
        added.pop(str(tokenizer.pad_token), None)
    parts: dict[str, Any] = {"specials": specials, "added": sorted(added.items())}
    if tokenizer.is_fast:
        fast: Any = tokenizer
        backend = json.loads(fast.backend_tokenizer.to_str())
        ignored = ("padding", "truncation", "added_tokens")
        parts["backend"] = {key: value for key, value in backend.items() if key not in ignored}
    else:
        parts["vocabulary"] = sorted(tokenizer.get_vocab().items())
    text = json.dumps(parts, sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[: 2 * _DIGEST_BYTES]


def _stored_tensors(lm: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    parameters = dict(lm.named_parameters())
    yield from parameters.items()
    every_name = {name for name, _ in lm.named_parameters(remove_duplicate=False)}
    for name, value in lm.state_dict().items():
        if name not in every_name:
            yield name, value


def _bytes_of(tensor: torch.Tensor) -> np.ndarray:
    import torch

    flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return flat.numpy()


def _whole_number(config: PreTrainedConfig, name: str) -> int:
    value = getattr(config.get_text_config(decoder=True), name, None)
    if not isinstance(value, int):
        raise UserError(f'a configuration of type "{config.model_type}" states no {name}; it cannot be used here')
    return value
