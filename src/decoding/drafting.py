"""Drafting that pays or stops: whether tokens of a row are drafted, and how many, as its acceptances predict.

A draft that is verified exactly changes no output, only what it costs. Where the tokens per layer that drafts promise
(the rule of DEL, arXiv:2504.05598) are fewer than those of full depth, a row's tokens run all layers at once, and a
draft is tried again after 8 tokens, then 16, 32, ... Each row decides by itself, from its own tokens and acceptances
and never from a clock: a row in a batch does what it does alone, and a run does the same again. Nothing is kept from
call to call, so that a run which continues does what one that was never interrupted does.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from decoding.flops import Cost

# A draft has to promise so many times the tokens per layer of full depth.
GAIN = 1.01
# What drafts have to promise if all of them stood, for one to be tried at all: a trial costs about a token.
WORTH_TRYING = 1.05
# Drafts are as long as they may be, unless shorter ones promise so many times the tokens per layer: what is predicted
# of lengths is within the error of the acceptance, and of what a slot costs.
SHORTER_GAIN = 1.1
# What earlier rounds count at each further one (omega of DEL), and what they count when a draft is tried again.
DECAY, FORGOTTEN = 0.95, 0.5
# The acceptance before anything was seen, and as how many drafted tokens it counts. High, since a draft that was not
# tried teaches nothing: where drafts are cheap one rejection is not enough to stop, where they are dear it is.
PRIOR, PRIOR_TOKENS = 0.9, 2.0
# Tokens at full depth before a draft is tried again, for the first time and after drafts that paid.
FIRST_WAIT = 8
# The longest draft where nothing bounds it.
LONGEST = 64
# What a layer costs a further slot that passes it together with another, by device. Where reading the weights is all
# the cost it is free; a CPU multiplies for each (SmolLM2 at float32: 2 slots take 1.35 times one's time, 9 take 3.3).
SLOT_COST = {"cpu": 0.25}


@dataclass(frozen=True)
class Prices:
    """What a token costs, in layers, by weights read.

    Attributes:
        num_layers: L.
        head: H, the whole head.
        first_exit: Layers of the cheapest draft.
        slot: Of a layer, for each slot beyond the first that passes it.
    """

    num_layers: int
    head: float
    first_exit: int
    slot: float = 0.0

    @classmethod
    def of(cls, cost: Cost, vocabulary: int, first_exit: int, device: str) -> Prices:
        """Of a model of these sizes on a type of device."""
        return cls(
            cost.num_layers, vocabulary * cost.width / cost.layer_weights, first_exit, SLOT_COST.get(device, 0.0)
        )

    @property
    def full(self) -> float:
        """Of a token at full depth: L + H."""
        return self.num_layers + self.head

    def draft(self, layers: float, head: float) -> float:
        """Of a drafted token: the layers below its exit, the exits tried, `head` in layers, and, together with the
        token that verifies it, the layers above and the head once more."""
        return layers + head + self.slot * (self.full - layers)


def tokens_per_layer(
    drafts: int, *, acceptance: float, leaving: float, draft: float, staying: float, full: float
) -> float:
    """Tokens that stand after a round, over the layers it costs: of at most `drafts` drafted tokens and of the one
    that runs all layers and verifies them.

    Of DEL's (1 - a^(d + 1)) / (1 - a) / (d c + L + H), where every token asked leaves; a round ends early where one
    does not.

    Args:
        acceptance: a, the probability that a drafted token stands, behind tokens that do.
        leaving: That a token asked leaves, which makes it a draft.
        draft: c, layers that a drafted token costs.
        staying: Layers' worth of exits asked by a token that does not leave.
        full: Of a token at full depth, L + H.
    """
    tokens, drafted, stands, left = 1.0, 0.0, 1.0, 1.0
    for _ in range(drafts):
        left *= leaving
        stands *= leaving * acceptance
        drafted += left
        tokens += stands
    return tokens / (full + drafted * draft + (1 - left) * staying)


class RowDrafts:
    """The drafts of one row: what was seen of them, and how many tokens may be pending.

    Args:
        most: Drafted tokens that may be pending at most.
        head: The rows of the head that survive at the first exit, in layers; None for the whole head.

    Attributes:
        limit: Drafted tokens that may be pending; 0 while drafting has stopped, and where the exit is so deep that it
            is never worth a trial.
        stops: How often it has.
    """

    def __init__(self, prices: Prices, most: int, head: float | None = None):
        self.prices, self.most = prices, most
        self.stops = 0
        self._wait = FIRST_WAIT
        # Sums over rounds, earlier ones decayed.
        self._accepted, self._judged = PRIOR * PRIOR_TOKENS, PRIOR_TOKENS
        self._left, self._asked = 1.0, 1.0
        self._layers = float(prices.first_exit)  # of tokens that left
        self._rows_cost = prices.head if head is None else head  # the same
        self._staying = 0.0  # of tokens that did not
        # Tokens and layers since drafting began anew.
        self._phase = [0.0, 0.0]
        best = {"acceptance": 1.0, "leaving": 1.0, "draft": self._draft, "staying": 0.0, "full": prices.full}
        tries = tokens_per_layer(most, **best) * prices.full > WORTH_TRYING
        self._longest = self._trial
        self.limit, self._resume = (self._longest, 0.0) if tries else (0, math.inf)
        self._begin_round()

    def _begin_round(self) -> None:
        self._round_heads, self._round_asked, self._round_drafted, self._round_accepted = 0.0, False, 0, 0

    # ---------------------------------------------------------------------------------------------------- what happens
    def asked(self, layer: int, head: float, leaves: bool) -> None:
        """An exit after `layer` was tried by a token that might leave.

        Args:
            head: What the rows of the head that survive there cost, in layers. How many are really multiplied depends
                on the batch, which must decide nothing.
        """
        self._round_asked = True
        self._round_heads += head
        if leaves:
            self._left += 1
            self._asked += 1
            self._layers += layer
            self._rows_cost += self._round_heads
            self._round_heads = 0.0

    def verified(self, drafted: int, accepted: int) -> None:
        """Of so many drafted tokens the first so many stand."""
        self._round_drafted += drafted
        self._round_accepted += accepted
        self._accepted += accepted
        self._judged += accepted + (accepted < drafted)

    def end_round(self, length: int) -> bool:
        """Nothing of the row is pending any more, and it has `length` tokens: decide about the next.

        Returns:
            Whether the last of them ran at full depth because drafting has stopped.
        """
        if not self.limit:
            if length >= self._resume:
                self._try_again()
            return True
        if self._round_asked or self._round_drafted:
            self._learn()
            self._decide(length)
            self._begin_round()
        return False

    # ------------------------------------------------------------------------------------------------------- what to do
    @property
    def _draft(self) -> float:
        """Layers that a drafted token costs, as seen so far."""
        return self.prices.draft(self._layers / self._left, self._rows_cost / self._left)

    @property
    def _trial(self) -> int:
        """Tokens of a draft that costs no more than a token at full depth, one at least."""
        return min(self.most, max(1, int(self.prices.full / self._draft)))

    def _learn(self) -> None:
        """Take in what the round has come to."""
        if self._round_heads:  # of a token that was asked and has not left
            self._asked += 1
            self._staying += self._round_heads
        cost = self.prices.full + self._round_drafted * self._draft + self._round_heads
        self._phase = [self._phase[0] + self._round_accepted + 1, self._phase[1] + cost]
        if self._round_accepted == self._round_drafted == self.limit:
            self._longest = min(2 * self._longest, self.most)

    def _decide(self, length: int) -> None:
        """How many tokens may be pending in the next round, of 0 to twice as many as stood together before."""
        stayed = self._asked - self._left
        seen = {
            "acceptance": self._accepted / self._judged,
            "leaving": self._left / self._asked,
            "draft": self._draft,
            "staying": self._staying / stayed if stayed > 0 else 0.0,
            "full": self.prices.full,
        }
        promised = {drafts: tokens_per_layer(drafts, **seen) for drafts in range(1, self._longest + 1)}
        best, pays = max(promised, key=lambda drafts: promised[drafts]), GAIN / self.prices.full
        long_enough = promised[self._longest] > max(pays, promised[best] / SHORTER_GAIN)
        self.limit = self._longest if long_enough else best
        if promised[best] <= pays:
            self._stop(length)
        self._decay(DECAY)

    def _stop(self, length: int) -> None:
        tokens, layers = self._phase
        if tokens * self.prices.full > layers:
            self._wait = FIRST_WAIT
        self._resume = length + self._wait
        self._wait *= 2
        self.limit, self.stops = 0, self.stops + 1

    def _try_again(self) -> None:
        self.limit = self._longest = self._trial
        self._phase = [0.0, 0.0]
        self._decay(FORGOTTEN)

    def _decay(self, share: float) -> None:
        for name in ("_accepted", "_judged", "_left", "_asked", "_layers", "_rows_cost", "_staying"):
            setattr(self, name, getattr(self, name) * share)


class Drafting:
    """The drafts of a call, row by row.

    Args:
        most: Drafted tokens of a row that may be pending at most; None for no bound.
        shares: Of each batch row, what survives at the first exit, as a share of the vocabulary.
    """

    def __init__(self, prices: Prices, most: int | None, shares: Sequence[float]):
        self.prices = prices
        self.rows = [RowDrafts(prices, most or LONGEST, share * prices.head) for share in shares]

    def limit(self, row: int) -> int:
        """Drafted tokens of a row that may be pending."""
        return self.rows[row].limit
