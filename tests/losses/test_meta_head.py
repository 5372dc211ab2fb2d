"""Laws of the loss of the `meta` confidence head."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from losses.exits import IGNORED_LABEL, Layers, LayerStates
from losses.meta_head import agreement, balanced_cross_entropy, meta_head_loss

D = 8


def test_agreement_compares_each_layer_with_the_last():
    # Head = identity: the argmax of a state is its token.
    one, two = torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    below, last = agreement([one, two, two], nn.Identity())[:2], two
    assert [row.tolist() for row in below] == [[1, 0], [1, 1]]
    assert agreement([last], nn.Identity()) == []


def test_both_classes_weigh_the_same():
    logits = torch.tensor([[0.0, 0.0], [0.0, math.log(3.0)], [0.0, math.log(3.0)], [0.0, math.log(3.0)]])
    classes = torch.tensor([0, 1, 1, 1])
    expected = (math.log(2) + math.log(4 / 3)) / 2
    assert balanced_cross_entropy(logits, classes).item() == pytest.approx(expected)
    only = balanced_cross_entropy(logits[1:], classes[1:])
    assert only.item() == pytest.approx(math.log(4 / 3)), "a class that does not occur is left out"


def test_meta_loss_reaches_the_confidence_head_only(states, labels, head):
    cm_head = nn.Sequential(nn.Linear(D, D), nn.ReLU(), nn.Linear(D, 2))
    meta_head_loss(cm_head, Layers(LayerStates([], states), labels, head)).backward()
    assert all(parameter.grad is not None for parameter in cm_head.parameters())
    assert head.weight.grad is None and all(hidden.grad is None for hidden in states)


def test_meta_loss_is_the_balanced_loss_of_the_agreements(states, labels, head):
    cm_head = nn.Linear(D, 2)
    counted = labels != IGNORED_LABEL
    last = head(states[-1])[counted].argmax(-1)
    classes = torch.cat([(head(hidden)[counted].argmax(-1) == last).long() for hidden in states[:-1]])
    logits = torch.cat([cm_head(hidden)[counted] for hidden in states[:-1]])
    losses = functional.cross_entropy(logits, classes, reduction="none")
    expected = torch.stack([losses[classes == which].mean() for which in (0, 1)]).mean()
    torch.testing.assert_close(meta_head_loss(cm_head, Layers(LayerStates([], states), labels, head)), expected)
