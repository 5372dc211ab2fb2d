"""GPT-2 through the same loop; laws 1 and 2 are in tests/decoding/test_loop.py."""

import pytest
import torch

from support import POLICIES, double_precision, plain_generate, sources, tiny_gpt2


def inputs(seed=0, batch=3):
    ids, mask = sources(seed, batch, left=True)
    return {"input_ids": ids, "attention_mask": mask, "max_new_tokens": 9}


@pytest.mark.parametrize("setting", [{"scale_attn_by_inverse_layer_idx": True}, {"scale_attn_weights": False}])
def test_attention_scales_of_the_config(setting):
    with double_precision(tiny_gpt2(1, **setting)) as model:
        assert model.generate(**inputs()).tolist() == plain_generate(model, **inputs()).tolist()


def test_prompts_run_at_full_depth():
    _, trace = tiny_gpt2(2).generate(**inputs(), policy=POLICIES["softmax"], return_trace=True)
    assert (trace.exit_layers[:, 0] == 4).all()
    assert (trace.exit_layers[:, 1:] < 4).any()


def test_a_prompt_longer_than_the_positions_is_refused():
    with pytest.raises(ValueError, match="64 positions"):
        tiny_gpt2(3).generate(input_ids=torch.ones(1, 60, dtype=torch.long), max_new_tokens=20)


def test_cross_attention_is_refused():
    with pytest.raises(ValueError, match="add_cross_attention"):
        tiny_gpt2(3, add_cross_attention=True).generate(**inputs())
