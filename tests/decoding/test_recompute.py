"""Pending slots that run the deep layers with the token that needs them, and what the full model's word is used for."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare
from transformers import StoppingCriteria, StoppingCriteriaList

from decoding.call import begin_call
from decoding.confidence import CONFIDENCES, Measure
from decoding.flops import Cost
from decoding.full_depth import run_pending
from decoding.loop import decode, run_token
from decoding.policy import Policy
from decoding.sequences import Decoding, Sequences
from support import (
    MODELS,
    POLICIES,
    double_precision,
    inputs_for,
    plain_generate,
    scripted_unembed,
    sources,
    tiny_gpt2,
    tiny_t5,
)

LENGTH = 12


# ------------------------------------------------------------------------------------------------------------- lossless
@pytest.mark.parametrize("kind", MODELS)
@settings(max_examples=7)
@given(
    seed=st.integers(0, 10_000),
    batch=st.integers(1, 5),
    confidence=st.sampled_from(sorted(set(CONFIDENCES) - {"oracle", "meta"})),
    vocabulary=st.sampled_from(["none", "fixed", "decaying", "adaptive"]),
    threshold=st.sampled_from([0.0, 0.2, 0.5, 0.9, 1.0]),
    exits=st.sampled_from([(1, None), (2, None), (1, 1), (2, 2), (3, 3)]),
    speculations=st.sampled_from([1, 2, 5, None]),
    generation=st.sampled_from(
        [{}, {"repetition_penalty": 1.3}, {"min_new_tokens": 6}, {"no_repeat_ngram_size": 2, "repetition_penalty": 1.1}]
    ),
)
def test_lossless_is_hugging_face_greedy(
    kind, seed, batch, confidence, vocabulary, threshold, exits, speculations, generation
):
    measure = CONFIDENCES[confidence]
    first, last = (None if layer is None else max(layer, measure.first_layer) for layer in exits)
    if not measure.reads_logits or first == last:
        vocabulary = "none"
    policy = Policy(
        confidence=confidence,
        vocabulary=vocabulary,
        threshold=threshold,
        first_exit=first,
        last_exit=last,
        skipped="recompute",
        verification="exact",
        num_speculations=speculations,
        k=9 if vocabulary == "fixed" else None,
    )
    with double_precision(MODELS[kind](seed)) as model:
        inputs = inputs_for(model, seed, batch)
        expected = plain_generate(model, **inputs, **generation, do_sample=False)
        assert model.generate(**inputs, **generation, policy=policy).tolist() == expected.tolist()


# What checkpoints carry in generation_config.json: summarizers, translators, chat models.
HELD = {
    "summaries": {"min_new_tokens": 5, "no_repeat_ngram_size": 3, "max_new_tokens": 11},
    "translation": {"forced_bos_token_id": 7, "forced_eos_token_id": 1, "max_new_tokens": 8},
    "suppressed": {"suppress_tokens": [3, 4], "begin_suppress_tokens": [8, 9], "bad_words_ids": [[11, 12], [13]]},
    "several ends": {"eos_token_id": [1, 5, 17], "exponential_decay_length_penalty": [3, 1.3], "max_new_tokens": 12},
}


@pytest.mark.parametrize("kind", ["tied", "untied", "gpt2"])
@pytest.mark.parametrize("held", HELD)
def test_lossless_honours_a_checkpoints_generation_config(held, kind, tmp_path):
    for seed in range(2):
        made = MODELS[kind](seed)
        made.generation_config.update(**HELD[held])
        made.save_pretrained(tmp_path / str(seed))
        with double_precision(type(made).from_pretrained(tmp_path / str(seed))) as model:
            inputs = inputs_for(model, seed, 3)
            del inputs["max_new_tokens"]
            expected = plain_generate(model, **inputs)
            for threshold in (0.0, 0.4):
                policy = replace(POLICIES["lossless"], threshold=threshold)
                assert model.generate(**inputs, policy=policy).tolist() == expected.tolist()


def test_lossless_keeps_the_full_models_scores():
    kept = {"return_dict_in_generate": True, "output_scores": True, "return_logprobs": True, "return_trace": True}
    with double_precision(tiny_t5(4)) as model:
        inputs = inputs_for(model, 4, 3) | kept | {"repetition_penalty": 1.2}
        expected, full = model.generate(**inputs)
        found, trace = model.generate(**inputs, policy=POLICIES["lossless"])
    assert found.sequences.tolist() == expected.sequences.tolist()
    running = full.exit_layers > 0
    np.testing.assert_allclose(trace.logprobs[running], full.logprobs[running])
    for step, (mine, theirs) in enumerate(zip(found.scores, expected.scores, strict=True)):
        torch.testing.assert_close(mine[running[:, step]], theirs[running[:, step]])


@pytest.mark.parametrize("threshold", [0.0, 0.4])
@torch.no_grad()
def test_lossless_sampling_has_the_full_models_distribution(threshold):
    """Of the first three tokens together, over a vocabulary of nine."""
    policy = Policy(confidence="softmax", threshold=threshold, first_exit=1, skipped="recompute", verification="exact")
    settings = {"max_new_tokens": 3, "do_sample": True, "temperature": 1.5, "top_k": 5, "eos_token_id": []}
    ids = sources(2, 1)[0].clamp_max(8).repeat(1_500, 1)
    expected = torch.zeros(729, dtype=torch.float64)
    with double_precision(tiny_t5(2, layers=3, vocab_size=9)) as model:
        torch.manual_seed(0)
        drafted, trace = model.generate(input_ids=ids, **settings, policy=policy, return_trace=True)
        for first in range(9):  # the full model's own distribution, exactly
            for second in range(9):
                prefix = torch.tensor([[0, first, second]])
                out = model(input_ids=ids[:1], decoder_input_ids=prefix).logits[0] / 1.5
                lowest = out.topk(5).values[:, -1:]
                p = out.masked_fill(out < lowest, -torch.inf).softmax(-1)
                expected[first * 81 + second * 9 :][:9] = p[0, first] * p[1, second] * p[2]
    assert trace.counts["drafted"].sum() > trace.counts["accepted"].sum() > 0
    code = (drafted[:, 1:] * torch.tensor([81, 9, 1])).sum(1)
    counts = torch.bincount(code, minlength=729).double()
    assert counts[expected == 0].sum() == 0
    rare = expected * len(code) < 5
    observed = torch.cat([counts[~rare], counts[rare].sum()[None]]).numpy()
    wanted = torch.cat([expected[~rare], expected[rare].sum()[None]]).numpy() * len(code)
    keep = wanted > 0
    assert chisquare(observed[keep], wanted[keep] * observed.sum() / wanted[keep].sum()).pvalue > 1e-3


@pytest.mark.parametrize("name", ["lossless", "rollback"])
@pytest.mark.parametrize("kind", ["tied", "gpt2", "llama"])
def test_a_replaced_token_has_the_step_that_replaced_it(kind, name):
    """A step emits one token per row, so that steps are missing between two tokens only before one from the last layer,
    which replaced what they had said."""
    replaced = 0
    with double_precision(MODELS[kind](3)) as model:
        for seed in range(4):
            _, trace = model.generate(**inputs_for(model, seed, 3), policy=POLICIES[name], return_trace=True)
            for row, length in enumerate(trace.lengths):
                steps = trace.step[row, :length]
                gaps = np.diff(steps, prepend=0)
                behind_a_gap = trace.exit_layers[row, :length][gaps > 1]
                assert (gaps >= 1).all() and (behind_a_gap == model.num_exit_layers).all()
                replaced += len(behind_a_gap)
    assert replaced


# ------------------------------------------------------------------------------------------------------------ recompute
@pytest.mark.parametrize("name", ["FREE", "FREE, several exits", "FREE, often"])
@pytest.mark.parametrize("kind", MODELS)
def test_keys_and_values_are_the_full_models(kind, name):
    """With every token pending until the end, or on the way: all that is stored is the full model's."""
    policy = replace(POLICIES[name], threshold=0.0)
    with double_precision(MODELS[kind](3)) as model:
        ids, mask = sources(3, 3)
        source = {}
        if model.config.is_encoder_decoder:
            encoded = model.get_encoder()(input_ids=ids, attention_mask=mask)
            source = {"encoder_outputs": encoded, "attention_mask": mask}
        tokens = torch.randint(2, 60, (3, 9), generator=torch.Generator().manual_seed(0))
        held = {}
        for each in (policy, Policy()):
            adapter = model.adapter_class(model, tokens[:, :1], source, capacity=10)
            call = begin_call(adapter, each, Decoding(10, stop=None), batch=3, prompt=1)
            for length in range(1, 9):
                call.recorder.begin_step([each.threshold] * 3, [length - 1] * 3)
                run_token(call, [each.threshold] * 3, tokens[:, length - 1], [length] * 3, [0, 1, 2])
            if each is policy:
                assert call.states.pending(0, 8) > 0
                run_pending(call, [(row, 8) for row in range(3)])
            held[each] = call.states
        for layer in range(1, 5):
            for name in ("keys", "values"):
                found, expected = (getattr(held[each].stored[layer], name)[:, :, :8] for each in (policy, Policy()))
                torch.testing.assert_close(found, expected, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("build", [tiny_t5, tiny_gpt2])
def test_a_block_without_causal_mask_sees_all_of_itself(build):
    """Slots 2 to 4 see keys up to 4; a key to come counts as one at distance 0."""
    model = build(1)
    prompt, source = torch.zeros(1, 1, dtype=torch.long), torch.zeros(1, 1, 24)
    adapter = model.adapter_class(model, prompt, {"encoder_outputs": (source,)}, capacity=8)
    slots = torch.tensor([[2, 3, 4]])
    causal, open_ = adapter.attention_bias_at(slots, 6), adapter.attention_bias_at(slots, 6, torch.tensor([[4]]))
    hidden = torch.finfo(torch.float32).min
    for place, slot in enumerate((2, 3, 4)):
        torch.testing.assert_close(open_[0, :, place, : slot + 1], causal[0, :, place, : slot + 1])
        assert (causal[0, :, place, slot + 1 :] <= hidden).all() and (open_[0, :, place, 5:] <= hidden).all()
        own = causal[0, :, place, slot, None].expand(-1, 4 - slot)
        torch.testing.assert_close(open_[0, :, place, slot + 1 : 5], own)


def test_parallel_causal_mask_changes_what_waiting_slots_see():
    model, policy = tiny_t5(3), replace(POLICIES["FREE"], threshold=0.2)
    ids, _ = sources(3, 1)
    states = []
    for causal in (True, False):
        wanted = {"policy": replace(policy, causal=causal), "return_trace": True, "return_states": True}
        _, trace = model.generate(input_ids=ids, max_new_tokens=LENGTH, **wanted)
        assert trace.counts["run_deep"].sum() > 0
        states.append(trace.states)
    assert not np.allclose(*states, equal_nan=True)


# ------------------------------------------------------------------------------------------------------ scripted layers
class Scripted:
    """Two layers that say, at every slot, what the script has: the first the draft, the second the full model."""

    device = torch.device("cpu")
    num_layers, kv_heads, head_dim, kv_dtype, confidence_head = 2, 1, 1, torch.float32, None
    VOCABULARY = 12

    def __init__(self, drafts, full):
        self.unembed = scripted_unembed(self.VOCABULARY)
        self.says = {1: drafts, 2: full}

    def embed(self, tokens, block):
        return torch.zeros(len(block.spans), self.VOCABULARY)

    def attention_bias(self, slot, keys):
        return None

    def attention_bias_at(self, slots, keys, ends=None):
        return None

    def run_layer(self, layer, hidden, states, block):
        slots = [(span.row, slot) for span in block.spans for slot in range(span.start, span.end)]
        assert len(slots) == len(hidden)
        said = torch.tensor([self.says[layer][row][slot] for row, slot in slots])
        return 9.0 * torch.nn.functional.one_hot(said, self.VOCABULARY)

    def cost(self):
        return Cost(2, 1, 1, 1, 1, np.ones(2, np.int64), False, np.zeros(2, np.int64))


def scripted(drafts, full, monkeypatch, *, most=None, length=9, eos=1, verification="exact", **policy):
    """Every token leaves at layer 1; what comes of it, per row, and the trace."""
    monkeypatch.setitem(CONFIDENCES, "sure", Measure(lambda exit: exit.top2[:, 0] * 0 + 1, lambda tried: 0))
    adapter = Scripted(drafts, full)
    streamed = []

    class Streamer:
        put = staticmethod(lambda column: streamed.append(column.tolist()))
        end = staticmethod(lambda: streamed.append("end"))

    kind = Policy(
        confidence="sure",
        skipped="recompute",
        threshold=0.5,
        verification=verification,
        num_speculations=most,
        draft_always=verification == "exact",
        **policy,
    )
    decoding = Decoding(length + 1, stop=lambda ids, scores: ids[:, -1] == eos, streamer=Streamer())
    result = decode(adapter, torch.zeros(len(full), 1, dtype=torch.long), kind, decoding, prefill=False)
    assert streamed.pop() == "end"
    streamed_rows = torch.tensor(streamed).T.tolist()
    assert streamed_rows == result.sequences[:, 1:].tolist(), "what was streamed was never rolled back"
    rows = [result.sequences[row, 1 : 1 + result.trace.lengths[row]].tolist() for row in range(len(full))]
    return rows, result.trace


FULL = [2, 3, 4, 5, 6, 7, 8, 9, 10]


def test_every_draft_is_accepted(monkeypatch):
    rows, trace = scripted([FULL], [FULL], monkeypatch, most=3)
    assert rows == [FULL]
    assert trace.exit_layers.tolist() == [[1, 1, 1, 2, 1, 1, 1, 2, 1]]
    assert trace.depths.tolist() == [[2] * 9]
    assert trace.discarded == [] and trace.counts["accepted"].tolist() == trace.counts["drafted"].tolist() == [7]
    assert trace.counts["synchronizations"].tolist() == [3]
    assert trace.counts["layers_in_turn"].tolist() == [3 + 2 + 3 + 2 + 1 + 1], "the last by a pending slot"


def test_no_draft_is_accepted(monkeypatch):
    rows, trace = scripted([[0] * 9], [FULL], monkeypatch, most=2)
    assert rows == [FULL]
    # The first of two drafts is replaced by the full model's token; both, and the slots behind it, are wasted.
    assert (trace.exit_layers == 2).all()
    assert trace.counts["accepted"].tolist() == [0]
    assert trace.counts["layers_in_turn"].tolist() == [7 * (1 + 1 + 2) + (1 + 1 + 1) + (1 + 1)], (
        "thrown away is not free"
    )
    assert trace.discarded[:2] == [(0, 0, 1), (0, 1, 1)]
    assert len(trace.wasted) == 2 * 7 + 1, "two slots each time, and at the end one where one draft was pending"


def test_every_third_draft_is_wrong(monkeypatch):
    drafts = [token if slot % 3 != 2 else 0 for slot, token in enumerate(FULL)]
    rows, trace = scripted([drafts], [FULL], monkeypatch)
    assert rows == [FULL]
    assert trace.exit_layers.tolist() == [[1, 1, 2, 1, 1, 2, 1, 1, 2]]
    assert [position for _, position, _ in trace.discarded] == [2, 3, 4, 5, 6, 7, 8, 5, 6, 7, 8, 8]


def test_end_of_sequence_in_a_draft_that_is_rejected(monkeypatch):
    drafts = [2, 3, 1, 0, 0, 0, 0, 0, 0]
    rows, trace = scripted([drafts], [FULL], monkeypatch, length=5)
    assert rows == [FULL[:5]]
    assert (0, 2, 1) in trace.discarded


def test_end_of_sequence_behind_a_draft_that_is_rejected(monkeypatch):
    rows, _ = scripted([[2, 0, 4, 1]], [[2, 1, 4, 5]], monkeypatch, length=4)
    assert rows == [[2, 1]]


def test_end_of_sequence_in_a_draft_that_stands(monkeypatch):
    full = [2, 3, 1, 5, 6, 7, 8, 9, 10]
    rows, trace = scripted([full], [full], monkeypatch)
    assert rows == [[2, 3, 1]]
    assert trace.depths.tolist() == [[2, 2, 2]], "no token is returned that was not verified"


def test_maximum_length_inside_a_draft(monkeypatch):
    rows, trace = scripted([FULL[:4]], [FULL], monkeypatch, length=4)
    assert rows == [FULL[:4]] and trace.counts["drafted"].tolist() == [4]
    rows, _ = scripted([[2, 3, 0, 0]], [FULL], monkeypatch, length=4)
    assert rows == [FULL[:4]]


def test_the_first_token_is_rolled_back(monkeypatch):
    settings = {"verification": "rollback", "rollback_threshold": 1.0, "most": 3}
    rows, trace = scripted([[0, 3, 4, 5, 6, 7, 8, 9, 10]], [FULL], monkeypatch, **settings)
    assert rows == [FULL]
    assert trace.discarded == [(0, 0, 1), (0, 1, 1), (0, 2, 1)]
    assert trace.exit_layers.tolist() == [[2, 1, 1, 1, 2, 1, 1, 1, 2]]


def test_unverified_tokens_may_wait_at_the_end(monkeypatch):
    rows, trace = scripted([FULL], [[0] * 9], monkeypatch, verification="none")
    assert rows == [FULL]
    assert trace.depths.tolist() == trace.exit_layers.tolist() == [[1] * 9]


def test_rows_synchronise_at_different_steps(monkeypatch):
    drafts = [[2, 3, 0, 5, 6, 7, 8, 9, 10], [0, 3, 4, 5, 1, 7, 8, 9, 10]]
    full = [FULL, [5, 3, 4, 5, 1, 7, 8, 9, 10]]
    rows, trace = scripted(drafts, full, monkeypatch, most=3)
    assert rows == [FULL, [5, 3, 4, 5, 1]]
    for row in (0, 1):
        alone, own = scripted([drafts[row]], [full[row]], monkeypatch, most=3)
        assert alone[0] == rows[row]
        mine = trace.row(row)
        assert mine.exit_layers.tolist() == own.exit_layers.tolist()
        assert mine.discarded == own.discarded
        assert {k: v.tolist() for k, v in mine.counts.items()} == {k: v.tolist() for k, v in own.counts.items()}


# ----------------------------------------------------------------------------------------------------------------- sums
class AfterTokens(StoppingCriteria):
    def __call__(self, input_ids, scores, **kwargs):
        return torch.full((len(input_ids),), input_ids.shape[1] >= 6)


def test_stopping_criteria_inside_a_draft():
    with double_precision(tiny_t5(8)) as model:
        inputs = inputs_for(model, 8, 3) | {"stopping_criteria": StoppingCriteriaList([AfterTokens()])}
        expected = model.generate(**inputs)
        assert (
            model.generate(**inputs, policy=replace(POLICIES["lossless"], threshold=0.0)).tolist() == expected.tolist()
        )


def test_flops_count_what_ran_in_vain():
    """A rejected draft costs its layers and its heads; full depth afterwards is counted on top."""
    model = tiny_t5(5)
    inputs = inputs_for(model, 5, 2)
    _, full = model.generate(**inputs, return_trace=True)
    _, trace = model.generate(
        **inputs, policy=replace(POLICIES["lossless"], threshold=0.0, draft_always=True), return_trace=True
    )
    assert trace.wasted
    for row in range(2):
        runs = int(trace.depths[row].sum()) + 4 * sum(each["row"] == row for each in trace.wasted)
        per_pass = full.flops()["feed_forward"][row] / (4 * full.lengths[row])
        # every slot but the last token's passes all layers, as at full depth, and each one thrown away once more
        assert trace.flops()["feed_forward"][row] == pytest.approx(per_pass * runs)
        assert trace.flops()["kv_fill"][row] == 0
    assert trace.flops()["head"].sum() > full.flops()["head"].sum()


def test_sequences_of_a_full_prompt_do_not_run():
    text = Sequences(torch.zeros(2, 3, dtype=torch.long), Decoding(3, stop=None))
    assert text.running == []
