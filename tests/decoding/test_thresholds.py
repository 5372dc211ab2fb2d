import math
from itertools import pairwise

import pytest

from decoding.policy import Policy


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
