"""Drafts that stop where they do not pay: what is decided, when it is tried again, and that nothing else changes."""

import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from decoding.drafting import FIRST_WAIT, GAIN, LONGEST, Prices, RowDrafts, tokens_per_layer
from decoding.policy import Policy
from decoding.thresholds import AdaptiveThreshold
from support import FREQUENT, MODELS, POLICIES, answer_of, double_precision, inputs_for, plain_generate, row_alone

DRAFTED = Policy(
    confidence="softmax", threshold=0.0, first_exit=2, last_exit=2, skipped="recompute", verification="exact"
)
LENGTH = 30


# --------------------------------------------------------------------------------------------------- what is promised
@given(
    d=st.integers(1, 12), a=st.floats(0, 0.999), c=st.floats(0.1, 40), full=st.floats(1, 60), staying=st.floats(0, 9)
)
def test_where_every_token_leaves_it_is_the_published_formula(d, a, c, full, staying):
    """Nothing is paid for tokens that do not leave, where there are none."""
    found = tokens_per_layer(d, acceptance=a, leaving=1.0, draft=c, staying=staying, full=full)
    assert found == pytest.approx((1 - a ** (d + 1)) / (1 - a) / (d * c + full))
    assert tokens_per_layer(0, acceptance=a, leaving=1.0, draft=c, staying=staying, full=full) == 1 / full


@settings(max_examples=30, deadline=None)
@given(
    d=st.integers(1, 5),
    a=st.floats(0, 1),
    s=st.floats(0, 1),
    c=st.floats(0.1, 9),
    full=st.floats(9, 20),
    seed=st.integers(),
)
def test_it_is_the_mean_over_rounds(d, a, s, c, full, seed):
    """Rounds drawn: a token leaves with probability s, else the round ends; drafts stand with probability a."""
    drawn, tokens, layers, rounds = random.Random(seed), 0, 0.0, 4000
    for _ in range(rounds):
        drafted = next((i for i in range(d) if drawn.random() >= s), d)
        stands = next((i for i in range(drafted) if drawn.random() >= a), drafted)
        tokens += stands + 1
        layers += full + drafted * c + (drafted < d) * 1.5
    expected = tokens_per_layer(d, acceptance=a, leaving=s, draft=c, staying=1.5, full=full)
    assert tokens / layers == pytest.approx(expected, rel=0.1)


# ---------------------------------------------------------------------------------------------------- what is decided
def decode(acceptance: float, length: int, prices: Prices, *, most: int = 8, leaving: float = 1.0, seed: int = 0):
    """A row whose drafts stand with a probability: the limit of every round, and how many times as fast it is."""
    drawn, drafts = random.Random(seed), RowDrafts(prices, most)
    tokens, layers, limits = 0, 0.0, []
    while tokens < length:
        limits.append(drafts.limit)
        drafted = next((i for i in range(drafts.limit) if drawn.random() >= leaving), drafts.limit)
        for _ in range(drafted):
            drafts.asked(prices.first_exit, prices.head, leaves=True)
        if drafted < drafts.limit:
            drafts.asked(prices.first_exit, prices.head, leaves=False)
        stands = next((i for i in range(drafted) if drawn.random() >= acceptance), drafted)
        if drafted:
            drafts.verified(drafted, stands)
        layers += drafted * (prices.first_exit + prices.head + prices.slot * (prices.full - prices.first_exit))
        layers += prices.full + (drafted < limits[-1]) * prices.head
        tokens += stands + 1
        undrafted = drafts.end_round(tokens)
        assert undrafted == (limits[-1] == 0)
    return limits, tokens / layers * prices.full


SMOLLM2 = {layer: Prices(30, 8.0, layer, 0.25) for layer in (10, 15, 20, 25)}
CHEAP = Prices(12, 3.0, 1, 0.25)


def test_what_never_stands_is_tried_after_8_16_32_tokens():
    limits, _ = decode(0.0, 130, SMOLLM2[10])
    runs = [len(run) for run in "".join("d" if limit else "." for limit in limits).split("d") if run]
    assert runs[:3] == [8, 16, 32] and max(limits) == 1


