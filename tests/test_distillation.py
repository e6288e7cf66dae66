"""The losses in numbers worked out by hand; layer maps; alpha."""

from __future__ import annotations

import math
from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from lrd_peft.config.choices import DistillLoss, Normalization
from lrd_peft.distillation import (
    LatentDistillationLoss,
    combine,
    map_layers,
    self_distillation,
    token_distillation,
)
from lrd_peft.runtime.errors import UserError

# One row, two positions, two units. Layer 8: squares 1, 4 | 0, 9. Layer 9: 4, 4 | 4, 4.
STUDENT = {8: torch.tensor([[[1.0, 2.0], [3.0, 5.0]]]), 9: torch.tensor([[[2.0, 2.0], [2.0, 2.0]]])}
TEACHER = {8: torch.tensor([[[0.0, 0.0], [3.0, 2.0]]]), 9: torch.tensor([[[0.0, 4.0], [0.0, 4.0]]])}
FIRST = torch.tensor([[True, False]])


def loss(**options: Any) -> tuple[Tensor, dict[int, Tensor]]:
    names = {"loss", "normalize"}
    criterion = LatentDistillationLoss((8, 9), **{k: v for k, v in options.items() if k in names})
    return criterion(STUDENT, TEACHER, **{k: v for k, v in options.items() if k not in names})


def test_mse_is_the_formula_of_the_specification():
    total, per_layer = loss(normalize="none")
    # layer 8: (1 + 4 + 0 + 9) / 4, layer 9: 16 / 4; the mean of both
    assert per_layer[8].item() == pytest.approx(3.5)
    assert per_layer[9].item() == pytest.approx(4.0)
    assert total.item() == pytest.approx(3.75)
    plain = sum(torch.nn.functional.mse_loss(STUDENT[layer], TEACHER[layer]) for layer in (8, 9)) / 2
    assert total.item() == pytest.approx(float(plain))


def test_each_layer_is_divided_by_the_teachers_variance():
    total, per_layer = loss(variance={8: 7.0, 9: 16.0})
    assert (per_layer[8].item(), per_layer[9].item()) == pytest.approx((0.5, 0.25))
    assert total.item() == pytest.approx(0.375)


def test_without_a_given_variance_that_of_the_batch_counts():
    _, per_layer = loss()
    # values 0, 0, 3, 2: mean 1.25, variance 13/4 - 1.5625 = 1.6875; values 0, 4, 0, 4: variance 4
    assert (per_layer[8].item(), per_layer[9].item()) == pytest.approx((3.5 / 1.6875, 1.0))
    _, masked = loss(mask=FIRST)
    # layer 8: only 0, 0: a constant has nothing to scale by; layer 9: 0, 4
    assert (masked[8].item(), masked[9].item()) == pytest.approx((2.5, 1.0))


def test_cosine_by_hand_needs_no_scale():
    for normalize in get_args(Normalization):
        _, per_layer = loss(loss="cosine", normalize=normalize, variance={8: 99.0, 9: 99.0})
        # layer 8: against a zero vector 1 - 0; (3, 5) and (3, 2): 1 - 19 / sqrt(34 * 13)
        assert per_layer[8].item() == pytest.approx((1.0 + 1.0 - 19 / math.sqrt(34 * 13)) / 2)
        # (2, 2) and (0, 4): 45 degrees
        assert per_layer[9].item() == pytest.approx(1 - math.sqrt(0.5))


def test_smooth_l1_by_hand():
    _, per_layer = loss(loss="smooth-l1", normalize="none")
    # differences 1, 2, 0, 3 -> 0.5, 1.5, 0, 2.5; differences of 2 -> 1.5
    assert (per_layer[8].item(), per_layer[9].item()) == pytest.approx((4.5 / 4, 1.5))
    _, scaled = loss(loss="smooth-l1", variance={8: 4.0, 9: 16.0})
    # halved: 0.5, 1, 0, 1.5 -> 0.125, 0.5, 0, 1; a quarter: 0.5 -> 0.125
    assert (scaled[8].item(), scaled[9].item()) == pytest.approx((1.625 / 4, 0.125))


def test_the_mask_leaves_the_other_positions_out():
    _, per_layer = loss(normalize="none", mask=FIRST)
    assert (per_layer[8].item(), per_layer[9].item()) == pytest.approx((2.5, 4.0))


def test_problems_of_several_numbers_of_steps_by_hand():
    # Two slots and the answer; one step, two steps. Squares: 1, (9), 4 | 16, 0, 1 in both units.
    student = {3: torch.tensor([[[1.0], [3.0], [2.0]], [[4.0], [0.0], [1.0]]]).expand(2, 3, 2).clone().requires_grad_()}
    mask = torch.tensor([[True, False, True], [True, True, True]])
    total, _ = LatentDistillationLoss((3,))(student, {3: torch.zeros(2, 3, 2)}, mask=mask, variance={3: 2.0})
    assert total.item() == pytest.approx((1 + 4 + 16 + 0 + 1) / 5 / 2)
    total.backward()
    gradient = student[3].grad
    assert gradient is not None and not gradient[0, 1].any()
    # d/dh of h^2 / (5 positions * 2 units * variance 2)
    torch.testing.assert_close(gradient[1, 0], torch.full((2,), 2 * 4.0 / 20))


