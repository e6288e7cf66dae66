"""Numbers that SPEC.md claims: drawn only with `lrd report --reference`, and labeled as claims.

They are the specification's figures for 7B and 3B models on GSM8K, MATH and AQuA-RAT. No run here reproduces them.
"""

from __future__ import annotations

from dataclasses import dataclass

LABEL = "claimed by the specification, not measured here"


@dataclass(frozen=True, slots=True)
class SpecificationClaim:
    """One row of the specification's table.

    Attributes:
        accuracy: Data set -> claimed accuracy in [0, 1].
        training_hours: Claimed training time in hours.
    """

    accuracy: dict[str, float]
    training_hours: float


def _claim(gsm8k: float, math: float, aqua: float, hours: float) -> SpecificationClaim:
    return SpecificationClaim({"GSM8K": gsm8k, "MATH": math, "AQuA-RAT": aqua}, hours)


CLAIMED: dict[str, SpecificationClaim] = {
    "teacher-cot": _claim(0.423, 0.265, 0.542, 48),
    "full-finetune": _claim(0.321, 0.214, 0.483, 72),
    "standard-distill": _claim(0.385, 0.247, 0.512, 12),
    "distill-lora": _claim(0.401, 0.261, 0.537, 8),
    "latent-lora": _claim(0.437, 0.287, 0.568, 10),
}
