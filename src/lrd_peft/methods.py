"""The methods as data: what is trained, from what, with which loss, how it answers. Knows names, no models or disks.

A trained method makes a student; the others (`REFERENCES`) are models that a run has anyway, graded beside it.
Formulas and deviations from the papers: docs/method.md, section 9.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lrd_peft.errors import UserError, nearest


@dataclass(frozen=True, slots=True)
class Method:
    """One row of the table.

    Attributes:
        title: what answers, in a few words for tables.
        trains: which of the student's weights: `all`, `lora` adapters, or `nothing`.
        rows: what a training problem becomes: `steps` (all steps, then the answer), `answer` (nothing before the
            answer), `stages` (steps that vanish in the course of the training), `thoughts` (thoughts in the place of
            the steps), `both` (steps and thoughts, one row each), `none`.
        loss: `task` (cross-entropy), `tokens` (and the teacher's token distribution), `latent` (and the stored states),
            `self` (and the model's own state at the end of the written steps), `none`.
        thinks: answers in thoughts; else it writes.
        needs: the artifact that it is made from.
        paper: where it comes from.
        passes: Jacobi passes over the thoughts where the configuration names none.
    """

    title: str
    trains: Literal["all", "lora", "nothing"]
    rows: Literal["steps", "answer", "stages", "thoughts", "both", "none"]
    loss: Literal["task", "tokens", "latent", "self", "none"]
    thinks: bool
    needs: Literal["nothing", "teacher/cot", "teacher/latent", "store"]
    paper: str = ""
    passes: int | None = None

    @property
    def is_teacher(self) -> bool:
        """Whether the teacher itself answers."""
        return self.trains == "nothing" and self.needs != "nothing"

    @property
    def begins_with(self) -> Literal["cot", "latent"]:
        """Which trained teacher's blocks a student begins with, where it begins with a trained teacher's.

        Those of the thinking one if the student thinks and never writes; else those of the one that writes.
        """
        return "latent" if self.thinks and self.rows != "both" else "cot"


METHODS: dict[str, Method] = {
    "base": Method(
        "student, untrained, written steps",
        trains="nothing",
        rows="none",
        loss="none",
        thinks=False,
        needs="nothing",
    ),
    "base-latent": Method(
        "student, untrained, thoughts",
        trains="nothing",
        rows="none",
        loss="none",
        thinks=True,
        needs="nothing",
    ),
    "teacher-cot": Method(
        "teacher, written steps",
        trains="nothing",
        rows="none",
        loss="none",
        thinks=False,
        needs="teacher/cot",
        paper="Wei et al., arXiv 2201.11903",
    ),
    "teacher-latent": Method(
        "teacher, thoughts",
        trains="nothing",
        rows="none",
        loss="none",
        thinks=True,
        needs="teacher/latent",
        paper="Hao et al., arXiv 2412.06769",
    ),
    "direct": Method(
        "student, all weights, no steps",
        trains="all",
        rows="answer",
        loss="task",
        thinks=False,
        needs="nothing",
    ),
    "full-finetune": Method(
        "student, all weights, written steps",
        trains="all",
        rows="steps",
        loss="task",
        thinks=False,
        needs="nothing",
    ),
    "standard-distill": Method(
        "student, all weights, teacher's tokens",
        trains="all",
        rows="steps",
        loss="tokens",
        thinks=False,
        needs="teacher/cot",
        paper="Hinton et al., arXiv 1503.02531",
    ),
    "distill-lora": Method(
        "student, LoRA, teacher's tokens",
        trains="lora",
        rows="steps",
        loss="tokens",
        thinks=False,
        needs="teacher/cot",
        paper="Hinton et al., arXiv 1503.02531",
    ),
    "icot": Method(
        "student, all weights, steps removed",
        trains="all",
        rows="stages",
        loss="task",
        thinks=False,
        needs="nothing",
        paper="Deng et al., arXiv 2405.14838",
    ),
    "codi": Method(
        "student, LoRA, thoughts from own steps",
        trains="lora",
        rows="both",
        loss="self",
        thinks=True,
        needs="nothing",
        paper="Shen et al., arXiv 2502.21074",
    ),
    "pccot": Method(
        "student, LoRA, parallel thoughts",
        trains="lora",
        rows="both",
        loss="self",
        thinks=True,
        needs="nothing",
        paper="Wu et al., arXiv 2506.18582",
        passes=3,
    ),
    "latent-full": Method(
        "student, all weights, thoughts",
        trains="all",
        rows="thoughts",
        loss="latent",
        thinks=True,
        needs="store",
    ),
    "latent-lora": Method(
        "student, LoRA, thoughts",
        trains="lora",
        rows="thoughts",
        loss="latent",
        thinks=True,
        needs="store",
    ),
}

REFERENCES = tuple(name for name, method in METHODS.items() if method.trains == "nothing")


def check_method(name: str) -> str:
    """Return the name.

    Raises:
        UserError: if there is no such method.
    """
    if name not in METHODS:
        raise UserError(f'there is no method "{name}"; there are {", ".join(METHODS)}.{nearest(name, METHODS)}')
    return name
