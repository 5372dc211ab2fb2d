"""The analytical counts against torch's counter on real calls, and against the sum of their parts."""

from dataclasses import replace

import numpy as np
import pytest
from torch.utils.flop_counter import FlopCounterMode

from decoding.confidence import CONFIDENCES
from decoding.flops import PARTS, Tried
from decoding.policy import Policy
from support import MODELS, POLICIES, sources, tiny_t5


def plain_attention(query, key, value, attn_mask=None, scale=None):
    """torch's counter does not know every fused attention kernel; these are the same products."""
    scores = query @ key.transpose(-1, -2)
    return scores.softmax(-1) @ value


# What the oracle looks up at the last layer is not counted.
COUNTED = [name for name, policy in POLICIES.items() if not policy.looks_ahead]


# Of these the layers alone are others; what happens at their exits is counted as T5's and GPT-2's.
OTHERS = [kind for kind in MODELS if kind not in ("tied", "gpt2", "adapters merged, translators")]
CASES = [(kind, name) for kind in MODELS for name in COUNTED if kind not in OTHERS]
CASES += [(kind, name) for kind in OTHERS for name in ("full", "static", "softmax", "fixed", "FREE", "lossless")]


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_total_equals_torchs_counter(monkeypatch, kind, name):
    counted(monkeypatch, kind, name)


def counted(monkeypatch, kind, name):
    """FLOPs of an answer, by our count, which is torch's."""
    monkeypatch.setattr("torch.nn.functional.scaled_dot_product_attention", plain_attention)
    model = MODELS[kind](1)
    model.set_attn_implementation("eager")
    ids, _ = sources(1, 1)
    with FlopCounterMode(display=False) as counter:
        _, trace = model.generate(input_ids=ids, max_new_tokens=9, policy=POLICIES[name], return_trace=True)
    parts = trace.flops()
    products = sum(parts[part][0] for part in PARTS if part != "confidence_elementwise")
    assert products == counter.get_total_flops()
    return products


def test_pieces_of_a_prompt_are_counted_as_they_run(monkeypatch):
    monkeypatch.setattr("decoding.prompts.PROMPT_PIECE", 4)
    in_pieces = counted(monkeypatch, "qwen3", "full")
    monkeypatch.setattr("decoding.prompts.PROMPT_PIECE", 512)
    assert in_pieces < counted(monkeypatch, "qwen3", "full"), "less is masked"


@pytest.mark.parametrize("name", [name for name, policy in POLICIES.items() if policy.prunes])
def test_pruned_exits_cost_their_rows(name):
    """Confidence-FLOPs are 2 D per row multiplied, amateurs' included, and fall from V to k after the first exit."""
    model = tiny_t5(1, layers=6)
    ids, _ = sources(1, 1)
    policy = replace(POLICIES[name], threshold=1.0, copy_share=1.0)
    _, trace = model.generate(input_ids=ids, max_new_tokens=9, policy=policy, return_trace=True)
    width, size = model.config.d_model, model.config.vocab_size
    exits = slice(policy.first_exit - 1, 5 if policy.last_exit is None else policy.last_exit)
    tried, rows = trace.kept[0][:, exits], trace.rows[0][:, exits]
    assert ((tried[:, 0] < size) if policy.first else (tried[:, 0] == size)).all()
    assert (tried[:, 1:] < size).all() and (np.diff(tried, axis=1) <= 0).all()
    assert (rows >= tried).all() and (rows[:, 1:] < size).all()
    assert trace.flops()["confidence"][0] == 2 * width * (rows.sum() + trace.amateur_rows.sum())
    if policy.vocabulary == "fixed":
        assert (rows[:, 1:] == policy.k).all()


def test_elementwise_arithmetic_of_a_contrast_grows_with_v_head():
    elementwise = CONFIDENCES["JSD_contrastive_confidence"].elementwise
    alone, pair = (elementwise(Tried(width=8, layer=5, rows=100, members=members)) for members in (1, 2))
    assert alone == 500 and pair == 500 + 2 * (6 + 3 * 12)
    assert CONFIDENCES["reweight_contrastive_text"].elementwise(Tried(8, 5, 100, 2)) == 512


def test_meta_counts_its_classifier(monkeypatch):
    monkeypatch.setattr("torch.nn.functional.scaled_dot_product_attention", plain_attention)
    model = tiny_t5(2, has_cm_head=True)
    model.set_attn_implementation("eager")
    ids, _ = sources(2, 1)
    policy = Policy(confidence="meta", threshold=0.5)
    with FlopCounterMode(display=False) as counter:
        _, trace = model.generate(input_ids=ids, max_new_tokens=9, policy=policy, return_trace=True)
    parts = trace.flops()
    assert sum(parts[part][0] for part in PARTS if part != "confidence_elementwise") == counter.get_total_flops()
    tried = (~np.isnan(trace.confidences)).sum()
    width = model.config.d_model
    assert parts["confidence"][0] == tried * 2 * (width * width + 2 * width)


def test_a_static_exit_costs_its_share_of_the_layers():
    model = tiny_t5(3, layers=6)
    ids, mask = sources(3, 3)
    inputs = {"input_ids": ids, "attention_mask": mask, "max_new_tokens": 7, "min_new_tokens": 7}
    _, full = model.generate(**inputs, return_trace=True)
    _, half = model.generate(**inputs, policy=Policy(static_exit=3), return_trace=True)
    for part in ("self_attention", "cross_attention", "feed_forward"):
        np.testing.assert_allclose(half.flops()[part], full.flops()[part] / 2)
    np.testing.assert_array_equal(half.flops()["head"], full.flops()["head"])
    assert (half.flops()["kv_fill"] == 0).all()


def test_confidence_reads_the_head_once_per_exit_tried():
    model = tiny_t5(4)
    ids, mask = sources(4, 4)
    _, trace = model.generate(
        input_ids=ids, attention_mask=mask, max_new_tokens=7, policy=POLICIES["softmax"], return_trace=True
    )
    tried = (~np.isnan(trace.confidences)).sum((1, 2))
    per_head = 2 * model.config.d_model * model.config.vocab_size
    np.testing.assert_array_equal(trace.flops()["confidence"], tried * per_head)
    whole = (trace.exit_layers == 4).sum(1)
    np.testing.assert_array_equal(trace.flops()["head"], whole * per_head)


def test_ended_rows_cost_nothing():
    """A row costs the same beside rows that run longer as cut out at its own end."""
    model = tiny_t5(12)
    ids, mask = sources(12, 6)
    _, trace = model.generate(
        input_ids=ids, attention_mask=mask, max_new_tokens=12, policy=POLICIES["softmax"], return_trace=True
    )
    together = trace.flops()
    for row in range(6):
        alone = trace.row(row).flops()
        assert {part: alone[part][0] for part in PARTS} == {part: together[part][row] for part in PARTS}
