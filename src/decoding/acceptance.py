"""Acceptance: from what a step has emitted to the tokens of every row, chosen, verified, kept or rolled back, ended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from decoding.call import Call
from decoding.emission import Emission, VerifiedSlots
from decoding.full_depth import run_pending
from decoding.sequences import Sequences, choose
from decoding.thresholds import AdaptiveThreshold
from decoding.trace import ExitTrace, SearchTrace
from decoding.verification import Draft, Verification


@dataclass
class Result:
    """What a decode call returns: ids [B, t] with the prompt, its trace (of a search its own), and scores and logits
    of every position, [B, V] each, where asked for."""

    sequences: Tensor
    trace: ExitTrace | SearchTrace
    scores: tuple[Tensor, ...] = ()
    logits: tuple[Tensor, ...] = ()


class Rejection(NamedTuple):
    """Of a row `length` tokens are accepted, prompt included; the full model's `token` comes behind them."""

    length: int
    token: int


class Acceptance:
    """What becomes of the tokens that a call emits, step by step.

    A slot's token is the one behind it: that read at slot i is the token behind the first i + 1.
    """

    def __init__(self, call: Call, text: Sequences):
        self.call, self.text = call, text
        self.policy, self.decoding = call.policy, text.decoding
        self.verification = call.policy.verifies
        self.exact = self.verification is not None and self.verification.exact
        self.max_new_tokens = self.decoding.max_length - text.prompt
        self.draws = self.exact and self.decoding.sample
        self.drawn_from: list[dict[int, Tensor]] = [{} for _ in range(text.batch)]  # slot -> [V]

    def begin_step(self) -> list[float]:
        """The threshold of every row in the next step."""
        positions = [length - self.text.prompt for length in self.text.lengths]
        if self.call.estimator is not None:
            thresholds = [self.call.estimator.value] * len(positions)
        else:
            at = {p: self.policy.threshold_at(p + 1, self.max_new_tokens) for p in set(positions)}
            thresholds = [at[position] for position in positions]
        self.call.recorder.begin_step(thresholds, positions)
        return thresholds

    def choose(self, emission: Emission) -> Tensor:
        """The next token of every row, [B]; of no meaning for rows that had ended."""
        if not (self.decoding.reads_scores or self.draws):
            return emission.tokens(self.decoding.sample)
        text, raw = self.text, emission.logits()
        rows = text.running
        places = [(row, text.lengths[row]) for row in rows]
        length = text.common_length
        if self.verification is None and length is not None:  # rows that ended are carried
            rows = list(range(text.batch))
            places = [(row, length) for row in rows]
        everyone = len(rows) == text.batch
        raw = raw if everyone else raw[rows]
        processed = text.processed(places, raw)
        chosen = choose(processed, None, self.decoding.sample)
        text.keep(places, raw, processed, chosen)
        if self.draws:
            for row, probabilities in zip(rows, processed.softmax(-1), strict=True):
                self.drawn_from[row][text.lengths[row] - 1] = probabilities
        if everyone:
            return chosen
        tokens = chosen.new_zeros(text.batch)
        tokens[rows] = chosen
        return tokens

    def verify(self, verified: Sequence[VerifiedSlots]) -> dict[int, Rejection]:
        """Ask the full model about the drafts whose slots have run all layers: row -> the rejection, of rows with one.

        An adaptive threshold learns from its answers.
        """
        if self.call.estimator is not None:
            for slots in verified:
                self._observe(slots, self.call.estimator)
        return self._rejections(verified)

    def accept(self, tokens: Tensor, rejections: Mapping[int, Rejection]) -> None:
        """Append the step's tokens [B], roll back what was rejected, and end the rows that have come to their end."""
        text = self.text
        running = list(text.running)
        text.append(tokens)
        self._roll_back(rejections)
        stopped = text.stopped(running)
        if self.exact:
            stopped = self._verify_ends(stopped)
        if stopped:
            text.running = [row for row in running if row not in set(stopped)]
        self._end_rounds()
        for row in running if self.draws else ():
            if not self.call.states.pending(row, text.lengths[row] - 1):
                self.drawn_from[row].clear()

    def _end_rounds(self) -> None:
        """Decide how many tokens are drafted next, in rows of which nothing is pending."""
        call, text = self.call, self.text
        if call.drafting is None:
            return
        for row in text.running:
            if not call.states.pending(row, text.lengths[row] - 1):
                drafts = call.drafting.rows[row]
                undrafted = drafts.end_round(text.lengths[row])
                call.recorder.drafted(row, undrafted, drafts.stops)

    def emit(self) -> None:
        """Give a streamer the tokens that no verification can roll back any more."""
        self.text.stream(self._accepted_length)

    def result(self, seconds: float) -> Result:
        """What the call returns."""
        text, states = self.text, self.call.states
        answers = max(text.lengths) - text.prompt
        logprobs = text.logprobs.cut(answers)
        recomputed = self.policy.recomputes
        trace = self.call.recorder.finish(
            self.call.cost(),
            [length - text.prompt for length in text.lengths],
            torch.stack(logprobs, 1).cpu().numpy() if logprobs else None,
            {"decoder_forward": seconds},
            depths=states.depths(answers, text.prompt - 1) if recomputed else None,
            masked_keys=states.masked_keys if recomputed else None,
        )
        ids = text.ids[:, : max(text.lengths)]
        return Result(ids, trace, tuple(text.scores.cut(answers)), tuple(text.logits.cut(answers)))

    def _observe(self, slots: VerifiedSlots, estimator: AdaptiveThreshold) -> None:
        """Let the adaptive threshold see which shallow tokens the full model agrees with."""
        shallow = self.call.shallow[slots.row]
        for slot, token in enumerate(slots.logits.argmax(-1).tolist(), slots.start):
            said = shallow.pop(slot)
            estimator.observe([said.confidence], [said.token == token])

    def _rejections(self, verified: Sequence[VerifiedSlots]) -> dict[int, Rejection]:
        """Verify each row's draft: row -> the rejection, of rows with one."""
        if self.verification is None:
            return {}
        found = {slots.row: self._verify_row(self.verification, slots) for slots in verified}
        return {row: rejection for row, rejection in found.items() if rejection is not None}

    def _verify_row(self, verification: Verification, verified: VerifiedSlots) -> Rejection | None:
        row, start, pending, logits = verified
        slots, logits = range(start, start + pending), logits[:pending]
        places = [(row, slot + 1) for slot in slots]
        deep = self.text.processed(places, logits)
        tokens = self.text.ids[row, start + 1 : start + 1 + pending]
        drawn_from = torch.stack([self.drawn_from[row].pop(slot) for slot in slots]) if self.draws else None
        threshold = self.policy.rollback_threshold or 0.0  # of no meaning where verification is exact
        accepted, token = verification.verify(Draft(tokens, deep, drawn_from), threshold)
        self.call.recorder.verified(row, len(tokens), accepted)
        if self.call.drafting is not None:
            self.call.drafting.rows[row].verified(len(tokens), accepted)
        if self.exact:
            stays = accepted + (token is not None)
            said = tokens[:accepted].tolist() + ([] if token is None else [token])
            kept = torch.tensor(said, dtype=torch.long, device=tokens.device)
            self.text.keep(places[:stays], logits[:stays], deep[:stays], kept)
        return None if token is None else Rejection(start + accepted + 1, token)

    def _roll_back(self, rejections: Mapping[int, Rejection]) -> None:
        """Drop what rows have behind their accepted tokens, and put the full model's token there."""
        for row, (length, token) in rejections.items():
            self.call.recorder.rolled_back(row, length - self.text.prompt)
            self.call.states.truncate(row, length)
            self.text.replace(row, length, token)
            self.drawn_from[row].clear()

    def _verify_ends(self, stopped: list[int]) -> list[int]:
        """Verify what is pending in rows that would end; those of them that do end."""
        states, text = self.call.states, self.text
        pending = [row for row in stopped if states.pending(row, text.lengths[row] - 1)]
        if not pending:
            return stopped
        slots = run_pending(self.call, [(row, text.lengths[row] - 1) for row in pending])
        rejections = self._rejections(slots)
        self._roll_back(rejections)
        return [row for row in stopped if row not in rejections] + text.stopped(list(rejections))

    def _accepted_length(self, row: int) -> int:
        length = self.text.lengths[row]
        if self.verification is None:
            return length
        return min(length, self.call.states.filled[-1][row] + 1)
