"""Settings of the methods that draw a model's thoughts to its own written steps."""

from __future__ import annotations

from typing import Annotated

from lrd_peft.config.choices import SelfDistance, SelfScale
from lrd_peft.config.fields import Affects, Group, NonNegative


class BothPathsConfig(Group):
    """Methods codi and pccot: L = written_weight L_written + L_task + codi_weight L_self (arXiv 2502.21074)."""

    self_distance: Annotated[SelfDistance, Affects("student", objectives={"self"}, added="smooth-l1")] = "smooth-l1"
    """Distance between the states of the two paths (codi, pccot)."""
    self_scale: Annotated[SelfScale, Affects("student", objectives={"self"}, added="problem")] = "problem"
    """Standard deviation that divides the distance: of each problem's written state, of the whole batch, or none."""
    self_layer0: Annotated[bool, Affects("student", objectives={"self"}, added=False)] = False
    """Compare the embeddings too, and divide the sum over layers by L + 1, as CODI's code does."""
    drop_last_step: Annotated[bool, Affects("student", objectives={"self"}, added=False)] = False
    """Leave the last step out of the written path, as CODI and PCCoT do."""
    written_weight: Annotated[NonNegative, Affects("student", objectives={"self"}, added=1.0)] = 1.0
    """Weight of the cross-entropy of the written path (codi, pccot)."""