@pytest.mark.parametrize("name", get_args(DistillLoss))
def test_what_padding_holds_neither_counts_nor_has_a_gradient(name: str):
    student = {8: torch.randn(1, 2, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()}
    teacher = {8: torch.randn(1, 2, 4, generator=torch.Generator().manual_seed(1))}
    criterion = LatentDistillationLoss((8,), loss=name)
    clean, _ = criterion(student, teacher, mask=FIRST, variance={8: 2.0})
    (expected,) = torch.autograd.grad(clean, student[8])
    bad_student = student[8].detach().clone()
    bad_student[0, 1], teacher[8][0, 1] = float("nan"), float("inf")
    bad_student.requires_grad_()
    total, _ = criterion({8: bad_student}, teacher, mask=FIRST, variance={8: 2.0})
    (gradient,) = torch.autograd.grad(total, bad_student)
    assert total.item() == clean.item()
    assert torch.equal(gradient, expected) and not gradient[0, 1].any()


def test_num_positions_makes_parts_add_up():
    whole, _ = loss(normalize="none")
    parts = [loss(normalize="none", mask=mask, num_positions=2)[0] for mask in (FIRST, ~FIRST)]
    assert float(sum(parts)) == pytest.approx(whole.item())


@pytest.mark.parametrize("name", get_args(DistillLoss))
@pytest.mark.parametrize("normalize", get_args(Normalization))
def test_equal_states_cost_nothing(name: str, normalize: str):
    states = {2: torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(0))}
    total, _ = LatentDistillationLoss((2,), loss=name, normalize=normalize)(states, states)
    assert total.item() == pytest.approx(0.0, abs=1e-6)


def test_gradients_reach_the_student_and_never_the_teacher():
    student = {8: torch.randn(2, 3, 4, requires_grad=True)}
    teacher = {8: torch.randn(2, 3, 4, requires_grad=True)}
    total, per_layer = LatentDistillationLoss((8,), normalize="none")(student, teacher)
    total.backward()
    assert teacher[8].grad is None and not per_layer[8].requires_grad
    torch.testing.assert_close(student[8].grad, 2 * (student[8] - teacher[8]).detach() / 24)


def test_half_precision_states_are_compared_in_float32():
    student = {1: torch.full((1, 1, 2), 1000.0, dtype=torch.float16)}
    teacher = {1: torch.full((1, 1, 2), 500.0, dtype=torch.float16)}
    total, _ = LatentDistillationLoss((1,), normalize="none")(student, teacher)
    assert total.item() == 250_000.0  # beyond float16


def test_shapes_that_differ_are_named():
    with pytest.raises(UserError, match=r"layer 8.*\(1, 2, 2\).*\(1, 2, 3\)"):
        LatentDistillationLoss((8,))(STUDENT, {8: torch.zeros(1, 2, 3)})


@pytest.mark.parametrize(
    ("options", "message"),
    [({"loss": "msee"}, r'distill_loss is "msee".*Did you mean "mse"'), ({"normalize": "std"}, "variance, none")],
)
def test_unknown_names(options: dict[str, str], message: str):
    with pytest.raises(UserError, match=message):
        LatentDistillationLoss((1,), **options)


def test_combine():
    distill, task = torch.tensor(3.0, requires_grad=True), torch.tensor(5.0, requires_grad=True)
    terms = combine(distill, task, alpha=0.1, per_layer={8: torch.tensor(3.0)})
    assert terms.total.item() == pytest.approx(0.1 * 3 + 0.9 * 5)
    assert {name: value.item() for name, value in terms.parts.items()} == {
        "distill": 3.0,
        "task": 5.0,
        "distill_layer_8": 3.0,
    }
    assert not any(value.requires_grad for value in terms.parts.values())
    terms.total.backward()
    assert distill.grad is not None and task.grad is not None
    assert (distill.grad.item(), task.grad.item()) == pytest.approx((0.1, 0.9))


def test_token_distillation_by_hand():
    # At temperature 2: student (1/4, 3/4), teacher (1/2, 1/2); KL = 1/2 ln 2 + 1/2 ln 2/3
    student = torch.tensor([[0.0, 2 * math.log(3)]], requires_grad=True)
    teacher = torch.tensor([[1.0, 1.0]], requires_grad=True)
    loss = token_distillation(student, teacher, temperature=2.0)
    assert loss.item() == pytest.approx(4 * 0.5 * math.log(4 / 3))
    loss.backward()
    # 2^2 (p_S - p_T) / 2
    assert student.grad is not None and student.grad[0].tolist() == pytest.approx([-0.5, 0.5])
    assert teacher.grad is None
    # at temperature 1: student (1/10, 9/10)
    plain = token_distillation(student, teacher, temperature=1.0)
    assert plain.item() == pytest.approx(0.5 * math.log(5) + 0.5 * math.log(5 / 9))
    twice = token_distillation(student.repeat(2, 1), teacher.repeat(2, 1), temperature=1.0)
    assert twice.item() == pytest.approx(2 * plain.item()), "a sum over positions"


