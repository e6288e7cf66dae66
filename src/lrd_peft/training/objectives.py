"""What a model is trained on: four objectives behind one protocol.

    task     L = L_task                                            teachers, direct, full-finetune, icot, coconut
    latent   L = alpha L_distill(states) + (1 - alpha) L_task      latent-lora, latent-full
    tokens   L = alpha L_distill(tokens) + (1 - alpha) L_task      standard-distill, distill-lora
    self     L = w L_written + L_task + weight L_distill(own states) codi, pccot

All but tokens take a further term, step_loss_weight L_step (SIM-CoT, arXiv 2509.20317), self with an auxiliary decoder
only. L_task is the mean cross-entropy of the labeled tokens. The distillation losses are defined in
`lrd_peft.distillation`.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from lrd_peft.config.distill_options import DistillConfig
from lrd_peft.config.phases import StudentConfig
from lrd_peft.data.collate import IGNORED, to_device
from lrd_peft.distillation import (
    LatentDistillationLoss,
    LossTerms,
    combine,
    self_distillation,
    token_distillation,
)
from lrd_peft.model.core import ThinkingOutput
from lrd_peft.model.fingerprints import fingerprint_tokenizer
from lrd_peft.model.thinking_model import ThinkingModel
from lrd_peft.runtime.errors import UserError
from lrd_peft.training.curriculum import Item, StageCollator
from lrd_peft.training.decoded_steps import DecodedSteps
from lrd_peft.training.teacher_states import TeacherStates

# What sums over an accumulated batch are divided by: names that the objective chooses, `labels` always among them.
Counts = Mapping[str, Int[Tensor, ""] | int]


class Objective(Protocol):
    """A loss over accumulated batches.

    Attributes:
        step_loss_weight: Weight of the step loss. Above 0, batches must contain the replaced steps.
    """

    step_loss_weight: float

    def begin(self, device: torch.device) -> None:
        """Prepare what the loss needs, such as a teacher on the device; called at the start of each training."""
        ...

    def counts(self, batches: Sequence[Mapping[str, Any]]) -> Counts:
        """Count what the losses of these batches are divided by. The trainer adds up the counts of all processes."""
        ...

    def __call__(self, model: nn.Module, batch: Mapping[str, Any], counts: Counts) -> LossTerms:
        """Compute a batch's part of the loss.

        Args:
            model: Model in training, possibly wrapped for several processes.
            batch: One collated batch (see `lrd_peft.data.collate.Batch`).
            counts: Counts of the whole accumulated batch, so that the parts add up to the loss of one large batch.

        Returns:
            The loss and its logged parts.
        """
        ...


class TaskObjective:
    """Cross-entropy of the labels: mean over the labeled tokens of an optimizer update.

    Args:
        step_loss_weight: Weight of the step loss, at least 0.
        decoded: Step loss of an auxiliary decoder, in place of the model's own.

    Raises:
        UserError: If the weight is negative.
    """

    def __init__(self, *, step_loss_weight: float = 0.0, decoded: DecodedSteps | None = None) -> None:
        weight = step_loss_weight if decoded is None else decoded.weight
        self.step_loss_weight = DistillConfig.checked(step_loss_weight=weight).step_loss_weight
        self.decoded = decoded

    def begin(self, device: torch.device) -> None:
        """Do nothing: no other model is involved."""

    def counts(self, batches: Sequence[Mapping[str, Any]]) -> Counts:
        """Count the labels, and what a step loss is divided by."""
        if self.decoded is not None:
            return {**label_counts(batches), **self.decoded.counts(batches)}
        return label_counts(batches, step_loss_weight=self.step_loss_weight)

    def __call__(self, model: nn.Module, batch: Mapping[str, Any], counts: Counts) -> LossTerms:
        """Compute a batch's part of the mean cross-entropy."""
        output: ThinkingOutput = model(**batch)
        loss = output.loss_sum / counts["labels"]
        terms = LossTerms(loss, {"task": loss.detach()} if self.step_loss_weight > 0 else {})
        if self.decoded is not None:
            return self.decoded.add(terms, output, counts)
        return add_step_loss(terms, output, counts, weight=self.step_loss_weight)


