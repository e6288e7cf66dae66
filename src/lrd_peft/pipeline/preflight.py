"""Checks before the first phase, for what would make a later one fail. No weights are loaded, nothing is written."""

from __future__ import annotations

import logging
import os
from importlib.util import find_spec
from typing import Any

from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from lrd_peft.config import RunConfig
from lrd_peft.data.encoding import Encoder
from lrd_peft.distillation import map_layers
from lrd_peft.lora import check_adapters
from lrd_peft.model.fingerprints import fingerprint_tokenizer
from lrd_peft.model.inspection import block_count, context_length, meta_model
from lrd_peft.model.loading.device import require_device
from lrd_peft.model.loading.lm import load_model_config, load_tokenizer
from lrd_peft.model.loop import check_layers
from lrd_peft.model.paths import paths_of
from lrd_peft.model.pruning import kept_blocks, prune_depth
from lrd_peft.pipeline.from_config import held_out, load_options, student_limit
from lrd_peft.runtime.errors import UserError
from lrd_peft.runtime.processes import LAUNCHERS, device_of, is_sharded, num_processes, on_cpu

logger = logging.getLogger(__name__)


def check_device(config: RunConfig) -> None:
    """Check that the device exists and can train in the run's data type, before any work is done.

    Raises:
        UserError: If it does not exist or cannot.
    """
    device = config.run.device
    require_device(device)
    computes_on_cpu = device_of(device).type == "cpu" if num_processes() == 1 else on_cpu(device)
    if config.model.dtype == "float16" and computes_on_cpu and config.trains_a_model:
        raise UserError('dtype is "float16", which trains only on a GPU; use --dtype bfloat16 or float32 on the CPU')


def preflight(config: RunConfig) -> None:
    """Check models, layers, tokenizers and data sets against each other, as far as the method needs them.

    Raises:
        UserError: If something does not fit; the message names it.
    """
    _check_tracker(config.run.report_to)
    if is_sharded():
        _check_sharding(config)
    method = config.method
    models = {"student": student_config(config)}
    if config.makes_teacher:
        models["teacher"] = teacher_config(config)
    if config.model.student_depth is not None:
        _check_pruning(config)
    if config.makes_store:
        blocks = block_count(models["teacher"])
        map_layers(
            config.distill.layers,
            teacher_blocks=blocks,
            student_blocks=block_count(models["student"]),
            student_layers=config.distill.student_layers,
        )
        map_layers(config.stored_layers, teacher_blocks=blocks, student_blocks=blocks)
    for name, model in models.items():
        context = context_length(model)
        if context is not None and config.thinking.num_thoughts >= context:
            raise UserError(
                f"{config.thinking.num_thoughts} thoughts (max_stage {config.thinking.max_stage} x thoughts_per_step "
                f"{config.thinking.thoughts_per_step}) leave no room in the {name}'s context of {context} tokens"
            )
    adapted = {"student": method.adapts_student, "teacher": config.makes_teacher and config.adapts_teacher}
    for name, model in models.items():
        _check_architecture(config, model, name=name, adapted=adapted[name])
    tokenizers = [tokenizer_of(config, student=name == "student") for name in models]
    for tokenizer in tokenizers:
        Encoder(tokenizer, **config.data.prompt)
    different = len({fingerprint_tokenizer(tokenizer) for tokenizer in tokenizers}) == 2
    if different and method.shares_tokens(config.distill.positions):
        latent = method.objective == "latent"
        who = 'positions="all"' if latent else f'method "{config.student.method}"'
        other = 'use positions="thoughts+answer"' if latent else 'use method "latent-lora"'
        raise UserError(
            f"{who} needs teacher and student to have one tokenizer (their tokens must align one to one); "
            f'those of "{config.model.teacher}" and "{config.model.student}" differ: {other}'
        )
    for name in config.evaluated_datasets:
        held_out(config, name, split=config.evaluation.eval_split, limit=1)
    student_limit(config)
    for name in config.data.dataset_parts:
        held_out(config, name, split="train", limit=1)


def _check_architecture(config: RunConfig, model_config: PreTrainedConfig, *, name: str, adapted: bool) -> None:
    """Refuse an architecture that cannot think, does not take the adapters, or does not give the layers to store."""
    lm = meta_model(model_config)
    for note in paths_of(lm).notes():
        logger.info(f"{name}: {note}")
    if config.makes_store:
        layers = config.distill.layers if name == "teacher" else config.distill.student_layers
        check_layers(lm, [layer for layer in layers or () if layer <= block_count(model_config)])
    if adapted:
        adapter = config.adapter
        check_adapters(
            lm,
            r=adapter.lora_r,
            lora_alpha=adapter.lora_alpha,
            lora_dropout=adapter.lora_dropout,
            target_modules=adapter.lora_targets,
        )


def resolve_layers(config: RunConfig, *, published: bool = False) -> RunConfig:
    """Return the configuration with `distill_layers` set, which by default depend on the teacher's depth.

    Args:
        config: Returned as it is if the layers are set, or the method aligns none.
        published: As in `load_config` of the models.

    Raises:
        UserError: If the teacher cannot be read, or the layers do not fit the other settings.
    """
    if config.distill.distill_layers is not None or config.method.objective != "latent":
        return config
    blocks = block_count(teacher_config(config, published=published))
    return config.changed(distill_layers=config.distill.resolved(teacher_blocks=blocks).layers)


def _check_pruning(config: RunConfig) -> None:
    """Refuse "teacher:N" for a teacher whose blocks cannot be dropped."""
    teacher = teacher_config(config)
    depth = config.model.student_depth
    assert depth is not None
    kept = config.model.keep_blocks or kept_blocks(block_count(teacher), depth, how=config.model.prune_how)
    prune_depth(meta_model(teacher), kept)


def _check_sharding(config: RunConfig) -> None:
    """Refuse what cannot be spread over processes."""
    if config.model.dtype == "float16":
        raise UserError('dtype is "float16", whose scaled gradients FSDP does not take; use "bfloat16"')
    if config.thinking.thoughts_fit_steps:
        raise UserError(
            "thoughts_fit_steps is true, and processes that share weights (FSDP) need equal numbers of passes; set "
            f"thoughts_fit_steps to false, or launch with {LAUNCHERS / 'ddp.yaml'}"
        )
    if config.model.quantization is not None:
        raise UserError(
            f'quantization is "{config.model.quantization}", and quantized weights are not spread over GPUs (FSDP); '
            f"launch with {LAUNCHERS / 'ddp.yaml'}"
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
    return load_tokenizer(config.model.student if student else config.model.teacher, **options)


def teacher_config(config: RunConfig, *, published: bool = False) -> PreTrainedConfig:
    """Return the teacher's architecture."""
    options = _only(load_options(config, student=False), "revision", "trust_remote_code")
    return load_model_config(config.model.teacher, published=published, **options)


def student_config(config: RunConfig, *, published: bool = False) -> PreTrainedConfig:
    """Return the student's architecture, pruned if it is "teacher:N"."""
    options = _only(load_options(config, student=True), "revision", "trust_remote_code", "keep_blocks", "teacher")
    return load_model_config(config.model.student, published=published, **options)


def _only(options: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: options[name] for name in names if name in options}
