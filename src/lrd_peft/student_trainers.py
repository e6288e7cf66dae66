"""Trainers of the students that no store is read for: from a teacher's tokens, from their own written steps.

    tokens   L = alpha temperature^2 KL(p_T || p_S) + (1 - alpha) L_task             standard-distill, distill-lora
    self     L = L_written + L_thoughts + weight  L_distill                          codi, pccot

Know models and batches, not run folders. The losses themselves are in distillation.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainingArguments

from lrd_peft.curriculum import Item, StageCollator
from lrd_peft.distillation import check_alpha, combine, self_distillation, token_distillation
from lrd_peft.errors import UserError
from lrd_peft.model.facts import fingerprint_tokenizer
from lrd_peft.model.thinking_model import ThinkingModel, ThinkingOutput
from lrd_peft.training import ThinkingTrainer


class TokenDistillationTrainer(ThinkingTrainer):
    """Trains on the labels and on a teacher's distribution over tokens at the labelled positions.

    The frozen teacher runs beside the student on the same token ids.

    Args:
        teacher: the teacher; its tokenizer must be the student's.
        alpha: weight of the KL, in [0, 1].
        temperature: of both distributions.

    Raises:
        UserError: if the tokenizers differ or a value is out of range.
    """

    def __init__(
        self,
        model: ThinkingModel,
        *,
        teacher: ThinkingModel,
        alpha: float,
        temperature: float,
        items: Sequence[Item],
        collator: StageCollator,
        args: TrainingArguments,
        label: str = "training",
    ) -> None:
        self.alpha = check_alpha(alpha)
        if not temperature > 0:
            raise UserError(f"temperature is {temperature}; it must be above 0")
        self.temperature = temperature
        check_one_tokenizer(teacher, model)
        super().__init__(model, items=items, collator=collator, args=args, label=label)
        self.teacher = teacher.requires_grad_(False).eval().to(self.args.device)
        # Heads may be padded beyond the vocabulary, each to a size of its own.
        self._num_tokens = len(model.tokenizer)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        output: ThinkingOutput = model(**inputs, with_logits=True)
        with torch.no_grad():
            theirs = self.teacher(**inputs, with_logits=True, with_loss=False).logits
        assert output.logits is not None
        ours, theirs = output.logits[:, : self._num_tokens], theirs[:, : self._num_tokens]
        distill = token_distillation(ours, theirs, temperature=self.temperature)
        count = output.num_labels if num_items_in_batch is None else num_items_in_batch
        terms = combine(distill / count, output.loss_sum / count, alpha=self.alpha)
        self.note(loss=terms.total, distill=terms.distill, task=terms.task)
        loss = terms.total * self.accelerator.num_processes
        return (loss, output) if return_outputs else loss


def check_one_tokenizer(teacher: ThinkingModel, student: ThinkingModel) -> None:
    """Raise a UserError unless the two have one tokenizer."""
    if fingerprint_tokenizer(teacher.tokenizer) != fingerprint_tokenizer(student.tokenizer):
        raise UserError(
            f"the token distributions of {teacher.name} and {student.name} cannot be compared (other tokenizers): "
            "choose models with one tokenizer, or a method that aligns thoughts (latent-lora)"
        )


class SelfDistillationTrainer(ThinkingTrainer):
    """Trains one model on both paths of a problem, and draws the thought path to the written one (CODI).

    The collator makes the thought path; the written one is the same problem with all its steps. Their states are
    compared after every block, at the position that predicts the answer's first token.

    Args:
        weight: of the distance between the paths.
    """

    def __init__(
        self,
        model: ThinkingModel,
        *,
        weight: float,
        items: Sequence[Item],
        collator: StageCollator,
        args: TrainingArguments,
        label: str = "training",
    ) -> None:
        super().__init__(model, items=items, collator=collator, args=args, label=label)
        self.weight = weight
        self._items = list(items)
        self._written = StageCollator(model, stage=0, max_stage=0, thoughts_per_step=0)
        self._layers = list(range(1, model.num_blocks + 1))
        self._counts: Tensor = torch.zeros(2)

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> Any:
        """Count labels of the thought path as always; beside them problems and labels of the written path."""
        indices = [i for batch in batch_samples for i in batch["index"].tolist()]
        written = sum(len(self._items[i].encoded.suffix(0)) for i in indices)
        self._counts = torch.tensor([len(indices), written], device=device)
        if self.args.world_size > 1:
            self._counts = self.accelerator.gather(self._counts).reshape(-1, 2).sum(dim=0)  # pyright: ignore
        return super()._get_num_items_in_batch(batch_samples, device)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        indices = inputs["index"].tolist()
        batch: Any = self._prepare_inputs(self._written([self._items[i] for i in indices]))  # pyright: ignore
        written: ThinkingOutput = model(**batch, layers=self._layers)
        thought: ThinkingOutput = model(**inputs, layers=self._layers)
        # The last position is the answer's, with thoughts before it or without.
        distill = self_distillation(
            {layer: state[:, -1] for layer, state in thought.states.items()},
            {layer: state[:, -1] for layer, state in written.states.items()},
        )
        num_problems, num_written, num_labels = len(indices), written.num_labels, thought.num_labels
        if num_items_in_batch is not None:
            num_problems, num_written = self._counts
            num_labels = num_items_in_batch
        distill = distill / num_problems
        on_steps, on_answer = written.loss_sum / num_written, thought.loss_sum / num_labels
        total = on_steps + on_answer + self.weight * distill
        self.note(loss=total, distill=distill, task=on_answer, written=on_steps)
        loss = total * self.accelerator.num_processes
        return (loss, thought) if return_outputs else loss
