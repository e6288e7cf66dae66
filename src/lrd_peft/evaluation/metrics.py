"""Metrics of graded answers: accuracy with intervals, paired tests, calibration, cost per problem."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from lrd_peft.runtime.errors import UserError
from lrd_peft.runtime.json_files import FileData, dump_json, parse_json

_Key = TypeVar("_Key", bound=Hashable)


@dataclass(frozen=True, slots=True)
class ProblemResult(FileData):
    """The graded answer of a model to one problem.

    Attributes:
        problem_id: the problem's id.
        subject: the problem's subject, or "".
        num_steps: steps in the reference solution.
        predicted: the answer extracted from the text, or None.
        gold: the reference answer.
        right: whether the two are equal.
        parsed: whether an answer could be extracted.
        num_tokens: generated tokens.
        num_thoughts: continuous thoughts.
        num_passes: sequential model passes, including the one over the question.
        confidence: probability of the answer's tokens, in [0, 1]; None if the answer has no tokens.
        seconds: share of the batch's wall time.
        strict: whether the answer has the form taught in training.
        timed_out: whether its comparison with the reference answer reached a limit; it counts as wrong.
    """

    problem_id: str
    subject: str
    num_steps: int
    predicted: str | None
    gold: str
    right: bool
    parsed: bool
    num_tokens: int
    num_thoughts: int
    num_passes: int
    confidence: float | None
    seconds: float
    strict: bool = False
    timed_out: bool = False


@dataclass(frozen=True, slots=True)
class Accuracy(FileData):
    """Number and share of right answers, with the Wilson 95% interval of the share."""

    n: int
    num_right: int
    accuracy: float
    interval: tuple[float, float]

    @classmethod
    def of(cls, right: Sequence[bool]) -> Accuracy:
        """Count the right answers; `right` must not be empty."""
        n, num_right = len(right), sum(right)
        return cls(n=n, num_right=num_right, accuracy=num_right / n, interval=wilson(num_right, n))


@dataclass(frozen=True, slots=True)
class McNemar:
    """A paired comparison: problems that only one method solves, and the exact two-sided p-value."""

    only_a: int
    only_b: int
    p_value: float


@dataclass(frozen=True, slots=True)
class CalibrationBin(FileData):
    """Problems with a confidence in (low, high]; the first bin includes 0."""

    low: float
    high: float
    n: int
    mean_confidence: float
    accuracy: float


@dataclass(frozen=True, slots=True)
class Calibration(FileData):
    """Expected calibration error and the points of the reliability curve, without empty bins."""

    ece: float
    bins: tuple[CalibrationBin, ...]


@dataclass(frozen=True, slots=True)
class Summary(FileData):
    """Metrics of one model on one set of problems.

    Attributes:
        n: number of problems, at least 1.
        num_right: problems solved.
        accuracy: num_right / n.
        interval: Wilson 95% interval of the accuracy.
        by_steps: accuracy by the number of steps in the reference solution, ascending.
        by_subject: accuracy by subject, in alphabetical order; empty if the problems have no subjects.
        mean_tokens: generated tokens per problem.
        mean_thoughts: thoughts per problem.
        mean_passes: sequential model passes per problem.
        seconds_per_problem: wall time per problem.
        num_unparsed: problems without an extractable answer; they count as wrong.
        num_strict: answers in the form taught in training.
        num_right_strict: right answers among those.
        calibration: over the problems with a confidence; None if there are none.
        num_timeouts: comparisons of answers that reached a limit of processor time or memory; they count as wrong.
    """

    n: int
    num_right: int
    accuracy: float
    interval: tuple[float, float]
    by_steps: dict[int, Accuracy]
    by_subject: dict[str, Accuracy]
    mean_tokens: float
    mean_thoughts: float
    mean_passes: float
    seconds_per_problem: float
    num_unparsed: int
    num_strict: int
    num_right_strict: int
    calibration: Calibration | None
    num_timeouts: int = 0

    @property
    def ece(self) -> float | None:
        """Expected calibration error, or None if no problem has a confidence."""
        return self.calibration.ece if self.calibration else None

    def to_json(self) -> dict[str, Any]:
        """Return JSON types only, with `ece`; the keys of `by_steps` become strings."""
        return {**dump_json(self), "ece": self.ece}

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> Summary:
        """Create a summary from the mapping that `to_json` returns.

        Raises:
            UserError: naming the first part that is missing, unknown or of another type.
        """
        row = {key: value for key, value in body.items() if key != "ece"}
        found = parse_json(cls, row)
        by_steps = {steps: found.by_steps[steps] for steps in sorted(found.by_steps)}
        return replace(found, by_steps=by_steps, by_subject=dict(sorted(found.by_subject.items())))


def wilson(right: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return the Wilson score interval of a proportion, without continuity correction.

    (p + z^2/2n -+ z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n) with p = right / n: E. B. Wilson, "Probable inference,
    the law of succession, and statistical inference", JASA 22 (1927).

    Args:
        right: problems solved, 0 to `n`.
        n: problems, at least 1.
        confidence: of the interval, in (0, 1).

    Returns:
        The lower and the upper end, in [0, 1].

    Raises:
        UserError: if an argument is outside its range.
    """
    if n < 1:
        raise UserError(f"an interval needs at least one problem; there are {n}")
    if not 0 <= right <= n:
        raise UserError(f"{right} right of {n} problems cannot be")
    if not 0 < confidence < 1:
        raise UserError(f"confidence {confidence} is outside (0, 1); 0.95 is usual")
    from scipy.stats import binomtest  # half a second; commands that compute no interval do not wait for it

    interval = binomtest(right, n).proportion_ci(confidence, method="wilson")
    return float(interval.low), float(interval.high)