class LatentObjective:
    """Alignment of a student's hidden states with its teacher's, beside the task (SPEC.md, "Loss Formulation").

    Args:
        states: Teacher's states.
        alpha: Weight of the alignment, in [0, 1].
        alpha_schedule: `constant`, `falling` (alpha * (1 - update / updates)) or `rising` (alpha * update / updates).
        normalize: See `LatentDistillationLoss`.
        distill_loss: See `LatentDistillationLoss`.
        step_loss_weight: Weight of the step loss, at least 0.
        progress: Returns the number of finished updates and of all updates.
        seed: Seed of the draws of `thoughts_from="annealed"`.

    Raises:
        UserError: If a value is out of range.
    """

    def __init__(
        self,
        states: TeacherStates,
        *,
        alpha: float,
        alpha_schedule: str = "constant",
        normalize: str = "variance",
        distill_loss: str = "mse",
        step_loss_weight: float = 0.0,
        progress: Callable[[], tuple[int, int]] = lambda: (0, 1),
        seed: int = 0,
    ) -> None:
        DistillConfig.checked(distill_alpha=alpha, alpha_schedule=alpha_schedule, step_loss_weight=step_loss_weight)
        self.alpha, self.alpha_schedule, self.step_loss_weight = alpha, alpha_schedule, step_loss_weight
        self.states, self.plan = states, states.plan
        self.criterion = LatentDistillationLoss(tuple(self.plan.layer_map), loss=distill_loss, normalize=normalize)
        self.progress, self.seed = progress, seed
        self.variance: dict[int, float] | None = None
        self._has_begun = False

    def begin(self, device: torch.device) -> None:
        """Freeze and place an online teacher; the first time, measure its variance if the loss divides by it."""
        self.states.freeze_teacher(device)
        if not self._has_begun and self.criterion.normalize == "variance":
            self.variance = self.states.variance()
        self._has_begun = True

    def counts(self, batches: Sequence[Mapping[str, Any]]) -> Counts:
        """Count the labels and the aligned positions."""
        labels = label_counts(batches, step_loss_weight=self.step_loss_weight)
        return {**labels, "positions": sum(self.states.count(batch) for batch in batches)}

    def __call__(self, model: nn.Module, batch: Mapping[str, Any], counts: Counts) -> LossTerms:
        """Compute a batch's part of alpha L_distill + (1 - alpha) L_task."""
        assert self._has_begun, "the teacher's variance is measured at the start of the training"
        teacher, thoughts = self.states.read(batch)
        output: ThinkingOutput = model(
            **batch,
            layer_map=self.plan.layer_map,
            positions=self.plan.positions,
            teacher_thoughts=thoughts if self.feeds_teacher_thoughts() else None,
            refine_passes=self.plan.refine_passes,
        )
        matched, mask = self.states.match(teacher, batch, output)
        # There is no position at all where no problem has written steps.
        positions = counts["positions"]
        positions = positions.clamp(min=1) if isinstance(positions, Tensor) else max(1, positions)
        distill, per_layer = self.criterion(
            output.states, matched, mask=mask, variance=self.variance, num_positions=positions
        )
        task = output.loss_sum / counts["labels"]
        terms = combine(distill, task, alpha=self.scheduled_alpha(), per_layer=per_layer)
        return add_step_loss(terms, output, counts, weight=self.step_loss_weight)

    def scheduled_alpha(self) -> float:
        """Return alpha at the current update."""
        done = self._share_done()
        return self.alpha * {"constant": 1.0, "falling": 1.0 - done, "rising": done}[self.alpha_schedule]

    def feeds_teacher_thoughts(self) -> bool:
        """Return whether the student gets the teacher's thoughts at the current update."""
        if self.plan.thoughts_from == "annealed":
            return random.Random(f"{self.seed}/{self.progress()[0]}").random() >= self._share_done()
        return self.plan.thoughts_from in ("teacher", "refined")

    def _share_done(self) -> float:
        done, total = self.progress()
        return done / max(1, total)


class TokenObjective:
    """Distillation of a teacher's token distribution at the labeled positions (Hinton et al., arXiv 1503.02531).

    The frozen teacher reads the student's token ids.

    Args:
        student: Model to train.
        teacher: Teacher with the same tokenizer.
        alpha: Weight of the KL divergence, in [0, 1].
        temperature: Softmax temperature of both distributions, above 0.

    Raises:
        UserError: If the tokenizers differ or a value is out of range.
    """

    step_loss_weight = 0.0

    def __init__(self, student: ThinkingModel, teacher: ThinkingModel, *, alpha: float, temperature: float) -> None:
        StudentConfig.checked(token_alpha=alpha, temperature=temperature)
        self.alpha, self.temperature = alpha, temperature
        _check_one_tokenizer(teacher, student)
        self.teacher = teacher
        # Heads may be padded beyond the vocabulary, each to its own size.
        self._num_tokens = len(student.tokenizer)

    def begin(self, device: torch.device) -> None:
        """Freeze the teacher and move it to the device."""
        self.teacher.requires_grad_(False).eval()
        self.teacher.to(device)

    def counts(self, batches: Sequence[Mapping[str, Any]]) -> Counts:
        """Count the labels."""
        return label_counts(batches)

    def __call__(self, model: nn.Module, batch: Mapping[str, Any], counts: Counts) -> LossTerms:
        """Compute a batch's part of alpha L_distill + (1 - alpha) L_task."""
        output: ThinkingOutput = model(**batch, with_logits=True)
        with torch.no_grad():
            theirs = self.teacher(**batch, with_logits=True, with_loss=False).logits
        assert output.logits is not None
        ours, theirs = output.logits[:, : self._num_tokens], theirs[:, : self._num_tokens]
        distill = token_distillation(ours, theirs, temperature=self.temperature)
        count = counts["labels"]
        return combine(distill / count, output.loss_sum / count, alpha=self.alpha)


