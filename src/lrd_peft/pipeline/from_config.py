"""What several phases derive from a configuration: problems, models, thinking options, training arguments."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, TrainingArguments
from transformers.utils import logging as transformers_logging

from lrd_peft.config import RunConfig
from lrd_peft.config.methods import METHODS
from lrd_peft.data import Problem, ProblemSet, load_problems
from lrd_peft.data.encoding import Encoded
from lrd_peft.data.generators import is_generated
from lrd_peft.data.problem_sets import GENERATED_SIZES
from lrd_peft.data.problem_sources import is_named
from lrd_peft.lora import Model, create_lora_model
from lrd_peft.model.inspection import context_length
from lrd_peft.model.loop import unwrap
from lrd_peft.model.options import ThinkingOptions
from lrd_peft.model.student import StudentModel
from lrd_peft.model.thinking_model import ThinkingModel
from lrd_peft.pipeline.run_folder import RunPaths
from lrd_peft.runtime.errors import UserError
from lrd_peft.runtime.processes import device_of
from lrd_peft.training.callbacks import RestartEachEpoch
from lrd_peft.training.curriculum import StageCollator
from lrd_peft.training.sampling import updates_per_epoch
from lrd_peft.training.token_removal import TokenRemoval

NUM_LENGTH_PROBLEMS = 300
"""Training problems of each data set that the length of answers is estimated from."""
# The same held-out problems for every seed of a run.
HELD_OUT_SEED = 0


@dataclass(frozen=True, slots=True)
class TrainingProblems:
    """Encoded training problems.

    Attributes:
        encoded: Problems that fit into the model's context.
        report: Lines for the log: what was loaded, and how much was left out.
    """

    encoded: tuple[Encoded, ...]
    report: tuple[str, ...]

    @property
    def problems(self) -> tuple[Problem, ...]:
        return tuple(row.problem for row in self.encoded)


def quiet_libraries() -> None:
    """Silence messages of transformers and PEFT that users cannot act on."""
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    # PEFT reads an attribute that transformers has renamed.
    warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)
    # PEFT adds patterns for the experts of some architectures and then finds that they match nothing.
    warnings.filterwarnings("ignore", message=".*keys did not match any targeted module.*", category=RuntimeWarning)


def train_split(config: RunConfig, *, limit: int | None) -> ProblemSet:
    """Load at most `limit` training problems of each data set (None: all)."""
    return load_problems(
        config.data.dataset,
        split="train",
        limit=limit,
        data_dir=config.data.data_dir,
        seed=config.run.problems_seed,
        steps_style=config.data.steps_style,
        columns=config.data.column_names,
    )


def student_limit(config: RunConfig) -> int | None:
    """Return the maximum number of training problems per data set for the student (None: all).

    Raises:
        UserError: If the teacher would see fewer problems of a generated set than the student.
    """
    wanted, endless = config.student.num_student_problems, list(filter(is_generated, config.data.dataset_parts))
    if wanted is not None and config.data.num_train_problems is None and endless and wanted > GENERATED_SIZES["train"]:
        raise UserError(
            f"num_student_problems is {wanted}, but the teacher sees {GENERATED_SIZES['train']} of {endless[0]} unless "
            "num_train_problems is set; set num_train_problems too"
        )
    return wanted or config.data.num_train_problems


def training_problems(config: RunConfig, model: ThinkingModel, *, student: bool = False) -> TrainingProblems:
    """Load and encode the training problems; those longer than the limit are left out and counted.

    Args:
        config: Configuration of the run.
        model: Model to train, whose tokenizer and context apply.
        student: Load the student's share (`num_student_problems`).

    Raises:
        UserError: If no problem is left.
    """
    loaded = train_split(config, limit=student_limit(config) if student else config.data.num_train_problems)
    limit = longest_allowed(config, model)
    encoded, num_too_long = model.encoder.encode_all(loaded.problems, max_length=limit)
    report = [loaded.report()]
    if num_too_long:
        report.append(f"{num_too_long} problems longer than {limit} tokens left out")
    return TrainingProblems(tuple(encoded), tuple(report))


def some_training_problems(config: RunConfig) -> Sequence[Problem]:
    """Return some training problems of each data set, to estimate the length of answers."""
    return train_split(config, limit=min(NUM_LENGTH_PROBLEMS, config.data.num_train_problems or NUM_LENGTH_PROBLEMS))


def held_out(config: RunConfig, name: str, *, split: str, limit: int | None) -> ProblemSet:
    """Load held-out problems of one data set; they do not depend on the seed of the run."""
    return load_problems(
        name,
        split=split,
        limit=limit,
        data_dir=config.data.data_dir,
        seed=HELD_OUT_SEED,
        steps_style=config.data.steps_style,
        columns={} if is_named(name) else config.data.column_names,
    )


def validation_problems(config: RunConfig) -> list[Problem]:
    """Load the validation problems of all data sets."""
    if not config.data.num_validation_problems:
        return []
    limit = config.data.num_validation_problems
    loaded = (held_out(config, name, split="validation", limit=limit) for name in config.data.dataset_parts)
    return [problem for each in loaded for problem in each.problems]


def longest_allowed(config: RunConfig, model: ThinkingModel) -> int | None:
    """Return the maximum length of a problem in tokens: max_length, or the context minus slots and markers.

    Returns:
        None if neither limits it.

    Raises:
        UserError: If max_length exceeds what the context has room for.
    """
    context = context_length(unwrap(model.lm).config)
    room = None if context is None else context - config.thinking.num_thoughts - 2 * config.thinking.thought_markers
    if config.data.max_length is None:
        return room
    if room is not None and config.data.max_length > room:
        raise UserError(
            f"max_length is {config.data.max_length}, but the model's context of {context} tokens leaves {room} "
            f"after {config.thinking.num_thoughts} thoughts"
        )
    return config.data.max_length


def thinking_options(config: RunConfig, *, num_thoughts: int | None = None) -> ThinkingOptions:
    """Return the thinking options of a run's models (`num_thoughts` overrides the configuration)."""
    return ThinkingOptions(
        num_thoughts=config.thinking.num_thoughts if num_thoughts is None else num_thoughts,
        projection=config.thinking.thought_projection,
        projection_width=config.thinking.projection_width,
        projection_dropout=config.thinking.projection_dropout,
        jacobi_passes=config.thinking.thought_passes,
        placeholder=config.thinking.thought_placeholder,
        markers=config.thinking.thought_markers,
        empty_markers=config.thinking.stage0_markers,
        marker_init=config.thinking.marker_init,
        force_marker=True,  # an evaluation's own setting is an argument of the evaluation
        **config.data.prompt,
    )


