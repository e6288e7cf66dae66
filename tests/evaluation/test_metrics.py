"""Metrics against numbers worked out by hand."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from statistics import NormalDist

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lrd_peft.evaluation.metrics import (
    Accuracy,
    CalibrationBin,
    McNemar,
    ProblemResult,
    Summary,
    accuracy_by,
    ece,
    mcnemar,
    pair_by_id,
    summarize,
    wilson,
)
from lrd_peft.runtime.errors import UserError


def result(index: int, right: bool, **changes: object) -> ProblemResult:
    values: dict[str, object] = {
        "problem_id": f"set/test/0/{index}",
        "subject": "",
        "num_steps": 2,
        "predicted": "4",
        "gold": "4" if right else "5",
        "right": right,
        "parsed": True,
        "num_tokens": 6,
        "num_thoughts": 2,
        "num_passes": 5,
        "confidence": None,
        "seconds": 0.5,
        "strict": True,
    }
    return ProblemResult(**{**values, **changes})  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("right", "n", "confidence", "interval"),
    [
        (8, 10, 0.95, (0.4902, 0.9433)),
        (0, 10, 0.95, (0.0, 0.2775)),
        (10, 10, 0.95, (0.7225, 1.0)),
        (1, 1, 0.95, (0.2065, 1.0)),
        (50, 100, 0.95, (0.4038, 0.5962)),
        (50, 100, 0.99, (0.3753, 0.6247)),
    ],
)
def test_wilson(right: int, n: int, confidence: float, interval: tuple[float, float]) -> None:
    assert wilson(right, n, confidence) == pytest.approx(interval, abs=5e-5)


@settings(deadline=None, max_examples=50)  # the first example imports scipy
@given(n=st.integers(1, 2_000), data=st.data())
def test_wilson_contains_the_share_and_follows_the_formula(n: int, data: st.DataObject) -> None:
    right = data.draw(st.integers(0, n))
    low, high = wilson(right, n)
    share, z = right / n, NormalDist().inv_cdf(0.975)
    assert 0 <= low <= share <= high <= 1
    centre, reach = share + z * z / (2 * n), z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    expected = ((centre - reach) / (1 + z * z / n), (centre + reach) / (1 + z * z / n))
    assert (low, high) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("right", "n", "confidence", "message"),
    [
        (0, 0, 0.95, "at least one problem; there are 0"),
        (3, 2, 0.95, "3 right of 2"),
        (-1, 2, 0.95, "-1 right of 2"),
        (1, 2, 1.0, "confidence 1.0 is outside"),
    ],
)
def test_wilson_of_nothing_is_an_error(right: int, n: int, confidence: float, message: str) -> None:
    with pytest.raises(UserError, match=message):
        wilson(right, n, confidence)


@pytest.mark.parametrize(
    ("both", "only_a", "only_b", "p_value"),
    [
        (3, 1, 5, 0.21875),  # 2 (1 + 6) / 64
        (0, 0, 6, 0.03125),  # 2 / 64
        (9, 3, 3, 1.0),
        (5, 0, 0, 1.0),
        (0, 1, 0, 1.0),
        (0, 10, 2, 0.03857421875),  # 2 (1 + 12 + 66) / 4096
    ],
)
def test_mcnemar(both: int, only_a: int, only_b: int, p_value: float) -> None:
    a = [True] * both + [True] * only_a + [False] * only_b + [False]
    b = [True] * both + [False] * only_a + [True] * only_b + [False]
    assert mcnemar(a, b) == McNemar(only_a, only_b, p_value)
    assert mcnemar(b, a) == McNemar(only_b, only_a, p_value)


def test_mcnemar_of_many_follows_the_formula() -> None:
    found = mcnemar([True] * 1_900 + [False] * 2_100, [False] * 1_900 + [True] * 2_100)
    expected = 2 * sum(math.comb(4_000, successes) for successes in range(1_901)) / 2**4_000
    assert found.p_value == pytest.approx(expected, rel=1e-9)
    # Smaller than a float can hold, still no overflow.
    assert mcnemar([True] * 3_000, [False] * 3_000).p_value == 0.0
    assert mcnemar([], []).p_value == 1.0


def test_mcnemar_needs_pairs() -> None:
    with pytest.raises(UserError, match="there are 2 and 1"):
        mcnemar([True, False], [True])


def test_pairs_by_id() -> None:
    assert pair_by_id({"a": True, "b": False}, {"b": True, "a": True}) == ([True, False], [True, True])
    with pytest.raises(UserError, match=r'2 are on one side only, "b" for one'):
        pair_by_id({"a": True, "b": False}, {"a": True, "c": False})


def test_calibration() -> None:
    found = ece([0.95, 0.95, 0.15, 0.05], [True, False, False, True])
    # (2 |1/2 - 0.95| + |0 - 0.15| + |1 - 0.05|) / 4
    assert found.ece == pytest.approx(0.5)
    assert [(point.low, point.high, point.n) for point in found.bins] == [
        (0, 0.1, 1),
        (0.1, 0.2, 1),
        (0.9, 1, 2),
    ]
    assert [point.mean_confidence for point in found.bins] == pytest.approx([0.05, 0.15, 0.95])
    assert [point.accuracy for point in found.bins] == [1, 0, 0.5]


def test_calibration_bins_are_closed_above_and_the_first_on_both_sides() -> None:
    assert ece([0.0, 0.5, 1.0], [False, True, True], bins=2).bins == (
        CalibrationBin(0.0, 0.5, 2, 0.25, 0.5),
        CalibrationBin(0.5, 1.0, 1, 1.0, 1.0),
    )
    assert ece([1.0, 1.0], [True, True]).ece == 0


@pytest.mark.parametrize(
    ("confidences", "right", "bins", "message"),
    [
        ([], [], 10, "0 confidences"),
        ([0.5], [True, False], 10, "1 confidences, 2 problems"),
        ([0.5], [True], 0, "0 bins"),
        ([1.5], [True], 10, "1.5 is outside"),
        ([math.nan], [True], 10, "nan is outside"),
    ],
)
def test_calibration_of_nonsense_is_an_error(
    confidences: Sequence[float], right: Sequence[bool], bins: int, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        ece(confidences, right, bins=bins)


def test_accuracy_by_group() -> None:
    results = [result(0, True), result(1, False), result(2, True)]
    groups = accuracy_by(results, ["x", "x", "y"])
    assert groups == {"x": Accuracy(2, 1, 0.5, wilson(1, 2)), "y": Accuracy(1, 1, 1.0, wilson(1, 1))}


def test_a_summary() -> None:
    summary = summarize(
        [
            result(0, True, num_steps=10, subject="money", confidence=0.95, num_tokens=9),
            result(1, False, num_steps=2, subject="age", confidence=0.95, num_passes=9),
            result(2, True, num_steps=2, subject="money", strict=False),
            result(3, False, num_steps=2, subject="age", predicted=None, parsed=False, strict=False, seconds=2.5),
        ]
    )
    assert (summary.n, summary.num_right, summary.accuracy) == (4, 2, 0.5)
    assert summary.interval == wilson(2, 4)
    assert list(summary.by_steps) == [2, 10]
    assert (summary.by_steps[2].n, summary.by_steps[2].num_right) == (3, 1)
    assert summary.by_steps[2].interval == wilson(1, 3)
    assert list(summary.by_subject) == ["age", "money"]
    assert summary.by_subject["money"].accuracy == 1
    assert (summary.mean_tokens, summary.mean_thoughts, summary.mean_passes) == (6.75, 2, 6)
    assert summary.seconds_per_problem == 1
    assert (summary.num_unparsed, summary.num_strict, summary.num_right_strict) == (1, 2, 1)
    assert summary.ece == pytest.approx(0.45)  # of the two that carry a confidence


def test_what_is_not_there_is_left_out() -> None:
    summary = summarize([result(0, True)])
    assert summary.by_subject == {}
    assert summary.calibration is None and summary.ece is None


def test_a_summary_of_nothing_is_an_error() -> None:
    with pytest.raises(UserError, match="no results to summarize"):
        summarize([])


def test_results_and_summaries_survive_json() -> None:
    results = [result(k, k % 3 == 0, num_steps=k + 1, subject="ab"[k % 2], confidence=k / 12) for k in range(12)]
    rows = json.loads(json.dumps([each.to_json() for each in results], allow_nan=False))
    assert [ProblemResult.from_json(row) for row in rows] == results
    for summary in (summarize(results), summarize([result(0, True)])):
        row = summary.to_json()
        assert json.loads(json.dumps(row, allow_nan=False, sort_keys=True)) == row
        back = Summary.from_json(json.loads(json.dumps(row, sort_keys=True)))
        assert back == summary
        assert list(back.by_steps) == list(summary.by_steps)


def test_timeouts_are_counted() -> None:
    assert summarize([result(0, False, timed_out=True), result(1, False), result(2, True)]).num_timeouts == 1