class SelfObjective:
    """CODI: one model learns a problem's written steps and its thoughts, which are drawn to the written path.

    The states of the two paths are compared after every block, at the position that predicts the first token of the
    answer (Shen et al., arXiv 2502.21074, section 3).

    Args:
        model: Model to train.
        items: Training problems, by their index.
        weight: Weight of the distance between the paths.
        distance: See `self_distillation`.
        scale: See `self_distillation`.
        with_embeddings: Compare layer 0 too.
        drop_last_step: Leave the last step out of the written path.
        written_weight: Weight of the written path's cross-entropy.
        decoded: Step loss of an auxiliary decoder (SIM-CoT on CODI).
    """

    def __init__(
        self,
        model: ThinkingModel,
        items: Sequence[Item],
        *,
        weight: float,
        distance: str = "smooth-l1",
        scale: str = "problem",
        with_embeddings: bool = False,
        drop_last_step: bool = False,
        written_weight: float = 1.0,
        decoded: DecodedSteps | None = None,
    ) -> None:
        self.decoded, self.step_loss_weight = decoded, 0.0 if decoded is None else decoded.weight
        self.items = [_without_last_step(item) if drop_last_step else item for item in items]
        self.weight, self.written_weight = weight, written_weight
        self.distance, self.scale = distance, scale
        self._written = StageCollator(model, stage=0, max_stage=0, thoughts_per_step=0)
        self._layers = list(range(0 if with_embeddings else 1, model.num_blocks + 1))

    def begin(self, device: torch.device) -> None:
        """Do nothing: the model is its own teacher."""

    def counts(self, batches: Sequence[Mapping[str, Any]]) -> Counts:
        """Count problems, and the labels of the thought path and of the written path."""
        indices = [i for batch in batches for i in batch["index"].tolist()]
        written = sum(len(self.items[i].encoded.suffix(0)) for i in indices)
        labels = label_counts(batches)
        if self.decoded is not None:
            labels |= self.decoded.counts(batches)
        return {**labels, "problems": torch.tensor(len(indices)), "written_labels": torch.tensor(written)}

    def __call__(self, model: nn.Module, batch: Mapping[str, Any], counts: Counts) -> LossTerms:
        """Compute a batch's part of w L_written + L_task + weight L_distill."""
        steps = self._written([self.items[i] for i in batch["index"].tolist()])
        written: ThinkingOutput = model(**to_device(steps, batch["index"].device), layers=self._layers)
        thought: ThinkingOutput = model(**batch, layers=self._layers)
        # The last position is the answer's on both paths.
        distill = self_distillation(
            {layer: state[:, -1] for layer, state in thought.states.items()},
            {layer: state[:, -1] for layer, state in written.states.items()},
            distance=self.distance,
            scale=self.scale,
        )
        distill = distill / counts["problems"]
        on_steps, on_answer = written.loss_sum / counts["written_labels"], thought.loss_sum / counts["labels"]
        total = self.written_weight * on_steps + on_answer + self.weight * distill
        parts = {"distill": distill.detach(), "task": on_answer.detach(), "written": on_steps.detach()}
        terms = LossTerms(total, parts)
        return terms if self.decoded is None else self.decoded.add(terms, thought, counts)


def _without_last_step(item: Item) -> Item:
    return dataclasses.replace(item, encoded=dataclasses.replace(item.encoded, steps=item.encoded.steps[:-1]))


def label_counts(batches: Sequence[Mapping[str, Any]], *, step_loss_weight: float = 0.0) -> dict[str, Tensor | int]:
    """Count the labels of batches, and those of the replaced steps if the step loss needs them."""
    names = ("labels", "step_labels") if step_loss_weight > 0 else ("labels",)
    return {name: sum(batch[name].ne(IGNORED).sum() for batch in batches if name in batch) for name in names}


def add_step_loss(terms: LossTerms, output: ThinkingOutput, counts: Counts, *, weight: float) -> LossTerms:
    """Add the weighted mean cross-entropy of the replaced steps, each written from its last thought.

    Args:
        terms: Loss without this term.
        output: The model's output for the batch. It has no such sum where no step has been replaced.
        counts: Counts of the whole accumulated batch, with `step_labels` if the weight is above 0.
        weight: Weight of the term; 0 leaves the loss as it is.

    Returns:
        The loss with its further part `step_loss`.
    """
    if weight == 0:
        return terms
    step_loss: Float[Tensor, ""] = torch.zeros_like(output.loss_sum)
    if output.step_loss_sum is not None:
        step_loss = output.step_loss_sum / counts["step_labels"]
    return LossTerms(terms.total + weight * step_loss, {**terms.parts, "step_loss": step_loss.detach()})


def _check_one_tokenizer(teacher: ThinkingModel, student: ThinkingModel) -> None:
    if fingerprint_tokenizer(teacher.tokenizer) != fingerprint_tokenizer(student.tokenizer):
        raise UserError(
            f"the token distributions of {teacher.name} and {student.name} cannot be compared, because their "
            "tokenizers differ: choose models with one tokenizer, or a method that aligns thoughts (latent-lora)"
        )
