"""Losses that train intermediate exits. One function and one row of `LOSSES` per loss.

All of them see the decoder layer by layer and evaluate the language-model head for one layer at a time under
checkpointing, so that peak memory grows with one [N, V] block of logits and not with the number of layers.

Shapes: N label positions that count, D width, V vocabulary, L layers.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from decoding.settings import Setting, refuse_misfits, values

IGNORED_LABEL = -100

Head = Callable[[Tensor], Tensor]


class LayerStates(NamedTuple):
    """States of a decoder at every position, [..., D] each, first layer to last.

    Attributes:
        hidden: h^1 to h^(L-1), the residual stream, before the final norm.
        normed: x^1 to x^L, final-normed, and not scaled for the head.
    """

    hidden: Sequence[Tensor]
    normed: Sequence[Tensor]


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

    def cross_entropy(self, layer: int) -> Tensor:
        """Mean cross entropy of a layer, a scalar in float32, 0 where no label counts; its logits are recomputed in the
        backward pass instead of being kept."""
        return cross_entropy(self.normed(layer), self.targets, self.head)


def _head_cross_entropy(hidden: Tensor, labels: Tensor, head: Head) -> Tensor:
    logits = head(hidden).float()  # [N, V]
    total = functional.cross_entropy(logits, labels, reduction="sum")
    return total / max(labels.numel(), 1)


def cross_entropy(hidden: Tensor, labels: Tensor, head: Head) -> Tensor:
    """Mean cross entropy of states [N, D] under labels [N], see `Layers.cross_entropy`."""
    return checkpoint(_head_cross_entropy, hidden, labels, head, use_reentrant=False)


def ce(layers: Layers) -> Tensor:
    """Mean over the layers of their cross entropies."""
    return sum(layers.cross_entropy(layer) for layer in range(1, layers.count + 1)) / layers.count


def weighted_ce(layers: Layers) -> Tensor:
    """Mean of the layers' cross entropies weighted by depth: sum l * CE_l / sum l (FREE, arXiv:2310.05424)."""
    weighted = sum(layer * layers.cross_entropy(layer) for layer in range(1, layers.count + 1))
    return weighted / (layers.count * (layers.count + 1) / 2)


def no_modules(config: Any) -> dict[str, nn.Module]:
    """Most losses train what the model has."""
    return {}


@dataclass(frozen=True)
class Loss:
    """One row of the table.

    Attributes:
        compute: From the layers of a batch to a scalar in float32; its own settings come as further arguments, by
            their names.
        settings: Its own, beside the flags that all losses may read from the config.
        modules: From the config to modules that are trained with the model and saved with it, by name, such as a linear
            map on the student's side of a distillation; they begin as the library initialises such modules.
    """

    compute: Callable[..., Tensor]
    settings: tuple[Setting, ...] = ()
    modules: Callable[[Any], dict[str, nn.Module]] = no_modules

    def __post_init__(self):
        refuse_misfits(self.compute, 1, self.settings)


LOSSES: dict[str, Loss] = {"ce": Loss(ce), "weighted_ce": Loss(weighted_ce)}


def own_settings() -> dict[str, Setting]:
    """Name -> every setting that a loss brings along."""
    return {setting.name: setting for row in LOSSES.values() for setting in row.settings}


def loss_row(name: str) -> Loss:
    """The row of that name.

    Raises:
        ValueError: There is none; the sentence lists those that there are.
    """
    if name not in LOSSES:
        raise ValueError(f"unknown intermediate_loss_fn {name!r}; valid names are {', '.join(LOSSES)}")
    return LOSSES[name]


def loss_over_layers(name: str, layers: Layers) -> Tensor:
    """The loss of that name, a scalar in float32."""
    row = loss_row(name)
    given = {setting.name: getattr(layers.config, setting.name, None) for setting in row.settings}
    found = row.compute(layers, **values(row.settings, given))
    if not isinstance(found, Tensor) or found.dim():
        what = f"a tensor of shape {list(found.shape)}" if isinstance(found, Tensor) else repr(found)
        raise ValueError(f"The loss {name!r} returned {what}: valid is a scalar, a tensor of shape [].")
    return found
