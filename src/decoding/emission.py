"""What one step of the loop hands on: the logits each row's next token is read from, and the full model's of drafts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from decoding.sequences import choose


class VerifiedSlots(NamedTuple):
    """The full model's logits of slots of a row that were pending until now.

    Attributes:
        start: The first of them.
        pending: How many they are.
        logits: [pending, V], and one row more where the current token ran with them.
    """

    row: int
    start: int
    pending: int
    logits: Tensor


class Leaving(NamedTuple):
    """Batch rows that left together, with logits [n, K] over the tokens `ids` [n, K], or [n, V] where that is None."""

    rows: list[int]
    logits: Tensor
    ids: Tensor | None


@dataclass
class Emission:
    """Logits of the rows that have left in this step, exit by exit, over the tokens that survived there.

    Attributes:
        verified: Slots that ran the deep layers with the current token of their row.
    """

    batch: int
    vocabulary: int
    groups: list[Leaving] = field(default_factory=list)
    verified: list[VerifiedSlots] = field(default_factory=list)

    def add(self, rows: list[int], logits: Tensor, ids: Tensor | None = None) -> None:
        """Rows leave with `logits` [n, K] over the token `ids` [n, K], or over the whole vocabulary."""
        self.groups.append(Leaving(rows, logits, ids))

    def tokens(self, sample: bool) -> Tensor:
        """The next token of every batch row, [B]; of no meaning for rows that had ended."""
        first = self.groups[0]
        if len(self.groups) == 1 and len(first.rows) == self.batch:
            return choose(first.logits, first.ids, sample)
        tokens = torch.zeros(self.batch, dtype=torch.long, device=first.logits.device)
        for rows, logits, ids in self.groups:
            tokens[rows] = choose(logits, ids, sample)
        return tokens

    def logits(self) -> Tensor:
        """One distribution per batch row, [B, V] in float32; -inf for unseen tokens, zeros for rows that had ended."""
        first = self.groups[0]
        if len(self.groups) == 1 and len(first.rows) == self.batch and first.ids is None:
            return first.logits
        merged = first.logits.new_zeros(self.batch, self.vocabulary)
        for rows, logits, ids in self.groups:
            if ids is not None:
                logits = logits.new_full((len(rows), self.vocabulary), -torch.inf).scatter_(1, ids, logits)
            merged[rows] = logits
        return merged
