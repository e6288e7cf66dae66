"""Faster replacements give the same numbers: the head's loss by blocks, the fused GELU, passes that stop early."""

from __future__ import annotations

import copy
from typing import cast

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from lrd_peft.model import fused
from lrd_peft.model.fused import fuse_activations, summed_cross_entropy
from lrd_peft.model.loop import has_plain_head, head_logits, think
from lrd_peft.model.pruning import find_blocks
from tests.model.reference import MODELS, VOCAB, gpt2_like, llama_like


def head_of(lm: PreTrainedModel) -> nn.Linear:
    head = lm.get_output_embeddings()
    assert isinstance(head, nn.Linear)
    return head


def states_and_targets(*, num_positions: int = 50, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(4)
    hidden = torch.randn(num_positions, 24, generator=generator, dtype=dtype).requires_grad_()
    return hidden, torch.randint(VOCAB, (num_positions,), generator=generator)


def loss_and_gradients(loss: Tensor, *of: Tensor) -> tuple[Tensor, ...]:
    return (loss.detach(), *torch.autograd.grad(loss * 0.3, of))


@pytest.mark.parametrize("family", MODELS)
@pytest.mark.parametrize("block", [1 << 20, 1], ids=["one block", "blocks of sixteen"])
def test_the_head_s_loss_by_blocks_equals_the_plain_one(family, block, monkeypatch):
    monkeypatch.setattr(fused, "BLOCK_BYTES", block)
    lm = MODELS[family]().double()
    head = head_of(lm).weight
    hidden, targets = states_and_targets()
    ours = loss_and_gradients(summed_cross_entropy(lm, hidden, targets), hidden, head)
    plain = F.cross_entropy(head_logits(lm, hidden), targets, reduction="sum")
    for mine, wanted in zip(ours, loss_and_gradients(plain, hidden, head), strict=True):
        torch.testing.assert_close(mine, wanted, rtol=1e-10, atol=1e-10)


def test_a_frozen_head_gets_no_gradient_and_the_states_still_do():
    lm = llama_like().double().requires_grad_(False)
    hidden, targets = states_and_targets()
    summed_cross_entropy(lm, hidden, targets).backward()
    assert head_of(lm).weight.grad is None
    plain = F.cross_entropy(head_logits(lm, hidden), targets, reduction="sum")
    torch.testing.assert_close(hidden.grad, torch.autograd.grad(plain, hidden)[0])


def test_no_labelled_position_is_a_loss_of_zero():
    hidden, targets = states_and_targets(num_positions=0, dtype=torch.float32)
    loss = summed_cross_entropy(llama_like(), hidden, targets)
    loss.backward()
    assert loss.item() == 0.0


def test_a_second_backward_pass_is_refused():
    hidden, targets = states_and_targets(dtype=torch.float32)
    loss = summed_cross_entropy(llama_like(), hidden, targets)
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="one backward pass"):
        loss.backward()


@pytest.mark.parametrize("change", ["capped", "biased", "hooked"])
def test_a_head_that_is_more_than_a_matrix_takes_the_plain_way(change):
    lm = llama_like()
    assert has_plain_head(lm)
    head = head_of(lm)
    if change == "capped":
        lm.config.final_logit_softcapping = 2.0
    elif change == "biased":
        head.bias = nn.Parameter(torch.full((VOCAB,), 0.5))
    else:
        head.register_forward_hook(lambda module, args, output: 2 * cast(Tensor, output))
    assert not has_plain_head(lm)
    hidden, targets = states_and_targets(dtype=torch.float32)
    wanted = F.cross_entropy(head_logits(lm, hidden), targets, reduction="sum")
    assert summed_cross_entropy(lm, hidden, targets).item() == wanted.item()


def test_autocast_takes_the_plain_way():
    lm = llama_like()
    hidden, targets = states_and_targets(dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        wanted = F.cross_entropy(head_logits(lm, hidden), targets, reduction="sum")
        assert summed_cross_entropy(lm, hidden, targets).item() == wanted.item()


def test_the_fused_gelu_changes_no_number_of_gpt2():
    lm = gpt2_like().double()
    fast = copy.deepcopy(lm)
    fuse_activations(fast)
    names = {type(module).__name__ for module in fast.modules()}
    assert "NewGELUActivation" not in names and "GELU" in names
    ids = torch.arange(1, 9)[None]
    torch.testing.assert_close(fast(ids).logits, lm(ids).logits, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("family", MODELS)
@pytest.mark.parametrize("num_thoughts", [0, 1, 3])
@pytest.mark.parametrize("layers", [[0], [1], [0, 2], [1, 3]], ids=str)
def test_states_alone_equal_those_of_whole_passes(family, num_thoughts, layers):
    lm = MODELS[family]().eval()
    question, suffix = torch.tensor([[0, 5, 9, 2], [7, 3, 11, 4]]), torch.tensor([[21, 22], [23, 24]])
    mask = torch.tensor([[0, 1, 1, 1], [1, 1, 1, 1]])
    for keep_question in (False, True):
        options = {"num_thoughts": num_thoughts, "suffix_ids": suffix, "layers": layers, "keep_question": keep_question}
        with torch.no_grad():
            whole = think(lm, question, mask, **options)
            alone = think(lm, question, mask, **options, states_only=True)
        assert alone.states.keys() == whole.states.keys()
        for layer, state in whole.states.items():
            assert torch.equal(alone.states[layer], state), layer
        assert torch.equal(alone.thoughts, whole.thoughts)
    assert len(find_blocks(lm)) == 3


def test_states_alone_do_not_run_the_blocks_above():
    lm = llama_like().eval()
    runs: list[int] = []
    for index, block in enumerate(find_blocks(lm)):
        block.register_forward_hook(lambda module, args, output, index=index: runs.append(index))
    ids = torch.tensor([[5, 9, 2]])
    with torch.no_grad():
        think(lm, ids, torch.ones_like(ids), num_thoughts=0, suffix_ids=ids, layers=[1, 2], states_only=True)
    assert runs == [0, 1]
