"""The methods as data: what is trained, on which rows, with which objective, from which artifacts.

A trained method makes a student. The others (`REFERENCES`) grade models that a run has anyway.
Formulas and deviations from the papers: docs/methods.md, section 9.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any, Literal

from lrd_peft.config.choices import AlignTo, Positions
from lrd_peft.runtime.errors import UserError, nearest

ObjectiveName = Literal["task", "latent", "tokens", "self"]
TeacherKind = Literal["cot", "latent"]


@dataclass(frozen=True, slots=True)
class StagePlan:
    """Curriculum of a student's latent rows.

    Attributes:
        stage: Stage at the end of the training, at which no step is written.
        thoughts_per_step: Thoughts in place of each replaced step; 0 removes the steps.
        rising_fraction: Fraction of the updates over which the stage rises from 0 to `stage`.
        begins: Fraction of the updates after which each of the stages from 1 on begins, in place of `rising_fraction`.
        thinking_stages: Steps that thoughts stand for at most.
    """

    stage: int
    thoughts_per_step: int
    rising_fraction: float = 0.0
    begins: tuple[float, ...] = ()
    thinking_stages: int | None = None

    @property
    def rises(self) -> bool:
        """Whether the training goes through several stages."""
        return self.rising_fraction > 0 or bool(self.begins)

    def in_updates(self, num_updates: float) -> dict[str, Any]:
        """Return when the stages begin in a training of so many updates, as arguments of `StageCollator`."""
        # 0.28 * 25 is a little over 7.
        return {
            "rise_updates": round(self.rising_fraction * num_updates, 6),
            "begins": tuple(round(num_updates * share, 6) for share in self.begins),
        }


Curriculum = float | tuple[float, ...]
"""The share of the updates over which the stages follow each other in equal parts, or the share of each stage."""


def check_stages(name: str, curriculum: Curriculum, *, last: int) -> None:
    """Check that the values of a curriculum are one for each stage.

    Args:
        name: Name of the setting.
        curriculum: Its value; a single number fits any stages.
        last: Last stage.

    Raises:
        ValueError: If they are too few or too many.
    """
    if isinstance(curriculum, tuple) and len(curriculum) != last + 1:
        raise ValueError(f"{name} has {len(curriculum)} values; the stages from 0 to {last} take {last + 1}, one each")


def rising_plan(stage: int, thoughts_per_step: int, curriculum: Curriculum) -> StagePlan:
    """Return the plan of a curriculum that ends at a stage.

    Args:
        stage: Last stage.
        thoughts_per_step: Thoughts in place of each step.
        curriculum: The curriculum; shares of stages are one more than the number of the last.
    """
    if not isinstance(curriculum, tuple):
        return StagePlan(stage, thoughts_per_step, rising_fraction=curriculum)
    ends = list(accumulate(curriculum))
    return StagePlan(stage, thoughts_per_step, begins=tuple(end / ends[-1] for end in ends[:-1]))


@dataclass(frozen=True, slots=True)
class Method:
    """One row of the table.

    Attributes:
        title: What answers, in a few words for tables.
        trains: Which weights of the student: `all`, `lora` adapters, or `nothing`.
        objective: `task` (cross-entropy), `tokens` (and the teacher's token distribution), `latent` (and the stored
            states), `self` (and the model's own state at the end of the written steps), `None` without training.
        rows: What a training problem becomes: `steps` (all steps, then the answer), `answer` (the answer alone),
            `stages` (steps that are removed one by one), `thoughts` (thoughts in place of the steps), `both` (one row
            with steps and one with thoughts), `curriculum` (the teacher's stages: thoughts replace the steps one by
            one), `None` without training.
        thinks: Answers after thoughts, not after written steps.
        needs: Artifact of an earlier phase that the method uses.
        paper: Reference.
        passes: Jacobi passes over the thoughts if the configuration sets none.
        pauses: Slots hold one learned embedding instead of hidden states, so one pass covers them all.
    """

    title: str
    trains: Literal["all", "lora", "nothing"]
    objective: ObjectiveName | None
    rows: Literal["steps", "answer", "stages", "thoughts", "both", "curriculum"] | None
    thinks: bool
    needs: Literal["teacher/cot", "teacher/latent", "store"] | None
    paper: str = ""
    passes: int | None = None
    pauses: bool = False

    @property
    def trains_student(self) -> bool:
        """Whether the method makes a student."""
        return self.trains != "nothing"

    @property
    def adapts_student(self) -> bool:
        """Whether the student is trained through LoRA adapters."""
        return self.trains == "lora"

    @property
    def reads_store(self) -> bool:
        """Whether the method learns from stored hidden states."""
        return self.needs == "store"

    @property
    def is_teacher(self) -> bool:
        """Whether the teacher itself answers."""
        return not self.trains_student and self.needs is not None

    @property
    def begins_with(self) -> TeacherKind:
        """Trained teacher whose blocks a "teacher:N" student copies.

        The latent one if the student thinks and never writes its steps, else the one that writes.
        """
        return "cot" if not self.thinks or self.pairs_rows or self.follows_curriculum else "latent"

    @property
    def follows_curriculum(self) -> bool:
        """Whether the student goes through the teacher's stages itself."""
        return self.rows == "curriculum"

    @property
    def pairs_rows(self) -> bool:
        """Whether each problem has a row with steps and one with thoughts."""
        return self.rows == "both"

    @property
    def replaces_steps(self) -> bool:
        """Whether the method is undefined at `max_stage` 0, where every step is written."""
        return self.rows in ("stages", "both", "curriculum") or self.needs == "teacher/latent" or self.pauses

    @property
    def writes_steps(self) -> bool:
        """Whether steps come before the answer in the text that the method's model writes."""
        return not self.thinks and self.rows not in ("answer", "stages")

    @property
    def answer_style(self) -> str:
        """How the student answers, in words for its model card."""
        if self.thinks:
            return "in continuous thoughts"
        return "in written steps" if self.rows == "steps" else "at once"

    def stage_plan(
        self,
        *,
        max_stage: int,
        thoughts_per_step: int,
        curriculum: Curriculum = 0.0,
        stage_epochs: Sequence[float] = (),
    ) -> StagePlan:
        """Return the curriculum of the student's rows.

        Args:
            max_stage: Last stage of the configuration.
            thoughts_per_step: Thoughts per step of the configuration.
            curriculum: Curriculum of a method whose rows hold thoughts only.
            stage_epochs: Epochs of the teacher's stages, which are the shares of a method that follows its curriculum.
        """
        match self.rows:
            case "answer":
                return StagePlan(1, 0)
            case "stages":
                return StagePlan(max_stage, 0, rising_fraction=0.5)
            case "thoughts":
                return rising_plan(max_stage, thoughts_per_step, curriculum if max_stage else 0.0)
            case "both":
                return StagePlan(max_stage, thoughts_per_step)
            case "curriculum":
                plan = rising_plan(len(stage_epochs) - 1, thoughts_per_step, tuple(stage_epochs))
                return replace(plan, thinking_stages=max_stage)
            case _:
                return StagePlan(0, 0)

    def needed_teacher(self, *, align_to: AlignTo, copies_trained: bool) -> Literal["none"] | TeacherKind:
        """Return the trained teacher that the method learns from or copies blocks of.

        Args:
            align_to: What thoughts are aligned to.
            copies_trained: Whether the student copies blocks of the trained teacher.
        """
        copied = self.begins_with if copies_trained else "none"
        if self.needs == "teacher/latent" or (self.reads_store and align_to == "thoughts"):
            return "latent"
        if self.needs is not None:
            # The latent teacher is trained from the one that writes, so it includes it.
            return "latent" if copied == "latent" else "cot"
        return copied

    def shares_tokens(self, positions: Positions) -> bool:
        """Whether the student is compared with the teacher token by token, which takes one tokenizer."""
        return self.objective == "tokens" or (self.objective == "latent" and positions == "all")


METHODS: dict[str, Method] = {
    "base": Method(
        "student, untrained, written steps",
        trains="nothing",
        rows=None,
        objective=None,
        thinks=False,
        needs=None,
    ),
    "base-latent": Method(
        "student, untrained, thoughts",
        trains="nothing",
        rows=None,
        objective=None,
        thinks=True,
        needs=None,
    ),
    "teacher-cot": Method(
        "teacher, written steps",
        trains="nothing",
        rows=None,
        objective=None,
        thinks=False,
        needs="teacher/cot",
        paper="Wei et al., arXiv 2201.11903",
    ),
    "teacher-latent": Method(
        "teacher, thoughts",
        trains="nothing",
        rows=None,
        objective=None,
        thinks=True,
        needs="teacher/latent",
        paper="Hao et al., arXiv 2412.06769",
    ),
    "direct": Method(
        "student, all weights, no steps",
        trains="all",
        rows="answer",
        objective="task",
        thinks=False,
        needs=None,
    ),
    "full-finetune": Method(
        "student, all weights, written steps",
        trains="all",
        rows="steps",
        objective="task",
        thinks=False,
        needs=None,
    ),
    "standard-distill": Method(
        "student, all weights, teacher's tokens",
        trains="all",
        rows="steps",
        objective="tokens",
        thinks=False,
        needs="teacher/cot",
        paper="Hinton et al., arXiv 1503.02531",
    ),
    "distill-lora": Method(
        "student, LoRA, teacher's tokens",
        trains="lora",
        rows="steps",
        objective="tokens",
        thinks=False,
        needs="teacher/cot",
        paper="Hinton et al., arXiv 1503.02531",
    ),
    "icot": Method(
        "student, all weights, steps removed",
        trains="all",
        rows="stages",
        objective="task",
        thinks=False,
        needs=None,
        paper="Deng et al., arXiv 2405.14838",
    ),
    "coconut": Method(
        "student, all weights, thoughts from the curriculum",
        trains="all",
        rows="curriculum",
        objective="task",
        thinks=True,
        needs=None,
        paper="Hao et al., arXiv 2412.06769",
    ),
    "coconut-lora": Method(
        "student, LoRA, thoughts from the curriculum",
        trains="lora",
        rows="curriculum",
        objective="task",
        thinks=True,
        needs=None,
        paper="Hao et al., arXiv 2412.06769",
    ),
    "pause": Method(
        "student, LoRA, pause tokens",
        trains="lora",
        rows="thoughts",
        objective="task",
        thinks=True,
        needs=None,
        paper="Goyal et al., arXiv 2310.02226",
        passes=1,
        pauses=True,
    ),
    "codi": Method(
        "student, LoRA, thoughts from own steps",
        trains="lora",
        rows="both",
        objective="self",
        thinks=True,
        needs=None,
        paper="Shen et al., arXiv 2502.21074",
    ),
    "codi-full": Method(
        "student, all weights, thoughts from own steps",
        trains="all",
        rows="both",
        objective="self",
        thinks=True,
        needs=None,
        paper="Shen et al., arXiv 2502.21074",
    ),
    "pccot": Method(
        "student, LoRA, parallel thoughts",
        trains="lora",
        rows="both",
        objective="self",
        thinks=True,
        needs=None,
        paper="Wu et al., arXiv 2506.18582",
        passes=3,
    ),
    "pccot-full": Method(
        "student, all weights, parallel thoughts",
        trains="all",
        rows="both",
        objective="self",
        thinks=True,
        needs=None,
        paper="Wu et al., arXiv 2506.18582",
        passes=3,
    ),
    "latent-full": Method(
        "student, all weights, thoughts",
        trains="all",
        rows="thoughts",
        objective="latent",
        thinks=True,
        needs="store",
    ),
    "latent-lora": Method(
        "student, LoRA, thoughts",
        trains="lora",
        rows="thoughts",
        objective="latent",
        thinks=True,
        needs="store",
    ),
}

REFERENCES = tuple(name for name, method in METHODS.items() if not method.trains_student)
"""Methods that train no student; a run grades them in addition to its own."""


def check_method(name: str) -> str:
    """Return the name.

    Raises:
        UserError: If there is no such method.
    """
    if name not in METHODS:
        raise UserError(f'unknown method "{name}"; the methods are {", ".join(METHODS)}.{nearest(name, METHODS)}')
    return name
