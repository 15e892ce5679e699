"""Rank correlations against scipy, and in the summary of a job."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from autopeft.results.correlation import MIN_PAIRS, rank_correlation

ROWS = {
    "no ties": ([0.1, 0.5, 0.2, 0.9, 0.4, 0.7], [1.0, 2.0, 4.0, 6.0, 3.0, 5.0]),
    "ties": ([1.0, 1.0, 2.0, 3.0, 3.0, 4.0, 4.0], [0.0, 0.2, 0.2, 0.1, 0.4, 0.4, 0.4]),
    "against": ([5.0, 4.0, 3.0, 2.0, 1.0], [1.0, 2.0, 3.0, 4.0, 5.0]),
}


@pytest.mark.parametrize("name", ROWS)
def test_correlations_are_those_of_scipy(name: str) -> None:
    one, other = ROWS[name]
    found = rank_correlation(one, other)
    assert found.kendall == pytest.approx(stats.kendalltau(one, other).statistic, abs=1e-12)
    assert found.spearman == pytest.approx(stats.spearmanr(one, other).statistic, abs=1e-12)
    assert found.num_pairs == len(one)
    assert -1.0 <= found.interval[0] <= found.kendall <= found.interval[1] <= 1.0
    assert found.reason == ""


def test_equal_rankings_leave_no_doubt() -> None:
    found = rank_correlation(range(12), range(12))
    assert (found.kendall, found.spearman) == pytest.approx((1.0, 1.0))
    assert found.interval == pytest.approx((1.0, 1.0))


def test_the_interval_of_what_has_nothing_to_do_holds_zero() -> None:
    generator = np.random.default_rng(0)
    found = rank_correlation(generator.normal(size=30).tolist(), generator.normal(size=30).tolist())
    assert found.interval[0] < 0.0 < found.interval[1]
    assert found == rank_correlation(
        *(np.random.default_rng(0).normal(size=60).reshape(2, 30).tolist())
    )


@pytest.mark.parametrize("number", range(MIN_PAIRS))
def test_too_few_pairs_have_no_correlation(number: int) -> None:
    found = rank_correlation(range(number), range(number))
    assert found.num_pairs == number
    assert math.isnan(found.kendall)
    assert math.isnan(found.spearman)
    assert found.reason.startswith("too few")
    assert found.to_json() == {
        "num_trials": number,
        "kendall": None,
        "spearman": None,
        "interval": [None, None],
        "reason": found.reason,
    }


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite_is_left_out(bad: float) -> None:
    one, other = ROWS["no ties"]
    found = rank_correlation([*one, bad, 1.0], [*other, 1.0, bad])
    assert found == rank_correlation(one, other)


def test_a_number_that_never_changes_ranks_nothing() -> None:
    found = rank_correlation([1.0] * 6, ROWS["no ties"][1])
    assert math.isnan(found.kendall)
    assert "the same for every trial" in found.reason
