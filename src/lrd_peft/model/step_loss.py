"""The step loss: the model must write each step from its thought (SIM-CoT).

    inputs    t     E(w_1) ... E(w_{n-1})        t: the last thought of a step, as it is fed back; w: the step's tokens
    labels    w_1   w_2    ... w_n

(SIM-CoT, Wei et al., arXiv 2509.20317: a decoder must write step j from thought j.) The decoder is the model itself.
Each step is a separate sequence that starts at position 0 with the thought.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from lrd_peft.data.collate import IGNORED
from lrd_peft.model.fused import summed_cross_entropy
from lrd_peft.model.inspection import unwrap
from lrd_peft.model.parts import decoder_of


def summed_step_loss(
    lm: nn.Module,
    thoughts: Float[Tensor, "batch thought hidden"],
    *,
    labels: Int[Tensor, "step word"],
    places: Int[Tensor, "step 2"],
) -> Float[Tensor, ""]:
    """Compute the summed cross-entropy of steps, each written from its thought alone.

    One pass over all steps. Gradients flow through the thoughts.

    Args:
        lm: Causal LM, PEFT-wrapped or not.
        thoughts: Inputs at the slots.
        labels: Tokens of the steps, right-padded with -100.
        places: Row and slot of each step's thought.

    Returns:
        The sum over all tokens of all steps, at least float32.
    """
    inner = unwrap(lm)
    first = thoughts[places[:, 0], places[:, 1]][:, None]
    # Padding may be any token and needs no mask: it comes after everything that a label attends to.
    rest = inner.get_input_embeddings()(labels[:, :-1].clamp(min=0))
    output = decoder_of(lm)(inputs_embeds=torch.cat([first, rest], dim=1), use_cache=False)
    labelled = labels != IGNORED
    return summed_cross_entropy(lm, output.last_hidden_state[labelled], labels[labelled])
