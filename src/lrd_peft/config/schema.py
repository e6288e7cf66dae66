"""The configuration of a run: its fields and the rules between them. Knows no files or flags."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal

from pydantic import model_validator
from typing_extensions import Self

from lrd_peft.config import identity
from lrd_peft.config.fields import Fields
from lrd_peft.config.identity import Phase
from lrd_peft.methods import METHODS, REFERENCES, check_method


class RunConfig(Fields):
    """The typed, frozen, validated configuration of one run."""

    @model_validator(mode="after")
    def _fields_fit_together(self) -> Self:
        depth = self.student_depth  # refuses "teacher:many"
        if self.keep_blocks is not None:
            if depth is None:
                raise ValueError(
                    f'keep_blocks chooses blocks of "teacher:N", but student is "{self.student}"; '
                    f'set student to "teacher:{len(self.keep_blocks)}" or leave keep_blocks out'
                )
            if len(self.keep_blocks) != depth:
                raise ValueError(
                    f'keep_blocks names {len(self.keep_blocks)} blocks, but student is "{self.student}"; '
                    f'name {depth} blocks or set student to "teacher:{len(self.keep_blocks)}"'
                )
            if list(self.keep_blocks) != sorted(self.keep_blocks):
                raise ValueError(f"keep_blocks is {list(self.keep_blocks)}; list them in rising order")
        if self.student_weights == "trained":
            if depth is None:
                raise ValueError(
                    f'student_weights is "trained", but student is "{self.student}"; only "teacher:N" is made of the '
                    "teacher's blocks: set student to it, or student_weights to base"
                )
            if self.teacher_tuning != "full":
                raise ValueError(
                    f'student_weights is "trained", but teacher_tuning "{self.teacher_tuning}" trains none of the '
                    "blocks themselves; set teacher_tuning to full, or student_weights to base"
                )
        if self.student_layers is not None and len(self.student_layers) != len(self.distill_layers):
            raise ValueError(
                f"student_layers names {len(self.student_layers)} layers and distill_layers "
                f"{len(self.distill_layers)}; each teacher layer needs one student layer"
            )
        if self.store_layers is not None:
            missing = sorted(set(self.distill_layers) - set(self.store_layers))
            if missing:
                raise ValueError(
                    f"store_layers {list(self.store_layers)} lacks layer {', '.join(map(str, missing))} of "
                    f"distill_layers; add it to store_layers or leave store_layers out"
                )
        if self.num_student_problems is not None and self.num_student_problems > (self.num_train_problems or math.inf):
            raise ValueError(
                f"num_student_problems is {self.num_student_problems}, but num_train_problems is "
                f"{self.num_train_problems}; the student's problems are the first of these"
            )
        if self.max_steps is not None and self.max_seconds is not None:
            raise ValueError(
                f"max_steps is {self.max_steps} and max_seconds {self.max_seconds:g}; both say how long the student "
                "trains: leave one of them out"
            )
        if self.student_curriculum > 0 and self.positions == "all":
            raise ValueError(
                f'student_curriculum is {self.student_curriculum}, but positions is "all": the tokens of steps that '
                "the student still writes have no counterpart where the teacher thinks; set positions to "
                "thoughts+answer or thoughts, or student_curriculum to 0"
            )
        if self.align_to == "steps":
            if self.positions == "all":
                raise ValueError(
                    'align_to is "steps", but positions is "all": the tokens of a written step have no counterpart '
                    "where a thought stands in its place; set positions to thoughts+answer or thoughts, or align_to "
                    "to thoughts"
                )
            if self.thoughts_from != "student":
                raise ValueError(
                    f'align_to is "steps", but thoughts_from is "{self.thoughts_from}": a teacher that writes has no '
                    "thoughts to feed in; set thoughts_from to student, or align_to to thoughts"
                )
        trains = max(self.epochs_stage0, self.epochs_per_stage, self.last_stage_epochs) > 0
        if self.teacher_tuning == "qlora" and self.quantization is None:
            raise ValueError('teacher_tuning is "qlora" but quantization is not set; set it to 4bit or 8bit')
        if self.teacher_tuning == "full" and self.quantization is not None and trains:
            raise ValueError(
                f'a teacher in {self.quantization} cannot be trained with teacher_tuning "full"; '
                'set teacher_tuning to "qlora" or leave quantization out'
            )
        method = METHODS[self.method]
        if self.max_stage == 0 and (method.rows in ("stages", "both") or method.needs == "teacher/latent"):
            raise ValueError(
                f'method "{self.method}" takes steps away, but max_stage is 0 (all steps are written); '
                "set max_stage to 1 or more"
            )
        for name in self.methods:
            if check_method(name) not in (*REFERENCES, self.method):
                raise ValueError(
                    f'methods names "{name}", which a run of its own makes (--method {name}); beside the run\'s '
                    f"own method there can be {', '.join(REFERENCES)}"
                )
        if any(not part.strip() for part in self.dataset.split("+")):
            raise ValueError(f'dataset is "{self.dataset}"; it must be a name or names joined by +')
        return self

    @property
    def student_depth(self) -> int | None:
        """N where the student is "teacher:N"; `None` where it is a model of its own."""
        kind, colon, depth = self.student.partition(":")
        if kind != "teacher" or not colon:
            return None
        if not (depth.isascii() and depth.isdigit()) or int(depth) < 1:
            raise ValueError(f'student is "{self.student}"; in "teacher:N" N must be a whole number above 0')
        return int(depth)

    @property
    def dataset_parts(self) -> tuple[str, ...]:
        """The data sets that `dataset` joins."""
        if Path(self.dataset).exists():  # a file may have a + in its name
            return (self.dataset,)
        return tuple(part.strip() for part in self.dataset.split("+"))

    @property
    def evaluated_datasets(self) -> tuple[str, ...]:
        """The data sets of the evaluation."""
        return self.eval_datasets or self.dataset_parts

    @property
    def stored_layers(self) -> tuple[int, ...]:
        """The teacher layers that the store holds, in rising order."""
        return identity.stored_layers(self.model_dump())

    @property
    def needed_phases(self) -> tuple[Phase, ...]:
        """The phases that the method goes through."""
        return identity.needed_phases(self.model_dump())

    @property
    def needed_teacher(self) -> Literal["none", "cot", "latent"]:
        """The trained teacher that the method goes back to, to learn from it or to begin with its blocks."""
        return identity.needed_teacher(self.model_dump())

    @property
    def graded_methods(self) -> tuple[str, ...]:
        """The methods that the evaluation grades, the run's own last; those without a model are left out there."""
        return (*(name for name in self.methods if name != self.method), self.method)

    @property
    def last_stage_epochs(self) -> float:
        """Epochs of the curriculum's last stage."""
        return self.epochs_per_stage if self.epochs_last_stage is None else self.epochs_last_stage

    @property
    def problems_seed(self) -> int:
        """Seed of the training problems and of phase 1."""
        return self.seed if self.teacher_seed is None else self.teacher_seed

    @property
    def num_thoughts(self) -> int:
        """Thoughts of a problem at the last stage."""
        return self.max_stage * self.thoughts_per_step

    def phase_fields(self, phase: Phase) -> dict[str, Any]:
        """Return the fields that decide what a phase (and those before it) produces."""
        return identity.phase_fields(self.model_dump(), phase)

    def result_fields(self) -> dict[str, Any]:
        """Return every field that can change a result of the run."""
        return self.phase_fields("evaluation")

    def fingerprint(self, phase: Phase = "evaluation") -> str:
        """Return 16 hexadecimal digits that stand for `phase_fields(phase)`."""
        return identity.fingerprint(self.phase_fields(phase))
