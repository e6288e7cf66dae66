"""Finds what would make a later phase fail, before the first one spends hours. Loads no weights, writes nothing."""

from __future__ import annotations

import os
from importlib.util import find_spec
from typing import Any

from transformers import PreTrainedConfig

from lrd_peft.config import RunConfig
from lrd_peft.data.encoding import Encoder
from lrd_peft.distillation import map_layers
from lrd_peft.errors import UserError, nearest
from lrd_peft.lora import check_targets
from lrd_peft.model.facts import block_count, context_length, fingerprint_tokenizer, meta_model
from lrd_peft.model.loading import load_config, load_tokenizer
from lrd_peft.phases.evaluate import METHODS
from lrd_peft.run_inputs import held_out, load_options


def preflight(config: RunConfig) -> None:
    """Check models, layers, methods, tokenizers and data sets against each other.

    Raises:
        UserError: naming what does not fit.
    """
    unknown = [method for method in config.methods if method not in METHODS]
    if unknown:
        raise UserError(f'unknown method "{unknown[0]}"; there are {", ".join(METHODS)}.{nearest(unknown[0], METHODS)}')
    _check_tracker(config.report_to)
    teacher, student = teacher_config(config), student_config(config)
    blocks = block_count(teacher)
    map_layers(
        config.distill_layers,
        teacher_blocks=blocks,
        student_blocks=block_count(student),
        student_layers=config.student_layers,
    )
    map_layers(config.stored_layers, teacher_blocks=blocks, student_blocks=blocks)
    for name, model in (("teacher", teacher), ("student", student)):
        context = context_length(model)
        if context is not None and config.num_thoughts >= context:
            raise UserError(
                f"{config.num_thoughts} thoughts (max_stage {config.max_stage} x thoughts_per_step "
                f"{config.thoughts_per_step}) leave no room in the {name}'s context of {context} tokens"
            )
    check_targets(meta_model(student), config.lora_targets)
    tokenizers = [
        load_tokenizer(config.teacher, **_only(load_options(config, student=False), "revision", "trust_remote_code")),
        load_tokenizer(
            config.student, **_only(load_options(config, student=True), "revision", "trust_remote_code", "teacher")
        ),
    ]
    for tokenizer in tokenizers:
        Encoder(tokenizer, prompt_style=config.prompt_style)
    if config.positions == "all" and len({fingerprint_tokenizer(tokenizer) for tokenizer in tokenizers}) == 2:
        raise UserError(
            'positions="all" needs teacher and student to have one tokenizer (their tokens must align one to one); '
            f'those of "{config.teacher}" and "{config.student}" differ: use positions="thoughts+answer"'
        )
    for name in config.evaluated_datasets:
        held_out(config, name, split=config.eval_split, limit=1)
    for name in config.dataset_parts:
        held_out(config, name, split="train", limit=1)


def _check_tracker(report_to: str) -> None:
    if report_to == "none":
        return
    if find_spec(report_to) is None:
        raise UserError(
            f'report_to is "{report_to}" but that package is not installed: pip install "lrd-peft[{report_to}]", or '
            'set report_to to "none"'
        )
    if report_to == "wandb" and os.environ.get("WANDB_MODE") not in ("offline", "disabled"):
        import wandb

        if wandb.api.api_key is None:
            raise UserError(
                'report_to is "wandb" and there is no W&B key here: `wandb login` first, or set WANDB_MODE=offline '
                "in the environment to write the logs to this machine only"
            )


def teacher_config(config: RunConfig, *, published: bool = False) -> PreTrainedConfig:
    """Return the teacher's architecture."""
    options = _only(load_options(config, student=False), "revision", "trust_remote_code")
    return load_config(config.teacher, published=published, **options)


def student_config(config: RunConfig, *, published: bool = False) -> PreTrainedConfig:
    """Return the student's architecture, pruned if it is "teacher:N"."""
    options = _only(load_options(config, student=True), "revision", "trust_remote_code", "keep_blocks", "teacher")
    return load_config(config.student, published=published, **options)


def _only(options: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: options[name] for name in names if name in options}
