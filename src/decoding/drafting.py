"""Drafting that pays or stops: whether tokens of a row are drafted, and how many, as its acceptances predict.

A draft that is verified exactly changes no output, only what it costs. Of every length of a draft, none included, the
tokens per layer are predicted (the rule of DEL, arXiv:2504.05598), and the next draft has the best one. Where that is
none, a row's tokens run all layers at once, and a draft is tried again after 8 tokens, then 16, 32, ... Each row
decides by itself, from its own tokens and acceptances and never from a clock: a row in a batch does what it does alone,
and a run does the same again. Nothing is kept from call to call, so that a run which continues does what one that was
never interrupted does.
"""

from __future__ import annotations

import math
from collections.abc import Sequence, Set
from dataclasses import dataclass
from itertools import accumulate
from operator import mul
from typing import NamedTuple

from decoding.adapter import Unembedding
from decoding.flops import Cost

# Predictions that differ by less are equal: a draft has to promise so many times the tokens per layer of full depth,
# and the longest is taken of those that promise as much as the best.
GAIN = 1.01
# What the longest draft has to promise if all of it stood, for one to be tried at all: a trial costs about a token.
WORTH_TRYING = 1.1
# What earlier rounds count at each further one (omega of DEL), and what they count when a draft is tried again.
DECAY, FORGOTTEN = 0.95, 0.5
# What is believed of the acceptance before anything was seen, as drafted tokens that stood and that did not. High,
# since a draft that was not tried teaches nothing; and of little weight, since exits are either trained, and nearly
# always right, or are not: one rejection ends drafts that cost more than half a token, cheap ones outlast several.
STOOD, FAILED = 1.6, 0.4
# Tokens at full depth before a draft is tried again, for the first time and after drafts that paid.
FIRST_WAIT = 8
# The longest draft where nothing bounds it.
LONGEST = 64


class Device(NamedTuple):
    """What takes time beside reading weights for one slot.

    Attributes:
        fixed: All else in a layer or at an exit, by the weights that are read in that time.
        slot: A further slot that passes the same weights, by the time of reading them.
    """

    fixed: float = 0.0
    slot: float = 0.0


# By type; where none is given, reading weights is all the cost. A CPU multiplies for every slot. Constants, since a
# decision must not hang on a clock: they are near what drafts and verifications of 2 to 9 slots take at float32 in
# models of 0.2 (the T5 of src/assets), 3.5 (SmolLM2) and 8 (T5-base) million weights a layer.
DEVICES = {"cpu": Device(fixed=2e6, slot=0.3)}


@dataclass(frozen=True)
class Prices:
    """What a token costs, in layers.

    Attributes:
        num_layers: L.
        head: H, the whole head.
        first_exit: Layers of the cheapest draft.
        slot: Of a layer, for each slot beyond the first that passes it.
        fixed: Of the head, what it costs however few of its rows are multiplied.
        translator: Of an exit that has one (`models.translators`), its translator.
        translated: Layers that have one.
    """

    num_layers: int
    head: float
    first_exit: int
    slot: float = 0.0
    fixed: float = 0.0
    translator: float = 0.0
    translated: Set[int] = frozenset()

    @classmethod
    def of(cls, cost: Cost, unembed: Unembedding, first_exit: int, device: str) -> Prices:
        """Of a model of these sizes on a type of device."""
        return cls.of_weights(cost.num_layers, cost.layer_weights, unembed, first_exit, device)

    @classmethod
    def of_weights(cls, num_layers: int, layer: float, unembed: Unembedding, first_exit: int, device: str) -> Prices:
        """Of a model whose layers have so many weights."""
        fixed, slot = DEVICES.get(device, Device())
        time, width = layer + fixed, unembed.width
        head = (unembed.vocabulary_size * width + fixed) / time
        beside = {"slot": slot * layer / time, "fixed": fixed / time, "translator": width * width / time}
        return cls(num_layers, head, first_exit, **beside, translated=frozenset(unembed.translated))

    @property
    def full(self) -> float:
        """Of a token at full depth: L + H."""
        return self.num_layers + self.head

    def draft(self, layers: float, head: float) -> float:
        """Of a drafted token: the layers below its exit, the exits tried, `head` in layers, and, together with the
        token that verifies it, the layers above and the head once more."""
        return layers + head + self.slot * (self.full - layers)

    def exit(self, layer: int, share: float = 1.0) -> float:
        """Of an exit after `layer` that multiplies this share of the head's rows, in layers."""
        translator = self.translator if layer in self.translated else 0.0
        return translator + self.fixed + share * (self.head - self.fixed)


def stand_together(stood: float, failed: float, most: int) -> list[float]:
    """The probabilities that the first token of a draft stands, the first two, ..., the first `most`.

    Of an acceptance that is not known but through the tokens seen: one that stands speaks for those behind it (the
    mean of a^1, a^2, ... where a is Beta(stood, failed)).
    """
    return list(accumulate(((stood + i) / (stood + failed + i) for i in range(most)), mul))


