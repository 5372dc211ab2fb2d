"""The laws of decoding, on tiny random models of every architecture."""

import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    StoppingCriteria,
    StoppingCriteriaList,
)

from decoding.confidence import CONFIDENCES, Measure
from decoding.policy import Policy
from decoding.pruning import VOCABULARIES, Given, Pruning
from decoding.states import BUCKETS
from naive import Naive
from support import (
    DECODERS,
    MODELS,
    POLICIES,
    TIE,
    answer_of,
    double_precision,
    inputs_for,
    plain_generate,
    row_alone,
    sources,
    tiny_gpt2,
    tiny_llama,
    tiny_t5,
)


@pytest.mark.parametrize("kind", MODELS)
@settings(max_examples=4)
@given(seed=st.integers(0, 10_000), batch=st.integers(1, 5))
def test_law_1_threshold_one_is_hugging_face_greedy(kind, seed, batch):
    with double_precision(MODELS[kind](seed)) as model:
        inputs = inputs_for(model, seed, batch)
        expected = plain_generate(model, **inputs, do_sample=False)
        for policy in (Policy(), Policy(confidence="softmax", threshold=1.0), Policy(static_exit=4)):
            assert model.generate(**inputs, policy=policy).tolist() == expected.tolist()


@pytest.mark.parametrize("kind", sorted(DECODERS))
@pytest.mark.parametrize("policy", ["full", "softmax", "FREE", "lossless"])
def test_a_prompt_in_pieces_says_what_it_says_whole(kind, policy, monkeypatch):
    with double_precision(MODELS[kind](3)) as model:
        inputs = inputs_for(model, 3, 3)
        whole = model.generate(**inputs, policy=POLICIES[policy])
        monkeypatch.setattr("decoding.prompts.PROMPT_PIECE", 4)
        assert model.generate(**inputs, policy=POLICIES[policy]).tolist() == whole.tolist()


@pytest.mark.parametrize("kind", MODELS)
@settings(max_examples=6)
@given(policy=st.sampled_from(sorted(POLICIES)), seed=st.integers(0, 10_000), batch=st.integers(2, 7))
def test_law_2_a_batch_is_its_rows_and_padding_changes_nothing(kind, policy, seed, batch):
    with double_precision(MODELS[kind](seed)) as model:
        inputs = inputs_for(model, seed, batch)
        together, trace = model.generate(**inputs, policy=POLICIES[policy], return_trace=True)
        for row in range(batch):
            single = row_alone(inputs, row)
            alone, own = model.generate(**single, policy=POLICIES[policy], return_trace=True)
            assert answer_of(model, inputs, together, row) == answer_of(model, single, alone, 0)
            mine = trace.row(row)
            assert mine.exit_layers.tolist() == own.exit_layers.tolist()
            assert mine.kept.tolist() == own.kept.tolist()
            assert mine.members.tolist() == own.members.tolist()
            np.testing.assert_allclose(mine.confidences, own.confidences, atol=1e-6)
            if POLICIES[policy].prunes:
                continue  # whether rows of the head are copied or it is multiplied whole depends on the batch
            assert mine.rows.tolist() == own.rows.tolist()
            assert mine.amateur_rows.tolist() == own.amateur_rows.tolist()
            assert {k: v.tolist() for k, v in mine.flops().items()} == {k: v.tolist() for k, v in own.flops().items()}


def test_rows_leave_at_different_layers():
    """Otherwise the law above would hold for a loop that cannot do it."""
    model = tiny_t5(3)
    _, trace = model.generate(**inputs_for(model, 3, 8), policy=POLICIES["softmax"], return_trace=True)
    per_step = [set(column[column > 0]) for column in trace.exit_layers.T]
    assert any(len(layers) > 1 for layers in per_step)


UNVERIFIED = [name for name, policy in POLICIES.items() if policy.verifies is None]


