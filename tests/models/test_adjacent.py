"""Weights that are moved together: the same numbers in the same parameters, held once."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from transformers import AutoModelForCausalLM, LlamaForCausalLM

from decoding.policy import Policy
from models import deploy
from models.adjacent import are_adjacent, as_one, move_all_together, move_together
from models.choosing import Shape, samples_of
from models.products import Beside
from support import tiny_llama


def layers(*sizes, inputs=6, bias=False):
    return [nn.Linear(inputs, size, bias=bias) for size in sizes]


@given(st.lists(st.integers(1, 9), min_size=2, max_size=4))
def test_they_keep_their_numbers_and_are_one_matrix(sizes):
    modules = layers(*sizes)
    parameters = [module.weight for module in modules]
    before = [parameter.detach().clone() for parameter in parameters]
    move_together(parameters)
    assert are_adjacent(parameters)
    assert all(module.weight is parameter for module, parameter in zip(modules, parameters, strict=True))
    assert all(torch.equal(now, then) for now, then in zip(parameters, before, strict=True))
    assert torch.equal(as_one(parameters), torch.cat(before))
    storages = {
        parameter.untyped_storage().data_ptr(): parameter.untyped_storage().nbytes() for parameter in parameters
    }
    assert sum(storages.values()) == sum(parameter.nbytes for parameter in parameters)
    parameters[0].data.zero_()
    assert not as_one(parameters)[: sizes[0]].any()


def shared(weights):
    for weight in weights:
        weight.share_memory_()


def of_one_buffer(weights):
    """As an optimizer of several processes lays them out."""
    flat = torch.cat([weight.data.flatten() for weight in weights] + [torch.zeros(1)])
    for i, weight in enumerate(weights):
        weight.data = flat[1 + i * weight.numel() :][: weight.numel()].view_as(weight)


def of_two_types(weights):
    weights[0].data = weights[0].data.double()


def transposed(weights):
    weights[0].data = weights[0].data.t().contiguous().t()


@pytest.mark.parametrize("arranged", [shared, of_one_buffer, of_two_types, transposed])
def test_what_others_hold_stays_where_it_is(arranged):
    weights = [module.weight for module in layers(6, 6)]
    arranged(weights)
    places = [weight.data_ptr() for weight in weights]
    move_together(weights)
    assert [weight.data_ptr() for weight in weights] == places


def test_neighbours_by_chance_are_told_from_one_matrix():
    weights = [torch.ones(4, 3), torch.ones(2, 3)]
    assert are_adjacent(weights[:1]) and not are_adjacent(weights)
    whole = torch.arange(18.0).view(6, 3)
    assert are_adjacent([whole[:4], whole[4:]]) and torch.equal(as_one([whole[:4], whole[4:]]), whole)
    assert not are_adjacent([whole[4:], whole[:4]])
    assert not are_adjacent([whole[:2], whole[4:]])
    assert not are_adjacent([whole[:, :2], whole[:, 2:]])


@pytest.mark.parametrize("bias", [False, True, None], ids=["no bias", "biases", "one of them"])
@pytest.mark.parametrize("rows", [1, 3, 20])
def test_layers_side_by_side_give_what_each_gives(bias, rows):
    modules = layers(70, 5, 66, inputs=64, bias=bool(bias))
    if bias is None:
        modules[1] = layers(5, inputs=64, bias=True)[0]
    states = torch.randn(rows, 64)
    expected = [module(states) for module in modules]
    for _ in range(2):  # apart, and together
        torch.testing.assert_close(list(Beside.of(*modules)(states)), expected)
        move_together([module.weight for module in modules])
    assert are_adjacent([module.weight for module in modules])


def test_a_model_that_somebody_brings_stays_as_it_is():
    model = tiny_llama()
    places = {name: weight.data_ptr() for name, weight in model.named_parameters()}
    model.generate(torch.tensor([[5, 6, 7]]), policy=Policy(), max_new_tokens=2)
    assert {name: weight.data_ptr() for name, weight in model.named_parameters()} == places


def test_a_model_made_for_inference_decodes():
    with torch.inference_mode():
        model = tiny_llama()
        move_all_together(model)
        assert model.generate(torch.tensor([[5, 6, 7]]), policy=Policy(), max_new_tokens=2).shape == (1, 5)


def test_a_model_decodes_trains_and_is_saved_as_before(tmp_path):
    model = tiny_llama()
    plain = LlamaForCausalLM(model.config)
    plain.load_state_dict(model.state_dict())
    prompt = torch.tensor([[5, 6, 7]])
    with torch.inference_mode():  # what is moved meanwhile can be trained all the same
        move_all_together(plain)
        deploy(plain).generate(prompt, policy=Policy(), max_new_tokens=3)
    attention, dense = plain.model.layers[0].self_attn, plain.model.layers[0].mlp
    assert are_adjacent([attention.q_proj.weight, attention.k_proj.weight, attention.v_proj.weight])
    assert are_adjacent([dense.gate_proj.weight, dense.up_proj.weight])
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in plain.state_dict().items())
    optimizer = torch.optim.SGD(plain.parameters(), lr=1.0)
    before = attention.k_proj.weight.detach().clone()
    plain(prompt, labels=prompt).loss.backward()
    optimizer.step()
    assert not torch.equal(attention.k_proj.weight, before)
    plain.save_pretrained(tmp_path)
    saved = AutoModelForCausalLM.from_pretrained(tmp_path).state_dict()
    assert all(torch.equal(saved[name], value) for name, value in plain.state_dict().items())


def test_products_are_measured_on_what_is_multiplied():
    model = tiny_llama()
    move_all_together(model)
    attention = model.model.layers[0].self_attn
    outputs = sum(len(module.weight) for module in (attention.q_proj, attention.k_proj, attention.v_proj))
    (samples,) = samples_of(model).values()
    assert Shape(model.config.hidden_size, outputs, True) in samples
    assert Shape(model.config.hidden_size, len(attention.k_proj.weight), True) not in samples
