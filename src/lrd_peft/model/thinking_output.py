"""What one forward pass of a thinking model returns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(slots=True)
class ThinkingOutput:
    """Output of a batch. P positions are kept, chosen by `positions` of `ThinkingModel.forward`.

    Attributes:
        loss_sum: Summed cross-entropy over the labeled suffix positions, float32.
        num_labels: Number of those positions, int64.
        states: Layer index -> hidden states at the kept positions.
        valid: False where a row has no such position.
        mask: Positions that a loss may use: the valid ones except the first token.
        thoughts: Inputs at the slots.
        logits: Logits at the labeled positions, row by row, at least float32; None unless requested.
        step_loss_sum: Summed cross-entropy of the steps that thoughts must write; None if the batch has none.
        step_sums: The same by an auxiliary decoder, for each of its groups; None without one.
    """

    loss_sum: Float[Tensor, ""]
    num_labels: Int[Tensor, ""]
    states: dict[int, Float[Tensor, "batch position hidden"]]
    valid: Bool[Tensor, "batch position"]
    mask: Bool[Tensor, "batch position"]
    thoughts: Float[Tensor, "batch thought hidden"]
    logits: Float[Tensor, "label vocabulary"] | None = None
    step_loss_sum: Float[Tensor, ""] | None = None
    step_sums: Float[Tensor, " group"] | None = None


def summed_outputs(outputs: Sequence[ThinkingOutput]) -> ThinkingOutput:
    """Add up the losses of parts of a batch."""
    steps = [output.step_loss_sum for output in outputs if output.step_loss_sum is not None]
    decoded = [output.step_sums for output in outputs if output.step_sums is not None]
    first = outputs[0]
    return ThinkingOutput(
        loss_sum=torch.stack([output.loss_sum for output in outputs]).sum(),
        num_labels=torch.stack([output.num_labels for output in outputs]).sum(),
        states={},
        valid=first.valid[:, :0],
        mask=first.mask[:, :0],
        thoughts=first.thoughts[:, :0],
        step_loss_sum=torch.stack(steps).sum() if steps else None,
        step_sums=torch.stack(decoded).sum(dim=0) if decoded else None,
    )
