"""The keys and values of a decode call, and how the gap of a token that left early is filled.

Buffers are preallocated per layer, [B, kv_heads, capacity, head_dim], at their first use. Depths never increase with
position, so one integer per row and layer, `filled`, is the whole bookkeeping: slots below it hold keys and values.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from decoding.adapter import DecoderAdapter
from decoding.attention import attend
from decoding.blocks import AttentionBias, Block, SlotIndex, Span

# Key lengths are rounded up to a multiple of this, so that one captured CUDA graph serves many steps; exact on the CPU.
BUCKETS = {"cpu": 1}
BUCKET = 64


class StoredLayer(NamedTuple):
    """Keys and values of all slots at one layer, [B, kv_heads, capacity, head_dim] each."""

    keys: Tensor
    values: Tensor


class States(ABC):
    """Preallocated keys and values of a call, and what fills the layers that a slot skipped.

    A subclass says what `pass_layer` does about slots that skipped the layer. A slot is pending while it has not passed
    the last one.

    Attributes:
        causal: Whether slots that pass a layer together see only those before them.
        stored: Per layer from 1; None before its first use.
        filled: Per layer from 1, of every batch row the number of its first slots whose keys and values are stored.
        left: h^l with which each pending slot left, [B, capacity, D]; None while none has.
        masked_keys: Of every batch row the keys that were multiplied for a slot and masked, since they come later in
            its block; None where slots pass one by one.
    """

    masked_keys: list[int] | None = None

    def __init__(self, adapter: DecoderAdapter, batch: int, capacity: int, causal: bool = True):
        self.adapter = adapter
        self.causal = causal
        self.bucket = BUCKETS.get(adapter.device.type, BUCKET)
        self.shape = (batch, adapter.kv_heads, self.key_length(capacity), adapter.head_dim)
        self.stored: list[StoredLayer | None] = [None] * (adapter.num_layers + 1)
        self.filled = [[0] * batch for _ in range(adapter.num_layers + 1)]
        self.left: Tensor | None = None

    @abstractmethod
    def pass_layer(self, layer: int, hidden: Tensor, block: Block) -> tuple[Tensor, Block]:
        """Fill the layer's gap for the block's rows, then run it: h^layer, and the block it belongs to."""

    @property
    def batch(self) -> int:
        return self.shape[0]

    def key_length(self, end: int) -> int:
        """Keys that attention reads for slots below `end`: `end` rounded up to the bucket."""
        return -(-end // self.bucket) * self.bucket

    # --------------------------------------------------------------------------------------------------------- blocks
    def block_of(self, spans: Sequence[Span]) -> Block:
        """The block of some spans, ragged only where it must be."""
        spans, everyone, device = list(spans), list(range(len(spans))), self.adapter.device
        alike = all(span[1:] == spans[0][1:] for span in spans)
        if alike and len(spans) == self.batch and all(span.row == i for i, span in enumerate(spans)):
            return Block(spans, everyone, None, self.common_bias(spans[0].start, spans[0].end))
        if alike:
            index = torch.tensor([span.row for span in spans], device=device)
            return Block(spans, everyone, index, self.common_bias(spans[0].start, spans[0].end))
        ragged = SlotIndex.of(spans, device)
        slots = torch.zeros(self.batch, ragged.width, dtype=torch.long, device=device)
        slots[ragged.row, ragged.offset] = ragged.slot
        ends = slots.amax(1, keepdim=True) if not self.causal else None
        bias = self.adapter.attention_bias_at(slots, self.key_length(ragged.end), ends)
        return Block(spans, everyone, ragged.row, bias, ragged)

    def common_bias(self, start: int, end: int) -> AttentionBias:
        """What is added to the attention scores of the slots `start` to `end` - 1, the same in every row."""
        if end - start == 1:
            return self.adapter.attention_bias(start, self.key_length(end))
        slots = torch.arange(start, end, device=self.adapter.device)[None]
        return self.adapter.attention_bias_at(slots, self.key_length(end), None if self.causal else slots[:, -1:])

    # ------------------------------------------------------------------------------------------------ keys and values
    def store(self, layer: int, block: Block, keys: Tensor, values: Tensor) -> None:
        """Write the block's keys and values, [N, kv_heads, width, head_dim] each."""
        if block.ragged is not None:
            where = (block.ragged.row, slice(None), block.ragged.slot)
            self._write(layer, where, keys[:, :, 0], values[:, :, 0])
            return
        held = self.stored[layer]
        if block.index is None and held is not None:  # the plain case, in as few operations as it takes
            held.keys.narrow(2, block.start, block.width).copy_(keys)
            held.values.narrow(2, block.start, block.width).copy_(values)
            return
        rows = slice(None) if block.index is None else block.index
        self._write(layer, (rows, slice(None), slice(block.start, block.end)), keys, values)

    def _write(self, layer: int, where: tuple, keys: Tensor, values: Tensor) -> None:
        held = self.stored[layer]
        if held is None:
            # Slots inside a bucket, or beyond the end of a shorter row, hold no token yet and are masked; masked values
            # must still be finite.
            kind, device = self.adapter.kv_dtype, self.adapter.device
            held = StoredLayer(*(torch.zeros(self.shape, dtype=kind, device=device) for _ in range(2)))
            self.stored[layer] = held
        held.keys[where] = keys
        held.values[where] = values

    def attend(self, layer: int, query: Tensor, block: Block, scale: float, bias: Tensor | None) -> Tensor:
        """Attention of the block over all slots so far, [N, heads, width, head_dim] like `query`."""
        held, length = self.stored[layer], self.key_length(block.end)
        assert held is not None, "a layer stores its own keys first"
        return attend(query, held.keys.narrow(2, 0, length), held.values.narrow(2, 0, length), block, bias, scale)

    def reorder(self, index: Tensor, length: int) -> None:
        """Let each batch row go on from the first `length` slots of the row `index` [B] names; all are filled alike."""
        for held in self.stored:
            for buffer in held or ():
                part = buffer.narrow(2, 0, self.key_length(length))
                part.copy_(part[index])

    # ---------------------------------------------------------------------------------------------------------- depths
    def truncate(self, row: int, slot: int) -> None:
        """Forget what was stored of a row from `slot` on."""
        for filled in self.filled:
            filled[row] = min(filled[row], slot)

    def pending(self, row: int, slot: int) -> int:
        """How many slots below `slot` have not passed the last layer."""
        return slot - self.filled[-1][row]

    def depths(self, slots: int, first: int) -> np.ndarray:
        """Layers whose keys and values are there, of `slots` slots from `first` on, [B, slots]."""
        filled = np.array(self.filled[1:])  # [L, B]
        return (filled[:, :, None] > np.arange(first, first + slots)).sum(0)

    def leave(self, block: Block, leaving: Sequence[int], hidden: Tensor) -> None:
        """Remember the states with which live rows (positions in `live`) leave, of every slot of theirs."""
        if self.left is None:
            self.left = hidden.new_empty(self.batch, self.shape[2], hidden.shape[-1])
        spans = [block.spans[block.live[i]] for i in leaving]
        rows = [span.row for span in spans for _ in range(span.start, span.end)]
        slots = [slot for span in spans for slot in range(span.start, span.end)]
        self.left[rows, slots] = hidden if len(rows) == len(hidden) else hidden[block.items(leaving)]

    def _pending_states(self, slots: list[tuple[int, int]]) -> tuple[Tensor, Tensor, Tensor]:
        """The states [P, D] with which some (row, slot) left, their rows and their slots [P]."""
        assert self.left is not None, "no slot has left early"
        rows, places = torch.tensor(slots, device=self.adapter.device).unbind(1)
        return self.left[rows, places], rows, places

    def _mark(self, layer: int, block: Block) -> None:
        filled = self.filled[layer]
        for row, _, end in block.live_spans:
            filled[row] = end


