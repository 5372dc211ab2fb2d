"""Drafts that stop where they do not pay: what is decided, when it is tried again, and that nothing else changes."""

import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from decoding.drafting import (
    DEVICES,
    FIRST_WAIT,
    GAIN,
    LONGEST,
    Device,
    Prices,
    RowDrafts,
    stand_together,
    tokens_per_layer,
)
from decoding.flops import Cost
from decoding.policy import Policy
from decoding.thresholds import AdaptiveThreshold
from models.translators import ExitTranslators
from models.unembed import Unembed
from support import FREQUENT, MODELS, POLICIES, answer_of, double_precision, inputs_for, plain_generate, row_alone

DRAFTED = Policy(
    confidence="softmax", threshold=0.0, first_exit=2, last_exit=2, skipped="recompute", verification="exact"
)
LENGTH = 30


# --------------------------------------------------------------------------------------------------- what is promised
@given(
    d=st.integers(0, 12), a=st.floats(0, 0.999), c=st.floats(0.1, 40), full=st.floats(1, 60), staying=st.floats(0, 9)
)
def test_where_every_token_leaves_it_is_the_published_formula(d, a, c, full, staying):
    """Nothing is paid for tokens that do not leave, where there are none; nothing drafted is full depth."""
    stands = [a**i for i in range(1, d + 1)]
    found = tokens_per_layer(stands, leaving=1.0, draft=c, staying=staying, full=full)
    assert len(found) == d + 1 and found[0] == 1 / full
    assert found[d] == pytest.approx((1 - a ** (d + 1)) / (1 - a) / (d * c + full))


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
    stands = [a**i for i in range(1, d + 1)]
    expected = tokens_per_layer(stands, leaving=s, draft=c, staying=1.5, full=full)[-1]
    assert tokens / layers == pytest.approx(expected, rel=0.1)


@given(stood=st.floats(0.1, 50), failed=st.floats(0.1, 50), most=st.integers(1, 20))
def test_a_draft_stands_as_often_as_acceptances_drawn_from_what_was_seen(stood, failed, most):
    """The mean of a^i over a Beta distribution: more than its mean to the power i, but that where much was seen."""
    found = stand_together(stood, failed, most)
    drawn = np.random.default_rng(0).beta(stood, failed, 20000)
    assert found == pytest.approx([np.mean(drawn**i) for i in range(1, most + 1)], abs=0.02)
    mean = stood / (stood + failed)
    assert all(both >= mean**i - 1e-9 for i, both in enumerate(found, 1))
    assert stand_together(stood * 1e6, failed * 1e6, most) == pytest.approx([mean**i for i in range(1, most + 1)], 1e-3)


# ------------------------------------------------------------------------------------------------------ what it costs
def test_what_a_layer_costs_beside_its_weights_makes_heads_and_slots_dearer_or_cheaper():
    """Of a small model layers and exits cost nearly the same, and further slots nearly nothing; of a large one it is
    as the weights are; rows of the head that are not multiplied cost less, but not nothing."""
    sizes = {"num_layers": 8, "width": 64, "attention_width": 64, "kv_width": 64, "feed_forward": 0}
    small = Cost(**sizes, prompt=np.ones(1, int), prefilled=True, source=np.zeros(1, int))
    fixed, slot = DEVICES["cpu"]
    unembed = Unembed(nn.Identity(), nn.Linear(64, 1000))
    prices, elsewhere = (Prices.of(small, unembed, 2, device) for device in ("cpu", "elsewhere"))
    weights = small.layer_weights
    assert prices.head == pytest.approx((64000 + fixed) / (weights + fixed)) and prices.slot < slot / 10
    assert prices.exit(2) == pytest.approx(prices.head) and prices.exit(2, 0.0) == fixed / (weights + fixed)
    assert Device() == (0, 0) and elsewhere.head == 64000 / weights and elsewhere.slot == elsewhere.exit(2, 0.0) == 0
    translating = Unembed(nn.Identity(), nn.Linear(64, 1000), translators=ExitTranslators(64, [2, 5]))
    dearer = Prices.of(small, translating, 2, "elsewhere")
    assert [dearer.exit(layer) - elsewhere.exit(layer) for layer in (1, 2)] == pytest.approx([0, 64 * 64 / weights])
    assert RowDrafts(dearer, 8)._draft > RowDrafts(elsewhere, 8)._draft


