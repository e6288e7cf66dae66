"""Gradient checkpointing: equal losses, gradients and trained weights with a cache, in less memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    DynamicCache,
    GPT2Config,
    Lfm2Config,
    LlamaConfig,
    MistralConfig,
    PreTrainedConfig,
    PreTrainedModel,
    TrainingArguments,
)

from lrd_peft.model.block_checkpoints import checkpointed_blocks, set_checkpointing
from lrd_peft.model.loop import head_logits, think, unwrap
from lrd_peft.model.pruning import find_blocks
from lrd_peft.runtime.errors import UserError
from lrd_peft.training.trainer import LRDPEFTTrainer
from lrd_peft.training.training_arguments import LRDPEFTConfig
from tests import tiny

VOCABULARY = 61
SHAPE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}
GPT2: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "n_embd": 32,
    "n_layer": 3,
    "n_head": 4,
    "n_positions": 64,
    "bos_token_id": None,
    "eos_token_id": None,
}
CONFIGS: dict[str, PreTrainedConfig] = {
    "gpt2": GPT2Config(**GPT2, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0),
    "gpt2 with dropout": GPT2Config(**GPT2, resid_pdrop=0.2, embd_pdrop=0.2, attn_pdrop=0.2),
    "llama": LlamaConfig(**SHAPE),
    "sliding window": MistralConfig(**SHAPE, sliding_window=5),
}


def model(name: str, *, lora: bool = False) -> nn.Module:
    torch.manual_seed(0)
    lm = AutoModelForCausalLM.from_config(CONFIGS[name])
    if lora:
        lm = get_peft_model(lm, LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False))
    return lm.train()


def ids() -> tuple[Tensor, Tensor, Tensor]:
    """Questions with padding, their mask, and suffixes."""
    generator = torch.Generator().manual_seed(1)
    question = torch.randint(VOCABULARY, (3, 9), generator=generator)
    mask = torch.ones_like(question)
    mask[0, :4] = 0
    return question, mask, torch.randint(VOCABULARY, (3, 7), generator=generator)


def loss_and_gradients(lm: nn.Module, *, checkpointing: bool, **options: Any) -> tuple[float, dict[str, Tensor]]:
    set_checkpointing(unwrap(lm), on=checkpointing)
    lm.zero_grad()
    torch.manual_seed(7)  # of the dropout
    question, mask, suffix = ids()
    found = think(lm, question, mask, suffix_ids=suffix, **{"num_thoughts": 4, "layers": (1, 3), **options})
    loss = head_logits(lm, found.last).logsumexp(-1).mean() + found.thoughts.pow(2).sum() / 100
    loss = loss + sum(state.pow(2).mean() for state in found.states.values())
    loss.backward()
    return loss.item(), {name: p.grad.clone() for name, p in lm.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("name", CONFIGS)
def test_loss_and_gradients_are_those_without_checkpointing(name: str, lora: bool) -> None:
    lm = model(name, lora=lora)
    loss, gradients = loss_and_gradients(lm, checkpointing=False)
    again, others = loss_and_gradients(lm, checkpointing=True)
    assert again == pytest.approx(loss, rel=1e-5)
    assert others.keys() == gradients.keys()
    for key, gradient in gradients.items():
        torch.testing.assert_close(others[key], gradient, rtol=1e-5, atol=1e-5 * float(gradient.abs().max()))


@pytest.mark.parametrize("name", ["gpt2", "llama"])
@pytest.mark.parametrize(
    "options", [{"jacobi_passes": 2}, {"num_thoughts": 0}, {"keep_question": True}, {"forced": torch.ones(3, 4, 32)}]
)
def test_every_way_to_think_gives_the_same(name: str, options: dict[str, Any]) -> None:
    lm = model(name)
    loss, gradients = loss_and_gradients(lm, checkpointing=False, **options)
    again, others = loss_and_gradients(lm, checkpointing=True, **options)
    assert again == pytest.approx(loss, rel=1e-5)
    for key, gradient in gradients.items():
        torch.testing.assert_close(others[key], gradient, rtol=1e-5, atol=1e-5 * float(gradient.abs().max()))


def kept_bytes(lm: nn.Module, *, checkpointing: bool) -> int:
    """Bytes that autograd holds for the backward pass, without weights; a shared storage counts once."""
    set_checkpointing(unwrap(lm), on=checkpointing)
    weights = {p.untyped_storage().data_ptr() for p in lm.parameters()}
    storages: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    question, mask, suffix = ids()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        found = think(lm, question, mask, num_thoughts=4, suffix_ids=suffix)
        found.last.sum().backward()
    return sum(storages.values())


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_activations_of_blocks_are_not_kept(name: str) -> None:
    lm = model(name)
    assert kept_bytes(lm, checkpointing=True) < 0.3 * kept_bytes(lm, checkpointing=False)


def test_each_block_runs_twice_and_its_own_forward_comes_back() -> None:
    lm = model("llama")
    blocks = find_blocks(unwrap(lm))
    calls = 0

    def count(*_: Any) -> None:
        nonlocal calls
        calls += 1

    next(iter(blocks[1].children())).register_forward_pre_hook(count)
    loss_and_gradients(lm, checkpointing=True)
    assert calls == 2 * 5, "one pass over the question, three over slots, one over the last slot and the suffix"
    assert all("forward" not in vars(block) for block in blocks)
    with torch.no_grad():
        question, mask, suffix = ids()
        think(lm, question, mask, num_thoughts=4, suffix_ids=suffix)
    assert calls == 3 * 5, "nothing is computed again without gradients, and the thoughts still see the question"


def test_the_cache_is_seen_without_gradients_too() -> None:
    lm = model("gpt2")
    question, mask, suffix = ids()
    with torch.no_grad():
        set_checkpointing(unwrap(lm), on=True)
        on = think(lm, question, mask, num_thoughts=4, suffix_ids=suffix)
        set_checkpointing(unwrap(lm), on=False)
        off = think(lm, question, mask, num_thoughts=4, suffix_ids=suffix)
    assert torch.equal(on.last, off.last)


def test_a_cache_that_is_written_in_place_is_refused() -> None:
    config = Lfm2Config(**{**SHAPE, "num_key_value_heads": 4}, full_attn_idxs=[1])
    lm: PreTrainedModel = AutoModelForCausalLM.from_config(config).train()
    set_checkpointing(lm, on=True)
    with (
        pytest.raises(UserError, match='gradient checkpointing does not work with "lfm2"'),
        checkpointed_blocks(lm, DynamicCache(config=config)),
    ):
        pass


def trained(folder: Path, *, checkpointing: bool) -> dict[str, Tensor]:
    student = tiny.student()
    args: TrainingArguments = LRDPEFTConfig(
        output_dir=str(folder), use_cpu=True, max_steps=3, activation_checkpointing=checkpointing, distill_alpha=0.5
    )
    trainer = LRDPEFTTrainer(
        student_model=student,
        teacher_model=tiny.teacher(),
        train_dataset=tiny.problems(8),
        eval_dataset=tiny.problems(2),
        args=args,
    )
    trainer.train()
    assert "eval_accuracy" in trainer.evaluate()
    return {name: p.detach().clone() for name, p in trainer.student.named_parameters() if p.requires_grad}


def test_a_training_ends_with_the_same_weights(tmp_path: Path) -> None:
    plain = trained(tmp_path / "plain", checkpointing=False)
    checkpointed = trained(tmp_path / "checkpointed", checkpointing=True)
    assert plain.keys() == checkpointed.keys()
    for name, weight in plain.items():
        torch.testing.assert_close(checkpointed[name], weight, rtol=1e-5, atol=1e-6)


def test_options_of_checkpointing_are_refused() -> None:
    with pytest.raises(UserError, match=r"every_n_layers=2 and offload=False is not supported"):
        tiny.student().activation_checkpointing_enable(every_n_layers=2)
