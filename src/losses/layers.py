"""What a loss over exits sees: the decoder layer by layer. The head is evaluated for one layer at a time.

Under checkpointing peak memory then grows with one [N, V] block of logits and not with the number of layers.

Shapes: N label positions that count, D width, V vocabulary, L layers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

IGNORED_LABEL = -100

Head = Callable[[Tensor], Tensor]


class LayerStates(NamedTuple):
    """States of a decoder at every position, [..., D] each, first layer to last.

    Attributes:
        hidden: h^1 to h^(L-1), the residual stream, before the final norm.
        normed: x^1 to x^L, translated where a layer has an exit translator, final-normed, not scaled for the head.
        embedded: h^0, before the first layer; None where nobody reads it.
        last: h^L, before the final norm; None where nobody reads it.
    """

    hidden: Sequence[Tensor]
    normed: Sequence[Tensor]
    embedded: Tensor | None = None
    last: Tensor | None = None

    def at(self, where: Any) -> LayerStates:
        """Those at some positions, [n, D] each."""
        hidden, normed = ([state[where] for state in states] for states in self[:2])
        return LayerStates(hidden, normed, *(None if state is None else state[where] for state in self[2:]))


@dataclass(frozen=True)
class Layers:
    """What a loss sees of a batch: every layer, 1-based, at the positions whose label counts.

    Attributes:
        states: Of all positions.
        labels: Token ids, IGNORED_LABEL where none counts, [...].
        head: Final-normed, unscaled states to logits, [N, D] -> [N, V].
        config: Of the model, with the numbers of all flags (shallow_exit_layer, distill_layer_alpha, ...).
        modules: What `Loss.modules` made for the model, by name.
        step: Optimiser steps done.
        steps: Optimiser steps in all; None outside training.
    """

    states: LayerStates
    labels: Tensor
    head: Head
    config: Any = None
    modules: Mapping[str, nn.Module] = field(default_factory=dict)
    step: int = 0
    steps: int | None = None

    @property
    def count(self) -> int:
        """L."""
        return len(self.states.normed)

    @cached_property
    def counted(self) -> Tensor:
        """Whether a position's label counts, [...]."""
        return self.labels != IGNORED_LABEL

    @cached_property
    def targets(self) -> Tensor:
        """Labels that count, [N]."""
        return self.labels[self.counted]

    def hidden(self, layer: int) -> Tensor:
        """h^l of a layer below the last, [N, D]."""
        self._refuse(layer, self.count - 1)
        return self.states.hidden[layer - 1][self.counted]

    def normed(self, layer: int) -> Tensor:
        """x^l, final-normed and unscaled, [N, D]."""
        self._refuse(layer, self.count)
        return self.states.normed[layer - 1][self.counted]

    @staticmethod
    def _refuse(layer: int, last: int) -> None:
        if not 1 <= layer <= last:
            raise ValueError(f"A loss asks for layer {layer}: valid are 1 to {last} here.")

    def cross_entropy(self, layer: int, smoothing: float = 0.0) -> Tensor:
        """Mean cross entropy of a layer, a scalar in float32, 0 where no label counts; its logits are recomputed in the
        backward pass instead of being kept.

        Args:
            smoothing: Share of a label that is spread evenly over the vocabulary (arXiv:1512.00567).
        """
        return cross_entropy(self.normed(layer), self.targets, self.head, smoothing)


def _head_cross_entropy(hidden: Tensor, labels: Tensor, head: Head, smoothing: float) -> Tensor:
    logits = head(hidden).float()  # [N, V]
    total = functional.cross_entropy(logits, labels, reduction="sum", label_smoothing=smoothing)
    return total / max(labels.numel(), 1)


def cross_entropy(hidden: Tensor, labels: Tensor, head: Head, smoothing: float = 0.0) -> Tensor:
    """Mean cross entropy of states [N, D] under labels [N], see `Layers.cross_entropy`."""
    return checkpoint(_head_cross_entropy, hidden, labels, head, smoothing, use_reentrant=False)
