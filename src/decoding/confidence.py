"""Confidence: what is measured at an exit. One pure function and one row of `CONFIDENCES` per measure.

Every measure maps an `ExitState` to one float32 number per row; the loop clamps it to at most 1 and leaves where it is
strictly above the threshold. Ties between tokens go to the lowest id, as `torch.argmax` has it.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


class ExitState:
    """What one exit offers a measure. Logits are computed when a measure first asks for them.

    Attributes:
        layer: Number of layers the rows have run, 1-based.
        hidden: h^l, the residual stream after `layer` layers, [B, D].
        previous: h^(l-1), [B, D].
        ids: Token ids of the logits in hand, likeliest first, [B, K], or None for the whole vocabulary.
    """

    def __init__(self, adapter, layer: int, hidden: Tensor, previous: Tensor, ids: Tensor | None = None):
        self.adapter = adapter
        self.layer = layer
        self.hidden = hidden
        self.previous = previous
        self.ids = ids

    @cached_property
    def normed(self) -> Tensor:
        """The state behind the final norm, not scaled, [B, D]."""
        return self.adapter.normalise(self.hidden)

    @cached_property
    def logits(self) -> Tensor:
        """Raw logits over the rows in hand in float32, [B, V] or [B, K]."""
        return self.adapter.head(self.normed, self.ids).float()

    @property
    def has_logits(self) -> bool:
        return "logits" in self.__dict__

    @property
    def confidence_head(self) -> torch.nn.Module:
        """The trained confidence classifier of the model (`cm_head`).

        Raises:
            ValueError: The checkpoint has none.
        """
        return self.adapter.confidence_head


def softmax_gap(exit: ExitState) -> Tensor:
    """Top-1 minus top-2 probability, in [0, 1] (CALM, arXiv:2207.07061)."""
    top2 = exit.logits.softmax(-1).topk(2, dim=-1).values  # [B, 2]
    return top2[:, 0] - top2[:, 1]


def max_prob(exit: ExitState) -> Tensor:
    """Probability of the likeliest token, in [1/K, 1]."""
    return exit.logits.softmax(-1).amax(-1)


def entropy(exit: ExitState) -> Tensor:
    """1 - H(p) / log K over the K rows in hand: 0 for the uniform distribution, 1 for a certain token."""
    entropy = torch.special.entr(exit.logits.softmax(-1)).sum(-1)
    return 1 - entropy / math.log(exit.logits.shape[-1])


def state_similarity(exit: ExitState) -> Tensor:
    """Cosine of the hidden states before and after the layer, in [-1, 1] (CALM's hidden-state saturation).

    Both are divided by their largest entry first, so that squares of extreme values stay finite.
    """
    states = torch.stack([exit.hidden, exit.previous]).float()  # [2, B, D]
    states = states / states.abs().amax(-1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
    return torch.cosine_similarity(states[0], states[1], dim=-1)


def meta_classifier(exit: ExitState) -> Tensor:
    """Probability that the token equals the last layer's, from CALM's trained early-exit classifier."""
    return exit.confidence_head(exit.normed).float().softmax(-1)[:, 1]


@dataclass(frozen=True)
class Measure:
    """One row of the table: the function and what the loop and the FLOP counter need to know about it.

    Attributes:
        compute: From an exit to one number per row.
        reads_logits: Whether the head is multiplied to measure; otherwise only to read a token that leaves.
        reads_head: Whether the model's trained `cm_head` is needed.
        first_layer: No exit is tried below it.
        elementwise: Arithmetic outside matrix products per exit tried, from (D, K).
    """

    compute: Callable[[ExitState], Tensor]
    reads_logits: bool = True
    reads_head: bool = False
    first_layer: int = 1
    elementwise: Callable[[int, int], int] = lambda width, rows: 0

    @property
    def counts(self) -> dict:
        """The fields the FLOP counter needs."""
        return {"reads_logits": self.reads_logits, "reads_head": self.reads_head, "elementwise": self.elementwise}


CONFIDENCES: dict[str, Measure] = {
    "softmax": Measure(softmax_gap, elementwise=lambda width, rows: 4 * rows),
    "max_prob": Measure(max_prob, elementwise=lambda width, rows: 4 * rows),
    "entropy": Measure(entropy, elementwise=lambda width, rows: 6 * rows),
    "state": Measure(state_similarity, reads_logits=False, first_layer=2, elementwise=lambda width, rows: 8 * width),
    "meta": Measure(meta_classifier, reads_logits=False, reads_head=True, elementwise=lambda width, rows: width + 6),
}
