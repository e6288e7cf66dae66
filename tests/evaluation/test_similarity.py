"""Cosine and linear CKA: hand-worked values, and what must not change them."""

from __future__ import annotations

import json

import numpy as np
import pytest

from lrd_peft.evaluation.similarity import Similarity, cka_matrix, linear_cka, mean_cosine
from lrd_peft.runtime.errors import UserError

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


def test_more_units_than_positions_change_nothing() -> None:
    # the definition, in the form of kernels: <K, L> / (|K| |L|) with K = XX', L = YY'
    draw = np.random.default_rng(1)
    first, second = draw.normal(size=(9, 40)), draw.normal(size=(9, 25))
    kernels = [c @ c.T for c in (first - first.mean(axis=0), second - second.mean(axis=0))]
    expected = (kernels[0] * kernels[1]).sum() / (np.linalg.norm(kernels[0]) * np.linalg.norm(kernels[1]))
    assert linear_cka(first, second) == pytest.approx(expected, abs=1e-12)
    assert linear_cka(first, second[:, :3]) == pytest.approx(linear_cka(second[:, :3], first), abs=1e-12)


def test_independent_states_are_hardly_alike() -> None:
    draw = np.random.default_rng(2)
    found = linear_cka(draw.normal(size=(4000, 8)), draw.normal(size=(4000, 8)))
    assert found is not None and found < 0.01


def test_every_layer_is_compared_with_every_layer() -> None:
    half = X[:, :1]
    found = cka_matrix({8: X, 2: -X}, {1: X.astype(np.float32), 0: half, 5: np.ones((4, 2))})
    assert found == ((pytest.approx(0.5**0.5), pytest.approx(1.0), None),) * 2


ROW = {
    "source": "latent-lora, seed 0",
    "teacher_layers": [0, 1],
    "student_layers": [2],
    "cka": [[0.5], [None]],
    "cosine": [[None], [0.25]],
    "cka_untrained": None,
    "cosine_untrained": [[0.0], [0.125]],
    "num_positions": 12,
}


def test_a_similarity_survives_json() -> None:
    found = Similarity.from_json(json.loads(json.dumps(ROW)))
    assert found.cosine_untrained == ((0.0,), (0.125,))
    assert found.to_json() == ROW


def test_other_positions_and_other_shapes_are_refused() -> None:
    with pytest.raises(UserError, match="same positions"):
        cka_matrix({1: X}, {1: X[:2]})
    with pytest.raises(UserError, match="same positions"):
        cka_matrix({}, {1: X})
    for name, value in (("cka", [[1.0, 2.0]]), ("cosine_untrained", [[1.0]])):
        with pytest.raises(UserError, match=f"{name} must have 2 rows of 1"):
            Similarity.from_json(ROW | {name: value})
    with pytest.raises(UserError, match="cka: input should be a valid array"):
        Similarity.from_json(ROW | {"cka": None})
    with pytest.raises(UserError, match="source: is missing"):
        Similarity.from_json({"cka": []})
