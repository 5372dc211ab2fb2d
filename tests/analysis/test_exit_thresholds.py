"""What thresholds promise, of what layers say: the extremes, hand-made numbers, and the sentence."""

import numpy as np
import pytest

from analysis import intervals
from analysis.exit_thresholds import THRESHOLDS, cheapest, points, told
from analysis.exit_values import ExitValues

# Four positions of two texts, three layers below the last of four.
CONFIDENCE = np.array([[0.2, 0.6, 0.9], [0.9, 0.9, 0.9], [0.1, 0.1, 0.1], [0.4, 0.96, 0.2]])
EQUAL = np.array([[0, 1, 1, 1], [1, 1, 1, 1], [0, 0, 0, 1], [0, 0, 1, 1]], bool)


@pytest.fixture
def values():
    zeros = np.zeros(EQUAL.shape)
    return ExitValues(np.array([0, 0, 1, 1]), zeros, zeros, EQUAL, zeros, zeros, {"max_prob": CONFIDENCE})


def at(found, threshold):
    (point,) = (each for each in found if each["threshold"] == threshold)
    return point["equal"]["value"], point["layers"]["value"]


def test_tokens_leave_at_the_first_exit_that_is_surer(values):
    found = points(values, "max_prob", [1, 2, 3], intervals.resamples(values.rows))
    assert at(found, 0.0) == (0.25, 1.0) and at(found, 1.0) == (1.0, 4.0)
    assert at(found, 0.5) == (0.75, (2 + 1 + 4 + 2) / 4)
    assert at(found, 0.95) == (0.75, (4 + 4 + 4 + 2) / 4)
    depths = [point["layers"]["value"] for point in found]
    assert len(found) == len(THRESHOLDS) and depths == sorted(depths)
    for point in found:
        low, high = point["equal"]["interval"]
        assert low <= point["equal"]["value"] <= high


def test_only_the_layers_that_were_asked_for_have_exits(values):
    found = points(values, "max_prob", [3], intervals.resamples(values.rows))
    assert at(found, 0.0) == (0.75, 3.0) and at(found, 0.5) == (1.0, (3 + 3 + 4 + 4) / 4)
    assert cheapest(found)["threshold"] == 0.1
    sentence = told({"max_prob": found}, [3], 4)
    assert sentence.startswith(
        "With exits after layer 3, max_prob above 0.1 leaves 100.0% of the tokens the last layer's"
    )
    assert "at 3.2 of 4 layers: 19% of the depth saved" in sentence


def test_where_no_threshold_saves_it_says_so(values):
    found = points(values, "max_prob", [2], intervals.resamples(values.rows))
    worst = [{**point, "equal": {"value": 0.5}} for point in found[:-1]] + found[-1:]
    assert told({"max_prob": worst}, [2], 4) == (
        "With exits after layer 2 no threshold leaves 95% of the tokens the last layer's and saves a layer."
    )
