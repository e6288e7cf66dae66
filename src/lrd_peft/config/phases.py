"""Settings of the four phases, and of the run as a whole."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, model_validator
from typing_extensions import Self

from lrd_peft.config.choices import (
    Dtype,
    EvalSplit,
    ForceMarker,
    LearningRateSchedule,
    OptimizerReset,
    TeacherTuning,
    Tracker,
)
from lrd_peft.config.fields import (
    NO_EFFECT,
    Affects,
    Count,
    CountOrZero,
    Device,
    Epochs,
    Fraction,
    FractionBelowOne,
    Group,
    Layers,
    Name,
    Names,
    NamesOrNone,
    NamesOrOne,
    NonNegative,
    Positive,
    Seed,
    Warmup,
)
from lrd_peft.config.methods import METHODS, check_method


class TeacherConfig(Group):
    """Phase 1: training of the teacher."""

    teacher_tuning: Annotated[TeacherTuning, Affects("teacher", when=("trains_teacher",))] = "full"
    """What is trained in the teacher: all weights, LoRA, or LoRA on quantized weights."""
    epochs_stage0: Annotated[
        NonNegative, Affects("teacher", when=("trains_teacher",)), Affects("student", when=("follows_curriculum",))
    ] = 1.0
    """Epochs of stage 0, in which all steps are written. Methods coconut and coconut-lora: its share of the epochs."""
    epochs_per_stage: Annotated[
        NonNegative,
        Affects("teacher", when=("trains_latent_teacher",)),
        Affects("student", when=("follows_curriculum",)),
    ] = 1.0
    """Epochs of each later stage, or their share."""
    epochs_last_stage: Annotated[
        NonNegative | None,
        Affects("teacher", when=("trains_latent_teacher",), value="teacher.last_stage_epochs"),
        Affects("student", when=("follows_curriculum",), value="teacher.last_stage_epochs"),
    ] = None
    """Epochs of the last stage, or its share (default: epochs_per_stage)."""
    epochs_of_stages: Annotated[
        Epochs | None,
        Affects("teacher", when=("trains_latent_teacher",), added=None),
        Affects("student", when=("follows_curriculum",), added=None),
    ] = None
    """Epochs of each stage from 0 on, or their shares, in place of the three settings above."""
    uniform_prob: Annotated[
        Fraction,
        Affects("teacher", when=("trains_teacher",)),
        Affects("student", when=("follows_curriculum",)),
        Affects("student", when=("draws_stages",)),
    ] = 0.0
    """Fraction of updates whose stage is drawn from all stages, against forgetting (student_curriculum too)."""
    teacher_step_loss_weight: Annotated[
        NonNegative, Affects("teacher", when=("trains_latent_teacher", "has_thoughts"), added=0.0)
    ] = 0.0
    """Same as step_loss_weight, for the teacher's latent stages."""
    teacher_learning_rate: Annotated[Positive, Affects("teacher", when=("trains_teacher",))] = 1e-4
    """Peak learning rate of the teacher."""
    teacher_batch_size: Annotated[Count, Affects("teacher", when=("trains_teacher",))] = 16
    """Batch size of the teacher, per process."""

    @property
    def last_stage_epochs(self) -> float:
        """Epochs of the last stage."""
        return self.epochs_per_stage if self.epochs_last_stage is None else self.epochs_last_stage

    @property
    def has_epochs(self) -> bool:
        """Whether any stage updates the teacher."""
        return max(self.epochs_of_stages or (self.epochs_stage0, self.epochs_per_stage, self.last_stage_epochs)) > 0


class StoreConfig(Group):
    """Phase 2: the teacher's hidden states on disk. `DistillConfig` holds which positions are stored."""

    store_dtype: Annotated[Dtype, Affects("store", when=("reads_store",))] = "bfloat16"
    """Data type of the stored hidden states."""
    store_layers: Annotated[Layers | None, Affects("store", when=("reads_store",), value="stored_layers")] = None
    """Teacher layers to store (default: distill_layers)."""
    shard_bytes: Annotated[Count, NO_EFFECT] = 64 * 2**20
    """Maximum bytes of one file of the store."""