# ---------------------------------------------------------------------------------------------------- what is decided
def decode(
    acceptance: float,
    length: int,
    prices: Prices,
    *,
    most: int = 8,
    leaving: float = 1.0,
    seed: int = 0,
    always: bool = False,
):
    """A row whose drafts stand with a probability: the limit of every round, and how many times as fast it is."""
    drawn, drafts = random.Random(seed), RowDrafts(prices, most)
    tokens, layers, limits = 0, 0.0, []
    while tokens < length:
        limits.append(most if always else drafts.limit)
        drafted = next((i for i in range(limits[-1]) if drawn.random() >= leaving), limits[-1])
        for _ in range(drafted):
            drafts.asked(prices.first_exit, 1.0, leaves=True)
        if drafted < limits[-1]:
            drafts.asked(prices.first_exit, 1.0, leaves=False)
        stands = next((i for i in range(drafted) if drawn.random() >= acceptance), drafted)
        if drafted:
            drafts.verified(drafted, stands)
        layers += drafted * (prices.first_exit + prices.head + prices.slot * (prices.full - prices.first_exit))
        layers += prices.full + (drafted < limits[-1]) * prices.head
        tokens += stands + 1
        undrafted = drafts.end_round(tokens)
        assert always or undrafted == (limits[-1] == 0)
    return limits, tokens / layers * prices.full


def speed(acceptance: float, length: int, prices: Prices, **kwargs) -> float:
    """How many times as fast some hundred answers are together."""
    return 1 / np.mean([1 / decode(acceptance, length, prices, seed=seed, **kwargs)[1] for seed in range(200)])


SMOLLM2 = {layer: Prices(30, 5.5, layer, 0.19) for layer in (10, 15, 20, 25)}
T5_BASE = {layer: Prices(12, 2.6, layer, 0.24) for layer in (1, 2)}
SMALL = Prices(8, 1.1, 2, 0.03)
CHEAP = Prices(12, 3.0, 1, 0.25)


def test_what_never_stands_is_tried_after_8_16_32_tokens():
    limits, _ = decode(0.0, 130, SMOLLM2[10])
    runs = [len(run) for run in "".join("d" if limit else "." for limit in limits).split("d") if run]
    assert runs[:3] == [8, 16, 32] and max(limits[1:]) == 1


@pytest.mark.parametrize("layer", SMOLLM2)
@pytest.mark.parametrize("acceptance", [0.0, 0.1, 0.3])
def test_drafts_that_do_not_pay_cost_little(layer, acceptance):
    assert speed(acceptance, 64, SMOLLM2[layer]) > 0.94


@pytest.mark.parametrize(("acceptance", "leaving"), [(0.9, 0.9), (0.9, 1.0), (0.95, 0.9), (0.95, 1.0), (1.0, 1.0)])
@pytest.mark.parametrize("length", [20, 64])
def test_where_drafts_pay_it_is_as_fast_as_drafting_always(acceptance, leaving, length):
    """Short answers too: where drafts are cheap the first is a long one."""
    own, always = (speed(acceptance, length, SMALL, leaving=leaving, always=each) for each in (False, True))
    assert own > 0.96 * always


@pytest.mark.parametrize("layer", T5_BASE)
@pytest.mark.parametrize("acceptance", [0.7, 0.8, 0.9])
def test_a_rejection_at_the_start_does_not_end_drafts_that_pay(layer, acceptance):
    own, always = (speed(acceptance, 64, T5_BASE[layer], most=3, always=each) for each in (False, True))
    assert own > 0.98 * always


