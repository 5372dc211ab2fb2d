"""Exiting: what happens at the exits a token comes to on its way up - measure, compare, leave, prune (CALM)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from decoding.blocks import Block
from decoding.call import Call, ShallowToken
from decoding.drafting import Drafting
from decoding.emission import Emission
from decoding.exits import ExitState
from decoding.policy import Policy
from decoding.pruning import prune
from decoding.survivors import Survivors


def measure_confidence(policy: Policy, exit: ExitState) -> list[float]:
    """The confidence of every row at an exit, at most 1.

    Raises:
        ValueError: The measure returned something else than a number per row.
    """
    found = policy.measure.compute(exit)
    if not isinstance(found, Tensor) or found.shape != (len(exit.rows),):
        what = f"a tensor of shape {list(found.shape)}" if isinstance(found, Tensor) else f"{found!r}"
        raise ValueError(
            f"The measure {policy.confidence!r} returned {what} at layer {exit.layer}: valid is one number per row, "
            f"a tensor of shape [{len(exit.rows)}]."
        )
    values = found.clamp(max=1).tolist()
    if any(value != value for value in values):  # NaN stands in a trace for an exit that was not tried
        raise ValueError(f"The measure {policy.confidence!r} returned NaN at layer {exit.layer}: valid are numbers.")
    return values


@dataclass
class Exits:
    """The exits of one step: what one leaves to the next.

    Attributes:
        thresholds: What a confidence must exceed, by batch row.
        emission: Gets the logits of rows that leave.
        final: The full model's likeliest token, [B], for the oracle; otherwise None.
        survivors: Rows of the head that pruning has left so far; None for all of them. Those of the call at the
            first exit.
    """

    call: Call
    thresholds: Sequence[float]
    emission: Emission
    final: Tensor | None = None
    survivors: Survivors | None = field(init=False)

    def __post_init__(self):
        self.layers = self.call.policy.exit_layers(self.call.adapter.num_layers)
        self.survivors = self.call.first

    def try_exit(self, layer: int, block: Block) -> list[int]:
        """The live rows (positions in `live`) that leave after `layer`, whose logits are emitted."""
        if layer not in self.layers:
            return []
        call = self.call
        free = call.free_to_leave(block)
        asked = free if call.estimator is None else call.worth_asking(block)
        if not asked:
            return []
        exit = self._state(layer, block, asked)
        confidences = measure_confidence(call.policy, exit)
        self._record(exit, confidences, block)
        leaving = [i for i, row in enumerate(exit.rows) if confidences[i] > self.thresholds[row] and asked[i] in free]
        if call.drafting is not None:
            self._count(call.drafting, exit, [i for i, each in enumerate(asked) if each in free], leaving)
        if leaving:
            self._leave(exit, leaving)
        if len(leaving) < len(block.live) and layer + 1 in self.layers:
            self._prune(exit, confidences, leaving)
        return [asked[i] for i in leaving]

    def _state(self, layer: int, block: Block, asked: list[int]) -> ExitState:
        """The exit after `layer`, for live rows that are asked."""
        call, rows = self.call, block.live_rows
        if len(asked) < len(rows):
            rows = [rows[i] for i in asked]
        return ExitState(
            call.adapter.unembed,
            layer,
            call.earlier.at(layer, rows),
            call.earlier.at(layer - 1, rows),
            self.survivors,
            rows=rows,
            earlier=call.earlier,
            alpha=call.policy.alpha,
            final=None if self.final is None else self.final[rows],
            confidence_head=call.adapter.confidence_head,
        )

    def _record(self, exit: ExitState, confidences: list[float], block: Block) -> None:
        """Keep what the exit said: for the trace, for later exits that contrast, for an adaptive threshold."""
        call = self.call
        contrasts = call.policy.measure.contrasts
        if contrasts:
            exit.remember()
        if call.estimator is not None:
            slots = {span.row: span.end - 1 for span in block.live_spans}
            for row, confidence, token in zip(exit.rows, confidences, exit.likeliest.tolist(), strict=True):
                call.shallow[row][slots[row]] = ShallowToken(confidence, token)
        call.recorder.tried(exit, confidences, exit.sizes if contrasts else None)

    def _count(self, drafting: Drafting, exit: ExitState, free: list[int], leaving: list[int]) -> None:
        """Tell what the exit cost those of its rows that might leave; a measure that reads no logits costs those that
        do the whole head."""
        size, gone = self.call.vocabulary, set(leaving)
        kept = exit.kept if exit.has_logits else [size * (i in gone) for i in range(len(exit.rows))]
        for i in free:
            drafting.rows[exit.rows[i]].asked(exit.layer, kept[i] / size, i in gone)

    def _leave(self, exit: ExitState, leaving: list[int]) -> None:
        """Rows of the exit leave: their token is read from what it says."""
        call = self.call
        everyone = len(leaving) == len(exit.rows)
        rows = exit.rows if everyone else [exit.rows[i] for i in leaving]
        call.recorder.emitted(rows, exit.layer)
        if not exit.has_logits:
            unembed = call.adapter.unembed
            call.recorder.multiplied(rows, exit.layer, call.vocabulary, exit.layer in unembed.translated)
            normed = exit.normed if everyone else exit.normed_of(leaving)
            self.emission.add(rows, unembed.logits(normed).float())
            return
        logits, ids = self._emitted_logits(exit), exit.ids
        if not everyone:
            logits, ids = logits[leaving], None if ids is None else ids[leaving]
        self.emission.add(rows, logits, ids)

    def _emitted_logits(self, exit: ExitState) -> Tensor:
        """What a token that leaves is read from: the exit's logits, or its measure's log s."""
        scores = self.call.policy.measure.scores
        return scores(exit) if self.call.policy.emits_contrast and scores is not None else exit.logits

    def _prune(self, exit: ExitState, confidences: list[float], leaving: list[int]) -> None:
        """Choose the tokens that survive to the next exit, for the rows that go there."""
        call, policy = self.call, self.call.policy
        if call.pruning is None:
            return
        gone = set(leaving)
        staying = [i for i in range(len(exit.rows)) if i not in gone]
        unembed, schedule, share = call.adapter.unembed, policy.schedule, policy.copy_share
        self.survivors = prune(unembed, exit, staying, schedule, call.pruning, confidences, share)