class StudentConfig(Group):
    """Phase 3: the method, and the training of the student."""

    method: Annotated[Name, AfterValidator(check_method), Affects("student"), Affects("evaluation")] = "latent-lora"
    """How the student is made: latent-lora, latent-full, distill-lora, standard-distill, full-finetune, direct, ..."""
    num_student_problems: Annotated[
        Count | None, Affects("student", when=("trains_student",), value="own_problem_limit", added=None)
    ] = None
    """Train the student on the first N problems of each data set (default: the same as the teacher)."""
    learning_rate: Annotated[Positive, Affects("student", when=("trains_student",))] = 1e-4
    """Peak learning rate of the student (AdamW)."""
    batch_size: Annotated[Count, Affects("student", when=("trains_student",))] = 4
    """Batch size of the student, per process."""
    gradient_accumulation_steps: Annotated[Count, Affects("student", when=("trains_student",))] = 1
    """Batches per update."""
    epochs: Annotated[Positive, Affects("student", when=("trains_student", "trains_by_epochs"))] = 3.0
    """Epochs of the student."""
    max_steps: Annotated[Count | None, Affects("student", when=("trains_student",), added=None)] = None
    """Updates of the student (overrides epochs)."""
    max_seconds: Annotated[Positive | None, Affects("student", when=("trains_student",))] = None
    """Train the student for as many updates as fit into this time, which a short run measures (overrides epochs)."""
    eval_steps: Annotated[Count | None, Affects("student", when=("trains_student",), added=None)] = None
    """Updates between two gradings of the student on the validation problems (default: none)."""
    early_stopping_patience: Annotated[Count | None, Affects("student", when=("trains_student",), added=None)] = None
    """Stop the student when so many gradings in a row were no better than the best before them (default: never)."""
    token_alpha: Annotated[Fraction, Affects("student", objectives={"tokens"})] = 0.5
    """Weight of the token KL in alpha * temperature^2 * KL + (1 - alpha) * L_task (standard-distill, distill-lora)."""
    temperature: Annotated[Positive, Affects("student", objectives={"tokens"})] = 2.0
    """Temperature of both token distributions in the token KL."""
    codi_weight: Annotated[NonNegative, Affects("student", objectives={"self"})] = 1.0
    """Weight of the distance between the latent and the text path (codi, pccot)."""

    @model_validator(mode="after")
    def _one_length_of_training(self) -> Self:
        if self.max_steps is not None and self.max_seconds is not None:
            raise ValueError(
                f"max_steps is {self.max_steps} and max_seconds {self.max_seconds:g}; both set how long the student "
                "trains: drop one of them"
            )
        return self

    @model_validator(mode="after")
    def _patience_has_its_gradings(self) -> Self:
        if self.early_stopping_patience is not None and self.eval_steps is None:
            raise ValueError(
                f"early_stopping_patience is {self.early_stopping_patience}, but the student is not graded while it "
                "trains; set eval_steps"
            )
        return self


class AdapterConfig(Group):
    """LoRA adapters: of the student, and of the teacher if `teacher_tuning` is lora or qlora."""

    lora_r: Annotated[
        Count, Affects("student", when=("adapts_student",)), Affects("teacher", when=("adapts_teacher",))
    ] = 16
    """LoRA rank."""
    lora_alpha: Annotated[
        Count, Affects("student", when=("adapts_student",)), Affects("teacher", when=("adapts_teacher",))
    ] = 32
    """LoRA scaling: the update is multiplied by lora_alpha / lora_r."""
    lora_dropout: Annotated[
        FractionBelowOne, Affects("student", when=("adapts_student",)), Affects("teacher", when=("adapts_teacher",))
    ] = 0.0
    """Dropout before the first LoRA matrix."""
    lora_targets: Annotated[
        Literal["all-linear"] | NamesOrOne,
        Affects("student", when=("adapts_student",)),
        Affects("teacher", when=("adapts_teacher",)),
    ] = "all-linear"
    """Modules that get adapters: all-linear, names such as q_proj v_proj, or a regular expression of whole paths."""
    train_markers: Annotated[
        bool,
        Affects("student", when=("adapts_student", "has_markers"), added=True),
        Affects("teacher", when=("adapts_teacher", "has_markers"), added=True),
    ] = True
    """Train the embeddings of new markers beside the adapters (CODI's code freezes them)."""


