"""Estimate of how many problems fit into memory at a time.

Bytes per row, with T positions in all, Q of them of the question, and b bytes per number:

    cache         2 L A_kv T b          keys and values of all L blocks
    one block     Q (4 H + 2 A + 2 F) b + Q T b     activations and mask, the largest that coexist
    head          3 * 4 V               logits, softmax and its workspace, in float32
"""

from __future__ import annotations

import psutil
import torch
from transformers import PreTrainedModel

from lrd_peft.model.inspection import block_count, hidden_size

# The other half covers what the formulas leave out, and other users of the memory.
USABLE = 0.5
_MLP_WIDTH = 4  # times the hidden size, if the configuration has no width


def rows_that_fit(lm: PreTrainedModel, *, question: int, positions: int, free: int | None = None) -> int:
    """Estimate how many rows fit into memory.

    Args:
        lm: Causal LM of transformers.
        question: Longest question in tokens.
        positions: Longest sequence in tokens: question, thoughts and generated text.
        free: Free memory in bytes; by default that of the model's device.

    Returns:
        Number of rows, at least 1.
    """
    free = _free_bytes(lm.device) if free is None else free
    return max(1, int(USABLE * free) // row_bytes(lm, question=question, positions=positions))


def row_bytes(lm: PreTrainedModel, *, question: int, positions: int) -> int:
    """Return the estimated bytes of one row; see the module's formulas."""
    config = lm.config.get_text_config(decoder=True)
    width, heads = hidden_size(lm.config), config.num_attention_heads
    head_width = getattr(config, "head_dim", None) or width // heads
    kv_width = (getattr(config, "num_key_value_heads", None) or heads) * head_width
    mlp_width = getattr(config, "intermediate_size", None) or _MLP_WIDTH * width
    item = lm.dtype.itemsize
    cache = 2 * block_count(lm.config) * kv_width * positions * item
    block = question * (4 * width + 2 * heads * head_width + 2 * mlp_width + positions) * item
    return cache + block + 3 * torch.float32.itemsize * config.vocab_size


def _free_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        # Memory that torch has reserved but does not use is free for its next tensors.
        idle = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + idle
    return psutil.virtual_memory().available
