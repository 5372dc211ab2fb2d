"""What the tests take for granted: how far float32 is off, that decisions near a tie are seen, and what is alike."""

import copy

import pytest
import torch
from transformers import AutoTokenizer

from conftest import questions
from decoding.policy import Policy
from models import DeployGPT2LMHeadModel, DeployT5ForConditionalGeneration
from support import OFF, TIE, alike, away_from_ties, double_precision, tiny_t5
from util.arguments import EMBEDDED_DECODER


@pytest.mark.parametrize("name", ["tiny_t5_dir", "tiny_gpt2_dir", "embedded"])
@torch.no_grad()
def test_float32_is_off_by_less_than_ties_are_measured_by(name, request):
    folder = EMBEDDED_DECODER if name == "embedded" else request.getfixturevalue(name)
    kind = DeployT5ForConditionalGeneration if name == "tiny_t5_dir" else DeployGPT2LMHeadModel
    model, tokenizer = kind.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    for record in questions(24)[::2]:
        inputs = {"input_ids": tokenizer(record["context"][:90], return_tensors="pt")["input_ids"]}
        if model.config.is_encoder_decoder:
            inputs["decoder_input_ids"] = model.generate(**inputs, max_new_tokens=10)[:, :-1]
        found = model(**inputs).logits
        with double_precision(copy.deepcopy(model)) as exact:
            assert (found - exact(**inputs).logits).abs().max() < OFF


def test_a_decision_near_a_tie_is_seen():
    model, ids = tiny_t5(0), torch.tensor([[5, 6, 7]])
    _, trace = model.generate(ids, max_new_tokens=4, policy=Policy(confidence="softmax"), return_trace=True)
    confidence = float(trace.confidences[0, 0, 0])
    for threshold, near in ((confidence + TIE / 2, True), (1.0, False)):
        with pytest.raises(AssertionError, match="near to a tie") if near else away_from_ties(), away_from_ties():
            model.generate(ids, max_new_tokens=4, policy=Policy(confidence="softmax", threshold=threshold))


def test_floats_are_alike_and_all_else_the_same():
    held = {"a": [1, 2.5, None, "x"], "b": {"c": 0.25}}
    assert alike({"a": [1, 2.5 + OFF / 2, None, "x"], "b": {"c": 0.25}}, held)
    for other in (
        {"a": [1, 2.5, None, "x"]},
        held | {"a": [1, 2.5]},
        held | {"b": {"c": 0.26}},
        held | {"a": [2, 2.5]},
    ):
        assert not alike(other, held)
