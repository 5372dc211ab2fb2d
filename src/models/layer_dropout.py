"""Dropout of whole layers in training (LayerSkip, arXiv:2404.16710): a row of the batch passes a layer unchanged."""

from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn


class LayerDropout:
    """Leaves decoder layers out for some rows. It hooks into the layers for good, so that a layer which checkpointing
    runs once more in the backward pass leaves out the same rows.

    Attributes:
        dropped: Which layers are left out for which rows in training mode, [L, B]; None where all of them run. Between
            two steps it is that of the last batch, and an evaluation runs all layers.
    """

    def __init__(self, layers: Iterable[nn.Module]):
        self.dropped: Tensor | None = None
        for place, layer in enumerate(layers):
            layer.register_forward_hook(partial(self._after, place), with_kwargs=True)

    def _after(self, place: int, layer: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> Any:
        if self.dropped is None or not layer.training or not self.dropped[place].any():
            return output
        before = args[0] if args else kwargs["hidden_states"]  # [B, T, D]
        after = output[0] if isinstance(output, tuple) else output
        kept = torch.where(self.dropped[place].to(after.device)[:, None, None], before, after)
        return (kept, *output[1:]) if isinstance(output, tuple) else kept