@pytest.mark.parametrize("layer", SMOLLM2)
@pytest.mark.parametrize("acceptance", [0.0, 0.1, 0.3])
def test_drafts_that_do_not_pay_cost_little(layer, acceptance):
    """Of 64 tokens, as the mean of a hundred answers: layers of full depth over those spent."""
    speeds = [decode(acceptance, 64, SMOLLM2[layer], seed=seed)[1] for seed in range(100)]
    assert 1 / np.mean([1 / speed for speed in speeds]) > 0.92


@pytest.mark.parametrize(("acceptance", "most"), [(0.8, 3), (0.95, 8), (1.0, 8)])
def test_drafts_that_pay_go_on(acceptance, most):
    limits = [decode(acceptance, 400, CHEAP, most=most, seed=seed)[0] for seed in range(20)]
    assert np.mean([sum(limit > 0 for limit in each) / len(each) for each in limits]) > 0.95
    assert all(max(each) <= most for each in limits)
    if acceptance == 1:
        assert limits[0][:4] == [2, 4, 8, 8], "a trial costs no more than a token"


def test_nothing_bounds_a_draft_but_one_number():
    limits, _ = decode(1.0, 1000, Prices(30, 0.0, 1), most=LONGEST)
    assert max(limits) == LONGEST


def test_exits_that_nobody_leaves_by_are_asked_no_more():
    """Their heads cost, though nothing is drafted."""
    limits, speed = decode(1.0, 200, SMOLLM2[10], leaving=0.0)
    assert sum(limit == 0 for limit in limits) > 150 and speed > 0.97


def test_an_exit_that_saves_nothing_even_where_every_draft_stands_is_never_tried():
    """From layer 25 of 30 drafts could gain 4%, and a trial costs a token; fewer rows of the head are worth it."""
    limits, speed = decode(1.0, 100, SMOLLM2[25])
    assert not any(limits) and speed == 1
    drafts = RowDrafts(SMOLLM2[25], 8, head=0.7)
    assert drafts.limit == 1 and drafts.stops == 0


def test_waits_begin_anew_where_drafts_paid():
    drafts = RowDrafts(CHEAP, 8)
    length, waits = 0, []
    for stands in (False, False, True, False):
        for _ in range(40):
            drafts.asked(1, 3.0, leaves=True)
            drafts.verified(1, int(stands))
            length += 1 + stands
            drafts.end_round(length)
            if not drafts.limit:
                break
        waited = 0
        while not drafts.limit:
            length, waited = length + 1, waited + 1
            drafts.end_round(length)
        waits.append(waited)
    assert waits == [FIRST_WAIT, 2 * FIRST_WAIT, 0, FIRST_WAIT]


def test_a_draft_promises_more_than_full_depth():
    assert GAIN > 1 and Prices(30, 8.0, 10).full == 38


# ------------------------------------------------------------------------------------------- nothing but speed changes
@pytest.mark.parametrize("kind", MODELS)
@settings(max_examples=5)
@given(
    seed=st.integers(0, 10_000),
    batch=st.integers(1, 4),
    threshold=st.sampled_from([0.0, 0.3, 0.7, 1.0]),
    exits=st.sampled_from([(1, None), (1, 1), (3, 3)]),
    most=st.sampled_from([1, 3, 8, None]),
    pruned=st.sampled_from([{}, FREQUENT | {"k": 20}]),
)
def test_stopping_or_not_it_is_full_depth_greedy(kind, seed, batch, threshold, exits, most, pruned):
    first, last = exits
    policy = replace(DRAFTED, threshold=threshold, first_exit=first, last_exit=last, num_speculations=most, **pruned)
    with double_precision(MODELS[kind](seed)) as model:
        inputs = inputs_for(model, seed, batch, LENGTH)
        expected = plain_generate(model, **inputs, do_sample=False).tolist()
        assert model.generate(**inputs, policy=policy).tolist() == expected
        assert model.generate(**inputs, policy=replace(policy, draft_always=True)).tolist() == expected


