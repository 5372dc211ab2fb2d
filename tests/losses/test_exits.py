"""Laws of all losses on intermediate exits: values, gradients, and what they keep for the backward pass."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional

from losses.exits import LOSSES, loss_over_layers
from losses.layers import IGNORED_LABEL, Layers, LayerStates, cross_entropy

B, T, D, V, L = 2, 5, 8, 11, 4


SHALLOW = 2


def loss_of(name: str, states, labels, head, **more) -> torch.Tensor:
    config = SimpleNamespace(intermediate_loss_fn=name, shallow_exit_layer=SHALLOW, distill_layer_alpha=0.3)
    return loss_over_layers(name, Layers(LayerStates(states[:-1], states), labels, head, config, **more))


def plain_loop(name: str, states, labels, head) -> torch.Tensor:
    """Every loss by its definition; the pairs of layers that dyna chooses are found by trying all."""
    losses = [functional.cross_entropy(head(hidden).flatten(0, 1), labels.flatten()) for hidden in states]
    weights = {
        "ce": [1.0] * L,
        "weighted_ce": [float(layer) for layer in range(1, L + 1)],
        "layerskip": [0.0, 1.0, 3.0, 3.0 + 3.0],  # 0, 0 + 1, 0 + 1 + 2, and L - 1 more for the last
        "one_exit": [0.5 / 3, 0.5 / 3, 0.5 / 3, 1.0],
    }.get(name, [0.0, 2.0, 0.0, 4.0])
    if name == "one_exit":
        return sum(weight * loss for weight, loss in zip(weights, losses, strict=True))
    total = sum(weight * loss for weight, loss in zip(weights, losses, strict=True)) / sum(weights)
    if "kd" not in name:
        return total
    counted = labels != IGNORED_LABEL

    def far(student: int, teacher: int) -> torch.Tensor:
        return ((states[student - 1] - states[teacher - 1].detach())[counted] ** 2).mean()

    second = min((1, 2), key=lambda student: far(student, 4).item())
    first = min(range(1, second), key=lambda student: far(student, 2).item(), default=second)
    pairs = {"last": [(2, 4)], "unif": [(1, 2), (2, 4)], "dyna": [(second, 4), (first, 2)]}[name.split("_")[-1]]
    return total + 0.3 * sum(far(*pair) for pair in pairs) / len(pairs)


@pytest.mark.parametrize("name", LOSSES)
def test_loss_and_gradients_are_those_of_the_formula(name, states, labels, head):
    parameters = [*states, head.weight]
    ours = torch.autograd.grad(loss_of(name, states, labels, head), parameters, materialize_grads=True)
    formula = torch.autograd.grad(plain_loop(name, states, labels, head), parameters, materialize_grads=True)
    torch.testing.assert_close(loss_of(name, states, labels, head), plain_loop(name, states, labels, head))
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


@pytest.mark.parametrize("name", LOSSES)
def test_no_label_at_all_gives_zero(name, states, head):
    none = torch.full((B, T), IGNORED_LABEL)
    assert loss_of(name, states, none, head).item() == 0.0


@pytest.mark.parametrize("name", LOSSES)
def test_one_layer_of_logits_is_alive_at_a_time(name, states, labels, head):
    """Nothing of the size of the logits is kept for the backward pass, however many layers there are."""
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(tuple(t.shape)) or t, lambda t: t):
        loss = loss_of(name, states, labels, head)
    logits = (int((labels != IGNORED_LABEL).sum()), V)
    assert loss.requires_grad and kept and logits not in kept


def test_an_unknown_name_lists_the_valid_ones(states, labels, head):
    with pytest.raises(ValueError, match=r"nonsense.*ce, weighted_ce"):
        loss_of("nonsense", states, labels, head)


@pytest.mark.parametrize("name", [name for name, row in LOSSES.items() if "shallow_exit_layer" in row.reads])
@pytest.mark.parametrize(("shallow", "said"), [(None, "give --shallow_exit_layer"), (0, "layer 0"), (L, f"layer {L}")])
def test_a_shallow_exit_that_is_none_is_refused(name, shallow, said, states, labels, head):
    config = SimpleNamespace(shallow_exit_layer=shallow)
    with pytest.raises(ValueError, match=rf"{said}.*valid are 1 to 3 for this decoder"):
        loss_over_layers(name, Layers(LayerStates(states[:-1], states), labels, head, config))
