"""Tiny random models with a real tokenizer, saved once a process as a user's model folders are.

StudentModel(tiny.folder("llama"))        TeacherModel(tiny.folder("gpt2", width=32, blocks=4))
"""

from __future__ import annotations

import atexit
import functools
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainingArguments,
)

from lrd_peft.data.generators import generate_problems
from lrd_peft.data.problem import Problem
from lrd_peft.model.options import ThinkingOptions
from lrd_peft.model.student import StudentModel
from lrd_peft.model.teacher import TeacherModel
from tools.tiny_tokenizer import build_tokenizer

FAMILIES = ("llama", "gpt2")
_FOLDERS = Path(tempfile.mkdtemp(prefix="lrd-tiny-"))
atexit.register(shutil.rmtree, _FOLDERS, ignore_errors=True)


@functools.cache
def _problems(num_problems: int, seed: int) -> tuple[Problem, ...]:
    return tuple(generate_problems("gsm-mini", split="train", num_problems=num_problems, seed=seed))


def problems(num_problems: int = 8, *, seed: int = 0) -> list[Problem]:
    return list(_problems(num_problems, seed))


def texts(rows: Sequence[Problem]) -> list[str]:
    return [
        text for row in rows for text in (row.question_text + "\n", *(step + "\n" for step in row.steps), row.answer)
    ]


def tokenizer(*, num_problems: int = 40) -> PreTrainedTokenizerBase:
    """A tokenizer of the words of some problems; another number of problems makes another vocabulary."""
    return build_tokenizer(texts(problems(num_problems)), min_count=1)


def lm(family: str, *, width: int = 16, blocks: int = 3, seed: int = 0, vocabulary: int) -> PreTrainedModel:
    """A random model whose weights are large enough that its inputs matter."""
    torch.manual_seed(seed)
    if family == "gpt2":
        # A tiny GPT-2's own initialisation says the same token whatever it is asked.
        gpt2 = GPT2Config(
            vocab_size=vocabulary,
            n_embd=width,
            n_layer=blocks,
            n_head=2,
            n_positions=160,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            initializer_range=0.2,
            bos_token_id=None,
            eos_token_id=1,
            pad_token_id=0,
        )
        return GPT2LMHeadModel(gpt2).eval()
    llama = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=blocks,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=160,
        initializer_range=0.2,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=1,
        pad_token_id=0,
    )
    return LlamaForCausalLM(llama).eval()


@functools.cache
def folder(family: str = "llama", *, width: int = 16, blocks: int = 3, seed: int = 0, num_problems: int = 40) -> str:
    """Return the folder of a saved tiny model, made when first asked for."""
    words = tokenizer(num_problems=num_problems)
    path = _FOLDERS / f"{family}-{width}-{blocks}-{seed}-{num_problems}"
    lm(family, width=width, blocks=blocks, seed=seed, vocabulary=len(words)).save_pretrained(path)
    words.save_pretrained(path)
    return str(path)


def student(
    family: str = "llama", *, num_thoughts: int = 2, options: dict[str, Any] | None = None, **size: Any
) -> StudentModel:
    return StudentModel(folder(family, **size), options=ThinkingOptions(num_thoughts=num_thoughts, **(options or {})))


def teacher(
    family: str = "llama", *, num_thoughts: int = 2, options: dict[str, Any] | None = None, **size: Any
) -> TeacherModel:
    return TeacherModel(folder(family, **size), options=ThinkingOptions(num_thoughts=num_thoughts, **(options or {})))


def arguments(output_dir: Path, **changes: Any) -> TrainingArguments:
    """Training arguments for a few steps on the CPU that say nothing and save nothing."""
    chosen: dict[str, Any] = {
        "output_dir": str(output_dir),
        "per_device_train_batch_size": 4,
        "num_train_epochs": 1,
        "learning_rate": 1e-2,
        "lr_scheduler_type": "constant",
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
        "use_cpu": True,
        "dataloader_pin_memory": False,
        "remove_unused_columns": False,
        "max_grad_norm": 1.0,
    }
    return TrainingArguments(**{**chosen, **changes})
