"""Laws of the losses on intermediate exits and of the `meta` head's."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from losses.exits import IGNORED_LABEL, LOSSES, Layers, LayerStates, cross_entropy, loss_over_layers

D, V, L = 8, 11, 4


def loss_of(name: str, states, labels, head) -> torch.Tensor:
    return loss_over_layers(name, Layers(LayerStates(states[:-1], states), labels, head))


def naive(name: str, states, labels, head) -> torch.Tensor:
    losses = [functional.cross_entropy(head(hidden).flatten(0, 1), labels.flatten()) for hidden in states]
    weights = {"ce": [1.0] * L, "weighted_ce": [float(layer) for layer in range(1, L + 1)]}[name]
    return sum(weight * loss for weight, loss in zip(weights, losses, strict=True)) / sum(weights)


@pytest.mark.parametrize("name", LOSSES)
def test_loss_and_gradients_are_those_of_the_formula(name, states, labels, head):
    parameters = [*states, head.weight]
    ours = torch.autograd.grad(loss_of(name, states, labels, head), parameters)
    formula = torch.autograd.grad(naive(name, states, labels, head), parameters)
    torch.testing.assert_close(loss_of(name, states, labels, head), naive(name, states, labels, head))
    for mine, expected in zip(ours, formula, strict=True):
        torch.testing.assert_close(mine, expected)


def test_values_worked_by_hand():
    # Head = identity over two tokens: a state (log 3, 0) gives the probabilities 3/4 and 1/4, (0, 0) a half each.
    head = nn.Identity()
    states = [torch.zeros(1, 1, 2), torch.tensor([[[math.log(3.0), 0.0]]])]
    labels = torch.tensor([[0]])
    half, three_quarters = math.log(2), math.log(4 / 3)
    assert loss_of("ce", states, labels, head).item() == pytest.approx((half + three_quarters) / 2)
    expected = (1 * half + 2 * three_quarters) / 3
    assert loss_of("weighted_ce", states, labels, head).item() == pytest.approx(expected)


@pytest.mark.parametrize("name", LOSSES)
def test_ignored_labels_do_not_matter(name, states, labels, head):
    changed = [hidden.detach().clone() for hidden in states]
    for hidden in changed:
        hidden[labels == IGNORED_LABEL] = 100.0
    torch.testing.assert_close(loss_of(name, changed, labels, head), loss_of(name, states, labels, head))


def test_no_label_gives_zero_and_not_nan(head):
    empty = torch.zeros(0, D)
    assert cross_entropy(empty, torch.zeros(0, dtype=torch.long), head).item() == 0.0


def test_one_layer_of_logits_is_alive_at_a_time(states, labels, head):
    """Nothing of the size of the logits is kept for the backward pass, however many layers there are."""
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(tuple(t.shape)) or t, lambda t: t):
        loss = loss_of("weighted_ce", states, labels, head)
    logits = (int((labels != IGNORED_LABEL).sum()), V)
    assert loss.requires_grad and kept and logits not in kept


def test_an_unknown_name_lists_the_valid_ones(states, labels, head):
    with pytest.raises(ValueError, match=r"nonsense.*ce, weighted_ce"):
        loss_of("nonsense", states, labels, head)
