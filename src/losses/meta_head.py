"""The loss of the `meta` confidence head, which learns which layers name the last layer's token already."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from losses.layers import Head, Layers


def agreement(states: Sequence[Tensor], head: Head) -> list[Tensor]:
    """For each layer l < L whether its likeliest token is the last layer's.

    Args:
        states: of each layer, first to last, states as the head expects them, [N, D].

    Returns:
        L - 1 vectors of 0 and 1, [N].
    """
    with torch.no_grad():
        final = head(states[-1]).argmax(-1)
        return [(head(hidden).argmax(-1) == final).long() for hidden in states[:-1]]


def balanced_cross_entropy(logits: Tensor, classes: Tensor) -> Tensor:
    """Cross entropy of two classes, each weighing the same however rare; a class that does not occur is left out.

    Args:
        logits: [N, 2]; over two classes this is the binary cross entropy of their difference.
        classes: 0 or 1, [N].
    """
    losses = functional.cross_entropy(logits.float(), classes, reduction="none")
    counts = torch.bincount(classes, minlength=2)  # [2]
    present = (counts > 0).sum().clamp(min=1)
    weights = 1 / (counts.clamp(min=1) * present)  # [2]
    return (losses * weights[classes]).sum()


def meta_head_loss(cm_head: Head, layers: Layers) -> Tensor:
    """Loss of the `meta` confidence head: does layer l < L already name the token that layer L will name?

    Args:
        cm_head: final-normed, unscaled state -> two logits, the second for "agrees".

    Returns:
        A scalar in float32, whose gradient reaches `cm_head` only.
    """
    kept = [layers.normed(layer).detach() for layer in range(1, layers.count + 1)]  # L times [N, D]
    agrees = agreement(kept, layers.head)
    return balanced_cross_entropy(cm_head(torch.cat(kept[:-1])), torch.cat(agrees))