@pytest.mark.parametrize("name", UNVERIFIED)
@pytest.mark.parametrize("kind", MODELS)
def test_tokens_exits_and_confidences_are_those_of_a_naive_decode(kind, name):
    """Copied states, lazily filled, are those that copying at once gives; pending slots get the full model's."""
    seed, policy = random.randrange(10_000), POLICIES[name]
    with double_precision(MODELS[kind](seed)) as model:
        inputs = inputs_for(model, seed, 2, length=8)
        found, trace = model.generate(**inputs, policy=policy, return_trace=True)
        for row in range(2):
            naive = Naive(model, row_alone(inputs, row)["input_ids"][0].tolist(), policy, length=8)
            tokens, exits = naive.generate()
            assert answer_of(model, inputs, found, row) == tokens, f"seed {seed}"
            mine = trace.row(row)
            assert mine.exit_layers[0].tolist() == exits
            tried = mine.confidences[~np.isnan(mine.confidences)]  # float32
            np.testing.assert_allclose(tried, naive.confidences, atol=1e-6)


class Recording(LogitsProcessor):
    def __init__(self):
        self.seen = []

    def __call__(self, input_ids, scores):
        self.seen.append((input_ids.clone(), scores.clone()))
        return scores


def test_processors_act_on_the_emitted_token_only():
    """Confidence reads raw logits, so the exits stay while the tokens change."""
    recording, penalty = Recording(), RepetitionPenaltyLogitsProcessor(3.0)
    with double_precision(tiny_t5(5)) as model:
        inputs = inputs_for(model, 5, 3) | {"policy": POLICIES["softmax"], "return_trace": True}
        _, plain = model.generate(**inputs)
        out, trace = model.generate(**inputs, logits_processor=LogitsProcessorList([recording, penalty]))
    assert trace.exit_layers[:, 0].tolist() == plain.exit_layers[:, 0].tolist()
    np.testing.assert_allclose(trace.confidences[:, 0], plain.confidences[:, 0], atol=1e-6)
    for step, (ids, scores) in enumerate(recording.seen):
        assert ids.shape[1] == step + 1
        running = trace.exit_layers[:, step] > 0
        expected = penalty(ids, scores.clone()).argmax(-1)
        assert out[running, step + 1].tolist() == expected[running].tolist()


@pytest.mark.parametrize("kind", MODELS)
def test_repetition_penalty_equals_hugging_face(kind):
    settings = {"repetition_penalty": 1.3, "no_repeat_ngram_size": 2, "min_new_tokens": 4}
    with double_precision(MODELS[kind](6)) as model:
        inputs = inputs_for(model, 6, 3) | settings
        assert model.generate(**inputs).tolist() == plain_generate(model, **inputs).tolist()


class Streamer:
    def __init__(self):
        self.tokens, self.ended = [], False

    def put(self, value):
        self.tokens += value.flatten().tolist()

    def end(self):
        self.ended = True


@pytest.mark.parametrize("build", [tiny_t5, tiny_gpt2])
def test_streamer_gets_prompt_then_tokens(build):
    model, streamer = build(7), Streamer()
    ids, _ = sources(7, 1)
    out = model.generate(input_ids=ids, max_new_tokens=8, streamer=streamer, policy=POLICIES["softmax"])
    assert streamer.tokens == out[0].tolist()
    assert streamer.ended


class StopAfter(StoppingCriteria):
    def __init__(self, lengths):
        self.lengths = torch.tensor(lengths)

    def __call__(self, input_ids, scores, **kwargs):
        return input_ids.shape[1] >= self.lengths


def test_stopping_criteria_end_rows_one_by_one():
    model = tiny_t5(8)
    ids, mask = sources(8, 4)
    _, trace = model.generate(
        input_ids=ids,
        attention_mask=mask,
        max_new_tokens=9,
        stopping_criteria=StoppingCriteriaList([StopAfter([3, 5, 2, 100])]),
        eos_token_id=[],
        policy=POLICIES["softmax"],
        return_trace=True,
    )
    assert trace.lengths.tolist() == [2, 4, 1, 9]


def test_sampling_follows_the_exit_distribution():
    """With one exit at layer 1 always taken, tokens are drawn from the processed distribution there."""
    model = tiny_t5(9)
    ids = sources(9, 1)[0].repeat(4000, 1)
    torch.manual_seed(0)
    out, trace = model.generate(
        input_ids=ids,
        max_new_tokens=1,
        do_sample=True,
        temperature=0.7,
        top_k=0,
        policy=Policy(static_exit=1),
        return_trace=True,
    )
    logits = model.generate(
        input_ids=ids[:1],
        max_new_tokens=1,
        policy=Policy(static_exit=1),
        return_dict_in_generate=True,
        output_logits=True,
    ).logits[0]
    expected = (logits[0] / 0.7).softmax(-1)
    found = torch.bincount(out[:, 1], minlength=len(expected)) / len(out)
    assert (found - expected).abs().max() < 0.03
    assert set(trace.exit_layers.flatten()) == {1}


