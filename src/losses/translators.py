"""The loss of exit translators: how far each exit is from what the model itself says at last (tuned lens,
arXiv:2303.08112). It needs no labels, only positions."""

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from losses.layers import Head, Layers


def divergence_to_last(layers: Layers, which: Iterable[int] | None = None) -> Tensor:
    """Mean over layers below the last of KL(p_L || p_l) in nats, a scalar in float32, at least 0 up to rounding, and 0
    where no position counts. p_L is detached; the head is evaluated for one layer at a time, see `losses.layers`.

    Args:
        layers: Whose normed states are translated ones.
        which: The layers that count; None for all below the last.
    """
    chosen = list(range(1, layers.count) if which is None else which)
    with torch.no_grad():
        last = log_probabilities(layers.normed(layers.count), layers.head)
    return sum(divergence(layers.normed(layer), last, layers.head) for layer in chosen) / len(chosen)


def log_probabilities(normed: Tensor, head: Head) -> Tensor:
    """log p of final-normed, unscaled states [N, D], [N, V] in float32."""
    return head(normed).float().log_softmax(-1)


def divergence(normed: Tensor, last: Tensor, head: Head) -> Tensor:
    """Mean over positions of KL(p_L || p_l) of states [N, D], `last` being log p_L [N, V]; the logits are recomputed in
    the backward pass instead of being kept."""
    return checkpoint(_divergence, normed, last, head, use_reentrant=False)


def _divergence(normed: Tensor, last: Tensor, head: Head) -> Tensor:
    total = functional.kl_div(log_probabilities(normed, head), last, reduction="sum", log_target=True)
    return total / max(len(last), 1)
