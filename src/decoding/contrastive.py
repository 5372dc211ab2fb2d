"""Contrast within one model: what a layer says against what an earlier layer of the same model, its amateur, says.

Contrastive decoding (arXiv:2210.15097), auto-contrastive decoding (arXiv:2305.01628) and DoLa (arXiv:2309.03883) score
tokens by log p_l - log p_a on the plausible set V_head. Here the scores become a distribution s, whose gap between the
two likeliest tokens is a confidence. Three facts make that cheap, exactly: a softmax over V_head does not see the
amateur's normaliser, so it takes the amateur's logits on V_head only; with one token in V_head it takes no amateur at
all; and the layers of which a divergence needs the whole distribution meet the head in one product.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from decoding.exits import ExitState, Members
from decoding.logits import log_probabilities

# Differences of logits are kept above this, so that no two infinities ever meet; exp of it is 0.
LOWEST = -1e30


def jensen_shannon(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Jensen-Shannon divergence in nats, summed over the last dimension: 0 where both agree, at most log 2.

    Symmetric. Slices of distributions need not sum to 1; every token's share is at least 0. -inf stands for 0.
    """
    log_p, log_q = log_p.clamp_min(LOWEST), log_q.clamp_min(LOWEST)
    log_mean = torch.logaddexp(log_p, log_q) - math.log(2)
    return (log_p.exp() * (log_p - log_mean) + log_q.exp() * (log_q - log_mean)).sum(-1) / 2


class Amateur(NamedTuple):
    """The layer each row is contrasted with, [s], and that layer's logits on V_head, [s, m]."""

    layer: Tensor
    logits: Tensor


def half_depth(exit: ExitState, members: Members) -> Amateur:
    """Layer floor(l/2) (auto-contrastive decoding)."""
    layer = exit.layer // 2
    logits = exit.amateur_logits([layer], members)[:, 0]
    return Amateur(torch.full((len(logits),), layer, device=logits.device), logits)


def farthest_slice(exit: ExitState, members: Members) -> Amateur:
    """The layer 2 <= j < l of the largest divergence per layer of distance.

    The divergence is that of the two V_head slices, not renormalised.
    """
    layers = range(2, exit.layer)
    partition = exit.partitions(layers, members.rows)  # [s, J, 2]
    logits = exit.amateur_logits(layers, members)  # [s, J, m]
    log_q = log_probabilities(logits, partition).masked_fill(~members.valid[:, None], -torch.inf)
    return _farthest(logits, jensen_shannon(members.log_p[:, None], log_q), exit.layer)


def farthest_whole(exit: ExitState, members: Members) -> Amateur:
    """The same with the divergence of the whole distributions over the surviving rows."""
    layers = range(2, exit.layer)
    logits = exit.surviving_logits(layers, members.index)  # [s, J, V] or [s, J, K]
    divergence = jensen_shannon(exit.log_p[members.index][:, None], logits.log_softmax(-1))
    columns = members.columns[:, None].expand(-1, len(layers), -1)
    return _farthest(logits.gather(2, columns), divergence, exit.layer)


def _farthest(logits: Tensor, divergence: Tensor, layer: int) -> Amateur:
    """Of layers 2 to layer - 1, with their logits [s, J, m], the one of the largest divergence [s, J] / distance; the
    lowest on a tie."""
    distance = torch.arange(layer - 2, 0, -1, device=divergence.device)
    chosen = (divergence / distance).argmax(-1)
    return Amateur(chosen + 2, logits[torch.arange(len(chosen), device=chosen.device), chosen])


class Inside(NamedTuple):
    """s on V_head: its logarithm before it is weighted, [s, m]; the mass of p_l on V_head, [s]; the amateur [s]."""

    log_s: Tensor
    mass: Tensor
    amateur: Tensor


@dataclass(frozen=True)
class ContrastiveMeasure:
    """A contrastive distribution s over the surviving tokens, and the confidence that is the gap of its first two.

    On V_head, s = softmax(log p_l - log p_a).

    Attributes:
        choose: (exit, members of V_head) to the amateur.
        first_layer: Below it there is no amateur, and s is p_l.
        weighted: Multiply s on V_head by the mass of p_l there; otherwise it sums to 1 there.
        elsewhere: Outside V_head s is p_l; otherwise 0.
    """

    choose: Callable[[ExitState, Members], Amateur]
    first_layer: int
    weighted: bool
    elsewhere: bool

    def confidence(self, exit: ExitState) -> Tensor:
        """The largest value of s minus the second largest, [n]."""
        first, second, _ = exit.summary.unbind(1)
        if exit.layer < self.first_layer:
            return first - second
        # With one token in V_head that token has all of its mass, whatever an amateur says.
        gap = (first if self.weighted else torch.ones_like(first)) - (second if self.elsewhere else 0.0)
        members = exit.members
        if members is not None:
            gap[members.index] = self._gap(exit, members).cpu()
        return gap

    def scores(self, exit: ExitState) -> Tensor:
        """log s over the surviving tokens, [n, V] or [n, K]; -inf for 0."""
        log_p = exit.log_p
        if exit.layer < self.first_layer:
            return log_p
        outside = log_p if self.elsewhere else torch.full_like(log_p, -torch.inf)
        alone = log_p if self.weighted else torch.zeros_like(log_p)  # right where V_head has one member
        scores = torch.where(exit.logits >= exit.floor, alone, outside)
        members = exit.members
        if members is not None:
            inside = self.inside(exit, members)
            log_s = inside.log_s + inside.mass.log()[:, None] if self.weighted else inside.log_s
            row, place = members.valid.nonzero().unbind(1)
            batch_row = torch.tensor(members.index, device=row.device)[row]
            scores[batch_row, members.columns[row, place]] = log_s[row, place]
        return scores

    def _gap(self, exit: ExitState, members: Members) -> Tensor:
        inside = self.inside(exit, members)
        values = inside.log_s.exp().topk(2, dim=-1).values
        if self.weighted:
            values = values * inside.mass[:, None]
        if self.elsewhere:
            logits = exit.logits[members.index]
            outside = exit.probabilities[members.index].masked_fill(logits >= exit.floor[members.index], 0).amax(-1)
            values = torch.cat([values, outside[:, None]], 1).topk(2, dim=-1).values
        return values[:, 0] - values[:, 1]

    def inside(self, exit: ExitState, members: Members) -> Inside:
        """s on V_head, worked out once per exit."""
        if self not in exit.notes:
            amateur = self.choose(exit, members)
            logits = amateur.logits.masked_fill(~members.valid, -torch.inf)
            logits = (logits - logits.amax(-1, keepdim=True)).clamp_min(LOWEST)
            difference = (members.log_p - logits).masked_fill(~members.valid, -torch.inf)
            exit.notes[self] = Inside(difference.log_softmax(-1), members.p.sum(-1), amateur.layer)
        return exit.notes[self]


CONTRASTS: dict[str, ContrastiveMeasure] = {
    "contrastive_decoding": ContrastiveMeasure(half_depth, first_layer=2, weighted=False, elsewhere=True),
    "reweight_contrastive_decoding": ContrastiveMeasure(half_depth, first_layer=2, weighted=True, elsewhere=False),
    "JSD_contrastive_confidence": ContrastiveMeasure(farthest_slice, first_layer=3, weighted=False, elsewhere=True),
    "reweight_contrastive_text": ContrastiveMeasure(half_depth, first_layer=2, weighted=True, elsewhere=True),
    "JSD_contrastive_text": ContrastiveMeasure(farthest_whole, first_layer=3, weighted=True, elsewhere=True),
}
