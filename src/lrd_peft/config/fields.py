"""The fields of a run's configuration: name, type, range, default, help. Knows no rule between two."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
)
from pydantic_core import PydanticCustomError

from lrd_peft.methods import check_method

Share = Annotated[float, Field(ge=0, le=1)]
Rate = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
CountOrZero = Annotated[int, Field(ge=0)]
Name = Annotated[str, Field(min_length=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]


def _distinct(values: tuple[Any, ...] | None) -> tuple[Any, ...] | None:
    if values is not None:
        repeated = sorted({str(value) for value in values if values.count(value) > 1})
        if repeated:
            raise ValueError(f"{', '.join(repeated)} named more than once")
    return values


def _share_of_percent(value: Any) -> Any:
    """Turn "10%" into 0.1."""
    if isinstance(value, str) and value.strip().endswith("%"):
        try:
            percent = float(value.strip()[:-1])
        except ValueError:
            return value
        if percent >= 100:
            raise ValueError(f'"{value}" must be below 100%')
        return percent / 100
    return value


def _device_name(value: str) -> str:
    if not re.fullmatch(r"(cpu|cuda|mps|xpu|npu|hpu)(:\d+)?", value):
        raise ValueError(f'"{value}" is no device; name one such as cpu, cuda, cuda:1 or mps')
    return value


def _share_or_whole(value: float) -> float:
    if value >= 1 and not value.is_integer():
        raise ValueError(f"{value} is neither a share below 1 nor a whole number of steps")
    return value


Layers = Annotated[tuple[CountOrZero, ...], Field(min_length=1), AfterValidator(_distinct)]
Names = Annotated[tuple[Name, ...], Field(min_length=1), AfterValidator(_distinct)]
Warmup = Annotated[float, Field(ge=0), BeforeValidator(_share_of_percent), AfterValidator(_share_or_whole)]


class Fields(BaseModel):
    """Every field by itself. The docstring under a field is also its `--help`."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)

    # Models
    teacher: Name = "tiny-teacher"
    """Teacher: a hub id, a folder, "smollm2", "tiny-teacher" or "tiny-student"."""
    student: Name = "tiny-student"
    """Student: as the teacher, or "teacher:N" for N blocks of the teacher."""
    teacher_revision: Name | None = None
    """Commit, tag or branch of the teacher on the hub."""
    student_revision: Name | None = None
    """Commit, tag or branch of the student on the hub."""
    prune_how: Literal["spread", "first", "drop-middle", "drop-deep"] = "spread"
    """Which blocks "teacher:N" keeps: evenly spread, the first, both ends, or the first and the very last."""
    keep_blocks: Layers | None = None
    """The very blocks that "teacher:N" keeps, counted from 0; instead of prune_how."""
    student_weights: Literal["base", "trained"] = "base"
    """Whose blocks "teacher:N" keeps: those of the teacher as it came, or as phase 1 left it."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Number type of the computation."""
    quantization: Literal["4bit", "8bit"] | None = None
    """Load the teacher's weights in 4 or 8 bits (needs bitsandbytes and a GPU)."""
    trust_remote_code: bool = False
    """Run code that a model's hub repository brings along."""
    attn_implementation: Name | None = None
    """Attention of transformers: sdpa, eager, flash_attention_2, ...; its own choice if not given."""

    # Data
    dataset: Name = "gsm-mini"
    """Problems: gsm-mini, math-mini, aqua-mini, gsm8k, math, aqua, a hub id, a .jsonl file; "a+b" joins."""
    data_dir: Name | None = None
    """Folder with local files of the named data sets, instead of the hub."""
    eval_datasets: Names | None = None
    """Data sets to evaluate on; the parts of dataset if not given."""
    num_train_problems: Count | None = None
    """Training problems of each data set; all if not given."""
    num_validation_problems: CountOrZero = 200
    """Problems cut from the training split to choose a model by."""
    num_eval_problems: Count | None = 300
    """Held-out problems of each data set; None for all."""
    eval_split: Literal["test", "validation", "train"] = "test"
    """Split that the final evaluation uses."""
    steps_style: Literal["text", "equations"] = "text"
    """Steps as sentences, or only their equations where a data set marks them."""
    prompt_style: Literal["plain", "chat"] = "plain"
    """Question as plain text, or in the tokenizer's chat template."""
    max_length: Count | None = None
    """Longest problem in tokens, longer ones are left out and counted; the model's context if not given."""

    # Thinking
    thoughts_per_step: Count = 1
    """Thoughts that replace one step."""
    max_stage: CountOrZero = 4
    """Last stage of the curriculum: the number of steps that become thoughts."""
    thought_projection: Literal["none", "linear", "mlp"] = "none"
    """Projection between a hidden state and the thought that is fed back."""
    thought_passes: Count | None = None
    """Refine all thoughts together in so many passes (Jacobi); one after another if not given."""
    thought_markers: bool = False
    """Put <bot> and <eot> around the thoughts."""

    # Phase 1: train the teacher
    teacher_tuning: Literal["full", "lora", "qlora"] = "full"
    """Train all of the teacher's weights, LoRA, or LoRA over quantized weights."""
    epochs_stage0: Annotated[float, Field(ge=0)] = 1.0
    """Epochs with all steps written, before the first thought."""
    epochs_per_stage: Annotated[float, Field(ge=0)] = 1.0
    """Epochs of each stage after that."""
    epochs_last_stage: Annotated[float, Field(ge=0)] | None = None
    """Epochs of the last stage; epochs_per_stage if not given."""
    uniform_prob: Share = 0.0
    """Share of optimizer steps at a stage drawn from all, against forgetting."""
    teacher_step_loss_weight: Annotated[float, Field(ge=0)] = 0.0
    """As step_loss_weight, in the teacher's stages with thoughts."""
    teacher_learning_rate: Rate = 1e-4
    """Peak learning rate of the teacher."""
    teacher_batch_size: Count = 16
    """Problems in one batch of the teacher, for each process."""

    # Phase 2: the store
    positions: Literal["thoughts+answer", "thoughts", "all"] = "thoughts+answer"
    """Positions whose hidden states are stored and aligned."""
    align_to: Literal["thoughts", "steps"] = "thoughts"
    """What a thought is aligned to: the teacher's thought there, or what it holds when it has written the step."""
    store_dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    """Number type of the stored hidden states."""
    store_layers: Layers | None = None
    """Layers to store; distill_layers if not given."""
    shard_bytes: Count = 64 * 2**20
    """Size at which the store begins a new file."""

    # Phase 3: make the student
    method: Annotated[Name, AfterValidator(check_method)] = "latent-lora"
    """How the student is made: latent-lora, latent-full, distill-lora, standard-distill, full-finetune, direct, ..."""
    num_student_problems: Count | None = None
    """Training problems of each data set that the student sees, the first ones; the teacher's if not given."""
    distill_alpha: Share = 0.1
    """Alpha of L = alpha * L_distill + (1 - alpha) * L_task."""
    alpha_schedule: Literal["constant", "falling", "rising"] = "constant"
    """Course of distill_alpha over the student's steps: the same throughout, from it to 0, or from 0 to it."""
    distill_layers: Layers = (8, 9, 10, 11, 12)
    """Teacher layers to align; 0 is the embeddings, l the output of block l."""
    student_layers: Annotated[tuple[CountOrZero, ...], Field(min_length=1)] | None = None
    """Student layer for each of distill_layers; by relative depth if not given."""
    normalize: Literal["variance", "none"] = "variance"
    """Divide each layer's loss by the teacher's variance there, or leave the plain formula."""
    distill_loss: Literal["mse", "cosine", "smooth-l1"] = "mse"
    """Distance between a student's and a teacher's hidden state."""
    projector_init: Literal["random", "least-squares"] = "random"
    """How maps to the teacher's width begin: at random, or fitted to what the untrained student holds."""
    thoughts_from: Literal["student", "teacher", "annealed"] = "student"
    """Whose thoughts are fed back in training: its own, the stored ones, or from these to those."""
    student_curriculum: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of a thinking student's steps over which its thoughts replace steps one by one; 0: all from the start."""
    step_loss_weight: Annotated[float, Field(ge=0)] = 0.0
    """Weight of an added loss: the model must write each replaced step from its last thought (SIM-CoT)."""
    token_alpha: Share = 0.5
    """Alpha of the token losses: alpha * temperature^2 * KL + (1 - alpha) * L_task (standard-distill, distill-lora)."""
    temperature: Rate = 2.0
    """Temperature of both token distributions in that KL."""
    codi_weight: Annotated[float, Field(ge=0)] = 1.0
    """Weight of the distance between thought and written path (codi, pccot)."""
    lora_r: Count = 16
    """LoRA rank."""
    lora_alpha: Count = 32
    """LoRA scaling: the update is multiplied by lora_alpha / lora_r."""
    lora_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout before LoRA's first matrix."""
    lora_targets: Literal["all-linear"] | Names = "all-linear"
    """Modules that get LoRA: all-linear, or names such as q_proj v_proj."""
    learning_rate: Rate = 1e-4
    """Peak learning rate of the student (AdamW)."""
    batch_size: Count = 4
    """Problems in one batch of the student, for each process."""
    gradient_accumulation_steps: Count = 1
    """Batches in one optimizer step."""
    epochs: Annotated[float, Field(gt=0)] = 3.0
    """Epochs of the student."""
    max_steps: Count | None = None
    """Optimizer steps of the student, instead of epochs."""
    max_seconds: Rate | None = None
    """Train the student for as many steps as fit into this time, instead of epochs; a step is timed once, before."""
    warmup_steps: Warmup = 0.1
    """Warm-up of each training's learning rate: a share below 1 (or 10%), else a number of steps."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """Weight decay of AdamW."""
    max_grad_norm: Rate = 1.0
    """Gradients are clipped to this norm."""
    lr_scheduler: Literal["linear", "cosine", "constant"] = "linear"
    """Course of the learning rate after the warm-up."""

    # Evaluation
    methods: Annotated[tuple[Name, ...], AfterValidator(_distinct)] = ("base", "teacher-cot", "teacher-latent")
    """Methods graded beside the run's own, where the run has their models."""
    eval_batch_size: Count = 64
    """Most problems in one batch of generation; fewer where memory does not hold them."""
    max_new_tokens: Count | None = None
    """Most tokens to generate for a problem; from the data's lengths if not given."""

    # Run
    output_dir: Name = "runs/default"
    """Run folder."""
    seed: Seed = 0
    """Seed of everything random."""
    teacher_seed: Seed | None = None
    """Seed of the training problems and of phase 1, for students of several seeds; seed if not given."""
    device: Annotated[str, AfterValidator(_device_name)] | None = None
    """Device: cpu, cuda, cuda:1, mps, ...; the best there is if not given."""
    report_to: Literal["none", "wandb", "tensorboard", "trackio"] = "none"
    """Experiment tracker."""
    run_name: Name | None = None
    """Name of the run in the tracker; the run folder's name if not given."""
    logging_steps: Count = 10
    """Optimizer steps between two lines of the log."""
    save_steps: Count = 200
    """Optimizer steps between two checkpoints."""
    num_threads: Count | None = None
    """CPU threads of torch; its own choice if not given."""

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        # pydantic takes true for 1; in a configuration that is a slip
        assert info.field_name is not None
        if cls.model_fields[info.field_name].annotation is not bool:
            parts = value if isinstance(value, list | tuple) else (value,)
            if any(isinstance(part, bool) for part in parts):
                raise PydanticCustomError("truth_for_a_number", "true and false are no numbers or names")
        return value
