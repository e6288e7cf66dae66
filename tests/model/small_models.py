"""Small random models and a tokenizer of ten words, saved the way a user's models are."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

WORDS = ["<pad>", "<eos>", "<unk>", "what", "is", "two", "plus", "three", "five", "?"]


def make_tokenizer(**specials: str) -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=backend, **specials)


def llama(seed: int = 0, *, vocabulary: int = len(WORDS)) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
    )
    return LlamaForCausalLM(config).eval()


def gpt2() -> GPT2LMHeadModel:
    torch.manual_seed(0)
    return GPT2LMHeadModel(
        GPT2Config(vocab_size=len(WORDS), n_positions=64, n_embd=16, n_layer=4, n_head=2, eos_token_id=1)
    ).eval()


def save(folder: Path, lm: LlamaForCausalLM | GPT2LMHeadModel, **specials: str) -> str:
    lm.save_pretrained(folder)
    make_tokenizer(**(specials or {"pad_token": "<pad>", "eos_token": "<eos>", "unk_token": "<unk>"})).save_pretrained(
        folder
    )
    return str(folder)
