"""A curriculum for the student, a course of alpha, projectors that begin fitted, a part of the problems."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from lrd_peft.data.collate import collate
from lrd_peft.data.problem import Problem
from lrd_peft.runtime.errors import UserError
from lrd_peft.training.curriculum import items, last_stage, row_at
from lrd_peft.training.projector_fit import LinearFit, spread
from tests import tiny
from tests.training.small import (
    LAYERS,
    assert_close,
    assert_same_runs,
    make_store,
    make_written_store,
    moved,
    student,
    trainer,
    weights,
)

SGD = {"optim": "sgd", "learning_rate": 0.1}
WIDER: dict[str, Any] = {"width": 32, "seed": 4}
# 8 problems in batches of 4 for 3 epochs: stages 0, 0, 1, 1, 2, 2 of a student with two thoughts.
RISING: dict[str, Any] = {"student_curriculum": 2 / 3, "arguments": {"num_train_epochs": 3, **SGD}}


def stages_seen(run: Any, **options: Any) -> list[int]:
    """Train, and return how many thoughts the student had in each batch."""
    seen, compute_loss = [], run.compute_loss

    def noting(model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        seen.append(inputs["num_thoughts"])
        return compute_loss(model, inputs, *args, **kwargs)

    run.compute_loss = noting
    run.train(**options)
    return seen


# The curriculum


def test_thoughts_take_the_place_of_steps_one_by_one(tmp_path: Path):
    run = trainer(tmp_path, teacher_model=tiny.teacher(**WIDER), **RISING)
    assert stages_seen(run) == [0, 0, 1, 1, 2, 2]
    assert stages_seen(trainer(tmp_path, teacher_model=tiny.teacher(**WIDER), arguments=SGD)) == [2, 2]


def test_the_stages_follow_the_epochs_that_train_is_told(tmp_path: Path):
    run = trainer(tmp_path, distill_alpha=0.0, student_curriculum=0.5, arguments=SGD)
    assert stages_seen(run, epochs=4) == [0, 0, 1, 1, 2, 2, 2, 2]


def test_each_stage_takes_its_share_of_the_updates(tmp_path: Path):
    run = trainer(tmp_path, distill_alpha=0.0, student_curriculum=(1, 0, 3), arguments={"num_train_epochs": 4, **SGD})
    assert stages_seen(run) == [0, 0, 2, 2, 2, 2, 2, 2]


def test_updates_of_other_stages_are_mixed_in_and_leave_the_optimizer_alone(tmp_path: Path):
    options: dict[str, Any] = {"distill_alpha": 0.0, "student_curriculum": (1, 1, 6), "uniform_prob": 0.5}
    run = trainer(tmp_path, arguments={"num_train_epochs": 16}, **options)
    ages: list[float] = []
    run.compute_loss = _noting_ages(run, ages)
    seen = stages_seen(run)
    scheduled = [run.collator.scheduled_stage(update) for update in range(32)]
    assert scheduled == [0] * 4 + [1] * 4 + [2] * 24
    assert seen == [run.collator.stage_at(update) for update in range(32)] != scheduled
    assert set(seen[8:]) == {0, 1, 2}
    assert ages == [*range(4), *range(4), *range(24)]
    assert stages_seen(trainer(tmp_path, distill_alpha=0.0, uniform_prob=0.5, arguments=SGD)) == [2, 2]


@pytest.mark.parametrize("positions", ["thoughts+answer", "thoughts"])
@pytest.mark.parametrize("thoughts_from", ["student", "annealed"])
def test_in_a_curriculum_an_online_teacher_equals_its_store(positions: str, thoughts_from: str, tmp_path: Path):
    data, results = tiny.problems(8), []
    for online in (True, False):
        own, teacher = student(), tiny.teacher(**WIDER)
        source: dict[str, Any] = {"teacher_model": teacher}
        if not online:
            source = {"store": make_store(teacher, data, tmp_path / "store", layers=(0, *LAYERS))}
        run = trainer(
            tmp_path,
            student_model=own,
            train_dataset=data,
            positions=positions,
            thoughts_from=thoughts_from,
            **source,
            **RISING,
        )
        run.train()
        results.append((weights(own), run.curve()))
    assert_same_runs(*results)


def test_a_stage_is_aligned_to_the_teachers_first_thoughts_and_the_answer_position(tmp_path: Path):
    data, teacher = tiny.problems(4), tiny.teacher(seed=4)
    own = student()
    run = trainer(
        tmp_path,
        student_model=own,
        teacher_model=teacher,
        train_dataset=data,
        distill_alpha=1.0,
        normalize="none",
        student_curriculum=0.5,
        arguments={"num_train_epochs": 4, "optim": "sgd", "learning_rate": 0.0},
    )
    run.train()
    encoded = items(own.encoder.encode_many(data))
    for stage, line in zip((0, 1, 2, 2), run.curve(), strict=True):
        rows = [row_at(item, stage=stage, thoughts_per_step=1, model=own, last=stage == 2) for item in encoded]
        last = [row_at(item, stage=2, thoughts_per_step=1, model=own, last=True) for item in encoded]
        with torch.no_grad():
            ours = own(**collate(rows, pad_id=0), layers=LAYERS).states
            theirs = teacher(**collate(last, pad_id=0), layers=LAYERS).states
        kept = [*range(stage), 2]
        expected = sum((ours[layer] - theirs[layer][:, kept]).square().mean().item() for layer in LAYERS) / len(LAYERS)
        assert line["distill"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("align_to", ["thoughts", "steps"])
def test_in_a_curriculum_accumulated_batches_equal_one_large_batch(align_to: str, tmp_path: Path):
    data, after = tiny.problems(20), []
    make = make_store if align_to == "thoughts" else make_written_store
    store = make(tiny.teacher(**WIDER), data, tmp_path / "store")
    for parts in (1, 4):
        own = student()
        run = trainer(
            tmp_path,
            student_model=own,
            store=store,
            train_dataset=data,
            align_to=align_to,
            step_loss_weight=0.5,
            student_curriculum=0.7,
            arguments={
                "per_device_train_batch_size": 8 // parts,
                "gradient_accumulation_steps": parts,
                "num_train_epochs": 2,
                **SGD,
            },
        )
        run.train()
        after.append((weights(own), run.curve()))
    assert_same_runs(*after)


def test_the_optimizer_forgets_at_each_stage(tmp_path: Path):
    run = trainer(tmp_path, distill_alpha=0.0, student_curriculum=2 / 3, arguments={"num_train_epochs": 3})
    ages: list[float] = []
    run.compute_loss = _noting_ages(run, ages)
    run.train()
    assert ages == [0, 1, 0, 1, 0, 1]


def _noting_ages(run: Any, ages: list[float]) -> Any:
    compute_loss = run.compute_loss

    def noting(*args: Any, **kwargs: Any) -> Any:
        states = run.optimizer.state.values()
        ages.append(max((float(state["step"]) for state in states), default=0.0))
        return compute_loss(*args, **kwargs)

    return noting


def test_validation_problems_are_answered_in_thoughts_throughout(tmp_path: Path):
    losses = []
    for curriculum in (0.0, 0.9):
        frozen = {"optim": "sgd", "learning_rate": 0.0}
        run = trainer(
            tmp_path,
            distill_alpha=0.0,
            eval_dataset=tiny.problems(4, seed=1),
            student_curriculum=curriculum,
            arguments=frozen,
        )
        run.train()
        losses.append(run.evaluate()["eval_loss"])
    assert losses[0] == losses[1]


def test_steps_that_are_written_at_first_must_fit_into_the_context(tmp_path: Path):
    long = Problem("a", "q " * 60, tuple(f"{i} + 1 = {i + 1}" for i in range(20)), "21")
    trainer(tmp_path, distill_alpha=0.0, train_dataset=[long])
    with pytest.raises(UserError, match=r"1 of 1 problems .* or the steps that earlier stages still write, exceed"):
        trainer(tmp_path, distill_alpha=0.0, train_dataset=[long], student_curriculum=0.5)


# The course of alpha


@pytest.mark.parametrize(
    ("schedule", "alphas"),
    [("constant", [0.5] * 4), ("falling", [0.5, 0.375, 0.25, 0.125]), ("rising", [0, 0.125, 0.25, 0.375])],
)
def test_alpha_takes_its_course(schedule: str, alphas: list[float], tmp_path: Path):
    run = trainer(
        tmp_path,
        teacher_model=tiny.teacher(**WIDER),
        alpha_schedule=schedule,
        arguments={"num_train_epochs": 2, **SGD},
    )
    run.train()
    for line, alpha in zip(run.curve(), alphas, strict=True):
        assert line["loss"] == pytest.approx(alpha * line["distill"] + (1 - alpha) * line["task"], rel=1e-4)


# Fitted projectors


def test_a_fit_is_the_least_squares_solution():
    torch.manual_seed(0)
    inputs, targets = torch.randn(200, 5), torch.randn(200, 3)
    linear = nn.Linear(5, 3)
    fit = LinearFit(linear)
    for part in (slice(0, 70), slice(70, 200)):
        fit.add(inputs[part], targets[part])
    fit.solve()
    with_ones = torch.cat([inputs, torch.ones(200, 1)], dim=1)
    expected = torch.linalg.lstsq(with_ones, targets).solution
    torch.testing.assert_close(linear.weight, expected[:5].T, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(linear.bias, expected[5], rtol=1e-4, atol=1e-5)


def test_a_unit_that_never_moves_gets_no_weight():
    inputs = torch.cat([torch.randn(50, 2), torch.zeros(50, 1)], dim=1)
    linear = nn.Linear(3, 1)
    fit = LinearFit(linear)
    fit.add(inputs, inputs[:, :1] * 2 + 1)
    fit.solve()
    torch.testing.assert_close(linear.weight[0], torch.tensor([2.0, 0.0, 0.0]), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(linear.bias, torch.tensor([1.0]), rtol=1e-3, atol=1e-3)


def test_a_fit_without_rows_leaves_the_map_as_it_was():
    linear = nn.Linear(3, 2)
    before = linear.weight.clone()
    LinearFit(linear).solve()
    assert torch.equal(linear.weight, before)


def test_projectors_of_other_layers_are_left_alone(tmp_path: Path):
    own = student()
    trainer(tmp_path, student_model=own, teacher_model=tiny.teacher(**WIDER)).prepare()
    before = weights(own)
    fitted = trainer(
        tmp_path,
        student_model=own,
        teacher_model=tiny.teacher(**WIDER),
        distill_layers=LAYERS[1:],
        projector_init="least-squares",
    )
    fitted.prepare()
    names = {name.split(".")[1] for name in moved(before, weights(fitted.student))}
    assert names == {str(layer) for layer in LAYERS[1:]}


@pytest.mark.parametrize(
    ("count", "expected"), [(3, [0, 3, 6, 9]), (4, [0, 2, 4, 6, 8]), (10, list(range(10))), (99, list(range(10)))]
)
def test_values_are_taken_from_everywhere(count: int, expected: list[int]):
    assert spread(list(range(10)), count) == expected


@pytest.mark.parametrize("positions", ["thoughts+answer", "all"])
@pytest.mark.parametrize("source", ["store", "teacher"])
def test_fitted_projectors_begin_where_no_other_map_is_nearer(source: str, positions: str, tmp_path: Path):
    data, losses, slopes = tiny.problems(12), {}, {}
    for init in ("random", "least-squares"):
        teacher = tiny.teacher(**WIDER)
        made: dict[str, Any] = {"teacher_model": teacher}
        if source == "store":
            made = {"store": make_store(teacher, data, tmp_path / init, positions=positions)}
        own = student()
        before = weights(own)
        run = trainer(
            tmp_path,
            student_model=own,
            train_dataset=data,
            positions=positions,
            projector_init=init,
            distill_alpha=1.0,
            **made,
        )
        run.prepare()
        assert not moved(before, {name: value for name, value in weights(own).items() if name in before})
        own.eval()
        batch: Any = last_stage(own)(items(own.encoder.encode_many(data)))
        loss = run.compute_loss(own, batch)
        loss.backward()
        losses[init] = loss.item()
        slopes[init] = sum(p.grad.norm().item() for p in own.projectors.parameters() if p.grad is not None)
    assert losses["least-squares"] < losses["random"]
    assert 0 < slopes["least-squares"] < 1e-3 * slopes["random"]


def test_without_projectors_there_is_nothing_to_fit(tmp_path: Path):
    after = []
    for init in ("random", "least-squares"):
        own = student()
        trainer(
            tmp_path, student_model=own, teacher_model=tiny.teacher(seed=4), projector_init=init, arguments=SGD
        ).train()
        after.append(weights(own))
    assert_close(*after, atol=0)


# A part of the problems


def test_some_of_a_stores_problems_are_as_a_store_of_them(tmp_path: Path):
    data, chosen, after = tiny.problems(16), [1, 2, 5, 7, 8, 11, 12, 15], []
    teacher = tiny.teacher(**WIDER)
    whole = make_store(teacher, data, tmp_path / "whole")
    for indices, problems, store in (
        (chosen, data, whole),
        (None, [data[i] for i in chosen], make_store(teacher, [data[i] for i in chosen], tmp_path / "part")),
    ):
        own = student()
        run = trainer(
            tmp_path,
            student_model=own,
            store=store,
            train_dataset=problems,
            train_indices=indices,
            normalize="none",  # the variance is that of the whole store
            arguments={"num_train_epochs": 2, **SGD},
        )
        run.train()
        after.append((weights(own), run.curve()))
    assert len(after[0][1]) == math.ceil(2 * len(chosen) / 4)
    assert_same_runs(*after)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"student_curriculum": 1.0}, r"student_curriculum is 1\.0; it must be .* at least 0 and below 1"),
        ({"student_curriculum": float("nan")}, "curriculum is nan"),
        ({"student_curriculum": (1, 1)}, "has 2 values; the stages from 0 to 2 take 3, one each"),
        ({"student_curriculum": (0, 0, 0)}, "gives each of 3 stages a share of 0"),
        ({"student_curriculum": 0.5, "uniform_prob": 2.0}, r"uniform_prob is 2\.0"),
        ({"refine_passes": 2}, 'refine_passes is 2, but thoughts_from is "student"'),
        (
            {"student_curriculum": 0.5, "positions": "all"},
            "steps that the student still writes have no",
        ),
        (
            {"alpha_schedule": "fallign"},
            r'alpha_schedule is "fallign"; it must be one of constant, falling, rising\. Did you mean "falling"\?',
        ),
        ({"projector_init": "lstsq"}, 'projector_init is "lstsq"; it must be one of random, least-squares'),
        ({"train_indices": []}, "train_indices is empty"),
        ({"train_indices": [0, 8]}, "train_indices has 8, but train_dataset has 8 problems"),
    ],
)
def test_values_that_cannot_be(options: dict[str, Any], message: str, tmp_path: Path):
    with pytest.raises(UserError, match=message):
        trainer(tmp_path, teacher_model=tiny.teacher(**WIDER), **options)


def test_student_layers_must_pair_with_the_layers_of_a_store(tmp_path: Path):
    """By default the layers are those of the store where it lacks the usual ones: fewer than the student's here."""
    store = make_store(tiny.teacher(blocks=5), tiny.problems(8), tmp_path / "store", layers=(1, 2))
    with pytest.raises(UserError, match="student_layers names 5 layers and distill_layers 2"):
        trainer(tmp_path, store=store, distill_layers=None, student_layers=(1, 1, 2, 2, 3))
