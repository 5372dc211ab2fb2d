"""LayerSkip (arXiv:2404.16710): an early-exit loss over all layers, whose weights follow a curriculum, and dropout of
whole layers."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from decoding.ranges import COUNT, FROM_ZERO, NATURAL, SHARE, layers_named
from decoding.settings import Setting
from losses.cross_entropies import weighted
from losses.layers import Layers

CURRICULUM = Setting(
    "layerskip_curriculum",
    "Of layerskip: which exits are trained at a step besides the last layer: rotational (every R-th, in turn), "
    "gradual (from the last down, one more every so many steps, all of them from half of training on), or all.",
    ("rotational", "gradual", "all"),
    default="rotational",
)
ROTATION = Setting("layerskip_rotation", "R of the rotational curriculum: every R-th layer.", COUNT, default=8)
SCALE = Setting(
    "layerskip_scale", "Of layerskip: e_scale, the weight of the exits below the last.", FROM_ZERO, default=1.0
)
EXITS = Setting(
    "layerskip_exits",
    "Of layerskip: the layers whose exits are ever trained besides the last, such as 10 or 10,20, or all. Each of them "
    "costs a head at the steps at which the curriculum has it.",
    (),
    default="all",
)
DROPOUT = Setting("layer_dropout", "Of layerskip: p_max, the dropout rate of the deepest layers.", SHARE, default=0.1)
SEED = Setting(
    "layer_dropout_seed", "Of layerskip: what dropped layers are drawn from, beside the step.", NATURAL, default=0
)
SETTINGS = (CURRICULUM, ROTATION, SCALE, EXITS, DROPOUT, SEED)


def enabled(layer: int, num_layers: int, curriculum: str, rotation: int, step: int, steps: int | None) -> bool:
    """C(t, l): whether the exit of a layer, from 1, is trained at a step; the last always is, and outside of training,
    where `steps` is None, all are."""
    if layer == num_layers or curriculum == "all" or steps is None:
        return True
    if curriculum == "rotational":
        return (layer - 1) % rotation == step % rotation
    each = steps / 2 / num_layers  # steps until one more exit is trained
    return num_layers - layer <= step / max(each, 1e-9)


def scales(num_layers: int, e_scale: float) -> list[float]:
    """e(l), first layer to last: e_scale * (0 + 1 + ... + l) below the last of 0-based layers l = 0 .. L - 1, and
    L - 1 + e_scale * (0 + ... + L - 2) for the last."""
    below = [e_scale * layer * (layer + 1) / 2 for layer in range(num_layers - 1)]
    return [*below, num_layers - 1 + (below[-1] if below else 0.0)]


def layerskip(
    layers: Layers,
    layerskip_curriculum: str,
    layerskip_rotation: int,
    layerskip_scale: float,
    layerskip_exits: str,
    **dropout,
) -> Tensor:
    """Sum of the layers' cross entropies, weighted by C(t, l) e(l), over the sum of these weights."""
    trained = {*layers_named(layerskip_exits, "layerskip_exits", layers.count), layers.count}
    weights = {
        layer: scale
        for layer, scale in enumerate(scales(layers.count, layerskip_scale), 1)
        if layer in trained
        and enabled(layer, layers.count, layerskip_curriculum, layerskip_rotation, layers.step, layers.steps)
    }
    return weighted(layers, weights)


def dropout_rates(num_layers: int, layer_dropout: float) -> list[float]:
    """p_max * D(l), first layer to last: D(l) = exp(l ln 2 / (L - 1)) - 1 of 0-based layers; 0 for the last."""
    if num_layers == 1:
        return [0.0]
    below = [layer_dropout * math.expm1(layer * math.log(2) / (num_layers - 1)) for layer in range(num_layers - 1)]
    return [*below, 0.0]


def dropped_layers(
    num_layers: int, rows: int, drawn_from: Sequence[int], layer_dropout: float, layer_dropout_seed: int, **curriculum
) -> Tensor:
    """Which layers are left out for which rows of a batch, [L, rows]; every row draws for itself.

    Args:
        drawn_from: What the draws are of, beside the seed: the step. The first rows of many are what few would be.
    """
    draws = np.random.default_rng([layer_dropout_seed, *drawn_from]).random((rows, num_layers))
    return torch.from_numpy(draws < np.array(dropout_rates(num_layers, layer_dropout))).t()
