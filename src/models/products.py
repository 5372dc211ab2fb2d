"""Products of states with weights, on the model's own parameters: the one place that knows how few rows multiply.

A product of at most `ROWS[-1]` rows goes the way that was chosen for its shape (`models.choosing`), more of them the
library's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from models.adjacent import are_adjacent, as_one
from models.choosing import IN_FORCE, LIBRARY, ROWS
from models.ways import Multiply, bound

# Types in which a product and what is added to it may be rounded together.
WIDE = (torch.float32, torch.float64)


class Linear:
    """A linear layer: its weight [in, out] and its bias [out] or None; no copies.

    Args:
        otherwise: The way where none was measured, or asked for.
    """

    __slots__ = ("_bound", "bias", "otherwise", "weight")

    def __init__(self, weight: Tensor, bias: Tensor | None = None, otherwise: str = LIBRARY):
        self.weight, self.bias, self.otherwise = weight, bias, otherwise
        # By rows, made when first asked for; the last one for all above.
        self._bound: list[Multiply | None] = [None] * (ROWS[-1] + 2)

    @classmethod
    def of(cls, module: Any) -> Linear:
        """Of a linear layer, whose own weight is [out, in]."""
        return cls(module.weight.t(), module.bias)

    @classmethod
    def stored(cls, module: Any) -> Linear:
        """Of a layer whose own weight is [in, out], as GPT-2's are."""
        return cls(module.weight, module.bias)

    def __call__(self, states: Tensor) -> Tensor:
        """The product with states [n, in], and the bias, [n, out]."""
        rows = min(states.shape[0], ROWS[-1] + 1)
        return (self._bound[rows] or self._bind(rows))(states, self.bias)

    def added_to(self, residual: Tensor, states: Tensor) -> Tensor:
        """residual [n, out] + the product with states [n, in], of a layer without bias: in one operation where that
        rounds as the library's two do."""
        rows = min(states.shape[0], ROWS[-1] + 1)
        multiply = self._bound[rows] or self._bind(rows)
        if self.bias is None and residual.dtype == states.dtype and states.dtype in WIDE:
            return multiply(states, residual)
        return residual + multiply(states, self.bias)

    def _bind(self, rows: int) -> Multiply:
        multiply = self._bound[rows] = bound(IN_FORCE.way_for(self.weight, rows, self.otherwise), self.weight)
        return multiply


class Beside:
    """Linear layers that read the same states: one product, where their weights lie one behind the other in memory.

    Attributes:
        parts: Each of them.
    """

    __slots__ = ("_sizes", "_whole", "parts")

    def __init__(self, parts: Sequence[Linear], whole: Linear | None = None):
        self.parts, self._whole = tuple(parts), whole
        self._sizes = [part.weight.shape[1] for part in parts]

    @classmethod
    def of(cls, *modules: Any) -> Beside:
        """Of linear layers."""
        weights, biases = [module.weight for module in modules], [module.bias for module in modules]
        parts = [Linear.of(module) for module in modules]
        known = [bias for bias in biases if bias is not None]
        if len(modules) == 1 or not are_adjacent(weights) or 0 < len(known) < len(biases):
            return cls(parts)
        return cls(parts, Linear(as_one(weights).t(), torch.cat(known) if known else None))

    def __call__(self, states: Tensor) -> Sequence[Tensor]:
        """What each makes of states [n, in], [n, out] of its own."""
        if self._whole is None:
            return [part(states) for part in self.parts]
        return self._whole(states).split(self._sizes, 1)


def product_by_row(states: Tensor, weights: Tensor) -> Tensor:
    """States [n, J, D] with a weight of their own for each row, [n, K, D]: [n, J, K].

    One row's is a product as any other; of several, the weights stand on the side from which one alone is read faster.
    """
    if len(weights) == 1:
        return Linear(weights[0].t())(states[0])[None]
    if states.shape[1] > 1 or IN_FORCE.way_for(weights[0].t(), 1) == LIBRARY:
        return torch.bmm(states, weights.transpose(1, 2))
    return torch.bmm(weights, states.transpose(1, 2)).transpose(1, 2)
