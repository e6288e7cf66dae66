"""Depth pruning: which blocks stay, and that the smaller model is the larger one without the others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoConfig,
    GPTNeoForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedConfig,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from lrd_peft.model.inspection import block_count, context_length, count_parameters, hidden_size
from lrd_peft.model.pruning import find_blocks, kept_blocks, prune_config, prune_depth, shallow
from lrd_peft.runtime.errors import UserError

TOKENS = torch.tensor([[5, 17, 3, 29, 11, 8], [2, 4, 6, 8, 10, 12]])


def gpt2(num_blocks: int = 6, **changes: object) -> GPT2LMHeadModel:
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=32, n_positions=64, n_embd=16, n_layer=num_blocks, n_head=2)
    config.update(changes)
    return GPT2LMHeadModel(config).eval()


def llama(num_blocks: int = 6) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=32,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=num_blocks,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
    )
    return LlamaForCausalLM(config).eval()


def qwen2_with_two_kinds_of_attention() -> Qwen2ForCausalLM:
    """Blocks 0 to 3 see everything, 4 and 5 a window of four tokens."""
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=32,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        use_sliding_window=True,
        sliding_window=4,
        max_window_layers=4,
    )
    return Qwen2ForCausalLM(config).eval()


MAKERS = [gpt2, llama, qwen2_with_two_kinds_of_attention]


@pytest.mark.parametrize(
    ("how", "keep", "expected"),
    [
        ("spread", 12, tuple(range(12))),
        ("spread", 5, (0, 3, 6, 8, 11)),  # 11/4 = 2.75 apart: 0, 2.75, 5.5, 8.25, 11
        ("spread", 2, (0, 11)),
        ("spread", 1, (0,)),
        ("first", 5, (0, 1, 2, 3, 4)),
        ("drop-middle", 5, (0, 1, 2, 10, 11)),
        ("drop-middle", 4, (0, 1, 10, 11)),
        ("drop-deep", 5, (0, 1, 2, 3, 11)),
    ],
)
def test_kept_blocks_of_twelve(how: str, keep: int, expected: tuple[int, ...]) -> None:
    assert kept_blocks(12, keep, how=how) == expected


@pytest.mark.parametrize("how", ["spread", "drop-middle", "drop-deep"])
def test_kept_blocks_always_hold_first_and_last_and_no_block_twice(how: str) -> None:
    for total in range(2, 41):
        for keep in range(2, total + 1):
            kept = kept_blocks(total, keep, how=how)
            assert (len(kept), kept[0], kept[-1]) == (keep, 0, total - 1)
            assert list(kept) == sorted(set(kept))


@pytest.mark.parametrize("keep", [0, -1, 13])
def test_kept_blocks_refuses_a_number_out_of_range(keep: int) -> None:
    with pytest.raises(UserError, match="keep between 1 and 12"):
        kept_blocks(12, keep)


def test_kept_blocks_names_the_nearest_way() -> None:
    with pytest.raises(UserError, match='Did you mean "spread"'):
        kept_blocks(12, 4, how="spraed")


def test_pruned_gpt2_is_the_forward_through_the_kept_blocks_by_hand() -> None:
    whole, kept = gpt2(), (0, 2, 5)
    body = whole.transformer
    hidden = body.wte(TOKENS) + body.wpe(torch.arange(TOKENS.shape[1]))
    for index in kept:
        hidden = body.h[index](hidden)
    expected = whole.lm_head(body.ln_f(hidden))
    pruned = prune_depth(gpt2(), kept)
    torch.testing.assert_close(pruned(TOKENS).logits, expected, rtol=0, atol=1e-6)


def test_pruned_llama_is_the_forward_through_the_kept_blocks_by_hand() -> None:
    whole, kept = llama(), (1, 3, 4)
    body = whole.model
    hidden = body.embed_tokens(TOKENS)
    positions = torch.arange(TOKENS.shape[1])[None]
    rotary = body.rotary_emb(hidden, position_ids=positions)
    for index in kept:
        hidden = body.layers[index](hidden, position_embeddings=rotary, position_ids=positions)
    expected = whole.lm_head(body.norm(hidden))
    pruned = prune_depth(llama(), kept)
    torch.testing.assert_close(pruned(TOKENS).logits, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("make", MAKERS)
def test_pruned_hidden_states_are_one_more_than_the_kept_blocks(make: type) -> None:
    lm = make()
    whole = lm(TOKENS, output_hidden_states=True).hidden_states
    pruned = prune_depth(lm, (0, 1, 5))(TOKENS, output_hidden_states=True).hidden_states
    assert len(pruned) == 4
    for index in range(3):  # the first two blocks still stand where they stood
        torch.testing.assert_close(pruned[index], whole[index])


@pytest.mark.parametrize("make", MAKERS)
def test_generation_after_pruning_is_the_same_with_and_without_the_cache(make: type) -> None:
    lm = prune_depth(make(), (0, 3, 5))
    generate: Any = lm.generate
    written = {
        cached: generate(
            TOKENS, max_new_tokens=12, do_sample=False, use_cache=cached, pad_token_id=0, eos_token_id=None
        )
        for cached in (True, False)
    }
    assert torch.equal(written[True], written[False])
    cache = lm(TOKENS, use_cache=True).past_key_values
    assert len(cache.layers) == 3
    assert all(layer.get_seq_length() == TOKENS.shape[1] for layer in cache.layers)


@pytest.mark.parametrize("make", MAKERS)
def test_pruned_model_saved_and_loaded_gives_the_same_logits(make: type, tmp_path: Path) -> None:
    lm = prune_depth(make(), (0, 2, 4, 5))
    lm.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert block_count(again.config) == 4
    torch.testing.assert_close(again(TOKENS).logits, lm(TOKENS).logits, rtol=0, atol=0)


@pytest.mark.parametrize("make", MAKERS)
def test_parameter_count_from_the_configuration_is_that_of_the_pruned_model(make: type) -> None:
    lm = make()
    config = prune_config(lm.config, (0, 2, 5))
    assert block_count(lm.config) == 6, "the argument must be left alone"
    prune_depth(lm, (0, 2, 5))
    assert count_parameters(config) == lm.num_parameters() == count_parameters(lm.config)


def test_pruning_keeps_the_attention_kind_with_its_block() -> None:
    lm = qwen2_with_two_kinds_of_attention()
    prune_depth(lm, (1, 4, 5))
    assert lm.config.layer_types == ["full_attention", "sliding_attention", "sliding_attention"]


def test_gpt2_with_attention_scaled_by_block_index_is_refused_untouched() -> None:
    lm = gpt2(scale_attn_by_inverse_layer_idx=True)
    with pytest.raises(UserError, match="scaling of block 2"):
        prune_depth(lm, (0, 2, 5))
    assert block_count(lm.config) == len(lm.transformer.h) == 6
    prune_depth(lm, (0, 1, 2))  # the first blocks keep their index, so nothing changes for them
    assert lm(TOKENS).logits.shape == (2, 6, 32)


def test_gpt_neo_whose_configuration_cannot_say_it_is_refused_untouched() -> None:
    config = GPTNeoConfig(
        vocab_size=32,
        hidden_size=16,
        num_layers=6,
        num_heads=2,
        max_position_embeddings=64,
        attention_types=[[["global", "local"], 3]],
    )
    lm = GPTNeoForCausalLM(config)
    with pytest.raises(UserError, match=r"GPTNeoForCausalLM cannot be pruned to the blocks \[0, 3, 5\]"):
        prune_depth(lm, (0, 3, 5))
    assert len(lm.transformer.h) == 6


@pytest.mark.parametrize("kept", [(), (0, 0), (3, 1), (0, 6), (-1, 2)])
def test_impossible_blocks_are_refused_with_the_valid_range(kept: tuple[int, ...]) -> None:
    with pytest.raises(UserError, match="0 to 5, each once, in ascending order"):
        prune_depth(llama(), kept)


def test_blocks_are_found_by_the_length_the_configuration_states() -> None:
    lm = llama()
    assert find_blocks(lm) is lm.model.layers
    lm.config.num_hidden_layers = 7
    with pytest.raises(UserError, match="has 0 lists of 7 blocks"):
        find_blocks(lm)


@pytest.mark.parametrize(
    ("lm", "expected"),
    [
        # Tied embeddings, positions, final norm (weight and bias); a block: two norms, qkv, out, up, down.
        (gpt2, 32 * 16 + 64 * 16 + 32 + 6 * (64 + 816 + 272 + 1088 + 1040)),
        # Embeddings and head, final norm; a block: q and o, k and v, three of the MLP, two norms.
        (llama, 2 * 32 * 16 + 16 + 6 * (2 * 256 + 2 * 128 + 3 * 384 + 32)),
    ],
)
def test_count_parameters_by_hand(lm: type, expected: int) -> None:
    config: PreTrainedConfig = lm().config
    before = config.to_dict()
    assert count_parameters(config) == expected
    assert config.to_dict() == before
    assert (block_count(config), hidden_size(config), context_length(config)) == (6, 16, 64)


def test_count_parameters_of_half_of_llama_2_without_its_memory() -> None:
    config = LlamaConfig()  # the class's defaults are the 7B model's shape
    assert count_parameters(config) == 6_738_415_616
    pruned = prune_config(config, kept_blocks(32, 13))
    assert count_parameters(pruned) == 6_738_415_616 - 19 * 202_383_360


def test_a_configuration_that_is_no_language_model_is_refused() -> None:
    from transformers import CLIPVisionConfig

    with pytest.raises(UserError, match="does not make a causal language model"):
        count_parameters(CLIPVisionConfig())
    with pytest.raises(UserError, match="has no num_hidden_layers"):
        block_count(PreTrainedConfig())


@pytest.mark.parametrize("make", [gpt2, llama])
def test_a_model_that_was_shallow_for_a_while_shows_all_its_layers_again(make: Any) -> None:
    lm, undisturbed = make(), make()
    with torch.no_grad():
        with shallow(lm, blocks=2) as outputs:
            lm(TOKENS, output_hidden_states=True)
        found = lm(TOKENS, output_hidden_states=True).hidden_states
        expected = undisturbed(TOKENS, output_hidden_states=True).hidden_states
    assert len(found) == 7 and torch.equal(outputs[0], expected[2])
    assert all(map(torch.equal, found, expected))
