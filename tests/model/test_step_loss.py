"""Steps written from thoughts: equal to one forward pass of transformers for each, whatever shares the batch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lrd_peft.lora import create_lora_model
from lrd_peft.model.loop import unwrap
from lrd_peft.model.step_loss import summed_step_loss
from lrd_peft.model.student import StudentModel
from lrd_peft.training.curriculum import Item, StageCollator, items
from tests import tiny


def made(family: str, *, peft: bool = False, **options: Any) -> StudentModel:
    """A student of four thoughts, two for each of two steps, whose adapters and projection do something."""
    student = tiny.student(family, num_thoughts=4, options=options)
    torch.manual_seed(5)
    if peft:
        student = create_lora_model(student, r=2)
    with torch.no_grad():
        for name, parameter in student.named_parameters():
            if "lora_B" in name or name.startswith("projection"):
                parameter.add_(0.1 * torch.randn_like(parameter))
    return student.eval()


def rows_of(student: StudentModel, num_problems: int = 4) -> list[Item]:
    return items(student.encoder.encode_many(tiny.problems(num_problems)))


def collator(student: StudentModel, *, stage: int = 2, **changes: Any) -> StageCollator:
    return StageCollator(
        student, **{"stage": stage, "max_stage": 2, "thoughts_per_step": 2, "with_steps": True, **changes}
    )


def plain_loss(student: StudentModel, rows: list[Item], *, stage: int, last: bool) -> Tensor:
    """The definition, by transformers alone: the sequence again for each thought, then each step by itself."""
    embed = unwrap(student.lm).get_input_embeddings()
    total = torch.zeros((), dtype=torch.float64)
    for row in rows:
        inputs, thoughts = embed(torch.tensor([row.encoded.prompt])), []
        for _ in range(2 * stage):
            output = student.lm(inputs_embeds=inputs, output_hidden_states=True, use_cache=False)
            thought = output.hidden_states[-1][:, -1:]
            thoughts.append(thought if student.projection is None else student.projection(thought))
            inputs = torch.cat([inputs, thoughts[-1]], dim=1)
        steps = list(row.encoded.steps)
        if last:
            steps = [*steps[: stage - 1], tuple(token for step in steps[stage - 1 :] for token in step)]
        for j, step in enumerate(filter(None, steps[:stage]), start=1):
            tokens = torch.tensor([step])
            inputs = torch.cat([thoughts[2 * j - 1], embed(tokens)], dim=1)
            logits = student.lm(inputs_embeds=inputs, use_cache=False).logits
            total = total + F.cross_entropy(logits[0, :-1], tokens[0], reduction="sum")
    return total


def gradients(student: StudentModel, loss: Tensor) -> dict[str, Tensor]:
    student.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in student.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("family", tiny.FAMILIES)
@pytest.mark.parametrize("peft", [False, True], ids=["bare", "lora"])
@pytest.mark.parametrize("projection", ["none", "mlp"])
def test_loss_and_gradients_equal_each_step_by_itself(family: str, peft: bool, projection: str):
    student = made(family, peft=peft, projection=projection).double()
    rows = rows_of(student)
    loss = student(**collator(student)(rows)).step_loss_sum
    plain = plain_loss(student, rows, stage=2, last=True)
    assert loss.item() == pytest.approx(plain.item(), rel=1e-5)
    ours, theirs = gradients(student, loss), gradients(student, plain)
    assert ours.keys() == theirs.keys()
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-4, atol=1e-4, msg=name)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_a_stage_that_still_writes_steps_asks_for_the_replaced_ones_only(family: str):
    student = made(family)
    rows = rows_of(student)
    batch: Any = collator(student, stage=1)(rows)
    assert batch["step_places"].tolist() == [[i, 1] for i in range(4)]
    loss = student(**batch).step_loss_sum
    assert loss.item() == pytest.approx(plain_loss(student, rows, stage=1, last=False).item(), rel=1e-5)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_gradients_reach_the_thoughts_of_the_steps_and_no_others(family: str):
    student = made(family)
    batch: Any = collator(student)(rows_of(student))
    thoughts = torch.randn(4, 4, student.hidden_size, requires_grad=True)
    summed_step_loss(student.lm, thoughts, labels=batch["step_labels"], places=batch["step_places"]).backward()
    assert thoughts.grad is not None
    reached = thoughts.grad.abs().sum(dim=-1) > 0
    expected = torch.zeros(4, 4, dtype=torch.bool)
    expected[batch["step_places"][:, 0], batch["step_places"][:, 1]] = True
    assert torch.equal(reached, expected)
    assert expected[:, [0, 2]].sum() == 0 and expected[:, 1].all()


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_padding_and_batch_order_change_nothing(family: str):
    student = made(family).double()
    rows = rows_of(student)
    alone = sum(student(**collator(student)([row])).step_loss_sum.item() for row in rows)
    batch: Any = collator(student)([rows[i] for i in (3, 1, 0, 2)])
    assert student(**batch).step_loss_sum.item() == pytest.approx(alone, rel=1e-6)
    batch["step_labels"] = F.pad(batch["step_labels"], (0, 3), value=-100)
    order = torch.randperm(len(batch["step_labels"]), generator=torch.Generator().manual_seed(0))
    batch["step_labels"], batch["step_places"] = batch["step_labels"][order], batch["step_places"][order]
    assert student(**batch).step_loss_sum.item() == pytest.approx(alone, rel=1e-6)


def test_what_else_a_batch_gives_is_bit_for_bit_the_same():
    student = made("llama")
    rows = rows_of(student)
    plain = student(**collator(student, with_steps=False)(rows), layers=[1, 3])
    more = student(**collator(student)(rows), layers=[1, 3])
    assert plain.step_loss_sum is None and more.step_loss_sum > 0
    assert torch.equal(plain.loss_sum, more.loss_sum) and torch.equal(plain.thoughts, more.thoughts)
    assert all(torch.equal(plain.states[layer], more.states[layer]) for layer in (1, 3))


def test_problems_without_steps_and_the_stage_without_thoughts_have_no_such_loss():
    student = made("llama")
    (first, *_) = rows = rows_of(student)
    none = Item(9, type(first.encoded)(first.encoded.problem, first.encoded.prompt, (), (30, 31), (40, 1)))
    assert student(**collator(student)([none])).step_loss_sum is None
    assert student(**collator(student, stage=0)(rows)).step_loss_sum is None
    both = student(**collator(student)([none, first])).step_loss_sum
    assert both.item() == pytest.approx(student(**collator(student)([first])).step_loss_sum.item(), rel=1e-5)


@pytest.mark.parametrize("projection", ["none", "linear"])
def test_half_precision_stays_loosely_equal(projection: str):
    student = made("llama", projection=projection)
    batch: Any = collator(student)(rows_of(student))
    exact = student(**batch).step_loss_sum.item()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert student(**batch).step_loss_sum.item() == pytest.approx(exact, rel=0.1)
    assert student.to(torch.bfloat16)(**batch).step_loss_sum.item() == pytest.approx(exact, rel=0.1)