def student_options(config: RunConfig) -> ThinkingOptions:
    """Return the thinking options of a run's trained student; the student of a text method has no slots."""
    method, options = config.method, thinking_options(config)
    if method.pauses:
        return replace(
            options,
            projection="pause",
            projection_width=None,
            projection_dropout=0.0,
            jacobi_passes=1,
            placeholder=False,
        )
    if method.thinks:
        # After as many passes as thoughts, another one changes nothing.
        passes = None if method.passes is None else min(method.passes, config.thinking.num_thoughts)
        return replace(options, jacobi_passes=config.thinking.thought_passes or passes)
    return replace(
        options,
        num_thoughts=0,
        projection="none",
        projection_width=None,
        projection_dropout=0.0,
        jacobi_passes=None,
        placeholder=False,
        empty_markers=False,
    )


def student_collator(
    config: RunConfig, student: ThinkingModel, *, num_updates: float, per_epoch: float, longest_steps: int
) -> StageCollator:
    """Return the collator of a student that learns from its own problems, through the stages of its method.

    Args:
        config: Configuration of the run.
        student: Model to train.
        num_updates: Updates of the whole training.
        per_epoch: Updates of an epoch.
        longest_steps: Step tokens of the longest problem.
    """
    plan = config.stage_plan
    if config.removes_tokens:
        removal = token_removal(config, per_epoch=per_epoch, longest_steps=longest_steps)
        return StageCollator(student, longest_steps, max_stage=longest_steps, thoughts_per_step=0, removal=removal)
    return StageCollator(
        student,
        plan.stage,
        max_stage=plan.stage,
        thoughts_per_step=plan.thoughts_per_step,
        thinking_stages=plan.thinking_stages,
        thoughts_fit_steps=config.follows_curriculum and config.thinking.thoughts_fit_steps,
        uniform_prob=config.teacher.uniform_prob if config.draws_stages else 0.0,
        seed=config.run.seed,
        **plan.in_updates(num_updates),
    )


def token_removal(config: RunConfig, *, per_epoch: float, longest_steps: int) -> TokenRemoval:
    """Return the schedule of the removal of step tokens; the arguments are those of `student_collator`."""
    options = config.removal
    assert options.remove_per_epoch is not None
    return TokenRemoval(
        updates_per_token=round(per_epoch / options.remove_per_epoch),
        first_update=round(options.pretrain_epochs * per_epoch),
        longest=longest_steps,
        smoothing=options.removal_smoothing,
        side=options.removal_side,
        all_beyond=options.remove_all_beyond,
        seed=config.run.seed,
    )


def epoch_restarts(config: RunConfig, args: TrainingArguments, *, num_problems: int) -> list[TrainerCallback]:
    """Return what clears the optimizer's moments at each epoch, if the configuration asks for that."""
    if config.optimizer.optimizer_reset != "epoch":
        return []
    return [RestartEachEpoch(updates_per_epoch(args, num_problems))]


