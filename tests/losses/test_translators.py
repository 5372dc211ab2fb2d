"""Laws of the loss of exit translators."""

import pytest
import torch
from torch.nn import functional

from losses.layers import Layers, LayerStates
from losses.translators import divergence_to_last


def layers_of(states, labels, head) -> Layers:
    return Layers(LayerStates(states[:-1], states), labels, head)


@pytest.mark.parametrize("which", [None, [2]])
def test_it_is_the_mean_divergence_from_the_last_layer_whatever_the_labels_are(states, labels, head, which):
    counted = labels != -100
    log_p = [head(each)[counted].log_softmax(-1) for each in states]
    last = torch.distributions.Categorical(logits=log_p[-1])
    each = [
        torch.distributions.kl_divergence(last, torch.distributions.Categorical(logits=found)).mean()
        for found in log_p[:-1]
    ]
    expected = torch.stack(each).mean() if which is None else each[1]
    torch.testing.assert_close(divergence_to_last(layers_of(states, labels, head), which), expected)
    other = labels.where(~counted, 3)
    torch.testing.assert_close(divergence_to_last(layers_of(states, other, head), which), expected)


def test_the_last_layer_gets_no_gradient_and_the_others_theirs(states, labels, head):
    divergence_to_last(layers_of(states, labels, head)).backward()
    assert states[-1].grad is None and all(each.grad[labels != -100].any() for each in states[:-1])
    counted = labels != -100
    found = states[0].detach().requires_grad_()
    target = head(states[-1])[counted].softmax(-1).detach()
    functional.cross_entropy(head(found)[counted], target).div(3).backward()
    torch.testing.assert_close(states[0].grad, found.grad)


def test_it_is_zero_where_all_layers_agree_or_nothing_counts(states, labels, head):
    same = [states[0]] * 4
    assert divergence_to_last(layers_of(same, labels, head)).item() == pytest.approx(0, abs=1e-6)
    assert divergence_to_last(layers_of(states, torch.full_like(labels, -100), head)).item() == 0
