"""The keys and values of a decode call, and how the gap of a token that left early is filled.

Buffers are preallocated per layer, [B, heads, capacity, head_dim], at their first use. Depths never increase with
position, so one integer per row and layer, `filled`, is the whole bookkeeping: slots below it hold keys and values.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import NamedTuple, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

# Rows that left are carried through the weight products until dropping them saves at least this share.
COMPACT_AT = 0.25
# Key lengths are rounded up to a multiple of this, so that one captured CUDA graph serves many steps; exact on the CPU.
BUCKETS = {"cpu": 1}
BUCKET = 64


class Span(NamedTuple):
    """The slots `start` to `end` - 1 of a batch row; the last one is that of its current token."""

    row: int
    start: int
    end: int


class Places(NamedTuple):
    """Where each row of a ragged block's `hidden` belongs.

    Attributes:
        row, offset, slot: [P] each: batch row, place within its span, and slot.
        width, end: What the block's bias was made for: slots of the longest span, and one past the last slot of all.
    """

    row: Tensor
    offset: Tensor
    slot: Tensor
    width: int
    end: int

    def of(self, items: Tensor) -> Places:
        """Those of some rows of `hidden`."""
        return Places(self.row[items], self.offset[items], self.slot[items], self.width, self.end)


@dataclass
class Block:
    """The slots that pass a layer together: of each row the slots of its span.

    Where all spans begin and end alike, `hidden` is [N * width, D], row by row. Otherwise the block is ragged: `hidden`
    [P, D] holds the spans one after the other, and to an adapter each of its rows is a row of width 1.

    Attributes:
        spans: One per row of the block.
        live: Which of them still run; the others are carried until it pays to drop them (of a ragged block, none).
        index: Batch row of each row of `hidden`, or None where `hidden` holds the whole batch in order.
        bias: Added to the attention scores of the whole batch, [B or 1, heads or 1, width, keys], or None.
        places: Of a ragged block; None of any other.
    """

    spans: list[Span]
    live: list[int]
    index: Tensor | None
    bias: Tensor | None = None
    places: Places | None = None

    @classmethod
    def of(cls, spans: Sequence[Span], batch: int, adapter, states: States) -> Block:
        """The block of some spans, ragged only where it must be."""
        spans, everyone = list(spans), list(range(len(spans)))
        alike = all(span[1:] == spans[0][1:] for span in spans)
        if alike and len(spans) == batch and all(span.row == i for i, span in enumerate(spans)):
            return cls(spans, everyone, None, _bias(adapter, states, spans[0].start, spans[0].end))
        device = adapter.device
        if alike:
            index = torch.tensor([span.row for span in spans], device=device)
            return cls(spans, everyone, index, _bias(adapter, states, spans[0].start, spans[0].end))
        items = [(span.row, i, span.start + i) for span in spans for i in range(span.end - span.start)]
        index = torch.tensor(items, dtype=torch.long, device=device).view(-1, 3).unbind(1)
        width, end = max(span.end - span.start for span in spans), max(span.end for span in spans)
        places = Places(*index, width, end)
        slots = torch.zeros(batch, width, dtype=torch.long, device=device)
        slots[places.row, places.offset] = places.slot
        ends = slots.amax(1, keepdim=True) if not states.causal else None
        bias = adapter.attention_bias_at(slots, states.key_length(end), ends)
        return cls(spans, everyone, places.row, bias, places)

    @property
    def width(self) -> int:
        """Slots per row of the block, as an adapter sees it."""
        return 1 if self.places is not None else self.spans[0].end - self.spans[0].start

    @cached_property
    def several(self) -> bool:
        """Whether a row has several slots in the block."""
        return (self.width if self.places is None else self.places.width) > 1

    @property
    def start(self) -> int:
        """First slot of every row; of a block that is not ragged."""
        return self.spans[0].start

    @property
    def end(self) -> int:
        """One past the last slot of any row."""
        return self.spans[0].end if self.places is None else self.places.end

    @property
    def slots(self) -> Tensor | range:
        """Slots of the block's tokens, [P, 1] of a ragged block, else the slots that all rows have in common."""
        return range(self.start, self.end) if self.places is None else self.places.slot[:, None]

    @cached_property
    def rows(self) -> list[int]:
        """Batch row of each row of the block."""
        return [span.row for span in self.spans]

    @cached_property
    def live_spans(self) -> list[Span]:
        return self.spans if len(self.live) == len(self.spans) else [self.spans[i] for i in self.live]

    @cached_property
    def live_rows(self) -> list[int]:
        """Batch rows that still run."""
        return self.rows if len(self.live) == len(self.spans) else [self.spans[i].row for i in self.live]

    def current(self, hidden: Tensor) -> Tensor:
        """The states of the rows' current tokens, [N, D] of `hidden`."""
        if self.places is None:
            return hidden if self.width == 1 else hidden.view(len(self.spans), self.width, -1)[:, -1]
        if len(hidden) == len(self.spans):
            return hidden
        return hidden[[end - 1 for end in accumulate(span.end - span.start for span in self.spans)]]

    def take(self, hidden: Tensor) -> Tensor:
        """The same of the live rows, [n, D]."""
        current = self.current(hidden)
        return current if len(self.live) == len(self.spans) else current[self.live]

    def items(self, live: Sequence[int]) -> list[int]:
        """Rows of `hidden` that belong to some of the live rows (positions in `live`)."""
        ends = list(accumulate(span.end - span.start for span in self.spans))
        chosen = [self.live[i] for i in live]
        return [item for i in chosen for item in range(ends[i] - (self.spans[i].end - self.spans[i].start), ends[i])]

    def without(self, leaving: list[int], hidden: Tensor) -> tuple[Block, Tensor]:
        """Drop some live rows (positions in `live`); compact `hidden` where that saves enough of the products."""
        gone = set(leaving)
        staying = [i for i in range(len(self.live)) if i not in gone]
        live = [self.live[i] for i in staying]
        if self.places is None and len(live) > (1 - COMPACT_AT) * len(self.spans):
            return Block(self.spans, live, self.index, self.bias), hidden
        items = torch.tensor(self.items(staying), device=hidden.device)
        spans, everyone = [self.spans[i] for i in live], list(range(len(live)))
        if self.places is not None:
            places = self.places.of(items)
            return Block(spans, everyone, places.row, self.bias, places), hidden[items]
        index = torch.tensor([span.row for span in spans], device=hidden.device)
        return Block(spans, everyone, index, self.bias), hidden[items]


