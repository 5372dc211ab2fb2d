"""Bootstrap intervals: where they lie, how wide they are, and that they are the same at every call."""

import numpy as np
import pytest

from analysis import intervals

CHOSEN = np.random.default_rng(1)
VALUES = CHOSEN.normal(50, 10, 400)


def test_the_interval_of_a_mean_is_that_of_the_normal_law():
    low, high = intervals.of_mean(VALUES)
    half = 1.96 * VALUES.std(ddof=1) / 20
    assert (low, high) == pytest.approx((VALUES.mean() - half, VALUES.mean() + half), abs=0.15)
    assert intervals.of_mean(VALUES) == (low, high)


def test_the_interval_of_a_ratio_takes_both_sums_from_the_same_examples():
    tokens = CHOSEN.integers(1, 40, 300)
    assert intervals.of_ratio(3 * tokens, tokens) == pytest.approx((3.0, 3.0))
    low, high = intervals.of_ratio(CHOSEN.poisson(5 * tokens), tokens)
    assert low < 5 < high and high - low < 0.5


def test_a_paired_difference_does_not_see_what_examples_have_in_common():
    low, high = intervals.of_difference(VALUES + 1, VALUES)
    assert (low, high) == pytest.approx((1.0, 1.0))


def test_resamples_count_groups_as_a_whole():
    weights = intervals.resamples([7, 7, 3, 3, 3, 9])
    assert weights.shape == (1000, 6) and (weights[:, 0] == weights[:, 1]).all()
    assert (weights[:, [0, 2, 5]].sum(1) == 3).all(), "as many groups as there are"
    assert weights.mean(0) == pytest.approx(np.ones(6), abs=0.1)
    assert intervals.resamples([4, 4]).shape == (0, 2)


def test_the_interval_of_a_statistic_over_groups_of_one_is_that_of_the_mean():
    weights = intervals.resamples(range(len(VALUES)))
    found = intervals.of_statistic(lambda each: each @ VALUES / each.sum(1), weights)
    assert found == pytest.approx(intervals.of_mean(VALUES), abs=0.3)
    assert np.isnan(intervals.of_statistic(lambda each: each @ VALUES, weights[:0])).all()


def test_no_change_at_all_is_an_interval_of_nothing_and_one_example_none():
    assert intervals.of_difference([1.0, 2.0], [1.0, 2.0]) == (0.0, 0.0)
    assert np.isnan(intervals.of_mean([1.0])).all()
