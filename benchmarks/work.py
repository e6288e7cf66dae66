"""What is measured on: model shapes, batches, problems; the same each time. Knows no clocks.

    gpt2-256x4-50k    GPT-2-like, width 256, 4 blocks, vocabulary 50,257, batch 16
    llama-256x4-50k   Llama-like, width 256, 4 blocks, vocabulary 50,000, batch 16
    gpt2-124m         GPT-2's own shape, batch 8
    tiny              the embedded tiny-teacher and its problems, batch 16

Weights are random but for `tiny`. Questions of 60 to 110 tokens (tiny: real problems), 6 thoughts, 30 suffix tokens.
"""

from __future__ import annotations

import copy
import random
from dataclasses import dataclass
from typing import Any

import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from lrd_peft.data.collate import Batch, Row, collate
from lrd_peft.data.generators import generate_problems
from lrd_peft.data.problem import Problem
from lrd_peft.model.loading.lm import load_lm
from lrd_peft.model.options import ThinkingOptions
from lrd_peft.model.teacher import TeacherModel
from lrd_peft.training.curriculum import items, thinking_rows

NUM_THOUGHTS = 6
QUESTION_TOKENS = (60, 110)
SUFFIX_TOKENS = 30
BATCH = {"gpt2-256x4-50k": 16, "llama-256x4-50k": 16, "gpt2-124m": 8, "tiny": 16}
LONGEST = 160  # what an implementation that pads to a fixed length pads to: nothing here is longer


@dataclass(frozen=True, slots=True)
class Work:
    """One model and one batch.

    Attributes:
        name: a key of `BATCH`.
        plain: the model as transformers makes it, for the references.
        model: the same weights in our hands.
        rows: the batch's rows.
    """

    name: str
    plain: PreTrainedModel
    model: TeacherModel
    rows: tuple[Row, ...]

    @property
    def batch(self) -> Batch:
        return collate(self.rows, pad_id=0)


def make_lm(name: str) -> PreTrainedModel:
    """Return the model of a work, its weights a function of the name; no dropout, so that losses can be compared."""
    torch.manual_seed(0)
    dropout: dict[str, Any] = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    if name == "gpt2-256x4-50k":
        return GPT2LMHeadModel(GPT2Config(n_embd=256, n_layer=4, n_head=4, **dropout))
    if name == "gpt2-124m":
        return GPT2LMHeadModel(GPT2Config(**dropout))
    if name == "llama-256x4-50k":
        config = LlamaConfig(
            vocab_size=50_000,
            hidden_size=256,
            intermediate_size=688,
            num_hidden_layers=4,
            num_attention_heads=4,
            max_position_embeddings=512,
        )
        return LlamaForCausalLM(config)
    assert name == "tiny", name
    return load_lm("tiny-teacher").lm


def make(name: str, *, batch_size: int | None = None) -> Work:
    """Return a work by name."""
    plain = make_lm(name).train()
    options = ThinkingOptions(num_thoughts=NUM_THOUGHTS)
    # The tokenizer only serves as such with the tiny models; the others are given ids.
    tokenizer = load_lm("tiny-teacher").tokenizer
    model = TeacherModel(copy.deepcopy(plain), tokenizer=tokenizer, options=options, fuse_activations=True).train()
    size = batch_size or BATCH[name]
    rows = tiny_rows(model, size) if name == "tiny" else random_rows(plain.config.get_text_config().vocab_size, size)
    return Work(name, plain, model, tuple(rows))


def random_rows(vocabulary: int, num_rows: int, *, seed: int = 0, num_thoughts: int = NUM_THOUGHTS) -> list[Row]:
    """Return rows of random tokens in the lengths above; the answer's first token is the last but two."""
    rng = random.Random(seed)
    return [
        Row(
            index=index,
            question=tuple(rng.randrange(1, vocabulary) for _ in range(rng.randint(*QUESTION_TOKENS))),
            num_thoughts=num_thoughts,
            suffix=tuple(rng.randrange(1, vocabulary) for _ in range(SUFFIX_TOKENS)),
            answer_start=SUFFIX_TOKENS - 3,
        )
        for index in range(num_rows)
    ]


def problems(num_problems: int, *, split: str = "train") -> list[Problem]:
    return list(generate_problems("gsm-mini", split=split, num_problems=num_problems, seed=0))


def tiny_rows(model: TeacherModel, num_rows: int, *, num_thoughts: int = NUM_THOUGHTS) -> list[Row]:
    """Return rows of real problems for the embedded models."""
    encoded = items(model.encoder.encode_many(problems(num_rows)))
    return thinking_rows(encoded, num_thoughts=num_thoughts, model=model)
