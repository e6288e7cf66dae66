"""The numbers that SPEC.md claims: a reference layer that is off unless asked for, and labelled wherever it is drawn.

Nobody here measured them: they are its authors' claims for 7B and 3B models on GSM8K, MATH and AQuA-RAT.
"""

from __future__ import annotations

from dataclasses import dataclass

LABEL = "claimed by the specification, not measured here"


@dataclass(frozen=True, slots=True)
class Claim:
    """One row of the specification's table.

    Attributes:
        accuracy: data set -> share of right answers.
        training_hours: as claimed.
    """

    accuracy: dict[str, float]
    training_hours: float


def _claim(gsm8k: float, math: float, aqua: float, hours: float) -> Claim:
    return Claim({"GSM8K": gsm8k, "MATH": math, "AQuA-RAT": aqua}, hours)


CLAIMED: dict[str, Claim] = {
    "teacher-cot": _claim(0.423, 0.265, 0.542, 48),
    "full-finetune": _claim(0.321, 0.214, 0.483, 72),
    "standard-distill": _claim(0.385, 0.247, 0.512, 12),
    "distill-lora": _claim(0.401, 0.261, 0.537, 8),
    "latent-lora": _claim(0.437, 0.287, 0.568, 10),
}
