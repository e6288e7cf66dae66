"""The configuration of a run: its groups, the rules between them, and what follows from several of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from typing_extensions import Self

from lrd_peft.config import identity
from lrd_peft.config.both_paths import BothPathsConfig
from lrd_peft.config.distill_options import DistillConfig
from lrd_peft.config.fields import PHASES, Phase
from lrd_peft.config.flat import GROUPS, OWNERS, FlatConfig
from lrd_peft.config.inputs import DataConfig, ModelConfig, ThinkingConfig
from lrd_peft.config.messages import explain
from lrd_peft.config.methods import METHODS, REFERENCES, Method, StagePlan, TeacherKind, check_stages
from lrd_peft.config.phases import (
    AdapterConfig,
    EvaluationConfig,
    OptimizerConfig,
    RunOptions,
    StoreConfig,
    StudentConfig,
    TeacherConfig,
)
from lrd_peft.config.removal import RemovalConfig
from lrd_peft.config.step_writer import StepDecoderConfig
from lrd_peft.runtime.errors import UserError


class RunConfig(BaseModel):
    """The typed, frozen, validated configuration of one run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    thinking: ThinkingConfig = ThinkingConfig()
    teacher: TeacherConfig = TeacherConfig()
    store: StoreConfig = StoreConfig()
    student: StudentConfig = StudentConfig()
    distill: DistillConfig = DistillConfig()
    both_paths: BothPathsConfig = BothPathsConfig()
    step_decoder: StepDecoderConfig = StepDecoderConfig()
    adapter: AdapterConfig = AdapterConfig()
    removal: RemovalConfig = RemovalConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    run: RunOptions = RunOptions()

    @classmethod
    def from_flat(cls, values: Mapping[str, Any] | None = None, /, **more: Any) -> Self:
        """Return the configuration of flat settings such as `{"lora_r": 8}`; the others have their defaults.

        Args:
            values: Setting names and values.
            more: Further settings, as keywords; they override `values`.

        Raises:
            UserError: If a setting is unknown, a value is wrong, or a rule between settings is broken.
        """
        try:
            fields = FlatConfig.model_validate({**(values or {}), **more})
        except ValidationError as error:
            raise UserError(explain(error, FlatConfig)) from None
        try:
            return cls.model_validate(
                {group: {name: getattr(fields, name) for name in GROUPS[group].model_fields} for group in GROUPS}
            )
        except ValidationError as error:
            raise UserError("; ".join(str(detail.get("ctx", {})["error"]) for detail in error.errors())) from None

    def flat(self) -> dict[str, Any]:
        """Return every setting by name, as JSON values; `from_flat` reads them back to an equal configuration."""
        groups = self.model_dump(mode="json")
        return {name: groups[group][name] for name, group in OWNERS.items()}

    def changed(self, **settings: Any) -> Self:
        """Return the configuration with some settings replaced.

        Raises:
            UserError: As `from_flat`.
        """
        return self.from_flat(self.flat(), **settings)

    @model_validator(mode="after")
    def _only_trained_blocks_are_copied(self) -> Self:
        if self.model.student_weights == "trained" and self.teacher.teacher_tuning != "full":
            raise ValueError(
                f'student_weights is "trained", but teacher_tuning "{self.teacher.teacher_tuning}" trains adapters, '
                "not the blocks; set teacher_tuning to full, or student_weights to base"
            )
        return self

    @model_validator(mode="after")
    def _aligned_layers_are_stored(self) -> Self:
        stored = self.store.store_layers
        missing = () if stored is None else sorted(set(self.distill.layers) - set(stored))
        if missing:
            raise ValueError(
                f"store_layers {list(stored or ())} lacks layer {', '.join(map(str, missing))} of distill_layers; add "
                "it to store_layers, drop store_layers, or set distill_layers"
            )
        return self

    @model_validator(mode="after")
    def _student_problems_are_training_problems(self) -> Self:
        wanted, available = self.student.num_student_problems, self.data.num_train_problems
        if wanted is not None and wanted > (available or math.inf):
            raise ValueError(
                f"num_student_problems is {wanted}, but num_train_problems is {available}; the student sees the first "
                "of the training problems"
            )
        return self

    @model_validator(mode="after")
    def _gradings_have_problems(self) -> Self:
        if self.student.eval_steps is not None and not self.data.num_validation_problems:
            raise ValueError(
                f"eval_steps is {self.student.eval_steps}, but num_validation_problems is 0; set it above 0, or leave "
                "out eval_steps"
            )
        return self

    @model_validator(mode="after")
    def _quantized_weights_are_not_trained(self) -> Self:
        tuning, quantization = self.teacher.teacher_tuning, self.model.quantization
        if tuning == "qlora" and quantization is None:
            raise ValueError('teacher_tuning is "qlora" but quantization is not set; set it to 4bit or 8bit')
        if tuning == "full" and quantization is not None and self.teacher.has_epochs:
            raise ValueError(
                f'a teacher in {quantization} cannot be trained with teacher_tuning "full"; '
                'set teacher_tuning to "qlora" or drop quantization'
            )
        return self

    @model_validator(mode="after")
    def _method_has_its_stages(self) -> Self:
        if self.method.replaces_steps and not self.has_thoughts:
            raise ValueError(
                f'method "{self.student.method}" replaces steps, but max_stage is 0 (all steps are written); '
                "set max_stage to 1 or more"
            )
        return self

    @model_validator(mode="after")
    def _a_placeholder_is_refined(self) -> Self:
        if self.thinking.thought_placeholder and self.thinking.thought_passes is None and self.method.passes is None:
            raise ValueError(
                "thought_placeholder is true, but thoughts are computed one after another; set thought_passes, or "
                "leave thought_placeholder out"
            )
        return self

    @model_validator(mode="after")
    def _a_curriculum_takes_time(self) -> Self:
        check_stages("epochs_of_stages", self.stage_epochs, last=self.thinking.last_stage)
        check_stages("student_curriculum", self.distill.student_curriculum, last=self.thinking.max_stage)
        if self.follows_curriculum and sum(self.stage_epochs) == 0:
            raise ValueError(
                f'method "{self.student.method}" divides its training as epochs_stage0, epochs_per_stage and '
                "epochs_last_stage do, or epochs_of_stages, but all of them are 0; set one of them above 0"
            )
        return self

    @model_validator(mode="after")
    def _a_step_decoder_has_its_method(self) -> Self:
        if self.has_step_decoder and self.weighs_steps and self.method.objective == "latent":
            raise ValueError(
                f'step_decoder is "auxiliary", but the student of method "{self.student.method}" writes its steps '
                "itself; set step_decoder to own, step_loss_weight to 0, or method to coconut or codi"
            )
        return self

    @model_validator(mode="after")
    def _graded_methods_have_models(self) -> Self:
        for name in self.evaluation.methods:
            if name not in (*REFERENCES, self.student.method):
                raise ValueError(
                    f'methods names "{name}", which needs a run of its own (--method {name}); in addition to its own '
                    f"method a run can grade {', '.join(REFERENCES)}"
                )
        return self

    @property
    def method(self) -> Method:
        """The run's row of the method table."""
        return METHODS[self.student.method]

    @property
    def needed_teacher(self) -> Literal["none"] | TeacherKind:
        """Trained teacher that the method learns from or copies blocks of."""
        copies = self.model.student_weights == "trained"
        return self.method.needed_teacher(align_to=self.distill.align_to, copies_trained=copies)

    @property
    def stage_plan(self) -> StagePlan:
        """Curriculum of the student's rows."""
        return self.method.stage_plan(
            max_stage=self.thinking.max_stage,
            thoughts_per_step=self.thinking.thoughts_per_step,
            curriculum=self.distill.student_curriculum,
            stage_epochs=self.stage_epochs,
        )

    @property
    def draws_stages(self) -> bool:
        """Whether the student's stages are mixed with draws from all stages."""
        return self.follows_curriculum or (self.method.objective == "latent" and self.distill.has_curriculum)

    @property
    def stage_epochs(self) -> tuple[float, ...]:
        """Epochs of each stage of the curriculum, from stage 0 on."""
        teacher, last = self.teacher, self.thinking.last_stage
        later = (teacher.epochs_per_stage,) * (last - 1) + (teacher.last_stage_epochs,) if last else ()
        return teacher.epochs_of_stages or (teacher.epochs_stage0, *later)

    @property
    def follows_curriculum(self) -> bool:
        """Whether the student goes through the teacher's stages itself."""
        return self.method.follows_curriculum

    @property
    def has_step_decoder(self) -> bool:
        """Whether the step loss has a decoder of its own."""
        return self.step_decoder.step_decoder == "auxiliary"

    @property
    def weighs_steps(self) -> bool:
        """Whether the student's step loss has any weight."""
        return self.distill.step_loss_weight > 0

    @property
    def weighs_teacher_steps(self) -> bool:
        """Whether the teacher's step loss has any weight."""
        return self.teacher.teacher_step_loss_weight > 0

    @property
    def decodes_student_steps(self) -> bool:
        """Whether an auxiliary decoder is trained with the student."""
        used = self.follows_curriculum or self.method.objective == "self"
        return used and self.has_step_decoder and self.weighs_steps

    @property
    def decodes_teacher_steps(self) -> bool:
        """Whether an auxiliary decoder is trained with a teacher that thinks."""
        latent = self.trains_latent_teacher and self.has_thoughts
        return latent and self.has_step_decoder and self.weighs_teacher_steps

    @property
    def loads_teacher_for_student(self) -> bool:
        """Whether phase 3 loads a trained teacher: to learn from its tokens, or to copy its blocks."""
        return self.model.student_weights == "trained" or (self.trains_teacher and not self.reads_store)

    @property
    def needed_phases(self) -> tuple[Phase, ...]:
        """Phases of the run, in order."""
        needed = {"teacher": self.makes_teacher, "store": self.makes_store, "student": self.trains_student}
        return tuple(phase for phase in PHASES if needed.get(phase, True))

    @property
    def trains_teacher(self) -> bool:
        """Whether the method needs a trained teacher, as a rule: `makes_teacher` knows the exceptions."""
        return self.needed_teacher != "none"

    @property
    def makes_store(self) -> bool:
        """Whether phase 2 runs: the method reads a store, and the loss or the thoughts use it."""
        return self.reads_store and self.distill.reads_states

    @property
    def makes_teacher(self) -> bool:
        """Whether phase 1 runs.

        Without it runs a student that uses no stored state and no trained block, unless `methods` asks for the
        teacher. The default of `methods` does not ask for it.
        """
        if not self.reads_store or self.model.student_weights == "trained":
            return self.trains_teacher
        return self.makes_store or self.evaluation.asks_for_teacher

    @property
    def trains_latent_teacher(self) -> bool:
        """Whether the teacher goes through the stages with thoughts."""
        return self.needed_teacher == "latent"

    @property
    def uses_teacher_model(self) -> bool:
        """Whether the result depends on the teacher's model: as a teacher, or for its blocks."""
        return self.trains_teacher or self.model.student_depth is not None

    @property
    def reads_store(self) -> bool:
        """Whether the method learns from stored hidden states."""
        return self.method.reads_store

    @property
    def trains_student(self) -> bool:
        """Whether the method trains a student."""
        return self.method.trains_student

    @property
    def thinks(self) -> bool:
        """Whether the run's method answers after thoughts."""
        return self.method.thinks and self.has_thoughts

    @property
    def stops_early(self) -> bool:
        """Whether the validation accuracy decides when the student's training ends."""
        return self.trains_student and self.student.early_stopping_patience is not None

    @property
    def trains_by_epochs(self) -> bool:
        """Whether no number of updates overrides the student's epochs."""
        return self.student.max_steps is None

    @property
    def trains_a_model(self) -> bool:
        """Whether teacher or student is trained."""
        return self.trains_student or self.trains_teacher

    @property
    def adapts_student(self) -> bool:
        """Whether the student has LoRA adapters."""
        return self.method.adapts_student

    @property
    def adapts_teacher(self) -> bool:
        """Whether the teacher is trained through LoRA adapters."""
        return self.trains_teacher and self.teacher.teacher_tuning != "full"

    @property
    def has_thoughts(self) -> bool:
        """Whether the curriculum replaces any step."""
        return self.thinking.max_stage > 0

    @property
    def removes_steps(self) -> bool:
        """Whether the student's written steps are removed by and by."""
        return self.method.rows == "stages"

    @property
    def removes_tokens(self) -> bool:
        """Whether they are removed token by token."""
        return self.removes_steps and self.removal.remove_per_epoch is not None

    @property
    def has_markers(self) -> bool:
        """Whether markers stand around the thoughts."""
        return self.thinking.thought_markers

    @property
    def aligns(self) -> bool:
        """Whether the latent distillation loss has any weight."""
        return self.distill.distill_alpha > 0

    @property
    def own_problem_limit(self) -> int | None:
        """num_student_problems, or `None` if the student sees the teacher's problems."""
        return limit if (limit := self.student.num_student_problems) != self.data.num_train_problems else None

    @property
    def stored_layers(self) -> tuple[int, ...]:
        """Teacher layers in the store, in rising order; layer 0 holds the thoughts, if they are fed back."""
        thoughts = () if self.distill.thoughts_from == "student" else (0,)
        return tuple(sorted({*(self.store.store_layers or self.distill.layers), *thoughts}))

    @property
    def evaluated_datasets(self) -> tuple[str, ...]:
        """Data sets of the evaluation."""
        return self.evaluation.eval_datasets or self.data.dataset_parts

    @property
    def named_eval_datasets(self) -> tuple[str, ...]:
        """Data sets of the evaluation by name, independent of the files that exist."""
        return self.evaluation.eval_datasets or self.data.joined_names

    @property
    def graded_methods(self) -> tuple[str, ...]:
        """Methods to grade, the run's own last."""
        own = self.student.method
        return (*(name for name in self.evaluation.methods if name != own), own)

    def phase_fields(self, phase: Phase) -> dict[str, Any]:
        """Return the settings that decide the result of a phase, those of earlier phases included."""
        return identity.phase_fields(self, phase)

    def result_fields(self) -> dict[str, Any]:
        """Return every setting that can change a result of the run."""
        return self.phase_fields("evaluation")

    def fingerprint(self, phase: Phase = "evaluation") -> str:
        """Return 16 hexadecimal digits that stand for `phase_fields(phase)`."""
        return identity.fingerprint(self.phase_fields(phase))


assert list(RunConfig.model_fields) == list(GROUPS), "RunConfig and GROUPS list the same groups"