def test_the_first_draft_is_longer_the_cheaper_it_is():
    assert RowDrafts(SMOLLM2[20], 8).limit == 1 < RowDrafts(SMOLLM2[10], 8).limit < RowDrafts(SMALL, 8).limit


@pytest.mark.parametrize(("acceptance", "most"), [(0.8, 3), (0.95, 8), (1.0, 8)])
def test_drafts_that_pay_go_on(acceptance, most):
    limits = [decode(acceptance, 400, CHEAP, most=most, seed=seed)[0] for seed in range(20)]
    assert np.mean([sum(limit > 0 for limit in each) / len(each) for each in limits]) > 0.95
    assert all(max(each) <= most for each in limits)
    if acceptance == 1:
        assert set(limits[0][2:]) == {8}, "what stood is believed"


def test_nothing_bounds_a_draft_but_one_number():
    limits, _ = decode(1.0, 5000, Prices(30, 0.0, 1), most=LONGEST)
    assert max(limits) == LONGEST


def test_exits_that_nobody_leaves_by_are_asked_no_more():
    """Their heads cost, though nothing is drafted."""
    limits, speed = decode(1.0, 200, SMOLLM2[10], leaving=0.0)
    assert sum(limit == 0 for limit in limits) > 150 and speed > 0.97


def test_an_exit_that_saves_little_even_where_every_draft_stands_is_never_tried():
    """From layer 25 of 30 drafts could gain 8%, and a trial costs a token; fewer rows of the head are worth it."""
    limits, speed = decode(1.0, 100, SMOLLM2[25])
    assert not any(limits) and speed == 1
    drafts = RowDrafts(SMOLLM2[25], 8, share=0.1)
    assert drafts.limit == 1 and drafts.stops == 0


def test_waits_begin_anew_where_drafts_paid():
    drafts = RowDrafts(CHEAP, 8)
    length, waits = 0, []
    for stands in (False, False, True, False):
        for _ in range(40):
            drafts.asked(1, 1.0, leaves=True)
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


class Listener:
    """Hears what is accepted, and what is drafted behind it: behind each step, its tokens that stand and its draft."""

    def __init__(self):
        self.accepted, self.steps, self.ended = [], [], False

    def put(self, value):
        self.accepted += value.tolist() if value.dim() == 1 else []

    def draft(self, value):
        self.steps.append((len(self.accepted), value[0].tolist()))

    def end(self):
        self.ended = True


@pytest.mark.parametrize("kind", ["gpt2", "tied"])
@pytest.mark.parametrize("always", [True, False])
def test_a_listener_hears_of_drafts_and_of_their_verdicts(kind, always):
    policy, model, listener = replace(DRAFTED, draft_always=always), MODELS[kind](3), Listener()
    inputs = inputs_for(model, 3, 1, LENGTH)
    found, trace = model.generate(**inputs, policy=policy, streamer=listener, return_trace=True)
    expected = model.generate(**inputs, policy=policy)
    length = int(trace.lengths[0])
    assert found.tolist() == expected.tolist() and listener.accepted == found[0, -length:].tolist() and listener.ended
    drafted = accepted = 0
    for (stood, pending), (stands, following) in zip(listener.steps, listener.steps[1:], strict=False):
        if stands == stood:  # one more token is pending
            assert following[: len(pending)] == pending and len(following) == len(pending) + 1
            continue
        drafted += len(pending)
        verdict = listener.accepted[stood:stands]
        alike = [one == other for one, other in zip(pending, verdict, strict=False)]
        kept = alike.index(False) if False in alike else len(pending)
        accepted += kept
        assert len(verdict) == kept + 1, "what stands of a draft, and the full model's token behind it"
    last = listener.steps[-1]
    assert not last[1] and last[0] == length, "nothing is pending in the end"
    # A draft that would end the row is verified in its own step, unheard of before.
    assert 0 < drafted <= trace.counts["drafted"][0] and accepted <= trace.counts["accepted"][0]


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