def tokens_per_layer(
    stands: Sequence[float], *, leaving: float, draft: float, staying: float, full: float
) -> list[float]:
    """Tokens that stand after a round, over the layers it costs, where 0, 1, ..., len(stands) tokens may be drafted
    before the one that runs all layers and verifies them.

    Of DEL's (1 - a^(d + 1)) / (1 - a) / (d c + L + H), where every token asked leaves and acceptance is known to be a;
    a round ends early where a token does not leave.

    Args:
        stands: Of the first i drafted tokens, the probability that all of them stand.
        leaving: That a token asked leaves, which makes it a draft.
        draft: c, layers that a drafted token costs.
        staying: Layers' worth of exits asked by a token that does not leave.
        full: Of a token at full depth, L + H.
    """
    tokens, drafted, left, found = 1.0, 0.0, 1.0, [1 / full]
    for together in stands:
        left *= leaving
        drafted += left
        tokens += left * together
        found.append(tokens / (full + drafted * draft + (1 - left) * staying))
    return found


class RowDrafts:
    """The drafts of one row: what was seen of them, and how many tokens may be pending.

    Args:
        most: Drafted tokens that may be pending at most.
        share: Of the head's rows, those that survive at the first exit.

    Attributes:
        limit: Drafted tokens that may be pending; 0 while drafting has stopped, and where the exit is so deep that it
            is never worth a trial.
        stops: How often it has.
    """

    def __init__(self, prices: Prices, most: int, share: float = 1.0):
        self.prices, self.most = prices, most
        self.stops = 0
        self._wait = FIRST_WAIT
        # Sums over rounds, earlier ones decayed.
        self._stood, self._failed = 0.0, 0.0
        self._left, self._asked = 1.0, 1.0
        self._layers = float(prices.first_exit)  # of tokens that left
        self._rows_cost = prices.exit(prices.first_exit, share)  # the same
        self._staying = 0.0  # of tokens that did not
        # Tokens and layers since drafting began anew.
        self._phase = [0.0, 0.0]
        tries = self._promised([1.0] * most)[-1] * prices.full > WORTH_TRYING
        self.limit, self._resume = (max(1, self._best()), 0.0) if tries else (0, math.inf)
        self._begin_round()

    def _begin_round(self) -> None:
        self._round_heads, self._round_asked, self._round_drafted, self._round_accepted = 0.0, False, 0, 0

    # ---------------------------------------------------------------------------------------------------- what happens
    def asked(self, layer: int, share: float, leaves: bool) -> None:
        """An exit after `layer` was tried by a token that might leave.

        Args:
            share: Of the head's rows, those that survive there. How many are really multiplied depends on the batch,
                which must decide nothing.
        """
        self._round_asked = True
        self._round_heads += self.prices.exit(layer, share)
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
        self._stood += accepted
        self._failed += accepted < drafted

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
            self.limit = self._best()
            if not self.limit:
                self._stop(length)
            self._decay(DECAY)
            self._begin_round()
        return False

    # ------------------------------------------------------------------------------------------------------- what to do
    @property
    def _draft(self) -> float:
        """Layers that a drafted token costs, as seen so far."""
        return self.prices.draft(self._layers / self._left, self._rows_cost / self._left)

    def _learn(self) -> None:
        """Take in what the round has come to."""
        if self._round_heads:  # of a token that was asked and has not left
            self._asked += 1
            self._staying += self._round_heads
        cost = self.prices.full + self._round_drafted * self._draft + self._round_heads
        self._phase = [self._phase[0] + self._round_accepted + 1, self._phase[1] + cost]

    def _promised(self, stands: Sequence[float]) -> list[float]:
        """Tokens per layer of drafts of 0, 1, ... tokens that stand so."""
        stayed = self._asked - self._left
        staying = self._staying / stayed if stayed > 0 else 0.0
        leaving = self._left / self._asked
        return tokens_per_layer(stands, leaving=leaving, draft=self._draft, staying=staying, full=self.prices.full)

    def _best(self) -> int:
        """How many tokens to draft, 0 where none promises enough."""
        stands = stand_together(STOOD + self._stood, FAILED + self._failed, self.most)
        promised = self._promised(stands)
        enough = max(GAIN * promised[0], max(promised) / GAIN)
        return max((drafts for drafts, tokens in enumerate(promised) if tokens > enough), default=0)

    def _stop(self, length: int) -> None:
        tokens, layers = self._phase
        if tokens * self.prices.full > layers:
            self._wait = FIRST_WAIT
        self._resume = length + self._wait
        self._wait *= 2
        self.stops += 1

    def _try_again(self) -> None:
        self._phase = [0.0, 0.0]
        self._decay(FORGOTTEN)
        self.limit = max(1, self._best())

    def _decay(self, share: float) -> None:
        for name in ("_stood", "_failed", "_left", "_asked", "_layers", "_rows_cost", "_staying"):
            setattr(self, name, getattr(self, name) * share)


class Drafting:
    """The drafts of a call, row by row.

    Args:
        most: Drafted tokens of a row that may be pending at most; None for no bound.
        shares: Of each batch row, what survives at the first exit, as a share of the vocabulary.
    """

    def __init__(self, prices: Prices, most: int | None, shares: Sequence[float]):
        self.prices = prices
        self.rows = [RowDrafts(prices, most or LONGEST, share) for share in shares]

    def limit(self, row: int) -> int:
        """Drafted tokens of a row that may be pending."""
        return self.rows[row].limit
