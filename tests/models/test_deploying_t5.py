"""generate of the deployed T5s: dtypes, checkpoints, in-place changes, what Hugging Face's callers expect of it."""

import copy
import logging
import re
from functools import partial

import pytest
import torch
from transformers import AutoConfig, GenerationConfig, T5Config
from transformers.generation import GenerateDecoderOnlyOutput, GenerateEncoderDecoderOutput

from decoding.confidence import CONFIDENCES, Measure
from decoding.policy import Policy
from models import (
    DeployGPT2LMHeadModel,
    DeployQwen2ForCausalLM,
    DeployT5ForConditionalGeneration,
    deploying_class,
)
from models.deploying import announce
from support import (
    MODELS,
    POLICIES,
    calm,
    double_precision,
    inputs_for,
    plain_generate,
    rounding,
    sources,
    tiny_gpt2,
    tiny_llama,
    tiny_t5,
)


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
    with pytest.raises(ValueError, match=r"elephant.*t5, mt5, longt5, gpt2"):
        deploying_class(config)


def test_gradients_are_not_kept():
    model = tiny_t5(10)
    output = model.generate(**inputs(), return_dict_in_generate=True, output_logits=True)
    assert not output.logits[0].requires_grad


# --------------------------------------------------------------------------------------------- what a call may not be
@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"policy": "softmax"}, "generate got policy='softmax': valid are a Policy and None."),
        ({"strategy": "dola"}, "generate got strategy='dola': valid are a Strategy and None."),
        ({"attention_mask": torch.ones(3, 4)}, "attention_mask of shape [3, 4] beside input_ids of shape [3, 9]"),
        ({"attention_mask": torch.ones(2, 9)}, "attention_mask of shape [2, 9] beside input_ids of shape [3, 9]"),
        ({"attention_mask": torch.tensor([[1] * 9, [0] * 9, [1] * 9])}, "attention_mask whose row 1 hides every token"),
        (
            {"input_ids": torch.zeros(0, 9).long(), "attention_mask": None},
            "input_ids of shape [0, 9]: at least one row",
        ),
        (
            {"input_ids": torch.zeros(3, 0).long(), "attention_mask": None},
            "input_ids of shape [3, 0]: at least one row",
        ),
        ({"input_ids": torch.ones(9).long(), "attention_mask": None}, "input_ids of shape [9] and torch.int64: valid"),
        (
            {"input_ids": torch.ones(3, 9), "attention_mask": None},
            "shape [3, 9] and torch.float32: valid are token",
        ),
        ({"input_ids": torch.full((3, 9), 61)}, "input_ids with the token 61: valid are 0 to 60 for this model."),
        ({"decoder_input_ids": torch.full((3, 2), -1)}, "decoder_input_ids with the token -1: valid are 0 to 60"),
        (
            {"decoder_input_ids": torch.zeros(3, 2).long(), "decoder_attention_mask": torch.ones(3, 5)},
            "decoder_attention_mask of shape [3, 5] beside decoder_input_ids of shape [3, 2]",
        ),
    ],
)
@pytest.mark.parametrize("beams", [1, 2])
def test_inputs_that_do_not_fit_are_refused(change, sentence, beams):
    given = {**inputs(), "num_beams": beams, **change}
    with pytest.raises(ValueError, match=re.escape(sentence)):
        tiny_t5(9).generate(**given)


@pytest.mark.parametrize(
    ("compute", "returned"),
    [
        (lambda exit: exit.logits, "a tensor of shape [3, 61]"),
        (lambda exit: exit.top2[:, 0].mean(), "a tensor of shape []"),
        (lambda exit: exit.top2[:, :1], "a tensor of shape [3, 1]"),
        (lambda exit: 0.5, "0.5"),
        (lambda exit: None, "None"),
    ],
)
def test_a_measure_that_is_no_number_per_row_is_refused(compute, returned, monkeypatch):
    monkeypatch.setitem(CONFIDENCES, "own", Measure(compute, lambda tried: 0))
    sentence = f"The measure 'own' returned {returned} at layer 1: valid is one number per row, a tensor of shape [3]."
    with pytest.raises(ValueError, match=re.escape(sentence)):
        tiny_t5(9).generate(**inputs(), policy=Policy(confidence="own", threshold=0.5))


def test_a_measure_that_is_not_a_number_is_refused(monkeypatch):
    """In a trace NaN stands for an exit that was not tried, so that it would be counted nowhere."""
    monkeypatch.setitem(CONFIDENCES, "own", Measure(lambda exit: exit.logits[:, 0] * torch.nan, lambda tried: 0))
    with pytest.raises(ValueError, match="The measure 'own' returned NaN at layer 1"):
        tiny_t5(9).generate(**inputs(), policy=Policy(confidence="own", threshold=0.5))


KIN = [partial(tiny_t5, kind=kind) for kind in ("mt5", "longt5")]


