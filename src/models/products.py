"""Products of states with weights, on the model's own parameters."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from decoding.blocks import Block

# So many slots are few.
FEW_SLOTS = 16


def product(hidden: Tensor, matrix: Tensor, block: Block) -> Tensor:
    """hidden [n, K] x matrix [K, M] for the slots of a block.

    A few slots of a row together are multiplied from the other side on a CPU where the matrix is the transposed view of
    a weight: that reads the weight once, where a plain product of so few rows first copies it, and takes nearly twice
    the time. A weight stored as [K, M], as GPT-2's are, would take ten times as long from there.
    """
    if are_few(hidden, block) and matrix.stride(0) == 1:
        return matrix.t().mm(hidden.t()).t()
    return hidden.mm(matrix)


def are_few(hidden: Tensor, block: Block) -> bool:
    """Whether a row of the block has several slots, and all are few, on a CPU."""
    return block.multi_slot and hidden.shape[0] <= FEW_SLOTS and not hidden.is_cuda


class Linear(NamedTuple):
    """The weight [in, out] of a linear layer and its bias or None; no copies."""

    weight: Tensor
    bias: Tensor | None

    @classmethod
    def of(cls, module: Any) -> Linear:
        """Of a linear layer, whose own weight is [out, in]."""
        return cls(module.weight.t(), module.bias)

    @classmethod
    def stored(cls, module: Any) -> Linear:
        """Of a layer whose own weight is [in, out], as GPT-2's are."""
        return cls(module.weight, module.bias)

    def __call__(self, hidden: Tensor, block: Block) -> Tensor:
        """The product with the states [n, in] of a block, [n, out]."""
        if block.multi_slot:
            projected = product(hidden, self.weight, block)
            return projected if self.bias is None else projected + self.bias
        return hidden.mm(self.weight) if self.bias is None else torch.addmm(self.bias, hidden, self.weight)

    def plain(self, hidden: Tensor) -> Tensor:
        """The product with states [n, in] of no block, [n, out]."""
        return F.linear(hidden, self.weight.t(), self.bias)