def mcnemar(a: Sequence[bool], b: Sequence[bool]) -> McNemar:
    """Compare two methods problem by problem with McNemar's exact two-sided test.

    Under the null hypothesis, a problem that only one method solves is equally likely to be solved by either, so
    p = min(1, 2 P[X <= min(only_a, only_b)]) with X ~ Binomial(only_a + only_b, 1/2): Q. McNemar, Psychometrika 12
    (1947), without the normal approximation. If there is no such problem, p = 1.

    Args:
        a: whether the first method solved each problem.
        b: the same for the second method, in the same order.

    Raises:
        UserError: if the lengths differ.
    """
    if len(a) != len(b):
        raise UserError(f"a paired test needs the same problems on both sides; there are {len(a)} and {len(b)}")
    only_a = sum(1 for left, right in zip(a, b, strict=True) if left and not right)
    only_b = sum(1 for left, right in zip(a, b, strict=True) if right and not left)
    if not only_a + only_b:
        return McNemar(only_a=0, only_b=0, p_value=1.0)
    from scipy.stats import binomtest

    # The smaller side, so that both orders give the same bits.
    p_value = float(binomtest(min(only_a, only_b), only_a + only_b, 0.5).pvalue)
    return McNemar(only_a=only_a, only_b=only_b, p_value=p_value)


def pair_by_id(a: Mapping[str, bool], b: Mapping[str, bool]) -> tuple[list[bool], list[bool]]:
    """Return the outcomes of two methods in the same order, as `mcnemar` expects them.

    Raises:
        UserError: if the problems differ.
    """
    if a.keys() != b.keys():
        alone = sorted(a.keys() ^ b.keys())
        raise UserError(
            f"a paired test needs the same problems on both sides; {len(alone)} are on one side only, "
            f'"{alone[0]}" for one'
        )
    order = sorted(a)
    return [a[key] for key in order], [b[key] for key in order]


def accuracy_by(results: Sequence[ProblemResult], keys: Sequence[_Key]) -> dict[_Key, Accuracy]:
    """Return the accuracy of each group, in order of first appearance; `keys[i]` is the group of `results[i]`."""
    groups: dict[_Key, list[bool]] = {}
    for result, key in zip(results, keys, strict=True):
        groups.setdefault(key, []).append(result.right)
    return {key: Accuracy.of(right) for key, right in groups.items()}


def ece(confidences: Sequence[float], right: Sequence[bool], *, bins: int = 10) -> Calibration:
    """Return the expected calibration error: |accuracy - mean confidence|, averaged over bins weighted by size.

    Equal-width bins (m-1)/M < confidence <= m/M as in equations 2 and 3 of Guo et al., "On calibration of
    modern neural networks" (2017); the first bin includes 0.

    Raises:
        UserError: if there are no confidences, the lengths differ, a confidence is outside [0, 1], or `bins` < 1.
    """
    if not confidences or len(confidences) != len(right) or bins < 1:
        raise UserError(
            f"calibration needs one confidence a problem and at least one bin; "
            f"there are {len(confidences)} confidences, {len(right)} problems, {bins} bins"
        )
    members: dict[int, list[tuple[float, bool]]] = {}
    for confidence, is_right in zip(confidences, right, strict=True):
        if not 0 <= confidence <= 1:  # also NaN
            raise UserError(f"a confidence of {confidence} is outside [0, 1]")
        members.setdefault(max(0, math.ceil(confidence * bins) - 1), []).append((confidence, is_right))
    curve = tuple(
        CalibrationBin(
            low=index / bins,
            high=(index + 1) / bins,
            n=len(inside),
            mean_confidence=math.fsum(confidence for confidence, _ in inside) / len(inside),
            accuracy=sum(is_right for _, is_right in inside) / len(inside),
        )
        for index, inside in sorted(members.items())
    )
    gap = math.fsum(point.n * abs(point.accuracy - point.mean_confidence) for point in curve)
    return Calibration(ece=gap / len(confidences), bins=curve)


def summarize(results: Sequence[ProblemResult]) -> Summary:
    """Compute the metrics of one model on one set of problems.

    Raises:
        UserError: if there are no results.
    """
    if not results:
        raise UserError("there are no results to summarize; evaluate at least one problem")
    total = Accuracy.of([result.right for result in results])
    by_steps = accuracy_by(results, [result.num_steps for result in results])
    by_subject = accuracy_by(results, [result.subject for result in results])
    if set(by_subject) == {""}:
        by_subject = {}
    measured = [(result.confidence, result.right) for result in results if result.confidence is not None]
    return Summary(
        n=total.n,
        num_right=total.num_right,
        accuracy=total.accuracy,
        interval=total.interval,
        by_steps={steps: by_steps[steps] for steps in sorted(by_steps)},
        by_subject={subject: by_subject[subject] for subject in sorted(by_subject)},
        mean_tokens=sum(result.num_tokens for result in results) / total.n,
        mean_thoughts=sum(result.num_thoughts for result in results) / total.n,
        mean_passes=sum(result.num_passes for result in results) / total.n,
        seconds_per_problem=math.fsum(result.seconds for result in results) / total.n,
        num_unparsed=sum(not result.parsed for result in results),
        num_strict=sum(result.strict for result in results),
        num_right_strict=sum(result.strict and result.right for result in results),
        calibration=ece([confidence for confidence, _ in measured], [right for _, right in measured])
        if measured
        else None,
        num_timeouts=sum(result.timed_out for result in results),
    )
