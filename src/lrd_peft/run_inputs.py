"""What several phases make of a configuration: problems, thinking options, training arguments. Makes no artifacts."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments
from transformers.utils import logging as transformers_logging

from lrd_peft.config import RunConfig
from lrd_peft.data import Problem, ProblemSet, load_problems
from lrd_peft.data.encoding import Encoded
from lrd_peft.data.generators import SETS
from lrd_peft.data.load import GENERATED_SIZES
from lrd_peft.errors import UserError
from lrd_peft.lora import Model, create_lora_model
from lrd_peft.methods import METHODS
from lrd_peft.model.facts import context_length
from lrd_peft.model.models import StudentModel
from lrd_peft.model.thinking import unwrap
from lrd_peft.model.thinking_model import ThinkingModel, ThinkingOptions
from lrd_peft.processes import on_cpu
from lrd_peft.run_folder import RunFolder

# Runs with different seeds are compared on the same held-out problems.
HELD_OUT_SEED = 0


@dataclass(frozen=True, slots=True)
class TrainingProblems:
    """Training problems that fit, encoded, and lines that say what was left out."""

    encoded: tuple[Encoded, ...]
    report: tuple[str, ...]

    @property
    def problems(self) -> tuple[Problem, ...]:
        return tuple(row.problem for row in self.encoded)


def quiet_libraries() -> None:
    """Keep transformers and PEFT from telling the user what is none of theirs."""
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    # PEFT still asks transformers for an attribute that has been renamed.
    warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)


def train_split(config: RunConfig, *, limit: int | None) -> ProblemSet:
    """Load the training problems of a run, at most `limit` of each data set."""
    return load_problems(
        config.dataset,
        split="train",
        limit=limit,
        data_dir=config.data_dir,
        seed=config.problems_seed,
        steps_style=config.steps_style,
    )


def student_limit(config: RunConfig) -> int | None:
    """Return the most training problems of each data set that the student sees.

    Raises:
        UserError: if these are more than the teacher sees of an endless set.
    """
    wanted, endless = config.num_student_problems, [part for part in config.dataset_parts if part in SETS]
    if wanted is not None and config.num_train_problems is None and endless and wanted > GENERATED_SIZES["train"]:
        raise UserError(
            f"num_student_problems is {wanted}, but the teacher sees {GENERATED_SIZES['train']} of {endless[0]} where "
            "num_train_problems is not given; set num_train_problems too"
        )
    return wanted or config.num_train_problems


def training_problems(config: RunConfig, model: ThinkingModel, *, student: bool = False) -> TrainingProblems:
    """Load the training split, or the student's part, and leave out what is longer than the model's context, counted.

    Raises:
        UserError: if nothing is left.
    """
    loaded = train_split(config, limit=student_limit(config) if student else config.num_train_problems)
    limit = longest_allowed(config, model)
    encoded, num_too_long = model.encoder.encode_all(loaded.problems, max_length=limit)
    report = [loaded.report()]
    if num_too_long:
        report.append(f"{num_too_long} problems longer than {limit} tokens left out")
    return TrainingProblems(tuple(encoded), tuple(report))


def some_training_problems(config: RunConfig) -> Sequence[Problem]:
    """Return a few training problems of each data set, enough to know how long answers are."""
    return train_split(config, limit=min(300, config.num_train_problems or 300))


def held_out(config: RunConfig, name: str, *, split: str, limit: int | None) -> Sequence[Problem]:
    """Load problems of one data set to evaluate on: the same ones whatever the seed of the run."""
    return load_problems(
        name,
        split=split,
        limit=limit,
        data_dir=config.data_dir,
        seed=HELD_OUT_SEED,
        steps_style=config.steps_style,
    )


def longest_allowed(config: RunConfig, model: ThinkingModel) -> int | None:
    """Return the most tokens that a problem may have: max_length, or what the context leaves beside the slots."""
    context = context_length(unwrap(model.lm).config)
    room = None if context is None else context - config.num_thoughts - 2 * config.thought_markers
    if config.max_length is None:
        return room
    if room is not None and config.max_length > room:
        raise UserError(
            f"max_length is {config.max_length}, but the model's context of {context} tokens leaves {room} "
            f"beside {config.num_thoughts} thoughts"
        )
    return config.max_length


def thinking_options(config: RunConfig, *, num_thoughts: int | None = None) -> ThinkingOptions:
    """Return how the models of a run think."""
    return ThinkingOptions(
        num_thoughts=config.num_thoughts if num_thoughts is None else num_thoughts,
        projection=config.thought_projection,
        jacobi_passes=config.thought_passes,
        markers=config.thought_markers,
        prompt_style=config.prompt_style,
    )


def student_options(config: RunConfig) -> ThinkingOptions:
    """Return how the trained student of a run answers: one that writes has no slots."""
    method, options = METHODS[config.method], thinking_options(config)
    if method.thinks:
        # More passes than thoughts find nothing new.
        passes = None if method.passes is None else min(method.passes, config.num_thoughts)
        return replace(options, jacobi_passes=config.thought_passes or passes)
    return replace(options, num_thoughts=0, projection="none", jacobi_passes=None)


def with_lora(config: RunConfig, model: Model) -> Model:
    """Freeze a model and give it the configuration's adapters."""
    return create_lora_model(
        model,
        config.lora_r,
        config.lora_alpha,
        lora_dropout=config.lora_dropout,
        target_modules=config.lora_targets,
    )


