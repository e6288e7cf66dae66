"""How many problems can be answered at a time: memory by formulas. Knows shapes and devices, not problems.

Bytes of one row that is answered, with T positions in all, Q of them the question's, and b bytes a number:

    cache         2 L A_kv T b          keys and values of all L blocks
    one block     Q (4 H + 2 A + 2 F) b + Q T b     its activations and the mask, the largest that are there together
    head          3 * 4 V               logits, their softmax and what that needs, in float32
"""

from __future__ import annotations

import psutil
import torch
from transformers import PreTrainedModel

from lrd_peft.model.facts import block_count, hidden_size

# The other half is for what the formulas leave out and for what else wants memory in the meantime.
USABLE = 0.5
_MLP_WIDTH = 4  # of the hidden size, where the configuration does not say


def rows_that_fit(lm: PreTrainedModel, *, question: int, positions: int, free: int | None = None) -> int:
    """Return how many rows of this length memory holds, at least 1.

    Args:
        question: tokens of the longest question.
        positions: the longest sequence: question, thoughts and what is written.
        free: bytes that there are; those of the model's device if not given.
    """
    free = _free_bytes(lm.device) if free is None else free
    return max(1, int(USABLE * free) // row_bytes(lm, question=question, positions=positions))


def row_bytes(lm: PreTrainedModel, *, question: int, positions: int) -> int:
    """Return the bytes of one row, as above."""
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
        # What torch holds and does not use is free for its next tensors.
        idle = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + idle
    return psutil.virtual_memory().available
