"""Who writes the steps in the step loss."""

from __future__ import annotations

from typing import Annotated

from lrd_peft.config.choices import StepDecoderKind
from lrd_peft.config.fields import Affects, Group


class StepDecoderConfig(Group):
    """The decoder of the step loss (SIM-CoT, arXiv 2509.20317)."""

    step_decoder: Annotated[
        StepDecoderKind,
        Affects("teacher", when=("trains_latent_teacher", "has_thoughts", "weighs_teacher_steps"), added="own"),
        Affects("student", objectives={"task"}, when=("follows_curriculum", "weighs_steps"), added="own"),
        Affects("student", objectives={"self"}, when=("weighs_steps",), added="own"),
    ] = "own"
    """Decoder of the step loss: the model itself, or a copy of its base, dropped after the training (SIM-CoT)."""
