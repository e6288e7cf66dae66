"""The thinking loop equals its plain definition: losses, gradients, hidden states; ragged, padded, wrapped.

In double precision where only the arithmetic is in question; Llama's norms are float32 even there.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

from lrd_peft.data.collate import Batch, Row, collate
from lrd_peft.model.loop import head_logits, think
from lrd_peft.runtime.errors import UserError
from tests.model.reference import MODELS, VOCAB, recompute

QUESTIONS = [[5, 9, 2], [7, 3, 11, 4, 8, 30, 12], [1], [2, 50, 33, 17]]
SUFFIXES = [[21, 22, 23], [24], [25, 26, 27, 28, 29], [31, 40]]


def batch_of(num_thoughts: int, rows: list[int]) -> Batch:
    return collate(
        [
            Row(
                index=i,
                question=tuple(QUESTIONS[i]),
                num_thoughts=num_thoughts,
                suffix=tuple(SUFFIXES[i]),
                answer_start=0,
            )
            for i in rows
        ],
        pad_id=0,
    )


def wrapped(lm: nn.Module) -> nn.Module:
    """A PEFT model whose adapters do something (B is not zero)."""
    torch.manual_seed(3)
    conv1d = type(lm).__name__.startswith("GPT2")
    config = LoraConfig(r=2, lora_alpha=4, target_modules="all-linear", init_lora_weights=False, fan_in_fan_out=conv1d)
    return get_peft_model(lm, config)


def summed_loss(lm: nn.Module, batch: Batch, **options) -> Tensor:
    result = think(
        lm,
        batch["question_ids"],
        batch["question_mask"],
        num_thoughts=batch["num_thoughts"],
        suffix_ids=batch["suffix_ids"],
        **options,
    )
    n, labels = batch["num_thoughts"], batch["labels"]
    predicting = result.last[:, n : n + labels.shape[1]]
    return F.cross_entropy(head_logits(lm, predicting[labels != -100]), labels[labels != -100], reduction="sum")


def plain_loss(lm: nn.Module, num_thoughts: int, rows: list[int], projection=None) -> Tensor:
    total = torch.zeros(())
    for i in rows:
        logits, _ = recompute(lm, QUESTIONS[i], num_thoughts, SUFFIXES[i], projection)
        start = len(QUESTIONS[i]) + num_thoughts - 1
        total = total + F.cross_entropy(
            logits[start : start + len(SUFFIXES[i])], torch.tensor(SUFFIXES[i]), reduction="sum"
        )
    return total


def gradients(lm: nn.Module, loss: Tensor) -> dict[str, Tensor]:
    lm.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in lm.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("family", MODELS)
@pytest.mark.parametrize("num_thoughts", [0, 1, 2, 6])
@pytest.mark.parametrize("rows", [[0, 1, 2, 3], [1]], ids=["ragged", "one"])
@pytest.mark.parametrize("peft", [False, True], ids=["bare", "lora"])
def test_losses_and_gradients_equal_the_recomputed_sequence(family, num_thoughts, rows, peft):
    lm = MODELS[family]().double().eval()
    lm = wrapped(lm).double() if peft else lm
    loss, plain = summed_loss(lm, batch_of(num_thoughts, rows)), plain_loss(lm, num_thoughts, rows)
    assert loss.item() == pytest.approx(plain.item(), rel=1e-5)
    ours, theirs = gradients(lm, loss), gradients(lm, plain)
    assert ours.keys() == theirs.keys()
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-4, atol=1e-4, msg=name)


@pytest.mark.parametrize("family", MODELS)
def test_equality_holds_in_float32_to_1e_5(family):
    lm = MODELS[family]().eval()
    loss, plain = summed_loss(lm, batch_of(4, [0, 1, 2, 3])), plain_loss(lm, 4, [0, 1, 2, 3])
    assert loss.item() == pytest.approx(plain.item(), rel=1e-5)
    ours, theirs = gradients(lm, loss), gradients(lm, plain)
    for name, grad in ours.items():
        scale = theirs[name].abs().max().item() + 1e-6
        assert (grad - theirs[name]).abs().max().item() / scale < 1e-4, name


@pytest.mark.parametrize("family", MODELS)
def test_bfloat16_stays_loosely_equal(family):
    lm = MODELS[family]()
    plain = summed_loss(lm, batch_of(3, [0, 1, 2, 3])).item()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert summed_loss(lm, batch_of(3, [0, 1, 2, 3])).item() == pytest.approx(plain, rel=0.1)


@pytest.mark.parametrize("family", MODELS)
@pytest.mark.parametrize("num_thoughts", [0, 3])
def test_kept_states_are_those_of_the_plain_sequence(family, num_thoughts):
    lm = MODELS[family]().eval()
    batch = batch_of(num_thoughts, [0, 1, 2, 3])
    for keep_question in (False, True):
        result = think(
            lm,
            batch["question_ids"],
            batch["question_mask"],
            num_thoughts=num_thoughts,
            suffix_ids=batch["suffix_ids"],
            layers=[0, 2, 3],
            keep_question=keep_question,
        )
        for i in range(4):
            _, states = recompute(lm, QUESTIONS[i], num_thoughts, SUFFIXES[i])
            length = len(QUESTIONS[i]) + num_thoughts + len(SUFFIXES[i])
            pad = batch["question_ids"].shape[1] - len(QUESTIONS[i])
            for layer in (0, 2, 3):
                if keep_question:
                    ours, expected = result.states[layer][i, pad : pad + length], states[layer]
                else:
                    ours = result.states[layer][i, : num_thoughts + len(SUFFIXES[i])]
                    expected = states[layer][len(QUESTIONS[i]) :]
                torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", MODELS)
def test_zero_thoughts_equal_the_forward_of_transformers(family):
    lm = MODELS[family]().eval()
    ids = torch.randint(1, VOCAB, (2, 9), generator=torch.Generator().manual_seed(1))
    result = think(lm, ids[:, :4], torch.ones(2, 4, dtype=torch.long), num_thoughts=0, suffix_ids=ids[:, 4:])
    torch.testing.assert_close(head_logits(lm, result.last), lm(ids).logits[:, 3:], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", MODELS)
def test_projection_on_thoughts(family):
    lm = MODELS[family]().double().eval()
    torch.manual_seed(5)
    projection = nn.Sequential(nn.Linear(24, 24), nn.LayerNorm(24)).double()
    loss = summed_loss(lm, batch_of(3, [0, 1, 2]), projection=projection)
    assert loss.item() == pytest.approx(plain_loss(lm, 3, [0, 1, 2], projection).item(), rel=1e-6)


@pytest.mark.parametrize("family", MODELS)
def test_forced_thoughts_equal_to_its_own_change_nothing(family):
    lm = MODELS[family]().double().eval()
    batch = batch_of(3, [0, 1, 2, 3])
    own = think(lm, batch["question_ids"], batch["question_mask"], num_thoughts=3, suffix_ids=batch["suffix_ids"])
    forced = think(
        lm,
        batch["question_ids"],
        batch["question_mask"],
        num_thoughts=3,
        suffix_ids=batch["suffix_ids"],
        forced=own.thoughts,
    )
    assert forced.num_passes == 1 and own.num_passes == 4
    torch.testing.assert_close(forced.last, own.last, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("family", MODELS)
def test_enough_jacobi_passes_equal_the_sequential_thoughts(family):
    lm = MODELS[family]().double().eval()
    batch = batch_of(4, [0, 1, 2, 3])
    exact = summed_loss(lm, batch)
    assert summed_loss(lm, batch, jacobi_passes=4).item() == pytest.approx(exact.item(), rel=1e-6)
    assert summed_loss(lm, batch, jacobi_passes=2).item() != pytest.approx(exact.item(), rel=1e-4)
    ours, theirs = gradients(lm, summed_loss(lm, batch, jacobi_passes=4)), gradients(lm, exact)
    for name, grad in ours.items():
        torch.testing.assert_close(grad, theirs[name], rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize("family", MODELS)
def test_thoughts_refined_from_any_start_reach_the_sequential_ones(family):
    lm = MODELS[family]().double().eval()
    batch, exact = batch_of(4, [0, 1, 2, 3]), summed_loss(lm, batch_of(4, [0, 1, 2, 3]))
    torch.manual_seed(3)
    start = torch.randn(4, 4, 24, dtype=torch.double)
    assert summed_loss(lm, batch, jacobi_passes=3, start=start).item() != pytest.approx(exact.item(), rel=1e-6)
    found = summed_loss(lm, batch, jacobi_passes=4, start=start)
    assert found.item() == pytest.approx(exact.item(), rel=1e-6)
    ours, theirs = gradients(lm, found), gradients(lm, exact)
    for name, grad in ours.items():
        torch.testing.assert_close(grad, theirs[name], rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize("family", MODELS)
def test_its_own_thoughts_stay_what_they_are_when_refined(family):
    lm = MODELS[family]().double().eval()
    batch = batch_of(3, [0, 1, 2, 3])
    given = {name: batch[name] for name in ("question_ids", "question_mask", "suffix_ids")}
    common = {"num_thoughts": 3, "layers": [1, 3], "keep_question": True}
    own = think(lm, **given, **common)
    refined = think(lm, **given, **common, start=own.thoughts, jacobi_passes=1)
    assert refined.num_passes == 2
    torch.testing.assert_close(refined.thoughts, own.thoughts, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(refined.last, own.last, rtol=1e-6, atol=1e-8)
    for layer, state in own.states.items():
        torch.testing.assert_close(refined.states[layer], state, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("family", MODELS)
def test_padding_and_batch_order_change_nothing(family):
    lm = MODELS[family]().double().eval()
    alone = sum(summed_loss(lm, batch_of(2, [i])).item() for i in range(4))
    assert summed_loss(lm, batch_of(2, [3, 1, 0, 2])).item() == pytest.approx(alone, rel=1e-6)
    batch = batch_of(2, [0, 1, 2, 3])
    wider = Batch(**batch)
    wider["question_ids"] = F.pad(batch["question_ids"], (5, 0), value=13)
    wider["question_mask"] = F.pad(batch["question_mask"], (5, 0))
    wider["suffix_ids"] = F.pad(batch["suffix_ids"], (0, 4), value=14)
    wider["labels"] = F.pad(batch["labels"], (0, 4), value=-100)
    assert summed_loss(lm, wider).item() == pytest.approx(alone, rel=1e-6)


def test_a_layer_out_of_range_is_named_with_the_range():
    batch = batch_of(1, [0])
    with pytest.raises(UserError, match=r"layer 9 is out of range: this model has 3 blocks"):
        think(
            MODELS["llama"](),
            batch["question_ids"],
            batch["question_mask"],
            num_thoughts=1,
            suffix_ids=batch["suffix_ids"],
            layers=[1, 9],
        )