def _bias(adapter, states: States, start: int, end: int) -> Tensor | None:
    """What is added to the attention scores of the slots `start` to `end` - 1, the same in every row."""
    if end - start == 1:
        return adapter.attention_bias(start, states.key_length(end))
    slots = torch.arange(start, end, device=adapter.device)[None]
    return adapter.attention_bias_at(slots, states.key_length(end), None if states.causal else slots[:, -1:])


class States:
    """Preallocated keys and values. `left` holds the hidden state with which each pending position left.

    A subclass says what `pass_layer` does about the slots that skipped the layer. `causal` says whether slots that pass
    a layer together see only those before them.
    """

    causal = True

    def __init__(self, batch: int, num_layers: int, heads: int, head_dim: int, capacity: int, dtype, device):
        self.bucket = BUCKETS.get(torch.device(device).type, BUCKET)
        self.shape = (batch, heads, self.key_length(capacity), head_dim)
        self.options = {"dtype": dtype, "device": device}
        self.keys: list[Tensor | None] = [None] * (num_layers + 1)
        self.values: list[Tensor | None] = [None] * (num_layers + 1)
        self.filled = [[0] * batch for _ in range(num_layers + 1)]
        self.left: Tensor | None = None

    @classmethod
    def of(cls, adapter, batch: int, capacity: int) -> Self:
        """Empty ones for so many rows of so many slots of an adapter's model."""
        sizes = (adapter.num_layers, adapter.kv_heads, adapter.head_dim, capacity)
        return cls(batch, *sizes, adapter.kv_dtype, adapter.device)

    @property
    def batch(self) -> int:
        return self.shape[0]

    @property
    def capacity(self) -> int:
        return self.shape[2]

    def key_length(self, end: int) -> int:
        """Keys that attention reads for slots below `end`: `end` rounded up to the bucket."""
        return -(-end // self.bucket) * self.bucket

    def store(self, layer: int, block: Block, keys: Tensor, values: Tensor) -> None:
        """Write the block's keys and values, [N, heads, width, head_dim] each."""
        if block.places is not None:
            self._write(layer, (block.places.row, slice(None), block.places.slot), keys[:, :, 0], values[:, :, 0])
            return
        if block.index is None and self.keys[layer] is not None:  # the plain case, in as few operations as it takes
            self.keys[layer].narrow(2, block.start, block.width).copy_(keys)
            self.values[layer].narrow(2, block.start, block.width).copy_(values)
            return
        rows = slice(None) if block.index is None else block.index
        self._write(layer, (rows, slice(None), slice(block.start, block.end)), keys, values)

    def _write(self, layer: int, where: tuple, keys: Tensor, values: Tensor) -> None:
        if self.keys[layer] is None:
            # Slots inside a bucket, or beyond the end of a shorter row, hold no token yet and are masked; masked values
            # must still be finite.
            self.keys[layer] = torch.zeros(self.shape, **self.options)
            self.values[layer] = torch.zeros(self.shape, **self.options)
        self.keys[layer][where] = keys
        self.values[layer][where] = values

    def truncate(self, row: int, slot: int) -> None:
        """Forget what was stored of a row from `slot` on."""
        for filled in self.filled:
            filled[row] = min(filled[row], slot)

    def reorder(self, index: Tensor, length: int) -> None:
        """Let each batch row go on from the first `length` slots of the row `index` [B] names; all are filled alike."""
        for buffer in (*self.keys, *self.values):
            if buffer is not None:
                part = buffer.narrow(2, 0, self.key_length(length))
                part.copy_(part[index])

    def pending(self, row: int, slot: int) -> int:
        """How many slots below `slot` have not passed the last layer."""
        return slot - self.filled[-1][row]

    def depths(self, slots: int, first: int) -> np.ndarray:
        """Layers whose keys and values are there, of `slots` slots from `first` on, [B, slots]."""
        filled = np.array(self.filled[1:])  # [L, B]
        return (filled[:, :, None] > np.arange(first, first + slots)).sum(0)

    def attend(self, layer: int, query: Tensor, block: Block, scale: float, bias: Tensor | None) -> Tensor:
        """Attention of the block over all slots so far, [N, heads, width, head_dim] like `query`."""
        length = self.key_length(block.end)
        keys, values = self.keys[layer].narrow(2, 0, length), self.values[layer].narrow(2, 0, length)
        return attend(query, keys, values, block, bias, scale)

    def leave(self, block: Block, leaving: Sequence[int], hidden: Tensor) -> None:
        """Remember the states with which live rows (positions in `live`) leave, of every slot of theirs."""
        if self.left is None:
            batch, _, capacity, _ = self.shape
            self.left = torch.empty(batch, capacity, hidden.shape[-1], dtype=hidden.dtype, device=hidden.device)
        spans = [block.spans[block.live[i]] for i in leaving]
        rows = [span.row for span in spans for _ in range(span.start, span.end)]
        slots = [slot for span in spans for slot in range(span.start, span.end)]
        self.left[rows, slots] = hidden if len(rows) == len(hidden) else hidden[block.items(leaving)]

    def _mark(self, layer: int, block: Block) -> None:
        filled = self.filled[layer]
        for row, _, end in block.live_spans:
            filled[row] = end


class CopyStates(States):
    """CALM's state copying, lazily: a skipped layer's keys and values are projected from the state a token left with,
    when a later token reaches that layer, for all pending slots in one product per weight. The result is that of
    projecting at once; what no token ever needs is never projected.
    """

    def pass_layer(self, adapter, layer: int, hidden: Tensor, block: Block) -> tuple[Tensor, Block]:
        """Fill the layer's gap for the block's rows, then run the layer."""
        filled = self.filled[layer]
        if any(filled[row] < start for row, start, _ in block.live_spans):
            gaps = [(row, slot) for row, start, _ in block.live_spans for slot in range(filled[row], start)]
            row_index, slots = torch.tensor(gaps, device=self.left.device).T  # [P] each
            keys, values = adapter.project_kv(layer, self.left[row_index, slots], row_index, slots)
            self._write(layer, (row_index, slice(None), slots), keys, values)
        hidden = adapter.run_layer(layer, hidden, self, block)
        self._mark(layer, block)
        return hidden, block


class RecomputeStates(States):
    """FREE's synchronized parallel decoding (arXiv:2310.05424), at any number of exits, lazily: slots that skipped a
    layer pass it together with the current token that reaches it, in one causal block that grows on its way up. All
    keys and values are then those of the full model.

    `masked` counts, per row, the keys that were multiplied for a slot of a block and masked, since they come later.
    """

    def __init__(self, batch: int, *sizes, **options):
        super().__init__(batch, *sizes, **options)
        self.masked = [0] * batch

    def pass_layer(self, adapter, layer: int, hidden: Tensor, block: Block) -> tuple[Tensor, Block]:
        """Let the slots that have come as far as the layer below join the block, then run the layer."""
        hidden, block = self._join(adapter, layer, hidden, block)
        if hidden.shape[0]:
            hidden = adapter.run_layer(layer, hidden, self, block)
        for row, start, end in block.live_spans if self.left is not None else ():  # a prompt's slots never waited
            self.masked[row] += (end - start) * (end - start - 1) // 2
        self._mark(layer, block)
        return hidden, block

    def _join(self, adapter, layer: int, hidden: Tensor, block: Block) -> tuple[Tensor, Block]:
        filled = self.filled[layer]
        live = block.live_spans
        spans = [Span(row, min(filled[row], start), end) for row, start, end in live]
        if spans == live:
            return hidden, block
        order, waiting = [], []  # of the new block, row by row: which of the states that wait, then which of `hidden`
        for i, (old, new) in enumerate(zip(live, spans, strict=True)):
            order += [(0, len(waiting) + j) for j in range(old.start - new.start)]
            waiting += [(new.row, slot) for slot in range(new.start, old.start)]
            order += [(1, item) for item in block.items([i])]
        row_index, slots = torch.tensor(waiting, device=self.left.device).T
        together = torch.cat([self.left[row_index, slots], hidden])
        places = [item + kind * len(waiting) for kind, item in order]
        if places != list(range(len(together))):
            together = together[places]
        return together, Block.of(spans, self.batch, adapter, self)

    def catch_up(self, adapter, spans: Sequence[Span]) -> tuple[Tensor, Block]:
        """Run every layer for the slots that skipped it, without a current token: h^L of slots whose depth reached L.

        Args:
            spans: Of each row the empty span behind its last slot to run.
        """
        hidden, block = self.left.new_empty(0, self.left.shape[-1]), Block.of(spans, self.batch, adapter, self)
        for layer in range(1, len(self.filled)):
            hidden, block = self.pass_layer(adapter, layer, hidden, block)
        return hidden, block


SKIPPED_STATES = {"copy": CopyStates, "recompute": RecomputeStates}


def attend(query: Tensor, keys: Tensor, values: Tensor, block: Block, bias: Tensor | None, scale: float) -> Tensor:
    """Scaled dot-product attention of the block's rows over keys and values of the whole batch.

    Keys and values stay where they are: the few query rows are spread over the batch instead, and collected again.

    Args:
        query: [N, heads, width, head_dim].
        keys, values: [B, kv_heads, length, head_dim], each for heads / kv_heads heads of queries side by side.
        bias: Added to the scores, broadcastable to [B, heads, width, length], or None.
    """
    if block.index is None:
        return _attention(query, keys, values, bias, scale)
    if block.places is not None:
        where = (block.places.row, slice(None), block.places.offset)
        spread = query.new_zeros(keys.shape[0], query.shape[1], block.places.width, query.shape[3])
        spread[where] = query[:, :, 0]
        return _attention(spread, keys, values, bias, scale)[where].unsqueeze(2)
    spread = query.new_zeros(keys.shape[0], *query.shape[1:])
    spread[block.index] = query
    return _attention(spread, keys, values, bias, scale)[block.index]


def _attention(query: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None, scale: float) -> Tensor:
    """The library's attention; heads of queries that share keys read them as one head with more queries."""
    batch, heads, width, _ = query.shape
    groups = heads // keys.shape[1]
    if groups == 1:
        return F.scaled_dot_product_attention(query, keys, values, attn_mask=bias, scale=scale)
    if bias is not None and width > 1:
        bias = bias.repeat(1, 1, groups, 1)
    folded = query.reshape(batch, keys.shape[1], groups * width, -1)
    return F.scaled_dot_product_attention(folded, keys, values, attn_mask=bias, scale=scale).reshape(query.shape)
