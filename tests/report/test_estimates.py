"""Means, intervals and paired tests, on numbers worked out by hand."""

from __future__ import annotations

import pytest

from lrd_peft.evaluation.metrics import wilson
from lrd_peft.report.estimates import mean_estimate, paired_test, share_estimate
from lrd_peft.runtime.errors import UserError

A_IS_BETTER = {"p1": True, "p2": True, "p3": True, "p4": False}
B_IS_WORSE = {"p1": False, "p2": False, "p3": True, "p4": False}


def test_the_t_interval_of_one_two_three() -> None:
    # s = 1, t(0.975, 2) = 4.302653, reach = 4.302653 / sqrt(3) = 2.484138
    found = mean_estimate([1.0, 2.0, 3.0])
    assert found.mean == 2.0
    assert found.low == pytest.approx(2 - 2.484138, abs=1e-6)
    assert found.high == pytest.approx(2 + 2.484138, abs=1e-6)
    assert found.num_seeds == 3


def test_one_value_has_no_interval_and_none_is_refused() -> None:
    assert mean_estimate([0.3]).reach == (0.0, 0.0)
    with pytest.raises(UserError, match="at least one value"):
        mean_estimate([])


def test_one_seed_gets_wilsons_interval() -> None:
    found = share_estimate([20], 300)
    assert (found.low, found.high) == pytest.approx(wilson(20, 300))


def test_seeds_that_agree_keep_the_chance_of_the_problems() -> None:
    # five times the same answers: Student's interval has no width, the problems are as few as before
    found = share_estimate([20] * 5, 300)
    assert (found.low, found.high) == pytest.approx(wilson(20, 300))


def test_seeds_that_scatter_widen_the_interval_beyond_wilsons() -> None:
    found = share_estimate([400, 600], 1000)
    # mean 0.5, s = 0.141421, t(0.975, 1) = 12.7062, reach 1.27: cut at 0 and 1
    assert (found.mean, found.low, found.high) == (0.5, 0.0, 1.0)


def test_one_seed_is_mcnemars_test() -> None:
    # two problems that only a got right: p = 2 * (1/2)^2 = 0.5
    found = paired_test({0: A_IS_BETTER}, {0: B_IS_WORSE})
    assert found.difference == 0.5
    assert found.p_problems == 0.5
    assert found.p_seeds is None


def test_several_seeds_are_tested_over_problems_and_over_seeds() -> None:
    # seed 1: only p1 differs. Differences of the problems' means: 1, 0.5, 0, 0: mean 0.375, s = 0.478714,
    # t = 1.566699 with 3 degrees of freedom, p = 0.215; of the seeds: 0.5 and 0.25: t = 3 with one, p = 0.204833
    second = {"p1": False, "p2": True, "p3": True, "p4": False}
    found = paired_test({0: A_IS_BETTER, 1: A_IS_BETTER}, {0: B_IS_WORSE, 1: second})
    assert found.difference == 0.375
    assert found.p_problems == pytest.approx(0.215155, abs=1e-4)
    assert found.p_seeds == pytest.approx(0.204833, abs=1e-6)
    assert (found.num_seeds, found.num_problems) == (2, 4)


def test_equal_methods_give_p_of_one() -> None:
    both = {0: A_IS_BETTER, 1: A_IS_BETTER}
    assert paired_test(both, both).p_problems == 1.0


def test_a_model_measured_once_is_compared_with_the_first_seed() -> None:
    assert paired_test({3: A_IS_BETTER, 4: A_IS_BETTER}, {0: B_IS_WORSE}).num_seeds == 1


def test_other_problems_are_refused() -> None:
    with pytest.raises(UserError, match="same problems"):
        paired_test({0: A_IS_BETTER}, {0: {"q": True}})
