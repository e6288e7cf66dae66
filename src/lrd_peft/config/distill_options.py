"""Settings of latent distillation."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import field_validator, model_validator
from typing_extensions import Self

from lrd_peft.config.choices import (
    AlignTo,
    AlphaSchedule,
    DistillLoss,
    Normalization,
    Positions,
    ProjectorInit,
    ThoughtsFrom,
)
from lrd_peft.config.fields import (
    Affects,
    Count,
    Epochs,
    Fraction,
    FractionBelowOne,
    Group,
    Layers,
    LayersWithRepeats,
    NonNegative,
)

SPEC_LAYERS = (8, 9, 10, 11, 12)
"""Teacher layers that are aligned by default where the teacher has them."""
NUM_DEFAULT_LAYERS = len(SPEC_LAYERS)


class DistillConfig(Group):
    """Latent distillation, L = alpha * L_distill + (1 - alpha) * L_task: what is aligned, how, and when."""

    distill_alpha: Annotated[Fraction, Affects("student", objectives={"latent"})] = 0.1
    """Weight alpha of the distillation loss: alpha * L_distill + (1 - alpha) * L_task. 0 needs no teacher or store."""
    alpha_schedule: Annotated[
        AlphaSchedule, Affects("student", objectives={"latent"}, when=("aligns",), added="constant")
    ] = "constant"
    """Schedule of distill_alpha: constant, linear decay to 0, or linear warm-up from 0."""
    distill_layers: Annotated[Layers | None, Affects("student", objectives={"latent"}, value="distill.layers")] = None
    """Teacher layers to align: 0 = embeddings, l = output of block l (default: 8 to 12, or the last five blocks)."""
    student_layers: Annotated[LayersWithRepeats | None, Affects("student", objectives={"latent"})] = None
    """Student layer for each of distill_layers (default: same relative depth)."""
    normalize: Annotated[Normalization, Affects("student", objectives={"latent"})] = "variance"
    """Scale of each layer's loss: divided by the teacher's variance at the layer, or unscaled."""
    distill_loss: Annotated[DistillLoss, Affects("student", objectives={"latent"})] = "mse"
    """Distance between the hidden states of student and teacher."""
    positions: Annotated[Positions, Affects("store", when=("reads_store",))] = "thoughts+answer"
    """Positions whose hidden states are stored and aligned."""
    align_to: Annotated[AlignTo, Affects("store", when=("reads_store",), added="thoughts")] = "thoughts"
    """Target of each thought: the teacher's thought, or the teacher's state at the end of the written step."""
    projector_init: Annotated[
        ProjectorInit, Affects("student", objectives={"latent"}, when=("aligns",), added="random")
    ] = "random"
    """Initialization of the width projectors: random, or least squares on the untrained student's states."""
    thoughts_from: Annotated[ThoughtsFrom, Affects("student", objectives={"latent"})] = "student"
    """Thoughts fed back in training: the student's, its teacher's, annealed between them, or the teacher's refined."""
    refine_passes: Annotated[Count, Affects("student", objectives={"latent"}, added=1)] = 1
    """Parallel passes in which thoughts_from refined turns the teacher's thoughts into the student's own."""
    student_curriculum: Annotated[
        FractionBelowOne | Epochs, Affects("student", objectives={"latent"}, when=("has_thoughts",), added=0.0)
    ] = 0.0
    """Fraction of updates over which thoughts replace the steps one by one, or the share of each stage from 0 on."""
    step_loss_weight: Annotated[
        NonNegative,
        Affects("student", objectives={"latent"}, when=("has_thoughts",), added=0.0),
        Affects("student", objectives={"task"}, when=("follows_curriculum",), added=0.0),
        Affects("student", objectives={"self"}, when=("has_step_decoder",), added=0.0),
    ] = 0.0
    """Weight of the step loss: each replaced step is decoded from its thoughts (SIM-CoT)."""

    @property
    def has_curriculum(self) -> bool:
        """Whether thoughts replace the student's steps one by one."""
        return self.student_curriculum != 0

    @property
    def num_refine_passes(self) -> int:
        """Passes in which the student refines its teacher's thoughts; 0 where it does not."""
        return self.refine_passes if self.thoughts_from == "refined" else 0

    @property
    def layers(self) -> tuple[int, ...]:
        """Teacher layers to align; before the teacher's depth is known, the default stands for 8 to 12."""
        return self.distill_layers or SPEC_LAYERS

    @property
    def reads_states(self) -> bool:
        """Whether the student's training reads the teacher's hidden states."""
        return self.distill_alpha > 0 or self.thoughts_from != "student"

    def resolved(self, *, teacher_blocks: int) -> Self:
        """Return the options with `distill_layers` set.

        The default is 8 to 12 where the teacher has these layers, else its last five blocks.

        Raises:
            ValueError: If `student_layers` does not pair with the layers.
        """
        if self.distill_layers is not None:
            return self
        layers = SPEC_LAYERS
        if teacher_blocks < max(SPEC_LAYERS):
            layers = tuple(range(max(1, teacher_blocks - NUM_DEFAULT_LAYERS + 1), teacher_blocks + 1))
        return self.checked(**self.model_dump() | {"distill_layers": layers})

    @model_validator(mode="after")
    def _layers_pair_up(self) -> Self:
        if self.student_layers is not None and len(self.student_layers) != len(self.layers):
            raise ValueError(
                f"student_layers names {len(self.student_layers)} layers and distill_layers {len(self.layers)}; "
                "each teacher layer needs one student layer"
            )
        return self

    @model_validator(mode="after")
    def _positions_have_counterparts(self) -> Self:
        if self.positions != "all":
            return self
        advice = "set positions to thoughts+answer or thoughts"
        if self.has_curriculum:
            raise ValueError(
                f'student_curriculum is {self.student_curriculum}, but positions is "all": the steps that the student '
                f"still writes have no counterpart in the teacher's thoughts; {advice}, or student_curriculum to 0"
            )
        if self.align_to == "steps":
            raise ValueError(
                'align_to is "steps", but positions is "all": the tokens of a written step have no counterpart in the '
                f"student's thoughts; {advice}, or align_to to thoughts"
            )
        return self

    @field_validator("student_curriculum", mode="before")
    @classmethod
    def _one_number_is_a_fraction(cls, value: Any) -> Any:
        return value[0] if isinstance(value, list | tuple) and len(value) == 1 else value

    @model_validator(mode="after")
    def _shares_of_stages_take_time(self) -> Self:
        shares = self.student_curriculum
        if isinstance(shares, tuple) and sum(shares) == 0:
            raise ValueError(
                f"student_curriculum gives each of {len(shares)} stages a share of 0; set one of them above 0"
            )
        return self

    @model_validator(mode="after")
    def _passes_refine_thoughts(self) -> Self:
        if self.refine_passes != 1 and self.thoughts_from != "refined":
            raise ValueError(
                f'refine_passes is {self.refine_passes}, but thoughts_from is "{self.thoughts_from}"; set '
                "thoughts_from to refined, or leave refine_passes out"
            )
        return self

    @model_validator(mode="after")
    def _a_text_teacher_has_no_thoughts(self) -> Self:
        if self.align_to == "steps" and self.thoughts_from != "student":
            raise ValueError(
                f'align_to is "steps", but thoughts_from is "{self.thoughts_from}": a teacher that writes its steps '
                "has no thoughts to feed back; set thoughts_from to student, or align_to to thoughts"
            )
        return self
