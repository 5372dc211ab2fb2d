"""Adapters of low rank in every architecture: what they change, what they leave alone, and what is saved of them."""

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from torch import nn

from decoding.policy import Policy
from losses.exits import LOSSES
from models.lora import add_lora, has_lora, merge_lora, merged_lora, restore_lora, saved_lora
from support import (
    MODELS,
    answer_of,
    double_precision,
    inputs_for,
    plain_generate,
    tiny_gpt2,
    tiny_llama,
    tiny_t5,
    with_adapters,
)

BUILDERS = [tiny_t5, tiny_gpt2, tiny_llama]
LOSSLESS = Policy(confidence="softmax", threshold=0.3, skipped="recompute", verification="exact", num_speculations=3)
EXITS = {"shallow_exit_layer": 2, "distill_layer_alpha": 0.5, "do_layer_transformation": True, "layer_dropout": 0.5}


def batch(model) -> dict:
    ids = torch.randint(2, 60, (3, 6))
    return {"input_ids": ids, "labels": ids.clone()}


def held(model) -> dict[str, torch.Tensor]:
    """A copy of every weight that is no adapter's."""
    return {name: value.clone() for name, value in model.state_dict().items() if ".lora_" not in name}


def same(model, weights: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(value, weights[name]) for name, value in held(model).items())


@pytest.mark.parametrize("name", MODELS)
def test_merged_for_a_call_it_says_what_the_adapters_beside_the_weights_say(name):
    """The library's generate runs the layers with their adapters, ours reads weights: tokens agree, bytes come back."""
    model = with_adapters(MODELS[name](4))
    with double_precision(model):
        before, inputs = held(model), inputs_for(model, 5, batch=3)
        expected, changed = plain_generate(model, **inputs), model.generate(**inputs, policy=Policy(static_exit=2))
        for policy in (Policy(), Policy(confidence="softmax", threshold=1.0), LOSSLESS):
            found = model.generate(**inputs, policy=policy)
            for row in range(3):
                assert answer_of(model, inputs, found, row) == answer_of(model, inputs, expected, row)
        assert same(model, before) and has_lora(model)
        with merged_lora(model):
            assert not same(model, before)
        merge_lora(model)
        assert not has_lora(model) and not any("lora" in key for key in model.state_dict())
        assert torch.equal(model.generate(**inputs, policy=Policy(static_exit=2)), changed)


@pytest.mark.parametrize("name", MODELS)
def test_new_adapters_change_nothing_and_sit_on_queries_and_values(name):
    model, plain = MODELS[name](4), MODELS[name](4)
    inputs = batch(plain)
    add_lora(model, "base", 2, 4.0, 0.0, None)
    torch.testing.assert_close(model(**inputs).loss, plain(**inputs).loss)
    trained = {key.split(".lora_")[0].split(".")[-1] for key, each in model.named_parameters() if each.requires_grad}
    assert trained == set(model.lora_targets)
    assert all(".lora_" in key for key, each in model.named_parameters() if each.requires_grad)


@pytest.mark.parametrize("build", BUILDERS)
@pytest.mark.parametrize("loss", LOSSES)
def test_a_step_under_any_loss_moves_adapters_and_what_the_loss_brings_and_nothing_else(build, loss):
    config = build(6).config
    for flag, value in {"intermediate_loss_fn": loss, **EXITS}.items():
        setattr(config, flag, value)
    model = type(build(6))(config).train()
    add_lora(model, "base", 2, 4.0, 0.1, None)
    adapters = {name: value.clone() for name, value in model.state_dict().items() if ".lora_" in name}
    before = held(model)
    optimizer = torch.optim.SGD([each for each in model.parameters() if each.requires_grad], lr=0.1)
    for step in range(2):  # B begins as zero, so A has a gradient from the second step on
        model(**batch(model), step=step, steps=4).loss.backward()
        optimizer.step()
    assert all(not torch.equal(model.state_dict()[name], value) for name, value in adapters.items() if "lora_B" in name)
    moved = {name.split(".")[0] for name, value in held(model).items() if not torch.equal(value, before[name])}
    assert moved == set(model.loss_modules)


@pytest.mark.parametrize("name", MODELS)
def test_layerskip_trains_adapters_of_every_architecture(name):
    model = MODELS[name](4).train()
    model.config.intermediate_loss_fn, model.config.layer_dropout = "layerskip", 0.5
    add_lora(model, "base", 2, 4.0, 0.0, None)
    losses = []
    optimizer = torch.optim.Adam([each for each in model.parameters() if each.requires_grad], lr=0.02)
    inputs = batch(model)
    for _ in range(12):
        losses.append(model.eval()(**inputs).loss.item())
        optimizer.zero_grad()
        model.train()(**inputs, step=0, steps=12).loss.backward()
        optimizer.step()
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("build", BUILDERS)
def test_gradient_checkpointing_gives_the_same_gradients(build):
    gradients = []
    for checkpointing in (False, True):
        model = with_adapters(build(3)).double().train()
        model.config.intermediate_loss_fn = "weighted_ce"
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        torch.manual_seed(1)
        model(**batch(model)).loss.backward()
        gradients.append([p.grad for p in model.parameters() if p.grad is not None])
    assert gradients[0]
    for plain, checkpointed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, checkpointed)


