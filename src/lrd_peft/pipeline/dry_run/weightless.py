"""The models of a run without their weights: with all blocks to count parameters, with one block to measure work."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from lrd_peft import StudentModel, TeacherModel
from lrd_peft.config import RunConfig
from lrd_peft.model.inspection import block_count, hidden_size, meta_model, unwrap
from lrd_peft.model.loading.lm import load_tokenizer
from lrd_peft.model.pruning import prune_config
from lrd_peft.pipeline.dry_run.meter import ATTENTION
from lrd_peft.pipeline.from_config import student_options, thinking_options, with_lora
from lrd_peft.pipeline.preflight import student_config, teacher_config, tokenizer_of
from lrd_peft.pipeline.step_decoders import new_decoder
from lrd_peft.runtime.errors import UserError


@dataclass(frozen=True, slots=True)
class WeightlessModel:
    """A teacher or student on the meta device, with the adapters and projectors of the run.

    Attributes:
        name: Name of the base model.
        num_blocks: Number of blocks of the model.
        hidden_size: Width of the hidden states.
        num_parameters: Parameters of the model that answers.
        num_trained: Parameters that the run trains and keeps.
        one_block: The same model with one block only.
        knows_tokens: Whether its tokenizer is the model's own and not a stand-in.
        num_decoder: Trained parameters of its auxiliary decoder, which is dropped after the training.
        num_decoder_frozen: The decoder's other parameters.
    """

    name: str
    num_blocks: int
    hidden_size: int
    num_parameters: int
    num_trained: int
    one_block: TeacherModel | StudentModel
    knows_tokens: bool
    num_decoder: int = 0
    num_decoder_frozen: int = 0

    @property
    def num_frozen(self) -> int:
        """Parameters in memory that are not trained: those of the base model if adapters are."""
        own = 0 if self.num_trained >= self.num_parameters else self.num_parameters
        return own + self.num_decoder_frozen

    @property
    def num_updated(self) -> int:
        """Parameters that the optimizer updates, those of the auxiliary decoder included."""
        return self.num_trained + self.num_decoder


def weightless_teacher(config: RunConfig) -> WeightlessModel:
    """Build the teacher of a run without weights."""

    def build(lm: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> TeacherModel:
        model = TeacherModel(lm, tokenizer=tokenizer, options=thinking_options(config))
        return model if config.teacher.teacher_tuning == "full" else with_lora(config, model)

    architecture = teacher_config(config, published=True)
    return _weightless(
        config, config.model.teacher, architecture, build, is_student=False, decodes=config.decodes_teacher_steps
    )


def weightless_student(config: RunConfig, teacher: WeightlessModel | None) -> WeightlessModel:
    """Build the student of a run without weights, with the projectors to its teacher's width."""
    method = config.method

    def build(lm: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> StudentModel:
        model = StudentModel(lm, tokenizer=tokenizer, options=student_options(config))
        if method.adapts_student:
            model = with_lora(config, model)
        elif not method.trains_student:
            model.requires_grad_(False)
        if teacher is not None and method.objective == "latent" and config.distill.reads_states:
            with_thoughts = config.distill.thoughts_from != "student"
            model.attach_projectors(
                config.distill.layers, teacher_hidden_size=teacher.hidden_size, thoughts=with_thoughts
            )
        return model

    architecture = student_config(config, published=True)
    return _weightless(
        config, config.model.student, architecture, build, is_student=True, decodes=config.decodes_student_steps
    )


def _weightless(
    config: RunConfig,
    name: str,
    architecture: PreTrainedConfig,
    build: Callable[[PreTrainedModel, PreTrainedTokenizerBase], TeacherModel | StudentModel],
    *,
    is_student: bool,
    decodes: bool,
) -> WeightlessModel:
    try:
        tokenizer, knows_tokens = tokenizer_of(config, student=is_student), True
    except UserError:  # its ids do not matter, only how many they are
        tokenizer, knows_tokens = load_tokenizer("tiny-teacher"), False
    whole = build(meta_model(architecture), tokenizer)
    lm = meta_model(prune_config(architecture, [0]))
    with contextlib.suppress(ValueError):  # an architecture with an attention of its own keeps it
        lm.set_attn_implementation(ATTENTION)
    # Saved weights may have another precision than the computation.
    dtype = torch.float32 if config.model.dtype == "float32" else torch.bfloat16
    lm = lm.to(dtype)  # pyright: ignore[reportArgumentType]
    # The one block stands for all, which pass gradients on to their inputs (but for the first).
    lm.get_input_embeddings().register_forward_hook(_require_gradient)
    one_block = build(lm, tokenizer)
    decoder = None
    if decodes:
        both_paths = is_student and config.method.objective == "self"
        decoder, small = (
            new_decoder(config, TeacherModel(meta_model(kind), tokenizer=tokenizer), both_paths=both_paths)
            for kind in (architecture, prune_config(architecture, [0]))
        )
        with contextlib.suppress(ValueError):
            unwrap(small.lm).set_attn_implementation(ATTENTION)
        one_block.step_decoder = small
    one_block.to(dtype)  # adapters, projectors and decoder too
    sizes = [] if decoder is None else [(p.numel(), p.requires_grad) for p in decoder.parameters()]
    return WeightlessModel(
        name=name,
        num_blocks=block_count(architecture),
        hidden_size=hidden_size(architecture),
        num_parameters=whole.num_parameters(),
        num_trained=whole.num_parameters(trainable=True),
        one_block=one_block,
        knows_tokens=knows_tokens,
        num_decoder=sum(count for count, trained in sizes if trained),
        num_decoder_frozen=sum(count for count, trained in sizes if not trained),
    )


def _require_gradient(module: torch.nn.Module, args: Any, output: torch.Tensor) -> None:
    if torch.is_grad_enabled():
        output.requires_grad_()