def test_logprobs_are_those_of_the_exit():
    model = tiny_t5(10)
    inputs = inputs_for(model, 10, 2)
    output, trace = model.generate(
        **inputs,
        policy=POLICIES["softmax"],
        return_trace=True,
        return_logprobs=True,
        return_dict_in_generate=True,
        output_logits=True,
    )
    for step, logits in enumerate(output.logits):
        expected = logits.log_softmax(-1).gather(1, output.sequences[:, step + 1 : step + 2])[:, 0]
        running = trace.exit_layers[:, step] > 0
        np.testing.assert_allclose(trace.logprobs[running, step], expected[running], atol=1e-5)


PRUNED = [name for name, policy in POLICIES.items() if policy.prunes]


@pytest.mark.parametrize("batch", [1, 6])
@pytest.mark.parametrize("name", [name for name in PRUNED if POLICIES[name].verifies is None])
def test_law_3_pruned_logits_are_the_full_ones_on_the_true_top_k(name, batch):
    """Replayed without cache or pruning: from one exit to the next the tokens kept are the likeliest of those kept, and
    what a token left with are the layer's own logits on them."""
    policy = replace(POLICIES[name], emit="exit", threshold=0.95)
    with double_precision(tiny_t5(11, layers=6)) as model:
        inputs = inputs_for(model, 11, batch) | {"return_dict_in_generate": True, "output_logits": True}
        out, trace = model.generate(**inputs, policy=policy, return_trace=True)
        layerwise = [model.generate(**inputs, policy=Policy(static_exit=layer)) for layer in range(1, 6)]
    shrunk, everything = 0, torch.arange(model.config.vocab_size)
    for row in range(batch):
        kept = everything
        if policy.first is not None:
            given = Given([row_alone(inputs, row)["input_ids"][0], torch.tensor([0])], [1])
            first, start = policy.first(policy.pruning_settings(6, len(everything)), given)
            kept = torch.cat([first, start]).unique()
        for layer in range(policy.first_exit, trace.exit_layers[row, 0] + 1):
            if layer == 6:
                kept = everything  # without an exit the token comes from the whole head
            if layer not in policy.exit_layers(6):
                continue
            logits = layerwise[layer - 1].logits[0][row]
            assert trace.kept[row, 0, layer - 1] == len(kept)
            if layer < trace.exit_layers[row, 0] and layer < 5:
                kept = kept[logits[kept].topk(trace.kept[row, 0, layer]).indices]
                shrunk += 1
        found = out.logits[0][row].isfinite().nonzero().flatten()
        assert found.tolist() == sorted(kept.tolist())
        depth = trace.exit_layers[row, 0]
        if depth < 6:
            torch.testing.assert_close(out.logits[0][row][found], layerwise[depth - 1].logits[0][row][found])
    assert shrunk or policy.first is not None


@pytest.mark.parametrize("name", PRUNED)
def test_copying_rows_of_the_head_changes_no_result(name):
    """In float64: a share of 0 multiplies the whole head always, 1 copies rows wherever it can."""
    with double_precision(tiny_t5(16, layers=6)) as model:
        inputs = inputs_for(model, 16, 4)
        whole, masked = model.generate(**inputs, policy=replace(POLICIES[name], copy_share=0.0), return_trace=True)
        copied, own = model.generate(**inputs, policy=replace(POLICIES[name], copy_share=1.0), return_trace=True)
        assert copied.tolist() == whole.tolist()
        assert own.exit_layers.tolist() == masked.exit_layers.tolist()
        assert own.kept.tolist() == masked.kept.tolist()
        np.testing.assert_allclose(own.confidences, masked.confidences, atol=1e-6)
        assert own.rows.sum() < masked.rows.sum()


