"""Finds what would make a later phase fail, before the first one spends hours. Loads no weights, writes nothing."""

from __future__ import annotations

import os
from importlib.util import find_spec
from typing import Any

from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from lrd_peft.config import RunConfig
from lrd_peft.data.encoding import Encoder
from lrd_peft.distillation import map_layers
from lrd_peft.errors import UserError
from lrd_peft.lora import check_targets
from lrd_peft.methods import METHODS
from lrd_peft.model.facts import block_count, context_length, fingerprint_tokenizer, meta_model
from lrd_peft.model.loading import load_config, load_tokenizer
from lrd_peft.processes import is_sharded
from lrd_peft.run_inputs import held_out, load_options, student_limit


def preflight(config: RunConfig) -> None:
    """Check models, layers, tokenizers and data sets against each other, as far as the method needs them.

    Raises:
        UserError: naming what does not fit.
    """
    _check_tracker(config.report_to)
    if is_sharded():
        _check_sharding(config)
    method = METHODS[config.method]
    models = {"student": student_config(config)}
    if config.needed_teacher != "none":
        models["teacher"] = teacher_config(config)
    if method.loss == "latent":
        blocks = block_count(models["teacher"])
        map_layers(
            config.distill_layers,
            teacher_blocks=blocks,
            student_blocks=block_count(models["student"]),
            student_layers=config.student_layers,
        )
        map_layers(config.stored_layers, teacher_blocks=blocks, student_blocks=blocks)
    for name, model in models.items():
        context = context_length(model)
        if context is not None and config.num_thoughts >= context:
            raise UserError(
                f"{config.num_thoughts} thoughts (max_stage {config.max_stage} x thoughts_per_step "
                f"{config.thoughts_per_step}) leave no room in the {name}'s context of {context} tokens"
            )
    if method.trains == "lora":
        check_targets(meta_model(models["student"]), config.lora_targets)
    tokenizers = [tokenizer_of(config, student=name == "student") for name in models]
    for tokenizer in tokenizers:
        Encoder(tokenizer, prompt_style=config.prompt_style)
    by_token = {"tokens": f'method "{config.method}"', "latent": 'positions="all"' if config.positions == "all" else ""}
    who = by_token.get(method.loss)
    if who and len({fingerprint_tokenizer(tokenizer) for tokenizer in tokenizers}) == 2:
        other = 'use positions="thoughts+answer"' if method.loss == "latent" else 'use method "latent-lora"'
        raise UserError(
            f"{who} needs teacher and student to have one tokenizer (their tokens must align one to one); "
            f'those of "{config.teacher}" and "{config.student}" differ: {other}'
        )
    for name in config.evaluated_datasets:
        held_out(config, name, split=config.eval_split, limit=1)
    student_limit(config)
    for name in config.dataset_parts:
        held_out(config, name, split="train", limit=1)


def _check_sharding(config: RunConfig) -> None:
    """Refuse what cannot be spread over processes."""
    if config.dtype == "float16":
        raise UserError('dtype is "float16", whose scaled gradients FSDP does not take; use "bfloat16"')
    if config.quantization is not None:
        raise UserError(
            f'quantization is "{config.quantization}", and quantized weights are not spread over GPUs (FSDP); launch '
            "with configs/accelerate/ddp.yaml"
        )


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


def tokenizer_of(config: RunConfig, *, student: bool) -> PreTrainedTokenizerBase:
    """Return the tokenizer of the student's or the teacher's base model."""
    options = _only(load_options(config, student=student), "revision", "trust_remote_code", "teacher")
    return load_tokenizer(config.student if student else config.teacher, **options)


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
