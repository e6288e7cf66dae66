"""Means over seeds, their intervals, paired tests. Knows numbers and outcomes, not records or figures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from scipy import special

from lrd_peft.errors import UserError
from lrd_peft.evaluation.metrics import mcnemar, pair_by_id, wilson


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over seeds with its 95% interval; without one (low = high = mean) where a single value is all there is.

    Attributes:
        mean: over the seeds.
        low: lower end of the interval.
        high: upper end.
        num_seeds: how many values the mean is of.
        num_problems: held-out problems behind each of them; None where it is no share of problems.
    """

    mean: float
    low: float
    high: float
    num_seeds: int
    num_problems: int | None = None

    @property
    def reach(self) -> tuple[float, float]:
        """How far the interval goes below and above the mean."""
        return max(0.0, self.mean - self.low), max(0.0, self.high - self.mean)


@dataclass(frozen=True, slots=True)
class PairedTest:
    """Two methods on the same problems.

    Attributes:
        difference: mean accuracy of the first less that of the second.
        p_problems: chance of the problems: McNemar's exact test for one seed, else a paired t-test over problems, each
            problem's value being the difference of its means over seeds.
        p_seeds: chance of the training: paired t-test over the seeds; None for fewer than two, or where no seed differs
            from another.
        num_seeds: seeds that both have.
        num_problems: problems of each.
    """

    difference: float
    p_problems: float
    p_seeds: float | None
    num_seeds: int
    num_problems: int


def mean_estimate(values: Sequence[float]) -> Estimate:
    """Return the mean and Student's t interval over seeds; a single value has no interval.

    mean -+ t(0.975, S - 1) s / sqrt(S), s the standard deviation with S - 1 below.

    Raises:
        UserError: if there are no values.
    """
    count = len(values)
    if not count:
        raise UserError("a mean needs at least one value")
    mean = math.fsum(values) / count
    if count == 1:
        return Estimate(mean, mean, mean, 1)
    reach = float(special.stdtrit(count - 1, 0.975)) * _deviation(values, mean) / math.sqrt(count)
    return Estimate(mean, mean - reach, mean + reach, count)


def share_estimate(right: Sequence[int], n: int) -> Estimate:
    """Return the mean share of right answers over seeds, all of which met the same n problems.

    The interval covers both kinds of chance, the wider of two at either end: Wilson's for the mean (rounded to a whole
    number of problems) in n problems, which is the chance of the problems and all there is for one seed; and Student's
    t over the seeds' shares, which is the chance of the training. It stays within [0, 1].
    """
    seeds = mean_estimate([count / n for count in right])
    low, high = wilson(round(seeds.mean * n), n)
    # min and max with the mean: rounding to whole problems must not push the interval off it.
    return Estimate(
        seeds.mean,
        max(0.0, min(low, seeds.low)),
        min(1.0, max(high, seeds.high)),
        len(right),
        n,
    )


def paired_test(first: Mapping[int, Mapping[str, bool]], second: Mapping[int, Mapping[str, bool]]) -> PairedTest:
    """Compare two methods, each given as seed -> problem -> right, on the seeds that both have.

    A method without any seed in common (an untrained model measured once) is compared by its first seed throughout.

    Raises:
        UserError: if they did not meet the same problems, or one has no seed.
    """
    if not first or not second:
        raise UserError("a paired test needs at least one seed on both sides")
    shared = sorted(first.keys() & second.keys())
    couples = [(first[seed], second[seed]) for seed in shared] or [(first[min(first)], second[min(second)])]
    rows = [pair_by_id(a, b) for a, b in couples]
    count, n = len(rows), len(rows[0][0])
    by_seed = [(sum(a) - sum(b)) / n for a, b in rows]
    if count == 1:
        p_problems = mcnemar(*rows[0]).p_value
    else:
        columns = zip(*([int(x) - int(y) for x, y in zip(a, b, strict=True)] for a, b in rows), strict=True)
        found = _t_test([sum(column) / count for column in columns])
        p_problems = float(not any(by_seed)) if found is None else found
    return PairedTest(math.fsum(by_seed) / count, p_problems, _t_test(by_seed), count, n)


def _t_test(values: Sequence[float]) -> float | None:
    """Return the two-sided p-value of a mean of zero; None where the values do not vary."""
    if len(values) < 2:
        return None
    mean = math.fsum(values) / len(values)
    deviation = _deviation(values, mean)
    if deviation <= 1e-12 * max(1.0, abs(mean)):
        return None
    return float(2 * special.stdtr(len(values) - 1, -abs(mean) / deviation * math.sqrt(len(values))))


def _deviation(values: Sequence[float], mean: float) -> float:
    return math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))
