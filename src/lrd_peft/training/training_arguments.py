"""LRDPEFTConfig: transformers' training arguments with SPEC.md's defaults and the options of latent distillation."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from transformers import TrainingArguments

from lrd_peft.config.distill_options import DistillConfig
from lrd_peft.config.phases import TeacherConfig
from lrd_peft.runtime.errors import UserError, nearest


@dataclass
class LRDPEFTConfig(TrainingArguments):
    """Arguments of `LRDPEFTTrainer`: those of transformers' `TrainingArguments`, and the options below.

    The defaults are SPEC.md's: AdamW with a peak learning rate of 1e-4, 4 problems per device and batch, 3 epochs, 10%
    warm-up. Nothing is saved or reported unless asked for.

    Args:
        distill_alpha: Weight alpha of L_distill in alpha * L_distill + (1 - alpha) * L_task, in [0, 1].
        alpha_schedule: Schedule of alpha: `constant`, `falling` (linear decay to 0) or `rising` (linear warm-up).
        distill_layers: Teacher layers to align, as indices into `hidden_states` (0 = embeddings). Default: 8 to 12
            where the teacher has them, else its last five.
        student_layers: Student layer for each of them. Default: the same relative depth.
        normalize: `variance` divides each layer's loss by the teacher's variance there; `none` does not.
        distill_loss: Distance between states: `mse`, `cosine` or `smooth-l1`.
        positions: Positions to align: `thoughts+answer`, `thoughts` or `all`.
        align_to: What each thought is aligned to: the teacher's `thoughts`, or its states at the ends of written
            `steps`.
        projector_init: Initialization of the projectors between different widths: `random` or `least-squares`.
        thoughts_from: Whose thoughts are fed back in training: `student`, `teacher`, or `annealed` from teacher to
            student, or `refined` from the teacher's by the student in parallel.
        refine_passes: Parallel passes of `thoughts_from="refined"`; as many as thoughts give the student's own.
        student_curriculum: Fraction of the updates over which thoughts replace steps one by one, in [0, 1); 0 uses all
            thoughts from the start. Or the share of each stage, from the one with all steps written on.
        step_loss_weight: Weight of the step loss: each replaced step is decoded from its last thought (SIM-CoT, arXiv
            2509.20317).
        thoughts_per_step: Thoughts that replace one step. Used by `student_curriculum` and `step_loss_weight`.
        uniform_prob: Fraction of updates whose stage is drawn from all stages. Used by `student_curriculum`.

    Raises:
        UserError: If an option is out of range, or two options contradict each other.

    Example:
        >>> args = LRDPEFTConfig(output_dir="out", distill_alpha=0.3, distill_layers=[2, 4, 6], use_cpu=True)
        >>> args.learning_rate, args.num_train_epochs, args.distill_alpha
        (0.0001, 3.0, 0.3)
    """

    per_device_train_batch_size: int = field(default=4, metadata={"help": "Problems per device and batch."})
    num_train_epochs: float = field(default=3.0, metadata={"help": "Epochs."})
    learning_rate: float = field(default=1e-4, metadata={"help": "Peak learning rate (AdamW)."})
    warmup_steps: float = field(default=0.1, metadata={"help": "Warm-up: a fraction below 1, else updates."})
    logging_steps: float = field(default=10, metadata={"help": "Updates between two log lines."})
    save_strategy: str = field(default="no", metadata={"help": "When to save a checkpoint."})
    report_to: str | list[str] | None = field(default="none", metadata={"help": "Experiment trackers."})
    disable_tqdm: bool | None = field(default=True, metadata={"help": "The trainer shows its own progress."})
    remove_unused_columns: bool = field(default=False, metadata={"help": "Has no effect."})
    dataloader_pin_memory: bool = field(
        default_factory=torch.cuda.is_available, metadata={"help": "Pin batches in memory."}
    )

    distill_alpha: float = field(default=0.1, metadata={"help": "Weight of the distillation loss."})
    alpha_schedule: str = field(default="constant", metadata={"help": "Schedule of distill_alpha."})
    distill_layers: Sequence[int] | None = field(default=None, metadata={"help": "Teacher layers to align."})
    student_layers: Sequence[int] | None = field(default=None, metadata={"help": "Student layer for each of them."})
    normalize: str = field(default="variance", metadata={"help": "Scale of each layer's loss."})
    distill_loss: str = field(default="mse", metadata={"help": "Distance between hidden states."})
    positions: str = field(default="thoughts+answer", metadata={"help": "Positions to align."})
    align_to: str = field(default="thoughts", metadata={"help": "What each thought is aligned to."})
    projector_init: str = field(default="random", metadata={"help": "Initialization of the projectors."})
    thoughts_from: str = field(default="student", metadata={"help": "Thoughts that are fed back in training."})
    refine_passes: int = field(default=1, metadata={"help": "Parallel passes of thoughts_from refined."})
    student_curriculum: float | Sequence[float] = field(
        default=0.0, metadata={"help": "Fraction of updates with a rising stage, or the share of each stage."}
    )
    step_loss_weight: float = field(default=0.0, metadata={"help": "Weight of the step loss."})
    thoughts_per_step: int = field(default=1, metadata={"help": "Thoughts that replace one step."})
    uniform_prob: float = field(default=0.0, metadata={"help": "Fraction of updates at a stage drawn from all."})

    def __post_init__(self) -> None:
        super().__post_init__()
        self.distillation()

    def distillation(self) -> DistillConfig:
        """Return the options of latent distillation, validated.

        Raises:
            UserError: If an option is out of range, or two options contradict each other.
        """
        return _checked({name: getattr(self, name) for name in DISTILL_OPTIONS})


class RowOptions(NamedTuple):
    """Options of a student's training rows that the configuration keeps with the teacher's."""

    thoughts_per_step: int
    uniform_prob: float


DISTILL_OPTIONS = tuple(DistillConfig.model_fields)
"""Names of the distillation options, which the trainer takes as keywords, too."""


def default_arguments(*, evaluate: bool) -> LRDPEFTConfig:
    """Return the default arguments, with a temporary output folder.

    Args:
        evaluate: Evaluate after each epoch.
    """
    return LRDPEFTConfig(
        output_dir=tempfile.mkdtemp(prefix="lrd-"),
        eval_strategy="epoch" if evaluate else "no",
    )


def distillation_options(args: TrainingArguments, keywords: Mapping[str, Any]) -> tuple[DistillConfig, RowOptions]:
    """Combine the options of the arguments with keywords, which take precedence.

    Args:
        args: Training arguments; plain `TrainingArguments` carry no distillation options.
        keywords: Distillation options by name.

    Returns:
        The options, and those of the rows.

    Raises:
        UserError: If a keyword is unknown or a value is out of range.
    """
    known = (*DISTILL_OPTIONS, *RowOptions._fields)
    for name in keywords:
        if name not in known:
            raise UserError(
                f"LRDPEFTTrainer has no argument {name}.{nearest(name, known)} Distillation options are "
                f"{', '.join(known)}; training arguments go into args=LRDPEFTConfig(...)"
            )
    values = {name: getattr(args, name) for name in known if hasattr(args, name)} | dict(keywords)
    rows = RowOptions(values.pop("thoughts_per_step", 1), values.pop("uniform_prob", 0.0))
    TeacherConfig.checked(uniform_prob=rows.uniform_prob)
    return _checked(values), rows


def _checked(values: Mapping[str, Any]) -> DistillConfig:
    # Any sequence is accepted, a range too.
    names = ("distill_layers", "student_layers", "student_curriculum")
    lists = {name: tuple(value) for name in names if isinstance(value := values.get(name), Iterable)}
    return DistillConfig.checked(**{**values, **lists})


# Argument -> (value that leaves it off, what to do instead).
_REFUSED: dict[str, tuple[Any, str]] = {
    "label_smoothing_factor": (0.0, "the loss is computed in the thinking loop"),
    "neftune_noise_alpha": (None, "thoughts are fed back as embeddings, which noise would corrupt"),
    "train_sampling_strategy": ("random", "problems of similar length share a batch already"),
    "torch_compile": (False, "the thinking loop changes its shapes from pass to pass"),
    "use_liger_kernel": (False, "the loss is computed in the thinking loop"),
    "auto_find_batch_size": (False, "a changed batch size would change the result; lower the batch size instead"),
    "load_best_model_at_end": (False, "only the last checkpoint is kept; save with a callback where you need it"),
    "save_only_model": (False, "a checkpoint without the optimizer could not be resumed exactly"),
    "dataloader_drop_last": (False, "the schedule counts every problem"),
    "data_seed": (None, "set seed, which also orders the data"),
    "include_num_input_tokens_seen": ("no", "batches have no input_ids to count"),
    "batch_eval_metrics": (False, "compute_metrics gets all answers at once"),
    "deepspeed": (None, "start with `accelerate launch` and FSDP 2, or train LoRA adapters"),
    "fsdp": (None, "start with `accelerate launch` and an FSDP 2 configuration"),
    "fp16_full_eval": (False, "evaluation uses the precision of the training"),
    "bf16_full_eval": (False, "evaluation uses the precision of the training"),
    "push_to_hub": (False, "call trainer.student.push_to_hub(...) after the training"),
    "enable_jit_checkpoint": (False, "a signal ends the training after its update with a checkpoint anyway"),
}


def check_supported(args: TrainingArguments) -> None:
    """Refuse training arguments that would be ignored or would break the training.

    Raises:
        UserError: If one is set. The message says what to do instead.
    """
    for name, (off, advice) in _REFUSED.items():
        value = getattr(args, name, off)
        if name == "data_seed" and value == args.seed:
            continue
        if value not in (off, None, False, [], "", {}):
            raise UserError(f"{name} is {value!r}, which this trainer does not support: {advice}; leave it at {off!r}")
