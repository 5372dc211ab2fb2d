"""The last layer and, at every step, one exit below it that was drawn: two heads, however many exits there are."""

import numpy as np
from torch import Tensor

from decoding.ranges import FROM_ZERO, NATURAL, SHARE
from decoding.settings import Setting
from losses.layers import Layers

WEIGHT = Setting(
    "one_exit_weight",
    "Of one_exit: what the exit of a step counts beside the last layer's 1; 0 trains the last layer alone.",
    FROM_ZERO,
    default=0.5,
)
SMOOTHING = Setting(
    "one_exit_smoothing",
    "Of one_exit: the share of a label that is spread evenly over the vocabulary (arXiv:1512.00567).",
    SHARE,
    default=0.0,
)
SEED = Setting("one_exit_seed", "Of one_exit: what exits are drawn from, beside the step.", NATURAL, default=0)
SETTINGS = (WEIGHT, SMOOTHING, SEED)


def drawn_exit(num_layers: int, step: int, seed: int) -> int:
    """The exit of a step, each of the layers 1 to L - 1 alike likely; the same in every process and part of a batch."""
    return int(np.random.default_rng([seed, step]).integers(1, num_layers))


def one_exit(layers: Layers, one_exit_weight: float, one_exit_smoothing: float, one_exit_seed: int) -> Tensor:
    """CE_L + w CE_l of an exit l below the last that is drawn anew at every step. Outside of training, where `steps` is
    None, it is what a step expects: CE_L + w * the mean of all CE_l below the last."""
    last = layers.cross_entropy(layers.count, one_exit_smoothing)
    if not one_exit_weight or layers.count == 1:
        return last
    exits = [*range(1, layers.count)]
    if layers.steps is not None:
        exits = [drawn_exit(layers.count, layers.step, one_exit_seed)]
    return last + one_exit_weight * sum(layers.cross_entropy(exit_, one_exit_smoothing) for exit_ in exits) / len(exits)
