"""Whether a confidence knows: against scikit-learn where it is there, numbers worked by hand, and repeated values."""

import numpy as np
import pytest

from analysis import calibration

DRAWN = np.random.default_rng(3)
CONFIDENCE = DRAWN.random(200).round(2)  # with ties
RIGHT = DRAWN.random(200) < CONFIDENCE
ONCE = np.ones((1, 200))
TWICE = DRAWN.integers(0, 3, (4, 200)).astype(float)
STATISTICS = {
    "mean": lambda chosen: calibration.mean(CONFIDENCE[chosen]),
    "exponential": lambda chosen: calibration.exponential(CONFIDENCE[chosen]),
    "quantile": lambda chosen: calibration.quantile(CONFIDENCE[chosen], 0.9),
    "auroc": lambda chosen: calibration.auroc(CONFIDENCE[chosen], RIGHT[chosen]),
    "ece": lambda chosen: calibration.ece(CONFIDENCE[chosen], RIGHT[chosen]),
}


@pytest.mark.parametrize("name", STATISTICS)
def test_a_value_of_weight_two_counts_as_if_it_were_there_twice(name):
    everything = np.arange(200)
    found = STATISTICS[name](everything)(TWICE)
    for weights, value in zip(TWICE, found, strict=True):
        repeated = everything.repeat(weights.astype(int))
        assert value == pytest.approx(STATISTICS[name](repeated)(np.ones((1, len(repeated))))[0], abs=1e-12)


def test_the_area_is_that_of_scikit_learn():
    metrics = pytest.importorskip("sklearn.metrics")
    statistic = calibration.auroc(CONFIDENCE, RIGHT)
    assert statistic(ONCE)[0] == pytest.approx(metrics.roc_auc_score(RIGHT, CONFIDENCE), abs=1e-12)
    for weights, value in zip(TWICE, statistic(TWICE), strict=True):
        assert value == pytest.approx(metrics.roc_auc_score(RIGHT, CONFIDENCE, sample_weight=weights), abs=1e-12)


def test_the_area_by_hand():
    right = np.array([False, True, False, True])
    assert calibration.auroc(np.array([0.1, 0.2, 0.3, 0.4]), right)(np.ones((1, 4)))[0] == 0.75
    assert calibration.auroc(np.full(4, 0.5), right)(np.ones((1, 4)))[0] == 0.5, "ties count half"
    assert np.isnan(calibration.auroc(np.array([0.1, 0.2]), np.array([True, True]))(np.ones((1, 2)))[0])


def test_the_calibration_error_by_hand():
    confidence, right = np.array([0.95, 0.91, 0.15, 1.0]), np.array([True, False, False, True])
    # the last bin holds three, sure at 0.9533 and right at 0.6667; the second one, sure at 0.15 and wrong
    expected = 3 / 4 * (2.86 / 3 - 2 / 3) + 1 / 4 * 0.15
    assert calibration.ece(confidence, right)(np.ones((1, 4)))[0] == pytest.approx(expected)
    assert calibration.ece(np.array([-0.5]), np.array([False]))(np.ones((1, 1)))[0] == 0, "below 0 counts as 0"


def test_reliability_has_what_each_bin_holds():
    confidence, right = np.array([0.95, 0.91, 0.15, 1.0]), np.array([True, False, False, True])
    found = calibration.reliability(confidence, right)
    assert [(round(sure, 4), count) for sure, count, _ in found] == [(0.15, 1), (0.9533, 3)]
    assert [share(np.ones((1, 4)))[0] for _, _, share in found] == pytest.approx([0, 2 / 3])
    assert np.isnan(found[0][2](np.array([[1.0, 1.0, 0.0, 1.0]]))[0]), "a resample that holds none of it"


def test_a_quantile_is_one_of_the_values():
    for share in (0.5, 0.9, 0.99, 1.0):
        expected = np.quantile(CONFIDENCE, share, method="inverted_cdf")
        assert calibration.quantile(CONFIDENCE, share)(ONCE)[0] == expected
