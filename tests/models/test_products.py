"""Products within models: whichever way is taken, a model says what it says; and who goes which way."""

import pytest
import torch

from decoding.policy import Policy
from models import choosing
from models.deploying_t5 import _add_product
from models.products import Linear, product_by_row
from models.ways import WAYS
from support import MODELS, double_precision, sources, tiny_llama, tiny_t5

POLICIES = {
    "pruned": Policy(confidence="softmax", threshold=0.99, vocabulary="fixed", first_exit=1, k=9),
    "lossless": Policy(confidence="softmax", threshold=0.1, skipped="recompute", verification="exact"),
}


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Matrices of tiny models are large enough to be taken apart."""
    monkeypatch.setattr("models.ways.MANY_PARTS", 4)


def answers(model, policy):
    ids, mask = sources(3, 5)
    given = {"input_ids": ids, "attention_mask": mask}
    return model.generate(**given, policy=policy, max_new_tokens=5, do_sample=False)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("kind", MODELS)
def test_all_ways_decode_alike(kind, policy, monkeypatch):
    with double_precision(MODELS[kind](1)) as model:
        expected = answers(model, POLICIES[policy])
        for name in WAYS:
            monkeypatch.setenv(choosing.VARIABLE, name)
            assert torch.equal(answers(model, POLICIES[policy]), expected), name


@pytest.mark.parametrize("name", WAYS)
@pytest.mark.parametrize("tied", [True, False])
def test_logits_of_tied_and_untied_heads(name, tied, monkeypatch):
    monkeypatch.setenv(choosing.VARIABLE, name)
    for model in (tiny_llama(tied=tied), tiny_t5(tied=tied)):
        unembed = model.unembed()
        states = torch.randn(5, unembed.width)
        exact = states.double().mm(unembed.weight.detach().double().t()) * (unembed.scale or 1)
        for rows in (1, 2, 5):
            found = unembed.logits(states[:rows]).detach().double()
            torch.testing.assert_close(found, exact[:rows], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("rows", [1, 3, 20])
@pytest.mark.parametrize("name", WAYS)
def test_t5_clamps_float16_whichever_way_is_taken(name, rows, monkeypatch):
    monkeypatch.setenv(choosing.VARIABLE, name)
    out = Linear(torch.full((96, 80), 30.0, dtype=torch.float16).t())
    hidden = torch.full((rows, 96), 60000.0, dtype=torch.float16)
    found = _add_product(hidden, torch.ones(rows, 80, dtype=torch.float16) * 4, out)
    assert (found == torch.finfo(torch.float16).max - 1000).all()
    wide = Linear(torch.randn(96, 80).t())  # wo stays in float32
    added = _add_product(torch.zeros(rows, 96, dtype=torch.float16), torch.ones(rows, 80, dtype=torch.float16), wide)
    torch.testing.assert_close(added, torch.ones(rows, 80).mm(wide.weight))


@pytest.mark.parametrize("name", WAYS)
@pytest.mark.parametrize(("rows", "states"), [(1, 1), (1, 3), (3, 1), (3, 2)])
def test_weights_of_their_own_for_each_row(name, rows, states, monkeypatch):
    monkeypatch.setenv(choosing.VARIABLE, name)
    weights, given = torch.randn(rows, 33, 70).double(), torch.randn(rows, states, 70).double()
    torch.testing.assert_close(product_by_row(given, weights), torch.einsum("njd,nkd->njk", given, weights))


def test_the_ways_in_force_are_those_of_a_call(monkeypatch):
    """What is chosen for its shapes is what a model's products take; without a choice the library's."""
    taken = []
    monkeypatch.setitem(WAYS, "padded", WAYS["padded"]._replace(bind=lambda matrix: taken.append(matrix.shape) or None))
    monkeypatch.delenv(choosing.VARIABLE)
    monkeypatch.setattr(choosing.IN_FORCE, "_shapes", {})
    layer = Linear(torch.randn(24, 12))
    layer(torch.randn(1, 24))
    assert not taken
    shapes = {choosing.Shape.of(layer.weight): {1: "padded"}}
    monkeypatch.setattr(choosing.IN_FORCE, "_shapes", {choosing.situation_of(torch.float32): shapes})
    again = Linear(layer.weight)
    with pytest.raises(TypeError):  # the stand-in multiplies nothing
        again(torch.randn(1, 24))
    assert taken == [(24, 12)]