def test_a_kind_of_pruning_of_ones_own_is_a_function_and_a_row(monkeypatch):
    monkeypatch.setitem(VOCABULARIES, "by depth", Pruning(lambda settings, layer, confidence: 20 - 3 * layer))
    model = tiny_t5(11, layers=6)
    _, trace = model.generate(
        **inputs_for(model, 11, 1),
        policy=Policy(confidence="softmax", vocabulary="by depth", threshold=0.99, copy_share=1.0),
        return_trace=True,
    )
    full = model.config.vocab_size
    deepest = trace.exit_layers[0].argmax()
    assert trace.kept[0, deepest, :5].tolist() == [full, 14, 11, 8, 5]


def test_nothing_is_scattered_to_the_vocabulary_unless_somebody_looks(monkeypatch):
    model = tiny_t5(17, layers=6)
    inputs = inputs_for(model, 17, 4)
    looking = LogitsProcessorList([Recording()])
    expected = model.generate(**inputs, policy=POLICIES["fixed"], logits_processor=looking)
    monkeypatch.setattr("decoding.emission.Emission.logits", None)
    assert model.generate(**inputs, policy=POLICIES["fixed"]).tolist() == expected.tolist()


def test_sampling_draws_from_the_survivors_alone():
    """The confidence is 0.22 at the first exit and 0.83 at the second, where three tokens survive."""
    model = tiny_t5(22, layers=6)
    ids = sources(22, 1)[0].repeat(500, 1)
    policy = Policy(confidence="softmax", vocabulary="fixed", threshold=0.5, k=3, copy_share=1.0)
    out, trace = model.generate(
        input_ids=ids, max_new_tokens=1, do_sample=True, top_k=0, policy=policy, return_trace=True
    )
    assert (trace.exit_layers[:, 0] == 2).all()
    assert 1 < len(set(out[:, 1].tolist())) <= 3


def test_the_contrastive_token_is_the_argmax_of_s():
    """The first token of each row, from the measure's own scores; they differ from p_l's somewhere."""
    policy = Policy(confidence="contrastive_decoding", threshold=0.2, alpha=0.05)
    with double_precision(tiny_t5(19, layers=6)) as model:
        inputs = inputs_for(model, 19, 24) | {"return_dict_in_generate": True, "output_logits": True}
        plain, trace = model.generate(**inputs, policy=policy, return_trace=True)
        output, own = model.generate(**inputs, policy=replace(policy, emit="contrastive"), return_trace=True)
    np.testing.assert_array_equal(trace.exit_layers[:, 0], own.exit_layers[:, 0])
    plain, contrasted = plain.sequences[:, 1], output.sequences[:, 1]
    assert (plain != contrasted).any()
    assert output.logits[0].argmax(-1).tolist() == contrasted.tolist()
    left = trace.exit_layers[:, 0] < 6
    several = trace.members[np.arange(24), 0, np.minimum(trace.exit_layers[:, 0], 5) - 1] > 1
    assert ((plain == contrasted).numpy() | (left & several)).all(), "with one plausible token s and p_l say the same"


# -------------------------------------------------------------------------------------------------------------- oracle
def test_the_oracle_at_threshold_one_is_the_full_model():
    with double_precision(tiny_t5(21)) as model:
        inputs = inputs_for(model, 21, 3)
        assert (
            model.generate(**inputs, policy=Policy(confidence="oracle")).tolist() == model.generate(**inputs).tolist()
        )


# -------------------------------------------------------------------------------------------------------------- states
@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("policy", ["full", "softmax"])
def test_states_of_every_layer_are_kept_where_asked_for(kind, policy):
    """h^0 to the layer a token left from; the last one, through norm and head, says the token."""
    with double_precision(MODELS[kind](23)) as model:
        inputs = inputs_for(model, 23, 3)
        tokens, trace = model.generate(**inputs, policy=POLICIES[policy], return_trace=True, return_states=True)
        layers = np.arange(trace.states.shape[2])
        ran = ~np.isnan(trace.states).any(-1)
        expected = (layers[None, None] <= trace.exit_layers[..., None]) & (trace.exit_layers > 0)[..., None]
        np.testing.assert_array_equal(ran, expected)
        unembed = model.unembed()
        for row, length in enumerate(trace.lengths):
            layers = trace.exit_layers[row, :length].tolist()
            last = torch.from_numpy(trace.states[row, np.arange(length), layers]).double()  # it was float32
            with torch.no_grad():
                logits = unembed.logits(unembed.normalise_each(last[None], layers)[0])
            said = logits[range(length), answer_of(model, inputs, tokens, row)]
            assert (said > logits.amax(-1) - TIE).all()
        _, plain = model.generate(**inputs, policy=POLICIES[policy], return_trace=True)
        assert plain.states is None