class CopyStates(States):
    """CALM's state copying, lazily: a skipped layer's keys and values are projected from the state a token left with,
    when a later token reaches that layer, for all pending slots in one product per weight. The result is that of
    projecting at once; what no token ever needs is never projected.
    """

    def pass_layer(self, layer: int, hidden: Tensor, block: Block) -> tuple[Tensor, Block]:
        filled = self.filled[layer]
        if any(filled[row] < start for row, start, _ in block.live_spans):
            gaps = [(row, slot) for row, start, _ in block.live_spans for slot in range(filled[row], start)]
            left, rows, slots = self._pending_states(gaps)
            keys, values = self.adapter.project_kv(layer, left, rows, slots)
            self._write(layer, (rows, slice(None), slots), keys, values)
        hidden = self.adapter.run_layer(layer, hidden, self, block)
        self._mark(layer, block)
        return hidden, block


class RecomputeStates(States):
    """FREE's synchronized parallel decoding (arXiv:2310.05424), at any number of exits, lazily: slots that skipped a
    layer pass it together with the current token that reaches it, in one causal block that grows on its way up. All
    keys and values are then those of the full model.
    """

    def __init__(self, adapter: DecoderAdapter, batch: int, capacity: int, causal: bool = True):
        super().__init__(adapter, batch, capacity, causal)
        self.masked_keys = [0] * batch

    def pass_layer(self, layer: int, hidden: Tensor, block: Block) -> tuple[Tensor, Block]:
        hidden, block = self._join(layer, hidden, block)
        if hidden.shape[0]:
            hidden = self.adapter.run_layer(layer, hidden, self, block)
        if self.left is not None and self.masked_keys is not None:  # a prompt's slots were never pending
            for row, start, end in block.live_spans:
                self.masked_keys[row] += (end - start) * (end - start - 1) // 2
        self._mark(layer, block)
        return hidden, block

    def _join(self, layer: int, hidden: Tensor, block: Block) -> tuple[Tensor, Block]:
        """Let the slots that have come as far as the layer below join the block, each before its row's own."""
        filled = self.filled[layer]
        live = block.live_spans
        spans = [Span(row, min(filled[row], start), end) for row, start, end in live]
        if spans == live:
            return hidden, block
        order: list[tuple[bool, int]] = []  # of the joined block, row by row: (whether of `hidden`, place among those)
        joining: list[tuple[int, int]] = []
        for i, (old, new) in enumerate(zip(live, spans, strict=True)):
            order += [(False, len(joining) + j) for j in range(old.start - new.start)]
            joining += [(new.row, slot) for slot in range(new.start, old.start)]
            order += [(True, item) for item in block.items([i])]
        together = torch.cat([self._pending_states(joining)[0], hidden])
        places = [place + ran * len(joining) for ran, place in order]
        if places != list(range(len(together))):
            together = together[places]
        return together, self.block_of(spans)


SKIPPED_STATES: dict[str, type[States]] = {"copy": CopyStates, "recompute": RecomputeStates}
