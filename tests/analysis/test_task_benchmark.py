"""What a policy costs, from answers whose seconds and tokens are written by hand."""

import math

import pytest

from analysis.task_benchmark import Costs, Pair, with_interval
from jobs.in_turn import Answer
from training.records import Decoded

COUNTS = dict.fromkeys(
    ("shallow", "run_deep", "synchronizations", "rolled_back", "layers_rolled_back", "accepted", "drafted"), 0
)


def answer(tokens: int, seconds: float, first: float, layer: int = 4) -> Answer:
    ran = {"passes": layer * tokens, "layers_in_turn": layer * tokens}
    decoded = Decoded("a", 0, "", tokens, None, [layer] * tokens, {"head": 10.0 * layer * tokens}, COUNTS | ran)
    return Answer(decoded, list(range(tokens)), seconds, first)


def test_longer_answers_look_faster_than_their_later_tokens_are():
    full, early = answer(3, 2 + 2 * 1.0, 2), answer(11, 2 + 10 * 0.5, 2, layer=2)
    found = Costs.of([Pair(early, full), Pair(early, full)], 4)
    assert (found.tokens, found.tokens_per_second, found.first_token, found.wait.value) == (11, 11 / 7, 2, 1)
    assert found.speed.value == pytest.approx((11 / 7) / (3 / 4)) and found.later_speed.value == pytest.approx(2)
    assert (found.mean_exit, found.layers_in_turn, found.other) == (2, 2, 2)
    assert found.flops == pytest.approx(2 * 11 / (4 * 3)) and found.data()["later_speed_low"] == pytest.approx(2)


def test_answers_of_one_token_have_no_later_ones():
    one, three = answer(1, 2, 2), answer(3, 2 + 2 * 1.0, 2)
    for pair in (Pair(one, one), Pair(one, three), Pair(three, one)):
        found = Costs.of([pair, pair], 4).later_speed
        assert math.isnan(found.value) and with_interval(found) == "-"
    mixed = Costs.of([Pair(one, three), Pair(answer(2, 2 + 0.5, 2), three)], 4).later_speed
    assert mixed.value == pytest.approx(2), "of the prompt that has some under both"