@pytest.mark.parametrize("loaded", [DeployT5ForConditionalGeneration, DeployGPT2LMHeadModel, DeployQwen2ForCausalLM])
@pytest.mark.parametrize("held", [tiny_t5, tiny_gpt2, tiny_llama, *KIN])
@pytest.mark.parametrize("given", [False, True], ids=["by folder", "by config"])
def test_a_checkpoint_of_another_architecture_is_refused(loaded, held, given, tmp_path):
    held(0).save_pretrained(tmp_path)
    config = AutoConfig.from_pretrained(tmp_path)
    more = {"config": config} if given else {}
    if config.model_type == loaded.config_class.model_type:
        assert loaded.from_pretrained(tmp_path, **more).config.model_type == config.model_type
        return
    with pytest.raises(ValueError, match=f"is a {config.model_type}, but {loaded.__name__} loads"):
        loaded.from_pretrained(tmp_path, **more)


# --------------------------------------------------------------------------------------------------- modes and settings
@pytest.mark.parametrize("more", [{}, {"num_beams": 2}, {"do_sample": True}])
def test_dropout_is_off_whatever_the_mode_and_every_module_keeps_its_own(more):
    model = tiny_t5(11, dropout_rate=0.5)
    torch.manual_seed(0)
    expected = model.generate(**inputs(), **more)
    model.train()
    model.decoder.eval()
    modes = [module.training for module in model.modules()]
    for _ in range(3):
        torch.manual_seed(0)
        assert model.generate(**inputs(), **more).tolist() == expected.tolist()
    assert [module.training for module in model.modules()] == modes
    with pytest.raises(ValueError):
        model.generate(**inputs(), policy=Policy(static_exit=9))
    assert [module.training for module in model.modules()] == modes


@pytest.mark.parametrize("more", [{}, {"stop_strings": ["b"], "tokenizer": True}])
def test_settings_of_a_call_are_the_callers_alone(more, tiny_tokenizer, recwarn, caplog):
    """The library deprecates settings beside a generation_config, and warns once a process."""
    model = tiny_t5(12)
    given = GenerationConfig(max_new_tokens=5, eos_token_id=1, pad_token_id=0, decoder_start_token_id=0)
    if more:
        given.stop_strings, more = more["stop_strings"], {"tokenizer": tiny_tokenizer}
    before = given.to_dict()
    ids, mask = sources(0, 3)
    logging.getLogger("transformers").addHandler(caplog.handler)
    found = model.generate(input_ids=ids, attention_mask=mask, generation_config=given, **more)
    logging.getLogger("transformers").removeHandler(caplog.handler)
    assert found.shape[1] <= 6
    assert given.to_dict() == before
    assert "deprecated" not in caplog.text and not [each for each in recwarn if "deprecated" in str(each.message)]


READING = {"no_repeat_ngram_size": 1, "min_length": 14, "encoder_repetition_penalty": 0.3}


@pytest.mark.parametrize("name", READING)
def test_padding_that_a_processor_reads_is_the_librarys_own_difference(name, caplog):
    """A batch of left-padded prompts is the library's batch; where a row alone is continued otherwise, the library
    continues it so too; and it is said. As in GPT-2's checkpoints, what ends a text pads it."""
    announce.cache_clear()
    assert padding_changes(name, READING[name]), "otherwise there is nothing to document"
    assert caplog.text.count("counts the padding of shorter rows as text") == 1


def test_a_prompt_whose_end_is_hidden_is_said(caplog):
    announce.cache_clear()
    ids, mask = sources(1, 3, left=True)
    model = tiny_gpt2(1)
    model.generate(ids, attention_mask=mask, max_new_tokens=2)
    assert "hides the end" not in caplog.text
    model.generate(ids, attention_mask=mask.flip(1), max_new_tokens=2)
    assert "attention_mask hides the end of a prompt" in caplog.text and "pad on the left" in caplog.text


def test_a_repetition_penalty_leaves_padding_out(caplog):
    assert not padding_changes("repetition_penalty", 3.0)
    assert "padding" not in caplog.text


def padding_changes(name, value) -> int:
    """How many rows are continued otherwise alone than in their batch; ours are the library's in both."""
    differing = 0
    for seed in range(6):
        with double_precision(tiny_gpt2(seed, tie_word_embeddings=False)) as model:
            ids, mask = sources(seed, 4, left=True)
            said = model.generate(ids, attention_mask=mask, max_new_tokens=12, eos_token_id=[])[:, 9:]
            end = int(said[mask.sum(1).argmin(), 0])  # what the shortest prompt is continued with, alone
            more = {"max_new_tokens": 12, "eos_token_id": end, "pad_token_id": end, name: value}
            given = {"input_ids": torch.where(mask == 1, ids, end), "attention_mask": mask, **more}
            together = model.generate(**given)
            assert together.tolist() == plain_generate(model, **given).tolist()
            for row in range(4):
                own = ids[row][mask[row] == 1][None]
                alone = {"input_ids": own, "attention_mask": torch.ones_like(own), **more}
                found = model.generate(**alone)
                assert found.tolist() == plain_generate(model, **alone).tolist()
                answer = found[0, own.shape[1] :].tolist()
                differing += together[row, 9 : 9 + len(answer)].tolist() != answer
    return differing
