"""Greedy, sampling and beam search over the scores of a strategy, cached and batched, at full depth."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from decoding.flops import pieces
from decoding.sequences import Decoding
from decoding.states import Block, CopyStates, Span, States
from decoding.strategies import Strategy


@dataclass(frozen=True)
class SearchTrace:
    """What a search did, token by token.

    Attributes:
        premature_layers: The layer each token was contrasted with, [B, T]; -1 where none was, and after the end.
    """

    premature_layers: np.ndarray


@torch.inference_mode()
def search(adapter, prompt: Tensor, decoding: Decoding, strategy: Strategy) -> tuple[Tensor, SearchTrace]:
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
    beams = strategy.beams
    batch = rows // beams
    keep = strategy.layers(adapter.num_layers)
    states = CopyStates.of(adapter, rows, decoding.max_length)
    ids = prompt.new_full((rows, decoding.max_length), decoding.pad_token_id)
    ids[:, :width] = prompt
    layers = torch.full_like(ids, -1)
    ended = torch.zeros(rows, dtype=torch.bool, device=prompt.device)
    totals = torch.full((batch, beams), -torch.inf, device=prompt.device)
    totals[:, 0] = 0  # all beams are alike as yet
    first = torch.arange(batch, device=prompt.device)[:, None] * beams
    for start, end in pieces(width):
        hidden = run(adapter, states, prompt[:, start:end], start, keep)
    for length in range(width, decoding.max_length):
        scores, amateur = strategy.scores(adapter, hidden)
        if decoding.process is not None:
            scores = processed(adapter, decoding, strategy, ids[:, :length], hidden, scores)
        if amateur is not None:
            layers[:, length] = amateur.masked_fill(ended, -1)
        if decoding.sample:
            parents, tokens = None, torch.multinomial(scores.softmax(-1), 1)[:, 0]
        elif beams == 1:
            parents, tokens = None, scores.argmax(-1)
        else:
            scores[ended] = -torch.inf
            scores[ended, decoding.pad_token_id] = 0
            size = scores.shape[-1]
            candidates = (totals[..., None] + scores.view(batch, beams, size)).flatten(1)
            totals, places = candidates.topk(beams)
            parents, tokens = (first + places // size).flatten(), (places % size).flatten()
        if parents is not None:
            ids, layers, ended = ids[parents], layers[parents], ended[parents]
            states.reorder(parents, length)
        ids[:, length] = torch.where(ended, decoding.pad_token_id, tokens)
        if decoding.streamer is not None and beams == 1:
            decoding.streamer.put(ids[:, length].cpu())
        ended = ended | decoding.stop(ids[:, : length + 1], None)
        if bool(ended.all()) or length + 1 == decoding.max_length:
            break
        hidden = run(adapter, states, ids[:, length : length + 1], length, keep)
    if decoding.streamer is not None:
        decoding.streamer.end()
    best = (first[:, 0] + totals.argmax(-1)) if beams > 1 else first[:, 0]
    return ids[best, : length + 1], SearchTrace(layers[best, width : length + 1].cpu().numpy())


def processed(
    adapter, decoding: Decoding, strategy: Strategy, ids: Tensor, hidden: dict[int, Tensor], scores: Tensor
) -> Tensor:
    """What logits processors make of scores [B, V]. Where they forbid all tokens that had a score, a row goes on with
    what they make of the expert's own log-probabilities."""
    scores = decoding.process(ids, scores)
    empty = (scores == -torch.inf).all(-1)
    if strategy.row is not None and bool(empty.any()):
        own = decoding.process(ids, replace(strategy, name="plain", amateurs=()).scores(adapter, hidden).scores)
        scores = torch.where(empty[:, None], own, scores)
    return scores


def run(adapter, states: States, tokens: Tensor, start: int, keep: Set[int]) -> dict[int, Tensor]:
    """Run tokens [B, w] of every row from slot `start` on through all layers: h^l of the last one, [B, D], by layer."""
    batch, width = tokens.shape
    block = Block.of([Span(row, start, start + width) for row in range(batch)], batch, adapter, states)
    hidden = adapter.embed(tokens, block)
    kept = {0: block.current(hidden)} if 0 in keep else {}
    for layer in range(1, adapter.num_layers + 1):
        hidden, block = states.pass_layer(adapter, layer, hidden, block)
        if layer in keep:
            kept[layer] = block.current(hidden)
    return kept
