"""From hidden states to logits: the one place that knows translators, final norm, scale, head and the head's bias."""

from __future__ import annotations

from collections.abc import Sequence, Set
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from decoding.adapter import HeadRows
from models.norms import Norm
from models.products import Linear, product_by_row
from models.translators import ExitTranslators


class Unembed:
    """Hidden to logits, on the model's own parameters. It is called in training, where gradients and whatever wraps the
    head pass through the module; `decoding.adapter.Unembedding` is what the decode loop uses, on the parameters alone.

    Args:
        norm: The final norm.
        head: From scaled, final-normed states to logits; a linear layer.
        scale: What final-normed states are multiplied by before the head.
        translators: Of exits below the last layer; None where states are read as they are.
    """

    def __init__(self, norm: Norm, head: Any, scale: float = 1.0, translators: ExitTranslators | None = None):
        self.norm = norm
        self.head = head
        self.scale = None if scale == 1.0 else scale
        self.weight: Tensor = head.weight
        self.bias: Tensor | None = head.bias
        # In pieces where nothing else was chosen: at T5-base size that takes little more than half the time.
        self._multiply = Linear(head.weight.t(), head.bias, otherwise="pieces")
        layers = () if translators is None else translators.layers
        self._translators = {layer: Linear.of(translators[str(layer)]) for layer in layers}

    def __call__(self, normed: Tensor) -> Tensor:
        """Logits [..., V] of final-normed, unscaled states [..., D], by the head's own forward."""
        return self.head(self._scaled(normed))

    @property
    def vocabulary_size(self) -> int:
        return self.weight.shape[0]

    @property
    def width(self) -> int:
        return self.weight.shape[1]

    @property
    def dtype(self) -> torch.dtype:
        return self.weight.dtype

    @property
    def device(self) -> torch.device:
        return self.weight.device

    @property
    def translated(self) -> Set[int]:
        return self._translators.keys()

    def normalise(self, hidden: Tensor, layer: int) -> Tensor:
        """x^l of h^l [..., D], translated where `layer` has a translator, final-normed, not scaled."""
        return self.norm(self._translate(hidden, layer))

    def normalise_each(self, states: Tensor, layers: Sequence[int]) -> Tensor:
        """The same of states [n, J, D] of several layers [J], each translated by its own."""
        if not self.translated.isdisjoint(layers):
            parts = zip(states.unbind(1), layers, strict=True)
            states = torch.stack([self._translate(hidden, layer) for hidden, layer in parts], 1)
        return self.norm(states.flatten(0, 1)).view(states.shape)

    def _translate(self, hidden: Tensor, layer: int) -> Tensor:
        translator = self._translators.get(layer)
        return hidden if translator is None else hidden + translator(hidden.reshape(-1, self.width)).view(hidden.shape)

    def logits(self, normed: Tensor) -> Tensor:
        """Logits [..., V] of final-normed states [..., D]."""
        normed = self._scaled(normed)
        return self._multiply(normed.flatten(0, -2)).view(*normed.shape[:-1], self.vocabulary_size)

    def rows(self, ids: Tensor) -> HeadRows:
        """A copy of the rows `ids` of the head, [n, K] of n batch rows, or [K] that they have in common."""
        return HeadRows(F.embedding(ids, self.weight), None if self.bias is None else self.bias[ids])

    def logits_on(self, rows: HeadRows, normed: Tensor) -> Tensor:
        """Logits [n, J, K] of final-normed states [n, J, D] on copied rows of the head, n times K or in common."""
        normed = self._scaled(normed)
        if rows.common:
            multiply = Linear(rows.weight.t(), rows.bias, otherwise="pieces")
            return multiply(normed.flatten(0, 1)).view(*normed.shape[:2], -1)
        logits = product_by_row(normed, rows.weight)
        return logits if rows.bias is None else logits + rows.bias[:, None]

    def _scaled(self, normed: Tensor) -> Tensor:
        return normed if self.scale is None else normed * self.scale