class OptimizerConfig(Group):
    """AdamW and its schedule: a group of its own, because phase 1 and phase 3 share these settings."""

    warmup_steps: Annotated[Warmup, Affects("teacher", when=("trains_a_model",))] = 0.1
    """Learning-rate warm-up of each training: a fraction below 1 (or 10%), or a number of updates."""
    weight_decay: Annotated[NonNegative, Affects("teacher", when=("trains_a_model",))] = 0.0
    """Weight decay of AdamW."""
    max_grad_norm: Annotated[NonNegative, Affects("teacher", when=("trains_a_model",))] = 1.0
    """Norm to which gradients are clipped (0 = not clipped)."""
    optimizer_reset: Annotated[OptimizerReset, Affects("teacher", when=("trains_a_model",), added="stage")] = "stage"
    """When AdamW's moments are cleared: at each stage of a curriculum, or at each epoch too."""
    lr_scheduler: Annotated[LearningRateSchedule, Affects("teacher", when=("trains_a_model",))] = "linear"
    """Learning-rate schedule after the warm-up."""
    gradient_checkpointing: Annotated[bool, NO_EFFECT] = False
    """Compute blocks again in the backward pass: less memory, more time, the same weights."""


class EvaluationConfig(Group):
    """Phase 4: what is graded, on which problems."""

    methods: Annotated[NamesOrNone, Affects("evaluation")] = ("base", "teacher-cot", "teacher-latent")
    """Reference methods to grade too, if the run has their models; a teacher that you name here is trained."""
    eval_datasets: Annotated[Names | None, Affects("evaluation", value="named_eval_datasets")] = None
    """Data sets to evaluate on (default: the parts of dataset)."""
    num_eval_problems: Annotated[Count | None, Affects("evaluation")] = 300
    """Maximum held-out problems per data set (None = all)."""
    force_marker: Annotated[ForceMarker, Affects("evaluation", added="thoughts")] = "thoughts"
    """Insert the answer marker after thoughts, also where a method writes no steps (direct, icot), or never."""
    eval_split: Annotated[EvalSplit, Affects("evaluation")] = "test"
    """Split to evaluate on."""
    eval_batch_size: Annotated[Count, Affects("evaluation")] = 64
    """Maximum batch size of generation; it is reduced where memory runs short."""
    max_new_tokens: Annotated[Count | None, Affects("evaluation")] = None
    """Maximum tokens to generate per problem (default: from the lengths in the data)."""
    ablate_problems: Annotated[CountOrZero, NO_EFFECT] = 0
    """Replace the thoughts of the method on so many problems per data set, as lrd ablate does (0: do not)."""
    probe_problems: Annotated[CountOrZero, NO_EFFECT] = 0
    """Probe the states of the method on so many problems per data set, as lrd probe does (0: do not)."""

    @property
    def asks_for_teacher(self) -> bool:
        """Whether `methods` was set and names a teacher."""
        return self.methods != EvaluationConfig().methods and any(METHODS[name].is_teacher for name in self.methods)

    @model_validator(mode="after")
    def _methods_exist(self) -> Self:
        for name in self.methods:
            check_method(name)
        return self


class RunOptions(Group):
    """Where a run works, with which seeds, on what device, and what it reports."""

    output_dir: Annotated[Name, NO_EFFECT] = "runs/default"
    """Run folder."""
    seed: Annotated[Seed, Affects("student", when=("trains_student",))] = 0
    """Random seed."""
    teacher_seed: Annotated[Seed | None, Affects("teacher", value="run.problems_seed")] = None
    """Seed of the training problems and of phase 1, to share a teacher between seeds (default: seed)."""
    device: Annotated[Device | None, NO_EFFECT] = None
    """Device: cpu, cuda, cuda:1, mps, ... (default: the best available)."""
    report_to: Annotated[Tracker, NO_EFFECT] = "none"
    """Experiment tracker."""
    run_name: Annotated[Name | None, NO_EFFECT] = None
    """Name of the run in the tracker (default: name of the run folder)."""
    logging_steps: Annotated[Count, NO_EFFECT] = 10
    """Updates between two log lines."""
    save_steps: Annotated[Count, NO_EFFECT] = 200
    """Updates between two checkpoints."""
    num_threads: Annotated[Count | None, NO_EFFECT] = None
    """CPU threads (default: chosen by torch)."""

    @property
    def problems_seed(self) -> int:
        """Seed of the training problems and of phase 1."""
        return self.seed if self.teacher_seed is None else self.teacher_seed
