"""Distillation losses between hidden states or token distributions, and the teacher-to-student layer map.

    latent   L_distill = 1/M  sum over M layers of   mean over positions and units of  (h_S - h_T)^2 / v_l
    tokens   L_distill = temperature^2  mean over labeled positions of  KL(p_T || p_S)
             L         = alpha L_distill + (1 - alpha) L_task
    self     L_distill = 1/M  sum over M layers of   mean over units of  d(h_thought - h_written) / s_l

v_l is the teacher's variance at layer l (`normalize="variance"`) or 1 (`normalize="none"`, SPEC.md's formula).
d is smooth-L1, L1 or the square; s_l is the standard deviation of the written state (its square for d = the square).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from lrd_peft.config.choices import DistillLoss, Normalization, SelfDistance, SelfScale, check_choice
from lrd_peft.runtime.errors import UserError


@dataclass(frozen=True, slots=True)
class LossTerms:
    """A loss and the parts that are logged with it.

    Attributes:
        total: Scalar to differentiate.
        parts: Detached scalars by their name in the log, for example `distill`, `task`, `distill_layer_8`.
    """

    total: Float[Tensor, ""]
    parts: Mapping[str, Float[Tensor, ""]]


def map_layers(
    teacher_layers: Sequence[int],
    *,
    teacher_blocks: int,
    student_blocks: int,
    student_layers: Sequence[int] | None = None,
) -> dict[int, int]:
    """Pair teacher layers with student layers.

    Layers are indices into transformers' `hidden_states`: 0 is the embeddings, l the output of block l.

    Args:
        teacher_layers: Distinct teacher layers to distill.
        teacher_blocks: Number of blocks of the teacher.
        student_blocks: Number of blocks of the student.
        student_layers: One student layer per teacher layer. None maps by relative depth:
            round(l * student_blocks / teacher_blocks), half up.

    Returns:
        Teacher layer -> student layer, in the order of `teacher_layers`.

    Raises:
        UserError: If a model does not have one of its layers.

    Example:
        >>> map_layers((8, 10, 12), teacher_blocks=12, student_blocks=6)
        {8: 4, 10: 5, 12: 6}
    """
    for name, layers, blocks in (
        ("distill_layers", teacher_layers, teacher_blocks),
        ("student_layers", student_layers or (), student_blocks),
    ):
        wrong = [layer for layer in layers if not 0 <= layer <= blocks]
        if wrong:
            raise UserError(
                f"{name} has {', '.join(map(str, wrong))}, but that model has {blocks} blocks: valid layers are "
                f"0 (embeddings) to {blocks} (output of the last block, after the final norm)"
            )
    assert 0 < len(teacher_layers) == len(set(teacher_layers))  # as `DistillConfig` checks
    if student_layers is None:
        return {layer: int(layer * student_blocks / teacher_blocks + 0.5) for layer in teacher_layers}
    return dict(zip(teacher_layers, student_layers, strict=True))


class LatentDistillationLoss(nn.Module):
    """Mean distance between student and teacher hidden states over several layers (SPEC.md, "Loss Formulation").

    Args:
        layers: Teacher layers. Both mappings passed to `forward` must contain them.
        loss: `mse`, `cosine` (1 - cosine similarity of the two vectors at each position) or `smooth-l1` (beta 1).
        normalize: `variance` divides by the teacher's variance at each layer (for `smooth-l1`, both states by its
            square root; `cosine` has no scale). `none` is the plain formula.

    Raises:
        UserError: If `loss` or `normalize` is unknown.

    Example:
        >>> criterion = LatentDistillationLoss((8, 12), normalize="none")
        >>> student = {8: torch.zeros(2, 5, 16), 12: torch.zeros(2, 5, 16)}  # batch 2, positions 5, width 16
        >>> teacher = {8: torch.ones(2, 5, 16), 12: 2 * torch.ones(2, 5, 16)}
        >>> loss, per_layer = criterion(student, teacher)
        >>> loss.item(), per_layer[12].item()
        (2.5, 4.0)
    """

    def __init__(self, layers: Sequence[int], *, loss: str = "mse", normalize: str = "variance") -> None:
        super().__init__()
        check_choice("distill_loss", loss, DistillLoss)
        check_choice("normalize", normalize, Normalization)
        self.layers = tuple(layers)
        self.loss = loss
        self.normalize = normalize

    def forward(
        self,
        student_states: Mapping[int, Float[Tensor, "batch position student_hidden"]],
        teacher_states: Mapping[int, Float[Tensor, "teacher_batch teacher_position teacher_hidden"]],
        *,
        mask: Bool[Tensor, "batch position"] | None = None,
        variance: Mapping[int, float] | None = None,
        num_positions: Int[Tensor, ""] | int | None = None,
    ) -> tuple[Float[Tensor, ""], dict[int, Float[Tensor, ""]]]:
        """Compute L_distill.

        Args:
            student_states: Teacher layer -> student states, already projected to the teacher's width.
            teacher_states: Teacher layer -> teacher states. They receive no gradient.
            mask: Positions that count. None: all of them.
            variance: Teacher's variance at each layer. With `normalize="variance"` and None, the variance of the
                given teacher states is used.
            num_positions: Divide by this number of positions instead of this batch's own, so that the gradients of
                accumulated batches add up to those of one large batch.

        Returns:
            L_distill, and its detached value at each layer, both in float32.

        Raises:
            UserError: If the states of a layer differ in shape.
        """
        per_layer: dict[int, Tensor] = {}
        total: Tensor | None = None
        for layer in self.layers:
            # Differences of large values lose all precision in bfloat16 and float16.
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
                # A constant layer has no scale.
                scale = scale if scale > 0 else 1.0
            # Fill before the arithmetic rather than multiply after it: NaN in padding must not reach the gradient.
            outside = ~chosen[:, :, None]
            student, teacher = student.masked_fill(outside, 0.0), teacher.masked_fill(outside, 0.0)
            per_position = self._per_position(student, teacher, scale) * chosen
            value = per_position.sum() / (chosen.sum() if num_positions is None else num_positions)
            per_layer[layer] = value.detach()
            total = value if total is None else total + value
        assert total is not None
        return total / len(self.layers), per_layer

    def _per_position(
        self,
        student: Float[Tensor, "batch position hidden"],
        teacher: Float[Tensor, "batch position hidden"],
        variance: float,
    ) -> Float[Tensor, "batch position"]:
        if self.loss == "cosine":
            return 1.0 - F.cosine_similarity(student, teacher, dim=-1)
        if self.loss == "smooth-l1":
            root = variance**0.5
            return F.smooth_l1_loss(student / root, teacher / root, reduction="none").mean(dim=-1)
        return (student - teacher).square().mean(dim=-1) / variance


def combine(
    distill: Float[Tensor, ""],
    task: Float[Tensor, ""],
    *,
    alpha: float,
    per_layer: Mapping[int, Float[Tensor, ""]] | None = None,
) -> LossTerms:
    """Weight the two losses: alpha * distill + (1 - alpha) * task.

    Args:
        distill: Distillation loss.
        task: Cross-entropy on the labels.
        alpha: Weight of the distillation loss, in [0, 1].
        per_layer: Distillation loss at each teacher layer, for the log.

    Returns:
        The weighted loss with the parts `distill`, `task` and one `distill_layer_<l>` per layer.
    """
    total = alpha * distill + (1.0 - alpha) * task
    layers = {f"distill_layer_{layer}": value.detach() for layer, value in (per_layer or {}).items()}
    return LossTerms(total, {"distill": distill.detach(), "task": task.detach(), **layers})


def token_distillation(
    student_logits: Float[Tensor, "label vocabulary"],
    teacher_logits: Float[Tensor, "label vocabulary"],
    *,
    temperature: float,
) -> Float[Tensor, ""]:
    """Compute temperature^2 * KL(p_T || p_S), summed over positions, with p = softmax(logits / temperature).

    The factor keeps the size of the gradients independent of the temperature (Hinton et al., arXiv 1503.02531,
    section 2.1).

    Args:
        student_logits: Logits at the labeled positions.
        teacher_logits: Teacher's logits there. They receive no gradient.
        temperature: Softmax temperature of both distributions, above 0.

    Returns:
        The sum, in float32.
    """
    student = (student_logits.float() / temperature).log_softmax(dim=-1)
    teacher = (teacher_logits.float().detach() / temperature).log_softmax(dim=-1)
    return temperature**2 * F.kl_div(student, teacher, reduction="sum", log_target=True)


def self_distillation(
    thought_states: Mapping[int, Float[Tensor, "batch hidden"]],
    written_states: Mapping[int, Float[Tensor, "batch hidden"]],
    *,
    distance: str = "smooth-l1",
    scale: str = "problem",
) -> Float[Tensor, ""]:
    """Compute CODI's distance between the two paths of one model (Shen et al., arXiv 2502.21074, section 3).

    Args:
        thought_states: Layer -> states of the path with thoughts.
        written_states: Layer -> states of the path with written steps. They receive no gradient.
        distance: `smooth-l1` (beta 1), `l1` or `l2` (squared difference).
        scale: What divides the distance, for `l2` squared: the standard deviation of each problem's own written state
            (`problem`), the unbiased one of all written states of the layer in the batch (`batch`: CODI's and PCCoT's
            code), or nothing (`none`).

    Returns:
        The mean over layers and units, summed over problems, in float32.

    Raises:
        UserError: If `distance` or `scale` is unknown.
    """
    check_choice("self_distance", distance, SelfDistance)
    check_choice("self_scale", scale, SelfScale)
    measure = {"smooth-l1": F.smooth_l1_loss, "l1": F.l1_loss, "l2": F.mse_loss}[distance]
    total: Tensor | None = None
    for layer, thought in thought_states.items():
        written = written_states[layer].float().detach()
        value = measure(thought.float(), written, reduction="none").mean(dim=-1)
        if scale != "none":
            deviation = written.std(dim=-1, unbiased=False) if scale == "problem" else written.std()
            # A constant state has no scale.
            deviation = torch.where(deviation > 0, deviation, torch.ones_like(deviation))
            value = value / (deviation.square() if distance == "l2" else deviation)
        value = value.sum() / len(thought_states)
        total = value if total is None else total + value
    assert total is not None
    return total
