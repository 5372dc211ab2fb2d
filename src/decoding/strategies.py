"""Strategies of contrastive generation: next-token scores from several layers of one model, at full depth.

What a layer says is contrasted with what an earlier layer of the same model, its amateur (DoLa: the premature layer),
says. A strategy is one
function of these and one row of `SCORE_RULES`. Contrastive decoding is arXiv:2210.15097, auto-contrastive decoding
arXiv:2305.01628, DoLa arXiv:2309.03883. DoLa's text chooses its layer by one divergence, its code by another, so that
is a choice of its own, `DIVERGENCES`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from decoding.adapter import Unembedding
from decoding.contrastive import LOWEST, jensen_shannon
from decoding.fields import wrong_types
from decoding.ranges import COUNT, FINITE, POSITIVE, SHARE

# DoLa's buckets of a deep model reach this far from the first or the last layer.
DEEP, REACH = 40, 20


def mean_divergence_from(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Mean of KL(M || P) and KL(M || Q) in nats, M = (P + Q) / 2, over the last dimension: what DoLa's code computes
    where its text has the Jensen-Shannon divergence, the mean of KL(P || M) and KL(Q || M)."""
    log_p, log_q = log_p.clamp_min(LOWEST), log_q.clamp_min(LOWEST)
    log_mean = torch.logaddexp(log_p, log_q) - math.log(2)
    return (log_mean.exp() * (log_mean - (log_p + log_q) / 2)).sum(-1)


# How far an amateur's distribution is from the expert's: by DoLa's text, and by its code.
DIVERGENCES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"paper": jensen_shannon, "code": mean_divergence_from}


class Unembedded(Protocol):
    """What of a model scores are read from: an adapter, or what stands in its place."""

    num_layers: int
    unembed: Unembedding


class Scored(NamedTuple):
    """Next-token scores [n, V] in float32, and the layer each row was contrasted with, [n]; None where none was."""

    scores: Tensor
    amateur: Tensor | None


@dataclass(frozen=True)
class Strategy:
    """How the next token is scored.

    Attributes:
        name: Key of `SCORE_RULES`.
        amateurs: Layers contrasted with, from 0, the embedding; several for dola alone, which picks one per row.
        expert: The layer that is contrasted; None for the last.
        alpha: Tokens of at least alpha times the expert's highest probability have a score; the others -inf.
        temperature: Of the amateur's distribution (contrastive).
        coefficient: Of the amateur's log-probabilities (contrastive).
        final_norm: Translate and norm intermediate layers' states before the head, as exits do; False is DoLa's own
            way, which reads them as they are.
        beams: Of the search; 1 is greedy, or sampling.
        divergence: Key of `DIVERGENCES`, by which dola picks its amateur.
    """

    name: str
    amateurs: tuple[int, ...] = ()
    expert: int | None = None
    alpha: float = 0.1
    temperature: float = 0.5
    coefficient: float = 1.0
    final_norm: bool = True
    beams: int = 1
    divergence: str = "paper"

    def __post_init__(self):
        problems = wrong_types(self) or self._problems() or self._layer_problems()
        if problems:
            raise ValueError(" ".join(problems))

    def _problems(self) -> list[str]:
        choices: dict[str, tuple[str, Mapping]] = {
            "strategy": (self.name, SCORE_RULES),
            "divergence": (self.divergence, DIVERGENCES),
        }
        numbers = {
            "alpha": (self.alpha, SHARE),
            "amateur temperature": (self.temperature, POSITIVE),
            "coefficient": (self.coefficient, FINITE),
            "beam size": (self.beams, COUNT),
        }
        unknown = [
            f"{name} is {value!r}: valid are {', '.join(table)}."
            for name, (value, table) in choices.items()
            if value not in table
        ]
        wrong = [
            f"{name} is {value}: {valid.advice(value)}"
            for name, (value, valid) in numbers.items()
            if value not in valid
        ]
        return [*unknown, *wrong]

    def _layer_problems(self) -> list[str]:
        if self.rule is None or (self.amateurs and self.rule.chooses) or len(self.amateurs) == 1:
            return []
        if self.rule.chooses:
            return [f"{self.name} needs layers to contrast with, but none was given."]
        return [f"{self.name} contrasts with one layer, but {len(self.amateurs)} were given."]

    @property
    def rule(self) -> ScoreRule | None:
        """How two layers are contrasted; None where none are."""
        return SCORE_RULES[self.name]

    def check(self, num_layers: int) -> None:
        """Refuse layers that a model of this depth does not have.

        Raises:
            ValueError: The sentence says which are there.
        """
        top = num_layers if self.expert is None else self.expert
        if not 1 <= top <= num_layers:
            raise ValueError(f"The contrasted layer is {top}: valid are 1 to {num_layers}.")
        wrong = [layer for layer in self.amateurs if not 0 <= layer < top]
        if wrong:
            raise ValueError(
                f"Layer {', '.join(map(str, wrong))} cannot be contrasted with layer {top}: valid are 0 to {top - 1}."
            )

    def layers(self, num_layers: int) -> set[int]:
        """The layers whose states `scores` wants."""
        return {num_layers if self.expert is None else self.expert, *self.amateurs}

    def readings(self, num_layers: int) -> list[Reading]:
        """What `contrast` wants logits of: the contrasted layer, then its amateurs."""
        top = num_layers if self.expert is None else self.expert
        return [Reading(layer, self.final_norm or layer == num_layers) for layer in (top, *self.amateurs)]

    def scores(self, adapter: Unembedded, states: Mapping[int, Tensor]) -> Scored:
        """Next-token scores.

        Args:
            states: Layer -> h^l of the tokens at hand, [n, D].
        """
        return self.contrast(read_logits(adapter.unembed, self.readings(adapter.num_layers), states))

    def contrast(self, logits: Tensor) -> Scored:
        """The same of logits, [1 + amateurs, n, V], as `readings` has them."""
        log_p = logits[0].log_softmax(-1)
        if self.rule is None:
            return Scored(log_p, None)
        chosen = torch.zeros(len(log_p), dtype=torch.long, device=log_p.device)
        if self.rule.chooses:
            divergence = DIVERGENCES[self.divergence]
            # One amateur at a time: what is in between stays small, for few rows two to three times as fast on a CPU.
            chosen = torch.stack([divergence(log_p, each.log_softmax(-1)) for each in logits[1:]]).argmax(0)
        amateur = logits[1:][chosen, torch.arange(len(chosen), device=chosen.device)]
        plausible = log_p >= log_p.amax(-1, keepdim=True) + (math.log(self.alpha) if self.alpha else -math.inf)
        scores = self.rule.score(log_p, amateur, plausible, self).masked_fill(~plausible, -torch.inf)
        return Scored(scores, torch.tensor(self.amateurs, device=chosen.device)[chosen])


