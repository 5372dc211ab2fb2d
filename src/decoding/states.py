"""The keys and values of a decode call, and how the gap of a token that left early is filled.

Buffers are preallocated per layer, [B, heads, capacity, head_dim], at their first use. Exact depths never increase with
position, so one integer per row and layer, `filled`, is the whole bookkeeping: slots below it hold keys and values.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

# Rows that left are carried through the weight products until dropping them saves at least this share.
COMPACT_AT = 0.25
# Key lengths are rounded up to a multiple of this, so that one captured CUDA graph serves many steps; exact on the CPU.
BUCKETS = {"cpu": 1}
BUCKET = 64


@dataclass
class Block:
    """The slots that pass a layer together: `width` consecutive ones from `start`, the same for every row.

    Attributes:
        rows: Batch row of each row of `hidden`.
        index: The same as a tensor, or None where `hidden` holds the whole batch in order.
        live: Rows of `hidden` that still run; the others are carried until it pays to drop them.
        start: First slot.
        width: Number of slots.
        bias: Added to the attention scores of the whole batch, [B or 1, heads or 1, width, keys], or None.
    """

    rows: list[int]
    index: Tensor | None
    live: list[int]
    start: int
    width: int = 1
    bias: Tensor | None = None

    @property
    def end(self) -> int:
        return self.start + self.width

    @property
    def live_rows(self) -> list[int]:
        """Batch rows that still run."""
        return self.rows if len(self.live) == len(self.rows) else [self.rows[i] for i in self.live]

    def take(self, hidden: Tensor) -> Tensor:
        """The live rows of `hidden`, [n, D] from [N, D] (of a block one slot wide)."""
        return hidden if len(self.live) == len(self.rows) else hidden[self.live]

    def without(self, leaving: list[int], hidden: Tensor) -> tuple[Block, Tensor]:
        """Drop some live rows (positions in `live`); compact `hidden` where that saves enough of the products."""
        gone = set(leaving)
        live = [row for i, row in enumerate(self.live) if i not in gone]
        if len(live) > (1 - COMPACT_AT) * len(self.rows):
            return Block(self.rows, self.index, live, self.start, self.width, self.bias), hidden
        rows = [self.rows[i] for i in live]
        index = torch.tensor(rows, device=hidden.device)
        return Block(rows, index, list(range(len(live))), self.start, self.width, self.bias), hidden[live]


class States:
    """Preallocated keys and values. `left` holds the hidden state with which each pending position left."""

    def __init__(self, batch: int, num_layers: int, heads: int, head_dim: int, capacity: int, dtype, device):
        self.bucket = BUCKETS.get(torch.device(device).type, BUCKET)
        self.shape = (batch, heads, self.key_length(capacity), head_dim)
        self.options = {"dtype": dtype, "device": device}
        self.keys: list[Tensor | None] = [None] * (num_layers + 1)
        self.values: list[Tensor | None] = [None] * (num_layers + 1)
        self.filled = [[0] * batch for _ in range(num_layers + 1)]
        self.left: Tensor | None = None

    @property
    def capacity(self) -> int:
        return self.shape[2]

    def key_length(self, end: int) -> int:
        """Keys that attention reads for slots below `end`: `end` rounded up to the bucket."""
        return -(-end // self.bucket) * self.bucket

    def store(self, layer: int, block: Block, keys: Tensor, values: Tensor) -> None:
        """Write the block's keys and values, [N, heads, width, head_dim] each."""
        if block.index is None and self.keys[layer] is not None:  # the plain case, in as few operations as it takes
            self.keys[layer].narrow(2, block.start, block.width).copy_(keys)
            self.values[layer].narrow(2, block.start, block.width).copy_(values)
            return
        rows = slice(None) if block.index is None else block.index
        self._write(layer, (rows, slice(None), slice(block.start, block.end)), keys, values)

    def _write(self, layer: int, where: tuple, keys: Tensor, values: Tensor) -> None:
        if self.keys[layer] is None:
            # Slots inside a bucket that hold no token yet are masked, and masked values must still be finite.
            allocate = torch.empty if self.bucket == 1 else torch.zeros
            self.keys[layer] = allocate(self.shape, **self.options)
            self.values[layer] = allocate(self.shape, **self.options)
        self.keys[layer][where] = keys
        self.values[layer][where] = values

    def rewind(self, slot: int) -> None:
        """Forget what was stored from `slot` on: layers that ran there count as skipped."""
        for filled in self.filled:
            filled[:] = [min(end, slot) for end in filled]

    def attend(self, layer: int, query: Tensor, block: Block, scale: float) -> Tensor:
        """Attention of the block over all slots so far, [N, heads, width, head_dim] like `query`."""
        length = self.key_length(block.end)
        keys, values = self.keys[layer].narrow(2, 0, length), self.values[layer].narrow(2, 0, length)
        return attend(query, keys, values, block, block.bias, scale)


class CopyStates(States):
    """CALM's state copying, lazily: a skipped layer's keys and values are projected from the state a token left with,
    when a later token reaches that layer, for all pending slots in one product per weight. The result is that of
    projecting at once; what no token ever needs is never projected.
    """

    def pass_layer(self, adapter, layer: int, hidden: Tensor, block: Block) -> Tensor:
        """Fill the layer's gap for the block's rows, then run the layer, [N * width, D] to the same."""
        rows = block.live_rows
        filled = self.filled[layer]
        pending = [row for row in rows if filled[row] < block.start]
        if pending:
            self._fill(adapter, layer, pending, block.start)
        hidden = adapter.run_layer(layer, hidden, self, block)
        for row in rows:
            filled[row] = block.end
        return hidden

    def leave(self, rows: list[int], slot: int, hidden: Tensor) -> None:
        """Remember the state [n, D] with which `rows` leave at `slot`."""
        if self.left is None:
            batch, _, capacity, _ = self.shape
            self.left = torch.empty(batch, capacity, hidden.shape[-1], dtype=hidden.dtype, device=hidden.device)
        self.left[rows, slot] = hidden

    def _fill(self, adapter, layer: int, rows: list[int], start: int) -> None:
        filled = self.filled[layer]
        gaps = [(row, slot) for row in rows for slot in range(filled[row], start)]
        row_index, slots = torch.tensor(gaps, device=self.left.device).T  # [P] each
        keys, values = adapter.project_kv(layer, self.left[row_index, slots], row_index, slots)  # [P, heads, head_dim]
        self._write(layer, (row_index, slice(None), slots), keys, values)


SKIPPED_STATES = {"copy": CopyStates}


def attend(query: Tensor, keys: Tensor, values: Tensor, block: Block, bias: Tensor | None, scale: float) -> Tensor:
    """Scaled dot-product attention of the block's rows over keys and values of the whole batch.

    Keys and values stay where they are: the few query rows are spread over the batch instead, and collected again.

    Args:
        query: [N, heads, width, head_dim].
        keys, values: [B, heads, length, head_dim].
        bias: Added to the scores, broadcastable to [B, heads, width, length], or None.
    """
    if block.index is None:
        return F.scaled_dot_product_attention(query, keys, values, attn_mask=bias, scale=scale)
    spread = query.new_zeros(keys.shape[0], *query.shape[1:])
    spread[block.index] = query
    return F.scaled_dot_product_attention(spread, keys, values, attn_mask=bias, scale=scale)[block.index]