@pytest.mark.parametrize("build", BUILDERS)
def test_the_meta_head_is_trained_alone_beside_frozen_adapters(build):
    config = build(6).config
    config.train_meta_cm_head = True
    model = type(build(6))(config)
    add_lora(model, "base", 2, 4.0, 0.0, None)
    assert {name.split(".")[0] for name, each in model.named_parameters() if each.requires_grad} == {"cm_head"}
    assert model.peft_config["default"].modules_to_save == ["cm_head"]


@pytest.mark.parametrize("build", BUILDERS)
def test_saved_alone_they_are_read_by_peft_and_by_us(build, tmp_path):
    config = build(6).config
    config.intermediate_loss_fn, config.do_layer_transformation = "shallowdeep_kd_last", True
    config.shallow_exit_layer = 2
    model = with_adapters(type(build(6))(config))
    with torch.no_grad():
        model.layer_transformation.weight.add_(1.0)
    model.save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}
    weights = load_file(tmp_path / "adapter_model.safetensors")
    assert all(name.startswith("base_model.model.") for name in weights)
    other = type(build(6))(config)
    other.load_state_dict({name.replace(".base_layer", ""): value for name, value in held(model).items()})
    with torch.no_grad():
        other.layer_transformation.weight.zero_()
    other.tie_weights()
    library = next(each for each in type(model).__mro__ if each.__module__.startswith("transformers.models."))
    plain = library(build(6).config)
    plain.load_state_dict(other.state_dict(), strict=False)
    inputs = batch(model)
    inputs = {"input_ids": inputs["input_ids"]} | decoder_inputs(model, inputs)
    expected = model.eval()(**inputs).logits
    by_peft = PeftModel.from_pretrained(plain.eval(), tmp_path)
    torch.testing.assert_close(by_peft(**inputs).logits, expected)
    add_lora(other, "base", 2, 4.0, 0.0, None)
    restore_lora(other, weights)
    torch.testing.assert_close(other.eval()(**inputs).logits, expected)
    assert torch.equal(other.layer_transformation.weight, model.layer_transformation.weight)


def decoder_inputs(model, inputs: dict) -> dict:
    return {"decoder_input_ids": inputs["labels"]} if model.config.is_encoder_decoder else {}


def test_weights_come_back_where_a_call_fails():
    model = with_adapters(tiny_llama(3))
    before = held(model)
    with pytest.raises(RuntimeError, match="in between"), merged_lora(model), merged_lora(model):
        assert not same(model, before)
        raise RuntimeError("in between")
    assert same(model, before)


@pytest.mark.parametrize(("build", "valid"), [(tiny_t5, "q, k, v, o, wi, wo"), (tiny_gpt2, "c_attn, c_proj, c_fc")])
def test_targets_that_match_nothing_are_refused_with_the_valid_ones(build, valid, caplog):
    model = build(3)
    with pytest.raises(ValueError, match=f"--lora_target_modules nothing, lm_head: valid are {valid} in a "):
        add_lora(model, "base", 2, 4.0, 0.0, ["nothing", "lm_head"])  # a head that is tied to the embeddings
    first = valid.split(", ")[0]
    add_lora(model, "base", 2, 4.0, 0.0, [first, "wi_0"])
    assert f"No linear layer of a {model.config.model_type} is called wi_0: no adapter there." in caplog.text
    assert model.peft_config["default"].target_modules == {first}


def test_an_untied_head_takes_an_adapter():
    model = with_adapters(tiny_llama(3), names=["lm_head", "down_proj"])
    inputs = inputs_for(model, 5, batch=2)
    with double_precision(model):
        found, expected = model.generate(**inputs), plain_generate(model, **inputs)
    assert [answer_of(model, inputs, found, row) for row in (0, 1)] == [
        answer_of(model, inputs, expected, row) for row in (0, 1)
    ]


def test_adapters_of_another_shape_are_refused():
    model, other = with_adapters(tiny_llama(3)), tiny_llama(3)
    add_lora(other, "base", 3, 4.0, 0.0, None)
    weights = saved_lora(other)
    with pytest.raises(ValueError, match=r"the adapters do not fit this llama: .*lora_A.weight differs"):
        restore_lora(model, weights)
