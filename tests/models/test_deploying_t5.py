"""generate of the deployed T5s: dtypes, checkpoints, in-place changes, what Hugging Face's callers expect of it."""

import copy

import pytest
import torch
from transformers import T5Config
from transformers.generation import GenerateDecoderOnlyOutput, GenerateEncoderDecoderOutput

from decoding.policy import Policy
from models import DeployT5ForConditionalGeneration, deploying_class
from support import MODELS, POLICIES, calm, double_precision, inputs_for, plain_generate, rounding, sources, tiny_t5


def inputs(seed=0, batch=3):
    ids, mask = sources(seed, batch)
    return {"input_ids": ids, "attention_mask": mask, "max_new_tokens": 9}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kept", [False, True], ids=["all half", "wo in float32"])
@torch.no_grad()
def test_half_precision_logits_are_the_librarys(dtype, kept):
    """Both round the same numbers, at other places on some processors: as far as roundings along the way may add up."""
    model = calm(tiny_t5(1, gated=True, tied=False))
    exact = copy.deepcopy(model).to(dtype).float()
    model.to(dtype)
    if kept:  # as from_pretrained loads T5 in float16
        for block in [*model.encoder.block, *model.decoder.block]:
            block.layer[-1].DenseReluDense.wo.float()
    ids, mask = sources(1, 3)
    out = model.generate(
        input_ids=ids, attention_mask=mask, max_new_tokens=6, return_dict_in_generate=True, output_logits=True
    )
    teacher = {"input_ids": ids, "attention_mask": mask, "decoder_input_ids": out.sequences[:, :-1], "use_cache": False}
    found, expected = torch.stack(out.logits, 1), model(**teacher).logits.float()
    with double_precision(exact):
        unrounded = exact(**teacher).logits
    running = (out.sequences[:, :-1] != 1).cumprod(1).bool()
    # Norms, products, scores, softmaxes and sums: thirteen in each of two encoder layers, twenty in each decoder layer.
    tolerance = rounding(dtype, 2 * 13 + 4 * 20, float(expected[running].abs().max()))
    torch.testing.assert_close(found[running], expected[running], atol=tolerance, rtol=0)
    torch.testing.assert_close(expected[running].double(), unrounded[running], atol=tolerance, rtol=0)
    for name in ("softmax", "state", "entropy"):
        _, trace = model.generate(**inputs(1), policy=POLICIES[name], return_trace=True)
        assert (trace.exit_layers[:, 0] > 0).all()


def test_law_5_a_weight_changed_in_place_shows_at_once():
    with double_precision(tiny_t5(2)) as model:
        before = model.generate(**inputs(), policy=POLICIES["softmax"])
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter))
        fresh = DeployT5ForConditionalGeneration(model.config).eval()
        fresh.load_state_dict(model.state_dict())
        after = model.generate(**inputs(), policy=POLICIES["softmax"])
        assert after.tolist() != before.tolist()
        assert after.tolist() == fresh.generate(**inputs(), policy=POLICIES["softmax"]).tolist()


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("shard", ["10GB", "20KB"])
def test_checkpoints_load_sharded_or_not(tmp_path, kind, shard):
    with double_precision(MODELS[kind](3)) as model:
        model.save_pretrained(tmp_path, max_shard_size=shard)
        assert (len(list(tmp_path.glob("*.safetensors"))) > 1) == (shard == "20KB")
        loaded = type(model).from_pretrained(tmp_path).eval()
        given = inputs_for(model, 3, 3)
        assert loaded.generate(**given).tolist() == model.generate(**given).tolist()


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
    labels = torch.ones(3, 4, dtype=torch.long)
    with double_precision(tiny_t5(5)) as model:
        expected = model.generate(**inputs()).tolist()
        assert model.generate(**inputs(), labels=labels, synced_gpus=False).tolist() == expected
        assert model.generate(**inputs(), synced_gpus=True).tolist() == expected


@pytest.mark.parametrize("kind", MODELS)
def test_output_object_scores_and_return_sequences(kind):
    with double_precision(MODELS[kind](6)) as model:
        given = inputs_for(model, 6, 3, length=9) | {"return_dict_in_generate": True, "output_scores": True}
        ours, theirs = model.generate(**given), plain_generate(model, **given)
        encodes, start = model.config.is_encoder_decoder, ours.sequences.shape[1] - len(ours.scores)
        assert isinstance(ours, GenerateEncoderDecoderOutput if encodes else GenerateDecoderOnlyOutput)
        assert ours.sequences.tolist() == theirs.sequences.tolist()
        running = (ours.sequences[:, start - 1 : -1] != 1).cumprod(1).bool()
        for step, (mine, other) in enumerate(zip(ours.scores, theirs.scores, strict=True)):
            torch.testing.assert_close(mine[running[:, step]], other[running[:, step]])
        assert model.generate(**given, do_sample=True, num_return_sequences=3).sequences.shape[0] == 9


def test_decoder_prompts_are_prefilled_at_full_depth():
    prompt = torch.tensor([[0, 5, 9, 12]] * 3)
    with double_precision(tiny_t5(7)) as model:
        given = inputs() | {"decoder_input_ids": prompt}
        found = model.generate(**given, policy=Policy(confidence="softmax", threshold=1.0))
        assert found.tolist() == plain_generate(model, **given).tolist()
        _, early = model.generate(**given, policy=POLICIES["softmax"], return_trace=True)
        assert (early.exit_layers[:, 0] == 4).all()


@pytest.mark.parametrize("kind", MODELS)
def test_beams_without_exits_are_the_librarys(kind):
    with double_precision(MODELS[kind](8)) as model:
        given = inputs_for(model, 8, 3, length=9) | {"num_beams": 3}
        assert model.generate(**given).tolist() == plain_generate(model, **given).tolist()
        assert model.generate(**given, return_trace=True)[1] is None


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