def test_self_distillation_by_hand():
    # layer 1: written (0, 4) has deviation 2; differences 0.5, 2 -> 0.125, 1.5. layer 2: deviation 1; differences 1, 0.
    written = {1: torch.tensor([[0.0, 4.0]], requires_grad=True), 2: torch.tensor([[1.0, 3.0]])}
    thought = {1: torch.tensor([[0.5, 2.0]], requires_grad=True), 2: torch.tensor([[2.0, 3.0]])}
    loss = self_distillation(thought, written)
    expected = ((0.125 + 1.5) / 2 / 2 + 0.5 / 2 / 1) / 2
    assert loss.item() == pytest.approx(expected)
    loss.backward()
    # 0.5 and -1 over 2 units, 2 deviation, 2 layers
    assert thought[1].grad is not None and thought[1].grad[0].tolist() == pytest.approx([0.0625, -0.125])
    assert written[1].grad is None, "the written path is a fixed target"


@pytest.mark.parametrize(
    ("distance", "scale", "expected"),
    [
        # Differences 1 and 3 in the first problem, 0 and 2 in the second; all four written units: variance 20 / 3.
        ("l1", "none", 2.0 + 1.0),
        ("l2", "none", 5.0 + 2.0),
        ("smooth-l1", "none", 1.5 + 0.75),
        ("l1", "batch", 3.0 / math.sqrt(20 / 3)),
        ("l2", "batch", 7.0 / (20 / 3)),
        ("smooth-l1", "batch", 2.25 / math.sqrt(20 / 3)),
        ("l1", "problem", 2.0 / 1 + 1.0 / 1),
        ("l2", "problem", 5.0 / 1 + 2.0 / 1),
    ],
)
def test_distances_and_scales_of_self_distillation_by_hand(distance: str, scale: str, expected: float):
    written = {1: torch.tensor([[0.0, 2.0], [4.0, 6.0]])}
    thought = {1: torch.tensor([[1.0, 5.0], [4.0, 4.0]])}
    assert self_distillation(thought, written, distance=distance, scale=scale).item() == pytest.approx(expected)


def test_self_distillation_takes_each_problem_by_itself():
    generator = torch.Generator().manual_seed(0)
    thought, written = torch.randn(3, 5, generator=generator), 7 * torch.randn(3, 5, generator=generator)
    whole = self_distillation({1: thought}, {1: written})
    parts = [self_distillation({1: thought[i : i + 1]}, {1: written[i : i + 1]}) for i in range(3)]
    assert whole.item() == pytest.approx(sum(part.item() for part in parts))
    constant = self_distillation({1: torch.ones(1, 2)}, {1: torch.zeros(1, 2)})
    assert constant.item() == pytest.approx(0.5), "a constant state has nothing to scale by"


@pytest.mark.parametrize(
    ("layers", "teacher_blocks", "student_blocks", "expected"),
    [
        ((8, 9, 10, 11, 12), 12, 12, {8: 8, 9: 9, 10: 10, 11: 11, 12: 12}),
        # 8/12 of 6 is 4; 9: 4.5, half up; 11: 5.5
        ((8, 9, 10, 11, 12), 12, 6, {8: 4, 9: 5, 10: 5, 11: 6, 12: 6}),
        # Llama-2-7B to 13 of its blocks: 8 * 13 / 32 = 3.25, 3.66, 4.06, 4.47, 4.88
        ((8, 9, 10, 11, 12), 32, 13, {8: 3, 9: 4, 10: 4, 11: 4, 12: 5}),
        ((0, 1, 4), 4, 8, {0: 0, 1: 2, 4: 8}),
        # 1/3 of 3: exactly 1, also in floating point
        ((1, 2, 3), 3, 3, {1: 1, 2: 2, 3: 3}),
    ],
)
def test_layers_by_relative_depth(layers, teacher_blocks, student_blocks, expected):
    assert map_layers(layers, teacher_blocks=teacher_blocks, student_blocks=student_blocks) == expected


def test_layers_that_are_given_are_kept():
    mapped = map_layers((8, 12), teacher_blocks=12, student_blocks=6, student_layers=(1, 6))
    assert mapped == {8: 1, 12: 6}


@pytest.mark.parametrize(
    ("layers", "student_layers", "message"),
    [
        ((8, 13), None, r"distill_layers has 13, but that model has 12 blocks.*0 \(embeddings\) to 12"),
        ((-1, 8), None, "distill_layers has -1"),
        ((8, 9), (1, 7), r"student_layers has 7, but that model has 6 blocks.*0 \(embeddings\) to 6"),
    ],
)
def test_layer_maps_that_cannot_be(layers, student_layers, message):
    with pytest.raises(UserError, match=message):
        map_layers(layers, teacher_blocks=12, student_blocks=6, student_layers=student_layers)
