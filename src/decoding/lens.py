"""What every layer a token ran says of it: the views of a run, from the states of a trace (`ExitTrace.states`).

Layer 0 is the embedding; the last layer is the one the token left from. All functions take one token.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from decoding.adapter import Unembedding
from decoding.contrastive import CONTRASTS, ContrastiveMeasure, jensen_shannon
from decoding.earlier import EarlierLayers
from decoding.exits import ExitState
from decoding.logits import log_probabilities, partition_of

# The measure whose comparison is shown where the run's own measure contrasts nothing.
SHOWN_CONTRAST = "JSD_contrastive_confidence"
MOST_MEMBERS = 16


@dataclass(frozen=True)
class LayerView:
    """A token at the layers 0 to e that it ran, e + 1 numbers each.

    Attributes:
        rank: Of the token emitted, 1 for the likeliest; ties go to the lower id.
        likeliest: The token the layer would say.
        probability: That token's.
        gap: Its lead over the second.
    """

    rank: list[int]
    likeliest: list[int]
    probability: list[float]
    gap: list[float]


def rank_of(logits: Tensor, tokens: Tensor) -> Tensor:
    """Of a token [n] of each row among its logits [n, V], 1 for the likeliest, [n]; ties go to the lower id."""
    own = logits.gather(1, tokens[:, None])
    lower = torch.arange(logits.shape[1], device=logits.device) < tokens[:, None]
    return 1 + (logits > own).sum(-1) + ((logits == own) & lower).sum(-1)


def layer_view(logits: Tensor, token: int) -> LayerView:
    """The view of logits [e + 1, V] of a token."""
    rank = rank_of(logits, torch.full((len(logits),), token, device=logits.device))
    top2 = logits.softmax(-1).topk(2, dim=-1).values
    return LayerView(
        rank=rank.tolist(),
        likeliest=logits.argmax(-1).tolist(),
        probability=top2[:, 0].tolist(),
        gap=(top2[:, 0] - top2[:, 1]).tolist(),
    )


def pairwise_divergence(logits: Tensor) -> list[list[float]]:
    """Jensen-Shannon divergence in nats of every layer i and every earlier one: row i holds j = 0 to i - 1."""
    log_p = logits.log_softmax(-1)
    return [jensen_shannon(log_p[:i], log_p[i].expand(i, -1)).tolist() if i else [] for i in range(len(log_p))]


@dataclass(frozen=True)
class ContrastView:
    """What a contrastive measure compares at the layer a token left from; the likeliest MOST_MEMBERS of V_head.

    Attributes:
        measure: Its name in `CONTRASTS`.
        amateur: The layer compared with, None where V_head has one member and none is asked, or none exists.
        size: Members of V_head.
        tokens: Their ids, likeliest first.
        p, s: What the layer's own distribution and the contrastive one give them.
        p_amateur: What the amateur's distribution gives them; empty without an amateur.
    """

    measure: str
    amateur: int | None
    size: int
    tokens: list[int]
    p: list[float]
    s: list[float]
    p_amateur: list[float]


def contrast_view(unembed: Unembedding, states: Tensor, confidence: str | None, alpha: float) -> ContrastView:
    """The comparison at the last of the layers a token ran.

    Args:
        states: h^0 to h^e, [e + 1, D].
        confidence: The run's measure; `SHOWN_CONTRAST` is taken where it is none that contrasts.
        alpha: Of V_head.
    """
    name = SHOWN_CONTRAST if confidence is None or confidence not in CONTRASTS else confidence
    layer = len(states) - 1
    earlier = EarlierLayers(unembed, num_layers=layer, batch=1)
    for hidden in states:
        earlier.ran([0], hidden[None])
    exit = ExitState(unembed, layer, states[-1:], states[-2:-1], rows=[0], earlier=earlier, alpha=alpha)
    contrast: ContrastiveMeasure = CONTRASTS[name]
    scores = contrast.scores(exit)[0]
    amateur = None
    if exit.members is not None and layer >= contrast.first_layer:
        amateur = int(contrast.inside(exit, exit.members).amateur[0])
    plausible = exit.logits[0] >= exit.floor[0]
    tokens = exit.logits[0].topk(min(MOST_MEMBERS, int(plausible.sum()))).indices
    p_amateur: list[float] = []
    if amateur is not None:
        logits = unembed.logits(unembed.normalise(states[amateur : amateur + 1], amateur)).float()
        p_amateur = log_probabilities(logits, partition_of(logits))[0, tokens].exp().tolist()
    return ContrastView(
        measure=name,
        amateur=amateur,
        size=int(plausible.sum()),
        tokens=tokens.tolist(),
        p=exit.probabilities[0, tokens].tolist(),
        s=scores[tokens].exp().tolist(),
        p_amateur=p_amateur,
    )
