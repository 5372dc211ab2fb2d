"""Losses that train intermediate exits, and the one that trains the `meta` confidence head.

All of them see the decoder layer by layer and evaluate the language-model head for one layer at a time under
checkpointing, so that peak memory grows with one [N, V] block of logits and not with the number of layers.

Shapes: N label positions that count, D width, V vocabulary, L layers.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

IGNORED_LABEL = -100

Head = Callable[[Tensor], Tensor]
LayerLoss = Callable[[Tensor], Tensor]


def _head_cross_entropy(hidden: Tensor, labels: Tensor, head: Head) -> Tensor:
    logits = head(hidden).float()  # [N, V]
    total = functional.cross_entropy(logits, labels, reduction="sum")
    return total / max(labels.numel(), 1)


def cross_entropy(hidden: Tensor, labels: Tensor, head: Head) -> Tensor:
    """Mean cross entropy of one layer; its logits are recomputed in the backward pass instead of being kept.

    Args:
        hidden: final-normed states, [N, D].
        labels: token ids, [N].
        head: final-normed states to logits, [N, D] -> [N, V]; a model's `unembed()`.

    Returns:
        A scalar in float32, 0 where there is no label.
    """
    return checkpoint(_head_cross_entropy, hidden, labels, head, use_reentrant=False)


def ce(states: Sequence[Tensor], layer_loss: LayerLoss) -> Tensor:
    """Mean over the layers of their cross entropies."""
    return sum(layer_loss(hidden) for hidden in states) / len(states)


def weighted_ce(states: Sequence[Tensor], layer_loss: LayerLoss) -> Tensor:
    """Mean of the layers' cross entropies weighted by depth: sum l * CE_l / sum l (FREE, arXiv:2310.05424)."""
    weighted = sum(layer * layer_loss(hidden) for layer, hidden in enumerate(states, start=1))
    return weighted / (len(states) * (len(states) + 1) / 2)


INTERMEDIATE_LOSSES: dict[str, Callable[[Sequence[Tensor], LayerLoss], Tensor]] = {
    "ce": ce,
    "weighted_ce": weighted_ce,
}


def intermediate_loss(name: str, states: Sequence[Tensor], labels: Tensor, head: Head) -> Tensor:
    """The loss of that name over all layers.

    Args:
        name: a key of INTERMEDIATE_LOSSES.
        states: of each layer, first to last, the final-normed states, [..., D].
        labels: token ids, IGNORED_LABEL where none counts, [...].
        head: final-normed states to logits.

    Returns:
        A scalar in float32.
    """
    if name not in INTERMEDIATE_LOSSES:
        raise ValueError(f"unknown intermediate_loss_fn {name!r}; valid names are {', '.join(INTERMEDIATE_LOSSES)}")
    counted = labels != IGNORED_LABEL
    kept = labels[counted]
    return INTERMEDIATE_LOSSES[name](states, lambda hidden: cross_entropy(hidden[counted], kept, head))


def agreement(states: Sequence[Tensor], head: Head) -> list[Tensor]:
    """For each layer l < L whether its likeliest token is the last layer's.

    Args:
        states: of each layer, first to last, the final-normed states, [N, D].

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


def meta_head_loss(cm_head: Head, normed: Sequence[Tensor], labels: Tensor, head: Head) -> Tensor:
    """Loss of the `meta` confidence head: does layer l < L already name the token that layer L will name?

    Args:
        cm_head: final-normed, unscaled state -> two logits, the second for "agrees".
        normed: of each layer, first to last, the final-normed, unscaled states, [..., D].
        labels: token ids, IGNORED_LABEL where none counts, [...].
        head: final-normed states to logits.

    Returns:
        A scalar in float32, whose gradient reaches `cm_head` only.
    """
    counted = labels != IGNORED_LABEL
    kept = [hidden[counted].detach() for hidden in normed]  # L times [N, D]
    agrees = agreement(kept, head)
    return balanced_cross_entropy(cm_head(torch.cat(kept[:-1])), torch.cat(agrees))
