"""Hashes that tell one model, one base or one tokenizer from another."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

_DIGEST_BYTES = 16
_SAMPLED = 4096


def fingerprint_weights(lm: nn.Module) -> str:
    """Hash the names, dtypes, shapes and bytes of all parameters and persistent buffers.

    The hash is independent of the device, the order of the parameters and the module's mode. Tied weights count once.

    Args:
        lm: Any module.

    Returns:
        32 hexadecimal digits.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(_stored_tensors(lm), key=lambda item: item[0]):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(_bytes_of(tensor))  # pyright: ignore[reportArgumentType]
    return digest.hexdigest()[: 2 * _DIGEST_BYTES]


def fingerprint_base(lm: nn.Module) -> str:
    """Hash names, shapes and a sample of the values: a cheap way to tell base models apart.

    Every parameter contributes up to `_SAMPLED` evenly spaced values. Different checkpoints differ in almost all of
    them. A single flipped bit may go unnoticed; checksums of the files cover that.

    Args:
        lm: Any module.

    Returns:
        16 hexadecimal digits.
    """
    digest = hashlib.sha256()
    for name, parameter in sorted(lm.named_parameters(), key=lambda item: item[0]):
        digest.update(f"{name} {parameter.dtype} {tuple(parameter.shape)}\n".encode())
        if parameter.is_meta:  # built without weights, for counting
            continue
        flat = parameter.detach().reshape(-1)
        digest.update(_bytes_of(flat[:: max(1, flat.numel() // _SAMPLED)]))  # pyright: ignore[reportArgumentType]
    return digest.hexdigest()[:_DIGEST_BYTES]


def fingerprint_tokenizer(tokenizer: PreTrainedTokenizerBase) -> str:
    """Hash what determines the ids of a text: vocabulary, merges, pre-tokenization, special tokens.

    Excluded are padding and truncation, which every call may change, the pad token, which loading may choose, and the
    chat template.

    Args:
        tokenizer: Fast or slow tokenizer.

    Returns:
        32 hexadecimal digits.
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
    flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return flat.numpy()
