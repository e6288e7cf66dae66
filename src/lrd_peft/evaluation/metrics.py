"""Metrics: accuracy and its intervals, paired tests, calibration, costs. Knows results, not models."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Any, TypeVar

from lrd_peft.errors import UserError

_Key = TypeVar("_Key", bound=Hashable)


@dataclass(frozen=True, slots=True)
class ProblemResult:
    """What a model did with one problem.

    Attributes:
        problem_id: the problem's id.
        subject: the problem's subject, or "".
        num_steps: the number of steps of the problem's own solution.
        predicted: the answer found in the text, or None.
        gold: the right answer.
        right: whether they are equal.
        parsed: whether an answer was found.
        num_tokens: tokens generated.
        num_thoughts: continuous thoughts.
        num_passes: sequential passes through the model, the one over the question among them.
        confidence: the probability of the answer's tokens, in [0, 1]; None if there are none.
        seconds: the problem's share of its batch's wall time.
        strict: whether the answer stood in the form that training teaches.
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

    def to_dict(self) -> dict[str, Any]:
        """Return JSON types only."""
        return asdict(self)

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> ProblemResult:
        """Make a result from `to_dict`'s mapping."""
        return cls(**row)


@dataclass(frozen=True, slots=True)
class Accuracy:
    """So many right of n, with the Wilson 95% interval of the share."""

    n: int
    num_right: int
    accuracy: float
    interval: tuple[float, float]

    @classmethod
    def of(cls, right: Sequence[bool]) -> Accuracy:
        """Count; `right` must not be empty."""
        n, num_right = len(right), sum(right)
        return cls(n=n, num_right=num_right, accuracy=num_right / n, interval=wilson(num_right, n))


@dataclass(frozen=True, slots=True)
class McNemar:
    """A paired comparison: problems that only a or only b got right, and the two-sided exact p-value."""

    only_a: int
    only_b: int
    p_value: float


@dataclass(frozen=True, slots=True)
class CalibrationBin:
    """The problems whose confidence is in (low, high] (the first bin: [0, high])."""

    low: float
    high: float
    n: int
    mean_confidence: float
    accuracy: float


@dataclass(frozen=True, slots=True)
class Calibration:
    """The expected calibration error and the points of its curve; empty bins are left out."""

    ece: float
    bins: tuple[CalibrationBin, ...]


@dataclass(frozen=True, slots=True)
class Summary:
    """What a model did with a set of problems.

    Attributes:
        n: number of problems, at least 1.
        num_right: how many of them it got right.
        accuracy: num_right / n.
        interval: Wilson 95% interval of the accuracy.
        by_steps: accuracy by the number of steps of the problem's own solution, ascending.
        by_subject: accuracy by subject, in alphabetical order; empty if no problem has one.
        mean_tokens: tokens generated a problem.
        mean_thoughts: thoughts a problem.
        mean_passes: sequential model passes a problem.
        seconds_per_problem: wall time a problem.
        num_unparsed: problems without an answer; they count as wrong.
        num_strict: answers in the form that training teaches.
        num_right_strict: the right ones among those.
        calibration: over the problems that carry a confidence; None if none does.
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

    @property
    def ece(self) -> float | None:
        """The expected calibration error, or None if no problem carries a confidence."""
        return self.calibration.ece if self.calibration else None

    def to_dict(self) -> dict[str, Any]:
        """Return JSON types only, `ece` among them; the numbers of steps become strings."""
        row = _as_lists(asdict(self))
        return {
            **row,
            "by_steps": {str(steps): group for steps, group in row["by_steps"].items()},
            "ece": self.ece,
        }

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> Summary:
        """Make a summary from `to_dict`'s mapping."""
        values = {key: value for key, value in row.items() if key != "ece"}
        values["interval"] = tuple(row["interval"])
        steps = sorted((int(steps), group) for steps, group in row["by_steps"].items())
        values["by_steps"] = {steps: _accuracy_from(group) for steps, group in steps}
        values["by_subject"] = {name: _accuracy_from(row["by_subject"][name]) for name in sorted(row["by_subject"])}
        if (curve := row["calibration"]) is not None:
            values["calibration"] = Calibration(curve["ece"], tuple(CalibrationBin(**each) for each in curve["bins"]))
        return cls(**values)


