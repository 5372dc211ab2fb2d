"""Laws of the loss of exit translators."""

import pytest
import torch
from torch.nn import functional

from losses.layers import Layers, LayerStates
from losses.translators import divergence_to_last


def loss_of(states, labels, head, which=(1, 2, 3), read=lambda hidden, layer: hidden):
    return divergence_to_last(Layers(LayerStates(states[:-1], states), labels, head), read, which)


@pytest.mark.parametrize("which", [(1, 2, 3), (2,)])
def test_it_is_the_mean_divergence_from_the_last_layer_whatever_the_labels_are(states, labels, head, which):
    counted = labels != -100
    log_p = [head(each)[counted].log_softmax(-1) for each in states]
    last = torch.distributions.Categorical(logits=log_p[-1])
    each = {
        layer: torch.distributions.kl_divergence(last, torch.distributions.Categorical(logits=log_p[layer - 1])).mean()
        for layer in which
    }
    expected = torch.stack(list(each.values())).mean()
    torch.testing.assert_close(loss_of(states, labels, head, which), expected)
    other = labels.where(~counted, 3)
    torch.testing.assert_close(loss_of(states, other, head, which), expected)


def test_what_reads_the_states_gets_a_gradient_and_the_states_none(states, labels, head):
    factors = torch.ones(3, requires_grad=True)
    loss_of(states, labels, head, read=lambda hidden, layer: factors[layer - 1] * hidden).backward()
    assert all(each.grad is None for each in states) and factors.grad.abs().min() > 0
    counted = labels != -100
    factor = torch.ones((), requires_grad=True)
    target = head(states[-1])[counted].softmax(-1).detach()
    functional.cross_entropy(head(factor * states[0].detach())[counted], target).div(3).backward()
    torch.testing.assert_close(factors.grad[0], factor.grad)


def test_it_is_zero_where_all_layers_agree_or_nothing_counts(states, labels, head):
    same = [states[0]] * 4
    assert loss_of(same, labels, head).item() == pytest.approx(0, abs=1e-6)
    assert loss_of(states, torch.full_like(labels, -100), head).item() == 0