@pytest.mark.parametrize("kind", MODELS)
def test_a_row_decides_what_it_decides_alone(kind):
    """How many tokens it drafts, where it stops and what it counts; over rows that end, that stop and that do not."""
    stops = 0
    with double_precision(MODELS[kind](5)) as model:
        for policy in (DRAFTED, replace(DRAFTED, num_speculations=4, copy_share=1.0, k=20, **FREQUENT)):
            inputs = inputs_for(model, 5, 4, LENGTH)
            together, trace = model.generate(**inputs, policy=policy, return_trace=True)
            for row in range(4):
                single = row_alone(inputs, row)
                alone, own = model.generate(**single, policy=policy, return_trace=True)
                assert answer_of(model, inputs, together, row) == answer_of(model, single, alone, 0)
                mine = trace.row(row)
                assert mine.exit_layers.tolist() == own.exit_layers.tolist()
                assert {k: v.tolist() for k, v in mine.counts.items()} == {k: v.tolist() for k, v in own.counts.items()}
            stops += trace.counts["stops"].sum()
    assert stops


def test_a_call_decides_again_what_it_decided():
    model = MODELS["gpt2"](1)
    inputs = inputs_for(model, 1, 3, LENGTH)
    (first, one), (second, two) = (model.generate(**inputs, policy=DRAFTED, return_trace=True) for _ in range(2))
    assert first.tolist() == second.tolist() and one.exit_layers.tolist() == two.exit_layers.tolist()


def test_what_is_not_drafted_is_counted_and_asks_no_exit():
    found = set()
    for seed in range(3):
        model = MODELS["llama"](seed)
        inputs = inputs_for(model, seed, 3, LENGTH)
        _, trace = model.generate(**inputs, policy=DRAFTED, return_trace=True)
        _, always = model.generate(**inputs, policy=replace(DRAFTED, draft_always=True), return_trace=True)
        assert not always.counts["undrafted"].any() and not always.counts["stops"].any()
        asked = ~np.isnan(trace.confidences).all(-1)
        for row in range(3):
            undrafted, length = trace.counts["undrafted"][row], trace.lengths[row]
            unasked = (~asked[row, :length]).sum()
            assert undrafted <= unasked <= undrafted + trace.counts["synchronizations"][row] + 1
            assert trace.counts["drafted"][row] <= always.counts["drafted"][row]
            found.add(bool(undrafted))
    assert True in found


def test_what_may_change_outputs_does_not_stop():
    model = MODELS["tied"](2)
    for name in ("FREE", "rollback", "FREE, several exits"):
        assert not POLICIES[name].drafts_where_it_pays
        _, trace = model.generate(**inputs_for(model, 2, 2, LENGTH), policy=POLICIES[name], return_trace=True)
        assert not trace.counts["undrafted"].any()
    with pytest.raises(ValueError, match="draft_always is True, but verification is 'none': drafts stop with lossless"):
        replace(POLICIES["FREE"], draft_always=True)


def test_an_adaptive_threshold_learns_from_drafts_alone():
    model, policy = MODELS["untied"](3), replace(DRAFTED, adapts=True, threshold=0.3)
    with double_precision(model):
        inputs = inputs_for(model, 3, 2, LENGTH)
        expected = plain_generate(model, **inputs, do_sample=False)
        assert model.generate(**inputs, policy=policy).tolist() == expected.tolist()
    assert isinstance(model.threshold, AdaptiveThreshold) and model.threshold.seen > 0


@torch.no_grad()
def test_drawn_tokens_keep_their_distribution_where_drafts_stop():
    """Of the second, fourth and eleventh token: drafts have stopped and been tried again by then."""
    model = MODELS["gpt2"](7)
    ids = torch.tensor([[5, 6, 7]]).repeat(3000, 1)
    drawn = {"max_new_tokens": 11, "do_sample": True, "temperature": 1.3, "top_k": 4, "eos_token_id": []}
    counts = []
    for policy in (DRAFTED, Policy()):
        torch.manual_seed(3)
        found, trace = model.generate(input_ids=ids, **drawn, policy=policy, return_trace=True)
        if policy.exits:
            assert trace.counts["stops"].sum() > 1000
        counts.append(torch.stack([torch.bincount(found[:, place], minlength=61) for place in (4, 6, 13)]).double())
    both = counts[0] + counts[1]
    chi = ((counts[0] - counts[1]) ** 2 / both.clamp_min(1))[both >= 10]
    assert chi.sum() < len(chi) + 4 * (2 * len(chi)) ** 0.5, "four deviations above its mean"
