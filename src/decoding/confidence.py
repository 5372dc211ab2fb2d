"""Confidence: what is measured at an exit. One pure function and one row of `CONFIDENCES` per measure.

Every measure maps an `ExitState` to one float32 number per row; the loop clamps it to at most 1 and leaves where it is
strictly above the threshold. Ties between tokens go to the lowest id, as `torch.argmax` has it.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Real

import torch
from torch import Tensor

from decoding.contrastive import CONTRASTS
from decoding.exits import ExitState
from decoding.flops import Tried


def softmax_gap(exit: ExitState) -> Tensor:
    """Top-1 minus top-2 probability, in [0, 1] (CALM, arXiv:2207.07061)."""
    return exit.top2[:, 0] - exit.top2[:, 1]


def max_prob(exit: ExitState) -> Tensor:
    """Probability of the likeliest token, in [1/K, 1]."""
    return exit.top2[:, 0]


def entropy(exit: ExitState) -> Tensor:
    """1 - H(p) / log K over the K surviving tokens: 0 for the uniform distribution, 1 for a certain token."""
    entropy = torch.special.entr(exit.probabilities).sum(-1)
    if exit.survivors is None:
        return 1 - entropy / math.log(exit.logits.shape[-1])
    return 1 - entropy / torch.tensor(exit.kept, device=entropy.device, dtype=torch.float32).log()


def state_similarity(exit: ExitState) -> Tensor:
    """Cosine of the hidden states before and after the layer, in [-1, 1] (CALM's hidden-state saturation).

    Both are divided by their largest entry first, so that squares of extreme values stay finite.
    """
    states = torch.stack([exit.hidden, exit.previous]).float()  # [2, n, D]
    states = states / states.abs().amax(-1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
    return torch.cosine_similarity(states[0], states[1], dim=-1)


def meta_classifier(exit: ExitState) -> Tensor:
    """Probability that the token equals the last layer's, from CALM's trained early-exit classifier."""
    return exit.confidence_head(exit.normed).float().softmax(-1)[:, 1]


def oracle(exit: ExitState) -> Tensor:
    """1 where the token is already the one that the last layer will say, else 0 (CALM section 3.3): the upper line.

    No method: the loop runs every token to the end first, to know it.
    """
    return (exit.likeliest == exit.final).float()


@dataclass(frozen=True)
class Measure:
    """One row of the table: the function and what the loop, the FLOP counter and the tables need to know about it.

    Attributes:
        compute: From an exit to one number per row.
        elementwise: Arithmetic outside matrix products at one exit that was tried, in FLOPs; what is not said is no 0.
        label: What tables and figures call it; its name where nothing is given.
        reads_logits: Whether the head is multiplied to measure; otherwise only to read a token that leaves.
        reads_head: Whether the model's trained `cm_head` is needed.
        first_layer: No exit is tried below it.
        scores: log s over the surviving tokens where the measure has a distribution s of its own (--emit contrastive).
        contrasts: Whether earlier layers of the token are asked for.
        looks_ahead: Whether the last layer's token must be known before.
    """

    compute: Callable[[ExitState], Tensor]
    elementwise: Callable[[Tried], int]
    label: str = ""
    reads_logits: bool = True
    reads_head: bool = False
    first_layer: int = 1
    scores: Callable[[ExitState], Tensor] | None = None
    contrasts: bool = False
    looks_ahead: bool = False

    def __post_init__(self) -> None:
        try:
            count: object = self.elementwise(Tried(width=64, layer=3, rows=100, members=5))
        except (AttributeError, TypeError) as error:
            count = error
        if not isinstance(count, Real):
            sizes = ", ".join(Tried._fields)
            raise ValueError(
                f"The elementwise of a measure gave {count!r}: valid is a number of FLOPs, from the {sizes} of an exit."
            )

    @property
    def counts(self) -> dict:
        """The fields the FLOP counter needs."""
        return {"reads_logits": self.reads_logits, "reads_head": self.reads_head, "elementwise": self.elementwise}


# Of the contrastive measures: what tables and figures call them.
LABELS = {
    "contrastive_decoding": "contrastive",
    "reweight_contrastive_decoding": "weighted",
    "reweight_contrastive_text": "weighted (text)",
    "JSD_contrastive_confidence": "JSD",
    "JSD_contrastive_text": "JSD (text)",
}


def _contrastive(name: str) -> Measure:
    """Beyond the softmax: V_head takes a comparison per row; with several members, each costs a difference and a
    softmax (6), and 12 per layer whose divergence is taken."""
    contrast = CONTRASTS[name]
    compares = name.startswith("JSD")

    def elementwise(tried: Tried) -> int:
        if tried.members < 2 or tried.layer < contrast.first_layer:
            return 5 * tried.rows
        layers = tried.layer - 2 if compares else 0
        return 5 * tried.rows + tried.members * (6 + 12 * layers)

    return Measure(contrast.confidence, elementwise, LABELS.get(name, ""), scores=contrast.scores, contrasts=True)


CONFIDENCES: dict[str, Measure] = {
    "softmax": Measure(softmax_gap, lambda tried: 4 * tried.rows),
    "max_prob": Measure(max_prob, lambda tried: 4 * tried.rows),
    "entropy": Measure(entropy, lambda tried: 6 * tried.rows),
    "state": Measure(state_similarity, lambda tried: 8 * tried.width, reads_logits=False, first_layer=2),
    "meta": Measure(meta_classifier, lambda tried: tried.width + 6, reads_logits=False, reads_head=True),
    **{name: _contrastive(name) for name in CONTRASTS},
    "oracle": Measure(oracle, lambda tried: 0, looks_ahead=True),  # no method, so its look ahead costs nothing
}