def with_lora(config: RunConfig, model: Model) -> Model:
    """Add the LoRA adapters of the configuration to a model and freeze its other weights."""
    return create_lora_model(
        model,
        config.adapter.lora_r,
        config.adapter.lora_alpha,
        lora_dropout=config.adapter.lora_dropout,
        target_modules=config.adapter.lora_targets,
        train_markers=config.adapter.train_markers,
    )


def load_options(config: RunConfig, *, student: bool) -> dict[str, Any]:
    """Return the keyword arguments that load the base model of the teacher or the student."""
    options: dict[str, Any] = {
        "trust_remote_code": config.model.trust_remote_code,
        "attn_implementation": config.model.attn_implementation,
        "revision": config.model.student_revision if student else config.model.teacher_revision,
    }
    full = config.method.trains == "all" if student else config.teacher.teacher_tuning == "full"
    # Trained weights are float32 (mixed precision); frozen ones may have a smaller type.
    options["dtype"] = "float32" if full else config.model.dtype
    if student:
        options["teacher"] = config.model.teacher
        if config.model.student_depth is not None:
            options["keep_blocks"] = config.model.keep_blocks or config.model.prune_how
    else:
        options["quantization"] = config.model.quantization
    return {name: value for name, value in options.items() if value not in (None, False)}


def trust(config: RunConfig) -> dict[str, Any]:
    """Return the keyword arguments that let a saved model run code that comes with its base model, if allowed."""
    return {"trust_remote_code": True} if config.model.trust_remote_code else {}


def start_student(
    config: RunConfig, run: RunPaths, options: ThinkingOptions, *, method: str, **loads: Any
) -> StudentModel:
    """Load the untrained student of a method: a model, or blocks of the original or the trained teacher."""
    loading = {**load_options(config, student=True), **loads}
    if config.model.student_weights == "trained":
        loading["teacher"] = str((run.teacher / METHODS[method].begins_with).resolve())
    return StudentModel(config.model.student, options=options, **loading)


# transformers 5.23 renamed it.
_CHECKPOINTING = next(
    name
    for name in ("activation_checkpointing", "gradient_checkpointing")
    if name in TrainingArguments.__dataclass_fields__
)


def training_arguments(
    config: RunConfig, *, student: bool, epochs: float, output_dir: Path, name: str
) -> TrainingArguments:
    """Return transformers' arguments for one training, and prepare its tracker.

    Args:
        config: Configuration of the run.
        student: Train the student; otherwise the teacher.
        epochs: Number of epochs; may be fractional.
        output_dir: Folder for checkpoints.
        name: Name of this training in the tracker.
    """
    _track(config, name)
    checkpointing: dict[str, Any] = {_CHECKPOINTING: config.optimizer.gradient_checkpointing}
    return TrainingArguments(
        output_dir=str(output_dir),
        num_train_epochs=epochs,
        learning_rate=config.student.learning_rate if student else config.teacher.teacher_learning_rate,
        per_device_train_batch_size=config.student.batch_size if student else config.teacher.teacher_batch_size,
        per_device_eval_batch_size=config.evaluation.eval_batch_size,
        gradient_accumulation_steps=config.student.gradient_accumulation_steps if student else 1,
        warmup_steps=config.optimizer.warmup_steps,
        weight_decay=config.optimizer.weight_decay,
        max_grad_norm=config.optimizer.max_grad_norm,
        lr_scheduler_type=config.optimizer.lr_scheduler,
        logging_steps=config.run.logging_steps,
        save_steps=config.run.save_steps,
        seed=config.run.seed if student else config.run.problems_seed,
        bf16=config.model.dtype == "bfloat16",
        fp16=config.model.dtype == "float16",
        use_cpu=device_of(config.run.device).type == "cpu",
        dataloader_pin_memory=torch.cuda.is_available(),
        report_to=[] if config.run.report_to == "none" else [config.run.report_to],
        run_name=f"{_run_name(config)}/{name}",
        remove_unused_columns=False,
        disable_tqdm=True,
        **checkpointing,
    )


def _run_name(config: RunConfig) -> str:
    return config.run.run_name or Path(config.run.output_dir).name


def _track(config: RunConfig, name: str) -> None:
    """Give each training its own entry in the tracker, through the environment that transformers' callbacks read."""
    if config.run.report_to == "tensorboard":
        os.environ["TENSORBOARD_LOGGING_DIR"] = str(Path(config.run.output_dir) / "tensorboard" / name)
    elif config.run.report_to == "wandb":
        import wandb

        os.environ.setdefault("WANDB_PROJECT", "lrd-peft")
        os.environ.setdefault("WANDB_RUN_GROUP", _run_name(config))
        if wandb.run is not None:  # of the previous training
            wandb.finish()
