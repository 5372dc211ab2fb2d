"""Floating point operations, counted analytically from a trace. A multiply-add is 2; norms are left out.

Every sequence is counted at its own length, without padding, so a batch costs the sum of its rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from decoding.prompts import prompt_pieces

PARTS = (
    "encoder",
    "self_attention",
    "cross_attention",
    "feed_forward",
    "kv_fill",
    "confidence",
    "confidence_elementwise",
    "exit_translators",
    "head",
)


class Tried(NamedTuple):
    """One exit that one token tried, which arithmetic outside of matrix products is counted of.

    Attributes:
        width: D.
        layer: From 1.
        rows: Rows of the head multiplied there: V, or under pruning what was multiplied for the surviving tokens.
        members: The size of V_head, 0 where nothing is contrasted.
    """

    width: int
    layer: int
    rows: int
    members: int


@dataclass(frozen=True)
class Cost:
    """The sizes a count needs.

    Attributes:
        num_layers: Decoder layers L.
        width: D.
        attention_width: heads * head_dim of the queries.
        kv_width: heads * head_dim of the keys (smaller where heads are grouped).
        feed_forward: Multiply-adds of one feed-forward block per token.
        prompt: Slots before the first generated token, [B]; the decoder start token is one.
        prompt_slots: The same with the padding of a batch; None where there is none.
        prefilled: Whether these ran at full depth, and the first token came from them.
        source: Encoder tokens, [B]; zeros for a decoder-only model.
        encoder: FLOPs of the encoder, [B]; None for a decoder-only model.
        recomputes: Whether skipped layers are run later on, instead of filled by projection.
        reads_logits, reads_head, elementwise: The confidence measure's row of the table.
    """

    num_layers: int
    width: int
    attention_width: int
    kv_width: int
    feed_forward: int
    prompt: np.ndarray
    prefilled: bool
    source: np.ndarray
    prompt_slots: int | None = None
    encoder: np.ndarray | None = None
    recomputes: bool = False
    reads_logits: bool = True
    reads_head: bool = False
    elementwise: Callable[[Tried], int] | None = None

    @property
    def layer_weights(self) -> int:
        """Weights that a token meets in one layer."""
        attention = 2 * self.attention_width + 2 * self.kv_width
        cross = 0 if self.encoder is None else 2 * self.attention_width
        return self.width * (attention + cross) + self.feed_forward

    def row(self, index: int) -> Cost:
        """That of one row of the batch alone."""
        own = slice(index, index + 1)
        encoder = None if self.encoder is None else self.encoder[own]
        return replace(self, prompt=self.prompt[own], source=self.source[own], encoder=encoder)


def count_flops(trace) -> dict[str, np.ndarray]:
    """FLOPs per part and row, [B] each, of an `ExitTrace` (its `flops()`)."""
    rows = [_count_row(trace, index) for index in range(trace.exit_layers.shape[0])]
    return {part: np.array([row[part] for row in rows], np.float64) for part in PARTS}


def _count_row(trace, index: int) -> dict[str, float]:
    cost = trace.cost
    length, prompt = int(trace.lengths[index]), int(cost.prompt[index])
    depths = _slot_depths(cost, trace.depths[index, :length].astype(np.int64), prompt)  # [slots], layers run in each
    keys = np.arange(1, len(depths) + 1)  # that a slot attends to, itself included
    masked = int(trace.counts["masked_keys"][index]) if cost.recomputes else 0
    if cost.prefilled:  # pieces of a prompt are square products with what came before, their upper half masked
        padding = (cost.prompt_slots or prompt) - prompt
        ends = [end - padding for _, end in prompt_pieces(prompt + padding)]
        keys[:prompt] = np.array(ends)[np.searchsorted(ends, keys[:prompt])]
    wasted = [each for each in trace.wasted if each["row"] == index]
    redone = np.array([prompt + each["position"] for each in wasted], np.int64)  # keys of wasted slots
    source = int(cost.source[index])
    passes = depths.sum() + cost.num_layers * len(wasted)
    deepest = cost.num_layers if wasted else int(depths.max(initial=0))
    project = 2 * cost.width * (2 * cost.attention_width + 2 * cost.kv_width)  # q, k, v, o of one token
    scores = 2 * 2 * cost.attention_width  # of one token against one key, and its value
    cross = 0
    if source:
        per_pass = 2 * 2 * cost.width * cost.attention_width + scores * source
        cross = passes * per_pass + deepest * source * 2 * 2 * cost.width * cost.kv_width
    return {
        "encoder": 0 if cost.encoder is None else cost.encoder[index],
        "self_attention": passes * project + scores * ((depths * keys).sum() + cost.num_layers * redone.sum() + masked),
        "cross_attention": cross,
        "feed_forward": passes * 2 * cost.feed_forward,
        "kv_fill": (0 if cost.recomputes else _filled(depths, cost.num_layers)) * 2 * 2 * cost.width * cost.kv_width,
        **_head_parts(trace, index, length, wasted),
    }


def _slot_depths(cost: Cost, exits: np.ndarray, prompt: int) -> np.ndarray:
    """Layers run in each slot: the prompt's, then each generated token's input but the last one's."""
    if not cost.prefilled:
        return exits
    return np.concatenate([np.full(prompt, cost.num_layers), exits[1:]]) if len(exits) else exits


def _filled(depths: np.ndarray, num_layers: int) -> int:
    """Skipped (slot, layer) pairs that a later token reached, and which were therefore projected."""
    filled = 0
    for layer in range(1, num_layers + 1):
        reached = np.flatnonzero(depths >= layer)
        if len(reached):
            filled += int(reached[-1]) + 1 - len(reached)
    return filled


def _head_parts(trace, index: int, length: int, wasted: list[dict]) -> dict[str, float]:
    """Rows of the head read to measure (confidence) or only to read the token (head)."""
    cost = trace.cost

    def per_layer(name: str) -> np.ndarray:  # of every slot that ran, wasted or not, [slots, L]
        return np.concatenate([getattr(trace, name)[index, :length], *(each[name][None] for each in wasted)])

    rows, tried = per_layer("rows"), ~np.isnan(per_layer("confidences"))
    measured = tried & cost.reads_logits
    per_row = 2 * cost.width
    confidence = per_row * (rows[measured].sum() + per_layer("amateur_rows").sum())
    if cost.reads_head:
        confidence += tried.sum() * (per_row * cost.width + per_row * 2)
    elementwise = 0.0
    if cost.elementwise is not None:
        layers = np.nonzero(tried)[1] + 1
        counts = zip(layers, rows[tried], per_layer("members")[tried], strict=True)
        elementwise = sum(cost.elementwise(Tried(cost.width, *map(int, each))) for each in counts)
    return {
        "confidence": float(confidence),
        "confidence_elementwise": float(elementwise),
        "exit_translators": float(per_row * cost.width * per_layer("translated").sum()),
        "head": float(per_row * rows[~measured].sum()),
    }
