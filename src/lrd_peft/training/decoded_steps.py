"""How an auxiliary decoder's sums over steps become a loss (SIM-CoT, arXiv 2509.20317).

    curriculum    L_step = 1/B sum_problems  1/K sum_k  S(problem, k)          S: summed cross-entropy of a step
    both-paths    L_step = 1/|J| sum_{j in J}  sum_problems S(problem, j) / n_j

K thoughts or groups of thoughts stand for the steps of a problem, B problems are in the update. n_j counts the tokens
that thought j must write, J holds the thoughts with any. All counts are those of the whole optimizer update.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lrd_peft.config.distill_options import DistillConfig
from lrd_peft.data.collate import IGNORED
from lrd_peft.distillation import LossTerms
from lrd_peft.model.step_decoder import StepDecoder
from lrd_peft.model.thinking_output import ThinkingOutput


class DecodedSteps:
    """The step loss of an auxiliary decoder.

    Args:
        decoder: The decoder that the model carries.
        weight: Weight of the loss, above 0.

    Raises:
        UserError: If the weight is negative.
    """

    def __init__(self, decoder: StepDecoder, *, weight: float) -> None:
        self.decoder = decoder
        self.weight = DistillConfig.checked(step_loss_weight=weight).step_loss_weight

    def counts(self, batches: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """Count what the sums are divided by: problems, or tokens by thought."""
        if self.decoder.form == "curriculum":
            return {"decoded_problems": torch.tensor(sum(len(batch["index"]) for batch in batches))}
        tokens = torch.zeros(self.decoder.num_groups + 1, dtype=torch.int64)
        for batch in batches:
            if "step_groups" in batch:
                lengths = batch["step_labels"].ne(IGNORED).sum(dim=1)
                tokens.index_add_(0, batch["step_groups"].cpu(), lengths.cpu())
        return {f"decoded_tokens_{group}": tokens[group] for group in range(self.decoder.num_groups)}

    def add(self, terms: LossTerms, output: ThinkingOutput, counts: Mapping[str, Tensor | int]) -> LossTerms:
        """Add a batch's part of the weighted loss.

        Args:
            terms: Loss without this term.
            output: The model's output for the batch. It has no sums where no step has been replaced.
            counts: Counts of the whole accumulated batch.

        Returns:
            The loss with its further part `step_loss`.
        """
        step_loss: Float[Tensor, ""] = torch.zeros_like(output.loss_sum)
        if output.step_sums is not None:
            step_loss = (output.step_sums / self._divisors(counts, output.step_sums)).sum()
        return LossTerms(terms.total + self.weight * step_loss, {**terms.parts, "step_loss": step_loss.detach()})

    def _divisors(self, counts: Mapping[str, Tensor | int], sums: Tensor) -> Float[Tensor, " group"]:
        groups = range(self.decoder.num_groups)
        if self.decoder.form == "curriculum":  # group k - 1 holds the problems with k thoughts
            sizes = torch.arange(1, self.decoder.num_groups + 1, device=sums.device, dtype=sums.dtype)
            return sizes * counts["decoded_problems"]
        tokens = torch.stack(
            [torch.as_tensor(counts[f"decoded_tokens_{group}"], device=sums.device) for group in groups]
        )
        return tokens.clamp(min=1) * tokens.gt(0).sum().clamp(min=1).to(sums.dtype)
