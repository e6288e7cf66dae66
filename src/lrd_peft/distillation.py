"""Losses between a teacher's and a student's hidden states or tokens. Knows tensors and layer maps, no models.

    latent   L_distill = 1/M sum over M layers of  mean over positions and units of  (h_S - h_T)^2 / v_l
    tokens   L_distill = temperature^2  mean over labelled positions of  KL(p_T || p_S)
             L         = alpha L_distill + (1 - alpha) L_task
    self     L_distill = 1/M sum over M layers of  mean over units of  smooth-L1(h_thought - h_written) / s_l

v_l is the teacher's variance at layer l (`normalize="variance"`), or 1 (`normalize="none"`, SPEC.md's formula).
B rows, P positions, H the teacher's width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lrd_peft.errors import UserError, nearest

LOSSES = ("mse", "cosine", "smooth-l1")
NORMALIZATIONS = ("variance", "none")


@dataclass(frozen=True, slots=True)
class LossTerms:
    """A loss and its parts, all scalars; `per_layer` is detached."""

    total: Tensor
    distill: Tensor
    task: Tensor
    per_layer: dict[int, Tensor]


def check_alpha(alpha: float) -> float:
    """Return alpha.

    Raises:
        UserError: if it is outside [0, 1].
    """
    if not 0.0 <= alpha <= 1.0:
        raise UserError(f"distill_alpha is {alpha}; it must lie in [0, 1] (0: task loss only, 1: distillation only)")
    return alpha


def map_layers(
    teacher_layers: Sequence[int],
    *,
    teacher_blocks: int,
    student_blocks: int,
    student_layers: Sequence[int] | None = None,
) -> dict[int, int]:
    """Return teacher layer -> student layer, `hidden_states` convention (0 = inputs, l = output of block l).

    Where the student's layers are not given, by relative depth: round(l * student_blocks / teacher_blocks), half up.

    Raises:
        UserError: if a layer is out of range or repeated, or the two lists differ in length.
    """
    for name, layers, blocks in (
        ("distill_layers", teacher_layers, teacher_blocks),
        ("student_layers", student_layers or (), student_blocks),
    ):
        wrong = [layer for layer in layers if not 0 <= layer <= blocks]
        if wrong:
            raise UserError(
                f"{name} has {', '.join(map(str, wrong))}, but that model has {blocks} blocks: valid layers are "
                f"0 (inputs) to {blocks} (output of the last block, post-norm)"
            )
    if not teacher_layers:
        raise UserError("distill_layers is empty; name at least one layer of the teacher")
    if len(set(teacher_layers)) < len(teacher_layers):
        raise UserError(f"distill_layers {list(teacher_layers)} names a layer twice")
    if student_layers is None:
        return {layer: int(layer * student_blocks / teacher_blocks + 0.5) for layer in teacher_layers}
    if len(student_layers) != len(teacher_layers):
        raise UserError(
            f"student_layers has {len(student_layers)} layers and distill_layers {len(teacher_layers)}; "
            "they are paired one to one"
        )
    return dict(zip(teacher_layers, student_layers, strict=True))


class LatentDistillationLoss(nn.Module):
    """The latent distillation loss over several layers.

    Args:
        layers: the teacher's layers; both mappings given to `forward` must have them.
        loss: `mse`, `cosine` (1 - cosine similarity of the two vectors at each position) or `smooth-l1` (beta 1).
        normalize: `variance` divides by the teacher's variance at each layer (for smooth-l1, both states by its root;
            cosine has no scale); `none` is the plain formula.

    Raises:
        UserError: if a name is unknown.
    """

    def __init__(self, layers: Sequence[int], *, loss: str = "mse", normalize: str = "variance") -> None:
        super().__init__()
        for value, known, field in ((loss, LOSSES, "distill_loss"), (normalize, NORMALIZATIONS, "normalize")):
            if value not in known:
                raise UserError(f'{field} is "{value}"; it must be one of {", ".join(known)}.{nearest(value, known)}')
        self.layers = tuple(layers)
        self.loss = loss
        self.normalize = normalize

    def forward(
        self,
        student_states: Mapping[int, Tensor],
        teacher_states: Mapping[int, Tensor],
        *,
        mask: Tensor | None = None,
        variance: Mapping[int, float] | None = None,
        num_positions: Tensor | int | None = None,
    ) -> tuple[Tensor, dict[int, Tensor]]:
        """Return L_distill and its value at each layer (detached).

        Args:
            student_states, teacher_states: teacher layer -> [B, P, H], the student's already projected.
            mask: bool [B, P], the positions that count; all of them if None.
            variance: the teacher's variance at each layer; with `normalize="variance"` and None it is taken over the
                given teacher states.
            num_positions: divide by this number of positions instead of this batch's own, so that the gradients of
                accumulated batches add up to those of one large batch.
        """
        per_layer: dict[int, Tensor] = {}
        total: Tensor | None = None
        for layer in self.layers:
            # The difference of large states loses everything in half precision.
            student, teacher = student_states[layer].float(), teacher_states[layer].float().detach()
            if student.shape != teacher.shape:
                raise UserError(
                    f"layer {layer}: the student's states are {tuple(student.shape)} and the teacher's "
                    f"{tuple(teacher.shape)}; they must have the same positions and, after projection, the same width"
                )
            chosen = torch.ones(teacher.shape[:2], dtype=torch.bool, device=teacher.device) if mask is None else mask
            scale = 1.0
            if self.normalize == "variance" and self.loss != "cosine":
                scale = variance[layer] if variance is not None else teacher[chosen].var(unbiased=False).item()
                # A constant layer has nothing to scale by.
                scale = scale if scale > 0 else 1.0
            # Filled before, not multiplied after: what padding holds, even NaN, neither counts nor has a gradient.
            outside = ~chosen[:, :, None]
            student, teacher = student.masked_fill(outside, 0.0), teacher.masked_fill(outside, 0.0)
            per_position = self._per_position(student, teacher, scale) * chosen
            value = per_position.sum() / (chosen.sum() if num_positions is None else num_positions)
            per_layer[layer] = value.detach()
            total = value if total is None else total + value
        assert total is not None
        return total / len(self.layers), per_layer

    def _per_position(self, student: Tensor, teacher: Tensor, variance: float) -> Tensor:
        """[B, P, H] twice -> [B, P]."""
        if self.loss == "cosine":
            return 1.0 - F.cosine_similarity(student, teacher, dim=-1)
        if self.loss == "smooth-l1":
            root = variance**0.5
            return F.smooth_l1_loss(student / root, teacher / root, reduction="none").mean(dim=-1)
        return (student - teacher).square().mean(dim=-1) / variance


def combine(distill: Tensor, task: Tensor, *, alpha: float, per_layer: dict[int, Tensor] | None = None) -> LossTerms:
    """Return alpha * distill + (1 - alpha) * task with its parts."""
    total = alpha * distill + (1.0 - alpha) * task
    return LossTerms(total=total, distill=distill.detach(), task=task.detach(), per_layer=per_layer or {})


def token_distillation(student_logits: Tensor, teacher_logits: Tensor, *, temperature: float) -> Tensor:
    """Return temperature^2 * KL(p_T || p_S), summed over positions: logits [N, V] twice -> scalar.

    p = softmax(logits / temperature); the factor keeps the gradients' size whatever the temperature (Hinton et al.,
    arXiv 1503.02531, section 2.1). The teacher gets no gradient.
    """
    student = (student_logits.float() / temperature).log_softmax(dim=-1)
    teacher = (teacher_logits.float().detach() / temperature).log_softmax(dim=-1)
    return temperature**2 * F.kl_div(student, teacher, reduction="sum", log_target=True)


def self_distillation(thought_states: Mapping[int, Tensor], written_states: Mapping[int, Tensor]) -> Tensor:
    """Return the distance between two paths of one model, mean over layers and units, summed over problems.

    Layer -> [B, H] twice -> scalar: smooth-L1 (beta 1) over the standard deviation of the problem's own written state
    (CODI, arXiv 2502.21074, section 3). The written path gets no gradient from it.
    """
    total: Tensor | None = None
    for layer, thought in thought_states.items():
        written = written_states[layer].float().detach()
        deviation = written.std(dim=-1, unbiased=False)
        # A constant state has nothing to scale by.
        deviation = torch.where(deviation > 0, deviation, torch.ones_like(deviation))
        distance = F.smooth_l1_loss(thought.float(), written, reduction="none").mean(dim=-1)
        value = (distance / deviation).sum() / len(thought_states)
        total = value if total is None else total + value
    assert total is not None
    return total
