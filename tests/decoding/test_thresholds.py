import math
from itertools import pairwise

import numpy as np
import pytest

from decoding.policy import Policy
from decoding.thresholds import AdaptiveThreshold


def test_constant_everywhere():
    policy = Policy(confidence="softmax", threshold=0.7)
    assert {policy.threshold_at(position, 30) for position in range(1, 40)} == {0.7}


def test_decaying_is_the_formula_and_falls_from_lam_towards_nine_tenths():
    policy = Policy(confidence="softmax", threshold=0.8, temperature=4.0, length=16)
    values = [policy.threshold_at(position, 99) for position in range(1, 200)]
    assert values[0] == pytest.approx(0.8 * (0.9 + 0.1 * math.exp(-4 / 16)))
    assert all(later <= earlier for earlier, later in pairwise(values))
    assert values[-1] == pytest.approx(0.8 * 0.9)


def test_decaying_takes_the_answer_limit_of_the_call_where_none_was_given():
    policy = Policy(confidence="softmax", threshold=0.8, temperature=4.0)
    assert policy.threshold_at(3, 12) == pytest.approx(0.8 * (0.9 + 0.1 * math.exp(-4 * 3 / 12)))


# ------------------------------------------------------------------------------------------------------------- adaptive
def fitted(confidences, agreed, level=0.9):
    threshold = AdaptiveThreshold(level)
    threshold.observe(confidences, agreed)
    threshold.refit()
    return threshold


def test_until_something_was_seen_the_threshold_is_the_one_given():
    threshold = AdaptiveThreshold(0.8)
    threshold.refit()
    assert threshold.value == 0.8 and threshold.fits == 0


def test_the_threshold_parts_confidences_that_were_right_from_those_that_were_not():
    """Right ones about 0.8, wrong ones about 0.5: of the grid, 0.7 is the first point nearer to the right ones, whose
    density there is the higher one; at 0.633 it is not."""
    rng = np.random.default_rng(0)
    right, wrong = rng.beta(32, 8, 400), rng.beta(20, 20, 400)
    found = fitted([*right, *wrong], [True] * 400 + [False] * 400)
    assert found.value == pytest.approx(0.7)


def test_a_fit_by_hand():
    """Two right at 0.8 and 0.9, two wrong at 0.3 and 0.4, with weights 0.2 and 1e-4 normalised."""
    w = 1e-4 / 0.2001
    x, right = np.array([0.8, 0.9, 0.3, 0.4]), np.array([1 - w, 1 - w, w, w])
    shapes = []
    for weights in (1 - right, right):
        mean = (weights * x).sum() / weights.sum()
        variance = (weights * (x - mean) ** 2).sum() / weights.sum()
        a = mean * (mean * (1 - mean) / variance - 1)
        shapes.append((a, a * (1 - mean) / mean))

    def density(value, a, b):
        return (
            math.exp(math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)) * value ** (a - 1) * (1 - value) ** (b - 1)
        )

    grid = np.linspace(0.3, 0.9, 10)
    likely = sum(density(g, *shapes[1]) / (density(g, *shapes[0]) + density(g, *shapes[1])) > 0.4 for g in grid)
    assert fitted(x, [True, True, False, False]).value == pytest.approx(grid[10 - likely])


@pytest.mark.parametrize("agreed", [[True] * 3, [False] * 3, [True, False, True]])
def test_confidences_without_variance_leave_the_highest_threshold(agreed):
    assert fitted([0.7] * 3, agreed).value == pytest.approx(0.9)


def test_extreme_confidences_stay_finite():
    assert 0.3 <= fitted([0.0, 1.0, 1.0, 0.0], [True, True, False, False]).value <= 0.9


def test_refits_end_after_three_hundred():
    threshold = fitted([0.9, 0.2], [True, False])
    for _ in range(400):
        threshold.refit()
    assert threshold.fits == 300


def test_a_state_saved_in_parts_goes_on_where_it_was():
    one = AdaptiveThreshold(0.9)
    parts = []
    for confidences, agreed in (([0.9, 0.4], [True, False]), ([0.8], [True])):
        seen = one.seen
        one.refit()
        one.observe(confidences, agreed)
        parts.append(one.state_dict(seen))
    other = AdaptiveThreshold(0.9)
    other.load_state_dict(*parts)
    assert other.state_dict() == one.state_dict()
    one.reset()
    assert one.state_dict() == AdaptiveThreshold(0.9).state_dict()
