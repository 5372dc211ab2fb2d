"""generate of the deployed T5s: dtypes, checkpoints, in-place changes, what Hugging Face's callers expect of it."""

import pytest
import torch
from transformers import T5Config
from transformers.generation import GenerateEncoderDecoderOutput

from decoding.policy import Policy
from models import DeployT5ForConditionalGeneration, deploying_class
from support import POLICIES, plain_generate, sources, tiny_t5


def inputs(seed=0, batch=3):
    ids, mask = sources(seed, batch)
    return {"input_ids": ids, "attention_mask": mask, "max_new_tokens": 9}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kept", [False, True], ids=["all half", "wo in float32"])
@torch.no_grad()
def test_half_precision_logits_are_the_librarys(dtype, kept):
    """Token for token would be asking too much where roundings tie; the logits must agree to the dtype's precision."""
    model = tiny_t5(1, gated=True, tied=False).to(dtype)
    if kept:  # as from_pretrained loads T5 in float16
        for block in [*model.encoder.block, *model.decoder.block]:
            block.layer[-1].DenseReluDense.wo.float()
    ids, mask = sources(1, 3)
    out = model.generate(
        input_ids=ids, attention_mask=mask, max_new_tokens=6, return_dict_in_generate=True, output_logits=True
    )
    teacher = model(input_ids=ids, attention_mask=mask, decoder_input_ids=out.sequences[:, :-1], use_cache=False).logits
    found = torch.stack(out.logits, 1)
    running = (out.sequences[:, :-1] != 1).cumprod(1).bool()
    tolerance = 0.25 if dtype == torch.bfloat16 else 0.04
    torch.testing.assert_close(found[running], teacher[running].float(), atol=tolerance, rtol=0)
    for name in ("softmax", "state", "entropy"):
        _, trace = model.generate(**inputs(1), policy=POLICIES[name], return_trace=True)
        assert (trace.exit_layers[:, 0] > 0).all()


def test_law_5_a_weight_changed_in_place_shows_at_once():
    model = tiny_t5(2)
    before = model.generate(**inputs(), policy=POLICIES["softmax"])
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter))
    fresh = DeployT5ForConditionalGeneration(model.config).eval()
    fresh.load_state_dict(model.state_dict())
    after = model.generate(**inputs(), policy=POLICIES["softmax"])
    assert after.tolist() != before.tolist()
    assert after.tolist() == fresh.generate(**inputs(), policy=POLICIES["softmax"]).tolist()


@pytest.mark.parametrize("kind", [{}, {"tied": False, "gated": True}, {"mt5": True, "gated": True, "tied": False}])
@pytest.mark.parametrize("shard", ["10GB", "20KB"])
def test_checkpoints_load_sharded_or_not(tmp_path, kind, shard):
    model = tiny_t5(3, **kind)
    model.save_pretrained(tmp_path, max_shard_size=shard)
    assert (len(list(tmp_path.glob("*.safetensors"))) > 1) == (shard == "20KB")
    loaded = type(model).from_pretrained(tmp_path).eval()
    assert loaded.generate(**inputs()).tolist() == model.generate(**inputs()).tolist()


def test_policy_of_the_config_is_used_and_an_argument_overrules_it():
    model = tiny_t5(4)
    model.config.use_early_exit, model.config.exit_conf_threshold = True, 0.0
    _, trace = model.generate(**inputs(), return_trace=True)
    assert set(trace.exit_layers.flatten()) <= {0, 1}
    _, trace = model.generate(**inputs(), policy=Policy(), return_trace=True)
    assert set(trace.exit_layers.flatten()) <= {0, 4}


def test_a_policy_that_came_with_the_config_is_said(caplog):
    model = tiny_t5(4)
    model.config.use_early_exit, model.config.exit_conf_threshold = True, 0.123
    model.generate(**inputs())
    assert "as the model's config says" in caplog.text
    assert "0.123" in caplog.text


def test_arguments_of_a_trainer_are_accepted():
    model = tiny_t5(5)
    expected = model.generate(**inputs()).tolist()
    labels = torch.ones(3, 4, dtype=torch.long)
    assert model.generate(**inputs(), labels=labels, synced_gpus=False).tolist() == expected
    assert model.generate(**inputs(), synced_gpus=True).tolist() == expected


def test_output_object_scores_and_return_sequences():
    model = tiny_t5(6)
    ours = model.generate(**inputs(), return_dict_in_generate=True, output_scores=True)
    theirs = plain_generate(model, **inputs(), return_dict_in_generate=True, output_scores=True)
    assert isinstance(ours, GenerateEncoderDecoderOutput)
    assert ours.sequences.tolist() == theirs.sequences.tolist()
    running = (ours.sequences[:, :-1] != 1).cumprod(1).bool()
    for step, (mine, other) in enumerate(zip(ours.scores, theirs.scores, strict=True)):
        torch.testing.assert_close(mine[running[:, step]], other[running[:, step]], atol=1e-4, rtol=1e-4)
    assert model.generate(**inputs(), do_sample=True, num_return_sequences=3).shape[0] == 9


def test_decoder_prompts_are_prefilled_at_full_depth():
    model = tiny_t5(7)
    prompt = torch.tensor([[0, 5, 9, 12]] * 3)
    expected = plain_generate(model, **inputs(), decoder_input_ids=prompt)
    found = model.generate(**inputs(), decoder_input_ids=prompt, policy=Policy(confidence="softmax", threshold=1.0))
    assert found.tolist() == expected.tolist()
    _, early = model.generate(**inputs(), decoder_input_ids=prompt, policy=POLICIES["softmax"], return_trace=True)
    assert (early.exit_layers[:, 0] == 4).all()


def test_beams_without_exits_are_the_librarys():
    model = tiny_t5(8)
    assert model.generate(**inputs(), num_beams=3).tolist() == plain_generate(model, **inputs(), num_beams=3).tolist()
    assert model.generate(**inputs(), num_beams=3, return_trace=True)[1] is None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"num_beams": 2}, "num_beams=2"),
        ({"policy": Policy(confidence="softmax", first_exit=4)}, "valid are 1 to 3"),
        ({"policy": Policy(confidence="meta")}, "cm_head"),
        ({"input_ids": None}, "input_ids"),
    ],
)
def test_what_cannot_work_is_refused_with_a_sentence(change, words):
    given = {**inputs(), "policy": POLICIES["softmax"], **change}
    with pytest.raises(ValueError, match=words):
        tiny_t5(9).generate(**given)


def test_weights_that_are_elsewhere_are_refused():
    with torch.device("meta"):
        model = DeployT5ForConditionalGeneration(tiny_t5(0).config)
    with pytest.raises(ValueError, match="one device"):
        model.generate(**inputs())


def test_an_unknown_architecture_is_refused_with_the_known_ones():
    config = T5Config()
    config.model_type = "elephant"
    with pytest.raises(ValueError, match=r"elephant.*t5, mt5, gpt2"):
        deploying_class(config)


def test_gradients_are_not_kept():
    model = tiny_t5(10)
    output = model.generate(**inputs(), return_dict_in_generate=True, output_logits=True)
    assert not output.logits[0].requires_grad
