"""The loss of exit translators: how far each exit is from what the model itself says at last (tuned lens,
arXiv:2303.08112). It needs no labels, only positions."""

from collections.abc import Callable, Collection

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from losses.layers import Layers


def divergence_to_last(layers: Layers, read: Callable[[Tensor, int], Tensor], which: Collection[int]) -> Tensor:
    """Mean over some layers of KL(p_L || p_l) in nats, a scalar in float32, at least 0 up to rounding, and 0 where no
    position counts.

    Its gradient reaches what `read` is made of alone. Of each layer the state that was read and its logits are
    recomputed in the backward pass instead of being kept: memory grows with one [N, V] block, whatever the number of
    layers.

    Args:
        read: From h^l, [N, D], and l to x^l, translated and final-normed.
        which: The layers, all below the last.
    """
    with torch.no_grad():
        last = layers.head(layers.normed(layers.count)).float().log_softmax(-1)  # [N, V]

    def divergence(hidden: Tensor, layer: int) -> Tensor:
        log_p = layers.head(read(hidden, layer)).float().log_softmax(-1)
        return functional.kl_div(log_p, last, reduction="sum", log_target=True) / max(len(last), 1)

    each = [checkpoint(divergence, layers.hidden(layer).detach(), layer, use_reentrant=False) for layer in which]
    return torch.stack(each).mean()
