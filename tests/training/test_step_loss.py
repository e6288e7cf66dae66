"""Training with steps written from thoughts: the sum, one result however it is computed, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from lrd_peft.model.teacher import TeacherModel
from lrd_peft.runtime.errors import UserError
from lrd_peft.training.curriculum import StageCollator, items
from lrd_peft.training.objectives import TaskObjective
from lrd_peft.training.thinking_trainer import ThinkingTrainer
from tests import tiny
from tests.training.small import assert_close, assert_same_runs, make_store, moved, student, trainer, weights
from tests.training.test_numbers import MANY_STEPS, NO_STEPS

SGD = {"optim": "sgd", "learning_rate": 0.1}
WIDER: dict[str, Any] = {"width": 32, "seed": 4}
DATA = [*tiny.problems(14), NO_STEPS, MANY_STEPS]


def accumulated(num: int) -> dict[str, Any]:
    return {"per_device_train_batch_size": 8 // num, "gradient_accumulation_steps": num, **SGD}


def of_teacher(folder: Path, model: TeacherModel, *, weight: float, **changes: Any) -> ThinkingTrainer:
    options = {"stage": 1, "max_stage": 2, "thoughts_per_step": 2, **changes.pop("collator", {})}
    return ThinkingTrainer(
        model,
        objective=TaskObjective(step_loss_weight=weight),
        items=items(model.encoder.encode_many(DATA)),
        collator=StageCollator(model, **options),
        args=tiny.arguments(folder, **changes),
    )


@pytest.mark.parametrize("online", [True, False], ids=["teacher", "alpha 0"])
def test_accumulated_batches_of_a_student_equal_one_large_batch(online: bool, tmp_path: Path):
    after = []
    for parts in (1, 8):
        own = student(num_thoughts=4)
        source: dict[str, Any] = {"distill_alpha": 0.0}
        if online:
            source = {"teacher_model": tiny.teacher(num_thoughts=4, **WIDER)}
        run = trainer(
            tmp_path,
            student_model=own,
            train_dataset=DATA,
            step_loss_weight=0.7,
            thoughts_per_step=2,
            arguments=accumulated(parts),
            **source,
        )
        run.prepare()
        before = weights(own)
        run.train()
        assert moved(before, weights(own))
        after.append((weights(own), run.curve()))
    assert_same_runs(*after)


@pytest.mark.parametrize("uniform_prob", [0.0, 1.0])
def test_accumulation_changes_nothing_in_the_training_of_a_teacher(uniform_prob: float, tmp_path: Path):
    after = []
    for parts in (1, 8):
        model = tiny.teacher()
        chosen = {"uniform_prob": uniform_prob, "seed": 5}
        run = of_teacher(tmp_path, model, weight=0.7, collator=chosen, num_train_epochs=2, **accumulated(parts))
        run.train()
        after.append((weights(model), [row["step_loss"] for row in run.curve()]))
    assert_close(after[0][0], after[1][0])
    assert after[0][1] == pytest.approx(after[1][1], rel=1e-4)
    # Steps of stage 0, where nothing has been replaced, have no such term.
    assert (0.0 in after[0][1]) == (uniform_prob == 1.0)


def test_the_logged_loss_is_the_sum_of_its_logged_parts(tmp_path: Path):
    own = student()
    run = trainer(tmp_path, student_model=own, teacher_model=tiny.teacher(**WIDER), step_loss_weight=0.7)
    run.train()
    for row in run.curve():
        assert row["step_loss"] > 0
        assert row["loss"] == pytest.approx(0.5 * row["distill"] + 0.5 * row["task"] + 0.7 * row["step_loss"], rel=1e-4)
    run = of_teacher(tmp_path, tiny.teacher(), weight=0.7)
    run.train()
    for row in run.curve():
        assert row["loss"] == pytest.approx(row["task"] + 0.7 * row["step_loss"], rel=1e-4)


def test_the_first_step_loss_is_the_mean_over_all_tokens_of_the_steps(tmp_path: Path):
    own = student()
    run = trainer(
        tmp_path,
        student_model=own,
        distill_alpha=0.0,
        step_loss_weight=0.7,
        arguments={"per_device_train_batch_size": 8, **SGD},
    )
    rows = items(own.encoder.encode_many(tiny.problems(8)))
    batch = run.collator(rows)
    num_tokens = sum(len(step) for row in rows for step in row.encoded.steps)
    with torch.no_grad():
        expected = own(**batch).step_loss_sum.item() / num_tokens
    run.train()
    assert run.curve()[0]["step_loss"] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("source", ["store", "no store, alpha 0"])
def test_a_student_learns_to_write_its_steps_from_its_thoughts(source: str, tmp_path: Path):
    data, own = tiny.problems(8), student()
    options: dict[str, Any] = {"distill_alpha": 0.0}
    if source == "store":
        options = {"store": make_store(tiny.teacher(**WIDER), data, tmp_path / "store")}
    run = trainer(
        tmp_path,
        student_model=own,
        train_dataset=data,
        step_loss_weight=1.0,
        arguments={"num_train_epochs": 30, "learning_rate": 1e-2},
        **options,
    )
    run.prepare()
    before = weights(own)
    run.train()
    curve = run.curve()
    assert curve[-1]["step_loss"] < 0.85 * curve[0]["step_loss"]
    # Nothing is added to what is trained, and so to what is saved.
    assert weights(own).keys() == before.keys()


@pytest.mark.parametrize("thoughts_from", ["teacher", "annealed"])
def test_a_student_trains_from_its_teachers_thoughts(thoughts_from: str, tmp_path: Path):
    own = student()
    teacher = tiny.teacher(**WIDER)
    run = trainer(tmp_path, student_model=own, teacher_model=teacher, thoughts_from=thoughts_from, step_loss_weight=1.0)
    run.prepare()
    before = weights(own)
    run.train()
    assert "thought_adapter.weight" in moved(before, weights(own))


def test_without_weight_no_steps_reach_the_model_and_nothing_changes(tmp_path: Path):
    after = []
    for options in ({}, {"step_loss_weight": 0.0, "thoughts_per_step": 2}):
        own = student()
        run = trainer(tmp_path, student_model=own, teacher_model=tiny.teacher(**WIDER), **options)
        batch = run.collator(run.items[:2])
        assert not any(name.startswith("step_") for name in batch)
        run.train()
        after.append((weights(own), run.curve()))
    assert all(torch.equal(after[0][0][name], value) for name, value in after[1][0].items())
    assert after[0][1] == after[1][1] and "step_loss" not in after[0][1][0]


def test_problems_without_any_step_train_on_the_rest_of_the_loss(tmp_path: Path):
    after = []
    for weight in (0.0, 0.7):
        own = student()
        trainer(
            tmp_path, student_model=own, train_dataset=[NO_STEPS], distill_alpha=0.0, step_loss_weight=weight
        ).train()
        after.append(weights(own))
    assert_close(*after, atol=0.0)


def test_the_evaluation_loss_is_the_tasks(tmp_path: Path):
    found = [
        trainer(tmp_path, distill_alpha=0.0, eval_dataset=tiny.problems(4, seed=1), step_loss_weight=weight).evaluate()[
            "eval_loss"
        ]
        for weight in (0.0, 5.0)
    ]
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"step_loss_weight": -0.1}, r"step_loss_weight is -0\.1; it must be a number at least 0"),
        ({"step_loss_weight": float("nan")}, "step_loss_weight is nan"),
        ({"step_loss_weight": 1.0, "thoughts_per_step": 3}, "thoughts_per_step is 3, but the student thinks 2"),
        ({"step_loss_weight": 1.0, "thoughts_per_step": 0}, "thoughts_per_step is 0"),
    ],
    ids=["negative", "nan", "no part", "zero"],
)
def test_values_that_cannot_be(changes: dict[str, Any], message: str, tmp_path: Path):
    with pytest.raises(UserError, match=message):
        trainer(tmp_path, distill_alpha=0.0, **changes)


def test_steps_longer_than_the_context_are_refused_before_the_training(tmp_path: Path):
    long = type(MANY_STEPS)(id="c", question="How many?", steps=MANY_STEPS.steps * 5, answer="9")
    trainer(tmp_path, distill_alpha=0.0, train_dataset=[long])
    with pytest.raises(UserError, match=r"1 of 1 problems .* or the steps that a thought must write.*context of 160"):
        trainer(tmp_path, distill_alpha=0.0, train_dataset=[long], step_loss_weight=1.0)
