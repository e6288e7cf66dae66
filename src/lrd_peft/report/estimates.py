"""Means over seeds with 95% intervals, and paired tests of two methods."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lrd_peft.evaluation.metrics import mcnemar, pair_by_id, wilson
from lrd_peft.runtime.errors import UserError


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over seeds with its 95% interval (low = high = mean for a single value without interval).

    Attributes:
        mean: Mean over seeds.
        low: Lower end of the interval.
        high: Upper end of the interval.
        num_seeds: Number of values.
        num_problems: Held-out problems behind each value; None if the value is not an accuracy.
    """

    mean: float
    low: float
    high: float
    num_seeds: int
    num_problems: int | None = None

    @property
    def reach(self) -> tuple[float, float]:
        """Distance from the mean to the lower and the upper end of the interval."""
        return max(0.0, self.mean - self.low), max(0.0, self.high - self.mean)


@dataclass(frozen=True, slots=True)
class PairedTest:
    """Two methods on the same problems.

    Attributes:
        difference: Mean accuracy of the first minus that of the second.
        p_problems: p-value over problems: McNemar's exact test for one seed, otherwise a paired t-test in which the
            value of a problem is the difference of its means over seeds.
        p_seeds: p-value over seeds, of a paired t-test; None for fewer than two seeds, or if all differences are equal.
        num_seeds: Seeds that both have.
        num_problems: Problems that both answered.
        low: Lower end of the 95% interval of the difference: Student's t over problems or seeds, whichever is wider.
        high: Upper end.
    """

    difference: float
    p_problems: float
    p_seeds: float | None
    num_seeds: int
    num_problems: int
    low: float = math.nan
    high: float = math.nan


def mean_estimate(values: Sequence[float]) -> Estimate:
    """Return the mean and Student's 95% t interval; a single value has no interval.

    mean ± t(0.975, S - 1) s / sqrt(S) for S values with sample standard deviation s (denominator S - 1).

    Args:
        values: One value per seed.

    Raises:
        UserError: If there are no values.
    """
    count = len(values)
    if not count:
        raise UserError("a mean needs at least one value")
    mean = math.fsum(values) / count
    if count == 1:
        return Estimate(mean, mean, mean, 1)
    from scipy import stats  # takes half a second, which single seeds do not need

    reach = float(stats.t.ppf(0.975, count - 1) * stats.sem(values))
    return Estimate(mean, mean - reach, mean + reach, count)


def share_estimate(right: Sequence[int], n: int) -> Estimate:
    """Return the mean accuracy over seeds on the same n problems.

    The interval covers variance over problems and over seeds: at each end, the wider of Wilson's interval for the mean
    in n problems (rounded to whole problems) and Student's t interval over seeds, within [0, 1]. A single seed has
    Wilson's only.

    Args:
        right: Correct answers per seed.
        n: Number of problems.
    """
    seeds = mean_estimate([count / n for count in right])
    low, high = wilson(round(seeds.mean * n), n)
    return Estimate(
        seeds.mean,
        max(0.0, min(low, seeds.low)),
        min(1.0, max(high, seeds.high)),
        len(right),
        n,
    )


def paired_test(first: Mapping[int, Mapping[str, bool]], second: Mapping[int, Mapping[str, bool]]) -> PairedTest:
    """Compare two methods on the seeds that both have, or on the first seed of each if they share none.

    Args:
        first: Seed -> problem id -> right.
        second: The same for the other method.

    Raises:
        UserError: If the problems differ, or one method has no seed.
    """
    if not first or not second:
        raise UserError("a paired test needs at least one seed of each method")
    shared = sorted(first.keys() & second.keys())
    couples = [(first[seed], second[seed]) for seed in shared] or [(first[min(first)], second[min(second)])]
    rows = [pair_by_id(a, b) for a, b in couples]
    count, n = len(rows), len(rows[0][0])
    by_seed = [(sum(a) - sum(b)) / n for a, b in rows]
    columns = zip(*([int(x) - int(y) for x, y in zip(a, b, strict=True)] for a, b in rows), strict=True)
    by_problem = [sum(column) / count for column in columns]
    if count == 1:
        p_problems = mcnemar(*rows[0]).p_value
    else:
        found = _t_test(by_problem)
        p_problems = float(not any(by_seed)) if found is None else found
    spans = [mean_estimate(by_problem), mean_estimate(by_seed)]
    return PairedTest(
        difference=math.fsum(by_seed) / count,
        p_problems=p_problems,
        p_seeds=_t_test(by_seed),
        num_seeds=count,
        num_problems=n,
        low=min(span.low for span in spans),
        high=max(span.high for span in spans),
    )


def _t_test(values: Sequence[float]) -> float | None:
    """Return the two-sided p-value of the hypothesis that the mean is zero; None if the values do not vary."""
    if len(values) < 2:
        return None
    from scipy import stats

    mean = math.fsum(values) / len(values)
    if statistics.pstdev(values) <= 1e-12 * max(1.0, abs(mean)):
        return None
    return float(stats.ttest_1samp(values, 0.0).pvalue)  # pyright: ignore[reportAttributeAccessIssue]
