"""One exit a step: what it expects, what it draws, and that it costs two heads."""

from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional

from losses.exits import loss_over_layers
from losses.layers import Layers, LayerStates
from losses.one_exit import drawn_exit

L, STEPS = 4, 300


def one_exit(states, labels, head, step=0, steps=STEPS, **settings) -> torch.Tensor:
    config = SimpleNamespace(**{f"one_exit_{name}": value for name, value in settings.items()})
    return loss_over_layers(
        "one_exit", Layers(LayerStates(states[:-1], states), labels, head, config, step=step, steps=steps)
    )


def cross_entropies(states, labels, head, smoothing=0.0) -> list[torch.Tensor]:
    return [
        functional.cross_entropy(head(each).flatten(0, 1), labels.flatten(), label_smoothing=smoothing)
        for each in states
    ]


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("step", range(5))
def test_a_step_trains_the_last_layer_and_the_exit_drawn_for_it(states, labels, head, step, smoothing):
    layer = drawn_exit(L, step, seed=7)
    every = cross_entropies(states, labels, head, smoothing)
    expected = every[-1] + 0.3 * every[layer - 1]
    found = one_exit(states, labels, head, step, weight=0.3, smoothing=smoothing, seed=7)
    torch.testing.assert_close(found, expected)
    parameters = [*states, head.weight]
    ours = torch.autograd.grad(found, parameters, materialize_grads=True)
    for mine, theirs in zip(ours, torch.autograd.grad(expected, parameters, materialize_grads=True), strict=True):
        torch.testing.assert_close(mine, theirs)


def test_outside_of_training_it_is_what_a_step_expects(states, labels, head):
    *below, last = cross_entropies(states, labels, head)
    expected = last + 0.5 * sum(below) / len(below)
    torch.testing.assert_close(one_exit(states, labels, head, steps=None), expected)
    drawn = [drawn_exit(L, step, seed=0) for step in range(STEPS)]
    mean = sum(one_exit(states, labels, head, step) for step in range(STEPS)) / STEPS
    shares = [drawn.count(layer) / STEPS for layer in range(1, L)]
    torch.testing.assert_close(mean, last + 0.5 * sum(share * loss for share, loss in zip(shares, below, strict=True)))


def test_exits_below_the_last_are_alike_likely():
    drawn = [drawn_exit(8, step, seed=0) for step in range(7000)]
    assert sorted(set(drawn)) == [1, 2, 3, 4, 5, 6, 7]
    assert all(abs(drawn.count(layer) - 1000) < 5 * (1000 * 6 / 7) ** 0.5 for layer in range(1, 8))


def test_a_draw_is_of_seed_and_step_alone():
    assert [drawn_exit(9, step, 1) for step in range(40)] == [drawn_exit(9, step, 1) for step in range(40)]
    assert [drawn_exit(9, step, 1) for step in range(40)] != [drawn_exit(9, step, 2) for step in range(40)]


@pytest.mark.parametrize("steps", [None, STEPS])
def test_weight_0_trains_the_last_layer_alone(states, labels, head, steps):
    found = one_exit(states, labels, head, steps=steps, weight=0.0)
    torch.testing.assert_close(found, cross_entropies(states, labels, head)[-1])


def test_a_decoder_of_one_layer_has_no_exit_to_draw(states, labels, head):
    torch.testing.assert_close(one_exit(states[-1:], labels, head), cross_entropies(states, labels, head)[-1])


def test_a_step_runs_two_heads(states, labels, head):
    rows = []
    one_exit(states, labels, lambda hidden: rows.append(len(hidden)) or head(hidden))
    assert len(rows) == 2
