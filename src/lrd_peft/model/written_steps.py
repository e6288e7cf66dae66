"""Steps written from thoughts: the auxiliary loss of SIM-CoT. Knows thoughts and token ids, not problems.

    inputs    t     E(w_1) ... E(w_{n-1})        t: the last thought of a step, as it is fed back; w: the step's tokens
    labels    w_1   w_2    ... w_n

(SIM-CoT, Wei et al., arXiv 2509.20317: a decoder must write step j from thought j.) The decoder is the model itself.
Each step is a sequence of its own, from position 0, with nothing before the thought.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lrd_peft.data.collate import IGNORED
from lrd_peft.model.fused import summed_cross_entropy
from lrd_peft.model.thinking import unwrap


def summed_step_loss(lm: nn.Module, thoughts: Tensor, *, labels: Tensor, places: Tensor) -> Tensor:
    """Return the summed cross-entropy of K steps, each written from its thought alone, at least float32.

    One pass over all steps; gradients go on through the thoughts.

    Args:
        lm: a causal LM, PEFT-wrapped or not.
        thoughts: [B, N, H], the inputs at the slots.
        labels: int64 [K, W], the steps' tokens, right-padded with -100.
        places: int64 [K, 2], row and slot of each step's thought.
    """
    inner = unwrap(lm)
    first = thoughts[places[:, 0], places[:, 1]][:, None]
    # Any token will do for padding: it comes after all that a label sees, so no mask is needed either.
    rest = inner.get_input_embeddings()(labels[:, :-1].clamp(min=0))
    output = inner.base_model(inputs_embeds=torch.cat([first, rest], dim=1), use_cache=False)
    labelled = labels != IGNORED
    return summed_cross_entropy(lm, output.last_hidden_state[labelled], labels[labelled])