class Reading(NamedTuple):
    """A layer that is read through the head, translated and normed as an exit is or, as DoLa's code has it, not."""

    layer: int
    normed: bool


def read_logits(unembed: Unembedding, readings: Sequence[Reading], states: Mapping[int, Tensor]) -> Tensor:
    """Logits of several readings, [J, n, V] in float32, in one product: the head is read once for all of them."""
    found = [unembed.normalise(states[layer], layer) if normed else states[layer] for layer, normed in readings]
    return unembed.logits(torch.cat(found)).float().unflatten(0, (len(readings), -1))


@dataclass(frozen=True)
class ScoreRule:
    """How a strategy scores tokens from two layers: one row of the table.

    Attributes:
        score: (log p of the expert [n, V], logits of the amateur [n, V], plausible tokens [n, V], the strategy) to
            scores [n, V], of no meaning for tokens that are not plausible.
        chooses: Whether each row picks its amateur among several, the one farthest from the expert.
    """

    score: Callable[[Tensor, Tensor, Tensor, Strategy], Tensor]
    chooses: bool = False


def contrastive(log_p: Tensor, amateur: Tensor, plausible: Tensor, strategy: Strategy) -> Tensor:
    """Contrastive decoding: log p - coefficient * log p_a, the amateur at a temperature."""
    return log_p - strategy.coefficient * (amateur / strategy.temperature).log_softmax(-1)


def acd(log_p: Tensor, amateur: Tensor, plausible: Tensor, strategy: Strategy) -> Tensor:
    """Auto-contrastive decoding: log of softmax over V_head of (log p - log p_a), times what p gives to V_head."""
    difference = (log_p - amateur.log_softmax(-1)).masked_fill(~plausible, -torch.inf)
    return difference.log_softmax(-1) + log_p.masked_fill(~plausible, -torch.inf).logsumexp(-1, keepdim=True)


def dola(log_p: Tensor, amateur: Tensor, plausible: Tensor, strategy: Strategy) -> Tensor:
    """DoLa: log p - log p_M, M the premature layer."""
    return log_p - amateur.log_softmax(-1)


SCORE_RULES: dict[str, ScoreRule | None] = {
    "plain": None,
    "contrastive": ScoreRule(contrastive),
    "acd": ScoreRule(acd),
    "dola_static": ScoreRule(dola),
    "dola": ScoreRule(dola, chooses=True),
}


def bucket(name: str, num_layers: int, tied: bool) -> tuple[int, ...]:
    """DoLa's candidate layers, "low" or "high": every second one of the lower or the upper half.

    Args:
        tied: Whether the head is the embedding, which then says nothing but the token itself: the low bucket begins
            at 2 instead of 0.
    """
    if name not in ("low", "high"):
        raise ValueError(f"{name!r} is no bucket of layers: valid are low and high.")
    half = num_layers // 2 if num_layers <= DEEP else None
    if name == "low":
        return tuple(range(2 if tied else 0, half or REACH, 2))
    return tuple(range(num_layers - REACH if half is None else half, num_layers, 2))
