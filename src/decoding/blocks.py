"""The block: the slots that pass a layer together, and which rows of `hidden` are theirs.

A slot is a place in the buffers of keys and values: one per token of a batch row, the prompt's padding included.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor

# Rows that left are carried through the weight products until dropping them saves at least this share.
COMPACT_AT = 0.25


class Span(NamedTuple):
    """The slots `start` to `end` - 1 of a batch row; the last one is that of its current token."""

    row: int
    start: int
    end: int

    @property
    def width(self) -> int:
        return self.end - self.start


class SlotIndex(NamedTuple):
    """The slot of each row of a ragged block's `hidden`.

    Attributes:
        row, offset, slot: [P] each: batch row, place within its span, and slot.
        width, end: What the block's bias was made for: slots of the longest span, and one past the last slot of all.
    """

    row: Tensor
    offset: Tensor
    slot: Tensor
    width: int
    end: int

    @classmethod
    def of(cls, spans: Sequence[Span], device: torch.device) -> SlotIndex:
        """Of the slots of some spans, one span after the other."""
        items = [(span.row, i, span.start + i) for span in spans for i in range(span.width)]
        row, offset, slot = torch.tensor(items, dtype=torch.long, device=device).view(-1, 3).unbind(1)
        return cls(row, offset, slot, max(span.width for span in spans), max(span.end for span in spans))

    def take(self, items: Tensor) -> SlotIndex:
        """That of some rows of `hidden`."""
        return SlotIndex(self.row[items], self.offset[items], self.slot[items], self.width, self.end)


class WindowedBias(NamedTuple):
    """What is added to attention scores where some layers see all slots and others a window of the last ones."""

    all_slots: Tensor | None
    window: Tensor


# Added to attention scores, [B or 1, heads or 1, width, keys]; None where no slot is hidden from another.
AttentionBias = Tensor | WindowedBias | None


@dataclass
class Block:
    """The slots that pass a layer together: of each row the slots of its span.

    Where all spans begin and end alike, `hidden` is [N * width, D], row by row. Otherwise the block is ragged: `hidden`
    [P, D] holds the spans one after the other, and to an adapter each of its rows is a row of width 1.

    Attributes:
        spans: One per row of the block.
        live: Which of them still run; the others are carried until it pays to drop them (of a ragged block, none).
        index: Batch row of each row of the block, [N]; of each row of `hidden`, [P], where it is ragged; None where
            the block has the whole batch in order.
        bias: Added to the attention scores of the whole batch.
        ragged: The slot of each row of `hidden`; None of a block that is not ragged.
    """

    spans: list[Span]
    live: list[int]
    index: Tensor | None
    bias: AttentionBias = None
    ragged: SlotIndex | None = None

    @property
    def width(self) -> int:
        """Slots per row of the block, as an adapter sees it."""
        return 1 if self.ragged is not None else self.spans[0].width

    @cached_property
    def multi_slot(self) -> bool:
        """Whether a batch row has more than one slot in the block."""
        return (self.width if self.ragged is None else self.ragged.width) > 1

    @property
    def start(self) -> int:
        """First slot of every row; of a block that is not ragged."""
        return self.spans[0].start

    @property
    def end(self) -> int:
        """One past the last slot of any row."""
        return self.spans[0].end if self.ragged is None else self.ragged.end

    def slots(self, device: torch.device) -> Tensor:
        """Slots of the block's rows, [P, 1] of a ragged block, else those that all rows have in common, [1, width]."""
        if self.ragged is not None:
            return self.ragged.slot[:, None]
        return torch.arange(self.start, self.end, device=device)[None]

    @cached_property
    def rows(self) -> list[int]:
        """Batch row of each row of the block."""
        return [span.row for span in self.spans]

    @cached_property
    def live_spans(self) -> list[Span]:
        """The spans that still run."""
        return self.spans if len(self.live) == len(self.spans) else [self.spans[i] for i in self.live]

    @cached_property
    def live_rows(self) -> list[int]:
        """Batch rows that still run."""
        return self.rows if len(self.live) == len(self.spans) else [self.spans[i].row for i in self.live]

    def current(self, hidden: Tensor) -> Tensor:
        """The states of the rows' current tokens, [N, D] of `hidden`."""
        if self.ragged is None:
            return hidden if self.width == 1 else hidden.view(len(self.spans), self.width, -1)[:, -1]
        if len(hidden) == len(self.spans):
            return hidden
        return hidden[[end - 1 for end in self._ends]]

    def live_current(self, hidden: Tensor) -> Tensor:
        """The same of the live rows, [n, D]."""
        current = self.current(hidden)
        return current if len(self.live) == len(self.spans) else current[self.live]

    def items(self, live: Sequence[int]) -> list[int]:
        """Rows of `hidden` that belong to some of the live rows (positions in `live`)."""
        chosen = [self.live[i] for i in live]
        return [item for i in chosen for item in range(self._ends[i] - self.spans[i].width, self._ends[i])]

    @cached_property
    def _ends(self) -> list[int]:
        """One past the last row of `hidden` of each span."""
        return list(accumulate(span.width for span in self.spans))

    def without(self, leaving: list[int], hidden: Tensor) -> tuple[Block, Tensor]:
        """Drop some live rows (positions in `live`); compact `hidden` where that saves enough of the products."""
        gone = set(leaving)
        staying = [i for i in range(len(self.live)) if i not in gone]
        live = [self.live[i] for i in staying]
        if self.ragged is None and len(live) > (1 - COMPACT_AT) * len(self.spans):
            return Block(self.spans, live, self.index, self.bias), hidden
        items = torch.tensor(self.items(staying), device=hidden.device)
        spans, everyone = [self.spans[i] for i in live], list(range(len(live)))
        if self.ragged is not None:
            ragged = self.ragged.take(items)
            return Block(spans, everyone, ragged.row, self.bias, ragged), hidden[items]
        index = torch.tensor([span.row for span in spans], device=hidden.device)
        return Block(spans, everyone, index, self.bias), hidden[items]
