"""Greedy, sampling and beam search over the scores of a strategy, cached and batched, at full depth."""

from __future__ import annotations

from collections.abc import Callable, Set
from dataclasses import replace

import torch
from torch import Tensor

from decoding.adapter import DecoderAdapter
from decoding.blocks import Span
from decoding.prompts import prompt_pieces
from decoding.sequences import Decoding
from decoding.states import CopyStates, States
from decoding.strategies import Strategy
from decoding.trace import SearchTrace


@torch.inference_mode()
def search(
    adapter: DecoderAdapter, prompt: Tensor, decoding: Decoding, strategy: Strategy
) -> tuple[Tensor, SearchTrace]:
    """The best continuation of every prompt: the highest sum of scores among the beams, without a norm of length.

    A beam that has ended stays where it is among the others; the search ends when all beams of all prompts have.

    Args:
        adapter: Of rows [B * beams]: each prompt `beams` times, one after the other.
        prompt: [B * beams, P], left-padded.
        decoding: `process` sees a strategy's scores; `sample` goes with one beam.

    Returns:
        Token ids [B, t], right-padded, and the trace.
    """
    rows, width = prompt.shape
    keep = strategy.layers(adapter.num_layers)
    states = CopyStates(adapter, rows, decoding.max_length)
    beams = Beams(prompt, decoding, strategy.beams)
    for start, end in prompt_pieces(width):
        hidden = run_layers(states, prompt[:, start:end], start, keep)
    for length in range(width, decoding.max_length):
        scores, premature = strategy.scores(adapter, hidden)
        if decoding.process is not None:
            scores = processed(adapter, strategy, decoding.process, beams.ids[:, :length], hidden, scores)
        parents, tokens = beams.choose(scores)
        if parents is not None:
            states.reorder(parents, length)
        beams.append(length, parents, tokens, premature)
        if bool(beams.ended.all()) or length + 1 == decoding.max_length:
            break
        hidden = run_layers(states, beams.ids[:, length : length + 1], length, keep)
    if decoding.streamer is not None:
        decoding.streamer.end()
    return beams.best(length + 1)


class Beams:
    """The beams of every prompt, [B * beams] rows.

    Attributes:
        ids: [B * beams, max_length], the prompt first.
        premature: The layer each token was contrasted with, like `ids`; -1 where none was.
        ended: [B * beams].
        lengths: Tokens behind the prompt, that which ended a row among them, [B * beams].
        totals: Sum of scores of each beam, [B, beams].
    """

    def __init__(self, prompt: Tensor, decoding: Decoding, beams: int):
        rows, self.width = prompt.shape
        self.decoding, self.beams, self.batch = decoding, beams, rows // beams
        self.ids = prompt.new_full((rows, decoding.max_length), decoding.pad_token_id)
        self.ids[:, : self.width] = prompt
        self.premature = torch.full_like(self.ids, -1)
        self.ended = torch.zeros(rows, dtype=torch.bool, device=prompt.device)
        self.lengths = torch.zeros(rows, dtype=torch.long, device=prompt.device)
        self.totals = torch.full((self.batch, beams), -torch.inf, device=prompt.device)
        self.totals[:, 0] = 0  # all beams are alike as yet
        self.first = torch.arange(self.batch, device=prompt.device)[:, None] * beams  # row of each prompt's first beam

    def choose(self, scores: Tensor) -> tuple[Tensor | None, Tensor]:
        """The row that each row goes on from, None where that is itself, and its next token, [B * beams] both.

        Args:
            scores: [B * beams, V]; written to.
        """
        if self.decoding.sample:
            return None, torch.multinomial(scores.softmax(-1), 1)[:, 0]
        if self.beams == 1:
            return None, scores.argmax(-1)
        scores[self.ended] = -torch.inf
        scores[self.ended, self.decoding.pad_token_id] = 0
        size = scores.shape[-1]
        candidates = (self.totals[..., None] + scores.view(self.batch, self.beams, size)).flatten(1)
        self.totals, places = candidates.topk(self.beams)
        return (self.first + places // size).flatten(), (places % size).flatten()

    def append(self, length: int, parents: Tensor | None, tokens: Tensor, premature: Tensor | None) -> None:
        """The next tokens, behind the first `length` of the rows they go on from; what they were contrasted with."""
        if premature is not None:
            self.premature[:, length] = premature.masked_fill(self.ended, -1)
        if parents is not None:
            self.ids, self.premature = self.ids[parents], self.premature[parents]
            self.ended, self.lengths = self.ended[parents], self.lengths[parents]
        self.lengths += ~self.ended
        self.ids[:, length] = torch.where(self.ended, self.decoding.pad_token_id, tokens)
        if self.decoding.streamer is not None and self.beams == 1:
            self.decoding.streamer.put(self.ids[:, length].cpu())
        self.ended = self.ended | self.decoding.stop(self.ids[:, : length + 1], None)

    def best(self, length: int) -> tuple[Tensor, SearchTrace]:
        """The best beam of every prompt, `length` tokens at most, and what a trace says of it."""
        rows = self.first[:, 0] + (self.totals.argmax(-1) if self.beams > 1 else 0)
        premature = self.premature[rows, self.width : length].cpu().numpy()
        return self.ids[rows, :length], SearchTrace(premature, self.lengths[rows].cpu().numpy())


def processed(
    adapter: DecoderAdapter,
    strategy: Strategy,
    process: Callable[[Tensor, Tensor], Tensor],
    ids: Tensor,
    hidden: dict[int, Tensor],
    scores: Tensor,
) -> Tensor:
    """What logits processors make of scores [B, V]. Where they forbid all tokens that had a score, a row goes on with
    what they make of the expert's own log-probabilities."""
    scores = process(ids, scores)
    empty = (scores == -torch.inf).all(-1)
    if strategy.rule is not None and bool(empty.any()):
        own = process(ids, replace(strategy, name="plain", amateurs=()).scores(adapter, hidden).scores)
        scores = torch.where(empty[:, None], own, scores)
    return scores


def run_layers(states: States, tokens: Tensor, start: int, keep: Set[int]) -> dict[int, Tensor]:
    """Run tokens [B, w] of every row from slot `start` on through all layers: h^l of the last one, [B, D], by layer."""
    adapter, width = states.adapter, tokens.shape[1]
    block = states.block_of([Span(row, start, start + width) for row in range(states.batch)])
    hidden = adapter.embed(tokens, block)
    kept = {0: block.current(hidden)} if 0 in keep else {}
    for layer in range(1, adapter.num_layers + 1):
        hidden, block = states.pass_layer(layer, hidden, block)
        if layer in keep:
            kept[layer] = block.current(hidden)
    return kept