def test_trace_of_a_finished_row_is_empty_after_its_end():
    model = tiny_t5(12)
    sequences, trace = model.generate(**inputs_for(model, 12, 6), policy=POLICIES["softmax"], return_trace=True)
    tokens = sequences[:, 1:]
    for row, length in enumerate(trace.lengths):
        assert (trace.exit_layers[row, length:] == 0).all()
        assert np.isnan(trace.confidences[row, length:]).all()
        assert (trace.rows[row, length:] == 0).all()
        assert (tokens[row, length:] == 0).all()
        assert length == tokens.shape[1] or tokens[row, length - 1] == 1


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("policy", ["full", "softmax", "lossless"])
def test_buckets_of_key_lengths_change_nothing(monkeypatch, kind, policy):
    """What a GPU does: keys are read in multiples of 64, those to come masked."""
    with double_precision(MODELS[kind](13)) as model:
        inputs = inputs_for(model, 13, 4)
        exact, trace = model.generate(**inputs, policy=POLICIES[policy], return_trace=True)
        monkeypatch.setitem(BUCKETS, "cpu", 8)
        found, bucketed = model.generate(**inputs, policy=POLICIES[policy], return_trace=True)
        assert found.tolist() == exact.tolist()
        assert bucketed.exit_layers.tolist() == trace.exit_layers.tolist()


def test_a_measure_of_ones_own_is_a_function_and_a_row(monkeypatch):
    def margin(exit):
        top2 = exit.logits.topk(2, dim=-1).values
        return torch.tanh(top2[:, 0] - top2[:, 1])

    monkeypatch.setitem(CONFIDENCES, "margin", Measure(margin, lambda tried: 3 * tried.rows))
    model = tiny_t5(14)
    inputs = inputs_for(model, 14, 3)
    _, trace = model.generate(**inputs, policy=Policy(confidence="margin", threshold=0.8), return_trace=True)
    assert 0 < np.nanmin(trace.confidences) < np.nanmax(trace.confidences) < 1
    assert len(set(trace.exit_layers.flatten())) > 1


@pytest.mark.parametrize("kind", ["tied", "gpt2"])
@pytest.mark.parametrize("shared", [{}, {"skipped": "recompute"}])
def test_a_token_leaves_above_the_threshold_and_not_at_it(monkeypatch, kind, shared):
    monkeypatch.setitem(CONFIDENCES, "half", Measure(lambda exit: torch.full((len(exit.rows),), 0.5), lambda tried: 0))
    model = MODELS[kind](2)
    depths = {}
    for threshold in (0.5, 0.49):
        policy = Policy(confidence="half", threshold=threshold, **shared)
        _, trace = model.generate(**inputs_for(model, 2, 3), policy=policy, return_trace=True)
        first = 0 if model.config.is_encoder_decoder else 1  # what follows a prompt comes from the last layer
        exits = trace.exit_layers[:, first:]
        depths[threshold] = set(exits[exits > 0].tolist())
    assert depths == {0.5: {model.num_exit_layers}, 0.49: {1}}


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("build", [tiny_t5, tiny_gpt2, tiny_llama])
@pytest.mark.parametrize("policy", POLICIES)
def test_cuda_decodes_what_the_cpu_decodes(build, policy):
    with double_precision(build(15)) as model:
        inputs = inputs_for(model, 15, 4)
        expected, trace = model.generate(**inputs, policy=POLICIES[policy], return_trace=True)
        model.cuda()
        moved = {name: value.cuda() if torch.is_tensor(value) else value for name, value in inputs.items()}
        found, own = model.generate(**moved, policy=POLICIES[policy], return_trace=True)
        assert found.tolist() == expected.tolist()
        assert own.exit_layers.tolist() == trace.exit_layers.tolist()