def load_options(config: RunConfig, *, student: bool) -> dict[str, Any]:
    """Return the arguments for loading the base model of the teacher or the student."""
    options: dict[str, Any] = {
        "trust_remote_code": config.trust_remote_code,
        "attn_implementation": config.attn_implementation,
        "revision": config.student_revision if student else config.teacher_revision,
    }
    full = METHODS[config.method].trains == "all" if student else config.teacher_tuning == "full"
    # All weights are trained in float32 (under autocast); frozen ones may be smaller.
    options["dtype"] = "float32" if full else config.dtype
    if student:
        options["teacher"] = config.teacher
        if config.student_depth is not None:
            options["keep_blocks"] = config.keep_blocks or config.prune_how
    else:
        options["quantization"] = config.quantization
    return {name: value for name, value in options.items() if value not in (None, False)}


def trust(config: RunConfig) -> dict[str, bool]:
    """Return what the loading of a saved model has to be told: whether code that comes with its base may run."""
    return {"trust_remote_code": True} if config.trust_remote_code else {}


def start_student(config: RunConfig, run: RunFolder, options: ThinkingOptions, *, method: str) -> StudentModel:
    """Load the untrained student of a method: the model itself, or blocks of the teacher, as it came or trained."""
    loading = load_options(config, student=True)
    if config.student_weights == "trained":
        loading["teacher"] = str((run.teacher / METHODS[method].begins_with).resolve())
    return StudentModel(config.student, options=options, **loading)


def training_arguments(
    config: RunConfig, *, student: bool, epochs: float, output_dir: Path, name: str
) -> TrainingArguments:
    """Return transformers' arguments for one training of the teacher or the student, and set its tracker up."""
    _track(config, name)
    return TrainingArguments(
        output_dir=str(output_dir),
        num_train_epochs=epochs,
        learning_rate=config.learning_rate if student else config.teacher_learning_rate,
        per_device_train_batch_size=config.batch_size if student else config.teacher_batch_size,
        per_device_eval_batch_size=config.eval_batch_size,
        gradient_accumulation_steps=config.gradient_accumulation_steps if student else 1,
        warmup_steps=config.warmup_steps,
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        lr_scheduler_type=config.lr_scheduler,
        logging_steps=config.logging_steps,
        save_steps=config.save_steps,
        seed=config.seed if student else config.problems_seed,
        bf16=config.dtype == "bfloat16",
        fp16=config.dtype == "float16",
        use_cpu=on_cpu(config.device),
        dataloader_pin_memory=torch.cuda.is_available(),
        report_to=[] if config.report_to == "none" else [config.report_to],
        run_name=f"{_run_name(config)}/{name}",
        remove_unused_columns=False,
        disable_tqdm=True,
    )


def _run_name(config: RunConfig) -> str:
    return config.run_name or Path(config.output_dir).name


def _track(config: RunConfig, name: str) -> None:
    """Give each training of a run a place of its own in its tracker; transformers' callbacks read the environment."""
    if config.report_to == "tensorboard":
        os.environ["TENSORBOARD_LOGGING_DIR"] = str(Path(config.output_dir) / "tensorboard" / name)
    elif config.report_to == "wandb":
        import wandb

        os.environ.setdefault("WANDB_PROJECT", "lrd-peft")
        os.environ.setdefault("WANDB_RUN_GROUP", _run_name(config))
        if wandb.run is not None:  # the training before
            wandb.finish()
