"""What the functions of one decode call share."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch

from decoding.adapter import DecoderAdapter
from decoding.blocks import Block
from decoding.drafting import Drafting, Prices
from decoding.earlier import EarlierLayers
from decoding.flops import Cost
from decoding.policy import Policy
from decoding.pruning import Given, PruningSettings, first_survivors
from decoding.recorder import Recorder
from decoding.sequences import Decoding
from decoding.states import SKIPPED_STATES, States
from decoding.survivors import Survivors
from decoding.thresholds import AdaptiveThreshold


class ShallowToken(NamedTuple):
    """What a shallow exit said of a slot, whether or not the token left there: FREE's observation but for its label."""

    confidence: float
    token: int


@dataclass
class Call:
    """One decode call: the model's side, the policy, and what is stored and recorded on the way.

    Attributes:
        pruning: Of a policy that prunes, or None.
        first: What survives at the first exit, of a policy that chooses it before; None for the whole vocabulary.
        drafting: How many tokens each row drafts, of a policy that stops drafting where it does not pay, or None.
        estimator: Of a policy whose threshold adapts, or None.
        shallow: For an estimator: per batch row, slot -> what the exit said there, until the full model is asked.
    """

    adapter: DecoderAdapter
    policy: Policy
    states: States
    earlier: EarlierLayers
    recorder: Recorder
    pruning: PruningSettings | None = None
    first: Survivors | None = None
    drafting: Drafting | None = None
    estimator: AdaptiveThreshold | None = None
    shallow: list[dict[int, ShallowToken]] = field(default_factory=list)

    @property
    def batch(self) -> int:
        return self.recorder.batch

    @property
    def vocabulary(self) -> int:
        """V."""
        return self.adapter.unembed.vocabulary_size

    def unrecorded(self, policy: Policy) -> Call:
        """The same tokens and states under another policy, recorded nowhere that counts."""
        recorder = Recorder(self.batch, self.adapter.num_layers, prompt=1)
        recorder.begin_step([1.0] * self.batch, [0] * self.batch)
        return Call(self.adapter, policy, self.states, self.earlier, recorder)

    def free_to_leave(self, block: Block) -> list[int]:
        """Live rows of a block (positions in `live`) of which one more slot may be pending."""
        most, drafting = self.policy.num_speculations, self.drafting
        if most is None and drafting is None:
            return list(range(len(block.live)))
        mosts = [most if drafting is None else drafting.limit(row) for row in block.live_rows]
        pending = [self.states.pending(span.row, span.end - 1) for span in block.live_spans]
        return [i for i, (many, most) in enumerate(zip(pending, mosts, strict=True)) if most is None or many < most]

    def worth_asking(self, block: Block) -> list[int]:
        """Live rows of a block (positions in `live`) of which the adaptive threshold can learn: those that draft."""
        rows, drafting = enumerate(block.live_rows), self.drafting
        return [i for i, row in rows if drafting is None or drafting.limit(row)]

    def cost(self) -> Cost:
        """Sizes for the FLOP counter: the adapter's, and what the policy does."""
        policy = self.policy
        measure = {} if policy.confidence is None else policy.measure.counts
        return replace(self.adapter.cost(), recomputes=policy.recomputes, **measure)


def begin_call(
    adapter: DecoderAdapter,
    policy: Policy,
    decoding: Decoding,
    batch: int,
    prompt: int,
    estimator: AdaptiveThreshold | None = None,
) -> Call:
    """Buffers and records of a call, empty, for `batch` rows of `prompt` tokens."""
    unembed, num_layers = adapter.unembed, adapter.num_layers
    pruning = policy.pruning_settings(num_layers, unembed.vocabulary_size) if policy.prunes else None
    first = None
    if pruning is not None and policy.first is not None:
        given = Given(decoding.prompts or [torch.empty(0, dtype=torch.long)] * batch, decoding.ends)
        first = first_survivors(unembed, policy.first(pruning, given), policy.copy_share)
    return Call(
        adapter,
        policy,
        SKIPPED_STATES[policy.skipped](adapter, batch, decoding.max_length, policy.causal),
        EarlierLayers(unembed, num_layers, batch, first),
        Recorder(batch, num_layers, prompt, unembed.width if decoding.keep_states else None),
        pruning,
        first,
        _drafting(adapter, policy, batch, first),
        estimator,
        [{} for _ in range(batch)],
    )


def _drafting(adapter: DecoderAdapter, policy: Policy, batch: int, first: Survivors | None) -> Drafting | None:
    """What decides how many tokens are drafted, where they need not all be."""
    if not policy.drafts_where_it_pays:
        return None
    size, first_exit = adapter.unembed.vocabulary_size, policy.exit_layers(adapter.num_layers).start
    prices = Prices.of(adapter.cost(), adapter.unembed, first_exit, adapter.device.type)
    shares = [1.0] * batch if first is None else [first.kept[row] / size for row in range(batch)]
    return Drafting(prices, policy.num_speculations, shares)
