"""Sizes and values at the edge: one problem, no steps, more steps than slots, NaN in a teacher or an output."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lrd_peft.data.problem import Problem
from lrd_peft.evaluation.metrics import summarize
from lrd_peft.evaluation.score import score
from lrd_peft.runtime.errors import UserError
from lrd_peft.store import StoreSpec, StoreWriter
from lrd_peft.training.curriculum import items, row_at
from tests import tiny
from tests.training.small import LAYERS, make_store, trainer, weights

NO_STEPS = Problem(id="a", question="Ann has 3 pens. How many pens does Ann have?", steps=(), answer="3")
MANY_STEPS = Problem(
    id="b",
    question="Ann has 3 pens. She buys 4 more. How many pens does Ann have now?",
    steps=tuple(f"Ann: {n} + 1 = {n + 1}" for n in range(9)),
    answer="9",
)


def test_no_steps_and_more_steps_than_slots_have_the_same_thoughts_and_only_the_answer_left() -> None:
    student = tiny.student()
    first, second = (
        row_at(item, stage=2, thoughts_per_step=1, model=student, last=True)
        for item in items(student.encoder.encode_many([NO_STEPS, MANY_STEPS]))
    )
    assert first.num_thoughts == second.num_thoughts == 2
    marker = len(student.encoder.marker)
    assert first.answer_start == second.answer_start == marker
    assert first.suffix[:marker] == second.suffix[:marker] == student.encoder.marker


@pytest.mark.parametrize("rows", [[NO_STEPS], [MANY_STEPS], [NO_STEPS, MANY_STEPS]], ids=["none", "many", "both"])
def test_they_train_in_batches_of_any_size(rows: list[Problem], tmp_path: Path) -> None:
    run = trainer(tmp_path, teacher_model=tiny.teacher(), train_dataset=rows)
    before = weights(run.student)
    run.train()
    assert run.curve()[-1]["loss"] > 0
    after = weights(run.student)
    assert any(not torch.equal(after[name], before[name]) for name in after)
    assert all(bool(value.isfinite().all()) for value in after.values())


def test_a_store_of_one_problem_distils(tmp_path: Path) -> None:
    store = make_store(tiny.teacher(seed=4), [NO_STEPS], tmp_path / "store")
    run = trainer(tmp_path / "run", store=store, train_dataset=[NO_STEPS])
    run.train()
    assert run.curve()[-1]["distill"] > 0


def test_one_problem_is_evaluated() -> None:
    [result] = score(tiny.student(), [NO_STEPS], thinking=True, batch_size=8, max_new_tokens=3)
    assert summarize([result]).n == 1 and result.num_steps == 0


def test_no_problem_is_no_result() -> None:
    assert score(tiny.student(), [], thinking=True, batch_size=8, max_new_tokens=3) == []
    with pytest.raises(UserError, match="no results to summarize"):
        summarize([])


def test_a_constant_layer_of_the_teacher_is_not_divided_by_nothing(tmp_path: Path) -> None:
    teacher = tiny.teacher()
    spec = StoreSpec(
        fingerprints={**teacher.fingerprints(), "data": "made"},
        teacher_name="constant",
        layers=LAYERS,
        num_thoughts=2,
        hidden_size=16,
        num_blocks=3,
        num_problems=1,
    )
    with StoreWriter.open(tmp_path / "store", spec) as writer:
        writer.add(0, torch.ones(3, 3, 16), NO_STEPS.to_row())
        writer.finish()
    from lrd_peft.store import Store

    store = Store.open(tmp_path / "store")
    assert store.variance == dict.fromkeys(LAYERS, 0.0)
    run = trainer(tmp_path / "run", store=store, train_dataset=[NO_STEPS])
    run.train()
    assert 0 < run.curve()[-1]["distill"] < 1e6


def test_a_broken_online_teacher_stops_the_training(tmp_path: Path) -> None:
    teacher = tiny.teacher()
    with torch.no_grad():
        next(teacher.lm.parameters())[0] = float("nan")
        for name, parameter in teacher.lm.named_parameters():
            if "mlp" in name:
                parameter.fill_(float("inf"))
    run = trainer(tmp_path, teacher_model=teacher)
    with pytest.raises(UserError, match=r"the loss is (nan|inf) at update 1"):
        run.train()


@pytest.mark.parametrize("thinking", [True, False])
def test_a_model_whose_output_is_nan_is_not_graded(thinking: bool) -> None:
    student = tiny.student()
    with torch.no_grad():
        next(student.lm.parameters()).fill_(float("nan"))
    with pytest.raises(UserError, match="output is NaN"):
        score(student, tiny.problems(2), thinking=thinking, batch_size=2, max_new_tokens=3)