def wilson(right: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return the Wilson score interval of a share of `right` in `n`.

    (p + z^2/2n -+ z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n), E. B. Wilson, "Probable inference, the law of
    succession, and statistical inference", JASA 22 (1927); no continuity correction.

    Raises:
        UserError: for n = 0, where no interval exists, `right` outside [0, n], `confidence` outside (0, 1).
    """
    if n < 1:
        raise UserError(f"an interval needs at least one problem; there are {n}")
    if not 0 <= right <= n:
        raise UserError(f"{right} right of {n} problems cannot be")
    if not 0 < confidence < 1:
        raise UserError(f"confidence {confidence} is outside (0, 1); 0.95 is usual")
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share = right / n
    centre = share + z * z / (2 * n)
    reach = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    # The ends are exact at nothing and everything; rounding must not put them beyond.
    low = 0.0 if right == 0 else (centre - reach) / scale
    high = 1.0 if right == n else (centre + reach) / scale
    return low, high


def mcnemar(a: Sequence[bool], b: Sequence[bool]) -> McNemar:
    """Compare two methods problem by problem: `a[i]` and `b[i]` say whether they got problem i right.

    The exact two-sided test: under the null hypothesis the problems that only one method got right fall to
    either like fair coins, so p = min(1, 2 P[X <= min(only_a, only_b)]), X ~ Binomial(only_a + only_b, 1/2)
    (Q. McNemar, Psychometrika 12, 1947, without the normal approximation). No such problem gives p = 1.

    Raises:
        UserError: if the lengths differ.
    """
    if len(a) != len(b):
        raise UserError(f"a paired test needs the same problems on both sides; there are {len(a)} and {len(b)}")
    only_a = sum(1 for left, right in zip(a, b, strict=True) if left and not right)
    only_b = sum(1 for left, right in zip(a, b, strict=True) if right and not left)
    discordant = only_a + only_b
    tail, term = 0, 1
    for successes in range(min(only_a, only_b) + 1):
        tail += term
        term = term * (discordant - successes) // (successes + 1)
    # Exact integers to the end: the quotient is rounded once.
    return McNemar(only_a=only_a, only_b=only_b, p_value=min(1.0, 2 * tail / 2**discordant))


def pair_by_id(a: Mapping[str, bool], b: Mapping[str, bool]) -> tuple[list[bool], list[bool]]:
    """Return the outcomes of two methods in one order, for `mcnemar`.

    Raises:
        UserError: if they did not meet the same problems.
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
    """Return the accuracy of each group; `keys[i]` is the group of `results[i]`. Groups come as first met."""
    groups: dict[_Key, list[bool]] = {}
    for result, key in zip(results, keys, strict=True):
        groups.setdefault(key, []).append(result.right)
    return {key: Accuracy.of(right) for key, right in groups.items()}


def ece(confidences: Sequence[float], right: Sequence[bool], *, bins: int = 10) -> Calibration:
    """Return the expected calibration error: |accuracy - mean confidence|, averaged over bins by their size.

    Equal-width bins (m-1)/M < confidence <= m/M as in equations 2 and 3 of Guo et al., "On calibration of
    modern neural networks" (2017); a confidence of 0 is in the first.

    Raises:
        UserError: if there are no confidences, the lengths differ, one is outside [0, 1], or `bins` < 1.
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


def summarise(results: Sequence[ProblemResult]) -> Summary:
    """Summarise what a model did with a set of problems.

    Raises:
        UserError: if there are no results, for which no share is defined.
    """
    if not results:
        raise UserError("there are no results to summarise; evaluate at least one problem")
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
    )


def _accuracy_from(row: Mapping[str, Any]) -> Accuracy:
    return Accuracy(**{**row, "interval": tuple(row["interval"])})


def _as_lists(value: Any) -> Any:
    """Return the value with its tuples as lists, so that it equals what JSON gives back."""
    if isinstance(value, dict):
        return {key: _as_lists(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_as_lists(item) for item in value]
    return value
