"""Curricula, scales and dropped layers of LayerSkip, by the formulas of its paper."""

import math
from types import SimpleNamespace

import pytest
import torch

from losses.exits import loss_over_layers
from losses.layers import Layers, LayerStates
from losses.layerskip import dropout_rates, dropped_layers, enabled, scales

SETTINGS = {"layer_dropout": 0.5, "layer_dropout_seed": 3}


def trained(curriculum: str, num_layers: int, step: int, steps: int = 40, rotation: int = 3) -> list[int]:
    layers = range(1, num_layers + 1)
    return [layer for layer in layers if enabled(layer, num_layers, curriculum, rotation, step, steps)]


def test_scales_worked_by_hand():
    assert scales(5, 0.5) == [0.0, 0.5, 1.5, 3.0, 4 + 3.0]
    assert scales(1, 1.0) == [0.0]


def test_rotational_trains_every_rth_exit_and_all_of_them_in_r_steps():
    assert [trained("rotational", 7, step) for step in range(4)] == [[1, 4, 7], [2, 5, 7], [3, 6, 7], [1, 4, 7]]


def test_gradual_adds_exits_from_the_last_down_until_half_of_training():
    assert [trained("gradual", 5, step)[0] for step in (0, 3, 4, 8, 12, 16, 20, 39)] == [5, 5, 4, 3, 2, 1, 1, 1]
    assert trained("gradual", 5, 8) == [3, 4, 5]


@pytest.mark.parametrize("curriculum", ["rotational", "gradual", "all"])
def test_outside_of_training_every_exit_counts(curriculum):
    assert all(enabled(layer, 5, curriculum, 3, 0, None) for layer in range(1, 6))


@pytest.mark.parametrize("step", range(3))
def test_the_loss_is_the_mean_of_trained_exits_under_their_scales(states, labels, head, step):
    config = SimpleNamespace(layerskip_curriculum="rotational", layerskip_rotation=3, layerskip_scale=0.5)
    layers = Layers(LayerStates(states[:-1], states), labels, head, config, step=step, steps=10)
    weights = {layer: scales(4, 0.5)[layer - 1] for layer in trained("rotational", 4, step)}
    expected = sum(weight * layers.cross_entropy(layer) for layer, weight in weights.items()) / sum(weights.values())
    torch.testing.assert_close(loss_over_layers("layerskip", layers), expected)


def test_exits_that_are_not_named_are_never_trained(states, labels, head):
    config = SimpleNamespace(layerskip_curriculum="all", layerskip_scale=0.5, layerskip_exits="2")
    layers = Layers(LayerStates(states[:-1], states), labels, head, config, step=0, steps=10)
    weights = {layer: scales(4, 0.5)[layer - 1] for layer in (2, 4)}
    expected = sum(weight * layers.cross_entropy(layer) for layer, weight in weights.items()) / sum(weights.values())
    torch.testing.assert_close(loss_over_layers("layerskip", layers), expected)


@pytest.mark.parametrize("text", ["5", "0", "2,", "two"])
def test_exits_that_the_decoder_does_not_have_are_refused(states, labels, head, text):
    config = SimpleNamespace(layerskip_exits=text)
    layers = Layers(LayerStates(states[:-1], states), labels, head, config, step=0, steps=10)
    with pytest.raises(ValueError, match=f"--layerskip_exits {text}: valid are all, or layers from 1 to 4"):
        loss_over_layers("layerskip", layers)


def test_rates_grow_with_depth_and_spare_the_last_layer():
    below = [0.2 * (math.exp(layer * math.log(2) / 4) - 1) for layer in range(4)]
    assert dropout_rates(5, 0.2) == pytest.approx([*below, 0.0])
    assert dropout_rates(1, 0.2) == [0.0]


def test_draws_are_of_seed_and_step_and_follow_the_rates():
    first = dropped_layers(6, 4000, (7,), **SETTINGS)
    assert torch.equal(first, dropped_layers(6, 4000, (7,), **SETTINGS))
    assert torch.equal(first[:, :30], dropped_layers(6, 30, (7,), **SETTINGS))  # however many rows come behind
    assert not torch.equal(first, dropped_layers(6, 4000, (8,), **SETTINGS))
    assert not torch.equal(first, dropped_layers(6, 4000, (7,), **SETTINGS | {"layer_dropout_seed": 4}))
    torch.testing.assert_close(first.double().mean(1).tolist(), dropout_rates(6, 0.5), atol=0.05, rtol=0)
