"""What decoder-only adapters share, and what is special to one of them."""

import pytest
import torch

from decoding.policy import Policy
from models import DEPLOYED, deploying_class
from support import (
    DECODERS,
    calm,
    double_precision,
    inputs_for,
    plain_generate,
    rounding,
    sources,
    tiny_gpt2,
    tiny_llama,
    tiny_opt,
)


@pytest.mark.parametrize("kind", DECODERS)
@torch.no_grad()
def test_every_layers_states_are_the_models_own(kind):
    with double_precision(DECODERS[kind](4)) as model:
        ids, _ = sources(4, 1)
        _, trace = model.generate(
            ids, max_new_tokens=1, policy=Policy(), return_trace=True, return_states=True, eos_token_id=[]
        )
        expected = model(ids, output_hidden_states=True).hidden_states
        for layer in range(model.num_exit_layers):
            found = torch.from_numpy(trace.states[0, 0, layer])  # a trace holds float32
            torch.testing.assert_close(found.double(), expected[layer][0, -1], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", DECODERS)
@torch.no_grad()
def test_half_precision_logits_are_the_librarys(kind, dtype):
    """As far as roundings along the way may add up: twenty in each layer, see `test_deploying_t5`."""
    model = calm(DECODERS[kind](3)).to(dtype)
    inputs = inputs_for(model, 3, 3, length=6)
    out = model.generate(**inputs, return_dict_in_generate=True, output_logits=True, eos_token_id=[])
    width = inputs["input_ids"].shape[1]
    mask = torch.nn.functional.pad(inputs["attention_mask"], (0, 5), value=1)
    positions = (mask.cumsum(-1) - 1).clamp_min(0)
    teacher = model(out.sequences[:, :-1], attention_mask=mask, position_ids=positions, use_cache=False)
    expected = teacher.logits[:, width - 1 :].float()
    tolerance = rounding(dtype, 4 * 20, float(expected.abs().max()))
    torch.testing.assert_close(torch.stack(out.logits, 1), expected, atol=tolerance, rtol=0)


@pytest.mark.parametrize("kind", DECODERS)
def test_a_weight_changed_in_place_shows_in_the_next_call(kind):
    with double_precision(DECODERS[kind](5)) as model:
        inputs = inputs_for(model, 5, 2, length=6)
        model.generate(**inputs, policy=Policy())
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(1.3)
        assert model.generate(**inputs, policy=Policy()).tolist() == plain_generate(model, **inputs).tolist()


def test_an_unsupported_architecture_is_refused_with_those_that_are():
    class Config:
        model_type = "bloom"

    with pytest.raises(ValueError, match=r"model_type is 'bloom'.* gpt2, llama, mistral, qwen2, qwen3, gpt_neox, opt"):
        deploying_class(Config)
    kin = {"llama", "mistral", "qwen2", "qwen3", "phi", "stablelm", "olmo2", "granite", "gemma3_text"}
    assert {"t5", "mt5", "gpt2", "gpt_neox", "opt"} | kin <= set(DEPLOYED)


@pytest.mark.parametrize("build", [tiny_gpt2, tiny_opt])
def test_more_tokens_than_positions_are_refused(build):
    with pytest.raises(ValueError, match="may take 69 tokens together, but the model has 64 positions"):
        build(0).generate(sources(0, 1)[0], max_new_tokens=60, policy=Policy())


def test_an_opt_that_projects_before_its_head_is_refused():
    with pytest.raises(ValueError, match="OPT-350m"):
        tiny_opt(0, word_embed_proj_dim=12).generate(sources(0, 1)[0], max_new_tokens=2, policy=Policy())


SCALED = {
    "linear": {"rope_type": "linear", "factor": 4.0, "rope_theta": 10_000.0},
    "llama3": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 16,
        "rope_theta": 500_000.0,
    },
    "yarn": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "rope_theta": 10_000.0},
}


@pytest.mark.parametrize("name", SCALED)
def test_scaled_rotary_positions_are_the_librarys(name):
    with double_precision(tiny_llama(6, rope_parameters=SCALED[name])) as model:
        ids, mask = sources(6, 3, left=True)
        inputs = {"input_ids": ids, "attention_mask": mask, "max_new_tokens": 14}
        for policy in (
            Policy(),
            Policy(confidence="softmax", threshold=0.3, skipped="recompute", verification="exact"),
        ):
            assert model.generate(**inputs, policy=policy).tolist() == plain_generate(model, **inputs).tolist()


@pytest.mark.parametrize("name", ["inputs_embeds", "position_ids"])
def test_what_the_loop_would_ignore_is_refused(name):
    model, (ids, _) = tiny_llama(0), sources(0, 1)
    with pytest.raises(ValueError, match=f"generate got {name}, but the decode loop embeds input_ids itself"):
        model.generate(ids, **{name: torch.zeros(1, 9, 24)}, policy=Policy())


def test_positions_that_change_with_the_length_are_refused_beyond_it():
    rotary = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10_000.0}
    with double_precision(tiny_llama(6, rope_parameters=rotary)) as model:
        ids, _ = sources(6, 1)
        expected = plain_generate(model, input_ids=ids, max_new_tokens=9)
        assert model.generate(ids, max_new_tokens=9, policy=Policy()).tolist() == expected.tolist()
        with pytest.raises(ValueError, match="'dynamic', which change beyond 64 tokens: prompt and answer may take 69"):
            model.generate(ids, max_new_tokens=60, policy=Policy())
