"""Survivors: the tokens that vocabulary pruning has left so far, and the rows of the head that stand for them."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from decoding.adapter import HeadRows, Unembedding

# Copied rows are copied anew once this share of them is left; until then the others are multiplied too and masked.
RECOPY_AT = 1 / 2


@dataclass(frozen=True)
class Survivors:
    """The tokens that have survived, and the rows of the head that are multiplied for them.

    Either their rows of the head are copied and multiplied alone; or, where copying would not pay, the whole head is
    multiplied and what was dropped is masked.

    Attributes:
        rows: Batch rows of the tensors, N; some may have left since.
        kept: Batch row -> number of its survivors.
        multiplied: Batch row -> rows of the head multiplied for it.
        ids: Token of each column, [N, K]: likeliest first of an exit, when the rows were copied, and in rising order of
            rows that were chosen before; None: the whole vocabulary.
        head: The copied rows, N times K or in common; None where the whole head is multiplied.
        penalty: Added to the logits, 0 or -inf where a column was dropped, [N, K] or [N, V]; None where none was.
    """

    rows: list[int]
    kept: dict[int, int]
    multiplied: dict[int, int]
    ids: Tensor | None = None
    head: HeadRows | None = None
    penalty: Tensor | None = None

    def logits(self, unembed: Unembedding, normed: Tensor, rows: list[int]) -> Tensor:
        """Logits of final-normed states of batch rows: [n, K] or [n, V] from [n, D], [n, J, K] from [n, J, D]."""
        if self.head is None:
            logits = unembed.logits(normed).float()
        elif rows == self.rows or self.head.common:
            logits = _multiply(unembed, self.head, normed)
        else:  # the products of rows that left cost less than a copy of the others' rows of the head
            places = [self.rows.index(row) for row in rows]
            spread = normed.new_zeros(len(self.rows), *normed.shape[1:])
            spread[places] = normed
            logits = _multiply(unembed, self.head, spread)[places]
        penalty = self.penalty_of(rows)
        if penalty is None:
            return logits
        return logits.add_(penalty[:, None] if logits.dim() == 3 else penalty)

    def ids_of(self, rows: list[int]) -> Tensor | None:
        """Token of each column of batch rows, [n, K]."""
        return self._take(self.ids, rows)

    def penalty_of(self, rows: list[int]) -> Tensor | None:
        """What is added to the logits of batch rows."""
        return self._take(self.penalty, rows)

    def of(self, rows: list[int]) -> Survivors:
        """Those of some of the batch rows; copied rows of the head are copied once more where half of them or fewer
        are left."""
        if rows == self.rows:
            return self
        if self.head is not None and (self.head.common or len(rows) > RECOPY_AT * len(self.rows)):
            return self
        head = None if self.head is None else self.head.of([self.rows.index(row) for row in rows])
        return replace(self, rows=rows, ids=self.ids_of(rows), head=head, penalty=self.penalty_of(rows))

    def masked(self, kept: dict[int, int], rows: list[int], penalty: Tensor) -> Survivors:
        """The same rows of the head, of which fewer count: `penalty` [n, K] of batch rows."""
        if rows != self.rows:
            spread = penalty.new_zeros(len(self.rows), penalty.shape[1])
            spread[[self.rows.index(row) for row in rows]] = penalty
            penalty = spread
        return replace(self, kept=kept, penalty=penalty)

    def _take(self, tensor: Tensor | None, rows: list[int]) -> Tensor | None:
        if tensor is None or rows == self.rows:
            return tensor
        return tensor[[self.rows.index(row) for row in rows]]


def _multiply(unembed: Unembedding, head: HeadRows, normed: Tensor) -> Tensor:
    """Rows of the head times final-normed states [n, D] or [n, J, D]: [n, K] or [n, J, K] in float32."""
    if normed.dim() == 3:
        return unembed.logits_on(head, normed).float()
    return unembed.logits_on(head, normed[:, None])[:, 0].float()
