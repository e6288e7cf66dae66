"""Cosine and linear CKA: hand-worked values, and what must not change them."""

from __future__ import annotations

import numpy as np
import pytest

from lrd_peft.errors import UserError
from lrd_peft.report.similarity import Similarity, compare_layers, linear_cka, mean_cosine

X = np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])


def test_cka_of_a_hand_worked_pair() -> None:
    # X'X = 2 I, its norm 2 sqrt(2). y = first column: y'y = 2, y'X = [2, 0]: 4 / (2 * 2 sqrt(2)) = 1 / sqrt(2)
    assert linear_cka(X, X[:, :1]) == pytest.approx(0.5**0.5)


def test_cka_of_a_layer_with_itself_is_one_and_of_unrelated_columns_zero() -> None:
    assert linear_cka(X, X) == pytest.approx(1.0)
    assert linear_cka(X[:, :1], X[:, 1:]) == pytest.approx(0.0)


def test_cka_does_not_change_with_rotation_scale_shift_or_order() -> None:
    draw = np.random.default_rng(0)
    first, second = draw.normal(size=(50, 6)), draw.normal(size=(50, 4))
    rotation, _ = np.linalg.qr(draw.normal(size=(6, 6)))
    order = draw.permutation(50)
    plain = linear_cka(first, second)
    assert plain == pytest.approx(linear_cka(second, first))
    assert plain == pytest.approx(linear_cka(first @ rotation, second))
    assert plain == pytest.approx(linear_cka(7 * first + 3, second))
    assert plain == pytest.approx(linear_cka(first[order], second[order]))
    assert plain is not None and 0 < plain < 1


def test_cka_is_not_defined_for_a_layer_that_does_not_vary() -> None:
    assert linear_cka(X, np.full((4, 3), 0.1)) is None


def test_cosine_of_hand_worked_states() -> None:
    # 45 degrees, opposite, and a state of zeros: (1/sqrt(2) - 1 + 0) / 3
    first, second = np.array([[1.0, 0], [0, 2], [0, 0]]), np.array([[1.0, 1], [0, -1], [1, 0]])
    assert mean_cosine(first, second) == pytest.approx((0.5**0.5 - 1) / 3)


def test_cosine_needs_equal_widths() -> None:
    assert mean_cosine(X, X[:, :1]) is None


def test_layers_are_compared_each_with_each_and_survive_json() -> None:
    found = compare_layers({8: X, 2: -X}, {1: X.astype(np.float32)})
    assert (found.teacher_layers, found.student_layers, found.num_positions) == ((2, 8), (1,), 4)
    assert found.cosine == ((pytest.approx(-1.0),), (pytest.approx(1.0),))
    assert found.cka == ((pytest.approx(1.0),), (pytest.approx(1.0),))
    assert Similarity.from_dict(found.to_dict()) == found


def test_other_positions_and_other_shapes_are_refused() -> None:
    with pytest.raises(UserError, match="same positions"):
        compare_layers({1: X}, {1: X[:2]})
    row = compare_layers({1: X}, {1: X}).to_dict()
    with pytest.raises(UserError, match="must have 1 rows of 1"):
        Similarity.from_dict(row | {"cka": [[1.0, 2.0]]})
    with pytest.raises(UserError, match="has the parts"):
        Similarity.from_dict({"cka": []})
