"""Pruning to frequent tokens: which they are, whose vocabulary they belong to, and what stays as it was without it."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from decoding.frequent import TokenCounts, frequent, read_counts, vocabulary_digest
from decoding.policy import Policy
from decoding.pruning import Given, PruningSettings
from support import (
    FREQUENT,
    MODELS,
    POLICIES,
    VOCABULARY,
    counts_file,
    double_precision,
    inputs_for,
    plain_generate,
    row_alone,
    tiny_gpt2,
    tiny_t5,
)


# ---------------------------------------------------------------------------------------------------------------- files
@given(st.dictionaries(st.integers(0, 99), st.integers(0, 4)))
def test_the_most_frequent_come_first_and_the_lower_of_two_alike(counted):
    counts = TokenCounts.of(Counter(counted), "name", "digest")
    assert sorted(counts.ids) == sorted(token for token, count in counted.items() if count)
    assert [(-count, token) for count, token in zip(counts.counts, counts.ids, strict=True)] == sorted(
        (-count, token) for token, count in counted.items() if count
    )
    total = sum(counted.values())
    assert counts.share(2) == (sum(sorted(counted.values())[-2:]) / total if total else 0)


def test_a_file_says_what_was_written_and_what_is_written_anew(tmp_path):
    path = tmp_path / "counts.json"
    for ids in ((5, 2, 9), (2, 5, 9, 1)):
        written = TokenCounts("tiny", "digest", ids, tuple(range(len(ids), 0, -1)))
        path.write_text(written.text(), encoding="utf-8")
        assert replace(read_counts(path), digest="") == written
        assert len(read_counts(path).digest) == 8


GOOD = {"kind": "token counts 1", "tokenizer": "t", "vocabulary": "v", "ids": [4, 2], "counts": [2, 1]}


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{", "3", "[" * 100_000]
    + [json.dumps(GOOD | change) for change in ({"kind": "x"}, {"ids": 3}, {"ids": []}, {"ids": ["a"]})]
    + [json.dumps(GOOD | change) for change in ({"ids": [2, 2]}, {"ids": [-1]}, {"ids": [1.5]}, {"counts": None})],
)
def test_a_file_that_is_none_is_told_in_a_sentence(tmp_path, content):
    (tmp_path / "counts.json").write_text(content)
    with pytest.raises(ValueError, match=r"counts.json', which holds no counts of tokens: valid is a file that src/"):
        read_counts(tmp_path / "counts.json")


@pytest.mark.parametrize("where", ["nowhere.json", ""])
def test_a_file_that_is_not_there_is_told_in_a_sentence(tmp_path, where):
    with pytest.raises(ValueError, match=r"which cannot be read \(.*\): valid is a file that src/"):
        read_counts(tmp_path / where)
    with pytest.raises(ValueError, match="which cannot be read"):
        Policy(confidence="softmax", vocabulary="frequent", extra={"frequent_tokens": str(tmp_path / where)})


def test_without_a_file_it_is_refused():
    with pytest.raises(ValueError, match="type_vocab_reduct is 'frequent', which needs to know what is frequent"):
        Policy(confidence="softmax", vocabulary="frequent")


def test_counts_of_another_vocabulary_are_refused():
    policy = Policy(confidence="softmax", **FREQUENT)
    policy.check(4, VOCABULARY, "of the tests")
    with pytest.raises(ValueError, match="counts tokens of tiny, whose vocabulary is not this model's: valid are"):
        policy.check(4, VOCABULARY, "another")
    with pytest.raises(ValueError, match="which counts the token 60, but the model knows 50 tokens"):
        policy.check(4, 50)
    with pytest.raises(ValueError, match="which counts the token 60"):
        tiny_gpt2(0, vocab_size=50).generate(torch.tensor([[3, 4]]), policy=policy)


def test_a_vocabulary_is_its_tokens_and_their_ids():
    held = {"a": 0, "b": 1, "\ud800": 2}
    assert vocabulary_digest(held) == vocabulary_digest(dict(reversed(held.items())))
    assert len({vocabulary_digest(each) for each in (held, held | {"a": 1, "b": 0}, held | {"c": 3})}) == 3


def test_results_and_names_say_the_files_content(tmp_path):
    names = []
    for seed in (1, 2):
        (tmp_path / "counts.json").write_text(Path(counts_file(seed)).read_text())
        policy = Policy(
            confidence="softmax", vocabulary="frequent", extra={"frequent_tokens": str(tmp_path / "counts.json")}
        )
        told = policy.describe()["extra"]["frequent_tokens"]
        assert told.startswith("counts-") and f"frequent{told}" in policy.name and told in policy.explain(4)
        names.append(told)
    assert len(set(names)) == 2


# ----------------------------------------------------------------------------------------------------------- which rows
@pytest.mark.parametrize(("k", "most"), [(5, 5), (None, 7), (61, 61)])
def test_the_most_frequent_the_prompts_and_the_ends(k, most):
    path = counts_file(4)
    ids = read_counts(path).ids
    given = Given([torch.tensor([3, 3, 8]), torch.tensor([], dtype=torch.long)], (1, 2))
    first, second = frequent(PruningSettings(VOCABULARY, 4, k=k), given, path)
    assert set(second.tolist()) == {*ids[:most], 1, 2} and set(first.tolist()) == {*ids[:most], 1, 2, 3, 8}


@pytest.mark.parametrize("kind", MODELS)
def test_a_row_has_its_own_prompts_tokens_whatever_the_padding_and_the_others(kind):
    policy = replace(POLICIES["frequent"], k=4, threshold=0.99)
    model = MODELS[kind](2)
    inputs = inputs_for(model, 2, 4) | {"eos_token_id": [1, 5]}
    _, trace = model.generate(**inputs, policy=policy, return_trace=True)
    common = {*read_counts(policy.extra["frequent_tokens"]).ids[:4], 1, 5}
    for row in range(4):
        own = {*row_alone(inputs, row)["input_ids"][0].tolist()} | ({0} if model.config.is_encoder_decoder else set())
        kept = trace.kept[row][~np.isnan(trace.confidences[row])]
        assert (kept == len(common | own)).all()


def test_rows_of_repeated_prompts_have_their_prompts_tokens():
    model, policy = tiny_t5(3), replace(POLICIES["frequent"], threshold=0.99, k=4)
    inputs = inputs_for(model, 3, 2) | {"do_sample": True, "num_return_sequences": 3}
    _, trace = model.generate(**inputs, policy=policy, return_trace=True)
    _, once = model.generate(**inputs_for(model, 3, 2), policy=policy, return_trace=True)
    assert trace.kept[:, 0, 0].tolist() == once.kept[:, 0, 0].repeat(3).tolist()


def test_what_is_handed_over_encoded_has_no_prompt():
    model, policy = tiny_t5(3), replace(POLICIES["frequent"], k=4, threshold=0.99)
    inputs = inputs_for(model, 3, 2)
    encoded = model.get_encoder()(inputs.pop("input_ids"), attention_mask=inputs["attention_mask"])
    _, trace = model.generate(**inputs, encoder_outputs=encoded, policy=policy, return_trace=True)
    assert (trace.kept[:, 0, 0] <= 4 + 2).all()


@pytest.mark.parametrize("kind", MODELS)
@settings(max_examples=5)
@given(
    seed=st.integers(0, 10_000),
    batch=st.integers(1, 4),
    k=st.integers(2, 61),
    copy_share=st.sampled_from([0.0, 0.5, 1.0]),
    threshold=st.sampled_from([0.0, 0.4, 1.0]),
    exits=st.sampled_from([(1, None), (2, 2), (3, 3)]),
    confidence=st.sampled_from(["softmax", "JSD_contrastive_confidence", "reweight_contrastive_text"]),
)
def test_lossless_is_hugging_face_greedy(kind, seed, batch, k, copy_share, threshold, exits, confidence):
    first, last = exits
    given = {"confidence": confidence, "threshold": threshold, "first_exit": first, "last_exit": last}
    given |= {"k": k, "copy_share": copy_share, **FREQUENT}
    policy = Policy(**given, skipped="recompute", verification="exact", num_speculations=4)
    with double_precision(MODELS[kind](seed)) as model:
        inputs = inputs_for(model, seed, batch)
        expected = plain_generate(model, **inputs, do_sample=False)
        assert model.generate(**inputs, policy=policy).tolist() == expected.tolist()


def test_no_exit_multiplies_the_whole_head():
    model = tiny_gpt2(5)
    for name in ("frequent", "frequent, JSD", "frequent, JSD, text", "FREE, frequent"):
        policy = replace(POLICIES[name], copy_share=1.0)
        _, trace = model.generate(**inputs_for(model, 5, 1), policy=policy, return_trace=True)
        tried = ~np.isnan(trace.confidences)
        assert tried.any() and (trace.rows[tried] == trace.kept[tried]).all() and (trace.rows[tried] < VOCABULARY).all()
        assert (trace.amateur_rows.max(-1) < VOCABULARY).all()
        whole = trace.exit_layers == model.num_exit_layers
        assert (trace.rows[:, :, -1][whole] == VOCABULARY).all()
